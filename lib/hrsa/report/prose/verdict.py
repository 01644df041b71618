"""Sentences of the verdict chapter, each chosen by a test of the tables it speaks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hrsa.report.chapters import COMMITTED
from hrsa.report.foreign import as_code, as_markdown
from hrsa.report.prose.scores import counted
from hrsa.verdict.claims import FAILS, HOLDS, INCONCLUSIVE, NOT_TESTABLE, OUTCOMES
from hrsa.verdict.controls import AS_EXPECTED, CONTRARY, NOT_SHOWN, could_see

MEANINGS = {
    "different": "the two arms differ, and a difference as large as the margin is not excluded",
    "equivalent": "the two arms score the same within the margin, and no difference was shown",
    "negligible": "the two arms differ, but by less than the margin",
    "inconclusive": "these data show neither a difference nor that there is none that matters",
    "uninformative": "too few tasks could have shown a difference, so that nothing follows from none being found",
}


def statement_sentence(statements: Sequence[dict[str, Any]], first: bool,
                       changed: Sequence[tuple[str, Any, Any, str]]) -> str:
    """What was stated, whether before the first score, and whether it was changed."""
    last = statements[-1]
    order = "before the first score was written" if first else "**after the first score was written**"
    later = "It was not changed since." if not changed else "**It was changed:** " + "; ".join(
        f"{item}: {as_markdown(before)} became {as_markdown(after)} on {as_markdown(written)}"
        for item, before, after, written in changed) + "."
    seeds, pairs = ", ".join(map(str, last["seeds"])), ", ".join(last["family"])
    return (f"Statement {as_code(last['hash'])}: a difference counts when it exceeds **{last['margin']:g}** "
            f"score points (of 1), error rate {last['alpha']:g} for each family of claims, seeds {seeds}, pairs "
            f"{pairs}. It was recorded {order}. {later}")


def evidence_sources(pool: Any, stated: Sequence[int]) -> str:
    """Whose scores a verdict rests on, from a `evidence.Pool`, and what seeds beyond those stated do to it."""
    table = pool.sources
    seeds = ", ".join(map(str, pool.seeds))
    if len(table) == 1:
        told = f"The scores are those of one source ({as_markdown(table['source'].iloc[0])}), seeds {seeds}."
    else:
        sources = ", ".join(map(as_markdown, table["source"]))
        told = f"The scores of {len(table)} sources are joined ({sources}), seeds {seeds}."
    if len(set(table["code"])) > 1:
        told += " **They were scored by different states of the code.**"
    more = sorted(set(pool.seeds) - set(stated))
    if more:
        beyond = f"Seed {more[0]} is" if len(more) == 1 else f"Seeds {', '.join(map(str, more))} are"
        told += (f" {beyond} not in the statement. A verdict that is looked at again "
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
        over = f" over the {row['over']} of {row['tasks']} tasks that count" if row["over"] < row["tasks"] else ""
        lines.append(f"- **{row['pair']}** ({row['kind']}): **{row['verdict']}**. b - a = {row['difference']:+.4f} "
                     f"[{row['low']:+.4f}, {row['high']:+.4f}]{over}: {MEANINGS[row['verdict']]}"
                     f"{f' ({why})' if why else ''}.{softer}")
    return "\n".join(lines)


def tasks_that_count(table: pd.DataFrame) -> str:
    """Which tasks count for each pair, and why others do not, a list in Markdown; from `competence_by_task`."""
    lines = []
    for pair, rows in table.groupby("pair", sort=False):
        by_task = rows.groupby("task", sort=False)
        counts, both = by_task["counts"].first(), by_task["both"].first()
        told = f"- {pair}: {counts.sum()} of {len(counts)} tasks count, and on {both.sum()} both arms are competent"
        why = [f"{as_markdown(task)} ({_why_not(rows[rows['task'] == task])})" for task in both.index[~both]]
        lines.append(told + (f". Not on {', '.join(why)}." if why else "."))
    return "\n".join(lines)


def _why_not(rows: pd.DataFrame) -> str:
    """Why a task is none on which both arms are competent, from its rows."""
    if rows["saturated"].iloc[0]:
        return "saturated"
    fails = [f"{name}: {', '.join(arms)}" for name, column in (("not above chance", "beats_chance"),
                                                              ("not above its backbone", "beats_untrained"))
             if (arms := rows.loc[[answer is not None and not answer for answer in rows[column]], "arm"].tolist())]
    return "; ".join(fails)


def families_agree(table: pd.DataFrame) -> str:
    """Which families of tasks share the overall verdict of their pair, and which do not."""
    lines = []
    for pair, rows in table.groupby("pair", sort=False):
        overall = rows.loc[rows["family"] == "all", "verdict"].iloc[0]
        others = rows[rows["family"] != "all"]
        odd = others[others["verdict"] != overall]
        alike = f"every family gets the overall verdict, {overall}" if odd.empty else "; ".join(
            f"{as_markdown(row.family)} is {row.verdict}" for row in odd.itertuples()) + (
            f", while all tasks together are {overall}")
        lines.append(f"- {pair}: {alike}.")
    return "\n".join(lines)


def headline(claims: pd.DataFrame, controls: pd.DataFrame) -> str:
    """How the paper's claims fared, what became of the null effect, and whether the study could see a difference."""
    counts = claims["outcome"].value_counts().reindex(OUTCOMES, fill_value=0)
    null = claims[(claims["level"] == "scores") & claims["claim"].str.contains("all tasks")]
    said = {HOLDS: "holds", FAILS: "fails", INCONCLUSIVE: "is not decided", NOT_TESTABLE: "is not testable"}
    effect = "; ".join(f"for {row.pair} it {said[row.outcome]}" for row in null.itertuples()) or "no pair tests it"
    verbs = {HOLDS: ("hold", "holds"), FAILS: ("fail", "fails"), INCONCLUSIVE: (
        "stay inconclusive", "stays inconclusive"), NOT_TESTABLE: ("are not testable", "is not testable")}
    *fared, last = (f"{counts[outcome]} {verbs[outcome][int(counts[outcome] == 1)]}" for outcome in OUTCOMES)
    return (f"Of {counted(len(claims), 'claim')} tested (a claim counts once per pair), {', '.join(fared)} and {last} "
            f"in this run. The null effect on scores: {effect}. {sight(controls)}")


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


