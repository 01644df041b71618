"""Memory and time of the search for hard negatives: up to a million passages of 384 dimensions.

    python benchmarks/mining.py [--sizes 100000 300000 1000000] [--queries 500 2000] [--write benchmarks/mining.md]

The embedding step is a generator: clustered random unit vectors, seeded by each text, in place of a model's. All else
is the study's own code: slices of texts embedded, one array of passage vectors, blocks of similarities, selection at
the 95% margin below rank 100. Each measurement has a process of its own; memory is its peak resident set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

LIMIT_GB = 6.0  # for a million passages


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000], help="passages")
    parser.add_argument("--queries", type=int, nargs="+", default=[500, 1_500])
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--characters", type=int, default=300, help="of a passage")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", action="store_true", help="a single run, started by this script itself")
    parser.add_argument("--write", type=Path, help="Markdown file for the printed table")
    return parser.parse_args()


if __name__ == "__main__":  # thread counts are read when the numerical libraries load
    OPTIONS = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(OPTIONS.threads)

import resource  # noqa: E402

import numpy as np  # noqa: E402

from hrsa.study.profile import Mining  # noqa: E402
from hrsa.texts import hard_negatives  # noqa: E402


class Generator:
    """Stands for the reference embedder: the vector of text number i is its cluster's centre and noise."""

    prompts = None

    def __init__(self, d: int, seed: int):
        self.chance, self.centres = np.random.default_rng(seed), np.random.default_rng(seed).standard_normal((1000, d))

    def encode(self, strings: list[str], **options: object) -> np.ndarray:
        """Unit vectors (b, d) float32; a query has the cluster of the passage with its number."""
        cluster = np.array([int(text[1:9]) % len(self.centres) for text in strings])
        x = self.centres[cluster] + self.chance.standard_normal((len(strings), self.centres.shape[1]))  # (b, d)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def measure(n: int, q: int, options: argparse.Namespace) -> None:
    """Mine `q` queries among `n` passages and print seconds, peak memory (MB), the time of vectors and what came."""
    filler = "x" * (options.characters - 9)
    passages = [f"p{i:08d}{filler}" for i in range(n)]
    position = np.random.default_rng(options.seed).permutation(n)[:q]
    queries = [f"q{i:08d}" for i in position]
    marks = []
    found = hard_negatives.find_negatives(queries, ["Find."] * q, passages, position,
                                          Generator(options.dimensions, options.seed),
                                          Mining(embedder="generator"), 3,
                                          lambda done: marks.append((time.process_time(), done)))
    searching = (marks[-1][0] - marks[0][0]) / sum(done for _, done in marks[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert (found.negatives >= 0).all()
    print(peak, searching * 1e3, float((found.suspects > 0).mean()))


def table(options: argparse.Namespace) -> str:
    """Run every size in its own process; the table as Markdown."""
    lines = [f"Peak memory of mining, {options.dimensions} dimensions, passages of {options.characters} characters, "
             f"{options.threads} thread(s), seed {options.seed}", "",
             "| passages | vectors MB | queries | peak MB | CPU ms per query |", "|---|---|---|---|---|"]
    worst = 0.0
    for n in options.sizes:
        for q in options.queries:
            done = subprocess.run([sys.executable, __file__, "--one", "--sizes", str(n), "--queries", str(q),
                                   "--dimensions", str(options.dimensions), "--characters", str(options.characters),
                                   "--threads", str(options.threads), "--seed", str(options.seed)],
                                  capture_output=True, text=True, check=True)
            peak, each, _ = map(float, done.stdout.split())
            worst = max(worst, peak)
            lines.append(f"| {n:,} | {n * options.dimensions * 4 / 1e6:,.0f} | {q:,} | {peak:,.0f} | {each:.1f} |")
            print(lines[-1], flush=True)
    lines += ["", f"The largest peak is {worst / 1024:.2f} GiB; the aim is under {LIMIT_GB:g} GB.", "",
              "Peak memory: the passages' vectors and texts, one block of similarities (128 queries or 64 MB) and "
              "some copies of one\nranking. More queries add under 100 bytes each. The time is that of products and "
              "selection once the vectors are there;\nthat of the embedder comes on top of it."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if OPTIONS.one:
        measure(OPTIONS.sizes[0], OPTIONS.queries[0], OPTIONS)
    else:
        text = table(OPTIONS)
        print(text)
        if OPTIONS.write:
            OPTIONS.write.write_text(text, encoding="utf8")
