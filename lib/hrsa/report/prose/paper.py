"""What the paper's published numbers allow to be said, and tables of them beside this run's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from hrsa.report.plots.cards import Card, Outcome
from hrsa.similarity.metrics import METRICS
from hrsa.verdict import published
from hrsa.verdict.claims import FAILS, HOLDS, INCONCLUSIVE, NOT_TESTABLE

_TEXTS = {"CoT": "maths", "MMLU-Pro": "general"}  # the paper's texts -> the set of probe texts that is closest


def entropy_table() -> pd.DataFrame:
    """Published inverse row entropy: pair, kind, and a column for backbones and embedders on each kind of text."""
    table = published.entropy_cells()
    heads = [f"{models}, {_TEXTS[text]}" for models in ("backbones", "embedders") for text in table["text"].unique()]
    rows = [(pair, kind, *part["backbones"], *part["embedders"])
            for (pair, kind), part in table.groupby(["pair", "kind"], sort=False)]
    return pd.DataFrame(rows, columns=["pair", "kind", *heads])


def overlap_table(curve: pd.DataFrame, pair: str) -> pd.DataFrame:
    """Mean k-NN overlap over layers, this run's and the published: pair, models and a column for each k.

    curve: `curve.parquet` of a pair's k-NN overlap, over seeds.
    """
    mine = curve.pivot_table(index="models", columns="k", values="value").reset_index().assign(pair=f"this run, {pair}")
    rows = [{"pair": f"published, {name}", "models": models, **dict(zip(part["k"], part[models], strict=True))}
            for name, part in published.overlap_cells().groupby("pair", sort=False)
            for models in ("backbones", "embedders")]
    table = pd.concat([mine, pd.DataFrame(rows)])
    table = table[["pair", "models", *sorted(set(table.columns) - {"pair", "models"})]]
    return table.rename(columns=lambda c: c if isinstance(c, str) else f"k = {c}")


def published_scores_said(table: pd.DataFrame) -> str:
    """What `published.reanalyse` allows to be said about the cells of RLVR pairs, over its readings."""
    rlvr = table[table["kind"].str.startswith("RLVR")]
    margin, readings = rlvr["margin"].iloc[0], rlvr["reading"].nunique()
    different = rlvr[rlvr["verdict"].isin(["different", "negligible"])]
    same = rlvr[rlvr["verdict"].isin(["equivalent", "negligible"])]
    by_cell = different.groupby(["pair", "benchmark"]).size()
    always = [f"{pair} on {benchmark}" for (pair, benchmark), n in by_cell.items() if n == readings]
    counts = same.groupby("reading").size().reindex(rlvr["reading"].unique(), fill_value=0)
    cells = len(rlvr) // readings
    span = f"{counts.min()} to {counts.max()} of {cells} cells, depending on the reading" \
        if counts.min() < counts.max() else f"{counts.min()} of {cells} cells under every reading"
    told = f"differ from zero under every reading: {', '.join(always)}" if always else \
        "none differs from zero under every reading"
    return (f"Published, RLVR pairs, {cells} cells, Holm over all cells of a reading: {told}. Within a margin of "
            f"{margin:g} {'point' if margin == 1 else 'points'}, equivalence is shown for {span}. "
            + ("\"Statistically identical\" is therefore not what the published numbers say: some differences are "
               "real." if always else "No published difference is beyond doubt."))


def realignment_counted(table: pd.DataFrame) -> str:
    """How many RLVR pairs rise in inverse row entropy, from `published.rises_in_entropy`."""
    parts = [f"{row.rise} of {row.pairs} on {row.text} text (sign test for a rise: p = {row.p_rise:.2f})"
             for row in table.itertuples()]
    most = (2 * table["rise"] > table["pairs"]).all()
    return ("Published RLVR pairs whose inverse row entropy rises in contrastive training: " + ", ".join(parts) + ". "
            + ("Most rise." if most else "A general rise of RLVR pairs is not shown by these numbers."))


MARKS = {HOLDS: "\N{CHECK MARK}", FAILS: "\N{BALLOT X}", INCONCLUSIVE: "?", NOT_TESTABLE: "\N{EN DASH}"}
_SAID = "said, without a number"


def _published_scores() -> str:
    cells = published.score_cells()
    rlvr = cells.loc[cells["kind"].str.startswith("RLVR"), "delta"]
    return f"{rlvr.min():+.2f} to {rlvr.max():+.2f} points in {len(rlvr)} cells of RLVR pairs"


def _published_entropy(*models: str) -> Callable[[], str]:
    def said() -> str:
        rows = published.entropy_cells()
        rows = rows[rows["kind"] == "RLVR"].dropna(subset=list(models))
        spans = [f"{name} {rows[name].min():.2f} to {rows[name].max():.2f}" for name in models]
        return f"{', '.join(spans)} ({rows['pair'].nunique()} RLVR pairs)"

    return said


def _published_overlap() -> str:
    rows = published.overlap_cells()
    rows = rows[rows["kind"].str.startswith("RLVR")]
    return "; ".join(f"{row.pair}, k = {row.k}: {row.backbones:.3f} before, {row.embedders:.3f} after"
                     for row in rows[rows["k"] == rows["k"].median()].itertuples())


@dataclass(frozen=True)
class _Shown:
    """A claim that has a card: its title there, how its text begins, its metric, its chapter, what was published."""

    title: str
    claim: str
    metric: str
    chapter: str
    published: Callable[[], str] | None = None


_CARDS = (
    _Shown("An RLVR start scores like its base", "Null effect: an RLVR start scores like its base, all tasks", "",
           "04_evaluation", _published_scores),
    _Shown("RLVR keeps what each dimension means", "RLVR keeps the representation", "correlation", "05_correlation"),
    _Shown("RLVR keeps the basis", "RLVR keeps the basis", "inverse_row_entropy", "06_procrustes",
           _published_entropy("backbones")),
    _Shown("RLVR leaves the global geometry near-isometric", "RLVR leaves the global geometry", "debiased_cka",
           "07_cka"),
    _Shown("SFT changes a backbone more than RLVR", "SFT changes a backbone more", "debiased_cka", "07_cka"),
    _Shown("Contrastive training realigns the basis", "Contrastive training realigns the basis",
           "inverse_row_entropy", "06_procrustes", _published_entropy("backbones", "embedders")),
    _Shown("Contrastive training realigns the global geometry", "Contrastive training realigns the global",
           "debiased_cka", "07_cka"),
    _Shown("Neighbourhoods do not come back", "Local neighbourhoods do not come back", "knn", "08_knn",
           _published_overlap),
    _Shown("Neighbourhoods stay reorganised", "Local neighbourhoods stay reorganised", "knn", "08_knn"),
    _Shown("A readout of the base works on the RLVR model", "Readouts transfer", "probe_delta", "09_probes"),
)


def claim_cards(table: pd.DataFrame) -> list[Card]:
    """A card for each main claim that this run tests, from `claims.all_claims`; an outcome for every pair."""
    found = []
    for shown in _CARDS:
        rows = table[table["claim"].str.startswith(shown.claim)]
        if len(set(rows["rule"])) > 1:  # one claim by several metrics: that of the card
            rows = rows[rows["rule"].str.contains(METRICS[shown.metric].name, regex=False)]
        rows = rows[rows["value"].notna()] if rows["value"].notna().any() else rows
        if rows.empty:
            continue
        outcomes = tuple(Outcome(f"{row.pair}:", row.outcome, row.measured) for row in rows.itertuples())
        by = METRICS[shown.metric].name if shown.metric in METRICS else \
            "loss of a probe carried over" if shown.metric else "mean score over tasks"
        said = shown.published() if shown.published else _SAID
        found.append(Card(shown.title, f"By {by}", said, outcomes,
                          (f"{shown.chapter}.html", f"Evidence: chapter {int(shown.chapter[:2])}")))
    return found
