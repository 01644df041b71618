"""Adapters that change nothing, or more than they say, are refused; those that were trained are merged."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_backbone, tiny_tokenizer

from hrsa.models import adapters, embedder
from hrsa.models.language_model import load_encoder, load_lm
from hrsa.study.profile import Lora


def write(model, folder, targets="all-linear", task="CAUSAL_LM", trained=True, **more):
    with adapters.quiet_peft():
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type=task, **more))
    if trained:
        with torch.no_grad():
            for name, weights in adapted.named_parameters():
                if "lora_B" in name:
                    weights.fill_(0.1)
                if "modules_to_save" in name:
                    weights.add_(0.5)
    adapted.save_pretrained(folder)
    return adapted


@pytest.fixture
def start(tmp_path):
    return tiny_backbone(tmp_path / "start", seed=0)


def test_trained_adapters_are_merged(start, tmp_path):
    write(load_lm(start)[0], tmp_path / "arm")
    before, after = load_lm(start)[0], adapters.apply(load_lm(start)[0], tmp_path / "arm")
    ids = torch.arange(2, 9)[None]
    assert (before(input_ids=ids).logits - after(input_ids=ids).logits).abs().max() > 1e-3


def test_untrained_adapters_are_refused(start, tmp_path):
    write(load_lm(start)[0], tmp_path / "arm", trained=False)
    with pytest.raises(ValueError, match="change no weight: they are untrained"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


def test_adapters_of_another_class_are_refused(start, tmp_path):
    write(load_encoder(start)[0], tmp_path / "arm", task="FEATURE_EXTRACTION")
    with pytest.raises(ValueError, match="change no weight"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


@pytest.mark.filterwarnings("ignore")  # of peft's, on tied weights
def test_adapters_of_a_tied_head_are_refused(start, tmp_path):
    write(load_lm(start)[0], tmp_path / "arm", targets=["lm_head"])
    with pytest.raises(ValueError, match="tied embeddings"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


def edit(folder, change):
    """Write the adapters' tensors changed."""
    save_file(change(load_file(folder / adapters.FILES[1])), folder / adapters.FILES[1])


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensors: {k: v for k, v in tensors.items() if ".layers.1." not in k}, r"got 14 without \(base_model.*"),
    (lambda tensors: {k.replace(".layers.1.", ".layers.7."): v for k, v in tensors.items()},
     "14 without .* and 14 that it has no place for"),
    (lambda tensors: tensors | {"base_model.model.model.norm.weight": torch.ones(32)},
     r"got 1 that it has no place for \(base_model.model.model.norm.weight\)"),
])
def test_adapters_that_fit_in_part_are_refused(start, tmp_path, change, message):
    write(load_lm(start)[0], tmp_path / "arm")
    edit(tmp_path / "arm", change)
    with pytest.raises(ValueError, match=message):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


@pytest.mark.filterwarnings("ignore")  # of peft's, on tied weights
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_saved_modules_of_tied_embeddings_are_refused(start, tmp_path, module):
    write(load_lm(start)[0], tmp_path / "arm", ["q_proj"], modules_to_save=[module])
    with pytest.raises(ValueError, match="tied embeddings"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


@pytest.mark.parametrize("more", [{"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"bias": "all"}])
def test_what_adapters_replace_or_add_is_merged(tmp_path, more):
    start = tiny_backbone(tmp_path / "start", 0)
    model, tokenizer = load_lm(start)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path / "untied")
    tokenizer.save_pretrained(tmp_path / "untied")
    ids = torch.arange(2, 9)[None]
    adapted = write(load_lm(tmp_path / "untied")[0], tmp_path / "arm", ["q_proj"], **more).eval()
    adapters.apply(load_lm(tmp_path / "untied")[0], tmp_path / "arm").save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    with torch.no_grad():
        torch.testing.assert_close(load_lm(tmp_path / "whole")[0](input_ids=ids).logits,
                                   adapted(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_a_merge_that_computes_something_else_is_refused(start, tmp_path, monkeypatch):
    write(load_lm(start)[0], tmp_path / "arm")
    monkeypatch.setattr("peft.PeftModel.merge_and_unload", lambda self: load_lm(start)[0], raising=False)
    with pytest.raises(ValueError, match="states that differ by"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


def test_a_mixture_of_experts_takes_adapters_without_dropout_and_merges_them(tmp_path):
    config = transformers.MixtralConfig(vocab_size=len(tiny_tokenizer()), hidden_size=32, num_hidden_layers=2,
                                        num_attention_heads=2, num_key_value_heads=1, intermediate_size=48,
                                        num_local_experts=4, pad_token_id=0, initializer_range=0.2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "start")
    tiny_tokenizer().save_pretrained(tmp_path / "start")
    model = embedder.assemble(str(tmp_path / "start"), "bidirectional", 48)
    before = embedder.embed(model, ["stone of the river"])
    with pytest.raises(ValueError, match=r"got MixtralModel .*give lora\.dropout: 0 for a mixture of experts"):
        adapters.add_lora(model, Lora(dropout=0.1))
    model = embedder.assemble(str(tmp_path / "start"), "bidirectional", 48)
    adapters.add_lora(model, Lora(dropout=0))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "experts" in name and "lora_B" in name:
                weights.fill_(0.1)
    adapted = embedder.embed(model, ["stone of the river"])
    embedder.save_embedder(model, tmp_path / "embedder")
    plain = embedder.embed(embedder.open_embedder(tmp_path / "embedder"), ["stone of the river"])
    assert abs(adapted - before).max() > 1e-3 and abs(plain - adapted).max() < embedder.EXPORT_TOLERANCE
