"""Devices handed out one to a job, and Snakemake's Slurm and Kubernetes profiles with the real executor plugins."""

import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import yaml

from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.workflow import gpus
from hrsa.workflow.engine import snakemake_command

CARDS = ["GPU-aa", "GPU-bb"]
PROFILES = store.ROOT / "configs" / "snakemake"
RULE = re.compile(r"^rule (\w+):$(.*?)(?=^rule |\Z)", re.M | re.S)


def test_each_holder_has_cards_of_its_own_and_gives_them_back(tmp_path):
    with gpus.lease(1, CARDS, tmp_path) as first, gpus.lease(1, CARDS, tmp_path) as second:
        assert sorted(first + second) == CARDS
    with gpus.lease(2, CARDS, tmp_path) as both:
        assert both == CARDS


def test_who_comes_late_waits_and_never_holds_a_part(tmp_path):
    got = []

    def late():
        with gpus.lease(2, CARDS, tmp_path, wait=0.02) as held:
            got.append(held)

    with gpus.lease(1, CARDS, tmp_path) as first:
        waiting = threading.Thread(target=late)
        waiting.start()
        time.sleep(0.1)
        other = [card for card in CARDS if card not in first]
        assert not got
        with gpus.lease(1, other, tmp_path, wait=0.005) as second:  # between two looks of the one who waits for both
            assert second == other
    waiting.join(10)
    assert got == [CARDS]


def test_a_killed_holder_holds_nothing(tmp_path):
    code = (f"import time; from pathlib import Path; from hrsa.workflow.gpus import lease\n"
            f"with lease(2, {CARDS}, Path({str(tmp_path)!r})):\n    print('held', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "held"
        assert gpus._take(1, CARDS, tmp_path) == {}
        holder.kill()
    with gpus.lease(2, CARDS, tmp_path) as held:
        assert held == CARDS


def test_more_cards_than_there_are_stop_the_job(tmp_path):
    with pytest.raises(ValueError, match=r"expected 3 graphics card\(s\) for this job, got 2"), \
            gpus.lease(3, CARDS, tmp_path):
        pass


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this look like a machine with two cards: a `nvidia-smi` on the PATH that names them."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n" + "".join(f"echo {card}\n" for card in CARDS))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{store.os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


@pytest.mark.parametrize(("setting", "expected"), [
    (None, CARDS), ("1", CARDS[1:]), ("1,0", CARDS[::-1]), ("GPU-bb", CARDS[1:]), ("", []), ("-1", []),
])
def test_visible_cards_follow_the_environment(setting, expected, machine):
    if setting is not None:
        machine.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert gpus.visible() == expected


def test_no_cards_without_the_driver(machine):
    machine.setenv("PATH", "")
    assert gpus.visible() == []


def started(count, tmp_path):
    """What a child of a process that holds this many cards sees as CUDA_VISIBLE_DEVICES."""
    script = tmp_path / "shown.py"
    script.write_text("import subprocess, sys\nfrom hrsa.workflow import gpus\n"
                      "with gpus.hold_cards(int(sys.argv[1])):\n"
                      "    subprocess.run(['sh', '-c', 'echo ${CUDA_VISIBLE_DEVICES-None}'], check=True)\n")
    return subprocess.run([sys.executable, str(script), str(count)], capture_output=True, text=True, check=False)


def test_a_job_runs_with_the_cards_it_was_given(machine, tmp_path):
    assert started(0, tmp_path).stdout == "None\n"
    assert started(1, tmp_path).stdout == "GPU-aa\n"
    assert started(2, tmp_path).stdout == "GPU-aa,GPU-bb\n"
    refused = started(3, tmp_path)
    assert refused.returncode == 1 and "expected 3 graphics card(s)" in refused.stderr


def dry_run(name, *more):
    """Snakemake's own account of every job: rule -> the texts of its jobs."""
    command = snakemake_command(load_profile(name), 1, "--dry-run", "--forceall", "--printshellcmds")
    done = subprocess.run([*command, *more],
                          cwd=store.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    found = {}
    for rule, text in RULE.findall(done.stdout + done.stderr):
        found.setdefault(rule, []).append(text)
    return found


def asked(text):
    """The resources of a job as text: name -> value."""
    return dict(re.findall(r"(\w+)=([^,\n]+)", re.search(r"resources: (.*)", text)[1]))


MODELS = {"backbone", "mine", "03_training", "embedder", "measure"}


def test_model_jobs_ask_for_a_card_where_there_is_one(machine):
    for rule, jobs in dry_run("smoke").items():
        for text in jobs:
            assert asked(text).get("gpu") == ("1" if rule in MODELS else None)
            assert ("--gpus 1" in text) == (rule in MODELS)


@pytest.mark.parametrize("executor", ["slurm", "kubernetes"])
def test_cluster_profiles_run_dry_with_the_real_executor(executor):
    folder = PROFILES / executor
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf8"))
    assert settings["executor"] == executor and set(settings["set-resources"]) == MODELS
    storage = ["--default-storage-prefix", str(store.ROOT)] if executor == "kubernetes" else []
    found = dry_run("paper", "--workflow-profile", str(folder.relative_to(store.ROOT)), *storage)
    assert {rule: len(jobs) for rule, jobs in found.items() if rule != "all"} == {
        rule: len(names) for rule, names in chapters.jobs(load_profile("paper")).items() if names}
    for rule in MODELS & set(found):
        for text in found[rule]:
            for name, value in settings["set-resources"][rule].items():
                assert asked(text)[name] == str(value)
    assert all("gpu" not in asked(text) for rule in found if rule not in {*MODELS, "all"} for text in found[rule])


def test_slurm_is_told_of_card_memory_and_time():
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    settings = yaml.safe_load((PROFILES / "slurm" / "config.yaml").read_text(encoding="utf8"))
    wanted = settings["set-resources"]["03_training"]
    job = SimpleNamespace(resources=Resources(wanted), threads=8, is_group=lambda: False)
    parameters = {"run_uuid": "run", "slurm_logfile": "log", "comment_str": "rule", "account": "", "partition": "",
                  "workdir": "."}
    call = get_submit_command(job, parameters) + set_gres_string(job)
    assert f"--mem {wanted['mem_mb']}" in call and f"-t {wanted['runtime']}" in call and "--gpus=1" in call


class Resources(dict):
    """A job's resources as Snakemake hands them to an executor: by name and by attribute."""

    __getattr__ = dict.__getitem__
