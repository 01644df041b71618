"""Similarity metrics against the straightforward way: one layer pair at a time, everything recomputed, all in memory.

    python benchmarks/similarity.py A [--layers 4] [--threads 1] [--repeats 3] [--write benchmarks/similarity.md]

Sizes: A 13 layers x 4,000 tokens x 576; B 25 x 8,000 x 896; C 29 x 20,000 x 1,536; --layers takes fewer of them. States
are synthetic: a few dimensions a thousand times larger than the rest, massive tokens, a common mean, clusters. Ours and
theirs run in turn; the table holds the least CPU seconds of each and the median of the per-turn ratios. Where theirs
runs on some layer pairs only, its seconds are scaled to all and the column `measured` says on how many.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SIZES = {"A": (13, 4_000, 576), "B": (25, 8_000, 896), "C": (29, 20_000, 1_536)}
KS = (5, 10, 50)
LIMITS = """\
What limits each: CKA, correlation of few layers and Procrustes are bound by products and, for the rotation's
map, by float64 and its SVD, where the straightforward way stays in float32; correlation of many layers by
reading and transposing; k-NN by products; probes by the number of L-BFGS steps. "Straightforward" is float32
unless it says otherwise; its error column is against float64 (for probes: how far the library's default
tolerance stops above the optimum). Memory beyond blocks is a few vectors of n numbers."""
PAIRS = 6  # layer pairs on which the straightforward way is timed
MEMORY = (10_000, 50_000, 200_000)  # tokens
MEMORY_SHAPE = (3, 64)  # layers, dimensions of the memory runs
MEMORY_METRICS = ("correlation", "cka", "debiased_cka", "procrustes")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=[*SIZES, "memory"])
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="states of a memory run, started by this script itself")
    parser.add_argument("--write", type=Path, help="Markdown file for the printed tables")
    return parser.parse_args()


if __name__ == "__main__":  # thread counts are read when the numerical libraries load
    OPTIONS = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(OPTIONS.threads)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from hrsa.similarity import (  # noqa: E402
    compare_layers,
    fit_probes,
    linear_cka,
    minibatch_cka,
    open_states,
    pairs,
    procrustes,
)
from hrsa.similarity.knn import neighbours, overlap  # noqa: E402
from hrsa.similarity.procrustes import compare_rotation  # noqa: E402


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


# The straightforward way, written here from the definitions: float32, full arrays, one pair at a time.


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def plain_correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    return (x * y).mean(0).mean()


def plain_knn(x: np.ndarray, y: np.ndarray) -> list[float]:
    near = []
    for part in (x, y):
        unit = part / np.linalg.norm(part, axis=1, keepdims=True)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -np.inf)
        first = np.argpartition(-cosine, max(KS), axis=1)[:, : max(KS)]
        order = np.argsort(-np.take_along_axis(cosine, first, axis=1), axis=1)
        near.append(np.take_along_axis(first, order, axis=1))
    values = []
    for k in KS:
        shared = (near[0][:, :k, None] == near[1][:, None, :k]).any(axis=2).sum(axis=1)  # compares (n, k, k)
        values.append(float((shared / (2 * k - shared)).mean()))
    return values


def plain_procrustes(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    u, _, v = np.linalg.svd(x.T @ y)
    return float(np.linalg.norm(x @ (u @ v) - y) ** 2 / np.linalg.norm(y) ** 2)


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of this process (all threads) and the result."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def in_turn(ours: Callable, theirs: Callable, repeats: int, scale: float) -> tuple[float, float, float]:
    """Least seconds of ours and of theirs, and the median ratio over turns; `scale` completes a sample of theirs."""
    times = [(seconds(ours)[0], seconds(theirs)[0] * scale) for _ in range(repeats)]
    mine, other = zip(*times, strict=True)
    return min(mine), min(other), float(np.median([b / a for a, b in times]))


def gemm_rate(d: int, tile: int = pairs.TILE) -> float:
    """GFLOP/s of float32 products (tile, d) (d, tile), the median of 30."""
    a, b = np.random.default_rng(0).standard_normal((2, tile, d), dtype=np.float32)
    out = np.empty((tile, tile), np.float32)
    times = sorted(seconds(lambda: [np.matmul(a, b.T, out=out) for _ in range(10)])[0] for _ in range(30))
    return 2 * tile * tile * d * 10 / times[15] / 1e9


def run(options: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    layers, n, d = SIZES[options.size]
    layers = min(options.layers or layers, layers)
    with tempfile.TemporaryDirectory() as folder:
        paths_x, paths_y = write_states(Path(folder), layers, n, d)
        x, y = open_states(paths_x, "x"), open_states(paths_y, "y")
        arrays = [[np.load(path) for path in names] for names in (paths_x, paths_y)]
        sample = [(i, j) for i in range(layers) for j in range(layers)][:: max(1, layers * layers // PAIRS)][:PAIRS]
        rows, notes = measure(options, x, y, arrays, sample, n)
    head = f"Size {options.size}: {layers} layers x {n:,} tokens x {d}, {options.threads} thread(s), "
    return pd.DataFrame(rows), [head + f"input {2 * layers * n * d * 4 / 1e9:.2f} GB", *notes]


def measure(options, x, y, arrays, sample, n):
    a, b = arrays
    layers, d = len(a), a[0].shape[1]
    every, matched = layers * layers, [(i, i) for i in range(layers)][:3]
    rows = []

    def add(name, ours, theirs, on, of, error):
        mine, other, ratio = in_turn(ours, lambda: [theirs(i, j) for i, j in on], options.repeats, of / len(on))
        rows.append({"metric": name, "ours s": mine, "straightforward s": other, "ratio": ratio,
                     "measured": f"{len(on)} of {of}", **error()})

    def pair_errors(values, plain, exact):
        truth = {at: exact(a[at[0]], b[at[1]]) for at in sample[:3]}
        return {"error ours": max(abs(values[at] - v) for at, v in truth.items()),
                "error straightforward": max(abs(plain(a[i], b[j]) - v) for (i, j), v in truth.items())}

    fresh = lambda: (open_states(x_files(x), "x"), open_states(x_files(y), "y"))  # noqa: E731
    rate = gemm_rate(d)
    add("CKA and debiased CKA, all pairs", lambda: [(sums := pairs.pair_sums(*fresh())).cka(), sums.cka(debiased=True)],
        lambda i, j: plain_cka(a[i], b[j]), sample, every,
        lambda: pair_errors(pairs.pair_sums(x, y).cka(), plain_cka, linear_cka))
    add("the same, theirs in float64", lambda: pairs.pair_sums(*fresh()).cka(),
        lambda i, j: plain_cka(a[i].astype(float), b[j].astype(float)), sample[:3], every, dict)
    gram_flops = n * n * (2 * layers * d + 4 * layers * layers)
    notes = [f"Tile GEMM {rate:.0f} GFLOP/s; CKA of all pairs {gram_flops / rows[0]['ours s'] / 1e9:.0f} GFLOP/s "
             f"({100 * gram_flops / rows[0]['ours s'] / 1e9 / rate:.0f}%), reading, centring and checks included"]
    add("minibatch CKA, all pairs", lambda: minibatch_cka(*fresh(), np.random.default_rng(1)),
        lambda i, j: plain_cka(a[i], b[j]), sample, every,
        lambda: {"error ours": np.abs(minibatch_cka(x, y, np.random.default_rng(1))
                                      - pairs.pair_sums(x, y).cka(debiased=True)).max()})
    add("correlation, all pairs", lambda: pairs.correlation_pairs(*fresh()),
        lambda i, j: plain_correlation(a[i], b[j]), sample, every,
        lambda: pair_errors(pairs.correlation_pairs(x, y), plain_correlation,
                            lambda p, q: plain_correlation(p.astype(float), q.astype(float))))
    near = [neighbours(a[0], KS), neighbours(b[0], KS)]
    found = overlap(*near).mean(axis=0)
    add("k-NN overlap, a layer pair", lambda: overlap(neighbours(a[0], KS), neighbours(b[0], KS)),
        lambda i, j: plain_knn(a[i], b[j]), [(0, 0)], 1,
        lambda: {"error straightforward": np.abs(np.array(plain_knn(a[0], b[0])) - found).max()})
    notes.append(f"k-NN: float64 settled {100 * near[0].reranked:.2f}% of rows; tied share {near[0].tied_share}")
    exact = {i: procrustes(a[i], b[i]).residual_ratio for i, _ in matched[:1]}
    for name, with_map in (("Procrustes with map", True), ("Procrustes, residual only", False)):
        add(f"{name}, matched layers",
            lambda m=with_map: [compare_rotation(p, q, with_map=m) for p, q in zip(*(s.layers for s in fresh()),
                                                                                   strict=True)],
            lambda i, j: plain_procrustes(a[i], b[j]), matched, layers,
            lambda m=with_map: {
                "error ours": abs(compare_rotation(x.layers[0], y.layers[0], with_map=m)["residual_ratio"] - exact[0]),
                "error straightforward": abs(plain_procrustes(a[0], b[0]) - exact[0])})
    rows.append(probe_row(options, a))
    return rows, notes


def x_files(states):
    return [layer.source for layer in states.layers]


def probe_row(options, a):
    """Ten classes, 1,000 texts; theirs: scikit-learn's solver run to the same gradient, one layer at a time."""
    rng = np.random.default_rng(2)
    texts, some = 1000, a[:4]
    labels = (some[0][:texts] @ rng.standard_normal((some[0].shape[1], 10)) / np.abs(some[0]).max()).argmax(axis=1)
    features = [part[:texts].astype(float) for part in some]
    scaled = [(part - part.mean(0)) / part.std(0) for part in features]

    def theirs(tolerance):
        return [LogisticRegression(tol=tolerance, max_iter=20_000).fit(z, labels) for z in scaled]

    mine, other, ratio = in_turn(lambda: fit_probes(features, labels, "classification"), lambda: theirs(1e-6),
                                 options.repeats, 1)
    probe, early = fit_probes(features[:1], labels, "classification")[0], theirs(1e-4)[0]
    logp = early.predict_log_proba(scaled[0])[np.arange(texts), np.searchsorted(early.classes_, labels)]
    gap = -logp.sum() + np.square(early.coef_).sum() / 2 - probe.objective
    return {"metric": "probes, 4 layers, to the optimum", "ours s": mine, "straightforward s": other, "ratio": ratio,
            "measured": "4 of 4", "error straightforward": gap}


