"""Comparison of two models: identity, nulls, yardsticks, unequal depths, probes, sentences, the cached stage."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from test_recordings import WORDS, load, probe_table, save_qwen3
from tiny import tiny_backbone

from hrsa.analysis import dynamics, intervals, layerwise, manifold, pairs, recordings, robustness
from hrsa.analysis import probes as compare_probes
from hrsa.report import results
from hrsa.report.prose import robustness as robust_prose
from hrsa.report.prose import similarity
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS, ON_REQUEST
from hrsa.similarity.states import Sample
from hrsa.study import partial, store
from hrsa.study.profile import Analysis, Profile
from hrsa.training import train
from hrsa.verdict import synthesis
from hrsa.verdict.claims import SIMILARITY_COLUMNS, similarity_claims

ANALYSIS = Analysis(texts_per_set=16, max_length=12, max_tokens=150, ks=(3, 5), bootstrap=12, permutations=3,
                    probe_texts=120)


def record(tmp_path, rng, name, **model):
    """A recording of a random tiny model on the probe table."""
    (tmp_path / name).mkdir()
    embedder = load(save_qwen3(tmp_path / f"model-{name}", rng, **model))
    table = probe_table(np.random.default_rng(7), 120)
    recordings.write_states(tmp_path / name, embedder, table, ANALYSIS, name)
    return recordings.open_recording(tmp_path / name)


@pytest.fixture
def two(tmp_path, rng):
    return record(tmp_path, rng, "a"), record(tmp_path, rng, "b")


def test_identical_models_are_identical(tmp_path, rng):
    x = record(tmp_path, rng, "a")
    for metric, expected in {"correlation": 1, "cka": 1, "debiased_cka": 1, "inverse_row_entropy": 1,
                             "residual_ratio": 0, "mean_cosine": 1}.items():
        found = layerwise.curve(x, x, METRICS[metric].family, ANALYSIS, calibrated=False)
        np.testing.assert_allclose(found.loc[found["metric"] == metric, "value"], expected, atol=1e-5)
    overlap = layerwise.curve(x, x, "knn", ANALYSIS, calibrated=False)
    assert (overlap["value"] == 1).all() and set(overlap["k"]) == {3, 5}


def test_more_neighbours_than_rows_are_refused_and_not_left_out(tmp_path, rng):
    x = record(tmp_path, rng, "a")
    for most in (len(x.tokens), 500):
        with pytest.raises(ValueError, match=rf"analysis.ks below the {len(x.tokens)} rows .*got \[3, {most}\]: lower"):
            layerwise.curve(x, x, "knn", ANALYSIS.model_copy(update={"ks": (3, most)}), calibrated=False)
    fits = ANALYSIS.model_copy(update={"ks": (len(x.tokens) - 1,)})
    assert (layerwise.curve(x, x, "knn", fits, calibrated=False)["value"] == 1).all()


def test_unrelated_models_are_calibrated(two):
    x, y = two
    for metric in METRIC_FAMILIES:
        found = layerwise.curve(x, y, metric, ANALYSIS)
        assert list(found["layer_x"].unique()) == ["0", "1", "2", "2+norm"]
        whole = found[found["set"] == "all"]
        assert whole[["value", "low", "high", "null"]].notna().all(axis=None)
        assert (whole["low"] <= whole["value"] + 1e-9).all() and (whole["value"] <= whole["high"] + 1e-9).all()
    layer0 = layerwise.curve(x, y, "knn", ANALYSIS, layers=[(0, 0)])
    assert (layer0["value"] > layer0["null"] + 0.1).all()  # equal tokens are neighbours at the embeddings of any model


def test_measures_on_request_stand_in_the_same_table(two):
    asked = ANALYSIS.model_copy(update={"more": ("rsa", "mutual_knn", "cknna", "svcca")})
    found = layerwise.curve(*two, "more", asked)
    usual = layerwise.curve(*two, "knn", ANALYSIS, layers=[(2, 2)])
    assert list(found.columns) == list(usual.columns) and set(found["set"]) == {"all"}
    assert found.groupby("metric").size().to_dict() == {"rsa": 4, "mutual_knn": 8, "cknna": 8, "svcca": 4}
    assert found[["value", "low", "high", "null"]].notna().all(axis=None)
    inner = found[(found["layer_x"] != "0") & (found["metric"] != "svcca")]  # which few tokens lift, and its null alike
    assert (inner["value"] > inner["null"] - 0.05).all()
    assert (found["low"] <= found["value"] + 1e-9).all() and (found["value"] <= found["high"] + 1e-9).all()


def test_measures_that_nobody_asked_for_change_no_key():
    assert "more" not in Analysis().model_dump() and "more" in Analysis(more=("rsa",)).model_dump()
    with pytest.raises(ValueError, match="rank"):
        Analysis(more=("rank",))


def test_procrustes_is_reported_for_each_set_of_texts(two):
    found = layerwise.curve(*two, "procrustes", ANALYSIS, calibrated=False)
    sizes = found.drop_duplicates("set").set_index("set")["n"]
    assert set(sizes.index) == {"all", "general", "maths", "mixed"}
    assert len(found) == found.drop_duplicates(["set", "layer_x", "metric"]).shape[0]
    by_set = two[0].tokens.groupby("set").size()
    assert sizes["all"] == by_set.sum() and set(sizes.drop("all")) == {by_set.min()}  # shown together: equal n


def test_unequal_widths_and_depths(tmp_path, rng):
    x, y = record(tmp_path, rng, "a"), record(tmp_path, rng, "b", width=24, layers=4)
    assert layerwise.matched_layers(x, y) == [(0, 0), (1, 2), (2, 4), (3, 5)]
    found = layerwise.curve(x, y, "cka", ANALYSIS, calibrated=False)
    assert list(found["layer_y"].unique()) == ["0", "2", "4", "4+norm"]
    assert layerwise.layer_map(x, y, "cka").query("metric == 'cka'").shape[0] == 4 * 6
    with pytest.raises(ValueError, match="width"):
        layerwise.curve(x, y, "correlation", ANALYSIS, calibrated=False)
    rows = pd.DataFrame(compare_probes.compare_probes(x, y, ANALYSIS))
    assert rows.loc[rows["quantity"] == "own", "value"].notna().all()
    assert rows.loc[rows["quantity"] == "cross", "value"].isna().all()


def test_heatmap_diagonal_is_the_curve(two):
    for metric in ("correlation", "cka"):
        heat, line = layerwise.layer_map(*two, metric), layerwise.curve(*two, metric, ANALYSIS, calibrated=False)
        both = line.merge(heat, on=["metric", "layer_x", "layer_y"], suffixes=("", "_heat"))
        assert len(both) == len(line)
        np.testing.assert_allclose(both["value"], both["value_heat"], atol=1e-5)


def test_rotation_map_is_found(tmp_path, rng):
    x = record(tmp_path, rng, "a")
    order = rng.permutation(16)
    (tmp_path / "b").mkdir()
    for name in ("layers.json", "tokens.parquet", "pooled.npy", "pooled.parquet"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    for i in range(4):
        np.save(tmp_path / "b" / f"layer-{i:02d}.npy", x.layer(i)[:, order])
    y = recordings.open_recording(tmp_path / "b")
    size, table = layerwise.rotation_map(x, y)
    np.testing.assert_allclose(size, np.eye(16)[:, order], atol=1e-4)
    assert len(table) == 256 and table["value"].max() == pytest.approx(1, abs=1e-4)
    curve = layerwise.curve(x, y, "procrustes", ANALYSIS, calibrated=False)
    entropy = curve.query("metric == 'inverse_row_entropy' and set == 'all' and layer_x == '2+norm'")
    assert entropy["value"].item() == pytest.approx(1, abs=1e-3)


def test_other_tokenizer_is_refused(tmp_path, rng):
    record(tmp_path, rng, "a")
    record(tmp_path, rng, "b", words=WORDS[::-1])
    with pytest.raises(ValueError, match="equal tokenizers"):
        recordings.open_pair(tmp_path / "a", tmp_path / "b")


def test_probe_carries_over_to_the_same_model_and_not_to_a_rotated_one(tmp_path, rng):
    x = record(tmp_path, rng, "a")
    n, d = 60, 16
    pooled = rng.normal(size=(n, d))
    table = pd.DataFrame({"id": [f"t{i}" for i in range(n)], "set": "general", "difficulty": "",
                          "topic": np.where(pooled[:, 0] > 0, "p", "q"), "target": pooled[:, 1]})
    table.loc[:4, "topic"] = None
    table.to_parquet(tmp_path / "a" / "pooled.parquet")
    (tmp_path / "b").mkdir()
    for name in ("layers.json", "tokens.parquet", "pooled.parquet"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    np.save(tmp_path / "a" / "pooled.npy", pooled)
    np.save(tmp_path / "b" / "pooled.npy", pooled @ np.linalg.qr(rng.normal(size=(d, d)))[0])
    y = recordings.open_recording(tmp_path / "b")
    same = pd.DataFrame(compare_probes.compare_probes(x, x, ANALYSIS))
    assert (same.loc[same["quantity"] == "delta", "value"] == 0).all()
    turned = pd.DataFrame(compare_probes.compare_probes(x, y, ANALYSIS))
    assert (turned.query("split == 'train' and quantity == 'delta'")["low"] > 0).all()
    assert set(same.loc[same["task"] == "classification", "n"]) == {44, 5, 6}  # 55 texts with a topic, 80/10/10


def test_splits_share_nothing():
    parts = compare_probes.splits(100)
    assert [len(part) for part in parts.values()] == [80, 10, 10]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(100))
    with pytest.raises(ValueError, match="at least 20"):
        compare_probes.splits(19)


def test_yardsticks_are_joined_to_what_they_are_for():
    table = pd.DataFrame({"metric": "cka", "layer_x": "0", "layer_y": "0", "set": "all",
                          "k": pd.array([pd.NA] * 9, "Int64"),
                          "models": ["backbones", "embedders", *["two runs"] * 4, "crossed", "ceiling", "ceiling"],
                          "a": ["p", "p-s0", "p-s0", "p-s0", "q-s0", "q-s0", "p-s0", "p", "q"],
                          "b": ["q", "q-s0", "p-s1", "p-s2", "q-s1", "q-s1", "q-s1", "p-bf16", "q-bf16"],
                          "value": [0.9, 0.8, 0.5, 0.6, 0.2, 0.95, 0.7, 0.98, 0.96]})
    table.loc[[0, 1, 5, 6, 8], "layer_y"] = "1"  # the other model is deeper
    table.loc[[5, 8], "layer_x"] = "1"
    table["low"], table["high"] = table["value"] - 0.1, table["value"] + 0.1
    joined = pairs.with_yardsticks([table[:2], table[2:]], layerwise.PLACE).set_index("models")
    assert list(joined.index) == ["backbones", "embedders"]
    runs, crossed = (["runs", "runs_low", "runs_high"], ["crossed", "crossed_low", "crossed_high"])
    assert joined.loc["embedders", runs].tolist() == pytest.approx([0.75, 0.4, 1.05])  # .55, .95
    assert joined.loc["embedders", crossed].tolist() == pytest.approx([0.7, 0.6, 0.8])
    assert joined.loc["backbones", runs + crossed].isna().all()
    assert joined.loc["backbones", "ceiling"] == pytest.approx(0.97) and np.isnan(joined.loc["embedders", "ceiling"])
    more = table[-2:].assign(a=["p-s0", "q-s0"], b=["p-s0-bf16", "q-s0-bf16"], value=[0.9, 0.8])
    seeds = pd.concat([table[1:2], table[1:2].assign(a="p-s1", b="q-s1")])  # the first seed's ceiling serves both
    both = pairs.with_yardsticks([table[:1], seeds, table[2:], more], layerwise.PLACE).groupby("models")["ceiling"]
    assert both.agg(list)["backbones"] == pytest.approx([0.97])
    assert both.agg(list)["embedders"] == pytest.approx([0.85, 0.85])
    alone = pairs.with_yardsticks([table[:1]], layerwise.PLACE)
    assert len(alone) == 1 and alone[["runs", "crossed", "ceiling"]].isna().all(axis=None)


def row(value, low, high, null=0.1, runs=(np.nan,) * 3, crossed=(np.nan,) * 3, metric="cka", ceiling=np.nan):
    given = {"value": value, "low": low, "high": high, "null": null, "metric": metric, "ceiling": ceiling}
    return pd.Series(given | {f"{name}{end}": bound for name, three in (("runs", runs), ("crossed", crossed))
                              for end, bound in zip(("", "_low", "_high"), three, strict=True)})


def test_sentences_follow_the_intervals():
    assert "inconclusive" in similarity.against_null(row(0.2, 0.05, 0.3))
    assert "more alike than permuted" in similarity.against_null(row(0.5, 0.4, 0.6))
    assert "more alike than permuted" in similarity.against_null(row(0.05, 0.0, 0.09, metric="residual_ratio"))
    runs = (0.8, 0.7, 0.9)
    apart = similarity.against_runs(row(0.85, 0.8, 0.9, 0.1, runs, (0.5, 0.4, 0.6)))
    assert "0.500 [0.400, 0.600], less alike than two runs of one recipe (0.800 [0.700, 0.900])" in apart
    assert "inconclusive" in similarity.against_runs(row(0.5, 0.4, 0.6, 0.1, runs, (0.5, 0.4, 0.75)))
    assert "more alike than two runs" in similarity.against_runs(row(0.5, 0.4, 0.6, 0.1, runs, (0.95, 0.92, 0.97)))
    assert "no two runs of one recipe" in similarity.against_runs(row(0.5, 0.4, 0.6))
    assert "(realignment)" in similarity.closer_after_training(row(0.5, 0.4, 0.6), row(0.8, 0.7, 0.9))
    assert "drift" in similarity.closer_after_training(row(0.5, 0.4, 0.6), row(0.2, 0.1, 0.3))
    closer = row(0.2, 0.1, 0.3, metric="residual_ratio")
    assert "(realignment)" in similarity.closer_after_training(row(0.5, 0.4, 0.6, metric="residual_ratio"), closer)
    said = similarity.closer_after_training(row(0.5, 0.4, 0.6), row(0.65, 0.55, 0.7))
    assert "inconclusive (the intervals overlap)" in said
    said = similarity.closer_after_training(row(0.5, 0.4, 0.6), row(0.65, np.nan, np.nan))
    assert "inconclusive (without intervals)" in said
    near = row(0.998, 0.997, 0.999, ceiling=0.9999)
    said = similarity.closer_after_training(near, row(0.9, 0.88, 0.92, runs=(0.9, 0.85, 0.95)))
    assert "no rise could be seen" in said and "the embedders are less alike" in said and "realignment" not in said
    said = similarity.closer_after_training(near, row(0.998, 0.997, 0.999, runs=(0.9, 0.85, 0.95)))
    assert "no rise could be seen" in said and "inconclusive" not in said


def test_sentence_takes_one_row_of_each():
    table = pd.DataFrame([row(0.5, 0.4, 0.6), row(0.8, 0.7, 0.9, 0.1, (0.8, 0.7, 0.85), (0.8, 0.7, 0.85))])
    table = table.assign(models=["backbones", "embedders"], layer_x="2")
    text = similarity.similarity_sentence(table, "CKA", layer_x="2")
    assert "0.500 [0.400, 0.600]" in text and "realignment" in text
    with pytest.raises(ValueError, match="one row"):
        similarity.similarity_sentence(table, "CKA", layer_x="3")


def test_seeds_are_covered_by_the_interval():
    table = pd.DataFrame([row(0.5, 0.4, 0.6), row(0.7, 0.6, 0.8)]).assign(
        models="embedders", seed=[0, 1], a=["a-s0", "a-s1"], b=["b-s0", "b-s1"], k=pd.array([pd.NA] * 2, "Int64"))
    merged = intervals.over_seeds(table)
    assert merged[["value", "low", "high"]].iloc[0].tolist() == pytest.approx([0.6, 0.4, 0.8])


def test_every_metric_of_one_training_step(two):
    table = dynamics.at_step(*two, ANALYSIS)
    assert set(table["layers"]) == {"last", "mean"}
    last = table[table["layers"] == "last"]
    assert {"correlation", "cka", "debiased_cka", "inverse_row_entropy", "knn", "classification",
            "regression"} <= set(last["metric"])
    assert last[["value", "low", "high"]].notna().all(axis=None)


def test_training_is_told_apart_from_its_start():
    steps = pd.DataFrame([row(0.5, 0.4, 0.6), row(0.55, 0.5, 0.62), row(0.8, 0.7, 0.9), row(0.9, 0.8, 0.95)])
    steps["step"] = [0, 5, 15, 60]
    rising = similarity.over_training(steps, "CKA")
    assert "realignment" in rising and "since step 15" in rising
    assert "less alike, told apart from the start since step 15" in similarity.over_training(
        steps.assign(metric="residual_ratio"), "residual")
    assert similarity.over_training(steps[:2], "CKA").endswith("inconclusive, the intervals overlap.")
    assert similarity.over_training(steps[:2].assign(low=np.nan), "CKA").endswith("inconclusive, without intervals.")


def test_layers_are_counted():
    backbones = pd.DataFrame([row(0.5, 0.4, 0.6)] * 3).assign(models="backbones", layer_x=["0", "1", "2"])
    embedders = pd.DataFrame([row(0.8, 0.7, 0.9), row(0.5, 0.4, 0.6), row(0.1, 0.0, 0.2)])
    embedders = embedders.assign(models="embedders", layer_x=["0", "1", "2"])
    said = similarity.by_layer(pd.concat([backbones, embedders]))
    assert "at 1, less alike at 1, and it is inconclusive at 1" in said and "could be seen" not in said
    near = backbones.assign(value=0.999, low=0.998, high=0.9999, ceiling=0.9999)
    said = similarity.by_layer(pd.concat([near, embedders]))
    assert "less alike at 3" in said and said.endswith("At 3 of them no rise could be seen.")


def test_loss_of_a_probe_needs_an_interval_above_zero():
    table = pd.DataFrame([row(0.1, 0.05, 0.2), row(0.1, -0.05, 0.2)]).assign(
        task="classification", split="test", quantity="delta", models=["backbones", "embedders"], set="maths")
    text = similarity.transfer(table, "classification")
    assert text.count("loses score") == 1 and text.count("inconclusive") == 1


def test_sets_of_texts_are_compared_within_each_kind_of_model():
    table = pd.DataFrame([row(0.2, 0.1, 0.3), row(0.6, 0.5, 0.7), row(0.6, 0.5, 0.7), row(0.65, 0.55, 0.75)])
    table = table.assign(models=["backbones"] * 2 + ["embedders"] * 2, set=["maths", "general"] * 2)
    text = similarity.between_sets(table, "maths", "general")
    assert ", lower; embedders" in text and text.endswith("(inconclusive).")


def test_maps_of_permuted_rows_give_the_largest_cell(two):
    x, _ = two
    maxima = layerwise.layer_map_maxima(x, x, "cka", ANALYSIS)
    assert maxima.groupby("metric").size().to_dict() == {"cka": 3, "debiased_cka": 3}
    heat = layerwise.layer_map(x, x, "cka").assign(models="backbones")
    said = similarity.above_maximum(heat, maxima.assign(models="backbones"), "debiased_cka")
    inside = (heat.query("metric == 'debiased_cka'")["value"] > maxima.query("metric == 'debiased_cka'")["value"].max())
    assert f"{inside.sum()} of 16 cells lie above" in said and inside.sum() >= 4


def test_rows_of_a_layer_in_another_order(rng):
    states, order = rng.normal(size=(30, 4)), rng.permutation(30)
    sample = Sample(states, order)
    assert (sample[5:9] == states[order][5:9]).all() and (sample[np.array([3, 0])] == states[order][[3, 0]]).all()
    assert sample.shape == (30, 4)


def test_an_interrupted_comparison_goes_on_at_its_last_layer(two, tmp_path, monkeypatch):
    x, y = two
    monkeypatch.setattr(partial, "SAVE_SECONDS", 0.0)
    budget = ANALYSIS.model_copy(update={"memory_mb": 64})
    comparing, asked = layerwise.compare_layers, []

    def stops(*states, **options):
        asked.append((options["memory_mb"], options["work"]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return comparing(*states, **options)

    monkeypatch.setattr(layerwise, "compare_layers", stops)
    stages = {"curve": lambda: layerwise.curve(x, y, "cka", budget, work=tmp_path / "work"),
              "maxima": lambda: layerwise.layer_map_maxima(x, y, "correlation", budget, work=tmp_path / "work")}
    for stage, run in stages.items():
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            run()
        again = run()
        assert len(asked) == {"curve": 4, "maxima": 3}[stage] + 1  # the two that were finished are not made again
        assert set(asked) == {(64, tmp_path / "work")}
        asked.clear()
        assert run().equals(again) and not asked


def test_twins_and_audit_of_recorded_states(two):
    x, y = two
    found = robustness.twin_table(x, x, "procrustes", ANALYSIS)
    assert set(found["metric"]) == {"inverse_row_entropy", "residual_ratio", "mean_cosine"} and len(found) == 15
    assert found.query("metric == 'residual_ratio'")["value"].max() < 1e-4
    audit = robustness.audit_table(x, y, ANALYSIS, strengths=(100.0,))
    assert set(audit["metric"]) == {"correlation", "cka", "debiased_cka", "knn"} and len(audit) == 4 * 5
    assert audit[["value", "null"]].notna().all(axis=None)
    curves = robust_prose.attack_curves(audit)
    assert (curves.groupby(["metric", "attack"])["strength"].agg(list).map(tuple) == ("0", "100")).all()
    judged = robust_prose.robustness_table(audit.assign(models="backbones"), ["attack", "strength"])
    assert judged.query("attack == 'as recorded'")["survives"].all()


def test_what_survives_follows_from_intervals():
    rows = [("as recorded", "backbones", 0.5, 0.4, 0.6), ("as recorded", "embedders", 0.8, 0.7, 0.9),
            ("moved", "backbones", 0.5, 0.4, 0.6), ("moved", "embedders", 0.8, 0.55, 0.9),
            ("scaled", "backbones", 0.6, 0.5, 0.65), ("scaled", "embedders", 0.9, 0.8, 0.95)]
    table = pd.DataFrame(rows, columns=["twin", "models", "value", "low", "high"]).assign(metric="cka", null=0.1, n=90)
    judged = robust_prose.robustness_table(table, ["twin"]).set_index("twin")
    assert (judged["n"] == 90).all() and "depend on their number" in robust_prose.why_twins("procrustes")
    assert judged["survives"].to_dict() == {"as recorded": True, "moved": False, "scaled": True}
    said = robust_prose.robustness_sentences(judged.reset_index(), ["twin"])
    assert said == "- linear CKA: 1 of 2 changes survived; what turns it: moved."
    attacks = pd.concat([judged.reset_index().rename(columns={"twin": "attack"}).assign(strength=s)
                         for s in (10.0, 100.0)]).drop_duplicates(["attack", "strength"])
    attacks = attacks[(attacks["attack"] != "as recorded") | (attacks["strength"] == 10)]
    said = robust_prose.robustness_sentences(attacks, ["attack", "strength"])
    assert said.endswith("2 of 4 changes survived; what turns it: moved (10, 100).")
    alone = robust_prose.robustness_table(table[table["models"] == "backbones"], ["twin"])
    assert alone["survives"].all() and "embedders" not in alone.columns


def test_a_pair_without_embedders_is_told_against_permuted_rows():
    table = pd.DataFrame([row(0.5, 0.4, 0.6), row(0.2, 0.05, 0.3)]).assign(models="backbones", layer_x=["1", "2"],
                                                                           ceiling=0.99)
    said = similarity.similarity_sentence(table, "CKA", layer_x="1")
    assert said == "CKA: the backbones score 0.500 [0.400, 0.600]."
    assert similarity.against_ceiling(table.iloc[0]) == ", less alike than one model in float32 and bf16 (0.990)"
    said = similarity.similarity_sentence(table.assign(ceiling=0.25), "CKA", layer_x="2")
    assert said == ("CKA: the backbones score 0.200 [0.050, 0.300], inconclusive against permuted rows (0.100), not "
                    "told apart from one model in float32 and bf16 (0.250).")
    assert "permuted rows at 1, less alike at 0, and it is inconclusive at 1" in similarity.by_layer(table)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A profile of two tiny backbones in folders, with two seeds, that trains for two steps."""
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    backbones = [{"name": name, "source": "folder", "path": str(tiny_backbone(tmp_path / name, seed)), "arm": arm}
                 for seed, (name, arm) in enumerate((("base", "base"), ("rlvr", "rlvr")))]
    return Profile.model_validate({
        "name": "micro", "title": "Micro", "backbones": backbones, "seeds": (0, 1),
        "pairs": [{"name": "base-vs-rlvr", "a": "base", "b": "rlvr", "kind": "RLVR"}],
        "recipe": {"batch_size": 4, "steps": 2, "hard_negatives": 1, "max_length": 96, "precision": "fp32",
                   "gradient_checkpointing": False, "checkpoints": (1,)},
        "suite": {"train": ("pg_docs",), "max_pairs": 12, "mining": {"embedder": "bm25"}},
        "analysis": {"texts_per_set": 8, "max_length": 16, "max_tokens": 120, "ks": (3,), "bootstrap": 10,
                     "permutations": 2, "probe_texts": 80}})


