"""What part of a difference comes from the arm, from the order of the data, from both together.

Two arms are trained on the same few orders of the data (a seed sets the order and all other chance of training). Three
kinds of two runs can be compared: those that share the arm, those that share the order, those that share neither. For
a squared distance between runs, of which each is the sum of an effect of its arm, one of its order and one of both,

    E same arm, other order  = 2 (order + both)
    E other arm, same order  = 2 (arm + both)
    E other arm, other order = 2 (arm + order + both)

so that half the sums and differences of the three are the variances (the two-way analysis of variance, by moments).
1 - CKA, 1 - correlation, 1 - Jaccard index and the squared difference of scores are squared distances. Estimates
are not cut at zero: one below zero says that the variance is smaller than these runs can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

SAME_ARM, SAME_ORDER, NEITHER = TWO_RUNS = ("same arm, other order", "other arm, same order", "other arm, other order")
_ARM, _ORDER, _BOTH = SOURCES = ("arm", "order", "both")
_TEXTS, _ORDERS = "texts", "orders"  # what an interval is over
SOURCE_COLUMNS = ["part", "value", "low", "high", "share", "share_low", "share_high", "orders", "over"]
_LEVEL = 0.95
_RESAMPLES = 200  # of items, for the scores
_FEWEST = 3  # orders of which one can be left out
_ROUNDING = 1e-12  # a variance below this part of the distances it is the difference of is rounding


class Cell(NamedTuple):
    """One comparison of two runs: what they share (of `TWO_RUNS`), their orders, squared distance, and that in
    resamples."""

    runs: str
    orders: tuple[int, int]
    value: float
    drawn: np.ndarray  # (r,) the same resamples in every cell, or (0,)


def sources(cells: Sequence[Cell], level: float = _LEVEL) -> pd.DataFrame:
    """Mean squared distance of each of `TWO_RUNS` and the variance of each of `SOURCES`: one row each,
    `SOURCE_COLUMNS`.

    `share` is the part of all variance (of `TWO_RUNS`: NaN), `orders` how many orders there are, `over` what the
    interval is over: "orders", by leaving out one at a time (three or more), "texts" or items, by the resamples, or
    "texts and orders". The two variances are added, with Welch and Satterthwaite's degrees of freedom; that of
    distances is taken of the logarithm. NaN, and "" in `over`, where a kind of two runs is missing (one order alone).
    """
    whole = _of_cells(cells)
    seen = sorted({order for cell in cells for order in cell.orders})
    left = [_of_cells([c for c in cells if order not in c.orders]) for order in seen] if len(seen) >= _FEWEST else []
    r = min((len(cell.drawn) for cell in cells), default=0)
    by_runs = {runs: [cell.drawn[:r] for cell in cells if cell.runs == runs] for runs in TWO_RUNS}
    drawn = _statistics({runs: np.mean(found, axis=0) if found else np.full(r, np.nan)
                         for runs, found in by_runs.items()})
    found = {name: _interval(value, np.array([part[name] for part in left]), drawn[name], name in TWO_RUNS, level)
             for name, value in whole.items()}
    rows = []
    for part in (*TWO_RUNS, *SOURCES):
        low, high, over = found[part]
        share = (np.nan,) * 3 if part in TWO_RUNS else (float(whole[_share(part)]), *found[_share(part)][:2])
        rows.append((part, float(whole[part]), low, high, *share, len(seen), over))
    return pd.DataFrame(rows, columns=SOURCE_COLUMNS)


def _share(part: str) -> str:
    return f"share of {part}"


def _of_cells(cells: Sequence[Cell]) -> dict[str, np.ndarray]:
    return _statistics({runs: np.mean([c.value for c in cells if c.runs == runs] or [np.nan]) for runs in TWO_RUNS})


def _statistics(mean: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The three distances, the three variances and their shares, of distances of any shape."""
    arm, order, neither = (np.asarray(mean[runs], dtype=float) for runs in TWO_RUNS)
    parts = {_ARM: (neither - arm) / 2, _ORDER: (neither - order) / 2, _BOTH: (arm + order - neither) / 2}
    largest = np.maximum(np.maximum(arm, order), neither)
    parts = {part: np.where(np.abs(value) < _ROUNDING * largest, 0.0, value) for part, value in parts.items()}
    total = np.where(neither > 0, neither / 2, np.nan)
    return {**mean, **parts, **{_share(part): value / total for part, value in parts.items()}}


