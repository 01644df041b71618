"""The table of ablations: its rows, realignment on the same texts, what binds a sentence to its row, what is done."""

import re
import subprocess
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from hrsa.analysis.ablations import AFTER, BEFORE, REALIGNMENT, realigned
from hrsa.report import chapters, prose, results
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.training import train
from hrsa.training.fingerprint import run_fingerprint, same_recipe
from hrsa.verdict import differences
from hrsa.verdict.differences import ABLATION_COLUMNS, Row, ablation_rows, realignment_against_scores
from hrsa.workflow import ablations, graph
from hrsa.workflow.commands import main
from hrsa.workflow.engine import snakemake_command

STUDY = load_profile("ablations")
SMOKE = load_profile("smoke")


def table_of(rows):
    """A table with these rows: name -> the columns that are not empty."""
    empty = {"pair": "base-vs-rlvr", "setting": "", "value": "", "unlike": "", "a": "base", "b": "rlvr", "seeds": 1}
    return pd.DataFrame([empty | {"ablation": name, "verdict": None} | given for name, given in rows.items()]
                        ).reindex(columns=ABLATION_COLUMNS)


def spread(name, value, half=0.01):
    """A value with an interval of this half width."""
    prefix = f"{name}_" if name else ""
    return {name or "difference": value, f"{prefix}low": value - half, f"{prefix}high": value + half}


def test_every_ablation_of_both_arms_and_every_control_is_a_row():
    rows = ablation_rows(STUDY)
    assert [row.name for row in rows] == ["recipe", *(part.name for part in (*STUDY.ablations, *STUDY.controls))]
    by_name = {row.name: row for row in rows}
    full = by_name["full"]
    assert (full.setting, full.value) == ("lora, learning_rate", "none, 0.0002")
    assert full.models == ["base-s0-full", "rlvr-s0-full", "base-s0", "rlvr-s0"] and full.pair == "base-vs-rlvr"
    unequal = by_name["unequal-durations"]
    assert (unequal.setting, unequal.value, unequal.pair) == ("b alone: steps", "4", "")
    assert (unequal.models_a, unequal.models_b) == (("base-s0",), ("rlvr-s0-sixth-duration",))
    assert [(row.name, row.pair) for row in ablation_rows(SMOKE)] == [
        ("recipe", "base-vs-rlvr"), ("causal", "base-vs-rlvr"), ("other-order", ""), ("rlvr-vs-sft", "")]


def test_a_section_that_changes_is_one_value():
    small = STUDY.ablations[0].model_copy(update={"change": {"lora": {"r": 4, "dropout": 0.0}, "steps": 9}})
    row = ablation_rows(STUDY.model_copy(update={"ablations": (small,), "controls": ()}))[1]
    assert (row.setting, row.value) == ("lora, steps", "r 4 dropout 0, 9")


def test_every_change_is_one_that_training_takes():
    recipe = STUDY.recipe
    for ablation in STUDY.ablations:
        varied = STUDY.varied(ablation.name)
        assert {name for name in ablation.change if getattr(varied, name) == getattr(recipe, name)} == set()
    assert STUDY.varied("full").lora is None and STUDY.varied("six-blocks").layers == 6


def test_realignment_is_a_difference_on_the_same_texts(rng):
    shared = rng.normal(0, 0.1, 400)  # what a draw of texts does to both
    before = pd.DataFrame({"metric": ["knn"], "k": pd.array([5], "Int64"), "value": 0.5, "low": 0.3, "high": 0.7,
                           "drawn": [list(0.5 + shared)]})
    after = before.assign(value=0.8, low=0.6, high=1.0, drawn=[list(0.8 + shared + rng.normal(0, 0.001, 400))])
    found = realigned(before, after).set_index("quantity")
    assert found.loc[BEFORE, "value"] == 0.5 and found.loc[AFTER, ["low", "high"]].tolist() == [0.6, 1.0]
    moved = found.loc[REALIGNMENT]
    assert moved["value"] == pytest.approx(0.3) and moved["high"] - moved["low"] < 0.01  # not the 0.4 of either


