"""Neighbours: exact where float32 is not enough, one tie rule for both models, permutations without a new search."""

import numpy as np
import pytest

from hrsa.similarity import compare_arrays, knn, search
from hrsa.similarity.knn import overlap
from hrsa.similarity.states import Layer


def neighbours(x, ks=(5, 10, 50)):
    return knn.neighbours(Layer(x, "x"), ks)


def plain_neighbours(x, k):
    """Neighbours (n, k) in plain float64: each cosine summed alone, equal ones in the order of rows."""
    x = x.astype(np.float64)
    unit = x / np.sqrt(np.square(x).sum(1))[:, None]
    out = []
    for i in range(len(x)):
        cosine = (unit[i] * unit).sum(1)
        cosine[i] = -np.inf
        out.append(np.lexsort((np.arange(len(x)), -cosine))[:k])
    return np.array(out)


def same_sets(got, x, ks):
    expected = plain_neighbours(x, max(ks))
    return all((np.sort(got.index[:, :k]) == np.sort(expected[:, :k])).all() for k in ks)


class InMemory:
    def __init__(self, v, bias):
        self.v, self.bias, self.n = v, bias, len(v)

    def block(self, rows):
        return self.v[rows], self.bias[rows]


def test_search_finds_the_best_of_each_row(rng, monkeypatch):
    monkeypatch.setattr(search, "_TILE", 64)  # many tiles, the last one short
    v, bias = rng.standard_normal((301, 8)).astype(np.float32), rng.standard_normal(301).astype(np.float32)
    scores = v @ v.T + bias
    np.fill_diagonal(scores, -np.inf)
    for m in (1, 5, 51, 300):
        expected = -np.sort(-scores, axis=1)[:, :m]
        for strip in (None, 64, 150):
            best = search.search_best(InMemory(v, bias), m, strip)
            assert best.values == pytest.approx(expected, abs=1e-4)
            assert scores[np.arange(301)[:, None], best.index] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["spread", "narrow cone", "massive dimension", "few directions"])
def test_neighbours_are_those_of_float64(kind, rng):
    x = rng.standard_normal((1300, 24)).astype(np.float32)
    if kind == "narrow cone":  # all cosines above .999999: plain float32 could not tell them apart
        x += 3000
    elif kind == "massive dimension":
        x[:, 0] *= 1000
    elif kind == "few directions":
        x = x[rng.integers(0, 400, 1300)] + np.float32(1e-4) * x
    got = neighbours(x)
    assert same_sets(got, x, (5, 10, 50))
    assert not (got.index == np.arange(1300)[:, None]).any()
    assert 0 <= got.reranked <= 1 and got.ks == (5, 10, 50)


def test_neighbours_settled_among_candidates_are_those_of_all_rows(rng, monkeypatch):
    x = np.repeat(rng.standard_normal((300, 12)), 3, axis=0)  # every state three times, and triplets that all but tie
    x[::3] += 1e-7 * rng.standard_normal((300, 12))
    x = np.vstack([x, x[rng.integers(0, 900, 200)] * 2]).astype(np.float32)
    found = neighbours(x)
    monkeypatch.setattr(knn, "_SPARE", len(x))  # all rows are candidates
    every = neighbours(x)
    assert found.reranked == every.reranked > 0.9
    assert same_sets(found, x, (5, 10, 50)) and same_sets(every, x, (5, 10, 50))
    assert (found.tied == every.tied).all() and found.tied.any()


def test_ties_go_to_the_lower_row_and_are_reported(rng):
    token = rng.integers(0, 60, 500)
    table = rng.standard_normal((60, 16)).astype(np.float32)
    x = table[token]  # as at layer 0: the same token has the same state
    got = neighbours(x)
    assert same_sets(got, x, (5, 10, 50))
    for i in (0, 250, 499):
        alike = np.flatnonzero(token == token[i])
        alike = alike[alike != i][:5]
        assert got.index[i, : len(alike)].tolist() == alike.tolist()
    assert got.tied.mean(axis=0)[0] > 0.5
    assert not neighbours(x + 0.1 * rng.standard_normal(x.shape)).tied.any()
    other = rng.standard_normal((60, 16)).astype(np.float32)[token]  # other directions, the same ties
    assert compare_arrays(x, other, "knn", 2) > 0.5


def test_overlap_counts_like_sets(rng):
    a, b = neighbours(rng.standard_normal((300, 4))), neighbours(rng.standard_normal((300, 4)))
    expected = [[len(set(p[:k]) & set(q[:k])) / len(set(p[:k]) | set(q[:k])) for k in a.ks]
                for p, q in zip(a.index, b.index, strict=True)]
    assert overlap(a, b) == pytest.approx(np.array(expected))
    with pytest.raises(ValueError, match="same n and ks"):
        overlap(a, neighbours(rng.standard_normal((200, 4))))


def test_shuffled_rows_need_no_new_search(rng):
    x, order = rng.standard_normal((200, 6)), rng.permutation(200)
    moved, fresh = neighbours(x).shuffled(order), neighbours(x[order])
    assert (np.sort(moved.index, axis=1) == np.sort(fresh.index, axis=1)).all()


def test_all_others_can_be_asked_for(rng):
    x = rng.standard_normal((7, 3))
    assert compare_arrays(x, rng.standard_normal((7, 3)), "knn", 6) == 1.0


def test_refused(rng):
    x = rng.standard_normal((40, 3))
    for ks in ((40,), (5, 41), (0,), ()):
        with pytest.raises(ValueError, match=r"k < n = 40.*\(40, 3\)"):
            neighbours(x, ks)
    x = rng.standard_normal((60, 3))
    x[11] = 0
    with pytest.raises(ValueError, match=r"x\[11\]"):
        neighbours(x)
    with pytest.raises(ValueError, match="at most 50000"):
        neighbours(np.ones((50_001, 1)))
