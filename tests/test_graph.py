import graphlib
import re
import subprocess
import sys
from collections import Counter

import pytest

from hrsa.analysis import dynamics, recordings
from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.workflow import graph
from hrsa.workflow.engine import EngineError, only_engine, snakemake_command


@pytest.mark.parametrize("name", ["smoke", "mini", "paper"])
def test_the_graph_is_closed_acyclic_and_ends_in_the_book(name):
    profile = load_profile(name)
    jobs = {(rule, job) for rule, names in chapters.jobs(profile).items() for job in names}
    needs = {job: set(graph.needs(profile, *job)) for job in jobs}
    assert set().union(*needs.values()) | {("book", "study")} == jobs
    order = list(graphlib.TopologicalSorter(needs).static_order())
    assert order[-1] == ("book", "study")


def test_every_chapter_of_the_graph_has_its_pair_of_files():
    profile = load_profile("smoke")
    found = {rule for rule in chapters.jobs(profile) if re.match(r"\d\d_", rule)}
    found |= {"12_family"}  # in the graph once its results are committed
    assert found == {p.stem for p in store.NOTEBOOKS.glob("[0-9]*.py")}
    assert found == {p.stem for p in store.NOTEBOOKS.glob("[0-9]*.ipynb")}


@pytest.mark.parametrize("name", ["smoke", "paper"])
def test_snakemake_reads_the_graph_as_the_code_states_it(name):
    profile = load_profile(name)
    done = subprocess.run(snakemake_command(profile, 1, "--dry-run", "--forceall"), cwd=store.ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = Counter(re.findall(r"^(?:local)?rule (\w+):$", done.stdout + done.stderr, re.M))
    expected = {rule: len(names) for rule, names in chapters.jobs(profile).items() if names}
    assert counts == expected | {"all": 1}


@pytest.mark.parametrize("name", ["smoke", "mini", "paper"])
def test_states_that_the_chapter_on_training_reads_are_recorded_before_it(name, monkeypatch):
    profile, read = load_profile(name), set()
    monkeypatch.setattr(dynamics, "make_recording", lambda _, model, step=None: read.add((model, step)))
    for pair in profile.pairs:
        for frame in dynamics.frames(profile, pair.name):
            for state in (frame.a, frame.b):
                dynamics._states(profile, *state)
    ids = {model.id for model in profile.models()}
    recorded = {(id, step) for id in ids for step in (None, *recordings.checkpoints_of(profile, id))}
    assert read <= recorded
    assert {(id, step) for id, step in recorded if step} <= read


def test_chapters_without_a_subject_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "ABLATIONS", tmp_path / "none are committed")
    assert {"01_backbones", "11_ablations"} <= set(chapters.jobs(load_profile("smoke")))
    assert set(chapters.jobs(load_profile("smoke"))) - set(chapters.jobs(load_profile("mini"))) == {"11_ablations"}
    assert not {"01_backbones", "11_ablations"} & set(chapters.jobs(load_profile("paper")))


def test_unknown_jobs_are_refused():
    with pytest.raises(ValueError, match=r"expected a job of profile smoke, got 07_cka no-pair"):
        graph.needs(load_profile("smoke"), "07_cka", "no-pair")


def test_a_fingerprint_changes_with_settings_that_matter_and_only_those():
    smoke = load_profile("smoke")
    recipe = smoke.recipe.model_copy(update={"steps": smoke.recipe.steps + 1})
    other = smoke.model_copy(update={"recipe": recipe})

    def changed(other):
        return {r for r in ("backbone", "03_training", "mine") if
                graph.job_fingerprint(smoke, r) != graph.job_fingerprint(other, r)}

    assert changed(other) == {"03_training", "mine"}
    assert changed(smoke.model_copy(update={"processes": 2})) == {"03_training"}


def test_one_engine_at_a_time():
    code = (
        "import time; from hrsa.workflow.engine import only_engine\n"
        "with only_engine():\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(EngineError, match="expected no other"), only_engine():
            pass
        holder.kill()
    with only_engine():
        pass


def test_few_models_are_measured_by_one_job():
    profile = load_profile("mini")
    found = chapters.groups(profile)
    measured = [id for names in found.values() for id in names]
    assert sorted(measured) == sorted([*(model.id for model in profile.models()), "bm25"])
    assert all(len(names) <= 2 for name, names in found.items() if name != "backbones")
    assert all({id.partition("-s")[2][:1] for id in names} == {name[1]} for name, names in found.items()
               if name != "backbones")
    assert {"s0", "s0-2", "s1", "s1-2", "s2", "s2-2"} == set(found) - {"backbones"}
