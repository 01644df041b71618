"""Crossed bootstrap of seeds x queries x tasks, made calibrated for few seeds and few tasks.

Resampling three seeds with replacement gives a variance a third too small and tails too light. Here queries are
resampled with replacement within their task (deviations scaled by sqrt(n / (n - 1))), while the deviations of seeds
and of tasks are drawn as normal with a variance that is itself drawn from its sampling distribution,
S^2 (n - 1) / chi^2(n - 1): alone, this gives the t interval with n - 1 degrees of freedom (the generalised pivot of
Weerahandi 1993, J. Am. Stat. Assoc. 88). What the query draw carries already (query variance inside task means,
residual inside seed means) is taken off, so that nothing counts twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

ROUNDING = 1e-12  # differences below this are rounding of equal scores
LARGEST_SCORE = 1e50  # fourth powers of much larger ones are no numbers
_BLOCK = 2_000_000  # numbers drawn at a time: bounds memory at about 32 MB


def score_difference(scores_a: np.ndarray, scores_b: np.ndarray) -> np.ndarray:
    """Differences b - a (seeds, queries) of the scores of two arms, rounding of equal scores taken off. ValueError for
    scores that are no finite numbers or beyond 1e50, and for other shapes."""
    try:
        a, b = (np.ma.filled(np.ma.array(scores, dtype=float), np.nan) for scores in (scores_a, scores_b))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected two arrays of numbers (seeds, queries), got others: {error}") from error
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] < 1 or a.shape[1] < 2:
        raise ValueError(f"expected two arrays of one shape (seeds >= 1, queries >= 2), got {a.shape} and {b.shape}")
    for name, scores in (("a", a), ("b", b)):
        wrong = np.argwhere(~(np.abs(scores) <= LARGEST_SCORE))
        if len(wrong):
            raise ValueError(f"expected finite scores of at most {LARGEST_SCORE:g}, got {scores[tuple(wrong[0])]} in "
                             f"arm {name} at seed {wrong[0][0]}, query {wrong[0][1]}: leave the query out of both, or "
                             "score it")
    difference = b - a
    difference[np.abs(difference) < ROUNDING] = 0.0
    return np.full_like(difference, difference[0, 0]) if np.ptp(difference) < ROUNDING else difference


def task_ids(tasks: Sequence | None, queries: int) -> np.ndarray:
    """The task id of each query (queries,), one for all where `tasks` is None. ValueError: not one a query."""
    ids = np.zeros(queries) if tasks is None else np.asarray(tasks)
    if ids.shape != (queries,) or pd.isna(ids).any():
        raise ValueError(f"expected one task id per query, {queries}, got ids of shape {ids.shape}, "
                         f"{int(pd.isna(ids).sum())} of them missing")
    return ids


def task_columns(tasks: Sequence | None, difference: np.ndarray) -> list[np.ndarray]:
    """Columns of each task in `difference` (seeds, queries); no order of queries or name of a task changes theirs."""
    codes = pd.factorize(task_ids(tasks, difference.shape[1]))[0]
    columns = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    return sorted(columns, key=lambda c: (len(c), *np.sort(np.abs(difference[:, c]).mean(axis=0).round(9))))


def crossed_draws(difference: np.ndarray, groups: list[np.ndarray], resamples: int,
                  rng: np.random.Generator, draw_tasks: bool = True) -> np.ndarray:
    """Bootstrap draws of the estimate's error from seeds, queries and tasks: (resamples,), centred on zero.

    `difference` is (seeds, queries), `groups` the columns of each task. Without `draw_tasks` the tasks stay as they
    are, and the draws speak of no other task. See the module's docstring.
    """
    n_seeds, n_tasks = len(difference), len(groups)
    within, noise, squares = np.zeros(n_tasks), np.zeros(n_tasks), 0.0
    draws = np.zeros(resamples)
    for t, group in enumerate(groups):
        part, n = difference[:, group], len(group)
        if n < 2:  # its query error cannot be seen; it stays inside the task's deviation
            continue
        query = np.sort(part.mean(axis=0) - part.mean())  # (n,), sorted: their order must not matter
        rest = part - part.mean(axis=1, keepdims=True) - part.mean(axis=0) + part.mean()
        within[t] = query.var(ddof=1) / n
        noise[t] = (rest**2).sum() / max((n_seeds - 1) * (n - 1), 1) / n
        squares += within[t] ** 2 / (n - 1)
        draws += _resampled_means(query, resamples, rng) * math.sqrt(n / (n - 1)) / n_tasks
    if squares > 0:
        draws *= _widening(within.sum() ** 2 / squares, resamples, rng)
    means = np.stack([difference[:, group].mean(axis=1) for group in groups], axis=1)  # (seeds, tasks)
    draws += _few(means.mean(axis=1), noise.sum() / n_tasks**2, resamples, rng)
    return draws + _few(means.mean(axis=0), within.mean(), resamples, rng) if draw_tasks else draws


def _few(values: np.ndarray, carried: float, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of the error of the mean of a few values, less the variance that the query draws carry already."""
    if len(values) < 2:
        return np.zeros(resamples)
    total = np.sort(values).var(ddof=1) * _widening(len(values) - 1, resamples, rng) ** 2
    return np.sqrt(np.maximum(total - carried, 0.0) / len(values)) * rng.standard_normal(resamples)


