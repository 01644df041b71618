"""Orthogonal Procrustes: the rotation that best carries one model's states onto the other's, and what it leaves.

O = argmin over orthogonal O of ||X O - Y||_F with centred X, Y; O = U V' from the SVD X'Y = U S V'
(Schoenemann 1966; arXiv 2601.21192, representation level). With unequal widths the narrower array is padded with
zero columns and O (d_x, d_y) is the part of the rotation that meets real columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrsa.similarity.arrays import CHANGES, Metric, pair
from hrsa.similarity.backend import (
    Array,
    beside,
    host,
    inner,
    narrow,
    singular_values,
    sum_wide,
    svd,
    symmetric_eigenvalues,
    wide,
    zeros,
)
from hrsa.similarity.states import Layer, blocks, quick_square_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """How well a map carries centred x onto centred y.

    `residual_ratio` ||X O - Y||^2 / ||Y||^2: 0 is perfect, about 2 for unrelated arrays of equal scale; sees scale.
    `mean_cosine` mean over tokens of the cosine of row i of X O and of Y, in -1..1.
    """

    residual_ratio: float
    mean_cosine: float
    n_tokens: int


@dataclass(frozen=True)
class Procrustes(Fit):
    """An orthogonal map and its quality on the tokens it was fitted on.

    `map` (d_x, d_y); `inverse_row_entropy` 1 - mean_i H(O_i^2) / log d_y: 1 for a signed permutation, 0 when every
    dimension is spread evenly over all; `angular_distance` arccos(||X'Y||_* / (||X|| ||Y||)) in 0..pi/2, radians
    (Williams et al. 2021, eq. 4). `unique` is False when X'Y has rank below min(d_x, d_y) (always so for
    n <= d): other maps fit equally well, and the map and its entropy then say nothing about the other directions.
    """

    map: np.ndarray
    mean_x: np.ndarray
    mean_y: np.ndarray
    inverse_row_entropy: float
    angular_distance: float
    rank: int
    unique: bool

    def score(self, x: Any, y: Any) -> Fit:
        """Quality on other tokens (n, d_x), (n, d_y), centred by the means of the fit. ValueError: wrong shapes."""
        x, y = pair(x, y, at_least=1)
        if (x.shape[1], y.shape[1]) != self.map.shape:
            raise ValueError(f"expected widths {self.map.shape} as fitted, got x {x.shape} and y {y.shape}")
        return _fit(x - beside(self.mean_x, x), y - beside(self.mean_y, y), beside(self.map, x))


def procrustes(x: Any, y: Any) -> Procrustes:
    """Fit the map from `x` (n, d_x) to `y` (n, d_y) in float64; see `Procrustes` for what it holds.

    ValueError: unequal n, n < 2, NaN or Inf. A map that is not unique is logged as a warning.
    """
    x, y = pair(x, y, at_least=2)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    rotation, singular = orthogonal_map(x.T @ y)
    rank = int((singular > singular[0] * max(x.shape[1], y.shape[1]) * np.finfo(np.float64).eps).sum())
    rank = min(rank, len(x) - 1)
    unique = rank == len(singular)
    if not unique:
        log.warning("Procrustes map is not unique: rank %d of %d (n = %d tokens, d = %d and %d)",
                    rank, len(singular), len(x), x.shape[1], y.shape[1])
    fit = _fit(x, y, rotation)
    angle = angular(singular.sum(), float((x * x).sum()), float((y * y).sum()))
    return Procrustes(fit.residual_ratio, fit.mean_cosine, fit.n_tokens, host(rotation), host(mean_x), host(mean_y),
                      inverse_row_entropy(host(rotation)), float(angle), rank, unique)


def orthogonal_map(cross: Array) -> tuple[Array, np.ndarray]:
    """The map U V' (d_x, d_y) and the singular values of X'Y (d_x, d_y), largest first."""
    u, singular, v = svd(cross)
    return u @ v, singular


def inverse_row_entropy(rotation: np.ndarray) -> float:
    """1 - mean_i H(O_i^2) / log d_y of a map (d_x, d_y), rows scaled to sum 1; NaN for d_y = 1."""
    if rotation.shape[1] == 1:
        return float("nan")
    p = np.square(rotation)  # (d_x, d_y)
    total = p.sum(axis=1, keepdims=True)
    p = p[total[:, 0] > 0] / total[total[:, 0] > 0]
    entropy = -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=1)
    return float(1 - entropy.mean() / np.log(rotation.shape[1]))


def nuclear_norm(cross: Array) -> float:
    """Sum of the singular values of (d_x, d_y), from the eigenvalues of C'C where that is exact enough.

    Eigenvalues carry an error of about eps times the largest, which matters only for small singular values; where
    these errors, independent as they are, could add up to 2e-7 of the result, singular values are computed, at up to
    twice the cost.
    """
    small = cross if cross.shape[0] >= cross.shape[1] else cross.T
    eigenvalues = np.maximum(symmetric_eigenvalues(small.T @ small), 0.0)
    singular = np.sqrt(eigenvalues)
    error = np.finfo(np.float64).eps * eigenvalues.max()
    spread = np.minimum(np.sqrt(error), error / np.maximum(singular, max(np.sqrt(error), 1e-300)))
    if np.sqrt(np.square(spread).sum()) > 2e-7 * singular.sum():
        singular = singular_values(cross)
    return float(singular.sum())


@dataclass(frozen=True)
class Alignment:
    """Which rows of y (n,) meet those of x, and how often each token counts (n,); None: as they are, once each."""

    order: np.ndarray | None = None
    weights: np.ndarray | None = None

    def blocks(self, x: Layer, y: Layer, kind: Any) -> Iterator[tuple[Array, Array, Array | None]]:
        """Centred blocks (b, d_x), (b, d_y) and weights (b,), of float width `kind`."""
        for rows in blocks(x.shape[0]):
            a, b = kind(x.centred(rows)), kind(y.centred(rows if self.order is None else self.order[rows]))
            yield a, b, None if self.weights is None else kind(beside(self.weights[rows], a))


def compare_rotation(x: Layer, y: Layer, order: np.ndarray | None = None, weights: np.ndarray | None = None,
                     with_map: bool = True) -> dict[str, float]:
    """Procrustes values of two layers read in blocks, as in `Procrustes` but for the map itself.

    `order` (n,) takes the rows of y in another order; `weights` (n,) counts every token so often. Without the map,
    only residual_ratio and angular_distance, faster: float32 products of blocks and no singular vectors.
    """
    alignment = Alignment(order, weights)
    cross, squares, mean_x, mean_y = _moments(x, y, alignment, wide if with_map else narrow)
    if not with_map:
        nuclear = nuclear_norm(cross)
        return {"residual_ratio": float(residual(nuclear, *squares)),
                "angular_distance": float(angular(nuclear, *squares))}
    rotation, singular = orthogonal_map(cross)
    return {
        "inverse_row_entropy": inverse_row_entropy(host(rotation)),
        "residual_ratio": float(residual(singular.sum(), *squares)),
        "mean_cosine": _mean_cosine(alignment.blocks(x, y, narrow), rotation, mean_x, mean_y),
        "angular_distance": float(angular(singular.sum(), *squares)),
    }


def _moments(x: Layer, y: Layer, alignment: Alignment, kind: Any) -> tuple[Array, np.ndarray, Any, Any]:
    """Weighted X'Y (d_x, d_y), squared norms (2,) and means of centred layers; float64 sums of products of `kind`."""
    cross, squares, sums, total = None, np.zeros(2), [0.0, 0.0], 0.0
    for a, b, w in alignment.blocks(x, y, kind):
        cross = zeros((a.shape[1], b.shape[1]), a) if cross is None else cross
        own = [quick_square_rows(part) for part in (a, b)]  # (b,)
        if w is None:
            cross += a.T @ b
            squares += [part.sum() for part in own]
            continue
        cross += (w[:, None] * a).T @ b
        squares += [host(w) @ part for part in own]
        sums = [sums[0] + wide(w @ a), sums[1] + wide(w @ b)]
        total += float(sum_wide(w))
    if alignment.weights is None:  # already centred
        return cross, squares, 0.0, 0.0
    mean_x, mean_y = sums[0] / total, sums[1] / total
    cross = cross - total * mean_x[:, None] * mean_y[None, :]
    return cross, squares - total * np.array([float(mean_x @ mean_x), float(mean_y @ mean_y)]), mean_x, mean_y


