"""The best-scoring columns of every row of V V' + bias, without holding the matrix or sorting its rows.

The products of a tile of rows I and columns J serve rows I and rows J at once, since V V' is symmetric. Each row keeps
its best scores so far; only entries above the worst of them are looked at again, which soon are few. A first bound
comes from maxima of groups of columns: the m-th largest of these is at most the m-th largest entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hrsa.similarity.arrays import Array, asarray_like, concatenate, is_tensor, to_float32, to_float64, to_numpy
from hrsa.similarity.budget import Limits
from hrsa.similarity.states import BLOCK_TOKENS, Layer, blocks

_SHARE = 0.5  # of the memory, for rows held at once
_TILE = 1024  # rows and columns; a tile stays in cache
_GROUPS = 2  # times as many groups of columns as scores wanted, for the first bound


@dataclass(frozen=True)
class Best:
    """The best of each row: `values` (n, m) float32, falling when the search is over, and `index` (n, m) int32."""

    values: np.ndarray
    index: np.ndarray


class Directions:
    """Unit rows u_i of a layer (n, d) less their mean c: v_i = u_i - c, with the bias c . v_i, float32.

    `lengths` (n,) are |v_i|; `strip` is how many rows fit into memory at once. When all do, they are computed once.
    ValueError naming the place: a zero row.
    """

    def __init__(self, layer: Layer, limits: Limits):
        self.layer, self.n = layer, layer.shape[0]
        self.strip = limits.fitting(4 * layer.shape[1], _SHARE / limits.threads, least=BLOCK_TOKENS)
        self.norms, self.lengths = np.empty(self.n), np.empty(self.n, np.float32)
        common = 0.0
        for rows in blocks(self.n):
            block = layer.raw(rows)
            norms = np.sqrt(to_numpy((to_float64(block) ** 2).sum(1)))
            if not norms.all():
                raise ValueError(f"expected rows with a direction, got a zero row at "
                                 f"{layer.name}[{rows.start + int(norms.argmin())}] of {layer.shape}: "
                                 "leave that token out")
            self.norms[rows] = norms
            common = common + (block / asarray_like(norms, block)[:, None]).sum(0)
        self.common = to_numpy(common) / self.n  # (d,)
        self.held = None
        if self.strip >= self.n:
            parts = [self._block(rows) for rows in blocks(self.n)]
            self.held = tuple(concatenate([part[at] for part in parts]) for at in (0, 1))

    def block(self, rows: slice) -> tuple[Array, Array]:
        """v (b, d) and bias (b,) of some rows."""
        return (self.held[0][rows], self.held[1][rows]) if self.held else self._block(rows)

    def unit(self, rows: slice | np.ndarray) -> Array:
        """Unit rows (b, d), float64."""
        block = to_float64(self.layer.raw(rows))
        return block / asarray_like(self.norms[rows], block)[:, None]

    def _block(self, rows: slice) -> tuple[Array, Array]:
        unit = self.unit(rows)
        spread = unit - asarray_like(self.common, unit)
        self.lengths[rows] = np.sqrt(to_numpy((spread**2).sum(1)))
        bias = spread @ asarray_like(self.common, spread)
        return to_float32(spread), to_float32(bias)


def search_best(rows: Directions, m: int, strip: int | None = None) -> Best:
    """The `m` largest of v_i . v_j + bias_j over j != i, for each row i; `strip` rows are held at once (None: all)."""
    n = rows.n
    best = Best(np.full((n, m), -np.inf, np.float32), np.full((n, m), -1, np.int32))
    if is_tensor(rows.block(slice(0, 1))[0]):
        return _on_device(rows, best)
    for held in blocks(n, max(_TILE, (strip or n) // _TILE * _TILE)):
        v, bias = rows.block(held)
        inside = [slice(part.start + held.start, part.stop + held.start) for part in blocks(len(v), _TILE)]
        for columns in [*inside, *(slice(at, min(at + _TILE, n)) for at in range(held.stop, n, _TILE))]:
            if columns in inside:
                here = slice(columns.start - held.start, columns.stop - held.start)
                w, other = v[here], bias[here]
            else:
                w, other = rows.block(columns)
            for part in inside:
                if part.start <= columns.start:
                    mine = slice(part.start - held.start, part.stop - held.start)
                    _meet(best, part, columns, v[mine] @ w.T, bias[mine], other)
    order = np.argsort(-best.values, axis=1)
    return Best(*(np.take_along_axis(part, order, axis=1) for part in (best.values, best.index)))


def _meet(best: Best, rows: slice, columns: slice, scores: np.ndarray, bias: np.ndarray, other: np.ndarray) -> None:
    """Let the products (b, c) of some rows with others into the best of both."""
    if columns == rows:
        np.fill_diagonal(scores, -np.inf)
    else:
        _keep(best, columns, rows, (scores + bias[:, None]).T)
    scores += other
    _keep(best, rows, columns, scores)


def _on_device(rows: Directions, best: Best) -> Best:
    """The same by the device's own selection: a block of rows meets all others in turn."""
    import torch

    m = best.values.shape[1]
    for part in blocks(rows.n, 2 * _TILE):
        v, _ = rows.block(part)
        values = v.new_full((len(v), m), -torch.inf)
        index = torch.full((len(v), m), -1, dtype=torch.int32, device=v.device)
        for columns in blocks(rows.n, 8 * _TILE):
            w, bias = rows.block(columns)
            scores = v @ w.T + bias
            number = torch.arange(columns.start, columns.stop, dtype=torch.int32, device=v.device)
            mine = torch.arange(part.start, part.stop, dtype=torch.int32, device=v.device)
            scores[mine[:, None] == number] = -torch.inf
            scores = torch.cat([values, scores], dim=1)
            values, order = scores.topk(m, dim=1)  # falling
            index = torch.cat([index, number.expand(len(v), -1)], dim=1).gather(1, order)
        best.values[part], best.index[part] = to_numpy(values), to_numpy(index)
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
    last = values.shape[1] - 1
    order = np.argpartition(-all_values, last, axis=1)[:, : last + 1]  # the worst kept is the last
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
    groups = min(_GROUPS * m, c)
    each = c // groups
    if groups < m or each < 1:
        return np.full(b, -np.inf, np.float32)
    tops = scores[:, : groups * each].reshape(b, each, groups).max(axis=1)  # (b, groups)
    return np.partition(tops, groups - m, axis=1)[:, groups - m]
