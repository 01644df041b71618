"""What chapter 13 is made of: verdicts of all pairs and families of tasks, and one number per similarity and pair.

Functions of the tables that `evaluation.evaluate` and `analysis.pairs` write; `make_similarities` has them made where
they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from hrsa.analysis.pairs import EMBEDDING_LAYER, MEAN_LAYER, PairTable, make_comparison
from hrsa.analysis.variance import score_sources
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS, shown_k
from hrsa.study import store
from hrsa.study.profile import Model, Pair, Profile
from hrsa.verdict.bootstrap import crossed_draws, draws_interval, task_columns
from hrsa.verdict.claims import SIMILARITY_COLUMNS
from hrsa.verdict.competence import Baselines, competence, enough_of
from hrsa.verdict.equivalence import verdicts, word
from hrsa.verdict.paired_scores import paired, paired_with_baselines
from hrsa.verdict.power import measure, power_table, two_way, variance_shares

_METHODS = {
    "these tasks only": "the verdict's bootstrap with the tasks as they are: speaks of no other task",
    "mixed model": "crossed random effects of seeds and tasks (one task: queries), Satterthwaite degrees of freedom",
    "Bayesian": "posterior mass within the margin (ROPE) above 1 - alpha, flat prior, from the mixed model's error",
    "seed means only": "t tests on seed means: speaks of no other query or task",
}
_BOUNDS = {"value": "mean", "low": "min", "high": "max", "runs": "mean", "runs_low": "mean", "runs_high": "mean",
            "crossed": "mean", "crossed_low": "mean", "crossed_high": "mean", "ceiling": "mean", "n": "min"}
_PROBE = {"task": "classification", "split": "test", "quantity": "delta"}


def score_verdicts(per_query: pd.DataFrame, families: pd.Series, pairs: Sequence[Pair], seeds: Sequence[int],
                   margin: float, alpha: float = 0.05, resamples: int = 2000) -> pd.DataFrame:
    """Verdicts of every pair on all tasks, and of every pair on each family of tasks. Every page takes its words here.

    `per_query`: model, task, query, value, of embedders, of the untrained backbones and of chance; `families`: task ->
    family. Columns of `equivalence.verdicts` with pair, kind and family ("all" first). Holm's correction runs over the
    pairs for "all" (primary), and over all pairs and families together for the rest (secondary).
    """
    arms = {pair.name: _arms(per_query, pair, seeds) for pair in pairs}
    secondary = {}
    for name, (a, b, tasks, held) in arms.items():
        family = families.reindex(tasks).to_numpy()
        if pd.isna(family).any():
            raise ValueError(f"expected a family for every task, got none for {sorted(set(tasks[pd.isna(family)]))}")
        for one in pd.unique(family):
            here = family == one
            if here.sum() > 1:
                part = Baselines(held.untrained_a[here], held.untrained_b[here], held.chance[here], held.best)
                secondary[name, one] = (a[:, here], b[:, here], tasks[here], part)
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


def _arms(per_query: pd.DataFrame, pair: Pair, seeds: Sequence[int]
          ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Baselines]:
    """Scores of a pair's embedders, the task of each query, and what the embedders are held against."""
    ids = [[Model(backbone=arm, seed=seed).id for seed in seeds] for arm in (pair.a, pair.b)]
    return paired_with_baselines(per_query, *ids, pair.a, pair.b)


