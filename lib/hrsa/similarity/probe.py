"""Linear probes: what a frozen linear readout of one model finds in another.

Classification is softmax regression, regression is ridge; both on standardised features, with an L2 penalty on the
weights (not on the intercept), solved to the optimum. A probe fitted on one model and scored on another gives the
cross score of arXiv 2601.21192, function level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from hrsa.similarity.arrays import matrix
from hrsa.similarity.backend import Array, beside, host, wide
from hrsa.similarity.budget import Limits
from hrsa.similarity.softmax import solve_softmax

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Probe:
    """A frozen linear readout of (n, d) features.

    `weights` (d, outputs) and `intercept` (outputs,) act on (x - mean) / scale with the mean and scale (d,) of the
    fit; a dimension that was constant then has weight 0. `gradient` is the largest gradient entry per text left.
    """

    task: Task
    weights: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    classes: np.ndarray | None
    objective: float
    gradient: float

    def predict(self, x: Any) -> np.ndarray:
        """Classes or targets (n,) of features (n, d). ValueError: another width than fitted, NaN or Inf."""
        x = wide(matrix(x, "x"))
        if x.shape[1] != len(self.mean):
            raise ValueError(f"expected features (n, {len(self.mean)}) as fitted, got {tuple(x.shape)}")
        z = (x - beside(self.mean, x)) / beside(self.scale, x)
        output = host(z @ beside(self.weights, x)) + self.intercept  # (n, outputs)
        return output[:, 0] if self.classes is None else self.classes[output.argmax(axis=1)]

    def score(self, x: Any, labels: Any) -> float:
        """Accuracy in 0..1, or R^2 (at most 1; 0 = as good as the mean of these labels) on (n, d) and (n,)."""
        predicted, labels = self.predict(x), _labels(labels, len(x), self.task)
        if self.task == "classification":
            return float((predicted == labels).mean())
        spread = np.square(labels - labels.mean()).sum()
        if spread == 0:
            raise ValueError(f"expected targets that differ, got {len(labels)} equal ones: R^2 is undefined")
        return float(1 - np.square(labels - predicted).sum() / spread)


def fit_probe(x: Any, labels: Any, task: Task, penalty: float = 1.0) -> Probe:
    """Fit a probe on features (n, d) and labels (n,).

    Minimises sum of losses + penalty / 2 |weights|^2 (ridge: squared losses / 2). ValueError: unequal n, NaN, one
    class only, an unknown task; RuntimeError: the optimum was not reached.
    """
    return fit_probes([x], labels, task, penalty)[0]


def fit_probes(states: Sequence[Any], labels: Any, task: Task, penalty: float = 1.0, threads: int = 1) -> list[Probe]:
    """One probe per layer of `states`, a sequence of (n, d_l), on several threads; see `fit_probe`."""
    if task not in ("classification", "regression"):
        raise ValueError(f"expected task 'classification' or 'regression', got {task!r}")
    if not penalty > 0:
        raise ValueError(f"expected penalty > 0 so that the optimum is unique, got {penalty}")
    fit = _classifier if task == "classification" else _ridge
    return list(Limits(threads=threads).map(lambda item: fit(*_standardised(*item), labels, penalty),
                                            list(enumerate(states))))


class Standard(NamedTuple):
    """Features (n, d) in float64 to mean 0 and variance 1, constant dimensions 0; the mean and scale (d,) used."""

    z: Array
    mean: np.ndarray
    scale: np.ndarray


def _standardised(layer: int, x: Any) -> Standard:
    x = wide(matrix(x, f"x (layer {layer})"))
    constant = host((x == x[:1]).all(0))
    mean = x.mean(0)
    z = x - mean
    z[:, np.flatnonzero(constant)] = 0.0
    scale = np.where(constant, 1.0, np.sqrt(host((z * z).mean(0))))
    return Standard(z / beside(scale, z), host(mean), scale)


def _classifier(z: Array, mean: np.ndarray, scale: np.ndarray, labels: Any, penalty: float) -> Probe:
    classes, code = np.unique(_labels(labels, len(z), "classification"), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got {classes.tolist()}")
    found = solve_softmax(z, code, len(classes), penalty)
    return Probe("classification", found.weights, found.intercept, mean, scale, classes, found.objective,
                 found.gradient)


def _ridge(z: Array, mean: np.ndarray, scale: np.ndarray, labels: Any, penalty: float) -> Probe:
    """Normal equations of the smaller side, with one step of refinement."""
    y = _labels(labels, len(z), "regression")
    n, d = z.shape
    target = y - y.mean()
    gram = host(z.T @ z if d <= n else z @ z.T)
    gram[np.diag_indices(len(gram))] += penalty
    factor = cho_factor(gram, lower=True)
    z = host(z)

    def solved(right: np.ndarray) -> np.ndarray:  # (Z'Z + penalty)^-1 Z' right
        return cho_solve(factor, z.T @ right) if d <= n else z.T @ cho_solve(factor, right)

    weights = solved(target)
    slope = z.T @ (target - z @ weights) - penalty * weights
    weights += cho_solve(factor, slope) if d <= n else (slope - z.T @ cho_solve(factor, z @ slope)) / penalty
    left = target - z @ weights
    gradient = np.abs(z.T @ left - penalty * weights).max() / n
    objective = (left @ left + penalty * weights @ weights) / 2
    return Probe("regression", weights[:, None], np.array([y.mean()]), mean, scale, None, float(objective),
                 float(gradient))


def _labels(labels: Any, n: int, task: Task) -> np.ndarray:
    labels = host(labels)
    if labels.shape != (n,):
        raise ValueError(f"expected labels of shape ({n},) for features of {n} texts, got {labels.shape}")
    if task == "regression":
        labels = labels.astype(np.float64)
        if not np.isfinite(labels).all():
            raise ValueError(f"expected finite targets, got {labels[~np.isfinite(labels)][0]} "
                             f"at labels[{int(np.argmin(np.isfinite(labels)))}]")
    return labels
