"""Where the time of one comparison of two models goes: every metric with its intervals and nulls, layer by layer.

    python benchmarks/comparison.py [--layers 10] [--tokens 4000] [--width 576] [--timed 2] [--write FILE]

States are those of `similarity.py`. Resamples and permutations are those of a profile's defaults, as
`analysis.layerwise` gives them to each metric. Of the layers, `--timed` are run and the seconds scaled to all. The
straightforward way takes the rows of each resample or permutation and computes the metric anew, from full arrays; one
such value is timed, in turn with ours, and scaled to their number. CPU seconds, one thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import similarity_plain as plain  # noqa: E402
from similarity_limits import seconds, write_states  # noqa: E402

from hrsa.analysis.layerwise import REFITS, calibration  # noqa: E402
from hrsa.similarity.layers import compare_layers  # noqa: E402
from hrsa.similarity.metrics import METRIC_FAMILIES  # noqa: E402
from hrsa.study.sections import Analysis  # noqa: E402

TOKENS_A_TEXT = 40
CUT = """\
## What was cut

Refits of Procrustes take over half of the time, and half of a refit is its SVD. The products X'WY of all resamples now
come from one pass over the texts: 20 refits of one layer, together and each alone, three times in turn in one process,
3.68 s alone against 2.96, 3.93 against 3.36, 3.73 against 3.44: 1.17 times as fast in the median, equal within 5e-14;
1.9 s of either are the SVDs. An eigendecomposition of C'C takes .4 of an SVD, but squares the condition: where outlier
dimensions put singular values a million times apart, the smallest would keep three or four digits. Not taken."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 10), ("tokens", 4000), ("width", 576), ("timed", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--write", type=Path, help="Markdown file for the printed table")
    return parser.parse_args()


def straightforward(family: str, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """One value of a family, from full arrays."""
    return {"correlation": lambda: plain.correlation(x, y), "cka": lambda: plain.cka_of_grams(x, y),
            "procrustes": lambda: plain.procrustes(x.astype(float), y.astype(float)),
            "knn": lambda: plain.knn(x, y)}[family]


def measured(options: argparse.Namespace, files: tuple[list[Path], list[Path]]) -> pd.DataFrame:
    """A row for each family of metrics: seconds of values, intervals and nulls, and of the straightforward way."""
    at = np.arange(options.tokens)
    tokens = pd.DataFrame({"text": at // TOKENS_A_TEXT, "length": TOKENS_A_TEXT, "position": at % TOKENS_A_TEXT})
    rows = []
    for family, metrics in METRIC_FAMILIES.items():
        every = calibration(tokens, family, Analysis(), null=True)
        parts = {"values": {}, "intervals": {name: every[name] for name in ("texts", "resamples")},
                 "nulls": {name: every[name] for name in ("classes", "permutations")}}
        spent, theirs = dict.fromkeys(parts, 0.0), 0.0
        for pair in zip(*files, strict=True):
            x, y = map(np.load, pair)
            for name, given in parts.items():
                spent[name] += seconds(lambda given=given, x=x, y=y, metrics=metrics: compare_layers(
                    [x], [y], metrics, layers="matched", threads=1, rng=np.random.default_rng(0), **given))[0]
            theirs += seconds(straightforward(family, x, y))[0]
        scale = options.layers / options.timed
        resamples = 0 if family == "knn" else every["resamples"]  # of k-NN: given the neighbours
        spent |= {name: max(spent[name] - spent["values"], 0.0) for name in ("intervals", "nulls")}
        whole, plainly = scale * sum(spent.values()), scale * theirs * (1 + resamples + every["permutations"])
        rows.append({"family": family, "resamples": every["resamples"], "nulls": every["permutations"],
                     **{f"{name} s": scale * value for name, value in spent.items()}, "all s": whole,
                     "straightforward s": plainly, "ratio": plainly / whole})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join(lines + ["| " + " | ".join(f"{value:,.1f}" if isinstance(value, float) else str(value)
                                               for value in row) + " |" for row in table.itertuples(index=False)])


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        files = write_states(Path(folder), options.timed, options.tokens, options.width)
        x = np.load(files[0][0])
        compare_layers([x[:200]], [x[:200]], layers="matched")  # what is done once in a process
        table = measured(options, files)
    whole = {name: table[name].sum() for name in table.columns[3:-1]}
    table.loc[len(table)] = ["all", "", "", *whole.values(), whole["straightforward s"] / whole["all s"]]
    text = "\n\n".join([
        "# One comparison of two models: where the time goes",
        f"{options.layers} layers x {options.tokens:,} tokens x {options.width}, {options.timed} of them timed; CPU "
        f"seconds of one thread; load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. "
        f"Procrustes gets a {REFITS}th of the resamples and permutations: each is a fit. Columns: values alone, what "
        "intervals and nulls add, and the straightforward way, which computes the metric anew on the rows of each "
        "resample and permutation (k-NN: of each permutation).", markdown(table), CUT]) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
