"""A tiny random Qwen3 with a byte-level BPE tokenizer trained on a few words, for tests."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

WORDS = "stone river paper of a seven moon green to wander Instruct find the match Query find what fits"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "<end>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator([f"{WORDS} {WORDS}: x\nQuery: "] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")


def tiny_backbone(folder: Path, seed: int) -> Path:
    """Write a random Qwen3 causal LM of 2 layers x 32 and its tokenizer; returns the folder."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=16, intermediate_size=48, max_position_embeddings=256,
                         pad_token_id=0, eos_token_id=1, tie_word_embeddings=True, initializer_range=0.2)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
