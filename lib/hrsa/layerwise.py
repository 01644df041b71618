"""One metric of two recorded models, layer by layer: values, intervals and nulls as tidy tables. No cache, no pairs.

Each similarity stands beside an interval (bootstrap over texts) and a null (rows of one model permuted within
classes of text length and position).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa import calibrate
from hrsa.activations import Recording, check_same_rows, open_recording
from hrsa.profile import Analysis
from hrsa.similarity import compare_layers, dimension_correlation, procrustes

MEASURED = {
    "correlation": ["correlation"],
    "procrustes": ["procrustes"],
    "cka": ["cka", "debiased_cka"],
    "knn": ["knn"],
}
TIED = "knn_tied"
SEED = 0  # of resamples and permutations: the same texts are drawn for every case
MAPS = 5  # of permuted rows, for the layer-aware null of a heat map
REFITS = 10  # Procrustes needs a fit per resample: it gets this many times fewer of them
MAP_CELLS = 64  # a map is shown in at most this many blocks of dimensions along an axis
PLACE = ["metric", "layer_x", "layer_y", "set", "k"]


def matched_layers(x: Recording, y: Recording) -> list[tuple[int, int]]:
    """Layers at the same relative depth, as places among the labels; the normed last states match each other.

    Equal depths match one to one. Otherwise each layer of the model with fewer finds the nearest in the other.
    """
    blocks_x, blocks_y = len(x.labels) - 2, len(y.labels) - 2
    least = min(blocks_x, blocks_y)
    depth = [(round(i * blocks_x / least), round(i * blocks_y / least)) for i in range(least + 1)]
    return [*depth, (blocks_x + 1, blocks_y + 1)]


def open_pair(a: Path, b: Path) -> tuple[Recording, Recording]:
    """Two recordings of the same tokens. ValueError when the tokenizers differ."""
    x, y = open_recording(a), open_recording(b)
    check_same_rows(x, y)
    return x, y


def curve(x: Recording, y: Recording, metric: str, analysis: Analysis, calibrated: bool = True, null: bool = True,
          layers: list[tuple[int, int]] | None = None, tied: bool = False) -> pd.DataFrame:
    """One metric at matched layers (or at `layers`): [metric, layer_x, layer_y, set, k, value, low, high, null, n].

    `set` is "all", and for Procrustes also each set of texts. Without `calibrated`, low, high and null are NaN;
    without `null`, the null is, and there is no set but "all". `tied` adds, to knn, rows of metric "knn_tied": the
    share of tokens whose neighbours the tie rule decided. One layer of both models is in memory at a time.
    """
    matched = matched_layers(x, y) if layers is None else layers
    names = [*MEASURED[metric], *([TIED] if tied and metric == "knn" else [])]
    parts = []
    for name, rows in _sets(x, metric == "procrustes" and null):
        tokens = x.tokens.iloc[rows]
        options: dict[str, Any] = {"ks": [k for k in analysis.ks if k < len(rows)], "layers": "matched"}
        if calibrated:
            options |= calibration(tokens, metric, analysis, null)
        for i, j in matched:
            a, b = (part.layer(at) if name == "all" else part.layer(at)[rows] for part, at in ((x, i), (y, j)))
            rng = np.random.default_rng(SEED)
            table = compare_layers([a], [b], names, rng=rng, **options)
            parts.append(table.assign(layer_x=x.labels[i], layer_y=y.labels[j], set=name))
    columns = [*PLACE, "value", "low", "high", "null", "n"]
    return pd.concat(parts, ignore_index=True).rename(columns={"n_tokens": "n"})[columns]


def _sets(x: Recording, split: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Names and rows of the sets of texts a metric is reported on."""
    yield "all", np.arange(len(x.tokens))
    if split:
        for name, part in x.tokens.groupby("set", sort=True):
            yield str(name), part.index.to_numpy()


