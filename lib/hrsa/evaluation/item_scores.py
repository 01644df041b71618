"""Scores per item (query, pair, text, bootstrap sample) behind a task's headline score, from mteb's run files.

mteb keeps only means; equivalence tests need the items. For each family the items are chosen so that **their mean
is the headline score**, and that is checked on every run (to 1e-9 against mteb's own values):

| family | item | value |
|---|---|---|
| retrieval, reranking | query | nDCG@10 (or MAP, recall, precision where that is the headline), from the run file |
| pair (average precision) | pair labelled 1 | share of pairs labelled 1 among those at least as similar as it |
| pair (accuracy) | pair | 1 when right at the threshold with the best accuracy |
| sts (correlation) | pair | product of the two standardised (Spearman: ranks) values, whose mean is the correlation |
| classification (accuracy) | test text | share of the ten few-shot classifiers that are right |
| clustering (v-measure) | bootstrap sample (older tasks: set of texts) | its v-measure |
| anything else | subset | mteb's score |

Queries and texts are scored independently of one another; the values of pairs are not (each is ranked against all),
and the ten bootstrap samples of a clustering task share one set of texts: their spread is that of the k-means runs
and samples alone. mteb rounds retrieval means to five digits; the values here are not rounded.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytrec_eval
from scipy import stats

from hrsa.study.store import read_json

_TOLERANCE = 1e-9
_ROUNDED = 5e-6 + _TOLERANCE  # mteb's retrieval means have five digits
_MEASURES = {"ndcg": ("ndcg_cut", "ndcg_cut"), "map": ("map_cut", "map_cut"), "recall": ("recall", "recall"),
             "precision": ("P", "P")}
_ITEMISED = ("PairClassification", "STS", "Classification", "Clustering")
_SIMILARITIES = {"similarity": ("similarity_scores", 1), "cosine": ("cosine_scores", 1), "dot": ("dot_scores", 1),
                 "manhattan": ("manhattan_distances", -1), "euclidean": ("euclidean_distances", -1)}


def recording(task: Any) -> tuple[Any, dict[tuple[str, str], tuple[dict, dict]]]:
    """A retrieval task that records what is scored, and its record: (subset, split) -> (mteb's scores, judgements).

    mteb hands both to `task_specific_scores`, which it leaves to subclasses, and drops them afterwards. The task
    returned is of such a subclass, with the state of `task`. Tasks of other families come back as they are, with a
    record that stays empty.
    """
    scored: dict[tuple[str, str], tuple[dict, dict]] = {}
    if not hasattr(task, "task_specific_scores"):
        return task, scored
    recorder = object.__new__(_recorder(type(task)))
    vars(recorder).update(vars(task), scored=scored)
    return recorder, scored


@cache
def _recorder(kind: type) -> type:
    class Recorder(kind):
        scored: dict[tuple[str, str], tuple[dict, dict]]

        def task_specific_scores(self, scores: dict, qrels: dict, results: dict, hf_split: str,
                                 hf_subset: str) -> dict[str, float]:
            self.scored[hf_subset, hf_split] = scores, qrels
            return super().task_specific_scores(scores, qrels, results, hf_split=hf_split, hf_subset=hf_subset)

    return Recorder


def rescore(run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]], measure: str,
            ignore_identical_ids: bool = False) -> dict[str, float]:
    """A measure such as `ndcg_at_10` per query of a run {query: {document: score}}, by pytrec_eval."""
    name, k = measure.split("_at_")
    asked, answered = _MEASURES[name]
    if ignore_identical_ids:
        run = {query: {d: score for d, score in found.items() if d != query} for query, found in run.items()}
    scores = pytrec_eval.RelevanceEvaluator(qrels, {f"{asked}.{k}"}).evaluate(run)
    return {query: values[f"{answered}_{k}"] for query, values in scores.items()}


def _retrieval(task: Any, run: dict, scored: tuple[dict, dict], measure: str) -> dict[str, float]:
    mteb_scores, qrels = scored
    values = rescore(run, qrels, measure, task.ignore_identical_ids)
    name, k = measure.split("_at_")
    theirs = {query: scores[f"{_MEASURES[name][1]}_{k}"] for query, scores in mteb_scores.items()}
    if values.keys() != theirs.keys() or any(abs(values[q] - theirs[q]) > _TOLERANCE for q in values):
        worst = max(abs(values.get(q, 0) - theirs.get(q, 0)) for q in values | theirs)
        raise ValueError(f"{task.metadata.name}: expected run files that re-score to mteb's {measure} per query "
                         f"within {_TOLERANCE}, got a difference of {worst:.2g} over {len(theirs)} queries: run the "
                         "stage again with the mteb of requirements.lock")
    return values


def precision_at_positives(similarity: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Per positive pair, the precision among pairs at least as similar: their mean is the average precision.

    `similarity` (n,) higher is closer, `labels` (n,) of 0 and 1. Keys are row numbers.
    """
    at_least = stats.rankdata(-similarity, method="max")  # (n,) pairs at least as similar, itself among them
    positives = stats.rankdata(-similarity[labels == 1], method="max")  # (positives,)
    rows = np.flatnonzero(labels == 1)
    return {str(row): float(hits / at_least[row]) for row, hits in zip(rows, positives, strict=True)}


def right_at_best_threshold(similarity: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Per pair, 1.0 when `similarity >= t` agrees with its label, at the t with the best accuracy (ties: highest t)."""
    cuts = np.unique(similarity)[::-1]
    best = max(cuts[:-1], key=lambda cut: ((similarity >= cut) == labels).mean(), default=cuts[0])
    right = (similarity >= best) == labels
    return {str(row): float(value) for row, value in enumerate(right)}


def _pair(labels: list, prediction: dict, scores: dict, metric: str) -> dict[str, float] | None:
    """Items of `cosine_ap`, `max_ap`, ... or `..._accuracy`, on the similarity that gives the headline."""
    source, _, kind = metric.rpartition("_")
    if kind not in ("ap", "accuracy"):
        return None
    if source == "max":
        source = max(_SIMILARITIES, key=lambda name: scores[f"{name}_{kind}"])
    field, sign = _SIMILARITIES[source]
    of_pairs = precision_at_positives if kind == "ap" else right_at_best_threshold
    return of_pairs(sign * np.asarray(prediction[field]), np.asarray(labels))


def _sts(gold: list, prediction: dict, metric: str) -> dict[str, float] | None:
    """Items of `spearman` or `pearson` of the model's own similarity, or of `cosine_...`, `manhattan_...`."""
    source, _, kind = metric.rpartition("_")
    if kind not in ("pearson", "spearman"):
        return None
    columns = [np.asarray(gold, float), np.asarray(prediction[_SIMILARITIES[source or "similarity"][0]], float)]
    if kind == "spearman":
        columns = [stats.rankdata(column) for column in columns]
    product = np.prod([stats.zscore(column) for column in columns], axis=0)  # (n,)
    return {str(row): float(value) for row, value in enumerate(product)}


def _classification(gold: list, prediction: list[list]) -> dict[str, float]:
    right = np.mean(np.asarray(prediction) == np.asarray(gold), axis=0)  # (n,)
    return {str(row): float(value) for row, value in enumerate(right)}


def _of_subset(task: Any, prediction: Any, data: Any, scores: dict, scored: tuple | None) -> dict[str, float] | None:
    """Items of one subset of one split, or None when this kind of score has none."""
    kind, metric = task.metadata.type, task.metadata.main_score
    if prediction is None and (scored is not None or kind in _ITEMISED):
        raise ValueError(f"{task.metadata.name}: expected a run file with every subset, got none: mteb wrote no "
                         f"predictions for this {kind} task")
    if scored is not None:
        usable = re.fullmatch(rf"({'|'.join(_MEASURES)})_at_\d+", metric) and not task.skip_first_result
        return _retrieval(task, prediction, scored, metric) if usable else None
    if kind == "PairClassification":
        column = task.label_column_name
        labels = [list(row[column]) for row in data] if isinstance(data, list) else data[column]  # XNLI is a list
        return _pair(labels[0] if len(data) == 1 else labels, prediction, scores, metric)
    if kind == "STS":
        return _sts(data["score"], prediction, metric)
    if kind == "Classification" and metric == "accuracy" and not task.is_cross_validation:
        return _classification(data[task.label_column_name], prediction)
    if kind == "Clustering" and metric == "v_measure" and "v_measures" in scores:
        measured = scores["v_measures"]  # by level of the hierarchy; a list in tasks of the older kind
        values = measured if isinstance(measured, list) else [v for level in measured.values() for v in level]
        return {str(row): value for row, value in enumerate(values)}
    return None


def per_item_scores(task: Any, result: Any, predictions: Path, scored: dict) -> dict[str, float]:
    """Per-item scores of a task that mteb has just scored; ValueError when their mean is not mteb's score.

    `result` is mteb's TaskResult, `predictions` the task's run file, `scored` the record of
    `recording`. Item names are
    mteb's query ids or row numbers, with `subset/split/` in front where a task has more than one of them.
    """
    runs = read_json(predictions) if predictions.is_file() else {}
    parts = [(split, scores) for split, subsets in result.scores.items() for scores in subsets]
    found: dict[str, float] = {}
    for split, scores in parts:
        subset = scores["hf_subset"]
        data = task.dataset.get(subset, task.dataset)
        run = runs.get(subset, {}).get(split)
        values = _of_subset(task, run, data[split], scores, scored.get((subset, split)))
        if values is None:
            values = {"all": scores["main_score"]}
        headline, mean = scores["main_score"], float(np.mean(list(values.values())))
        if not abs(mean - headline) <= (_ROUNDED if scored else _TOLERANCE):
            raise ValueError(f"{task.metadata.name} ({subset}, {split}): expected per-item values whose mean is "
                             f"mteb's {task.metadata.main_score} of {headline!r}, got {mean!r}: run the stage with the "
                             "mteb of requirements.lock, or leave the task out")
        prefix = f"{subset}/{split}/" if len(parts) > 1 else ""
        found |= {prefix + name: value for name, value in values.items()}
    return found
