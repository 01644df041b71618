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
without a map by one float32 product and the eigenvalues of C'C in float64, with a map by float64 products and the SVD,
where float32 gets the map wrong; probes by the number of products with the features, which are narrow and read from
memory. The straightforward way is float32 unless it says otherwise. Errors are against float64. One forward pass per
model serves all metrics of a run, probes included (a test counts them); recorded states are read from disk by all of
them. Everything was timed on a CPU: on an accelerator the same code runs on tensors that stay there, untimed."""
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
    memory_table,
    seconds,
    two_threads,
    write_states,
)

from hrsa.similarity import debiased_cka, fit_probes, linear_cka, open_states, pairs, procrustes  # noqa: E402
from hrsa.similarity.knn import neighbours, overlap  # noqa: E402
from hrsa.similarity.procrustes import compare_rotation  # noqa: E402


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
        sums = pairs.pair_sums(open_states(files[0], "x"), open_states(files[1], "y"))
        return sums.cka(), sums.cka(debiased=True)

    biased, debiased = ours()
    truth = {pair: (linear_cka(a[pair[0]], b[pair[1]]), debiased_cka(a[pair[0]], b[pair[1]])) for pair in some}
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
    """Minibatch, correlation, neighbours, Procrustes and probes."""
    few = len(files[0])
    matched = [(i, i) for i in range(few)][:3]
    sample = [(i, j) for i in range(few) for j in range(few)][:: max(1, few * few // PAIRS)][:PAIRS]
    a, b = ({i: np.load(side[i]) for i in {p[at] for p in [*sample, *matched]}} for at, side in enumerate(files))
    fresh = lambda: (open_states(files[0], "x"), open_states(files[1], "y"))  # noqa: E731
    x, y = fresh()
    part = "" if few == layers else f" of {few} layers"
    rho = plain.correlation(a[0].astype(float), b[0].astype(float))
    table.add(f"correlation, all pairs{part}", lambda: pairs.correlation_pairs(*fresh()),
              lambda: [plain.correlation(a[i], b[j]) for i, j in sample], len(sample), few * few,
              **{"error ours": abs(pairs.correlation_pairs(x, y)[0, 0] - rho),
                 "error theirs": abs(plain.correlation(a[0], b[0]) - rho)})
    near = [neighbours(a[0], plain.KS), neighbours(b[0], plain.KS)]
    found = overlap(*near).mean(axis=0)
    rows = np.linspace(0, len(a[0]) - 1, 200).astype(int)  # on which float64 decides
    table.add("k-NN overlap, a layer pair", lambda: overlap(neighbours(a[0], plain.KS), neighbours(b[0], plain.KS)),
              lambda: plain.knn(a[0], b[0]), 1, 1,
              **{"error ours": np.abs(overlap(*near)[rows] - plain.knn_in_float64(a[0], b[0], rows)).max(),
                 "error theirs": np.abs(np.array(plain.knn(a[0], b[0])) - found).max()})
    exact = procrustes(a[0], b[0]).residual_ratio
    for name, with_map, kind in (("with map", True, np.float32), ("with map, theirs in float64", True, np.float64),
                                 ("residual only", False, np.float32),
                                 ("residual only, theirs in float64", False, np.float64)):
        table.add(f"Procrustes {name}, matched layers{part}",
                  lambda m=with_map: [compare_rotation(*pair, with_map=m)
                                      for pair in zip(*(s.layers for s in fresh()), strict=True)],
                  lambda k=kind: [plain.procrustes(a[i].astype(k), b[j].astype(k)) for i, j in matched[:2]], 2, few,
                  **{"error ours": abs(compare_rotation(x.layers[0], y.layers[0], with_map=with_map)["residual_ratio"]
                                       - exact),
                     "error theirs": abs(plain.procrustes(a[0].astype(kind), b[0].astype(kind)) - exact)})
    tied = ", ".join(f"{share:.4f} at k = {k}" for k, share in near[0].tied_share.items())
    return [f"k-NN: float64 settled {100 * near[0].reranked:.2f}% of rows; tied share {tied}.", probe_rows(table, a)]


def probe_rows(table: Table, a) -> str:
    """Ten classes, 1,000 texts; theirs: scikit-learn, one layer at a time, as it stops and to the same gradient."""
    rng = np.random.default_rng(2)
    some = [a[i][:1000].astype(float) for i in sorted(a)][:4]
    labels = (some[0] @ rng.standard_normal((some[0].shape[1], 10)) / np.abs(some[0]).max()).argmax(axis=1)
    scaled = [(part - part.mean(0)) / part.std(0) for part in some]
    probes = fit_probes(some, labels, "classification")
    said = []
    for name, solver, tolerance in (("lbfgs, default", "lbfgs", 1e-4), ("lbfgs, 1e-6", "lbfgs", 1e-6),
                                    ("newton-cg, 1e-6", "newton-cg", 1e-6)):
        early = plain.probe(scaled[0], labels, solver, tolerance)
        logp = early.predict_log_proba(scaled[0])[np.arange(len(labels)), np.searchsorted(early.classes_, labels)]
        gap = -logp.sum() + np.square(early.coef_).sum() / 2 - probes[0].objective
        said.append(f"{gap:.1g} ({name})")
        table.add(f"probes, {len(some)} layers; theirs {name}", lambda: fit_probes(some, labels, "classification"),
                  lambda s=solver, t=tolerance: [plain.probe(z, labels, s, t) for z in scaled], 1, 1)
    return (f"Probes: objective of theirs less ours, of {probes[0].objective:.4g}: {', '.join(said)}; "
            f"our largest gradient entry {max(p.gradient for p in probes):.1g} a text.")


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
                      f"of {MEMORY_SHAPE[1]}, budget {MEMORY_MB} MB; error of the one-pass estimate of debiased CKA.",
                      markdown(memory_table())]
            continue
        if size == "cores":
            parts += [f"## Two threads (wall seconds, size A)\n\n{_load()}", markdown(two_threads(SIZES["A"]))]
            continue
        head, table = run(options, size)
        parts += [*head, markdown(table)]
        if options.write:  # what is done so far
            options.write.write_text("\n\n".join(parts) + "\n", encoding="utf8")
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main(OPTIONS)
