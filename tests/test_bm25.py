import numpy as np
import pytest

from hrsa.texts import negative_search
from hrsa.texts.bm25 import BM25


@pytest.mark.parametrize(("documents", "query", "best"), [
    (["今天天气很好", "我喜欢吃苹果"], "苹果好吃吗", 1),
    (["東京は日本の首都です", "カレーの作り方"], "日本の首都", 0),
    (["ฉันชอบกินข้าว", "วันนี้ฝนตก"], "ฝนตก", 1),
    (["the tea of 中国 is green", "coffee from Brazil"], "中国", 0),
    (["茶", "水"], "水", 1),
])
def test_scripts_without_spaces_are_found(documents, query, best):
    assert BM25(documents).top(query, 2)[0][0] == best


@pytest.mark.parametrize("documents", [["a", "b"], ["", " "], ["?", "!"], ["the", "of"]])
def test_documents_without_a_word_are_never_found_and_no_error(documents):
    ranker = BM25(documents)
    assert ranker.scores("a question").tolist() == [0, 0] and ranker.top("a", 2) == []


def test_english_scores_are_those_of_the_library(rng):
    import bm25s

    words = np.array(["gradient", "descent", "café", "the", "naïve", "over", "x", "42"])
    texts = [" ".join(rng.choice(words, 12)) for _ in range(20)]
    plain = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    plain.index(bm25s.tokenize(texts, stopwords="english", return_ids=False, show_progress=False), show_progress=False)
    assert np.array_equal(BM25(texts).scores("gradient café"), plain.get_scores(["gradient", "café"]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reference_embedder_that_fails_on_one_text_stops_at_it(bad):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(negative_search.minilm_folder()), device="cpu")
    token = model.tokenizer.convert_tokens_to_ids("zebra")
    whole = negative_search._unit_vectors(model, ["a horse", "a cat"])
    assert np.isfinite(whole).all()
    weight = model[0].auto_model.embeddings.word_embeddings.weight
    weight.data[token] = bad
    with pytest.raises(ValueError, match="1 of 3 that are not, first for 'a zebra'"):
        negative_search.embedding_scores(model, ["a horse"], ["a horse", "a zebra", "a cat"], ["i"])
