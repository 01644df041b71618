"""From scores to statements: tables by arm, differences between the arms of a pair, and what ablations change.

Every difference is `b` minus `a` of a pair, paired by seed and query, and judged by `hrsa.verdict.equivalence`. Tables name a
*condition*: "untrained" (the backbones as they came), "recipe" (embedders), or the name of an ablation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hrsa.analysis.ablations import RECIPE, UNTRAINED, condition
from hrsa.evaluation.evaluate import BM25
from hrsa.report.prose import similarity
from hrsa.study.profile import Model, Profile
from hrsa.verdict import evidence
from hrsa.verdict.equivalence import Verdict, verdict

ALL = "all tasks"
ALIKE = 1e-9  # scores closer than this are the same score
MEASURES = {"cka": "linear CKA", "debiased_cka": "debiased CKA"}


def described(profile: Profile, table: pd.DataFrame) -> pd.DataFrame:
    """A table with a column `model`, and beside it arm (backbone's name, or BM25), seed and condition."""
    known = {model.id: model for model in profile.models()}
    models = [known.get(name) for name in table["model"]]
    return table.assign(
        arm=["BM25" if model is None else model.backbone for model in models],
        seed=pd.array([None if model is None else model.seed for model in models], dtype="Int64"),
        condition=[BM25 if model is None else condition(model) for model in models])


def family_scores(profile: Profile, scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over a family's tasks, then over seeds: [condition, arm, family, value, low, high].

    low and high are the range of seeds, NaN for a single run.
    """
    rows = described(profile, scores)
    keys = ["condition", "arm", "family"]
    runs = rows.groupby([*keys, "model"], sort=False, as_index=False)["value"].mean()
    table = runs.groupby(keys, sort=False, as_index=False).agg(
        value=("value", "mean"), low=("value", "min"), high=("value", "max"), runs=("value", "size"))
    table.loc[table["runs"] == 1, ["low", "high"]] = np.nan
    return table.drop(columns="runs")


def overall_scores(profile: Profile, scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over tasks, then over seeds: [condition, arm, value, low, high], as `family_scores`."""
    whole = family_scores(profile, scores.assign(family=ALL))
    return whole.drop(columns="family")


def gains(profile: Profile, scores: pd.DataFrame) -> str:
    """What training did to each arm and where the embedders stand against BM25, a list in Markdown."""
    means = described(profile, scores).pivot_table(index="task", columns=["arm", "condition"], values="value")
    lines = []
    for backbone in profile.backbones:
        arm = backbone.name
        before, after = means[arm, UNTRAINED], means[arm, RECIPE]
        up = int((after > before).sum())
        moved = "raised" if after.mean() > before.mean() else "did not raise"
        line = (f"- {arm}: contrastive training {moved} the mean over tasks, {before.mean():.3f} before and "
                f"{after.mean():.3f} after; higher on {up} of {len(after)} tasks")
        if ("BM25", BM25) in means:
            lexical = means["BM25", BM25].dropna()
            over = int((after[lexical.index] > lexical).sum())
            line += f"; above BM25 on {over} of {len(lexical)} retrieval tasks"
        lines.append(line + ".")
    return "\n".join(lines)


def seeds_under(profile: Profile, name: str) -> list[int | None]:
    """Seeds that a condition was run with; [None] for untrained backbones."""
    if name in (UNTRAINED, RECIPE):
        return [None] if name == UNTRAINED else list(profile.seeds)
    found = [ablation.seeds for ablation in profile.ablations if ablation.name == name]
    if not found:
        raise ValueError(f"expected {UNTRAINED!r}, {RECIPE!r} or an ablation of profile {profile.name}, one of "
                         f"{[ablation.name for ablation in profile.ablations]}, got {name!r}")
    return list(found[0])


def paired(profile: Profile, per_query: pd.DataFrame, pair: str, name: str = RECIPE,
           seeds: Sequence[int | None] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of both arms under a condition: (seeds, queries) twice, and the task of each query (queries,)."""
    arms = profile.pair(pair)
    ablation = None if name in (UNTRAINED, RECIPE) else name
    wanted = seeds_under(profile, name) if seeds is None else list(seeds)
    ids = {Model(backbone=arm, seed=seed, ablation=ablation).id for arm in (arms.a, arms.b) for seed in wanted}
    return evidence.paired(per_query[per_query["model"].isin(ids)], arms.a, arms.b, wanted, ablation)


def differences(profile: Profile, per_query: pd.DataFrame, pair: str, name: str = RECIPE,
                seeds: Sequence[int | None] | None = None) -> pd.DataFrame:
    """b - a of one pair under one condition, for each task alone and for all: one row each.

    Columns: pair, condition, task ("all tasks" last), difference, low, high (1 - 2 alpha interval), verdict,
    p_difference, p_equivalence, smallest_margin, seeds, queries, reason. Tasks are judged one by one, without
    correction for their number; the study's claims, corrected, are those of the verdict chapter.
    """
    a, b, tasks = paired(profile, per_query, pair, name, seeds)
    rows = {task: _judge(profile, a[:, tasks == task], b[:, tasks == task]) for task in dict.fromkeys(tasks)}
    rows[ALL] = _judge(profile, a, b, tasks)
    fields = ("difference", "low", "high", "verdict", "p_difference", "p_equivalence", "smallest_margin", "seeds",
              "queries", "reason")
    return pd.DataFrame([{"pair": pair, "condition": name, "task": task, **{f: getattr(row, f) for f in fields}}
                         for task, row in rows.items()])


def _judge(profile: Profile, a: np.ndarray, b: np.ndarray, tasks: np.ndarray | None = None) -> Verdict:
    stated = profile.verdict
    return verdict(a, b, stated.margin, tasks, alpha=stated.alpha, resamples=stated.resamples)


def all_differences(profile: Profile, per_query: pd.DataFrame, conditions: Sequence[str],
                    seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """`differences` of every pair under every condition that both of its arms were scored under.

    `seeds`: only these (where a condition has them); None: all that a condition was run with.
    """
    models = set(per_query["model"])
    found = []
    for pair in profile.pairs:
        for name in conditions:
            ablation = None if name in (UNTRAINED, RECIPE) else name
            wanted = [seed for seed in seeds_under(profile, name) if seeds is None or seed in seeds]
            ids = {Model(backbone=arm, seed=seed, ablation=ablation).id for arm in (pair.a, pair.b) for seed in wanted}
            if ids and ids <= models:
                found.append(differences(profile, per_query, pair.name, name, wanted))
    if not found:
        raise ValueError(f"expected scores of both arms of a pair under one of {list(conditions)}, got scores of "
                         f"{sorted(models)}: evaluate these models, or name an ablation with both arms of a pair")
    return pd.concat(found, ignore_index=True)


def query_table(profile: Profile, scores: pd.DataFrame, per_query: pd.DataFrame, name: str = RECIPE) -> pd.DataFrame:
    """One row per item of every pair: [pair, task, family, a, b], the mean over seeds of each arm's score."""
    families = dict(zip(scores["task"], scores["family"], strict=True))
    tables = []
    for pair in profile.pairs:
        a, b, tasks = paired(profile, per_query, pair.name, name)
        tables.append(pd.DataFrame({"pair": pair.name, "task": tasks, "family": [families[task] for task in tasks],
                                    "a": a.mean(axis=0), "b": b.mean(axis=0)}))
    return pd.concat(tables, ignore_index=True)


def agreement(points: pd.DataFrame) -> str:
    """How far both arms succeed on the same items of `query_table`, a list in Markdown.

    The correlation is taken within tasks (scores less their task's mean), so that easy and hard tasks do not make it.
    """
    lines = []
    for pair, rows in points.groupby("pair", sort=False):
        gap = rows["b"] - rows["a"]
        alike, higher = (gap.abs() < ALIKE).mean(), (gap >= ALIKE).mean()
        within = rows[["a", "b"]] - rows.groupby("task")[["a", "b"]].transform("mean")
        varies = bool((within.std() > ALIKE).all())
        r = f"{within['a'].corr(within['b']):.2f}" if varies else "undefined, as an arm scores all items alike"
        lines.append(f"- {pair}: of {len(rows)} items {alike:.0%} are scored alike by both arms, {higher:.0%} higher "
                     f"by b and {1 - alike - higher:.0%} higher by a; correlation within tasks {r}.")
    return "\n".join(lines)


def sentence(row: pd.Series, margin: float) -> str:
    """One row of `differences` in words; what it says follows from the verdict alone."""
    said = {
        "different": "the arms differ",
        "equivalent": f"the arms are equivalent within ±{margin:g}",
        "negligible": f"the arms differ, by less than the margin of ±{margin:g}",
        "inconclusive": f"these data cannot tell ({row['reason'] or 'neither a difference nor its absence is shown'})",
    }[row["verdict"]]
    return (f"**{row['pair']}**, {row['condition']}, {row['task']}: b − a = {row['difference']:+.4f} "
            f"[{row['low']:+.4f}, {row['high']:+.4f}]; {said}.")


def counted(table: pd.DataFrame) -> str:
    """How many tasks of each pair and condition got which verdict, a list in Markdown."""
    lines = []
    for (pair, name), rows in table[table["task"] != ALL].groupby(["pair", "condition"], sort=False):
        counts = rows["verdict"].value_counts()
        found = ", ".join(f"{count} {word}" for word, count in counts.items())
        lines.append(f"- {pair}, {name}: of {len(rows)} tasks {found}")
    return "\n".join(lines)


def against_recipe(overall: pd.DataFrame) -> str:
    """Whether an ablation moves the difference between arms, by the intervals of "all tasks", a list in Markdown."""
    lines = []
    for pair, rows in overall.groupby("pair", sort=False):
        base = similarity.one(rows, condition=RECIPE)
        for _, row in rows[rows["condition"] != RECIPE].iterrows():
            side = similarity.order(row["low"], row["high"], base["low"], base["high"])
            said = {1: "is larger than", -1: "is smaller than", 0: "cannot be told from"}[side]
            lines.append(f"- {pair}: the difference under *{row['condition']}* {said} the recipe's by its interval.")
    return "\n".join(lines)


def likeness(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """`last.parquet` of several pairs in one table, seeds joined: [pair, condition, measure, value, low, high]."""
    table = similarity.over_seeds(pd.concat(tables, ignore_index=True))
    names = [MEASURES.get(metric) or f"k-NN overlap, k = {k:.0f}"
             for metric, k in zip(table["metric"], table["k"], strict=True)]
    return table.assign(measure=names)


def likeness_sentences(table: pd.DataFrame) -> str:
    """Per pair and measure, what each condition did to the likeness of the arms, by intervals, a list in Markdown."""
    lines = []
    for (pair, measure), rows in table.groupby(["pair", "measure"], sort=False):
        before, recipe = (similarity.one(rows, condition=name) for name in (UNTRAINED, RECIPE))
        for _, row in rows[rows["condition"] != UNTRAINED].iterrows():
            bounds = row["low"], row["high"]
            moved = {1: "rises to", -1: "falls to", 0: "is not told apart from before at"}[
                similarity.order(*bounds, before["low"], before["high"])]
            line = (f"- {pair}, {measure}, *{row['condition']}*: {moved} {row['value']:.3f} (untrained "
                    f"{before['value']:.3f})")
            if row["condition"] != RECIPE:
                side = similarity.order(*bounds, recipe["low"], recipe["high"])
                line += {1: ", above the recipe", -1: ", below the recipe", 0: ", not told apart from the recipe"}[side]
            lines.append(line + ".")
    return "\n".join(lines)
