"""One tidy table of all similarities of two models, layer by layer, with intervals and nulls.

The metrics are those of the registry (`metrics.METRICS`): correlation, cka and debiased_cka compare all layer pairs
(or layers of equal number alone), all others layers of equal number. Those of `metrics.ON_REQUEST` are computed where
they are named. Beside them, `knn_tied` is
the share of tokens whose neighbours the tie rule decided in either model: where it is high, so is part of the overlap;
`correlation_undefined` counts the dimensions that are constant in either layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from hrsa.similarity import resampling
from hrsa.similarity import rows as tables
from hrsa.similarity.arrays import device_name, to_numpy
from hrsa.similarity.budget import Limits, enough_mb, least_mb
from hrsa.similarity.knn import MAX_TOKENS
from hrsa.similarity.metrics import KS, METRIC_FAMILIES, METRICS, ON_REQUEST, shown_k
from hrsa.similarity.rows import TIED, UNDEFINED, Job
from hrsa.similarity.states import States, open_states
from hrsa.study.code_hash import code_hash
from hrsa.study.partial import Work

_USUAL = tuple(name for name in METRICS if name not in ON_REQUEST)
LAYER_COLUMNS = ["metric", "layer_x", "layer_y", "k", "value", "low", "high", "null", "n_tokens"]


def compare_arrays(x: Any, y: Any, metric: str, k: int | None = None) -> float:
    """One similarity of two arrays (n, d_x), (n, d_y): the value that `compare_layers` gives them.

    `metric` is a key of `METRICS`; `k` is for those that have one (None: 10, or fewer where n is small). NaN where the
    similarity is not defined. ValueError: as `compare_layers`.

    >>> x = np.random.default_rng(0).normal(size=(40, 6))
    >>> round(compare_arrays(x, 3 * x + 1, "correlation"), 6), round(compare_arrays(x, 3 * x, "knn"), 6)
    (1.0, 1.0)
    """
    has_k = metric in METRICS and METRICS[metric].has_k
    x, y = open_states([x], "states_x"), open_states([y], "states_y")
    ks = () if not has_k else (k,) if k else (shown_k(k for k in KS if k < x.n),)
    return float(compare_layers(x, y, (metric,), ks=ks, layers="matched")["value"].item())


def compare_layers(
    states_x: Any, states_y: Any, metrics: Sequence[str] = _USUAL, *, ks: Sequence[int] = KS,
    layers: Literal["all", "matched"] = "all", texts: Any = None, classes: Any = None, resamples: int = 0,
    permutations: int = 0, level: float = 0.95, rng: np.random.Generator | None = None,
    memory_mb: float | None = None, threads: int | None = None, work: Path | str | None = None, sample_seed: int = 0,
    drawn: bool = False,
) -> pd.DataFrame:
    """Compare every layer of one model with the layers of another on the same n tokens.

    `states_x`, `states_y`: (l, n, d) arrays, or sequences of arrays, memory maps or tensors (n, d); widths may differ
    (see `states.open_states`). `metrics`: see this module. k-NN, and what is made of pairs of tokens, takes
    at most 50,000 tokens, drawn by `sample_seed`. With `texts` (n,), the text of each token, and `resamples`, matched
    layers get a bootstrap interval over texts (knn and those on request: given the neighbours, ranks and directions
    found among all). With `classes` (n,) and `permutations`, they get the mean value under rows of y shuffled within
    classes. Both need `rng`.

    Centred states and sums take at most `memory_mb` whatever n is; None is 512 MB, or what no block is made without
    (`budget.least_mb`), and a limit below that is refused. All `threads` share them (None: as many as the linear
    algebra library may use; rounding apart, the result is the same for any number). `work` is a folder for partial
    sums: an interrupted comparison goes on at its last finished block when it is called again with the same input.

    Returns [metric, layer_x, layer_y, k, value, low, high, null, n_tokens], layers numbered from 0, k for metrics of
    neighbours, NaN where something was not asked for or is not defined; with `drawn`, a list of the value in each
    resample too (the same `texts` and `rng` draw the same resamples, the first of many being those of few).
    ValueError: unequal n, too few tokens, k >= n, NaN or Inf, arrays on two devices; see the metrics; an unknown
    metric; a limit below what one block needs.

    >>> states = np.random.default_rng(0).normal(size=(2, 60, 4))  # layers, tokens, dimensions
    >>> turned = states[:, :, [2, 0, 3, 1]]  # other dimensions, the same geometry
    >>> table = compare_layers(states, turned, ["correlation", "cka"], layers="matched")
    >>> (table["value"] > 0.9).groupby(table["metric"]).all().to_dict()
    {'cka': True, 'correlation': False}
    """
    _check_metrics(metrics, layers)
    x, y = open_states(states_x, "states_x"), open_states(states_y, "states_y")
    _check_pair(x, y, metrics, ks)
    plan = _plan(x.n, texts, classes, resamples, permutations, level, rng, ks, sample_seed)
    shape = f"layers {max(x.widths)} and {max(y.widths)} wide on {x.n:,} tokens"
    needed = least_mb(x.widths, y.widths, min(x.n, MAX_TOKENS), metrics, max(ks, default=0), resamples)
    memory_mb = enough_mb(memory_mb, needed, shape)
    kept = Work.of(work, **_identity(x, y, plan, layers))
    table = _table(Job(x, y, plan, layers, Limits.of(memory_mb, threads, kept)), set(metrics))
    kept.finish()
    return table if drawn else table.drop(columns="drawn")


def _table(job: Job, metrics: set[str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    if metrics & {*METRIC_FAMILIES["correlation"], UNDEFINED}:
        rows += tables.correlation_rows(job)
    if metrics & set(METRIC_FAMILIES["cka"]):
        rows += tables.cka_rows(job)
    if metrics & set(METRIC_FAMILIES["procrustes"]):
        rows += tables.procrustes_rows(job)
    if metrics & {*METRIC_FAMILIES["knn"], TIED}:
        rows += tables.knn_rows(job)
    if metrics & {"mutual_knn", "cknna"}:
        rows += tables.local_rows(job)
    if "rsa" in metrics:
        rows += tables.rsa_rows(job)
    if "svcca" in metrics:
        rows += tables.svcca_rows(job)
    rows = [{"n_tokens": job.x.n, **row} for row in rows if row["metric"] in metrics]
    return pd.DataFrame(rows, columns=[*LAYER_COLUMNS, "drawn"]).astype({"k": "Int64"})


def _check_metrics(metrics: Sequence[str], layers: str) -> None:
    every = (*METRICS, TIED, UNDEFINED)
    unknown = set(metrics) - set(every)
    if unknown or not metrics:
        raise ValueError(f"expected metrics among {every}, got {sorted(unknown) or 'none'}")
    if layers not in ("all", "matched"):
        raise ValueError(f"expected layers 'all' or 'matched', got {layers!r}")


def _check_pair(x: States, y: States, metrics: Sequence[str], ks: Sequence[int]) -> None:
    """Raise ValueError naming both shapes unless both models have the same n tokens, enough of them, on one device."""
    shapes = f"got {[layer.shape for layer in x.layers]} and {[layer.shape for layer in y.layers]}"
    if x.n != y.n:
        raise ValueError(f"expected the same n tokens in both models, {shapes}: record both on the same tokens")
    least = 4 if set(metrics) & set(METRIC_FAMILIES["cka"]) else 2
    if x.n < least:
        raise ValueError(f"expected at least {least} tokens, {shapes}: record more")
    of_neighbours = {TIED, *(name for name, metric in METRICS.items() if metric.has_k)}
    if of_neighbours & set(metrics) and (not ks or min(ks) < 1 or max(ks) >= x.n):
        raise ValueError(f"expected 1 <= k < n = {x.n} tokens, got ks = {tuple(ks)}; {shapes}")
    places = [device_name(side.layers[0].raw(slice(0, 1))) for side in (x, y)]
    if places[0] != places[1]:
        raise ValueError(f"expected both models on one device, got {places[0]} and {places[1]}: move one of them")


def _plan(n, texts, classes, resamples, permutations, level, rng, ks, sample_seed) -> tables.Plan:
    texts, classes = (None if given is None else to_numpy(given) for given in (texts, classes))
    for name, given, count in (("texts", texts, resamples), ("classes", classes, permutations)):
        if count and (given is None or rng is None):
            raise ValueError(f"expected {name} (n,) and rng for {count} resamples or permutations, "
                             f"got {name} of type {type(given).__name__} and rng {rng}: pass both")
        if given is not None and len(given) != n:
            raise ValueError(f"expected {name} of shape ({n},), got {np.shape(given)}")
    weights = resampling.text_weights(texts, resamples, rng) if resamples else np.empty((n, 0))
    orders = [resampling.shuffle_within(classes, rng) for _ in range(permutations)]
    return tables.Plan(weights, np.array(orders, dtype=np.intp).reshape(-1, n), level, tuple(ks), classes, sample_seed)


def _identity(x: States, y: States, plan: tables.Plan, layers: str) -> dict[str, Any]:
    """What partial results stand for: the states and all that decides the sums."""
    drawn = hashlib.sha256(np.ascontiguousarray(plan.weights).tobytes() + plan.orders.tobytes()).hexdigest()
    return {"x": [layer.fingerprint for layer in x.layers], "y": [layer.fingerprint for layer in y.layers],
            "drawn": drawn, "ks": list(map(int, plan.ks)), "level": plan.level, "sample": plan.sample_seed,
            "layers": layers, "code": code_hash(compare_layers)}
