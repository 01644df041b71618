"""BM25: the lexical baseline that stands beside every retrieval score.

Robertson & Zaragoza, The Probabilistic Relevance Framework, 2009, eq. 3.15, with Lucene's idf, as the library
bm25s computes it. mteb's own BM25 model wants a compiled stemmer that a plain install lacks; this one needs none.
bm25s is imported where it is used: chapters that only read tables must not wait for it.
"""

from __future__ import annotations

import numpy as np

K1 = 1.5  # bm25s' and mteb's default: how fast repeated words stop counting
B = 0.75  # how much long documents are held back
STOPWORDS = "english"


def _words(texts: list[str]) -> list[list[str]]:
    """Lower-case words of two characters or more, without English stop words, one list per text."""
    import bm25s

    return bm25s.tokenize(texts, stopwords=STOPWORDS, return_ids=False, show_progress=False)


class BM25:
    """A BM25 index of `texts`. Ranks are deterministic: equal scores keep the order of `texts`."""

    def __init__(self, texts: list[str]):
        import bm25s

        if not texts:
            raise ValueError("expected at least one document to index, got none: check the corpus")
        self.n = len(texts)
        self.index = bm25s.BM25(k1=K1, b=B, method="lucene")
        self.index.index(_words(texts), show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """BM25 of every document for one query: (n,) float32, zero where no word is shared."""
        words = [word for word in _words([query])[0] if word in self.index.vocab_dict]
        return self.index.get_scores(words) if words else np.zeros(self.n, np.float32)

    def top(self, query: str, k: int) -> list[tuple[int, float]]:
        """The at most k best (document number, score), best first; documents sharing no word are not returned."""
        scores = self.scores(query)  # (n,)
        order = np.argsort(-scores, kind="stable")[:k]
        return [(int(i), float(scores[i])) for i in order if scores[i] > 0]
