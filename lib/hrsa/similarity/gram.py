"""CKA of all layer pairs in Gram space: the cheaper exact route when tokens are fewer than all layers' dimensions.

Every pair of tokens is met once. For a tile of token pairs the Gram matrices of all layers are computed, and one
product of the flattened tiles (l, tile) with itself adds to all cross and self terms at once. Products are float32, in
pieces whose sums float64 collects. Pairs of a token with itself are left out: the debiased value does not use them, and
where one token is massive they would drown the rest.
"""

from __future__ import annotations

from queue import SimpleQueue

import numpy as np

from hrsa.similarity.arrays import Array, concatenate, is_tensor, matrix_transpose, sum_float64, to_float64, to_numpy
from hrsa.similarity.budget import Limits
from hrsa.similarity.states import PIECE, Layer, blocks, quick_square_rows

_TILE = 256  # tokens that meet a strip at a time
_SHARE = 0.75  # of the memory, for a strip of centred states of all layers and its tiles


def gram_sums(layers: list[Layer], n: int, limits: Limits) -> dict[str, np.ndarray]:
    """`apart` (l, l): sum over pairs of different tokens of Gram(X) Gram(Y), for all layers with all.

    Beside it, of squared norms a and b of centred states, `products` (l, l) sum a_i b_i and `sums` (l,) sum a_i.
    """
    count = len(layers)
    total = {"apart": np.zeros((count, count)), "products": np.zeros((count, count)), "sums": np.zeros(count)}
    for strip in blocks(n, _strip_tokens(layers, limits)):
        rights = [slice(at, min(at + _TILE, n)) for at in range(strip.start, n, _TILE)]
        found = limits.add_up(
            f"gram-{strip.start}-{strip.stop}", rights, {key: np.zeros_like(value) for key, value in total.items()},
            lambda right, prepared, strip=strip: _tile(layers, strip, right, *prepared),
            lambda strip=strip: _strip(layers, strip, limits))
        for key, value in found.items():
            total[key] += value
    return total


def _strip_tokens(layers: list[Layer], limits: Limits) -> int:
    """Tokens of a strip, a multiple of the tile."""
    width = sum(layer.shape[1] for layer in layers)
    fit = limits.fitting(4 * (width + limits.threads * len(layers) * _TILE), _SHARE)
    return max(_TILE, fit // _TILE * _TILE)


def _strip(layers: list[Layer], strip: slice, limits: Limits) -> tuple[list[Array], SimpleQueue]:
    """Centred states of a strip, and one array of tiles per thread."""
    kept = [concatenate([layer.centred(slice(strip.start + part.start, strip.start + part.stop))
                         for part in blocks(strip.stop - strip.start)]) for layer in layers]
    buffers: SimpleQueue = SimpleQueue()
    for _ in range(limits.threads):
        size = len(layers) * (strip.stop - strip.start) * _TILE
        buffers.put(kept[0].new_empty(size) if is_tensor(kept[0]) else np.empty(size, np.float32))
    return kept, buffers


def _tile(layers: list[Layer], strip: slice, right: slice, kept: list[Array], buffers: SimpleQueue):
    """What the tokens of `right` add with those of the strip that come before them, and with each other."""
    count, width = len(layers), right.stop - right.start
    inside = right.start < strip.stop
    before = min(right.start, strip.stop) - strip.start  # tokens of the strip
    buffer = buffers.get()
    tiles = buffer[: len(buffer) // _TILE * width].reshape(count, -1, width)
    own, squares = [], []
    for at, layer in enumerate(layers):
        theirs = kept[at][before : before + width] if inside else layer.centred(right)
        if before:
            _product(kept[at][:before], theirs, tiles[at, :before])
        if inside:
            own.append(theirs @ theirs.T)
            squares.append(quick_square_rows(theirs))
    found = {"apart": 2 * _products_of(tiles[:, :before].reshape(count, -1)) if before else np.zeros((count, count))}
    buffers.put(buffer)
    if inside:
        for gram in own:
            gram[range(width), range(width)] = 0.0
        a = np.stack(squares)
        found["apart"] += _sum_of_products(own)
        found |= {"products": a @ a.T, "sums": a.sum(axis=1)}
    return found


def _product(a: Array, b: Array, out: Array) -> None:
    """a b' into `out`."""
    if is_tensor(a):
        out.copy_(a @ b.T)
    else:
        np.matmul(a, b.T, out=out)


def _sum_of_products(grams: list[Array]) -> np.ndarray:
    """Sum over all entries of the products of each two of l arrays of one shape: (l, l) float64, on the host."""
    if is_tensor(grams[0]):
        import torch

        return _products_of(torch.stack([gram.reshape(-1) for gram in grams]))
    return _products_of(np.stack([gram.reshape(-1) for gram in grams]))


def _products_of(flat: Array) -> np.ndarray:
    """`flat` (l, m) float32 times its transpose, (l, l), with float64 sums over pieces of m, on the host."""
    whole = flat.shape[1] // PIECE * PIECE
    pieces = flat[:, :whole].reshape(len(flat), -1, PIECE).swapaxes(0, 1)  # (m / PIECE, l, PIECE)
    rest = to_float64(flat[:, whole:])
    return sum_float64(pieces @ matrix_transpose(pieces), axis=0) + to_numpy(rest @ rest.T)
