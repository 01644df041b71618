"""The published tables, as data, and what can be concluded from them.

Source: arXiv 2601.21192 (2026), tables of downstream scores (mean of 3 seeds, "delta +- std", score points 0..100),
of the inverse row entropy of the Procrustes map at the last layer, and of k-NN overlap. Published values are
reference values: nothing here was measured by this project.

The paper does not say what its "std" is. Each reading gives another standard error and other degrees of freedom:
the standard deviation over seeds of the paired difference, that of each arm over seeds, or already a standard error.
All treat tasks and queries as fixed: variation over them cannot be recovered from a table of means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from hrsa.verdict.equivalence import WORDS, holm, word

SEEDS = 3
MARGINS = (0.5, 1.0, 2.0)  # score points; half a point is what rankings on these benchmarks are argued over
BENCHMARKS = ("MTEB(Multilingual, v2)", "MTEB(Code, v1)", "BRIGHT")
SCORES = (  # pair, kind, then base, reasoning, delta, std for each benchmark
    ("Qwen3-0.6B", "SFT",
     (53.50, 41.47, -12.03, 0.14), (55.29, 56.28, 0.99, 0.05), (13.06, 13.71, 0.65, 0.06)),
    ("Qwen2.5-1.5B SimpleRL", "RLVR",
     (54.73, 54.54, -0.19, 0.07), (58.98, 58.72, -0.26, 0.08), (17.71, 17.89, 0.18, 0.04)),
    ("Qwen2.5-0.5B SimpleRL", "RLVR",
     (51.25, 51.27, 0.02, 0.09), (57.41, 57.53, 0.12, 0.07), (14.05, 13.99, -0.06, 0.05)),
    ("R1-Distill-1.5B ProRL", "RLVR, prolonged",
     (46.19, 46.25, 0.06, 0.06), (45.47, 45.87, 0.40, 0.07), (9.02, 9.47, 0.45, 0.02)),
    ("Qwen3-4B PSR", "RLVR",
     (59.85, 59.79, -0.06, 0.05), (63.90, 64.57, 0.67, 0.03), (18.10, 18.17, 0.07, 0.03)),
)
ENTROPY = (  # pair, kind, inverse row entropy: backbones on CoT, MMLU-Pro; embedders on CoT, MMLU-Pro
    ("Math vs R1-Distill-1.5B", "SFT", (0.1076, 0.2229), (0.1429, 0.7105)),
    ("Qwen3-0.6B", "SFT", None, (0.4915, 0.9164)),
    ("Qwen2.5-1.5B SimpleRL", "RLVR", (0.9481, 0.9963), (0.8826, 0.9794)),
    ("Qwen2.5-0.5B SimpleRL", "RLVR", (0.9923, 0.9981), (0.9835, 0.9978)),
    ("R1-Distill-1.5B ProRL", "RLVR, prolonged", (0.1613, 0.8336), (0.8637, 0.9814)),
    ("Qwen3-4B PSR", "RLVR", (0.8122, 0.9843), (0.5863, 0.9933)),
    ("Qwen3-4B Polaris", "RLVR", (0.4365, 0.9711), None),
    ("R1-Distill-7B Polaris", "RLVR", (0.6576, 0.9623), None),
    ("Qwen2.5-7B PPO", "RLVR", (0.6338, 0.9922), None),
)
OVERLAP = (  # pair, kind, mean k-NN overlap over layers at k = 5, 10, 50: backbones; embedders
    ("Math vs R1-Distill-1.5B", "SFT", (0.052, 0.068, 0.132), (0.069, 0.068, 0.091)),
    ("R1-Distill-1.5B ProRL", "RLVR, prolonged", (0.455, 0.484, 0.577), (0.451, 0.474, 0.531)),
)


@dataclass(frozen=True)
class Reading:
    """One meaning of the published "std": standard error = std x factor, t with `dof` degrees of freedom."""

    name: str
    factor: float
    dof: int


READINGS = (
    Reading("std over seeds of the difference", 1 / np.sqrt(SEEDS), SEEDS - 1),
    Reading("std over seeds of each arm", np.sqrt(2 / SEEDS), 2 * (SEEDS - 1)),
    Reading("standard error of the difference", 1.0, SEEDS - 1),
)


def cells() -> pd.DataFrame:
    """The 15 published cells: pair, kind, benchmark, base, reasoning, delta, std (score points)."""
    rows = [(pair, kind, benchmark, *values) for pair, kind, *parts in SCORES
            for benchmark, values in zip(BENCHMARKS, parts, strict=True)]
    return pd.DataFrame(rows, columns=["pair", "kind", "benchmark", "base", "reasoning", "delta", "std"])


def reanalyse(margin: float, alpha: float = 0.05) -> pd.DataFrame:
    """Difference and equivalence tests of each published cell under each reading of "std".

    `margin` in score points. One row per cell and reading: standard error, 1 - 2 alpha interval, p-values, the two
    corrected by Holm over the 15 cells of a reading, `verdict` (corrected), `alone` (uncorrected) and
    `smallest_margin` that the cell could prove uncorrected. ValueError for a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"expected a positive margin in score points, got {margin}")
    tables = []
    for reading in READINGS:
        table = cells().assign(reading=reading.name, margin=margin)
        error = table["std"] * reading.factor
        reach = stats.t.ppf(1 - alpha, reading.dof) * error
        size = table["delta"].abs()
        table = table.assign(
            error=error, low=table["delta"] - reach, high=table["delta"] + reach,
            p_difference=2 * stats.t.sf(size / error, reading.dof),
            p_equivalence=stats.t.sf((margin - size) / error, reading.dof),
            smallest_margin=size + reach)
        corrected = {name: holm(table[f"p_{name}"]) for name in ("difference", "equivalence")}
        table["alone"] = [word(d < alpha, e < alpha)
                          for d, e in zip(table["p_difference"], table["p_equivalence"], strict=True)]
        table["verdict"] = [word(d < alpha, e < alpha) for d, e in zip(*corrected.values(), strict=True)]
        tables.append(table.assign(**{f"holm_{name}": p for name, p in corrected.items()}))
    return pd.concat(tables, ignore_index=True)


