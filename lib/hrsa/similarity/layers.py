"""One tidy table of all similarities of two models, layer by layer, with intervals and nulls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from hrsa import calibrate
from hrsa.similarity import knn, pairs, resample
from hrsa.similarity.cka import ratio, unbiased
from hrsa.similarity.correlation import correlation, mean_of_defined
from hrsa.similarity.procrustes import compare_rotation
from hrsa.similarity.states import States, blocks, open_states

PROCRUSTES = ("inverse_row_entropy", "residual_ratio", "mean_cosine", "angular_distance")
ALL_PAIRS = ("correlation", "cka", "debiased_cka")  # heat maps; the others compare layers of equal number
KNOWN = (*ALL_PAIRS, "procrustes", "knn")  # procrustes: all four of its values
TIED = "knn_tied"
COLUMNS = ["metric", "layer_x", "layer_y", "k", "value", "low", "high", "null", "n_tokens"]
BOUNDS = {"correlation": (-1, 1), "cka": (0, 1), "debiased_cka": (-1, 1), "knn": (0, 1), "inverse_row_entropy": (0, 1),
          "residual_ratio": (0, np.inf), "mean_cosine": (-1, 1), "angular_distance": (0, np.pi / 2)}


@dataclass(frozen=True)
class Plan:
    """What to compute beside the values: token weights (n, r) of resampled texts, row orders (p, n), level."""

    weights: np.ndarray
    orders: np.ndarray
    level: float
    ks: tuple[int, ...]


def compare_layers(
    states_x: Any,
    states_y: Any,
    metrics: Sequence[str] = KNOWN,
    *,
    ks: Sequence[int] = knn.KS,
    layers: Literal["all", "matched"] = "all",
    method: Literal["exact", "minibatch"] = "exact",
    texts: Any = None,
    classes: Any = None,
    resamples: int = 0,
    permutations: int = 0,
    level: float = 0.95,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Compare every layer of one model with the layers of another on the same n tokens.

    `states_x`, `states_y`: (l, n, d) arrays, lists of (n, d) arrays, memory maps or .npy paths (widths may differ), or
    streams of blocks (see `states.open_states`). `metrics`: any of correlation, cka, debiased_cka (all layer pairs,
    or with `layers="matched"` only layers of equal number), procrustes and knn (layers of equal number; procrustes
    stands for inverse_row_entropy, residual_ratio, mean_cosine and angular_distance, which may also be named one by
    one: the second and fourth alone need no map and cost less). `knn_tied` gives the share of tokens whose neighbours
    the tie rule decided in either model: where it is high, so is part of the overlap. `method="minibatch"` replaces
    cka and debiased_cka by the unbiased one-pass estimate, reported as debiased_cka.

    With `texts` (n,), the text of each token, and `resamples`, matched layers get a bootstrap interval over texts
    (knn: of the mean over tokens, given the neighbours found among all tokens). With `classes` (n,) and
    `permutations`, they get the mean value under rows of y shuffled within classes. `rng` is needed for these.

    Returns [metric, layer_x, layer_y, k, value, low, high, null, n_tokens], layers numbered from 0, k only for knn,
    NaN where something was not asked for or is not defined. ValueError: see the metrics; an unknown metric.
    """
    unknown = set(metrics) - {*KNOWN, *PROCRUSTES, TIED}
    if unknown or not metrics:
        raise ValueError(f"expected metrics among {(*KNOWN, *PROCRUSTES, TIED)}, got {sorted(unknown) or 'none'}")
    x, y = open_states(states_x, "states_x"), open_states(states_y, "states_y")
    pairs.check_pair(x, y)
    plan = _plan(x.n, texts, classes, resamples, permutations, level, rng, tuple(ks))
    rows: list[dict[str, Any]] = []
    if "correlation" in metrics:
        rows += _correlation(x, y, plan, layers)
    if "cka" in metrics or "debiased_cka" in metrics:
        names = [name for name in ("cka", "debiased_cka") if name in metrics]
        rows += _minibatch(x, y, rng, layers) if method == "minibatch" else _cka(x, y, plan, layers, names)
    rotations = [name for name in PROCRUSTES if name in metrics or "procrustes" in metrics]
    for i, _ in _matched(x, y):
        if rotations:
            rows += _procrustes(x, y, i, plan, rotations)
        if "knn" in metrics or TIED in metrics:
            rows += [row for row in _knn(x, y, i, plan) if row["metric"] in metrics]
    table = pd.DataFrame(rows, columns=COLUMNS).assign(n_tokens=x.n)
    return table.astype({"k": "Int64"})


def _plan(n, texts, classes, resamples, permutations, level, rng, ks) -> Plan:
    for name, given, count in (("texts", texts, resamples), ("classes", classes, permutations)):
        if count and (given is None or rng is None):
            raise ValueError(f"expected {name} (n,) and rng for {count} resamples or permutations, "
                             f"got {name} of type {type(given).__name__} and rng {rng}: pass both")
        if given is not None and len(given) != n:
            raise ValueError(f"expected {name} of shape ({n},), got {np.shape(given)}")
    weights = calibrate.text_weights(texts, resamples, rng) if resamples else np.empty((n, 0))
    orders = [calibrate.shuffle_within(classes, rng) for _ in range(permutations)]
    return Plan(weights, np.array(orders, dtype=np.intp).reshape(-1, n), level, ks)


