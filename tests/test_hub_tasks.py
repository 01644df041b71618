"""Tasks of the published benchmarks by name, one of every shape, through the real mteb from the hub on loopback."""

import mteb
import pytest
from hub_tasks import publish
from tiny import tiny_backbone

from hrsa.evaluation.encoder import InstructedEncoder, model_meta
from hrsa.evaluation.evaluate import run_task
from hrsa.evaluation.tasks import study_tasks
from hrsa.models.embedder import assemble
from hrsa.report.prose.texts import evaluation_tasks
from hrsa.study import store
from hrsa.study.profile import load_profile

# task -> how many items its score is the mean of, where the data of `publish` have one subset
SHAPES = {
    "ArguAna": 4, "AppsRetrieval": 4, "LEMBPasskeyRetrieval": None, "BrightBiologyRetrieval": 4,
    "BrightBiologyLongRetrieval": 4, "AlloprofReranking": 4, "WebLINXCandidatesReranking": None,
    "STS12": 8, "STS17": None, "CTKFactsNLI": None, "SprintDuplicateQuestions": 4, "OpusparcusPC": None,
    "DBpediaClassification": 48, "AmazonCounterfactualClassification": None, "SentimentAnalysisHindi": 1,
    "ToxicConversationsClassification": 48, "KorHateSpeechMLClassification": 1, "AlloProfClusteringS2S.v2": 10,
    "WikiCitiesClustering": 1, "BornholmBitextMining": 1,
    "DiaBlaBitextMining": None,
}

# mteb's own code warns where it copies a tensor, of newer versions of tasks, and of solvers that have not converged
pytestmark = [pytest.mark.filterwarnings("ignore:The task '.*' is superseded:DeprecationWarning"),
              pytest.mark.filterwarnings("ignore:The task '.*' is superseded:UserWarning"),
              pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),
              pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return assemble(str(tiny_backbone(tmp_path_factory.mktemp("tiny"), 0)), "bidirectional", 128)


@pytest.fixture(scope="module")
def published():
    """The tasks of the benchmarks that profile `paper` names, by name."""
    names = load_profile("paper").suite.benchmarks
    return {task.metadata.name: task for name in names for task in mteb.get_benchmark(name).tasks}


@pytest.mark.parametrize("name", SHAPES)
def test_a_task_is_scored_by_name(name, hub, model, published, tmp_path):
    publish(hub, published[name])
    encoder = InstructedEncoder(model, model_meta("tiny", "1"), "bidirectional", "generic")
    score, items = run_task(encoder, published[name], tmp_path)
    assert 0 <= abs(score) <= 1 and len(items) > 0
    if (expected := SHAPES[name]) is not None:
        assert len(items) == expected and sum(items.values()) / len(items) == pytest.approx(score, abs=1e-5)
    assert any("/resolve/" in line for line in hub.asked), "the data came from the hub"


def test_a_blank_text_is_similar_to_nothing(model, published):
    encoder = InstructedEncoder(model, model_meta("tiny", "1"), "bidirectional", "bare")
    vectors = encoder.encode([{"text": ["stone", "", "  "]}], task_metadata=published["STS12"].metadata,
                             hf_split="test", hf_subset="default")
    assert (vectors[1:] == 0).all() and (vectors[0] != 0).any()


@pytest.mark.parametrize(("name", "items"), [
    ("ArguAna", 2), ("BrightBiologyRetrieval", 2), ("AlloprofReranking", 2), ("STS12", 6), ("STS17", 12),
    ("SprintDuplicateQuestions", None), ("DBpediaClassification", 6), ("WikiCitiesClustering", 1),
    ("DiaBlaBitextMining", None), ("FloresBitextMining", None), ("NTREXBitextMining", None),
    ("IN22GenBitextMining", None), ("BibleNLPBitextMining", None), ("BelebeleRetrieval", None),
    ("SIB200ClusteringS2S", None), ("Core17InstructionRetrieval", None), ("XNLI", None),
    ("TweetTopicSingleClassification", 6), ("MasakhaNEWSClassification", None),
    ("ArXivHierarchicalClusteringP2P", None), ("BiorxivClusteringP2P.v2", None), ("COIRCodeSearchNetRetrieval", None)])
def test_a_task_is_scored_on_a_few_of_its_texts(name, items, hub, model, published, tmp_path):
    publish(hub, published[name])
    encoder = InstructedEncoder(model, model_meta("tiny", "1"), "bidirectional", "generic")
    paper = load_profile("paper")
    changes = {"benchmark_tasks": (name,), "max_docs": 6, "max_queries": 2, "max_subsets": 2}
    suite = paper.suite.model_copy(update=changes)
    (task,) = study_tasks(paper.model_copy(update={"suite": suite}))
    score, found = run_task(encoder, task, tmp_path)
    assert 0 <= abs(score) <= 1 and len(task.hf_subsets) <= 2
    assert items is None or len(found) == items


@pytest.fixture
def benchmark_tasks(monkeypatch):
    monkeypatch.syspath_prepend(str(store.ROOT / "benchmarks"))
    import benchmark_tasks

    return benchmark_tasks


def test_the_table_of_docs_has_every_task_and_drawn_ones_are_what_it_says(benchmark_tasks, published, hub, model, rng,
                                                                          tmp_path):
    page = (store.ROOT / "docs" / "benchmark_tasks.md").read_text(encoding="utf8")
    rows = benchmark_tasks.read_page(page)
    assert rows.keys() == published.keys() and page == benchmark_tasks.page(list(rows.values())), (
        "run `python benchmarks/benchmark_tasks.py --write docs/benchmark_tasks.md`")
    for name in rng.choice(sorted(rows), 2, replace=False).tolist():
        assert benchmark_tasks.row(name, benchmark_tasks.outcome(hub, name, model, tmp_path)) == rows[name]


def test_the_page_on_texts_lists_benchmarks_where_there_are_no_local_tasks():
    table = evaluation_tasks(load_profile("paper"))
    assert list(table["task"]) == list(load_profile("paper").suite.benchmarks) and set(table["family"]) == {"benchmark"}


def test_a_task_that_no_benchmark_has_is_refused():
    paper = load_profile("paper")
    suite = paper.suite.model_copy(update={"benchmark_tasks": ("STS12", "STS0")})
    with pytest.raises(ValueError, match=r"expected tasks of .*BRIGHT.* in suite.benchmark_tasks, got \['STS0'\]"):
        list(study_tasks(paper.model_copy(update={"suite": suite})))
