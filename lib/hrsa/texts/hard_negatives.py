"""Hard negatives: passages that a reference embedder finds similar to the query, but not as similar as the positive.

For each query the task's passages are ranked by similarity. A passage counts as a candidate only when its similarity
is at most `margin` times the positive's, and the nearest candidates outside the first min(skip_ranks, skip_share N)
ranks become the negatives (the published recipe: 95%, 100 ranks, 10%). What stands above the margin may be a right
answer that nobody marked: a suspect. The search itself is `hrsa.texts.negative_search`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hrsa.study import hub, store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Mining, Profile
from hrsa.study.progress import progress
from hrsa.texts import suite, training_sources
from hrsa.texts.negative_search import (
    REFERENCE_TOKENS,
    Known,
    Mined,
    RightPassages,
    bm25_scores,
    embedding_scores,
    load_reference,
    select,
)

log = logging.getLogger(__name__)

TRIPLE_COLUMNS = ["task", "instruction", "query", "positive", "negatives"]  # what is trained on
_TRIPLES, _REPORT = "triples.parquet", "report.json"
_SHOWN_PER_TASK = 3  # per task, in the report
QUANTILES = (0.05, 0.5, 0.95)  # of a negative's share of its positive's similarity, in the report
_ROWS_AT_A_TIME = 50_000  # triples turned into parquet at a time
SCHEMA = pa.schema({"row": pa.int64(), "task": pa.string(), "instruction": pa.string(), "query": pa.string(),
                    "positive": pa.string(), "negatives": pa.list_(pa.string()), "positive_score": pa.float64(),
                    "negative_scores": pa.list_(pa.float64())})


def make_triples(profile: Profile) -> Path:
    """Make the training triples of a profile, where they are not there yet, and return their folder.

    `triples.parquet` [row, task, instruction, query, positive, negatives, positive_score, negative_scores] and
    `report.json`. Pairs with fewer candidates than `hard_negatives` are left out and counted. Raises ValueError when
    a task keeps no pair, or as `suite.load_training` does.
    """
    wanted = max([profile.recipe.hard_negatives] + [profile.varied(a.name).hard_negatives for a in profile.ablations])
    files = {source.task: source.hash() for source in training_sources.named_sources(profile)}
    tokens = min(REFERENCE_TOKENS, profile.recipe.max_length)
    mining = _pinned(profile, wanted)
    key = store.key(mining=mining.model_dump(), max_pairs=profile.suite.max_pairs, files=files,
                    hard_negatives=wanted, tokens=tokens, code=code_hash(make_triples))

    def build(folder: Path) -> None:
        training, searched = suite.load_training(profile), profile.suite.mining.passages
        more = max(searched, profile.suite.max_pairs) if searched and profile.suite.max_pairs else None
        wider = profile.suite.model_copy(update={"max_pairs": more})
        pool = suite.load_training(profile.model_copy(update={"suite": wider})) if more else None
        triples, report = mine_triples(training, mining, wanted, profile.threads, tokens, pool)
        write_triples(folder / _TRIPLES, triples)
        store.write_json(folder / _REPORT, report)

    return store.make(store.artefact(profile.name, "texts", "triples", key), build, (make_triples,), files=files)


def _pinned(profile: Profile, wanted: int) -> Mining:
    """`suite.mining` with the commit of a reference embedder on the hub, where there is anything to mine."""
    mining = profile.suite.mining
    if not hub.is_on_hub(mining.embedder) or not (suite.load_training(profile)["negatives"].str.len() < wanted).any():
        return mining
    return mining.model_copy(update={"revision": hub.make_commit(profile, mining.embedder, mining.revision)})


def read_triples(folder: Path, columns: list[str] = TRIPLE_COLUMNS) -> pd.DataFrame:
    """The training triples from their folder; ValueError when one of `columns` is missing."""
    return store.read_table(folder / _TRIPLES, columns)


def read_mining_report(folder: Path) -> dict[str, Any]:
    """The report of what mining did to each task, from the folder of the triples."""
    return store.read_json(folder / _REPORT)


def write_triples(path: Path, triples: pd.DataFrame) -> None:
    """Write triples as parquet, part by part: a passage is many rows' negative, and all at once would not fit."""
    with store.atomic(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(triples), _ROWS_AT_A_TIME):
            part = triples.iloc[start : start + _ROWS_AT_A_TIME]
            writer.write_table(pa.Table.from_pandas(part, SCHEMA, preserve_index=False))


