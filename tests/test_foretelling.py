from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_backbone

from hrsa.analysis.behaviour import by_tokens
from hrsa.evaluation import foretelling
from hrsa.evaluation.embedding_cache import Embeddings
from hrsa.evaluation.encoder import InstructedEncoder, model_meta
from hrsa.evaluation.evaluate import run_task
from hrsa.evaluation.foretelling import LOCAL, PREDICTORS, foretold, local_change
from hrsa.evaluation.tasks import local_task
from hrsa.models.embedder import assemble
from hrsa.report.prose import scores, similarity
from hrsa.study import runtime
from hrsa.texts.suite import EvalTask


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rotated(rng, *arrays):
    turn = np.linalg.qr(rng.normal(size=(arrays[0].shape[1],) * 2))[0]
    return [x @ turn for x in arrays]


def test_a_rotation_changes_nothing_around_a_query_and_another_model_does(rng):
    q, d = unit(rng.normal(size=(7, 8))), unit(rng.normal(size=(40, 8)))
    right = [np.array([int(i)]) for i in rng.integers(40, size=7)]
    turned_q, turned_d = rotated(rng, q, d)
    same = local_change((q, turned_q), (d, turned_d), right)
    assert list(same) == LOCAL and np.allclose(same, 1)
    other_q, other_d = unit(rng.normal(size=(7, 5))), unit(rng.normal(size=(40, 5)))
    other = local_change((q, other_q), (d, other_d), right)
    assert (other["retrieved"] < 1).all() and (other["around"] < 1).all() and (other["cosines"] < 0.99).all()


def test_near_documents_worked_by_hand():
    d = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0.0]])
    q = np.array([[1, 0.0]])
    moved = d[[0, 2, 1, 3]]  # documents 1 and 2 change places
    found = local_change((q, q), (d, moved), [np.array([0, 3])], k=2)
    assert found["retrieved"].item() == pytest.approx(1 / 3)  # {0, 1} and {0, 2}
    # document 0 is near {1, 2} in both; document 3 near {2, 1} in both: sets, not orders
    assert found["around"].item() == 1
    cosines = np.array([1, 0.8, 0, -1]), np.array([1, 0, 0.8, -1])
    assert found["cosines"].item() == pytest.approx(np.corrcoef(*cosines)[0, 1])
    with pytest.raises(ValueError, match="expected more than 4 documents to have 4 near ones, got 4: raise"):
        local_change((q, q), (d, d), [np.array([0])], k=4)


def queries(rng, n=300):
    table = pd.DataFrame(rng.random((n, 5)), columns=[*LOCAL, "level", "apart"])
    return table.assign(task=rng.choice(["one", "two", "three"], n))


def test_what_local_change_foretells_is_found_and_what_it_does_not_is_not(rng):
    table = queries(rng)
    noise = 0.1 * rng.normal(size=len(table))
    table["arms"] = 1 - table["retrieved"] + table["task"].map({"one": 0, "two": 5, "three": -3}) + noise
    shares = foretold(table, "arms", ["level", "apart"]).set_index("predictors")
    assert list(shares.index) == [*PREDICTORS, "gain"]
    assert shares.loc["local change alone", "low"] > 0.7 and shares.loc["gain", "low"] > 0.7
    assert shares.loc["scores alone", "high"] < 0.1
    table["arms"] = table["level"] + noise
    shares = foretold(table, "arms", ["level", "apart"]).set_index("predictors")
    assert shares.loc["scores alone", "low"] > 0.7 and abs(shares.loc["gain", "share"]) < 0.05
    table["arms"] = rng.random(len(table))
    assert foretold(table, "arms", ["level", "apart"]).set_index("predictors").loc["both", "share"] < 0.1


