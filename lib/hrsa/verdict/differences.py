"""From scores to tables by arm, differences between the arms of a pair, and what ablations change.

Every difference is `b` minus `a` of a pair, paired by seed and query, with its interval by itself. None of them gets a
word such as "equivalent": those come from `synthesis.score_verdicts`, which asks whether a task could have shown a
difference and corrects for the number of pairs. Tables name a *condition*: "untrained" (the backbones as they came),
"recipe" (embedders), or the name of an ablation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hrsa.analysis import intervals
from hrsa.analysis.ablations import RECIPE, UNTRAINED, condition
from hrsa.evaluation.evaluate import LEXICAL
from hrsa.similarity.metrics import METRICS
from hrsa.study.profile import Model, Profile
from hrsa.verdict import paired_scores
from hrsa.verdict.bootstrap import MeanDifference, crossed_draws, mean_difference, task_columns
from hrsa.verdict.equivalence import Decision, verdict

ALL_TASKS = "all tasks"
ALIKE = 1e-9  # scores closer than this are the same score


def described(profile: Profile, table: pd.DataFrame) -> pd.DataFrame:
    """A table with a column `model`, and beside it arm (backbone's name, or BM25), seed and condition."""
    known = {model.id: model for model in profile.models()}
    models = [known.get(name) for name in table["model"]]
    return table.assign(
        arm=["BM25" if model is None else model.backbone for model in models],
        seed=pd.array([None if model is None else model.seed for model in models], dtype="Int64"),
        condition=[LEXICAL if model is None else condition(model) for model in models])


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
    whole = family_scores(profile, scores.assign(family=ALL_TASKS))
    return whole.drop(columns="family")


def training_gains(profile: Profile, per_query: pd.DataFrame, families: pd.Series, seeds: Sequence[int],
                   alpha: float = 0.05, resamples: int = 2000) -> pd.DataFrame:
    """What contrastive training did to each arm: [arm, family, tasks, untrained, trained, chance, gain, low, high,
    like_low, like_high].

    `per_query`, `families` as in `synthesis.score_verdicts`; family "all tasks" first. gain: the mean over tasks of the
    mean over queries and seeds of the embedder's score less its backbone's, with the 1 - 2 alpha interval of
    `bootstrap.MeanDifference`: low and high speak of runs and queries like these on these tasks, like_low and like_high
    of tasks like these too. Chance is NaN where it is not known for a task of the family. ValueError as
    `paired_scores.paired_with_baselines`.
    """
    rows = []
    for arm in profile.trained():
        ids = [Model(backbone=arm, seed=seed).id for seed in seeds]
        trained, _, tasks, held = paired_scores.paired_with_baselines(per_query, ids, ids, arm, arm)
        kinds = pd.Series(tasks).map(families).to_numpy()
        for family in [ALL_TASKS, *dict.fromkeys(families)]:
            here = np.ones(len(tasks), bool) if family == ALL_TASKS else kinds == family
            difference = (trained - held.untrained_a)[:, here]
            found = mean_difference(difference, tasks[here], resamples, seed=0)
            low, high = _on_these_tasks(difference, tasks[here], found, resamples).interval(alpha)
            like_low, like_high = found.interval(alpha)
            levels = {"untrained": held.untrained_a, "trained": trained.mean(axis=0), "chance": held.chance}
            by_task = pd.DataFrame(levels)[here].groupby(tasks[here]).mean()
            rows.append({"arm": arm, "family": family, "tasks": len(by_task),
                         **by_task.mean(skipna=False).to_dict(),
                         "gain": found.center, "low": low, "high": high, "like_low": like_low,
                         "like_high": like_high})
    return pd.DataFrame(rows)


def _on_these_tasks(difference: np.ndarray, tasks: np.ndarray, found: MeanDifference, resamples: int) -> MeanDifference:
    """The mean of differences (seeds, queries) with draws of seeds and queries alone."""
    draws = crossed_draws(difference, task_columns(tasks, difference), resamples, np.random.default_rng(0),
                          draw_tasks=False)
    return MeanDifference(found.center, found.means, found.center + draws)


def seeds_under(profile: Profile, name: str) -> list[int | None]:
    """Seeds that a condition was run with; [None] for untrained backbones."""
    if name in (UNTRAINED, RECIPE):
        return [None] if name == UNTRAINED else list(profile.seeds)
    found = [ablation.seeds for ablation in profile.ablations if ablation.name == name]
    if not found:
        raise ValueError(f"expected {UNTRAINED!r}, {RECIPE!r} or an ablation of profile {profile.name}, one of "
                         f"{[ablation.name for ablation in profile.ablations]}, got {name!r}")
    return list(found[0])


def paired_under(profile: Profile, per_query: pd.DataFrame, pair: str, name: str = RECIPE,
                 seeds: Sequence[int | None] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of both arms under a condition: (seeds, queries) twice, and the task of each query (queries,)."""
    arms = profile.pair(pair)
    ablation = None if name in (UNTRAINED, RECIPE) else name
    wanted = seeds_under(profile, name) if seeds is None else list(seeds)
    ids = {Model(backbone=arm, seed=seed, ablation=ablation).id for arm in (arms.a, arms.b) for seed in wanted}
    return paired_scores.paired(per_query[per_query["model"].isin(ids)], arms.a, arms.b, wanted, ablation)


def pair_differences(profile: Profile, per_query: pd.DataFrame, pair: str, name: str = RECIPE,
                     seeds: Sequence[int | None] | None = None) -> pd.DataFrame:
    """b - a of one pair under one condition, for each task alone and for all: one row each.

    Columns: pair, condition, task ("all tasks" last), difference, low, high (as `equivalence.verdict` draws the
    interval of one comparison), smallest_margin, seeds, queries. Uncorrected.
    """
    a, b, tasks = paired_under(profile, per_query, pair, name, seeds)
    rows = {task: _judge(profile, a[:, tasks == task], b[:, tasks == task]) for task in dict.fromkeys(tasks)}
    rows[ALL_TASKS] = _judge(profile, a, b, tasks)
    fields = ("difference", "low", "high", "smallest_margin", "seeds", "queries")
    return pd.DataFrame([{"pair": pair, "condition": name, "task": task, **{f: getattr(row, f) for f in fields}}
                         for task, row in rows.items()])


def _judge(profile: Profile, a: np.ndarray, b: np.ndarray, tasks: np.ndarray | None = None) -> Decision:
    stated = profile.verdict
    return verdict(a, b, stated.margin, tasks, alpha=stated.alpha, resamples=stated.resamples)


def all_differences(profile: Profile, per_query: pd.DataFrame, conditions: Sequence[str],
                    seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """`pair_differences` of every pair under every condition that both of its arms were scored under.

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
                found.append(pair_differences(profile, per_query, pair.name, name, wanted))
    if not found:
        raise ValueError(f"expected scores of both arms of a pair under one of {list(conditions)}, got scores of "
                         f"{sorted(models)}: evaluate these models, or name an ablation with both arms of a pair")
    return pd.concat(found, ignore_index=True)


def query_table(profile: Profile, scores: pd.DataFrame, per_query: pd.DataFrame, name: str = RECIPE) -> pd.DataFrame:
    """One row per item of every pair: [pair, task, family, a, b], the mean over seeds of each arm's score."""
    families = dict(zip(scores["task"], scores["family"], strict=True))
    tables = []
    for pair in profile.pairs:
        a, b, tasks = paired_under(profile, per_query, pair.name, name)
        tables.append(pd.DataFrame({"pair": pair.name, "task": tasks, "family": [families[task] for task in tasks],
                                    "a": a.mean(axis=0), "b": b.mean(axis=0)}))
    return pd.concat(tables, ignore_index=True)


def likeness(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """`last.parquet` of several pairs in one table, seeds joined: [pair, condition, measure, value, low, high]."""
    table = intervals.over_seeds(pd.concat(tables, ignore_index=True))
    names = [METRICS[metric].name + ("" if pd.isna(k) else f", k = {k:.0f}")
             for metric, k in zip(table["metric"], table["k"], strict=True)]
    return table.assign(measure=names)


