"""One metric of two recorded models, layer by layer: values, intervals and nulls as tidy tables.

Each similarity stands beside an interval (bootstrap over texts) and a null (rows of one model permuted within
classes of text length and position). What is finished is kept in the work folder that a function is given, if any.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.recordings import Recording
from hrsa.similarity import resampling
from hrsa.similarity.budget import MEMORY_MB, Limits
from hrsa.similarity.correlation import dimension_correlation
from hrsa.similarity.feature import cross_product
from hrsa.similarity.layers import compare_layers
from hrsa.similarity.metrics import METRIC_FAMILIES, MORE
from hrsa.similarity.procrustes import orthogonal_map
from hrsa.similarity.rows import TIED
from hrsa.similarity.states import Sample, open_states
from hrsa.study.partial import Work
from hrsa.study.profile import Analysis

RESAMPLING_SEED = 0  # of resamples and permutations: the same texts are drawn for every case
MAPS = 5  # of permuted rows, for the layer-aware null of a heat map
REFITS = 10  # Procrustes needs a fit per resample: it gets this many times fewer of them
_MAP_CELLS = 64  # a map is shown in at most this many blocks of dimensions along an axis
PLACE = ["metric", "layer_x", "layer_y", "set", "k"]
MIXED = "mixed"  # name of a sample of all sets of texts, as many tokens as each set has


def matched_layers(x: Recording, y: Recording) -> list[tuple[int, int]]:
    """Layers at the same relative depth, as places among the labels; the normed last states match each other.

    Equal depths match one to one. Otherwise each layer of the model with fewer finds the nearest in the other.
    """
    blocks_x, blocks_y = len(x.labels) - 2, len(y.labels) - 2
    least = min(blocks_x, blocks_y)
    depth = [(round(i * blocks_x / least), round(i * blocks_y / least)) for i in range(least + 1)]
    return [*depth, (blocks_x + 1, blocks_y + 1)]


def curve(x: Recording, y: Recording, metric: str, analysis: Analysis, calibrated: bool = True, null: bool = True,
          layers: list[tuple[int, int]] | None = None, tied: bool = False, work: Path | None = None,
          drawn: bool = False, split: bool = True) -> pd.DataFrame:
    """One metric at matched layers (or at `layers`): [metric, layer_x, layer_y, set, k, value, low, high, null, n].

    `metric` is a key of `metrics.METRIC_FAMILIES`, or "more" for what `analysis.more` names. `set` is "all", and for
    Procrustes also each set of texts and "mixed", a sample of all sets: these are drawn at one n, that of the smallest
    set, since values of Procrustes depend on n (`Metric.with_n`), and have no null. Without `calibrated`, low, high and
    null are NaN; without `null`, the null is; without `null` or `split` there is no set but "all". `tied` adds,
    to knn, rows of metric "knn_tied": the share of tokens whose neighbours the tie rule decided; `drawn` adds a column
    with the value in each resample. States are read in blocks, within `analysis.memory_mb`.
    `work` is a folder where finished layers, and blocks of the one at hand, outlive an interruption. ValueError: a k of
    `analysis.ks` that is not below n.
    """
    names = [*(METRIC_FAMILIES | {MORE: analysis.more})[metric], *([TIED] if tied and metric == "knn" else [])]
    sets = dict(_sets(x, metric == "procrustes" and null and split))
    options = {name: _options(x.tokens.iloc[rows], metric, analysis, calibrated, null and name == "all")
               for name, rows in sets.items()}
    items = [(name, i, j) for name in sets for i, j in (matched_layers(x, y) if layers is None else layers)]

    def one(item: tuple[str, int, int]) -> pd.DataFrame:
        name, i, j = item
        a, b = (part.layer(at) if name == "all" else Sample(part.layer(at), sets[name])
                for part, at in ((x, i), (y, j)))
        table = compare_layers([a], [b], names, rng=np.random.default_rng(RESAMPLING_SEED), work=work, drawn=drawn,
                               **options[name])
        return table.assign(layer_x=x.labels[i], layer_y=y.labels[j], set=name)

    columns = [*PLACE, "value", "low", "high", "null", "n", *(["drawn"] if drawn else [])]
    return Work(work).tables("curve", items, one).rename(columns={"n_tokens": "n"})[columns]


def _options(tokens: pd.DataFrame, metric: str, analysis: Analysis, calibrated: bool, null: bool) -> dict[str, Any]:
    """Options of `compare_layers` for one layer of both models on `tokens` (n rows)."""
    near = metric in ("knn", MORE)  # what counts neighbours
    if near and max(analysis.ks) >= len(tokens):
        raise ValueError(f"expected analysis.ks below the {len(tokens)} rows that are compared, for so many have fewer "
                         f"neighbours, got {list(analysis.ks)}: lower analysis.ks, or raise analysis.texts_per_set")
    options = {"ks": analysis.ks if near else (), "layers": "matched", "memory_mb": analysis.memory_mb}
    return options | (calibration(tokens, metric, analysis, null) if calibrated else {})


def _sets(x: Recording, split: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Names and rows of the sets of texts a metric is reported on: all rows, then equal numbers of each set."""
    every = np.arange(len(x.tokens))
    yield "all", every
    if split:
        parts = {str(name): part.index.to_numpy() for name, part in x.tokens.groupby("set", sort=True)}
        least = min(map(len, parts.values()))
        rng = np.random.default_rng(RESAMPLING_SEED)
        for name, rows in (parts | ({MIXED: every} if len(parts) > 1 else {})).items():
            yield name, np.sort(rng.choice(rows, least, replace=False))


