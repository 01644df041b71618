"""Tables and sentences made of scores whose differences are known."""

import numpy as np
import pandas as pd
import pytest

from hrsa.analysis import ablations
from hrsa.report import prose
from hrsa.report.prose.scores import DIGIT_SPACE, MEAN, difference_table, score_table
from hrsa.study.profile import Profile, load_profile
from hrsa.verdict import differences
from hrsa.verdict.equivalence import WORDS

TASKS = {"Easy": "retrieval", "Hard": "retrieval", "Group": "clustering"}
SIZES = {"Easy": 60, "Hard": 40, "Group": 30}


@pytest.fixture
def study() -> Profile:
    smoke = load_profile("smoke")
    return smoke.model_copy(update={"seeds": (0, 1, 2), "verdict": smoke.verdict.model_copy(update={"margin": 0.03})})


@pytest.fixture
def tables(study, rng):
    """Scores of all models: rlvr = base + noise of .002, sft = base - .2; training adds .3; BM25 .5 on retrieval."""
    level = {task: rng.uniform(0.1, 0.4, n) for task, n in SIZES.items()}
    shift = {"base": 0.0, "rlvr": 0.0, "sft": -0.2}
    rows = []
    for model in study.models():
        for task, values in level.items():
            scored = values + shift[model.backbone] + (0.3 if model.seed is not None else 0)
            scored = scored + rng.normal(0, 0.002, len(values))
            rows += [(model.id, task, f"q{i}", value) for i, value in enumerate(scored)]
    rows += [("bm25", task, f"q{i}", 0.5) for task in ("Easy", "Hard") for i in range(SIZES[task])]
    per_query = pd.DataFrame(rows, columns=["model", "task", "query", "value"])
    scores = per_query.groupby(["model", "task"], sort=False, as_index=False)["value"].mean()
    scores.insert(2, "family", scores["task"].map(TASKS))
    scores.insert(3, "metric", "x")
    return scores, per_query


def test_differences_find_what_was_put_in(study, tables):
    _, per_query = tables
    found = differences.all_differences(study, per_query, ["untrained", "recipe"])
    found = found.set_index(["pair", "condition", "task"]).sort_index()
    assert set(found.index.get_level_values("task")) == {*TASKS, differences.ALL_TASKS}
    same, other = found.loc["base-vs-rlvr", "recipe"], found.loc["base-vs-sft", "recipe"]
    assert (same["difference"].abs() < 0.003).all() and (same[["low", "high"]].abs() < 0.03).all(axis=None)
    assert np.allclose(other["difference"], -0.2, atol=0.003) and (other["high"] < 0).all()
    assert np.isinf(found.loc["base-vs-sft", "untrained"]["smallest_margin"]).all()
    assert "verdict" not in found.columns  # words come from `score_verdicts` alone
    assert same.loc["Easy", "queries"] == 60 and same.loc[differences.ALL_TASKS, "queries"] == 130


def test_difference_is_b_minus_a_per_task_by_hand(study, tables):
    scores, per_query = tables
    row = differences.pair_differences(study, per_query, "base-vs-sft").set_index("task").loc["Hard"]
    value = scores.set_index(["model", "task"])["value"]
    by_hand = np.mean([value[f"sft-s{s}", "Hard"] - value[f"base-s{s}", "Hard"] for s in (0, 1, 2)])
    assert row["difference"] == pytest.approx(by_hand, abs=1e-12)


def test_sentences_give_numbers_and_no_verdict(study, tables):
    _, per_query = tables
    rows = differences.all_differences(study, per_query, ["untrained", "recipe"])
    overall = rows[rows["task"] == differences.ALL_TASKS].set_index(["pair", "condition"], drop=False)
    said = prose.scores.difference_sentence(overall.loc[("base-vs-sft", "recipe")])
    assert said.startswith("**base-vs-sft**, recipe, all tasks: b − a = -0.") and said.endswith("3 seeds.")
    alone = prose.scores.difference_sentence(overall.loc[("base-vs-sft", "untrained")])
    assert "one run of each arm" in alone
    assert not any(word in said + alone for word in WORDS)


def test_score_table_has_a_row_per_task_and_condition(study, tables):
    scores, _ = tables
    table = score_table(study, scores)
    assert list(table.columns) == ["task", "condition", "base", "rlvr", "sft", "BM25"]
    assert table["task"].drop_duplicates().tolist() == [*scores["task"].drop_duplicates(), MEAN]
    rows = table.set_index(["task", "condition"]).sort_index()
    assert set(rows.index) == {(task, name) for task in (*TASKS, MEAN) for name in ("untrained", "recipe", "causal")}
    assert rows.loc[("Easy", "untrained"), "BM25"] == "50.0"
    assert pd.isna(rows.loc[(MEAN, "untrained"), "BM25"]) and pd.isna(rows.loc[("Easy", "recipe"), "BM25"])
    assert pd.isna(rows.loc[("Easy", "causal"), "sft"])
    assert "±" in rows.loc[("Easy", "recipe"), "base"] and "±" not in rows.loc[("Easy", "untrained"), "base"]
    value = scores.set_index(["model", "task"])["value"]
    seeds = [100 * value[f"sft-s{s}", "Hard"] for s in (0, 1, 2)]
    found = rows.loc[("Hard", "recipe"), "sft"].replace(DIGIT_SPACE, "")
    assert found == f"{np.mean(seeds):.1f} ± {np.std(seeds, ddof=1):.1f}"
    for arm in ("base", "rlvr", "sft"):
        assert len({cell.index(".") for cell in table[arm].dropna()}) == 1  # points stand below each other