def test_arms_of_unequal_durations_are_refused_and_the_row_says_in_what(monkeypatch):
    row = next(row for row in ablation_rows(STUDY) if row.name == "unequal-durations")
    prints = {}
    for model in row.models:
        recipe = STUDY.varied(STUDY.model(model).ablation)
        rate = np.linspace(1, 0, recipe.steps)
        curve = pd.DataFrame({"batch": [f"b{i}" for i in range(recipe.steps)], "learning_rate": rate})
        prints[model] = run_fingerprint(curve, recipe, 0, {"backbone": model, "weights": model}, "code")
    with pytest.raises(ValueError, match="expected arms of one seed to agree in all but what they start from"):
        same_recipe(prints)
    monkeypatch.setattr(train, "train_embedder", lambda _, model: model)
    monkeypatch.setattr(train, "read_fingerprint", prints.__getitem__)
    assert differences._unlike(STUDY, row) == ["data", "learning_rate", "recipe.steps", "steps"]
    fair = Row("recipe", "p", "", "", "base", "rlvr", row.models_a, row.models_a)
    assert differences._unlike(STUDY, fair) == []


def test_a_failure_signature_is_bound_to_the_row_that_has_it():
    nothing = prose.scores.failure_signatures(table_of({"recipe": {}}))
    assert nothing.count("no row of the table has it.") == 3
    table = table_of({
        "recipe": {}, "weights": {"setting": "lora, learning_rate", "value": "none, 0.0002"} | spread("change", 0.03),
        "mask": {"setting": "attention", "value": "causal"} | spread("change", -0.05),
        "late": {"pair": "", "setting": "b alone: steps", "value": "12", "unlike": "data, recipe.steps, steps"}
        | spread("", -0.02)})
    worse, mask, unequal = prose.scores.failure_signatures(table).splitlines()
    assert "seen here: all weights score higher than the recipe's adapters, by +0.0300 [+0.0200, +0.0400]" in worse
    assert "(row *weights*, one seed)" in worse and "(row *mask*" in mask
    assert "it would show here: scores fall, by -0.0500" in mask
    assert "a difference shows that no backbone made, -0.0200" in unequal and "*late*" in unequal
    assert "refuses the comparison either way: the arms differ in data, recipe.steps, steps" in unequal
    renamed = table.assign(ablation=["w", "x", "y", "z"], setting=table["setting"].replace("attention", "temperature"))
    assert "no row of the table has it" in prose.scores.failure_signatures(renamed).splitlines()[1]


def test_realignment_is_held_against_scores_over_rows():
    rising = {f"r{i}": {"change": i / 100, f"knn_{REALIGNMENT}": i / 10, f"debiased_cka_{REALIGNMENT}": (i - 5.5) ** 2}
              for i in range(12)}  # of scores and CKA the rank correlation is 0
    table = table_of(rising | {"floor": {"pair": "", "change": np.nan}})
    found = realignment_against_scores(table).set_index("metric")
    assert found.loc["knn", "rho"] == pytest.approx(1) and found.loc["knn", "low"] > 0.9 and (found["rows"] == 12).all()
    assert found.loc["debiased_cka", "low"] < 0 < found.loc["debiased_cka", "high"]
    cka, knn = prose.scores.realignment_and_scores(found.reset_index()).splitlines()
    assert "no relation is shown" in cka and "more realignment goes with higher scores; rank correlation +1.00" in knn
    few = prose.scores.realignment_and_scores(realignment_against_scores(table.head(3)))
    assert few.count("3 rows are too few for a correlation") == 2
    said = prose.scores.realignment_sentences(table_of({
        "up": spread(f"knn_{REALIGNMENT}", 0.2) | spread(f"debiased_cka_{REALIGNMENT}", 0.0),
        "down": spread(f"knn_{REALIGNMENT}", -0.2) | spread(f"debiased_cka_{REALIGNMENT}", 0.0)}))
    assert "closer under up (+0.2); it drives them apart under down (-0.2)" in said
    assert "debiased CKA: neither is told under up (+0), down (+0)." in said


