"""Ablations: which condition a model belongs to, and how alike the arms of a pair are under each condition.

A *condition* is "untrained" (the backbones as they came), "recipe" (embedders), or the name of an ablation.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hrsa.analysis.layerwise import curve
from hrsa.analysis.recordings import make_recording, open_pair
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Ablation, Model, Profile
from hrsa.study.progress import progress

UNTRAINED, RECIPE = "untrained", "recipe"
_FAMILIES = ("cka", "knn")  # the global and the local geometry
LIKENESS = "last.parquet"  # the file of the artefact
LIKENESS_COLUMNS = ["pair", "condition", "seed", "metric", "k", "value", "low", "high", "null"]


def condition(model: Model) -> str:
    """The condition a model was made under."""
    return UNTRAINED if model.seed is None else model.ablation or RECIPE


def ablations_of(profile: Profile, pair: str) -> list[Ablation]:
    """The profile's ablations that were run for both arms of a pair."""
    arms = profile.pair(pair)
    return [ablation for ablation in profile.ablations if {arms.a, arms.b} <= set(ablation.backbones)]


def changed_settings(profile: Profile) -> pd.DataFrame:
    """What each ablation changes: [ablation, setting, recipe, ablated, arms, seeds]."""
    return pd.DataFrame([
        {"ablation": ablation.name, "setting": field, "recipe": str(getattr(profile.recipe, field)),
         "ablated": str(value), "arms": ", ".join(ablation.backbones), "seeds": ", ".join(map(str, ablation.seeds))}
        for ablation in profile.ablations for field, value in ablation.change.items()])


def compared_conditions(profile: Profile, pair: str) -> list[tuple[str, int | None, str | None]]:
    """(condition, seed, ablation) of all that is compared: the recipe with the seeds of the ablations only, so that
    nothing but the named change differs. ValueError when no ablation has both arms."""
    ablations = ablations_of(profile, pair)
    if not ablations:
        raise ValueError(f"expected an ablation of profile {profile.name} with both arms of {pair}, got "
                         f"{[(a.name, list(a.backbones)) for a in profile.ablations]}: add the arms to one")
    seeds = sorted({seed for ablation in ablations for seed in ablation.seeds})
    changed = [(ablation.name, seed, ablation.name) for ablation in ablations for seed in ablation.seeds]
    return [(UNTRAINED, None, None), *((RECIPE, seed, None) for seed in seeds), *changed]


def make_likeness(profile: Profile, pair: str) -> Path:
    """How alike the last (normed) token states of a pair's arms are under each condition.

    Artefact with `last.parquet` [pair, condition, seed, metric, k, value, low, high, null]: linear CKA, debiased CKA
    and k-NN overlap, with intervals and permuted rows as in `layerwise.curve`. ValueError as `compared_conditions`.
    """
    arms, todo = profile.pair(pair), compared_conditions(profile, pair)
    states = [[make_recording(profile, Model(backbone=arm, seed=seed, ablation=ablation).id)
               for arm in (arms.a, arms.b)] for _, seed, ablation in todo]
    used = profile.analysis.model_dump(include={"ks", "bootstrap", "permutations"})
    key = store.key(states=[[folder.name for folder in two] for two in states], analysis=used, cases=todo,
                    code=code_hash(make_likeness))

    def build(folder: Path) -> None:
        tables = []
        with progress(len(todo) * len(_FAMILIES), "ablations", pair, unit="comparison") as bar:
            for (label, seed, _), two in zip(todo, states, strict=True):
                x, y = open_pair(*two)
                for metric in _FAMILIES:
                    table = curve(x, y, metric, profile.analysis, layers=[(len(x.labels) - 1, len(y.labels) - 1)])
                    seeds = pd.array([seed] * len(table), dtype="Int64")
                    tables.append(table.assign(pair=pair, condition=label, seed=seeds)[LIKENESS_COLUMNS])
                    bar.update()
        store.write_table(folder / LIKENESS, pd.concat(tables, ignore_index=True))

    return store.make(store.artefact(profile.name, "similarity", f"{pair}-ablations", key), build, (make_likeness,),
                      pair=pair, inputs=[folder.name for two in states for folder in two])