def calibration(tokens: pd.DataFrame, metric: str, analysis: Analysis, null: bool) -> dict[str, Any]:
    """Options of `compare_layers` for an interval over the texts of `tokens` (n rows) and, with `null`, for a null."""
    fewer = REFITS if metric == "procrustes" else 1
    options = {
        "texts": pd.factorize(tokens["text"])[0],
        "resamples": max(analysis.bootstrap // fewer, min(analysis.bootstrap, 10)),
    }
    if null:
        options["classes"] = _joined(resampling.length_position_classes(tokens["length"], tokens["position"]))
        options["permutations"] = max(analysis.permutations // fewer, min(analysis.permutations, 3))
    return options


def _joined(classes: np.ndarray) -> np.ndarray:
    """The classes (n,), with each one that holds a single token joined to its neighbour: it has nothing to swap."""
    while True:
        names, counts = np.unique(classes, return_counts=True)
        alone = np.flatnonzero(counts == 1)
        if not len(alone) or len(names) == 1:
            return classes
        at = alone[0]
        classes = np.where(classes == names[at], names[at - 1 if at else 1], classes)


def layer_map(x: Recording, y: Recording, metric: str, memory_mb: int = MEMORY_MB,
              work: Path | None = None) -> pd.DataFrame:
    """Every layer of x with every layer of y: [metric, layer_x, layer_y, value]; for correlation and cka.

    States are read in blocks, within `memory_mb`; finished blocks in the folder `work` outlive an interruption.
    """
    table = Work(work).tables("heatmap", [_all_layers(x, y)], lambda layers: compare_layers(
        *layers, METRIC_FAMILIES[metric], layers="all", memory_mb=memory_mb, work=work))
    table["layer_x"] = np.array(x.labels)[table["layer_x"]]
    table["layer_y"] = np.array(y.labels)[table["layer_y"]]
    return table[["metric", "layer_x", "layer_y", "value"]]


def _all_layers(x: Recording, y: Recording) -> list[list[np.ndarray]]:
    return [[part.layer(i) for i in range(len(part.labels))] for part in (x, y)]


def layer_map_maxima(x: Recording, y: Recording, metric: str, analysis: Analysis,
                     work: Path | None = None) -> pd.DataFrame:
    """Layer-aware null of `layer_map`: the largest cell of each of at most 5 maps of permuted rows.

    Columns: metric, map, value.

    Rows of y are permuted within classes of text length and position, all layers alike. A map has many cells, and the
    largest of them is large by chance: a cell of the real map counts when it exceeds these maxima. `work` as in
    `layer_map`.
    """
    classes = calibration(x.tokens, metric, analysis, null=True)["classes"]
    rng = np.random.default_rng(RESAMPLING_SEED)
    orders = [resampling.shuffle_within(classes, rng) for _ in range(min(analysis.permutations, MAPS))]
    layers_x, layers_y = _all_layers(x, y)

    def one(item: tuple[int, np.ndarray]) -> pd.DataFrame:
        at, order = item
        table = compare_layers(layers_x, [Sample(layer, order) for layer in layers_y], METRIC_FAMILIES[metric],
                               layers="all", memory_mb=analysis.memory_mb, work=work)
        return table.groupby("metric", sort=False, as_index=False)["value"].max().assign(map=at)

    return Work(work).tables("maxima", list(enumerate(orders)), one)[["metric", "map", "value"]]


def dimensions(x: Recording, y: Recording, memory_mb: int = MEMORY_MB) -> pd.DataFrame:
    """Correlation of every dimension at matched layers: [layer_x, dimension, value]; NaN where one is constant.

    States are read in blocks, within `memory_mb`. ValueError: unequal widths.
    """
    found = {x.labels[i]: dimension_correlation(open_states([x.layer(i)], "x"), open_states([y.layer(j)], "y"),
                                                Limits.of(memory_mb)) for i, j in matched_layers(x, y)}
    return pd.concat([pd.DataFrame({"layer_x": label, "dimension": np.arange(len(rho)), "value": rho})
                      for label, rho in found.items()], ignore_index=True)


def rotation_map(x: Recording, y: Recording, memory_mb: int = MEMORY_MB) -> tuple[np.ndarray, pd.DataFrame]:
    """Size of the entries of the Procrustes map of the last (normed) states: |O| (d_x, d_y) and a small table.

    The table [row, column, value] holds the largest entry in each of at most 64 x 64 blocks of dimensions, named by
    the first dimension of the block. States are read in blocks, within `memory_mb`; the map itself comes on top.
    """
    last = [open_states([part.layer(len(part.labels) - 1)], "states").layers[0] for part in (x, y)]
    size = np.abs(orthogonal_map(cross_product(last[0], last[1:], limits=Limits.of(memory_mb)))[0])
    starts = [np.unique(np.linspace(0, d, min(d, _MAP_CELLS), endpoint=False).astype(int)) for d in size.shape]
    small = np.maximum.reduceat(np.maximum.reduceat(size, starts[0], axis=0), starts[1], axis=1)
    row, column = (grid.ravel() for grid in np.meshgrid(*starts, indexing="ij"))
    return size, pd.DataFrame({"row": row, "column": column, "value": small.ravel()})
