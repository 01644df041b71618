"""From scores to tables by arm, differences between the arms of a pair, and what ablations change.

Every difference is `b` minus `a` of a pair, paired by seed and query, with its interval by itself. None of them gets a
word such as "equivalent": those come from `synthesis.score_verdicts`, and for ablations from `make_ablation_table`,
which ask whether a task could have shown a difference and correct for the number of comparisons. Tables name a
*condition*: "untrained" (the backbones as they came), "recipe" (embedders), or the name of an ablation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis import intervals
from hrsa.analysis.ablations import (
    AFTER,
    BEFORE,
    REALIGNED_METRICS,
    REALIGNMENT,
    RECIPE,
    UNTRAINED,
    ablations_of,
    condition,
    make_realignment,
    read_realignment,
)
from hrsa.analysis.recordings import make_recording
from hrsa.evaluation import evaluate
from hrsa.evaluation.chance import make_chance
from hrsa.similarity.metrics import shown_k
from hrsa.study import store
from hrsa.study.profile import Model, Profile
from hrsa.training import train
from hrsa.training.fingerprint import START, flat, same_recipe
from hrsa.verdict import paired_scores
from hrsa.verdict.bootstrap import MeanDifference, crossed_draws, mean_difference, task_columns
from hrsa.verdict.controls import control_models
from hrsa.verdict.equivalence import Decision, verdict, verdicts

ALL_TASKS = "all tasks"
ALIKE = 1e-9  # scores closer than this are the same score
ABLATION_COLUMNS = [
    "ablation", "pair", "setting", "value", "a", "b", "seeds", "score_a", "score_b", "difference", "low", "high",
    "verdict", "change", "change_low", "change_high",
    *(f"{metric}_{quantity}{end}" for metric in REALIGNED_METRICS for quantity in (BEFORE, AFTER, REALIGNMENT)
      for end in ("", "_low", "_high")), "unlike", "seconds"]


def described(profile: Profile, table: pd.DataFrame) -> pd.DataFrame:
    """A table with a column `model`, and beside it arm (backbone's name, or BM25), seed and condition."""
    known = {model.id: model for model in profile.models()}
    models = [known.get(name) for name in table["model"]]
    return table.assign(
        arm=["BM25" if model is None else model.backbone for model in models],
        seed=pd.array([None if model is None else model.seed for model in models], dtype="Int64"),
        condition=[evaluate.LEXICAL if model is None else condition(model) for model in models])


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


@dataclass(frozen=True)
class Row:
    """A row of the table of ablations: two arms under one condition, or two embedders that a control compares."""

    name: str  # "recipe", an ablation or a control
    pair: str  # "" for a control
    setting: str  # what is changed, for both arms or for b alone
    value: str
    a: str  # backbones
    b: str
    models_a: tuple[str, ...]  # embedders, seed by seed
    models_b: tuple[str, ...]
    beside: tuple[str, ...] = ()  # embedders of the recipe that an ablation is held against, of both arms

    @property
    def models(self) -> list[str]:
        """All that must be trained and scored for this row, each once."""
        return list(dict.fromkeys([*self.models_a, *self.models_b, *self.beside]))


def ablation_rows(profile: Profile) -> list[Row]:
    """The rows of a profile: of each pair with ablations of both arms the recipe and these; then the controls."""
    rows = []
    for pair in profile.pairs:
        conditions = [(RECIPE, profile.seeds, {}), *((ablation.name, ablation.seeds, ablation.change)
                                                     for ablation in ablations_of(profile, pair.name))]
        for name, seeds, change in conditions if len(conditions) > 1 else ():
            ablation = None if name == RECIPE else name
            ids = [tuple(Model(backbone=arm, seed=seed, ablation=ablation).id for seed in seeds)
                   for arm in (pair.a, pair.b)]
            beside = [Model(backbone=arm, seed=seed).id for arm in (pair.a, pair.b) for seed in seeds]
            rows.append(Row(name, pair.name, *_changed(change), pair.a, pair.b, *ids, tuple(beside)))
    for control in profile.controls:
        ids = control_models(control, profile.seeds)
        change = next((dict(a.change) for a in profile.ablations if a.name == control.ablation), {})
        setting, value = _changed(change)
        rows.append(Row(control.name, "", f"b alone: {setting}" if change else "another order" if control.other_order
                        else "arms", value if change else f"{control.a}, {control.b}", control.a, control.b,
                        *map(tuple, ids)))
    return rows


def _changed(change: Mapping[str, Any]) -> tuple[str, str]:
    """Names and values of changed settings, each list with commas between."""
    return ", ".join(change), ", ".join(map(_value, change.values()))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_value(part)}" for name, part in value.items())
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def make_ablation_table(profile: Profile, rows: Sequence[Row]) -> pd.DataFrame:
    """One row per `Row`, made from artefacts, which are made where they are missing: see `ABLATION_COLUMNS`.

    score_a, score_b: mean over tasks, queries and seeds; difference, low, high: b - a. With two seeds or more a
    verdict, corrected over these rows by Holm; else None, and the interval is that of the runs at hand. change: the
    mean of both arms less that under the recipe with the same seeds. Each measure of likeness before and after training
    and its realignment, the bounds covering those of all seeds. unlike: fields of the fingerprint in which the arms
    differ where `same_recipe` refuses them. seconds: to train, score and record what no row before has.
    """
    backbones = list(dict.fromkeys(name for row in rows for name in (row.a, row.b)))
    models = list(dict.fromkeys(name for row in rows for name in row.models))
    per_query = pd.concat([evaluate.make_scores(profile, [*models, *backbones])[1], make_chance(profile)])
    arms = {place: paired_scores.paired_with_baselines(per_query, row.models_a, row.models_b, row.a, row.b)
            for place, row in enumerate(rows)}
    judged, known, table = _judged(profile, arms), set(), []
    for place, row in enumerate(rows):
        a, b, tasks, _ = arms[place]
        new = [name for name in dict.fromkeys([*row.models_a, *row.models_b]) if name not in known]
        known |= set(new)
        table.append({
            "ablation": row.name, "pair": row.pair, "setting": row.setting, "value": row.value, "a": row.a, "b": row.b,
            "seeds": len(a), "score_a": _mean(a, tasks), "score_b": _mean(b, tasks), **judged[place],
            **_change(profile, per_query, row, (a + b) / 2, tasks), **_likeness(profile, row),
            "unlike": ", ".join(_unlike(profile, row)), "seconds": sum(_seconds(profile, name) for name in new)})
    return pd.DataFrame(table, columns=ABLATION_COLUMNS)


