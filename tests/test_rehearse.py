"""A rehearsal on the hub on loopback: models, data and tasks by their published names, some of which fail."""

import mteb
import pandas as pd
import pytest
import transformers
from hub_tasks import dataset_files, publish
from tiny import tiny_backbone, tiny_tokenizer

from hrsa.models.embedder import assemble
from hrsa.models.miniature import write_miniature
from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import Profile, load_profile
from hrsa.texts.suite import load_training
from hrsa.workflow import commands
from hrsa.workflow.commands import main
from hrsa.workflow.rehearsal import checks, in_small, rehearse

# of mteb: newer versions of tasks
pytestmark = pytest.mark.filterwarnings("ignore:The task '.*' is superseded")

MODELS = ("Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B")
PAIRS = "org/pairs"
TASKS = ("STS12", "ArguAna")
PROFILE = {
    "name": "hubbed", "title": "A study from the hub", "seeds": [0, 1, 2],
    "backbones": [{"name": "base", "source": "hub", "path": MODELS[0], "arm": "base"},
                  {"name": "sft", "source": "hub", "path": MODELS[1], "arm": "sft", "start": "base"}],
    "pairs": [{"name": "base-vs-sft", "a": "base", "b": "sft", "kind": "SFT"}],
    "recipe": {"precision": "fp32", "max_length": 128, "batch_size": 64, "checkpoints": [50], "chunk_tokens": 4096},
    "suite": {"train": [f"hub:{PAIRS}", "data/nowhere.jsonl"], "uninstructed": "generic",
              "benchmarks": ["MTEB(Multilingual, v2)", "BRIGHT(v1.1)"],
              "benchmark_tasks": [*TASKS, "BrightEconomicsRetrieval"]}}


def published(name):
    """A task of the benchmarks that profile `paper` names."""
    benchmarks = load_profile("paper").suite.benchmarks
    found = [task for benchmark in benchmarks for task in mteb.get_benchmark(benchmark).tasks]
    return next(task for task in found if task.metadata.name == name)


def training_rows(count=40):
    """Pairs of the suite as a hub data set would have them."""
    smoke = load_profile("smoke")
    return load_training(smoke).groupby("task").head(count)[["instruction", "query", "positive"]].head(count)


@pytest.fixture
def study(hub, tmp_path, monkeypatch):
    """The study with a gated model, a task and a training set that are not there, and a reference embedder likewise."""
    monkeypatch.setattr(store, "RUNS", tmp_path)
    for seed, name in enumerate(MODELS):
        hub.commit(name, tiny_backbone(tmp_path / f"model-{seed}", seed))
    hub.repositories["model", MODELS[1]].gated = True
    hub.commit(PAIRS, dataset_files({"default": {"train": training_rows()}}), "dataset")
    for name in TASKS:
        publish(hub, published(name))
    return Profile.model_validate(PROFILE)


def findings(runs):
    return pd.read_csv(runs / "hubbed-rehearsal" / rehearse.TABLE, keep_default_na=False)


def reasons(table):
    """{(kind, what): reason} of what did not run."""
    return {(row.kind, row.what): row.reason for row in table[table["outcome"] != "ran"].itertuples()}


FAILS = {("model", f"sft ({MODELS[1]})"): "gated", ("training data", "data/nowhere.jsonl"): "missing",
         ("reference embedder", "Qwen/Qwen3-Embedding-0.6B"): "missing",
         ("task", "BrightEconomicsRetrieval"): "missing"}


@pytest.mark.paper
def test_all_that_works_runs_and_all_that_does_not_is_named(study, tmp_path, monkeypatch):
    text, fails = rehearse.run_rehearsal(study, 2)
    table = findings(tmp_path)
    assert fails and reasons(table) == FAILS
    small = load_profile(tmp_path / "hubbed-rehearsal" / "notebooks" / "profiles" / "hubbed-rehearsal.yaml")
    jobs = {(rule, name) for rule, names in chapters.jobs(small).items() for name in names}
    done = table[table["outcome"] == "ran"]
    assert jobs <= set(zip(done["kind"], done["what"], strict=True)), "every job of every kind"
    assert (tmp_path / "hubbed-rehearsal" / "jupyter_book" / "_build" / "html" / "index.html").is_file()
    assert "**gated**" in text and "index.html" in text


