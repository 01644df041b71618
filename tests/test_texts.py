"""Texts: training pairs, evaluation tasks, probe texts, pretraining text, and the errors for bad files."""

import json
import re

import datasets
import pandas as pd
import pytest

from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.texts import decontamination, pretraining, suite, training_sources

SMOKE = load_profile("smoke")


def with_suite(**changes):
    return SMOKE.model_copy(update={"suite": SMOKE.suite.model_copy(update=changes)})


def training(path):
    return suite.load_training(with_suite(train=(str(path),), max_pairs=None))


def test_query_prompt_is_the_published_template():
    assert suite.query_prompt("Find it.") == "Instruct: Find it.\nQuery: "


def test_all_training_tasks_are_capped_the_same_way_every_time():
    pairs = suite.load_training(SMOKE)
    assert pairs.groupby("task").size().to_dict() == dict.fromkeys(pairs["task"].unique(), SMOKE.suite.max_pairs)
    assert pairs["task"].nunique() >= 6
    assert pairs["instruction"].str.len().min() > 10
    pd.testing.assert_frame_equal(pairs, suite.load_training(SMOKE))
    few = suite.load_training(with_suite(max_pairs=10))
    assert few.merge(pairs, on=["task", "query", "positive"]).shape[0] == len(few), "a smaller cap keeps a part"


def test_named_tasks_come_in_the_order_named():
    pairs = suite.load_training(with_suite(train=("pg_docs", "wn_define"), max_pairs=5))
    assert pairs["task"].unique().tolist() == ["pg_docs", "wn_define"]


def test_published_jsonl_form(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"query": ["Find.", "q1"], "pos": ["p1", "p2"], "neg": ["n1"]}, {"query": ["Find.", "q2"], "pos": ["p3"]}]
    file.write_text("\n".join(map(json.dumps, rows)))
    pairs = training(file)
    assert pairs["query"].tolist() == ["q1", "q1", "q2"]
    assert pairs["positive"].tolist() == ["p1", "p2", "p3"]
    assert pairs["negatives"].tolist() == [["n1"], ["n1"], []]
    assert set(pairs["task"]) == {"own"} and set(pairs["instruction"]) == {"Find."}


def test_parquet_of_ones_own(tmp_path):
    file = tmp_path / "own.parquet"
    pd.DataFrame({"instruction": "Find.", "query": ["q1", "q2"], "positive": ["p1", "p2"]}).to_parquet(file)
    assert training(file)["positive"].tolist() == ["p1", "p2"]


@pytest.mark.parametrize(("rows", "said"), [
    ([{"query": "q", "positive": "p"}], "expected a column 'instruction'"),
    ([{"instruction": "i", "query": "q"}], "expected a column 'positive'"),
    ([{"instruction": "i", "query": "q", "positive": "p"}, {"instruction": "i", "query": " ", "positive": "p"}],
     r"expected text in column 'query' .* got ' ' in row 1 \(1 such rows\)"),
    ([{"query": "no instruction", "pos": ["p"]}], "line 1: expected"),
    ([], "got no rows"),
])
def test_bad_rows_are_named(tmp_path, rows, said):
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=said):
        training(file)


def test_broken_json_line_is_named(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text('{"instruction": "i", "query": "q", "positive": "p"}\n{"query": ')
    with pytest.raises(ValueError, match="line 2: expected"):
        training(file)


def test_unknown_task_and_path_are_named():
    with pytest.raises(ValueError, match=r"one of \[.*'wn_define'.*\].*got 'wn_defin'"):
        suite.load_training(with_suite(train=("wn_defin",)))
    with pytest.raises(ValueError, match=r"got 'not/there.jsonl'.*put the file at"):
        suite.load_training(with_suite(train=("not/there.jsonl",)))


PUBLISHED = [{"query": ["Find.", "q1"], "pos": ["p1", "p2"], "neg": ["n1"]},
             {"query": ["Find.", "q2"], "pos": ["p3"], "neg": []}]
PLAIN = [{"instruction": "Find.", "query": "q1", "positive": "p1", "negatives": ["n1"]},
         {"instruction": "Find.", "query": "q1", "positive": "p2", "negatives": ["n1"]},
         {"instruction": "Find.", "query": "q2", "positive": "p3", "negatives": []}]


@pytest.mark.parametrize("rows", [PUBLISHED, PLAIN], ids=["published", "plain"])
@pytest.mark.parametrize("form", ["own.parquet", "own.jsonl", "own", "splits:dev"])
def test_every_format_gives_the_same_pairs(form, rows, tmp_path):
    file = tmp_path / form.partition(":")[0]
    if file.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(file)
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        dataset = datasets.Dataset.from_list(rows)
        (datasets.DatasetDict(dev=dataset) if ":" in form else dataset).save_to_disk(file)
    found = training(tmp_path / form)
    assert found["task"].unique().tolist() == [form.partition(".")[0].partition(":")[0]]
    found["negatives"] = found["negatives"].map(list)
    assert found.drop(columns="task").to_dict("records") == [
        {key: row[key] for key in ("instruction", "query", "positive", "negatives")} for row in PLAIN]


def test_a_data_set_is_known_by_its_content(tmp_path):
    for name, rows in (("a", PLAIN), ("b", PLAIN), ("c", PLAIN[:2])):
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name)
    keys = [training_sources.named_sources(with_suite(train=(str(tmp_path / name),)))[0].hash() for name in "abc"]
    assert keys[0] == keys[1] != keys[2]


