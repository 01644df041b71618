"""Rows that two models share: tokens where their tokenizers are equal, else words or whole texts, by character spans.

A tokenizer says which characters of the text each token stands for. A word (characters between white space) has the
tokens whose span meets its own, and its state is their mean; a text has the tokens of all its words, or where its
embedder pools the last token, that one. Rows are sampled before any tokenizer is asked, so that models with different
tokenizers get the same rows.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from hrsa.analysis.hidden_states import Batch, tokenise

Unit = Literal["token", "word", "text"]
ONE_TOKEN = {"lasttoken": -1, "cls": 0}  # pooling by one token of a text (sentence-transformers' names): its place
WORD = re.compile(r"\S+")
SAMPLE_SEED = 0  # of tokens, words or texts; one value, because every model must see the same rows


@dataclass(frozen=True)
class Units:
    """What is recorded of some texts, and which tokens each row is the mean of."""

    texts: list[str]  # as they are to be tokenised
    max_length: int  # tokens
    table: pd.DataFrame  # one row per unit, see `sample_units`
    members: np.ndarray  # (m,) rising: a token among those of all texts joined
    rows: np.ndarray  # (m,) the row that this token is part of
    total: int  # tokens of all texts

    def keep(self) -> np.ndarray:
        """Mask (total,) of the tokens that are part of any row."""
        mask = np.zeros(self.total, bool)
        mask[self.members] = True
        return mask

    def pool(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Rows (b,) that a batch completes, and their states (l, b, d); texts are never split between batches."""
        from scipy.sparse import csr_matrix

        at = np.full(self.total, -1)
        at[batch.rows] = np.arange(len(batch.rows))
        inside = at[self.members] >= 0
        rows, place = np.unique(self.rows[inside], return_inverse=True)
        shares = (1 / np.bincount(place)).astype(np.float32)[place]
        mean = csr_matrix((shares, (place, at[self.members[inside]])), shape=(len(rows), len(batch.rows)))
        return rows, np.stack([mean @ layer for layer in batch.states])


def units(table: pd.DataFrame, tokenizer: Any, unit: Unit, max_length: int, max_rows: int,
          positions: int | None = None, pooling: str = "mean") -> Units:
    """The rows to record of texts (`table` with id, set, difficulty and text) for one model.

    "token": texts cut at `max_length` tokens; rows equal those of another model only if the tokenizers are equal.
    "word" and "text": texts cut at `max_length` words, equal rows for every model. At most `max_rows`, sampled.
    `positions` is the longest text, in tokens, that the model was made for. `pooling`: a text is the token of
    `ONE_TOKEN`, or for any other mode the mean over its words' tokens. ValueError: an unknown unit, a tokenizer
    that gives no character spans, a longer text, a word without a token.
    """
    if unit == "token":
        texts = table["text"].tolist()
        if positions is not None and max_length > positions:
            raise ValueError(f"expected texts cut at {positions} tokens or less, which the model was made for, got "
                             f"{max_length}: lower analysis.max_length")
        ids = tokenise(tokenizer, texts, max_length)
        rows = sample_units(table, ids, max_rows)
        place = rows.pop("place").to_numpy()
        return Units(texts, max_length, rows, place, np.arange(len(place)), sum(map(len, ids)))
    if unit not in ("word", "text"):
        raise ValueError(f"expected unit token, word or text, got {unit!r}: correct analysis.unit")
    texts = [first_words(text, max_length) for text in table["text"]]
    words = [[match.span() for match in WORD.finditer(text)] for text in texts]
    spans = token_spans(tokenizer, texts, positions)
    pairs = [_members(tokens, inside, text) for tokens, inside, text in zip(spans, words, texts, strict=True)]
    if unit == "text":
        rows = sample_units(table, [[i] for i in range(len(texts))], max_rows)
        rows["length"] = [len(words[i]) for i in rows["place"]]
        pairs = [_of_text(token, len(part), pooling) for (token, _), part in zip(pairs, spans, strict=True)]
        words = [[(0, len(text))] for text in texts]
    else:
        ids = [[zlib.crc32(text[a:b].encode()) for a, b in part] for text, part in zip(texts, words, strict=True)]
        rows = sample_units(table, ids, max_rows)
    place = rows.pop("place").to_numpy()
    token_start, unit_start = (np.concatenate([[0], np.cumsum([len(p) for p in parts])]) for parts in (spans, words))
    tokens = np.concatenate([token + token_start[i] for i, (token, _) in enumerate(pairs)])
    of = np.concatenate([which + unit_start[i] for i, (_, which) in enumerate(pairs)])
    row = np.full(unit_start[-1], -1)
    row[place] = np.arange(len(place))
    chosen = row[of] >= 0
    return Units(texts, int(np.diff(token_start).max()), rows, tokens[chosen], row[of[chosen]], int(token_start[-1]))


