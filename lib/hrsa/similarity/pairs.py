"""CKA and correlation of every layer of one model with every layer of another, in one pass over the tokens.

CKA takes the cheaper of two exact routes. Feature space: X'Y of all layer pairs, summed over blocks of tokens. Gram
space: for a tile of token pairs the Gram matrices of all layers are computed once, and one product of the flattened
tiles (l_x + l_y, tile) with itself adds to all cross and self terms; products are float32, in pieces whose sums
float64 collects. In feature space a few entries may carry the whole sum, so that products are float64 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hrsa.similarity.cka import ratio, unbiased
from hrsa.similarity.correlation import correlation, mean_of_defined
from hrsa.similarity.states import PIECE, Layer, States, blocks, square_rows

TILE = 512  # tokens; a tile's Gram matrix stays in cache
STRIP_BYTES = 2**27  # of centred states kept while all later tokens pass by: fewer readings of these


@dataclass(frozen=True)
class PairSums:
    """Centred sums of all layer pairs: `norms` ||X'Y||^2 (l, l) and `products` sum_i a_i b_i (l, l), both over the
    l = l_x + l_y layers of both models (x first), and `sums` (l,) of a_i; entries of one model's different layers
    may be NaN (not needed)."""

    norms: np.ndarray
    products: np.ndarray
    sums: np.ndarray
    l_x: int
    n: int

    def cka(self, debiased: bool = False) -> np.ndarray:
        """Layer x layer CKA (l_x, l_y)."""
        norms, l_x = self.norms, self.l_x
        if debiased:
            norms = unbiased(norms, self.products, self.sums[:, None], self.sums[None, :], self.n)
        self_terms = np.diag(norms)
        return ratio(norms[:l_x, l_x:], self_terms[:l_x, None], self_terms[None, l_x:])


def pair_sums(x: States, y: States) -> PairSums:
    """All centred sums that CKA of all layer pairs needs, by the cheaper route."""
    layers = [*x.layers, *y.layers]
    w_x, w_y, n = sum(x.widths), sum(y.widths), x.n
    own = sum(w * w for w in x.widths + y.widths)
    feature, gram = 4 * n * (w_x * w_y + own), n * n * (w_x + w_y + len(layers) ** 2)  # float64 costs twice
    squares = np.stack([layer.squares for layer in layers])  # (l, n)
    norms = feature_norms(x.layers, y.layers, n) if feature <= gram else gram_norms(layers, n)
    return PairSums(norms, squares @ squares.T, squares.sum(axis=1), len(x.layers), n)


def feature_norms(x: list[Layer], y: list[Layer], n: int) -> np.ndarray:
    """||X'Y||^2 for each layer of x with each of y and of every layer with itself, NaN elsewhere: (l, l)."""
    layers = [*x, *y]
    norms = np.full((len(layers), len(layers)), np.nan)
    for i, first in enumerate(layers):
        partners = [i, *(range(len(x), len(layers)) if i < len(x) else ())]
        widths = np.cumsum([layers[j].shape[1] for j in partners])
        cross = cross_product(first, [layers[j] for j in partners])
        for j, part in zip(partners, np.split(cross, widths[:-1], axis=1), strict=True):
            norms[i, j] = norms[j, i] = np.square(part).sum()
    return norms


def cross_product(x: Layer, others: list[Layer], order: np.ndarray | None = None) -> np.ndarray:
    """X'[Y1 Y2 ...] of centred layers, (d_x, sum of d_y); the others' rows in the given order (n,)."""
    total = np.zeros((x.shape[1], sum(layer.shape[1] for layer in others)))
    for rows in blocks(x.shape[0]):
        theirs = rows if order is None else order[rows]
        theirs = np.hstack([layer.centred(theirs) for layer in others]).astype(np.float64)
        total += x.centred(rows).astype(np.float64).T @ theirs
    return total


