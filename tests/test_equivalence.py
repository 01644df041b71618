"""The verdict: worked by hand, error rates by simulation, invariances, refusals."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hrsa.verdict.bootstrap import mean_difference
from hrsa.verdict.equivalence import WORDS, holm, verdict, verdicts

MARGIN = 0.02


def arms(rng, shift=0.0, seeds=3, queries=200, seed_sd=0.003, query_sd=0.03, residual_sd=0.03):
    """Two arms whose true mean difference is `shift`, with seed, query and residual variation."""
    a = rng.random((1, queries)) + rng.normal(0, 0.02, (seeds, queries))
    difference = (shift + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, query_sd, (1, queries))
                  + rng.normal(0, residual_sd, (seeds, queries)))
    return a, a + difference


def test_seed_means_worked_by_hand():
    a = np.zeros((3, 4))
    b = a + np.array([[0.01], [0.02], [0.03]]) + np.array([[0.001, -0.001, 0.001, -0.001]])
    found = verdict(a, b, margin=0.05)
    error = 0.01 / math.sqrt(3)
    assert found.difference == pytest.approx(0.02)
    assert found.p_equivalence == pytest.approx(stats.t.sf(0.03 / error, 2), abs=0.01)
    assert (found.low, found.high) == pytest.approx((0.0, 0.02 + stats.t.ppf(0.95, 2) * error), rel=0.1)
    assert found.p_difference == pytest.approx(2 * stats.t.sf(0.02 / error, 2), abs=0.02)
    assert found.verdict == "equivalent"  # 0.02 +- 2.92 x 0.00577 ends at 0.0369
    assert found.smallest_margin == pytest.approx(0.02 + 2.920 * error, rel=0.1)
    assert verdict(a, b, margin=0.03).verdict == "inconclusive"


def test_tasks_weigh_equally(rng):
    a, b = arms(rng, queries=100)
    b[:, :90] += 0.3
    tasks = np.repeat(["large", "small"], [90, 10])
    difference = b - a
    expected = (difference[:, :90].mean() + difference[:, 90:].mean()) / 2
    assert verdict(a, b, MARGIN, tasks).difference == pytest.approx(expected)
    assert verdict(a, b, MARGIN).difference == pytest.approx(difference.mean())


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "equivalent"), (0.008, "negligible"), (-0.008, "negligible"),
                                                 (0.1, "different"), (-0.1, "different")])
def test_clear_cases(rng, shift, expected):
    a, b = arms(rng, shift, seeds=5, queries=1500, seed_sd=0.0005, query_sd=0.02, residual_sd=0.02)
    b += shift - (b - a).mean()
    assert verdict(a, b, MARGIN).verdict == expected


def test_noise_is_inconclusive(rng):
    a, b = arms(rng, 0.0, seeds=3, queries=20, seed_sd=0.05, query_sd=0.3)
    found = verdict(a, b, MARGIN)
    assert found.verdict in ("inconclusive", "different")
    assert found.high - found.low > 2 * MARGIN
    assert found.smallest_margin > MARGIN


def test_smallest_margin_is_where_the_claim_begins(rng):
    a, b = arms(rng)
    edge = verdict(a, b, MARGIN).smallest_margin
    assert verdict(a, b, edge * 1.0001).verdict in ("equivalent", "negligible")
    assert verdict(a, b, edge * 0.9999).verdict in ("different", "inconclusive")


def agrees(row, margin):
    """The interval of a decision says what its word says."""
    inside, clear = row.low > -margin and row.high < margin, row.low > 0 or row.high < 0
    return (inside, clear) == (row.verdict in ("equivalent", "negligible"), row.verdict in ("different", "negligible"))


def test_interval_and_word_agree(rng):
    words = set()
    for _ in range(60):
        a, b = arms(rng, rng.choice([0.0, 0.01, 0.03]), seeds=4, seed_sd=0.002)
        found = verdict(a, b, MARGIN, resamples=200)
        words.add(found.verdict)
        assert agrees(found, MARGIN) and found.reason == ""
        assert (found.p_equivalence < 0.05) == (found.smallest_margin < MARGIN)
    assert len(words) > 2


def false_claims(rng, repeats, tasks=None, task_sd=0.0, **settings):
    claims = 0
    for repeat in range(repeats):
        a, b = arms(rng, MARGIN, **settings)
        if tasks is not None:
            b = b + rng.normal(0, task_sd, len(set(tasks)))[tasks]
        claims += verdict(a, b, MARGIN, tasks, seed=repeat, resamples=200).verdict in ("equivalent", "negligible")
    return claims


@pytest.mark.parametrize("settings", [
    {"seed_sd": 0.006, "query_sd": 0.01},
    {"seed_sd": 0.003, "query_sd": 0.07},
    {"seed_sd": 0.004, "query_sd": 0.03, "tasks": np.repeat(np.arange(4), 50), "task_sd": 0.008},
    {"seed_sd": 0.0, "query_sd": 0.03, "tasks": np.repeat(np.arange(2), 100), "task_sd": 0.01},
], ids=["seeds", "queries", "four tasks", "two tasks"])
def test_equivalence_is_rarely_claimed_at_the_margin(rng, settings):
    repeats = 300
    allowed = stats.binom.ppf(0.99999, repeats, 0.05)  # a true 5% exceeds this once in 100,000 runs
    assert false_claims(rng, repeats, **settings) <= allowed


def test_the_simulation_can_fail(rng):
    """The naive crossed bootstrap, three seeds resampled as they are, breaks the bound that `verdict` keeps."""
    repeats, claims = 300, 0
    for _ in range(repeats):
        a, b = arms(rng, MARGIN, seed_sd=0.006, query_sd=0.005, residual_sd=0.005)
        means = (b - a).mean(axis=1)
        draws = means[rng.integers(0, 3, (200, 3))].mean(axis=1)
        claims += np.quantile(draws, 0.95) < MARGIN
    assert claims > stats.binom.ppf(0.99999, repeats, 0.05)


def test_difference_is_rarely_claimed_at_zero(rng):
    tasks = np.repeat(np.arange(4), 50)
    claims = 0
    for repeat in range(300):
        a, b = arms(rng, 0.0)
        b = b + rng.normal(0, 0.008, 4)[tasks]
        claims += verdict(a, b, MARGIN, tasks, seed=repeat, resamples=200).verdict in ("different", "negligible")
    assert claims <= stats.binom.ppf(0.99999, 300, 0.05)


def test_swapping_the_arms_mirrors_everything(rng):
    tasks = rng.integers(0, 3, 200)
    a, b = arms(rng, 0.004)
    one, other = verdict(a, b, MARGIN, tasks), verdict(b, a, MARGIN, tasks)
    assert (other.difference, other.low, other.high) == (-one.difference, -one.high, -one.low)
    assert (other.p_equivalence, other.p_difference) == (one.p_equivalence, one.p_difference)
    assert other.verdict == one.verdict


def test_order_and_names_change_nothing(rng):
    tasks = rng.integers(0, 3, 200)
    a, b = arms(rng, 0.004)
    one = verdict(a, b, MARGIN, tasks)
    queries, seeds = rng.permutation(200), rng.permutation(3)
    names = np.array(["z", "a", "m"])
    other = verdict(a[seeds][:, queries], b[seeds][:, queries], MARGIN, names[tasks][queries])
    for field in ("difference", "low", "high", "p_difference", "p_equivalence", "smallest_margin"):
        assert getattr(other, field) == pytest.approx(getattr(one, field), abs=1e-12)


def test_a_constant_in_both_arms_changes_nothing_and_scale_scales(rng):
    a, b = arms(rng, 0.004)
    one = verdict(a, b, MARGIN)
    shifted, scaled = verdict(a + 7, b + 7, MARGIN), verdict(100 * a, 100 * b, 100 * MARGIN)
    assert (shifted.low, shifted.high) == pytest.approx((one.low, one.high), abs=1e-9)
    assert (scaled.low, scaled.high) == pytest.approx((100 * one.low, 100 * one.high))
    assert shifted.verdict == scaled.verdict == one.verdict


def test_deterministic_for_a_seed_and_input_untouched(rng):
    a, b = arms(rng)
    before = a.copy(), b.copy()
    assert verdict(a, b, MARGIN, seed=4) == verdict(a, b, MARGIN, seed=4)
    one, other = (mean_difference(b - a, None, 200, seed).draws for seed in (4, 5))
    assert not np.array_equal(one, other)  # bounds may agree all the same: stretched to zero, or those of the t test
    assert np.array_equal(a, before[0]) and np.array_equal(b, before[1])


def test_one_seed_cannot_decide(rng):
    a, b = arms(rng, 0.5, seeds=1)
    found = verdict(a, b, MARGIN)
    assert found.verdict == "inconclusive" and "one seed" in found.reason
    assert found.smallest_margin == math.inf and found.p_difference == found.p_equivalence == 1
    assert found.low < found.difference < found.high


def test_copied_seeds_count_as_one_run(rng):
    a, b = arms(rng, seeds=1)
    found = verdict(np.repeat(a, 3, axis=0), np.repeat(b, 3, axis=0), MARGIN)
    assert found.verdict == "inconclusive" and "identical" in found.reason


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "equivalent"), (0.01, "negligible"), (0.02, "different"),
                                                 (0.3, "different")])
def test_constant_differences(rng, shift, expected):
    a = rng.random((3, 50))
    found = verdict(a, a + shift, MARGIN)
    assert found.verdict == expected
    assert (found.low, found.high, found.difference) == pytest.approx((shift, shift, shift))


def test_refusals(rng):
    a, b = arms(rng, queries=10)
    hole = b.copy()
    hole[1, 4] = np.nan
    for bad, text in [((a, hole, MARGIN), "nan in arm b at seed 1, query 4"), ((a, b[:, :9], MARGIN), "(3, 9)"),
                      ((a[0], b[0], MARGIN), "(10,)"), ((a[:, :1], b[:, :1], MARGIN), "queries >= 2"),
                      ((a, b, 0.0), "positive margin"), ((a, b, -1), "positive margin"),
                      ((a, b, np.nan), "positive margin"), ((a, b, "small"), "got 'small'"),
                      ((a, b, None), "got None"), (([["x"] * 9], [["x"] * 9], MARGIN), "arrays of numbers"),
                      (([[1, 2], [3]], [[1, 2], [3]], MARGIN), "arrays of numbers"),
                      ((np.ma.masked_less(a, a.max()), b, MARGIN), "nan in arm a"),
                      ((a, b, MARGIN, np.zeros((10, 2))), "ids of shape (10, 2)"),
                      ((a, b, MARGIN, ["t"] * 9), "got ids of shape (9,)"),
                      ((a, b, MARGIN, ["t"] * 9 + [None]), "1 of them missing"),
                      ((a, b, MARGIN, None, 0.6), "alpha"), ((a, b, MARGIN, None, 0.05, 0, 10), "resamples")]:
        with pytest.raises(ValueError) as error:
            verdict(*bad)
        assert text in str(error.value)


def test_any_array_like_gives_the_same_verdict(rng):
    a, b = arms(rng)
    tasks = rng.integers(0, 3, 200)
    one = verdict(a, b, MARGIN, tasks)
    assert verdict(a.tolist(), b.tolist(), MARGIN, tuple(tasks.tolist())) == one
    assert verdict(pd.DataFrame(a), pd.DataFrame(b), np.float64(MARGIN), pd.Series(tasks).astype(str)) == one
    single = verdict(a.astype(np.float32), b.astype(np.float32), MARGIN, tasks)
    assert (single.low, single.high) == pytest.approx((one.low, one.high), abs=1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (2, 50), (3, 2), (20, 3)])
def test_smallest_studies_have_an_answer(rng, shape):
    a, b = arms(rng, seeds=shape[0], queries=shape[1])
    found = verdict(a, b, MARGIN)
    assert found.verdict in WORDS and found.low < found.difference < found.high and found.reason == ""


def test_every_query_its_own_task(rng):
    a, b = arms(rng, queries=40)
    assert verdict(a, b, MARGIN, np.arange(40)).high == pytest.approx(verdict(a, b, MARGIN).high, abs=0.02)


def test_a_task_with_one_query_is_allowed(rng):
    a, b = arms(rng, queries=31)
    found = verdict(a, b, MARGIN, ["many"] * 30 + ["one"])
    assert found.tasks == 2 and math.isfinite(found.low)


def test_holm_worked_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert list(holm([])) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, np.nan])


def test_verdicts_of_a_family_are_corrected(rng):
    pairs = {f"pair {i}": arms(rng, 0.02 if i == 1 else 0.0) for i in range(3)}
    table = verdicts(pairs, MARGIN, resamples=400)
    assert list(table["name"]) == list(pairs) and set(table["verdict"]) <= set(WORDS)
    assert (table["holm_equivalence"] >= table["p_equivalence"]).all()
    for row in table.itertuples():
        alone = verdict(*pairs[row.name], MARGIN, resamples=400)
        assert row.alone == alone.verdict and agrees(row, MARGIN)
        assert row.low <= alone.low <= alone.high <= row.high or row.verdict != row.alone
    with pytest.raises(ValueError, match="got none"):
        verdicts({}, MARGIN)


def test_a_large_family_can_still_claim(rng):
    """With 2,000 resamples no bootstrap p-value falls below 0.001, which Holm makes 0.1 in a family of 100."""
    a, b = arms(rng, 0.3, seeds=5, queries=50, seed_sd=0.0005)
    table = verdicts({f"pair {i}": (a, b) for i in range(100)}, MARGIN, resamples=200)
    assert (table["holm_difference"] < 0.05).all() and set(table["verdict"]) == {"different"}


def test_fast(rng):
    a, b = arms(rng, queries=2000)
    start = time.process_time()
    verdict(a, b, MARGIN, np.repeat(np.arange(8), 250), resamples=2000)
    assert time.process_time() - start < 1
