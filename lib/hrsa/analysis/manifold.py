"""The shape of one model's token states, layer by layer: dimension, anisotropy, massive activations, with intervals.

Four numbers of a layer (n, d): how many dimensions its states fill locally (`two_nn`) and in variance
(`participation_ratio`), how narrow a cone they lie in (`anisotropy`), and how far its largest entry stands out
(`massive_activation`). Intervals are over texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import RESAMPLING_SEED
from hrsa.analysis.pairs import cases
from hrsa.analysis.recordings import Recording, make_recording, open_recording
from hrsa.similarity import resampling
from hrsa.similarity.states import Layer, blocks
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Profile

SHAPES = {
    "two_nn": "intrinsic dimension (TwoNN)",
    "participation_ratio": "participation ratio (dimensions)",
    "anisotropy": "anisotropy (mean cosine)",
    "massive_activation": "massive activation (multiples of the median)",
}
SHAPE_COLUMNS = ["shape", "layer", "value", "low", "high", "n"]
_TABLE = "manifold.parquet"
_ENTRIES = 4_000_000  # float64 numbers held at once
_BOUNDS = {"anisotropy": (-1.0, 1.0)}  # the others are not negative
_CANDIDATES = 4  # nearest by a product of matrices, of which differences tell the two nearest


def two_nn(states: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Intrinsic dimension (r,) of states (n, d) from each token's two nearest others, under token weights (n, r).

    TwoNN (Facco et al. 2017, Scientific Reports 7:12140): the ratio of the distances to the second and the first
    neighbour follows a Pareto law whose exponent is the dimension; here its maximum likelihood, the count over the sum
    of the logarithms. Equal states count once, with the weights of the first of them: they are at no distance. Given
    the neighbours among all; NaN for fewer than three different states, inf where all distances are equal.
    """
    weights = np.ones((len(states), 1)) if weights is None else weights
    first = np.sort(np.unique(states, axis=0, return_index=True)[1])
    if len(first) < 3:
        return np.full(weights.shape[1], np.nan)
    x = states[first].astype(np.float64)
    x -= x.mean(axis=0)
    squares = np.einsum("nd,nd->n", x, x)
    ratio = np.empty(len(x))
    m = min(_CANDIDATES, len(x) - 1)
    for rows in blocks(len(x), max(1, min(1024, _ENTRIES // len(x), _ENTRIES // (m * x.shape[1])))):
        near = squares - 2 * x[rows] @ x.T  # (b, n), less a term of the row alone
        near[np.arange(len(near)), np.arange(rows.start, rows.stop)] = np.inf
        index = np.argpartition(near, m - 1, axis=1)[:, :m]
        apart = np.sort(np.sqrt(np.square(x[index] - x[rows, None]).sum(axis=2)), axis=1)  # (b, m)
        ratio[rows] = apart[:, 1] / apart[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return weights[first].sum(axis=0) / (np.log(ratio) @ weights[first])


def participation_ratio(states: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(sum of variances)^2 / sum of their squares over principal directions, (r,), under token weights (n, r).

    Between 1, where all of the variance lies in one direction, and d, where it is the same in all (Gao et al. 2017,
    bioRxiv 214262). From squared products of tokens, block by block; NaN where there is no variance.
    """
    weights = np.ones((len(states), 1)) if weights is None else weights.astype(np.float64)
    x = states.astype(np.float64)
    x -= x.mean(axis=0)
    total = weights.sum(axis=0)
    toward = x.T @ weights / total  # (d, r) the mean of a resample
    square = across = 0.0
    for rows in blocks(len(x), max(1, min(1024, _ENTRIES // len(x)))):
        square = square + (weights[rows] * (np.square(x[rows] @ x.T) @ weights)).sum(axis=0)
        across = across + (weights[rows] * np.square(x[rows] @ toward)).sum(axis=0)
    own = np.einsum("dr,dr->r", toward, toward)
    trace = np.einsum("nd,nd->n", x, x) @ weights / total - own
    squares = square / total**2 - 2 * across / total + own**2  # of the centred covariance
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squares > 0, trace**2 / squares, np.nan)


def anisotropy(states: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean cosine (r,) of all pairs of different tokens, under token weights (n, r); copies of a token are no pair.

    About 0 where directions are spread evenly, 1 where all are one (Ethayarajh 2019, arXiv 1909.00512, who samples
    pairs). ValueError: a zero row.
    """
    weights = np.ones((len(states), 1)) if weights is None else weights.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", states, states, dtype=np.float64))
    if not norms.all():
        raise ValueError(f"expected rows with a direction, got a zero row at {int(norms.argmin())} of {states.shape}: "
                         "leave that token out")
    along = (states / norms[:, None]).T @ weights  # (d, r)
    alone = np.square(weights).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (np.square(along).sum(axis=0) - alone) / (weights.sum(axis=0) ** 2 - alone)


def massive_activation(states: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The largest |entry| of the tokens that count, over the median |entry| of all, (r,), under token weights (n, r).

    Sun et al. 2024 (arXiv 2402.17762) call an activation massive from about 1,000 on. inf where the median is 0.
    """
    weights = np.ones((len(states), 1)) if weights is None else weights
    size = np.abs(states)
    largest = size.max(axis=1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weights > 0, largest[:, None], 0.0).max(axis=0) / np.median(size)


def shape_table(x: Recording, resamples: int) -> pd.DataFrame:
    """The four numbers of every layer of a recording: `SHAPE_COLUMNS`, one row per number and layer.

    low and high are of a 95% bootstrap over texts (NaN without resamples); one layer is in memory at a time.
    """
    rng = np.random.default_rng(RESAMPLING_SEED)
    n = len(x.tokens)
    weights = resampling.text_weights(pd.factorize(x.tokens["text"])[0], resamples, rng) if resamples else None
    rows = [row for at, label in enumerate(x.labels) for row in _rows(Layer(x.layer(at), label), label, weights, n)]
    return pd.DataFrame(rows, columns=SHAPE_COLUMNS)


def _rows(layer: Layer, label: str, weights: np.ndarray | None, n: int) -> Iterator[tuple]:
    states = np.asarray(layer.raw(slice(None)))
    for name, measure in (("two_nn", two_nn), ("participation_ratio", participation_ratio),
                          ("anisotropy", anisotropy), ("massive_activation", massive_activation)):
        value = float(measure(states)[0])
        drawn: Any = [] if weights is None else measure(states, weights)
        bounds = resampling.percentile_interval(value, drawn, 0.95, *_BOUNDS.get(name, (0.0, np.inf)))
        yield name, label, value, *bounds, n


def make_shapes(profile: Profile, model_id: str) -> Path:
    """Artefact folder with `manifold.parquet`, see `shape_table`, of one model; its states are recorded first where
    they are missing. ValueError: no such model."""
    states = make_recording(profile, model_id)
    used = profile.analysis.model_dump(include={"bootstrap"})
    key = store.key(states=states.name, analysis=used, code=code_hash(make_shapes))

    def build(folder: Path) -> None:
        store.write_table(folder / _TABLE, shape_table(open_recording(states), profile.analysis.bootstrap))

    return store.make(store.artefact(profile.name, "similarity", f"{model_id}-shape", key), build, (make_shapes,),
                      inputs=[states.name])


def make_pair_shapes(profile: Profile, pair: str) -> pd.DataFrame:
    """`shape_table` of the backbones of a pair and of its embedders, over seeds: [models, arm, `SHAPE_COLUMNS`].

    Values are means over seeds, and bounds cover those of all seeds. Artefacts are made first where they are missing.
    ValueError: unknown pair.
    """
    two, parts = profile.pair(pair), []
    for case in cases(profile, pair):
        if case.models in ("backbones", "embedders"):
            parts += [store.read_table(make_shapes(profile, model) / _TABLE, SHAPE_COLUMNS)
                      .assign(models=case.models, arm=arm) for model, arm in ((case.a, two.a), (case.b, two.b))]
    grouped = pd.concat(parts).groupby(["models", "arm", "shape", "layer"], sort=False, as_index=False)
    return grouped.agg({"value": "mean", "low": "min", "high": "max", "n": "min"})
