"""What makes a similarity readable: token weights of resampled texts, values under them, intervals, permuted rows.

A bootstrap over texts weights every token by how often its text was drawn. All r resamples are evaluated together,
from products with the (n, r) weight matrix, at little more than the cost of one evaluation. A null permutes the rows
of one model within classes of tokens. What two runs of one recipe have in common needs no function of its own: it is
the same metric between two runs that share the arm and not the order of the data; a ceiling, between float32 and bf16
states of one model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from hrsa.similarity.arrays import asarray_like, hstack, sum_float64, to_numpy
from hrsa.similarity.cka import ratio
from hrsa.similarity.correlation import mean_of_defined, pearson
from hrsa.similarity.states import Layer, blocks

_TILE = 512  # tokens of a tile of the resampled sums

log = logging.getLogger(__name__)


def text_weights(texts: Any, count: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap over texts: how often each token counts in each resample, (n, count) whole numbers.

    `texts` (n,) numbers the text of every token. A resample draws as many texts as there are, with replacement, and
    takes all tokens of each: tokens of one text are not independent, texts are. ValueError: fewer than two texts.
    """
    found, code = np.unique(to_numpy(texts), return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"expected tokens of at least 2 texts for a bootstrap over texts, got {len(found)}")
    drawn = rng.multinomial(len(found), np.full(len(found), 1 / len(found)), size=count)  # (count, texts)
    return drawn[:, code].T


def percentile_interval(value: float, resampled: Any, level: float = 0.95, low: float = -np.inf, high: float = np.inf):
    """Percentile interval of `resampled` (r,), moved so that its median lies on `value`, cut at the metric's range.

    Moved, because a resample holds fewer distinct tokens, which shifts biased metrics (biased CKA rises); the spread
    is what the resamples measure. (NaN, NaN) when no resample is defined.

    >>> [round(bound, 3) for bound in percentile_interval(0.5, np.linspace(0.4, 0.8, 101), level=0.9, high=0.6)]
    [0.32, 0.6]
    """
    resampled = to_numpy(resampled).astype(np.float64)
    resampled = resampled[~np.isnan(resampled)]
    if not resampled.size or np.isnan(value):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    quantiles = np.quantile(resampled, [tail, 1 - tail]) - np.median(resampled) + value
    return tuple(float(q) for q in np.clip(quantiles, low, high))


def length_position_classes(lengths: Any, positions: Any, bins: int = 4) -> np.ndarray:
    """Classes (n,) of tokens by text length and by position, each in `bins` quantile bins; the first token apart.

    Norms depend on both (first tokens are massive), so that a null within these classes keeps their effect.
    """
    lengths, positions = to_numpy(lengths), to_numpy(positions)
    if lengths.shape != positions.shape or lengths.ndim != 1:
        raise ValueError(f"expected lengths and positions (n,), got {lengths.shape} and {positions.shape}")
    cuts = [np.unique(np.quantile(v, np.linspace(0, 1, bins + 1)[1:-1])) for v in (lengths, positions)]
    length, position = (np.searchsorted(c, v, side="right") for c, v in zip(cuts, (lengths, positions), strict=True))
    return length * (bins + 1) + np.where(positions == positions.min(), bins, position)


def shuffle_within(classes: Any, rng: np.random.Generator) -> np.ndarray:
    """A permutation (n,) of the rows that keeps every row in its class (n,); rows alone in a class stay, logged."""
    _, code, counts = np.unique(to_numpy(classes), return_inverse=True, return_counts=True)
    alone = int((counts == 1).sum())
    if alone:
        log.warning("%d of %d rows are alone in their class and stay in place in the null", alone, len(code))
    order = np.empty(len(code), dtype=np.intp)
    order[np.argsort(code, kind="stable")] = np.lexsort((rng.random(len(code)), code))
    return order


def weighted_cka(layers: Sequence[Layer], pairs: Sequence[tuple[int, int]], weights: np.ndarray):
    """Biased and debiased CKA, each (len(pairs), r), of pairs of `layers` under token weights (n, r).

    The biased value is that of the resampled tokens, centred by their own mean. The debiased one is the weighted
    U-statistic over distinct tokens: copies of a token never count as a pair, which would bring the bias back.
    """
    used = sorted({at for pair in pairs for at in pair})
    wanted = [*((at, at) for at in used), *pairs]
    row = {at: place for place, at in enumerate(used)}
    rows_x, rows_y = ([row[pair[side]] for pair in pairs] for side in (0, 1))
    both = _weighted_hsic(layers, wanted, weights.astype(np.float32))
    return tuple(ratio(hsic[len(used) :], hsic[rows_x], hsic[rows_y]) for hsic in both)