def _mean(scores: np.ndarray, tasks: np.ndarray) -> float:
    return float(np.mean([scores[:, tasks == task].mean() for task in dict.fromkeys(tasks)]))


def _judged(profile: Profile, arms: Mapping[int, tuple]) -> dict[int, dict[str, Any]]:
    """Difference, interval and word of each row; the rows with several seeds are the family that is corrected."""
    several = {place: given for place, given in arms.items() if len(given[0]) > 1}
    found = {place: {**_measured(profile, *given[:3]), "verdict": None} for place, given in arms.items()
             if place not in several}
    if several:
        family = verdicts(several, profile.verdict.margin, profile.verdict.alpha, resamples=profile.verdict.resamples)
        found |= family.set_index("name").to_dict("index")
    return {place: {name: row[name] for name in ("difference", "low", "high", "verdict")}
            for place, row in found.items()}


def _change(profile: Profile, per_query: pd.DataFrame, row: Row, mean: np.ndarray, tasks: np.ndarray
            ) -> dict[str, float]:
    """The arms' mean score (seeds, queries) less that under the recipe, with its interval; NaN for a control."""
    if not row.beside:
        return dict.fromkeys(("change", "change_low", "change_high"), np.nan)
    half = len(row.beside) // 2
    held = paired_scores.paired_with_baselines(per_query, row.beside[:half], row.beside[half:], row.a, row.b)
    found = _measured(profile, (held[0] + held[1]) / 2, mean, tasks)
    return {"change": found["difference"], "change_low": found["low"], "change_high": found["high"]}


def _measured(profile: Profile, a: np.ndarray, b: np.ndarray, tasks: np.ndarray) -> dict[str, float]:
    """b - a over all tasks with its interval, where no word is given that it would have to agree with."""
    found = mean_difference(b - a, tasks, profile.verdict.resamples, seed=0)
    low, high = found.interval(profile.verdict.alpha)
    return {"difference": found.center, "low": low, "high": high}


def _likeness(profile: Profile, row: Row) -> dict[str, float]:
    """Likeness before, after and realignment of each measure, seeds joined; k-NN at the k that is shown."""
    tables = [read_realignment(make_realignment(profile, *two)).assign(seed=at)
              for at, two in enumerate(zip(row.models_a, row.models_b, strict=True))]
    joined = intervals.over_seeds(pd.concat(tables, ignore_index=True))
    joined = joined[joined["k"].isna() | (joined["k"] == shown_k(joined["k"].dropna()))]
    return {f"{one.metric}_{one.quantity}{end}": getattr(one, name) for one in joined.itertuples()
            for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))}


def _unlike(profile: Profile, row: Row) -> list[str]:
    """The fields in which the fingerprints of both arms differ, where they may not: what they start from apart."""
    found: set[str] = set()
    for two in zip(row.models_a, row.models_b, strict=True):
        prints = {name: train.read_fingerprint(train.train_embedder(profile, name)) for name in two}
        try:
            same_recipe(prints)
        except ValueError:
            a, b = (flat({k: v for k, v in content.items() if k != START}) for content in prints.values())
            found |= {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}
    return sorted(found)


def _seconds(profile: Profile, model_id: str) -> float:
    """Wall seconds that training, scoring and recording an embedder took."""
    made = (train.train_embedder, evaluate.evaluate_model, make_recording)
    return sum(store.read_json(stage(profile, model_id) / store.PROVENANCE)["seconds"] for stage in made)


def realignment_against_scores(table: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Does what realigns the arms more score higher? Per pair and measure: [pair, metric, rows, rho, low, high].

    `table` as `make_ablation_table` gives it. rho: Spearman's rank correlation, over the recipe and the ablations of
    both arms, of realignment with the change of score; its 95% interval by a bootstrap over rows. NaN with fewer than
    five rows.
    """
    found = []
    for pair, rows in table[table["pair"] != ""].groupby("pair", sort=False):
        for metric in REALIGNED_METRICS:
            points = rows[[f"{metric}_{REALIGNMENT}", "change"]].to_numpy(float)
            rng, n = np.random.default_rng(0), len(points)
            value, bounds = np.nan, (np.nan, np.nan)
            if n >= 5:
                value = _rank_correlation(points)
                draws = [_rank_correlation(points[rng.integers(0, n, n)]) for _ in range(resamples)]
                bounds = np.nanquantile(draws, [0.025, 0.975])
            found.append((pair, metric, n, value, *map(float, bounds)))
    return pd.DataFrame(found, columns=["pair", "metric", "rows", "rho", "low", "high"])


def _rank_correlation(points: np.ndarray) -> float:
    """Spearman's rho of the columns of (n, 2); NaN where one is constant."""
    from scipy.stats import rankdata  # here, because the import takes half a second that most chapters need not spend

    if (np.ptp(points, axis=0) == 0).any():
        return np.nan
    return float(np.corrcoef(rankdata(points, axis=0).T)[0, 1])
