"""Yardsticks alike: arms and orders crossed, variances of both, numbers that depend on n, and what cannot rise."""

import numpy as np
import pandas as pd
import pytest

from hrsa.analysis import intervals, variance
from hrsa.analysis.variance import NEITHER, SAME_ARM, SAME_ORDER, Cell, score_sources, sources
from hrsa.report.prose import yardsticks as prose
from hrsa.similarity.layers import compare_arrays, compare_layers
from hrsa.similarity.metrics import METRICS


def cells(same_arm, same_order, neither, orders=((0, 1), (0, 0), (0, 1))):
    return [Cell(runs, two, value, np.array([])) for runs, two, value in
            zip((SAME_ARM, SAME_ORDER, NEITHER), orders, (same_arm, same_order, neither), strict=True)]


def by_part(table, column="value"):
    return table.set_index("part")[column]


def test_variances_by_hand():
    found = by_part(sources(cells(0.4, 0.2, 0.5)))
    assert found[[SAME_ARM, SAME_ORDER, NEITHER]].tolist() == [0.4, 0.2, 0.5]
    assert found[["arm", "order", "both"]].tolist() == pytest.approx([0.05, 0.15, 0.05])
    shares = by_part(sources(cells(0.4, 0.2, 0.5)), "share")
    assert shares[["arm", "order", "both"]].tolist() == pytest.approx([0.2, 0.6, 0.2]) and shares[NEITHER] is not None
    assert np.isnan(shares[NEITHER])


def runs_of(rng, orders, arm, order, both, items=4000):
    """Scores (orders, items) of two arms: effects of arm, order and both with these standard deviations."""
    effects = rng.normal(size=(2, 1, items)) * arm + rng.normal(size=(1, orders, items)) * order
    return (rng.normal(size=items) + effects + rng.normal(size=(2, orders, items)) * both)


@pytest.mark.parametrize(("arm", "order", "both"), [(1.0, 0.0, 0.3), (0.0, 1.0, 0.3), (0.5, 0.7, 0.6)])
def test_known_effects_are_recovered_with_their_intervals(rng, arm, order, both):
    a, b = runs_of(rng, 5, arm, order, both)
    found = score_sources(a, b, ["t"] * a.shape[1])
    items = found[found["of"] == "items"].set_index("part")
    for part, sd in (("arm", arm), ("order", order), ("both", both)):
        row = items.loc[part]
        assert row["value"] == pytest.approx(sd**2, abs=0.12)
        assert row["low"] < row["value"] < row["high"] and row["over"] == "items and orders"
    assert items.loc[["arm", "order", "both"], "share"].sum() == pytest.approx(1)
    means = found[found["of"] == "mean"].set_index("part")
    overall = [part.mean(axis=1) for part in (a, b)]
    assert means.loc[SAME_ORDER, "value"] == pytest.approx(np.mean((overall[0] - overall[1]) ** 2))


def test_variances_are_those_of_the_two_way_table(rng):
    a, b = runs_of(rng, 4, 0.5, 0.6, 0.4, items=1)
    table = np.stack([a[:, 0], b[:, 0]])  # (arms, orders)
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    rest = (table - rows - columns + table.mean())
    both = (rest**2).sum() / 3
    arm, order = 4 * rows.var(ddof=1), 2 * columns.var(ddof=1)
    found = by_part(score_sources(a, b, ["t"])[:6])
    assert found[["arm", "order", "both"]].tolist() == pytest.approx([(arm - both) / 4, (order - both) / 2, both])


def test_variances_do_not_change_with_names_and_order(rng):
    a, b = runs_of(rng, 3, 0.5, 0.6, 0.4, items=30)
    tasks = np.array(["x"] * 10 + ["y"] * 20)
    found = score_sources(a, b, tasks)
    for x, y in ((b, a), (a[::-1], b[::-1]), (a + 3, b + 3)):
        other = score_sources(x, y, tasks)
        np.testing.assert_allclose(found["value"], other["value"], atol=1e-9)
    twice = score_sources(2 * a, 2 * b, tasks)
    np.testing.assert_allclose(4 * found["value"], twice["value"])
    np.testing.assert_allclose(found["share"], twice["share"])
    tasks_alike = [score_sources(a[:, tasks == t], b[:, tasks == t], tasks[tasks == t])["value"][:6] for t in "xy"]
    np.testing.assert_allclose(found["value"][:6], np.mean(tasks_alike, axis=0))  # tasks weigh alike


