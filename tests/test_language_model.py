"""Loading decoder models causal or bidirectional, and the leak probe, on tiny random models of eight architectures."""

import random
import time

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hrsa.models import language_model, resolve
from hrsa.study import runtime
from hrsa.study.profile import load_profile

VOCABULARY = 64
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 64,
         "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
FAMILIES = ["Qwen2", "Qwen3", "Llama", "Mistral", "Gemma3", "Phi3", "Olmo2", "SmolLM3"]


def tokenizer_of(pad=True):
    vocabulary = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>" if pad else None)


def config_of(family):
    name = {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config")
    return getattr(transformers, name)(**SIZES)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Makes the folder of a random tiny model of a family, once."""
    made = {}

    def make(family, seed=0):
        if family not in made:
            torch.manual_seed(seed)
            folder = tmp_path_factory.mktemp(family)
            transformers.AutoModelForCausalLM.from_config(config_of(family)).save_pretrained(folder)
            tokenizer_of().save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_switches_and_survives_saving(family, kernel, folder_of, tmp_path):
    causal, _ = language_model.load_encoder(folder_of(family), "causal", kernel)
    both, tokenizer = language_model.load_encoder(folder_of(family), "bidirectional", kernel)
    with pytest.raises(RuntimeError, match="expected bidirectional"):
        language_model.leak_probe(causal, tokenizer, "bidirectional")
    with pytest.raises(RuntimeError, match="expected causal"):
        language_model.leak_probe(both, tokenizer, "causal")
    both.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation=kernel).eval()
    language_model.leak_probe(again, tokenizer, "bidirectional")
    ids = torch.arange(2, 12)[None]
    assert torch.equal(again(input_ids=ids).last_hidden_state, both(input_ids=ids).last_hidden_state)
    with pytest.raises(ValueError, match="embedder's folder"):
        language_model.load_lm(tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_state(family, side, folder_of, rng):
    model, _ = language_model.load_encoder(folder_of(family), "bidirectional")
    ids = torch.from_numpy(rng.integers(2, VOCABULARY, (1, 6)))
    pad = torch.zeros(1, 3, dtype=torch.long)
    row = torch.cat([pad, ids] if side == "left" else [ids, pad], 1)
    alone = model(input_ids=ids).last_hidden_state
    padded = model(input_ids=row, attention_mask=(row != 0).long()).last_hidden_state
    padded = padded[:, 3:] if side == "left" else padded[:, :6]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_architecture_that_ignores_the_flag_fails(tmp_path):
    config = transformers.GPTNeoConfig(vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4,
                                       attention_types=[[["global"], 2]], max_position_embeddings=64,
                                       bos_token_id=1, eos_token_id=1)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    language_model.load_encoder(tmp_path, "causal", "eager")
    with pytest.raises(RuntimeError, match=r"expected bidirectional.*GPTNeoModel"):
        language_model.load_encoder(tmp_path, "bidirectional", "eager")


def test_blocks_that_only_look_back_are_not_bidirectional(tmp_path):
    torch.manual_seed(0)
    config = transformers.Lfm2Config(**SIZES | {"num_hidden_layers": 3}, initializer_range=0.2, block_multiple_of=8,
                                     layer_types=["full_attention", "conv", "full_attention"])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    language_model.load_encoder(tmp_path, "causal")
    with pytest.raises(RuntimeError, match=r"in every block, got 1 that only look back \(the first is 1 Lfm2Dec"):
        language_model.load_encoder(tmp_path, "bidirectional")


def test_positions_counted_from_pad_tokens_are_no_leak(tmp_path):
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(**SIZES | {"pad_token_id": 0})
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    language_model.load_encoder(tmp_path, "bidirectional")
    with pytest.raises(RuntimeError, match="expected causal"):
        language_model.load_encoder(tmp_path, "causal")


def test_flag_on_the_modules_alone_fails_under_padding(folder_of):
    model, tokenizer = language_model.load_encoder(folder_of("Qwen3"), "causal")
    for layer in model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(RuntimeError, match="expected bidirectional"):
        language_model.leak_probe(model, tokenizer, "bidirectional")


def test_probe_sees_a_model_that_reads_padding(folder_of):
    model, tokenizer = language_model.load_encoder(folder_of("Qwen3"), "bidirectional")
    forward = model.forward
    model.forward = lambda **inputs: forward(**inputs | {"attention_mask": None})
    with pytest.raises(RuntimeError, match="do not depend on padding"):
        language_model.leak_probe(model, tokenizer, "bidirectional")


def test_probe_keeps_training_mode_and_takes_an_lm(folder_of):
    model, tokenizer = language_model.load_lm(folder_of("Llama"))
    assert not model.training
    model.train()
    language_model.leak_probe(model, tokenizer, "causal")
    assert model.training


def test_pad_token_is_guaranteed(tmp_path, folder_of):
    model, _ = language_model.load_lm(folder_of("Qwen2"))
    model.save_pretrained(tmp_path)
    tokenizer_of(pad=False).save_pretrained(tmp_path)
    model, tokenizer = language_model.load_encoder(tmp_path)
    assert tokenizer.pad_token == "<end>" and model.config.pad_token_id == tokenizer.pad_token_id == 1


def test_missing_models_are_named(tmp_path, folder_of, monkeypatch):
    with pytest.raises(ValueError, match=r"expected a model folder.*not there: correct"):
        language_model.load_lm(tmp_path / "none")
    config_of("Qwen3").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"expected a tokenizer in .*got the files"):
        language_model.load_encoder(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a loadable model"):
        language_model.load_encoder(tmp_path)
    with pytest.raises(ValueError, match="expected attention"):
        language_model.load_encoder(folder_of("Qwen3"), "both")


def test_hub_id_while_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"got nobody/no-such-model.*connect to the hub or"):
        language_model.load_encoder("nobody/no-such-model")
    assert time.monotonic() - start < 20


def test_folder_backbones_are_checked(tmp_path, folder_of):
    smoke = load_profile("smoke").model_dump()
    smoke |= {"pairs": [], "ablations": [], "controls": [], "backbones": [
        {"name": "here", "source": "folder", "path": str(folder_of("Qwen3")), "arm": "base"},
        {"name": "gone", "source": "folder", "path": str(tmp_path / "gone"), "arm": "base"}]}
    profile = type(load_profile("smoke")).model_validate(smoke)
    assert resolve.make_backbone_folder(profile, "here") == str(folder_of("Qwen3"))
    with pytest.raises(ValueError, match="expected a model folder"):
        resolve.make_backbone_folder(profile, "gone")
    with pytest.raises(ValueError, match=r"expected .*backbone of the profile"):
        resolve.make_backbone_folder(profile, "other")


def test_prepare_seeds_everything():
    drawn = []
    for _ in range(2):
        runtime.prepare(threads=1, seed=7)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
    assert runtime.device().type in ("cpu", "cuda")
