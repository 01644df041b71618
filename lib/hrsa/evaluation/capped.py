"""Tasks of a benchmark with a few of their texts: for rehearsals, and wherever a score's last digit is not what counts.

Texts are cut after mteb has loaded them, so that a task is downloaded, scored and refused as it is in full. Numbers of
subsets (languages, domains) are cut before: those left out are not downloaded by tasks that load them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hrsa.texts.suite import TEXT_SEED

_PAIRED_QUERIES = "InstructionReranking"  # its score compares two queries each: none is left out


def capped(task: Any, docs: int | None, queries: int | None, subsets: int | None) -> Any:
    """The mteb task, with at most so many documents, queries and subsets as soon as its data are loaded.

    Of a retrieval task: the first `queries` of a seeded shuffle, every document relevant to them, and others up to
    `docs`. Of other tasks: `docs` rows of each split, and as many entries of a row that is a list of texts. None: all.
    """
    if docs is queries is subsets is None:
        return task
    copy = object.__new__(_capping(type(task)))
    vars(copy).update(vars(task), caps=(docs, queries))
    if subsets is not None:
        copy.hf_subsets = list(copy.hf_subsets)[:subsets]
    return copy


@cache
def _capping(kind: type) -> type:
    class Capping(kind):
        caps: tuple[int | None, int | None]

        def load_data(self, *args: Any, **settings: Any) -> None:
            if not self.data_loaded:
                super().load_data(*args, **settings)
                _cut(self, *self.caps)

    Capping.__name__ = kind.__name__  # which mteb writes into its results
    return Capping


def _cut(task: Any, docs: int | None, queries: int | None) -> None:
    """Replace a task's loaded data by a part of them."""
    if hasattr(task, "convert_v1_dataset_format_to_v2"):
        task.convert_v1_dataset_format_to_v2(num_proc=None)
        queries = None if task.metadata.type == _PAIRED_QUERIES else queries
        task.dataset = {subset: {split: _few_documents(data, docs, queries) for split, data in splits.items()}
                        for subset, splits in task.dataset.items()}
    elif isinstance(task.dataset, DatasetDict):
        task.dataset = _few_rows(task.dataset, docs)
    else:
        task.dataset = {subset: _few_rows(splits, docs) for subset, splits in task.dataset.items()}
    if docs is not None and hasattr(task, "max_fraction_of_documents_to_embed"):
        task.max_fraction_of_documents_to_embed = None  # of a few texts a clustering's sample of them may be none


def _few_documents(data: dict[str, Any], docs: int | None, queries: int | None) -> dict[str, Any]:
    """A split of a retrieval task, {corpus, queries, relevant_docs, top_ranked}, with fewer of both."""
    asked = _chosen(data["queries"], queries)
    kept = set(asked["id"])
    judged = {query: found for query, found in data["relevant_docs"].items() if query in kept}
    if docs is None:
        return {**data, "queries": asked, "relevant_docs": judged}
    relevant = {document for found in judged.values() for document in found}
    ranked = data.get("top_ranked") and {query: data["top_ranked"][query] for query in kept
                                         if query in data["top_ranked"]}
    ids = data["corpus"]["id"]
    listed = {document for found in ranked.values() for document in found} if ranked else None
    order = np.random.default_rng(TEXT_SEED).permutation(len(ids))
    others = [i for i in order if ids[i] not in relevant and (listed is None or ids[i] in listed)]
    places = [i for i in range(len(ids)) if ids[i] in relevant]
    places = sorted(places + others[:max(0, docs - len(places))])
    there = {ids[i] for i in places}
    ranked = ranked and {query: [one for one in found if one in there] for query, found in ranked.items()}
    return {**data, "corpus": data["corpus"].select(places), "queries": asked, "relevant_docs": judged,
            "top_ranked": ranked}


def _few_rows(splits: dict[str, Any], rows: int | None) -> dict[str, Any]:
    """Every split with fewer rows; of rows that are lists of texts, with fewer entries. A split is a Dataset, or a list
    of such rows that a task has made of one."""
    if rows is None:
        return splits
    few: dict[str, Any] = {}
    for split, table in splits.items():
        if isinstance(table, list):
            few[split] = [_few_entries({name: list(value) for name, value in row.items()}, rows) for row in table]
        else:
            few[split] = _chosen(table, rows).map(_few_entries, fn_kwargs={"most": rows})
    return type(splits)(few)


def _few_entries(row: dict[str, Any], most: int) -> dict[str, Any]:
    return {name: [value[i] for i in _places(len(value), most)] if isinstance(value, list) else value
            for name, value in row.items()}


def _chosen(table: Dataset, most: int | None) -> Dataset:
    return table if most is None or len(table) <= most else table.select(_places(len(table), most))


def _places(n: int, most: int) -> Sequence[int]:
    """Which of n entries are kept, in their order: the same for lists of one length."""
    if n <= most:
        return range(n)
    return np.sort(np.random.default_rng(TEXT_SEED).permutation(n)[:most]).tolist()
