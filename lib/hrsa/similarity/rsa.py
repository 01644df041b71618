"""Representational similarity analysis: do both models rank all pairs of tokens alike?

The dissimilarity of two tokens is 1 - cosine; the similarity of two models is the rank correlation (Spearman) of their
dissimilarities over all pairs of different tokens (Kriegeskorte et al. 2008, Frontiers in Systems Neuroscience 2:4).
Ranks do not see how far apart two tokens are, so that no few pairs govern the value. Pairs are met tile by tile and
ranked by where their angle falls among a million equal steps between the least and the largest; pairs within one step
share its mean rank, which moves the value by less than 1e-5. Products are float64, so that equal pairs are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement

import numpy as np

from hrsa.similarity.arrays import to_numpy
from hrsa.similarity.budget import Limits
from hrsa.similarity.search import Directions
from hrsa.similarity.states import Layer, blocks

_STEPS = 2**20
_BEGIN = (3 - 5**0.5) / 2  # of the first step: no simple part of the range (45 degrees of 180) is where two steps meet
_TILE = 1024  # tokens
_BYTES = 48  # held at once per pair of a tile

Tile = tuple[np.ndarray, np.ndarray]  # rows (b,) and columns (c,) of a tile, as places among the tokens


class PairRanks:
    """Ranks of the angles of all pairs of different rows of a layer (n, d), their mean at 0.

    Three passes over the pairs are made, in tiles that fit into `limits`. ValueError naming the place: a zero row.
    """

    def __init__(self, layer: Layer, limits: Limits):
        self.directions, self.n = Directions(layer, limits), layer.shape[0]
        size = int(min(_TILE, np.sqrt(limits.memory / limits.threads / 4 / _BYTES)))
        self.parts = [np.arange(part.start, part.stop) for part in blocks(self.n, max(16, size))]
        ends = [(kept.min(), kept.max()) for kept in map(self._pairs, self.tiles()) if len(kept)]
        self.low = float(min(low for low, _ in ends))
        span = float(max(high for _, high in ends)) - self.low
        self.per_unit = (_STEPS - 2) / span if span > 0 else 0.0
        counts = np.zeros(_STEPS, np.int64)
        for tile in self.tiles():
            counts += np.bincount(self._step(self._pairs(tile)), minlength=_STEPS)
        total = counts.sum()
        self.ranks = (np.cumsum(counts) - counts / 2 - total / 2) / total  # (steps,) in -1/2..1/2

    def tiles(self) -> Iterator[Tile]:
        """Tiles that hold every pair once, those on the diagonal twice."""
        return combinations_with_replacement(self.parts, 2)

    def of(self, tile: Tile, order: np.ndarray | None = None) -> np.ndarray:
        """Ranks (b, c) of the pairs of a tile, 0 for what is no pair or is met elsewhere; rows in the given order (n,).
        """
        ranks = self.ranks[self._step(self._angles(*(tile if order is None else (order[part] for part in tile))))]
        return np.triu(ranks, 1) if tile[0] is tile[1] else ranks

    def _pairs(self, tile: Tile) -> np.ndarray:
        angles = self._angles(*tile)
        return angles[np.triu_indices(len(angles), 1)] if tile[0] is tile[1] else angles.ravel()

    def _angles(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Angles (b, c) in radians, which order pairs as 1 - cosine does."""
        u, v = (self.directions.unit(part) for part in (rows, columns))
        return np.arccos(np.clip(to_numpy(u @ v.T), -1.0, 1.0))

    def _step(self, angles: np.ndarray) -> np.ndarray:
        return np.clip((angles - self.low) * self.per_unit + _BEGIN, 0, _STEPS - 1).astype(np.int32)


def rank_correlation(x: PairRanks, y: PairRanks, order: np.ndarray | None = None) -> float:
    """Spearman correlation, over all pairs of tokens, of x's dissimilarities and y's, y's rows in the given order (n,).

    NaN where all pairs of a model are equally near.
    """
    sums = np.zeros(3)
    for tile in x.tiles():
        a, b = x.of(tile), y.of(tile, order)
        sums += [np.vdot(p, q) for p, q in ((a, b), (a, a), (b, b))]
    return float(_correlation(*sums))


def weighted_rank_correlation(x: PairRanks, y: PairRanks, weights: np.ndarray) -> np.ndarray:
    """The same (r,) under token weights (n, r), given the ranks among all pairs; copies of a token are no pair."""
    w = weights.astype(np.float64)
    sums = np.zeros((5, w.shape[1]))
    for tile in x.tiles():
        a, b = x.of(tile), y.of(tile)
        for at, product in enumerate((a * b, a * a, b * b, a, b)):
            sums[at] += (w[tile[0]] * (product @ w[tile[1]])).sum(axis=0)
    total = (w.sum(axis=0) ** 2 - np.square(w).sum(axis=0)) / 2
    ab, aa, bb, mean_a, mean_b = sums / np.where(total > 0, total, np.nan)
    return _correlation(ab - mean_a * mean_b, aa - mean_a**2, bb - mean_b**2)


def _correlation(cross: np.ndarray, square_x: np.ndarray, square_y: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(cross / (np.sqrt(square_x) * np.sqrt(square_y)), -1.0, 1.0)
