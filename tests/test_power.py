"""The planner: components recovered, power as simulated studies show, monotone, refusals, command line."""

import numpy as np
import pandas as pd
import pytest

from hrsa.evaluation.evaluate import SCORE_COLUMNS
from hrsa.report.prose.verdict import power_advice
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.verdict import evidence, paired_scores
from hrsa.verdict.bootstrap import crossed_draws, draws_interval, task_columns
from hrsa.verdict.equivalence import verdict
from hrsa.verdict.power import Variances, measure, power_at, power_table, provable, two_way, variance_shares
from hrsa.verdict.synthesis import mixed_model, sensitivity
from hrsa.workflow.commands import main


def study(rng, v, seeds, queries, tasks=1):
    """Differences (seeds, tasks * queries) with variances `v`, and task ids."""
    cells = (np.sqrt(v.task) * rng.standard_normal((1, tasks))
             + np.sqrt(v.seed_task) * rng.standard_normal((seeds, tasks)))
    width = queries * tasks
    difference = (np.sqrt(v.seed) * rng.standard_normal((seeds, 1)) + np.repeat(cells, queries, axis=1)
                  + np.sqrt(v.query) * rng.standard_normal((1, width))
                  + np.sqrt(v.residual) * rng.standard_normal((seeds, width)))
    return difference, np.repeat(np.arange(tasks), queries)


def test_components_are_recovered(rng):
    truth = Variances(seed=1.0, task=2.0, seed_task=0.5, query=3.0, residual=4.0)
    found = []
    for _ in range(200):
        difference, tasks = study(rng, truth, 8, 12, 8)
        found.append(list(vars(measure(np.zeros_like(difference), difference, tasks)).values()))
    error = np.std(found, axis=0) / np.sqrt(200)
    assert (np.abs(np.mean(found, axis=0) - list(vars(truth).values())) < 5 * error).all()


def test_two_way_worked_by_hand():
    difference = np.array([[0.0, 2.0], [4.0, 6.0]])  # rows differ by 4, columns by 2, no residual
    found = measure(np.zeros((2, 2)), difference)
    assert found == Variances(seed=8.0, task=0.0, seed_task=0.0, query=2.0, residual=0.0)


@pytest.mark.parametrize(("v", "size"), [
    (Variances(0.004**2, 0, 0, 0.07**2, 0.08**2), (3, 300, 1)),
    (Variances(0.003**2, 0.006**2, 0.003**2, 0.04**2, 0.04**2), (4, 60, 5)),
], ids=["one task", "five tasks"])
def test_power_is_what_studies_show(rng, v, size):
    repeats, claims = 250, 0
    for repeat in range(repeats):
        difference, tasks = study(rng, v, *size)
        claims += verdict(np.zeros_like(difference), difference, 0.02, tasks, seed=repeat, resamples=400).verdict in (
            "equivalent", "negligible")
    planned = power_at(v, 0.02, *size, repeats=4000)
    assert 0.2 < planned < 0.98
    assert abs(claims / repeats - planned) < 0.04 + 4.5 * np.sqrt(planned * (1 - planned) / repeats)


def test_more_of_everything_proves_smaller_margins():
    v = Variances(0.004**2, 0, 0, 0.07**2, 0.08**2)
    few, seeds, queries = (np.median(provable(v, *size)) for size in ((3, 200), (10, 200), (3, 2000)))
    assert seeds < few and queries < few
    assert power_at(v, 0.02, 3, 200, difference=0.01) < power_at(v, 0.02, 3, 200)
    assert power_at(v, 0.02, 3, 200, difference=0.02) < 0.06


def test_plan_and_power_advice():
    v = Variances(0.004**2, 0, 0, 0.07**2, 0.08**2)
    table = power_table(v, 0.02, [3, 8], [100, 1000], hours_per_seed=0.5)
    assert list(table["hours"]) == [1.5, 1.5, 4.0, 4.0]
    assert (table["enough"] == (table["power"] >= 0.8)).all()
    assert "3 seeds and 1000 queries" in power_advice(table, 0.02) and "hours" in power_advice(table, 0.02)
    assert "No size" in power_advice(power_table(v, 0.0001, [3], [100]), 0.0001)
    assert power_table(v, 0.02, [3], [100])["hours"].isna().all()


