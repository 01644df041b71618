"""Sentences of the verdict chapter, each chosen by a test of the tables it speaks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hrsa.report.chapters import COMMITTED
from hrsa.verdict.claims import FAILS, HOLDS, INCONCLUSIVE, NOT_TESTABLE, OUTCOMES

MEANINGS = {
    "different": "the two arms differ, and a difference as large as the margin is not excluded",
    "equivalent": "the two arms score the same within the margin, and no difference was shown",
    "negligible": "the two arms differ, but by less than the margin",
    "inconclusive": "these data show neither a difference nor that there is none that matters",
}


def statement_sentence(statements: Sequence[dict[str, Any]], first: bool,
                       changed: Sequence[tuple[str, Any, Any, str]]) -> str:
    """What was stated, whether before the first score, and whether it was changed."""
    last = statements[-1]
    order = "before the first score was written" if first else "**after the first score was written**"
    later = "It was not changed since." if not changed else "**It was changed:** " + "; ".join(
        f"{item}: {before} became {after} on {written}" for item, before, after, written in changed) + "."
    seeds, pairs = ", ".join(map(str, last["seeds"])), ", ".join(last["family"])
    return (f"Statement `{last['hash']}`: a difference counts when it exceeds **{last['margin']:g}** score points "
            f"(of 1), error rate {last['alpha']:g} for each family of claims, seeds {seeds}, pairs {pairs}. It was "
            f"recorded {order}. {later}")


def evidence_sources(pool: Any, stated: Sequence[int]) -> str:
    """Whose scores a verdict rests on, from a `evidence.Pool`, and what seeds beyond those stated do to it."""
    table = pool.sources
    seeds = ", ".join(map(str, pool.seeds))
    if len(table) == 1:
        told = f"The scores are those of one source ({table['source'].iloc[0]}), seeds {seeds}."
    else:
        told = f"The scores of {len(table)} sources are joined ({', '.join(table['source'])}), seeds {seeds}."
    if len(set(table["code"])) > 1:
        told += " **They were scored by different states of the code.**"
    more = sorted(set(pool.seeds) - set(stated))
    if more:
        told += (f" Seeds {', '.join(map(str, more))} are not in the statement. A verdict that is looked at again "
                 "whenever seeds come in errs more often than stated, unless their number was fixed beforehand.")
    return told


def verdict_lines(table: pd.DataFrame) -> str:
    """One line per pair, on all tasks, from `hrsa.verdict.synthesis.score_verdicts`."""
    lines = []
    for row in table[table["family"] == "all"].to_dict("records"):
        why = row["reason"]
        if not why and row["verdict"] == "inconclusive":
            why = f"a margin of {row['smallest_margin']:.3f} is the smallest that they could have proved"
        softer = "" if row["alone"] == row["verdict"] else f" Without correction for the family: {row['alone']}."
        lines.append(f"- **{row['pair']}** ({row['kind']}): **{row['verdict']}**. b - a = {row['difference']:+.4f} "
                     f"[{row['low']:+.4f}, {row['high']:+.4f}]: {MEANINGS[row['verdict']]}"
                     f"{f' ({why})' if why else ''}.{softer}")
    return "\n".join(lines)


def families_agree(table: pd.DataFrame) -> str:
    """Which families of tasks share the overall verdict of their pair, and which do not."""
    lines = []
    for pair, rows in table.groupby("pair", sort=False):
        overall = rows.loc[rows["family"] == "all", "verdict"].iloc[0]
        others = rows[rows["family"] != "all"]
        odd = others[others["verdict"] != overall]
        alike = f"every family gets the overall verdict, {overall}" if odd.empty else "; ".join(
            f"{row.family} is {row.verdict}" for row in odd.itertuples()) + f", while all tasks together are {overall}"
        lines.append(f"- {pair}: {alike}.")
    return "\n".join(lines)


def headline(claims: pd.DataFrame) -> str:
    """How the paper's claims fared, and what became of the null effect."""
    counts = claims["outcome"].value_counts().reindex(OUTCOMES, fill_value=0)
    null = claims[(claims["level"] == "scores") & claims["claim"].str.contains("all tasks")]
    said = {HOLDS: "holds", FAILS: "fails", INCONCLUSIVE: "is not decided", NOT_TESTABLE: "is not testable"}
    effect = "; ".join(f"for {row.pair} it {said[row.outcome]}" for row in null.itertuples()) or "no pair tests it"
    return (f"Of {len(claims)} claims tested (a claim counts once per pair), {counts[HOLDS]} hold, {counts[FAILS]} "
            f"fail, {counts[INCONCLUSIVE]} stay inconclusive and {counts[NOT_TESTABLE]} are not testable in this run. "
            f"The null effect on scores: {effect}.")


def error_sentences(shares: pd.DataFrame) -> str:
    """What a verdict's error consists of mostly, from `power.variance_shares` of several pairs (column pair)."""
    names = {"seed": "training runs differ", "task": "tasks respond differently", "seed_task": "runs differ by task",
             "query": "queries respond differently", "residual": "single queries are noisy from run to run"}
    lines = []
    for pair, rows in shares.groupby("pair", sort=False):
        if rows["share"].isna().all():
            lines.append(f"- {pair}: no variation was measured.")
            continue
        top = rows.loc[rows["share"].idxmax()]
        lines.append(f"- {pair}: most of the error ({top['share']:.0%} of the variance) comes from this: "
                     f"{names[top['component']]}.")
    return "\n".join(lines)