def calibration(tokens: pd.DataFrame, metric: str, analysis: Analysis, null: bool) -> dict[str, Any]:
    """Options of `compare_layers` for an interval over the texts of `tokens` (n rows) and, with `null`, for a null."""
    fewer = REFITS if metric == "procrustes" else 1
    options = {
        "texts": pd.factorize(tokens["text"])[0],
        "resamples": max(analysis.bootstrap // fewer, min(analysis.bootstrap, 10)),
    }
    if null:
        options["classes"] = _joined(calibrate.length_position_classes(tokens["length"], tokens["position"]))
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


def heatmap(x: Recording, y: Recording, metric: str, memory_mb: int = 512) -> pd.DataFrame:
    """Every layer of x with every layer of y: [metric, layer_x, layer_y, value]; for correlation and cka."""
    table = compare_layers(*_all_layers(x, y), MEASURED[metric], layers="all", memory_mb=memory_mb)
    table["layer_x"] = np.array(x.labels)[table["layer_x"]]
    table["layer_y"] = np.array(y.labels)[table["layer_y"]]
    return table[["metric", "layer_x", "layer_y", "value"]]


def _all_layers(x: Recording, y: Recording) -> list[list[np.ndarray]]:
    return [[part.layer(i) for i in range(len(part.labels))] for part in (x, y)]


@dataclass(frozen=True)
class Shuffled:
    """States (n, d) of a layer with their rows in another `order` (n,), read as they are asked for."""

    source: np.ndarray
    order: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        """That of the source."""
        return self.source.dtype

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.source[self.order[rows]]


def heatmap_maxima(x: Recording, y: Recording, metric: str, analysis: Analysis) -> pd.DataFrame:
    """Layer-aware null of `heatmap`: the largest cell of each of at most 5 maps of permuted rows, [metric, map, value].

    Rows of y are permuted within classes of text length and position, all layers alike. A map has many cells, and the
    largest of them is large by chance: a cell of the real map counts when it exceeds these maxima.
    """
    classes = calibration(x.tokens, metric, analysis, null=True)["classes"]
    rng = np.random.default_rng(SEED)
    layers_x, layers_y = _all_layers(x, y)
    found = []
    for at in range(min(analysis.permutations, MAPS)):
        order = calibrate.shuffle_within(classes, rng)
        shuffled = [Shuffled(layer, order) for layer in layers_y]
        table = compare_layers(layers_x, shuffled, MEASURED[metric], layers="all", memory_mb=analysis.memory_mb)
        found += [{"metric": name, "map": at, "value": rows["value"].max()} for name, rows in table.groupby("metric")]
    return pd.DataFrame(found, columns=["metric", "map", "value"])


def dimensions(x: Recording, y: Recording) -> pd.DataFrame:
    """Correlation of every dimension at matched layers: [layer_x, dimension, value]; NaN where one is constant."""
    found = {x.labels[i]: dimension_correlation(x.layer(i), y.layer(j)) for i, j in matched_layers(x, y)}
    return pd.concat([pd.DataFrame({"layer_x": label, "dimension": np.arange(len(rho)), "value": rho})
                      for label, rho in found.items()], ignore_index=True)


def rotation_map(x: Recording, y: Recording) -> tuple[np.ndarray, pd.DataFrame]:
    """Size of the entries of the Procrustes map of the last (normed) states: |O| (d_x, d_y) and a small table.

    The table [row, column, value] holds the largest entry in each of at most 64 x 64 blocks of dimensions, named by
    the first dimension of the block.
    """
    size = np.abs(procrustes(x.layer(len(x.labels) - 1), y.layer(len(y.labels) - 1)).map)
    starts = [np.unique(np.linspace(0, d, min(d, MAP_CELLS), endpoint=False).astype(int)) for d in size.shape]
    small = np.maximum.reduceat(np.maximum.reduceat(size, starts[0], axis=0), starts[1], axis=1)
    row, column = (grid.ravel() for grid in np.meshgrid(*starts, indexing="ij"))
    return size, pd.DataFrame({"row": row, "column": column, "value": small.ravel()})
