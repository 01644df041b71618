"""Comparison of the two models of a pair, metric by metric: backbones beside embedders, every layer, calibrated.

Reads the recorded states of `analysis.recordings` and writes tidy tables. Each similarity stands beside an interval
(bootstrap over texts) and a null (rows of one model permuted within classes of text length and position), and below a
ceiling: the similarity of each model with itself, in float32 and in bf16 (of embedders, those of the first seed).

The embedders of a seed see the same batches in the same order, whatever the arm. So there are three yardsticks in all:
other arm and same order (the embedders of a pair), other arm and other order, and same arm and other order, which is
two runs of one recipe. Arms differ beyond training noise where the second is less alike than the third; from all three
come the variances of arm, order and both (`analysis.variance`). Backbones have one run each.
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
from hrsa.analysis.variance import (
    NEITHER,
    SAME_ARM,
    SAME_ORDER,
    SOURCE_COLUMNS,
    Cell,
    averaged,
    ring,
    sources,
    undirected,
)
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS, MORE
from hrsa.similarity.rows import TIED
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Analysis, Profile
from hrsa.study.progress import progress

COMPARISONS = (*METRIC_FAMILIES, "probes", MORE)  # what can be asked of a pair: a family of metrics, readouts, or
# the measures that `analysis.more` names
_PROBE_PLACE = ["set", "task", "direction", "split", "quantity"]
RUNS_OF_ONE, CROSSED = "two runs", "crossed"  # kinds of cases: same arm and other order, other arm and other order
_YARDSTICKS = (RUNS_OF_ONE, CROSSED, "ceiling")
_FEWER, _LEAST = 4, 20  # so many times fewer resamples for a yardstick, whose interval covers several cases; at least
MEAN_LAYER = "mean"  # label of the mean over layers, the embedding output left out
EMBEDDING_LAYER = "0"  # label of the embedding output, which no block has touched


class PairTable(StrEnum):
    """The tables of a comparison: names of files in the folder that `make_comparison` returns."""

    CURVE = "curve.parquet"  # matched layers, with yardsticks
    VARIANCE = "variance.parquet"  # of the embedders: what comes from the arm, from the order, from both
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

    models: str  # "backbones", "embedders", "two runs" of one arm, "crossed" (see the module), "ceiling" (one in bf16)
    seed: int | None
    a: str
    b: str
    orders: tuple[int, ...] = ()  # seeds of both


def cases(profile: Profile, pair: str) -> list[Case]:
    """The backbones of a pair, its embedders by seed, their yardsticks, and models with themselves in bf16.

    Yardsticks take each seed with the next: two runs of arm a, two of arm b, one of a and one of b. The last are the
    backbones and the embedders of the first seed. ValueError: unknown pair.
    """
    two = profile.pair(pair)
    seeds = profile.seeds if two in profile.pairs else ()
    arms = [Case("backbones", None, two.a, two.b)]
    arms += [Case("embedders", seed, f"{two.a}-s{seed}", f"{two.b}-s{seed}", (seed, seed)) for seed in seeds]
    noise = [Case(RUNS_OF_ONE, None, f"{arm}-s{i}", f"{arm}-s{j}", (i, j))
             for arm in (two.a, two.b) for i, j in undirected(ring(seeds))]
    noise += [Case(CROSSED, None, f"{two.a}-s{i}", f"{two.b}-s{j}", (i, j)) for i, j in ring(seeds)]
    ceilings = [Case("ceiling", None, name, f"{name}-{BF16}")
                for case in arms[:2] for name in (case.a, case.b)]
    return arms + noise + ceilings


def make_comparison(profile: Profile, pair: str, metric: str) -> Path:
    """Artefact folder with one metric of one pair; states are recorded first where they are missing.

    Files (`PairTable`): CURVE [metric, models, seed, a, b, layer_x, layer_y, set, k, value, low, high, null, n, runs,
    runs_low, runs_high, crossed, crossed_low, crossed_high, ceiling] (correlation, procrustes, cka, knn, more; see
    `with_yardsticks`); VARIANCE, see `layer_sources` (the same, where there are embedders); TWINS, see
    `robustness.twin_table`, and for cka AUDIT of the first seed, see `robustness.audit_table`; HEATMAP [metric,
    models, layer_x, layer_y, value], embedders averaged over seeds, and MAXIMA of the first seed, see
    `layerwise.layer_map_maxima` (correlation, cka); DIMENSIONS [models, seed, layer_x, dimension, value]
    (correlation); TIED like the curve (knn); MAP [models, row, column, value] and `map-backbones.npy`,
    `map-embedders.npy` of the first seed (procrustes); PROBES (probes, see `compare_probes`). One that was interrupted
    goes on at its last finished block. ValueError: unknown pair or metric, tokenizers that differ.
    """
    if metric not in COMPARISONS:
        raise ValueError(f"expected a metric among {COMPARISONS}, got {metric!r}")
    todo = [case for case in cases(profile, pair) if metric != "probes" or case.models != "ceiling"]
    states = _states(profile, todo)
    inputs = sorted({folder.name for folder in states.values() if folder.name != BF16})
    if metric == MORE and not profile.analysis.more:
        raise ValueError("expected measures on request, got none: name some of mutual_knn, cknna, rsa and svcca in "
                         "analysis.more")
    used = profile.analysis.model_dump(include={"ks", "bootstrap", "permutations", *({MORE} if metric == MORE else ())})
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
    names = dict.fromkeys(name for case in todo if case.models != "ceiling" for name in (case.a, case.b))
    recorded = {name: make_recording(profile, name) for name in names}
    return recorded | {case.b: recorded[case.a] / BF16 for case in todo if case.models == "ceiling"}


def _opened(todo: list[Case], states: dict[str, Path], bar: Any) -> Iterator[tuple[Case, Recording, Recording]]:
    for case in todo:
        yield case, *open_pair(states[case.a], states[case.b])
        bar.update()


def _write_layers(folder: Path, opened: Iterable[tuple[Case, Recording, Recording]], metric: str,
                  analysis: Analysis, work: Path) -> None:
    tables: dict[PairTable, list[pd.DataFrame]] = {}
    lines = []
    fewer = analysis.model_copy(update={
        "bootstrap": max(analysis.bootstrap // _FEWER, min(analysis.bootstrap, _LEAST))})
    for case, x, y in opened:
        yardstick, mine = case.models in _YARDSTICKS, work / f"{case.a}-{case.b}"
        first = case.models not in [known.models for known, _ in lines]
        line = curve(x, y, metric, fewer if yardstick else analysis, calibrated=case.models != "ceiling",
                     null=not yardstick, tied=not yardstick, work=mine, drawn=True, split=first)
        drawn, line = line, line.drop(columns="drawn")
        lines.append((case, drawn[drawn["metric"] != TIED]))
        tables.setdefault(PairTable.CURVE, []).append(_named(case, line[line["metric"] != TIED]))
        if yardstick:
            continue
        found = {PairTable.TIED: line[line["metric"] == TIED]}
        if metric != MORE:
            found[PairTable.TWINS] = twin_table(x, y, metric, analysis, mine)
        found |= _whole(folder, x, y, metric, analysis, case.models if first else None, mine)
        for name, table in found.items():
            tables.setdefault(name, []).append(_named(case, table))
    store.write_table(folder / PairTable.CURVE, with_yardsticks(tables.pop(PairTable.CURVE), PLACE))
    if any(case.models == "embedders" for case, _ in lines):
        store.write_table(folder / PairTable.VARIANCE, layer_sources(lines))
    if PairTable.HEATMAP in tables:
        keys = ["metric", "models", "layer_x", "layer_y"]
        mean = pd.concat(tables.pop(PairTable.HEATMAP)).groupby(keys, sort=False, as_index=False)["value"].mean()
        store.write_table(folder / PairTable.HEATMAP, mean)
    for name, parts in tables.items():
        table = pd.concat(parts, ignore_index=True)
        if len(table):
            store.write_table(folder / name, table)


def layer_sources(lines: Iterable[tuple[Case, pd.DataFrame]]) -> pd.DataFrame:
    """What the variance of the embedders of a pair comes from, metric by metric and layer by layer.

    `lines`: the cases with their `curve` (and its column drawn). Columns: metric, layer, k, `SOURCE_COLUMNS`, on all
    texts; distances are from the value of identical models, squared where they are not squares yet (`Metric.power`).
    `layer` is that of model a, and "mean", where distances are averaged over all layers but the embedding output.
    """
    kinds = {"embedders": SAME_ORDER, RUNS_OF_ONE: SAME_ARM, CROSSED: NEITHER}
    known = [(case, line[line["set"] == "all"]) for case, line in lines if case.models in kinds]
    first = next(line for case, line in known if case.models == "embedders")
    of_b = dict(zip(first["layer_y"], first["layer_x"], strict=True))
    arm_b = {case.b for case, _ in known if case.models == "embedders"}
    cells: dict[tuple, list[Cell]] = {}
    for case, line in known:
        own = case.models == RUNS_OF_ONE and case.a in arm_b  # at the layers of b: named by those of a that meet them
        for row in line.to_dict("records"):
            layer = of_b.get(row["layer_x"]) if own else row["layer_x"]
            if layer in set(of_b.values()):
                metric = METRICS[row["metric"]]
                value, drawn = (metric.apart(part) ** metric.power for part in (row["value"], row["drawn"]))
                cell = Cell(kinds[case.models], (case.orders[0], case.orders[1]), float(value), drawn)
                k = None if pd.isna(row["k"]) else int(row["k"])
                cells.setdefault((row["metric"], k, layer), []).append(cell)
    deep: dict[tuple, list[list[Cell]]] = {}
    for (metric, k, layer), part in cells.items():
        deep.setdefault((metric, k, MEAN_LAYER), []).extend([part] if layer != EMBEDDING_LAYER else [])
    places = cells | {place: averaged(parts) for place, parts in deep.items()}
    tables = [sources(part).assign(metric=metric, layer=layer, k=pd.array([k] * 6, dtype="Int64"))
              for (metric, k, layer), part in places.items()]
    return pd.concat(tables, ignore_index=True)[["metric", "layer", "k", *SOURCE_COLUMNS]]


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

    Rows of "two runs" become runs, runs_low and runs_high of the embedders: the mean over both arms and neighbouring
    seeds at the same `place` (for each arm its own layer), and the bounds that cover all their intervals. Rows of
    "crossed" become crossed, crossed_low and crossed_high in the same way. Rows of "ceiling" become the column ceiling:
    the mean of a's at its layer and b's at its own, for all seeds that of the first. NaN where there are none.
    """
    table = pd.concat(tables, ignore_index=True)
    rows = table[~table["models"].isin(_YARDSTICKS)].reset_index(drop=True)
    of_a = [name for name in place if name != "layer_y"]
    columns = []
    for name, models in (("runs", RUNS_OF_ONE), ("crossed", CROSSED)):
        bounds = [name, f"{name}_low", f"{name}_high"]
        rows[bounds] = _bounds(rows, table[table["models"] == models], of_a, models == RUNS_OF_ONE)
        columns += bounds
    rows.loc[rows["models"] == "backbones", columns] = np.nan
    ceiling = table[table["models"] == "ceiling"]
    if ceiling.empty:
        return rows.assign(ceiling=np.nan)
    return rows.assign(ceiling=sum(_own_ceiling(rows, ceiling, of_a, side) for side in ("a", "b")) / 2)


