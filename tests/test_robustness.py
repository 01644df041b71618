"""Intervals, nulls, twins and audit: coverage, what stays fixed, and that the attacks of the audit are seen."""

import numpy as np
import pytest

from hrsa.analysis import robustness
from hrsa.similarity import compare_arrays, compare_layers, resampling


def test_text_weights_draw_whole_texts(rng):
    texts = np.array(["b", "a", "b", "c", "a", "b"])
    weights = resampling.text_weights(texts, 50, rng)
    assert weights.shape == (6, 50)
    assert (weights[0] == weights[2]).all() and (weights[0] == weights[5]).all() and (weights[1] == weights[4]).all()
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()
    with pytest.raises(ValueError, match=r"at least 2 texts .*got 1"):
        resampling.text_weights(np.zeros(5), 3, rng)


def test_interval_lies_around_the_value_and_in_range():
    resampled = np.linspace(0.5, 0.9, 101)
    low, high = resampling.percentile_interval(0.8, resampled, level=0.5)
    assert (low, high) == pytest.approx((0.7, 0.9))
    assert resampling.percentile_interval(0.95, resampled, 0.9, 0, 1)[1] == 1
    assert np.isnan(resampling.percentile_interval(0.8, [np.nan, np.nan])).all()


def clustered(rng, texts, each, d):
    """Tokens of one text share most of their state: far fewer than n independent observations."""
    x, y = (np.repeat(rng.standard_normal((texts, d)), each, axis=0) for _ in "xy")
    x, y = (part + 0.3 * rng.standard_normal(part.shape) for part in (x, y))
    return x, 0.5 * x + y


def test_intervals_over_texts_cover_and_those_over_tokens_do_not(rng):
    truth = 0.5 / np.sqrt(0.25 + 1)  # correlation of x and .5 x + y
    hits = {"texts": 0, "tokens": 0}
    for _ in range(60):
        x, y = clustered(rng, 40, 10, 1)
        for unit, ids in (("texts", np.repeat(np.arange(40), 10)), ("tokens", np.arange(400))):
            row = compare_layers([x], [y], ("correlation",), texts=ids, resamples=100, rng=rng).iloc[0]
            hits[unit] += row.low <= truth <= row.high
    assert hits["texts"] >= 48  # of 60; 57 expected at 95%
    assert hits["tokens"] < 45


def test_classes_keep_length_and_position(rng):
    lengths = np.repeat([5, 10, 40, 80], 40)
    positions = np.tile(np.arange(40), 4)
    classes = resampling.length_position_classes(lengths, positions)
    first = classes[positions == 0]
    assert not set(first) & set(classes[positions > 0])
    assert len(set(first)) >= 3
    for label in set(classes):
        inside = positions[classes == label]
        assert np.ptp(inside) <= 13
    with pytest.raises(ValueError, match="lengths and positions"):
        resampling.length_position_classes(lengths, positions[:-1])


def test_shuffling_stays_in_class(rng, caplog):
    classes = rng.integers(0, 6, 500)
    order = resampling.shuffle_within(classes, rng)
    assert sorted(order) == list(range(500))
    assert (classes[order] == classes).all()
    assert (order == np.arange(500)).mean() < 0.1
    for label in range(6):  # every row of a class is as likely as any other in any place
        rows = np.flatnonzero(classes == label)
        assert set(order[rows]) == set(rows)
    resampling.shuffle_within(np.array([0, 0, 1]), rng)
    assert "1 of 3 rows are alone" in caplog.text


def test_shuffling_is_uniform(rng):
    counts = np.zeros((3, 3))
    for _ in range(900):
        counts[np.arange(3), resampling.shuffle_within([7, 7, 7], rng)] += 1
    assert np.abs(counts - 300).max() < 85  # six standard deviations


def test_null_keeps_what_classes_share(rng):
    classes = np.repeat([0, 1], 200)
    level = np.where(classes == 0, 0.0, 10.0)[:, None]  # a class effect both models share
    x, y = (rng.standard_normal((400, 8)) + level for _ in "xy")
    within, across = (np.array([compare_arrays(x, y[resampling.shuffle_within(groups, rng)], "cka") for _ in range(10)])
                      for groups in (classes, np.zeros(400)))
    assert within.min() > 0.9 > 0.1 > across.max()