def memory_run(folder: Path) -> None:
    """In a process of its own: peak memory, above what importing took, of a comparison of states on disk."""
    files = sorted(folder.glob("*.npy"))
    before = peak_bytes()
    compare_layers(files[: len(files) // 2], files[len(files) // 2 :], MEMORY_METRICS)
    print(peak_bytes() - before)


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory_table() -> pd.DataFrame:
    layers, d = MEMORY_SHAPE
    rng = np.random.default_rng(0)
    rows = []
    for tokens in MEMORY:
        with tempfile.TemporaryDirectory() as folder:
            for at in range(2 * layers):
                np.save(Path(folder) / f"{at}.npy", rng.standard_normal((tokens, d), dtype=np.float32))
            command = [sys.executable, __file__, "memory", "--folder", folder]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append({"tokens": tokens, "input MB": 2 * layers * tokens * d * 4 / 1e6, "peak MB": peak / 1e6})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    def cell(value):
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.2g}" if abs(value) < 0.01 else f"{value:,.2f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def main(options: argparse.Namespace) -> None:
    if options.folder:
        return memory_run(options.folder)
    parts = []
    if options.size != "memory":
        table, notes = run(options)
        parts = ["\n\n".join(notes), markdown(table)]
    parts += [f"Peak memory of {', '.join(MEMORY_METRICS)} from files, {MEMORY_SHAPE[0]} layers of {MEMORY_SHAPE[1]}:",
              markdown(memory_table())]
    text = "\n\n".join([*parts, LIMITS]) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main(OPTIONS)
