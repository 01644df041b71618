"""Token states of all layers of one model, read in blocks of tokens so that only a few blocks are in memory."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hrsa.similarity.arrays import (
    Array,
    as_floats,
    asarray_like,
    astype_like,
    check_finite,
    sum_float64,
    to_float32,
    to_float64,
    to_numpy,
    vecdot,
)

BLOCK_TOKENS = 1024  # tokens read at a time
PIECE = 256  # tokens, or token pairs, summed in float32 before float64 takes over; keeps errors near 1e-7


class Layer:
    """One layer's states (n, d), with the column means that centre them.

    `mean` (d,) float64, `constant` (d,) bool and `fingerprint`, which tells these states from others, come from one
    pass over the tokens, which also refuses NaN and Inf. Blocks of a tensor on an accelerator stay there.
    """

    def __init__(self, source: Any, name: str):
        self.source, self.name = source, name
        self.shape = tuple(source.shape)
        if len(self.shape) != 2 or 0 in self.shape:
            raise ValueError(f"expected {name} of shape (n tokens, d dimensions), got {self.shape}")
        first = self.raw(slice(0, 1))
        total, candidates = np.zeros(self.shape[1]), np.arange(self.shape[1])
        for rows in blocks(self.shape[0]):
            block = self.raw(rows)
            check_finite(block, name, rows.start)
            total += sum_float64(block, axis=0)
            if len(candidates):
                candidates = candidates[to_numpy((block[:, candidates] == first[:, candidates]).all(0))]
        self.mean = total / self.shape[0]
        self.constant = np.isin(np.arange(self.shape[1]), candidates)
        content = total.tobytes() + to_numpy(first).tobytes() + repr(self.shape).encode()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def raw(self, rows: slice | np.ndarray) -> Array:
        """States (b, d) of some tokens as they are, float32 or float64."""
        release(self.source)
        return as_floats(self.source[rows])

    def centred(self, rows: slice | np.ndarray) -> Array:
        """States (b, d) of some tokens less the mean of all, float32; constant dimensions are exactly 0."""
        block = self.raw(rows)
        block = to_float32(block - astype_like(asarray_like(self.mean, block), block))
        if self.constant.any():
            block[:, np.flatnonzero(self.constant)] = 0.0
        return block

    @cached_property
    def squares(self) -> np.ndarray:
        """Squared norms (n,) of the centred states, float64."""
        return np.concatenate([square_rows(self.centred(rows)) for rows in blocks(self.shape[0])])

    def sample(self, rows: np.ndarray) -> Layer:
        """The layer of some tokens (m,) only."""
        return Layer(Sample(self.source, rows), self.name)


@dataclass(frozen=True)
class Sample:
    """Some rows (m,) of a source (n, d), in any order; they are read when asked for."""

    source: Any
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(m, d)."""
        return len(self.rows), self.source.shape[1]

    def __getitem__(self, at: slice | np.ndarray) -> Any:
        release(self.source)
        return self.source[self.rows[at]]


def square_rows(block: Array) -> np.ndarray:
    """Squared norms (b,) of the rows of a block (b, d), summed in float64, on the host."""
    return to_numpy(vecdot(to_float64(block), to_float64(block)))


def quick_square_rows(block: Array) -> np.ndarray:
    """Squared norms (b,) of rows to about 1e-7 of themselves, several times faster than `square_rows`.

    For sums from which nothing large is taken.
    """
    pieces = [block[:, at : at + PIECE] for at in range(0, block.shape[1], PIECE)]
    return sum(to_numpy(to_float64(vecdot(piece, piece))) for piece in pieces)


def release(source: Any) -> None:
    """Give back the pages that earlier blocks of a read-only memory map brought in: a long pass stays small."""
    if isinstance(source, np.memmap) and source.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        source._mmap.madvise(mmap.MADV_DONTNEED)


def blocks(n: int, size: int = BLOCK_TOKENS) -> list[slice]:
    """Slices of at most `size` tokens that cover 0..n."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@dataclass(frozen=True)
class States:
    """All layers of one model."""

    layers: list[Layer]

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.layers[0].shape[0]

    @property
    def widths(self) -> list[int]:
        """Dimensions of each layer."""
        return [layer.shape[1] for layer in self.layers]


def open_states(states: Any, name: str) -> States:
    """Token states of one model as `States`, from an (l, n, d) array or tensor, or a sequence of l layers (n, d).

    Layers may be arrays, memory maps, tensors or `Sample`s, and their widths may differ. ValueError: unequal n between
    layers, wrong shapes, NaN or Inf (naming the place).
    """
    if isinstance(states, States):
        return states
    if hasattr(states, "shape"):
        if len(states.shape) != 3:
            raise ValueError(f"expected {name} of shape (l layers, n tokens, d dimensions), got {tuple(states.shape)}")
        states = [states[at] for at in range(states.shape[0])]
    sources = [source if hasattr(source, "shape") else as_floats(source) for source in states]
    if not sources:
        raise ValueError(f"expected at least one layer in {name}, got none")
    if len({tuple(source.shape[:1]) for source in sources}) > 1:
        raise ValueError(f"expected the same n tokens in all layers of {name}, "
                         f"got {[tuple(source.shape) for source in sources]}")
    return States([Layer(source, f"{name}[{at}]") for at, source in enumerate(sources)])
