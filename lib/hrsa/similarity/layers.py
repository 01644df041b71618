"""One tidy table of all similarities of two models, layer by layer, with intervals and nulls.

Metrics: correlation, cka and debiased_cka compare all layer pairs (or only layers of equal number), procrustes and knn
layers of equal number. procrustes stands for inverse_row_entropy, residual_ratio, mean_cosine and angular_distance,
which may also be named one by one: the second and fourth alone need no map and cost less. `knn_tied` is the share of
tokens whose neighbours the tie rule decided in either model: where it is high, so is part of the overlap.
`correlation_undefined` counts the dimensions that are constant in either layer.

`method="minibatch"` replaces cka and debiased_cka by the unbiased one-pass estimate, reported as debiased_cka with an
interval from its own standard error; "both" reports it as debiased_cka_minibatch beside the exact values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from hrsa.similarity import knn, resampling
from hrsa.similarity import rows as tables
from hrsa.similarity.backend import host
from hrsa.similarity.budget import MEMORY_MB, Limits
from hrsa.similarity.pairs import check_pair
from hrsa.similarity.rows import PROCRUSTES, TIED, UNDEFINED, Job
from hrsa.similarity.states import States, open_states
from hrsa.study.code_hash import code_hash
from hrsa.study.partial import Work

ALL_PAIRS = ("correlation", "cka", "debiased_cka")  # heat maps; the others compare layers of equal number
KNOWN = (*ALL_PAIRS, "procrustes", "knn")  # procrustes: all four of its values
COLUMNS = ["metric", "layer_x", "layer_y", "k", "value", "low", "high", "null", "n_tokens"]
METHODS = ("exact", "minibatch", "both")


def compare_layers(
    states_x: Any, states_y: Any, metrics: Sequence[str] = KNOWN, *, ks: Sequence[int] = knn.KS,
    layers: Literal["all", "matched"] = "all", method: Literal["exact", "minibatch", "both"] = "exact",
    texts: Any = None, classes: Any = None, resamples: int = 0, permutations: int = 0, level: float = 0.95,
    rng: np.random.Generator | None = None, memory_mb: float = MEMORY_MB, threads: int = 1,
    work: Path | str | None = None, sample_seed: int = 0,
) -> pd.DataFrame:
    """Compare every layer of one model with the layers of another on the same n tokens.

    `states_x`, `states_y`: (l, n, d) arrays, lists of (n, d) arrays, memory maps or .npy paths (widths may differ), or
    streams of blocks (see `states.open_states`). `metrics` and `method`: see this module. k-NN takes at most 50,000
    tokens, drawn by `sample_seed`. With `texts` (n,), the text of each token, and `resamples`, matched layers get a
    bootstrap interval over texts (knn: of the mean over tokens, given the neighbours found among all). With `classes`
    (n,) and `permutations`, they get the mean value under rows of y shuffled within classes. Both need `rng`.

    Centred states and sums take at most `memory_mb` whatever n is, as long as no resamples are asked for, and all
    `threads` share them; the result is the same for any number of threads. `work` is a folder for partial sums: an
    interrupted comparison goes on at its last finished block when it is called again with the same input.

    Returns [metric, layer_x, layer_y, k, value, low, high, null, n_tokens], layers numbered from 0, k only for knn,
    NaN where something was not asked for or is not defined. ValueError: see the metrics; an unknown metric; a limit
    below what one block needs.
    """
    _check(metrics, method, layers, rng)
    x, y = open_states(states_x, "states_x"), open_states(states_y, "states_y")
    check_pair(x, y, ks if "knn" in metrics or TIED in metrics else ())
    plan = _plan(x.n, texts, classes, resamples, permutations, level, rng, ks, sample_seed)
    seed = int(rng.integers(2**63)) if method != "exact" else None
    kept = Work.of(work, **_identity(x, y, plan, seed, method, layers))
    table = _table(Job(x, y, plan, layers, Limits.of(memory_mb, threads, kept)), metrics, method, seed)
    kept.finish()
    return table


def _table(job: Job, metrics: Sequence[str], method: str, seed: int | None) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    if "correlation" in metrics or UNDEFINED in metrics:
        rows += tables.correlation(job)
    if "cka" in metrics or "debiased_cka" in metrics:
        if method != "minibatch":
            rows += tables.cka(job)
        if method != "exact":
            rows += tables.minibatch(job, seed, "debiased_cka" if method == "minibatch" else "debiased_cka_minibatch")
    rotations = [name for name in PROCRUSTES if name in metrics or "procrustes" in metrics]
    if rotations:
        rows += tables.procrustes(job, rotations)
    if "knn" in metrics or TIED in metrics:
        rows += tables.knn_rows(job)
    wanted = {*metrics, *rotations, "debiased_cka_minibatch", *(["debiased_cka"] if method == "minibatch" else [])}
    rows = [{"n_tokens": job.x.n, **row} for row in rows if row["metric"] in wanted]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"k": "Int64"})


def _check(metrics: Sequence[str], method: str, layers: str, rng: np.random.Generator | None) -> None:
    every = (*KNOWN, *PROCRUSTES, TIED, UNDEFINED)
    unknown = set(metrics) - set(every)
    if unknown or not metrics:
        raise ValueError(f"expected metrics among {every}, got {sorted(unknown) or 'none'}")
    for name, value, allowed in (("method", method, METHODS), ("layers", layers, ("all", "matched"))):
        if value not in allowed:
            raise ValueError(f"expected {name} among {allowed}, got {value!r}")
    if method != "exact" and rng is None:
        raise ValueError(f"expected rng for method={method!r}, which shuffles tokens, got None")


def _plan(n, texts, classes, resamples, permutations, level, rng, ks, sample_seed) -> tables.Plan:
    texts, classes = (None if given is None else host(given) for given in (texts, classes))
    for name, given, count in (("texts", texts, resamples), ("classes", classes, permutations)):
        if count and (given is None or rng is None):
            raise ValueError(f"expected {name} (n,) and rng for {count} resamples or permutations, "
                             f"got {name} of type {type(given).__name__} and rng {rng}: pass both")
        if given is not None and len(given) != n:
            raise ValueError(f"expected {name} of shape ({n},), got {np.shape(given)}")
    weights = resampling.text_weights(texts, resamples, rng) if resamples else np.empty((n, 0))
    orders = [resampling.shuffle_within(classes, rng) for _ in range(permutations)]
    return tables.Plan(weights, np.array(orders, dtype=np.intp).reshape(-1, n), level, tuple(ks), classes, sample_seed)


def _identity(x: States, y: States, plan: tables.Plan, seed: int | None, method: str, layers: str) -> dict[str, Any]:
    """What partial results stand for: the states and all that decides the sums."""
    drawn = hashlib.sha256(np.ascontiguousarray(plan.weights).tobytes() + plan.orders.tobytes()).hexdigest()
    return {"x": [layer.fingerprint for layer in x.layers], "y": [layer.fingerprint for layer in y.layers],
            "drawn": drawn, "ks": list(map(int, plan.ks)), "level": plan.level, "sample": plan.sample_seed,
            "minibatch": seed, "method": method, "layers": layers, "code": code_hash(compare_layers)}
