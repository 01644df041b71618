"""Texts of the study: training pairs, evaluation tasks, probe texts, and text to pretrain on.

What is committed lies in `data/suite`, described by `train/tasks.json`, `eval/tasks.json` and `probe/sets.json`;
`data/build_suite.py` makes it. A profile may also name files and data sets of its own to train on
(`hrsa.texts.training_sources`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from hrsa.study import store
from hrsa.study.profile import Profile
from hrsa.texts import training_sources
from hrsa.texts.lines import text_fault

log = logging.getLogger(__name__)

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery: "  # then the query; passages carry no instruction
TEXT_SEED = 0  # of every cap and order: all models of all profiles see the same sample
PROBE_COLUMNS = ["id", "set", "difficulty", "text", "topic", "target"]
FAMILIES = {
    "retrieval": {"corpus": ["id", "text"], "queries": ["id", "text"], "qrels": ["query-id", "corpus-id", "score"]},
    "clustering": {"test": ["sentences", "labels"]},
    "classification": {"train": ["text", "label"], "test": ["text", "label"]},
    "pair": {"test": ["sentence1", "sentence2", "labels"]},
    "sts": {"test": ["sentence1", "sentence2", "score"]},
}  # family -> table -> columns


@dataclass(frozen=True)
class EvalTask:
    """One local evaluation task: `corpus`, `queries` and `qrels` for retrieval, else `test` (and `train`)."""

    name: str
    family: Literal["retrieval", "clustering", "classification", "sts", "pair"]
    reasoning: bool  # whether relevance takes reasoning rather than similar content
    instruction: str
    metric: str  # mteb's name of the main score
    corpus: pd.DataFrame | None = None  # [id, text]
    queries: pd.DataFrame | None = None  # [id, text]
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)  # query id -> document id -> grade
    train: pd.DataFrame | None = None
    test: pd.DataFrame | None = None


def query_prompt(instruction: str) -> str:
    """The text that stands before a query: the published template with a task's instruction."""
    return QUERY_TEMPLATE.format(instruction=instruction)


def load_training(profile: Profile) -> pd.DataFrame:
    """Training pairs [task, instruction, query, positive, negatives], at most `suite.max_pairs` of each task.

    `negatives` is a list of texts that the source itself gives, empty where it gives none (the suite's files). The cap
    takes the first rows of a seeded shuffle. Raises ValueError for a missing column, an empty text or an unknown task,
    and as `training_sources.named_sources` and `Source.read` do.
    """
    parts = []
    for source in training_sources.named_sources(profile):
        table = source.read()
        _check_texts(source.place, table, ["instruction", "query", "positive"])
        _check_negatives(source.place, table["negatives"])
        parts.append(_first(table, profile.suite.max_pairs)[["task", "instruction", "query", "positive", "negatives"]])
    return pd.concat(parts, ignore_index=True)


def _check_negatives(place: Path | str, negatives: pd.Series) -> None:
    """ValueError naming the first row whose negatives are not a list of texts, or hold an empty one."""
    for row, given in enumerate(negatives):
        if isinstance(given, str) or not all(isinstance(text, str) and text.strip() for text in given):
            raise ValueError(f"expected a list of texts in column 'negatives' of {place}, got {str(given)[:80]!r} in "
                             f"row {row}: correct it, or leave the column out to have negatives mined")


def _check_texts(path: Path | str, table: pd.DataFrame, columns: list[str]) -> None:
    """ValueError naming the file, the column and the row of the first text that is missing or empty."""
    if table.empty:
        raise ValueError(f"expected texts in {path}, got no rows: give a file with content")
    for column in columns:
        if column not in table:
            raise ValueError(f"expected a column {column!r} in {path}, got {list(table.columns)}: add it")
        empty = [not isinstance(text, str) or not text.strip() or bool(text_fault(text)) for text in table[column]]
        if any(empty):
            row = empty.index(True)
            raise ValueError(f"expected text in column {column!r} of {path}, got {table[column].iloc[row]!r} in row "
                             f"{row} ({sum(empty)} such rows): remove them")