def analyses_agree(table: pd.DataFrame) -> str:
    """Whether other analyses of a pair say the same, from `hrsa.verdict.sensitivity.sensitivity` (column pair)."""
    lines = []
    for pair, rows in table.groupby("pair", sort=False):
        main = rows.loc[rows["method"] == "verdict", "verdict"].iloc[0]
        odd = [f"{row.method}: {row.verdict}" for row in rows.itertuples() if row.verdict != main]
        lines.append(f"- {pair}: every analysis says {main}." if not odd else
                     f"- {pair}: the verdict is {main}; other analyses say otherwise ({'; '.join(odd)}).")
    return "\n".join(lines)


def simulation_sentence(table: pd.DataFrame, alpha: float = 0.05) -> str:
    """Whether the simulation bears out the verdict's promises, from the table of `benchmarks/verdict.py`."""
    every = table[table["method"] == "verdict"]
    own, beyond = every[~every["limit"]], every[every["limit"]]
    allowed = alpha + 3 * np.sqrt(alpha * (1 - alpha) / own["repeats"])
    kept = bool((own["false_equivalence"] <= allowed).all() and (own["false_difference"] <= allowed).all())
    gap = (own["power_at_zero"] - own["planned"]).abs().max()
    others = table[table["method"] != "verdict"].groupby("method", sort=False)["false_equivalence"].max()
    usual = ", ".join(f"{name}: {rate:.0%}" for name, rate in others.items())
    promise = "The rule keeps its promise" if kept else "**The rule breaks its promise**"
    broken = "; ".join(f"{row.scenario}, {row.false_equivalence:.1%}" for row in beyond.itertuples())
    return (f"{promise}: with a true difference of exactly one margin it claims equivalence in at most "
            f"{own['false_equivalence'].max():.1%} of simulated studies in any of {len(own)} scenarios, and without a "
            f"difference it claims one in at most {own['false_difference'].max():.1%} (allowed: {alpha:.0%} and Monte "
            f"Carlo error, at most {allowed.max():.1%}). The planner's power is off by {gap:.3f} at most. Worst case "
            f"of the usual practice, false claims of sameness: {usual}. Where its assumptions fail the rule has no "
            f"warranty (false claims of equivalence: {broken or 'not simulated'}).")


def simulation_origin(record: Mapping[str, Any], code: str) -> str:
    """Where a committed result comes from, and whether `code`, the hash of the present code, is what made it."""
    now = "by the code as it is now" if record["code"] == code else \
        "**by an earlier state of the code: run the command again**"
    repeats, seconds = record["settings"]["repeats"], record["seconds"]
    return (f"Committed result of `{record['command']}`: {repeats} studies per scenario and truth, {seconds:.0f} s on "
            f"{record['machine']}, {record['written'][:10]}, made {now}.")


def sight(controls: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """One sentence: could this run have seen a difference, and did it see the SFT arm's?"""
    blind = controls.loc[~controls["sees"], "pair"].tolist()
    overall = verdicts[(verdicts["family"] == "all") & (verdicts["kind"] == "SFT")]
    seen = overall.loc[overall["holm_difference"] < overall["alpha"], "pair"].tolist()
    arm = f"The SFT arm's difference was detected ({', '.join(seen)})." if seen else \
        "No SFT arm's difference was detected." if len(overall) else "There is no SFT arm."
    if blind:
        return (f"**This run is unable to see a difference of one margin** for {', '.join(blind)}: an injected shift "
                f"went undetected, so that nothing follows from a difference not found there. {arm}")
    return f"An injected shift of one margin is detected in every pair: this run can see. {arm}"


def power_advice(table: pd.DataFrame, margin: float) -> str:
    """One sentence: the cheapest size of a `power_table` that is enough, fewest seeds first, then fewest queries."""
    enough = table[table["enough"]]
    if enough.empty:
        best = table.loc[table["provable"].idxmin()]
        return (f"No size in the table proves a margin of {margin:g}; the largest effort ({best['seeds']:.0f} seeds, "
                f"{best['queries']:.0f} queries per task) proves {best['provable']:.3g}. What limits it is not the "
                "number of seeds and queries alone: more tasks, or less variation between runs, would be needed.")
    first = enough.sort_values(["seeds", "queries"]).iloc[0]
    hours = "" if pd.isna(first["hours"]) else f", about {first['hours']:.1f} hours of training and scoring"
    return (f"A margin of {margin:g} is proved with power {first['power']:.2f} by {first['seeds']:.0f} seeds and "
            f"{first['queries']:.0f} queries per task{hours}.")


def committed_origin(record: dict[str, Any]) -> str:
    """Markdown: which run the committed tables are of."""
    profile = record["profile"]
    return (f"**Committed results.** The tables marked *{COMMITTED}* are those of profile `{profile['name']}`: "
            f"{len(profile['backbones'])} backbones, {len(profile['seeds'])} seeds, {record['hours']:.1f} hours of "
            f"computing on {record['machine']}, written {record['written']} by `{record['command']}` at commit "
            f"`{record['commit'][:12]}`. They were not computed by this run.")