def count_passes(monkeypatch):
    """Texts that pass through each model while its states are recorded: {model: {dtype: count}}, filled as it runs."""
    passes, writing = {}, recordings.write_states

    def counted(folder, embedder, table, analysis, run, ceiling):
        assert run not in passes, f"{run} is recorded a second time"
        seen = passes.setdefault(run, Counter())
        hook = embedder[0].auto_model.register_forward_hook(
            lambda module, _, output: seen.update({str(module.dtype): len(output.last_hidden_state)}))
        writing(folder, embedder, table, analysis, run, ceiling)
        hook.remove()

    monkeypatch.setattr(recordings, "write_states", counted)
    return passes


def no_model(*_):
    raise AssertionError("a model is loaded again")


def test_stage_from_backbones_to_tables_and_never_twice(study, monkeypatch, tmp_path):
    passes = count_passes(monkeypatch)
    folder = pairs.make_comparison(study, "base-vs-rlvr", "cka")
    curve = store.read_table(folder / "curve.parquet")
    assert curve.groupby("models")["a"].unique().map(list).to_dict() == {
        "backbones": ["base"], "embedders": ["base-s0", "base-s1"]}
    beside = ["runs", "runs_low", "runs_high", "crossed", "crossed_low", "crossed_high"]
    assert curve.loc[curve["models"] == "embedders", beside].notna().all(axis=None)
    assert curve.loc[curve["models"] == "backbones", beside].isna().all(axis=None)
    parts = store.read_table(folder / "variance.parquet")
    assert set(parts["metric"]) == {"cka", "debiased_cka"} and "mean" in set(parts["layer"])
    assert (parts.groupby(["metric", "layer"])["part"].size() == 6).all() and set(parts["over"]) == {"texts"}
    wide = parts.pivot_table(index=["metric", "layer"], columns="part", values="value")
    np.testing.assert_allclose(2 * wide[["arm", "order", "both"]].sum(axis=1), wide["other arm, other order"])
    crossed = curve[(curve["models"] == "embedders") & (curve["seed"] == 0)].set_index(["metric", "layer_x"])["crossed"]
    np.testing.assert_allclose(1 - crossed, wide["other arm, other order"].reindex(crossed.index), atol=1e-9)
    assert set(store.read_table(folder / "heatmap.parquet")["models"]) == {"backbones", "embedders"}
    ceiling = curve.groupby("models")["ceiling"]
    assert ceiling.min()["backbones"] > 0.9 and ceiling.min()["embedders"] > 0.9
    assert ceiling.count()["embedders"] == len(curve[curve["models"] == "embedders"])
    assert not list(folder.parent.glob(".*"))  # nothing is left of the work in progress
    for name in ("twins", "audit", "maxima"):
        assert set(store.read_table(folder / f"{name}.parquet")["models"]) == {"backbones", "embedders"}
    written = (folder / "provenance.json").stat().st_mtime_ns
    recorded = sorted(path.name for path in (store.RUNS / "micro" / "states").iterdir())
    with monkeypatch.context() as alone:  # bootstrap, nulls, other metrics and probes live on what was recorded
        alone.setattr(train, "make_model", no_model)
        pairs.make_comparison(study, "base-vs-rlvr", "correlation")
        probes = store.read_table(pairs.make_comparison(study, "base-vs-rlvr", "probes") / "probes.parquet")
        shapes = manifold.make_pair_shapes(study, "base-vs-rlvr")
        assert shapes.groupby(["models", "arm", "layer"]).size().eq(4).all() and shapes["models"].nunique() == 2
        parts = synthesis.make_similarity_sources(study)
        assert set(parts["metric"]) == set(METRICS) - set(ON_REQUEST) and set(parts["pair"]) == {"base-vs-rlvr"}
        assert parts.groupby("metric").size().eq(6).all() and set(parts["k"].dropna()) == {3}
        similar = synthesis.make_similarities(study)
        assert list(similar.columns) == SIMILARITY_COLUMNS and similar["n"].notna().all()
        assert similar.query("models == 'embedders'")[["runs", "crossed"]].notna().all(axis=None)
        held = similarity_claims(similar)
        assert held.loc[held["claim"].str.contains("realigns"), "measured"].str.contains("against backbones").all()
        assert pairs.make_comparison(study, "base-vs-rlvr", "cka") == folder
        asked = study.model_copy(update={"analysis": study.analysis.model_copy(update={"more": ("cknna", "rsa")})})
        assert pairs.make_comparison(asked, "base-vs-rlvr", "cka") == folder
        more = store.read_table(pairs.make_comparison(asked, "base-vs-rlvr", "more") / "curve.parquet")
        assert set(more["metric"]) == {"cknna", "rsa"} and list(more.columns) == list(curve.columns)
    once = {"torch.float32": 80}  # texts of the probes; those whose tokens are compared are 16 of them
    ceiling = once | {"torch.bfloat16": 16}
    assert {name: dict(seen) for name, seen in passes.items()} == {
        "base": ceiling, "rlvr": ceiling, "base-s0": ceiling, "rlvr-s0": ceiling, "base-s1": once, "rlvr-s1": once}
    assert set(probes["set"]) == {"general", "maths"}
    assert (folder / "provenance.json").stat().st_mtime_ns == written
    assert sorted(path.name for path in (store.RUNS / "micro" / "states").iterdir()) == recorded  # one pass per model
    steps = store.read_table(dynamics.make_dynamics(study, "base-vs-rlvr") / "dynamics.parquet")
    assert sorted(steps["step"].unique()) == [0, 1, 2]
    monkeypatch.setattr(results, "FILMS", tmp_path / "dynamics.parquet")
    film = store.read_table(results.make_film(study)).query("layers == 'map'")
    size = film[["layer_x", "layer_y"]].drop_duplicates().shape[0]
    assert film.groupby(["models", "a", "b", "step"]).size().to_dict() == {
        (dynamics.ITSELF, arm, arm, step): size for arm in ("base", "rlvr") for step in (0, 1, 2)} | {
        (dynamics.BOTH_ARMS, "base", "rlvr", step): size for step in (0, 1, 2)}
    diagonal = film[film["layer_x"] == film["layer_y"]].set_index(["models", "step"])["value"]
    np.testing.assert_allclose(diagonal[dynamics.ITSELF, 0], 1, atol=1e-9)
    assert diagonal[dynamics.ITSELF, 2].min() < 1 - 1e-6, "training moved something"
    last = steps.query("models == @dynamics.BOTH_ARMS and seed == 0 and layers == 'last' and metric == 'debiased_cka'")
    corner = film[(film["models"] == dynamics.BOTH_ARMS) & (film["layer_x"] == film["layer_x"].iloc[-1])
                  & (film["layer_y"] == film["layer_x"].iloc[-1])].set_index("step")["value"]
    np.testing.assert_allclose(last.set_index("step")["value"], corner, atol=1e-9)


