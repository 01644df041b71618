"""Layers of two models: all pairs equal one by one, lists and maps equal arrays, resampling equals brute force."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from hrsa.similarity import (
    METRICS,
    ON_REQUEST,
    compare_arrays,
    compare_layers,
    feature,
    open_states,
    procrustes,
    resampling,
    rsa,
)
from hrsa.similarity.budget import Limits
from hrsa.similarity.feature import feature_sums
from hrsa.similarity.gram import gram_sums
from hrsa.similarity.layers import LAYER_COLUMNS
from hrsa.similarity.metrics import METRIC_FAMILIES
from hrsa.similarity.procrustes import compare_rotation

PROCRUSTES = METRIC_FAMILIES["procrustes"]


def model(rng, layers, n, d):
    """States (l, n, d), each layer a little further from the first; a few dimensions a thousand times larger."""
    base = rng.standard_normal((n, d)) + rng.standard_normal(d)
    steps = np.cumsum(0.5 * rng.standard_normal((layers, n, d)), axis=0)
    states = base + steps
    states[:, :, :2] *= 1000
    return states.astype(np.float32)


def two_models(rng, layers=3, n=1100, d=24):
    x = model(rng, layers, n, d)
    return x, (x + 0.5 * model(rng, layers, n, d)).astype(np.float32)


def value(table, metric, i, j, k=None):
    rows = table[(table.metric == metric) & (table.layer_x == i) & (table.layer_y == j)]
    return (rows if k is None else rows[rows.k == k])["value"].item()


def check_against_functions(table, x, y):
    for row in table.itertuples():
        k = row.k if METRICS[row.metric].has_k else None
        expected = compare_arrays(x[row.layer_x], y[row.layer_y], row.metric, k)
        assert row.value == pytest.approx(expected, abs=1e-6), row


@pytest.mark.parametrize("shape", [(1100, 24), (90, 300)], ids=["feature space", "Gram space"])
def test_every_pair_equals_the_metric_itself(shape, rng):
    x, y = two_models(rng, 3, *shape)
    metrics = tuple(METRICS) if shape[0] > shape[1] else ("correlation", "cka", "debiased_cka", "residual_ratio", "knn")
    table = compare_layers(x, y[:2], metrics)
    assert list(table.columns) == LAYER_COLUMNS
    assert table.n_tokens.unique().tolist() == [shape[0]]
    assert len(table[table.metric == "cka"]) == 6 and len(table[table.metric == "knn"]) == 6
    assert table[["low", "high", "null"]].isna().all(axis=None)
    check_against_functions(table, x, y)


def test_both_routes_of_cka_agree_over_many_blocks(rng):
    x, y = (open_states(s, "x") for s in two_models(rng, 2, 2300, 12))
    small = Limits(2**20)  # several strips, several groups of partners
    routes = [feature_sums(x.layers, y.layers, x.n, limits) for limits in (Limits(), small)]
    routes += [gram_sums([*x.layers, *y.layers], x.n, limits) for limits in (Limits(), small)]
    known = ~np.isnan(routes[0]["apart"])
    assert known.sum() == 8 + 4
    for sums in routes[1:]:
        for name in ("products", "sums", "apart"):
            at = known if name == "apart" else ...
            assert sums[name][at] == pytest.approx(routes[0][name][at], rel=1e-6), name


def test_lists_maps_and_tensors_equal_the_array(rng, tmp_path):
    x, y = two_models(rng, 2, 300, 8)
    np.save(tmp_path / "x.npy", x)
    expected = compare_layers(x, y)
    for form in (np.load(tmp_path / "x.npy", mmap_mode="r"), torch.from_numpy(x), list(x), tuple(torch.from_numpy(x))):
        assert compare_layers(form, y).equals(expected)


def test_unequal_widths_and_layer_counts(rng):
    x, y = two_models(rng, 3, 200, 12)
    y = [y[0][:, :5], y[1][:, :9]]
    table = compare_layers(list(x), y, ("cka", "debiased_cka", *PROCRUSTES, "knn"))
    assert table[table.metric == "cka"].shape[0] == 6
    check_against_functions(table, x, y)
    with pytest.raises(ValueError, match=r"equal widths.*\[12, 12, 12\] and \[5, 9\]"):
        compare_layers(x, y, ("correlation",))


def test_tied_share_is_a_metric_of_its_own(rng):
    token = rng.integers(0, 20, 300)
    x = rng.standard_normal((1, 20, 6))[:, token]
    table = compare_layers(x, x + 0.1 * rng.standard_normal(x.shape), ("knn", "knn_tied"), ks=(3,))
    assert value(table, "knn_tied", 0, 0, 3) > 0.5
    assert set(compare_layers(x, x, ("knn_tied",), ks=(3,)).metric) == {"knn_tied"}


def test_matched_layers_only(rng):
    x, y = two_models(rng, 3, 60, 5)
    table = compare_layers(x, y, ("cka", "correlation"), layers="matched")
    assert (table.layer_x == table.layer_y).all() and len(table) == 6


def test_wrong_states_are_refused(rng):
    x, y = two_models(rng, 2, 60, 5)
    with pytest.raises(ValueError, match=r"\(60, 5\).*\(59, 5\)"):
        compare_layers(x, y[:, :-1])
    with pytest.raises(ValueError, match=r"\(60, 5\), \(59, 5\)"):
        compare_layers([x[0], x[1][:-1]], y)
    with pytest.raises(ValueError, match=r"\(l layers, n tokens, d dimensions\), got \(60, 5\)"):
        compare_layers(x[0], y)
    with pytest.raises(ValueError, match="metrics among"):
        compare_layers(x, y, ("cosine",))
    with pytest.raises(ValueError, match="at least one layer in states_x"):
        compare_layers([], y)
    with pytest.raises(ValueError, match="'all' or 'matched', got 'some'"):
        compare_layers(x, y, layers="some")
    for given in ({"resamples": 5}, {"permutations": 5}, {"resamples": 5, "texts": np.arange(60)}):
        with pytest.raises(ValueError, match="pass both"):
            compare_layers(x, y, ("cka",), **given)
    with pytest.raises(ValueError, match=r"texts of shape \(60,\)"):
        compare_layers(x, y, ("cka",), resamples=5, texts=np.arange(59), rng=rng)
    bad = np.concatenate([x] * 30, axis=1)
    bad[1, 1500, 3] = np.inf
    with pytest.raises(ValueError, match=r"states_x\[1\]\[1500, 3\]"):
        compare_layers(bad, bad)


def brute_debiased(x, y, w):
    """The weighted U-statistic by its definition: sums over distinct tokens."""
    def hsic(k, m):
        n = len(w)
        pair = triple = quad = p2 = p3 = p4 = 0.0
        for i in range(n):
            for j in set(range(n)) - {i}:
                pair, p2 = pair + w[i] * w[j] * k[i, j] * m[i, j], p2 + w[i] * w[j]
                for a in set(range(n)) - {i, j}:
                    weight = w[i] * w[j] * w[a]
                    triple, p3 = triple + weight * k[i, j] * m[i, a], p3 + weight
                    for b in set(range(n)) - {i, j, a}:
                        quad, p4 = quad + weight * w[b] * k[i, j] * m[a, b], p4 + weight * w[b]
        return pair / p2 - 2 * triple / p3 + quad / p4

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_weighted_values_are_those_of_resampled_tokens(rng):
    x, y = two_models(rng, 2, 700, 6)
    a, b = open_states(x, "x"), open_states(y, "y")
    weights = resampling.text_weights(np.repeat(np.arange(70), 10), 4, rng)
    layers = [*a.layers, *b.layers]
    biased, _ = resampling.weighted_cka(layers, [(0, 2), (1, 3)], weights)
    rho = resampling.weighted_correlation(a.layers[1], b.layers[1], weights)
    for r in range(4):
        rows = np.repeat(np.arange(700), weights[:, r])
        assert biased[:, r] == pytest.approx([compare_arrays(x[i][rows], y[i][rows], "cka") for i in (0, 1)], abs=1e-5)
        assert rho[r] == pytest.approx(compare_arrays(x[1][rows], y[1][rows], "correlation"), abs=1e-5)
        got = compare_rotation(a.layers[1], b.layers[1], weights=weights[:, r].astype(float))
        assert got == pytest.approx({name: compare_arrays(x[1][rows], y[1][rows], name) for name in PROCRUSTES},
                                    abs=1e-5)
    ones = np.ones((700, 1))
    _, plain = resampling.weighted_cka(layers, [(0, 2)], ones)
    assert plain.item() == pytest.approx(compare_arrays(x[0], y[0], "debiased_cka"), abs=1e-6)
    few = rng.permutation([1, 2, 0, 1, 3, 1, 1, 0, 2])
    _, few_debiased = resampling.weighted_cka([open_states(s[:1, :9], "x").layers[0] for s in (x, y)], [(0, 1)],
                                              few[:, None])
    expected = brute_debiased(*(s[0, :9].astype(float) - s[0, :9].astype(float).mean(0) for s in (x, y)), few)
    assert few_debiased.item() == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_resamples_of_measures_on_request(rng):
    x, y = (part[0] for part in two_models(rng, 1, 120, 6))
    a, b = open_states([x], "x").layers[0], open_states([y], "y").layers[0]
    weights = resampling.text_weights(np.repeat(np.arange(12), 10), 3, rng)
    ranks = [rsa.PairRanks(layer, Limits()) for layer in (a, b)]
    drawn = rsa.weighted_rank_correlation(*ranks, weights)
    kept = feature.kept_directions(a), feature.kept_directions(b)
    one, two = np.triu_indices(120, 1)
    units = [part / np.linalg.norm(part.astype(float), axis=1, keepdims=True) for part in (x, y)]
    places = [rankdata(-(unit @ unit.T)[one, two]) for unit in units]
    for r, w in enumerate(weights.T):
        cross = np.cov(*places, aweights=w[one] * w[two])
        assert drawn[r] == pytest.approx(cross[0, 1] / np.sqrt(cross[0, 0] * cross[1, 1]), abs=1e-5)
        rows = np.repeat(np.arange(120), w)
        z = [(part.astype(float) - part.mean(0, dtype=float)) @ k for part, k in zip((x, y), kept, strict=True)]
        bases = [np.linalg.qr(part[rows] - part[rows].mean(0))[0] for part in z]
        expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()
        assert feature.svcca(a, b, kept, weights=w) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["texts in a row", "texts mixed", "no room"])
def test_rotations_of_all_resamples_are_those_of_each_alone(kind, rng):
    x, y = (open_states(part, "x").layers[0] for part in two_models(rng, 1, 700, 12))
    texts = np.repeat(np.arange(35), 20)
    weights = resampling.text_weights(rng.permutation(texts) if kind == "texts mixed" else texts, 5, rng)
    limits = Limits(2**10) if kind == "no room" else Limits()
    for w, found in zip(weights.T, procrustes.compare_resampled(x, y, weights, limits), strict=True):
        assert found == pytest.approx(compare_rotation(x, y, weights=w.astype(float)), abs=1e-9)


def test_intervals_and_nulls_of_measures_on_request(rng):
    x, y = two_models(rng, 1, 400, 10)
    texts, classes = np.repeat(np.arange(40), 10), np.tile(np.arange(10) // 5, 40)
    table = compare_layers(x, y, ON_REQUEST, texts=texts, classes=classes, resamples=20, permutations=2,
                           rng=np.random.default_rng(5), ks=(5,))
    assert set(table.metric) == set(ON_REQUEST) and (table.null < table.low).all()
    assert ((table.low <= table["value"]) & (table["value"] <= table.high)).all()
    order = resampling.shuffle_within(classes, np.random.default_rng(6))
    got = compare_layers(x, y, ON_REQUEST, classes=classes, permutations=1, rng=np.random.default_rng(6), ks=(5,))
    for row in got.itertuples():
        k = 5 if METRICS[row.metric].has_k else None
        assert row.null == pytest.approx(compare_arrays(x[0], y[0][order], row.metric, k), abs=1e-6), row.metric


def test_intervals_and_nulls_of_a_table(rng):
    x, y = two_models(rng, 2, 800, 10)
    texts, classes = np.repeat(np.arange(80), 10), np.tile(np.arange(10) // 5, 80)
    again = [compare_layers(x, y, texts=texts, classes=classes, resamples=30, permutations=5,
                            rng=np.random.default_rng(5)) for _ in range(2)]
    assert again[0].equals(again[1])
    table = again[0]
    matched = table[table.layer_x == table.layer_y]
    assert matched[["low", "high", "null"]].notna().all(axis=None)
    assert (matched.low <= matched["value"]).all() and (matched["value"] <= matched.high).all()
    assert table[table.layer_x != table.layer_y][["low", "high", "null"]].isna().all(axis=None)
    for metric in ("correlation", "cka", "debiased_cka", "mean_cosine", "knn"):
        rows = matched[matched.metric == metric]
        assert (rows.null < rows.low).all(), metric
    order = resampling.shuffle_within(classes, np.random.default_rng(6))
    got = compare_layers(x, y, ("cka", "debiased_cka", "correlation", "residual_ratio"), classes=classes,
                         permutations=1, rng=np.random.default_rng(6))
    for name in ("cka", "debiased_cka", "correlation", "residual_ratio"):
        null = got[(got.metric == name) & (got.layer_x == 1) & (got.layer_y == 1)].null.item()
        assert null == pytest.approx(compare_arrays(x[1], y[1][order], name), abs=1e-6), name
