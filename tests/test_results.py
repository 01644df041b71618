"""Committed results of any study are found, verified, joined, and answer how far RLVR moves a backbone."""

import numpy as np
import pandas as pd
import pytest

from hrsa.report import chapters, notebooks, results
from hrsa.report.prose import yardsticks as prose
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.verdict.claims import movements
from hrsa.workflow import graph

PROFILE = {"backbones": [{"name": name, "arm": name.removesuffix("-b")}
                         for name in ("base", "rlvr", "rlvr-b", "rlvr-long", "cpt", "sft")],
           "pairs": [{"name": f"base-vs-{b}", "a": "base", "b": b, "kind": kind} for b, kind in (
               ("rlvr", "RLVR"), ("cpt", "control"), ("sft", "SFT"))],
           "analysis_pairs": [{"name": "rlvr-vs-rlvr-b", "a": "rlvr", "b": "rlvr-b", "kind": "control"},
                              {"name": "rlvr-vs-rlvr-long", "a": "rlvr", "b": "rlvr-long", "kind": "RLVR, prolonged"}]}


def similarities(**pairs):
    """Backbones' debiased CKA and k-NN overlap of each pair, with an interval of 0.01 to both sides."""
    rows = [(name.replace("_", "-"), metric, value, value - 0.01, value + 0.01)
            for name, values in pairs.items() for metric, value in zip(("debiased_cka", "knn"), values, strict=True)]
    return pd.DataFrame(rows, columns=["pair", "metric", "value", "low", "high"]).assign(models="backbones")


FOUND = similarities(base_vs_rlvr=(0.9, 0.7), base_vs_cpt=(0.95, 0.8), base_vs_sft=(0.5, 0.4),
                     rlvr_vs_rlvr_b=(0.95, 0.705))


def test_rlvr_is_held_against_other_training():
    table = movements(FOUND, PROFILE)
    answers = {(row.against, row.metric): row.answer for row in table.itertuples()}
    assert answers == {
        ("continued pretraining", "debiased_cka"): "further", ("continued pretraining", "knn"): "further",
        ("another run of the same RLVR", "debiased_cka"): "further",
        ("another run of the same RLVR", "knn"): "inconclusive",
        ("SFT", "debiased_cka"): "less far", ("SFT", "knn"): "less far"}
    said = prose.movement_said(table, {"base-vs-rlvr": 20, "base-vs-cpt": 30}).split("\n")
    assert said[0].startswith(
        "- Does RLVR (base-vs-rlvr, 20 updates) move a backbone further than continued pretraining (base-vs-cpt, "
        "30 updates)? **Yes**: further by debiased CKA (0.900 [0.890, 0.910] against")
    assert "**Yes, where it can be told**" in said[1] and "inconclusive by k-NN overlap" in said[1]
    assert "**No, less far**" in said[2] and len(said) == 3