def test_twins_do_what_their_names_say(rng):
    x, y = rng.standard_normal((2, 300, 40)) + 2
    x[:, 3] *= 500
    y[:, 9] *= 500
    x[:, 5] = 1
    ids = np.r_[np.zeros(200, int), np.arange(100) % 50 + 1]
    twins = robustness.twins(x, y, ids, rng)
    assert twins["as recorded"].x == pytest.approx(x)
    for part in twins["standardised"][:2]:
        assert part.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert np.flatnonzero(twins["standardised"].x.std(axis=0) < 0.5).tolist() == [5]
    assert twins["outliers removed"].x == pytest.approx(np.delete(x, [3, 9], axis=1))
    assert twins["outliers removed"].y == pytest.approx(np.delete(y, [3, 9], axis=1))
    apart = robustness.twins(x, y[:, :20], ids, rng)["outliers removed"]
    assert [part.shape[1] for part in apart[:2]] == [39, 19]
    assert twins["mean removed"].y.mean(axis=0) == pytest.approx(0, abs=1e-9)
    balanced = twins["frequency balanced"]
    assert len(balanced.x) == 102  # the median id occurs twice
    assert np.bincount(ids[balanced.rows]).tolist() == [2] * 51
    assert (balanced.x == x[balanced.rows]).all() and (balanced.y == y[balanced.rows]).all()
    with pytest.raises(ValueError, match="same n tokens"):
        robustness.twins(x, y[:-1], ids, rng)


def attacked(metrics, x, y, rng):
    """Change of each metric under each attack: {(metric, attack, strength): change}."""
    found = {(name, attack, strength): compare_arrays(a, b, name)
             for attack, strength, (a, b, _) in robustness.attacks(x, y, rng) for name in metrics}
    return {key: value - found[key[0], "as recorded", 0.0] for key, value in found.items()}


def test_attacks_mislead_as_they_are_known_to(rng):
    metrics = ("cka", "debiased_cka", "correlation", "knn")
    x, y = rng.standard_normal((2, 400, 30))
    change = attacked(metrics, x, y, rng)
    assert {attack for _, attack, _ in change} == {"as recorded", "shared outlier", "moved tokens", "moved token",
                                                   "duplicated rows"}
    assert change["cka", "shared outlier", 1000.0] > 0.7 and change["debiased_cka", "shared outlier", 1000.0] > 0.7
    assert abs(change["correlation", "shared outlier", 1000.0]) < 0.05
    same = attacked(metrics, x, x, rng)
    assert same["cka", "moved token", 1000.0] < -0.7
    assert abs(same["knn", "moved token", 1000.0]) < 0.1
    assert all(abs(same[name, "duplicated rows", 1000.0]) < 1e-6 for name in metrics)


def test_rows_of_a_variant_name_where_they_came_from(rng):
    x, y = rng.standard_normal((2, 200, 5))
    for attack, strength, (a, b, rows) in robustness.attacks(x, y, rng, strengths=(10.0, 5000.0)):
        assert len(a) == len(b) == len(rows) <= 800
        unmoved = (a == x[rows]).all(axis=1) & (b == y[rows]).all(axis=1)
        touched = {"shared outlier": 200, "moved tokens": 2, "moved token": 1}.get(attack, 0)
        assert (~unmoved).sum() == touched, (attack, strength)


def test_one_huge_shared_dimension_makes_cka_one(rng):
    x, y = rng.standard_normal((2, 500, 100))
    x[:, 0] = y[:, 0] = 1000 * rng.standard_normal(500)
    assert compare_arrays(x, y, "cka") > 0.999 and compare_arrays(x, y, "debiased_cka") > 0.999
    assert abs(compare_arrays(x, y, "correlation")) < 0.03
    clean = robustness.twins(x, y, np.arange(500), rng)["outliers removed"]
    assert clean.x.shape[1] == 99 and abs(compare_arrays(clean.x, clean.y, "debiased_cka")) < 0.02


def test_shared_norm_and_mean_make_neighbours_of_independent_directions(rng):
    n, d = 400, 100
    common = 3 * rng.standard_normal(d)
    norms = np.exp(0.7 * rng.standard_normal((n, 1)))
    x, y = (norms * rng.standard_normal((n, d)) / np.sqrt(d) + common for _ in "xy")
    assert compare_arrays(x, y, "knn", 100) > 0.5  # independent arrays without these score about 1 / 7
    clean = robustness.twins(x, y, np.arange(n), rng)["mean removed"]
    assert compare_arrays(clean.x, clean.y, "knn", 100) < 0.25
