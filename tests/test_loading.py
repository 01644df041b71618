"""Weights that are not those of their files, and attention that is right in some batches only, are refused."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import tiny_backbone, tiny_tokenizer

from hrsa.models import embedder, language_model, resolve
from hrsa.study.profile import load_profile


@pytest.fixture
def folder(tmp_path):
    return tiny_backbone(tmp_path / "model", seed=0)


def test_attention_that_is_causal_unless_padded_is_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    config = transformers.NemotronConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=1,
        initializer_range=0.2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    language_model.load_encoder(tmp_path, "causal")
    with pytest.raises(RuntimeError, match=r"expected bidirectional attention.*NemotronModel"):
        language_model.load_encoder(tmp_path, "bidirectional")


def renamed(weights):
    return {name.replace("layers.0", "blocks.0"): value for name, value in weights.items()}


def reshaped(weights):
    return weights | {"model.norm.weight": torch.ones(31)}


def broken(weights):
    return weights | {"model.norm.weight": torch.full((32,), torch.nan)}


def extended(weights):
    return weights | {"model.layers.7.extra": torch.ones(2)}


@pytest.mark.parametrize(("change", "said"), [
    (renamed, "missing"), (reshaped, "of another shape"), (broken, "NaN or infinite"), (extended, "unexpected")])
@pytest.mark.parametrize("load", [language_model.load_lm, language_model.load_encoder])
def test_weights_that_are_not_those_of_the_model(load, change, said, folder):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"expected .*exactly the weights.*{said} \("):
        load(folder)


def test_more_layers_than_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"missing \((model\.)?layers\.2\."):
        language_model.load_lm(folder)


@pytest.mark.parametrize("content", [
    b"", b"junk", b"version https://git-lfs.github.com/spec/v1\n", bytes(4096), None])
def test_files_that_are_not_whole(content, folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=r"expected whole weights in .*model\.safetensors, got .*again"):
        language_model.load_lm(folder)


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*save_pretrained"):
        language_model.load_lm(folder)


def test_an_encoder_decoder_is_refused(tmp_path):
    transformers.T5Config(vocab_size=64, d_model=16, num_layers=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="an encoder-decoder"):
        language_model.load_encoder(tmp_path)


def test_of_a_model_of_text_and_images_the_text_part_is_taken(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = tiny_tokenizer()
    config = transformers.Gemma3Config(
        text_config=sizes | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer), "pad_token_id": 0,
                             "initializer_range": 0.2},
        vision_config=sizes | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4, image_token_id=5)
    torch.manual_seed(0)
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"a model of text and something else.*text_config"):
        language_model.load_lm(tmp_path / "whole")
    part, _ = language_model.load_encoder(tmp_path / "whole")
    ids = torch.arange(6, 16)[None]
    with torch.no_grad():
        assert torch.equal(part(input_ids=ids).last_hidden_state,
                           whole.model.language_model(input_ids=ids).last_hidden_state)
    model = embedder.assemble(str(tmp_path / "whole"), "bidirectional", 48)
    embedder.save_embedder(model, tmp_path / "embedder")
    plain = embedder.open_embedder(tmp_path / "embedder")
    assert type(plain[0].model).__name__ == "Gemma3TextModel"
    language_model.leak_probe(plain[0].model, plain.tokenizer, "bidirectional")


def test_loading_draws_no_bar(folder, capfd):
    bars = transformers.utils.logging
    bars.enable_progress_bar()
    language_model.load_encoder(folder)
    assert "Loading weights" not in capfd.readouterr().err and bars.is_progress_bar_enabled()
    bars.disable_progress_bar()


def test_the_key_covers_the_files_of_a_tokenizer(folder):
    values = load_profile("smoke").model_dump() | {"pairs": [], "ablations": [], "controls": [], "backbones": [
        {"name": "here", "source": "folder", "path": str(folder), "arm": "base"}]}
    profile = type(load_profile("smoke")).model_validate(values)
    keys = {resolve.make_backbone_key(profile, "here")}
    for name in ("tokenizer.model", "spiece.model", "vocab.txt", "merges.txt", "chat_template.jinja"):
        (folder / name).write_text("x")
        keys.add(resolve.make_backbone_key(profile, "here"))
    assert len(keys) == 6
