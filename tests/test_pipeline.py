"""The smoke study end to end, in a copy of the checkout: killed, taken up again, repeated, damaged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from smoke import SMOKE, alive, engine, finish

from hrsa.analysis.explore import finished
from hrsa.evaluation.chance import CHANCE
from hrsa.report import chapters, explore, results
from hrsa.study import store
from hrsa.verdict import evidence

pytestmark = pytest.mark.pipeline
HRSA = Path(sys.executable).with_name("hrsa")


def forget(root, *jobs):
    """Remove the records of jobs, the book's among them: a graph whose end is there does not miss what led to it."""
    for job in jobs:
        (root / chapters.record(SMOKE, *job)).unlink()


def test_every_job_left_a_record_of_what_it_made(study):
    for rule, names in chapters.jobs(SMOKE).items():
        for name in names:
            record = json.loads((study / chapters.record(SMOKE, rule, name)).read_text())
            assert record["seconds"] >= 0 and record["peak_mb"] > 0 and record["made"], (rule, name)


def test_the_same_command_again_rebuilds_nothing(study):
    stamps = {p: p.stat().st_mtime_ns for p in (study / "data" / "runs").rglob("*.json") if "progress" not in p.parts}
    finish(engine(study))
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_a_damaged_page_is_made_again_by_the_same_command_although_it_is_ended_once(study):
    page = study / chapters.executed(SMOKE, "02_texts", "study")
    page.write_bytes(page.read_bytes()[:10_000])
    process = engine(study)
    said = process.stderr.readline()
    assert said.startswith("made again: 02_texts.ipynb: expected a whole executed notebook, got JSONDecodeError")
    process.send_signal(signal.SIGTERM)  # at once: later it may have ended by itself
    said = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in said
    assert said.count("hrsa: ") == 1 and "hrsa: ended by SIGTERM; what is finished stays." in said
    time.sleep(0.5)
    assert not alive(study)
    finish(engine(study))
    assert json.loads(page.read_text(encoding="utf8"))["cells"]
    assert not [file for file in study.rglob(".*") if ".partial" in file.name]


