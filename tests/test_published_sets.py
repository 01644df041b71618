"""The published training sets, made at toy size from the hub on loopback under the names that the table gives."""

import pandas as pd
import pytest
import torch
import yaml
from hub_tasks import dataset_files
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny import tiny_tokenizer
from transformers import BertConfig, BertModel

from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.texts import hard_negatives, published_sets
from hrsa.texts.suite import load_training
from hrsa.workflow.commands import main

PAPER = load_profile("paper")
TABLE = published_sets.read_published_sets()
ROWS = 24


@pytest.fixture
def reference(hub, tmp_path):
    """A reference embedder on the hub under the published name: the mean of a text's pieces' random vectors."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=0, num_attention_heads=2,
                                 max_position_embeddings=512, initializer_range=1.0))
    for also in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
        torch.nn.init.zeros_(also.weight)
    model.save_pretrained(tmp_path / "words")
    tokenizer.save_pretrained(tmp_path / "words")
    words = Transformer(str(tmp_path / "words"), max_seq_length=128)
    SentenceTransformer(modules=[words, Pooling(64)]).save(str(tmp_path / "reference"))
    return hub.commit(PAPER.suite.mining.embedder, tmp_path / "reference")


@pytest.fixture
def pairs():
    """Pairs of the suite, `ROWS` of them, and what a public copy has too: one twice, one without a text."""
    found = load_training(load_profile("smoke"))
    found = found[found["task"] == "pg_docs"].head(ROWS)[["query", "positive"]]
    return pd.concat([found, found.head(1), found.head(1).assign(positive=" ")], ignore_index=True)


def put(hub, one, pairs, **names):
    """A public copy in the layout that an entry of the table says, a part of the pairs in each configuration."""
    if one.judged:
        ids = pd.DataFrame({"query-id": [f"q{i}" for i in pairs.index], "corpus-id": [f"d{i}" for i in pairs.index],
                            "score": 1})
        corpus = pd.DataFrame({"_id": ids["corpus-id"], "text": pairs["positive"]})
        corpus["title"] = corpus["text"].str.strip().map(lambda text: "Page" if text else "")
        wrong = ids.tail(1).assign(**{"corpus-id": "d0", "score": 0})
        configs = {"default": {"train": pd.concat([ids, wrong])}, "corpus": {"corpus": corpus},
                   "queries": {"queries": pd.DataFrame({"_id": ids["query-id"], "text": pairs["query"]})}}
    else:
        table = pairs.rename(columns=one.columns | names).assign(negative="none")
        configs = {config: {"train": table.iloc[at :: len(one.configs)]} for at, config in enumerate(one.configs)}
    return hub.commit(one.hub, dataset_files(configs), "dataset")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Profile `paper` with runs of its own and no skipped ranks, as a file."""
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    content = PAPER.model_dump(mode="json")
    content["suite"]["mining"] |= {"skip_ranks": 2}
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf8")
    return tmp_path / "paper.yaml"


def test_the_table_is_the_published_one():
    assert len(TABLE) == 11 and sum(one.published for one in TABLE.values()) == 1_603_172
    assert 1_603_172 // PAPER.recipe.batch_size == PAPER.recipe.steps, "an epoch"
    assert [f"{published_sets.SETS_FOLDER}/{name}.parquet" for name in TABLE] == list(PAPER.suite.train)
    assert all(one.judged or {"query", "positive"} == set(one.columns) for one in TABLE.values())


def test_all_eleven_are_made_and_taken_up_where_they_stopped(hub, reference, pairs, study, tmp_path, capsys):
    missing = list(TABLE)[-1]
    for name, one in TABLE.items():
        if name != missing:
            put(hub, one, pairs)
    out = tmp_path / "sets"
    assert main(["paper-data", "--profile", str(study), "--out", str(out)]) == 1
    assert f"expected {TABLE[missing].hub} at main on the hub, got no such repository" in capsys.readouterr().err
    assert not (out / "README.md").exists()
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert len(before) == 20
    put(hub, TABLE[missing], pairs)
    hub.asked.clear()
    assert main(["paper-data", "--profile", str(study), "--out", str(out)]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before, "what is there is not made again"
    asked = {line for line in hub.asked if "/datasets/" in line}
    assert asked and all(TABLE[missing].hub in line for line in asked)
    text = (out / "README.md").read_text(encoding="utf8")
    assert text.count("\n| `") == 11 and all(one.title in text.split("\n")[2] for one in TABLE.values())
    for name, one in TABLE.items():
        card = store.read_json(out / f"{name}.json")
        assert (card["rows"], card["pairs"]) == (len(pairs), ROWS)
        assert card["commit"] == next(iter(hub.repositories["dataset", one.hub].commits))
        assert card["mining"]["revision"] == reference and card["mined"]["largest_ratio"] <= 0.95 + 1e-6
        assert 0 < card["triples"] == card["drawn"] - card["mined"]["left_out"]
    suite = PAPER.suite.model_copy(update={"train": tuple(str(out / f"{name}.parquet") for name in TABLE)})
    training = load_training(PAPER.model_copy(update={"suite": suite}))
    assert (training["negatives"].str.len() == PAPER.recipe.hard_negatives).all()
    assert dict(zip(training["task"], training["instruction"], strict=True)) == {
        name: one.instruction for name, one in TABLE.items()}
    assert training.loc[training["task"] == "fever", "positive"].str.startswith("Page ").all()


def table_with(tmp_path, **entry):
    """A table of one entry: NQ's with changes."""
    content = TABLE["nq"].model_dump(mode="json") | entry
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"nq": content}), encoding="utf8")
    return tmp_path / "table.yaml"


def test_as_many_as_were_published_are_drawn_the_same_every_time(hub, reference, pairs, study, tmp_path):
    put(hub, TABLE["nq"], pairs)
    profile, table = load_profile(study), table_with(tmp_path, published=10)
    card = published_sets.make_published_set(profile, "nq", tmp_path / "one", table)
    assert (card["triples"], card["drawn"], card["pairs"]) == (10, 11, ROWS)
    published_sets.make_published_set(profile, "nq", tmp_path / "two", table)
    one, two = (store.read_table(tmp_path / name / "nq.parquet", hard_negatives.TRIPLE_COLUMNS)
                for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
    found = {text for row in one["negatives"] for text in row}
    assert found <= set(pairs["positive"]) and not found <= set(one["positive"]), "all positives are searched"
    (tmp_path / "one" / "nq.parquet").write_bytes(b"broken")
    assert published_sets.make_published_set(profile, "nq", tmp_path / "one", table)["sha256"] == card["sha256"]


def test_other_columns_are_refused(hub, reference, pairs, study, tmp_path):
    put(hub, TABLE["nq"], pairs, query="question")
    with pytest.raises(ValueError, match=r"nq of table.yaml: expected columns \['query', 'answer'\] in pair of "
                                         r"sentence-transformers/natural-questions, got \['question', 'answer', 'neg"):
        published_sets.make_published_set(load_profile(study), "nq", tmp_path, table_with(tmp_path))
    with pytest.raises(ValueError, match=r"expected one of the published sets .*, got 'eli5'"):
        published_sets.make_published_set(load_profile(study), "eli5", tmp_path)
