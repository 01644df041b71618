"""Could these tasks have shown a difference? The gate before any claim that two arms score the same.

Two embedders that learned nothing score alike, and so do two that get everything right. Neither says what the start
of training does. So three questions are asked of each arm on each task, and each is answered yes only by evidence:

1. *Does it beat chance?* Its mean score lies above that of a random ranking, random labels or the best constant
   answer (`hrsa.evaluation.chance`). Where the chance score of a kind of task is not known, this is not asked.
2. *Does it beat its untrained backbone?* Its mean score lies above that of the model it was trained from, query by
   query. Training that does not lift an embedder over where it started has made no embedder.
3. *Is there room?* Its mean score lies more than one margin below the largest that is possible.

Each is a one-sided test at alpha on seeds x queries: the t test on seed means and the crossed bootstrap must both
reject (`bootstrap.MeanDifference`), as for equivalence. With few seeds this is strict, and a noisy arm is not
competent.

**Rule.** An arm is *competent* on a task where it beats both chance and its backbone. A task is *saturated* where
neither arm has room. A task *counts* where it is not saturated and one arm at least is competent: a task that one arm
masters and the other does not is no floor but a difference, and leaving it out would hide it. *Enough* remains where
both arms are competent, and the task is not saturated, on more tasks than luck would let pass. On the floor an arm
passes a task in at most alpha of studies; enough is the least number that so many tasks would reach in at most alpha of
studies if each passed at that rate (`enough_of`: 1 of 1, 2 of 2 to 7, 3 of 8 to 16). A verdict of sameness speaks of
the tasks that count and names how many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import bdtrc

from hrsa.verdict.bootstrap import LARGEST_SCORE, mean_difference, means_above, score_difference, task_ids

_ROUNDING = 1e-9  # of a probability that is alpha itself
GATE = ("sameness is claimed over tasks that count: not saturated, and an arm beats chance and its untrained backbone; "
        "both arms do so on more tasks than luck would let pass in alpha of studies")


@dataclass(frozen=True)
class Baselines:
    """What the embedders of two arms are held against, query by query."""

    untrained_a: np.ndarray  # (queries,) scores of the backbone that arm a was trained from
    untrained_b: np.ndarray  # (queries,)
    chance: np.ndarray  # (queries,) expected score without any skill; NaN where it is not known
    best: float = 1.0  # the largest possible score

    def checked(self, queries: int) -> Baselines:
        """With float arrays of (queries,); ValueError for other shapes, and for scores that are not finite or beyond
        1e50."""
        names = ("untrained_a", "untrained_b", "chance")
        arrays = {name: np.asarray(getattr(self, name), dtype=float) for name in names}
        for name, array in arrays.items():
            wrong = ~(np.abs(array) <= LARGEST_SCORE)
            if name == "chance":
                wrong &= ~np.isnan(array)
            if array.shape != (queries,) or wrong.any():
                raise ValueError(f"expected {name} of the baselines as one finite score per query, {queries}, got "
                                 f"shape {array.shape}, {int(wrong.sum())} of them not finite or beyond "
                                 f"{LARGEST_SCORE:g}: evaluate the untrained backbones on the same suite")
        if not abs(self.best) <= LARGEST_SCORE:
            raise ValueError(f"expected a finite largest score of at most {LARGEST_SCORE:g}, got {self.best}")
        return Baselines(**arrays, best=float(self.best))


def enough_of(tasks: int, alpha: float = 0.05) -> int:
    """On how many of so many tasks both arms must be competent: as many as pass by luck in at most alpha of studies.

    >>> [enough_of(tasks) for tasks in (1, 2, 8)]
    [1, 2, 3]
    """
    return next(k for k in range(1, tasks + 1) if bdtrc(k - 1, tasks, alpha) <= alpha * (1 + _ROUNDING))


def competence(scores_a: np.ndarray, scores_b: np.ndarray, baselines: Baselines, tasks: Sequence | None = None,
               margin: float = 0.02, alpha: float = 0.05, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """The three answers for each task and arm; arguments as in `equivalence.verdict`.

    One row per task, in order of appearance, and arm: task, arm ("a", "b"), score, untrained, chance (means over
    queries, and seeds), beats_chance (None: not asked), beats_untrained, has_room, competent, and for the task
    saturated, both (arms competent, not saturated), counts. With one seed nothing is known of other training runs, and
    every answer is no.
    """
    score_difference(scores_a, scores_b)
    arms = {"a": np.asarray(scores_a, dtype=float), "b": np.asarray(scores_b, dtype=float)}
    held = baselines.checked(arms["a"].shape[1])
    ids = task_ids(tasks, arms["a"].shape[1])
    rows = []
    for task in pd.unique(ids):
        here = ids == task
        known = not np.isnan(held.chance[here]).any()
        for arm, scores in arms.items():
            part = scores[:, here]
            before = (held.untrained_a if arm == "a" else held.untrained_b)[here]
            chance = held.chance[here]
            above = [_above(part - bound, alpha, seed, resamples) for bound in ([chance] if known else []) + [before]]
            room = _above(held.best - margin - part, alpha, seed, resamples)
            rows.append({"task": task, "arm": arm, "score": float(part.mean()), "untrained": float(before.mean()),
                         "chance": float(chance.mean()), "beats_chance": above[0] if known else None,
                         "beats_untrained": above[-1], "has_room": room, "competent": all(above)})
    table = pd.DataFrame(rows)
    by_task = table.groupby("task", sort=False)
    table["saturated"] = ~by_task["has_room"].transform("any")
    table["both"] = by_task["competent"].transform("all") & ~table["saturated"]
    table["counts"] = by_task["competent"].transform("any") & ~table["saturated"]
    return table


def _above(difference: np.ndarray, alpha: float, seed: int, resamples: int) -> bool:
    """Whether the mean of differences (seeds, queries) of one task is shown to lie above zero."""
    if len(difference) < 2 or means_above(difference.mean(axis=1), 0.0) >= alpha:
        return False  # whatever the bootstrap says
    return mean_difference(difference, None, resamples, seed).p_above(0.0) < alpha
