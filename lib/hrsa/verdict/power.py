"""How many seeds, queries and hours would prove a margin, from the variances measured so far.

Model of a difference between two arms, per seed s, task t and query q in it (the one `verdict.equivalence` allows for):
mean + seed_s + task_t + (seed x task)_st + query_q + residual_sq, each normal. `measure` estimates the variances by
the method of moments (for balanced data the same as REML when no component is negative); `provable` simulates
studies of another size and returns the smallest margin that each would prove under the rule of `verdict.equivalence`,
where both arms are competent: no number of seeds opens the gate for embedders that learned nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.special import gammaincinv, ndtri, stdtrit

from hrsa.verdict.bootstrap import score_difference, task_columns

CAUTION = 0.8  # confidence of the upper limit of the variation between runs
_REPEATS, _DRAWS = 600, 1000  # simulated studies (power to +-2 points), and draws of the interval of each


@dataclass(frozen=True)
class Variances:
    """Variance components of the difference between two arms, in squared score units."""

    seed: float
    task: float
    seed_task: float
    query: float  # within a task
    residual: float  # seed x query, within a task


def measure(scores_a: np.ndarray, scores_b: np.ndarray, tasks: Sequence | None = None,
            confidence: float | None = None) -> Variances:
    """Estimate the components from paired scores (seeds, queries), two seeds and two queries of a task at least.

    Negative estimates become 0. Query counts of tasks enter by their harmonic mean. With `confidence` the variation
    between runs is not the estimate but its upper limit, which few seeds leave far above (Kieser & Wassmer 1996,
    Biom. J. 38). ValueError when there are too few, and for scores as `equivalence.verdict` refuses them.
    """
    difference = score_difference(scores_a, scores_b)
    groups = task_columns(tasks, difference)
    many = [group for group in groups if len(group) > 1]
    if len(difference) < 2 or not many:
        raise ValueError(f"expected two seeds or more and a task with two queries or more, got shape "
                         f"{difference.shape} in {len(groups)} tasks: variances cannot be told apart")
    runs = len(difference) - 1
    inflated = 1.0 if confidence is None else runs / _chi2(1 - confidence, runs)
    parts = [two_way(difference[:, group]) for group in many]  # (row, column, residual) mean squares of each task
    residual = float(np.mean([part[2] for part in parts]))
    query = max(float(np.mean([part[1] for part in parts])) - residual, 0) / len(difference)
    size = len(groups) / sum(1 / len(group) for group in groups)
    if len(groups) == 1:
        return Variances(max(inflated * parts[0][0] - residual, 0) / size, 0.0, 0.0, query, residual)
    cells = np.stack([difference[:, group].mean(axis=1) for group in groups], axis=1)  # (seeds, tasks)
    rows, columns, rest = two_way(cells)
    return Variances(seed=max(inflated * rows - rest, 0) / len(groups),
                     task=max((columns - rest) / len(difference) - query / size, 0),
                     seed_task=max(rest - residual / size, 0), query=query, residual=residual)


def two_way(values: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of rows, columns and residual of an (r, c) table."""
    r, c = values.shape
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = values - rows[:, None] - columns + values.mean()
    return (float(c * rows.var(ddof=1)), float(r * columns.var(ddof=1)), float((rest**2).sum() / ((r - 1) * (c - 1))))


