"""Two processes train what one trains with the global batch: by the documented command, on CPU."""


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


def alone(profile):
    """What one process makes of the profile's embedder: curve, fingerprint and weights."""
    return read(train_embedder(profile.model_copy(update={"processes": 1}), "a-s0"))


def same_but_for_rounding(two, one):
    (curve, record, weights), (one_curve, one_record, one_weights) = two, one
    assert (record.pop("processes"), one_record.pop("processes")) == (2, 1) and record == one_record
    same = ["step", "task", "learning_rate", *MASKED, *CUT, "tokens", "batch"]
    pd.testing.assert_frame_equal(curve[same], one_curve[same], check_exact=True)
    assert np.allclose(curve["loss"], one_curve["loss"], rtol=1e-4)
    for part, values in weights.items():
        for name, value in values.items():
            assert torch.allclose(value, one_weights[part][name], atol=1e-4), (part, name)


def test_a_job_starts_two_processes_that_are_one_with_the_global_batch(study, tmp_path):
    profile = load_profile(study)
    train_together(profile, "a-s0")
    (made,) = store.RUNS.rglob("a-s0-*/provenance.json")
    assert not list(tmp_path.rglob("*.partial")) and store.read_json(made)["processes"] == 2
    assert train_embedder(profile, "a-s0") == made.parent  # one process takes what two have made
    same_but_for_rounding(read(made.parent), alone(profile))


def test_another_number_of_processes_is_refused(study):
    profile = load_profile(study)
    with pytest.raises(ValueError, match=r"expected 2 process\(es\) to train a-s0, as profile tiny says, got 1: what"):
        train_embedder(profile, "a-s0")
    with pytest.raises(ValueError, match="expected a batch_size that divides by processes=3, got 4 in the recipe"):
        Profile.model_validate(profile.model_dump() | {"processes": 3})


def test_a_job_says_what_the_first_process_that_failed_has_said(study):
    profile = load_profile(study).model_copy(update={"processes": 1})
    with pytest.raises(JobError, match=r"expected 1 process\(es\) to train a-s7, got: expected a model"):
        train_together(profile, "a-s7")


def test_every_configuration_is_read_by_accelerate():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {file.stem: load_config_from_file(str(file)) for file in CONFIGS.glob("*.yaml")}
    assert {name: str(c.distributed_type).rpartition(".")[2] for name, c in kinds.items()} == {
        "cpu": "MULTI_GPU", "one_machine": "MULTI_GPU", "fsdp": "FSDP"}
    assert kinds["fsdp"].num_machines == 2 and kinds["fsdp"].fsdp_config["fsdp_version"] == 2


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


def test_a_batch_that_does_not_divide(monkeypatch, tmp_path):
    from hrsa.training.trainer import arguments

    monkeypatch.setattr(distributed, "count", lambda: 3)
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 4"):
        arguments(recipe(), 0, tmp_path)


def test_command_line_errors(study, capsys):
    assert main(["train", str(study), "a-s7"]) == 1
    assert "hrsa: expected a model of profile tiny" in capsys.readouterr().err
    assert isinstance(load_profile("paper"), Profile) and load_profile("paper").recipe.batch_size % 16 == 0