def test_the_page_says_what_fails_and_what_the_whole_costs(study, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(rehearse, "_run_jobs", lambda folder, small, *rest: ran.append((folder, small)) or [
        checks.Finding("mine", "study", "ran", seconds=2.0, peak_mb=300)])
    monkeypatch.setattr(commands, "load_profile", lambda name: study)
    assert main(["rehearse", "--profile", "hubbed"]) == 1
    text = capsys.readouterr().out
    table = findings(tmp_path)
    assert reasons(table) == FAILS
    assert all(word in text for word in ("4 of", "**gated**", "tokens/s", "texts/s", "GB of disk"))
    assert text == (tmp_path / "hubbed-rehearsal" / rehearse.PAGE).read_text(encoding="utf8")
    ((folder, small),) = ran
    assert set(small.suite.benchmark_tasks) == set(TASKS)
    assert small.suite.train == (f"hub:{PAIRS}",) and small.seeds == (0, 1) and small.recipe.steps <= 4
    assert (folder / "data" / "suite").resolve() == (store.ROOT / "data" / "suite").resolve()
    configs = [store.read_json(folder / "models" / name / "config.json") for name in ("base", "sft")]
    assert all(config["num_hidden_layers"] == 2 and config["model_type"] == "qwen3" for config in configs)
    assert not (tmp_path / "hubbed").exists(), "nothing of the study itself is touched"


def test_where_nothing_fails_the_exit_code_is_0(study, hub, tmp_path, monkeypatch, capsys):
    hub.repositories["model", MODELS[1]].gated = False
    suite = study.suite.model_copy(update={"train": (f"hub:{PAIRS}",), "benchmark_tasks": TASKS[:1]})
    mining = suite.mining.model_copy(update={"embedder": "bm25"})
    whole = study.model_copy(update={"suite": suite.model_copy(update={"mining": mining})})
    monkeypatch.setattr(rehearse, "_run_jobs", lambda *given: [])
    monkeypatch.setattr(commands, "load_profile", lambda name: whole)
    assert main(["rehearse", "--profile", "hubbed"]) == 0
    assert "trials and jobs ran." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["paper", "smoke", "mini", "smollm2", "smollm2-more", "gemma3"])
def test_every_profile_can_be_small(name, tmp_path):
    profile = load_profile(name)
    suite = in_small.small_suite(profile.suite)
    small = in_small.small_profile(profile, {b.name: tmp_path / b.name for b in profile.backbones}, suite)
    rules = set(chapters.jobs(profile)) - {"01_backbones"}  # which shows cards of what was made
    assert small.name == f"{name}-rehearsal" and rules <= set(chapters.jobs(small))
    assert small.recipe.steps <= profile.recipe.steps and len(small.seeds) <= 2
    assert {a.name for a in small.ablations} == {a.name for a in profile.ablations}


def test_a_pair_brings_what_it_starts_from():
    paper = in_small.selected_pairs(load_profile("paper"), ["r1-distill-vs-prorl", "qwen2.5-7b-vs-ppo-think"])
    assert {b.name for b in paper.backbones} == {"qwen2.5-math-1.5b", "r1-distill-1.5b", "prorl-1.5b", "qwen2.5-7b",
                                                 "ppo-think-7b"}
    assert [p.name for p in paper.pairs] == ["r1-distill-vs-prorl"] and len(paper.analysis_pairs) == 1
    with pytest.raises(ValueError, match="expected one of the pairs"):
        in_small.selected_pairs(load_profile("paper"), ["qwen2.5-7b-vs-ppo-think"])


@pytest.mark.parametrize(("message", "reason"), [
    ("expected x on the hub, got a gated repository (401)", "gated"), ("[Errno 28] No space left on device", "disk"),
    ("CUDA out of memory. Tried to allocate", "memory"), ("cell 3: the kernel died", "memory"),
    ("expected x on the hub, got no such repository, or a private one", "missing"),
    ("expected an architecture with the attention kernel sdpa, got x", "no SDPA"),
    ("expected a fast tokenizer, got Slow: save the backbone with one", "tokenizer"),
    ("expected x on the hub, got too many requests (429)", "hub"),
    ("expected the name of an mteb benchmark in suite.benchmarks, got 'x'", "task"), ("something else", "here")])
def test_an_error_has_its_word(message, reason):
    assert checks.reason_of(message, "here") == reason


def test_a_job_that_failed_and_those_that_wait_for_it(tmp_path):
    smoke = load_profile("smoke")
    folder = tmp_path / "data" / "runs" / "smoke"
    store.write_json(folder / "records" / "backbone" / "base.json", {"seconds": 1.5, "peak_mb": 100})
    (folder / "progress").mkdir()
    (folder / "progress" / "mine--study.failed").write_text("mine study: [Errno 28] No space left\non device")
    found = {(f.kind, f.what): f for f in rehearse.collected_jobs(tmp_path, smoke)}
    assert found["backbone", "base"] == ("backbone", "base", "ran", "", "", 1.5, 100)
    assert found["mine", "study"][2:5] == ("fails", "disk", "[Errno 28] No space left on device")
    assert found["03_training", "base-s0"][2:5] == ("not run", "waits", "it waits for mine study")


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama", "Mistral", "Gemma3Text", "Phi3", "Olmo2", "SmolLM3",
                                  "Qwen3Moe", "Mixtral"])
def test_a_miniature_is_of_its_own_architecture(kind, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "whole")
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer) + 8, pad_token_id=0, bos_token_id=None,
                                                    eos_token_id=1)
    config.save_pretrained(tmp_path / "whole")
    folder = write_miniature(tmp_path / "whole", tmp_path / "small", 0)
    network = assemble(str(folder), "bidirectional", 64)[0].model
    assert type(network).__name__.startswith(kind.removesuffix("Text")) and network.config.num_hidden_layers == 2
    assert network.config.hidden_size <= 512 < config.hidden_size
    assert network.get_input_embeddings().num_embeddings == config.vocab_size
