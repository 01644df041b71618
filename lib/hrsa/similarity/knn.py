"""k-nearest-neighbour overlap: do both models put the same tokens next to each other?

Mean over tokens of the Jaccard index of the k nearest neighbours by cosine (arXiv 2601.21192, local geometry). A
token is never its own neighbour. **Tie rule**: of neighbours whose float64 cosines are equal, the one with the lower
row number is nearer, in both models alike. Equal states (the same token at layer 0) tie exactly, because cosines
that decide a boundary are summed in one fixed order; the share of tokens whose neighbour set the rule had to decide
is reported as `tied_share`: where it is high, part of the overlap is the rule's.

Float32 products find candidates. They are taken about the mean direction c of the unit rows u = c + v, since
cos(i, j) = v_i . v_j + c . v_j + (a term of i alone): rounding then scales with the spread of directions and not with
the common part that anisotropic states share. Where a boundary's gap is within that rounding, float64 decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrsa.similarity.arrays import Metric, matrix
from hrsa.similarity.search import search
from hrsa.similarity.states import blocks

KS = (5, 10, 50)  # as published
ROUNDING = 2e-6  # float32 error of a product of unit vectors, with a margin
MAX_TOKENS = 50_000  # of the study; a graph costs n^2 d
EXACT_ENTRIES = 4_000_000  # float64 cosines held at once


@dataclass(frozen=True)
class Neighbours:
    """`index` (n, k): its first k columns are the k nearest, for each k of `ks` (rising).

    `tied` (n, len(ks)): where the tie rule decided the set. `reranked`: share of tokens that float64 had to settle.
    """

    index: np.ndarray
    tied: np.ndarray
    ks: tuple[int, ...]
    reranked: float

    @property
    def tied_share(self) -> dict[int, float]:
        """Share of tokens, per k, whose set of k neighbours was decided by the tie rule."""
        return dict(zip(self.ks, self.tied.mean(axis=0).tolist(), strict=True))

    def shuffled(self, order: np.ndarray) -> Neighbours:
        """The neighbours of the rows in another order (n,): those of x[order], without a new search.

        Ties stay as the rule decided them before.
        """
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return Neighbours(place[self.index[order]], self.tied[order], self.ks, self.reranked)


def knn_overlap(x: Any, y: Any, ks: Sequence[int] = KS) -> dict[int, float]:
    """Mean Jaccard overlap per k of the neighbours in `x` (n, d_x) and in `y` (n, d_y), each in 0..1.

    Invariant to rotation, permutation and isotropic scale, but not to shift: a common mean or norm shared by all
    tokens raises cosines together. Unrelated arrays score about k / (2 n). Exact as in float64; ties by the rule
    of this module. ValueError: unequal n, k >= n, n above 50,000, a zero row, NaN or Inf.
    """
    x, y = matrix(x, "x"), matrix(y, "y")
    if len(x) != len(y):
        raise ValueError(f"expected the same n tokens in x and y, got x {x.shape} and y {y.shape}")
    near_x, near_y = neighbours(x, ks), neighbours(y, ks)
    mean = dict(zip(near_x.ks, overlap(near_x, near_y).mean(axis=0).tolist(), strict=True))
    return {k: mean[k] for k in ks}


def neighbours(x: Any, ks: Sequence[int] = KS) -> Neighbours:
    """The neighbours of each row of `x` (n, d), for all `ks` at once. ValueError: see `knn_overlap`."""
    x = matrix(x, "x")
    n, k = len(x), _check_ks(ks, x.shape)
    norms = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1))
    if not norms.all():
        raise ValueError(f"expected rows with a direction, got a zero row at x[{int(norms.argmin())}] of {x.shape}: "
                         "leave that token out")
    spread, bias = _about_mean(x, norms)  # (n, d) float32, (n,) float32
    length = np.sqrt(np.square(spread).sum(axis=1))  # (n,)
    boundaries = np.array(sorted(set(ks)))
    best = search(spread, bias, k + 1 if n > k + 1 else k)
    values = np.hstack([best.values, np.full((n, 1), -np.inf, np.float32)])  # nothing comes after all n - 1
    gaps = values[:, boundaries - 1] - values[:, boundaries]
    limit = ROUNDING * (length * length.max() + np.abs(values[:, k - 1]))
    index, tied = best.index[:, :k].copy(), np.zeros((n, len(boundaries)), bool)
    doubtful = np.flatnonzero((gaps <= limit[:, None]).any(axis=1))
    first, alike = _distinct(x, doubtful)
    for part in blocks(len(first), max(64, EXACT_ENTRIES // n)):
        near, value = _exact(x, norms, first[part], k + 2)  # the row itself may be among them
        of = np.flatnonzero((alike >= part.start) & (alike < part.stop))
        rows, at = doubtful[of], alike[of] - part.start
        order = np.argsort(near[at] == rows[:, None], axis=1, kind="stable")  # the row itself goes last
        near, value = (np.take_along_axis(v[at], order, axis=1) for v in (near, value))
        index[rows], tied[rows] = near[:, :k], value[:, boundaries - 1] == value[:, boundaries]
    return Neighbours(index, tied, tuple(boundaries.tolist()), len(doubtful) / n)


def overlap(a: Neighbours, b: Neighbours) -> np.ndarray:
    """Jaccard index per token and k, (n, len(ks)), of two sets of neighbours found for the same n and ks."""
    if a.index.shape != b.index.shape or a.ks != b.ks:
        raise ValueError(f"expected neighbours for the same n and ks, got {a.index.shape}, {a.ks} and "
                         f"{b.index.shape}, {b.ks}")
    n, k = a.index.shape
    shared = np.empty((n, len(a.ks)))
    rank = np.full((min(n, 256), n), k, np.int32)  # rank in a of every token, for a block of rows
    for start in range(0, n, len(rank)):
        mine, theirs = a.index[start : start + len(rank)], b.index[start : start + len(rank)]
        here = rank[: len(mine)]
        np.put_along_axis(here, mine, np.arange(k, dtype=np.int32)[None], axis=1)
        worst = np.maximum(np.take_along_axis(here, theirs, axis=1), np.arange(k))  # (b, k)
        shared[start : start + len(mine)] = (worst[:, :, None] < np.array(a.ks)).sum(axis=1)
        np.put_along_axis(here, mine, np.int32(k), axis=1)
    return shared / (2 * np.array(a.ks) - shared)


def _check_ks(ks: Sequence[int], shape: tuple[int, ...]) -> int:
    if not ks or min(ks) < 1 or max(ks) >= shape[0]:
        raise ValueError(f"expected 1 <= k < n = {shape[0]} tokens, got ks = {tuple(ks)} for an array {shape}")
    if shape[0] > MAX_TOKENS:
        raise ValueError(f"expected at most {MAX_TOKENS} tokens, got {shape}: draw a seeded sample first")
    return int(max(ks))


def _about_mean(x: np.ndarray, norms: np.ndarray, block: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows less their mean c, float32 (n, d), and c . v of each row, float32 (n,)."""
    n, d = x.shape
    parts = [slice(s, s + block) for s in range(0, n, block)]
    common = sum((x[p] / norms[p, None]).sum(axis=0) for p in parts) / n  # (d,)
    spread, bias = np.empty((n, d), np.float32), np.empty(n, np.float32)
    for p in parts:
        v = x[p] / norms[p, None] - common
        spread[p], bias[p] = v, v @ common
    return spread, bias


