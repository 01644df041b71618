"""What can be looked into: the tokens and texts behind an overlap, and what is there of finished runs."""

import numpy as np
import pandas as pd
import pytest
from test_pairs import ANALYSIS, record
from test_recordings import load, probe_table, save_qwen3

from hrsa.analysis import recordings
from hrsa.analysis.explore import finished
from hrsa.analysis.explore.neighbourhoods import (
    CHANGED_COLUMNS,
    MOST_CHANGED,
    NeighbourTable,
    changed_neighbours,
    words_of_rows,
)
from hrsa.report import explore, plots
from hrsa.report.prose import similarity
from hrsa.similarity.knn import neighbours, overlap
from hrsa.similarity.states import Layer
from hrsa.study import store
from hrsa.study.profile import Pair

TEXTS = probe_table(np.random.default_rng(7), 120).set_index("id")["text"].to_dict()


def words_of(x, tmp_path, rng):
    return words_of_rows(x.tokens, TEXTS, ANALYSIS, load(save_qwen3(tmp_path / "again", rng)).tokenizer)


def with_states(x, folder, at, states):
    """A copy of a recording with other states in one layer."""
    folder.mkdir()
    for file in x.folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / f"layer-{at:02d}.npy").unlink()
    np.save(folder / f"layer-{at:02d}.npy", states)
    return recordings.open_pair(x.folder, folder)[1]


def test_the_tokens_that_were_moved_are_those_that_are_found(tmp_path, rng):
    x = record(tmp_path, rng, "a")
    states = np.array(x.layer(2))
    moved = np.sort(rng.choice(len(states), 3, replace=False))
    states[moved] = rng.normal(size=(3, states.shape[1])) * 100
    y = with_states(x, tmp_path / "moved", 2, states.astype(np.float32))
    words = words_of(x, tmp_path, rng)
    found = changed_neighbours(x, y, 2, 2, ANALYSIS, words, TEXTS)
    rows, texts = (found[found["kind"] == kind] for kind in ("row", "text"))
    near = [neighbours(Layer(part.layer(2), "x"), ANALYSIS.ks) for part in (x, y)]
    shared = overlap(*near)[:, 1]  # k = 5, nearest to 10
    assert set(found["k"]) == {5} and found["mean"].iloc[0] == pytest.approx(shared.mean())
    assert list(rows["place"]) == list(range(1, MOST_CHANGED + 1)) and rows["overlap"].is_monotonic_increasing
    assert (rows["overlap"].to_numpy() == shared[rows["row"]]).all()
    assert rows["overlap"].max() <= np.sort(shared)[MOST_CHANGED - 1]
    assert set(moved[shared[moved] < np.delete(shared, moved).min()]) <= set(rows["row"])
    first = rows.iloc[0]
    alone = set(near[0].index[first["row"]]) - set(near[1].index[first["row"]])
    assert set(first["only_a"].split(", ")) <= {words["own"][n] for n in alone}
    means = pd.Series(shared).groupby(x.tokens["text"]).agg(["mean", "size"])
    likely = means[means["size"] >= means["size"].median()]["mean"].nsmallest(MOST_CHANGED)
    assert texts["overlap"].tolist() == pytest.approx(likely.tolist())
    assert texts["passage"].tolist() == [TEXTS[name] for name in texts["text"]]
    same = changed_neighbours(x, x, 1, 1, ANALYSIS, words, TEXTS)
    assert (same["overlap"] == 1).all() and set(same["only_a"]) | set(same["only_b"]) == {""}


@pytest.mark.parametrize("unit", ["token", "word", "text"])
def test_a_row_says_its_own_token_word_or_text_in_its_place(tmp_path, rng, unit):
    analysis = ANALYSIS.model_copy(update={"unit": unit})
    embedder = load(save_qwen3(tmp_path / "model", rng))
    (tmp_path / "a").mkdir()
    recordings.write_states(tmp_path / "a", embedder, probe_table(np.random.default_rng(7), 120), analysis, "a")
    x = recordings.open_recording(tmp_path / "a")
    words = words_of_rows(x.tokens, TEXTS, analysis, embedder.tokenizer if unit == "token" else None)
    for row in x.tokens.iloc[::9].itertuples():
        text = TEXTS[row.text].split()[: analysis.max_length]
        if unit == "text":
            assert words["own"][row.row] == " ".join(text)
            continue
        assert words["own"][row.row] == text[row.position]
        before, own, after = (part.split() for part in words["passage"][row.row].replace("»", "«").split("«"))
        assert own == [text[row.position]]
        assert before == text[: row.position][-6:] and after == text[row.position + 1 :][:6]


