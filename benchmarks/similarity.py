"""Similarity metrics against the straightforward way: one layer pair at a time, everything recomputed, all in memory.

    python benchmarks/similarity.py A B C memory cores [--threads 1] [--repeats 3] [--write benchmarks/similarity.md]

Sizes: A 13 layers x 4,000 tokens x 576; B 25 x 8,000 x 896; C 29 x 20,000 x 1,536. States are synthetic: a few
dimensions a thousand times larger than the rest, massive tokens, a common mean, clusters. Ours and theirs run in turn;
the table holds the least CPU seconds of each and the median of the per-turn ratios. Where a side runs on a part only,
its seconds are scaled to all, and the column `theirs on` says how much was run. At size C, CKA of all 29 layers is run
on 4,096 tokens and scaled by the square of tokens, as its cost in Gram space is, and the rest on two layers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

SIZES = {"A": (13, 4_000, 576), "B": (25, 8_000, 896), "C": (29, 20_000, 1_536)}
SMALL = {"A": (4, 600, 64), "B": (5, 800, 64), "C": (6, 1_000, 96)}  # with --small: does it run?
CKA_TOKENS = 4_096  # at size C
FEW = 2  # layers of the other metrics at size C
LIMITS = """\
What limits each: CKA is bound by float32 products, n^2 (sum of widths + l^2) of them, where the straightforward way
has 3 l_x l_y n d^2; correlation by reading and transposing; k-NN by products and the scan of their results; Procrustes
by float64 products and the SVD, where float32 gets the map wrong. The straightforward way is float32 unless it says
otherwise. Errors are against float64. One forward pass per model serves all metrics of a run, probes included (a test
counts them); recorded states are read from disk by all of them. Everything was timed on a CPU: on an accelerator the
same code runs on tensors that stay there, untimed."""
PROBES = """\
## Probes: why scikit-learn fits them

Softmax regression with an L2 penalty of 1 on standardised features, synthetic, one thread, CPU seconds, the least of
three. Our own Newton solver (conjugate gradients on principal axes; commit a15dd8e, since removed) beside scikit-learn
1.9.1's newton-cg and lbfgs, both at a tolerance of 1e-6. Ratios are theirs to ours, `memory` that of the peaks of what
was allocated, `gap` their objective less ours. All three predict the same class for every text. Newton-cg takes 0.8 to
1.7 times the seconds, fewest where features are wide, and a tenth of the memory: it fits the probes.

