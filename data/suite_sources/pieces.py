"""What a source hands to the builder, and the cleaning that all sources share."""

from __future__ import annotations

import hashlib
import html
import re
from dataclasses import dataclass, field

import pandas as pd

PASSAGE_WORDS = 180  # longer passages are cut here, a clean 13-gram limit and about 256 tokens
BLOCK_TAGS = r"p|div|li|ul|ol|dl|dt|dd|td|th|tr|table|pre|br|h\d|section"


@dataclass(frozen=True)
class Card:
    """What a data card says about a task: where the text is from and what is wrong with it."""

    packages: tuple[str, ...]  # names pinned in fetch.py
    licence: str
    how: str  # how query and passage were taken from the source
    faults: str


@dataclass(frozen=True)
class Training:
    """Query-passage pairs of one training task, before the overlap check and the cap."""

    name: str
    instruction: str
    card: Card
    pairs: list[tuple[str, str]]
    cap: int = 6500


@dataclass(frozen=True)
class Evaluation:
    """One evaluation task; `tables` are named as their files: corpus, queries, qrels, or train, test."""

    name: str
    family: str
    metric: str
    instruction: str
    card: Card
    tables: dict[str, pd.DataFrame]
    reasoning: bool = False
    ignore_identical_ids: bool = False
    notes: dict = field(default_factory=dict)


def norm(text: str) -> str:
    """`text` with every run of white space as one space."""
    return re.sub(r"\s+", " ", text).strip()


def words(text: str) -> int:
    """Number of white-space separated words."""
    return len(text.split())


def clip(text: str, limit: int = PASSAGE_WORDS) -> str:
    """The first `limit` words."""
    return " ".join(text.split()[:limit])


def share(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on the text only: assigns it to a partition, the same on every machine."""
    digest = hashlib.blake2b(f"{salt}|{norm(text).lower()}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def shuffled(items: list, salt: str, text=str) -> list:
    """`items` in an order that depends on their text and `salt` only, so that a new item moves no other."""
    return sorted(items, key=lambda item: (share(text(item), salt), text(item)))


def html_text(source: str) -> str:
    """Plain text of an HTML or OSIS fragment: block tags separate words, inline tags do not."""
    source = re.sub(r"<(script|style|title|note)\b.*?</\1>", " ", source, flags=re.S)
    source = re.sub(rf"</?(?:{BLOCK_TAGS}|lg|l|lb)\b[^>]*>", " ", source)
    text = norm(html.unescape(re.sub(r"<[^>]+>", "", source)).replace("\xa0", " "))
    return re.sub(r" ([,.;:!?)])(?=\s|$)", r"\1", text)


def retrieval(corpus: dict[str, str], queries: dict[str, str], qrels: dict[str, dict[str, int]]) -> dict:
    """Tables of a retrieval task: corpus and queries [id, text], qrels [query-id, corpus-id, score]."""
    judged = [(q, c, s) for q, row in qrels.items() for c, s in row.items()]
    return {
        "corpus": pd.DataFrame(list(corpus.items()), columns=["id", "text"]),
        "queries": pd.DataFrame(list(queries.items()), columns=["id", "text"]),
        "qrels": pd.DataFrame(judged, columns=["query-id", "corpus-id", "score"]),
    }