def test_unknown_metric_and_pair_are_refused(study):
    with pytest.raises(ValueError, match="expected a metric among"):
        pairs.make_comparison(study, "base-vs-rlvr", "cosine")
    with pytest.raises(ValueError, match=r"analysis\.more"):
        pairs.make_comparison(study, "base-vs-rlvr", "more")
    with pytest.raises(ValueError, match="base-vs-sft"):
        pairs.make_comparison(study, "base-vs-sft", "cka")


def test_arms_stand_beside_two_runs_of_one_arm_at_every_step(study):
    found = dynamics.frames(study, "base-vs-rlvr")
    kinds = {(frame.models, frame.step) for frame in found}
    later = {(models, step) for step in (1, 2) for models in (
        dynamics.BOTH_ARMS, dynamics.ORDERS_OF_BOTH, dynamics.ORDERS_OF_ONE, dynamics.ITSELF)}
    assert kinds == {(dynamics.BOTH_ARMS, 0), *later}
    assert sum(frame.models == dynamics.BOTH_ARMS and frame.step == 2 for frame in found) == 2  # seeds
    assert all(frame.a.step == 0 and frame.a[0] == frame.b[0] for frame in found if frame.models == dynamics.ITSELF)
    alone = dynamics.frames(study.model_copy(update={"seeds": (0,)}), "base-vs-rlvr")
    assert {frame.models for frame in alone} == {dynamics.BOTH_ARMS, dynamics.ITSELF}


