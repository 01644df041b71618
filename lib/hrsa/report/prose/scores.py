"""Tables of scores and of their differences that fit the width of a page: tasks are rows, arms are columns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hrsa.analysis.ablations import UNTRAINED
from hrsa.evaluation.evaluate import BM25
from hrsa.study.profile import Profile
from hrsa.verdict.differences import described

MEAN = "mean of all tasks"
PAD = "\u2007"  # a space as wide as a digit: points stand below each other


def score_table(profile: Profile, scores: pd.DataFrame) -> pd.DataFrame:
    """One row per task and condition, the means over tasks last; columns task, condition and one for each arm.

    scores: as `hrsa.evaluation.evaluate.collect` gives them. Cells: "mean ± std over seeds", scores x 100; a single run has no
    std. A mean is over all tasks, and None for an arm that lacks one (BM25 outside retrieval). BM25, which is not
    trained, stands in the untrained rows.
    """
    rows = described(profile, scores).replace({"condition": {BM25: UNTRAINED}})
    runs = rows.pivot_table(index=["condition", "arm", "model"], columns="task", values="value", sort=False,
                            observed=True)
    runs[MEAN] = runs.mean(axis=1, skipna=False)
    by_arm = runs.groupby(level=["condition", "arm"], sort=False)
    mean, std = 100 * by_arm.mean(), 100 * by_arm.std()
    arms = sorted(dict.fromkeys(mean.index.get_level_values("arm")), key="BM25".__eq__)  # BM25 last
    table = [{"task": task, "condition": name}
             | {arm: (mean[task].get((name, arm), np.nan), std[task].get((name, arm), np.nan)) for arm in arms}
             for task in mean.columns for name in dict.fromkeys(mean.index.get_level_values("condition"))]
    shown = pd.DataFrame(table)
    return shown.assign(**{arm: _aligned(shown[arm]) for arm in arms})


def _aligned(cells: pd.Series) -> list[str | None]:
    """(mean, std) of a column as text; None without a mean, no "±" without a std."""
    means, stds = ([None if np.isnan(x) else f"{x:.1f}" for x in part] for part in zip(*cells, strict=True))
    wide, narrow = (max(len(x or "") for x in part) for part in (means, stds))
    return [m and m.rjust(wide, PAD) + (f" ± {s.rjust(narrow, PAD)}" if s else "")
            for m, s in zip(means, stds, strict=True)]


def difference_table(found: pd.DataFrame) -> pd.DataFrame:
    """`contrast.differences` for reading: pair, task, "b − a [interval]", verdict, and the smallest margin that these
    data could have proved, in score x 100."""
    shown = [f"{_signed(d)} [{_signed(low)}, {_signed(high)}]"
             for d, low, high in 100 * found[["difference", "low", "high"]].to_numpy()]
    table = found.assign(margin=100 * found["smallest_margin"])[["pair", "task", "verdict", "margin"]]
    table.insert(2, "b − a [interval]", shown)
    return table.reset_index(drop=True)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−").rjust(6, PAD)