def _mean_cosine(parts: Iterator[tuple], rotation: Array, mean_x: Any, mean_y: Any) -> float:
    total = weight = 0.0
    for a, b, w in parts:
        moved = a @ narrow(rotation)
        if w is not None:
            moved, b = moved - narrow(mean_x @ rotation), b - narrow(mean_y)  # (b, d_y)
        both, one, two = (host(inner(p, q)) for p, q in ((moved, b), (moved, moved), (b, b)))
        use = (one > 0) & (two > 0)
        counts = np.ones(len(use)) if w is None else host(w)
        total += counts[use] @ (both[use] / np.sqrt(one[use]) / np.sqrt(two[use])).astype(np.float64)
        weight += counts[use].sum(dtype=np.float64)
    return float(total / weight) if weight else float("nan")


def angular(nuclear: Any, square_x: Any, square_y: Any) -> np.ndarray:
    """Angular distance in radians from the nuclear norm of X'Y and the squared norms; NaN where a norm is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.asarray(nuclear) / (np.sqrt(square_x) * np.sqrt(square_y))
    return np.arccos(np.clip(cosine, -1.0, 1.0))


def residual(inner: Any, square_x: Any, square_y: Any) -> np.ndarray:
    """||X O - Y||^2 / ||Y||^2 from tr(O'X'Y) and the squared norms; NaN where ||Y|| is 0."""
    square_y = np.asarray(square_y, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.maximum(square_x + square_y - 2 * np.asarray(inner), 0.0) / square_y
    return np.where(square_y > 0, out, np.nan)


def _fit(x: Array, y: Array, rotation: Array) -> Fit:
    moved = x @ rotation  # (n, d_y)
    both, one, two = (host(inner(p, q)) for p, q in ((moved, y), (moved, moved), (y, y)))
    norms = np.sqrt(one) * np.sqrt(two)
    cosine = both[norms > 0] / norms[norms > 0]
    if len(cosine) < len(x):
        log.warning("cosine is undefined for %d of %d tokens: a centred state is zero", len(x) - len(cosine), len(x))
    ratio = residual(both.sum(), float((x * x).sum()), two.sum())
    return Fit(float(ratio), float(cosine.mean()) if len(cosine) else float("nan"), len(x))


def _of(field: str) -> Any:
    def value(x: Any, y: Any) -> float:
        return getattr(procrustes(x, y), field)

    return value


_BASIS_FREE = frozenset(CHANGES)
METRICS = (
    Metric("inverse_row_entropy", _of("inverse_row_entropy"), _BASIS_FREE - {"rotation"}, 0.0, 1.0, 1.0, False, False,
           "arXiv 2601.21192, representation level"),
    Metric("residual_ratio", _of("residual_ratio"), _BASIS_FREE - {"scale"}, 0.0, np.inf, 0.0, False, False,
           "arXiv 2601.21192, representation level"),
    Metric("mean_cosine", _of("mean_cosine"), _BASIS_FREE, -1.0, 1.0, 1.0, True, False,
           "arXiv 2601.21192, representation level"),
    Metric("angular_distance", _of("angular_distance"), _BASIS_FREE, 0.0, np.pi / 2, 0.0, True, False,
           "Williams et al. 2021, eq. 4"),
)
