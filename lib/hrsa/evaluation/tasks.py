"""The local suite as mteb tasks, and mteb's benchmarks by name: one list of tasks per profile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import mteb
import pandas as pd
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata

from hrsa.evaluation.capped import capped
from hrsa.study.profile import Profile
from hrsa.study.store import key
from hrsa.texts.suite import EvalTask, load_task

DEPTH = (1, 3, 5, 10, 20, 100)  # cut-offs; mteb's own go on to 1000, which makes run files ten times larger
FAMILY_OF_TYPE = {"STS": "sts", "PairClassification": "pair"}  # the other types are named by their own words


def _datasets(**tables: pd.DataFrame) -> DatasetDict:
    return DatasetDict({split: Dataset.from_pandas(table, preserve_index=False) for split, table in tables.items()})


class _Local:
    """What all local tasks share: metadata from an `EvalTask`, data that is there from the start."""

    kind: str
    tables: tuple[str, ...] = ("test",)

    def __init__(self, task: EvalTask):
        self.metadata = TaskMetadata(
            dataset={"path": "local", "revision": content_key(task)}, name=task.name,
            description=f"{task.name} of the local suite ({task.family})", prompt=task.instruction or None,
            type=self.kind, category="t2t", eval_splits=["test"], eval_langs=["eng-Latn"], main_score=task.metric)
        super().__init__()
        self.data_loaded = True
        self._fill(task)

    def _fill(self, task: EvalTask) -> None:
        self.dataset = _datasets(**{name: getattr(task, name) for name in self.tables})


class LocalRetrieval(_Local, AbsTaskRetrieval):
    """Retrieval from a corpus, scored by nDCG@10.

    Queries that are documents of the corpus too, under the same id and never judged relevant to themselves, do not
    find themselves (mteb's `ignore_identical_ids`).
    """

    kind = "Retrieval"
    k_values = DEPTH

    def _fill(self, task: EvalTask) -> None:
        shared = set(task.queries["id"]) & set(task.corpus["id"])
        self.ignore_identical_ids = bool(shared) and not any(name in task.qrels.get(name, {}) for name in shared)
        sides = {name: Dataset.from_pandas(getattr(task, name)[["id", "text"]], preserve_index=False)
                 for name in ("corpus", "queries")}
        self.dataset = {"default": {"test": {**sides, "relevant_docs": task.qrels, "top_ranked": None}}}


class LocalClustering(_Local, AbsTaskClustering):
    """Clustering by mini-batch k-means on ten bootstrap samples as large as the data; columns sentences, labels."""

    kind = "Clustering"
    max_fraction_of_documents_to_embed = None  # mteb embeds 4% unless told

    def _fill(self, task: EvalTask) -> None:
        super()._fill(task)
        self.max_documents_per_cluster = len(task.test)


class LocalClassification(_Local, AbsTaskClassification):
    """Classification by logistic regression on eight texts per label, ten draws; columns text, label."""

    kind = "Classification"
    tables = ("train", "test")


class LocalPair(_Local, AbsTaskPairClassification):
    """Pair classification, same or not, by similarity; columns sentence1, sentence2, labels (0 or 1)."""

    kind = "PairClassification"


class LocalSTS(_Local, AbsTaskSTS):
    """Semantic textual similarity, by degree; columns sentence1, sentence2, score."""

    kind = "STS"


CLASSES = {"retrieval": LocalRetrieval, "clustering": LocalClustering, "classification": LocalClassification,
           "pair": LocalPair, "sts": LocalSTS}


def content_key(task: EvalTask) -> str:
    """Hash of all that a local task is scored on: texts, labels, judgements, instruction, metric."""
    tables = {name: None if (table := getattr(task, name)) is None else
              int(pd.util.hash_pandas_object(table, index=False).sum())
              for name in ("corpus", "queries", "train", "test")}
    return key(name=task.name, instruction=task.instruction, metric=task.metric, qrels=task.qrels, **tables)


def local_task(task: EvalTask) -> AbsTask:
    """An `EvalTask` as an mteb task; an unknown family raises ValueError."""
    if task.family not in CLASSES:
        raise ValueError(f"task {task.name}: expected a family of {sorted(CLASSES)}, got {task.family!r}: correct "
                         "eval/tasks.json of the suite")
    return CLASSES[task.family](task)


def study_tasks(profile: Profile) -> Iterator[AbsTask]:
    """The profile's local tasks, then those of its benchmarks, each once and capped as the suite says.

    Raises ValueError for an unknown name, and for one in `suite.benchmark_tasks` that no benchmark of the profile has.
    """
    suite, seen = profile.suite, set()
    for name in suite.tasks:
        seen.add(name)
        yield local_task(load_task(name, profile))
    wanted = set(suite.benchmark_tasks or ())
    for name in suite.benchmarks:
        try:
            benchmark = mteb.get_benchmark(name)
        except KeyError as error:
            raise ValueError(f"expected the name of an mteb benchmark in suite.benchmarks, got {name!r}: "
                             f"{error.args[0]}") from None
        for task in benchmark.tasks:
            if task.metadata.name not in seen and (not wanted or task.metadata.name in wanted):
                seen.add(task.metadata.name)
                yield capped(task, suite.max_docs, suite.max_queries, suite.max_subsets)
    if unknown := sorted(wanted - seen):
        raise ValueError(f"expected tasks of {list(suite.benchmarks)} in suite.benchmark_tasks, got {unknown}: correct "
                         "the names")


def task_family(task: Any) -> str:
    """The family of an mteb task: retrieval, clustering, classification, pair, sts, or its type in lower case."""
    kind = task.metadata.type
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()
    return FAMILY_OF_TYPE.get(kind, words)