def _bounds(rows: pd.DataFrame, yardstick: pd.DataFrame, of_a: list[str], own: bool) -> np.ndarray:
    """Mean, lowest and highest bound (r, 3) of a yardstick at the place of every row; `own`: of both arms, each at its
    own layer."""
    embedders = rows[rows["models"] == "embedders"]
    layer = "layer_y" if "layer_x" in of_a else None
    parts = []
    for side in ("a", "b") if own else ("a",):
        mine = yardstick[yardstick["a"].isin(set(embedders[side]))]
        renamed = {"layer_x": layer} if side == "b" and layer else {}
        keys = [renamed.get(name, name) for name in of_a]
        found = mine.groupby(of_a, dropna=False).agg(mean=("value", "mean"), low=("low", "min"), high=("high", "max"))
        found = found.reset_index().rename(columns=renamed)
        parts.append(rows[keys].merge(found, how="left", on=keys)[["mean", "low", "high"]].to_numpy(float))
    both = np.stack(parts)  # (sides, r, 3)
    return np.column_stack([both[..., 0].mean(axis=0), both[..., 1].min(axis=0), both[..., 2].max(axis=0)])


def _own_ceiling(rows: pd.DataFrame, ceiling: pd.DataFrame, of_a: list[str], side: str) -> np.ndarray:
    """Ceiling (r,) of model `side` of every row, at that model's layer; one seed stands for all of its kind."""
    known = set(ceiling["a"])
    stands_for = rows.groupby("models")[side].agg(lambda names: next((name for name in names if name in known), ""))
    layer = {"layer_x": "layer_y"} if side == "b" else {}
    mine = ceiling[["a", *of_a, "value"]].rename(columns={"a": "model", "value": "own", **layer})
    keys = ["model", *(layer.get(name, name) for name in of_a)]
    return rows.assign(model=rows["models"].map(stands_for)).merge(mine, how="left", on=keys)["own"].to_numpy()
