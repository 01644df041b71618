"""Cross-model probes: a linear readout fitted on one model's embeddings, applied to the other's.

Function level of arXiv 2601.21192: fit on X, freeze, apply to Y; delta = own score - cross score, on 80/10/10
train/dev/test. Embeddings are mean-pooled final states, L2-normalised, then standardised. Each model is standardised
by the mean and scale of its own training split, which uses no label, so that the readout's weights and nothing else
are carried over.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from hrsa.analysis.recordings import Recording
from hrsa.similarity.probe import fit_probe
from hrsa.study.profile import Analysis

TASKS = {"classification": "topic", "regression": "target"}  # task -> column with its labels
LEAST_LABELLED = 20  # texts with a label
_SHARES = (0.8, 0.1)  # train, dev; the rest is test
_LEVEL = 0.95
_SEED = 0  # of splits and resamples; one value, so that every model is split alike


def splits(n: int, seed: int = _SEED) -> dict[str, np.ndarray]:
    """Seeded 80/10/10 split of n texts: train, dev, test -> indices. ValueError below 20 texts."""
    if n < LEAST_LABELLED:
        raise ValueError(f"expected at least {LEAST_LABELLED} labelled probe texts, got {n}: raise "
                         "analysis.probe_texts")
    order = np.random.default_rng(seed).permutation(n)
    cuts = np.round(np.cumsum(_SHARES) * n).astype(int)
    return dict(zip(("train", "dev", "test"), np.split(order, cuts), strict=True))


def features(pooled: np.ndarray, train: np.ndarray) -> np.ndarray:
    """L2-normalised rows of (n, d), standardised by the mean and scale of the `train` rows; constant columns are 0."""
    unit = pooled.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    scale = unit[train].std(axis=0)
    return np.where(scale > 0, (unit - unit[train].mean(axis=0)) / np.where(scale > 0, scale, 1), 0)


def compare_probes(x: Recording, y: Recording, analysis: Analysis) -> list[dict[str, Any]]:
    """Own and cross scores of two models, for each set of texts, task and direction: rows of a tidy table.

    Keys: set, task, direction ("a to b": fitted on a), split, quantity (own, cross, delta), value (accuracy, or R^2),
    low, high (bootstrap over texts), null (mean cross score with the texts of the other model shuffled) and n. Sets
    are probed apart, since their labels mean different things. Cross and delta are NaN for models of unequal width,
    where no readout can be carried over. A set without any label of one kind has no readout of it. ValueError:
    recordings of other texts, no label at all, fewer than 20 texts with a label.
    """
    (pooled_x, table), (pooled_y, table_y) = x.pooled(), y.pooled()
    if not table["id"].equals(table_y["id"]):
        raise ValueError(f"expected the same probe texts in {x.folder.name} and {y.folder.name}: record both again")
    rows = []
    for (name, part), (task, column) in product(table.groupby("set", sort=True), TASKS.items()):
        known = part.index[part[column].notna()].to_numpy()
        if not len(known):
            continue
        labels = table[column][known].to_numpy(dtype=float if task == "regression" else object)
        parts = splits(len(known))
        a, b = (features(pooled[known], parts["train"]) for pooled in (pooled_x, pooled_y))
        for direction, own, other in (("a to b", a, b), ("b to a", b, a)):
            rows += [{"set": name, "task": task, "direction": direction, **row}
                     for row in _scores(own, other, labels, parts, task, analysis)]
    if not rows:
        raise ValueError(f"expected probe texts with a label or a target, got none among {len(table)}: label them")
    return rows


def _scores(own: np.ndarray, other: np.ndarray, labels: np.ndarray, parts: dict[str, np.ndarray], task: str,
            analysis: Analysis) -> list[dict[str, Any]]:
    """Rows of one fit: scores on every split."""
    probe = fit_probe(own[parts["train"]], labels[parts["train"]], task)
    fits = own.shape[1] == other.shape[1]
    rng = np.random.default_rng(_SEED)
    rows = []
    for split, at in parts.items():
        truth = labels[at]
        mine = probe.predict(own[at])
        theirs = probe.predict(other[at]) if fits else None
        weights = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=analysis.bootstrap) / len(at)
        weights = np.vstack([np.full(len(at), 1 / len(at)), weights])  # (1 + r, n); the first row is the sample
        scores = {"own": _score(mine, truth, weights, task)}
        scores["cross"] = _score(theirs, truth, weights, task) if fits else np.full(len(weights), np.nan)
        scores["delta"] = scores["own"] - scores["cross"]
        null = np.nan
        if fits:
            shuffles = [theirs[rng.permutation(len(at))] for _ in range(analysis.permutations)]
            null = float(np.mean([_score(s, truth, weights[:1], task)[0] for s in shuffles]))
        for quantity, value in scores.items():
            drawn = value[1:][~np.isnan(value[1:])]
            tails = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
            low, high = np.quantile(drawn, tails) if len(drawn) else (np.nan, np.nan)
            rows.append({"split": split, "quantity": quantity, "value": value[0], "low": low, "high": high,
                         "null": null if quantity == "cross" else np.nan, "n": len(at)})
    return rows


def _score(predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray, task: str) -> np.ndarray:
    """Accuracy or R^2 under each row of `weights` (r, n), rows summing to 1; NaN where the targets do not differ."""
    if task == "classification":
        return weights @ (predicted == truth).astype(float)
    truth = truth.astype(float)
    spread = weights @ np.square(truth) - np.square(weights @ truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12, 1 - weights @ np.square(truth - predicted) / spread, np.nan)
