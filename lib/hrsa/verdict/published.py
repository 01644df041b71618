"""What can be concluded from the published tables, which stand in `published.yaml`.

Source: arXiv 2601.21192 (2026), tables of downstream scores (mean of 3 seeds, "delta +- std", score points 0..100),
of the inverse row entropy of the Procrustes map at the last layer, and of k-NN overlap. Published values are
reference values: nothing here was measured by this project.

The paper does not say what its "std" is. Each reading gives another standard error and other degrees of freedom:
the standard deviation over seeds of the paired difference, that of each arm over seeds, or already a standard error.
All treat tasks and queries as fixed: variation over them cannot be recovered from a table of means.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.special import bdtrc, stdtr, stdtrit

from hrsa.verdict.equivalence import agreeing_interval, holm, word

_FILE = Path(__file__).with_suffix(".yaml")
_SEEDS = 3  # behind each published mean
CELL_WORDS = ("different", "equivalent", "negligible", "inconclusive")  # that a table of means allows
MARGINS = (0.5, 1.0, 2.0)  # score points; half a point is what rankings on these benchmarks are argued over


@dataclass(frozen=True)
class Reading:
    """One meaning of the published "std": standard error = std x factor, t with `dof` degrees of freedom."""

    name: str
    factor: float
    dof: int


READINGS = (
    Reading("std over seeds of the difference", 1 / np.sqrt(_SEEDS), _SEEDS - 1),
    Reading("std over seeds of each arm", np.sqrt(2 / _SEEDS), 2 * (_SEEDS - 1)),
    Reading("standard error of the difference", 1.0, _SEEDS - 1),
)


def _read(table: str, axis: str, *groups: str) -> list[tuple]:
    """Rows (pair, kind, label, values of each of `groups` at that label) of one table of the file.

    A group holds one value, or list of values, per label of `axis`; None at every label where it is missing.
    ValueError: a table without rows, a row without pair or kind, or with another number of values than labels.
    """
    content = yaml.safe_load(_FILE.read_text(encoding="utf8"))[table]
    labels, found = content[axis], []
    for row in content["rows"] or ():
        if set(row) != {"pair", "kind", *groups} or any(len(row[g]) != len(labels) for g in groups if row[g]):
            raise ValueError(f"expected pair, kind and {', '.join(groups)} with {len(labels)} values each in {table} "
                             f"of {_FILE.name}, got {row}: compare it with the paper")
        found += [(row["pair"], row["kind"], label, *(row[g] and row[g][i] for g in groups))
                  for i, label in enumerate(labels)]
    if not found:
        raise ValueError(f"expected rows of {table} in {_FILE.name}, got none: restore the file")
    return found


def score_cells() -> pd.DataFrame:
    """The 15 published cells: pair, kind, benchmark, base, reasoning, delta, std (score points)."""
    rows = [(*place, *values) for *place, values in _read("scores", "benchmarks", "values")]
    return pd.DataFrame(rows, columns=["pair", "kind", "benchmark", "base", "reasoning", "delta", "std"])


def reanalyse(margin: float, alpha: float = 0.05) -> pd.DataFrame:
    """Difference and equivalence tests of each published cell under each reading of "std".

    `margin` in score points. One row per cell and reading: standard error, p-values, the two corrected by Holm over the
    15 cells of a reading, `verdict` (corrected) with the interval that says the same (`equivalence.agreeing_interval`),
    `alone` (uncorrected) and `smallest_margin` that the cell could prove uncorrected. No cell is `uninformative`: the
    paper prints no untrained scores to hold them against. ValueError for a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"expected a positive margin in score points, got {margin}")
    tables = []
    for reading in READINGS:
        table = score_cells().assign(reading=reading.name, margin=margin)
        error, size = table["std"] * reading.factor, table["delta"].abs()
        raw = {"difference": 2 * stdtr(reading.dof, -size / error),
               "equivalence": stdtr(reading.dof, (size - margin) / error)}
        corrected = {name: holm(p) for name, p in raw.items()}
        levels = [alpha * raw[name] / corrected[name] for name in raw]
        bounds = [_interval(*cell, reading.dof, alpha) for cell in zip(
            table["delta"], error, corrected["difference"], *levels, strict=True)]
        table = table.assign(
            error=error, low=[low for low, _ in bounds], high=[high for _, high in bounds],
            **{f"p_{name}": p for name, p in raw.items()},
            smallest_margin=size + stdtrit(reading.dof, 1 - alpha) * error)
        for column, tests in (("alone", raw), ("verdict", corrected)):
            table[column] = [word(d < alpha, e < alpha) for d, e in zip(*tests.values(), strict=True)]
        tables.append(table.assign(**{f"holm_{name}": p for name, p in corrected.items()}))
    return pd.concat(tables, ignore_index=True)


def _interval(delta: float, error: float, p_difference: float, for_difference: float, for_sameness: float, dof: int,
              alpha: float) -> tuple[float, float]:
    """The interval of one cell that says what its corrected word says."""
    def bounds(level: float) -> tuple[float, float]:
        reach = float(stdtrit(dof, 1 - level)) * error
        return delta - reach, delta + reach

    return agreeing_interval(bounds, delta, p_difference < alpha, for_difference / 2, for_sameness)


def verdicts_by_reading(margins: tuple[float, ...] = MARGINS, alpha: float = 0.05, kinds: str = "RLVR") -> pd.DataFrame:
    """How many cells of pairs whose kind starts with `kinds` get each verdict, per reading and margin."""
    found = pd.concat([reanalyse(margin, alpha) for margin in margins])
    found = found[found["kind"].str.startswith(kinds)]
    counts = pd.crosstab([found["reading"], found["margin"]], found["verdict"])
    return counts.reindex(columns=list(CELL_WORDS), fill_value=0).assign(cells=lambda t: t.sum(axis=1)).reset_index()


def entropy_cells() -> pd.DataFrame:
    """Published inverse row entropy at the last layer: pair, kind, text, backbones, embedders (NaN: not published)."""
    rows = _read("inverse_row_entropy", "texts", "backbones", "embedders")
    table = pd.DataFrame(rows, columns=["pair", "kind", "text", "backbones", "embedders"])
    return table.astype({"backbones": float, "embedders": float})


def entropy_change() -> pd.DataFrame:
    """Published inverse row entropy before and after contrastive training, for pairs that have both.

    One row per pair and text: before, after, change, `rises`.
    """
    table = entropy_cells().dropna(ignore_index=True)
    table = table.rename(columns={"backbones": "before", "embedders": "after"})
    return table.assign(change=table["after"] - table["before"], rises=table["after"] > table["before"])


def rises_in_entropy(kinds: str = "RLVR") -> pd.DataFrame:
    """Per text: how many pairs of a kind rise in inverse row entropy, of how many, and the sign test.

    `p_rise`: one-sided chance of at least so many rises when up and down are equally likely. Pairs are taken as
    independent, though two share a start.
    """
    table = entropy_change()
    table = table[table["kind"].str.startswith(kinds)]
    counted = table.groupby("text", sort=False)["rises"].agg(rise="sum", pairs="size").reset_index()
    counted["p_rise"] = bdtrc(counted["rise"] - 1, counted["pairs"], 0.5)
    return counted


def overlap_cells() -> pd.DataFrame:
    """Published k-NN overlap, mean over layers: pair, kind, k, backbones, embedders."""
    rows = _read("knn_overlap", "k", "backbones", "embedders")
    return pd.DataFrame(rows, columns=["pair", "kind", "k", "backbones", "embedders"])
