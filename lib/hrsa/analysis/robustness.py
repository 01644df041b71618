"""Robustness of a conclusion: one similarity of the last states, on robust twins and under attack, with intervals.

Everything is computed on a seeded sample of the recorded tokens, so that a chapter pays seconds for it; "as recorded"
is computed on that same sample, and is what the rest is held against.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import RESAMPLING_SEED, calibration
from hrsa.analysis.recordings import Recording
from hrsa.similarity import cka
from hrsa.similarity.arrays import matrix, to_float64, to_numpy
from hrsa.similarity.layers import compare_layers
from hrsa.similarity.metrics import METRIC_FAMILIES, shown_k
from hrsa.study.partial import Work
from hrsa.study.profile import Analysis

_OUTLIER = 6.0  # a dimension whose root mean square is this many times the median dimension's is an outlier
STRENGTHS = (10.0, 100.0, 1000.0)  # of the attacks: from what occurs in every language model to what occurs in some

_SAMPLE = 1000  # tokens: the cost of an interval grows with their square
_RESAMPLES = 50  # at most: these intervals only have to be told apart
_PERMUTATIONS = 5
RECORDED = "as recorded"
_LEFT_OUT = "angular_distance"  # of the tables: residual_ratio says the same
_AUDITED = ("correlation", "cka", "knn")  # the first only for models of equal width


def twin_table(x: Recording, y: Recording, metric: str, analysis: Analysis, work: Path | None = None) -> pd.DataFrame:
    """One metric of the last states on every robust twin: [metric, twin, k, value, low, high, null, n].

    The variants are those of `twins`; `metric` is a key of `metrics.METRIC_FAMILIES`; for knn, k is the one that is
    shown. What is finished in the folder `work` outlives an interruption.
    """
    a, b, tokens = sampled_states(x, y)
    variants = twins(a, b, tokens["token_id"], np.random.default_rng(RESAMPLING_SEED))
    found = Work(work).tables(
        "twins", variants.items(),
        lambda item: _compared(item[1], tokens, [metric], analysis, work).assign(twin=item[0]))
    return found[["metric", "twin", "k", "value", "low", "high", "null", "n"]]


def audit_table(x: Recording, y: Recording, analysis: Analysis, strengths: Iterable[float] = STRENGTHS,
                work: Path | None = None) -> pd.DataFrame:
    """CKA, debiased CKA, k-NN overlap and (equal widths) mean correlation of the last states under attack.

    A tidy table [metric, attack, strength, k, value, low, high, null, n] with the changes of `attacks`. In a resample
    that draws one far token many times debiased CKA is not defined; the interval is that of the others.
    `work` as `twin_table`.
    """
    a, b, tokens = sampled_states(x, y)
    metrics = [name for name in _AUDITED if name != "correlation" or a.shape[1] == b.shape[1]]
    variants = attacks(a, b, np.random.default_rng(RESAMPLING_SEED), tuple(strengths))

    def one(item: tuple[str, float, Variant]) -> pd.DataFrame:
        attack, strength, variant = item
        return _compared(variant, tokens, metrics, analysis, work).assign(attack=attack, strength=strength)

    with _undefined_expected():
        found = Work(work).tables("audit", variants, one)
    return found[["metric", "attack", "strength", "k", "value", "low", "high", "null", "n"]]


@contextlib.contextmanager
def _undefined_expected() -> Iterator[None]:
    """Without the warning that CKA is undefined in some resamples: the attacks are made to bring that about."""
    level = cka.log.level
    cka.log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        cka.log.setLevel(level)


def sampled_states(x: Recording, y: Recording) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """The last (normed) states (m, d_x), (m, d_y) of a seeded sample of at most 1000 tokens, and those tokens."""
    n = len(x.tokens)
    rows = np.sort(np.random.default_rng(RESAMPLING_SEED).choice(n, size=min(_SAMPLE, n), replace=False))
    a, b = (part.layer(len(part.labels) - 1)[rows] for part in (x, y))
    return a, b, x.tokens.iloc[rows].reset_index(drop=True)


def _compared(variant: Variant, tokens: pd.DataFrame, metrics: list[str], analysis: Analysis,
              work: Path | None) -> pd.DataFrame:
    fewer = analysis.model_copy(update={"bootstrap": min(analysis.bootstrap, _RESAMPLES),
                                        "permutations": min(analysis.permutations, _PERMUTATIONS)})
    n = len(tokens)
    ks = [k for k in sorted(analysis.ks) if 4 * k <= n] or [max(1, n // 4)]
    tables = []
    for metric in metrics:
        options: dict[str, Any] = calibration(tokens.iloc[variant.rows], metric, fewer, null=True)
        table = compare_layers([variant.x], [variant.y], METRIC_FAMILIES[metric], ks=(shown_k(ks),), layers="matched",
                               rng=np.random.default_rng(RESAMPLING_SEED), memory_mb=analysis.memory_mb, work=work,
                               **options)
        tables.append(table[table["metric"] != _LEFT_OUT].rename(columns={"n_tokens": "n"}))
    return pd.concat(tables, ignore_index=True)


class Variant(NamedTuple):
    """A pair of arrays, changed: x (m, d_x), y (m, d_y), and the row (m,) of the original that each row came from."""

    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray


def twins(x: Any, y: Any, token_ids: Any, rng: np.random.Generator) -> dict[str, Variant]:
    """Robust twins of a pair of arrays (n, d_x), (n, d_y): what a metric should also be shown on.

    `standardised`: every dimension to mean 0 and variance 1. `outliers removed`: without dimensions whose root mean
    square is over 6 times the median (of either model, where widths are equal). `mean removed`: column means taken
    off. `frequency balanced`: at most c tokens of each id (n,), drawn by `rng`, c the median count per id.
    ValueError: unequal n.
    """
    x, y = _two(x, y)
    every = np.arange(len(x))
    balanced = _balanced(token_ids, rng)
    out_x, out_y = outlier_dimensions(x), outlier_dimensions(y)
    if x.shape[1] == y.shape[1]:
        out_x = out_y = out_x | out_y
    return {
        "as recorded": Variant(x, y, every),
        "standardised": Variant(_standardised(x), _standardised(y), every),
        "outliers removed": Variant(x[:, ~out_x], y[:, ~out_y], every),
        "mean removed": Variant(x - x.mean(axis=0), y - y.mean(axis=0), every),
        "frequency balanced": Variant(x[balanced], y[balanced], balanced),
    }


def _balanced(ids: Any, rng: np.random.Generator) -> np.ndarray:
    """Rows (m,) of a sample with at most the median number of rows of each id (n,)."""
    _, code, counts = np.unique(to_numpy(ids), return_inverse=True, return_counts=True)
    shuffled = rng.permutation(len(code))
    by_id = shuffled[np.argsort(code[shuffled], kind="stable")]
    place = np.arange(len(code)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_id[place < max(1, int(np.median(counts)))])


def outlier_dimensions(x: np.ndarray) -> np.ndarray:
    """Dimensions (d,) of (n, d) whose root mean square is over 6 times the median dimension's."""
    size = np.sqrt(np.square(x, dtype=np.float64).mean(axis=0))
    return size > _OUTLIER * np.median(size)


