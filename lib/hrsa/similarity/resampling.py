"""What makes a similarity readable: intervals over texts, nulls, robust twins and the attacks of an audit.

Pure functions of arrays (numpy, or torch on any device), text numbers, classes and a numpy Generator. A noise floor
needs no function of its own: it is the same metric between two seeds of the same arm; a ceiling, between float32 and
bf16 states of one model. `hrsa.analysis.robustness` puts twins and attacks through the metrics and their intervals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from hrsa.similarity.backend import host

log = logging.getLogger(__name__)

MetricFunction = Callable[[np.ndarray, np.ndarray], float]


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


