"""Yardsticks in words: which side of them means what, what variance comes from, and on how many tokens values rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.pairs import MEAN_LAYER, PairTable
from hrsa.analysis.variance import NEITHER, SAME_ARM, SOURCES, TWO_RUNS
from hrsa.report.foreign import as_code, as_markdown
from hrsa.report.prose.scores import counted
from hrsa.report.prose.similarity import value_said
from hrsa.similarity.metrics import METRICS, shown_k
from hrsa.study import store
from hrsa.verdict.claims import FURTHER, INCONCLUSIVE, LESS_FAR, NOT_COMPARED, movements

_SCORES = {"items": "score of one item", "mean": "mean score"}  # whose variance is taken apart
_WITH_N = {"up": "rises", "down": "falls"}
_MISSING = "- **Not compared**"
_ONE_ORDER = "there is one order of the data, and with it no two runs of one recipe to hold the arms against"


def sides_said(curve: pd.DataFrame) -> str:
    """What the embedders of a `read_over_seeds` table can be held against; empty where there are none."""
    if "embedders" not in set(curve["models"]):
        return ""
    if curve["runs"].isna().all():
        return f"For the embedders {_ONE_ORDER}."
    return (f"Hold two runs of one recipe and {NEITHER} against each other; the embedders' own line, with one order "
            "for both arms, is no measure of noise.")


def tokens_said(table: pd.DataFrame, metrics: Sequence[str]) -> str:
    """On how many tokens the values of a table with column n rest, and which metrics depend on that number."""
    counts = sorted(table["n"].dropna().unique())
    where = " and ".join(f"{n:,.0f}" for n in counts) if counts else "an unrecorded number of"
    parts = [f"{METRICS[key].name} {_WITH_N[METRICS[key].with_n]}" for key in metrics if METRICS[key].with_n]
    steady = [METRICS[key].name for key in metrics if not METRICS[key].with_n]
    said = f"Values are of {where} tokens."
    if parts:
        what = "them" if len(parts) > 1 else "it"
        said += f" As tokens are added, {', '.join(parts)}: hold {what} only against values on as many."
    if steady:
        verb = "gets" if len(steady) == 1 else "get"
        said += f" Their number does not move {' or '.join(steady)}, which only {verb} less noisy."
    return said


def layers_said(folder: Path, metrics: Sequence[str]) -> str:
    """What the variance of a pair's embedders comes from, mean over layers, Markdown; `folder`: of its comparison."""
    file = folder / PairTable.VARIANCE
    if not file.is_file():
        return "The pair has no embedders, whose variance could be taken apart."
    table = store.read_table(file)
    table = table[table["layer"] == MEAN_LAYER]
    shown = shown_k(table["k"].dropna()) if table["k"].notna().any() else None
    table = table[table["k"].isna() | (table["k"] == shown).fillna(False)]
    return "\n".join(f"- {METRICS[metric].name}{'' if shown is None else f' (k = {shown})'}: "
                     f"{_sources_said(table[table['metric'] == metric])}" for metric in metrics)


def scores_said(table: pd.DataFrame) -> str:
    """What the variance of scores comes from, for each pair, Markdown; from `synthesis.score_variances`."""
    return "\n".join(f"- {pair}, the {_SCORES[of]}: {_sources_said(rows)}"
                     for (pair, of), rows in table.groupby(["pair", "of"], sort=False))


def _sources_said(rows: pd.DataFrame) -> str:
    """One place of a table of `variance.sources` in words."""
    place = _place(rows)
    if place["untold"]:
        return f"{place['untold']}."
    said = ", ".join(f"{place[part]} from {_of(part)}" for part in SOURCES)
    noise = np.isfinite(rows.loc[rows["part"].isin(SOURCES), "share_low"]).any()
    told = "without intervals" if not noise else \
        f"shown to be above zero: {', '.join(place['shown'])}" if place["shown"] else "none is shown to be above zero"
    over = f", intervals over {place['over']}" if place["over"] else ""
    return f"{said} ({rows['orders'].iloc[0]} orders{over}; {told})."


def _place(rows: pd.DataFrame) -> dict[str, Any]:
    """One place of a table of `variance.sources`: its columns of `source_table` but for pair and of."""
    by = rows.set_index("part")
    why = _untold(by)
    return {"untold": why, "over": by["over"].iloc[0],
            "shown": [part for part in SOURCES if by["share_low"][part] > 0],
            **{part: None if why else _share_said(by.loc[part]) for part in SOURCES}}


def _untold(by: pd.DataFrame) -> str:
    """Why the parts of one place, indexed by part, are not told from each other; empty where they are."""
    if not np.isfinite(by["value"][SAME_ARM]):
        return _ONE_ORDER
    if not np.isfinite(by["share"][SOURCES[0]]):
        return "no variance was measured"
    shares = by.loc[list(SOURCES)]
    if (shares["share_high"] - shares["share_low"] > 1).any():
        return f"too little variance to tell its parts from each other with {by['orders'].iloc[0]} orders"
    return ""


