"""The metrics of two arrays: what they claim to be invariant to, float64 references, hand-worked cases, errors."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from test_similarity_knn import plain_neighbours

from hrsa.similarity import METRIC_FAMILIES, METRICS, ON_REQUEST, compare_arrays, compare_layers, open_states, shown_k
from hrsa.similarity.correlation import dimension_correlation
from hrsa.similarity.metrics import CHANGES, KS, Metric
from hrsa.similarity.procrustes import compare_rotation, inverse_row_entropy, orthogonal_map
from hrsa.similarity.states import Layer

NAMES = [name for name in METRICS if not METRICS[name].has_k]
NAMES += [f"{name}{k}" for name in METRICS if METRICS[name].has_k for k in KS]


def measured(name, x, y):
    """The value that the study gets, of a metric of the registry; "knn10" is knn with k = 10."""
    key = name.rstrip("0123456789")
    return compare_arrays(x, y, key, int(name[len(key):]) if key != name else None)


def registered(name):
    return METRICS[name.rstrip("0123456789")]


def correlations(x, y):
    return dimension_correlation(open_states([x], "x"), open_states([y], "y"))


def states(rng, n, d, huge=3):
    """Transformer-like: a common mean, a few dimensions a thousand times larger than the rest, massive first tokens."""
    x = rng.standard_normal((n, d)) * rng.uniform(0.5, 2, d) + rng.standard_normal(d)
    x[:, rng.choice(d, min(huge, d), replace=False)] *= 1000
    x[:: max(2, n // 4)] *= 30
    return x


def related(rng, n, d, noise=0.3):
    """Two arrays that share most of what they hold, dimension by dimension."""
    x, y = states(rng, n, d), states(rng, n, d)
    return x, (1 - noise) * x + noise * y


def change(kind, y, rng):
    d = y.shape[1]
    if kind == "rotation":
        return y @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    if kind == "scale":
        return y * rng.uniform(3, 30)
    if kind == "shift":
        return y + 3 * np.abs(y).max() * rng.standard_normal(d)
    return y[:, np.roll(np.arange(d), 1)]


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_invariances_are_as_declared(name, kind, rng):
    x = rng.standard_normal((150, 12)) * rng.uniform(0.5, 3, 12) + rng.standard_normal(12)
    y = x + 0.3 * rng.standard_normal((150, 12))
    before, after = measured(name, x, y), measured(name, x, change(kind, y, rng))
    if kind in registered(name).invariant:
        assert after == pytest.approx(before, abs=1e-6)
    else:
        assert abs(after - before) > 0.02


@pytest.mark.parametrize("name", NAMES)
def test_identity_range_and_symmetry(name, rng):
    metric = registered(name)
    x, y = related(rng, 150, 12)
    rounding = 1e-3 if name == "angular_distance" else 1e-6  # the arc cosine of nearly 1 is steep
    assert measured(name, x, x) == pytest.approx(metric.identical, abs=rounding)
    for other in (y, states(rng, 150, 12)):
        assert metric.low - 1e-12 <= measured(name, x, other) <= metric.high + 1e-12
    if metric.symmetric:
        assert measured(name, y, x) == pytest.approx(measured(name, x, y), abs=1e-6)
    if not metric.same_width:
        assert np.isfinite(measured(name, x, y[:, :7]))
    else:
        with pytest.raises(ValueError, match=r"equal widths .*\[12\] and \[7\]"):
            measured(name, x, y[:, :7])


@pytest.mark.parametrize("name", NAMES)
def test_direction_says_which_way_is_more_alike(name, rng):
    x, y = related(rng, 200, 12, noise=0.5)
    if name == "svcca":  # sees the directions that are kept, and hardly how much lies in each
        x, y = rng.normal(size=(2, 200, 12))
    nearer = 0.5 * x + 0.5 * y
    assert registered(name).sign * (measured(name, x, nearer) - measured(name, x, y)) > 0


def test_registry_is_whole_and_refuses_unknown_changes():
    assert [key for family in METRIC_FAMILIES.values() for key in family] + list(ON_REQUEST) == list(METRICS)
    assert len({metric.name for metric in METRICS.values()}) == len(METRICS)
    for metric in METRICS.values():
        assert metric.low <= metric.identical <= metric.high
        assert metric.axis is None or metric.low <= metric.axis[0] < metric.axis[1] <= metric.high
    with pytest.raises(ValueError, match=r"expected invariances of CKA among .*'mirror'"):
        Metric("CKA", 0, 1, "up", None, "viridis", "cka", frozenset({"mirror"}), 1, True, False, "")


def test_one_rule_picks_the_k_that_is_shown():
    assert [shown_k(ks) for ks in (KS, (3, 5), (50, 100), (15, 5), (7,))] == [10, 5, 50, 5, 7]
    with pytest.raises(ValueError, match="at least one number of neighbours"):
        shown_k([])


def hsic_u(k, m):
    """Song et al. 2012, eq. 4, from Gram matrices without their diagonals."""
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    n = len(k)
    return (np.sum(k * m) + k.sum() * m.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * k.sum(0) @ m.sum(0)) / n / (n - 3)


def places(values):
    """Places (n,) of values in their order; those that differ by rounding alone share one."""
    order, found = np.argsort(values), np.empty(len(values))
    found[order] = np.cumsum(np.diff(values[order], prepend=values[order[0]]) > 1e-13)
    return found


def reference(name, x, y):
    """Each metric written down plainly in float64 from its definition."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    n = len(x)
    if name.startswith("knn"):
        k = int(name[3:])
        pairs = zip(plain_neighbours(x, k), plain_neighbours(y, k), strict=True)
        return np.mean([len({*a} & {*b}) / len({*a} | {*b}) for a, b in pairs])
    if name.startswith(("mutual_knn", "cknna")):
        k = int(name.removeprefix("mutual_knn").removeprefix("cknna"))
        near = [plain_neighbours(part, k) for part in (x, y)]
        if name.startswith("mutual"):
            return np.mean([len({*a} & {*b}) / k for a, b in zip(*near, strict=True)])
        grams = [unit @ unit.T for unit in (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))]
        one, two = (gram - gram.mean(axis=1, keepdims=True) for gram in grams)
        masks = [np.zeros((n, n)) for _ in near]
        for mask, found in zip(masks, near, strict=True):
            np.put_along_axis(mask, found, 1.0, axis=1)
        return np.sum(masks[0] * masks[1] * one * two) / np.sqrt(np.sum(masks[0] * one**2) * np.sum(masks[1] * two**2))
    if name == "rsa":
        cosines = [unit @ unit.T for unit in (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))]
        return spearmanr(*(places(cosine[np.triu_indices(n, 1)]) for cosine in cosines)).statistic
    if name == "debiased_cka":
        k, m = x @ x.T, y @ y.T
        return hsic_u(k, m) / np.sqrt(hsic_u(k, k) * hsic_u(m, m))
    xc, yc = x - x.mean(0), y - y.mean(0)
    if name == "correlation":
        return np.mean([np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(x.shape[1])])
    if name == "cka":
        h = np.eye(n) - 1 / n
        k, m = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h
        return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    if name == "svcca":
        bases = []
        for part in (xc, yc):
            u, s, _ = np.linalg.svd(part, full_matrices=False)
            bases.append(u[:, : np.argmax(np.cumsum(s**2) / np.sum(s**2) >= 0.99) + 1])
        return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()
    u, s, vt = np.linalg.svd(xc.T @ yc, full_matrices=False)
    o = u @ vt
    moved = xc @ o
    return {
        "inverse_row_entropy": 1 + np.mean(np.sum(o**2 * np.log(o**2 + 1e-300), axis=1)) / np.log(len(o)),
        "residual_ratio": np.sum((moved - yc) ** 2) / np.sum(yc**2),
        "mean_cosine": np.mean(np.sum(moved * yc, 1) / np.linalg.norm(moved, axis=1) / np.linalg.norm(yc, axis=1)),
        "angular_distance": np.arccos(s.sum() / np.linalg.norm(xc) / np.linalg.norm(yc)),
    }[name]