def _weighted_hsic(layers, pairs, w):
    """Biased HSIC of the resampled tokens and weighted U-statistic of the HSIC, each (p, r).

    HSIC = E[K_ij L_ij] - 2 E[K_ij L_ik] + E[K_ij] E[L_kl], with every mean over distinct tokens weighted by products
    of w; sums over distinct indices follow by inclusion and exclusion from sums over all.
    """
    near, near_once, near_twice = _gram_forms(layers, pairs, w)
    full, off, off_squared, diagonal, every, own = _row_forms(layers, pairs, w)
    i, j = (np.array(side) for side in zip(*pairs, strict=True))
    p1, p2, p3, p4 = (np.power(w, e, dtype=np.float64).sum(axis=0) for e in (1, 2, 3, 4))
    biased = near + diagonal - 2 / p1 * full + every[i] * every[j] / p1**2
    triples = off - near_once
    quads = (every - own)[i] * (every - own)[j] - 4 * off_squared + 2 * near_twice
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where fewer than four tokens were drawn
        unbiased = (near / (p1**2 - p2) - 2 * triples / (p1**3 - 3 * p1 * p2 + 2 * p3)
                    + quads / (p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4))
    return biased, unbiased


def _gram_forms(layers, pairs, w):
    """Sums over i != j of K_ij L_ij times w_i w_j, w_i w_j^2 and w_i^2 w_j^2: (3, p, r)."""
    n, r = w.shape
    out = np.zeros((3, len(pairs), r))
    used = sorted({at for pair in pairs for at in pair})
    both = asarray_like(np.hstack([w, np.square(w)]), layers[used[0]].raw(slice(0, 1)))  # (n, 2 r)
    parts = blocks(n, _TILE)
    for at, left in enumerate(parts):
        mine = {u: layers[u].centred(left) for u in used}
        for right in parts[at:]:
            gram = {u: mine[u] @ layers[u].centred(right).T for u in used}  # (t, t)
            for place, (i, j) in enumerate(pairs):
                tile = gram[i] * gram[j]
                if left is right:
                    tile[range(len(tile)), range(len(tile))] = 0.0
                times = tile @ both[right]  # (t, 2 r)
                ones, twos = both[left, :r], both[left, r:]
                factor = 1 if left is right else 2
                out[0, place] += factor * sum_float64(ones * times[:, :r], axis=0)
                out[1, place] += factor / 2 * sum_float64(ones * times[:, r:] + twos * times[:, :r], axis=0)
                out[2, place] += factor * sum_float64(twos * times[:, r:], axis=0)
    return out


def _row_forms(layers, pairs, w):
    """Sums over tokens of row sums K w: see the names in `_weighted_hsic`; the first four (p, r), the rest (l, r)."""
    n, r = w.shape
    full, off, off_squared, diagonal = (np.zeros((len(pairs), r)) for _ in range(4))
    every, own = np.zeros((len(layers), r)), np.zeros((len(layers), r))
    used = sorted({at for pair in pairs for at in pair})
    parts = blocks(n)
    near = asarray_like(w, layers[used[0]].raw(slice(0, 1)))  # where the states are
    toward = {u: sum(layers[u].centred(rows).T @ near[rows] for rows in parts) for u in used}  # X'w (d, r)
    for rows in parts:
        here = w[rows].astype(np.float64)
        states = {u: layers[u].centred(rows) for u in used}
        square = {u: layers[u].squares[rows, None] for u in used}  # (b, 1)
        sums = {u: to_numpy(states[u] @ toward[u]).astype(np.float64) for u in used}  # (b, r)
        rest = {u: sums[u] - here * square[u] for u in used}
        for u in used:
            every[u] += (here * sums[u]).sum(axis=0)
            own[u] += (here**2 * square[u]).sum(axis=0)
        for place, (i, j) in enumerate(pairs):
            product = here * rest[i] * rest[j]
            full[place] += (here * sums[i] * sums[j]).sum(axis=0)
            off[place] += product.sum(axis=0)
            off_squared[place] += (here * product).sum(axis=0)
            diagonal[place] += (here**2 * square[i] * square[j]).sum(axis=0)
    return full, off, off_squared, diagonal, every, own


def weighted_correlation(x: Layer, y: Layer, weights: np.ndarray) -> np.ndarray:
    """Mean dimension-wise correlation (r,) under token weights (n, r)."""
    d, r = x.shape[1], weights.shape[1]
    sums = np.zeros((r, 5 * d))
    for rows in blocks(x.shape[0]):
        a, b = x.centred(rows), y.centred(rows)
        drawn = asarray_like(weights[rows].T.astype(np.float32), a)  # (r, b)
        sums += to_numpy(drawn @ hstack([a, b, a * a, b * b, a * b]))
    total = weights.sum(axis=0)[:, None]
    mean_x, mean_y, xx, yy, xy = np.split(sums / total, 5, axis=1)  # each (r, d)
    varies = ~(x.constant | y.constant)
    rho = pearson((xy - mean_x * mean_y)[:, varies], (xx - mean_x**2)[:, varies], (yy - mean_y**2)[:, varies])
    return np.array([mean_of_defined(row) for row in rho])
