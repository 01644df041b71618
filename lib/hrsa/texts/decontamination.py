"""Decontamination: evaluation and probe texts are kept out of training, by the word sequences that texts share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hrsa.study import store

GRAM = 13  # words; the length that GPT-3's contamination study settled on (Brown et al. 2020, appendix C)


def grams(text: str, n: int = GRAM) -> set[int]:
    """Hashes (64 bits, of this process alone) of all sequences of `n` successive words of `text`, ignoring case and
    punctuation.

    A text of fewer than `n` words counts as one sequence, so that equal short texts are found as well.
    """
    words = re.findall(r"\w+", text.lower())
    if len(words) < n:
        return {hash(tuple(words))} if words else set()
    return set(map(hash, zip(*(words[start:] for start in range(n)), strict=False)))


def index(texts: Iterable[str], n: int = GRAM) -> set[int]:
    """Hashes of all sequences of `n` words that occur anywhere in `texts`; see `grams`."""
    return set().union(*(grams(text, n) for text in texts))


def contaminated(texts: Iterable[str], known: set[int], n: int = GRAM) -> list[bool]:
    """Whether each text shares a sequence of `n` words with the texts that `known` was made from."""
    return [not grams(text, n).isdisjoint(known) for text in texts]


def reserved() -> set[int]:
    """Word sequences of every evaluation and probe text: what no training text may contain (see `contaminated`)."""
    texts: list[str] = []
    for path in sorted([*store.SUITE.glob("eval/*/*.parquet"), *store.SUITE.glob("probe/*.parquet")]):
        table = store.read_table(path)
        texts += [text for c in ("text", "sentences", "sentence1", "sentence2") if c in table for text in table[c]]
    return index(texts)