| texts | d | classes | ours s | newton-cg s | ratio | memory | gap | lbfgs s | ratio | gap |
|---|---|---|---|---|---|---|---|---|---|---|
| 1,500 | 192 | 7 | 0.08 | 0.09 | 1.17 | 0.09 | 3.1e-07 | 0.08 | 1.04 | 1.2e-05 |
| 1,500 | 192 | 20 | 0.08 | 0.12 | 1.47 | 0.22 | 4.1e-06 | 0.14 | 1.64 | 1.3e-05 |
| 1,500 | 576 | 7 | 0.17 | 0.14 | 0.84 | 0.04 | 7.7e-10 | 0.07 | 0.41 | 2.3e-05 |
| 1,500 | 576 | 20 | 0.19 | 0.22 | 1.15 | 0.11 | 1.3e-08 | 0.14 | 0.73 | 4.9e-05 |
| 3,000 | 192 | 7 | 0.16 | 0.23 | 1.44 | 0.08 | -3.1e-08 | 0.17 | 1.05 | 5.3e-05 |
| 3,000 | 192 | 20 | 0.17 | 0.28 | 1.67 | 0.20 | 2.2e-07 | 0.25 | 1.49 | 4.0e-05 |
| 3,000 | 576 | 7 | 0.33 | 0.27 | 0.81 | 0.03 | 6.3e-07 | 0.15 | 0.46 | 5.0e-05 |
| 3,000 | 576 | 20 | 0.35 | 0.32 | 0.93 | 0.09 | 1.0e-04 | 0.21 | 0.60 | 3.8e-04 |"""
PAIRS = 6  # layer pairs on which the straightforward way is timed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", choices=[*SIZES, "memory", "cores"], nargs="+")
    parser.add_argument("--small", action="store_true", help="toy sizes, to see that everything runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="turns at size A; one at B and C")
    parser.add_argument("--write", type=Path, help="Markdown file for the printed tables")
    return parser.parse_args()


if __name__ == "__main__":  # thread counts are read when the numerical libraries load
    OPTIONS = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(OPTIONS.threads)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import similarity_plain as plain  # noqa: E402
from similarity_limits import (  # noqa: E402
    MEMORY_MB,
    MEMORY_METRICS,
    MEMORY_SHAPE,
    mapped,
    memory_table,
    seconds,
    two_threads,
    write_states,
)

from hrsa.similarity.cka import pair_sums  # noqa: E402
from hrsa.similarity.correlation import mean_correlation  # noqa: E402
from hrsa.similarity.knn import neighbours, overlap  # noqa: E402
from hrsa.similarity.procrustes import compare_rotation  # noqa: E402
from hrsa.similarity.states import Layer  # noqa: E402


def gemm_rate(d: int, tile: int = 512) -> float:
    """GFLOP/s of float32 products (tile, d) (d, tile), the median of 20."""
    a, b = np.random.default_rng(0).standard_normal((2, tile, d), dtype=np.float32)
    out = np.empty((tile, tile), np.float32)
    times = sorted(seconds(lambda: [np.matmul(a, b.T, out=out) for _ in range(10)])[0] for _ in range(20))
    return 2 * tile * tile * d * 10 / times[10] / 1e9


class Table:
    """Rows of one size: ours and theirs in turn."""

    def __init__(self, repeats: int):
        self.repeats, self.rows = repeats, []

    def add(self, metric: str, ours: Callable, theirs: Callable, on: int, of: int, scale: float = 1.0,
            **errors) -> float:
        """Time `ours` (times `scale`) against `theirs`, which does `on` of `of` parts; our least seconds."""
        times = [(seconds(ours)[0] * scale, seconds(theirs)[0] * of / on) for _ in range(self.repeats)]
        mine, other = (min(part) for part in zip(*times, strict=True))
        ratio = float(np.median([b / a for a, b in times]))
        self.rows.append({"metric": metric, "ours s": mine, "theirs s": other, "ratio": ratio,
                          "theirs on": f"{on} of {of}", **errors})
        return mine


def run(options: argparse.Namespace, size: str) -> tuple[list[str], pd.DataFrame]:
    """Head lines and table of one size."""
    layers, n, d = (SMALL if options.small else SIZES)[size]
    tokens = min(n, CKA_TOKENS) if size == "C" else n
    table = Table(options.repeats if size == "A" else 1)
    few = FEW if size == "C" else layers
    with tempfile.TemporaryDirectory() as folder:
        head = cka_rows(table, write_states(Path(folder), layers, tokens, d), tokens, (n / tokens) ** 2, n, size)
        if tokens < n:
            for file in Path(folder).glob("*.npy"):
                file.unlink()
        files = write_states(Path(folder), few, n, d) if tokens < n else tuple(
            sorted(Path(folder).glob(f"{model}-*.npy")) for model in (0, 1))
        head += other_rows(table, files, layers)
    first = (f"## Size {size}: {layers} layers x {n:,} tokens x {d}\n\n{options.threads} thread(s), input "
             f"{2 * layers * n * d * 4 / 1e9:.2f} GB. {_load()}")
    return [first, *head], pd.DataFrame(table.rows)


def _load() -> str:
    return f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."


def cka_rows(table: Table, files, tokens: int, scale: float, n: int, size: str) -> list[str]:
    """CKA of all layer pairs; `tokens` of n are run, times `scale`."""
    layers, d = len(files[0]), np.load(files[0][0], mmap_mode="r").shape[1]
    sample = [(i, j) for i in range(layers) for j in range(layers)][:: max(1, layers * layers // PAIRS)][:PAIRS]
    some = sample[:3]
    a, b = ({i: np.load(files[side][i]) for i in {pair[side] for pair in sample}} for side in (0, 1))
    every, whole = layers * layers, round(layers * layers * n / tokens)  # theirs is linear in tokens in feature space

    def ours():
        sums = pair_sums(mapped(files[0]), mapped(files[1]))
        return sums.cka(), sums.cka(debiased=True)

    biased, debiased = ours()
    truth = {(i, j): plain.cka_of_grams(a[i].astype(float), b[j].astype(float)) for i, j in some}
    errors = {"error ours": max(max(abs(biased[p] - t[0]), abs(debiased[p] - t[1])) for p, t in truth.items()),
              "error theirs": max(abs(plain.cka_of_features(a[i], b[j]) - truth[i, j][0]) for i, j in some)}
    mine = table.add("CKA, both kinds, all pairs; theirs from features, biased only", ours,
                     lambda: [plain.cka_of_features(a[i], b[j]) for i, j in sample], len(sample), whole, scale,
                     **errors)
    table.add("the same, theirs in float64", lambda: None,
              lambda: [plain.cka_of_features(a[i].astype(float), b[j].astype(float)) for i, j in some], 3, whole)
    once = [{i: plain.centred_with_norm(side[i]) for i in side} for side in (a, b)]
    table.add("the same, theirs as published: one product and a garbage collection a pair", lambda: None,
              lambda: [plain.cka_as_published(once[0][i], once[1][j]) for i, j in sample], len(sample), whole)
    if tokens == n:
        table.add("the same, theirs both kinds, from Gram matrices", lambda: None,
                  lambda: [plain.cka_of_grams(a[i], b[j]) for i, j in some[:2]], 2, every)
    if size == "A":  # the Gram matrices of all layers at once no longer fit at B
        full = [[np.load(file) for file in side] for side in files]
        for name, peer in plain.peers().items():
            peer(*([part[:50] for part in side[:1]] for side in full), [(0, 0)])  # loads what it needs
            at_once = name.startswith("pytorch-cka")
            table.add(f"the same, theirs {name} (debiased)", lambda: None,
                      lambda peer=peer: peer(*full, some[:2]), 1 if at_once else 2, 1 if at_once else every)
    for row in table.rows[1:]:
        row |= {"ours s": mine, "ratio": row["theirs s"] / mine}
    gram = n * n * (2 * layers * d + 4 * layers * layers)
    return [f"Tile GEMM {(rate := gemm_rate(d)):.0f} GFLOP/s; CKA of all pairs {gram / mine / 1e9:.0f} GFLOP/s "
            f"({100 * gram / mine / 1e9 / rate:.0f}%), reading, centring and checks included."]


def other_rows(table: Table, files, layers: int) -> list[str]:
    """Correlation, neighbours and Procrustes."""
    few = len(files[0])
    matched = [(i, i) for i in range(few)][:3]
    sample = [(i, j) for i in range(few) for j in range(few)][:: max(1, few * few // PAIRS)][:PAIRS]
    a, b = ({i: np.load(side[i]) for i in {p[at] for p in [*sample, *matched]}} for at, side in enumerate(files))
    fresh = lambda: (mapped(files[0]), mapped(files[1]))  # noqa: E731
    x, y = fresh()
    part = "" if few == layers else f" of {few} layers"
    rho = plain.correlation(a[0].astype(float), b[0].astype(float))
    table.add(f"correlation, all pairs{part}", lambda: mean_correlation(*fresh()),
              lambda: [plain.correlation(a[i], b[j]) for i, j in sample], len(sample), few * few,
              **{"error ours": abs(mean_correlation(x, y)[0][0, 0] - rho),
                 "error theirs": abs(plain.correlation(a[0], b[0]) - rho)})
    first = [Layer(side[0], "states") for side in (a, b)]
    near = [neighbours(layer, plain.KS) for layer in first]
    found = overlap(*near).mean(axis=0)
    rows = np.linspace(0, len(a[0]) - 1, 200).astype(int)  # on which float64 decides
    table.add("k-NN overlap, a layer pair", lambda: overlap(*(neighbours(layer, plain.KS) for layer in first)),
              lambda: plain.knn(a[0], b[0]), 1, 1,
              **{"error ours": np.abs(overlap(*near)[rows] - plain.knn_in_float64(a[0], b[0], rows)).max(),
                 "error theirs": np.abs(np.array(plain.knn(a[0], b[0])) - found).max()})
    exact = plain.procrustes(a[0].astype(float), b[0].astype(float))
    for name, kind in (("", np.float32), (", theirs in float64", np.float64)):
        table.add(f"Procrustes, matched layers{part}{name}",
                  lambda: [compare_rotation(*pair) for pair in zip(*(s.layers for s in fresh()), strict=True)],
                  lambda k=kind: [plain.procrustes(a[i].astype(k), b[j].astype(k)) for i, j in matched[:2]], 2, few,
                  **{"error ours": abs(compare_rotation(x.layers[0], y.layers[0])["residual_ratio"] - exact),
                     "error theirs": abs(plain.procrustes(a[0].astype(kind), b[0].astype(kind)) - exact)})
    tied = ", ".join(f"{share:.4f} at k = {k}"
                     for k, share in zip(near[0].ks, near[0].tied.mean(axis=0), strict=True))
    return [f"k-NN: float64 settled {100 * near[0].reranked:.2f}% of rows; tied share {tied}."]


def markdown(table: pd.DataFrame) -> str:
    def cell(value):
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.2f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def main(options: argparse.Namespace) -> None:
    left = [f"{name}: {why}" for name, why in plain.LEFT_OUT.items()]
    left += [f"{name}: not installed ({how})" for name, how in plain.PEERS.items()
             if not any(found.startswith(f"{name} ") for found in plain.peers())]
    parts = ["# Similarity metrics: time, memory, exactness", LIMITS,
             "Packages left out: " + "; ".join(left) + "."]
    for size in options.sizes:
        if size == "memory":
            parts += [f"## Memory\n\nPeak memory of {', '.join(MEMORY_METRICS)} from files, {MEMORY_SHAPE[0]} layers "
                      f"of {MEMORY_SHAPE[1]}, budget {MEMORY_MB} MB.",
                      markdown(memory_table())]
            continue
        if size == "cores":
            parts += [f"## Two threads (wall seconds, size A)\n\n{_load()}", markdown(two_threads(SIZES["A"]))]
            continue
        head, table = run(options, size)
        parts += [*head, markdown(table)]
        if options.write:  # what is done so far
            options.write.write_text("\n\n".join(parts) + "\n", encoding="utf8")
    text = "\n\n".join([*parts, PROBES]) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main(OPTIONS)