def mine_triples(training: pd.DataFrame, options: Mining, wanted: int, threads: int, tokens: int = REFERENCE_TOKENS,
                 pool: pd.DataFrame | None = None) -> tuple[pd.DataFrame, dict]:
    """Mine `wanted` negatives for each training pair (see `suite.load_training`): triples, and the report.

    pool: pairs of the same tasks, whose positives are the passages searched beside those of `training`; a passage that
    it pairs with a query is right for that query.
    """
    given = training["negatives"].str.len() >= max(wanted, 1)
    pool = training[~given] if pool is None else pool
    model = None if given.all() or wanted == 0 else load_reference(options.embedder, threads, tokens,
                                                                       options.revision)
    parts, tasks = [], {}
    with progress(len(training), "mining", options.embedder, unit="pair") as bar:
        for task, group in training.groupby("task", sort=False):
            mined = _mine_task(group[~given[group.index]], pool[pool["task"] == task], options, wanted, model,
                               bar.update)
            part = pd.concat([_as_given(group[given[group.index]], wanted), mined.table]).sort_index()
            if part.empty:
                raise ValueError(f"expected at least one pair of {task} with {wanted} hard negatives, got none of "
                                 f"{len(group)}: give the task more passages or lower recipe.hard_negatives")
            parts.append(part)
            tasks[task] = {"pairs": len(group), "given": int(given[group.index].sum()), **mined.report}
            bar.update(int(given[group.index].sum()))
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


def _mine_task(pairs: pd.DataFrame, pool: pd.DataFrame, options: Mining, wanted: int, model: Any,
               advance: Callable[[int], Any]) -> _TaskResult:
    if pairs.empty or wanted == 0:
        advance(len(pairs))
        return _TaskResult(_as_given(pairs, 0), {})
    both = pd.concat([pairs, pool])
    passages, right = np.unique(both["positive"].to_numpy(dtype=object), return_inverse=True)
    position = right[: len(pairs)]
    found = find_negatives(pairs["query"].tolist(), pairs["instruction"].tolist(), list(passages), position, model,
                           options, wanted, advance, Known(both["query"].tolist(), right))
    complete = (found.negatives >= 0).all(axis=1)
    log.info("mined %d of %d pairs", int(complete.sum()), len(pairs))
    table = pairs[complete].assign(
        negatives=[[passages[j] for j in row] for row in found.negatives[complete]],
        positive_score=found.positive_score[complete],
        negative_scores=[row.tolist() for row in found.scores[complete]])
    return _TaskResult(table, _report(table, pairs, found, passages, options))


def find_negatives(queries: list[str], instructions: list[str], passages: list[str], position: np.ndarray, model: Any,
                   options: Mining, wanted: int, advance: Callable[[int], Any] = lambda done: None,
                   known: RightPassages | None = None) -> Mined:
    """Find `wanted` negatives among `passages` for each of `queries` (q); position (q,) is the row of its positive.

    known[i]: the right passages of query i; None: those of all queries that read alike.
    """
    if options.embedder == "bm25":
        score = bm25_scores(queries, passages)
    else:
        score = embedding_scores(model, queries, passages, instructions)
    return select(score, known or Known(queries, position), position, len(passages), options, wanted, advance)


def _report(table: pd.DataFrame, pairs: pd.DataFrame, found: Mined, passages: np.ndarray,
            options: Mining) -> dict[str, Any]:
    """What mining did to one task, as JSON."""
    n, complete = len(passages), (found.negatives >= 0).all(axis=1)
    shown = table.head(_SHOWN_PER_TASK)[["query", "positive", "negatives", "positive_score", "negative_scores"]]
    ratio = found.scores[complete] / np.where(found.positive_score > 0, found.positive_score, np.nan)[complete, None]
    ratio = ratio[np.isfinite(ratio)]
    return {
        "mined": len(table), "passages": n, "skipped_ranks": min(options.skip_ranks, int(options.skip_share * n)),
        "left_out": int((~complete).sum()), "refilled": int((found.refilled > 0).sum()),
        "suspect_share": float((found.suspects > 0).mean()), "suspects_per_query": float(found.suspects.mean()),
        "positive_score": float(found.positive_score.mean()),
        "negative_score": float(np.nanmean(found.scores)) if complete.any() else None,
        "largest_ratio": float(ratio.max()) if ratio.size else None,
        "ratios": dict(zip(map(str, QUANTILES), np.quantile(ratio, QUANTILES).tolist(), strict=True))
        if ratio.size else {},
        "examples": shown.to_dict(orient="records"), "suspect_examples": _suspects(pairs, found, passages),
    }


def _suspects(pairs: pd.DataFrame, found: Mined, passages: np.ndarray) -> list[dict[str, Any]]:
    """The pairs whose nearest refused passage comes closest to the query beside the positive, as records."""
    lead = found.nearest_score - found.positive_score
    rows = [i for i in np.argsort(-lead, kind="stable")[:_SHOWN_PER_TASK] if found.nearest[i] >= 0]
    return [{"query": pairs["query"].iloc[i], "positive": pairs["positive"].iloc[i],
             "suspect": passages[found.nearest[i]], "positive_score": float(found.positive_score[i]),
             "suspect_score": float(found.nearest_score[i])} for i in rows]
