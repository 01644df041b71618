"""What a comparison may use: bytes, threads, and a folder for partial sums.

Every stage is a sum over blocks, or rows of a table per layer. Blocks are shared out to threads, each with one thread
of the linear algebra library of its own, and added in their order: the result doesn't depend on the number of threads,
rounding apart (blocks share the memory).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS
from hrsa.study.partial import Work

MEMORY_MB = 512  # of states and sums that a comparison holds at once
LEAST_MB = 16
_AHEAD = 4  # blocks per thread between two savings
_MAP, _CANONICAL = 80, 112  # bytes per entry of d_x x d_y: map and decomposition of Procrustes; what SVCCA decomposes
_STRIP = 4 * 256 / 0.75  # bytes per dimension of all layers: a strip of CKA
_NEAR = 16  # bytes per token and neighbour
_STEPS = 48 * 2**20  # bytes that hold ranks for RSA
_DRAWN = 32  # bytes per token and resample


def least_mb(widths_x: Sequence[int], widths_y: Sequence[int], n: int, metrics: Sequence[str], k: int = 0,
             resamples: int = 0) -> tuple[float, str]:
    """MB that a comparison of layers of these widths on n tokens holds at once however small its blocks, and of what
    the most: maps between dimensions, a strip of all layers, neighbours, ranks. An estimate, from above."""
    area = max((a * b for a, b in zip(widths_x, widths_y, strict=False)), default=0)
    parts = {"a map": _MAP * area if set(metrics) & set(METRIC_FAMILIES["procrustes"]) else 0,
             "canonical correlations": _CANONICAL * area if "svcca" in metrics else 0,
             "a strip of all layers": _STRIP * (sum(widths_x) + sum(widths_y))
             if set(metrics) & set(METRIC_FAMILIES["cka"]) else 0,
             "neighbours": _NEAR * n * k if any(name in METRICS and METRICS[name].has_k for name in metrics) else 0,
             "ranks of pairs": _STEPS if "rsa" in metrics else 0}
    most = max(parts, key=parts.get)
    return (parts[most] + _DRAWN * n * resamples) / 2**20, f"{most}{' and its resamples' if resamples else ''}"


def enough_mb(memory_mb: float | None, needed: tuple[float, str], shape: str) -> float:
    """A limit that holds what `least_mb` says is `needed`; None: the usual one, or as much as that. ValueError, before
    anything is computed, for a smaller one."""
    least, what = needed
    if memory_mb is None:
        return max(MEMORY_MB, least)
    if least > max(memory_mb, LEAST_MB):
        raise ValueError(f"expected memory_mb of at least {math.ceil(least)} for {what} of {shape}, got {memory_mb}: "
                         "raise it (analysis.memory_mb of a profile), or leave those metrics out")
    return memory_mb


@lru_cache(maxsize=1)
def _libraries(loaded: int) -> ThreadpoolController:
    """The libraries of this process that have threads; looked for among all it has open, and again when it has loaded
    other modules."""
    return ThreadpoolController()


@dataclass(frozen=True)
class Limits:
    """`memory` bytes of states and sums held at once by all `threads` together; `work` keeps partial results."""

    memory: int = MEMORY_MB * 2**20
    threads: int = 1
    work: Work = field(default_factory=Work)

    @classmethod
    def of(cls, memory_mb: float, threads: int | None = None, work: Work | None = None) -> Limits:
        """Checked limits; `threads` None: as many as this process lets its linear algebra library use.

        ValueError: below 16 MB, or fewer than one thread.
        """
        if threads is None:
            pools = _libraries(len(sys.modules)).info()
            threads = max((pool["num_threads"] for pool in pools if pool["user_api"] == "blas"), default=1)
        if memory_mb < LEAST_MB:
            raise ValueError(f"expected memory_mb of at least {LEAST_MB}, got {memory_mb}: raise it")
        if threads < 1:
            raise ValueError(f"expected at least 1 thread, got threads = {threads}: raise it")
        return cls(int(memory_mb * 2**20), threads, work or Work())

    def fitting(self, bytes_each: float, share: float, least: int = 1) -> int:
        """How many things of `bytes_each` fit into `share` of the memory, at least `least`."""
        return max(least, int(self.memory * share / bytes_each))

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """`function` of each item, in order, on all threads."""
        if self.threads == 1 or len(items) < 2:
            yield from map(function, items)
            return
        with _libraries(len(sys.modules)).limit(limits=1), ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(function, items)

    def add_up(self, name: str, items: Sequence[Any], total: dict[str, np.ndarray],
               part: Callable[[Any, Any], dict[str, Any]],
               prepare: Callable[[], Any] = lambda: None) -> dict[str, np.ndarray]:
        """`total` plus `part(item, prepared)` of all items, from where an earlier run stopped.

        A part holds arrays, or (place, array) for what goes into one place of the total only. `prepare` is called
        once, and only when something is left to do.
        """
        done = self.work.load(name, total)
        if done == len(items):
            return total
        prepared, step = prepare(), self.threads * _AHEAD if self.threads > 1 else 1
        with self._threads() as share_out:
            for start in range(done, len(items), step):
                chunk = items[start : start + step]
                for found in share_out(lambda item: part(item, prepared), chunk):
                    for key, value in found.items():
                        at, value = value if isinstance(value, tuple) else (..., value)
                        total[key][at] += value
                stop = start + len(chunk)
                self.work.save(name, stop, total, last=stop == len(items))
        return total

    @contextmanager
    def _threads(self) -> Iterator[Callable]:
        if self.threads == 1:
            yield map
            return
        with _libraries(len(sys.modules)).limit(limits=1), ThreadPoolExecutor(self.threads) as pool:
            yield pool.map
