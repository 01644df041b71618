"""Every similarity of a pair's embedders over the steps of training: when does realignment happen?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import curve, matched_layers
from hrsa.analysis.probes import compare_probes
from hrsa.analysis.recordings import Recording, make_recording, open_pair
from hrsa.similarity.metrics import METRIC_FAMILIES
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Analysis, Profile
from hrsa.study.progress import progress

DYNAMICS = "dynamics.parquet"  # the file of the artefact
_KEPT = ["metric", "set", "k", "value", "low", "high", "null"]


def steps_of(profile: Profile) -> list[int]:
    """The steps with a kept state: 0 (the backbones), the recipe's checkpoints and the last step."""
    return sorted({0, *profile.recipe.checkpoints, profile.recipe.steps})


def make_dynamics(profile: Profile, pair: str) -> Path:
    """Artefact folder with `dynamics.parquet` of a pair, first seed of the profile.

    Columns: step, metric, layers ("last": the normed final states; "mean": mean over all matched layers), set, k,
    value, low, high, null; interval and null for the last layer only. Probe scores come as metric
    "classification" and "regression", by set: cross score on the test split, both directions averaged, layers "last".
    Step 0 is the pair's backbones as they came, causal; later steps attend as the recipe says. ValueError: unknown
    pair.
    """
    two, seed = profile.pair(pair), profile.seeds[0]
    states = {step: tuple(_states(profile, name, seed, step) for name in (two.a, two.b)) for step in steps_of(profile)}
    used = profile.analysis.model_dump(include={"ks", "bootstrap", "permutations"})
    names = {str(step): [folder.name for folder in folders] for step, folders in states.items()}
    key = store.key(analysis=used, states=names, code=code_hash(make_dynamics))

    def build(folder: Path) -> None:
        tables = []
        with progress(len(states), "dynamics", pair) as bar:
            for step, folders in states.items():
                tables.append(at_step(*open_pair(*folders), profile.analysis).assign(step=step))
                bar.update()
        store.write_table(folder / DYNAMICS, pd.concat(tables, ignore_index=True))

    return store.make(store.artefact(profile.name, "similarity", f"{pair}-dynamics", key), build, (make_dynamics,),
                      pair=pair, inputs=sorted({name for both in names.values() for name in both}))


def _states(profile: Profile, backbone: str, seed: int, step: int) -> Path:
    """Recorded states of an arm at a step; step 0 is the backbone's own recording, the last the embedder's."""
    if step == 0:
        return make_recording(profile, backbone)
    return make_recording(profile, f"{backbone}-s{seed}", None if step == profile.recipe.steps else step)


def at_step(x: Recording, y: Recording, analysis: Analysis) -> pd.DataFrame:
    """All metrics of two models: the rows of one step."""
    *inner, last = matched_layers(x, y)
    tables = []
    for metric in METRIC_FAMILIES:
        final = curve(x, y, metric, analysis, layers=[last])
        tables.append(final[_KEPT].assign(layers="last"))
        plain = curve(x, y, metric, analysis, calibrated=False, layers=inner)
        every = pd.concat([plain, final], ignore_index=True)
        mean = every.groupby(["metric", "set", "k"], dropna=False, sort=False, as_index=False)["value"].mean()
        tables.append(mean.assign(layers="mean", low=np.nan, high=np.nan, null=np.nan))
    probes = pd.DataFrame(compare_probes(x, y, analysis))
    cross = probes[(probes["split"] == "test") & (probes["quantity"] == "cross")]
    scores = cross.groupby(["task", "set"], as_index=False)[["value", "low", "high", "null"]].mean()
    scores = scores.rename(columns={"task": "metric"}).assign(layers="last", k=pd.NA)
    return pd.concat([*tables, scores.astype({"k": "Int64"})], ignore_index=True)