def _widening(dof: float, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """sqrt(dof / chi^2(dof)): what an estimated standard deviation may be short of."""
    return np.sqrt(dof / rng.chisquare(dof, resamples))


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `resamples` draws with replacement of (n,) values, in blocks of bounded memory."""
    n = len(values)
    block = max(1, _BLOCK // n)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([values[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes])


def draws_interval(draws: np.ndarray, alpha: float) -> tuple[float, float]:
    """The order statistics for which `bound inside the margin` and `bootstrap p < alpha` are the same event."""
    ordered = np.sort(draws)
    tail = max(math.ceil(alpha * (len(draws) + 1) - 1) - 1, 0)  # draws that may lie beyond
    return float(ordered[tail]), float(ordered[-1 - tail])


@dataclass(frozen=True)
class MeanDifference:
    """The mean difference over some tasks, and its error: from seed means by t, from all factors by bootstrap."""

    center: float
    means: np.ndarray  # (seeds,), ascending
    draws: np.ndarray  # (resamples,), around `center`

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the difference is at most `bound`": the larger of t test and bootstrap."""
        return max(means_above(self.means, bound), _share(self.draws <= bound))

    def p_below(self, bound: float) -> float:
        """One-sided p-value of "the difference is at least `bound`": the larger of t test and bootstrap."""
        return max(means_above(-self.means, -bound), _share(self.draws >= bound))

    def interval(self, alpha: float) -> tuple[float, float]:
        """1 - 2 alpha interval: a bound lies beyond it where the one-sided p-value is below alpha.

        It is the wider, on each side, of the t interval of seed means and the bootstrap's.
        """
        low, high = draws_interval(self.draws, alpha)
        reach = float(stdtrit(len(self.means) - 1, 1 - alpha)) * _error(self.means) if len(self.means) > 1 else 0.0
        return min(low, self.center - reach), max(high, self.center + reach)


def mean_difference(difference: np.ndarray, tasks: Sequence | None, resamples: int, seed: int) -> MeanDifference:
    """`MeanDifference` of differences (seeds, queries) over all their tasks; swapping the arms mirrors it exactly."""
    groups = task_columns(tasks, difference)
    cells = np.stack([difference[:, group].mean(axis=1) for group in groups], axis=1)  # (seeds, tasks)
    sign = -1.0 if cells.mean() < 0 else 1.0  # draws are made for the positive orientation
    means = np.sort(sign * cells.mean(axis=1))  # (seeds,), sorted: the seeds' order must not matter
    center = float(sign * means.mean())
    draws = center + sign * crossed_draws(sign * difference, groups, resamples, np.random.default_rng(seed))
    return MeanDifference(center, np.sort(sign * means), draws)


def _share(beyond: np.ndarray) -> float:
    return float((1 + np.count_nonzero(beyond)) / (1 + len(beyond)))


def means_above(means: np.ndarray, bound: float) -> float:
    """One-sided p-value of a t test on seed means (seeds,), of "their mean is at most `bound`"."""
    distance, error = float(means.mean()) - bound, _error(means)
    if error == 0:
        return 0.0 if distance > ROUNDING else 1.0
    return float(stdtr(len(means) - 1, -distance / error))


def _error(means: np.ndarray) -> float:
    return float(means.std(ddof=1) / math.sqrt(len(means))) if np.ptp(means) else 0.0