def _share_said(row: pd.Series) -> str:
    return f"{row['share']:.1%}{_span(row['share_low'], row['share_high'])}"


def _of(source: str) -> str:
    return {"arm": "the arm", "order": "the order"}.get(source, "both together")


def _span(low: float, high: float) -> str:
    return f" [{low:.1%}, {high:.1%}]" if np.isfinite(low) else ""


def distance_table(table: pd.DataFrame) -> pd.DataFrame:
    """`synthesis.make_similarity_sources` for reading: pair, similarity, a column for each of `variance.TWO_RUNS`."""
    rows = []
    for (pair, metric, k), part in table.groupby(["pair", "metric", "k"], sort=False, dropna=False):
        cells = {row["part"]: f"{row['value']:.2g}{_bounds(row['low'], row['high'])}"
                 for row in part.to_dict("records") if row["part"] in TWO_RUNS and np.isfinite(row["value"])}
        rows.append({"pair": pair, "similarity": similarity_name(metric, k),
                     **{kind: cells.get(kind) for kind in TWO_RUNS}})
    return pd.DataFrame(rows)


def share_table(table: pd.DataFrame) -> pd.DataFrame:
    """`synthesis.make_similarity_sources` for a figure: pair, similarity, part, share, low, high of every source."""
    rows = table[table["part"].isin(SOURCES)]
    names = [similarity_name(metric, k) for metric, k in zip(rows["metric"], rows["k"], strict=True)]
    shown = rows.assign(similarity=names)[["pair", "similarity", "part", "share", "share_low", "share_high"]]
    return shown.rename(columns={"share_low": "low", "share_high": "high"}).reset_index(drop=True)


def score_parts(table: pd.DataFrame) -> pd.DataFrame:
    """`synthesis.score_variances` for reading, in squared points (scores x 100): pair, of, part, value, low, high,
    share."""
    scaled = {name: 1e4 * table[name] for name in ("value", "low", "high")}
    return table.assign(**scaled)[["pair", "of", "part", "value", "low", "high", "share"]]


def similarity_name(metric: str, k: int | None = None) -> str:
    """The printed name of a metric, with its number of neighbours."""
    return METRICS[metric].name + ("" if k is None or pd.isna(k) else f", k = {k:.0f}")


def _bounds(low: float, high: float) -> str:
    return f" [{low:.2g}, {high:.2g}]" if np.isfinite(low) else ""