def test_difference_table_keeps_the_numbers(study, tables):
    _, per_query = tables
    found = differences.pair_differences(study, per_query, "base-vs-sft")
    table = difference_table(found)
    assert list(table.columns) == ["pair", "task", "b − a [interval]", "margin"]
    for shown, (_, row) in zip(table["b − a [interval]"], found.iterrows(), strict=True):
        plain = shown.replace(DIGIT_SPACE, "").replace("−", "-").rstrip("]").replace("[", ",")
        read = [float(x) for x in plain.split(",")
                if x.strip()]
        assert read == pytest.approx(100 * row[["difference", "low", "high"]].astype(float).to_numpy(), abs=0.006)


def test_families_and_gains(study, tables):
    scores, _ = tables
    families = differences.family_scores(study, scores).set_index(["condition", "arm", "family"]).sort_index()
    trained, before = families.loc[("recipe", "base", "retrieval")], families.loc[("untrained", "base", "retrieval")]
    assert trained["value"] - before["value"] == pytest.approx(0.3, abs=0.003)
    assert trained["low"] <= trained["value"] <= trained["high"]
    assert np.isnan(before["low"]) and np.isnan(before["high"])  # one run has no range
    said = prose.scores.beside_lexical(study, scores)
    assert said.startswith("Above BM25, of 2 retrieval tasks: base on ") and said.endswith("sft on 0.")
    assert prose.scores.beside_lexical(study, scores[scores["model"] != "bm25"]) == ""


def test_gains_over_untrained_backbones(study, tables):
    _, per_query = tables
    chance = [("chance", task, "", 0.1) for task in SIZES]
    table = pd.concat([per_query, pd.DataFrame(chance, columns=per_query.columns)])
    found = differences.training_gains(study, table, pd.Series(TASKS), study.seeds)
    rows = found.set_index(["arm", "family"])
    assert set(rows.index) == {(arm, family) for arm in study.trained()
                               for family in (differences.ALL_TASKS, *TASKS.values())}
    assert np.allclose(rows["gain"], 0.3, atol=0.01) and np.allclose(rows["chance"], 0.1)
    assert np.allclose(rows["trained"] - rows["untrained"], rows["gain"], atol=1e-12)
    assert ((rows["low"] < 0.305) & (rows["high"] > 0.295)).all() and (rows["low"] > 0).all()
    wide = (rows["like_low"] <= rows["low"] + 0.002) & (rows["like_high"] >= rows["high"] - 0.002)
    assert wide.all() and (rows["like_high"] - rows["like_low"]).sum() > (rows["high"] - rows["low"]).sum()
    said = prose.scores.gain_summary(found)
    assert "**Every embedder beats" in said and said.endswith("The same holds for tasks like these.")
    assert said.startswith("**Every") and prose.scores.gain_summary(found.assign(like_low=-1)).endswith(
        "it is not shown of base (all tasks), base (retrieval), rlvr (all tasks), rlvr (retrieval), sft (all tasks), "
        "sft (retrieval).")
    said = prose.scores.gains(found)
    assert said.count("\n") == 2 and "- sft: contrastive training raised the mean over tasks (+0." in said
    worse = found.assign(low=-0.1, high=np.where(found["arm"] == "sft", -0.05, 0.1))
    assert "**Not every embedder" in prose.scores.gain_summary(worse)
    said = prose.scores.gains(worse)
    assert "- sft: contrastive training lowered the mean" in said and "did not measurably change retrieval" in said
    with pytest.raises(ValueError, match=r"expected scores of \['chance'\] to hold embedders against"):
        differences.training_gains(study, per_query, pd.Series(TASKS), study.seeds)


def test_query_table_and_agreement(study, tables):
    scores, per_query = tables
    points = differences.query_table(study, scores, per_query)
    assert len(points) == 2 * sum(SIZES.values()) and set(points["family"]) == {"retrieval", "clustering"}
    shifted = points[points["pair"] == "base-vs-sft"]
    assert np.allclose(shifted["b"] - shifted["a"], -0.2, atol=0.02)
    said = prose.scores.items_alike(points)
    assert "base-vs-sft: of 130 items 0% are scored alike by both arms, 0% higher by b and 100% higher by a" in said
    assert "correlation within tasks 1.00" in said
    flat = prose.scores.items_alike(points.assign(a=0.5, b=0.5))
    assert "100% are scored alike" in flat and "undefined" in flat


def test_ablations_beside_the_recipe(study, tables):
    _, per_query = tables
    found = differences.all_differences(study, per_query, ["recipe", "causal"], seeds=[0])
    overall = found[found["task"] == differences.ALL_TASKS]
    assert set(zip(overall["pair"], overall["condition"], strict=True)) == {
        ("base-vs-rlvr", "recipe"), ("base-vs-sft", "recipe"), ("base-vs-rlvr", "causal")}
    assert (overall["seeds"] == 1).all()
    assert prose.scores.against_recipe(overall).count("\n") == 0
    assert ablations.changed_settings(study).to_dict("records") == [
        {"ablation": "causal", "setting": "attention", "recipe": "bidirectional", "ablated": "causal",
         "arms": "base, rlvr", "seeds": "0"}]


def test_missing_scores_are_an_error(study, tables):
    _, per_query = tables
    with pytest.raises(ValueError, match="rlvr-s1"):
        differences.pair_differences(study, per_query[per_query["model"] != "rlvr-s1"], "base-vs-rlvr")
    with pytest.raises(ValueError, match="an ablation of profile"):
        differences.seeds_under(study, "nothing")
