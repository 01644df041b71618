"""Bounds of similarities over seeds, and how two of them are ordered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.similarity.metrics import Metric
from hrsa.study import store

_OVER_SEEDS = {"value": "mean", "low": "min", "high": "max", "null": "mean", "n": "min", "runs": "mean",
               "runs_low": "min", "runs_high": "max", "crossed": "mean", "crossed_low": "min", "crossed_high": "max",
               "ceiling": "mean"}
_NEAR = 0.05  # of identical models: farther from them a rise can be seen, whatever two runs of a recipe do


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """One row per place: the mean of `value` over seeds, with an interval that covers the intervals of all seeds.

    Takes a table of `pairs.make_comparison`; the columns seed, a and b go. The cover is wider than an interval
    of the mean would be: seeds share their texts, so their errors do not average out.
    """
    columns = {name: how for name, how in _OVER_SEEDS.items() if name in table.columns}
    keys = [name for name in table.columns if name not in {"seed", "a", "b", *columns}]
    return table.groupby(keys, sort=False, dropna=False, as_index=False).agg(columns)


def read_over_seeds(file: Path) -> pd.DataFrame:
    """A table of a comparison as `over_seeds` joins it; of readouts, both directions together."""
    return over_seeds(store.read_table(file).drop(columns="direction", errors="ignore"))


def yardsticks(table: pd.DataFrame) -> list[str]:
    """Which columns a similarity of this table can be held against, of those where any was measured.

    null, runs (same arm, other order: two runs of one recipe), crossed (other arm, other order) and ceiling.
    """
    return [name for name in ("null", "runs", "crossed", "ceiling") if table[name].notna().any()]


def has_room(metric: Metric, low: float, high: float, ceiling: float, width: float) -> bool:
    """Whether two models with this interval could be seen to become more alike.

    Not where the interval reaches the `ceiling`, which is what rounding alone leaves of a model and itself. And not
    where all that is left to identical models is less than 0.05 and less than `width`, that of the interval of two
    runs of one recipe: such a rise would be smaller than they vary. NaN: that bound is not known, and does not count.
    """
    far, near = (low, high) if metric.sign > 0 else (high, low)
    reaches = metric.apart(near) <= metric.apart(ceiling)
    return not (reaches or metric.apart(far) < min(width, _NEAR))


def decimals_shown(*values: float) -> int:
    """Decimals that tell numbers near 1 from 1: three, or as many as show two digits of the smallest distance from
    it."""
    near = [1 - value for value in values if 0.99 < value < 1]
    return min(max(3, 1 - math.floor(math.log10(min(near)))), 7) if near else 3


def order(low: float, high: float, other_low: float, other_high: float) -> int:
    """1 when the first interval lies wholly above the second, -1 when below, 0 when they overlap or one is NaN."""
    if low > other_high:
        return 1
    return -1 if high < other_low else 0


def only_row(table: pd.DataFrame, **where: Any) -> pd.Series:
    """The only row where every named column has its value; ValueError when there are more or none."""
    rows = table
    for name, value in where.items():
        rows = rows[rows[name] == value]
    if len(rows) != 1:
        raise ValueError(f"expected one row with {where}, got {len(rows)} of {len(table)}: name more columns")
    return rows.iloc[0]