def test_a_single_order_has_no_yardstick_and_two_have_an_interval_over_texts_alone(rng):
    a, b = runs_of(rng, 1, 0.5, 0.6, 0.4, items=30)
    one = score_sources(a, b, ["t"] * 30).set_index(["of", "part"])
    assert np.isfinite(one.loc[("items", SAME_ORDER), "value"]) and np.isnan(one.loc[("items", "arm"), "value"])
    assert one.loc[("items", "arm"), "over"] == "" and (one["orders"] == 1).all()
    a, b = runs_of(rng, 2, 0.5, 0.6, 0.4, items=30)
    assert set(score_sources(a, b, ["t"] * 30)["over"]) == {"items"}
    plain = sources(cells(0.4, 0.2, 0.5))
    assert plain[["low", "high"]].isna().all(axis=None) and set(plain["over"]) == {""}
    nothing = sources([])
    assert nothing["value"].isna().all() and (nothing["orders"] == 0).all()


def test_unpaired_scores_are_refused(rng):
    a, b = runs_of(rng, 2, 0.5, 0.6, 0.4, items=30)
    for x, y, tasks in ((a, b[:1], ["t"] * 30), (a, b, ["t"] * 29), (a[0], b[0], ["t"] * 30)):
        with pytest.raises(ValueError, match="pair the arms by order and item first"):
            score_sources(x, y, tasks)


def test_intervals_cover_the_truth(rng):
    inside = 0
    for _ in range(60):
        a, b = runs_of(rng, 4, 0.5, 0.6, 0.4, items=60)
        row = score_sources(a, b, ["t"] * 60)[:6].set_index("part").loc["order"]
        inside += row["low"] <= 0.36 <= row["high"]
    assert inside >= 48, f"{inside} of 60 intervals of 95% hold the truth"


def test_distances_are_averaged_over_layers():
    deep = variance.averaged([cells(0.4, 0.2, 0.5), cells(0.2, 0.2, 0.3)])
    assert [cell.value for cell in deep] == pytest.approx([0.3, 0.2, 0.4])
    assert [cell.runs for cell in deep] == [SAME_ARM, SAME_ORDER, NEITHER]
    assert variance.averaged([]) == []


def test_a_ring_grows_with_orders():
    assert variance.ring((0, 1, 2, 5)) == [(0, 1), (1, 2), (2, 5), (5, 0)]
    assert variance.undirected(variance.ring((0, 1))) == [(0, 1)] and variance.ring((0, 1)) == [(0, 1), (1, 0)]
    assert variance.ring((3,)) == [] and variance.ring(()) == []


def related(rng, n, d=24):
    """States of two models that share a rotated signal under noise of their own, (n, d) each."""
    signal = rng.normal(size=(n, d)) * np.linspace(2, 0.3, d)
    return [signal + rng.normal(size=(n, d)) * 0.7 for _ in range(2)]


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_said_to_depend_on_n_does_and_nothing_else(rng, metric):
    few, many = ([compare_arrays(*related(rng, n), metric) for _ in range(12)] for n in (40, 640))
    change, error = np.mean(many) - np.mean(few), np.hypot(np.std(few), np.std(many)) / np.sqrt(11)
    if METRICS[metric].with_n:
        assert np.sign(change) == {"up": 1, "down": -1}[METRICS[metric].with_n] and abs(change) > 3 * error
    else:
        assert abs(change) < 5 * error


@pytest.mark.parametrize("metric", METRICS)
def test_a_model_is_at_no_distance_from_itself(rng, metric):
    x, y = related(rng, 60)
    assert METRICS[metric].apart(compare_arrays(x, x, metric)) == pytest.approx(0, abs=1e-3)
    assert METRICS[metric].apart(compare_arrays(x, y, metric)) > 0.01


def test_few_resamples_are_the_first_of_many(rng):
    x, y = related(rng, 60)
    options = {"texts": np.repeat(np.arange(12), 5), "layers": "matched", "ks": (5,), "drawn": True}
    few, many = (compare_layers([x], [y], rng=np.random.default_rng(0), resamples=r, **options) for r in (4, 9))
    for one, other in zip(few["drawn"], many["drawn"], strict=True):
        np.testing.assert_allclose(one, other[:4], rtol=1e-5)
    assert "drawn" not in compare_layers([x], [y], ("cka",), layers="matched")


