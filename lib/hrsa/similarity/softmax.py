"""Softmax regression with an L2 penalty, solved to the optimum by Newton steps.

Each step solves its linear system by conjugate gradients, which need only products with the features. These may be
float32, since they decide no more than where the next step goes; the gradient that decides when to stop is float64. On
the principal axes of the features the curvature is nearly diagonal, so that a diagonal preconditions it; with fewer
texts than dimensions, the optimum lies in their span, and there are as many axes as texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hrsa.similarity.backend import Array, beside, eigenvectors, host, narrow

TOLERANCE = 1e-6  # of the gradient's largest entry per text, at the optimum
STEPS = 100  # of Newton; ten to twenty are usual
SHARE = 0.3  # of the gradient that a linear system may leave, at most
PRODUCTS = 250  # at most, for one linear system


class Optimum(NamedTuple):
    """`weights` (d, c), `intercept` (c,), the `objective`, and the largest `gradient` entry per text that is left."""

    weights: np.ndarray
    intercept: np.ndarray
    objective: float
    gradient: float
    products: int  # with the features


@dataclass(frozen=True)
class Problem:
    """Features (n, m) on their axes, class numbers (n,) of c classes, penalty.

    Parameters are (m + 1, c), the intercept last.
    """

    features: Array
    small: Array  # the features in float32
    code: np.ndarray
    classes: int
    penalty: float

    def scores(self, w: np.ndarray) -> np.ndarray:
        """Scores (n, c) of every text."""
        return host(self.features @ beside(w[:-1], self.features)) + w[-1]

    def value(self, scores: np.ndarray, w: np.ndarray) -> float:
        """The objective."""
        rows = np.arange(len(scores))
        top = scores.max(axis=1)
        total = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
        return float((total - scores[rows, self.code]).sum() + self.penalty / 2 * np.square(w[:-1]).sum())

    def gradient(self, scores: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradient (m + 1, c), and the probabilities (n, c)."""
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        left = p.copy()
        left[np.arange(len(p)), self.code] -= 1
        slope = host(self.features.T @ beside(left, self.features)) + self.penalty * w[:-1]
        return np.vstack([slope, left.sum(axis=0)]), p

    def curvature(self, p: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The Hessian at probabilities p (n, c) times v (m + 1, c)."""
        v = v.astype(np.float32)
        moved = host(self.small @ beside(v[:-1], self.small)) + v[-1]  # (n, c)
        moved = p * (moved - (p * moved).sum(axis=1, keepdims=True))
        return np.vstack([host(self.small.T @ beside(moved, self.small)) + np.float32(self.penalty) * v[:-1],
                          moved.sum(axis=0)]).astype(np.float64)


def solve_softmax(z: Array, code: np.ndarray, classes: int, penalty: float) -> Optimum:
    """The optimum for standardised features (n, d) and class numbers (n,).

    RuntimeError: the gradient could not be brought below the tolerance.
    """
    n, d = z.shape
    squares, axes = eigenvectors(z.T @ z if d <= n else z @ z.T)
    squares = np.maximum(host(squares), 0.0)
    if d > n:  # unit vectors of the span, as columns; no text moves along the others
        used = np.flatnonzero(squares > squares.max() * n * np.finfo(np.float64).eps)
        squares = squares[used]
        axes = z.T @ (axes[:, used] / beside(np.sqrt(squares), z))  # (d, m)
    features = z @ axes
    problem = Problem(features, narrow(features), code, classes, penalty)
    w, gradient, products = _descend(problem, TOLERANCE / 5 * n * min(1.0, penalty))
    gradient /= n
    if not gradient < TOLERANCE:
        raise RuntimeError(f"expected the probe's gradient below {TOLERANCE} per text, got {gradient:.2g} after "
                           f"{products} products with the features: raise the penalty")
    value = problem.value(problem.scores(w), w)
    return Optimum(host(axes @ beside(w[:-1], z)), w[-1], value, float(gradient), products)


def _descend(problem: Problem, stop: float) -> tuple[np.ndarray, float, int]:
    """Parameters (m + 1, c) where no entry of the gradient is above `stop`, its largest entry, products taken."""
    w = np.zeros((problem.features.shape[1] + 1, problem.classes))
    scores, products = problem.scores(w), 0
    value = problem.value(scores, w)
    for _ in range(STEPS):
        gradient, p = problem.gradient(scores, w)
        largest = np.abs(gradient).max()
        if largest <= stop:
            break
        share = min(SHARE, np.sqrt(largest / len(scores)))
        step, taken = _solve(problem, gradient, p.astype(np.float32), max(share, 0.3 * stop / largest))
        products += taken + 2
        slope, length = float((gradient * step).sum()), 1.0
        moved = problem.scores(step)
        while (lower := problem.value(scores + length * moved, w + length * step)) > value + 1e-4 * length * slope:
            length /= 2
            if length < 1e-6:  # the objective no longer tells points apart
                length, lower = 1.0, value
                break
        w, scores, value = w + length * step, scores + length * moved, lower
    return w, largest, products


def _solve(problem: Problem, gradient: np.ndarray, p: np.ndarray, share: float) -> tuple[np.ndarray, int]:
    """A step (m + 1, c) with Hessian times step = -gradient but for a `share` of it, and the products it took."""
    spread = p * (1 - p)  # (n, c)
    diagonal = host((problem.small**2).T @ beside(spread, problem.small)) + problem.penalty  # (m, c)
    scale = np.vstack([diagonal, np.maximum(spread.sum(axis=0), 1e-9)])
    step, left = np.zeros_like(gradient), -gradient
    ready = left / scale
    way, size = ready.copy(), float((left * ready).sum())
    goal = share * np.linalg.norm(gradient)
    taken = 0
    while taken < PRODUCTS:
        taken += 1
        bent = problem.curvature(p, way)
        length = size / float((way * bent).sum())
        step += length * way
        left -= length * bent
        if np.linalg.norm(left) <= goal:
            break
        ready = left / scale
        size, before = float((left * ready).sum()), size
        way = ready + size / before * way
    return step, taken