def test_work_done_again_gives_the_same_numbers(study):
    runs = study / "data" / "runs" / "smoke"
    folders = [*runs.glob("embedders/base-s0-*"), *runs.glob("evaluation/base-s0-*"), *runs.glob("states/base-s0-*")]
    folders = [f for f in folders if "causal" not in f.name]
    assert len(folders) == 3 + len(list(runs.glob("states/base-s0-step*")))
    before = {f.name: pd.read_parquet(f / "per_query.parquet") for f in folders if f.parent.name == "evaluation"}
    for folder in folders:
        shutil.rmtree(folder)
    for rule, name in (("03_training", "base-s0"), ("measure", "s0")):
        record = study / chapters.record(SMOKE, rule, name)
        stamp, made = record.stat(), json.loads(record.read_text())["made"]
        run_in(study, HRSA, "run", rule, name, "--profile", "smoke")
        assert json.loads(record.read_text())["made"].keys() == made.keys()
        os.utime(record, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # chapters that read it need not be made again
    assert all(folder.is_dir() for folder in folders)
    for name, table in before.items():
        pd.testing.assert_frame_equal(pd.read_parquet(runs / "evaluation" / name / "per_query.parquet"), table)


def run_in(root, *command):
    done = subprocess.run(command, cwd=root, env={**os.environ, "HRSA_ROOT": str(root)}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def papermill(root, chapter, out, *more):
    run_in(root, os.path.join(os.path.dirname(sys.executable), "papermill"), f"notebooks/{chapter}.ipynb", str(out),
           "-p", "profile", "smoke", *more)


@pytest.mark.parametrize("chapter", ["07_cka", "03_training"])
def test_a_chapter_runs_by_plain_papermill(study, tmp_path, chapter):
    papermill(study, chapter, tmp_path / "out.ipynb", *(["-p", "pair", "base-vs-rlvr"] if chapter == "07_cka" else []))


def test_results_of_a_finished_run_stand_beside_those_of_another(study, tmp_path, monkeypatch):
    run_in(study, HRSA, "results", "--profile", "smoke")
    folder = study / "data" / "results" / "smoke"
    scores, meta = evidence.read_evidence(folder / "scores.parquet")
    assert meta["profile"] == "smoke" and set(scores["model"]) == {CHANCE} | {
        m.id for m in SMOKE.models() if m.ablation is None}
    papermill(study, "12_family", tmp_path / "out.ipynb")  # any study with a record is shown
    text = (tmp_path / "out.ipynb").read_text(encoding="utf8")
    assert text.count("**Committed results.**") == len(list(folder.parent.glob("*/record.json"))) and "this run" in text
    assert "Study `smoke`, committed" in text and "Does RLVR (base-vs-rlvr, 3 updates) move a backbone further" in text
    monkeypatch.setattr(results, "RESULTS", folder.parent)
    tables, record = results.read_results("smoke")
    assert set(tables) == {"scores", "verdicts", "controls", "variances", "similarities", "levels", "sources"}
    assert record["hours"] > 0
    pd.DataFrame({"a": [1]}).to_parquet(folder / "verdicts.parquet")
    with pytest.raises(ValueError, match=r"expected verdicts.parquet of smoke with SHA-256 .*restore the file"):
        results.read_results("smoke")
    shutil.rmtree(folder)


def test_the_notebook_to_explore_shows_any_cell_of_a_finished_study_and_makes_nothing(study, tmp_path, monkeypatch):
    before = set((study / "data" / "runs").rglob("*"))
    papermill(study, "explore", tmp_path / "out.ipynb")
    notebook = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    shown = [widget["state"]["value"] for widget in widgets if widget["model_name"] == "HTMLModel"]
    found = [re.search('alt="(Curves|Heat map) of|(«)', value) for value in shown]
    assert sorted(part[1] or part[2] for part in found) == ["Curves", "Heat map", "«"]
    said = [output.data["text/markdown"] for cell in notebook.cells for output in cell.get("outputs", [])
            if "text/markdown" in output.data]
    assert said == ["- `smoke`: base-vs-rlvr, base-vs-sft"]

    monkeypatch.setattr(store, "RUNS", study / "data" / "runs")
    view = explore.Explorer("nothing of this name")
    for pair in (pair.name for pair in SMOKE.compared()):
        view.pair.value, seen = pair, set()
        stages = [finished.FIRST_STAGE, *(f"step {step}" for step in SMOKE.recipe.checkpoints), finished.LAST_STAGE]
        assert view.profile.value == "smoke" and list(view.stage.options) == stages
        for stage in stages:
            view.stage.value = stage
            seen.add(view.cell.children[1].value)
        seen |= {view.map.children[1].value, view.layers.children[1].value}
        view.stage.value = finished.FIRST_STAGE
        shown = store.read_table(finished.finished("smoke", "similarity", f"{pair}-neighbours") / "changed.parquet")
        for layer, rows in shown[shown["models"] == finished.FIRST_STAGE].groupby("layer_x"):
            view.layer_a.value = view.layer_b.value = layer
            assert view.cell.children[1].value.startswith(f"<p>Mean overlap {rows['mean'].iloc[0]:.3f} at k = 10.</p>")
    assert pair == "base-vs-sft" and len(seen) == len(stages) + 2, "every choice shows something of its own"
    view.metric.value, plain = "debiased_cka", view.map.children[1].value
    view.shown.value = finished.ABOVE_NULL
    assert plain.startswith("<img") and view.map.children[1].value != plain
    assert set((study / "data" / "runs").rglob("*")) == before


def test_a_broken_stage_stops_with_one_message_and_the_rest_stays(study):
    kept = sorted((study / "data" / "runs" / "smoke" / "embedders").iterdir())
    source = study / "data" / "suite" / "train"
    shutil.rmtree(study / "data" / "runs" / "smoke" / "texts")
    shutil.rmtree(source)
    forget(study, ("mine", "study"), ("book", "study"))
    process = engine(study)
    said = process.communicate()[1]
    assert process.returncode == 1
    assert "mine study: " in said and "expected" in said and "Traceback" not in said
    assert sorted((study / "data" / "runs" / "smoke" / "embedders").iterdir()) == kept