def provable(variances: Variances, seeds: int, queries: int, tasks: int = 1, difference: float = 0.0,
             alpha: float = 0.05, repeats: int = _REPEATS, seed: int = 0) -> np.ndarray:
    """Smallest margin proved by each of `repeats` simulated studies: (repeats,), score units, ascending.

    `queries` is per task, `difference` the true one. Power at a margin is the share of studies below it; the margin
    proved with power p is quantile p. Simulated from sufficient statistics, not from queries, hence fast.
    """
    if seeds < 2 or queries < 2 or tasks < 1:
        raise ValueError(f"expected seeds >= 2, queries >= 2 and tasks >= 1, got {seeds}, {queries} and {tasks}")
    rng = np.random.default_rng(seed)
    v, normal = variances, rng.standard_normal
    residual = np.sqrt(v.seed_task + v.residual / queries) * normal((repeats, seeds, tasks))
    column = np.sqrt(v.task * (tasks > 1) + v.query / queries) * normal((repeats, 1, tasks))
    cells = difference + np.sqrt(v.seed) * normal((repeats, seeds, 1)) + column + residual
    center, of_seeds = cells.mean(axis=(1, 2)), cells.mean(axis=2).var(axis=1, ddof=1)
    within = (v.query + v.residual / seeds) / queries  # variance of a task mean from its queries
    draws = np.sqrt(within / tasks) * ndtri(_even(rng)) + _few(of_seeds, seeds, v.residual / queries / tasks, rng)
    if tasks > 1:
        draws = draws + _few(cells.mean(axis=1).var(axis=1, ddof=1), tasks, within, rng)
    low, high = np.quantile(draws, [alpha, 1 - alpha], axis=1)  # (repeats,) each
    by_t = np.abs(center) + stdtrit(seeds - 1, 1 - alpha) * np.sqrt(of_seeds / seeds)
    return np.sort(np.maximum.reduce([by_t, center + high, -(center + low)]))


def _few(variance: np.ndarray, count: int, carried: float, rng: np.random.Generator) -> np.ndarray:
    """Interval draws of `verdict.bootstrap` for `count` units whose means have this `variance`: (repeats, draws)."""
    widening = (count - 1) / _chi2(_even(rng), count - 1)
    return np.sqrt(np.maximum(variance[:, None] * widening - carried, 0) / count) * ndtri(_even(rng))


def _even(rng: np.random.Generator) -> np.ndarray:
    """(draws,) levels evenly spread over (0, 1), in random order: quantiles at them come out stable for few draws."""
    return (rng.permutation(_DRAWS) + 0.5) / _DRAWS


def _chi2(level: float | np.ndarray, dof: float) -> float | np.ndarray:
    """Quantiles of chi squared."""
    return 2 * gammaincinv(dof / 2, level)


def power_at(variances: Variances, margin: float, seeds: int, queries: int, tasks: int = 1, difference: float = 0.0,
             alpha: float = 0.05, repeats: int = _REPEATS, seed: int = 0) -> float:
    """Chance that a study of this size claims equivalence within `margin`; arguments as in `provable`.

    >>> found = Variances(seed=1e-5, task=0.0, seed_task=0.0, query=0.01, residual=0.01)
    >>> power_at(found, margin=0.02, seeds=8, queries=800) > power_at(found, margin=0.02, seeds=3, queries=50)
    True
    """
    return float((provable(variances, seeds, queries, tasks, difference, alpha, repeats, seed) < margin).mean())


def power_table(variances: Variances, margin: float, seeds: Sequence[int], queries: Sequence[int], tasks: int = 1,
                hours_per_seed: float | None = None, alpha: float = 0.05, wanted: float = 0.8) -> pd.DataFrame:
    """Power of each size of study when the true difference is zero.

    One row per (seeds, queries per task): `power` at the margin, `provable` margin with power `wanted`, `hours` of
    the two arms (`hours_per_seed` times seeds; missing when not known), `enough` = power reaches `wanted`.
    """
    rows = []
    for n_seeds in seeds:
        for n_queries in queries:
            margins = provable(variances, n_seeds, n_queries, tasks, alpha=alpha)
            reached = float((margins < margin).mean())
            hours = None if hours_per_seed is None else hours_per_seed * n_seeds
            rows.append({"seeds": n_seeds, "queries": n_queries, "tasks": tasks, "power": reached,
                         "provable": float(np.quantile(margins, wanted)), "hours": hours, "enough": reached >= wanted})
    return pd.DataFrame(rows)


def variance_shares(variances: Variances, seeds: int, queries: int, tasks: int = 1) -> pd.DataFrame:
    """What the error of the mean difference consists of: component, standard deviation, share of the variance."""
    v = asdict(variances)
    counts = {"seed": seeds, "task": tasks, "seed_task": seeds * tasks, "query": queries * tasks,
              "residual": seeds * queries * tasks}
    parts = pd.Series({name: v[name] / counts[name] for name in counts})
    total = parts.sum()
    return pd.DataFrame({"component": list(counts), "sd": np.sqrt([v[name] for name in counts]),
                         "share": (parts / total if total > 0 else parts * np.nan).to_numpy()})