@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, (400, 60)) for name in NAMES]  # with n < d the map, its entropy and its cosines are not unique
    + [(name, (70, 200)) for name in NAMES if name not in ("inverse_row_entropy", "mean_cosine")],
)
def test_within_1e6_of_float64(name, shape, kind, rng):
    x, y = related(rng, *shape)
    x, y = (torch.from_numpy(v).to(getattr(torch, kind)) for v in (x, y))
    value = measured(name, x, y)
    expected = reference(name, x.double().numpy(), y.double().numpy())
    assert value == pytest.approx(expected, abs=1e-5 if name == "rsa" else 1e-6)  # angles by 2^20 steps: ranks may tie


@given(n=st.integers(60, 90), d=st.integers(2, 12), dtype=st.sampled_from(["float16", "float32", "float64", "int32"]),
       seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(n=60, d=2, dtype="int32", seed=4)  # many pairs of one angle, which rounding to 13 places told apart, and
@example(n=70, d=2, dtype="int32", seed=57948)  # pairs at 45 degrees, which lay where two steps meet
def test_any_shape_and_dtype(n, d, dtype, seed):
    rng = np.random.default_rng(seed)
    x = (5 * rng.standard_normal((n, d))).astype(dtype) + np.array(1, dtype)
    y = (x + 3 * rng.standard_normal((n, d))).astype(dtype)
    x[~x.any(axis=1)], y[~y.any(axis=1)] = 1, 1
    for name in ("cka", "debiased_cka", "correlation", "residual_ratio", "knn5", "knn50", "cknna5", "rsa"):
        got, expected = measured(name, x, y), reference(name, x, y)
        assert got == pytest.approx(expected, abs=1e-5 if name == "rsa" else 1e-6), name  # pairs within one step


def test_torch_numpy_and_lists_agree(rng):
    x, y = (v.astype(np.float32) for v in related(rng, 80, 6))
    for name in NAMES:
        here = measured(name, x, y)
        assert measured(name, torch.from_numpy(x), y) == measured(name, x, torch.from_numpy(y)) == here
        assert measured(name, x.astype(np.float64).tolist(), y) == pytest.approx(here, abs=1e-6)


def test_hand_worked():
    x = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert correlations(x, -x).tolist() == pytest.approx([-1, -1])
    swapped = x[:, ::-1]
    assert orthogonal_map(x.T @ swapped)[0] == pytest.approx(np.array([[0, 1], [1, 0]]))
    assert compare_rotation(Layer(x, "x"), Layer(swapped, "y")) == pytest.approx(
        {"inverse_row_entropy": 1, "residual_ratio": 0, "mean_cosine": 1, "angular_distance": 0}, abs=1e-7)
    assert inverse_row_entropy(np.array([[1, 1], [1, -1]]) / np.sqrt(2)) == pytest.approx(0)
    # one dimension kept, one dropped: Gram matrices x x' of rank 2 and 1, tr(KL) = 4, |K| = sqrt(8), |L| = 2
    assert measured("cka", x, x[:, :1]) == pytest.approx(4 / (np.sqrt(8) * 2))
    line = np.array([[1, 0], [1, 0.1], [1, 0.3], [1, 0.6], [1, 1.3]])
    # nearest by angle: 0-1, 1-0, 2-1, 3-2, 4-3; with row 4 moved to the other side of 0: 0-4, 4-0, rest as before
    moved = line.copy()
    moved[4] = [1, -0.05]
    assert measured("knn1", line, moved) == pytest.approx(3 / 5)
    assert measured("knn4", line, line) == 1.0
    assert measured("mutual_knn1", line, moved) == pytest.approx(3 / 5)


def test_measures_on_request_hand_worked():
    x = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    # cosines of the pairs 01 02 03 12 13 23 are 0 -1 0 0 -1 0; with rows 1 and 2 exchanged -1 0 0 0 0 -1: the ranks,
    # less their mean, are 1 -2 1 1 -2 1 and -2 1 1 1 1 -2, so that the correlation is (-2 -2 +1 +1 -2 -2) / 12
    assert measured("rsa", x, x[[0, 2, 1, 3]]) == pytest.approx(-6 / 12)
    # nearest of each by angle, the lower row where two are: 1 0 1 0; of the other model 2 2 0 0, one of which is shared
    assert measured("mutual_knn1", x, x[[0, 2, 1, 3]]) == 1 / 4
    # all are neighbours of all, and row sums of cosines vanish: -1 meets 0 in every row, so that CKNNA is 0 here, and
    # 4 / sqrt(4 * 4) of x with itself; the nearest one alone is at the mean of its row, where CKNNA is not defined
    assert np.isnan(measured("cknna1", x, x))
    assert measured("cknna3", x, x[[0, 2, 1, 3]]) == pytest.approx(0) and measured("cknna3", x, x) == pytest.approx(1)
    # two directions of equal variance, one of them shared: canonical correlations 1 and 0
    a, b, c = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1.0]])
    assert measured("svcca", np.stack([a, b], 1), np.stack([a, c], 1)) == pytest.approx(1 / 2)
    # what holds less than a hundredth of the variance is left out: one direction remains, and it is shared
    assert measured("svcca", np.stack([a, 0.05 * b], 1), np.stack([a, 0.05 * c], 1)) == pytest.approx(1)


