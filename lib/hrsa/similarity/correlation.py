"""Dimension-wise Pearson correlation: does dimension j mean the same in both models?

Read at the representation level of arXiv 2601.21192: rotations and permutations of one model's dimensions move it. A
dimension that is constant in either model has no correlation: NaN, and their number is logged. All layer pairs come
from one pass over the tokens, as one batched product per dimension.
"""

from __future__ import annotations

import logging
from itertools import product

import numpy as np

from hrsa.similarity.arrays import matrix_transpose, stack, sum_float64, to_float64, to_numpy, vecdot
from hrsa.similarity.budget import Limits
from hrsa.similarity.states import BLOCK_TOKENS, Layer, States, blocks

_FEW = 64  # tokens of a product of dimensions: those of all layers stay in the cache

log = logging.getLogger(__name__)


def mean_correlation(x: States, y: States, limits: Limits | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean dimension-wise correlation of all layer pairs, (l_x, l_y), and how many dimensions have none, (l_x, l_y).

    NaN where no dimension has any. ValueError: unequal widths.
    """
    sums = _correlation_sums(x, y, limits or Limits())
    rho = pearson(sums["cross"], sums["square_x"][:, :, None], sums["square_y"][:, None, :])  # (d, l_x, l_y)
    means = np.empty(rho.shape[1:])
    for i, j in product(*map(range, means.shape)):
        means[i, j] = mean_of_defined(rho[:, i, j])
    return means, np.isnan(rho).sum(axis=0)


def dimension_correlation(x: States, y: States, limits: Limits | None = None) -> np.ndarray:
    """Correlation of every dimension of the first layers, (d,), NaN where one is constant. ValueError: unequal widths.
    """
    sums = _correlation_sums(x, y, limits or Limits())
    return pearson(sums["cross"][:, 0, 0], sums["square_x"][:, 0], sums["square_y"][:, 0])


def _correlation_sums(x: States, y: States, limits: Limits) -> dict[str, np.ndarray]:
    """Centred sums over tokens: `cross` (d, l_x, l_y), `square_x` (d, l_x), `square_y` (d, l_y)."""
    widths = set(x.widths + y.widths)
    if len(widths) > 1:
        raise ValueError(f"expected equal widths for dimension-wise correlation, got {x.widths} and {y.widths}: "
                         "take a metric that allows unequal widths, such as debiased_cka")
    d, l_x, l_y = widths.pop(), len(x.layers), len(y.layers)
    total = {"cross": np.zeros((d, l_x, l_y)), "square_x": np.zeros((d, l_x)), "square_y": np.zeros((d, l_y))}
    piece = min(_FEW, limits.fitting(12 * d * (l_x + l_y), 0.5 / limits.threads, least=16))

    def part(rows, _):
        sums = [0.0, 0.0, 0.0]
        for few in blocks(rows.stop - rows.start, piece):
            few = slice(rows.start + few.start, rows.start + few.stop)
            a, b = (stack([layer.centred(few).T for layer in side.layers]).swapaxes(0, 1) for side in (x, y))
            sums[0] += to_float64(a @ matrix_transpose(b))  # (d, l_x, l_y)
            sums[1] += to_float64(vecdot(a, a))
            sums[2] += to_float64(vecdot(b, b))
        return {key: to_numpy(value) for key, value in zip(total, sums, strict=True)}

    return limits.add_up("correlation", blocks(x.n, 2 * BLOCK_TOKENS), total, part)


def shuffled_correlation(a: Layer, b: Layer, order: np.ndarray) -> float:
    """Mean dimension-wise correlation of a layer and another with its rows in the given order (n,)."""
    sums = [0.0, 0.0, 0.0]
    for rows in blocks(len(order)):
        one, two = a.centred(rows), b.centred(order[rows])
        sums = [total + sum_float64(p * q, axis=0)
                for total, (p, q) in zip(sums, ((one, two), (one, one), (two, two)), strict=True)]
    return mean_of_defined(pearson(*sums))


def pearson(cross: np.ndarray, square_x: np.ndarray, square_y: np.ndarray) -> np.ndarray:
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
