"""Controls: random starts, starts with noise, and positives that belong to other queries."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_backbone
from transformers import AutoModelForCausalLM, AutoTokenizer

from hrsa.models import derived, resolve
from hrsa.study import backbone_kinds, store
from hrsa.study.profile import Profile
from hrsa.training.batches import draw_batches, shuffle_positives


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("start") / "start", 0)


@pytest.fixture
def study(start, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    return Profile.model_validate({
        "name": "derived", "title": "x", "seeds": [0],
        "pairs": [{"name": "x", "a": "base", "b": "far", "kind": "control"}],
        "backbones": [{"name": "base", "source": "folder", "path": str(start), "arm": "base"},
                      {"name": "far", "source": "random", "arm": "control", "start": "base", "seed": 5},
                      {"name": "other", "source": "random", "arm": "control", "start": "base", "seed": 7},
                      {"name": "near", "source": "noised", "arm": "control", "start": "base", "noise": 0.25}]})


def weights(folder):
    return {key: value.detach() for key, value in AutoModelForCausalLM.from_pretrained(folder).named_parameters()}


def test_controls_have_the_shape_and_words_of_their_start_and_other_weights(study, start):
    own = weights(start)
    made = {name: weights(resolve.make_backbone_folder(study, name)) for name in ("far", "other", "near")}
    for name, found in made.items():
        assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in own.items()}
        words = AutoTokenizer.from_pretrained(resolve.make_backbone_folder(study, name))
        assert words("stone of the river")["input_ids"] == AutoTokenizer.from_pretrained(start)(
            "stone of the river")["input_ids"]
    matrices = [key for key, value in own.items() if value.ndim > 1]
    for key in own:
        change = made["near"][key] - own[key]
        if key in matrices:
            assert float(change.std() / own[key].std()) == pytest.approx(0.25, rel=0.1)
            angle = torch.nn.functional.cosine_similarity(made["far"][key].flatten(), own[key].flatten(), dim=0)
            assert abs(angle) < 0.2 and not torch.equal(made["far"][key], made["other"][key])
        else:
            assert torch.equal(made["near"][key], own[key])
    assert len({resolve.make_backbone_key(study, name) for name in ("base", "far", "other", "near")}) == 4
    assert not any(backbone_kinds.has_card(study.backbone(name)) for name in ("far", "near"))


def test_a_control_is_the_same_every_time_it_is_made(start, tmp_path):
    for name in ("one", "two"):
        derived.add_noise(start, tmp_path / name / "noise", 0.1, 3, 1)
        derived.randomise(start, tmp_path / name / "random", 3, 1)
    for kind in ("noise", "random"):
        one, two = (weights(tmp_path / name / kind) for name in ("one", "two"))
        assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_shuffled_positives_belong_to_other_queries_of_the_task(rng):
    seed = int(rng.integers(2**31))
    sizes = {"a": 9, "b": 2, "c": 30}
    rows = [{"task": task, "instruction": task, "query": f"{task}{i}", "positive": f"p {task}{i}",
             "negatives": [f"n {task}{i}"]} for task, size in sizes.items() for i in range(size)]
    table = pd.DataFrame(rows).sample(frac=1, random_state=seed % 1000)
    found = shuffle_positives(table, seed)
    columns = ["task", "instruction", "positive", "negatives"]
    pd.testing.assert_frame_equal(found[columns], table[columns])
    assert (found["query"] != table["query"]).all() and (found["query"].str[0] == found["task"]).all()
    assert sorted(found["query"]) == sorted(table["query"])
    assert table["query"].equals(table["positive"].str[2:].rename("query")), "what was given stays as it was"
    pd.testing.assert_frame_equal(shuffle_positives(table, seed), found)
    assert not shuffle_positives(table, seed + 1)["query"].equals(found["query"])
    groups = table["task"].to_numpy(dtype=str)
    assert np.array_equal(draw_batches(groups, 2, 5, seed), draw_batches(found["task"].to_numpy(dtype=str), 2, 5, seed))
