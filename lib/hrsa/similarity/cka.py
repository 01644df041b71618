"""Linear CKA of every layer of one model with every layer of another: biased as published, and debiased.

CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)). With centred columns and linear kernels the biased HSIC is
||X'Y||_F^2 up to a factor (Kornblith et al. 2019, eq. 4; arXiv 2601.21192, section on HRSA). The debiased HSIC is
the unbiased estimator of Song et al. 2012, eq. 4 (used for CKA by Nguyen et al. 2021, eq. 3). Since it ignores
shifts, it may be evaluated on centred columns, where row sums vanish and it becomes, with a_i = |x_i|^2 and
b_i = |y_i|^2,

    n (n - 3) HSIC = ||X'Y||_F^2 - n / (n - 2) sum_i a_i b_i + sum_i a_i sum_i b_i / ((n - 1)(n - 2)).

The biased value rises when n is not much larger than d (independent Gaussians with d = 1536 and n = 1024 score about
.60), and directions of large variance govern both: read them beside each other and beside robust twins. All sums come
from one pass over the tokens, by the cheaper of two exact routes: Gram space (see `gram`) and feature space (see
`feature`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrsa.similarity.arrays import sum_float64
from hrsa.similarity.budget import Limits
from hrsa.similarity.feature import cross_product, feature_sums
from hrsa.similarity.gram import gram_sums
from hrsa.similarity.states import Layer, States, open_states

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairSums:
    """Centred sums of all layer pairs, over the l = l_x + l_y layers of both models (x first).

    `apart` (l, l) sum over pairs of different tokens of Gram(X) Gram(Y), `products` (l, l) sum_i a_i b_i and `sums`
    (l,) of a_i = |x_i|^2. Entries that nobody asked for are NaN.
    """

    apart: np.ndarray
    products: np.ndarray
    sums: np.ndarray
    l_x: int
    n: int

    @property
    def norms(self) -> np.ndarray:
        """||X'Y||^2 (l, l)."""
        return self.apart + self.products

    def cka(self, debiased: bool = False) -> np.ndarray:
        """Layer x layer CKA (l_x, l_y)."""
        norms, l_x = self.norms, self.l_x
        if debiased:
            norms = self._unbiased()
        self_terms = np.diag(norms)
        return ratio(norms[:l_x, l_x:], self_terms[:l_x, None], self_terms[None, l_x:])

    def _unbiased(self) -> np.ndarray:
        """Unbiased HSIC (l, l) from `apart` = ||X'Y||^2 - sum a_i b_i, which massive tokens don't cancel."""
        apart = self.apart - 2 / (self.n - 2) * self.products
        return unbiased(apart, 0.0, self.sums[:, None], self.sums[None, :], self.n)


def linear_cka(x: Any, y: Any, debiased: bool = False) -> float:
    """Linear CKA of two arrays (n, d_x) and (n, d_y) of the same n rows, numpy or torch; d may differ.

    From 0 to 1 (the debiased estimate may lie below 0); 1 for arrays that differ by rotation, shift and one scale. NaN
    where an array does not vary. Source: Kornblith et al. 2019, eq. 4; debiased as Nguyen et al. 2021, eq. 3.
    ValueError: no matrices, unequal rows, fewer than 4 rows, a value that is not finite.

    >>> import numpy as np
    >>> x = np.array([[0.0, 1], [2, 3], [5, 1], [4, 4], [1, 1]])
    >>> turned = x @ np.array([[0, -1], [1, 0]]) * 3 + 7
    >>> round(linear_cka(x, turned), 6), round(linear_cka(x, turned, debiased=True), 6)
    (1.0, 1.0)
    """
    a, b = open_states([x], "x"), open_states([y], "y")
    if a.n != b.n or a.n < 4:
        raise ValueError(f"expected two arrays of the same 4 rows or more, got {a.n} and {b.n}: pair the rows")
    return float(pair_sums(a, b).cka(debiased).item())


def pair_sums(x: States, y: States, limits: Limits | None = None, matched: bool = False) -> PairSums:
    """All centred sums that CKA of all layer pairs needs (or of matched ones), by the cheaper route."""
    limits = limits or Limits()
    layers = [*x.layers, *y.layers]
    w_x, w_y, n = sum(x.widths), sum(y.widths), x.n
    own = sum(w * w for w in x.widths + y.widths)
    cross = sum(a * b for a, b in zip(x.widths, y.widths, strict=False)) if matched else w_x * w_y
    feature, gram = 4 * n * (cross + own / 2), n * n * (w_x + w_y + len(layers) ** 2)  # float64 costs twice
    if gram < feature:
        return PairSums(**gram_sums(layers, n, limits), l_x=len(x.layers), n=n)
    return PairSums(**feature_sums(x.layers, y.layers, n, limits, matched), l_x=len(x.layers), n=n)


def shuffled_cka(a: Layer, b: Layer, sums: PairSums, i: int, j: int,
                 orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Biased and debiased CKA, each (p,), of a layer and another with its rows in the given orders (p, n).

    The layers are those at `i` and `j` among all layers of `sums`, whose self terms are used again.
    """
    n = sums.n
    norms, products = np.empty(len(orders)), np.empty(len(orders))
    for at, order in enumerate(orders):
        norms[at] = sum_float64(cross_product(a, [b], order) ** 2)
        products[at] = a.squares @ b.squares[order]
    own = [(sums.norms[m, m], sums.products[m, m], sums.sums[m]) for m in (i, j)]
    debiased = ratio(unbiased(norms, products, own[0][2], own[1][2], n),
                     *(unbiased(norm, product, total, total, n) for norm, product, total in own))
    return ratio(norms, own[0][0], own[1][0]), debiased


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