def _of_text(token: np.ndarray, count: int, pooling: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (m,) that make the row of a text of `count` tokens, of which `token` are those of words; zeros (m,)."""
    place = ONE_TOKEN.get(pooling)
    members = np.unique(token) if place is None else np.arange(count)[[place]]
    return members, np.zeros(len(members), int)


def first_words(text: str, count: int) -> str:
    """The text up to the end of its word number `count`."""
    for number, match in enumerate(WORD.finditer(text), 1):
        if number == count:
            return text[: match.end()]
    return text


def token_spans(tokenizer: Any, texts: list[str], positions: int | None = None) -> list[np.ndarray]:
    """Characters [start, end) that each token of each text stands for: arrays (t, 2); tokens added by the tokenizer
    have an empty span. ValueError: no character spans, a text of more than `positions` tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"expected a tokenizer that gives character spans, got {type(tokenizer).__name__}: save the "
                         "model with a tokenizer.json (a fast tokenizer)")
    found = tokenizer(texts, padding=False, truncation=False, return_offsets_mapping=True)["offset_mapping"]
    longest = max(range(len(texts)), key=lambda i: len(found[i]))
    if positions is not None and len(found[longest]) > positions:
        raise ValueError(f"expected texts of at most {positions} tokens, which the model was made for, got "
                         f"{len(found[longest])} in text {longest}: lower analysis.max_length (words of a text)")
    return [np.array(part, dtype=np.intp).reshape(-1, 2) for part in found]


def overlaps(tokens: np.ndarray, words: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (token, word) whose spans [start, end) meet, from (t, 2) and (w, 2), by token; words in rising order.

    A token that spans two words belongs to both, a token of white space or without characters to none.
    """
    words = np.asarray(words, dtype=np.intp).reshape(-1, 2)
    first = np.searchsorted(words[:, 1], tokens[:, 0], side="right")  # first word that ends behind the token's start
    last = np.searchsorted(words[:, 0], tokens[:, 1], side="left")  # first word that starts at its end or later
    count = np.where(tokens[:, 1] > tokens[:, 0], np.maximum(last - first, 0), 0)
    token = np.repeat(np.arange(len(tokens)), count)
    offset = np.arange(len(token)) - np.repeat(np.cumsum(count) - count, count)
    return token, first[token] + offset


def _members(tokens: np.ndarray, words: list[tuple[int, int]], text: str) -> tuple[np.ndarray, np.ndarray]:
    token, word = overlaps(tokens, words)
    without = sorted(set(range(len(words))) - set(word.tolist()))
    if without or not words:
        what = repr(text[slice(*words[without[0]])]) if words else "no word"
        raise ValueError(f"expected every text to have words and every word a token, got {what} in {text!r:.60}: "
                         "remove these characters from the text, which the tokenizer does not know")
    return token, word


def sample_units(table: pd.DataFrame, ids: list[list[int]], max_rows: int, seed: int = SAMPLE_SEED) -> pd.DataFrame:
    """A seeded sample of tokens (or words), described one per row.

    `table` has one text per row (`id`, `set`, `difficulty`) and `ids` what each text consists of, as numbers. Returns
    the columns row (0 ...), text, set, difficulty, position (in its text, from 0), token_id (the number), length (of
    its text) and `place` (among all of all texts). Depends on the texts and the numbers only.
    """
    lengths = np.array([len(row) for row in ids])
    total = int(lengths.sum())
    rng = np.random.default_rng(seed)
    place = np.sort(rng.choice(total, size=min(max_rows, total), replace=False))  # (n,)
    text = np.repeat(np.arange(len(ids)), lengths)[place]
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return pd.DataFrame({
        "row": np.arange(len(place)),
        "text": table["id"].to_numpy()[text],
        "set": table["set"].to_numpy()[text],
        "difficulty": table["difficulty"].to_numpy()[text],
        "position": place - start[text],
        "token_id": np.concatenate([np.asarray(row) for row in ids])[place],
        "length": lengths[text],
        "place": place,
    })
