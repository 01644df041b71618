"""Is there a difference, is there none that matters, or can these data not tell? A paired test that can say each.

**Estimand.** The mean over tasks of the mean over queries of `score of b minus score of a`: tasks weigh equally
however many queries they have. It is a statement about training runs (seeds), queries and tasks *like* those
observed, so all three carry sampling error.

**Rule.** *Equivalent*: the 1 - 2 alpha interval of a crossed seed x query x task bootstrap lies inside
(-margin, margin) and two one-sided t tests on the seed means reject at alpha (Schuirmann 1987, J. Pharmacokinet.
Biopharm. 15; the bootstrap of crossed factors is Owen 2007, Ann. Appl. Stat. 1). *Different*: the two-sided t test
on seed means and the bootstrap both reject zero at alpha. Both hold: *negligible*. Neither: *inconclusive*.
Requiring two tests to reject can only lower the error rate (intersection-union).

With three seeds an ordinary bootstrap is too narrow: `hrsa.verdict.bootstrap` says how that is corrected, and
`benchmarks/verdict.py` holds the proof by simulation. Limits: where a handful of queries make the difference (3 of 60)
the error rate of "equivalent" was 8% in simulation, and 17% with ten clusters of queries that were not named as tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from scipy import stats

from hrsa.verdict.bootstrap import crossed_draws, draws_interval, task_columns

WORDS = ("different", "equivalent", "negligible", "inconclusive")
_ROUNDING = 1e-12  # differences below this are rounding of equal scores


@dataclass(frozen=True)
class Decision:
    """What `verdict` returns; all in score units, differences are b - a."""

    verdict: str  # one of WORDS
    difference: float  # mean over tasks of mean over queries and seeds
    low: float  # 1 - 2 alpha interval of the crossed bootstrap
    high: float
    p_difference: float  # two-sided, of no difference: the larger of t test and bootstrap
    p_lower: float  # one-sided t test on seed means, of difference <= -margin
    p_upper: float  # one-sided t test on seed means, of difference >= margin
    p_equivalence: float  # the largest of the four one-sided p-values (t and bootstrap, lower and upper)
    smallest_margin: float  # a margin above this would have been proved by these data
    margin: float
    alpha: float
    seeds: int
    queries: int
    tasks: int
    reason: str  # why these data cannot decide, empty when they can


def verdict(
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    margin: float,
    tasks: Sequence | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    resamples: int = 2000,
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
        resamples: of the bootstrap, at least 2 / alpha.

    With one seed, or when no seed changed any score of either arm, nothing can be said about training runs: the
    verdict is `inconclusive`, p-values are 1, `smallest_margin` is infinite, and the interval speaks of that run
    only. When every single difference is the same number it counts as measured without error (identical arms are
    `equivalent`). Raises ValueError for scores that are NaN, infinite or no numbers, shapes that differ or are not
    (seeds, queries), fewer than two queries, a margin that is not positive, and alpha, resamples or tasks that do not
    fit.
    """
    difference = _paired(scores_a, scores_b)
    _check(difference, margin, alpha, resamples, tasks)
    groups = task_columns(tasks, difference)
    cells = np.stack([difference[:, group].mean(axis=1) for group in groups], axis=1)  # (seeds, tasks)
    sign = -1.0 if cells.mean() < 0 else 1.0  # draws are made for the positive orientation: swapping arms mirrors all
    means = np.sort(sign * cells.mean(axis=1))  # (seeds,), sorted: the seeds' order must not matter
    center = float(sign * means.mean())
    draws = center + sign * crossed_draws(sign * difference, groups, resamples, np.random.default_rng(seed))
    low, high = draws_interval(draws, alpha)
    sizes = {"seeds": difference.shape[0], "queries": difference.shape[1], "tasks": len(groups)}
    common = {"difference": center, "low": low, "high": high, "margin": float(margin), "alpha": alpha, **sizes}
    reason = _blind(scores_a, scores_b, difference)
    if reason:
        return Decision("inconclusive", p_difference=1.0, p_lower=1.0, p_upper=1.0, p_equivalence=1.0,
                        smallest_margin=math.inf, reason=reason, **common)
    tests = _tests(draws, center, means, margin)
    claims = word(tests["p_difference"] < alpha, tests["p_equivalence"] < alpha)
    smallest = max(abs(center) + _standard_error(means) * stats.t.ppf(1 - alpha, len(means) - 1), -low, high)
    return Decision(claims, smallest_margin=float(smallest), reason="", **tests, **common)


def _tests(draws: np.ndarray, center: float, means: np.ndarray, margin: float) -> dict[str, float]:
    """p-values of the t tests on seed means (seeds,) joined with those of the bootstrap draws."""
    error = _standard_error(means)
    p_lower, p_upper = _tail(center + margin, error, len(means)), _tail(margin - center, error, len(means))
    p_zero = 2 * min(_share(draws <= 0), _share(draws >= 0), 0.5)
    return {
        "p_difference": min(max(p_zero, 2 * _tail(abs(center), error, len(means))), 1.0),
        "p_lower": p_lower,
        "p_upper": p_upper,
        "p_equivalence": max(p_lower, p_upper, _share(draws <= -margin), _share(draws >= margin)),
    }


def word(different: bool, equivalent: bool) -> str:
    """The verdict's word for two test results."""
    return {(True, False): "different", (False, True): "equivalent", (True, True): "negligible"}.get(
        (bool(different), bool(equivalent)), "inconclusive")


