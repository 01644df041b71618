"""Linear probes: what a frozen linear readout of one model finds in another.

Classification is softmax regression, regression is ridge, both scikit-learn's; both on standardised features, with an
L2 penalty on the weights (not on the intercept), solved to the optimum. A probe fitted on one model and scored on
another gives the cross score of arXiv 2601.21192, function level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hrsa.similarity.arrays import matrix, to_float64, to_numpy

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

_TOLERANCE = 1e-6  # of the gradient's largest entry per text, at the optimum
_STEPS = 1000  # of Newton, at most; ten to twenty are usual


def fit_probe(x: Any, labels: Any, task: Literal["classification", "regression"], penalty: float = 1.0) -> Pipeline:
    """Fit a probe on features (n, d) and labels (n,): `predict` takes the features of any model of d dimensions.

    Minimises sum of losses + penalty / 2 |weights|^2 (ridge: squared losses / 2), the losses of softmax regression
    being those of one weight vector per class. A dimension that is constant in `x` gets no weight. Tensors of a device
    are brought to the host. ValueError: unequal n, NaN, one class only, an unknown task, a penalty that is not
    positive; RuntimeError: the optimum was not reached.

    >>> one, other = np.array([[0.0], [1], [2], [3]]), np.array([[0.1], [2.9]])
    >>> fit_probe(one, ["low", "low", "high", "high"], "classification").predict(other).tolist()
    ['low', 'high']
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if task not in ("classification", "regression"):
        raise ValueError(f"expected task 'classification' or 'regression', got {task!r}")
    if not 1e-100 < penalty < 1e100:
        raise ValueError(f"expected a penalty above 0, so that the optimum is unique, and below 1e100, got {penalty}")
    x = to_float64(to_numpy(matrix(x, "x")))
    labels = _labels(labels, len(x), task)
    if task == "regression":
        return make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(x, labels)
    classes = set(labels.tolist())
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got {list(classes)}: label more texts")
    # for two classes scikit-learn fits one vector w; two, w / 2 and -w / 2, are penalised half as much
    strength = (2 if len(classes) == 2 else 1) / penalty
    softmax = LogisticRegression(C=strength, solver="newton-cg", tol=_TOLERANCE, max_iter=_STEPS)
    probe = make_pipeline(StandardScaler(), softmax).fit(x, labels)
    if softmax.n_iter_.max() >= _STEPS:
        raise RuntimeError(f"expected the optimum of the probe within {_STEPS} steps of Newton's method, got a "
                           f"gradient above {_TOLERANCE} per text still: raise the penalty")
    return probe


def _labels(labels: Any, n: int, task: str) -> np.ndarray:
    labels = to_numpy(labels)
    if labels.shape != (n,):
        raise ValueError(f"expected labels of shape ({n},) for features of {n} texts, got {labels.shape}")
    if task == "regression":
        try:
            labels = labels.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected numbers as targets, got others: {error}") from error
        if not np.isfinite(labels).all():
            raise ValueError(f"expected finite targets, got {labels[~np.isfinite(labels)][0]} "
                             f"at labels[{int(np.argmin(np.isfinite(labels)))}]")
        return labels
    missing = np.array([label is None or label != label for label in labels.tolist()], dtype=bool)
    if missing.any():
        raise ValueError(f"expected a class for every text, got {labels[missing.argmax()]} at "
                         f"labels[{int(missing.argmax())}]: leave out texts without one")
    if len({isinstance(label, str) for label in labels.tolist()}) > 1:
        raise ValueError(f"expected classes that are all texts or all numbers, got both in {len(labels)} labels: name "
                         "them by texts")
    return labels
