"""Directions of token states about their mean, read in blocks, as the search for neighbours wants them."""

from __future__ import annotations

import numpy as np

from hrsa.similarity.backend import Array, beside, host, joined, narrow, wide
from hrsa.similarity.budget import Limits
from hrsa.similarity.states import BLOCK, Layer, blocks

SHARE = 0.5  # of the memory, for rows held at once


class Directions:
    """Unit rows u_i of a layer (n, d) less their mean c: v_i = u_i - c, with the bias c . v_i, float32.

    `lengths` (n,) are |v_i|; `strip` is how many rows fit into memory at once. When all do, they are computed once.
    ValueError naming the place: a zero row.
    """

    def __init__(self, layer: Layer, limits: Limits):
        self.layer, self.n = layer, layer.shape[0]
        self.strip = limits.fitting(4 * layer.shape[1], SHARE / limits.threads, least=BLOCK)
        self.norms, self.lengths = np.empty(self.n), np.empty(self.n, np.float32)
        common = 0.0
        for rows in blocks(self.n):
            block = layer.raw(rows)
            norms = np.sqrt(host((wide(block) ** 2).sum(1)))
            if not norms.all():
                raise ValueError(f"expected rows with a direction, got a zero row at "
                                 f"{layer.name}[{rows.start + int(norms.argmin())}] of {layer.shape}: "
                                 "leave that token out")
            self.norms[rows] = norms
            common = common + (block / beside(norms, block)[:, None]).sum(0)
        self.common = host(common) / self.n  # (d,)
        self.held = None
        if self.strip >= self.n:
            parts = [self._block(rows) for rows in blocks(self.n)]
            self.held = tuple(joined([part[at] for part in parts]) for at in (0, 1))

    def block(self, rows: slice) -> tuple[Array, Array]:
        """v (b, d) and bias (b,) of some rows."""
        return (self.held[0][rows], self.held[1][rows]) if self.held else self._block(rows)

    def unit(self, rows: slice | np.ndarray) -> Array:
        """Unit rows (b, d), float64."""
        block = wide(self.layer.raw(rows))
        return block / beside(self.norms[rows], block)[:, None]

    def _block(self, rows: slice) -> tuple[Array, Array]:
        unit = self.unit(rows)
        spread = unit - beside(self.common, unit)
        self.lengths[rows] = np.sqrt(host((spread**2).sum(1)))
        bias = spread @ beside(self.common, spread)
        return narrow(spread), narrow(bias)
