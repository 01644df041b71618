"""Chance: exact expectations against simulated rankings, and every family of the suite."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from hrsa.evaluation import chance
from hrsa.evaluation.chance import chance_clustering, chance_of, chance_ranking
from hrsa.evaluation.item_scores import rescore
from hrsa.evaluation.tasks import local_task
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.texts.suite import load_task


@pytest.mark.parametrize("measure", ["ndcg_at_10", "ndcg_at_5", "map_at_20", "recall_at_5", "precision_at_5"])
@pytest.mark.parametrize("grades", [[1], [1, 1, 2], [3, 1] * 4])
def test_expected_score_of_a_random_ranking(rng, measure, grades):
    """Against pytrec_eval on 3,000 random rankings of 20 documents."""
    judged = {f"d{i}": grade for i, grade in enumerate(grades)}
    names = [f"d{i}" for i in range(20)]
    runs = {f"q{n}": dict(zip(names, rng.permutation(20).astype(float), strict=True)) for n in range(3000)}
    found = np.array(list(rescore(runs, dict.fromkeys(runs, judged), measure).values()))
    assert chance_ranking(grades, 20, measure) == pytest.approx(found.mean(), abs=5 * found.std() / np.sqrt(3000))


def test_worked_by_hand():
    assert chance_ranking([1], 2, "ndcg_at_10") == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert chance_ranking([1], 2, "map_at_10") == pytest.approx(0.75)
    assert chance_ranking([1] * 4, 4, "map_at_4") == pytest.approx(1)
    assert chance_ranking([1], 4, "recall_at_1") == chance_ranking([1], 4, "precision_at_1") == 0.25


def test_average_precision_of_random_pairs(rng):
    labels = np.repeat([1, 0], [30, 70])
    found = np.array([average_precision_score(labels, rng.random(100)) for _ in range(2000)])
    assert chance_ranking([1] * 30, 100, "map_at_100") == pytest.approx(found.mean(), abs=5 * found.std() / 2000**0.5)


def test_clustering_by_chance_is_above_zero_and_falls_with_more_texts():
    few, many = (chance_clustering(np.arange(n) % 10, n) for n in (50, 500))
    assert 0 < many < few < 0.6
    assert chance_clustering(np.arange(50) % 10, 50) == few


@pytest.mark.parametrize(("name", "low", "high"), [
    ("ToolRetrieval", 0.0, 0.1), ("BibleBookClustering", 0.1, 0.8), ("BibleParaphrasePC", 0.45, 0.6),
    ("WordNetTopicClassification", 0.02, 0.3), ("WordNetSenseSTS", 0, 0)])
def test_every_family_of_the_suite(name, low, high):
    found = chance_of(local_task(load_task(name, load_profile("smoke"))))
    assert low <= found <= high


def test_a_query_that_is_a_document_is_not_ranked_and_reranking_counts_its_candidates():
    data = {"corpus": {"id": ["q", "d1", "d2", "d3"]}, "relevant_docs": {"q": {"d1": 1, "q": 0}}, "top_ranked": None}
    metadata = SimpleNamespace(type="Retrieval", main_score="recall_at_1")
    task = SimpleNamespace(metadata=metadata, hf_subsets=None, eval_splits=["test"], skip_first_result=False,
                           dataset={"default": {"test": data}}, ignore_identical_ids=True)
    assert chance_of(task) == pytest.approx(1 / 3)
    task.ignore_identical_ids = False
    assert chance_of(task) == pytest.approx(1 / 4)
    data["top_ranked"] = {"q": ["d1", "d2"]}
    assert chance_of(task) == pytest.approx(1 / 2)


def test_a_kind_of_score_that_is_not_known_is_left_out():
    task = local_task(load_task("WordNetTopicClassification", load_profile("smoke")))
    task.metadata = task.metadata.model_copy(update={"main_score": "f1"})
    assert chance_of(task) is None


def test_chance_is_made_once_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    smoke = load_profile("smoke")
    assert chance.read_chance(smoke).empty
    made = chance.make_chance(smoke)
    assert made["task"].tolist() == list(smoke.suite.tasks) and set(made["query"]) == {"all"}
    monkeypatch.setattr(chance, "_table", None)
    pd.testing.assert_frame_equal(chance.make_chance(smoke), made)
    pd.testing.assert_frame_equal(chance.read_chance(smoke), made)
    assert not (tmp_path / "smoke" / "evaluation").exists()  # chance is no score that a statement comes too late for


def test_refusals():
    with pytest.raises(ValueError, match="ndcg, map, recall or precision at a depth, got 'mrr_at_10'"):
        chance_ranking([1], 5, "mrr_at_10")
    with pytest.raises(ValueError, match="between 1 and 2 relevant items, got 3"):
        chance_ranking([1, 1, 1], 2, "ndcg_at_10")
