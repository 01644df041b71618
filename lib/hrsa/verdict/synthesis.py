"""What chapter 12 is made of: verdicts of all pairs and families of tasks, and one number per similarity and pair.

Functions of the tables that `evaluation.evaluate` and `analysis.pairs` write; `make_similarities` has them made where
they are missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from hrsa.analysis.pairs import EMBEDDING_LAYER, MEAN_LAYER, PairTable, make_comparison
from hrsa.analysis.variance import score_sources
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS, shown_k
from hrsa.study import store
from hrsa.study.profile import Pair, Profile
from hrsa.verdict.claims import SIMILARITY_COLUMNS
from hrsa.verdict.equivalence import holm, positive_control, verdicts
from hrsa.verdict.paired_scores import paired
from hrsa.verdict.power import measure, power_table, variance_shares
from hrsa.verdict.sensitivity import sensitivity

_BOUNDS = {"value": "mean", "low": "min", "high": "max", "runs": "mean", "runs_low": "mean", "runs_high": "mean",
           "crossed": "mean", "crossed_low": "mean", "crossed_high": "mean", "ceiling": "mean", "n": "min"}
_PROBE = {"task": "classification", "split": "test", "quantity": "delta"}


def score_verdicts(per_query: pd.DataFrame, families: pd.Series, pairs: Sequence[Pair], seeds: Sequence[int],
                   margin: float, alpha: float = 0.05, resamples: int = 2000) -> pd.DataFrame:
    """Verdicts of every pair on all tasks, and of every pair on each family of tasks.

    `per_query`: model, task, query, value; `families`: task -> family. Columns of `equivalence.verdicts` with pair,
    kind and family ("all" first). Holm's correction runs over the pairs for "all" (primary), and over all pairs and
    families together for the rest (secondary).
    """
    arms = {pair.name: paired(per_query, pair.a, pair.b, seeds) for pair in pairs}
    secondary = {}
    for name, (a, b, tasks) in arms.items():
        family = families.reindex(tasks).to_numpy()
        if pd.isna(family).any():
            raise ValueError(f"expected a family for every task, got none for {sorted(set(tasks[pd.isna(family)]))}")
        for one in pd.unique(family):
            here = family == one
            if here.sum() > 1:
                secondary[name, one] = (a[:, here], b[:, here], tasks[here])
    settings = {"margin": margin, "alpha": alpha, "resamples": resamples}
    primary = verdicts(arms, **settings).rename(columns={"name": "pair"}).assign(family="all")
    tables = [primary]
    if secondary:
        more = verdicts(secondary, **settings)
        more[["pair", "family"]] = more.pop("name").to_list()
        tables.append(more)
    table = pd.concat(tables, ignore_index=True)
    kinds = {pair.name: pair.kind for pair in pairs}
    table.insert(1, "kind", table["pair"].map(kinds))
    table.insert(2, "family", table.pop("family"))
    return table


def controls(per_query: pd.DataFrame, pairs: Sequence[Pair], seeds: Sequence[int], margin: float,
             alpha: float = 0.05, resamples: int = 2000) -> pd.DataFrame:
    """Positive control of every pair: pair, kind, sees, p_value, shift, sentence, holm.

    `sees` is judged after Holm's correction over the pairs (`holm`), the bar that a real difference has to pass.
    """
    resamples = max(resamples, math.ceil(4 * len(pairs) / alpha))  # as `verdicts` does
    rows = []
    for pair in pairs:
        a, b, tasks = paired(per_query, pair.a, pair.b, seeds)
        found = positive_control(a, b, margin, tasks, alpha, resamples=resamples)
        rows.append({"pair": pair.name, "kind": pair.kind, **vars(found)})
    table = pd.DataFrame(rows)
    table["holm"] = holm(table["p_value"])
    return table.assign(sees=table["holm"] < alpha)


def one_number(rows: pd.DataFrame, last: bool = False) -> pd.DataFrame:
    """Rows of `make_comparison` of one metric, set and k -> one row per `models`, with bounds (see `_BOUNDS`).

    Mean over layers (or the last layer alone), then over seeds: the mean of the values, with the smallest lower and
    the largest upper bound. Bounds are averaged over layers, which is wider than an interval of the mean would be.
    """
    here = rows.assign(seed=rows["seed"].astype("Float64").fillna(-1)).reset_index(drop=True)
    if last:
        here = here.groupby(["models", "seed"], sort=False).tail(1)
    by_seed = here.groupby(["models", "seed"], sort=False)[list(_BOUNDS)].mean()
    return by_seed.groupby("models", sort=False).agg(_BOUNDS).reset_index()


def summarise_pair(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of one pair (correlation, procrustes, cka, knn: `curve`; probes) -> rows [metric, models, bounds]."""
    parts = []
    for metric, last in (("correlation", False), ("debiased_cka", False), ("knn", False),
                         ("inverse_row_entropy", True)):
        rows = tables[METRICS[metric].family]
        rows = rows[(rows["metric"] == metric) & (rows["set"] == "all") & (rows["layer_x"] != EMBEDDING_LAYER)]
        if metric == "knn":
            rows = rows[rows["k"] == shown_k(rows["k"])]
        parts.append(one_number(rows, last).assign(metric=metric))
    probes = tables["probes"]
    kept = np.logical_and.reduce([probes[name] == value for name, value in _PROBE.items()])
    parts.append(one_number(probes[kept]).assign(metric="probe_delta"))
    return pd.concat(parts, ignore_index=True)