def gram_norms(layers: list[Layer], n: int) -> np.ndarray:
    """||X'Y||^2 = sum over token pairs of Gram(X) Gram(Y), for all layers with all: (l, l)."""
    norms = np.zeros((len(layers), len(layers)))
    width = 4 * sum(layer.shape[1] for layer in layers)  # bytes of a token
    for strip in blocks(n, TILE * max(1, STRIP_BYTES // (TILE * width))):
        kept = [layer.centred(strip) for layer in layers]
        for right in blocks(n, TILE)[strip.start // TILE :]:
            inside = right.start < strip.stop
            theirs = [k[right.start - strip.start :][:TILE] for k in kept] if inside else [
                layer.centred(right) for layer in layers]
            for left in blocks(strip.stop - strip.start, TILE):
                at = strip.start + left.start
                if at <= right.start:
                    norms += (1 if at == right.start else 2) * tile_products([k[left] for k in kept], theirs)
    return norms


def tile_products(left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
    """Sum over a tile of token pairs of the products of all layers' Gram entries: (l, l) float64."""
    shape = (len(left), len(left[0]), len(right[0]))
    tiles = np.empty(shape, np.float32)
    for at, (a, b) in enumerate(zip(left, right, strict=True)):
        np.matmul(a, b.T, out=tiles[at])
    return products_of(tiles.reshape(len(left), -1))


def products_of(flat: np.ndarray) -> np.ndarray:
    """`flat` (l, m) float32 times its transpose, (l, l), with float64 sums over pieces of m."""
    whole = flat.shape[1] // PIECE * PIECE
    pieces = flat[:, :whole].reshape(len(flat), -1, PIECE).transpose(1, 0, 2)  # (m / PIECE, l, PIECE)
    rest = flat[:, whole:].astype(np.float64)
    return (pieces @ pieces.transpose(0, 2, 1)).sum(axis=0, dtype=np.float64) + rest @ rest.T


def minibatch_cka(x: States, y: States, rng: np.random.Generator, batch: int = TILE) -> np.ndarray:
    """Layer x layer CKA (l_x, l_y) from one pass over shuffled batches, with the unbiased HSIC of each.

    Numerators and denominators are summed over batches before the ratio (Nguyen et al. 2021, eq. 5): each of them is
    unbiased, at a cost that grows with n and not with n^2. The last batch takes what is left when that is below 4.
    """
    n = x.n
    if n < 4:
        raise ValueError(f"expected at least 4 tokens, got n = {n}")
    order = rng.permutation(n)
    layers = [*x.layers, *y.layers]
    starts = [s for s in range(0, n, batch) if n - s >= 4]
    total = np.zeros((len(layers), len(layers)))
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        rows = np.sort(order[start:stop])
        parts = [layer.centred(rows) for layer in layers]
        parts = [part - part.mean(axis=0) for part in parts]
        a = np.stack([square_rows(part) for part in parts])
        total += unbiased(tile_products(parts, parts), a @ a.T, a.sum(axis=1)[:, None], a.sum(axis=1)[None, :],
                          len(rows))
    l_x, own = len(x.layers), np.diag(total)
    return ratio(total[:l_x, l_x:], own[:l_x, None], own[None, l_x:])


def correlation_pairs(x: States, y: States) -> np.ndarray:
    """Mean dimension-wise correlation of all layer pairs, (l_x, l_y), over the dimensions that vary in both."""
    widths = set(x.widths + y.widths)
    if len(widths) > 1:
        raise ValueError(f"expected equal widths for dimension-wise correlation, got {x.widths} and {y.widths}")
    d = widths.pop()
    l_x, l_y = len(x.layers), len(y.layers)
    cross, square_x, square_y = np.zeros((d, l_x, l_y)), np.zeros((d, l_x)), np.zeros((d, l_y))
    for rows in blocks(x.n, PIECE):
        a = np.stack([layer.centred(rows).T for layer in x.layers], axis=1)  # (d, l_x, b)
        b = np.stack([layer.centred(rows).T for layer in y.layers], axis=1)  # (d, l_y, b)
        cross += a @ b.transpose(0, 2, 1)
        square_x += np.einsum("dlb,dlb->dl", a, a)
        square_y += np.einsum("dlb,dlb->dl", b, b)
    rho = correlation(cross, square_x[:, :, None], square_y[:, None, :])  # (d, l_x, l_y)
    return np.array([[mean_of_defined(rho[:, i, j]) for j in range(l_y)] for i in range(l_x)])


def check_pair(x: States, y: States) -> None:
    """Raise ValueError naming both shapes unless both models have the same n tokens."""
    if x.n != y.n:
        raise ValueError(f"expected the same n tokens in both models, got {[la.shape for la in x.layers]} and "
                         f"{[la.shape for la in y.layers]}: record both on the same tokens")