def film(arms, crossed=None, runs=None, itself=0.5):
    """Debiased CKA over three steps, each with bounds .01 apart."""
    rows = [dict(row(value, value - 0.01, value + 0.01)) | {"step": step, "models": dynamics.BOTH_ARMS}
            for step, value in enumerate(arms)]
    rows += [dict(row(value, value - 0.01, value + 0.01)) | {"step": 2, "models": models} for models, value in (
        (dynamics.ORDERS_OF_BOTH, crossed), (dynamics.ORDERS_OF_ONE, runs), (dynamics.ITSELF, itself)) if value]
    return pd.DataFrame(rows).assign(metric="debiased_cka")


def over_steps(crossed, runs, metric="debiased_cka", itself=()):
    rows = [dict(row(value, value - 0.01, value + 0.01)) | {"step": step, "models": models}
            for models, values in ((dynamics.ORDERS_OF_BOTH, crossed), (dynamics.ORDERS_OF_ONE, runs),
                                   (dynamics.BOTH_ARMS, crossed), (dynamics.ITSELF, itself))
            for step, value in enumerate(values, start=1)]
    return pd.DataFrame(rows).assign(metric=metric)


@pytest.mark.parametrize(("crossed", "runs", "said"), [
    ((0.6, 0.7, 0.9), (0.8, 0.805, 0.8), ["have met by step 3 (0.900", "at step 2 they were less alike (0.700",
                                          "Closer than two runs of one arm at 1 of 3 kept steps (3)."]),
    ((0.8, 0.7, 0.6), (0.8, 0.8, 0.8), ["at the last step the arms", "they have not met", "at no kept step."]),
    ((0.8, 0.8, 0.8), (0.8, 0.8, 0.8), ["from the first kept step (1) on", "at no kept step."]),
    ((0.9,), (0.8,), ["from the first kept step (1) on", "at 1 of 1 kept steps (1)."])])