def make_similarities(profile: Profile, pairs: Sequence[Pair] | None = None) -> pd.DataFrame:
    """Table for `hrsa.verdict.claims.similarity_claims` from the artefacts of every pair, made first where missing.

    `pairs`: those of which embedders were made (None), or others of the profile, such as `profile.compared()`.
    """
    found = []
    for pair in profile.pairs if pairs is None else pairs:
        tables = {}
        for metric in ("correlation", "procrustes", "cka", "knn", "probes"):
            tables[metric] = store.read_table(make_comparison(profile, pair.name, metric) / PairTable.main(metric))
        found.append(summarise_pair(tables).assign(pair=pair.name, kind=pair.kind))
    return pd.concat(found, ignore_index=True)[SIMILARITY_COLUMNS]


def error_shares(per_query: pd.DataFrame, pairs: Sequence[Pair], seeds: Sequence[int]) -> pd.DataFrame:
    """What the error of each pair's difference consists of, `power.variance_shares`: pair, component, sd, share."""
    parts = []
    for pair in pairs:
        a, b, tasks = paired(per_query, pair.a, pair.b, seeds)
        n_tasks = len(set(tasks))
        table = variance_shares(measure(a, b, tasks), len(seeds), round(len(tasks) / n_tasks), n_tasks)
        parts.append(table.assign(pair=pair.name))
    return pd.concat(parts, ignore_index=True)[["pair", "component", "sd", "share"]]


def make_similarity_sources(profile: Profile) -> pd.DataFrame:
    """What the variance of the embedders of every pair comes from, mean over layers: pair, metric, k, `SOURCE_COLUMNS`.

    From the artefacts of every pair, made first where missing; of the numbers of neighbours the one that is shown.
    """
    parts = []
    for pair, family in product(profile.pairs, METRIC_FAMILIES):
        table = store.read_table(make_comparison(profile, pair.name, family) / PairTable.VARIANCE)
        table = table[table["layer"] == MEAN_LAYER].drop(columns="layer")
        shown = shown_k(table["k"].dropna()) if table["k"].notna().any() else None
        parts.append(table[table["k"].isna() | (table["k"] == shown).fillna(False)].assign(pair=pair.name))
    return pd.concat(parts, ignore_index=True)


def score_variances(per_query: pd.DataFrame, pairs: Sequence[Pair], seeds: Sequence[int]) -> pd.DataFrame:
    """What the variance of the scores of every pair comes from, `analysis.variance.score_sources`, with column pair."""
    return pd.concat([score_sources(*paired(per_query, pair.a, pair.b, seeds)).assign(pair=pair.name)
                      for pair in pairs], ignore_index=True)


def plans(per_query: pd.DataFrame, pairs: Sequence[Pair], seeds: Sequence[int], margin: float, alpha: float,
          sizes: tuple[Sequence[int], Sequence[int]], hours: float | None) -> pd.DataFrame:
    """`hrsa.verdict.power.power_table` of every pair for the (seeds, queries per task) in `sizes`, with column pair."""
    parts = []
    for pair in pairs:
        a, b, tasks = paired(per_query, pair.a, pair.b, seeds)
        table = power_table(measure(a, b, tasks), margin, *sizes, tasks=len(set(tasks)),
                            hours_per_seed=hours, alpha=alpha)
        table.insert(0, "pair", pair.name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def other_analyses(per_query: pd.DataFrame, pairs: Sequence[Pair], seeds: Sequence[int], margin: float,
                   alpha: float = 0.05, resamples: int = 2000) -> pd.DataFrame:
    """`hrsa.verdict.sensitivity.sensitivity` of every pair, with column pair; uncorrected."""
    parts = []
    for pair in pairs:
        a, b, tasks = paired(per_query, pair.a, pair.b, seeds)
        table = sensitivity(a, b, margin, tasks, alpha, resamples=resamples)
        table.insert(0, "pair", pair.name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


