"""Controls: which embedders they compare, what their verdicts mean, and whether a study could see."""

import numpy as np
import pandas as pd
import pytest

from hrsa.evaluation.chance import CHANCE
from hrsa.report.prose import verdict
from hrsa.study.profile import Control, Pair, load_profile
from hrsa.verdict import paired_scores
from hrsa.verdict.controls import (
    AS_EXPECTED,
    CONTRARY,
    NOT_SHOWN,
    beside_pairs,
    control_models,
    control_outcome,
    control_verdicts,
    could_see,
)
from hrsa.verdict.paired_scores import QUERY_COLUMNS
from hrsa.verdict.statement import statement
from hrsa.verdict.synthesis import score_verdicts

ORDER = Control(name="order", expects="same", a="base", b="base", other_order=True)
RANDOM = Control(name="random-start", expects="different", a="base", b="random")
SHUFFLED = Control(name="shuffled", expects="different", a="base", b="base", ablation="shuffled")
SEEDS = (0, 1, 2, 3)


def scores(rng, harm=0.2, seeds=SEEDS):
    """Embedders of `base` 0.3 above it, of a random start and of shuffled positives lower by `harm`."""
    level, rows = rng.uniform(0.2, 0.5, 80), []
    for task in "xyz":
        for seed in seeds:
            for model, lower in ((f"base-s{seed}", 0), (f"random-s{seed}", harm), (f"base-s{seed}-shuffled", harm)):
                value = level + 0.3 - lower + rng.normal(0, 0.003, 80)
                rows += [(model, task, f"q{i}", v) for i, v in enumerate(value)]
        rows += [(model, task, f"q{i}", v) for model in ("base", "random") for i, v in enumerate(level)]
        rows.append((CHANCE, task, "all", 0.1))
    return pd.DataFrame(rows, columns=QUERY_COLUMNS)


def judged(table, controls=(ORDER, RANDOM, SHUFFLED), seeds=SEEDS):
    return control_verdicts(table, controls, seeds, 0.02, resamples=400)


def test_which_embedders_are_compared():
    assert control_models(RANDOM, [0, 2]) == (["base-s0", "base-s2"], ["random-s0", "random-s2"])
    assert control_models(SHUFFLED, [0]) == (["base-s0"], ["base-s0-shuffled"])
    assert control_models(ORDER, [0, 1, 5]) == (["base-s0", "base-s1"], ["base-s1", "base-s5"])


def test_outcomes():
    words = ("different", "negligible", "equivalent", "inconclusive", "uninformative")
    open_ = [NOT_SHOWN, NOT_SHOWN]
    assert [control_outcome("different", w) for w in words] == [AS_EXPECTED, AS_EXPECTED, CONTRARY, *open_]
    assert [control_outcome("same", w) for w in words] == [CONTRARY, AS_EXPECTED, AS_EXPECTED, *open_]


def test_a_study_that_can_see(rng):
    table = judged(scores(rng))
    assert table["outcome"].tolist() == [AS_EXPECTED] * 3 and could_see(table) is True
    assert table["seeds"].tolist() == [3, 4, 4]
    assert table["compared"].tolist() == ["base and base, another order of the data", "base and random",
                                          "base and base, ablation shuffled"]
    assert "could see: its 2 positive controls (random-start, shuffled) were found different." in verdict.sight(table)
    assert "- order (base and base, another order of the data): expected same, found **equivalent**, as expected." in (
        verdict.controls_said(table))


def test_a_control_that_is_a_pair_has_the_pairs_word(rng):
    table = scores(rng)
    pair = Pair(name="base-vs-random", a="base", b="random", kind="control")
    found = score_verdicts(table, pd.Series(dict.fromkeys("xyz", "sts")), [pair], SEEDS, 0.02, resamples=400)
    found.loc[found["family"] == "all", ["verdict", "low"]] = "inconclusive", -0.123
    same = RANDOM.model_copy(update={"name": "same-as-a-pair"})
    given = control_verdicts(table, (ORDER, same, SHUFFLED), SEEDS, 0.02, resamples=400, pairs=[pair], judged=found)
    assert given["control"].tolist() == ["order", "same-as-a-pair", "shuffled"]
    assert given["verdict"].tolist() == ["equivalent", "inconclusive", "different"] and given["low"][1] == -0.123
    assert given["outcome"].tolist() == [AS_EXPECTED, NOT_SHOWN, AS_EXPECTED]
    alone = control_verdicts(table, (same,), SEEDS, 0.02, resamples=400, pairs=[pair], judged=found)
    assert alone["verdict"].tolist() == ["inconclusive"]


