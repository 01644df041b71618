"""A cut of the smoke study as batch jobs of a real Slurm on loopback: run by `make test-cluster`."""

import os
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
import slurm
import yaml
from tiny import tiny_backbone

from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.workflow.engine import snakemake_command

pytestmark = pytest.mark.cluster
NAMES = ("base", "rlvr")
TARGET = ("04_evaluation", "study")  # with all that it needs: backbones, triples, embedders, scores
COPIED = ("Snakefile", "notebooks", "configs", "data/suite", "data/results", "jupyter_book")
QUICK = ("--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2",
         "--seconds-between-status-checks", "2")  # the cluster keeps no accounts, and its jobs are short


def cut():
    """Profile smoke with two tiny backbones, one seed and few tasks; two processes train each embedder."""
    content = yaml.safe_load((store.NOTEBOOKS / "profiles" / "smoke.yaml").read_text(encoding="utf8"))
    backbones = [{"name": name, "source": "folder", "path": f"models/{name}", "arm": name} for name in NAMES]
    backbones[1]["start"] = "base"
    recipe = content["recipe"] | {"steps": 60, "checkpoints": []}
    suite = content["suite"] | {"tasks": ["ToolRetrieval", "WordNetSenseSTS"], "train": ["pg_docs", "wn_define"]}
    return content | {"name": "cut", "processes": 2, "seeds": [0], "backbones": backbones, "recipe": recipe,
                      "pairs": content["pairs"][:1], "suite": suite, "ablations": [], "controls": []}


def study(root):
    """A checkout in `root` with the profile and its backbones."""
    for name in COPIED:
        copy = shutil.copytree if (store.ROOT / name).is_dir() else shutil.copy
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy(store.ROOT / name, root / name)
    for seed, name in enumerate(NAMES):
        tiny_backbone(root / "models" / name, seed)
    file = root / "notebooks" / "profiles" / "cut.yaml"
    file.write_text(yaml.safe_dump(cut(), sort_keys=False), encoding="utf8")
    return load_profile(file)


def environment(root):
    kept = {name: value for name, value in os.environ.items() if name not in ("HRSA_OWNER", "PYTEST_CURRENT_TEST")}
    return kept | {"HRSA_ROOT": str(root), "OMP_NUM_THREADS": "1"}


def with_lines_of_the_cluster(root):
    """The project's profile of Snakemake, with what docs/cluster.md leaves to the cluster: partition, cards."""
    folder = root / "configs" / "snakemake" / "slurm"
    content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf8"))
    content["default-resources"] += ["slurm_partition=loopback"]
    content["set-resources"] = {rule: asked | {"gpu": 0} for rule, asked in content["set-resources"].items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf8")
    return folder


def jobs(cluster, state):
    """Jobs in a state: rule and what it is run for, as Snakemake comments them -> number."""
    lines = slurm.asked(cluster, "squeue", "-h", "-t", state, "-o", "%k|%i").splitlines()
    return dict(line.split("|") for line in lines)


def wait_for(found, engine, seconds=900):
    """What `found` gives, once it gives anything; an engine that has ended before is shown."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert engine.poll() is None and time.monotonic() < until, engine.stdout.read()[-3000:]
        time.sleep(0.2)
    return value


def numbered(cluster, rule):
    """The number of a running job of a rule."""
    return next((number for name, number in jobs(cluster, "R").items() if rule in name), None)


def tables(root, profile):
    """Triples, curves and scores of a study, without times: artefact and file -> table."""
    runs = root / "data" / "runs" / profile.name
    return {str(file.relative_to(runs)): pd.read_parquet(file).drop(columns="seconds", errors="ignore")
            for file in sorted(runs.glob("*/*/*.parquet"))}


def test_a_study_runs_as_batch_jobs_and_takes_up_what_the_scheduler_killed(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    profile = study(here)
    study(there)
    record = chapters.record(profile, *TARGET)
    done = subprocess.run(snakemake_command(profile, 2, record), cwd=here, env=environment(here), text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    with slurm.running(cores=2) as cluster:
        command = [sys.executable, "-m", "snakemake", record, "--workflow-profile",
                   str(with_lines_of_the_cluster(there)), "--config", f"profile={profile.name}", *QUICK]
        submit = {"cwd": there, "env": {**cluster, **environment(there), "PATH": cluster["PATH"]}, "text": True,
                  "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, **submit) as engine:
            kept = there / "data" / "runs" / profile.name / "embedders"
            wait_for(lambda: list(kept.glob(".*.work/checkpoint-*/complete.json")), engine)
            training = numbered(cluster, "03_training")
            slurm.asked(cluster, "scontrol", "requeue", training)
            measure = wait_for(lambda: numbered(cluster, "measure"), engine)
            slurm.asked(cluster, "scancel", measure)
            said = engine.communicate()[0]
        assert engine.returncode != 0 and "CANCELLED" in said, said[-3000:]
        assert "Restarts=1" in slurm.asked(cluster, "scontrol", "show", "job", training)
        done = subprocess.run(command, **submit, check=False)
        assert done.returncode == 0, done.stdout[-3000:]
        ran = jobs(cluster, "CD")
        assert {name.split("_wildcards")[0].removeprefix("rule_") for name in ran} >= {
            "backbone", "mine", "03_training", "measure", "04_evaluation"}
    local, batch = tables(here, profile), tables(there, profile)
    assert local.keys() == batch.keys() and any("evaluation/" in name for name in local)
    for name, table in local.items():
        pd.testing.assert_frame_equal(table, batch[name], check_exact=True, obj=name)
    made = [store.read_json(file) for file in kept.glob("*/provenance.json")]
    assert [one["processes"] for one in made] == [2, 2]
