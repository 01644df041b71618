"""The loss against plain references: values, gradients, masks, chunks, dropout, and two processes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny import tiny_backbone

from hrsa.training.gradient_cache import mini_batches_of
from hrsa.training.infonce import MASKED, InfoNCE, cosines, false_negatives, info_nce, near_positives, text_id

B, NEGATIVES, PROMPT = 6, 2, "Instruct: find the match\nQuery:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"), seed=0)


def embedder(folder, dropout=0.0, dtype=torch.float32):
    """A tiny bidirectional encoder; its matrices are scaled from the fixture's 0.2 to the usual deviation of 0.02."""
    transformer = Transformer(str(folder), config_kwargs={"attention_dropout": dropout}, max_seq_length=48)
    transformer.model.config.is_causal = False
    with torch.no_grad():
        for matrix in (p for p in transformer.model.parameters() if p.dim() > 1):
            matrix *= 0.1
    pooling = Pooling(transformer.get_embedding_dimension(), "mean", include_prompt=False)
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu").to(dtype)
    return model.train()


def some_texts(rng, count):
    words = ["stone", "river", "paper", "of", "a", "seven", "moon", "green", "to", "wander"]
    texts = {}
    while len(texts) < count:
        texts[" ".join(rng.choice(words, size=rng.integers(1, 30)))] = None
    return list(texts)


def columns_of(model, rng, rows=B):
    texts = np.reshape(some_texts(rng, rows * (2 + NEGATIVES)), (-1, rows)).tolist()
    features = [model.preprocess(column, prompt=None if i else PROMPT) for i, column in enumerate(texts)]
    ids = torch.tensor([[text_id(text) for text in column] for column in texts]).T
    return features, {"ids": ids, "known": ids[:, 1:2]}


def gradients(model, features, labels, chunk_tokens, temperature=0.1, seed=0, margin=None):
    model.zero_grad()
    torch.manual_seed(seed)
    loss_module = InfoNCE(model, temperature, chunk_tokens, margin)
    loss = loss_module(features, labels)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}, loss_module.record


def plain_loss(model, features, labels, temperature, margin=math.inf):
    """InfoNCE written out query by query, all in one graph."""
    columns = [model(dict(column))["sentence_embedding"] for column in features]
    queries, passages = columns[0], torch.cat(columns[1:])
    ids = labels["ids"]
    passage_ids = ids[:, 1:].T.flatten().tolist()
    total = 0.0
    for i, query in enumerate(queries):
        cosine = [torch.dot(query, p) / query.norm() / p.norm() for p in passages]
        barred = {*labels["known"][i].tolist(), *ids[i, :2].tolist()}
        terms = [c / temperature for j, c in enumerate(cosine)
                 if j == i or (passage_ids[j] not in barred and float((c - cosine[i]).detach()) <= margin)]
        total = total + torch.logsumexp(torch.stack(terms), 0) - cosine[i] / temperature
    return total / len(queries)


def difference(a, b):
    """Length of the difference of two gradients over all weights, as a share of the length of `b`."""
    a, b = (torch.cat([part[name].double().flatten() for name in sorted(b)]) for part in (a, b))
    return float((a - b).norm() / b.norm())


def test_loss_by_hand():
    # cosines of the first query: 1 (own), 0, -1; of the second: 0, 1 (own), 0
    queries, passages = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    own, nothing, scores = torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.bool), cosines(queries, passages)
    assert scores.tolist() == [[1, 0, -1], [0, 1, 0]]
    expected = [math.log(math.e**2 + 1 + math.e**-2) - 2, math.log(1 + math.e**2 + 1) - 2]
    assert info_nce(scores, own, nothing, 0.5).tolist() == pytest.approx(expected, abs=1e-6)
    barred = torch.tensor([[False, True, False], [False, False, False]])
    assert info_nce(scores, own, barred, 0.5)[0].item() == pytest.approx(math.log(math.e**2 + math.e**-2) - 2, abs=1e-6)


def test_near_positives_by_hand():
    scores = torch.tensor([[0.5, 0.625, 0.75, -1.0], [0.9, 0.2, 0.3, 0.5]])
    own = torch.tensor([0, 1])  # limits 0.5 + 0.125 (one stands exactly on it) and 0.2 + 0.125
    mask = near_positives(scores, own, 0.125)
    assert mask.tolist() == [[False, False, True, False], [True, False, False, True]]
    assert info_nce(scores, own, mask, 1.0).tolist() == pytest.approx(
        [math.log(math.e**0.5 + math.e**0.625 + math.e**-1) - 0.5, math.log(math.e**0.2 + math.e**0.3) - 0.2], abs=1e-6)


def test_mask_by_hand():
    passages = torch.tensor([10, 11, 10, 12, 13])  # two copies of 10
    own = torch.tensor([0, 1, 2])
    known = torch.tensor([[10, 10], [11, 13], [10, 99]])  # 13 is another positive of the second query
    expected = [[False, False, True, False, False], [False, False, False, False, True],
                [True, False, False, False, False]]
    assert false_negatives(passages, own, known).tolist() == expected


