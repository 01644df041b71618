"""Two processes train what one trains with the global batch, whole or sharded: started by a job and by hand, on CPU."""


import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer
from test_train import recipe, triples_table
from tiny import tiny_backbone

from hrsa.report.notebooks import JobError
from hrsa.study import store
from hrsa.study.profile import Profile, load_profile
from hrsa.training import distributed
from hrsa.training.batches import CUT
from hrsa.training.gradient_cache import blank, mini_batches_of
from hrsa.training.infonce import MASKED, InfoNCE
from hrsa.training.train import read_training_curve, train_embedder
from hrsa.workflow.commands import main
from hrsa.workflow.job import train_together

CONFIGS = store.ROOT / "configs/accelerate"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A tiny profile of two processes in a tree of its own; returns its file."""
    runs, suite = tmp_path / "data" / "runs", tmp_path / "data" / "suite"
    for name, folder in (("ROOT", tmp_path), ("RUNS", runs), ("SUITE", suite)):
        monkeypatch.setattr(store, name, folder)
    for name, value in {"HRSA_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HRSA_OWNER", raising=False)
    store.write_json(suite / "train" / "tasks.json", {})
    table = triples_table()
    table = table[table["task"] == "stones"].drop_duplicates("query").drop_duplicates("positive")
    table[["instruction", "query", "positive"]].to_json(tmp_path / "stones.jsonl", orient="records", lines=True)
    content = {"name": "tiny", "title": "Tiny", "seeds": [0], "processes": 2,
               "backbones": [{"name": "a", "source": "folder", "path": str(tiny_backbone(tmp_path / "a", 0)),
                              "arm": "base"}],
               "pairs": [], "recipe": recipe(steps=3, checkpoints=(2,)).model_dump(mode="json"),
               "suite": {"train": ["stones.jsonl"], "mining": {"embedder": "bm25"}}}
    file = tmp_path / "notebooks" / "profiles" / "tiny.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(content), encoding="utf8")
    return file


def read(folder):
    return (read_training_curve(folder), store.read_json(folder / "fingerprint.json"),
            {part: SentenceTransformer(str(folder / part), device="cpu").state_dict()
             for part in ("model", "checkpoints/step-000002")})


def same(one, other, atol):
    """Two runs' curves, fingerprints and weights (`read`) are the same: order and rates to the bit."""
    (curve, record, weights), (other_curve, other_record, other_weights) = one, other
    assert {k: v for k, v in record.items() if k not in ("processes", "recipe")} == {
        k: v for k, v in other_record.items() if k not in ("processes", "recipe")}
    exact = ["step", "task", "learning_rate", *MASKED, *CUT, "tokens", "batch"]
    pd.testing.assert_frame_equal(curve[exact], other_curve[exact], check_exact=True)
    assert np.allclose(curve["loss"], other_curve["loss"], rtol=1e-4)
    for part, values in weights.items():
        for name, value in values.items():
            assert torch.allclose(value, other_weights[part][name], atol=atol), (part, name)


def test_two_processes_are_one_with_the_global_batch_whole_or_sharded(study, tmp_path):
    profile = load_profile(study)
    train_together(profile, "a-s0")  # as a job of `make book` does
    (made,) = store.RUNS.rglob("a-s0-*/provenance.json")
    assert not list(tmp_path.rglob("*.partial")) and store.read_json(made)["processes"] == 2
    assert train_embedder(profile, "a-s0") == made.parent  # one process takes what two have made
    two, one = read(made.parent), read(train_embedder(profile.model_copy(update={"processes": 1}), "a-s0"))
    assert (two[1]["processes"], one[1]["processes"]) == (2, 1)
    same(two, one, 1e-4)
    content = yaml.safe_load(study.read_text(encoding="utf8"))
    content["name"], content["recipe"]["sharding"] = "sharded", "full"
    study.with_name("sharded.yaml").write_text(yaml.safe_dump(content), encoding="utf8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu.yaml"),
               "--main_process_port", "0", "-m", "hrsa.workflow.commands", "train", "sharded", "a-s0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (made,) = (store.RUNS / "sharded").rglob("a-s0-*/provenance.json")
    sharded = read(made.parent)
    assert sharded[1]["recipe"]["sharding"] == "full" and "sharding" not in two[1]["recipe"]
    same(sharded, two, 1e-6)


