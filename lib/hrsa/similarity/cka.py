"""Linear CKA of two arrays: biased as published, and debiased.

CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)). With centred columns and linear kernels the biased HSIC is
||X'Y||_F^2 up to a factor (Kornblith et al. 2019, eq. 4; arXiv 2601.21192, section on HRSA). The debiased HSIC is
the unbiased estimator of Song et al. 2012, eq. 4 (used for CKA by Nguyen et al. 2021, eq. 3). Since it ignores
shifts, it may be evaluated on centred columns, where row sums vanish and it becomes, with a_i = |x_i|^2 and
b_i = |y_i|^2,

    n (n - 3) HSIC = ||X'Y||_F^2 - n / (n - 2) sum_i a_i b_i + sum_i a_i sum_i b_i / ((n - 1)(n - 2)).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from hrsa.similarity.arrays import CHANGES, Metric, centred, pair
from hrsa.similarity.backend import Array, host

log = logging.getLogger(__name__)


def linear_cka(x: Any, y: Any) -> float:
    """Linear CKA (biased) of (n, d_x) and (n, d_y), in 0..1.

    Invariant to rotation, permutation, isotropic scale and shift. Biased upwards when n is not much larger than d
    (independent Gaussians with d = 1536 and n = 1024 score about .60) and governed by the directions of largest
    variance: read it beside `debiased_cka` and the robust twins of `hrsa.similarity.resampling`.
    NaN, with a logged warning, when all tokens of one array are equal. ValueError: unequal n, n < 2, NaN or Inf.
    """
    x, y = (centred(part) for part in pair(x, y, at_least=2))
    return float(ratio(cross_norm(x, y), cross_norm(x, x), cross_norm(y, y)))


def debiased_cka(x: Any, y: Any) -> float:
    """Linear CKA with the unbiased HSIC of (n, d_x) and (n, d_y); near 0 for independent arrays, at most 1.

    Invariances as `linear_cka`. May fall slightly below 0. NaN, with a logged warning, when a self term is not
    positive (fewer effective tokens than needed). ValueError: unequal n, n < 4, NaN or Inf.
    """
    x, y = (centred(part) for part in pair(x, y, at_least=4))
    n = len(x)
    a, b = host((x * x).sum(1)), host((y * y).sum(1))  # (n,)
    terms = (unbiased(cross_norm(u, v), p @ q, p.sum(), q.sum(), n)
             for u, v, p, q in ((x, y, a, b), (x, x, a, a), (y, y, b, b)))
    return float(ratio(*terms))


def cross_norm(x: Array, y: Array) -> float:
    """||X'Y||_F^2 of centred (n, d_x) and (n, d_y), by the cheaper of feature space and Gram space."""
    n, (d_x, d_y) = len(x), (x.shape[1], y.shape[1])
    if d_x * d_y <= n * (d_x + d_y):
        return float(((x.T @ y) ** 2).sum())  # (d_x, d_y)
    return float(((x @ x.T) * (y @ y.T)).sum())  # (n, n)


def unbiased(norm: Any, products: Any, sum_x: Any, sum_y: Any, n: int) -> Any:
    """Unbiased HSIC from centred sums: `norm` ||X'Y||^2, `products` sum a_i b_i, `sum_x` sum a_i, `sum_y` sum b_i."""
    return (norm - n / (n - 2) * products + sum_x * sum_y / ((n - 1) * (n - 2))) / (n * (n - 3))


def ratio(cross: Any, self_x: Any, self_y: Any) -> np.ndarray:
    """cross / sqrt(self_x self_y), NaN (logged) where a self term is not positive: similarity is undefined there."""
    cross, self_x, self_y = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (cross, self_x, self_y)))
    fine = (self_x > 0) & (self_y > 0)
    if not fine.all():
        log.warning("CKA is undefined (NaN) for %d of %d comparisons: no variance left in one array",
                    int((~fine).sum()), fine.size)
    out = np.full(cross.shape, np.nan)
    out[fine] = cross[fine] / (np.sqrt(self_x[fine]) * np.sqrt(self_y[fine]))
    return out


METRICS = (
    Metric("cka", linear_cka, frozenset(CHANGES), 0.0, 1.0, 1.0, True, False, "Kornblith et al. 2019, eq. 4"),
    Metric("debiased_cka", debiased_cka, frozenset(CHANGES), -1.0, 1.0, 1.0, True, False,
           "Song et al. 2012, eq. 4; Nguyen et al. 2021, eq. 3"),
)
