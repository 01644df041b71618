"""The pretraining corpus of a zoo backbone: its tokenizer and its packed rows of token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from hrsa.models.zoo.problems import END_THINK, THINK, problem_documents, stream
from hrsa.study.profile import Zoo

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END = "<pad>", "<end>"
TOKENIZER_DOCUMENTS = 10_000  # enough for stable merges of a few thousand tokens, and quick
LONGEST = 2000  # characters kept of one real document: a few rows
_BLOCK = 500  # documents encoded and shuffled at once
Stage = Literal["pretraining", "continued pretraining"]


def train_tokenizer(texts: Sequence[str], zoo: Zoo) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `zoo.vocab_size` tokens in which every digit is a token of its own.

    `<pad>` and `<end>` (end of text) are special; the think tags are whole tokens but not special, so that decoding
    without special tokens keeps them. Raises ValueError when the texts are too few for
    that many tokens.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\p{N}|[-+](?=\p{N})"), behavior="isolated")  # and their signs
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=zoo.vocab_size - 2, special_tokens=[PAD, END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    rng = np.random.default_rng([zoo.seed, 0])
    chosen = [texts[i] for i in rng.permutation(len(texts))[:TOKENIZER_DOCUMENTS]]
    problems = problem_documents(len(chosen) // 10, stream("train", "tokenizer", zoo, zoo.terms), zoo, rng)
    tokenizer.train_from_iterator(chosen + problems, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (THINK, END_THINK)])
    if tokenizer.get_vocab_size() != zoo.vocab_size:
        raise ValueError(f"expected texts that give {zoo.vocab_size} tokens, got {tokenizer.get_vocab_size()} from "
                         f"{len(texts)} documents: lower zoo.vocab_size or give more text")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="right",
                                   model_max_length=zoo.context, clean_up_tokenization_spaces=False)


def pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, zoo: Zoo,
         stage: Stage = "pretraining") -> np.ndarray:
    """Rows of token ids, (steps * batch, length) int32: documents end to end, each closed by `<end>`.

    Documents cross row boundaries; nothing is padded or masked. The rows are those of all steps in order. In each
    stretch of a few hundred problem_documents, `worked_share` of the tokens are problems with their answers; continued
    pretraining (`stage`) sees real documents alone, in another order.
    """
    if not texts:
        raise ValueError("expected real documents to pretrain on, got none: `texts.pretraining` found no "
                         "documents in the installed packages")
    first = stage == "pretraining"
    needed = (zoo.pretrain_steps if first else zoo.cpt_steps) * zoo.pretrain_batch * zoo.pretrain_length
    share = zoo.worked_share if first else 0
    rng = np.random.default_rng([zoo.seed, 1 if first else 2])
    real, source = _rounds(texts, rng), stream("train", stage, zoo, zoo.terms)
    rows, have = [], 0
    while have < needed:
        block = _encode(list(islice(real, _BLOCK)), tokenizer)
        want = sum(map(len, block)) * share / (1 - share)  # tokens of problems beside them
        while want > 0:
            problems = _encode(problem_documents(_BLOCK, source, zoo, rng), tokenizer)
            ends = np.cumsum([len(ids) for ids in problems])
            block += problems[: int(np.searchsorted(ends, want)) + 1]
            want -= ends[-1]
        rows += [np.concatenate([block[i] for i in rng.permutation(len(block))])]
        have += len(rows[-1])
    return np.concatenate(rows)[:needed].reshape(-1, zoo.pretrain_length)


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> list[np.ndarray]:
    """Token ids of each document, closed by the end of text."""
    ids = tokenizer(texts, verbose=False)["input_ids"]
    return [np.asarray([*row, tokenizer.eos_token_id], np.int32) for row in ids]


def _rounds(texts: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """The real problem_documents, cut to `LONGEST`, endlessly, each round in a new order."""
    while True:
        for index in rng.permutation(len(texts)):
            yield texts[index][:LONGEST]
