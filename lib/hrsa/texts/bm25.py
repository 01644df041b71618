"""BM25: the lexical baseline that stands beside every retrieval score.

Robertson & Zaragoza, The Probabilistic Relevance Framework, 2009, eq. 3.15, with Lucene's idf, as the library
bm25s computes it. mteb's own BM25 model wants a compiled stemmer that a plain install lacks; this one needs none.
bm25s is imported where it is used: chapters that only read tables must not wait for it.
"""

from __future__ import annotations

import re

import numpy as np

K1 = 1.5  # bm25s' and mteb's default: how fast repeated words stop counting
B = 0.75  # how much long documents are held back
STOPWORDS = "english"
_UNSPACED = re.compile(  # runs of the scripts that put no spaces between words
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]+")  # Thai, Lao, Myanmar, Khmer; kana and Han


def _words(texts: list[str]) -> list[list[str]]:
    """Lower-case words of two characters or more, without English stop words, one list per text.

    Chinese, Japanese, Thai and their like have no spaces: there the words are all pairs of neighbouring characters,
    as in Lucene's analyser for them, and the character itself where it stands alone.
    """
    import bm25s

    runs = [_UNSPACED.findall(text) for text in texts]
    spaced = [_UNSPACED.sub(" ", text) if found else text for text, found in zip(texts, runs, strict=True)]
    words = bm25s.tokenize(spaced, stopwords=STOPWORDS, return_ids=False, show_progress=False)
    return [[*found, *(run[i : i + 2] for run in parts for i in range(max(1, len(run) - 1)))]
            for found, parts in zip(words, runs, strict=True)]


class BM25:
    """A BM25 index of `texts`. Ranks are deterministic: equal scores keep the order of `texts`."""

    def __init__(self, texts: list[str]):
        import bm25s

        if not texts:
            raise ValueError("expected at least one document to index, got none: check the corpus")
        self.n = len(texts)
        words = _words(texts)
        self.index = None  # where no document has a word, and so none is ever found
        if any(words):
            self.index = bm25s.BM25(k1=K1, b=B, method="lucene")
            self.index.index(words, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """BM25 of every document for one query: (n,) float32, zero where no word is shared."""
        if self.index is None:
            return np.zeros(self.n, np.float32)
        words = [word for word in _words([query])[0] if word in self.index.vocab_dict]
        return self.index.get_scores(words) if words else np.zeros(self.n, np.float32)

    def top(self, query: str, k: int) -> list[tuple[int, float]]:
        """The at most k best (document number, score), best first; documents sharing no word are not returned."""
        scores = self.scores(query)  # (n,)
        order = np.argsort(-scores, kind="stable")[:k]
        return [(int(i), float(scores[i])) for i in order if scores[i] > 0]