def test_hub_names_are_read_through_datasets(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in PLAIN).encode()
    card = b"---\nconfigs:\n- {config_name: all, default: true, data_files: [{split: train, path: a.jsonl}]}\n"
    card += b"- {config_name: small, data_files: [{split: dev, path: b.jsonl}]}\n---\n"
    first = hub.commit("org/pairs", {"README.md": card, "a.jsonl": lines, "b.jsonl": lines}, "dataset")
    profile = with_suite(train=("hub:org/pairs", "hub:org/pairs/small:dev"), max_pairs=None)
    read = suite.load_training(profile)
    assert read["task"].unique().tolist() == ["pairs", "pairs-small"] and len(read) == 2 * len(PLAIN)
    hub.commit("org/pairs", {"README.md": card, "a.jsonl": lines * 2, "b.jsonl": lines}, "dataset")
    assert {source.revision for source in training_sources.named_sources(profile)} == {first}, "main has moved"
    assert len(suite.load_training(profile)) == len(read)
    now = with_suite(train=("hub:org/pairs@main",), max_pairs=None).model_copy(update={"name": "other"})
    assert training_sources.named_sources(now)[0].revision == hub.repositories["dataset", "org/pairs"].refs["main"]


def test_hub_name_without_network_is_named(monkeypatch):
    for module, name in ((datasets.config, "HF_HUB_OFFLINE"), (datasets.config, "HF_DATASETS_OFFLINE")):
        monkeypatch.setattr(module, name, True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"nobody/none at main on the hub, got no answer .*connect to the hub"):
        training("hub:nobody/none")


