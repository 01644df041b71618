"""Two English Bibles in the SWORD format: paraphrase pairs (King James, World English) and books to cluster."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from suite_sources.fetch import Sources
from suite_sources.pieces import Card, Evaluation, clip, html_text, norm, shuffled, words

MODULES = {"sword-text-kjv": "engKJV2006eb", "sword-text-web": "engWEB2015eb"}
Verse = tuple[str, int, int]  # book, chapter, verse
PAIRS = 1500
POOL = 6000  # verses whose closest other verse is looked up
DIFFERENT_VERSE = 0.1  # the translations of one verse are never further apart than this: numbering differs there
SAME_WORDING = 0.45  # cosine of TF-IDF: verses of one translation closer than this tell the same thing
CARD = {"packages": ("sword-text-web", "sword-text-kjv"),
        "licence": "public domain (World English Bible; King James Version outside the United Kingdom)"}


def _entries(folder: Path, testament: str) -> Iterator[str]:
    """Texts of a SWORD zText module, in order: .bzv points into blocks, .bzs into the compressed .bzz."""
    index, blocks, data = ((folder / f"{testament}.{end}").read_bytes() for end in ("bzv", "bzs", "bzz"))
    unpacked: dict[int, bytes] = {}
    for block, start, length in struct.iter_unpack("<IIH", index):
        if block not in unpacked and length:
            at, size, _ = struct.unpack_from("<III", blocks, 12 * block)
            unpacked[block] = zlib.decompress(data[at : at + size])
        yield unpacked[block][start : start + length].decode("utf8") if length else ""


@cache
def verses(sources: Sources, package: str) -> dict[Verse, str]:
    """Verse -> text without notes and headings. A chapter mark starts the count of verses, a book mark ends it."""
    name = MODULES[package]
    folder = sources.debian(package) / "usr/share/sword/modules/texts/ztext" / name
    found: dict[Verse, str] = {}
    for testament in ("ot", "nt"):
        place, number = None, 0
        for entry in _entries(folder, testament):
            chapter = re.search(r'<chapter [^>]*osisID="(\w+)\.(\d+)"[^>]*sID=', entry)
            if chapter or re.search(r'<div [^>]*type="(book|front|introduction)"', entry):
                place, number = (chapter.group(1), int(chapter.group(2))) if chapter else None, 0
            elif place:
                number += 1
                text = html_text(re.split(r"<chapter [^>]*eID=", entry)[0]).replace("¶", "").strip()
                if text:
                    found[(*place, number)] = text
    return found


def _aligned(sources: Sources) -> list[tuple[str, str]]:
    """(King James, World English) for each verse of 8 to 60 words that both have."""
    old, new = (verses(sources, package) for package in ("sword-text-kjv", "sword-text-web"))
    both = [(old[k], new[k]) for k in old if k in new]
    return [(a, b) for a, b in both if words(a) >= 8 and 8 <= words(b) <= 60]


def paraphrases(sources: Sources) -> Evaluation:
    """Is one verse a paraphrase of the other? Right pairs share few words, wrong ones many.

    Right pairs: the two translations of a verse, from the third of verses where they share the fewest words. Wrong
    pairs: a verse and the most similar other verse of the other translation by TF-IDF, the closest of a random
    sample. Verses that tell the same thing elsewhere (parallel books) are never paired, because they would be right.
    """
    pairs = _aligned(sources)
    vectoriser = TfidfVectorizer(sublinear_tf=True, dtype=np.float64)
    new = vectoriser.fit_transform([b for _, b in pairs])
    old = vectoriser.transform([a for a, _ in pairs])
    own = np.asarray(old.multiply(new).sum(axis=1)).ravel()  # (n,) similarity of the two translations
    apart = [i for i in np.argsort(own, kind="stable")[: len(pairs) // 3] if own[i] > DIFFERENT_VERSE]
    right = shuffled(apart, "right", lambda i: pairs[i][0])[: PAIRS // 2]
    pool = sorted(set(range(len(pairs))) - set(right))
    pool = np.array(shuffled(pool, "wrong", lambda i: pairs[i][0])[:POOL])
    other, score = _closest(old, new, pool)
    wrong = np.argsort(-score, kind="stable")[: PAIRS // 2]
    rows = [(pairs[i][0], pairs[i][1], 1) for i in right]
    rows += [(pairs[pool[i]][0], pairs[other[i]][1], 0) for i in wrong]
    card = Card(**CARD, how=norm(paraphrases.__doc__.split("\n\n")[1]),
                faults="A few verses are numbered differently in the two translations. Two verses can say nearly the "
                "same without being the same verse.")
    return Evaluation("BibleParaphrasePC", "pair", "max_ap", "Retrieve text that is a paraphrase of the given text.",
                      card, {"test": pd.DataFrame(shuffled(rows, "rows"),
                                                  columns=["sentence1", "sentence2", "labels"])})


def _closest(old, new, rows: np.ndarray, block: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """For each of `rows` (n,): the verse of `new` most similar to it that does not tell the same, and how similar."""
    best, score = [], []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        similarity = (old[part] @ new.T).toarray()  # (b, n verses)
        similarity[(new[part] @ new.T).toarray() > SAME_WORDING] = -1.0
        best.append(similarity.argmax(axis=1))
        score.append(similarity.max(axis=1))
    return np.concatenate(best), np.concatenate(score)


def books(sources: Sources, n_books: int = 20, n_passages: int = 3000) -> Evaluation:
    """Passages of six verses from the twenty longest books, to be clustered by book."""
    parts = defaultdict(list)
    canon = {book for book, _, _ in verses(sources, "sword-text-kjv")}
    for (book, chapter, verse), text in verses(sources, "sword-text-web").items():
        if book in canon:
            parts[book, chapter, (verse - 1) // 6].append(text)
    longest = [book for book, _ in Counter(sorted(book for book, _, _ in parts)).most_common(n_books)]
    rows = [(clip(" ".join(found), 150), book) for (book, _, _), found in parts.items()
            if book in longest and len(found) >= 4]
    card = Card(**CARD, how="Six successive verses of the World English Bible, cut at 150 words, labelled with their "
                "book.", faults="Books of one kind (Kings and Chronicles, the Gospels) share names and events, so the "
                "labels cannot be recovered fully.")
    return Evaluation("BibleBookClustering", "clustering", "v_measure", "Identify the book a passage comes from.",
                      card, {"test": pd.DataFrame(shuffled(rows, "books")[:n_passages],
                                                  columns=["sentences", "labels"])})
