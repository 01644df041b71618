"""The shape of states: hand-worked clouds, resamples against their tokens, the table of a recording."""

import numpy as np
import pytest
from test_pairs import record

from hrsa.analysis import manifold
from hrsa.similarity import resampling

MEASURES = (manifold.two_nn, manifold.participation_ratio, manifold.anisotropy, manifold.massive_activation)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_cube_has_its_dimension_wherever_it_lies(d, rng):
    cube = rng.uniform(size=(3000, d)) @ np.linalg.qr(rng.standard_normal((20, d)))[0].T + 5
    assert manifold.two_nn(cube).item() == pytest.approx(d, rel=0.12)
    assert manifold.participation_ratio(cube).item() == pytest.approx(d, rel=0.05)


def test_hand_worked_dimensions():
    line = np.array([[0.0], [1], [3], [7]])  # nearest two: 1 3, 1 2, 2 3, 4 6
    expected = 4 / np.log([3, 2, 3 / 2, 6 / 4]).sum()
    assert manifold.two_nn(line).item() == pytest.approx(expected)
    assert manifold.two_nn(np.vstack([line, line])).item() == pytest.approx(expected)  # equal states count once
    assert np.isnan(manifold.two_nn(line[:2]).item())
    cross = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])  # variances 2 and 1/2
    assert manifold.participation_ratio(cross + 3).item() == pytest.approx(2.5**2 / (4 + 0.25))
    assert np.isnan(manifold.participation_ratio(np.ones((5, 3))).item())


def test_hand_worked_anisotropy_and_massive_activations(rng):
    corner = np.array([[1.0, 0], [0, 2], [3, 3]])  # cosines 0, sqrt(1/2), sqrt(1/2)
    assert manifold.anisotropy(corner).item() == pytest.approx(np.sqrt(2) / 3)
    assert abs(manifold.anisotropy(rng.standard_normal((2000, 64))).item()) < 0.01
    assert manifold.anisotropy(rng.standard_normal((2000, 64)) + 50).item() > 0.99
    assert manifold.massive_activation(np.array([[1.0, -2], [3, -900]])).item() == pytest.approx(900 / 2.5)
    with pytest.raises(ValueError, match="zero row at 1"):
        manifold.anisotropy(np.array([[1.0], [0]]))


def test_resamples_are_of_the_tokens_drawn(rng):
    x = rng.standard_normal((90, 6)) * np.arange(1, 7) + 2
    weights = resampling.text_weights(np.repeat(np.arange(15), 6), 3, rng)
    for r, w in enumerate(weights.T):
        again = x[np.repeat(np.arange(90), w)]
        variances = np.linalg.eigvalsh(np.cov(again.T, bias=True))
        expected = variances.sum() ** 2 / np.square(variances).sum()
        assert manifold.participation_ratio(x, weights)[r] == pytest.approx(expected)
        assert manifold.massive_activation(x, weights)[r] == pytest.approx(np.abs(again).max() / np.median(np.abs(x)))
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        pairs = np.triu(np.outer(w, w), 1)
        assert manifold.anisotropy(x, weights)[r] == pytest.approx(np.sum(pairs * (unit @ unit.T)) / pairs.sum())
    for measure in MEASURES:
        assert measure(x, np.ones((90, 2))) == pytest.approx(np.repeat(measure(x), 2))


def test_the_table_of_a_recording_has_intervals_over_texts(tmp_path, rng):
    table = manifold.shape_table(record(tmp_path, rng, "a"), 12)
    assert list(table.columns) == manifold.SHAPE_COLUMNS and set(table["shape"]) == set(manifold.SHAPES)
    assert table.groupby("shape").size().eq(4).all() and list(table["layer"].unique()) == ["0", "1", "2", "2+norm"]
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert manifold.shape_table(record(tmp_path, rng, "b"), 0)[["low", "high"]].isna().all(axis=None)
