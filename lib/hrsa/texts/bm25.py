"""BM25: the lexical baseline that stands beside every retrieval score.

Robertson & Zaragoza, The Probabilistic Relevance Framework, 2009, eq. 3.15, with Lucene's idf, as the library
bm25s computes it. mteb's own BM25 model wants a compiled stemmer that a plain install lacks; this one needs none.
bm25s is imported where it is used: chapters that only read tables must not wait for it.
"""

from __future__ import annotations

from typing import Any

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


class BM25Search:
    """BM25 behind mteb's `SearchProtocol`: indexes a task's corpus, then ranks it for each query, no instruction."""

    def __init__(self, mteb_model_meta: Any):
        self.mteb_model_meta = mteb_model_meta

    def index(self, corpus: Any, **_: Any) -> None:
        """Index a corpus with columns id, text and perhaps title."""
        self.ids = list(corpus["id"])
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(self.ids)
        texts = [f"{title} {text}".strip() for title, text in zip(titles, corpus["text"], strict=True)]
        self.ranker = BM25(texts)

    def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **_: Any) -> dict[str, dict[str, float]]:
        """Scores of the `top_k` best documents per query id; of `top_ranked` only, where that is given."""
        found = {}
        for name, text in zip(queries["id"], queries["text"], strict=True):
            depth = top_k if top_ranked is None else self.ranker.n
            ranked = [(self.ids[i], score) for i, score in self.ranker.top(text, depth)]
            if top_ranked is not None:
                ranked = [(document, score) for document, score in ranked if document in set(top_ranked[name])]
            found[name] = dict(ranked[:top_k])
        return found
