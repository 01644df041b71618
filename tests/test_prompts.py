"""Where an instruction ends and a query begins, by the kinds of tokenizers that decoders and encoders have."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
)

from hrsa.models.embedder import assemble, exact_prompts, prompt_tokens
from hrsa.texts.suite import query_prompt

PROMPT = query_prompt("find the stones")
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
QUERIES = ("stone", "a green moon", "7 rivers", "(seven)", "Moon's paper", "über", "中 文")


def pieces():
    """A BPE of words that writes spaces as letters."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    words = f"{PROMPT}stone river paper of a seven moon green to wander 7 ( ) é ü ' b : M 中 文 word Word"
    core.train_from_iterator([words, PROMPT, PROMPT], trainers.BpeTrainer(vocab_size=160, special_tokens=SPECIAL,
                                                                          show_progress=False))
    return core


def parts(core):
    """Its vocabulary and its merges."""
    content = json.loads(core.to_str())["model"]
    return content["vocab"], [tuple(pair) for pair in content["merges"]]


def gemma():
    vocabulary, merges = parts(pieces())
    return GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def llama():
    vocabulary, merges = parts(pieces())
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, bos_token="<bos>", eos_token="<eos>")
    tokenizer.pad_token = "<pad>"
    return tokenizer


def prepending():
    """A Llama tokenizer as older conversions write it: a normaliser that puts a space first."""
    core = pieces()
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = None
    core.post_processor = processors.TemplateProcessing("<bos> $A <eos>", None, [("<bos>", 2), ("<eos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
                                   unk_token="<unk>")


def bert():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "instruct", ":", "find", "the", "stones", "query", "stone",
             "a", "green", "moon", "7", "(", ")", "seven", "'", "s", "paper", "rivers", "word"]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


@pytest.mark.parametrize("make", [gemma, llama, prepending, bert])
def test_what_pooling_leaves_out_is_the_instruction(make, tmp_path):
    own, tokenizer = make(), exact_prompts(make())
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    count = prompt_tokens(loaded, PROMPT)
    assert count == prompt_tokens(tokenizer, PROMPT) > 4
    for query in QUERIES:
        assert loaded(query)["input_ids"] == own(query)["input_ids"]
        coded = loaded(PROMPT + query, return_offsets_mapping=True)
        assert coded["input_ids"] == own(PROMPT + query)["input_ids"]
        left_out, pooled = coded["offset_mapping"][:count], coded["offset_mapping"][count:]
        assert max(end for _, end in left_out) <= len(PROMPT)  # nothing of the query
        whole = PROMPT + query
        assert "".join(whole[start:end] for start, end in pooled).strip().startswith(query[:1])  # nothing but it


def test_a_gemma_pools_the_query_alone(tmp_path):
    tokenizer = gemma()
    config = Gemma3TextConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                              num_key_value_heads=1, head_dim=16, intermediate_size=48, max_position_embeddings=128,
                              pad_token_id=0, initializer_range=0.2)
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = assemble(str(tmp_path), "bidirectional", 96, {"stones": PROMPT})
    ids = tokenizer(PROMPT + "a green stone")["input_ids"]
    own = tokenizer.convert_ids_to_tokens(ids)
    query = ["▁a", "▁green", "▁stone"]
    assert own[0] == "<bos>" and own[-3:] == query
    with torch.no_grad():
        states = model[0].model(torch.tensor([ids])).last_hidden_state[0]  # (t, d)
    found = model.encode(["a green stone", "moon"], prompt=PROMPT, show_progress_bar=False)[0]
    np.testing.assert_allclose(found, states[-3:].mean(0), atol=1e-5)


def test_tokens_across_the_border_are_refused():
    core = pieces()
    core.normalizer, core.pre_tokenizer = normalizers.Replace(" ", "▁"), None
    core.add_tokens(["Query:▁word"])
    crossing = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    with pytest.raises(ValueError, match=r"end where a token ends, got .* before the query 'word'"):
        prompt_tokens(exact_prompts(crossing), PROMPT)
