"""Probes: at the optimum, frozen, all layers at once."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from hrsa.similarity import fit_probe, fit_probes


def topics(rng, n=300, d=20, classes=4, noise=2.0):
    """Features (n, d) around class centres, two dimensions a thousand times larger, and string labels (n,)."""
    labels = rng.integers(0, classes, n)
    x = rng.standard_normal((classes, d))[labels] + noise * rng.standard_normal((n, d)) / np.sqrt(2)
    x[:, :2] *= 1000
    return x, np.array(["maths", "code", "news", "law"], dtype=object)[labels]


def objective(weights, intercept, z, labels, penalty):
    scores = z @ weights + intercept
    scores -= scores.max(axis=1, keepdims=True)
    chosen = scores[np.arange(len(z)), np.unique(labels, return_inverse=True)[1]]
    return np.sum(np.log(np.exp(scores).sum(axis=1)) - chosen) + penalty / 2 * np.square(weights).sum()


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_classification_reaches_the_optimum(penalty, rng):
    x, labels = topics(rng)
    probe = fit_probe(x, labels, "classification", penalty)
    z = (x - x.mean(0)) / x.std(0)
    library = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20_000).fit(z, labels)
    theirs = objective(library.coef_.T, library.intercept_, z, labels, penalty)
    assert probe.objective == pytest.approx(objective(probe.weights, probe.intercept, z, labels, penalty))
    assert probe.objective <= theirs * (1 + 1e-7)
    assert probe.weights == pytest.approx(library.coef_.T, abs=3e-4 / penalty)
    assert probe.gradient < 1e-6
    assert (probe.predict(x) == library.predict(z)).mean() > 0.995
    assert probe.score(x, labels) == (probe.predict(x) == labels).mean() > 0.4


def test_regression_is_ridge(rng):
    x, _ = topics(rng)
    target = x @ (rng.standard_normal(20) / x.std(0)) + rng.standard_normal(300) + 40
    probe = fit_probe(x[:200], target[:200], "regression", penalty=3.0)
    z = (x[:200] - x[:200].mean(0)) / x[:200].std(0)
    library = Ridge(alpha=3.0).fit(z, target[:200])
    assert probe.weights[:, 0] == pytest.approx(library.coef_, abs=1e-8)
    held_out = (x[200:] - x[:200].mean(0)) / x[:200].std(0)
    assert probe.score(x[200:], target[200:]) == pytest.approx(library.score(held_out, target[200:]))
    assert probe.score(x[200:], np.arange(100.0)) < 0.5


def test_a_frozen_probe_transfers_only_between_aligned_models(rng):
    x, labels = topics(rng, n=600, noise=0.5)
    x[:, :2] /= 1000
    probe = fit_probe(x, labels, "classification")
    rotated = x @ np.linalg.qr(rng.standard_normal((20, 20)))[0]
    assert probe.score(x + 1e-3 * rng.standard_normal(x.shape), labels) == probe.score(x, labels) > 0.95
    assert fit_probe(rotated, labels, "classification").score(rotated, labels) > 0.95
    assert probe.score(rotated, labels) < 0.8


def test_all_layers_equal_one_by_one(rng):
    x, labels = topics(rng)
    layers = [x, x + 0.3 * x.std(0) * rng.standard_normal(x.shape), x[:, :9]]
    together = fit_probes(layers, labels, "classification")
    for layer, probe in zip(layers, together, strict=True):
        alone = fit_probe(layer, labels, "classification")
        assert probe.objective == pytest.approx(alone.objective, rel=1e-8)
        assert probe.weights == pytest.approx(alone.weights, abs=1e-3)


def test_constant_dimensions_have_no_weight(rng):
    x, labels = topics(rng)
    x[:, 5] = 0.1
    for task, y in (("classification", labels), ("regression", x[:, 7])):
        probe = fit_probe(x.astype(np.float32), y, task)
        assert probe.weights[5] == pytest.approx(0, abs=1e-12)
        assert np.isfinite(probe.score(x, y))


def test_more_dimensions_than_texts(rng):
    x, labels = topics(rng, n=60, d=150)
    probe = fit_probe(x, labels, "classification")
    assert probe.gradient < 1e-6 and probe.score(x, labels) > 0.95


def test_refused(rng):
    x, labels = topics(rng)
    with pytest.raises(ValueError, match="two classes"):
        fit_probe(x, np.zeros(300), "classification")
    with pytest.raises(ValueError, match=r"\(300,\) for features of 300 texts, got \(299,\)"):
        fit_probe(x, labels[:-1], "classification")
    with pytest.raises(ValueError, match="'ranking'"):
        fit_probe(x, labels, "ranking")
    with pytest.raises(ValueError, match="penalty > 0"):
        fit_probe(x, labels, "classification", penalty=0)
    with pytest.raises(ValueError, match=r"labels\[3\]"):
        fit_probe(x, np.where(np.arange(300) == 3, np.nan, 1.0), "regression")
    probe = fit_probe(x, np.arange(300), "regression")
    with pytest.raises(ValueError, match=r"\(n, 20\) as fitted, got \(300, 7\)"):
        probe.score(x[:, :7], np.arange(300))
    with pytest.raises(ValueError, match="R\\^2 is undefined"):
        probe.score(x, np.ones(300))