def test_a_rise_is_seen_where_there_is_room():
    cka, residual = METRICS["debiased_cka"], METRICS["residual_ratio"]
    assert intervals.has_room(cka, 0.90, 0.92, 0.9999, 0.02)
    assert not intervals.has_room(cka, 0.90, 0.99995, 0.9999, 0.02)  # reaches rounding
    assert not intervals.has_room(cka, 0.990, 0.992, 0.9999, 0.02)  # less is left than two runs vary
    assert intervals.has_room(cka, 0.90, 0.92, 0.9999, 0.3)  # they vary much, and this is not near identical
    assert intervals.has_room(cka, 0.990, 0.992, np.nan, np.nan)  # nothing known to hold it against
    assert intervals.has_room(residual, 0.10, 0.12, 0.001, 0.02)
    assert not intervals.has_room(residual, 0.0005, 0.12, 0.001, 0.02)
    assert not intervals.has_room(residual, 0.01, 0.012, 0.001, 0.02)


def test_numbers_near_one_keep_their_distance_from_it():
    assert [intervals.decimals_shown(value) for value in (0.5, 0.98, 0.998, 0.99987, 1.0, np.nan)] == [3, 3, 4, 5, 3, 3]
    assert intervals.decimals_shown(0.9, 0.99999995) == 7


def test_bounds_over_seeds_keep_n_and_yardsticks():
    table = pd.DataFrame({"metric": "cka", "models": "embedders", "seed": [0, 1], "a": ["a-s0", "a-s1"],
                          "b": ["b-s0", "b-s1"], "value": [0.5, 0.7], "low": [0.4, 0.6], "high": [0.6, 0.8], "n": 120,
                          "runs": 0.8, "runs_low": 0.7, "runs_high": 0.9, "crossed": 0.6, "crossed_low": 0.5,
                          "crossed_high": 0.7, "ceiling": 0.99, "null": 0.1})
    joined = intervals.over_seeds(table)
    assert joined["n"].tolist() == [120] and joined["crossed_high"].tolist() == [0.7]
    assert intervals.yardsticks(joined) == ["null", "runs", "crossed", "ceiling"]
    assert intervals.yardsticks(joined.assign(runs=np.nan, crossed=np.nan)) == ["null", "ceiling"]


def parts_of(metric, same_arm, same_order, neither, pair="base-vs-rlvr", k=None):
    return sources(cells(same_arm, same_order, neither)).assign(
        pair=pair, metric=metric, layer="mean", k=pd.array([k] * 6, dtype="Int64"))


def test_sides_are_said_by_what_was_measured():
    curve = pd.DataFrame({"models": ["backbones", "embedders"], "runs": [np.nan, 0.8]})
    assert "against each other" in prose.sides_said(curve)
    assert "one order of the data" in prose.sides_said(curve.assign(runs=np.nan))
    assert prose.sides_said(curve[:1]) == ""


def test_the_number_of_tokens_is_said_where_values_depend_on_it():
    table = pd.DataFrame({"n": [2000, 2000]})
    said = prose.tokens_said(table, ["inverse_row_entropy"])
    assert "Values are of 2,000 tokens." in said and "inverse row entropy rises" in said and "as many" in said
    said = prose.tokens_said(table, ["correlation"])
    assert "not move dimension-wise correlation, which only gets less noisy" in said and "rises" not in said
    both = prose.tokens_said(pd.DataFrame({"n": [400, 1000]}), ["cka", "debiased_cka"])
    assert "400 and 1,000 tokens" in both and "linear CKA falls" in both and "debiased CKA, which" in both


