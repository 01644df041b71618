"""The committed suite: sizes, cards, licences, hashes, and no evaluation text in training."""

import sys

import pandas as pd
import pytest

from hrsa.study import store
from hrsa.texts import decontamination

sys.path.insert(0, str(store.ROOT / "data"))
build_suite = pytest.importorskip("build_suite", reason="the builder lies beside the suite")
CARDS = {name: store.read_json(store.SUITE / name) for name in ("train/tasks.json", "eval/tasks.json",
                                                                "probe/sets.json")}
TRAIN, EVAL = CARDS["train/tasks.json"], CARDS["eval/tasks.json"]


def file_of(card_file, task, table):
    folder = store.SUITE / card_file.split("/")[0]
    return (folder / task if card_file.startswith("eval") else folder) / f"{table}.parquet"


def test_every_table_is_what_its_card_says_and_no_other_is_there():
    named = set()
    for card_file, cards in CARDS.items():
        for task, card in cards.items():
            for table, facts in card["tables"].items():
                path = file_of(card_file, task, table)
                content = pd.read_parquet(path)
                assert (len(content), build_suite.content_hash(content)) == (facts["rows"], facts["sha256"]), path
                named.add(path)
    assert named == set(store.SUITE.rglob("*.parquet"))


def test_sizes():
    assert sum(f.stat().st_size for f in store.SUITE.rglob("*") if f.is_file()) < 10_000_000
    assert len(TRAIN) >= 6 and sum(card["pairs"] for card in TRAIN.values()) >= 28_000
    families = pd.Series([card["family"] for card in EVAL.values()]).value_counts()
    assert families["retrieval"] >= 4 and families["clustering"] >= 1 and families["classification"] >= 1
    assert families.get("pair", 0) + families.get("sts", 0) >= 1
    assert sum(card["reasoning"] for card in EVAL.values()) >= 2


@pytest.fixture(scope="module")
def reserved():
    return decontamination.reserved()


def test_no_evaluation_or_probe_text_in_training(reserved):
    assert len(reserved) > 100_000
    for task in TRAIN:
        pairs = pd.read_parquet(file_of("train/tasks.json", task, task))
        for side in ("query", "positive"):
            found = decontamination.contaminated(pairs[side], reserved)
            assert not any(found), (task, side, pairs[side][found].head(3).tolist())


def test_the_overlap_check_sees_a_planted_text(reserved):
    planted = pd.read_parquet(file_of("eval/tasks.json", "BibleBookClustering", "test"))["sentences"].iloc[0]
    assert decontamination.contaminated([f"Before. {planted} After."], reserved) == [True]


@pytest.mark.parametrize("card_file", CARDS)
def test_cards_are_complete_and_readable(card_file):
    readme = (store.SUITE / card_file).with_name("README.md").read_text(encoding="utf8")
    overview = (store.SUITE / "README.md").read_text(encoding="utf8")
    for task, card in CARDS[card_file].items():
        assert card["source"] and card["licence"] and card["how"] and card["faults"]
        assert f"## {task}\n" in readme and f"| {task} |" in overview
        assert all(facts["sha256"] in readme for facts in card["tables"].values())
        assert "GFDL" not in card["licence"]


def test_licences_of_all_packages_are_there():
    licences = {p.stem: p.read_text(encoding="utf8") for p in (store.SUITE / "licences").glob("*.txt")}
    used = {source.split()[1] for cards in CARDS.values() for card in cards.values() for source in card["source"]}
    assert used - set(licences) <= {"bfcl-eval", "reasoning_gym"}, "these two carry no licence text: Apache-2.0.txt"
    assert "Princeton" in licences["wordnet-base"] and "NumPy Developers" in licences["numpy"]


def test_training_passages_are_unique_and_texts_not_empty():
    for task in TRAIN:
        pairs = pd.read_parquet(file_of("train/tasks.json", task, task))
        assert pairs["positive"].is_unique, task
        assert (pairs.map(lambda text: len(text.strip())) > 0).all().all()


def test_classification_has_disjoint_texts_and_enough_of_each_label():
    card = EVAL["WordNetTopicClassification"]
    train, test = (pd.read_parquet(file_of("eval/tasks.json", "WordNetTopicClassification", t)) for t in card["tables"])
    assert not set(train["text"]) & set(test["text"])
    assert train["label"].value_counts().min() >= 16 and set(train["label"]) == set(test["label"])


def test_hash_depends_on_every_cell():
    table = pd.DataFrame({"query": ["a", "b"], "positive": ["c", "d"]})
    changed = table.assign(positive=["c", "e"])
    assert build_suite.content_hash(table) == build_suite.content_hash(table.copy())
    assert build_suite.content_hash(table) != build_suite.content_hash(changed)
    assert build_suite.content_hash(table) != build_suite.content_hash(table.rename(columns={"query": "q"}))


def test_builder_says_what_it_needs(tmp_path, monkeypatch):
    sources = build_suite.Sources(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"expected the Debian package wordnet-base=.*apt-get"):
        sources.debian("wordnet-base")


def test_builder_cleans_markup():
    from suite_sources.pieces import html_text

    assert html_text("<p>One<note>foot</note><w>two</w>,</p><p>three <b>x</b> .</p>") == "One two, three x."