def _rows(metric: str, values: np.ndarray, layers: str, resampled=None, nulls=None, level=0.95) -> Iterator[dict]:
    """Rows of a map (l_x, l_y); `resampled` and `nulls` are dicts of matched layer -> values."""
    for i, j in np.ndindex(values.shape):
        if layers == "all" or i == j:
            yield _row(metric, i, j, values[i, j], (resampled or {}).get((i, j)), (nulls or {}).get((i, j)), level)


def _row(metric, i, j, value, resampled, nulls, level, k=pd.NA) -> dict[str, Any]:
    low = high = null = float("nan")
    if resampled is not None and len(resampled):
        low, high = calibrate.interval(float(value), resampled, level, *BOUNDS[metric])
    if nulls is not None and len(nulls):
        null = float(np.mean(nulls))
    return {"metric": metric, "layer_x": i, "layer_y": j, "k": k, "value": float(value), "low": low, "high": high,
            "null": null}


def _matched(x: States, y: States) -> list[tuple[int, int]]:
    return [(i, i) for i in range(min(len(x.layers), len(y.layers)))]


def _correlation(x, y, plan, layers):
    values = pairs.correlation_pairs(x, y)
    resampled, nulls = {}, {}
    for i, j in _matched(x, y):
        if plan.weights.size:
            resampled[i, j] = resample.weighted_correlation(x.layers[i], y.layers[j], plan.weights)
        nulls[i, j] = [_shuffled_correlation(x.layers[i], y.layers[j], order) for order in plan.orders]
    return list(_rows("correlation", values, layers, resampled, nulls, plan.level))


def _shuffled_correlation(a, b, order) -> float:
    cross = sum((a.centred(rows) * b.centred(order[rows])).sum(axis=0, dtype=np.float64) for rows in blocks(len(order)))
    squares = [sum(np.square(part.centred(rows), dtype=np.float64).sum(axis=0) for rows in blocks(len(order)))
               for part in (a, b)]
    return mean_of_defined(correlation(cross, *squares))


def _cka(x, y, plan, layers, names):
    sums = pairs.pair_sums(x, y)
    matched, all_layers, l_x = _matched(x, y), [*x.layers, *y.layers], len(x.layers)
    shifted = [(i, l_x + j) for i, j in matched]
    resampled = resample.weighted_cka(all_layers, shifted, plan.weights) if plan.weights.size else (None, None)
    nulls = [_shuffled_cka(x.layers[i], y.layers[j], sums, i, l_x + j, plan.orders) for i, j in matched]
    rows = []
    for name, which in (("cka", 0), ("debiased_cka", 1)):
        if name in names:
            drawn = {pair: resampled[which][at] for at, pair in enumerate(matched)} if plan.weights.size else None
            null = {pair: nulls[at][which] for at, pair in enumerate(matched)}
            rows += _rows(name, sums.cka(debiased=name == "debiased_cka"), layers, drawn, null, plan.level)
    return rows


def _shuffled_cka(a, b, sums, i, j, orders):
    """Biased and debiased CKA, each (p,), of a layer and another with its rows in the given orders (p, n)."""
    n = sums.n
    norms, products = np.empty(len(orders)), np.empty(len(orders))
    for at, order in enumerate(orders):
        norms[at] = np.square(pairs.cross_product(a, [b], order)).sum()
        products[at] = a.squares @ b.squares[order]
    own = [(sums.norms[m, m], sums.products[m, m], sums.sums[m]) for m in (i, j)]
    debiased = ratio(unbiased(norms, products, own[0][2], own[1][2], n),
                     *(unbiased(norm, product, total, total, n) for norm, product, total in own))
    return ratio(norms, own[0][0], own[1][0]), debiased


def _minibatch(x, y, rng, layers):
    if rng is None:
        raise ValueError("expected rng for method='minibatch', which shuffles tokens, got None")
    return list(_rows("debiased_cka", pairs.minibatch_cka(x, y, rng), layers))


def _procrustes(x, y, i, plan, names):
    a, b = x.layers[i], y.layers[i]
    with_map = not {"inverse_row_entropy", "mean_cosine"}.isdisjoint(names)
    values = compare_rotation(a, b, with_map=with_map)
    resampled = [compare_rotation(a, b, weights=w, with_map=with_map) for w in plan.weights.T.astype(np.float64)]
    nulls = [compare_rotation(a, b, order=order, with_map=with_map) for order in plan.orders]
    return [_row(name, i, i, values[name], [r[name] for r in resampled], [r[name] for r in nulls], plan.level)
            for name in names]


def _knn(x, y, i, plan):
    near_x, near_y = (knn.neighbours(part.layers[i].raw(slice(0, x.n)), plan.ks) for part in (x, y))
    per_token = knn.overlap(near_x, near_y)  # (n, len(ks))
    resampled = plan.weights.T @ per_token / plan.weights.sum(axis=0)[:, None]  # (r, len(ks))
    nulls = np.array([knn.overlap(near_x, near_y.shuffled(order)).mean(axis=0) for order in plan.orders])
    tied = (near_x.tied | near_y.tied).mean(axis=0)
    rows = [_row("knn", i, i, per_token[:, at].mean(), resampled[:, at], nulls[:, at] if len(nulls) else None,
                 plan.level, k) for at, k in enumerate(near_x.ks)]
    return rows + [_row(TIED, i, i, tied[at], None, None, plan.level, k) for at, k in enumerate(near_x.ks)]
