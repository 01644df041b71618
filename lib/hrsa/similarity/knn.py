"""k-nearest-neighbour overlap: do both models put the same tokens next to each other?

Mean over tokens of the Jaccard index of the k nearest neighbours by cosine (arXiv 2601.21192, local geometry). A token
is never its own neighbour. Unrelated arrays score about k / (2 n); a common mean or norm shared by all tokens raises
cosines together, so that a shift moves the value. **Tie rule**: of neighbours whose float64 cosines are equal, the one
with the lower row number is nearer, in both models alike. Equal states (the same token at layer 0) tie exactly, because
cosines that decide a boundary are summed in one fixed order; the share of tokens whose neighbour set the rule had to
decide is reported: where it is high, part of the overlap is the rule's.

On request the same neighbours give two measures of Huh et al. 2024: mutual k-NN, the share of the neighbours that both
models agree on, and CKNNA, which weighs each by how near it is.

Float32 products find candidates. They are taken about the mean direction c of the unit rows u = c + v, since
cos(i, j) = v_i . v_j + c . v_j + (a term of i alone): rounding then scales with the spread of directions and not with
the common part that anisotropic states share. Where a boundary's gap is within that rounding, float64 decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hrsa.similarity.arrays import asarray_like, to_numpy
from hrsa.similarity.budget import Limits
from hrsa.similarity.metrics import KS
from hrsa.similarity.search import Directions, search_best
from hrsa.similarity.states import Layer, blocks

_ROUNDING = 2e-6  # float32 error of a product of unit vectors, with a margin
MAX_TOKENS = 50_000  # of the study; a graph costs n^2 d
_EXACT_ENTRIES = 4_000_000  # float64 numbers held at once
_SPARE = 12  # candidates beyond the neighbours wanted: among them float64 settles all but many ties


@dataclass(frozen=True)
class Neighbours:
    """`index` (n, k): its first k columns are the k nearest, for each k of `ks` (rising).

    `tied` (n, len(ks)): where the tie rule decided the set. `reranked`: share of tokens that float64 had to settle.
    """

    index: np.ndarray
    tied: np.ndarray
    ks: tuple[int, ...]
    reranked: float

    def shuffled(self, order: np.ndarray) -> Neighbours:
        """The neighbours of the rows in another order (n,): those of x[order], without a new search.

        Ties stay as the rule decided them before.
        """
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return Neighbours(place[self.index[order]], self.tied[order], self.ks, self.reranked)


def sampled(n: int, seed: int) -> np.ndarray | None:
    """Rows (50,000,), rising, drawn from n tokens by `seed`; None when n is not above 50,000."""
    return np.sort(np.random.default_rng(seed).choice(n, MAX_TOKENS, replace=False)) if n > MAX_TOKENS else None


def neighbours(layer: Layer, ks: Sequence[int] = KS, limits: Limits | None = None) -> Neighbours:
    """The nearest neighbours of each row of a layer (n, d), for all `ks` at once; exact as in float64.

    ValueError: k >= n, n above 50,000, a zero row.

    >>> near = neighbours(Layer(np.array([[1.0, 0], [9, 1], [0, 1], [1, 9]]), "x"), ks=[1])
    >>> near.index.ravel().tolist()
    [1, 0, 3, 2]
    """
    limits = limits or Limits()
    n, _ = layer.shape
    k = _check_ks(ks, n, f"an array {layer.shape}")
    if n > MAX_TOKENS:
        raise ValueError(f"expected at most {MAX_TOKENS} tokens, got {layer.shape}: draw a seeded sample first")
    directions = Directions(layer, limits)
    boundaries = np.array(sorted(set(ks)))
    best = search_best(directions, min(k + 1 + _SPARE, n - 1), directions.strip)
    values = np.hstack([best.values, np.full((n, 1), -np.inf, np.float32)])  # nothing comes after all n - 1
    gaps = values[:, boundaries - 1] - values[:, boundaries]
    limit = _ROUNDING * (directions.lengths * directions.lengths.max() + np.abs(values[:, k - 1]))
    index, tied = best.index[:, :k].copy(), np.zeros((n, len(boundaries)), bool)
    doubtful = np.flatnonzero((gaps <= limit[:, None]).any(axis=1))
    least = best.values[:, -1] if best.values.shape[1] < n - 1 else np.full(n, -np.inf, np.float32)
    among = least[doubtful] < values[doubtful, k - 1] - limit[doubtful]  # no row but the candidates can be near enough
    sure = doubtful[among]
    index[sure], tied[sure] = _settled(directions, sure, best.index[sure], best.values[sure], limit[sure], boundaries)
    unsettled = doubtful[~among]
    first, alike = _distinct(layer, unsettled)
    for part in blocks(len(first), max(64, min(_EXACT_ENTRIES, limits.fitting(16, 0.25)) // n)):
        near, value = _exact(directions, first[part], k + 2)  # the row itself may be among them
        of = np.flatnonzero((alike >= part.start) & (alike < part.stop))
        rows, at = unsettled[of], alike[of] - part.start
        order = np.argsort(near[at] == rows[:, None], axis=1, kind="stable")  # the row itself goes last
        near, value = (np.take_along_axis(v[at], order, axis=1) for v in (near, value))
        index[rows], tied[rows] = near[:, :k], value[:, boundaries - 1] == value[:, boundaries]
    return Neighbours(index, tied, tuple(boundaries.tolist()), len(doubtful) / n)


def overlap(a: Neighbours, b: Neighbours) -> np.ndarray:
    """Jaccard index per token and k, (n, len(ks)), of two sets of neighbours found for the same n and ks.

    >>> a, b = (neighbours(Layer(np.array(rows), "x"), ks=[1]) for rows in (
    ...     [[1.0, 0], [9, 1], [0, 1], [1, 9]], [[1.0, 0], [9, 1], [8, 2], [1, 9]]))
    >>> overlap(a, b).ravel().tolist()
    [1.0, 1.0, 0.0, 1.0]
    """
    shared = shared_neighbours(a, b)
    return shared / (2 * np.array(a.ks) - shared)


def shared_neighbours(a: Neighbours, b: Neighbours) -> np.ndarray:
    """How many of the k nearest neighbours of each token are the same in both, (n, len(ks)); over k it is the mutual
    k-NN of Huh et al. 2024 (arXiv 2405.07987, eq. 11). ValueError: not the same n and ks."""
    shared = np.empty((len(a.index), len(a.ks)))
    for rows, rank in _ranks(a, b):
        worst = np.maximum(rank, np.arange(rank.shape[1]))  # (b, k)
        shared[rows] = (worst[:, :, None] < np.array(a.ks)).sum(axis=1)
    return shared


def _ranks(a: Neighbours, b: Neighbours) -> Iterator[tuple[slice, np.ndarray]]:
    """Rank among a's neighbours of each of b's, (b, k), for blocks of tokens; k for those that are none of a's."""
    if a.index.shape != b.index.shape or a.ks != b.ks:
        raise ValueError(f"expected neighbours for the same n and ks, got {a.index.shape}, {a.ks} and "
                         f"{b.index.shape}, {b.ks}")
    n, k = a.index.shape
    rank = np.full((min(n, 256), n), k, np.int32)  # rank in a of every token, for a block of rows
    for rows in blocks(n, len(rank)):
        mine, here = a.index[rows], rank[: rows.stop - rows.start]
        np.put_along_axis(here, mine, np.arange(k, dtype=np.int32)[None], axis=1)
        yield rows, np.take_along_axis(here, b.index[rows], axis=1)
        np.put_along_axis(here, mine, np.int32(k), axis=1)


