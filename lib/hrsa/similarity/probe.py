"""Linear probes: what a frozen linear readout of one model finds in another.

Classification is softmax regression, regression is ridge; both on standardised features, with an L2 penalty on the
weights (not on the intercept), solved to the optimum. A probe fitted on one model and scored on another gives the
cross score of arXiv 2601.21192, function level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize

from hrsa.similarity.arrays import matrix

Task = Literal["classification", "regression"]
TOLERANCE = 1e-6  # of the gradient's largest entry per text, at the optimum


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
        x = matrix(x, "x").astype(np.float64)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"expected features (n, {len(self.mean)}) as fitted, got {x.shape}")
        output = (x - self.mean) / self.scale @ self.weights + self.intercept  # (n, outputs)
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


def fit_probes(states: Sequence[Any], labels: Any, task: Task, penalty: float = 1.0) -> list[Probe]:
    """One probe per layer of `states`, a sequence of (n, d_l); each starts where the previous layer's ended."""
    if task not in ("classification", "regression"):
        raise ValueError(f"expected task 'classification' or 'regression', got {task!r}")
    if not penalty > 0:
        raise ValueError(f"expected penalty > 0 so that the optimum is unique, got {penalty}")
    probes: list[Probe] = []
    for layer, x in enumerate(states):
        x = matrix(x, f"x (layer {layer})").astype(np.float64)
        y = _labels(labels, len(x), task)
        mean, scale = x.mean(axis=0), x.std(axis=0)
        constant = np.ptp(x, axis=0) == 0
        scale[constant] = 1.0
        z = (x - mean) / scale  # (n, d)
        z[:, constant] = 0.0
        start = probes[-1].weights if probes and probes[-1].weights.shape[0] == x.shape[1] else None
        solve = _softmax if task == "classification" else _ridge
        probes.append(Probe(task, *solve(z, y, penalty, mean, scale, start)))
    return probes


def _labels(labels: Any, n: int, task: Task) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"expected labels of shape ({n},) for features of {n} texts, got {labels.shape}")
    if task == "regression":
        labels = labels.astype(np.float64)
        if not np.isfinite(labels).all():
            raise ValueError(f"expected finite targets, got {labels[~np.isfinite(labels)][0]} "
                             f"at labels[{int(np.argmin(np.isfinite(labels)))}]")
    return labels


def _ridge(z, y, penalty, mean, scale, start):
    target = y - y.mean()
    u, s, v = np.linalg.svd(z, full_matrices=False)
    weights = v.T @ (s / (s**2 + penalty) * (u.T @ target))  # (d,)
    left = target - z @ weights
    gradient = np.abs(z.T @ left - penalty * weights).max() / len(z)
    objective = (left @ left + penalty * weights @ weights) / 2
    return weights[:, None], np.array([y.mean()]), mean, scale, None, float(objective), float(gradient)


def _softmax(z, y, penalty, mean, scale, start):
    """Softmax regression by L-BFGS, run on well below TOLERANCE, the more so the flatter the optimum."""
    classes, code = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got {classes.tolist()}")
    (n, d), c = z.shape, len(classes)
    rows = np.arange(n)

    def objective(flat):
        w = flat.reshape(d + 1, c)  # the intercept last
        scores = z @ w[:-1] + w[-1]  # (n, c)
        scores -= scores.max(axis=1, keepdims=True)
        chosen = scores[rows, code].sum()
        p = np.exp(scores, out=scores)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        p[rows, code] -= 1
        slope = np.vstack([z.T @ p + penalty * w[:-1], p.sum(axis=0)])
        return np.log(total).sum() - chosen + penalty / 2 * np.square(w[:-1]).sum(), slope.ravel()

    first = np.zeros((d + 1, c))
    if start is not None and start.shape == (d, c):
        first[:-1] = start
    stop = TOLERANCE / 5 * n * min(1.0, penalty)
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B",
                     options={"maxiter": 20_000, "maxfun": 40_000, "gtol": stop, "ftol": 0.0})
    w, gradient = found.x.reshape(d + 1, c), np.abs(found.jac).max() / n
    if not gradient < TOLERANCE:
        raise RuntimeError(f"expected the probe's gradient below {TOLERANCE} per text, got {gradient:.2g} after "
                           f"{found.nit} steps ({found.message}): raise the penalty")
    return w[:-1], w[-1], mean, scale, classes, float(found.fun), float(gradient)
