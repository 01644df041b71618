"""Orthogonal Procrustes: the rotation that best carries one model's states onto the other's, and what it leaves.

O = argmin over orthogonal O of ||X O - Y||_F with centred X, Y; O = U V' from the SVD X'Y = U S V'
(Schoenemann 1966; arXiv 2601.21192, representation level). With unequal widths the narrower array is padded with
zero columns and O (d_x, d_y) is the part of the rotation that meets real columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrsa.similarity.arrays import (
    Array,
    asarray_like,
    stack,
    sum_float64,
    svd,
    to_float32,
    to_float64,
    to_numpy,
    vecdot,
    zeros,
)
from hrsa.similarity.budget import Limits
from hrsa.similarity.states import Layer, blocks, quick_square_rows

_GROUPS = 16  # products of groups of tokens held at once


def orthogonal_map(cross: Array) -> tuple[Array, np.ndarray]:
    """The map U V' (d_x, d_y) and the singular values of X'Y (d_x, d_y), largest first.

    >>> x, turn = np.array([[1.0, 2], [3, -1], [-4, -1]]), np.array([[0.0, 1], [-1, 0]])
    >>> np.allclose(orthogonal_map(x.T @ (x @ turn))[0], turn)
    True
    """
    u, singular, v = svd(cross)
    return u @ v, singular


def inverse_row_entropy(rotation: np.ndarray) -> float:
    """1 - mean_i H(O_i^2) / log d_y of a map (d_x, d_y), rows scaled to sum 1; NaN for d_y = 1.

    >>> inverse_row_entropy(np.eye(4)), inverse_row_entropy(np.full((4, 4), 0.5))
    (1.0, 0.0)
    """
    if rotation.shape[1] == 1:
        return float("nan")
    p = np.square(rotation)  # (d_x, d_y)
    total = p.sum(axis=1, keepdims=True)
    p = p[total[:, 0] > 0] / total[total[:, 0] > 0]
    entropy = -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=1)
    return float(1 - entropy.mean() / np.log(rotation.shape[1]))


@dataclass(frozen=True)
class _Alignment:
    """Which rows of y (n,) meet those of x, and how often each token counts (n,); None: as they are, once each."""

    order: np.ndarray | None = None
    weights: np.ndarray | None = None

    def blocks(self, x: Layer, y: Layer, kind: Any) -> Iterator[tuple[Array, Array, Array | None]]:
        """Centred blocks (b, d_x), (b, d_y) and weights (b,), of float width `kind`."""
        for rows in blocks(x.shape[0]):
            a, b = kind(x.centred(rows)), kind(y.centred(rows if self.order is None else self.order[rows]))
            yield a, b, None if self.weights is None else kind(asarray_like(self.weights[rows], a))


def compare_rotation(x: Layer, y: Layer, order: np.ndarray | None = None,
                     weights: np.ndarray | None = None) -> dict[str, float]:
    """How well a rotation carries layer x (n, d_x) onto layer y (n, d_y): four values, read in blocks.

    `inverse_row_entropy` 1 - mean_i H(O_i^2) / log d_y: 1 for a signed permutation, 0 when every dimension is spread
    evenly over all. `residual_ratio` ||X O - Y||^2 / ||Y||^2: 0 is perfect, about 2 for unrelated arrays of equal
    scale; sees scale. `mean_cosine`: mean over tokens of the cosine of row i of X O and of Y, in -1..1.
    `angular_distance` arccos(||X'Y||_* / (||X|| ||Y||)) in 0..pi/2, radians (Williams et al. 2021, eq. 4).

    With n <= d other maps fit equally well, and the map's entropy says nothing about the directions without data.
    `order` (n,) takes the rows of y in another order; `weights` (n,) counts every token so often.
    """
    alignment = _Alignment(order, weights)
    return _values(x, y, alignment, *_moments(x, y, alignment))


def compare_resampled(x: Layer, y: Layer, weights: np.ndarray, limits: Limits) -> Iterator[dict[str, float]]:
    """`compare_rotation` under each column of token weights (n, r), tokens of equal weights multiplied once for all.

    Tokens of one text share their weights in every resample, so that X'WY is a sum over texts of products that do not
    depend on the resample. Where the sums of all resamples do not fit into `limits`, each is made anew.
    """
    _, group = np.unique(weights, axis=0, return_inverse=True)
    count, entries = int(group.max()) + 1, x.shape[1] * y.shape[1]
    at_once = limits.fitting(8 * entries, 0.25 / limits.threads) - weights.shape[1]
    if at_once < 1 or 4 * count > len(weights):
        for w in weights.T.astype(np.float64):
            yield compare_rotation(x, y, weights=w)
        return
    of_group = np.zeros((count, weights.shape[1]))
    of_group[group] = weights
    order, ends = np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))
    cross: Array = 0.0
    for part in blocks(count, min(at_once, _GROUPS)):
        products, kind = [], None
        for rows in (order[ends[g - 1] if g else 0 : ends[g]] for g in range(part.start, part.stop)):
            kind = to_float64(x.centred(rows))
            products.append((kind.T @ to_float64(y.centred(rows))).reshape(-1))
        cross = cross + asarray_like(of_group[part].T.copy(), kind) @ stack(products)  # (r, d_x d_y)
    counts, total = weights.T.astype(np.float64), weights.sum(axis=0, dtype=np.float64)
    means = [sum(to_numpy(asarray_like(counts[:, rows], kind) @ to_float64(side.centred(rows)))
                 for rows in blocks(len(weights))) / total[:, None] for side in (x, y)]  # (r, d) each
    squares = [counts @ side.squares - total * np.square(mean).sum(axis=1)
               for side, mean in zip((x, y), means, strict=True)]
    for r, w in enumerate(counts):
        mean_x, mean_y = (asarray_like(mean[r], kind) for mean in means)
        of_all = cross[r].reshape(x.shape[1], y.shape[1]) - total[r] * mean_x[:, None] * mean_y[None, :]
        yield _values(x, y, _Alignment(weights=w), of_all, np.array([part[r] for part in squares]), mean_x, mean_y)


def _values(x: Layer, y: Layer, alignment: _Alignment, cross: Array, squares: np.ndarray, mean_x: Any,
            mean_y: Any) -> dict[str, float]:
    rotation, singular = orthogonal_map(cross)
    return {
        "inverse_row_entropy": inverse_row_entropy(to_numpy(rotation)),
        "residual_ratio": float(residual(singular.sum(), *squares)),
        "mean_cosine": _mean_cosine(alignment.blocks(x, y, to_float32), rotation, mean_x, mean_y),
        "angular_distance": float(angular(singular.sum(), *squares)),
    }


def _moments(x: Layer, y: Layer, alignment: _Alignment) -> tuple[Array, np.ndarray, Any, Any]:
    """Weighted X'Y (d_x, d_y), squared norms (2,) and means of centred layers, from float64 products."""
    cross, squares, sums, total = None, np.zeros(2), [0.0, 0.0], 0.0
    for a, b, w in alignment.blocks(x, y, to_float64):
        cross = zeros((a.shape[1], b.shape[1]), a) if cross is None else cross
        own = [quick_square_rows(part) for part in (a, b)]  # (b,)
        if w is None:
            cross += a.T @ b
            squares += [part.sum() for part in own]
            continue
        cross += (w[:, None] * a).T @ b
        squares += [to_numpy(w) @ part for part in own]
        sums = [sums[0] + to_float64(w @ a), sums[1] + to_float64(w @ b)]
        total += float(sum_float64(w))
    if alignment.weights is None:  # already centred
        return cross, squares, 0.0, 0.0
    mean_x, mean_y = sums[0] / total, sums[1] / total
    cross = cross - total * mean_x[:, None] * mean_y[None, :]
    return cross, squares - total * np.array([float(mean_x @ mean_x), float(mean_y @ mean_y)]), mean_x, mean_y


def _mean_cosine(parts: Iterator[tuple], rotation: Array, mean_x: Any, mean_y: Any) -> float:
    total = weight = 0.0
    for a, b, w in parts:
        moved = a @ to_float32(rotation)
        if w is not None:
            moved, b = moved - to_float32(mean_x @ rotation), b - to_float32(mean_y)  # (b, d_y)
        both, one, two = (to_numpy(vecdot(p, q)) for p, q in ((moved, b), (moved, moved), (b, b)))
        use = (one > 0) & (two > 0)
        counts = np.ones(len(use)) if w is None else to_numpy(w)
        total += counts[use] @ (both[use] / np.sqrt(one[use]) / np.sqrt(two[use])).astype(np.float64)
        weight += counts[use].sum(dtype=np.float64)
    return float(total / weight) if weight else float("nan")


def angular(nuclear: Any, square_x: Any, square_y: Any) -> np.ndarray:
    """Angular distance in radians from the nuclear norm of X'Y and the squared norms; NaN where a norm is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.asarray(nuclear) / (np.sqrt(square_x) * np.sqrt(square_y))
    return np.arccos(np.clip(cosine, -1.0, 1.0))


def residual(trace: Any, square_x: Any, square_y: Any) -> np.ndarray:
    """||X O - Y||^2 / ||Y||^2 from tr(O'X'Y) and the squared norms; NaN where ||Y|| is 0."""
    square_y = np.asarray(square_y, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.maximum(square_x + square_y - 2 * np.asarray(trace), 0.0) / square_y
    return np.where(square_y > 0, out, np.nan)