def test_shares_sum_to_one():
    table = variance_shares(Variances(1, 2, 3, 4, 5), seeds=3, queries=10, tasks=2)
    assert table["share"].sum() == pytest.approx(1)
    assert isinstance(table, pd.DataFrame) and list(table["sd"] ** 2) == pytest.approx([1, 2, 3, 4, 5])


def test_refusals(rng):
    with pytest.raises(ValueError, match="two seeds or more"):
        measure(np.zeros((1, 5)), rng.random((1, 5)))
    with pytest.raises(ValueError, match="two queries"):
        measure(np.zeros((3, 2)), rng.random((3, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="seeds >= 2"):
        provable(Variances(1, 0, 0, 1, 1), 1, 10)


def test_command_line(rng, tmp_path, capsys):
    rows = [(f"{arm}-s{seed}", task, f"q{i}", rng.random()) for arm in ("base", "rlvr", "sft") for seed in (0, 1)
            for task in "xy" for i in range(10)]
    table = pd.DataFrame(rows, columns=paired_scores.QUERY_COLUMNS)
    families = {"x": "pair", "y": "pair"}
    evidence.write_evidence(tmp_path / "e.parquet", load_profile("smoke"), table, "here", families)
    size = ["--profile", "smoke", "--margin", "0.05", "--seeds", "3", "--queries", "50"]
    assert main(["power", *size, str(tmp_path / "e.parquet")]) == 0
    told = capsys.readouterr().out
    assert "base-vs-rlvr: margin 0.05, 2 tasks; from seeds [0, 1], 2 tasks, 20 queries" in told
    assert "base-vs-sft" in told and "provable" in told and "cautious" in told
    assert main(["power", *size, "--tasks", "9", "--hours-of", "mini", str(tmp_path / "e.parquet")]) == 0
    told = capsys.readouterr().out
    assert "margin 0.05, 9 tasks" in told and "GPU-hours, at most" in told
    one = table[~table["model"].str.endswith("-s1")]
    evidence.write_evidence(tmp_path / "one.parquet", load_profile("smoke"), one, "here", families)
    assert main(["power", *size, str(tmp_path / "one.parquet")]) == 1
    assert "two seeds or more, got seeds [0]" in capsys.readouterr().err


def test_nothing_is_made_to_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    assert main(["power", "--profile", "smoke"]) == 1
    assert "run `make book PROFILE=smoke` first" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_plan_of_a_finished_run(rng, tmp_path, monkeypatch, capsys):
    """From artefacts as `evaluate_model` leaves them; of two of one model the newest counts."""
    monkeypatch.setattr(store, "RUNS", tmp_path)
    made = {}
    for arm in ("base", "rlvr", "sft"):
        for seed, key, day in ((0, "b" * 12, 1), (0, "a" * 12, 2), (1, "c" * 12, 1)):
            folder = tmp_path / "smoke" / "evaluation" / f"{arm}-s{seed}-{key}"
            made[folder.name] = rng.normal(0, 0.02, 30)
            rows = [(f"{arm}-s{seed}", "x", f"q{i}", value) for i, value in enumerate(made[folder.name])]
            store.write_table(folder / "per_query.parquet", pd.DataFrame(rows, columns=paired_scores.QUERY_COLUMNS))
            store.write_table(folder / "scores.parquet", pd.DataFrame(
                [[f"{arm}-s{seed}", "x", "pair", "max_ap", 0.5]], columns=SCORE_COLUMNS))
            store.write_json(folder / "provenance.json", {"written": f"2026-01-0{day}T00:00:00Z", "seconds": 36.0})
    found = paired_scores.read_query_scores(load_profile("smoke"))[0].query("model == 'base-s0'")["value"]
    assert found.tolist() == pytest.approx(made[f"base-s0-{'a' * 12}"].tolist())
    assert main(["power", "--profile", "smoke", "--seeds", "3", "--queries", "30"]) == 0
    assert "from seeds [0, 1], 1 tasks, 30 queries" in capsys.readouterr().out


def test_cautious_variances(rng):
    truth = Variances(seed=1.0, task=0.0, seed_task=0.0, query=1.0, residual=1.0)
    above = 0
    for _ in range(200):
        difference, tasks = study(rng, truth, 3, 200)
        zero = np.zeros_like(difference)
        found, cautious = measure(zero, difference, tasks), measure(zero, difference, tasks, 0.8)
        assert cautious.seed >= found.seed and cautious.query == found.query
        above += cautious.seed >= truth.seed
    assert 0.65 < above / 200 < 0.93  # 0.8; far outside 0.028 x 4.5


def test_mixed_model_worked_by_hand():
    difference = np.array([[0.0, 2.0, 4.0], [5.0, 6.0, 10.0]])
    rows, columns, rest = two_way(difference)
    assert rows == pytest.approx(3 * 2 * (2.5**2)) and columns == pytest.approx(2 * ((2**2) + 0.5**2 + 2.5**2) / 2)
    error, dof = mixed_model(difference, [np.arange(3)])
    assert error == pytest.approx(np.sqrt((rows + columns - rest) / 6))
    assert dof == pytest.approx((rows + columns - rest) ** 2 / (rows**2 / 1 + columns**2 / 2 + rest**2 / 2))


def test_mixed_model_is_reml(rng):
    """On balanced data with positive components the error is that of statsmodels' crossed random effects."""
    import statsmodels.formula.api as smf

    cells = rng.normal(0, 1, (6, 1)) + rng.normal(0, 1, (1, 8)) + rng.normal(0, 0.3, (6, 8))
    table = pd.DataFrame({"y": cells.ravel(), "s": np.repeat(np.arange(6), 8), "q": np.tile(np.arange(8), 6), "g": 1})
    parts = {"s": "0 + C(s)", "q": "0 + C(q)"}
    fitted = smf.mixedlm("y ~ 1", table, groups="g", vc_formula=parts).fit(reml=True)
    assert mixed_model(cells, [np.arange(8)])[0] == pytest.approx(fitted.bse_fe["Intercept"], rel=0.01)


def test_analyses_agree_where_the_answer_is_clear(rng):
    difference, tasks = study(rng, Variances(1e-6, 0, 0, 0.01**2, 0.01**2), 5, 200, 6)
    for shift, expected in ((0.0, {"equivalent", "negligible"}), (0.3, {"different"})):
        table = sensitivity(np.zeros_like(difference), difference + shift, 0.02, tasks)
        assert set(table["verdict"]) <= expected
    assert table.loc[table["method"] == "Bayesian", "inside"].item() < 1e-6
    with pytest.raises(ValueError, match="two seeds"):
        sensitivity(np.zeros((1, 9)), rng.random((1, 9)), 0.02)


def test_fixed_tasks_speak_of_less(rng):
    difference, tasks = study(rng, Variances(1e-6, 0.02**2, 0, 0.01**2, 0.01**2), 5, 200, 6)
    table = sensitivity(np.zeros_like(difference), difference, 0.02, tasks).set_index("method")
    width = table["high"] - table["low"]
    low, high = draws_interval(crossed_draws(difference, task_columns(tasks, difference), 2000, rng), 0.05)
    assert width["these tasks only"] < 0.5 * (high - low)
    assert width["mixed model"] == pytest.approx(high - low, rel=0.25)


def test_without_competent_tasks_no_analysis_claims_sameness(rng):
    difference, tasks = study(rng, Variances(1e-6, 0, 0, 0.01**2, 0.01**2), 5, 200, 6)
    table = sensitivity(np.zeros_like(difference), difference, 0.05, tasks, enough=False)
    assert not set(table["verdict"]) & {"equivalent", "negligible", "inconclusive"}
