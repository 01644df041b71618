"""States for the benchmarks of similarities; their memory against the number of tokens, and two threads against one.

With a folder as its argument, a memory run: prints the peak memory that a comparison of the folder's states took.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from similarity_plain import KS

from hrsa.similarity import METRIC_FAMILIES, compare_layers, open_states
from hrsa.similarity.budget import Limits
from hrsa.similarity.cka import pair_sums
from hrsa.similarity.correlation import mean_correlation
from hrsa.similarity.knn import neighbours
from hrsa.similarity.procrustes import compare_rotation
from hrsa.similarity.states import States

MEMORY = (10_000, 50_000, 200_000)  # tokens
MEMORY_SHAPE = (3, 64)  # layers, dimensions of the memory runs
MEMORY_METRICS = ("correlation", "cka", "debiased_cka", *METRIC_FAMILIES["procrustes"])
MEMORY_MB = 64


def write_states(folder: Path, layers: int, n: int, d: int) -> tuple[list[Path], list[Path]]:
    """Two related models' states, one .npy of (n, d) float32 per layer."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((200, d), dtype=np.float32)
    state = centres[rng.integers(0, 200, n)] + rng.standard_normal(d, dtype=np.float32)
    huge = np.ones(d, np.float32)
    huge[rng.choice(d, 3, replace=False)] = 1000
    names = ([], [])
    for layer in range(layers):
        state = state + 0.5 * rng.standard_normal((n, d), dtype=np.float32)
        for model in (0, 1):
            x = (state + 0.5 * model * rng.standard_normal((n, d), dtype=np.float32)) * huge
            x[::50] *= 20
            names[model].append(folder / f"{model}-{layer:02d}.npy")
            np.save(names[model][-1], x)
    return names


def mapped(files: list[Path]) -> States:
    """States on disk, opened afresh."""
    return open_states([np.load(file, mmap_mode="r") for file in files], "states")


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> tuple[float, object]:
    """CPU seconds of this process (all threads) and the result."""
    start = clock()
    result = run()
    return clock() - start, result


def memory_run(folder: Path) -> None:
    """In a process of its own: peak memory, above what importing took, of a comparison of states on disk."""
    files = [np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))]
    before = peak_bytes()
    compare_layers(files[: len(files) // 2], files[len(files) // 2 :], MEMORY_METRICS, memory_mb=MEMORY_MB)
    print(peak_bytes() - before)


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory_table() -> pd.DataFrame:
    """Peak memory, against the number of tokens."""
    layers, d = MEMORY_SHAPE
    rows = []
    for tokens in MEMORY:
        with tempfile.TemporaryDirectory() as folder:
            write_states(Path(folder), layers, tokens, d)
            command = [sys.executable, __file__, folder]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        size = 2 * layers * tokens * d * 4
        rows.append({"tokens": tokens, "input MB": size / 1e6, "peak MB": peak / 1e6, "peak / input": peak / size})
    return pd.DataFrame(rows)


def two_threads(shape: tuple[int, int, int]) -> pd.DataFrame:
    """Wall seconds of the work on (layers, tokens, dimensions) by one and by two threads."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_states(Path(folder), *shape)
        x, y = map(mapped, files)
        work = {
            "CKA, all pairs": lambda limits: pair_sums(x, y, limits),
            "correlation, all pairs": lambda limits: mean_correlation(x, y, limits),
            "k-NN, both models": lambda limits: list(limits.map(
                lambda layer: neighbours(layer, KS, limits), [x.layers[0], y.layers[0]])),
            "Procrustes": lambda limits: list(limits.map(
                lambda pair: compare_rotation(*pair), list(zip(x.layers, y.layers, strict=True)))),
        }
        rows = []
        for metric, run_with in work.items():
            walls = [min(seconds(lambda r=run_with, t=t: r(Limits(threads=t)), time.perf_counter)[0] for _ in range(2))
                     for t in (1, 2)]
            rows.append({"metric": metric, "one thread s": walls[0], "two threads s": walls[1],
                         "ratio": walls[0] / walls[1]})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    memory_run(Path(sys.argv[1]))
