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
from hrsa.similarity.states import BLOCK, PIECE, Layer, blocks

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
        return _fit(x - self.mean_x, y - self.mean_y, self.map)


def procrustes(x: Any, y: Any) -> Procrustes:
    """Fit the map from `x` (n, d_x) to `y` (n, d_y) in float64; see `Procrustes` for what it holds.

    ValueError: unequal n, n < 2, NaN or Inf. A map that is not unique is logged as a warning.
    """
    x, y = pair(x, y, at_least=2)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean_x, y - mean_y
    rotation, singular = orthogonal_map(x.T @ y)
    rank = int((singular > singular[0] * max(x.shape[1], y.shape[1]) * np.finfo(np.float64).eps).sum())
    rank = min(rank, len(x) - 1)
    unique = rank == len(singular)
    if not unique:
        log.warning("Procrustes map is not unique: rank %d of %d (n = %d tokens, d = %d and %d)",
                    rank, len(singular), len(x), x.shape[1], y.shape[1])
    fit = _fit(x, y, rotation)
    angle = angular(singular.sum(), np.square(x).sum(), np.square(y).sum())
    return Procrustes(fit.residual_ratio, fit.mean_cosine, fit.n_tokens, rotation, mean_x, mean_y,
                      inverse_row_entropy(rotation), float(angle), rank, unique)


def orthogonal_map(cross: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map U V' (d_x, d_y) and the singular values of X'Y (d_x, d_y), largest first."""
    u, singular, v = np.linalg.svd(cross, full_matrices=False)
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


def nuclear_norm(cross: np.ndarray) -> float:
    """Sum of the singular values of (d_x, d_y), from the eigenvalues of C'C where that is exact enough.

    Eigenvalues carry an error of about eps times the largest, which matters only for small singular values; where
    these errors, independent as they are, could add up to 1e-7 of the result, singular values are computed, at three
    times the cost.
    """
    small = cross if cross.shape[0] >= cross.shape[1] else cross.T
    eigenvalues = np.maximum(np.linalg.eigvalsh(small.T @ small), 0.0)
    singular = np.sqrt(eigenvalues)
    error = 4 * np.finfo(np.float64).eps * eigenvalues.max()
    spread = np.minimum(np.sqrt(error), error / np.maximum(singular, np.sqrt(error)))
    if np.sqrt(np.square(spread).sum()) > 1e-7 * singular.sum():
        singular = np.linalg.svd(cross, compute_uv=False)
    return float(singular.sum())


def compare_rotation(x: Layer, y: Layer, order: np.ndarray | None = None, weights: np.ndarray | None = None,
                     with_map: bool = True) -> dict[str, float]:
    """Procrustes values of two layers read in blocks, as in `Procrustes` but for the map itself.

    `order` (n,) takes the rows of y in another order; `weights` (n,) counts every token so often. Without the map,
    only residual_ratio and angular_distance, faster: float32 products of blocks and no singular vectors.
    """
    n, kind = x.shape[0], np.float64 if with_map else np.float32
    order = np.arange(n) if order is None else order
    weights = np.ones(n) if weights is None else weights
    cross = np.zeros((x.shape[1], y.shape[1]))
    squares = np.array([weights @ x.squares, weights @ y.squares[order]])
    sums = [np.zeros(x.shape[1]), np.zeros(y.shape[1])]
    plain = (weights == 1).all()
    for a, b, w in _blocks(x, y, order, weights, BLOCK if with_map else PIECE):
        a, b, w = a.astype(kind, copy=False), b.astype(kind, copy=False), w.astype(kind)
        a = a if plain else w[:, None] * a
        cross += a.T @ b
        sums[0] += a.sum(axis=0)
        sums[1] += w @ b
    total = weights.sum()
    mean_x, mean_y = (part / total for part in sums)  # zero but for rounding unless weighted
    cross -= total * np.outer(mean_x, mean_y)
    squares -= total * np.array([mean_x @ mean_x, mean_y @ mean_y])
    if not with_map:
        nuclear = nuclear_norm(cross)
        return {"residual_ratio": float(residual(nuclear, *squares)),
                "angular_distance": float(angular(nuclear, *squares))}
    rotation, singular = orthogonal_map(cross)
    return {
        "inverse_row_entropy": inverse_row_entropy(rotation),
        "residual_ratio": float(residual(singular.sum(), *squares)),
        "mean_cosine": _mean_cosine(_blocks(x, y, order, weights, BLOCK), rotation, mean_x, mean_y),
        "angular_distance": float(angular(singular.sum(), *squares)),
    }


def _blocks(x: Layer, y: Layer, order: np.ndarray, weights: np.ndarray, size: int) -> Iterator[tuple]:
    """Centred blocks (b, d_x), (b, d_y) and weights (b,)."""
    plain = np.array_equal(order, np.arange(len(order)))
    for rows in blocks(len(order), size):
        yield x.centred(rows), y.centred(rows if plain else order[rows]), weights[rows]


def _mean_cosine(parts, rotation, mean_x, mean_y) -> float:
    total = weight = 0.0
    narrow, shift = rotation.astype(np.float32), (mean_x @ rotation).astype(np.float32)
    for a, b, w in parts:
        moved, b = a @ narrow - shift, b - mean_y.astype(np.float32)  # (b, d_y)
        inner, one, two = (np.einsum("nd,nd->n", p, q) for p, q in ((moved, b), (moved, moved), (b, b)))
        use = (one > 0) & (two > 0)
        total += w[use] @ (inner[use] / np.sqrt(one[use]) / np.sqrt(two[use])).astype(np.float64)
        weight += w[use].sum()
    return total / weight if weight else float("nan")


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


def _fit(x: np.ndarray, y: np.ndarray, rotation: np.ndarray) -> Fit:
    moved = x @ rotation  # (n, d_y)
    inner = (moved * y).sum(axis=1)
    norms = np.linalg.norm(moved, axis=1) * np.linalg.norm(y, axis=1)
    cosine = inner[norms > 0] / norms[norms > 0]
    if len(cosine) < len(x):
        log.warning("cosine is undefined for %d of %d tokens: a centred state is zero", len(x) - len(cosine), len(x))
    ratio = residual(inner.sum(), np.square(x).sum(), np.square(y).sum())
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
