"""CKA of all layer pairs in feature space: X'Y summed over blocks of tokens, when tokens outnumber all dimensions.

A few entries may carry the whole sum here, so that products are float64. On request the same products give SVCCA.
"""

from __future__ import annotations

import numpy as np

from hrsa.similarity.arrays import Array, asarray_like, hstack, sum_float64, svd, to_float64, to_numpy, zeros
from hrsa.similarity.budget import Limits
from hrsa.similarity.states import BLOCK_TOKENS, PIECE, Layer, blocks, square_rows


def feature_sums(x: list[Layer], y: list[Layer], n: int, limits: Limits, matched: bool = False) -> dict:
    """As `gram.gram_sums`, from X'Y of each layer of x with each of y and of every layer with itself."""
    layers, l_x = [*x, *y], len(x)
    count = len(layers)
    norms = {"norms": np.zeros((count, count))}
    items = _groups(x, y, limits, matched)
    found = limits.add_up("feature", items, norms, lambda item, _: _cross_norms(layers, *item, limits))["norms"]
    known = np.eye(count, dtype=bool)
    for i, partners in items:
        known[i, list(partners)] = True
    squares = {"products": np.zeros((count, count)), "sums": np.zeros(count)}
    step = limits.fitting(8 * sum(layer.shape[1] for layer in layers), 0.25 / limits.threads)
    squares = limits.add_up("squares", blocks(n, min(step, 4 * BLOCK_TOKENS)), squares,
                            lambda rows, _: _squares(layers, rows))
    apart = np.where(known, found - squares["products"], np.nan)
    apart[l_x:, :l_x] = apart[:l_x, l_x:].T
    return {"apart": apart, **squares}


def _groups(x: list[Layer], y: list[Layer], limits: Limits, matched: bool) -> list[tuple[int, tuple[int, ...]]]:
    """Each layer with the partners whose products with it fit into memory at once; itself first."""
    items: list[tuple[int, tuple[int, ...]]] = []
    for i in range(len(x) + len(y)):
        partners = () if i >= len(x) else (i,) if matched and i < len(y) else () if matched else tuple(range(len(y)))
        items.append((i, ()))
        if not partners:
            continue
        width = max(y[j].shape[1] for j in partners)
        size = limits.fitting(24 * x[i].shape[1] * width, 0.5 / limits.threads)
        items += [(i, tuple(len(x) + j for j in partners[at : at + size])) for at in range(0, len(partners), size)]
    return items


def _cross_norms(layers: list[Layer], i: int, partners: tuple[int, ...], limits: Limits) -> dict[str, np.ndarray]:
    """||X'Y||^2 of layer i with its partners, or with itself when there are none, in an array (l, l) of zeros."""
    norms = np.zeros((len(layers), len(layers)))
    if not partners:
        norms[i, i] = sum_float64(_own_product(layers[i]) ** 2)
        return {"norms": norms}
    cross = cross_product(layers[i], [layers[j] for j in partners], limits=limits)
    stops = np.cumsum([layers[j].shape[1] for j in partners])
    for j, stop in zip(partners, stops, strict=True):
        norms[i, j] = sum_float64(cross[:, stop - layers[j].shape[1] : stop] ** 2)
    return {"norms": norms}


def _own_product(x: Layer) -> Array:
    """X'X of a centred layer (d, d), float64."""
    total = 0.0
    for rows in blocks(x.shape[0]):
        block = to_float64(x.centred(rows))
        total = total + block.T @ block
    return total


def cross_product(x: Layer, others: list[Layer], order: np.ndarray | None = None,
                  limits: Limits | None = None) -> Array:
    """X'[Y1 Y2 ...] of centred layers, (d_x, sum of d_y), float64; the others' rows in the given order (n,)."""
    limits = limits or Limits()
    width = x.shape[1] + sum(layer.shape[1] for layer in others)
    step = min(BLOCK_TOKENS, limits.fitting(20 * width, 0.3 / limits.threads, least=PIECE))
    total = None
    for rows in blocks(x.shape[0], step):
        theirs = rows if order is None else order[rows]
        theirs = to_float64(hstack([layer.centred(theirs) for layer in others]))
        mine = to_float64(x.centred(rows))
        if total is None:
            total = zeros((mine.shape[1], theirs.shape[1]), mine)
        total += mine.T @ theirs
    return total


def _squares(layers: list[Layer], rows: slice) -> dict[str, np.ndarray]:
    a = np.stack([square_rows(layer.centred(rows)) for layer in layers])  # (l, b)
    return {"products": a @ a.T, "sums": a.sum(axis=1)}


_VARIANCE = 0.99  # of a layer, that the directions kept by SVCCA hold at least, as published
_RANK = 1e-10  # of the largest variance: less is none


def kept_directions(x: Layer) -> np.ndarray:
    """The fewest principal directions (d, k) of a layer that hold 99% of its variance; none for a constant layer."""
    vectors, variances, _ = svd(_own_product(x))
    held = np.cumsum(variances) / max(variances.sum(), np.finfo(float).tiny)
    return to_numpy(vectors)[:, : int((held < _VARIANCE).sum()) + 1 if variances[0] > 0 else 0]


def svcca(x: Layer, y: Layer, kept: tuple[np.ndarray, np.ndarray], order: np.ndarray | None = None,
          weights: np.ndarray | None = None) -> float:
    """Mean canonical correlation of two layers (n, d_x), (n, d_y) in the directions `kept` of each, read in blocks.

    0: no linear readout of the one is one of the other; 1: the directions kept of the one with fewer are all found in
    the other (Raghu et al. 2017, arXiv 1706.05806). `kept` as `kept_directions` gives them, (d_x, k_x) and (d_y, k_y).
    With n not well above k_x + k_y, any two layers score near 1. `order` (n,) takes the rows of y in another order;
    `weights` (n,) counts every token so often, in the directions kept of all. NaN where a layer is constant.
    """
    split, total = kept[0].shape[1], 0.0
    if not min(split, kept[1].shape[1]):
        return float("nan")
    both, sums = 0.0, 0.0
    for rows in blocks(x.shape[0]):
        mine, theirs = x.centred(rows), y.centred(rows if order is None else order[rows])
        z = np.hstack([to_numpy(to_float64(part) @ asarray_like(directions, part))
                       for part, directions in ((mine, kept[0]), (theirs, kept[1]))])  # (b, k_x + k_y)
        counted = np.ones(len(z)) if weights is None else weights[rows]
        both, sums, total = both + (z * counted[:, None]).T @ z, sums + counted @ z, total + counted.sum()
    both = both - np.outer(sums, sums) / total
    white = [_whitening(both[part, part]) for part in (slice(split), slice(split, None))]
    correlations = np.linalg.svd(white[0].T @ both[:split, split:] @ white[1], compute_uv=False)
    return float(np.clip(correlations, 0.0, 1.0).mean()) if len(correlations) else float("nan")


def _whitening(square: np.ndarray) -> np.ndarray:
    """Columns (k, m) that turn sums of squares (k, k) into the identity (m, m), m their rank."""
    variances, vectors = np.linalg.eigh(square)
    there = variances > _RANK * variances[-1]
    return vectors[:, there] / np.sqrt(variances[there])
