"""Dimension-wise Pearson correlation: does dimension j mean the same in both models?"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from hrsa.similarity.arrays import Metric, centred, pair
from hrsa.similarity.backend import host

log = logging.getLogger(__name__)


def dimension_correlation(x: Any, y: Any) -> np.ndarray:
    """Pearson correlation of column j of `x` with column j of `y`, both (n, d): an array (d,) in -1..1.

    Invariant to shift and positive scale (even per dimension); moved by rotations and by permutations of the
    dimensions of one model (arXiv 2601.21192, representation level). A dimension that is constant in either model
    has no correlation: NaN, and their number is logged. ValueError: unequal shapes, n < 2, NaN or Inf.
    """
    x, y = (centred(part) for part in pair(x, y, at_least=2, same_width=True))
    return correlation(*(host((a * b).sum(0)) for a, b in ((x, y), (x, x), (y, y))))


def mean_correlation(x: Any, y: Any) -> float:
    """Mean of `dimension_correlation` over the dimensions that vary in both models (NaN when none does)."""
    return mean_of_defined(dimension_correlation(x, y))


def correlation(cross: np.ndarray, square_x: np.ndarray, square_y: np.ndarray) -> np.ndarray:
    """Correlations from centred sums of products and of squares; NaN, counted in the log, where a square is 0."""
    cross, square_x, square_y = np.broadcast_arrays(cross, square_x, square_y)
    varies = (square_x > 0) & (square_y > 0)
    if not varies.all():
        log.warning("correlation is undefined (NaN) for %d of %d dimensions: constant over all tokens",
                    int((~varies).sum()), varies.size)
    out = np.full(cross.shape, np.nan)
    out[varies] = cross[varies] / (np.sqrt(square_x[varies]) * np.sqrt(square_y[varies]))
    return np.clip(out, -1.0, 1.0)


def mean_of_defined(rho: np.ndarray) -> float:
    """Mean over the entries that are not NaN; NaN when there is none."""
    defined = rho[~np.isnan(rho)]
    return float(defined.mean()) if defined.size else float("nan")


METRICS = (
    Metric("correlation", mean_correlation, frozenset({"scale", "shift"}), -1.0, 1.0, 1.0, True, True,
           "arXiv 2601.21192, representation level"),
)
