"""Evaluation: real mteb on small real tasks with a small random Qwen3 encoder."""

import math
import re

import mteb
import numpy as np
import pandas as pd
import pytest
from mteb.types import PromptType
from sklearn.metrics import average_precision_score
from tiny import tiny_backbone

from hrsa.evaluation import evaluate
from hrsa.evaluation.embedding_cache import Embeddings, cache_size, text_key
from hrsa.evaluation.encoder import BM25Search, InstructedEncoder, model_meta, task_instruction
from hrsa.evaluation.item_scores import (
    per_item_scores,
    precision_at_positives,
    recording,
    rescore,
    right_at_best_threshold,
)
from hrsa.evaluation.tasks import local_task, study_tasks, task_family
from hrsa.models.embedder import assemble
from hrsa.study import runtime
from hrsa.study import store as paths
from hrsa.study.profile import Profile, Suite, load_profile
from hrsa.texts.bm25 import BM25
from hrsa.texts.suite import EvalTask, query_prompt

WORDS = ["ring", "graph", "prime", "matrix", "vector", "proof", "lemma", "bound", "chord", "angle", "circle", "count",
         "sum", "parity", "tree", "path", "edge", "node", "cycle", "basis", "kernel", "image", "group", "field"]
META = model_meta("tiny", "0")