def _interval(value: float, left: np.ndarray, drawn: np.ndarray, logarithm: bool,
              level: float) -> tuple[float, float, str]:
    """Bounds around a statistic from its values without one order each (o,) and in resamples (r,); and what of."""
    if logarithm:
        with np.errstate(invalid="ignore", divide="ignore"):
            value, left, drawn = (np.where(np.asarray(part) > 0, np.log(part), np.nan)
                                  for part in (value, left, drawn))
    parts = []
    if len(left) and np.isfinite(left).all():
        parts.append((_ORDERS, (len(left) - 1) * float(np.var(left)), len(left) - 1))
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) > 1:
        parts.insert(0, (_TEXTS, float(np.var(drawn, ddof=1)), len(drawn) - 1))
    total = sum(variance for _, variance, _ in parts)
    if not parts or not np.isfinite(value):
        return np.nan, np.nan, ""
    freedom = total**2 / sum(v**2 / d for _, v, d in parts) if total > 0 else np.inf
    reach = float(stdtrit(freedom, (1 + level) / 2)) * np.sqrt(total)
    bounds = np.array([value - reach, value + reach])
    return *map(float, np.exp(bounds) if logarithm else bounds), " and ".join(name for name, _, _ in parts)


def score_sources(a: np.ndarray, b: np.ndarray, tasks: Sequence, seed: int = 0) -> pd.DataFrame:
    """Variance of the scores of two arms (orders, items), paired by order and item: rows of `sources`, column `of`.

    `of` is "items", the mean over tasks of the variance of the score of one item, or "mean", the variance of the mean
    over tasks of the mean over items. `tasks` (items,) names the task of each; resamples draw items within their task.
    ValueError: arrays of unequal shape, or not as many tasks as items.
    """
    a, b, names = np.asarray(a, dtype=float), np.asarray(b, dtype=float), np.asarray(tasks)
    if a.shape != b.shape or a.ndim != 2 or len(names) != a.shape[1]:
        raise ValueError(f"expected scores (orders, items) of two arms and the task of each item, got {a.shape}, "
                         f"{b.shape} and {len(names)} tasks: pair the arms by order and item first")
    weights = _item_weights(names, np.random.default_rng(seed))  # (1 + r, items); the first row is the sample
    runs = [("a", i, row) for i, row in enumerate(a)] + [("b", i, row) for i, row in enumerate(b)]
    tables = []
    for of in ("items", "mean"):
        cells = []
        for (arm, i, x), (other, j, y) in combinations(runs, 2):
            kind = SAME_ARM if arm == other else SAME_ORDER if i == j else NEITHER
            value = weights @ (x - y) ** 2 if of == "items" else (weights @ (x - y)) ** 2
            cells.append(Cell(kind, (i, j), float(value[0]), value[1:]))
        tables.append(sources(cells).assign(of=of))
    found = pd.concat(tables, ignore_index=True)
    return found.assign(over=found["over"].str.replace(_TEXTS, "items"))


def _item_weights(tasks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights of items (1 + r, items) that give the mean over tasks: of the sample, then of resamples within tasks."""
    weights = np.zeros((1 + _RESAMPLES, len(tasks)))
    names = pd.unique(tasks)
    for task in names:
        at = np.flatnonzero(tasks == task)
        drawn = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=_RESAMPLES)
        weights[:, at] = np.vstack([np.ones(len(at)), drawn]) / len(at) / len(names)
    return weights


def averaged(cells: Iterable[Sequence[Cell]]) -> list[Cell]:
    """One cell for each comparison, its distance averaged over places (layers); `cells`: those of each place."""
    groups: dict[tuple, list[Cell]] = {}
    for cell, at in ((cell, at) for part in cells for at, cell in enumerate(part)):
        groups.setdefault((cell.runs, cell.orders, at), []).append(cell)
    return [Cell(runs, orders, float(np.mean([c.value for c in part])),
                 np.mean([c.drawn[:min(len(c.drawn) for c in part)] for c in part], axis=0))
            for (runs, orders, _), part in groups.items()]


def ring(orders: Sequence[int]) -> list[tuple[int, int]]:
    """Each order with the next, the last with the first: cost grows with orders and not with their square."""
    return [two for two in zip(orders, (*orders[1:], *orders[:1]), strict=True) if two[0] != two[1]]


def undirected(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of orders whose order does not matter, each once, ascending."""
    return sorted({(min(two), max(two)) for two in pairs})