def test_text_ids_tell_texts_apart():
    assert text_id("a") == text_id("a") and len({text_id(str(i)) for i in range(1000)}) == 1000
    assert all(-(2**63) <= text_id(str(i)) < 2**63 for i in range(100))


def test_padding_is_small(folder, rng):
    features, _ = columns_of(embedder(folder), rng, rows=64)
    tokens = sum(int(column["attention_mask"].sum()) for column in features)
    padded = sum(column["attention_mask"].numel() for column in features)
    assert sum(batch.tokens for batch in mini_batches_of(features, 256)[0]) < 1.15 * tokens < padded


def test_equal_texts_are_embedded_once(folder):
    model = embedder(folder)
    columns = [["stone", "moon", "stone"], ["river", "stone", "a river"], ["river", "river", "moon"]]
    features = [model.preprocess(texts, prompt=None if i else PROMPT + " ") for i, texts in enumerate(columns)]
    mini_batches, where = mini_batches_of(features, 1000)
    assert sum(len(batch.texts) for batch in mini_batches) == 2 + 4  # queries carry the instruction, so they are apart
    assert where.tolist() == [0, 1, 0, 2, 3, 4, 2, 2, 5]


def test_gradients_are_those_of_a_plain_float64_loss(folder, rng):
    model = embedder(folder, dtype=torch.float64)
    features, labels = columns_of(model, rng)
    model.zero_grad()
    expected_loss = plain_loss(model, features, labels, 0.1)
    expected_loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    for budget in (1, 100, int(rng.integers(2, 1000)), 10**6):
        loss, exact, _ = gradients(model, features, labels, budget)
        assert loss == pytest.approx(float(expected_loss.detach()), abs=1e-12)
        assert difference(exact, expected) < 1e-12
    _, single, _ = gradients(model.float(), features, labels, chunk_tokens=100)
    assert difference(single, expected) < 1e-5  # the rounding of a float32 network, cached or not


def test_any_chunking_gives_the_same_gradients(folder, rng):
    """Float32 against un-chunked float32, where rounding alone is about a third of the bound."""
    model = embedder(folder)
    features, labels = columns_of(model, rng)
    whole_loss, whole, record = gradients(model, features, labels, 10**6)
    for budget in (1, 40, 300, int(rng.integers(2, 1000))):
        loss, part, _ = gradients(model, features, labels, budget)
        assert loss == pytest.approx(whole_loss, rel=1e-5) and difference(part, whole) < 1e-6
    assert record["tokens"] == sum(int(column["attention_mask"].sum()) for column in features)


def test_dropout_is_replayed(folder, rng, monkeypatch):
    model = embedder(folder, dropout=0.3)
    features, labels = columns_of(model, rng)
    again = gradients(model, features, labels, 160)[1]
    monkeypatch.setattr(InfoNCE, "_embed", keeping_everything(InfoNCE._embed))
    kept = gradients(model, features, labels, 160)[1]
    other = gradients(model, features, labels, 160, seed=1)[1]
    assert difference(again, kept) < 1e-6 < 1e-4 < difference(again, other)


def keeping_everything(embed):
    """The same mini-batches with every graph kept: the un-cached loss under the same random numbers."""
    def wrapped(self, mini_batches, training):
        budget, self.chunk_tokens = self.chunk_tokens, 10**9
        try:
            return embed(self, mini_batches, training)
        finally:
            self.chunk_tokens = budget
    return wrapped


def test_random_state_after_a_step_does_not_depend_on_what_is_run_again(folder, rng, monkeypatch):
    model = embedder(folder, dropout=0.3)
    features, labels = columns_of(model, rng)
    gradients(model, features, labels, 160)
    after = torch.get_rng_state()
    monkeypatch.setattr(InfoNCE, "_embed", keeping_everything(InfoNCE._embed))
    gradients(model, features, labels, 160)
    assert torch.equal(after, torch.get_rng_state())


def test_only_the_budget_is_held(folder, rng):
    """Tokens whose activations are alive at once stay within the budget, whatever the batch."""
    model = embedder(folder)
    for rows in (8, 64):
        features, _ = columns_of(model, rng, rows)
        loss_module = InfoNCE(model, 0.1, 400)
        mini_batches, _ = mini_batches_of(features, 100)
        loss_module._embed(mini_batches, True)
        assert 0 < sum(batch.tokens for batch in mini_batches if batch.kept is not None) <= 400
        assert all(batch.tokens <= 100 for batch in mini_batches)


def test_known_positives_are_masked_and_counted(folder, rng):
    model = embedder(folder)
    features, labels = columns_of(model, rng)
    labels["ids"][1, 2] = labels["ids"][0, 1]  # a negative of row 1 repeats the positive of row 0
    labels["known"] = torch.stack([labels["ids"][:, 1], labels["ids"][:, 1]], 1)
    labels["known"][3, 1] = labels["ids"][5, 1]  # the positive of row 5 is one of row 3 as well
    loss, _, record = gradients(model, features, labels, 200)
    assert (record["duplicates"], record["known"]) == (1, 1)
    assert loss == pytest.approx(float(plain_loss(model, features, labels, 0.1).detach()), rel=1e-5)