def competence_by_task(per_query: pd.DataFrame, pairs: Sequence[Pair], seeds: Sequence[int], margin: float,
                       alpha: float = 0.05, resamples: int = 2000) -> pd.DataFrame:
    """`competence` of every pair, as the verdict asks it: pair, task, arm (the backbone's name), its other columns."""
    parts = []
    for pair in pairs:
        a, b, tasks, held = _arms(per_query, pair, seeds)
        table = competence(a, b, held, tasks, margin, alpha, resamples=resamples)
        table.insert(0, "pair", pair.name)
        parts.append(table.assign(arm=table["arm"].map({"a": pair.a, "b": pair.b})))
    return pd.concat(parts, ignore_index=True)


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
    """`sensitivity` of every pair over the tasks that count (all where too few are left), with column pair."""
    parts = []
    for pair in pairs:
        a, b, tasks, held = _arms(per_query, pair, seeds)
        gate = competence(a, b, held, tasks, margin, alpha, resamples=resamples).drop_duplicates("task")
        enough = bool(gate["both"].sum() >= enough_of(len(gate), alpha))
        here = np.isin(tasks, gate.loc[gate["counts"] | (not enough), "task"].to_numpy())
        table = sensitivity(a[:, here], b[:, here], margin, tasks[here], alpha, resamples=resamples, enough=enough)
        table.insert(0, "pair", pair.name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def mixed_model(difference: np.ndarray, groups: list[np.ndarray]) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean of crossed random effects, from mean squares.

    `difference` (seeds, queries) is reduced to (seeds, tasks) means when there are several tasks. For balanced data
    this is the REML estimate unless a component is negative. Satterthwaite 1946, Biometrics Bull. 2.
    """
    cells = difference
    if len(groups) > 1:
        cells = np.stack([difference[:, group].mean(axis=1) for group in groups], axis=1)
    r, c = cells.shape
    squares = np.array(two_way(cells))  # rows, columns, residual
    dof = np.array([r - 1, c - 1, (r - 1) * (c - 1)])
    combined = squares @ [1, 1, -1]
    if combined <= squares[2]:  # no sign of seed or column effects: the residual is all there is
        return float(np.sqrt(squares[2] / (r * c))), float(dof[2])
    return float(np.sqrt(combined / (r * c))), float(combined**2 / (squares**2 / dof).sum())


def sensitivity(scores_a: np.ndarray, scores_b: np.ndarray, margin: float, tasks: Sequence | None = None,
                alpha: float = 0.05, seed: int = 0, resamples: int = 2000, enough: bool = True) -> pd.DataFrame:
    """The words of four other analyses of paired scores, a check beside the verdict and never in its place.

    Arguments as in `hrsa.verdict.equivalence.verdict`; without `enough` competent tasks none of them claims sameness.
    One row per method of `_METHODS`: verdict, low, high (1 - 2 alpha), `inside` = posterior mass within the margin
    (Bayesian only), about. Uncorrected. With one seed there is nothing to compare: ValueError.
    """
    difference = np.asarray(scores_b, dtype=float) - np.asarray(scores_a, dtype=float)
    if len(difference) < 2:
        raise ValueError("expected two seeds or more, got one: no analysis can tell how training runs vary")
    groups = task_columns(tasks, difference)
    cells = np.stack([difference[:, group].mean(axis=1) for group in groups], axis=1)  # (seeds, tasks)
    center = float(cells.mean())
    draws = center + crossed_draws(difference, groups, resamples, np.random.default_rng(seed), False)
    low, high = draws_interval(draws, alpha)
    narrow, wide = draws_interval(draws, alpha / 2)
    error, dof = mixed_model(difference, groups)
    inside = float(np.diff(_t([-margin, margin], center, error, dof))[0])
    of_seeds = float(cells.mean(axis=1).std(ddof=1) / np.sqrt(len(cells)))
    mixed, seeds_only = (_judged(center, e, d, margin, alpha) for e, d in ((error, dof), (of_seeds, len(cells) - 1)))
    rows = [("these tasks only", narrow > 0 or wide < 0, low > -margin and high < margin, low, high, np.nan),
            ("mixed model", *mixed, np.nan), ("Bayesian", inside < alpha, inside > 1 - alpha, *mixed[2:], inside),
            ("seed means only", *seeds_only, np.nan)]
    table = pd.DataFrame(rows, columns=["method", "different", "same", "low", "high", "inside"])
    words = [word(row.different, row.same and enough, enough) for row in table.itertuples()]
    table.insert(1, "verdict", words)
    return table.drop(columns=["different", "same"]).assign(about=table["method"].map(_METHODS))


def _t(at: Sequence[float], center: float, error: float, dof: float) -> np.ndarray:
    if error == 0:
        return (np.asarray(at) >= center).astype(float)
    return stdtr(dof, (np.asarray(at) - center) / error)


def _judged(center: float, error: float, dof: float, margin: float, alpha: float) -> tuple[bool, bool, float, float]:
    """Whether a t statistic shows a difference, and sameness; and its 1 - 2 alpha interval."""
    reach, wide = (error * stdtrit(dof, 1 - share) for share in (alpha, alpha / 2))
    return abs(center) > wide, abs(center) + reach < margin, float(center - reach), float(center + reach)
