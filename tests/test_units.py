"""Rows shared by models of different tokenizers, texts of one's own, and the comparison of any two models."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from test_recordings import WORDS, load, probe_table, save_qwen3, streamed
from tiny import tiny_backbone, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from hrsa.analysis import recordings, units
from hrsa.study import store
from hrsa.study.profile import Analysis, load_profile
from hrsa.texts import own_probes
from hrsa.workflow import compare_two
from hrsa.workflow.commands import main

SPACES = " \t\n  "


def byte_tokenizer():
    """One token per byte: no merges at all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<end>": 1} | {c: i + 2 for i, c in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")


def byte_backbone(folder, width=24, layers=3):
    """A random Qwen3 of another width, depth and tokenizer than `tiny_backbone`."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(5)
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=16, intermediate_size=48, max_position_embeddings=512,
                         pad_token_id=0, eos_token_id=1, tie_word_embeddings=True, initializer_range=0.2)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_overlaps_are_those_of_the_characters(rng):
    for _ in range(50):
        cuts = np.unique(np.r_[0, rng.integers(1, 40, size=rng.integers(0, 15)), 40])
        tokens = np.c_[cuts[:-1], cuts[1:]]
        tokens = np.r_[tokens, [[0, 0]]][rng.permutation(len(tokens) + 1)]
        edges = np.unique(rng.integers(0, 41, size=2 * rng.integers(1, 8)))
        words = np.c_[edges[:-1:2], edges[1::2]]
        expected = [(t, w) for t, (a, b) in enumerate(tokens) for w, (c, d) in enumerate(words)
                    if max(a, c) < min(b, d)]
        assert list(zip(*map(np.ndarray.tolist, units.overlaps(tokens, words)), strict=True)) == expected


def test_words_of_two_tokenizers_are_the_same_rows(rng):
    texts = [SPACES[i % 4].join(rng.choice([*WORDS, "naïve", "π≈3", "seven;moon"], size=9)) for i in range(12)]
    table = pd.DataFrame({"id": [f"t{i}" for i in range(12)], "set": "a", "difficulty": "", "text": texts})
    for unit, rows in (("word", 60), ("text", 12)):
        a, b = (units.units(table, tokenizer, unit, 7, 60) for tokenizer in (tiny_tokenizer(), byte_tokenizer()))
        pd.testing.assert_frame_equal(a.table, b.table)
        assert len(a.table) == rows and (a.table["length"] == 7).all() and len(set(a.rows)) == rows
        assert a.total < b.total  # bytes are more than merged tokens
    words = units.units(table, byte_tokenizer(), "word", 7, 84)
    sizes = [len(text.split()[position].encode()) for text, position in zip(
        table.set_index("id")["text"][words.table["text"]], words.table["position"], strict=True)]
    assert np.bincount(words.rows).tolist() == sizes  # a word has as many tokens as bytes
    assert words.keep().sum() == sum(sizes)


def test_state_of_a_word_is_the_mean_of_its_tokens(tmp_path, rng):
    table = probe_table(rng, 12)
    table["text"] = table["text"].str.replace(" w", " w;w", n=1)  # a word of three tokens
    model = load(save_qwen3(tmp_path / "model", rng))
    for unit in ("word", "text"):
        (tmp_path / unit).mkdir()
        analysis = Analysis(texts_per_set=6, max_length=9, max_tokens=60, probe_texts=12, unit=unit)
        recordings.write_states(tmp_path / unit, model, table, analysis, unit, ceiling=False)
        recorded = recordings.open_recording(tmp_path / unit)
        for row in recorded.tokens.iloc[::5].itertuples():
            text = units.first_words(table.set_index("id")["text"][row.text], 9)
            states = streamed(model, [text])[0]  # (l, t, d)
            spans = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
            start, end = list(units.WORD.finditer(text))[row.position].span() if unit == "word" else (0, len(text))
            mine = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
            for layer in range(len(recorded.labels)):
                np.testing.assert_allclose(recorded.layer(layer)[row.row], states[layer, mine].mean(axis=0), atol=1e-5)


def test_ceiling_is_the_same_rows_in_bf16(tmp_path, rng):
    model = load(save_qwen3(tmp_path / "model", rng))
    (tmp_path / "states").mkdir()
    analysis = Analysis(texts_per_set=8, max_length=10, max_tokens=60, probe_texts=20, ks=(3,))
    recordings.write_states(tmp_path / "states", model, probe_table(rng), analysis, "model", ceiling=True)
    x, y = recordings.open_pair(tmp_path / "states", tmp_path / "states" / recordings.BF16)
    for i in range(len(x.labels)):
        a, b = x.layer(i), y.layer(i)
        assert 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()
    embeddings = y.layer(0)
    assert (torch.tensor(embeddings).bfloat16().float().numpy() == embeddings).all()


@pytest.mark.parametrize(("unit", "text", "match"), [
    ("word", "w1 w2 w3 w4", "at most 3 tokens.*lower analysis.max_length"), ("word", "   ", "got no word"),
    ("sentence", "w1", "unit token, word or text")])
def test_what_cannot_be_aligned_is_refused(tmp_path, rng, unit, text, match):
    table = pd.DataFrame({"id": ["t0"], "set": "a", "difficulty": "", "text": [text]})
    with pytest.raises(ValueError, match=match):
        units.units(table, byte_tokenizer() if text.strip() == "" else load(
            save_qwen3(tmp_path / "model", rng)).tokenizer, unit, 8, 10, positions=3)


def test_texts_of_ones_own(tmp_path):
    (tmp_path / "a.txt").write_text("first\n\nsecond \n")
    rows = [{"text": "one", "label": 3, "set": "x"}, {"text": "two", "target": 2.5, "set": "y"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({"text": ["p", "q"], "id": [7, 9]}).to_parquet(tmp_path / "a.parquet")
    assert sorted(own_probes.read_texts(tmp_path / "a.txt")["text"]) == ["first", "second"]
    table = own_probes.read_texts(tmp_path / "a.jsonl").set_index("text")
    assert table.loc["one", "topic"] == "3.0" and pd.isna(table.loc["two", "topic"])
    assert table.loc["two", "target"] == 2.5 and table["set"].to_dict() == {"one": "x", "two": "y"}
    assert set(own_probes.read_texts(tmp_path / "a.parquet")["id"]) == {"7", "9"}
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text"')
    (tmp_path / "c.jsonl").write_text('{"content": "one"}')
    (tmp_path / "d.csv").write_text("text")
    for name, match in (("b.jsonl", "correct the line"), ("c.jsonl", "a column `text`"), ("d.csv", "convert it"),
                        ("e.txt", "not there")):
        with pytest.raises(ValueError, match=match):
            own_probes.read_texts(tmp_path / name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two models that differ in everything, and a file of labelled texts."""
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(0)
    words = ["stone", "river", "paper", "of", "a", "seven", "moon", "green", "to", "wander"]
    rows = [{"text": " ".join(rng.choice(words, size=rng.integers(5, 14))), "label": "ab"[i % 2]} for i in range(30)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tiny_backbone(folder / "Tiny_1", 0), byte_backbone(folder / "bytes"), folder / "texts.jsonl"


def test_a_comparison_runs_the_chapters_that_apply(pair, tmp_path):
    a, b, texts = pair
    profile, front, tags = compare_two.profile_of(str(a), str(b), texts, "word", 8)
    assert profile.name == "tiny-1-vs-bytes" and profile.chapters == ("06_procrustes", "07_cka", "08_knn")
    assert "Left out: dimension-wise correlation, since the models are 32 and 24 dimensions wide" in front
    assert set(tags) == {"suite-texts", "embedders", "regression"}
    compare_two.write_study(tmp_path, profile, front, tags)
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    compare_two.write_study(tmp_path, profile, front, tags)
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    assert load_profile(tmp_path / "notebooks" / "profiles" / f"{profile.name}.yaml") == profile
    notebook = nbformat.read(tmp_path / "notebooks" / "06_procrustes.ipynb", as_version=4)
    assert not any("Mathematics against" in cell.source for cell in notebook.cells)


def test_chapters_depend_on_widths_and_labels(pair):
    a, _, texts = pair
    again = shutil.copytree(a, a.parent / "copy" / a.name, dirs_exist_ok=True)
    profile, front, tags = compare_two.profile_of(str(a), str(again), texts, "token")
    assert profile.chapters == ("05_correlation", "06_procrustes", "07_cka", "08_knn", "09_probes")
    assert [b.name for b in profile.backbones] == ["tiny-1-a", "tiny-1-b"] and "Left out" not in front
    assert "classification" not in tags
    few, front, _ = compare_two.profile_of(str(a), str(again), texts, "text")
    assert "06_procrustes" not in few.chapters and "not unique on these texts, which give 30 rows" in front


def test_a_model_is_not_compared_with_itself(pair, capsys):
    a, _, texts = map(str, pair)
    assert main(["compare", "--a", a, "--b", f"{a}/.", "--texts", texts]) == 1
    assert f"expected two models, got {a} twice" in capsys.readouterr().err
    for given in ("", " ", "./nowhere", "/nowhere/at/all", "a/b/c"):
        assert main(["compare", "--a", a, "--b", given, "--texts", texts]) == 1
        said = capsys.readouterr().err
        assert "expected the folder or the hub name" in said and f"got {given!r}" in said


def test_a_report_replaces_no_folder_of_anothers(pair, tmp_path, capsys):
    a, b, texts = map(str, pair)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "Snakefile").write_text("mine")
    assert main(["compare", "--a", a, "--b", b, "--texts", texts, "--out", str(tmp_path / "mine")]) == 1
    assert "expected a new folder, an empty one, or one of an earlier comparison" in capsys.readouterr().err
    assert [file.read_text() for file in (tmp_path / "mine").iterdir()] == ["mine"]


