"""The best-scoring columns of every row of V V' + bias, without holding the matrix or sorting its rows.

The products of a tile of rows I and columns J serve rows I and rows J at once, since V V' is symmetric. Each row keeps
its best scores so far; only entries above the worst of them are looked at again, which soon are few. A first bound
comes from maxima of groups of columns: the m-th largest of these is at most the m-th largest entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hrsa.similarity.states import blocks

TILE = 1024  # rows and columns; a tile stays in cache
GROUPS = 2  # times as many groups of columns as scores wanted, for the first bound


@dataclass(frozen=True)
class Best:
    """The best of each row: `values` (n, m) float32, falling, and their columns `index` (n, m) int32."""

    values: np.ndarray
    index: np.ndarray


def search(v: np.ndarray, bias: np.ndarray, m: int) -> Best:
    """The `m` largest of v_i . v_j + bias_j over j != i, for each row of `v` (n, d) float32 and `bias` (n,)."""
    n = len(v)
    best = Best(np.full((n, m), -np.inf, np.float32), np.full((n, m), -1, np.int32))
    parts = blocks(n, TILE)
    for at, rows in enumerate(parts):
        for columns in parts[at:]:
            scores = v[rows] @ v[columns].T  # (b, c)
            if columns is rows:
                np.fill_diagonal(scores, -np.inf)
            else:
                _keep(best, columns, rows, (scores + bias[rows, None]).T)
            scores += bias[columns]
            _keep(best, rows, columns, scores)
    return best


def _keep(best: Best, rows: slice, columns: slice, scores: np.ndarray) -> None:
    """Let the entries of `scores` (b, c) into the best of `rows` where they belong."""
    values, index = best.values[rows], best.index[rows]  # views
    bound = values[:, -1]
    if np.isneginf(bound).any():
        bound = np.maximum(bound, _first_bound(scores, values.shape[1]))
        hit_row, hit_column = _where(scores, bound, np.greater_equal)
    else:
        hit_row, hit_column = _where(scores, bound, np.greater)
    if not len(hit_row):
        return
    counts = np.bincount(hit_row, minlength=len(scores))
    place = np.arange(len(hit_row)) - (np.cumsum(counts) - counts)[hit_row]
    changed = np.flatnonzero(counts)
    line = np.cumsum(counts > 0) - 1  # row -> its line among the changed
    new_values = np.full((len(changed), int(counts.max())), -np.inf, np.float32)
    new_index = np.full(new_values.shape, -1, np.int32)
    new_values[line[hit_row], place] = scores[hit_row, hit_column]
    new_index[line[hit_row], place] = hit_column + columns.start
    all_values = np.hstack([values[changed], new_values])
    order = np.argsort(-all_values, axis=1)[:, : values.shape[1]]
    values[changed] = np.take_along_axis(all_values, order, axis=1)
    index[changed] = np.take_along_axis(np.hstack([index[changed], new_index]), order, axis=1)


def _where(scores: np.ndarray, bound: np.ndarray, compare: np.ufunc) -> tuple[np.ndarray, np.ndarray]:
    """Rows (rising) and columns of the entries above their row's bound."""
    if scores.flags.c_contiguous:
        return np.divmod(np.flatnonzero(compare(scores, bound[:, None])), scores.shape[1])
    column, row = np.divmod(np.flatnonzero(compare(scores.T, bound)), scores.shape[0])
    order = np.argsort(row, kind="stable")
    return row[order], column[order]


def _first_bound(scores: np.ndarray, m: int) -> np.ndarray:
    """A value (b,) that at least m entries of each row reach; -inf where the row has fewer than 2 m entries."""
    b, c = scores.shape
    groups = min(GROUPS * m, c)
    each = c // groups
    if groups < m or each < 1:
        return np.full(b, -np.inf, np.float32)
    tops = scores[:, : groups * each].reshape(b, each, groups).max(axis=1)  # (b, groups)
    return np.partition(tops, groups - m, axis=1)[:, groups - m]