def similarity_table(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `synthesis.make_similarities` for reading: value and distance from identical models, with intervals.

    Columns: pair, metric, models, "value [interval]", "from identical [interval]" (none for readouts), n (tokens, where
    the value depends on them and they are known) and source.
    """
    rows = []
    for row in table.to_dict("records"):
        bounds, metric = [row["value"], row["low"], row["high"]], METRICS.get(row["metric"])
        away = None if metric is None else metric.apart(bounds)
        rows.append({"pair": row["pair"], "metric": metric.name if metric else "loss of a carried readout",
                     "models": row["models"], "value [interval]": value_said(*bounds),
                     "from identical [interval]": None if away is None else
                     f"{away[0]:.2g}{_bounds(*sorted(away[1:]))}",
                     "n": row.get("n", np.nan) if metric and metric.with_n else np.nan, "source": row["source"]})
    return pd.DataFrame(rows).astype({"n": "Int64"})


def readouts_said(cost: pd.DataFrame) -> str:
    """What readouts lose between embedders of two arms and between two runs of one recipe; from `probes` over seeds."""
    rows = cost[(cost["models"] == "embedders") & cost["crossed"].notna()] if "crossed" in cost else cost.iloc[:0]
    if rows.empty:
        return f"Without embedders of two orders, {_ONE_ORDER}."
    lines = []
    for row in rows.to_dict("records"):
        apart = row["crossed_low"] > row["runs_high"]
        crossed, runs = (value_said(*(row[name + end] for end in ("", "_low", "_high")))
                         for name in ("crossed", "runs"))
        told = "the arm costs more than another run does" if apart else "no loss beyond that of another run is shown"
        lines.append(f"- {row['task']}, {as_markdown(row['set'])} texts, {row['split']}: {NEITHER} lose {crossed}, two "
                     f"runs of one recipe {runs}: {told}.")
    return "\n".join(lines)


def sources_said(places: pd.DataFrame) -> str:
    """In how many places of `source_table` which part of the variance is shown, and where nothing can be told."""
    if places.empty:
        return "No variance was committed."
    told = places[places["untold"] == ""]
    lines = ["1 similarity or score of a pair was taken apart." if len(places) == 1 else
             f"{len(places)} similarities and scores of pairs were taken apart."]
    if over := " or ".join(filter(None, told["over"].unique())):
        lines.append(f"Intervals are over {over}{'' if 'orders' in over else ', of orders there are too few'}.")
    lines += [f"Not told for {n}: {why}." for why, n in places["untold"].value_counts().items() if why]
    for part in SOURCES if len(told) else ():
        shown = told[told["shown"].map(lambda parts, part=part: part in parts)]
        named = "; ".join(f"{row.pair}, {row.of}" for row in shown.itertuples()) if 0 < len(shown) < len(told) else ""
        lines.append(f"A part from {_of(part)} is shown to be above zero in {len(shown)} of {len(told)}"
                     f"{f' ({named})' if named else ''}.")
    return " ".join(lines)


def source_table(similarities: pd.DataFrame | None, scores: pd.DataFrame | None) -> pd.DataFrame:
    """A row for each pair and similarity (`synthesis.make_similarity_sources`) or score (`synthesis.score_variances`):
    pair, of, a column for each of `variance.SOURCES` in words, shown (those above zero), untold (why none is said),
    over (what intervals resample).

    None where a study has not committed one.
    """
    rows = [] if similarities is None or similarities.empty else [
        {"pair": pair, "of": similarity_name(metric, k), **_place(part)}
        for (pair, metric, k), part in similarities.groupby(["pair", "metric", "k"], sort=False, dropna=False)]
    if scores is not None and not scores.empty:
        rows += [{"pair": pair, "of": _SCORES[of], **_place(part)}
                 for (pair, of), part in scores.groupby(["pair", "of"], sort=False)]
    return pd.DataFrame(rows, columns=["pair", "of", *SOURCES, "shown", "untold", "over"])


def updates_of(cards: Mapping[str, Mapping[str, Any]], similar: pd.DataFrame,
               profile: Mapping[str, Any]) -> dict[str, int]:
    """How many updates arm b of every compared pair took, by pair, where its card says so."""
    arms = {pair["name"]: pair["b"] for pair in (*profile["pairs"], *profile.get("analysis_pairs", ()))}
    return {name: cards[arms[name]]["steps"] for name in similar["pair"].unique() if arms.get(name) in cards}


def committed_movement(name: str, tables: Mapping[str, pd.DataFrame], profile: Mapping[str, Any],
                       cards: Mapping[str, Mapping[str, Any]], said: Sequence[str] = ()) -> str:
    """`movement_said` of a committed study under its name, Markdown; without what `said`, these words of the studies
    before it, has already. What could not be compared is told of the first alone. Empty where nothing is new."""
    similar = tables["similarities"]
    lines = movement_said(movements(similar, profile), updates_of(cards, similar, profile)).split("\n")
    before = {line for words in said for line in words.split("\n")}
    new = [line for line in lines if line not in before and (not said or not line.startswith(_MISSING))]
    return "\n".join([f"Study {as_code(name)}, committed:", "", *new]) if new else ""


def movement_said(found: pd.DataFrame, updates: Mapping[str, int] | None = None) -> str:
    """Whether RLVR moves a backbone further than other training does, Markdown; from `claims.movements`.

    `updates`: by pair, those of its arm b (or of both), said where they are known.
    """
    if found.empty:
        return "No RLVR pair is among these, so that nothing can be said of how far RLVR moves a backbone."
    lines, missing = [], []
    for (pair, against), rows in found.groupby(["pair", "against"], sort=False):
        if (rows["answer"] == NOT_COMPARED).all():
            missing.append(f"{pair} with {against}")
            continue
        for other, part in rows.groupby("other", sort=False):
            sizes = [name + (f", {counted(updates[name], 'update')}" if updates and name in updates else "")
                     for name in (pair, other)]
            told = "; ".join(f"{answer} by {', '.join(_compared(row) for row in some.to_dict('records'))}"
                             for answer, some in part.groupby("answer", sort=False))
            lines.append(f"- Does RLVR ({sizes[0]}) move a backbone further than {against} ({sizes[1]})? "
                         f"**{_answer(list(part['answer']))}**: {told}.")
    if missing:
        lines.append(f"{_MISSING}, for want of a pair to hold it against: {'; '.join(missing)}.")
    return "\n".join(lines)


def _answer(answers: list[str]) -> str:
    kinds = set(answers)
    if len(kinds) == 1:
        return {FURTHER: "Yes", LESS_FAR: "No, less far", INCONCLUSIVE: "Inconclusive"}[answers[0]]
    clear = kinds - {INCONCLUSIVE}
    if len(clear) > 1:
        return "The measures disagree"
    return ("Yes" if clear == {FURTHER} else "No, less far") + ", where it can be told"


def _compared(row: dict) -> str:
    mine, theirs = ([row[before + end] for end in ("value", "low", "high")] for before in ("", "other_"))
    return f"{METRICS[row['metric']].name} ({value_said(*mine)} against {value_said(*theirs)})"