def _distinct(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of each set of equal states among `rows`, and for each of `rows` which of these it equals."""
    seen: dict[bytes, int] = {}
    alike = np.array([seen.setdefault(x[row].tobytes(), len(seen)) for row in rows], dtype=np.intp)
    return rows[np.unique(alike, return_index=True)[1]], alike


def _exact(x: np.ndarray, norms: np.ndarray, rows: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The m nearest rows (r, m) of some rows, themselves included, by the tie rule, and their float64 cosines."""
    unit = x[rows] / norms[rows, None]
    cosines = np.empty((len(rows), len(x)))
    for part in blocks(len(x), 4096):
        cosines[:, part] = unit @ (x[part] / norms[part, None]).T
    last = max(len(x) - m, 0)
    threshold = np.partition(cosines, last, axis=1)[:, last] - 1e-12
    index, values = np.full((len(rows), m), -1, np.int32), np.full((len(rows), m), -np.inf)
    for at in range(len(rows)):
        near = np.flatnonzero(cosines[at] >= threshold[at])
        value = (unit[at] * (x[near] / norms[near, None])).sum(axis=1)  # one order of summation for every row
        order = np.lexsort((near, -value))[:m]
        index[at, : len(order)], values[at, : len(order)] = near[order], value[order]
    return index, values


def _at(k: int) -> Any:
    def value(x: Any, y: Any) -> float:
        return knn_overlap(x, y, ks=(k,))[k]

    return value


METRICS = tuple(
    Metric(f"knn{k}", _at(k), frozenset({"rotation", "scale", "permutation"}), 0.0, 1.0, 1.0, True, False,
           "arXiv 2601.21192, local geometry")
    for k in KS
)