def test_arms_meet_where_two_runs_of_one_arm_are_as_far_apart(crossed, runs, said):
    text = similarity.meeting(over_steps(crossed, runs), "CKA")
    assert all(part in text for part in said), text
    worse = similarity.meeting(over_steps([-x for x in crossed], [-x for x in runs], "residual_ratio"), "residual")
    assert said[-1] in worse, "a distance says the same, turned over"


def test_a_fall_is_told_from_a_path_that_turns():
    text = similarity.only_falls(over_steps((0.9, 0.8, 0.7), (0.9,) * 3, itself=(0.9, 0.5, 0.6)), "overlap")
    assert "of the two arms it only falls, from 0.900 [0.890, 0.910] at step 1 to 0.700" in text
    assert "of an arm and itself before it falls at 1 of 2 steps and rises at 1" in text and "lower at the end" in text
    assert "only rises" in similarity.only_falls(over_steps((0.7, 0.8), (0.9,) * 2, itself=(0.5, 0.5)), "overlap")


def test_the_end_of_training_is_held_against_two_runs_of_one_arm():
    said = similarity.beside_runs(film([0.6, 0.7, 0.9], 0.8, 0.805), "CKA")
    assert said.startswith("CKA: the arms end at 0.900 [0.890, 0.910], nearer from step to step; on two orders of the ")
    assert "0.800 [0.790, 0.810], not told apart from two runs of one arm, 0.805" in said
    assert said.endswith("moved an arm further than the arms are apart, to 0.500 [0.490, 0.510] with itself before.")
    assert "less alike than two runs of one arm" in similarity.beside_runs(film([0.6, 0.9, 0.7], 0.6, 0.8), "CKA")
    alone = similarity.beside_runs(film([0.9, 0.8, 0.7], itself=0.9), "CKA")
    assert "two runs" not in alone and "farther from step to step" in alone and "less far than the arms" in alone