def test_rows_are_chosen_by_name():
    assert [row.name for row in ablations.selected_rows(STUDY, ["causal", "full"])] == ["full", "causal"]
    with pytest.raises(ValueError, match=r"expected ablations of both arms .* got \['nothing'\]"):
        ablations.selected_rows(STUDY, ["causal", "nothing"])
    with pytest.raises(ValueError, match="got none: correct the names, or add them"):
        ablations.selected_rows(SMOKE.model_copy(update={"ablations": (), "controls": ()}))
    row, = ablations.selected_rows(STUDY, ["causal"])
    names = [name.rsplit("/", 1)[1] for name in ablations.records_of(STUDY, row)]
    assert names == ["backbones.json", "s0.json", *(f"{name}.json" for name, models in chapters.groups(STUDY).items()
                                                    if "base-s0-causal" in models)]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Records of the jobs that measured the backbones and the recipe's embedders, and nothing else."""
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(ablations, "ABLATIONS", tmp_path / "ablations.parquet")
    monkeypatch.setattr(train, "is_trained", lambda _, model: True)
    monkeypatch.setattr(graph, "job_fingerprint", lambda *_: "now")
    for name, fingerprint in (("backbones", "now"), ("s0", "now"), ("s0-3", "before")):
        store.write_json(tmp_path / chapters.record(STUDY, "measure", name), {"fingerprint": fingerprint})


def test_a_row_is_done_when_all_its_models_are_measured_as_the_study_is_now(measured):
    assert ablations.finished_models(STUDY) == {*chapters.groups(STUDY)["backbones"], "base-s0", "rlvr-s0"}
    assert [row.name for row in ablations.finished_rows(STUDY, ablation_rows(STUDY))] == ["recipe"]


def test_the_cost_is_told_from_what_was_measured(measured, monkeypatch):
    rows = ablations.selected_rows(STUDY, ["causal", "double-batch", "two-blocks"])
    monkeypatch.setattr(ablations, "seconds_a_step", lambda *_: 5.0)
    found = ablations.cost(STUDY, rows)
    assert (found.rows, found.runs) == (3, 6) and found.steps == 2 * (24 + 48 + 12)
    assert "3 rows to make, 6 embedders to train: about 14 minutes" in str(found)
    monkeypatch.setattr(ablations, "seconds_a_step", lambda *_: None)
    assert "not known before a first run" in str(ablations.cost(STUDY, rows))


def test_what_is_finished_is_committed_with_what_is_not(tmp_path, monkeypatch, measured):
    table = table_of({"recipe": {"seconds": 7.0}})
    monkeypatch.setattr(results, "ABLATIONS", tmp_path / "data" / "results" / "ablations.parquet")
    monkeypatch.setattr(results, "make_ablation_table", lambda _, rows: table.head(len(rows)))
    monkeypatch.setattr(ablations, "seconds_a_step", lambda *_: 2.0)
    done, missing = ablations.write_finished(STUDY)
    assert done == ["recipe"] and "causal" in missing and len(missing) == len(ablation_rows(STUDY)) - 1
    kept, record = results.read_committed("ablations")
    pd.testing.assert_frame_equal(kept, table, check_dtype=False)
    assert (record["seconds"], record["seconds_a_step"], record["not_done"]) == (7.0, 2.0, missing)
    said = prose.scores.committed_ablations(record)
    assert "**Committed results.**" in said and "**Not done yet**: temperature-0.01, " in said
    assert "Every row is done." in prose.scores.committed_ablations(record | {"not_done": []})