def sentence(rng, n=6):
    return " ".join(rng.choice(WORDS, n))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Qwen3 SentenceTransformer: 2 layers, 32 dimensions, bidirectional, instruction left out of pooling."""
    return assemble(str(tiny_backbone(tmp_path_factory.mktemp("tiny"), seed=0)), "bidirectional", max_length=256)


class Recorder:
    """A real encoder that remembers which texts it was given under which prompt."""

    def __init__(self, model):
        self.model, self.max_seq_length, self.tokenizer, self.calls = model, model.max_seq_length, model.tokenizer, []

    def __getitem__(self, i):
        return self.model[i]

    def encode(self, texts, *, prompt, **kwargs):
        self.calls.append((prompt, list(texts)))
        return self.model.encode(texts, prompt=prompt, **kwargs)


class Prompts(Recorder):
    """Remembers as well, and encodes nothing: for what is asked, not for what comes back."""

    def encode(self, texts, *, prompt, **kwargs):
        self.calls.append((prompt, list(texts)))
        return np.ones((len(texts), 2))


def make_task(rng, family, instruction="Find the passage that answers.", **changes):
    n = 24
    common = {"name": f"Tiny{family.title()}", "family": family, "reasoning": False, "instruction": instruction}
    if family == "retrieval":
        corpus = pd.DataFrame({"id": [f"d{i}" for i in range(n)], "text": [sentence(rng) for _ in range(n)]})
        corpus.loc[3, "text"] = corpus.loc[4, "text"]  # a tie
        queries = pd.DataFrame({"id": [f"q{i}" for i in range(8)], "text": [sentence(rng, 4) for _ in range(8)]})
        qrels = {f"q{i}": {f"d{j}": int(rng.integers(1, 3)) for j in rng.choice(n, 3, replace=False)} for i in range(8)}
        tables = {"corpus": corpus, "queries": queries, "qrels": qrels, "metric": "ndcg_at_10"}
    elif family == "clustering":
        tables = {"metric": "v_measure", "test": pd.DataFrame(
            {"sentences": [sentence(rng) for _ in range(n)], "labels": [f"c{i % 3}" for i in range(n)]})}
    elif family == "classification":
        rows = [pd.DataFrame({"text": [sentence(rng) for _ in range(n)], "label": [i % 3 for i in range(n)]})
                for _ in range(2)]
        tables = {"metric": "accuracy", "train": rows[0], "test": rows[1]}
    else:
        table = pd.DataFrame({f"sentence{i}": [sentence(rng) for _ in range(n)] for i in (1, 2)})
        if family == "pair":
            table["labels"] = [i % 2 for i in range(n)]
            tables = {"metric": "max_ap", "test": table}
        else:
            table["score"] = rng.integers(0, 6, n).astype(float)
            tables = {"metric": "cosine_spearman", "test": table}
    return EvalTask(**{**common, **tables, **changes})


def encoder(model, **kwargs):
    return InstructedEncoder(model, META, "bidirectional", **kwargs)


# --- instructions -----------------------------------------------------------------------------------------------


def test_queries_carry_the_instruction_and_documents_none(model, rng, tmp_path):
    task, recorder = make_task(rng, "retrieval"), Recorder(model)
    evaluate.run_task(encoder(recorder), local_task(task), tmp_path)
    by_prompt = {prompt: set(texts) for prompt, texts in recorder.calls}
    assert by_prompt[query_prompt(task.instruction)] == set(task.queries["text"])
    assert by_prompt[""] == set(task.corpus["text"])
    assert len(by_prompt) == 2


@pytest.mark.parametrize("kind", ["pair", "sts", "clustering", "classification"])
def test_every_text_of_a_symmetric_task_is_a_query(model, rng, tmp_path, kind):
    task, recorder = make_task(rng, kind), Recorder(model)
    evaluate.run_task(encoder(recorder), local_task(task), tmp_path)
    assert {prompt for prompt, _ in recorder.calls} == {query_prompt(task.instruction)}


def test_embeddings_are_those_of_plain_sentence_transformers_and_each_text_is_encoded_once(model, rng, tmp_path):
    task, recorder = make_task(rng, "pair"), Recorder(model)
    task.test["sentence2"] = task.test["sentence1"].to_numpy()[::-1]
    made = encoder(recorder)
    evaluate.run_task(made, local_task(task), tmp_path)
    texts = [text for _, batch in recorder.calls for text in batch]
    assert sorted(texts) == sorted(set(task.test["sentence1"]))
    plain = model.encode(texts, prompt=query_prompt(task.instruction), show_progress_bar=False)
    np.testing.assert_allclose(np.stack(list(made.kept.values())), plain, atol=1e-6)


def test_task_without_instruction_is_refused_unless_told(model, rng, tmp_path):
    task = make_task(rng, "retrieval", instruction="")
    with pytest.raises(RuntimeError, match=r"TinyRetrieval.*expected an instruction.*suite\.uninstructed"):
        evaluate.run_task(encoder(model), local_task(task), tmp_path)
    recorder = Recorder(model)
    evaluate.run_task(encoder(recorder, uninstructed="bare"), local_task(task), tmp_path)
    assert {prompt for prompt, _ in recorder.calls} == {""}
    code = mteb.get_task("COIRCodeSearchNetRetrieval")
    assert task_instruction(code.metadata, "generic") == code.abstask_prompt
    with pytest.raises(ValueError, match="COIRCodeSearchNetRetrieval"):
        task_instruction(code.metadata)


def test_queries_of_each_bright_domain_carry_its_own_instruction(model):
    posts = ("Biology", "EarthScience", "Economics", "Psychology", "Robotics", "Stackoverflow", "SustainableLiving")
    kinds = {name: f"{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name).lower()} post for searching relevant passages"
             for name in posts}
    kinds |= {"Pony": "Pony question for searching relevant passages",
              "Leetcode": "Coding problem for searching relevant examples",
              "Aops": "Math problem for searching relevant examples",
              "TheoremQATheorems": "Math problem for searching relevant theorems",
              "TheoremQAQuestions": "Math problem for searching relevant examples"}
    tasks = list(study_tasks(profile_of(benchmarks=("BRIGHT(v1.1)",))))
    assert len(tasks) == 20
    for task in tasks:
        domain = re.fullmatch("Bright(.+?)(Long)?Retrieval", task.metadata.name)[1]
        recorder = Prompts(model)
        for side in (PromptType.query, PromptType.document):
            encoder(recorder).encode([{"text": ["a text"]}], task_metadata=task.metadata, hf_split="standard",
                                     hf_subset="default", prompt_type=side)
        assert [prompt for prompt, _ in recorder.calls] == [query_prompt(f"Represent this {kinds[domain]}: "), ""]


@pytest.mark.parametrize(("name", "size"), [("MTEB(Multilingual, v2)", 131), ("MTEB(Code, v1)", 12),
                                            ("MTEB(eng, v2)", 41)])
def test_official_benchmarks_resolve_by_name(name, size):
    tasks = list(study_tasks(profile_of(benchmarks=(name,))))
    assert [t.metadata.name for t in tasks] == [t.metadata.name for t in mteb.get_benchmark(name).tasks]
    assert len(tasks) == size and all(task_instruction(t.metadata, "generic") for t in tasks)


def test_vectors_of_zeros_are_refused(model, rng, tmp_path):
    task = make_task(rng, "retrieval", instruction="Find " + " ".join(WORDS * 4))
    with pytest.raises(RuntimeError, match="max_seq_length of 256 tokens leaves no room"):
        evaluate.run_task(encoder(model), local_task(task), tmp_path)


# --- the leak probe and the store -------------------------------------------------------------------------------


def test_a_model_whose_switch_is_undone_is_refused(tmp_path):
    loaded = assemble(str(tiny_backbone(tmp_path, seed=0)), "bidirectional", max_length=64)
    encoder(loaded)
    with pytest.raises(RuntimeError, match="expected causal attention"):
        InstructedEncoder(loaded, META, "causal")
    loaded[0].model.config.is_causal = True
    with pytest.raises(RuntimeError, match=r"expected bidirectional attention.*Set config\.is_causal"):
        encoder(loaded)


def test_stored_embeddings_come_back_and_only_new_texts_are_encoded(model, rng, tmp_path):
    first, second = make_task(rng, "retrieval"), make_task(rng, "sts")
    queries, corpus = first.queries["text"], first.corpus["text"]
    plain = evaluate.run_task(encoder(model), local_task(first), tmp_path / "plain")
    filling = encoder(model, store=Embeddings(tmp_path / "s"))
    assert evaluate.run_task(filling, local_task(first), tmp_path / "a") == plain
    recorder, store = Recorder(model), Embeddings(tmp_path / "s")
    assert evaluate.run_task(encoder(recorder, store=store), local_task(first), tmp_path / "b") == plain
    assert recorder.calls == []
    first.corpus.loc[0, "text"] = "a text that was not there"
    for task in (first, second):
        evaluate.run_task(encoder(recorder, store=store), local_task(task), tmp_path / "c")
    encoded = {text for _, texts in recorder.calls for text in texts}
    assert encoded == {"a text that was not there", *second.test["sentence1"], *second.test["sentence2"]}
    count, used = cache_size(tmp_path / "s")
    assert count == len(set(queries)) + len({*corpus, "a text that was not there"}) + len(encoded) - 1
    assert count * (4 * 32 + 32) < used == sum(f.stat().st_size for f in (tmp_path / "s").iterdir())


def test_the_same_embeddings_are_the_same_file(rng, tmp_path):
    keys, vectors = [text_key("", str(i)) for i in range(3)], rng.normal(size=(3, 4)).astype(np.float32)
    for name in map(str, range(20)):
        Embeddings(tmp_path / name).add(keys, vectors)
    assert len({file.read_bytes() for file in tmp_path.rglob("*.safetensors")}) == 1


def test_half_written_embeddings_are_never_used(rng, tmp_path, caplog):
    folder, keys = tmp_path / "s", [text_key("", f"text {i}") for i in range(8)]
    vectors = rng.normal(size=(8, 5)).astype(np.float32)
    store = Embeddings(folder)
    store.add(keys[:4], vectors[:4])
    store.add(keys[4:], vectors[4:])
    (folder / f".{'0' * 16}.safetensors.1.partial").write_bytes(b"cut short")
    again = Embeddings(folder).take([*keys, text_key("", "unknown")])
    assert list(again) == keys and all((again[key] == row).all() for key, row in zip(keys, vectors, strict=True))
    whole = {file: file.read_bytes() for file in folder.glob("*.safetensors")}
    harms = {"cut": lambda content: content[: int(rng.integers(1, len(content)))],
             "zeros": lambda content: content.replace(vectors[1].tobytes(), bytes(20)).replace(
                 vectors[5].tobytes(), bytes(20)), "empty": lambda content: b""}
    for harm in harms.values():
        for file in whole:
            opened = Embeddings(folder)
            file.write_bytes(harm(whole[file]))
            for found in (opened, Embeddings(folder)):  # met while in use, and when opened
                left = found.take(keys)
                assert len(left) == 4 and all((left[key] == vectors[keys.index(key)]).all() for key in left)
            assert not file.exists() and "is not whole" in caplog.text
            file.write_bytes(whole[file])


# --- scores per item --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["retrieval", "pair", "sts", "clustering", "classification"])
def test_items_average_to_the_headline(model, rng, tmp_path, kind):
    task = make_task(rng, kind)
    value, items = evaluate.run_task(encoder(model), local_task(task), tmp_path)
    stored = mteb.ResultCache(tmp_path).load_task_result(task.name, META)
    assert value == pytest.approx(np.mean(list(items.values())), abs=1e-9)
    assert value == pytest.approx(stored.get_score(), abs=1e-5)  # mteb's JSON is rounded
    expected = {"retrieval": len(task.qrels), "pair": 12, "clustering": 10}.get(kind, 24)
    assert len(items) == expected


def test_ndcg_per_query_equals_the_formula(model, rng, tmp_path):
    task = make_task(rng, "retrieval")
    _, items = evaluate.run_task(encoder(model), local_task(task), tmp_path)
    run = paths.read_json(tmp_path / "predictions" / "TinyRetrieval_predictions.json")["default"]["test"]
    for query, relevant in task.qrels.items():
        ranked = sorted(run[query], key=lambda d: (run[query][d], d), reverse=True)[:10]
        gain = sum(relevant.get(d, 0) / math.log2(rank + 2) for rank, d in enumerate(ranked))
        ideal = sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(relevant.values(), reverse=True)[:10]))
        assert items[query] == pytest.approx(gain / ideal, abs=1e-9)


def test_a_run_file_that_does_not_rescore_is_refused(model, rng, tmp_path):
    task, scored = recording(local_task(make_task(rng, "retrieval")))
    with runtime.quiet(*evaluate.TASK_LOGGERS):
        result = mteb.evaluate(encoder(model), task, cache=None, co2_tracker=False, prediction_folder=tmp_path,
                               show_progress_bar=False).task_results[0]
    file = tmp_path / task.prediction_file_name
    content = paths.read_json(file)
    content["default"]["test"]["q0"] = {d: -score for d, score in content["default"]["test"]["q0"].items()}
    assert per_item_scores(task, result, file, scored)
    paths.write_json(file, content)
    with pytest.raises(ValueError, match="re-score to mteb's ndcg_at_10"):
        per_item_scores(task, result, file, scored)


def test_a_recording_leaves_the_task_as_it_was(model, rng, tmp_path):
    task = local_task(make_task(rng, "retrieval"))
    before, kind = dict(vars(task)), type(task)
    _, items = evaluate.run_task(encoder(model), task, tmp_path)
    assert vars(task) == before and type(task) is kind
    assert items.keys() == task.dataset["default"]["test"]["relevant_docs"].keys()
    recorder, scored = recording(task)
    assert isinstance(recorder, kind) and type(recorder) is type(recording(task)[0]) and scored == {}
    pair = local_task(make_task(rng, "pair"))
    assert recording(pair) == (pair, {})


def test_a_query_that_is_a_document_does_not_find_itself(model, rng, tmp_path):
    corpus = make_task(rng, "retrieval").corpus[:9]  # all are ranked, all others right: itself costs unless it is last
    task = make_task(rng, "retrieval", queries=corpus[:8], corpus=corpus, name="Self",
                     qrels={f"d{i}": {f"d{j}": 1 for j in range(9) if j != i} for i in range(8)})
    _, items = evaluate.run_task(encoder(model), local_task(task), tmp_path)
    run = paths.read_json(tmp_path / "predictions" / "Self_predictions.json")["default"]["test"]
    assert "d0" in run["d0"]
    assert items == rescore(run, task.qrels, "ndcg_at_10", ignore_identical_ids=True)
    assert items != rescore(run, task.qrels, "ndcg_at_10")


def test_pair_items_with_ties(rng):
    similarity = rng.integers(0, 6, 60).astype(float)
    labels = rng.integers(0, 2, 60)
    labels[:2] = 0, 1
    items = precision_at_positives(similarity, labels)
    assert np.mean(list(items.values())) == pytest.approx(average_precision_score(labels, similarity), abs=1e-12)
    right = right_at_best_threshold(similarity, labels)
    best = max(((similarity >= t) == labels).mean() for t in range(1, 6))
    assert np.mean(list(right.values())) == pytest.approx(best, abs=1e-12)


def test_pair_accuracy_items_average_to_mtebs(model, rng, tmp_path):
    task = local_task(make_task(rng, "pair", metric="max_accuracy"))
    value, items = evaluate.run_task(encoder(model), task, tmp_path)
    assert len(items) == 24 and value == pytest.approx(np.mean(list(items.values())), abs=1e-9)


@pytest.mark.parametrize("name", ["MockMultilingualRerankingTask", "MockMultilingualRetrievalTask",
                                  "MockMultilingualSTSTask", "MockMultilingualPairClassificationTask",
                                  "MockMultilabelClassification", "MockMultilingualInstructionReranking"])
def test_mtebs_own_test_tasks_have_items(model, tmp_path, name):
    from mteb.mocks import mock_tasks

    task = getattr(mock_tasks, name)()
    value, items = evaluate.run_task(encoder(model, uninstructed="generic"), task, tmp_path)
    parts = pd.Series(items).groupby(["all" if name == "all" else name.rpartition("/")[0] for name in items]).mean()
    assert value == pytest.approx(parts.mean(), abs=1e-5)  # mteb: mean over subsets, rounded


# --- the stage --------------------------------------------------------------------------------------------------


def test_a_failed_task_fails_the_stage_and_finished_tasks_are_kept(model, rng, tmp_path):
    tasks = [make_task(rng, "pair"), make_task(rng, "retrieval", instruction=""), make_task(rng, "sts")]
    with pytest.raises(RuntimeError, match=r"failed on TinyRetrieval.*no average is taken"):
        evaluate._score_tasks(lambda: encoder(model), "tiny", [local_task(t) for t in tasks], tmp_path)
    kept = sorted((tmp_path / "tables").glob("*.score.parquet"))
    assert [file.name for file in kept] == ["TinyPair.score.parquet"]
    before, recorder = kept[0].stat().st_mtime_ns, Recorder(model)
    tasks[1] = make_task(rng, "retrieval")
    scores, items = evaluate._score_tasks(
        lambda: encoder(recorder), "tiny", [local_task(t) for t in tasks], tmp_path)
    assert kept[0].stat().st_mtime_ns == before
    assert not set(tasks[0].test["sentence1"]) & {text for _, texts in recorder.calls for text in texts}
    assert list(scores["task"]) == ["TinyPair", "TinyRetrieval", "TinySts"]
    assert set(items["task"]) == set(scores["task"])


def test_results_load_in_mtebs_cache(model, rng, tmp_path):
    tasks = [make_task(rng, kind) for kind in ("retrieval", "clustering")]
    scores, _ = evaluate._score_tasks(lambda: encoder(model), "tiny", [local_task(t) for t in tasks], tmp_path)
    loaded = mteb.ResultCache(tmp_path).load_results(include_remote=False)
    assert [result.model_name for result in loaded] == ["hrsa/tiny"]
    found = {result.task_name: result.get_score() for result in loaded[0].task_results}
    assert found == pytest.approx(dict(zip(scores["task"], scores["value"], strict=True)), abs=1e-5)


def test_nothing_but_the_bar_is_written(model, rng, tmp_path, capfd):
    evaluate._score_tasks(lambda: encoder(model), "tiny", [local_task(make_task(rng, "retrieval"))], tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert all("evaluation · tiny" in line for line in re.split(r"[\r\n]+", err) if line.strip(" \x1b[A"))


def test_same_bits_twice(model, rng, tmp_path):
    task = make_task(rng, "retrieval")
    first = evaluate.run_task(encoder(model), local_task(task), tmp_path / "a")
    assert evaluate.run_task(encoder(model), local_task(task), tmp_path / "b") == first


def profile_of(**suite) -> Profile:
    smoke = load_profile("smoke")
    return smoke.model_copy(update={"suite": Suite(**{"max_docs": 60, "max_queries": 10, **suite})})


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="NoSuchTask"):
        list(study_tasks(profile_of(tasks=("NoSuchTask",))))
    with pytest.raises(ValueError, match="MTEB\\(nowhere\\)"):
        list(study_tasks(profile_of(benchmarks=("MTEB(nowhere)",))))
    with pytest.raises(ValueError, match="rerank"):
        local_task(EvalTask("X", "rerank", False, "Rank.", "ndcg_at_10"))
    with pytest.raises(ValueError, match="no-such-model"):
        evaluate.evaluate_model(profile_of(tasks=("ToolRetrieval",)), "no-such-model")


def test_benchmarks_by_name_become_tasks_with_a_family():
    tasks = list(study_tasks(profile_of(benchmarks=("MTEB(Code, v1)", "MTEB(eng, v2)"))))
    assert len(tasks) == len({task.metadata.name for task in tasks}) > 40
    families = {task_family(task) for task in tasks}
    assert families >= {"retrieval", "reranking", "clustering", "classification", "pair", "sts"}


# --- BM25 -------------------------------------------------------------------------------------------------------


def test_bm25_equals_the_formula():
    texts = ["prime ring ring", "prime graph", "tree path edge node cycle"]
    lengths, mean = [3, 2, 5], 10 / 3
    ring = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    prime = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))

    def term(idf, count, length):
        return idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * length / mean))

    expected = [term(ring, 2, lengths[0]) + term(prime, 1, lengths[0]), term(prime, 1, lengths[1]), 0]
    index = BM25(texts)
    np.testing.assert_allclose(index.scores("the prime of the rings ring"), expected, rtol=1e-5)
    assert [number for number, _ in index.top("prime ring", 3)] == [0, 1]
    assert index.top("unheard of", 3) == []


def test_bm25_in_mteb_ranks_as_worked_by_hand(rng, tmp_path):
    corpus = pd.DataFrame({"id": ["a", "b", "c"], "text": ["prime ring ring", "prime graph", "tree path edge node"]})
    queries = pd.DataFrame({"id": ["x", "y", "z"], "text": ["prime ring", "prime graph", "unheard"]})
    task = make_task(rng, "retrieval", corpus=corpus, queries=queries,
                     qrels={"x": {"b": 1}, "y": {"b": 1}, "z": {"c": 1}})
    value, items = evaluate.run_task(BM25Search(model_meta("bm25", "0", dense=False)), local_task(task), tmp_path)
    assert items == pytest.approx({"x": 1 / math.log2(3), "y": 1.0, "z": 0.0}, abs=1e-9)
    assert value == pytest.approx((1 / math.log2(3) + 1) / 3, abs=1e-9)


def test_bm25_runs_as_a_model_on_the_retrieval_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    profile = profile_of(tasks=("ToolRetrieval", "ChampSolutionRetrieval", "BibleBookClustering"))
    folder = evaluate.evaluate_model(profile, "bm25")
    scores, items = evaluate.make_scores(profile, ["bm25"])
    assert set(scores["task"]) == {"ToolRetrieval", "ChampSolutionRetrieval"}
    assert list(scores.columns) == evaluate.SCORE_COLUMNS and list(items.columns) == evaluate.QUERY_COLUMNS
    np.testing.assert_allclose(items.groupby("task")["value"].mean()[scores["task"]], scores["value"], atol=1e-9)
    assert (scores["value"] > 0.1).all()
    assert len(mteb.ResultCache(folder).load_results(include_remote=False)[0].task_results) == 2
    assert evaluate.evaluate_model(profile, "bm25") == folder
    other = profile_of(tasks=("ToolRetrieval",))
    assert evaluate.evaluate_model(other, "bm25") != folder