def test_too_few_queries_or_none_that_vary_are_refused(rng):
    few = queries(rng, 40).assign(arms=0.5)
    with pytest.raises(ValueError, match=r"expected at least 50 queries .* got 40, all alike"):
        foretold(few, "arms", ["level"])
    with pytest.raises(ValueError, match="expected embeddings of 2 texts in nowhere, got 0"):
        foretelling._taken(Path("nowhere"), "", pd.Series(["a", "b"]))


def test_local_change_finds_what_mteb_embedded_of_documents_with_white_space_around_them(tmp_path, rng):
    words = ["ring", "graph", "prime", "matrix", "vector", "proof"]
    corpus = pd.DataFrame({"id": [f"d{i}" for i in range(14)],
                           "text": [f"{' ' * (i % 3)}{' '.join(rng.choice(words, 5))} {i}\n" for i in range(14)]})
    queries = pd.DataFrame({"id": ["q0", "q1"], "text": ["a ring ", " a proof"]})
    task = EvalTask("Blanks", "retrieval", False, "Find it.", "ndcg_at_10", corpus, queries,
                    {"q0": {"d1": 1}, "q1": {"d2": 1}})
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        model = assemble(str(tiny_backbone(tmp_path / f"model-{seed}", seed=seed)), "bidirectional", 32)
        encoder = InstructedEncoder(model, model_meta("tiny", "0"), "bidirectional", store=Embeddings(folder))
        run_task(encoder, local_task(task), tmp_path / f"work-{seed}")
    found = foretelling._of_task(task, folders)
    assert found["query"].tolist() == ["q0", "q1"] and found[LOCAL].notna().all(axis=None)


def test_parts_of_a_text_by_hand():
    prompt, text = "Do it: ", "the Cat sat, on"
    spans = np.array([(0, 2), (2, 5), (5, 6), (7, 10), (10, 14), (14, 18), (18, 19), (19, 22), (0, 0)])
    found = by_tokens.parts_of(prompt + text, prompt, spans)  # Do| it|:|the| Cat| sat|,| on|end
    assert {name: part.tolist() for name, part in found.items()} == {
        "all tokens": [3, 4, 5, 6, 7], "content words": [4, 5, 6], "function words": [3, 7], "instruction": [0, 1, 2]}


def test_mean_states_are_those_of_single_texts(tmp_path, rng):
    runtime.prepare(1, 0)
    model = assemble(str(tiny_backbone(tmp_path / "model", seed=int(rng.integers(2**31)))), "causal", 12)
    texts, prompts = ["the stone is a river", "green", "a seven moon of paper to wander over"], ["Find: ", "", "Find: "]
    labels, states = by_tokens.mean_states(model, texts, prompts)
    assert labels == ["0", "1", "2", "2+norm"] and states.shape == (4, 3, 4, 32)
    for at, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        ids = model.tokenizer(prompt + text, truncation=True, max_length=12, return_offsets_mapping=True)
        with torch.no_grad():
            last = model[0].auto_model(input_ids=torch.tensor([ids["input_ids"]])).last_hidden_state[0].numpy()
        found = by_tokens.parts_of(prompt + text, prompt, np.array(ids["offset_mapping"]))
        for part, tokens in enumerate(found.values()):
            expected = last[tokens].mean(axis=0) if len(tokens) else np.zeros(32)
            np.testing.assert_allclose(states[-1, at, part], expected, rtol=1e-4, atol=1e-5)


