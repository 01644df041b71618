"""What finished runs hold, found without making anything: pairs, tables, maps, and states by stage of training.

An artefact's name is known only to who would make it. Here the newest finished one of a name is taken, which is that of
the last run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from hrsa.analysis.explore.neighbourhoods import NeighbourTable, changed_neighbours
from hrsa.analysis.pairs import PairTable
from hrsa.analysis.recordings import Recording, open_pair
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS
from hrsa.study import store
from hrsa.study.profile import Pair, Profile, load_profile

FIRST_STAGE, LAST_STAGE = "backbones", "embedders"  # stages of training; between them "step 100", ...
VALUE, ABOVE_NULL = "value", "value, where above the null"  # what a map can show


def finished(profile: str, stage: str, name: str) -> Path | None:
    """The newest finished artefact of a stage ("similarity", "states") and name; None where there is none."""
    found = [folder for folder in (store.RUNS / profile / stage).glob("*")
             if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{12}}", folder.name)
             and (folder / store.PROVENANCE).is_file()]
    return max(found, key=lambda folder: store.read_json(folder / store.PROVENANCE)["written"], default=None)


def finished_pairs() -> dict[str, list[str]]:
    """Profile -> its pairs that a finished run has compared, both in their order; profiles without any are left out."""
    found = {}
    for file in sorted((store.NOTEBOOKS / "profiles").glob("*.yaml")):
        if (store.RUNS / file.stem).is_dir():
            pairs = [pair.name for pair in load_profile(file.stem).compared()]
            there = [pair for pair in pairs if finished(file.stem, "similarity", f"{pair}-neighbours")
                     and any(finished(file.stem, "similarity", f"{pair}-{family}") for family in METRIC_FAMILIES)]
            found |= {file.stem: there} if there else {}
    return found


def read_pair_table(profile: str, pair: str, table: PairTable) -> pd.DataFrame:
    """One table of all comparisons of a pair that have it, joined; empty where none has."""
    folders = [finished(profile, "similarity", f"{pair}-{family}") for family in METRIC_FAMILIES]
    files = [folder / table for folder in folders if folder is not None and (folder / table).is_file()]
    return pd.concat([store.read_table(file) for file in files], ignore_index=True) if files else pd.DataFrame()


def read_layer_map(profile: str, pair: str, metric: str, models: str, shown: str = VALUE) -> pd.DataFrame:
    """Every layer with every layer of a pair, [layer_x, layer_y, value]; embedders are averaged over seeds.

    `metric`: one that has a map, `models`: backbones or embedders. With `shown` ABOVE_NULL, cells that do not exceed
    the largest cell of every map of permuted rows are NaN. ValueError: no such map.
    """
    maps, maxima = (read_pair_table(profile, pair, table) for table in (PairTable.HEATMAP, PairTable.MAXIMA))
    cells, null = (part[(part["metric"] == metric) & (part["models"] == models)] if len(part) else part
                   for part in (maps, maxima))
    if cells.empty:
        known = sorted(maps["metric"].unique()) if len(maps) else []
        raise ValueError(f"expected a metric with a map of pair {pair}, one of {known}, got {metric!r} for {models}: "
                         "choose another")
    if shown == ABOVE_NULL:
        cells = cells.assign(value=cells["value"].where(cells["value"] > null["value"].max()))
    return cells[["layer_x", "layer_y", "value"]].reset_index(drop=True)


def read_layer_curve(profile: str, pair: str, metric: str, seed: int | None) -> pd.DataFrame:
    """Matched layers of the backbones of a pair and of its embedders of one seed: rows of CURVE (`make_comparison`)."""
    curve = read_pair_table(profile, pair, PairTable.CURVE)
    whole = curve[(curve["metric"] == metric) & (curve["set"] == "all")]
    return whole[whole["seed"].isna() | (whole["seed"] == seed).fillna(False)].reset_index(drop=True)


def maps_of(profile: str, pair: str) -> list[str]:
    """The metrics that have a map of every layer with every layer of a pair, in the order of the registry."""
    return _metrics_in(read_pair_table(profile, pair, PairTable.HEATMAP))


def metrics_of(profile: str, pair: str) -> list[str]:
    """The metrics that matched layers of a pair are compared by, in the order of the registry."""
    return _metrics_in(read_pair_table(profile, pair, PairTable.CURVE))


def _metrics_in(table: pd.DataFrame) -> list[str]:
    there = set(table["metric"]) if len(table) else set()
    return [metric for metric in METRICS if metric in there]


def stages_of(profile: Profile, pair: str, seed: int | None) -> list[str]:
    """The stages at which the states of both models are recorded, from the backbones to the embedders of a seed."""
    return [stage for stage in (FIRST_STAGE, *(f"step {step}" for step in profile.recipe.checkpoints), LAST_STAGE)
            if None not in _recordings(profile, profile.pair(pair), seed, stage)]


def _recordings(profile: Profile, pair: Pair, seed: int | None, stage: str) -> list[Path | None]:
    names = {FIRST_STAGE: "{}", LAST_STAGE: "{}-s{}"}.get(stage, f"{{}}-s{{}}-step-{stage.removeprefix('step '):0>6}")
    return [finished(profile.name, "states", names.format(arm, seed)) for arm in (pair.a, pair.b)]


def open_stage(profile: Profile, pair: str, seed: int | None, stage: str) -> tuple[Recording, Recording]:
    """The recorded states of both models of a pair at a stage of `stages_of`. ValueError: not recorded."""
    folders = _recordings(profile, profile.pair(pair), seed, stage)
    if None in folders:
        raise ValueError(f"expected a stage of pair {pair} that is recorded, one of {stages_of(profile, pair, seed)}, "
                         f"got {stage!r} of seed {seed}: choose another")
    return open_pair(*folders)


def read_changed(profile: Profile, pair: str, states: tuple[Recording, Recording], layer_a: str,
                 layer_b: str) -> pd.DataFrame:
    """`changed_neighbours` at one cell, layers by their labels; computed here, from the states as recorded."""
    folder = finished(profile.name, "similarity", f"{pair}-neighbours")
    words, texts = (store.read_table(folder / name) for name in (NeighbourTable.WORDS, NeighbourTable.TEXTS))
    at = [part.labels.index(layer) for part, layer in zip(states, (layer_a, layer_b), strict=True)]
    return changed_neighbours(*states, *at, profile.analysis, words, dict(texts.itertuples(index=False, name=None)))
