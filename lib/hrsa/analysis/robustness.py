"""Does a conclusion survive? One similarity of the last states, on robust twins and under attack, with intervals.

Everything is computed on a seeded sample of the recorded tokens, so that a chapter pays seconds for it; "as recorded"
is computed on that same sample, and is what the rest is held against.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import MEASURED, SEED, calibration
from hrsa.analysis.recordings import Recording
from hrsa.report.prose import similarity
from hrsa.similarity import compare_layers, resampling
from hrsa.study.partial import Work
from hrsa.study.profile import Analysis

SAMPLE = 1000  # tokens: the cost of an interval grows with their square
RESAMPLES = 50  # at most: these intervals only have to be told apart
PERMUTATIONS = 5
RECORDED = "as recorded"
NAMES = {"cka": "CKA, biased", "debiased_cka": "CKA, debiased", "knn": "k-NN overlap", "correlation": "correlation",
         "inverse_row_entropy": "inverse row entropy", "residual_ratio": "residual ratio",
         "mean_cosine": "mean cosine"}  # of metrics, as figures call them
LESS_IS_ALIKE = {"residual_ratio", "angular_distance"}
AUDITED = ("correlation", "cka", "knn")  # the first only for models of equal width


def twin_table(x: Recording, y: Recording, metric: str, analysis: Analysis, work: Path | None = None) -> pd.DataFrame:
    """One metric of the last states on every robust twin: [metric, twin, k, value, low, high, null, n].

    The twins are those of `calibrate.twins`; `metric` is a key of `layerwise.MEASURED`; for knn, k is the middle one
    of `analysis.ks`. What is finished in the folder `work` outlives an interruption.
    """
    a, b, tokens = last_states(x, y)
    twins = resampling.twins(a, b, tokens["token_id"], np.random.default_rng(SEED))
    found = Work(work).tables(
        "twins", twins.items(), lambda item: _compared(item[1], tokens, [metric], analysis, work).assign(twin=item[0]))
    return found[["metric", "twin", "k", "value", "low", "high", "null", "n"]]


def audit_table(x: Recording, y: Recording, analysis: Analysis, strengths: Iterable[float] = resampling.STRENGTHS,
                work: Path | None = None) -> pd.DataFrame:
    """CKA, debiased CKA, k-NN overlap and (equal widths) mean correlation of the last states under attack.

    A tidy table [metric, attack, strength, k, value, low, high, null, n] with the attacks of `calibrate.attacks`. In
    a resample that draws one far token many times debiased CKA is not defined; the interval is that of the others.
    `work` as `twin_table`.
    """
    a, b, tokens = last_states(x, y)
    metrics = [name for name in AUDITED if name != "correlation" or a.shape[1] == b.shape[1]]
    attacks = resampling.attacks(a, b, np.random.default_rng(SEED), tuple(strengths))

    def one(item: tuple[str, float, resampling.Variant]) -> pd.DataFrame:
        attack, strength, variant = item
        return _compared(variant, tokens, metrics, analysis, work).assign(attack=attack, strength=strength)

    with _undefined_expected():
        found = Work(work).tables("audit", attacks, one)
    return found[["metric", "attack", "strength", "k", "value", "low", "high", "null", "n"]]


@contextlib.contextmanager
def _undefined_expected() -> Iterator[None]:
    """Without the warning that CKA is undefined in some resamples: the attacks are made to bring that about."""
    logger = logging.getLogger("hrsa.similarity.cka")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def last_states(x: Recording, y: Recording) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """The last (normed) states (m, d_x), (m, d_y) of a seeded sample of at most 1000 tokens, and those tokens."""
    n = len(x.tokens)
    rows = np.sort(np.random.default_rng(SEED).choice(n, size=min(SAMPLE, n), replace=False))
    a, b = (part.layer(len(part.labels) - 1)[rows] for part in (x, y))
    return a, b, x.tokens.iloc[rows].reset_index(drop=True)


def _compared(variant: resampling.Variant, tokens: pd.DataFrame, metrics: list[str], analysis: Analysis,
              work: Path | None) -> pd.DataFrame:
    fewer = analysis.model_copy(update={"bootstrap": min(analysis.bootstrap, RESAMPLES),
                                        "permutations": min(analysis.permutations, PERMUTATIONS)})
    n = len(tokens)
    ks = [k for k in sorted(analysis.ks) if 4 * k <= n] or [max(1, n // 4)]
    tables = []
    for metric in metrics:
        options: dict[str, Any] = calibration(tokens.iloc[variant.rows], metric, fewer, null=True)
        table = compare_layers([variant.x], [variant.y], MEASURED[metric], ks=(ks[len(ks) // 2],), layers="matched",
                               rng=np.random.default_rng(SEED), memory_mb=analysis.memory_mb, work=work, **options)
        tables.append(table[table["metric"].isin(NAMES)].rename(columns={"n_tokens": "n"}))
    return pd.concat(tables, ignore_index=True)


def survived(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Whether the conclusion of each metric is that of "as recorded": one row per metric and variant.

    `table` is a `twin_table` or `audit_table` with a column models, over seeds (`findings.over_seeds`); `by` names
    the columns that tell the variants apart, the first of which says "as recorded". The conclusion: whether each kind
    of models is more alike than permuted rows and, where there are embedders, whether they are more alike than the
    backbones, each by intervals. Columns: metric, `by`, backbones, embedders (where there are any; value [interval]),
    conclusion, survives.
    """
    rows = []
    for (metric, *variant), part in table.groupby(["metric", *by], sort=False):
        sign = -1 if metric in LESS_IS_ALIKE else 1
        kinds = {row["models"]: row for _, row in part.iterrows()}
        sides = [sign * similarity.order(row["low"], row["high"], row["null"], row["null"]) for row in kinds.values()]
        words = [f"{name} {_side(side, 'permuted rows')}" for name, side in zip(kinds, sides, strict=True)]
        if "embedders" in kinds:
            e, b = kinds["embedders"], kinds["backbones"]
            sides.append(sign * similarity.order(e["low"], e["high"], b["low"], b["high"]))
            words.append(f"embedders {_side(sides[-1], 'backbones')}")
        shown = {name: f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for name, row in kinds.items()}
        rows.append({"metric": NAMES[metric], **dict(zip(by, variant, strict=True)), **shown,
                     "conclusion": "; ".join(words), "sides": tuple(sides)})
    found = pd.DataFrame(rows)
    recorded = found[found[by[0]] == RECORDED].set_index("metric")["sides"]
    found["survives"] = found["sides"] == found["metric"].map(recorded)
    place = {metric: at for at, metric in enumerate(found["metric"].unique())}
    return found.drop(columns="sides").sort_values("metric", key=lambda names: names.map(place), kind="stable")


def _side(side: int, what: str) -> str:
    return {1: f"more alike than {what}", -1: f"less alike than {what}", 0: f"not told apart from {what}"}[side]


def sentences(table: pd.DataFrame, by: list[str]) -> str:
    """A table of `survived` in words: per metric, what was concluded and which variants turn it; Markdown."""
    lines = []
    for metric, rows in table.groupby("metric", sort=False):
        recorded = rows[rows[by[0]] == RECORDED].iloc[0]
        others = rows[rows[by[0]] != RECORDED]
        line = (f"- {metric}: {recorded['conclusion']}. This survives {int(others['survives'].sum())} of {len(others)} "
                "changes")
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


def curves(audit: pd.DataFrame) -> pd.DataFrame:
    """An `audit_table` for a figure over strength: a row "as recorded" (strength 0) for each attack, metrics named."""
    recorded = audit[audit["attack"] == RECORDED]
    attacks = audit[audit["attack"] != RECORDED]
    starts = [recorded.assign(attack=attack) for attack in attacks["attack"].unique()]
    table = pd.concat([*starts, attacks], ignore_index=True)
    return table.assign(metric=table["metric"].map(NAMES), strength=[f"{s:g}" for s in table["strength"]])
