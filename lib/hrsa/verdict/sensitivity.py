"""Would another analysis of the same scores say otherwise? A check beside the verdict, never in its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from hrsa.verdict.bootstrap import crossed_draws, draws_interval, task_columns
from hrsa.verdict.equivalence import verdict, word
from hrsa.verdict.power import two_way

_METHODS = {
    "verdict": "crossed bootstrap of seeds, queries and tasks, with t tests on seed means",
    "these tasks only": "the same bootstrap with the tasks as they are: speaks of no other task",
    "mixed model": "crossed random effects of seeds and tasks (one task: queries), Satterthwaite degrees of freedom",
    "Bayesian": "posterior mass within the margin (ROPE) above 1 - alpha, flat prior, from the mixed model's error",
    "seed means only": "t tests on seed means: speaks of no other query or task",
}


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
                alpha: float = 0.05, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """The words of five analyses of the same paired scores; arguments as in `hrsa.verdict.equivalence.verdict`.

    One row per method of `_METHODS`: verdict, low, high (1 - 2 alpha), `inside` = posterior mass within the margin
    (Bayesian only), about. With one seed there is nothing to compare: ValueError.
    """
    main = verdict(scores_a, scores_b, margin, tasks, alpha, seed, resamples)
    if main.seeds < 2:
        raise ValueError("expected two seeds or more, got one: no analysis can tell how training runs vary")
    difference = np.asarray(scores_b, dtype=float) - np.asarray(scores_a, dtype=float)
    groups = task_columns(tasks, difference)
    draws = main.difference + crossed_draws(difference, groups, resamples, np.random.default_rng(seed), False)
    low, high = draws_interval(draws, alpha)
    narrow, wide = draws_interval(draws, alpha / 2)
    fixed = word(narrow > 0 or wide < 0, low > -margin and high < margin)
    cells = np.stack([difference[:, group].mean(axis=1) for group in groups], axis=1)
    error, dof = mixed_model(difference, groups)
    inside = float(np.diff(_t([-margin, margin], main.difference, error, dof))[0])
    of_seeds = cells.mean(axis=1).std(ddof=1) / np.sqrt(main.seeds)
    rows = [("verdict", main.verdict, main.low, main.high, np.nan), ("these tasks only", fixed, low, high, np.nan),
            ("mixed model", *_judged(main.difference, error, dof, margin, alpha), np.nan)]
    posterior = _judged(main.difference, error, dof, margin, alpha)
    rows += [("Bayesian", "equivalent" if inside > 1 - alpha else "different" if inside < alpha else "inconclusive",
              *posterior[1:], inside),
             ("seed means only", *_judged(main.difference, of_seeds, main.seeds - 1, margin, alpha), np.nan)]
    table = pd.DataFrame(rows, columns=["method", "verdict", "low", "high", "inside"])
    return table.assign(about=table["method"].map(_METHODS))


def _t(at: Sequence[float], center: float, error: float, dof: float) -> np.ndarray:
    if error == 0:
        return (np.asarray(at) >= center).astype(float)
    return stats.t.cdf((np.asarray(at) - center) / error, dof)


def _judged(center: float, error: float, dof: float, margin: float, alpha: float) -> tuple[str, float, float]:
    """Verdict and 1 - 2 alpha interval of a t statistic."""
    reach, wide = (error * stats.t.ppf(1 - share, dof) for share in (alpha, alpha / 2))
    return (word(abs(center) > wide, abs(center) + reach < margin), float(center - reach), float(center + reach))
