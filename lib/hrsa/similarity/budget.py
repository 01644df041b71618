"""What a comparison may use: bytes, threads, and a folder for partial sums.

Every stage is a sum over blocks, or rows of a table per layer. Blocks are shared out to threads, each with one thread
of the linear algebra library of its own, and added in their order: the result doesn't depend on the number of threads,
rounding apart (blocks share the memory).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from hrsa.study.partial import Work

MEMORY_MB = 512  # of states and sums that a comparison holds at once
LEAST_MB = 16
_AHEAD = 4  # blocks per thread between two savings


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
            threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
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
        with threadpool_limits(1), ThreadPoolExecutor(self.threads) as pool:
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
        with threadpool_limits(1), ThreadPoolExecutor(self.threads) as pool:
            yield pool.map