def test_shares_are_told_with_what_their_intervals_show(rng, tmp_path):
    a, b = runs_of(rng, 4, 1.0, 0.5, 0.3, items=400)
    table = score_sources(a, b, ["t"] * 400).assign(pair="base-vs-rlvr")
    said = prose.scores_said(table)
    assert "base-vs-rlvr, the score of one item:" in said and "shown to be above zero: arm" in said
    assert "4 orders, intervals over items and orders" in said
    one = score_sources(a[:1], b[:1], ["t"] * 400).assign(pair="p")
    assert prose.scores_said(one).count("one order of the data") == 2
    assert "too little variance" in prose.scores_said(table.assign(share_low=-0.8, share_high=0.9))
    same = score_sources(a, a, ["t"] * 400).assign(pair="p")
    parts = same[same["part"].isin(["arm", "both"])]
    assert (parts[["value", "low", "high", "share"]] == 0).all(axis=None), "a rounding error is no variance"
    assert "shown to be above zero: order" in prose.scores_said(same)
    flat = score_sources(0 * a, 0 * b, ["t"] * 400).assign(pair="p")
    assert "no variance was measured" in prose.scores_said(flat)
    places = prose.source_table(None, pd.concat([table, same.assign(pair="q"), flat.assign(pair="r"), one]))
    assert places["shown"].map(bool).tolist()[-2:] == [False, False] and places["of"].nunique() == 2
    few = prose.sources_said(places[places["of"] == "score of one item"])
    assert few.startswith("4 similarities and scores of pairs were taken apart.")
    assert "Not told for 1: no variance was measured." in few and "Not told for 1: there is one order" in few
    assert "from the arm is shown to be above zero in 1 of 2 (base-vs-rlvr, score of one item)." in few
    nothing = prose.sources_said(places[places["pair"] == "r"])
    assert "Not told for 2" in nothing and "is shown" not in nothing
    assert "no embedders" in prose.layers_said(tmp_path, ["cka"])
    found = pd.concat([parts_of("knn", 0.4, 0.2, 0.5, k=k) for k in (5, 10)])
    found.to_parquet(tmp_path / "variance.parquet")
    assert prose.layers_said(tmp_path, ["knn"]) == (
        "- k-NN overlap (k = 10): 20.0% from the arm, 60.0% from the order, 20.0% from both together (2 orders; "
        "without intervals).")


def test_tables_of_sources():
    parts = pd.concat([parts_of("debiased_cka", 0.4, 0.2, 0.5), parts_of("knn", 0.4, 0.2, 0.5, k=10)])
    shown = prose.distance_table(parts)
    assert shown["similarity"].tolist() == ["debiased CKA", "k-NN overlap, k = 10"]
    assert shown[SAME_ARM].tolist() == ["0.4"] * 2
    shares = prose.share_table(parts)
    assert list(shares.columns) == ["pair", "similarity", "part", "share", "low", "high"] and len(shares) == 6
    points = prose.score_parts(parts.assign(of="items"))
    assert points["value"].max() == pytest.approx(5000)


def test_readouts_are_held_against_two_runs():
    row = {"models": "embedders", "task": "classification", "set": "maths", "split": "test", "crossed": 0.3,
           "crossed_low": 0.2, "crossed_high": 0.4, "runs": 0.1, "runs_low": 0.0, "runs_high": 0.15}
    assert "costs more than another run" in prose.readouts_said(pd.DataFrame([row]))
    assert "no loss beyond" in prose.readouts_said(pd.DataFrame([row | {"runs_high": 0.25}]))
    for table in (pd.DataFrame([row | {"models": "backbones"}]), pd.DataFrame([row | {"crossed": np.nan}]),
                  pd.DataFrame([row]).drop(columns="crossed")):
        assert "one order of the data" in prose.readouts_said(table)


def test_similarities_are_shown_with_their_distance_from_identical():
    table = pd.DataFrame([("p", "debiased_cka", "backbones", 0.998, 0.9975, 0.9985, "this run"),
                          ("p", "probe_delta", "embedders", 0.1, 0.0, 0.2, "committed")],
                         columns=["pair", "metric", "models", "value", "low", "high", "source"])
    shown = prose.similarity_table(table)
    assert shown["value [interval]"].tolist() == ["0.9980 [0.9975, 0.9985]", "0.100 [0.000, 0.200]"]
    assert shown["from identical [interval]"][0] == "0.002 [0.0015, 0.0025]"
    assert pd.isna(shown["from identical [interval]"][1])
    assert shown["metric"].tolist() == ["debiased CKA", "loss of a carried readout"] and shown["n"].isna().all()
    entropy = prose.similarity_table(table.assign(metric="inverse_row_entropy", n=2000.0))
    assert entropy["n"].tolist() == [2000, 2000]  # what depends on n is shown with it
    assert prose.similarity_table(table.assign(n=2000.0))["n"].isna().all()