def test_tokens_of_different_tokenizers_are_refused_by_a_message_that_names_word(pair, capsys):
    a, b, texts = map(str, pair)
    assert main(["compare", "--a", a, "--b", b, "--texts", texts, "--unit", "token"]) == 1
    said = capsys.readouterr().err
    assert "unit word" in said and "expected equal tokenizers" in said
    assert main(["compare", "--a", a, "--b", f"{b}/nothing", "--texts", texts]) == 1
    assert "expected" in capsys.readouterr().err


def test_a_chapter_of_two_models_that_share_nothing(pair, tmp_path):
    a, b, texts = pair
    profile, front, tags = compare_two.profile_of(str(a), str(b), texts, "word", 8)
    small = profile.model_copy(update={"analysis": profile.analysis.model_copy(
        update={"bootstrap": 10, "permutations": 3, "max_tokens": 150, "probe_texts": 4, "ks": (3,)})})
    compare_two.write_study(tmp_path, small, front, tags)
    command = [str(Path(sys.executable).with_name("hrsa")), "run", "07_cka", profile.name, "--profile", profile.name]
    environment = {name: value for name, value in os.environ.items() if name != "HRSA_OWNER"}
    done = subprocess.run(command, env={**environment, "HRSA_ROOT": str(tmp_path)}, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [found] = (tmp_path / "data" / "runs" / profile.name / "similarity").iterdir()
    curve = store.read_table(found / "curve.parquet")
    assert set(curve["models"]) == {"backbones"} and curve["ceiling"].notna().all() and curve["n"].eq(150).all()
    assert list(curve["layer_x"].unique()) == ["0", "1", "2", "2+norm"]
    assert list(curve["layer_y"].unique()) == ["0", "2", "3", "3+norm"]
    page = (tmp_path / "jupyter_book" / "executed" / profile.name / f"07_cka--{profile.name}.ipynb").read_text()
    said = re.findall(r"Debiased CKA at the last state[^\"]*", page)
    assert said and "embedders score" not in said[0]
    code = (f"from hrsa.study import load_profile; from hrsa.report.book import source; print(source.front_answer("
            f"load_profile({profile.name!r}).model_copy(update={{'chapters': ('07_cka',)}})))")
    front = subprocess.run([sys.executable, "-c", code], env={**environment, "HRSA_ROOT": str(tmp_path)},
                           capture_output=True, text=True, check=False)
    assert front.returncode == 0, front.stderr[-2000:]
    value = curve[(curve["metric"] == "debiased_cka") & (curve["set"] == "all")]["value"].mean()
    assert f"Mean over matched states: debiased CKA (global) {value:.3f} [" in front.stdout
    assert "- **Where.**" in front.stdout and "- **On what.** Each word of" in front.stdout
    assert (tmp_path / "figures" / profile.name / "overview" / "levels.png").is_file()