def test_near_positives_are_masked_and_counted_apart(folder, rng):
    model = embedder(folder, dtype=torch.float64)
    features, labels = columns_of(model, rng)
    labels["ids"][1, 2] = labels["ids"][0, 1]
    margin = 0.0  # a random model puts about half of all passages above the positive
    expected = plain_loss(model, features, labels, 0.1, margin)
    model.zero_grad()
    expected.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    for budget in (40, 10**6):
        loss, exact, record = gradients(model, features, labels, budget, margin=margin)
        assert loss == pytest.approx(float(expected.detach()), abs=1e-12) and difference(exact, plain) < 1e-12
        assert (record["duplicates"], record["known"]) == (1, 0) and record["near"] > 0
    with torch.no_grad():
        queries, *passages = (model(dict(column))["sentence_embedding"] for column in features)
        near = near_positives(cosines(queries, torch.cat(passages)), torch.arange(B), margin).sum()
    assert near - 1 <= record["near"] <= near
    off = gradients(model, features, labels, 40, margin=2.0)[2]  # no cosine is 2 above another
    assert [off[name] for name in MASKED] == [1, 0, 0]
    assert gradients(model, features, labels, 40)[2] == off


def test_without_labels_equal_texts_are_masked(folder, rng):
    model = embedder(folder)
    query, other = some_texts(rng, 1)[0], some_texts(rng, 1)[0] + " paper"
    columns = [["stone", "moon"], [query, query], [other, other + " stone"]]
    features = [model.preprocess(texts) for texts in columns]
    record = gradients(model, features, None, 1000)[2]
    assert record["duplicates"] == 2  # each query's positive stands in the other row too


def test_blocks_of_scores_change_nothing(folder, rng, monkeypatch):
    model = embedder(folder)
    features, labels = columns_of(model, rng)
    loss, whole, record = gradients(model, features, labels, 300)
    monkeypatch.setattr("hrsa.training.infonce._SCORES_HELD", 40)
    again, blocks, counts = gradients(model, features, labels, 300)
    assert again == pytest.approx(loss, rel=1e-5) and difference(whole, blocks) < 1e-6
    assert all(counts[name] == record[name] for name in (*MASKED, "tokens"))


def test_evaluation_needs_no_gradient(folder, rng):
    model = embedder(folder)
    features, labels = columns_of(model, rng)
    with torch.no_grad():
        loss = InfoNCE(model, 0.1, 200)(features, labels)
    assert not loss.requires_grad and float(loss) == pytest.approx(gradients(model, features, labels, 200)[0], rel=1e-5)


def test_errors(folder, rng):
    model = embedder(folder)
    features, labels = columns_of(model, rng)
    with pytest.raises(ValueError, match="expected columns query, positive"):
        InfoNCE(model, 0.1, 200)(features[:1], labels)
    model.tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="padded on the right"):
        InfoNCE(model, 0.1, 200)([model.preprocess(["stone", "stone river moon green"])] * 2)


WORKER = """
import os, sys, torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_infonce import embedder, gradients
rank = int(os.environ["RANK"])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[5], rank=rank, world_size=2)
features, labels = torch.load(sys.argv[3], weights_only=True)
half = slice(0, 3) if rank == 0 else slice(3, 6)
part = [{k: v[half] if torch.is_tensor(v) else v for k, v in column.items()} for column in features]
labels = {k: v[half] for k, v in labels.items()}
for chunk_tokens in (120, 10**6):
    model = torch.nn.parallel.DistributedDataParallel(embedder(sys.argv[2]), broadcast_buffers=False)
    torch.save(gradients(model, part, labels, chunk_tokens), f"{sys.argv[4]}{rank}-{chunk_tokens}")
dist.destroy_process_group()
"""


def test_two_processes_are_one_with_the_global_batch(folder, rng, tmp_path):
    model = embedder(folder)
    features, labels = columns_of(model, rng)
    labels["ids"][5, 2] = labels["ids"][0, 1]  # a duplicate that only the gathered batch shows
    labels["known"][0] = labels["ids"][4, 1]
    loss, whole, record = gradients(model, features, labels, 200)
    torch.save(([dict(column) for column in features], labels), tmp_path / "in")
    workers = [subprocess.Popen(
        [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(folder), str(tmp_path / "in"),
         str(tmp_path / "out"), str(tmp_path / "meeting")], env={**os.environ, "RANK": str(rank)}) for rank in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    for chunk_tokens in (120, 10**6):
        results = [torch.load(tmp_path / f"out{rank}-{chunk_tokens}", weights_only=True) for rank in range(2)]
        assert np.mean([r[0] for r in results]) == pytest.approx(loss, rel=1e-5)
        for _, part, counts in results:
            assert difference({k.removeprefix("module."): v for k, v in part.items()}, whole) < 1e-6
            assert all(counts[name] == record[name] for name in (*MASKED, "tokens"))
    assert record["duplicates"] > 0