def test_constant_dimensions_are_nan_and_counted(rng, caplog):
    x, y = related(rng, 50, 6)
    x[:, 2], y[:, 4] = 0.1, 1e6  # sums of .1 are not exact in floating point
    with caplog.at_level(logging.WARNING):
        rho = correlations(x.astype(np.float32), y.astype(np.float32))
    assert np.flatnonzero(np.isnan(rho)).tolist() == [2, 4]
    assert "2 of 6 dimensions" in caplog.text
    assert measured("correlation", x, y) == pytest.approx(np.delete(rho, [2, 4]).mean(), abs=1e-6)
    with caplog.at_level(logging.WARNING):
        assert np.isnan(measured("cka", np.ones((50, 6)), y))
    assert "no variance" in caplog.text


def test_wrong_input_is_refused(rng):
    x = rng.standard_normal((40, 6))
    for name in METRICS:
        with pytest.raises(ValueError, match=r"\[\(40, 6\)\] and \[\(39, 6\)\]"):
            compare_arrays(x, x[:-1], name)
        with pytest.raises(ValueError, match=r"got \(240,\)"):
            compare_arrays(x, x.ravel(), name)
        for bad in (np.nan, np.inf, -np.inf):
            y = x.copy()
            y[7, 3] = bad
            with pytest.raises(ValueError, match=r"at states_y\[0\]\[7, 3\]"):
                compare_arrays(x, y, name)
        with pytest.raises(ValueError, match="real numbers"):
            compare_arrays(x, x.astype(str), name)
    with pytest.raises(ValueError, match="at least 4 tokens"):
        compare_arrays(x[:3], x[:3], "debiased_cka")
    with pytest.raises(ValueError, match="at least 2 tokens"):
        compare_arrays(x[:1], x[:1], "mean_cosine")


