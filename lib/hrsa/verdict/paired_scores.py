"""Scores per query of two arms, paired by seed and query, and of their baselines, from the artefacts of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hrsa.evaluation.chance import CHANCE, make_chance, read_chance
from hrsa.evaluation.evaluate import QUERY_COLUMNS, make_scores, read_scores
from hrsa.study import store
from hrsa.study.profile import Model, Profile
from hrsa.verdict.competence import Baselines


def checked_scores(per_query: pd.DataFrame, where: str) -> pd.DataFrame:
    """The scores as they are; ValueError, naming `where` they come from, for a missing column or a doubled query."""
    missing = [name for name in QUERY_COLUMNS if name not in per_query.columns]
    if missing:
        raise ValueError(f"expected columns {QUERY_COLUMNS} in {where}, got {list(per_query.columns)}: add {missing}")
    twice = per_query[per_query.duplicated(["model", "task", "query"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(f"expected one score per model, task and query in {where}, got {len(twice)} more, the first "
                         f"for {row['model']}, {row['task']}, {row['query']}: leave one of the runs out")
    return per_query


def seeds_of(per_query: pd.DataFrame, a: str, b: str) -> list[int]:
    """Seeds for which embedders of both backbones were scored, ascending."""
    models = set(per_query["model"])
    by_arm = [{int(found[1]) for model in models if (found := re.fullmatch(re.escape(arm) + r"-s(\d+)", model))}
              for arm in (a, b)]
    return sorted(by_arm[0] & by_arm[1])


def paired(per_query: pd.DataFrame, a: str, b: str, seeds: Sequence[int],
           ablation: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two arms paired by seed and query: (seeds, queries), (seeds, queries) and task ids (queries,).

    `a` and `b` are backbone names. ValueError when a model is missing or the models have not the same queries.
    """
    ids = {arm: [Model(backbone=arm, seed=seed, ablation=ablation).id for seed in seeds] for arm in (a, b)}
    wide = _wide(per_query, ids[a], ids[b])
    return wide[ids[a]].to_numpy().T, wide[ids[b]].to_numpy().T, _tasks(wide)


def paired_with_baselines(per_query: pd.DataFrame, models_a: Sequence[str], models_b: Sequence[str], a: str, b: str
                          ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Baselines]:
    """As `paired`, of embedders named by their ids, the first of one arm with the first of the other; and what they are
    held against: chance, and the untrained backbones `a` and `b`.

    ValueError when one of them was not scored.
    """
    models = list(dict.fromkeys([*models_a, *models_b, a, b]))
    if missing := sorted({a, b, CHANCE} - set(per_query["model"])):
        raise ValueError(f"expected scores of {missing} to hold embedders against, got those of "
                         f"{sorted(per_query['model'].unique())}: score untrained backbones and chance too (`make "
                         "book` does), or leave out evidence files that were written before they counted")
    wide = _wide(per_query, models)
    tasks = _tasks(wide)
    chance = per_query[per_query["model"] == CHANCE].set_index("task")["value"]
    held = Baselines(wide[a].to_numpy(), wide[b].to_numpy(), chance.reindex(tasks).to_numpy())
    return wide[list(models_a)].to_numpy().T, wide[list(models_b)].to_numpy().T, tasks, held


def _wide(per_query: pd.DataFrame, *models: Sequence[str]) -> pd.DataFrame:
    """One row per task and query, one column per model, without holes."""
    wanted = list(dict.fromkeys(model for part in models for model in part))
    wide = per_query[per_query["model"].isin(wanted)].pivot_table(
        index=["task", "query"], columns="model", values="value", aggfunc="first", sort=True)
    absent = [model for model in wanted if model not in wide.columns]
    if absent:
        raise ValueError(f"expected scores of {absent}, got those of {sorted(per_query['model'].unique())}: evaluate "
                         "these models")
    holes = wide.index[wide[wanted].isna().any(axis=1)]
    if len(holes):
        raise ValueError(f"expected the same queries for {', '.join(wanted)}, got {len(holes)} without a score "
                         f"in some, the first {holes[0]}: evaluate these models on one suite")
    return wide


def _tasks(wide: pd.DataFrame) -> np.ndarray:
    return wide.index.get_level_values("task").to_numpy(dtype=object)


def make_query_scores(profile: Profile) -> tuple[pd.DataFrame, pd.Series]:
    """Scores per query that a verdict rests on, made first where missing, and the family of each task.

    Those of all embedders without ablation and of controls, of the backbones they were trained from, and of chance.
    """
    scored = make_scores(profile, [model.id for model in _judged(profile)])
    return _with_families(*scored, make_chance(profile))


def read_query_scores(profile: Profile) -> tuple[pd.DataFrame, pd.Series]:
    """As `make_query_scores`, from the evaluations that are there (the newest of each model); makes nothing.

    ValueError when there is none.
    """
    found = [_artefacts(profile, "evaluation", model.id) for model in _judged(profile)]
    newest = [max(folders, key=lambda folder: store.read_json(folder / store.PROVENANCE)["written"])
              for folders in found if folders]
    if not newest:
        raise ValueError(f"expected scores of embedders of profile {profile.name}, got none: run "
                         f"`make book PROFILE={profile.name}` first, or name evidence files")
    return _with_families(*read_scores(newest), read_chance(profile))


def _with_families(scores: pd.DataFrame, per_query: pd.DataFrame, chance: pd.DataFrame
                   ) -> tuple[pd.DataFrame, pd.Series]:
    """Scores per query, those of chance last, and the family of each task."""
    table = pd.concat([part for part in (per_query, chance) if len(part)], ignore_index=True)
    return table[QUERY_COLUMNS], scores.drop_duplicates("task").set_index("task")["family"]


def _embedders(profile: Profile) -> list[Model]:
    """The embedders that pairs are made of: those without ablation."""
    return [model for model in profile.models() if model.seed is not None and model.ablation is None]


def _judged(profile: Profile) -> list[Model]:
    """Models that a verdict rests on: embedders, those of controls, and the backbones they were trained from."""
    varied = {(control.b, control.ablation) for control in profile.controls}
    return [model for model in profile.models()
            if (model.backbone in profile.trained() if model.seed is None else
                model.ablation is None or (model.backbone, model.ablation) in varied)]


def _artefacts(profile: Profile, stage: str, name: str) -> list[Path]:
    """Finished artefacts of a model, of whatever key."""
    folders = sorted((store.RUNS / profile.name / stage).glob(f"{name}-[0-9a-f]*"))
    return [f for f in folders if len(f.name) == len(name) + 13 and (f / store.PROVENANCE).is_file()]


def hours_per_seed(profile: Profile) -> float | None:
    """Measured hours to train and score both arms of one pair with one seed (None: nothing measured yet)."""
    seconds = []
    for stage in ("embedders", "evaluation"):
        found = [store.read_json(folder / store.PROVENANCE)["seconds"]
                 for model in _embedders(profile) for folder in _artefacts(profile, stage, model.id)]
        if not found:
            return None
        seconds.append(float(np.mean(found)))
    return 2 * sum(seconds) / 3600