def test_what_is_missing_is_said():
    few = movements(similarities(base_vs_rlvr=(0.9, 0.7), base_vs_sft=(0.895, 0.705)), PROFILE)
    said = prose.movement_said(few)
    assert "base-vs-rlvr with continued pretraining; base-vs-rlvr with another run" in said
    assert "further than SFT (base-vs-sft)? **Inconclusive**" in said
    none = movements(similarities(base_vs_sft=(0.5, 0.4)), PROFILE)
    assert none.empty and "No RLVR pair" in prose.movement_said(none)
    mixed = movements(similarities(base_vs_rlvr=(0.9, 0.7), base_vs_cpt=(0.95, 0.6)), PROFILE)
    assert "**The measures disagree**" in prose.movement_said(mixed)
    hollow = FOUND.assign(low=np.nan, high=np.nan)
    assert set(movements(hollow, PROFILE)["answer"]) == {"inconclusive"}


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A folder for committed results, empty."""
    monkeypatch.setattr(chapters, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


def commit(folder, name, cards=None, level=0.5):
    tables = {"verdicts": pd.DataFrame({"pair": ["base-vs-rlvr"], "difference": [0.01]}), "similarities": FOUND,
              "levels": pd.DataFrame({"pair": ["base-vs-rlvr"], "models": ["backbones"], "value": [level]})}
    for table, content in tables.items():
        store.write_table(folder / name / f"{table}.parquet", content)
    hashes = {table: store.file_hash(folder / name / f"{table}.parquet") for table in tables}
    store.write_json(folder / name / "record.json", {"profile": PROFILE, "command": "make", "sha256": hashes})
    if cards is not None:
        store.write_json(folder / name / "cards.json", cards)


def test_any_study_with_results_is_shown(committed):
    smoke = load_profile("smoke")
    assert chapters.committed_studies() == [] and "12_family" not in chapters.chapters(smoke)
    with pytest.raises(ValueError, match="`hrsa results` writes them"):
        results.read_every()
    commit(committed, "one", {"rlvr": {"steps": 7, "compared_with": "base"}, "base": {"compared_with": None}})
    store.write_json(committed / "one-untrained" / "record.json", {})  # no verdicts: `hrsa untrained` writes these
    assert chapters.committed_studies() == ["one"] and "12_family" in chapters.chapters(smoke)
    before = graph.job_fingerprint(smoke, "12_family")
    studies = results.read_every()
    assert results.joined_tables(studies, "verdicts")["source"].tolist() == ["committed"]
    assert results.joined_tables(studies, "sources").empty
    places = prose.source_table(studies[0].tables.get("sources"), studies[0].tables.get("variances"))
    assert places.empty and prose.sources_said(places) == "No variance was committed."
    assert results.joined_cards(studies) == studies[0].cards
    one = studies[0]
    said = prose.committed_movement(one.name, one.tables, one.record["profile"], one.cards)
    assert said.startswith("Study `one`, committed") and "(base-vs-rlvr, 7 updates)" in said
    assert prose.committed_movement("two", one.tables, one.record["profile"], one.cards, [said]) == ""
    commit(committed, "two", {"rlvr": {"steps": 9, "compared_with": None}})
    assert graph.job_fingerprint(smoke, "12_family") != before  # the page is made again
    studies = results.read_every()
    assert results.joined_tables(studies, "levels")["pair"].tolist() == ["base-vs-rlvr"]  # the same, measured twice
    assert results.joined_tables(studies, "verdicts")["source"].tolist() == ["committed, one", "committed, two"]
    cards = results.joined_cards(studies)
    assert list(cards) == ["rlvr", "base", "two: rlvr"] and cards["rlvr"]["compared_with"] == "base"
    own = pd.DataFrame({"pair": ["base-vs-rlvr", "other"], "difference": [0.02, 0.03]})
    both = results.side_by_side(results.joined_tables(studies, "verdicts"), own)
    assert both["source"].tolist() == ["committed, one", "committed, two", "this run"]
    commit(committed, "two", {"base": {"compared_with": None}}, level=0.6)
    studies = results.read_every()
    assert results.joined_tables(studies, "levels")["pair"].tolist() == ["base-vs-rlvr", "two: base-vs-rlvr"]
    assert list(results.joined_cards(studies)) == ["rlvr", "base"]  # one card, in both
    pd.DataFrame({"a": [1]}).to_parquet(committed / "two" / "levels.parquet")
    with pytest.raises(ValueError, match=r"expected levels\.parquet of two with SHA-256"):
        results.read_every()


def test_what_is_not_committed_is_not_shown(tmp_path, monkeypatch):
    mini, chapter = load_profile("mini"), store.NOTEBOOKS / "12_family.ipynb"
    monkeypatch.setattr(chapters, "ALONG", tmp_path / "along_rl.parquet")
    left_out = chapters.cells_left_out(mini, "12_family")
    cells = [cell.source for cell in notebooks.chapter_without(chapter, left_out).cells]
    assert left_out == {chapters.ON_THE_WAY} and not any("along" in text.lower() for text in cells)
    assert chapters.cells_left_out(mini, "11_ablations") == chapters.ablations_left_out(mini)
    (tmp_path / "along_rl.parquet").touch()
    whole = notebooks.chapter_without(chapter, chapters.cells_left_out(mini, "12_family")).cells
    assert len(whole) == len(cells) + 5


def test_sections_without_anything_to_show_are_left_out():
    mini, smoke = load_profile("mini"), load_profile("smoke")
    assert chapters.cells_left_out(mini, "01_backbones") == {chapters.PRETRAINING}
    assert chapters.cells_left_out(smoke, "01_backbones") == chapters.cells_left_out(mini, "02_texts") == set()
    assert chapters.cells_left_out(mini, "04_evaluation") == {chapters.FEWER}
    fewer = mini.suite.model_copy(update={"dimensions": (64,)})
    assert chapters.cells_left_out(mini.model_copy(update={"suite": fewer}), "04_evaluation") == set()
    first = notebooks.chapter_without(store.NOTEBOOKS / "01_backbones.ipynb", {chapters.PRETRAINING})
    assert not any("Learning to predict" in cell.source for cell in first.cells)