def test_known_traps(rng):
    for n, published in ((512, 0.75), (1024, 0.60), (4096, 0.27)):
        gaussians = rng.standard_normal((2, 1, n, 1536), dtype=np.float32)
        biased, debiased = compare_layers(*gaussians, ("cka", "debiased_cka"))["value"]
        assert biased == pytest.approx(published, abs=0.01)
        assert abs(debiased) < 0.02
    x, y = rng.standard_normal((2, 1000, 64))
    huge = 100 * rng.standard_normal(1000)
    x[:, 0], y[:, 0] = huge, huge
    assert measured("cka", x, y) > 0.999 > 0.3 > measured("cka", x[:, 1:], y[:, 1:])
    one = x.copy()
    one[0] += 1e5 * rng.standard_normal(64)
    assert measured("cka", x, x) == pytest.approx(1) and measured("cka", x, one) < 0.1
    # directions are independent, a mean and the norms are shared
    size = np.exp(rng.standard_normal((300, 1)))
    a, b = (size * rng.standard_normal((300, 256)) + 10 for _ in "ab")
    assert measured("knn50", a, b) > 0.5
    assert measured("knn50", a - 10, b - 10) < 0.15


def test_map_of_unequal_widths_or_few_tokens_keeps_lengths(rng):
    for n, widths in ((30, (40, 40)), (300, (8, 6)), (300, (6, 8))):
        x, y = (rng.standard_normal((n, d)) for d in widths)
        rotation, singular = orthogonal_map((x - x.mean(0)).T @ (y - y.mean(0)))
        assert rotation.shape == widths and len(singular) == min(widths)
        square = rotation.T @ rotation if widths[0] >= widths[1] else rotation @ rotation.T
        assert square == pytest.approx(np.eye(min(widths)), abs=1e-9)