def _first(table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """The first `limit` rows of a seeded shuffle, in their old order (None: all)."""
    if limit is None or len(table) <= limit:
        return table
    chosen = np.random.default_rng(TEXT_SEED).permutation(len(table))[:limit]
    return table.iloc[np.sort(chosen)].reset_index(drop=True)


def load_task(name: str, profile: Profile) -> EvalTask:
    """A local evaluation task, capped by the profile.

    Retrieval keeps the first `suite.max_queries` queries of a seeded shuffle, every document relevant to them, and
    further documents up to `suite.max_docs`. Other families keep at most `suite.max_docs` rows to test on, and as many
    to train on. Raises ValueError for an unknown task, a missing column, an empty text, or a judgement of a query or
    document that is not there.
    """
    known = store.read_json(store.SUITE / "eval" / "tasks.json")
    if name not in known:
        raise ValueError(f"expected an evaluation task, one of {sorted(known)}, got {name!r}: correct suite.tasks")
    card, tables = known[name], {}
    for table, columns in FAMILIES[card["family"]].items():
        path = store.SUITE / "eval" / name / f"{table}.parquet"
        tables[table] = store.read_table(path, columns)
        _check_texts(path, tables[table], [c for c in columns if c not in ("score", "label", "labels")])
    if card["family"] == "retrieval":
        tables = _cap_retrieval(name, tables, profile.suite.max_queries, profile.suite.max_docs)
    else:
        tables = {part: _first(table, profile.suite.max_docs) for part, table in tables.items()}
    facts = {k: card[k] for k in ("family", "reasoning", "instruction", "metric")}
    return EvalTask(name=name, **facts, **tables)


def _cap_retrieval(name: str, tables: dict, max_queries: int | None, max_docs: int | None) -> dict:
    corpus, queries, judged = tables["corpus"], tables["queries"], tables["qrels"]
    for what, ids in (("corpus", corpus["id"]), ("queries", queries["id"])):
        if len(twice := ids[ids.duplicated()]):
            raise ValueError(f"expected every id once in the {what} of {name}, got {twice.iloc[0]!r} twice: correct "
                             "the task's files")
    for column, there in (("query-id", queries), ("corpus-id", corpus)):
        lost = set(judged[column]) - set(there["id"])
        if lost:
            raise ValueError(f"expected every {column} of the qrels of {name} among the ids, got {sorted(lost)[:3]} "
                             "without a text: correct the task's files")
    queries = _first(queries, max_queries)
    judged = judged[judged["query-id"].isin(set(queries["id"]))]
    relevant = corpus["id"].isin(set(judged["corpus-id"]))
    others = corpus[~relevant]
    if max_docs is not None:
        others = _first(others, max(0, max_docs - int(relevant.sum())))
    corpus = pd.concat([corpus[relevant], others], ignore_index=True)
    qrels = {query: dict(zip(rows["corpus-id"], rows["score"].astype(int).tolist(), strict=True))
             for query, rows in judged.groupby("query-id", sort=False)}
    return {"corpus": corpus, "queries": queries, "qrels": qrels}


def read_probe_texts(profile: Profile) -> pd.DataFrame:
    """Probe texts [id, set, difficulty, text, topic, target], each set in a seeded order.

    `set` is general (dictionary entries; topic: lexicographer file; target: depth in WordNet) or maths (worked
    solutions, difficulty easy, moderate or hard; topic: what is asked for, or branch; target: number of steps). In
    every first part of a set the difficulties are as even as their numbers allow, so `groupby("set").head(n)` is a
    sample that `analysis.texts_per_set` can take.
    """
    parts = []
    for name in store.read_json(store.SUITE / "probe" / "sets.json"):
        path = store.SUITE / "probe" / f"{name}.parquet"
        table = store.read_table(path, PROBE_COLUMNS)
        _check_texts(path, table, ["id", "text", "topic"])
        table = table.sample(frac=1, random_state=TEXT_SEED)
        turn = table.groupby("difficulty").cumcount()
        parts.append(table.iloc[np.argsort(turn, kind="stable")])
    texts = pd.concat(parts, ignore_index=True)
    if texts.groupby("set").size().min() < profile.analysis.texts_per_set:
        raise ValueError(f"expected at least analysis.texts_per_set={profile.analysis.texts_per_set} probe texts in "
                         f"each set, got {texts.groupby('set').size().to_dict()}: lower analysis.texts_per_set")
    return texts[PROBE_COLUMNS]
