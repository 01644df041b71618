"""CKA and correlation of every layer of one model with every layer of another, in one pass over the tokens.

CKA takes the cheaper of two exact routes, Gram space (see `gram`) or feature space (see `feature`); its one-pass
estimate uses batches of tokens. Correlation is one batched product per dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from hrsa.similarity.backend import flip_last, host, inner, stack, wide
from hrsa.similarity.budget import Limits
from hrsa.similarity.cka import ratio, unbiased
from hrsa.similarity.correlation import correlation, mean_of_defined
from hrsa.similarity.feature import feature_sums
from hrsa.similarity.gram import gram_sums, sum_of_products
from hrsa.similarity.states import BLOCK, Layer, States, blocks, square_rows

TILE = 512  # tokens of a minibatch, and of a tile of the resampled sums
FEW = 64  # tokens of a product of dimensions: those of all layers stay in the cache


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
            norms = unbiased_apart(self.apart, self.products, self.sums, self.n)
        self_terms = np.diag(norms)
        return ratio(norms[:l_x, l_x:], self_terms[:l_x, None], self_terms[None, l_x:])


def unbiased_apart(apart: np.ndarray, products: np.ndarray, sums: np.ndarray, n: int) -> np.ndarray:
    """Unbiased HSIC (l, l) from `apart` = ||X'Y||^2 - sum a_i b_i, which massive tokens don't cancel."""
    return unbiased(apart - 2 / (n - 2) * products, 0.0, sums[:, None], sums[None, :], n)


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


@dataclass(frozen=True)
class Estimate:
    """One-pass CKA (l_x, l_y) and its standard error, from leaving out one batch at a time (NaN for one batch)."""

    cka: np.ndarray
    error: np.ndarray


def minibatch_cka(x: States, y: States, rng: np.random.Generator, batch: int = TILE) -> np.ndarray:
    """Layer x layer CKA (l_x, l_y) from one pass over shuffled batches: see `minibatch_estimate`."""
    return minibatch_estimate(x, y, rng, batch).cka


def minibatch_estimate(x: States, y: States, rng: np.random.Generator, batch: int = TILE,
                       limits: Limits | None = None) -> Estimate:
    """Layer x layer CKA from one pass over shuffled batches, with the unbiased HSIC of each, and its error.

    Numerators and denominators are summed over batches before the ratio (Nguyen et al. 2021, eq. 5): each of them is
    unbiased, at a cost that grows with n and not with n^2. The last batch takes what is left when that is below 4.
    ValueError: n < 4.
    """
    if x.n < 4:
        raise ValueError(f"expected at least 4 tokens, got n = {x.n}")
    limits, layers, l_x = limits or Limits(), [*x.layers, *y.layers], len(x.layers)
    order = rng.permutation(x.n)
    starts = [s for s in range(0, x.n, batch) if x.n - s >= 4]
    parts = [(at, np.sort(order[start:stop]))
             for at, (start, stop) in enumerate(zip(starts, [*starts[1:], x.n], strict=True))]
    each = {"each": np.zeros((len(parts), len(layers), len(layers)))}
    each = limits.add_up("minibatch", parts, each, lambda part, _: {"each": (part[0], _batch(layers, part[1]))})["each"]

    def cka(terms):
        own = np.diag(terms)
        return ratio(terms[:l_x, l_x:], own[:l_x, None], own[None, l_x:])

    total, b = each.sum(axis=0), len(parts)
    if b == 1:
        return Estimate(cka(total), np.full((l_x, len(y.layers)), np.nan))
    without = np.stack([cka(total - one) for one in each])  # (b, l_x, l_y)
    return Estimate(cka(total), np.sqrt((b - 1) * without.var(axis=0)))


def _batch(layers: list[Layer], rows: np.ndarray) -> np.ndarray:
    """Unbiased HSIC (l, l) of all layers with all on some tokens."""
    parts = [layer.centred(rows) for layer in layers]
    parts = [part - part.mean(0) for part in parts]
    a = np.stack([square_rows(part) for part in parts])  # (l, b)
    grams = [part @ part.T for part in parts]
    for gram in grams:
        gram[range(len(rows)), range(len(rows))] = 0.0
    return unbiased_apart(sum_of_products(grams), a @ a.T, a.sum(axis=1), len(rows))


def correlation_sums(x: States, y: States, limits: Limits) -> dict[str, np.ndarray]:
    """Centred sums over tokens: `cross` (d, l_x, l_y), `square_x` (d, l_x), `square_y` (d, l_y)."""
    widths = set(x.widths + y.widths)
    if len(widths) > 1:
        raise ValueError(f"expected equal widths for dimension-wise correlation, got {x.widths} and {y.widths}")
    d, l_x, l_y = widths.pop(), len(x.layers), len(y.layers)
    total = {"cross": np.zeros((d, l_x, l_y)), "square_x": np.zeros((d, l_x)), "square_y": np.zeros((d, l_y))}
    piece = min(FEW, limits.fitting(12 * d * (l_x + l_y), 0.5 / limits.threads, least=16))

    def part(rows, _):
        sums = [0.0, 0.0, 0.0]
        for few in blocks(rows.stop - rows.start, piece):
            few = slice(rows.start + few.start, rows.start + few.stop)
            a, b = (stack([layer.centred(few).T for layer in side.layers]).swapaxes(0, 1) for side in (x, y))
            sums[0] += wide(a @ flip_last(b))  # (d, l_x, l_y)
            sums[1] += wide(inner(a, a))
            sums[2] += wide(inner(b, b))
        return {key: host(value) for key, value in zip(total, sums, strict=True)}

    return limits.add_up("correlation", blocks(x.n, 2 * BLOCK), total, part)


def correlation_pairs(x: States, y: States, limits: Limits | None = None) -> np.ndarray:
    """Mean dimension-wise correlation of all layer pairs, (l_x, l_y), over the dimensions that vary in both."""
    return defined_correlation(x, y, limits)[0]


def defined_correlation(x: States, y: States, limits: Limits | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean dimension-wise correlation of all layer pairs, (l_x, l_y), and how many dimensions have none, (l_x, l_y)."""
    sums = correlation_sums(x, y, limits or Limits())
    rho = correlation(sums["cross"], sums["square_x"][:, :, None], sums["square_y"][:, None, :])  # (d, l_x, l_y)
    means = np.empty(rho.shape[1:])
    for i, j in product(*map(range, means.shape)):
        means[i, j] = mean_of_defined(rho[:, i, j])
    return means, np.isnan(rho).sum(axis=0)


def each_dimension(x: States, y: States, limits: Limits | None = None) -> np.ndarray:
    """Correlation of every dimension of the first layers, (d,), NaN where one is constant, from blocks of tokens."""
    sums = correlation_sums(x, y, limits or Limits())
    return correlation(sums["cross"][:, 0, 0], sums["square_x"][:, 0], sums["square_y"][:, 0])


def check_pair(x: States, y: States, ks: Sequence[int] = ()) -> None:
    """Raise ValueError naming both shapes unless both models have the same n tokens, more than any k."""
    shapes = f"got {[layer.shape for layer in x.layers]} and {[layer.shape for layer in y.layers]}"
    if x.n != y.n:
        raise ValueError(f"expected the same n tokens in both models, {shapes}: record both on the same tokens")
    if ks and (min(ks) < 1 or max(ks) >= x.n):
        raise ValueError(f"expected 1 <= k < n = {x.n} tokens, got ks = {tuple(ks)}; {shapes}")
