"""Models of the hub, asked of a server on loopback by the real clients: commits, what moves, and what is refused."""

import json
import os

import pytest
from tiny import tiny_backbone

from hrsa.models import resolve
from hrsa.models.language_model import load_lm
from hrsa.study import hub as hub_module
from hrsa.study import store
from hrsa.study.profile import Profile


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")


def study(**backbone) -> Profile:
    return Profile.model_validate({
        "name": "hubbed", "title": "t", "seeds": (), "pairs": [],
        "backbones": [{"name": "one", "source": "hub", "path": "org/tiny", "arm": "base"} | backbone]})


def test_a_model_is_pinned_to_the_commit_seen_first(hub, tmp_path):
    first = hub.commit("org/tiny", tiny_backbone(tmp_path / "a", 0))
    folder, key = resolve.make_backbone_folder(study(), "one"), resolve.make_backbone_key(study(), "one")
    assert key == f"org/tiny@{first}"
    before, _ = load_lm(folder)
    assert hub_module.moved(study()) == []
    second = hub.commit("org/tiny", tiny_backbone(tmp_path / "b", 1))
    asked = len(hub.asked)
    assert resolve.make_backbone_folder(study(), "one") == folder and resolve.make_backbone_key(study(), "one") == key
    assert len(hub.asked) == asked, "what is there already is not asked for again"
    after, _ = load_lm(resolve.make_backbone_folder(study(), "one"))
    assert all((p == q).all() for p, q in zip(before.parameters(), after.parameters(), strict=True))
    (said,) = hub_module.moved(study())
    assert f"main has moved from {first[:12]} to {second[:12]}" in said and "stays with the first" in said
    assert resolve.make_backbone_key(study(revision=second), "one") == f"org/tiny@{second}"
    record = json.loads((store.RUNS / "hubbed" / "hub" / "model--org--tiny--main.json").read_text())
    assert record["commit"] == first


def test_a_branch_is_a_revision(hub, tmp_path):
    hub.commit("org/tiny", tiny_backbone(tmp_path / "a", 0))
    other = hub.commit("org/tiny", tiny_backbone(tmp_path / "b", 1), branch="step-100")
    assert resolve.make_backbone_key(study(revision="step-100"), "one") == f"org/tiny@{other}"
    with pytest.raises(ValueError, match="expected a revision for source hub only"):
        study(revision="main", source="folder")


def test_a_connection_that_drops_is_taken_up_again(hub, tmp_path):
    hub.commit("org/tiny", tiny_backbone(tmp_path / "a", 2))
    hub.repositories["model", "org/tiny"].dropped = 2
    load_lm(resolve.make_backbone_folder(study(), "one"))
    assert hub.repositories["model", "org/tiny"].dropped == 0


def test_what_the_hub_refuses_is_told(hub, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="got no such repository, or a private one"):
        resolve.make_backbone_folder(study(), "one")
    folder = tiny_backbone(tmp_path / "a", 3)
    hub.commit("org/tiny", folder)
    one = hub.repositories["model", "org/tiny"]
    with pytest.raises(ValueError, match=r"got no such revision .*correct `revision`"):
        resolve.make_backbone_folder(study(revision="v9"), "one")
    one.limited = 1000
    with pytest.raises(ValueError, match="got too many requests"):
        resolve.make_backbone_folder(study(), "one")
    one.limited, one.gated = 0, True
    with pytest.raises(ValueError, match=r"got a gated repository .*ask for access"):
        resolve.make_backbone_folder(study(), "one")
    one.gated = False
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"got no answer .*connect to the hub"):
        resolve.make_backbone_folder(study(path="org/other"), "one")


def test_pickled_weights_are_refused(hub, tmp_path):
    folder = tiny_backbone(tmp_path / "a", 4)
    os.rename(folder / "model.safetensors", folder / "pytorch_model.bin")
    hub.commit("org/tiny", folder)
    with pytest.raises(ValueError, match="expected weights as safetensors in org/tiny"):
        resolve.make_backbone_folder(study(), "one")
    assert not [line for line in hub.asked if line.startswith("GET") and line.endswith(".bin")]