def attacks(x: Any, y: Any, rng: np.random.Generator,
            strengths: Sequence[float] = STRENGTHS) -> Iterator[tuple[str, float, Variant]]:
    """Changes of (n, d_x), (n, d_y) that say nothing about what the models represent: (attack, strength, variant).

    First "as recorded" at strength 0. `shared outlier`: the same noise, strength times a typical dimension's size,
    replaces dimension 0 of both arrays. `moved tokens`: 1% of the tokens are moved, in y only, by one vector of
    strength times the typical token's norm. `moved token`: one token alone. `duplicated rows`: strength copies of 1%
    of the tokens are added to both, up to 4 n rows in all. ValueError: unequal n.
    """
    x, y = _two(x, y)
    n = len(x)
    every = np.arange(n)
    yield "as recorded", 0.0, Variant(x, y, every)
    some = rng.choice(n, size=max(1, n // 100), replace=False)
    noise = rng.standard_normal(n)
    direction = rng.standard_normal(y.shape[1])
    direction *= np.median(np.linalg.norm(y - y.mean(axis=0), axis=1)) / np.linalg.norm(direction)
    for strength in strengths:
        yield "shared outlier", strength, Variant(*(_with_outlier(part, strength * noise) for part in (x, y)), every)
        for attack, rows in (("moved tokens", some), ("moved token", some[:1])):
            moved = y.copy()
            moved[rows] += strength * direction
            yield attack, strength, Variant(x, moved, every)
        again = np.concatenate([every, np.tile(some, int(strength))])[: 4 * n]
        yield "duplicated rows", strength, Variant(x[again], y[again], again)


def _with_outlier(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[:, 0] = np.median(x.std(axis=0)) * noise
    return x


def _two(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two checked arrays (n, d_x), (n, d_y), float64, in main memory: both are changed and copied here."""
    x, y = (to_float64(to_numpy(matrix(part, name))) for part, name in ((x, "x"), (y, "y")))
    if len(x) != len(y):
        raise ValueError(f"expected the same n tokens in x and y, got x {x.shape} and y {y.shape}: record both models "
                         "on the same tokens")
    return x, y


def _standardised(x: np.ndarray) -> np.ndarray:
    scale = x.std(axis=0)
    constant = np.ptp(x, axis=0) == 0
    x = (x - x.mean(axis=0)) / np.where(constant, 1.0, scale)
    x[:, constant] = 0.0
    return x
