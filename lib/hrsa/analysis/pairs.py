"""Comparison of the two models of a pair, metric by metric: backbones beside embedders, every layer, calibrated.

Reads the recorded states of `analysis.recordings` and writes tidy tables. Each similarity stands beside an interval
(bootstrap over texts) and a null (rows of one model permuted within classes of text length and position), and below a
ceiling: the similarity of each model with itself, in float32 and in bf16 (of embedders, those of the first seed). For
embedders there is a noise floor too, the same similarity between two seeds of the pair's first arm; backbones have no
second seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import PLACE, curve, dimensions, layer_map, layer_map_maxima, rotation_map
from hrsa.analysis.probes import compare_probes
from hrsa.analysis.recordings import BF16, Recording, make_recording, open_pair
from hrsa.analysis.robustness import audit_table, twin_table
from hrsa.similarity.metrics import METRIC_FAMILIES
from hrsa.similarity.rows import TIED
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Analysis, Profile
from hrsa.study.progress import progress

COMPARISONS = (*METRIC_FAMILIES, "probes")  # what can be asked of a pair: a family of metrics, or readouts
_PROBE_PLACE = ["set", "task", "direction", "split", "quantity"]


class PairTable(StrEnum):
    """The tables of a comparison: names of files in the folder that `make_comparison` returns."""

    CURVE = "curve.parquet"  # matched layers, with yardsticks
    PROBES = "probes.parquet"  # readouts, with yardsticks
    TIED = "tied.parquet"  # share of tokens whose neighbours the tie rule decided
    TWINS = "twins.parquet"  # last states, on robust twins
    AUDIT = "audit.parquet"  # last states, under attack
    HEATMAP = "heatmap.parquet"  # every layer with every layer
    MAXIMA = "maxima.parquet"  # the largest cell of each map of permuted rows
    DIMENSIONS = "dimensions.parquet"  # correlation of each dimension
    MAP = "map.parquet"  # entries of the Procrustes map, in blocks

    @classmethod
    def main(cls, metric: str) -> PairTable:
        """The table that every comparison has: readouts for "probes", else the curve over matched layers."""
        return cls.PROBES if metric == "probes" else cls.CURVE


class Case(NamedTuple):
    """Two models to compare."""

    models: str  # "backbones", "embedders", "floor" for two seeds of one arm, "ceiling" for float32 and bf16
    seed: int | None
    a: str
    b: str


def cases(profile: Profile, pair: str) -> list[Case]:
    """The backbones of a pair, its embedders by seed, neighbouring seeds of arm a, and models with themselves in bf16.

    The last are the backbones and the embedders of the first seed. ValueError: unknown pair.
    """
    two = profile.pair(pair)
    seeds = profile.seeds if two in profile.pairs else ()
    arms = [Case("backbones", None, two.a, two.b)]
    arms += [Case("embedders", seed, f"{two.a}-s{seed}", f"{two.b}-s{seed}") for seed in seeds]
    ring = zip(seeds, (*seeds[1:], *seeds[:1]), strict=True)  # each with the next: cost grows with seeds, not squared
    floors = [Case("floor", None, f"{two.a}-s{i}", f"{two.a}-s{j}")
              for i, j in sorted({(min(pair), max(pair)) for pair in ring if len(set(pair)) > 1})]
    ceilings = [Case("ceiling", None, name, f"{name}-{BF16}")
                for case in arms[:2] for name in (case.a, case.b)]
    return arms + floors + ceilings


def make_comparison(profile: Profile, pair: str, metric: str) -> Path:
    """Artefact folder with one metric of one pair; states are recorded first where they are missing.

    Files (`PairTable`): CURVE [metric, models, seed, a, b, layer_x, layer_y, set, k, value, low, high, null, n, floor,
    floor_low, floor_high, ceiling] (correlation, procrustes, cka, knn; see `with_yardsticks`); TWINS, see
    `robustness.twin_table`, and for cka AUDIT of the first seed, see `robustness.audit_table`; HEATMAP [metric, models,
    layer_x, layer_y, value], embedders averaged over seeds, and MAXIMA of the first seed, see
    `layerwise.layer_map_maxima` (correlation, cka); DIMENSIONS [models, seed, layer_x, dimension, value] (correlation);
    TIED like the curve (knn); MAP [models, row, column, value] and `map-backbones.npy`, `map-embedders.npy` of the
    first seed (procrustes); PROBES (probes, see `compare_probes`). One that was interrupted goes on at its last
    finished block. ValueError: unknown pair or metric, tokenizers that differ.
    """
    if metric not in COMPARISONS:
        raise ValueError(f"expected a metric among {COMPARISONS}, got {metric!r}")
    todo = [case for case in cases(profile, pair) if metric != "probes" or case.models != "ceiling"]
    states = _states(profile, todo)
    inputs = sorted({folder.name for folder in states.values() if folder.name != BF16})
    used = profile.analysis.model_dump(include={"ks", "bootstrap", "permutations"})
    key = store.key(metric=metric, cases=todo, analysis=used, states=inputs,
                    code=code_hash(make_comparison))
    target = store.artefact(profile.name, "similarity", f"{pair}-{metric}", key)

    def build(folder: Path) -> None:
        with progress(len(todo), "similarity", f"{pair} {metric}", unit="comparison") as bar:
            opened = _opened(todo, states, bar)
            if metric == "probes":
                tables = [_named(case, pd.DataFrame(compare_probes(x, y, profile.analysis))) for case, x, y in opened]
                store.write_table(folder / PairTable.PROBES, with_yardsticks(tables, _PROBE_PLACE))
            else:
                _write_layers(folder, opened, metric, profile.analysis, store.scratch(target))

    return store.make(target, build, (make_comparison,), pair=pair, metric=metric, inputs=inputs)


def _states(profile: Profile, todo: list[Case]) -> dict[str, Path]:
    """Folder with the recorded states of every model of the cases, those in bf16 among them."""
    recorded = {name: make_recording(profile, name) for case in todo if case.models != "ceiling"
                for name in (case.a, case.b)}
    return recorded | {case.b: recorded[case.a] / BF16 for case in todo if case.models == "ceiling"}


def _opened(todo: list[Case], states: dict[str, Path], bar: Any) -> Iterator[tuple[Case, Recording, Recording]]:
    for case in todo:
        yield case, *open_pair(states[case.a], states[case.b])
        bar.update()


def _write_layers(folder: Path, opened: Iterable[tuple[Case, Recording, Recording]], metric: str,
                  analysis: Analysis, work: Path) -> None:
    tables: dict[PairTable, list[pd.DataFrame]] = {}
    for case, x, y in opened:
        yardstick, mine = case.models in ("floor", "ceiling"), work / f"{case.a}-{case.b}"
        line = curve(x, y, metric, analysis, calibrated=case.models != "ceiling", null=not yardstick,
                     tied=not yardstick, work=mine)
        tables.setdefault(PairTable.CURVE, []).append(_named(case, line[line["metric"] != TIED]))
        if yardstick:
            continue
        first = case.models not in [table["models"].iloc[0] for table in tables.get(PairTable.TWINS, [])]
        found = {PairTable.TIED: line[line["metric"] == TIED],
                 PairTable.TWINS: twin_table(x, y, metric, analysis, mine)}
        found |= _whole(folder, x, y, metric, analysis, case.models if first else None, mine)
        for name, table in found.items():
            tables.setdefault(name, []).append(_named(case, table))
    store.write_table(folder / PairTable.CURVE, with_yardsticks(tables.pop(PairTable.CURVE), PLACE))
    if PairTable.HEATMAP in tables:
        keys = ["metric", "models", "layer_x", "layer_y"]
        mean = pd.concat(tables.pop(PairTable.HEATMAP)).groupby(keys, sort=False, as_index=False)["value"].mean()
        store.write_table(folder / PairTable.HEATMAP, mean)
    for name, parts in tables.items():
        table = pd.concat(parts, ignore_index=True)
        if len(table):
            store.write_table(folder / name, table)


def _whole(folder: Path, x: Recording, y: Recording, metric: str, analysis: Analysis,
           first: str | None, work: Path) -> dict[PairTable, pd.DataFrame]:
    """Tables of one case beyond its curve; those that only the first seed gets when it is named (`first`)."""
    found = {}
    if metric in ("correlation", "cka"):
        found[PairTable.HEATMAP] = layer_map(x, y, metric, analysis.memory_mb, work)
        if first:
            found[PairTable.MAXIMA] = layer_map_maxima(x, y, metric, analysis, work)
    if metric == "correlation":
        found[PairTable.DIMENSIONS] = dimensions(x, y, analysis.memory_mb)
    if metric == "cka" and first:
        found[PairTable.AUDIT] = audit_table(x, y, analysis, work=work)
    if metric == "procrustes" and first:
        size, found[PairTable.MAP] = rotation_map(x, y, analysis.memory_mb)
        np.save(folder / f"map-{first}.npy", size.astype(np.float32))
    return found


def _named(case: Case, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(models=case.models, seed=pd.array([case.seed] * len(table), dtype="Int64"), a=case.a, b=case.b)


def with_yardsticks(tables: list[pd.DataFrame], place: list[str]) -> pd.DataFrame:
    """Join tables of cases; what embedders and backbones are held against becomes columns.

    Rows of "floor" become floor, floor_low and floor_high of the embedders: the mean over neighbouring seeds of arm a
    at the same `place` (its layer), and the bounds that cover all their intervals. Rows of "ceiling" become the column
    ceiling: the mean of a's at its layer and b's at its own, for all seeds that of the first. NaN where there are none.
    """
    table = pd.concat(tables, ignore_index=True)
    of_a = [name for name in place if name != "layer_y"]
    floor = table[table["models"] == "floor"].groupby(of_a, dropna=False)
    columns = floor.agg(floor=("value", "mean"), floor_low=("low", "min"), floor_high=("high", "max"))
    rows = table[~table["models"].isin(["floor", "ceiling"])].merge(columns, how="left", on=of_a)
    rows.loc[rows["models"] == "backbones", list(columns)] = np.nan
    ceiling = table[table["models"] == "ceiling"]
    if ceiling.empty:
        return rows.assign(ceiling=np.nan)
    return rows.assign(ceiling=sum(_own_ceiling(rows, ceiling, of_a, side) for side in ("a", "b")) / 2)


def _own_ceiling(rows: pd.DataFrame, ceiling: pd.DataFrame, of_a: list[str], side: str) -> np.ndarray:
    """Ceiling (r,) of model `side` of every row, at that model's layer; one seed stands for all of its kind."""
    known = set(ceiling["a"])
    stands_for = rows.groupby("models")[side].agg(lambda names: next((name for name in names if name in known), ""))
    layer = {"layer_x": "layer_y"} if side == "b" else {}
    mine = ceiling[["a", *of_a, "value"]].rename(columns={"a": "model", "value": "own", **layer})
    keys = ["model", *(layer.get(name, name) for name in of_a)]
    return rows.assign(model=rows["models"].map(stands_for)).merge(mine, how="left", on=keys)["own"].to_numpy()
