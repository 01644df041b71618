"""Every similarity of a pair's embedders over the steps of training: do the arms meet, and when?

The arms of a seed see the same batches. Beside them stand, at every step, both arms on two orders of the data, two runs
of one arm, which differ in that order alone, and an arm and itself before training, which is what contrastive training
does to any model. Arms have met where, on two orders, they are as alike as two runs of one arm.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import curve, layer_map, matched_layers
from hrsa.analysis.probes import compare_probes
from hrsa.analysis.recordings import Recording, followed_seeds, make_recording, open_pair
from hrsa.similarity.metrics import METRIC_FAMILIES
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Analysis, Profile
from hrsa.study.progress import progress

DYNAMICS, FILM = "dynamics.parquet", "film.parquet"  # the files of the artefact
BOTH_ARMS, ORDERS_OF_BOTH = "the two arms", "the two arms, other order"  # what is compared
ORDERS_OF_ONE, ITSELF = "two runs of one arm", "an arm and itself before"
FILMED = "debiased_cka"  # what the maps of the film show
_KEPT = ["metric", "set", "k", "value", "low", "high", "null"]
_FEWER, _LEAST = 4, 20  # so many times fewer resamples for a yardstick; at least


class State(NamedTuple):
    """An arm at a step of training."""

    backbone: str
    seed: int
    step: int


class Frame(NamedTuple):
    """Two states to compare at a step."""

    models: str  # BOTH_ARMS, ORDERS_OF_BOTH, ORDERS_OF_ONE or ITSELF
    seed: int  # the first one's
    step: int
    a: State
    b: State


def steps_of(profile: Profile) -> list[int]:
    """The steps with a kept state: 0 (the backbones), the recipe's checkpoints and the last step."""
    return sorted({0, *profile.recipe.checkpoints, profile.recipe.steps})


def frames(profile: Profile, pair: str) -> list[Frame]:
    """All that is compared of a pair: the arms by seed and step; after the start also the arms on two orders, two runs
    of each arm, and each arm with itself before. The seeds are the first two. ValueError: unknown pair."""
    two, seeds = profile.pair(pair), followed_seeds(profile)
    found = []
    for step in steps_of(profile):
        found += [Frame(BOTH_ARMS, seed, step, State(two.a, seed, step), State(two.b, seed, step)) for seed in seeds]
        found += [Frame(ORDERS_OF_BOTH, i, step, State(two.a, i, step), State(two.b, j, step))
                  for i in seeds for j in seeds if i != j and step]
        for arm in (two.a, two.b) if step else ():
            now = State(arm, seeds[0], step)
            found += [Frame(ORDERS_OF_ONE, seeds[0], step, now, State(arm, other, step)) for other in seeds[1:]]
            found.append(Frame(ITSELF, seeds[0], step, State(arm, seeds[0], 0), now))
    return [frame for frame in found if frame.step or frame.seed == seeds[0]]  # step 0 is the same for every seed


def make_dynamics(profile: Profile, pair: str) -> Path:
    """Artefact folder with `dynamics.parquet` and `film.parquet` of a pair, of the first two seeds of the profile.

    The film holds debiased CKA of every layer with every layer at each step, of the arms of the first seed and of each
    arm with itself before: step, models, a, b, layer_x, layer_y, value. Columns of the other: step, models (as in
    `Frame`), seed, a, b (arms), metric, layers ("last": the normed final states; "mean": mean over all matched
    layers), set, k, value, low, high, null; interval for the last layer only, null, mean and readouts for the arms of
    the first seed. Probe scores come as metric "classification" and
    "regression", by set: cross score on the test split, both directions averaged, layers "last". Step 0 is the pair's
    backbones as they came, causal; later steps attend as the recipe says. ValueError: unknown pair.
    """
    todo = frames(profile, pair)
    states = {state: _states(profile, *state) for frame in todo for state in (frame.a, frame.b)}
    used = profile.analysis.model_dump(include={"ks", "bootstrap", "permutations"})
    key = store.key(analysis=used, frames=todo, states=[folder.name for folder in states.values()],
                    code=code_hash(make_dynamics))

    def build(folder: Path) -> None:
        tables, maps = [], []
        with progress(len(todo), "dynamics", pair) as bar:
            for frame in todo:
                two = open_pair(states[frame.a], states[frame.b])
                arms = {"step": frame.step, "models": frame.models, "a": frame.a.backbone, "b": frame.b.backbone}
                whole = frame.models == BOTH_ARMS and frame.seed == profile.seeds[0]
                table = at_step(*two, profile.analysis) if whole else last_layer(*two, profile.analysis)
                tables.append(table.assign(seed=frame.seed, **arms))
                if whole or frame.models == ITSELF:
                    maps.append(_picture(*two, profile.analysis).assign(**arms))
                bar.update()
        for arm in (profile.pair(pair).a, profile.pair(pair).b):
            start = open_pair(*[states[State(arm, profile.seeds[0], 0)]] * 2)
            maps.append(_picture(*start, profile.analysis).assign(step=0, models=ITSELF, a=arm, b=arm))
        store.write_table(folder / DYNAMICS, pd.concat(tables, ignore_index=True))
        store.write_table(folder / FILM, pd.concat(maps, ignore_index=True))

    return store.make(store.artefact(profile.name, "similarity", f"{pair}-dynamics", key), build, (make_dynamics,),
                      pair=pair, inputs=sorted({folder.name for folder in states.values()}))


def _states(profile: Profile, backbone: str, seed: int, step: int) -> Path:
    """Recorded states of an arm at a step; step 0 is the backbone's own recording, the last the embedder's."""
    if step == 0:
        return make_recording(profile, backbone)
    return make_recording(profile, f"{backbone}-s{seed}", None if step == profile.recipe.steps else step)


def _picture(x: Recording, y: Recording, analysis: Analysis) -> pd.DataFrame:
    """Every layer of x with every layer of y: layer_x, layer_y, value."""
    cells = layer_map(x, y, "cka", analysis.memory_mb)
    return cells.loc[cells["metric"] == FILMED, ["layer_x", "layer_y", "value"]]


def last_layer(x: Recording, y: Recording, analysis: Analysis) -> pd.DataFrame:
    """All metrics of the last (normed) states of two models, with intervals of fewer resamples and without null."""
    fewer = analysis.model_copy(update={
        "bootstrap": max(analysis.bootstrap // _FEWER, min(analysis.bootstrap, _LEAST))})
    *_, last = matched_layers(x, y)
    tables = [curve(x, y, metric, fewer, layers=[last], null=False)[_KEPT] for metric in METRIC_FAMILIES]
    return pd.concat(tables, ignore_index=True).assign(layers="last")


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
