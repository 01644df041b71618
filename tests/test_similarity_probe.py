"""Probes: at the optimum, frozen, refused where there is none."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge

from hrsa.similarity import fit_probe, probe


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


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_classification_reaches_the_optimum(penalty, classes, rng):
    """No entry of the gradient of the sum of losses + penalty / 2 |weights|^2 is left, one weight vector a class."""
    x, labels = topics(rng, classes=classes)
    probe = fit_probe(x, labels, "classification", penalty)
    z = (x - x.mean(0)) / x.std(0)
    weights, intercept = probe[-1].coef_.T, probe[-1].intercept_
    if classes == 2:
        weights, intercept = np.hstack([-weights, weights]) / 2, np.r_[-intercept, intercept] / 2
    left = np.exp(z @ weights + intercept - (z @ weights + intercept).max(axis=1, keepdims=True))
    left /= left.sum(axis=1, keepdims=True)
    left -= np.unique(labels)[None] == labels[:, None]
    assert np.abs(z.T @ left + penalty * weights).max() / len(z) < 2e-5
    assert np.abs(left.sum(axis=0)).max() / len(z) < 2e-5
    found = objective(weights, intercept, z, labels, penalty)
    for _ in range(20):
        nearby = weights + 1e-2 * rng.standard_normal(weights.shape) / np.sqrt(weights.size)
        assert objective(nearby, intercept, z, labels, penalty) > found - 1e-6
    assert (probe.predict(x) == np.unique(labels)[(z @ weights + intercept).argmax(axis=1)]).all()
    assert probe.score(x, labels) > 0.4


def test_regression_is_ridge(rng):
    x, _ = topics(rng)
    target = x @ (rng.standard_normal(20) / x.std(0)) + rng.standard_normal(300) + 40
    probe = fit_probe(x[:200], target[:200], "regression", penalty=3.0)
    z = (x[:200] - x[:200].mean(0)) / x[:200].std(0)
    library = Ridge(alpha=3.0).fit(z, target[:200])
    assert probe[-1].coef_ == pytest.approx(library.coef_, abs=1e-8)
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


def test_constant_dimensions_have_no_weight(rng):
    x, labels = topics(rng)
    x[:, 5] = 0.1
    for task, y in (("classification", labels), ("regression", x[:, 7])):
        probe = fit_probe(x.astype(np.float32), y, task)
        assert probe[-1].coef_[..., 5] == pytest.approx(0, abs=1e-12)
        assert np.isfinite(probe.score(x, y))


def test_more_dimensions_than_texts(rng):
    x, labels = topics(rng, n=60, d=150)
    probe = fit_probe(x, labels, "classification")
    assert probe.score(x, labels) > 0.95


def test_refused(rng):
    x, labels = topics(rng)
    with pytest.raises(ValueError, match="two classes"):
        fit_probe(x, np.zeros(300), "classification")
    with pytest.raises(ValueError, match=r"\(300,\) for features of 300 texts, got \(299,\)"):
        fit_probe(x, labels[:-1], "classification")
    with pytest.raises(ValueError, match="'ranking'"):
        fit_probe(x, labels, "ranking")
    with pytest.raises(ValueError, match="expected a penalty above 0"):
        fit_probe(x, labels, "classification", penalty=0)
    with pytest.raises(ValueError, match=r"labels\[3\]"):
        fit_probe(x, np.where(np.arange(300) == 3, np.nan, 1.0), "regression")
    with pytest.raises(ValueError, match="7 features, but StandardScaler is expecting 20"):
        fit_probe(x, np.arange(300), "regression").predict(x[:, :7])


def test_an_optimum_that_is_not_reached_is_no_probe(rng, monkeypatch):
    x, labels = topics(rng)
    monkeypatch.setattr(probe, "_STEPS", 2)
    with pytest.warns(ConvergenceWarning), pytest.raises(RuntimeError, match="raise the penalty"):
        fit_probe(x, labels, "classification", 0.01)


@pytest.mark.parametrize("labels", [[0, 1, np.nan, 1], ["a", "b", None, "b"]])
def test_a_probe_refuses_texts_without_a_class(rng, labels):
    with pytest.raises(ValueError, match=r"expected a class for every text, got .* at labels\[2\]"):
        fit_probe(rng.normal(size=(4, 2)), np.array(labels, dtype=object if "a" in labels else float), "classification")
