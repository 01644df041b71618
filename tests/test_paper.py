"""Profile `paper` at toy size from the hub on loopback, by the names that it gives: run by `make test-paper`."""

import json
import subprocess

import mteb
import pandas as pd
import pytest
import torch
from hub_tasks import dataset_files, publish
from tiny import tiny_tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import checked_profile, load_profile
from hrsa.texts.suite import load_training
from hrsa.workflow import compare_two
from hrsa.workflow.rehearsal import in_small, rehearse

pytestmark = [pytest.mark.paper, pytest.mark.filterwarnings("ignore:The task '.*' is superseded"),
              pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]
PAPER = load_profile("paper")
SOME = ("STS12", "ArguAna", "AppsRetrieval", "BrightBiologyRetrieval", "SprintDuplicateQuestions",
        "DBpediaClassification")  # tasks of several shapes, of all three benchmarks
PAIRS = ("qwen3-0.6b-base-vs-sft", "qwen2.5-7b-vs-ppo-think")  # of trained arms, and as they came
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 48, "max_position_embeddings": 1024, "initializer_range": 0.2, "eos_token_id": 1}


def write_model(folder, name, seed):
    """A tiny model of the architecture that the hub has under this name."""
    newer = "Qwen3" in name or "Polaris-4B" in name
    tokenizer = tiny_tokenizer()
    size = {**SIZES, "vocab_size": len(tokenizer) + 8, "bos_token_id": None}
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(head_dim=8, **size)) if newer else Qwen2ForCausalLM(Qwen2Config(**size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_files(folder):
    """Triples in the published form, and pairs as a data set on the hub would have them."""
    smoke = load_profile("smoke")
    pairs = load_training(smoke)
    one = pairs[pairs["task"] == pairs["task"].iloc[0]].reset_index(drop=True)
    wrong = one["positive"].tolist()
    with open(folder / "train.jsonl", "w", encoding="utf8") as file:
        for i, row in one.iterrows():
            negatives = [wrong[(i + n) % len(wrong)] for n in (1, 2, 3)]
            file.write(json.dumps({"query": [row["instruction"], row["query"]], "pos": [row["positive"]],
                                   "neg": negatives}) + "\n")
    other = pairs[pairs["task"] == pairs["task"].iloc[-1]]
    return folder / "train.jsonl", other[["instruction", "query", "positive"]]


@pytest.fixture
def paper(hub, tmp_path):
    """The profile with its models and some of its tasks on the hub, and training data in the published form."""
    for seed, backbone in enumerate(PAPER.backbones):
        hub.commit(backbone.path, write_model(tmp_path / "hub" / backbone.name, backbone.path, seed))
    hub.commit(PAPER.suite.mining.embedder, write_model(tmp_path / "hub" / "reference", "Qwen3", 99))
    tasks = {t.metadata.name: t for name in PAPER.suite.benchmarks for t in mteb.get_benchmark(name).tasks}
    for name in SOME:
        publish(hub, tasks[name])
    file, unmined = train_files(tmp_path)
    hub.commit("org/pairs", dataset_files({"default": {"train": unmined}}), "dataset")
    suite = PAPER.suite.model_copy(update={"train": (str(file), "hub:org/pairs")})
    return PAPER.model_copy(update={"suite": suite})


def test_every_model_and_task_of_the_profile_is_tried(paper, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(rehearse, "_run_jobs", lambda *given: [])
    _, fails = rehearse.run_rehearsal(paper, 1)
    table = pd.read_csv(tmp_path / "runs" / "paper-rehearsal" / rehearse.TABLE, keep_default_na=False)
    ran = table[table["outcome"] == "ran"].groupby("kind")["what"].agg(set)
    assert len(ran["model"]) == len(PAPER.backbones) and len(ran["training data"]) == 2
    more = ran["task"] - set(SOME)
    assert set(SOME) <= ran["task"] and all(name.startswith("Bright") for name in more), "whose tasks share a data set"
    lost = table[(table["kind"] == "task") & (table["outcome"] == "fails")]
    assert fails and len(lost) > 100 and set(lost["reason"]) == {"missing"}, "the others are not on this hub"


def test_the_profile_runs_from_the_hub_to_the_book(paper, tmp_path):
    profile = in_small.selected_pairs(paper, PAIRS)
    suite = in_small.small_suite(profile.suite).model_copy(update={"benchmark_tasks": SOME})
    small = in_small.small_profile(profile, {b.name: tmp_path / b.name for b in profile.backbones}, suite)
    small = checked_profile({**small.model_dump(mode="json"), "threads": 1, "backbones": [
        b.model_dump(mode="json") for b in profile.backbones]}, "paper in small, from the hub")
    rehearse.write_root(tmp_path / "study", small)
    command, environment = compare_two.book_command(tmp_path / "study", small, 2)
    done = subprocess.run(command, env=environment, cwd=tmp_path / "study", check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for rule, names in chapters.jobs(small).items():
        for name in names:
            assert (tmp_path / "study" / chapters.record(small, rule, name)).is_file(), (rule, name)
    runs = tmp_path / "study" / "data" / "runs" / small.name
    commits = [store.read_json(file)["repository"] for file in (runs / "hub").glob("model--*.json")]
    assert set(commits) == {b.path for b in small.backbones}, "each model was pinned and downloaded"
    (scores,) = runs.glob("evaluation/qwen3-0.6b-s0-*/scores.parquet")
    assert set(pd.read_parquet(scores)["task"]) == set(SOME)
    assert (tmp_path / "study" / "jupyter_book" / "_build" / "html" / "13_verdict.html").is_file()
