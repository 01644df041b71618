"""The re-analysis of the published tables: data consistent, tests worked by hand, tallies complete."""

import math

import pytest
from scipy import stats

from hrsa.verdict import published
from hrsa.verdict.published import (
    CELL_WORDS,
    MARGINS,
    READINGS,
    entropy_change,
    overlap_cells,
    reanalyse,
    rises_in_entropy,
    score_cells,
    verdicts_by_reading,
)


def test_deltas_are_reasoning_minus_base():
    table = score_cells()
    assert len(table) == 15 and not table.duplicated(["pair", "benchmark"]).any()
    assert (table["reasoning"] - table["base"] - table["delta"]).abs().max() < 0.0101  # rounding of three numbers


def row(margin, reading, pair, benchmark):
    table = reanalyse(margin)
    found = table[(table["reading"] == READINGS[reading].name) & (table["pair"] == pair)
                  & (table["benchmark"] == benchmark)]
    assert len(found) == 1
    return found.iloc[0]


def test_prolonged_rlvr_on_bright_differs_from_zero():
    found = row(1.0, 0, "R1-Distill-1.5B ProRL", "BRIGHT")  # .45 +- .02 over three seeds
    assert found["error"] == pytest.approx(0.02 / math.sqrt(3))
    assert found["p_difference"] == pytest.approx(2 * stats.t.sf(0.45 / (0.02 / math.sqrt(3)), 2))
    assert found["p_difference"] == pytest.approx(6.6e-4, rel=0.02)
    assert found["verdict"] == "negligible"


def test_readings_give_other_errors():
    errors = [row(1.0, i, "Qwen3-4B PSR", "BRIGHT")["error"] for i in range(3)]
    assert errors == pytest.approx([0.03 / math.sqrt(3), 0.03 * math.sqrt(2 / 3), 0.03])
    assert [reading.dof for reading in READINGS] == [2, 4, 2]


def test_claims_agree_with_intervals_and_margins():
    for margin in MARGINS:
        table = reanalyse(margin)
        inside = (table["low"] > -margin) & (table["high"] < margin)
        clear = (table["low"] > 0) | (table["high"] < 0)
        assert (inside == table["verdict"].isin(["equivalent", "negligible"])).all()
        assert (clear == table["verdict"].isin(["different", "negligible"])).all()
        alone = table["alone"].isin(["equivalent", "negligible"])
        assert (alone == (table["smallest_margin"] < margin)).all()
        assert (table["holm_equivalence"] >= table["p_equivalence"]).all()


def test_a_larger_margin_never_loses_a_claim():
    claimed = [reanalyse(margin)["verdict"].isin(["equivalent", "negligible"]).sum() for margin in MARGINS]
    assert claimed == sorted(claimed)


def test_tally_counts_every_cell():
    table = verdicts_by_reading()
    assert len(table) == len(READINGS) * len(MARGINS)
    assert (table[list(CELL_WORDS)].sum(axis=1) == 12).all() and (table["cells"] == 12).all()
    assert (verdicts_by_reading(kinds="SFT")["cells"] == 3).all()


def test_one_of_four_rises_on_cot():
    table = rises_in_entropy().set_index("text")
    assert (table.loc["CoT", "rise"], table.loc["CoT", "pairs"]) == (1, 4)
    assert table.loc["CoT", "p_rise"] == pytest.approx(15 / 16)
    risen = entropy_change().query("text == 'CoT' and kind != 'SFT' and rises")
    assert list(risen["pair"]) == ["R1-Distill-1.5B ProRL"]


def test_overlap_table():
    table = overlap_cells()
    prolonged = table[table["kind"] != "SFT"]
    assert len(table) == 6 and (prolonged["embedders"] < prolonged["backbones"]).all()


@pytest.mark.parametrize(("old", "new", "said"), [
    ("[0.052, 0.068, 0.132]", "[0.052, 0.068]", "with 3 values each in knn_overlap"),
    ("kind: SFT, backbones: [0.052", "backbones: [0.052", "expected pair, kind and backbones, embedders"),
])
def test_a_damaged_table_is_refused(tmp_path, monkeypatch, old, new, said):
    text = published._FILE.read_text(encoding="utf8")
    assert text.count(old) == 1
    (tmp_path / "published.yaml").write_text(text.replace(old, new), encoding="utf8")
    monkeypatch.setattr(published, "_FILE", tmp_path / "published.yaml")
    with pytest.raises(ValueError, match=said):
        overlap_cells()


def test_margin_must_be_positive():
    with pytest.raises(ValueError, match="positive margin"):
        reanalyse(0)