def test_rows_committed_before_stay_where_the_study_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ABLATIONS", tmp_path / "data" / "results" / "ablations.parquet")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    rows = {row.name: row for row in ablation_rows(STUDY)}
    made = {name: {"setting": rows[name].setting, "value": rows[name].value, "score_a": 0.5, "score_b": 0.5}
            for name in ("recipe", "causal", "full")}

    def write(names, study=STUDY):
        table = table_of({name: made[name] for name in names})
        monkeypatch.setattr(results, "make_ablation_table", lambda *_: table)
        results.make_ablation_results(study, [rows[name] for name in names], [n for n in rows if n not in names], 2.0)
        return results.read_committed("ablations")

    write(["recipe", "causal"])
    made["recipe"]["score_b"] = 0.507
    table, record = write(["recipe", "full"])
    assert list(table["ablation"]) == ["recipe", "full", "causal"], "in the profile's order"
    assert table["score_b"].iloc[0] == 0.507 and record["recipe_differs"] == pytest.approx(0.007)
    assert [run["rows"] for run in record["runs"]] == [["causal"], ["recipe", "full"]]
    assert "causal" not in record["not_done"] and "margin" in record["not_done"]
    said = prose.scores.committed_ablations(record)
    assert said.count("3 rows are of commit") == 1 and "by at most 0.70 points" in said
    other = {**record, "runs": [{**record["runs"][0], "commit": "elsewhere"}, record["runs"][1]]}
    said = prose.scores.committed_ablations(other)
    assert "1 row is of commit `elsewhere`; 2 rows are of commit" in said and "1 rows are of commit" not in said
    changed = [a.model_copy(update={"change": {"attention": "causal", "steps": 3}}) if a.name == "causal" else a
               for a in STUDY.ablations]
    assert list(write(["recipe"], STUDY.model_copy(update={"ablations": tuple(changed)}))[0]["ablation"]) == [
        "recipe", "full"], "a row that says another thing now"
    other = STUDY.model_copy(update={"recipe": STUDY.recipe.model_copy(update={"steps": 9})})
    table, record = write(["recipe"], other)
    assert list(table["ablation"]) == ["recipe"] and record["recipe_differs"] is None


def test_the_command_writes_what_is_there_and_starts_nothing(monkeypatch, capsys):
    monkeypatch.setattr(ablations, "cost", lambda *_: "the cost")
    monkeypatch.setattr(ablations, "write_finished", lambda _: (["recipe"], ["causal"]))
    assert main(["ablations", "--table"]) == 0
    assert capsys.readouterr().err.startswith("the cost\n")
    assert main(["ablations", "nothing"]) == 1 and "expected ablations of both arms" in capsys.readouterr().err


def test_the_chapter_shows_what_there_is(tmp_path, monkeypatch):
    mini = load_profile("mini")
    monkeypatch.setattr(chapters, "ABLATIONS", tmp_path / "ablations.parquet")
    assert "11_ablations" not in chapters.chapters(mini) and "11_ablations" in chapters.chapters(SMOKE)
    assert chapters.ablations_left_out(SMOKE) == {chapters.KEPT}
    (tmp_path / "ablations.parquet").touch()
    assert "11_ablations" in chapters.chapters(mini) and chapters.ablations_left_out(mini) == {chapters.OWN}
    assert chapters.ablations_left_out(SMOKE) == set()


def test_chapter_10_shows_the_film_where_it_is_committed(tmp_path, monkeypatch):
    mini = load_profile("mini")
    monkeypatch.setattr(chapters, "FILMS", tmp_path / "dynamics.parquet")
    assert chapters.cells_left_out(mini, "10_dynamics") == {chapters.FILM_CELLS}
    (tmp_path / "dynamics.parquet").touch()
    assert chapters.cells_left_out(mini, "10_dynamics") == {chapters.OWN_STEPS}, "mini keeps no checkpoints"
    assert chapters.cells_left_out(SMOKE, "10_dynamics") == chapters.cells_left_out(mini, "07_cka") == set()
    record = {**dict.fromkeys(("machine", "written", "command"), "x"), "commit": "0" * 40, "hours": 1.26,
              "profile": {"name": "film", "seeds": [0, 1, 2]}}
    said = prose.scores.committed_film(record)
    assert "profile `film`, seeds 0, 1, made in 1.3 hours" in said and "did not compute them" in said


def test_the_engine_makes_a_row_and_no_report():
    row, = ablations.selected_rows(SMOKE, ["causal"])
    command = snakemake_command(SMOKE, 1, *ablations.records_of(SMOKE, row), "--dry-run", "--forceall")
    done = subprocess.run(command, cwd=store.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = Counter(re.findall(r"^(?:local)?rule (\w+):$", done.stdout + done.stderr, re.M))
    trained = {id for name, models in chapters.groups(SMOKE).items() if name != "backbones"
               for id in models if set(models) & set(row.models)}
    assert made["03_training"] + made["embedder"] == len(trained) and made["measure"] == len(
        ablations.records_of(SMOKE, row))
    assert set(made) == {"backbone", "mine", "03_training", "embedder", "measure"}
