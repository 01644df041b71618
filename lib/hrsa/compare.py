"""Comparison of the two models of a pair, metric by metric: backbones beside embedders, every layer, calibrated.

Reads the recorded states of `hrsa.activations` and writes tidy tables. Each similarity stands beside an interval
(bootstrap over texts), a null (rows of one model permuted within classes of text length and position) and, for
embedders, a noise floor: the same similarity between two seeds of the pair's first arm. Backbones have no second
seed, hence no floor: NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from hrsa import paths
from hrsa.activations import Recording, record_states
from hrsa.compare_probes import compare_probes
from hrsa.dynamics import dynamics
from hrsa.layerwise import PLACE, curve, dimensions, heatmap, open_pair, rotation_map
from hrsa.profile import Analysis, Profile
from hrsa.progress import progress

__all__ = ["Case", "cases", "compare_pair", "dynamics", "with_floor"]

Metric = Literal["correlation", "procrustes", "cka", "knn", "probes"]
PROBE_PLACE = ["set", "task", "direction", "split", "quantity"]


class Case(NamedTuple):
    """Two models to compare."""

    models: str  # "backbones", "embedders", or "floor" for two seeds of one arm
    seed: int | None
    a: str
    b: str


def cases(profile: Profile, pair: str) -> list[Case]:
    """The backbones of a pair, then its embedders by seed, then all two seeds of arm a. ValueError: unknown pair."""
    two = profile.pair(pair)
    arms = [Case("backbones", None, two.a, two.b)]
    arms += [Case("embedders", seed, f"{two.a}-s{seed}", f"{two.b}-s{seed}") for seed in profile.seeds]
    floors = [Case("floor", None, f"{two.a}-s{i}", f"{two.a}-s{j}") for i, j in combinations(profile.seeds, 2)]
    return arms + floors


def compare_pair(profile: Profile, pair: str, metric: Metric) -> Path:
    """Artefact folder with one metric of one pair; states are recorded first where they are missing.

    Files: `curve.parquet` [metric, models, seed, a, b, layer_x, layer_y, set, k, value, low, high, null, n, floor,
    floor_low, floor_high] (correlation, procrustes, cka, knn; the floor is the mean over all two seeds of arm a, with
    bounds that cover their intervals); `heatmap.parquet` [metric, models, layer_x, layer_y, value], embedders averaged
    over seeds (correlation, cka); `dimensions.parquet` [models, seed, layer_x, dimension, value] (correlation);
    `map.parquet` [models, row, column, value] and `map-backbones.npy`, `map-embedders.npy` of the first seed
    (procrustes); `probes.parquet` (probes, see `compare_probes`). ValueError: unknown pair or metric, tokenizers that
    differ.
    """
    if metric not in get_args(Metric):
        raise ValueError(f"expected a metric among {get_args(Metric)}, got {metric!r}")
    todo = cases(profile, pair)
    states = {name: record_states(profile, name) for case in todo for name in (case.a, case.b)}
    used = profile.analysis.model_dump(include={"ks", "bootstrap", "permutations"})
    key = paths.key(metric=metric, analysis=used, states={name: folder.name for name, folder in states.items()},
                    code=paths.code_hash("hrsa.compare"))

    def build(folder: Path) -> None:
        with progress(len(todo), "similarity", f"{pair} {metric}", unit="comparison") as bar:
            opened = _opened(todo, states, bar)
            if metric == "probes":
                tables = [_named(case, pd.DataFrame(compare_probes(x, y, profile.analysis))) for case, x, y in opened]
                paths.write_table(folder / "probes.parquet", with_floor(tables, PROBE_PLACE))
            else:
                _write_layers(folder, opened, metric, profile.analysis)

    return paths.make(paths.artefact(profile.name, "similarity", f"{pair}-{metric}", key), build, pair=pair,
                      metric=metric, inputs=[folder.name for folder in states.values()])


def _opened(todo: list[Case], states: dict[str, Path], bar: Any) -> Iterator[tuple[Case, Recording, Recording]]:
    for case in todo:
        yield case, *open_pair(states[case.a], states[case.b])
        bar.update()


def _write_layers(folder: Path, opened: Iterable[tuple[Case, Recording, Recording]], metric: str,
                  analysis: Analysis) -> None:
    curves, maps, others = [], [], []
    for case, x, y in opened:
        floor = case.models == "floor"
        curves.append(_named(case, curve(x, y, metric, analysis, null=not floor)))
        if floor:
            continue
        if metric in ("correlation", "cka"):
            maps.append(_named(case, heatmap(x, y, metric)))
        if metric == "correlation":
            others.append(_named(case, dimensions(x, y)))
        if metric == "procrustes" and case.models not in [table["models"].iloc[0] for table in others]:
            size, table = rotation_map(x, y)
            np.save(folder / f"map-{case.models}.npy", size.astype(np.float32))
            others.append(_named(case, table))
    paths.write_table(folder / "curve.parquet", with_floor(curves, PLACE))
    if maps:
        mean = pd.concat(maps).groupby(["metric", "models", "layer_x", "layer_y"], sort=False, as_index=False)
        paths.write_table(folder / "heatmap.parquet", mean["value"].mean())
    if others:
        name = {"correlation": "dimensions", "procrustes": "map"}[metric]
        paths.write_table(folder / f"{name}.parquet", pd.concat(others, ignore_index=True))


def _named(case: Case, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(models=case.models, seed=pd.array([case.seed] * len(table), dtype="Int64"), a=case.a, b=case.b)


def with_floor(tables: list[pd.DataFrame], place: list[str]) -> pd.DataFrame:
    """Join tables of cases; rows of "floor" become the columns floor, floor_low and floor_high of the embedders.

    They hold the mean value over all two seeds at the same `place`, and the bounds that cover all their intervals;
    NaN without a second seed.
    """
    table = pd.concat(tables, ignore_index=True)
    floor = table[table["models"] == "floor"].groupby(place, dropna=False)
    columns = floor.agg(floor=("value", "mean"), floor_low=("low", "min"), floor_high=("high", "max"))
    rows = table[table["models"] != "floor"].merge(columns, how="left", on=place)
    rows.loc[rows["models"] == "backbones", list(columns)] = np.nan
    return rows