def analyses_agree(table: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Whether other analyses of a pair say what its verdict says, from `synthesis.other_analyses`."""
    words = verdicts[verdicts["family"] == "all"].set_index("pair")["verdict"]
    lines = []
    for pair, rows in table.groupby("pair", sort=False):
        main = words[pair]
        odd = [f"{row.method}: {row.verdict}" for row in rows.itertuples() if row.verdict != main]
        lines.append(f"- {pair}: every analysis says {main}." if not odd else
                     f"- {pair}: the verdict is {main}; other analyses say otherwise ({'; '.join(odd)}).")
    return "\n".join(lines)


def simulation_sentence(table: pd.DataFrame, alpha: float = 0.05) -> str:
    """Whether the simulation bears out the verdict's promises, from the table of `benchmarks/verdict.py`."""
    every = table[(table["method"] == "verdict") & table["uninformative"].isna()]
    own, beyond = every[~every["limit"]], every[every["limit"]]
    allowed = alpha + 3 * np.sqrt(alpha * (1 - alpha) / own["repeats"])
    kept = bool((own["false_equivalence"] <= allowed).all() and (own["false_difference"] <= allowed).all())
    gap = (own["power_at_zero"] - own["planned"]).abs().max()
    others = table[table["scenario"].isin(every["scenario"]) & (table["method"] != "verdict")]
    usual = ", ".join(f"{name}: {rate:.0%}"
                      for name, rate in others.groupby("method", sort=False)["false_equivalence"].max().items())
    promise = "The rule keeps its promise" if kept else "**The rule breaks its promise**"
    broken = "; ".join(f"{row.scenario}, {row.false_equivalence:.1%}" for row in beyond.itertuples())
    return (f"{promise}: with a true difference of exactly one margin it claims equivalence in at most "
            f"{own['false_equivalence'].max():.1%} of simulated studies in any of {len(own)} scenarios, and without a "
            f"difference it claims one in at most {own['false_difference'].max():.1%} (allowed: {alpha:.0%} and Monte "
            f"Carlo error, at most {allowed.max():.1%}). The planner's power is off by {gap:.3f} at most. Worst case "
            f"of the usual practice, false claims of sameness: {usual}. Where its assumptions fail the rule has no "
            f"warranty (false claims of equivalence: {broken or 'not simulated'}).")


def gate_sentence(table: pd.DataFrame, alpha: float = 0.05) -> str:
    """What the simulation says of the competence gate: on the floor, and what it costs where arms are competent."""
    gated = table[(table["method"] == "verdict") & table["uninformative"].notna()].set_index("scenario")
    open_ = table[table["method"] == "no gate"].set_index("scenario")
    floor, able = gated[gated["false_equivalence"].notna()], gated[gated["power_at_zero"].notna()]
    wanted = 1 - alpha - 3 * np.sqrt(alpha * (1 - alpha) / floor["repeats"])
    kept = bool((floor["uninformative"] >= wanted).all())
    told = "The gate holds" if kept else "**The gate does not hold**"
    lost = (open_["power_at_zero"].reindex(able.index) - able["power_at_zero"]).sort_values()
    return (f"{told}: of two embedders on the floor it says *uninformative* in {floor['uninformative'].min():.1%} of "
            f"simulated studies or more in each of {len(floor)} scenarios, and claims sameness in at most "
            f"{floor['false_equivalence'].max():.1%}; without it sameness would be claimed in up to "
            f"{open_['false_equivalence'].max():.0%}. Where both arms are competent it costs between "
            f"{max(lost.iloc[0], 0):.1%} and {lost.iloc[-1]:.1%} of the power ({lost.index[-1]}).")


def simulation_origin(record: Mapping[str, Any], code: str) -> str:
    """Where a committed result comes from, and whether `code`, the hash of the present code, is what made it."""
    now = "by the code as it is now" if record["code"] == code else \
        "**by an earlier state of the code: run the command again**"
    repeats, seconds = record["settings"]["repeats"], record["seconds"]
    return (f"Committed result of `{record['command']}`: {repeats} studies per scenario and truth, half as many of "
            f"those with baselines, {seconds:.0f} s on "
            f"{record['machine']}, {record['written'][:10]}, made {now}.")


def sight(controls: pd.DataFrame) -> str:
    """Could this study have seen a difference, by its positive controls (`hrsa.verdict.controls.control_verdicts`)?"""
    seen = could_see(controls)
    positive = controls.loc[controls["expects"] == "different", "control"].tolist()
    found = controls.loc[controls["control"].isin(positive) & (controls["outcome"] == AS_EXPECTED), "control"].tolist()
    if seen is None:
        return ("**No positive control was run**: whether this study could have seen a difference is not known, and "
                "nothing follows from one that was not found.")
    if not seen:
        return (f"**This study could not see.** No positive control was found different ({', '.join(positive)}), so "
                "that nothing follows from a difference that was not found.")
    which = (f"its {counted(len(found), 'positive control')}" if len(found) == len(positive) > 1 else
             "its positive control" if len(positive) == 1 else f"{len(found)} of {len(positive)} positive controls")
    return f"This study could see: {which} ({', '.join(found)}) {'was' if len(found) == 1 else 'were'} found different."


def controls_said(controls: pd.DataFrame) -> str:
    """What became of each control, a list in Markdown."""
    said = {AS_EXPECTED: "as expected", CONTRARY: "**contrary to what was expected**", NOT_SHOWN: "not shown"}
    return "\n".join(
        f"- {row['control']} ({row['compared']}): expected {row['expects']}, found **{row['verdict']}**, "
        f"{said[row['outcome']]}. b - a = {row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        f"{' (' + row['reason'] + ')' if row['reason'] else ''}." for row in controls.to_dict("records"))


def power_advice(table: pd.DataFrame, margin: float) -> str:
    """One sentence: the cheapest size of a `power_table` that is enough, fewest seeds first, then fewest queries."""
    enough = table[table["enough"]]
    if enough.empty:
        best = table.loc[table["provable"].idxmin()]
        return (f"No size in the table proves a margin of {margin:g}; the largest effort ({best['seeds']:.0f} seeds, "
                f"{best['queries']:.0f} queries per task) proves {best['provable']:.3g}. What limits it is not the "
                "number of seeds and queries alone: more tasks, or less variation between runs, would be needed.")
    first = enough.sort_values(["seeds", "queries"]).iloc[0]
    hours = "" if pd.isna(first["hours"]) else f", about {_spent(first['hours'])} of training and scoring"
    return (f"A margin of {margin:g} is proved with power {first['power']:.2f} by {first['seeds']:.0f} seeds and "
            f"{first['queries']:.0f} queries per task{hours}.")


def _spent(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(60 * hours, 1):.0f} min"


def committed_origin(record: dict[str, Any]) -> str:
    """Markdown: which run the committed tables are of."""
    profile = record["profile"]
    later = "" if "judged" not in record else (
        f" The scores are of that run; the verdicts on them were made again on {record['judged']['written'][:10]}, by "
        "a rule that holds embedders against untrained backbones and chance too.")
    return (f"**Committed results.** The tables marked *{COMMITTED}* are those of profile {as_code(profile['name'])}: "
            f"{counted(len(profile['backbones']), 'backbone')}, {counted(len(profile['seeds']), 'seed')}, "
            f"{record['hours']:.1f} hours of computing on {as_markdown(record['machine'])}, written "
            f"{as_markdown(record['written'])} by {as_code(record['command'])} at commit "
            f"{as_code(record['commit'][:12])}. They were not computed by this run.{later}")