def test_where_similarity_foretells_is_found_and_corrected(rng, monkeypatch, tmp_path):
    table = queries(rng, 150).assign(query=lambda t: t.index.astype(str))
    known = table.assign(arms=1 - table["around"] + 0.05 * rng.normal(size=len(table)))
    noise = [table[["task", "query"]].assign(**{name: rng.random(len(table)) for name in LOCAL}, layer=layer,
                                             side="query", part=part) for layer in "01" for part in by_tokens.PARTS[:3]]
    same = table[["task", "query"]].assign(**dict.fromkeys(LOCAL, 0.5), layer="1", side="query", part="instruction")
    told = [table[["task", "query", *LOCAL]].assign(layer="1", side=side, part="all tokens, too") for side in (
        "documents", "query")]  # of which around the right documents is no part
    pd.concat([*noise, same, *told]).to_parquet(tmp_path / "by_tokens.parquet")
    monkeypatch.setattr(by_tokens, "behaviour_table", lambda *_: known)
    monkeypatch.setattr(by_tokens, "make_local_by_tokens", lambda *_: tmp_path)
    found = by_tokens.foretold_by_tokens(None, "a-vs-b", None, "arms")
    gain = found.set_index(["layer", "side", "part"])
    assert len(gain) == 9 and np.isnan(gain.loc[("1", "query", "instruction"), "p"])
    assert gain.loc[("1", "documents", "all tokens, too"), "low"] > 0.8
    assert gain.loc[("1", "query", "all tokens, too"), "high"] < 0.1
    named = found.assign(pair="a-vs-b", of="x", kind=found["side"] + ", " + found["part"])
    asked = named["p"].notna()
    named.loc[asked, "holm"] = similarity.holm(named.loc[asked, "p"])
    said = similarity.foretold_where_said(named, 1e-6)
    assert "a-vs-b, x: of 8 layers and kinds of token 1 say what scores do not, most of all layer 1 by doc" in said
    assert "Nothing is there to foretell from query, instruction" in said
    less = named[(named["side"] == "query") & asked]
    less = less.assign(share=np.where(less["part"] == "content words", 0.1, -0.1))
    assert "of 7 layers and kinds of token none says what scores do not" in similarity.foretold_where_said(less, 1e-6)
    assert "none adds anything" in similarity.foretold_where_said(less.assign(share=-0.1), 1e-6)
    assert "Too few queries" in similarity.foretold_where_said(named.iloc[:0], 0.05)


def test_the_sentence_follows_the_interval_of_the_gain():
    rows = {"scores alone": (0.1, 0.05, 0.2), "local change alone": (0.1, 0, 0.2), "both": (0.2, 0.1, 0.3)}
    for gain, word in (((0.1, 0.05, 0.2), "adds to it"), ((-0.1, -0.2, -0.05), "takes from it"),
                       ((0.1, -0.05, 0.2), "adds nothing that shows")):
        table = pd.DataFrame([("a-vs-b", "x", name, *values, 120) for name, values in {**rows, "gain": gain}.items()],
                             columns=["pair", "of", "predictors", "share", "low", "high", "queries"])
        said = scores.foretold_said(table)
        assert said.startswith("- a-vs-b, x: ") and f"local change {word}: " in said and "120 queries" in said
    assert "not asked, since of 120 queries" in scores.foretold_said(table.assign(share=np.nan))
    assert "was not asked" in scores.foretold_said(table.iloc[:0])


def test_an_instruction_that_is_read_before_the_query_says_nothing_of_it(tmp_path, rng):
    runtime.prepare(1, 0)
    models = [assemble(str(tiny_backbone(tmp_path / name, seed=seed)), "causal", 24) for seed, name in enumerate("ab")]
    queries, documents = (pd.DataFrame({"id": [f"{start}{i}" for i in range(n)], "text": [
        " ".join(rng.choice(["stone", "river", "of", "a", "moon", "paper"], 5)) for _ in range(n)]})
        for start, n in (("q", 4), ("d", 14)))
    task = EvalTask("t", "retrieval", False, "Find it", "ndcg_at_10", documents, queries,
                    {name: {"d3": 1} for name in queries["id"]})
    found = by_tokens._of_task(task, models).set_index(["layer", "side", "part"])[LOCAL]
    assert len(found) == 4 * len(by_tokens.KINDS) * 4
    asked = found.notna().all(axis=1).groupby(level=[0, 1, 2]).any()
    assert not asked.xs("instruction", level=2).any() and asked.xs("documents", level=1).all()
    assert asked.xs("all tokens", level=2).all()