def tally(margins: tuple[float, ...] = MARGINS, alpha: float = 0.05, kinds: str = "RLVR") -> pd.DataFrame:
    """How many cells of pairs whose kind starts with `kinds` get each verdict, per reading and margin."""
    found = pd.concat([reanalyse(margin, alpha) for margin in margins])
    found = found[found["kind"].str.startswith(kinds)]
    counts = pd.crosstab([found["reading"], found["margin"]], found["verdict"])
    return counts.reindex(columns=list(WORDS), fill_value=0).assign(cells=lambda t: t.sum(axis=1)).reset_index()


def entropy_change() -> pd.DataFrame:
    """Published inverse row entropy before and after contrastive training, for pairs that have both.

    One row per pair and text: before, after, change, `rises`.
    """
    rows = [(pair, kind, text, before[i], after[i]) for pair, kind, before, after in ENTROPY if before and after
            for i, text in enumerate(("CoT", "MMLU-Pro"))]
    table = pd.DataFrame(rows, columns=["pair", "kind", "text", "before", "after"])
    return table.assign(change=table["after"] - table["before"], rises=table["after"] > table["before"])


def realignment(kinds: str = "RLVR") -> pd.DataFrame:
    """Per text: how many pairs of a kind rise in inverse row entropy, of how many, and the sign test.

    `p_rise`: one-sided chance of at least so many rises when up and down are equally likely. Pairs are taken as
    independent, though two share a start.
    """
    table = entropy_change()
    table = table[table["kind"].str.startswith(kinds)]
    counted = table.groupby("text", sort=False)["rises"].agg(rise="sum", pairs="size").reset_index()
    counted["p_rise"] = stats.binom.sf(counted["rise"] - 1, counted["pairs"], 0.5)
    return counted


def overlap_change() -> pd.DataFrame:
    """Published mean k-NN overlap before and after contrastive training: pair, kind, k, before, after, falls."""
    rows = [(pair, kind, k, before[i], after[i]) for pair, kind, before, after in OVERLAP
            for i, k in enumerate((5, 10, 50))]
    table = pd.DataFrame(rows, columns=["pair", "kind", "k", "before", "after"])
    return table.assign(falls=table["after"] < table["before"])
