"""Rows of the table that `compare_layers` returns, metric by metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hrsa.similarity import cka, correlation, feature, knn, resampling, rsa
from hrsa.similarity.budget import Limits
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS
from hrsa.similarity.procrustes import compare_resampled, compare_rotation
from hrsa.similarity.states import Layer, States

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
    resampled = list(compare_resampled(a, b, plan.weights, job.limits)) if plan.weights.size else []
    nulls = [compare_rotation(a, b, order=order) for order in plan.orders]
    return [row(name, i, i, values[name], [r[name] for r in resampled], [r[name] for r in nulls], plan.level)
            for name in METRIC_FAMILIES["procrustes"]]


def knn_rows(job: Job) -> list[dict]:
    """Neighbour overlap of layers of equal number on at most 50,000 tokens, and the tied share."""
    return [each for i, _ in job.matched for each in job.limits.work.rows(f"knn-{i}", lambda i=i: _knn(job, i))]


def _knn(job: Job, i: int) -> list[dict]:
    plan = job.plan
    layers, weights, orders = _sampled(job, i)
    near_x, near_y = job.limits.map(lambda layer: knn.neighbours(layer, plan.ks, job.limits), layers)
    per_token = knn.overlap(near_x, near_y)  # (n, len(ks))
    resampled = weights.T @ per_token / weights.sum(axis=0)[:, None]  # (r, len(ks))
    nulls = np.array([knn.overlap(near_x, near_y.shuffled(order)).mean(axis=0) for order in orders])
    tied = (near_x.tied | near_y.tied).mean(axis=0)
    found = _rows_of_ks("knn", i, near_x.ks, per_token.mean(axis=0), resampled, nulls, plan.level)
    found += [row(TIED, i, i, tied[at], k=k) for at, k in enumerate(near_x.ks)]
    return [each | {"n_tokens": len(per_token)} for each in found]


def _sampled(job: Job, i: int) -> tuple[list[Layer], np.ndarray, Sequence[np.ndarray]]:
    """Layers i of both models, weights and row orders, all on the tokens that pairs of tokens are made of."""
    plan, rows = job.plan, knn.sampled(job.x.n, job.plan.sample_seed)
    layers = [part.layers[i] for part in (job.x, job.y)]
    if rows is None:
        return layers, plan.weights, plan.orders
    rng = np.random.default_rng(plan.sample_seed)
    orders = [resampling.shuffle_within(plan.classes[rows], rng) for _ in plan.orders]
    return [layer.sample(rows) for layer in layers], plan.weights[rows], orders


def _rows_of_ks(metric: str, i: int, ks: Sequence[int], values: np.ndarray, resampled: np.ndarray, nulls: np.ndarray,
                level: float) -> list[dict]:
    """A row for each k, from values (len(ks),), those of resamples (r, len(ks)) and of nulls (p, len(ks))."""
    return [row(metric, i, i, values[at], resampled[:, at], nulls[:, at] if len(nulls) else None, level, k)
            for at, k in enumerate(ks)]


def local_rows(job: Job) -> list[dict]:
    """Mutual k-NN and CKNNA of layers of equal number, on the tokens that k-NN overlap takes."""
    return [each for i, _ in job.matched for each in job.limits.work.rows(f"local-{i}", lambda i=i: _local(job, i))]


def _local(job: Job, i: int) -> list[dict]:
    layers, weights, orders = _sampled(job, i)
    near = [knn.neighbours(layer, job.plan.ks, job.limits) for layer in layers]
    of_x, of_y = (knn.affinities(layer, found, job.limits) for layer, found in zip(layers, near, strict=True))

    def both(theirs: knn.Neighbours, of_theirs: np.ndarray) -> np.ndarray:
        """(4, n, len(ks)): the share of neighbours that both have, then CKNNA's sums."""
        share = knn.shared_neighbours(near[0], theirs) / np.array(theirs.ks)
        return np.stack([share, *knn.alignment(near[0], theirs, of_x, of_theirs)])

    def values(each: np.ndarray) -> np.ndarray:
        """Mutual k-NN and CKNNA, (2, ...), from sums (4, ...) over tokens and the mean of the first."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([each[0], each[1] / (np.sqrt(each[2]) * np.sqrt(each[3]))])

    each = both(near[1], of_y)
    nulls = [values(both(near[1].shuffled(order), of_y[order]).mean(axis=1)) for order in orders]
    drawn = values(np.einsum("nr,snk->srk", weights, each) / weights.sum(axis=0)[:, None])  # (2, r, len(ks))
    found = [made for at, name in enumerate(("mutual_knn", "cknna"))
             for made in _rows_of_ks(name, i, near[0].ks, values(each.mean(axis=1))[at], drawn[at],
                                     np.array([null[at] for null in nulls]), job.plan.level)]
    return [made | {"n_tokens": each.shape[1]} for made in found]


def rsa_rows(job: Job) -> list[dict]:
    """Rank correlation of all pairs of tokens, for layers of equal number, on the tokens that k-NN overlap takes."""
    made = job.limits.map(lambda at: job.limits.work.rows(f"rsa-{at[0]}", lambda: _rsa(job, at[0])), job.matched)
    return [each for rows in made for each in rows]


def _rsa(job: Job, i: int) -> list[dict]:
    layers, weights, orders = _sampled(job, i)
    half = replace(job.limits, memory=job.limits.memory // 2)
    x, y = (rsa.PairRanks(layer, half) for layer in layers)
    drawn = rsa.weighted_rank_correlation(x, y, weights) if weights.size else None
    nulls = [rsa.rank_correlation(x, y, order) for order in orders]
    return [row("rsa", i, i, rsa.rank_correlation(x, y), drawn, nulls, job.plan.level) | {"n_tokens": x.n}]


def svcca_rows(job: Job) -> list[dict]:
    """Mean canonical correlation of layers of equal number."""
    made = job.limits.map(lambda at: job.limits.work.rows(f"svcca-{at[0]}", lambda: _svcca(job, at[0])), job.matched)
    return [each for rows in made for each in rows]


def _svcca(job: Job, i: int) -> list[dict]:
    a, b = job.x.layers[i], job.y.layers[i]
    kept = feature.kept_directions(a), feature.kept_directions(b)
    drawn = [feature.svcca(a, b, kept, weights=w) for w in job.plan.weights.T]
    nulls = [feature.svcca(a, b, kept, order) for order in job.plan.orders]
    return [row("svcca", i, i, feature.svcca(a, b, kept), drawn, nulls, job.plan.level)]
