"""What a model without any skill would score: the least that an embedder has to beat on a task.

| family, score | chance |
|---|---|
| retrieval: nDCG, MAP, recall, precision at k | the expected score of a random order of the corpus, exactly |
| pair, average precision | that of a random order of the pairs, exactly; a little above the share of pairs labelled 1 |
| pair, accuracy | the share of the more frequent label |
| sts, correlation | 0 |
| classification, accuracy | the share of the most frequent label: the best answer that reads no text |
| clustering, v-measure | the mean v-measure of labels dealt out at random, on seeded bootstrap samples |
| anything else | not known |

A random order has each document at each rank equally often, so that a query's expected DCG@k is its mean gain times the
sum of the discounts. The expected average precision of N items with R relevant is
(H_N + (R - 1)(N - H_N) / (N - 1)) / N with the harmonic number H_N (Bestgen 2015, Prague Bull. Math. Linguist. 103).
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.evaluation.evaluate import QUERY_COLUMNS, _suite_key
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Profile

CHANCE = "chance"  # model id of this baseline
EVERY_ITEM = "all"  # its one row of a task stands for each item
_FILE = "per_query.parquet"
_DEALS = 200  # random labellings: the mean v-measure is then good to a thousandth
_SEED = 0


def chance_ranking(relevant: list[int], items: int, measure: str) -> float:
    """Expected score of a random order of `items`, of which `relevant` have these positive grades.

    measure: ndcg_at_k (gain: the grade, as in trec_eval), map_at_k, recall_at_k, precision_at_k. ValueError for another
    one, and for more relevant items than there are.
    """
    name, _, depth = measure.partition("_at_")
    if not 0 < len(relevant) <= items:
        raise ValueError(f"expected between 1 and {items} relevant items, got {len(relevant)}: correct the judgements")
    k, r = min(int(depth), items), len(relevant)
    if name == "ndcg":
        discounts = 1 / np.log2(np.arange(2, int(depth) + 2))
        ideal = np.sort(relevant)[::-1][:int(depth)]
        return float(np.sum(relevant) / items * discounts[:k].sum() / (ideal * discounts[:len(ideal)]).sum())
    if name == "map":
        ranks = np.arange(1, k + 1)
        others = (ranks - 1) * (r - 1) / max(items - 1, 1)  # relevant ones expected above a relevant one at this rank
        return float(((1 + others) / ranks).sum() / items)
    if name == "recall":
        return k / items
    if name == "precision":
        return r / items * k / int(depth)
    raise ValueError(f"expected ndcg, map, recall or precision at a depth, got {measure!r}")


def chance_clustering(labels: np.ndarray, sample: int) -> float:
    """Mean v-measure of labels (n,) dealt out at random, on bootstrap samples of so many texts.

    A text that is drawn twice has one label and one cluster, which lifts chance above that of distinct texts.
    """
    from sklearn.metrics import v_measure_score

    rng = np.random.default_rng(_SEED)
    codes = pd.factorize(labels)[0]
    found = []
    for _ in range(_DEALS):
        drawn = rng.integers(0, len(codes), sample)
        found.append(v_measure_score(codes[drawn], rng.permutation(codes)[drawn]))
    return float(np.mean(found))


def chance_of(task: Any) -> float | None:
    """Expected score of a loaded mteb task without any skill, over its subsets and splits; None: not known."""
    found = []
    for subset in task.hf_subsets or ["default"]:
        data = task.dataset.get(subset, task.dataset)
        found += [_of_split(task, data[split]) for split in task.eval_splits]
    return None if None in found else float(np.mean(found))


def _of_split(task: Any, data: Any) -> float | None:
    kind, metric = task.metadata.type, task.metadata.main_score
    if isinstance(data, dict) and "relevant_docs" in data:
        return _retrieval(task, data, metric)
    if kind == "STS":
        return 0.0 if metric.endswith(("spearman", "pearson")) else None
    if kind == "PairClassification":
        labels = data[task.label_column_name]
        labels = np.asarray(labels[0] if len(data) == 1 else labels)
        if metric.endswith("accuracy"):
            return float(max(np.mean(labels == 1), np.mean(labels != 1)))
        positive = int((labels == 1).sum())
        return chance_ranking([1] * positive, len(labels), f"map_at_{len(labels)}") if metric.endswith("ap") else None
    if kind == "Classification" and metric == "accuracy":
        return float(pd.Series(data[task.label_column_name]).value_counts(normalize=True).iloc[0])
    if kind == "Clustering" and metric == "v_measure":
        labels = pd.Series(data[task.label_column_name])
        if labels.map(np.isscalar).all():
            return chance_clustering(labels.to_numpy(), min(task.max_documents_per_cluster, len(labels)))
    return None


def _retrieval(task: Any, data: dict, metric: str) -> float | None:
    if metric.partition("_at_")[0] not in ("ndcg", "map", "recall", "precision") or task.skip_first_result:
        return None
    corpus = set(data["corpus"]["id"])
    ranked = data.get("top_ranked") or {}
    found = []
    for query, judged in data["relevant_docs"].items():
        candidates = set(ranked[query]) if query in ranked else corpus
        left_out = {query} & candidates if task.ignore_identical_ids else set()
        grades = [grade for document, grade in judged.items()
                  if grade > 0 and document in candidates and document not in left_out]
        found.append(chance_ranking(grades, len(candidates) - len(left_out), metric) if grades else 0.0)
    return float(np.mean(found))


def make_chance(profile: Profile) -> pd.DataFrame:
    """Chance scores of the profile's tasks, made where missing: [model, task, query, value].

    The model is `chance`; one row per task stands for each of its items (query "all"). Tasks whose chance is not known
    have none. A benchmark's task is loaded to count its texts.
    """
    made_from = {"suite": _suite_key(profile), "mteb": metadata.version("mteb"), "code": code_hash(make_chance)}
    folder = store.artefact(profile.name, CHANCE, CHANCE, store.key(**made_from))
    store.make(folder, lambda target: store.write_table(target / _FILE, _table(profile)), (make_chance,), **made_from)
    return _read(folder)


def read_chance(profile: Profile) -> pd.DataFrame:
    """As `make_chance`, the newest that is there; makes nothing, and has no rows where there is none."""
    folders = [file.parent for file in (store.RUNS / profile.name / CHANCE).glob(f"*/{store.PROVENANCE}")]
    if not folders:
        return pd.DataFrame(columns=QUERY_COLUMNS).astype({"value": float})
    return _read(max(folders, key=lambda folder: store.read_json(folder / store.PROVENANCE)["written"]))


def _read(folder: Path) -> pd.DataFrame:
    return store.read_table(folder / _FILE, QUERY_COLUMNS)


def _table(profile: Profile) -> pd.DataFrame:
    from hrsa.evaluation.tasks import study_tasks

    rows = []
    for task in study_tasks(profile):
        preloaded = task.data_loaded
        task.load_data()
        if (value := chance_of(task)) is not None:
            rows.append((CHANCE, task.metadata.name, EVERY_ITEM, value))
        if not preloaded:
            task.unload_data()
    return pd.DataFrame(rows, columns=QUERY_COLUMNS).astype({"value": float})
