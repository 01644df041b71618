"""What both benchmarks of training share: texts of the suite, a tokenizer for them, batches, and the two losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from hrsa.study import store
from hrsa.training.infonce import InfoNCE

TEMPERATURE, NEGATIVES = 0.05, 3


def suite_texts() -> pd.DataFrame:
    """Training pairs of the suite [task, query, positive], without repeats."""
    files = sorted((store.SUITE / "train").glob("*.parquet"))
    tables = [pd.read_parquet(f)[["query", "positive"]].assign(task=f.stem) for f in files]
    return pd.concat(tables).drop_duplicates("query").drop_duplicates("positive").reset_index(drop=True)


def write_tokenizer(folder: Path, texts: pd.DataFrame) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most 8,192 tokens trained on the texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<pad>", "<end>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(texts[["query", "positive"]].to_numpy().ravel().tolist(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_model(folder: Path, texts: pd.DataFrame, **shape: int) -> None:
    """A random Qwen2 and a tokenizer trained on the texts; shape: fields of its configuration."""
    tokenizer = write_tokenizer(folder, texts)
    torch.manual_seed(0)
    config = Qwen2Config(**{"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
                            "tie_word_embeddings": True, **shape})
    Qwen2ForCausalLM(config).save_pretrained(folder)


def batch_of(model: SentenceTransformer, texts: pd.DataFrame, size: int, seed: int) -> list[dict]:
    """Tokenised columns query, positive and negatives; a batch is of one task, as in training, all texts different.

    Where no task has enough texts, all tasks are mixed; ValueError when even these are too few.
    """
    chance, needed = np.random.default_rng(seed), (1 + NEGATIVES) * size
    counts = texts["task"].value_counts()
    tasks = counts[counts >= needed]
    rows = texts if tasks.empty else texts[texts["task"] == chance.choice(tasks.index, p=tasks / tasks.sum())]
    if len(rows) < needed:
        raise ValueError(f"expected at least {needed} texts for {size} queries, got {len(rows)}: lower --batch")
    rows = rows.iloc[chance.permutation(len(rows))[:needed]]
    passages = rows["positive"].to_numpy().reshape(1 + NEGATIVES, size)
    return [model.preprocess(list(column)) for column in (rows["query"].to_numpy()[:size], *passages)]


def make_loss(kind: str, model: SentenceTransformer) -> torch.nn.Module:
    """The loss that `kind` names: whose it is, and how much is embedded at once."""
    who, number, unit = kind.replace(",", "").split()
    if who == "ours":
        return InfoNCE(model, TEMPERATURE, int(number))
    size = {"mini_batch_size" if unit == "texts" else "mini_batch_num_tokens": int(number)}
    return CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **size)


def labels_of(features: list[dict]) -> dict[str, torch.Tensor]:
    """Identifiers under which no text repeats another."""
    rows = len(features[0]["input_ids"])
    ids = torch.arange(rows * len(features)).reshape(len(features), rows).T
    return {"ids": ids, "known": ids[:, 1:2]}


def gradient(model: SentenceTransformer) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])
