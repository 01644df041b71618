"""What makes a similarity readable: intervals over texts, nulls, robust twins and the attacks of an audit.

Pure functions of arrays (numpy, or torch on any device), text numbers, classes and a numpy Generator. A noise floor
needs no function of its own: it is the same metric between two seeds of the same arm; a ceiling, between float32 and
bf16 states of one model. `hrsa.analysis.robustness` puts twins and attacks through the metrics and their intervals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hrsa.similarity.arrays import pair
from hrsa.similarity.backend import host

log = logging.getLogger(__name__)

MetricFunction = Callable[[np.ndarray, np.ndarray], float]
OUTLIER = 6.0  # a dimension whose root mean square is this many times the median dimension's is an outlier
STRENGTHS = (10.0, 100.0, 1000.0)  # of the attacks: from what occurs in every language model to what occurs in some


class Variant(NamedTuple):
    """A pair of arrays, changed: x (m, d_x), y (m, d_y), and the row (m,) of the original that each row came from."""

    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray


def text_weights(texts: Any, count: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap over texts: how often each token counts in each resample, (n, count) whole numbers.

    `texts` (n,) numbers the text of every token. A resample draws as many texts as there are, with replacement, and
    takes all tokens of each: tokens of one text are not independent, texts are. ValueError: fewer than two texts.
    """
    found, code = np.unique(host(texts), return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"expected tokens of at least 2 texts for a bootstrap over texts, got {len(found)}")
    drawn = rng.multinomial(len(found), np.full(len(found), 1 / len(found)), size=count)  # (count, texts)
    return drawn[:, code].T


def interval(value: float, resampled: Any, level: float = 0.95, low: float = -np.inf, high: float = np.inf):
    """Percentile interval of `resampled` (r,), moved so that its median lies on `value`, cut at the metric's range.

    Moved, because a resample holds fewer distinct tokens, which shifts biased metrics (biased CKA rises); the spread
    is what the resamples measure. (NaN, NaN) when no resample is defined.
    """
    resampled = host(resampled).astype(np.float64)
    resampled = resampled[~np.isnan(resampled)]
    if not resampled.size or np.isnan(value):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    quantiles = np.quantile(resampled, [tail, 1 - tail]) - np.median(resampled) + value
    return tuple(float(q) for q in np.clip(quantiles, low, high))


def length_position_classes(lengths: Any, positions: Any, bins: int = 4) -> np.ndarray:
    """Classes (n,) of tokens by text length and by position, each in `bins` quantile bins; the first token apart.

    Norms depend on both (first tokens are massive), so that a null within these classes keeps their effect.
    """
    lengths, positions = host(lengths), host(positions)
    if lengths.shape != positions.shape or lengths.ndim != 1:
        raise ValueError(f"expected lengths and positions (n,), got {lengths.shape} and {positions.shape}")
    cuts = [np.unique(np.quantile(v, np.linspace(0, 1, bins + 1)[1:-1])) for v in (lengths, positions)]
    length, position = (np.searchsorted(c, v, side="right") for c, v in zip(cuts, (lengths, positions), strict=True))
    return length * (bins + 1) + np.where(positions == positions.min(), bins, position)


def shuffle_within(classes: Any, rng: np.random.Generator) -> np.ndarray:
    """A permutation (n,) of the rows that keeps every row in its class (n,); rows alone in a class stay, logged."""
    _, code, counts = np.unique(host(classes), return_inverse=True, return_counts=True)
    alone = int((counts == 1).sum())
    if alone:
        log.warning("%d of %d rows are alone in their class and stay in place in the null", alone, len(code))
    order = np.empty(len(code), dtype=np.intp)
    order[np.argsort(code, kind="stable")] = np.lexsort((rng.random(len(code)), code))
    return order


def null_values(metric: MetricFunction, x: Any, y: Any, classes: Any, count: int, rng) -> np.ndarray:
    """`metric` of x (n, d_x) and of y (n, d_y) with its rows shuffled within `classes`, `count` times: (count,).

    What is left when a token meets another token of the same class: norm, length and position effects only.
    """
    return np.array([metric(x, y[shuffle_within(classes, rng)]) for _ in range(count)])


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
    _, code, counts = np.unique(host(ids), return_inverse=True, return_counts=True)
    shuffled = rng.permutation(len(code))
    by_id = shuffled[np.argsort(code[shuffled], kind="stable")]
    place = np.arange(len(code)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_id[place < max(1, int(np.median(counts)))])


def outlier_dimensions(x: np.ndarray) -> np.ndarray:
    """Dimensions (d,) of (n, d) whose root mean square is over 6 times the median dimension's."""
    size = np.sqrt(np.square(x, dtype=np.float64).mean(axis=0))
    return size > OUTLIER * np.median(size)


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
    x, y = pair(x, y, at_least=1)
    return host(x), host(y)


def _standardised(x: np.ndarray) -> np.ndarray:
    scale = x.std(axis=0)
    constant = np.ptp(x, axis=0) == 0
    x = (x - x.mean(axis=0)) / np.where(constant, 1.0, scale)
    x[:, constant] = 0.0
    return x