def affinities(layer: Layer, near: Neighbours, limits: Limits | None = None) -> np.ndarray:
    """Cosines (n, k) of every token with its neighbours, less the mean of its cosines with all tokens; float64."""
    limits = limits or Limits()
    directions = Directions(layer, limits)
    found = np.empty(near.index.shape)
    size = limits.fitting(16 * layer.shape[1] * (near.index.shape[1] + 1), 0.25 / limits.threads)
    for rows in blocks(len(found), size):
        unit = directions.unit(rows)
        theirs = directions.unit(near.index[rows].ravel()).reshape(*found[rows].shape, -1)  # (b, k, d)
        common = to_numpy(unit @ asarray_like(directions.common, unit))  # (b,)
        found[rows] = to_numpy((theirs @ unit[:, :, None])[:, :, 0]) - common[:, None]
    return found


def alignment(a: Neighbours, b: Neighbours, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    """What each token adds to CKNNA's sums, (3, n, len(ks)): of both sets of neighbours, of a's and of b's alone.

    `of_a`, `of_b` (n, k) are the `affinities` of the neighbours. Sum over tokens i and over j that are neighbours of i
    in both of k(i, j) l(i, j), where k and l are cosines less the mean of their row (Huh et al. 2024, arXiv 2405.07987,
    appendix A; the code published with it takes an HSIC of the masked kernels instead). CKNNA is the first sum over
    the root of the product of the other two. ValueError: not the same n and ks.
    """
    sums = np.empty((3, len(a.index), len(a.ks)))
    counted = np.array(a.ks)
    for at, own in ((1, of_a), (2, of_b)):
        sums[at] = np.cumsum(np.square(own), axis=1)[:, counted - 1]
    padded = np.hstack([of_a, np.zeros((len(of_a), 1))])  # of what is no neighbour: 0
    for rows, rank in _ranks(a, b):
        product = np.take_along_axis(padded[rows], rank, axis=1) * of_b[rows]  # (b, k)
        worst = np.maximum(rank, np.arange(rank.shape[1]))
        sums[0, rows] = np.where(worst[:, :, None] < counted, product[:, :, None], 0.0).sum(axis=1)
    return sums


def _check_ks(ks: Sequence[int], n: int, shapes: str) -> int:
    if not ks or min(ks) < 1 or max(ks) >= n:
        raise ValueError(f"expected 1 <= k < n = {n} tokens, got ks = {tuple(ks)} for {shapes}")
    return int(max(ks))


def _distinct(layer: Layer, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of each set of equal states among `rows`, and for each of `rows` which of these it equals."""
    seen: dict[bytes, int] = {}
    alike = np.array([seen.setdefault(row.tobytes(), len(seen))
                      for part in blocks(len(rows)) for row in to_numpy(layer.raw(rows[part]))], dtype=np.intp)
    return rows[np.unique(alike, return_index=True)[1]], alike


def _settled(directions: Directions, rows: np.ndarray, index: np.ndarray, values: np.ndarray, limit: np.ndarray,
             boundaries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (r, k) and ties (r, len(boundaries)) of some rows, whose candidates hold all that can be near enough.

    index, values (r, m): candidates and their float32 scores, falling; limit (r,): how far apart scores tell the order.
    Float64 orders those that follow each other within `limit`; a wider gap is an order for sure.
    """
    edge = np.ones((len(rows), 1), bool)
    apart = np.hstack([edge, values[:, :-1] - values[:, 1:] > limit[:, None], edge])  # (r, m + 1)
    close = ~(apart[:, :-1] & apart[:, 1:])  # (r, m)
    exact = np.full(values.shape, np.nan)
    at, place = np.nonzero(close)
    for part in blocks(len(at), max(1, _EXACT_ENTRIES // directions.layer.shape[1])):
        pairs = at[part], place[part]
        mine, theirs = directions.unit(rows[pairs[0]]), directions.unit(index[pairs])
        exact[pairs] = to_numpy(mine * theirs).sum(axis=1)  # one order of summation for all
    order = np.lexsort((index, -exact, np.cumsum(apart[:, :-1], axis=1)))
    index, exact = (np.take_along_axis(part, order, axis=1) for part in (index, exact))
    after = np.hstack([exact, np.full((len(rows), 1), np.nan)])
    return index[:, : boundaries[-1]], after[:, boundaries - 1] == after[:, boundaries]


def _exact(directions: Directions, rows: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The m nearest rows (r, m) of some rows, themselves included, by the tie rule, and their float64 cosines."""
    unit = directions.unit(rows)
    n = directions.n
    cosines = np.empty((len(rows), n))
    for part in blocks(n, 2048):
        cosines[:, part] = to_numpy(unit @ directions.unit(part).T)
    last = max(n - m, 0)
    threshold = np.partition(cosines, last, axis=1)[:, last] - 1e-12
    index, values = np.full((len(rows), m), -1, np.int32), np.full((len(rows), m), -np.inf)
    for at in range(len(rows)):
        near = np.flatnonzero(cosines[at] >= threshold[at])
        value = to_numpy(unit[at] * directions.unit(near)).sum(axis=1)  # one order of summation for every row
        order = np.lexsort((near, -value))[:m]
        index[at, : len(order)], values[at, : len(order)] = near[order], value[order]
    return index, values
