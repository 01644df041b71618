"""CKA of all layer pairs in feature space: X'Y summed over blocks of tokens, when tokens outnumber all dimensions.

A few entries may carry the whole sum here, so that products are float64.
"""

from __future__ import annotations

import numpy as np

from hrsa.similarity.arrays import Array, hstack, sum_float64, to_float64, zeros
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