def test_another_number_of_processes_is_refused(study):
    profile = load_profile(study)
    with pytest.raises(ValueError, match=r"expected 2 process\(es\) to train a-s0, as profile tiny says, got 1: what"):
        train_embedder(profile, "a-s0")
    with pytest.raises(ValueError, match="expected a batch_size that divides by processes=3, got 4 in the recipe"):
        Profile.model_validate(profile.model_dump() | {"processes": 3})
    sharded = profile.recipe.model_copy(update={"sharding": "full"})
    alone = profile.model_copy(update={"processes": 1, "recipe": sharded})
    with pytest.raises(ValueError, match="expected processes of 2 or more for sharding: full in the recipe, got 1"):
        Profile.model_validate(alone.model_dump())
    with pytest.raises(ValueError, match=r"expected several processes for recipe.sharding: full, got one"):
        train_embedder(alone, "a-s0")


def test_a_job_says_what_the_first_process_that_failed_has_said(study):
    profile = load_profile(study).model_copy(update={"processes": 1})
    with pytest.raises(JobError, match=r"expected 1 process\(es\) to train a-s7, got: expected a model"):
        train_together(profile, "a-s7")


def test_every_configuration_is_read_by_accelerate():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {file.stem: load_config_from_file(str(file)) for file in CONFIGS.glob("*.yaml")}
    assert {name: (str(c.distributed_type).rpartition(".")[2], c.num_machines) for name, c in kinds.items()} == {
        "cpu": ("MULTI_GPU", 1), "one_machine": ("MULTI_GPU", 1), "several_machines": ("MULTI_GPU", 2)}
    assert not any(c.fsdp_config for c in kinds.values()), "the recipe says so, and the fingerprint with it"


def test_blank_passes_change_nothing(tmp_path, rng):
    from test_infonce import columns_of, difference, embedder, gradients

    model = embedder(tiny_backbone(tmp_path, 0))
    features, labels = columns_of(model, rng)
    loss, expected, _ = gradients(model, features, labels, 160)
    mini_batches, where = mini_batches_of(features, 40)
    mini_batches += [blank(mini_batches[-1])] * 2
    module = InfoNCE(model, 0.1, 160)
    distinct = module._embed(mini_batches, True)
    embeddings = distinct[where].requires_grad_()
    model.zero_grad()
    again = module._loss(embeddings, labels["ids"], torch.cat([labels["ids"][:, :2], labels["known"]], 1))
    module._carry(mini_batches, torch.zeros_like(distinct).index_add_(0, where, embeddings.grad), torch.ones(()))
    got = {name: p.grad for name, p in model.named_parameters()}
    assert float(again) == pytest.approx(loss, rel=1e-5) and difference(got, expected) < 1e-6


def test_sharding_needs_a_list_of_blocks(tmp_path):
    from test_infonce import embedder

    from hrsa.training.trainer import _blocks

    model = embedder(tiny_backbone(tmp_path, 0))
    assert _blocks(model) == {"Qwen3DecoderLayer"}
    model[0].model.layers = torch.nn.Sequential(*model[0].model.layers)
    with pytest.raises(ValueError, match=r"expected a network with a list of blocks for recipe.sharding: full, got"):
        _blocks(model)


def test_a_batch_that_does_not_divide(monkeypatch, tmp_path):
    from hrsa.training.trainer import arguments

    monkeypatch.setattr(distributed, "count", lambda: 3)
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 4"):
        arguments(recipe(), 0, tmp_path)


def test_command_line_errors(study, capsys):
    assert main(["train", str(study), "a-s7"]) == 1
    assert "hrsa: expected a model of profile tiny" in capsys.readouterr().err
    assert isinstance(load_profile("paper"), Profile) and load_profile("paper").recipe.batch_size % 16 == 0