def test_another_tokenizer_or_other_texts_are_refused(tmp_path, rng):
    x = record(tmp_path, rng, "a")
    other = load(save_qwen3(tmp_path / "other", rng, words=[f"w{i}" for i in range(39, -1, -1)])).tokenizer
    with pytest.raises(ValueError, match=r"expected token id \d+ at place \d+ of text .*the texts that were recorded"):
        words_of_rows(x.tokens, TEXTS, ANALYSIS, other)


def test_the_newest_finished_artefact_of_a_name_is_taken_and_no_other_name(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    made = {"base-aaaaaaaaaaaa": "2020-01-02", "base-bbbbbbbbbbbb": "2020-01-03", "base-s0-cccccccccccc": "2020-01-04"}
    for name, written in made.items():
        store.write_json(tmp_path / "p" / "states" / name / store.PROVENANCE, {"written": written})
    (tmp_path / "p" / "states" / "base-dddddddddddd").mkdir()
    assert finished.finished("p", "states", "base").name == "base-bbbbbbbbbbbb"
    assert finished.finished("p", "states", "rlvr") is None and finished.finished("q", "states", "base") is None


def test_without_a_finished_run_every_view_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    view = explore.Explorer("smoke")
    assert {part.value for part in (view.map, view.layers, view.cell)} == {explore.runs_said()}
    assert "Run `make smoke` (minutes)" in explore.runs_said()


def test_a_map_above_the_null_keeps_the_cells_that_exceed_every_map_of_permuted_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    folder = tmp_path / "p" / "similarity" / "a-vs-b-cka-aaaaaaaaaaaa"
    store.write_json(folder / store.PROVENANCE, {"written": "2020-01-02"})
    cells = pd.DataFrame({"layer_x": ["0", "1"], "layer_y": "0", "value": [0.2, 0.6]})
    maxima = pd.DataFrame({"models": ["backbones"] * 2 + ["embedders"], "map": [0, 1, 0], "value": [0.1, 0.3, 0.9]})
    store.write_table(folder / "heatmap.parquet", cells.assign(metric="cka", models="backbones"))
    store.write_table(folder / "maxima.parquet", maxima.assign(metric="cka"))
    assert finished.maps_of("p", "a-vs-b") == ["cka"] and finished.metrics_of("p", "a-vs-b") == []
    read = [finished.read_layer_map("p", "a-vs-b", "cka", "backbones", shown)["value"].tolist()
            for shown in (finished.VALUE, finished.ABOVE_NULL)]
    assert read[0] == [0.2, 0.6] and read[1][1] == 0.6 and np.isnan(read[1][0])
    with pytest.raises(ValueError, match=r"one of \['cka'\], got 'knn' for backbones: choose another"):
        finished.read_layer_map("p", "a-vs-b", "knn", "backbones")


def test_changed_neighbours_are_shown_state_by_state_as_text_whatever_they_say(tmp_path):
    rows = [("row", 1, 0, "t0", "a «<b>» c", 0.0, "x", "y", 0.25, 10, models, state, state)
            for models in ("backbones", "embedders") for state in ("0", "1+norm")]
    rows += [("text", 1, -1, "t0", "a <b> c", 0.5, "", "", 0.25, 10, "embedders", "0", "0")]
    table = pd.DataFrame(rows, columns=[*CHANGED_COLUMNS, "models", "layer_x", "layer_y"])
    store.write_table(tmp_path / NeighbourTable.CHANGED, table)
    pair = Pair(name="p", a="base", b="rlvr", kind="RLVR")
    blocks = similarity.changed_blocks(tmp_path, pair, "word")
    assert [(block.models, block.state, len(block.tables)) for block in blocks] == [
        ("backbones", "0", 1), ("backbones", "1+norm", 1), ("embedders", "0", 2), ("embedders", "1+norm", 1)]
    assert blocks[0].said == "backbones, state 0: mean overlap 0.250 at k = 10"
    assert blocks[0].tables[0].heads == ("word", "overlap", "near it in base alone", "near it in rlvr alone")
    html = plots.choices(blocks, "08_knn/p/overlap").html()
    assert html.count("<details ") == 4 and 'data-state="1+norm"' in html
    assert "«&lt;b&gt;»" in html and "<b>" not in html
    with pytest.raises(ValueError, match="one for each place"):
        plots.choices([*blocks, blocks[0]], "08_knn/p/overlap")
