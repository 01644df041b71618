"""Tiny random models of eight architectures through the switch, the export as SentenceTransformer, and back."""

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tiny import tiny_tokenizer

from hrsa.models import embedder, language_model
from hrsa.study import runtime

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": None,
         "eos_token_id": 1, "initializer_range": 0.2}
FAMILIES = ["Qwen2", "Qwen3", "Llama", "Mistral", "Gemma3", "Phi3", "Olmo2", "SmolLM3"]
PROMPT = "Instruct: find the match\nQuery: "
WORDS = ["stone", "river", "paper", "of", "a", "seven", "moon", "green", "to", "wander"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Makes the folder of a random tiny causal LM of a family, once."""
    made, tokenizer = {}, tiny_tokenizer()

    def make(family):
        if family not in made:
            torch.manual_seed(0)
            name = {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config")
            config = getattr(transformers, name)(vocab_size=len(tokenizer), **SIZES)
            made[family] = tmp_path_factory.mktemp(family)
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_blocks_are_kept_with_the_final_norm(family, folder_of, tmp_path, rng):
    whole, tokenizer = language_model.load_encoder(folder_of(family), "bidirectional")
    cut, _ = language_model.load_encoder(folder_of(family), "bidirectional", layers=1)
    assert len(cut.layers) == 1 and len(whole.layers) == 2
    batch = tokenizer(some_texts(rng), padding=True, return_tensors="pt").to(runtime.device())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = whole.norm(whole(**inputs, output_hidden_states=True).hidden_states[1])  # (b, t, d)
        found = cut(**inputs).last_hidden_state
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[kept], expected[kept])
    model = embedder.assemble(str(folder_of(family)), "bidirectional", 48, layers=1)
    embedder.save_embedder(model, tmp_path / "model")
    texts = some_texts(rng)
    np.testing.assert_allclose(embedder.embed(SentenceTransformer(str(tmp_path / "model"),
                                                                  device=str(runtime.device())), texts),
                               embedder.embed(model, texts), atol=embedder.EXPORT_TOLERANCE)


def test_more_blocks_than_there_are(folder_of):
    with pytest.raises(ValueError, match=r"at most the 2 blocks of .*, got 3: lower it"):
        language_model.load_encoder(folder_of("Llama"), layers=3)


def some_texts(rng):
    """Texts of different length, so that a batch of them is padded."""
    return [" ".join(rng.choice(WORDS, n)) for n in (1, 3, 9, 14)]


CASES = [(family, "bidirectional") for family in FAMILIES] + [("Qwen3", "causal")]


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_export_and_reload_embed_alike(family, attention, folder_of, tmp_path, rng):
    model = embedder.assemble(str(folder_of(family)), attention, 48, {"task": PROMPT})
    texts = some_texts(rng)
    before = [embedder.embed(model, texts), embedder.embed(model, texts, PROMPT)]
    embedder.save_embedder(model, tmp_path / "model")
    for kernel in ("sdpa", "eager"):
        plain = SentenceTransformer(str(tmp_path / "model"), device=str(runtime.device()),
                                    model_kwargs={"attn_implementation": kernel})
        assert plain[0].model.config._attn_implementation == kernel
        for side in ("right", "left"):
            plain.tokenizer.padding_side = side
            language_model.leak_probe(plain[0].model, plain.tokenizer, attention)
            after = [embedder.embed(plain, texts), embedder.embed(plain, texts, plain.prompts["task"])]
            for old, new in zip(before, after, strict=True):
                np.testing.assert_allclose(new, old, atol=2e-5)
    alone = np.concatenate([embedder.embed(plain, [text]) for text in texts])
    np.testing.assert_allclose(alone, before[0], atol=2e-5, err_msg="padding changes embeddings")


def test_switching_changes_the_embeddings(folder_of, rng):
    texts = some_texts(rng)[1:]
    causal, both = (embedder.embed(embedder.assemble(str(folder_of("Qwen3")), attention, 48), texts)
                    for attention in ("causal", "bidirectional"))
    assert np.abs(causal - both).max() > 1e-3


def test_an_architecture_that_cannot_be_switched_is_never_exported(tmp_path):
    tokenizer = tiny_tokenizer()
    config = transformers.GPTNeoConfig(vocab_size=len(tokenizer), hidden_size=32, num_layers=2, num_heads=4,
                                       attention_types=[[["global"], 2]], max_position_embeddings=64,
                                       bos_token_id=1, eos_token_id=1)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="with the attention kernel sdpa"):
        language_model.load_encoder(tmp_path, "bidirectional", "sdpa")  # it has no such kernel at all
    with pytest.raises(RuntimeError, match=r"expected bidirectional attention.*GPTNeoModel"):
        embedder.assemble(str(tmp_path), "bidirectional", 48)
    with pytest.raises(RuntimeError, match=r"expected bidirectional attention.*GPTNeoModel.*take an architecture"):
        language_model.load_encoder(tmp_path, "bidirectional", "eager")