def test_data_sets_that_cannot_serve_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a data set in suite.train, got .*empty \(.*save it anew"):
        training(tmp_path / "empty")
    datasets.DatasetDict(dev=datasets.Dataset.from_list(PLAIN)).save_to_disk(tmp_path / "dict")
    with pytest.raises(ValueError, match=r"expected the split 'train' in .*dict, got \['dev'\]"):
        training(tmp_path / "dict")
    datasets.Dataset.from_list([{"query": ["q without instruction"], "pos": ["p"]}]).save_to_disk(tmp_path / "bad")
    with pytest.raises(ValueError, match=r"bad, row 0: expected"):
        training(tmp_path / "bad")
    for negatives in ("text", [""], [None]):
        pd.DataFrame([PLAIN[0] | {"negatives": negatives}]).to_parquet(tmp_path / "neg.parquet")
        with pytest.raises(ValueError, match=r"expected a list of texts in column 'negatives'.* row 0"):
            training(tmp_path / "neg.parquet")


def test_two_sources_of_one_task_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pd.DataFrame(PLAIN).to_parquet(tmp_path / folder / "own.parquet")
    with pytest.raises(ValueError, match=r"got \['own'\] more than once"):
        suite.load_training(with_suite(train=(f"{tmp_path}/a/own.parquet", f"{tmp_path}/b/own.parquet")))


def tasks():
    return store.read_json(store.SUITE / "eval" / "tasks.json")


@pytest.mark.parametrize("name", tasks())
def test_every_task_loads_capped_and_whole(name):
    small, whole = suite.load_task(name, SMOKE), suite.load_task(name, with_suite(max_docs=None, max_queries=None))
    assert small.family in suite.FAMILIES and small.instruction
    if small.family != "retrieval":
        assert len(small.test) == SMOKE.suite.max_docs < len(whole.test)
        return
    assert len(small.queries) == SMOKE.suite.max_queries
    relevant = {d for row in small.qrels.values() for d in row}
    assert set(small.qrels) == set(small.queries["id"]) and relevant <= set(small.corpus["id"])
    assert len(small.corpus) == max(len(relevant), SMOKE.suite.max_docs)
    assert all(small.qrels[q] == whole.qrels[q] for q in small.qrels)
    again = suite.load_task(name, SMOKE)
    assert again.corpus["id"].tolist() == small.corpus["id"].tolist()


def test_unknown_evaluation_task_is_named():
    with pytest.raises(ValueError, match=r"one of \[.*'ToolRetrieval'.*got 'ToolRetrival'"):
        suite.load_task("ToolRetrival", SMOKE)


@pytest.fixture
def own_suite(tmp_path, monkeypatch):
    """A suite with one small retrieval task that the tests spoil."""
    folder = tmp_path / "eval" / "Own"
    folder.mkdir(parents=True)
    facts = {"family": "retrieval", "reasoning": False, "instruction": "Find.", "metric": "ndcg_at_10"}
    (tmp_path / "eval" / "tasks.json").write_text(json.dumps({"Own": facts}))
    tables = {"corpus": pd.DataFrame({"id": ["d1", "d2"], "text": ["one", "two"]}),
              "queries": pd.DataFrame({"id": ["q1"], "text": ["what?"]}),
              "qrels": pd.DataFrame({"query-id": ["q1"], "corpus-id": ["d2"], "score": [2]})}
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    monkeypatch.setattr(store, "SUITE", tmp_path)
    return folder


def test_good_task_then_missing_column_empty_text_and_lost_document(own_suite):
    assert suite.load_task("Own", SMOKE).qrels == {"q1": {"d2": 2}}
    corpus = pd.read_parquet(own_suite / "corpus.parquet")
    corpus.rename(columns={"text": "body"}).to_parquet(own_suite / "corpus.parquet")
    with pytest.raises(ValueError, match=r"expected columns \['id', 'text'\].*got \['id', 'body'\]"):
        suite.load_task("Own", SMOKE)
    corpus.assign(text=["one", ""]).to_parquet(own_suite / "corpus.parquet")
    with pytest.raises(ValueError, match=r"expected text in column 'text'.*got '' in row 1"):
        suite.load_task("Own", SMOKE)
    corpus.head(1).to_parquet(own_suite / "corpus.parquet")
    with pytest.raises(ValueError, match=r"corpus-id of the qrels of Own.*'d2'"):
        suite.load_task("Own", SMOKE)


def test_probe_texts_have_labels_targets_and_even_difficulties():
    probes = suite.read_probe_texts(SMOKE)
    assert probes["id"].is_unique and probes["text"].is_unique
    assert set(probes["set"]) == {"general", "maths"}
    assert probes["topic"].notna().all() and probes["target"].notna().all()
    assert (probes.groupby("set")["target"].std() > 1).all()
    first = probes[probes["set"] == "maths"].head(150)
    assert first["difficulty"].value_counts().to_dict() == {"easy": 50, "moderate": 50, "hard": 50}
    pd.testing.assert_frame_equal(probes, suite.read_probe_texts(SMOKE))


def test_too_few_probe_texts_are_refused():
    analysis = SMOKE.analysis.model_copy(update={"texts_per_set": 100_000})
    with pytest.raises(ValueError, match="texts_per_set=100000"):
        suite.read_probe_texts(SMOKE.model_copy(update={"analysis": analysis}))


def test_overlap_finds_a_copied_run_of_words_and_no_shorter_one(rng):
    words = [f"w{i}" for i in rng.permutation(1000)]
    known = decontamination.index([" ".join(words[:200])])
    start = int(rng.integers(0, 187))
    copied, shorter = words[start : start + 13], words[start : start + 12]
    both = ["new " + ", ".join(copied).upper() + " end", " ".join(["new", *shorter, "end"])]
    assert decontamination.contaminated(both, known) == [True, False]
    assert decontamination.contaminated(["Yes, indeed!", "yes"], decontamination.index(["yes indeed"])) == [True, False]


def test_docstrings_of_a_file(tmp_path):
    file = tmp_path / "module.py"
    file.write_text('"""Module."""\nclass A:\n    r"""Class.\n\n    More.\n    """\n    x = """no docstring\n"""\n'
                    "    def f(self):\n        \'\'\'Function.\'\'\'\n")
    assert list(pretraining.docstrings(file)) == ["Module.", "Class.\n\nMore.", "Function."]


def test_pretraining_text_is_split_by_hash_and_capped(monkeypatch):
    monkeypatch.setattr(pretraining, "PACKAGES", ("statsmodels",))
    monkeypatch.setattr(pretraining, "PRETRAINING_CHARACTERS", 1_000_000)
    train, held_out = pretraining.read_pretraining_text()
    assert 900_000 < sum(map(len, train + held_out)) <= 1_000_000
    assert not set(train) & set(held_out) and len(train) == len(set(train))
    assert 0.002 < len(held_out) / len(train) < 0.06
    assert any(re.search(r"Parameters\n-+", text) for text in train), "documentation of packages is there"


def test_pretraining_text_leaves_out_evaluation_text(monkeypatch):
    leak = suite.load_task("PerlFAQRetrieval", SMOKE).corpus["text"].iloc[0]
    documents = [leak, f"Quoted: {leak}", "nothing of the kind " * 20]
    monkeypatch.setattr(pretraining, "package_documents", lambda: documents)
    train, held_out = pretraining.read_pretraining_text()
    assert not any(leak in text for text in train + held_out)
    assert any("nothing of the kind" in text for text in train + held_out)
