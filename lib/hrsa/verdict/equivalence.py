"""Is there a difference, is there none that matters, or can these data not tell? A paired test that can say each.

**Estimand.** The mean over tasks of the mean over queries of `score of b minus score of a`: tasks weigh equally
however many queries they have. It is a statement about training runs (seeds), queries and tasks *like* those
observed, so all three carry sampling error.

**Tests.** *A difference*: the two-sided t test on seed means and a crossed seed x query x task bootstrap both reject
zero at alpha. *Sameness*: the 1 - 2 alpha interval of the bootstrap lies inside (-margin, margin) and two one-sided t
tests on the seed means reject at alpha (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15; the bootstrap of crossed
factors is Owen 2007, Ann. Appl. Stat. 1). Requiring two tests to reject can only lower the error rate
(intersection-union).

**Gate.** Sameness is claimed only over tasks that count, and only where enough remain on which both arms are
competent: `hrsa.verdict.competence` says when. The gate guards sameness and hides no difference. A difference is
tested over all tasks and over those that count, at half of alpha each (where these are the same tasks, or too few
remain, once over all). One that shows over all tasks must be shown to be small over all of them too.

**Words.** *different*: a difference, no sameness; *equivalent*: sameness, no difference; *negligible*: both. Neither:
*uninformative* where too few tasks remain, else *inconclusive*.

**Interval.** It says what the word says: inside the margin when sameness is claimed, clear of zero when a difference
is. It is the wider of bootstrap and t interval at 1 - 2 alpha, stretched to zero where no difference is claimed, and
drawn at 1 - alpha on the side of zero where one is (Hsu, Hwang, Liu & Ruberg 1994, Biometrika 81). A correction for
several comparisons widens it as it makes the tests stricter. Where a word takes tasks together that one interval does
not, `reason` says so.

With three seeds an ordinary bootstrap is too narrow: `hrsa.verdict.bootstrap` says how that is corrected, and
`benchmarks/verdict.py` holds the proof by simulation. Limits: where a handful of queries make the difference (3 of 60)
the error rate of "equivalent" was 8% in simulation, and 17% with ten clusters of queries that were not named as tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd

from hrsa.verdict.bootstrap import MeanDifference, mean_difference, score_difference, task_ids
from hrsa.verdict.competence import Baselines, competence, enough_of

WORDS = ("different", "equivalent", "negligible", "inconclusive", "uninformative")


@dataclass(frozen=True)
class Decision:
    """What `verdict` returns; all in score units, differences are b - a."""

    verdict: str  # one of WORDS
    difference: float  # mean over tasks of mean over queries and seeds
    low: float  # interval that says what the word says
    high: float
    p_difference: float  # two-sided, of no difference: the larger of t test and bootstrap
    p_equivalence: float  # of a difference of a margin or more: the largest of the one-sided p-values; 1: not asked
    smallest_margin: float  # a margin above this would have been proved by these data
    margin: float
    alpha: float
    seeds: int
    queries: int
    tasks: int  # all that were named
    over: int  # tasks that difference and interval are over
    competent: int | None  # tasks on which both arms are; None: without baselines it was not asked
    reason: str  # why these data cannot decide, or what else the word rests on; empty where nothing is to be said


def verdict(
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    margin: float,
    tasks: Sequence | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    resamples: int = 2000,
    baselines: Baselines | None = None,
) -> Decision:
    """Compare two arms by their scores per seed and query; the rule is in the module's docstring.

    Args:
        scores_a: (seeds, queries), row s and column q from the same seed and query as in `scores_b`.
        scores_b: (seeds, queries).
        margin: largest difference that would not matter, in score units, positive, set before the run.
        tasks: (queries,), one task id per query; None: one task. With two or more, tasks count as drawn from
            tasks like them, so that few tasks make a wide interval; give one task at a time to speak of it alone.
            Queries of a task count as independent; where they come in clusters that respond alike, name the clusters.
        alpha: error rate of each claim, in (0, 0.5); the interval covers 1 - 2 alpha.
        seed: of the bootstrap; equal input and seed give equal output. The order of queries, of seeds and the
            names of tasks change nothing; swapping the arms flips every sign exactly.
        resamples: of the bootstrap, at least 4 / alpha.
        baselines: scores of chance and of the untrained backbones. None: the gate is not asked, which is right for
            scores that are no embedder's and for nothing else.

    With one seed, or when no seed changed any score of either arm, nothing can be said about training runs: the
    verdict is `inconclusive`, p-values are 1, `smallest_margin` is infinite, and the interval speaks of that run
    only. When every single difference is the same number it counts as measured without error (identical arms are
    `equivalent` where the gate lets them). Raises ValueError for scores that are NaN, infinite or no numbers, shapes
    that differ or are not (seeds, queries), fewer than two queries, a margin that is not positive, and alpha,
    resamples, tasks or baselines that do not fit.

    >>> rng = np.random.default_rng(0)
    >>> a = rng.uniform(0.3, 0.7, size=(1, 400)) + rng.normal(0, 0.01, size=(5, 400))  # five seeds, 400 queries
    >>> same, better = (verdict(a, a + gain + rng.normal(0, 0.01, size=a.shape), margin=0.02) for gain in (0.0, 0.1))
    >>> same.verdict, better.verdict, round(better.difference, 2)
    ('equivalent', 'different', 0.1)
    """
    case = _measured(scores_a, scores_b, margin, tasks, alpha, seed, resamples, baselines)
    return case.decided(alpha, alpha)


def word(different: bool, equivalent: bool, enough: bool = True) -> str:
    """The verdict's word for the results of both tests, and for whether enough tasks are fit to tell.

    >>> word(different=True, equivalent=True), word(False, False), word(False, False, enough=False)
    ('negligible', 'inconclusive', 'uninformative')
    """
    return {(True, False): "different", (False, True): "equivalent", (True, True): "negligible"}.get(
        (bool(different), bool(equivalent)), "inconclusive" if enough else "uninformative")


def agreeing_interval(interval: Callable[[float], tuple[float, float]], center: float, different: bool,
                      for_difference: float, for_sameness: float) -> tuple[float, float]:
    """The interval that says what the word says; see the module's docstring.

    interval: level -> the bounds that one-sided tests at that level reject. The levels are those of the one-sided
    tests, after correction.
    """
    low, high = interval(for_sameness)
    if not different:
        return min(low, 0.0), max(high, 0.0)
    near = interval(for_difference)
    return (near[0], high) if center > 0 else (low, near[1])


@dataclass(frozen=True)
class _Case:
    """One comparison, measured over all its tasks and over those that count."""

    every: MeanDifference
    counting: MeanDifference  # `every` itself where all tasks count, or too few are left
    margin: float
    alpha: float
    sizes: dict[str, int]  # seeds, queries, tasks
    counted: int
    competent: int | None
    blind: str  # why nothing can be said about training runs

    @property
    def enough(self) -> bool:
        return self.competent is None or self.competent >= enough_of(self.sizes["tasks"], self.alpha)

    @property
    def p_difference(self) -> float:
        if self.blind:
            return 1.0
        if self.counting is self.every:
            return _two_sided(self.every)
        return min(2 * min(_two_sided(self.every), _two_sided(self.counting)), 1.0)

    @property
    def p_equivalence(self) -> float:
        if self.blind or not self.enough:
            return 1.0
        small = _beyond(self.counting, self.margin)
        return max(small, _beyond(self.every, self.margin)) if self._shows_over_all(self.alpha) else small

    def _shows_over_all(self, level: float) -> bool:
        return self.counting is not self.every and 2 * _two_sided(self.every) < level

    def decided(self, for_difference: float, for_sameness: float) -> Decision:
        """The word at the levels of the two tests (two-sided, one-sided), after correction."""
        different, same = self.p_difference < for_difference, self.p_equivalence < for_sameness
        tests = 1 if self.counting is self.every else 2
        by_all_alone = self._shows_over_all(for_difference) and 2 * _two_sided(self.counting) >= for_difference
        shown = self.every if by_all_alone else self.counting
        low, high = agreeing_interval(shown.interval, shown.center, different, for_difference / (2 * tests),
                                      for_sameness)
        inside = low > -self.margin and high < self.margin
        tasks, reason = self.sizes["tasks"], self.blind
        if not reason and not self.enough:
            reason = (f"both arms beat chance and their untrained backbones, with room to differ, on {self.competent} "
                      f"of {tasks} tasks, and sameness takes {enough_of(tasks, self.alpha)}")
        elif not reason and inside and not same:
            which = "that count" if shown is self.every else "named"
            reason = f"over the tasks {which} a difference as large as the margin is not excluded"
        smallest = math.inf
        if self.enough and not self.blind:
            smallest = max(map(abs, agreeing_interval(shown.interval, shown.center, False, self.alpha, self.alpha)))
        return Decision(word(different, same, self.enough or bool(self.blind)), shown.center, low, high,
                        self.p_difference, self.p_equivalence, smallest, self.margin, self.alpha, **self.sizes,
                        over=tasks if shown is self.every else self.counted, competent=self.competent,
                        reason=reason)


def _measured(scores_a: np.ndarray, scores_b: np.ndarray, margin: float, tasks: Sequence | None, alpha: float,
              seed: int, resamples: int, baselines: Baselines | None) -> _Case:
    difference = score_difference(scores_a, scores_b)
    _check(margin, alpha, resamples)
    ids = task_ids(tasks, difference.shape[1])
    sizes = {"seeds": difference.shape[0], "queries": difference.shape[1], "tasks": len(pd.unique(ids))}
    every = mean_difference(difference, tasks, resamples, seed)
    blind = _blind(scores_a, scores_b, difference)
    case = _Case(every, every, float(margin), alpha, sizes, sizes["tasks"], None, blind)
    if baselines is None:
        return case
    held = baselines.checked(difference.shape[1])
    if blind:
        return case
    gate = competence(scores_a, scores_b, held, ids, margin, alpha, seed, resamples).drop_duplicates("task")
    counted, competent = int(gate["counts"].sum()), int(gate["both"].sum())
    counting = every
    if competent >= enough_of(sizes["tasks"], alpha) and counted < sizes["tasks"]:
        here = np.isin(ids, gate.loc[gate["counts"], "task"].to_numpy())
        counting = mean_difference(difference[:, here], ids[here], resamples, seed)
    return _Case(every, counting, case.margin, alpha, sizes, counted, competent, "")


def _two_sided(found: MeanDifference) -> float:
    return min(2 * min(found.p_above(0.0), found.p_below(0.0)), 1.0)


def _beyond(found: MeanDifference, margin: float) -> float:
    """p-value of "the difference is a margin or more", on either side."""
    return max(found.p_above(-margin), found.p_below(margin))


def _check(margin: float, alpha: float, resamples: int) -> None:
    if not (isinstance(margin, Real) and np.isfinite(margin) and margin > 0):
        raise ValueError(f"expected a positive margin in score units, got {margin!r}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"expected alpha between 0 and 0.5, got {alpha}")
    if resamples < 4 / alpha:
        raise ValueError(f"expected at least {4 / alpha:.0f} resamples for alpha {alpha}, got {resamples}")


def _blind(scores_a: np.ndarray, scores_b: np.ndarray, difference: np.ndarray) -> str:
    if len(difference) == 1:
        return "one seed: the variation between training runs is unknown"
    if np.ptp(difference) and not (np.ptp(scores_a, axis=0).any() or np.ptp(scores_b, axis=0).any()):
        return "all seeds gave identical scores: the seed did not change training, so this is one run"
    return ""


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scand. J. Stat. 6).

    Rejecting where the adjusted value is below alpha keeps the chance of any false claim in the family at alpha.
    Raises ValueError for values outside [0, 1] or NaN.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected a list of p-values between 0 and 1, got {p_values!r}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def verdicts(arms: Mapping[str, tuple], margin: float, alpha: float = 0.05, seed: int = 0,
             resamples: int = 2000) -> pd.DataFrame:
    """Verdicts of a family of comparisons, corrected by Holm.

    `arms`: name -> (scores_a, scores_b), (scores_a, scores_b, tasks) or (scores_a, scores_b, tasks, baselines), as in
    `verdict`. Returns one row per name: all fields of `Decision` after correction, word and interval, with the
    p-values before it; `alone`, the word without it; `holm_difference` and `holm_equivalence`. The claims of
    difference and those of sameness are each a family. Resamples are at least 4 per comparison / alpha: a smallest
    possible p-value must survive the correction.
    """
    if not arms:
        raise ValueError("expected at least one comparison, got none: name the pairs to test")
    resamples = max(resamples, math.ceil(4 * len(arms) / alpha))
    cases = [_measured(a, b, margin, more[0] if more else None, alpha, seed, resamples, more[1] if more[1:] else None)
             for a, b, *more in arms.values()]
    raw = {"difference": np.array([case.p_difference for case in cases]),
           "equivalence": np.array([case.p_equivalence for case in cases])}
    corrected = {name: holm(p) for name, p in raw.items()}
    levels = [alpha * raw[name] / corrected[name] for name in raw]  # p below it is the corrected p below alpha
    rows = [{"name": name, **vars(case.decided(*at)), "alone": case.decided(alpha, alpha).verdict}
            for name, case, *at in zip(arms, cases, *levels, strict=True)]
    return pd.DataFrame(rows).assign(**{f"holm_{name}": p for name, p in corrected.items()})
