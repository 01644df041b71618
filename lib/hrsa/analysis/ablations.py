"""Ablations: which condition a model belongs to, and how far two embedders realigned, from before training to after it.

A *condition* is "untrained" (the backbones as they came), "recipe" (embedders), or the name of an ablation.
*Realignment* is how alike the last states of two models are after training, less how alike they were before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import curve
from hrsa.analysis.recordings import make_recording, open_pair
from hrsa.similarity.resampling import percentile_interval
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Ablation, Analysis, Model, Profile

UNTRAINED, RECIPE = "untrained", "recipe"
BEFORE, AFTER, REALIGNMENT = "before", "after", "realignment"
REALIGNED_METRICS = ("debiased_cka", "knn")  # the global and the local geometry
_FILE = "realignment.parquet"  # of the artefact
_COLUMNS = ["metric", "k", "quantity", "value", "low", "high"]


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


def make_realignment(profile: Profile, a: str, b: str) -> Path:
    """Artefact folder of two embedders, by their ids, with what `read_realignment` reads; made where it is missing.

    Before training are the backbones as they came, with as many blocks as the embedders keep of them. Every text is
    drawn as often before as after, so that the interval of realignment is that of a difference on the same texts.
    """
    before = [_before(profile, name) for name in (a, b)]
    after = [make_recording(profile, name) for name in (a, b)]
    used = profile.analysis.model_dump(include={"ks", "bootstrap", "permutations"})
    key = store.key(before=[folder.name for folder in before], after=[folder.name for folder in after], analysis=used,
                    code=code_hash(make_realignment))

    def build(folder: Path) -> None:
        tables = {when: _last(two, profile.analysis) for when, two in ((BEFORE, before), (AFTER, after))}
        store.write_table(folder / _FILE, realigned(tables[BEFORE], tables[AFTER]))

    return store.make(store.artefact(profile.name, "similarity", f"{a}--{b}-realignment", key), build,
                      (make_realignment,), inputs=[folder.name for folder in (*before, *after)])


def read_realignment(folder: Path) -> pd.DataFrame:
    """Likeness of two embedders' last states: [metric, k, quantity, value, low, high].

    metric: debiased_cka, knn; quantity: before, after, realignment (after less before), each with its 95% interval
    over texts.
    """
    return store.read_table(folder / _FILE, _COLUMNS)


def _before(profile: Profile, model_id: str) -> Path:
    """The recording of an embedder's backbone as it came, cut to the blocks that the embedder has."""
    model = profile.model(model_id)
    same = profile.varied(model.ablation).layers == profile.recipe.layers
    return make_recording(profile, model.backbone) if same else make_recording(profile, model_id, 0)


def _last(two: list[Path], analysis: Analysis) -> pd.DataFrame:
    """`layerwise.curve` of the last (normed) states of two recordings, with the value in each resample."""
    x, y = open_pair(*two)
    layers = [(len(x.labels) - 1, len(y.labels) - 1)]
    found = pd.concat([curve(x, y, metric, analysis, null=False, layers=layers, drawn=True)
                       for metric in ("cka", "knn")], ignore_index=True)
    return found[found["metric"].isin(REALIGNED_METRICS)]


def realigned(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Likeness before and after, and realignment: see `read_realignment`.

    before, after: one row per metric and k, [metric, k, value, low, high, drawn], drawn the values in the same
    resamples.
    """
    both = before.merge(after, on=["metric", "k"], suffixes=("_before", "_after"), validate="one_to_one")
    rows = []
    for row in both.to_dict("records"):
        found = {when: [row[f"{name}_{when}"] for name in ("value", "low", "high")] for when in (BEFORE, AFTER)}
        moved = row["value_after"] - row["value_before"]
        draws = np.asarray(row["drawn_after"], float) - np.asarray(row["drawn_before"], float)
        found[REALIGNMENT] = [moved, *percentile_interval(moved, draws)]
        rows += [[row["metric"], row["k"], quantity, *values] for quantity, values in found.items()]
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"k": "Int64"})
