"""The competence gate: worked by hand, the floor by simulation, invariances, refusals, the shipped 5-million family."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hrsa.study.profile import Pair
from hrsa.verdict.competence import Baselines, competence, enough_of
from hrsa.verdict.equivalence import verdict, verdicts
from hrsa.verdict.paired_scores import paired
from hrsa.verdict.synthesis import score_verdicts

MARGIN = 0.02
TASKS = np.repeat(["w", "x", "y", "z"], 60)


def study(rng, gain_a=0.2, gain_b=0.2, seeds=3, level=0.5, chance=0.4):
    """Scores of two arms on four tasks, and their baselines; a gain is one number, or one for each task.

    The arms differ by their gains, by runs that cancel out, and by noise whose mean over a task is zero in every run.
    """
    width, runs = len(TASKS), 0.002 * np.arange(seeds)[:, None]
    untrained = level + rng.normal(0, 0.05, width)
    noise = rng.normal(0, 0.01, (2, seeds, width // 2))
    noise = np.concatenate([noise, -noise], axis=2)[..., np.argsort(np.tile(np.arange(width // 2), 2), kind="stable")]
    arms = [untrained + np.repeat(np.broadcast_to(gain, 4), 60) + run - runs.mean() + part
            for gain, run, part in zip((gain_a, gain_b), (runs, runs[::-1]), noise, strict=True)]
    return *arms, Baselines(untrained, untrained, np.full(width, chance))


def judged(a, b, baselines, tasks=TASKS, **settings):
    return verdict(a, b, MARGIN, tasks, resamples=400, baselines=baselines, **settings)


def test_the_three_questions_worked_by_hand():
    """Task 0: both arms beat both baselines; 1: arm b is below its backbone; 2: above it but below chance; 3: full."""
    spread = np.array([[0.001], [0.0], [-0.001]]) + np.tile([0.002, -0.002], 20)
    tasks = np.repeat([0, 1, 2, 3], 10)
    a = np.repeat([0.6, 0.6, 0.2, 0.995], 10) + spread
    b = np.repeat([0.7, 0.4, 0.2, 0.990], 10) + spread
    untrained = np.repeat([0.5, 0.5, 0.1, 0.5], 10)
    found = competence(a, b, Baselines(untrained, untrained, np.full(40, 0.3)), tasks, MARGIN, resamples=400)
    found = found.set_index(["task", "arm"])
    assert found["beats_chance"].tolist() == [True, True, True, True, False, False, True, True]
    assert found["beats_untrained"].tolist() == [True, True, True, False, True, True, True, True]
    assert found["has_room"].tolist() == [True] * 6 + [False] * 2
    by_task = found.xs("a", level="arm")
    assert by_task["both"].tolist() == [True, False, False, False]
    assert by_task["counts"].tolist() == [True, True, False, False]
    assert by_task["saturated"].tolist() == [False, False, False, True]
    assert found.loc[(1, "b"), ["score", "untrained", "chance"]].tolist() == pytest.approx([0.4, 0.5, 0.3])


def test_half_of_the_tasks_and_two_of_them():
    assert [enough_of(tasks) for tasks in (1, 2, 7, 8, 10, 16, 17, 41)] == [1, 2, 2, 3, 3, 3, 4, 6]


@pytest.mark.parametrize(("gains", "expected"), [
    ((0.2, 0.2), "equivalent"),
    ((0.0, 0.0), "uninformative"),
    ((-0.1, -0.1), "uninformative"),
    (([0.2, 0, 0, 0], [0.2, 0, 0, 0]), "uninformative"),
    (([0.2, 0.2, 0, 0], [0.2, 0.2, 0, 0]), "equivalent"),
    ((0.2, 0.0), "different"),
    ((-0.1, -0.3), "different"),
], ids=["competent", "floor", "harm", "one of four", "two of four", "one arm", "both harmed, unlike"])
def test_clear_cases(rng, gains, expected):
    found = judged(*study(rng, *gains))
    assert found.verdict == expected and found.competent == (4 if gains == (0.2, 0.2) else
                                                             sum(x == 0.2 for x in np.ravel(gains)) // 2)
    assert (found.reason != "") == (found.competent < 2)


def test_a_saturated_study_is_uninformative(rng):
    a, b, baselines = study(rng, 0.48, 0.48, level=0.51)
    assert judged(a, b, baselines).verdict == "uninformative"
    lower = Baselines(baselines.untrained_a, baselines.untrained_b, baselines.chance, best=2.0)
    assert judged(a, b, lower).verdict == "equivalent"


def test_a_task_that_one_arm_fails_counts(rng):
    """Left out, the three others would be equivalent: the failure of arm b on one task would be hidden."""
    a, b, baselines = study(rng, 0.2, [0.2, 0.2, 0.2, -0.1])
    found = judged(a, b, baselines)
    assert found.verdict not in ("equivalent", "negligible") and (found.over, found.competent) == (4, 3)
    rest = TASKS != "z"
    part = Baselines(*(getattr(baselines, name)[rest] for name in ("untrained_a", "untrained_b", "chance")))
    assert judged(a[:, rest], b[:, rest], part, TASKS[rest]).verdict in ("equivalent", "negligible")


def test_tasks_on_the_floor_do_not_count_and_hide_no_difference(rng):
    gains = [0.2, 0.2, 0.0, 0.0]
    a, b, baselines = study(rng, gains, gains)
    found = judged(a, b, baselines)
    assert (found.verdict, found.over, found.tasks) == ("equivalent", 2, 4)
    assert found.difference == pytest.approx(np.mean([(b - a)[:, t == TASKS].mean() for t in "wx"]))
    assert judged(a, b - 0.3, baselines).verdict == "different"


def test_a_difference_over_all_tasks_is_not_called_small(rng):
    """Ten tasks that count are alike; on ten more, below the floor, arm b is 0.1 lower, steadily."""
    tasks = np.repeat(np.arange(20), 20)
    untrained = np.full(400, 0.5)
    gains = np.repeat([0.2, -0.1], 200)
    a = untrained + gains + rng.normal(0, 0.001, (5, 400))
    b = a + rng.normal(0, 0.001, (5, 400)) - np.where(gains < 0, 0.1, 0.0)
    found = judged(a, b, Baselines(untrained, untrained, np.full(400, 0.3)), tasks)
    assert (found.verdict, found.over, found.competent) == ("different", 20, 10) and found.high < 0


@pytest.mark.parametrize("kind", ["floor", "harm", "alike"])
def test_the_floor_is_uninformative(rng, kind):
    """In 95% of studies at least; a true 95% falls below the bound once in 100,000 runs."""
    from scipy import stats

    repeats, told = 100, 0
    for repeat in range(repeats):
        shared = rng.normal(0, 0.15 if kind == "alike" else 0.05, len(TASKS))
        level = np.full(len(TASKS), 0.5)
        a, b = (level - 0.03 * (kind == "harm") + shared + rng.normal(0, 0.005, (3, 1))
                + rng.normal(0, 0.05, (3, len(TASKS))) for _ in "ab")
        found = verdict(a, b, MARGIN, TASKS, seed=repeat, resamples=200,
                        baselines=Baselines(level, level, level - 0.1))
        told += found.verdict == "uninformative"
    assert told >= stats.binom.ppf(0.00001, repeats, 0.95)


def test_swapping_arms_order_and_names_change_nothing(rng):
    a, b, baselines = study(rng, [0.2, 0.2, 0.2, 0.0], [0.2, 0.2, 0.21, 0.0])
    one = judged(a, b, baselines)
    swapped = judged(b, a, Baselines(baselines.untrained_b, baselines.untrained_a, baselines.chance))
    assert (swapped.difference, swapped.low, swapped.high) == (-one.difference, -one.high, -one.low)
    assert (swapped.verdict, swapped.over, swapped.competent) == (one.verdict, one.over, one.competent)
    order, seeds = rng.permutation(len(TASKS)), rng.permutation(3)
    names = {"w": "m", "x": "a", "y": "z", "z": "k"}
    moved = Baselines(*(getattr(baselines, name)[order] for name in ("untrained_a", "untrained_b", "chance")))
    other = judged(a[seeds][:, order], b[seeds][:, order], moved, np.array([names[t] for t in TASKS])[order])
    assert (other.verdict, other.over, other.competent) == (one.verdict, one.over, one.competent)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=1e-12)


def test_the_gate_makes_no_claim_of_sameness_that_all_tasks_refute_and_is_asked_in_a_family(rng):
    floor, good = study(rng, 0.0, 0.0), study(rng)
    table = verdicts({"floor": (*floor[:2], TASKS, floor[2]), "good": (*good[:2], TASKS, good[2])}, MARGIN,
                     resamples=400).set_index("name")
    assert table["verdict"].to_dict() == {"floor": "uninformative", "good": "equivalent"}
    assert table.loc["floor", "p_equivalence"] == 1 and np.isinf(table.loc["floor", "smallest_margin"])
    assert "sameness takes 2" in table.loc["floor", "reason"]


def test_chance_that_is_not_known_is_not_asked(rng):
    a, b, baselines = study(rng)
    unknown = Baselines(baselines.untrained_a, baselines.untrained_b, np.full(len(TASKS), np.nan))
    assert judged(a, b, unknown).verdict == "equivalent"
    assert set(competence(a, b, unknown, TASKS, resamples=200)["beats_chance"]) == {None}


def test_one_seed_shows_no_competence(rng):
    a, b, baselines = study(rng, seeds=1)
    assert not competence(a, b, baselines, TASKS, resamples=200)["competent"].any()
    assert judged(a, b, baselines).verdict == "inconclusive"


def test_refusals(rng):
    a, b, baselines = study(rng)
    width = len(TASKS)
    for change, said in [({"untrained_a": np.zeros(3)}, "untrained_a of the baselines .* got shape \\(3,\\)"),
                         ({"untrained_b": np.full(width, np.nan)}, "untrained_b .* 240 of them not finite"),
                         ({"chance": np.full(width, np.inf)}, "chance .* not finite"),
                         ({"best": np.nan}, "finite largest score")]:
        with pytest.raises(ValueError, match=said):
            judged(a, b, Baselines(**{**vars(baselines), **change}))


def test_the_family_of_five_million_parameters_is_uninformative():
    """Its verdict was "equivalent": training had lowered most scores below those of the untrained backbones."""
    table = pd.read_parquet(Path(__file__).parent / "data" / "five_million.parquet").astype(
        {"model": object, "task": object, "query": object})
    tasks = table["task"].unique()
    families = pd.Series(["retrieval" if task.endswith("Retrieval") else "other" for task in tasks], index=tasks)
    pairs = [Pair(name="base-vs-rlvr", a="base", b="rlvr", kind="RLVR"),
             Pair(name="base-vs-sft", a="base", b="sft", kind="SFT")]
    found = score_verdicts(table, families, pairs, range(5), margin=0.02, resamples=400)
    assert set(found["verdict"]) == {"uninformative"} and (found["tasks"] == [10, 10, 4, 6, 4, 6]).all()
    assert found["competent"].tolist() == [1, 1, 0, 1, 0, 1]
    a, b, tasks = paired(table, "base", "rlvr", range(5))
    assert verdict(a, b, 0.02, tasks, resamples=400).verdict == "equivalent"  # what it was without the gate
