"""Robustness in words: what the conclusions of a chapter become on robust twins and under attack."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hrsa.analysis.intervals import order, read_over_seeds
from hrsa.analysis.pairs import PairTable
from hrsa.analysis.robustness import RECORDED
from hrsa.report.prose.similarity import value_said
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS

_TWINS, _ATTACKS = ["twin"], ["attack", "strength"]  # columns that tell variants apart
_SPECIAL = {
    "correlation": " Correlation cannot see standardising and the mean; they are there because other levels can.",
    "knn": " The overlap is that of the $k$ nearest to 10.",
}


def why_twins(metric: str) -> str:
    """Why a conclusion is repeated on robust twins of the last states, and on how many tokens; `metric`: a family."""
    moved = [METRICS[key].name for key in METRIC_FAMILIES[metric] if METRICS[key].with_n]
    fewer = (f" So these are not the values of the figures above, which rest on all tokens: {', '.join(moved)} "
             f"{'depend' if len(moved) > 1 else 'depends'} on their number." if moved else "")
    return ("A conclusion that hangs on a few dimensions, or on a few frequent tokens, is about those. The table "
            "repeats the comparison of the last state on robust twins, made of a sample of at most 1,000 tokens."
            f"{fewer}{_SPECIAL.get(metric, '')}")


def read_twins(folder: Path) -> pd.DataFrame:
    """The conclusions of a comparison on every robust twin, as `robustness_table`; `folder`: its artefact."""
    return robustness_table(read_over_seeds(folder / PairTable.TWINS), _TWINS)


def twins_said(twins: pd.DataFrame) -> str:
    """How to read the table of `read_twins`, and which twins turn a conclusion; Markdown."""
    return ("How to read it: *survives* says that the intervals allow the same conclusions as on the states as "
            f"recorded, in the first row of each metric.\n\n{robustness_sentences(twins, _TWINS)}")


def attacks_said(audit: pd.DataFrame) -> str:
    """Which attacks turn which conclusion, from an `audit_table` over seeds; Markdown."""
    return robustness_sentences(robustness_table(audit, _ATTACKS), _ATTACKS)


def robustness_table(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Whether the conclusion of each metric is that of "as recorded": one row per metric and variant.

    `table` is a `twin_table` or `audit_table` with a column models, over seeds (`intervals.over_seeds`); `by` names
    the columns that tell the variants apart, the first of which says "as recorded". The conclusion: whether each kind
    of models is more alike than permuted rows and, where there are embedders, whether they are more alike than the
    backbones, each by intervals. Columns: metric, `by`, backbones, embedders (where there are any; value [interval]),
    conclusion, n (tokens), survives.
    """
    rows = []
    for (metric, *variant), part in table.groupby(["metric", *by], sort=False):
        sign = METRICS[metric].sign
        kinds = {row["models"]: row for _, row in part.iterrows()}
        sides = [sign * order(row["low"], row["high"], row["null"], row["null"]) for row in kinds.values()]
        words = [f"{name} {_side(side, 'permuted rows')}" for name, side in zip(kinds, sides, strict=True)]
        if "embedders" in kinds:
            e, b = kinds["embedders"], kinds["backbones"]
            sides.append(sign * order(e["low"], e["high"], b["low"], b["high"]))
            words.append(f"embedders {_side(sides[-1], 'backbones')}")
        shown = {name: value_said(row["value"], row["low"], row["high"]) for name, row in kinds.items()}
        rows.append({"metric": METRICS[metric].name, **dict(zip(by, variant, strict=True)), **shown,
                     "conclusion": "; ".join(words), "n": part["n"].min(), "sides": tuple(sides)})
    found = pd.DataFrame(rows)
    recorded = found[found[by[0]] == RECORDED].set_index("metric")["sides"]
    found["survives"] = found["sides"] == found["metric"].map(recorded)
    place = {metric: at for at, metric in enumerate(found["metric"].unique())}
    return found.drop(columns="sides").sort_values("metric", key=lambda names: names.map(place), kind="stable")


def _side(side: int, what: str) -> str:
    return {1: f"more alike than {what}", -1: f"less alike than {what}", 0: f"not told apart from {what}"}[side]


def robustness_sentences(table: pd.DataFrame, by: list[str]) -> str:
    """A table of `robustness_table` in words, Markdown: per metric, how many variants its conclusions survive, and
    which turn them."""
    lines = []
    for metric, rows in table.groupby("metric", sort=False):
        others = rows[rows[by[0]] != RECORDED]
        line = f"- {metric}: {int(others['survives'].sum())} of {len(others)} changes survived"
        turned = others[~others["survives"]]
        lines.append(f"{line}; what turns it: {_variants(turned, by)}." if len(turned) else f"{line}.")
    return "\n".join(lines)


def _variants(rows: pd.DataFrame, by: list[str]) -> str:
    """Names of some variants, with the strengths of each in brackets."""
    names = []
    for name, which in rows.groupby(by[0], sort=False):
        strengths = [" × ".join(f"{row[column]:g}" for column in by[1:]) for _, row in which.iterrows()]
        names.append(f"{name} ({', '.join(strengths)})" if len(by) > 1 else str(name))
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def attack_curves(audit: pd.DataFrame) -> pd.DataFrame:
    """An `audit_table` for a figure over strength: a row "as recorded" (strength 0) for each attack, metrics named."""
    recorded = audit[audit["attack"] == RECORDED]
    attacks = audit[audit["attack"] != RECORDED]
    starts = [recorded.assign(attack=attack) for attack in attacks["attack"].unique()]
    table = pd.concat([*starts, attacks], ignore_index=True)
    names = table["metric"].map({key: metric.name for key, metric in METRICS.items()})
    return table.assign(metric=names, strength=[f"{s:g}" for s in table["strength"]])