def _paired(scores_a: np.ndarray, scores_b: np.ndarray) -> np.ndarray:
    try:
        a, b = (np.ma.filled(np.ma.array(scores, dtype=float), np.nan) for scores in (scores_a, scores_b))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected two arrays of numbers (seeds, queries), got others: {error}") from error
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] < 1 or a.shape[1] < 2:
        raise ValueError(f"expected two arrays of one shape (seeds >= 1, queries >= 2), got {a.shape} and {b.shape}")
    for name, scores in (("a", a), ("b", b)):
        wrong = np.argwhere(~np.isfinite(scores))
        if len(wrong):
            raise ValueError(f"expected finite scores, got {scores[tuple(wrong[0])]} in arm {name} at seed "
                             f"{wrong[0][0]}, query {wrong[0][1]}: leave the query out of both arms, or score it")
    difference = b - a
    difference[np.abs(difference) < _ROUNDING] = 0.0
    return np.full_like(difference, difference[0, 0]) if np.ptp(difference) < _ROUNDING else difference


def _check(difference: np.ndarray, margin: float, alpha: float, resamples: int, tasks: Sequence | None) -> None:
    if not (isinstance(margin, Real) and np.isfinite(margin) and margin > 0):
        raise ValueError(f"expected a positive margin in score units, got {margin!r}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"expected alpha between 0 and 0.5, got {alpha}")
    if resamples < 2 / alpha:
        raise ValueError(f"expected at least {2 / alpha:.0f} resamples for alpha {alpha}, got {resamples}")
    ids = np.zeros(difference.shape[1]) if tasks is None else np.asarray(tasks)
    if ids.shape != difference.shape[1:] or pd.isna(ids).any():
        raise ValueError(f"expected one task id per query, {difference.shape[1]}, got ids of shape {ids.shape}, "
                         f"{int(pd.isna(ids).sum())} of them missing")


def _blind(scores_a: np.ndarray, scores_b: np.ndarray, difference: np.ndarray) -> str:
    if len(difference) == 1:
        return "one seed: the variation between training runs is unknown"
    if np.ptp(difference) and not (np.ptp(scores_a, axis=0).any() or np.ptp(scores_b, axis=0).any()):
        return "all seeds gave identical scores: the seed did not change training, so this is one run"
    return ""


def _share(beyond: np.ndarray) -> float:
    return float((1 + np.count_nonzero(beyond)) / (1 + len(beyond)))


def _standard_error(means: np.ndarray) -> float:
    return float(means.std(ddof=1) / math.sqrt(len(means))) if np.ptp(means) else 0.0


def _tail(distance: float, error: float, n: int) -> float:
    """One-sided p of a t test whose estimate lies `distance` on the claimed side of the bound."""
    if error == 0:
        return 0.0 if distance > _ROUNDING else 1.0
    return float(stats.t.sf(distance / error, n - 1))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scand. J. Stat. 6).

    Rejecting where the adjusted value is below alpha keeps the chance of any false claim in the family at alpha.
    Raises ValueError for values outside [0, 1] or NaN.
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

    `arms`: name -> (scores_a, scores_b) or (scores_a, scores_b, tasks), as in `verdict`. Returns one row per name:
    all fields of `Decision` (`verdict` after correction, `alone` the uncorrected word, the interval uncorrected),
    `holm_difference` and `holm_equivalence`. The claims of difference and those of equivalence are each a family.
    Resamples are at least 4 per comparison / alpha: a smallest possible p-value must survive the correction.
    """
    if not arms:
        raise ValueError("expected at least one comparison, got none: name the pairs to test")
    resamples = max(resamples, math.ceil(4 * len(arms) / alpha))
    single = {name: verdict(*arm[:2], margin, *arm[2:3], alpha=alpha, seed=seed, resamples=resamples)
              for name, arm in arms.items()}
    table = pd.DataFrame([{"name": name, **vars(result)} for name, result in single.items()])
    table = table.rename(columns={"verdict": "alone"})
    table["holm_difference"] = holm(table["p_difference"])
    table["holm_equivalence"] = holm(table["p_equivalence"])
    words = [word(d < alpha, e < alpha) for d, e in zip(table["holm_difference"], table["holm_equivalence"],
                                                        strict=True)]
    table.insert(1, "verdict", words)
    return table


@dataclass(frozen=True)
class Control:
    """Could this run have seen a difference of one margin?"""

    sees: bool
    p_value: float  # of the difference test on the injected shift
    shift: float
    sentence: str


def positive_control(scores_a: np.ndarray, scores_b: np.ndarray, margin: float, tasks: Sequence | None = None,
                     alpha: float = 0.05, seed: int = 0, resamples: int = 2000) -> Control:
    """Inject a shift of one margin and ask whether it is detected with the noise these data have.

    Arm b is moved so that its mean difference from a is exactly `margin` while all seed, query and task variation
    stays; `sees` tells whether the difference test then rejects zero at alpha. Arguments as in `verdict`.
    """
    a, b = np.asarray(scores_a, dtype=float), np.asarray(scores_b, dtype=float)
    observed = verdict(a, b, margin, tasks, alpha, seed, resamples)
    injected = verdict(a, b - observed.difference + margin, margin, tasks, alpha, seed, resamples)
    sees = injected.p_difference < alpha
    text = f"an injected shift of one margin ({margin:g}) is {'' if sees else 'not '}detected (p = " \
           f"{injected.p_difference:.2g})" + ("" if sees else ": this run is unable to see such a difference")
    return Control(sees, injected.p_difference, margin, text)