def test_controls_stand_beside_the_pairs(rng):
    pairs = pd.DataFrame([{"pair": "p", "family": family, "verdict": "equivalent", "difference": 0.0, "low": -0.01,
                           "high": 0.01} for family in ("all", "sts")])
    both = beside_pairs(pairs, judged(scores(rng)))
    assert both["comparison"].tolist() == ["p", "order", "random-start", "shuffled"]
    assert both["asked"].tolist() == ["pair", "expected same", "expected different", "expected different"]
    assert beside_pairs(pairs, judged(scores(rng), ()))["comparison"].tolist() == ["p"]


def test_a_study_that_cannot_see_says_so_in_the_headline(rng):
    table = judged(scores(rng, harm=0.0))
    assert could_see(table) is False and set(table["outcome"][1:]) == {CONTRARY}
    assert "**This study could not see.**" in verdict.sight(table)
    claims = pd.DataFrame([{"level": "scores", "claim": "x", "pair": "p", "outcome": "holds"}])
    assert "could not see" in verdict.headline(claims, table)
    assert verdict.controls_said(table).count("**contrary to what was expected**") == 2


def test_the_floor_is_no_proof_of_sight(rng):
    """All embedders as their backbones: nothing is found, and the negative control is not met either."""
    table = scores(rng, harm=0.0)
    trained = table["model"].str.contains("-s")
    table.loc[trained, "value"] -= 0.3
    found = judged(table)
    assert set(found["verdict"]) == {"uninformative"} and set(found["outcome"]) == {NOT_SHOWN}
    assert "could not see" in verdict.sight(found)


def test_without_controls_it_is_not_known(rng):
    none = judged(scores(rng), ())
    assert len(none) == 0 and could_see(none) is None and could_see(judged(scores(rng), (ORDER,))) is None
    assert "No positive control was run" in verdict.sight(none)


def test_two_seeds_leave_one_run_of_another_order(rng):
    found = judged(scores(rng, seeds=(0, 1)), (ORDER,), (0, 1))
    assert found["verdict"].item() == "inconclusive" and "one seed" in found["reason"].item()


def test_seeds_that_a_control_lacks_are_left_out_and_none_is_an_error(rng):
    table = scores(rng)
    table = table[table["model"] != "random-s3"]
    assert judged(table, (RANDOM,))["seeds"].item() == 3
    with pytest.raises(ValueError, match="expected scores of base and random for control random-start"):
        judged(table[~table["model"].str.startswith("random-s")], (RANDOM,))
    assert np.isfinite(judged(table, (ORDER,))["low"].item())


def test_embedders_of_controls_and_untrained_backbones_are_scored_too(monkeypatch):
    smoke = load_profile("smoke")
    causal = smoke.ablations[0].model_copy(update={"seeds": smoke.seeds})
    control = Control(name="causal", expects="different", a="base", b="base", ablation="causal")
    study = smoke.model_copy(update={"ablations": (causal,), "controls": (control,)})
    asked = []
    monkeypatch.setattr(paired_scores, "make_chance", lambda profile: pd.DataFrame(
        [(CHANCE, "x", "all", 0.1)], columns=QUERY_COLUMNS))
    monkeypatch.setattr(paired_scores, "make_scores", lambda profile, ids: asked.extend(ids) or (
        pd.DataFrame({"task": ["x"], "family": ["sts"]}),
        pd.DataFrame([(ids[0], "x", "q", 0.2)], columns=QUERY_COLUMNS)))
    per_query, families = paired_scores.make_query_scores(study)
    arms = ("base", "rlvr", "sft")
    assert sorted(asked) == sorted([*arms, *(f"{arm}-s{seed}" for arm in arms for seed in (0, 1)),
                                    "base-s0-causal", "base-s1-causal"])
    assert per_query["model"].tolist() == [asked[0], CHANCE] and families.to_dict() == {"x": "sts"}


def test_controls_and_gate_are_stated_before_the_run():
    smoke = load_profile("smoke")
    stated = statement(smoke)
    assert set(stated["controls"]) == {"other-order", "rlvr-vs-sft"} and "untrained" in stated["gate"]
    assert statement(smoke.model_copy(update={"controls": ()}))["hash"] != stated["hash"]
