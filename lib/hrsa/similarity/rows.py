"""Rows of the table that `compare_layers` returns, metric by metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hrsa.similarity import cka, correlation, knn, resampling
from hrsa.similarity.budget import Limits
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS
from hrsa.similarity.procrustes import compare_rotation
from hrsa.similarity.states import States

TIED = "knn_tied"
UNDEFINED = "correlation_undefined"


@dataclass(frozen=True)
class Plan:
    """What to compute beside the values: token weights (n, r) of resampled texts, row orders (p, n), level."""

    weights: np.ndarray
    orders: np.ndarray
    level: float
    ks: tuple[int, ...]
    classes: np.ndarray | None
    sample_seed: int


@dataclass(frozen=True)
class Job:
    """One comparison of two models; `layers` is all or matched."""

    x: States
    y: States
    plan: Plan
    layers: str
    limits: Limits

    @property
    def matched(self) -> list[tuple[int, int]]:
        """Layers of equal number."""
        return [(i, i) for i in range(min(len(self.x.layers), len(self.y.layers)))]


def _map_rows(job: Job, metric: str, values: np.ndarray, resampled=None, nulls=None) -> Iterator[dict]:
    """Rows of a map (l_x, l_y); `resampled` and `nulls` are dicts of matched layers -> values."""
    for i, j in np.ndindex(values.shape):
        if job.layers == "all" or i == j:
            yield row(metric, i, j, values[i, j], (resampled or {}).get((i, j)), (nulls or {}).get((i, j)),
                      job.plan.level)


def row(metric, i, j, value, resampled=None, nulls=None, level=0.95, k=pd.NA) -> dict[str, Any]:
    """One row of the table, without its number of tokens; `drawn` holds the values of the resamples."""
    low = high = null = float("nan")
    if resampled is not None and len(resampled):
        bounds = METRICS[metric].low, METRICS[metric].high
        low, high = resampling.percentile_interval(float(value), resampled, level, *bounds)
    if nulls is not None and len(nulls):
        null = float(np.mean(nulls))
    return {"metric": metric, "layer_x": i, "layer_y": j, "k": k, "value": float(value), "low": low, "high": high,
            "null": null, "drawn": [] if resampled is None else list(map(float, resampled))}


def correlation_rows(job: Job) -> list[dict]:
    """Mean dimension-wise correlation of all layer pairs, and how many dimensions have none."""
    values, undefined = correlation.mean_correlation(job.x, job.y, job.limits)
    resampled, nulls = {}, {}
    for i, j in job.matched:
        a, b = job.x.layers[i], job.y.layers[j]
        if job.plan.weights.size:
            resampled[i, j] = resampling.weighted_correlation(a, b, job.plan.weights)
        nulls[i, j] = [correlation.shuffled_correlation(a, b, order) for order in job.plan.orders]
    return [*_map_rows(job, "correlation", values, resampled, nulls), *_map_rows(job, UNDEFINED, undefined)]


def cka_rows(job: Job) -> list[dict]:
    """Biased and debiased CKA of all layer pairs."""
    x, y, plan = job.x, job.y, job.plan
    sums = cka.pair_sums(x, y, job.limits, matched=job.layers == "matched")
    matched, all_layers, l_x = job.matched, [*x.layers, *y.layers], len(x.layers)
    shifted = [(i, l_x + j) for i, j in matched]
    resampled = resampling.weighted_cka(all_layers, shifted, plan.weights) if plan.weights.size else None
    nulls = [cka.shuffled_cka(x.layers[i], y.layers[j], sums, i, l_x + j, plan.orders) for i, j in matched]
    rows: list[dict] = []
    for which, name in enumerate(("cka", "debiased_cka")):
        drawn = {pair: resampled[which][at] for at, pair in enumerate(matched)} if resampled else None
        null = {pair: nulls[at][which] for at, pair in enumerate(matched)}
        rows += _map_rows(job, name, sums.cka(debiased=name == "debiased_cka"), drawn, null)
    return rows


def procrustes_rows(job: Job) -> list[dict]:
    """Procrustes values of layers of equal number."""
    made = job.limits.map(lambda at: job.limits.work.rows(f"procrustes-{at[0]}", lambda: _procrustes(job, at[0])),
                          job.matched)
    return [each for rows in made for each in rows]


def _procrustes(job: Job, i: int) -> list[dict]:
    a, b, plan = job.x.layers[i], job.y.layers[i], job.plan
    values = compare_rotation(a, b)
    resampled = [compare_rotation(a, b, weights=w) for w in plan.weights.T.astype(np.float64)]
    nulls = [compare_rotation(a, b, order=order) for order in plan.orders]
    return [row(name, i, i, values[name], [r[name] for r in resampled], [r[name] for r in nulls], plan.level)
            for name in METRIC_FAMILIES["procrustes"]]


def knn_rows(job: Job) -> list[dict]:
    """Neighbour overlap of layers of equal number on at most 50,000 tokens, and the tied share."""
    return [each for i, _ in job.matched for each in job.limits.work.rows(f"knn-{i}", lambda i=i: _knn(job, i))]


def _knn(job: Job, i: int) -> list[dict]:
    plan, rows = job.plan, knn.sampled(job.x.n, job.plan.sample_seed)
    weights, orders = plan.weights, plan.orders
    layers = [part.layers[i] if rows is None else part.layers[i].sample(rows) for part in (job.x, job.y)]
    if rows is not None:
        weights, rng = weights[rows], np.random.default_rng(plan.sample_seed)
        orders = [resampling.shuffle_within(plan.classes[rows], rng) for _ in orders]
    near_x, near_y = job.limits.map(lambda layer: knn.neighbours(layer, plan.ks, job.limits), layers)
    per_token = knn.overlap(near_x, near_y)  # (n, len(ks))
    resampled = weights.T @ per_token / weights.sum(axis=0)[:, None]  # (r, len(ks))
    nulls = np.array([knn.overlap(near_x, near_y.shuffled(order)).mean(axis=0) for order in orders])
    tied = (near_x.tied | near_y.tied).mean(axis=0)
    found = [row("knn", i, i, per_token[:, at].mean(), resampled[:, at], nulls[:, at] if len(nulls) else None,
                 plan.level, k) for at, k in enumerate(near_x.ks)]
    found += [row(TIED, i, i, tied[at], k=k) for at, k in enumerate(near_x.ks)]
    return [each | {"n_tokens": len(per_token)} for each in found]
