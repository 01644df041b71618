"""The answer of a run: three sentences that follow the tables."""

import numpy as np
import pandas as pd
import pytest

from hrsa.report.book import source
from hrsa.report.prose import answer
from hrsa.study.profile import load_profile
from hrsa.verdict.claims import SIMILARITY_COLUMNS
from hrsa.verdict.controls import AS_EXPECTED, NOT_SHOWN

SMOKE = load_profile("smoke")


def verdicts(word, competent=4):
    return pd.DataFrame([
        {"pair": pair.name, "family": family, "verdict": word, "difference": 0.0123, "low": -0.01, "high": 0.03,
         "margin": 0.02, "seeds": 2, "tasks": 6, "competent": competent}
        for pair in SMOKE.pairs for family in ("all", "sts")])


def similar(runs):
    rows = []
    for pair in SMOKE.pairs:
        for metric in ("debiased_cka", "knn", "correlation"):
            for models, value in (("backbones", 0.991), ("embedders", 0.9)):
                row = dict.fromkeys(SIMILARITY_COLUMNS, np.nan) | {
                    "pair": pair.name, "metric": metric, "models": models, "value": value, "low": value - 0.01,
                    "high": value + 0.01}
                rows.append(row | ({"runs": runs, "runs_low": runs - 0.1, "runs_high": runs + 0.1}
                                   if models == "embedders" else {}))
    return pd.DataFrame(rows)


def controls(outcome):
    return pd.DataFrame([{"control": "shuffled", "expects": "different", "outcome": outcome}])


@pytest.mark.parametrize(("word", "outcome", "said"), [
    ("equivalent", AS_EXPECTED, "could see"), ("uninformative", NOT_SHOWN, "could not see")])
def test_the_answer_gives_word_interval_similarities_and_limits(word, outcome, said):
    lines = answer.answer(SMOKE, verdicts(word), controls(outcome), similar(0.8)).splitlines()
    assert [line.split(".**")[0] for line in lines] == ["- **Scores", "- **Inside", "- **How far to trust it"]
    for pair in SMOKE.pairs:
        assert f"{pair.name}: **{word}**, +0.012 [-0.010, +0.030] at a margin of 0.02" in lines[0]
    first, *others = (pair.name for pair in SMOKE.pairs)
    assert f"{first}: debiased CKA 0.9910 [0.9810, 1.0010] as language models, 0.900 [0.890, 0.910] as" in lines[1]
    assert not any(name in lines[1] for name in others)
    assert "0.800 [0.700, 0.900] between two runs of one recipe" in lines[1] and "correlation" not in lines[1]
    assert "2 training runs an arm" in lines[2] and "base-vs-rlvr on 4 of 6 tasks" in lines[2] and said in lines[2]


def test_what_was_not_measured_is_said_or_left_out():
    lines = answer.answer(SMOKE, verdicts("inconclusive", None), controls(AS_EXPECTED), similar(np.nan)).splitlines()
    assert "between two runs" not in lines[1] and "not asked" in lines[2]
    lines = answer.answer(SMOKE, verdicts("inconclusive"), controls(AS_EXPECTED), similar(0.8).iloc[:0]).splitlines()
    assert lines[1].count("nothing was measured") == 1
    cut = SMOKE.model_copy(update={"recipe": SMOKE.recipe.model_copy(update={"layers": 4})})
    assert "its first 4 blocks" in answer.answer(cut, verdicts("equivalent"), controls(AS_EXPECTED), similar(0.8))


def test_two_models_as_they_came_are_said_to_be_alike_where_and_on_what():
    rows = [(name, layer, value, value - 0.1, value + 0.1, 0.02) for name, values in (
        ("CKA", (0.5, 0.9, 0.7)), ("k-NN", (0.2,) * 3))
        for layer, value in zip(("0", "1", "1+norm"), values, strict=True)]
    levels = pd.DataFrame(rows, columns=["similarity", "layer_x", "value", "low", "high", "null"])
    texts = pd.DataFrame({"set": ["maths"] * 3 + ["prose"], "text": list("abcd")})
    alike, where, what = answer.comparison(levels, texts, "word").splitlines()
    assert "CKA 0.700 [0.400, 1.000], by chance 0.020; k-NN 0.200 [0.100, 0.300], by chance 0.020" in alike
    assert "CKA: most alike at state 1 (0.900), least at 0 (0.500)" in where
    assert "Each word of 4 texts (3 of maths, 1 of prose)" in what


def test_a_comparison_of_readouts_alone_has_no_front():
    assert source.front_answer(SMOKE.model_copy(update={"chapters": ("09_probes",)})) == ""


@pytest.mark.parametrize(("word", "difference", "said"), [
    ("equivalent", 0.01, "either will do. The two score the same"), ("different", 0.01, "take rlvr."),
    ("different", -0.01, "take base."), ("negligible", -0.01, "in favour of base"), ("uninformative", 0, "no advice"),
    ("inconclusive", 0, "do not decide")])
def test_advice_follows_the_verdict(word, difference, said):
    table = verdicts(word)
    table["difference"] = difference
    advice = answer.choice(SMOKE, table)
    assert advice.startswith("- **base or rlvr** (RLVR): ") and said in advice
    assert f"{100 * difference:+.1f} points" in advice and f"{word} at a margin of" in advice


def test_what_more_would_cost_is_said_of_every_pair_and_the_limits_of_the_advice():
    table = verdicts("inconclusive")
    plan = pd.DataFrame({"pair": "base-vs-rlvr", "seeds": [2, 8], "queries": [50, 50], "power": [0.1, 0.9],
                         "provable": [0.1, 0.01], "hours": [0.1, 0.4], "enough": [False, True]})
    said = answer.cost_of_more(plan, table, 0.02)
    assert said.startswith("- base-vs-rlvr: A margin of 0.02 is proved with power 0.90 by 8 seeds")
    assert "decided" not in said
    assert "decided as it is." in answer.cost_of_more(plan, verdicts("different"), 0.02)
    assert "No size in the table proves" in answer.cost_of_more(plan.assign(enough=False), table, 0.02)
    covered = answer.not_covered(SMOKE, table)
    assert f"for {SMOKE.recipe.steps} steps" in covered and "nothing of larger models" in covered
