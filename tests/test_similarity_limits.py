"""Bounds of a comparison: memory, threads, interruption, devices. The values are those of arrays compared in one go."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_similarity import reference

from hrsa.analysis import robustness
from hrsa.similarity import (
    METRICS,
    arrays,
    budget,
    cka,
    compare_arrays,
    compare_layers,
    fit_probe,
    knn,
    open_states,
    resampling,
)
from hrsa.similarity.feature import feature_sums
from hrsa.similarity.gram import gram_sums
from hrsa.similarity.states import Layer
from hrsa.study import partial

EVERY = (*METRICS, "correlation_undefined", "knn_tied")


def model(rng, layers, n, d):
    """States (l, n, d) float32: a few dimensions a thousand times larger, massive tokens, a constant dimension."""
    states = rng.standard_normal((n, d)) + np.cumsum(0.5 * rng.standard_normal((layers, n, d)), axis=0)
    states[:, :, :2] *= 1000
    states[:, ::50] *= 20
    states[:, :, 4] = 0.1
    return states.astype(np.float32)


def two_models(rng, layers=2, n=700, d=16):
    x = model(rng, layers, n, d)
    return x, (x + 0.5 * model(rng, layers, n, d)).astype(np.float32)


def same(a, b, **tolerance):
    """Equal tables but for rounding."""
    assert a.drop(columns=["value", "low", "high", "null"]).equals(b.drop(columns=["value", "low", "high", "null"]))
    for name in ("value", "low", "high", "null"):
        assert a[name].to_numpy() == pytest.approx(b[name].to_numpy(), nan_ok=True, **tolerance), name


@pytest.mark.parametrize("shape", [(2, 2000, 8), (3, 700, 90)], ids=["feature space", "Gram space"])
def test_any_budget_and_any_threads_give_the_same(shape, rng, monkeypatch):
    x, y = two_models(rng, *shape)
    expected = compare_layers(x, y, EVERY)
    monkeypatch.setattr(budget, "LEAST_MB", 0)
    monkeypatch.setattr("hrsa.similarity.layers.least_mb", lambda *_: (0.0, ""))  # of so few tokens in small blocks
    same(compare_layers(x, y, EVERY, memory_mb=0.5), expected, abs=1e-6)
    same(compare_layers(x, y, EVERY, threads=2), expected, abs=1e-9)
    with pytest.raises(ValueError, match="at least 1 thread"):
        compare_layers(x, y, threads=0)


@given(layers=st.tuples(st.integers(1, 3), st.integers(1, 3)), n=st.integers(12, 60),
       widths=st.tuples(st.integers(2, 9), st.integers(2, 9)), seed=st.integers(0, 2**32 - 1),
       kind=st.sampled_from(["bfloat16", "float16", "float32", "float64"]))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_layers_of_any_shape_and_dtype_equal_arrays_alone(layers, n, widths, seed, kind):
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.standard_normal((count, n, width)) + 0.5).to(getattr(torch, kind))
            for count, width in zip(layers, widths, strict=True))
    metrics, ks = ("cka", "debiased_cka", "residual_ratio", "knn"), (3,)
    table = compare_layers(x, y, metrics, ks=ks)
    for row in table.itertuples():
        expected = compare_arrays(x[row.layer_x], y[row.layer_y], row.metric, 3)
        assert row.value == pytest.approx(expected, abs=1e-6, nan_ok=True), row


def test_too_small_a_budget_is_refused(rng):
    x, y = two_models(rng)
    with pytest.raises(ValueError, match="memory_mb of at least 16, got 2"):
        compare_layers(x, y, memory_mb=2)


def test_what_no_block_can_do_without_is_said_before_anything_is_computed(rng, monkeypatch):
    x, y = two_models(rng, 1, 40, 800)
    asked = {"metrics": ("mean_cosine",), "layers": "matched"}
    least, what = budget.least_mb([800], [800], 40, ("mean_cosine",))
    assert what == "a map" and 16 < least < budget.MEMORY_MB
    with monkeypatch.context() as patch:
        patch.setattr("hrsa.similarity.rows.procrustes_rows", lambda job: pytest.fail("it was begun"))
        with pytest.raises(ValueError, match=rf"memory_mb of at least {int(least) + 1} for a map of layers 800 and"):
            compare_layers(x, y, memory_mb=int(least), **asked)
    same(compare_layers(x, y, memory_mb=int(least) + 1, **asked), compare_layers(x, y, **asked), abs=1e-9)
    assert budget.enough_mb(None, (9000.0, "a map"), "x") == 9000  # where no limit was set, none is in the way
    near, drawn = (budget.least_mb([8], [8], 10**5, ("knn",), 50, resamples)[0] for resamples in (0, 100))
    assert near < drawn and budget.least_mb([8], [8], 10**5, ("correlation",), 50)[0] == 0


def test_constant_dimensions_are_counted(rng):
    x, y = two_models(rng)
    y[0, :, 7] = 2
    counts = compare_layers(x, y, ("correlation_undefined",))
    assert counts["value"].tolist() == [2, 1, 2, 1]


def test_sample_of_tokens_for_neighbours(rng, monkeypatch):
    monkeypatch.setattr(knn, "MAX_TOKENS", 200)
    x, y = two_models(rng)
    rows = knn.sampled(700, 5)
    assert len(rows) == 200 and (np.diff(rows) > 0).all() and (rows != knn.sampled(700, 6)).any()
    options = {"texts": np.arange(700) // 7, "classes": np.zeros(700), "resamples": 10, "permutations": 2}
    table = compare_layers(x, y, ("knn", "cka"), sample_seed=5, rng=rng, **options)
    near = table[(table.metric == "knn") & (table.layer_x == 0)]
    alone = [compare_arrays(x[0][rows], y[0][rows], "knn", k) for k in (5, 10, 50)]
    assert near["value"].tolist() == pytest.approx(alone)
    assert set(near.n_tokens) == {200} and set(table[table.metric == "cka"].n_tokens) == {700}
    assert (near.low <= near["value"]).all() and (near.null < near["value"]).all()
    with pytest.raises(ValueError, match="at most 200 tokens"):
        knn.neighbours(Layer(x[0], "x"))


def test_massive_tokens_do_not_cancel(rng):
    x = rng.standard_normal((900, 40))
    y = x + 0.5 * rng.standard_normal((900, 40))
    x[3] *= 100
    y[3] *= 100
    for kind in (gram_space, feature_space):
        sums = kind(open_states(x[None], "x"), open_states(y[None], "y"))
        assert sums.cka(debiased=True).item() == pytest.approx(reference("debiased_cka", x, y), abs=1e-6)
        assert sums.cka().item() == pytest.approx(reference("cka", x, y), abs=1e-6)


def gram_space(x, y):
    return cka.PairSums(**gram_sums([*x.layers, *y.layers], x.n, budget.Limits()), l_x=1, n=x.n)


def feature_space(x, y):
    return cka.PairSums(**feature_sums(x.layers, y.layers, x.n, budget.Limits()), l_x=1, n=x.n)


COMPARISON = """
import sys, time
from pathlib import Path
import numpy as np
from hrsa.similarity import compare_layers
from hrsa.study import partial as work
work.SAVE_SECONDS = 0.0
folder, slow = Path(sys.argv[1]), float(sys.argv[2])
saving, counts = work.Work.save, {}
def save(self, name, blocks, total, last):
    saving(self, name, blocks, total, last)
    counts[name] = counts.get(name, 0) + 1
    time.sleep(slow)
work.Work.save = save
files = [[np.load(folder / f"{m}-{i}.npy", mmap_mode="r") for i in range(2)] for m in "xy"]
table = compare_layers(*files, work=folder / "work", memory_mb=16)
table.to_parquet(folder / "table.parquet")
print(counts)
"""


def test_a_killed_comparison_goes_on_at_its_last_block(rng, tmp_path):
    x, y = two_models(rng, 2, 3000, 40)
    for name, states in (("x", x), ("y", y)):
        for i in range(2):
            np.save(tmp_path / f"{name}-{i}.npy", states[i])
    script = tmp_path / "comparison.py"
    script.write_text(textwrap.dedent(COMPARISON), encoding="utf8")
    command = [sys.executable, str(script), str(tmp_path)]
    running = subprocess.Popen([*command, "0.4"], start_new_session=True)
    until = time.monotonic() + 400  # on a machine that does much else
    while len(list((tmp_path / "work").rglob("*.safetensors"))) < 2:
        assert time.monotonic() < until and running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "table.parquet").exists()
    done = {file.stem for file in (tmp_path / "work").rglob("*.safetensors")}
    again = subprocess.run([*command, "0"], check=True, capture_output=True, text=True).stdout
    counts = json.loads(again.strip().replace("'", '"'))
    assert "correlation" in done and "correlation" not in counts  # finished before the kill: not touched again
    assert not any((tmp_path / "work").iterdir())
    same(pd.read_parquet(tmp_path / "table.parquet"), compare_layers(x, y, memory_mb=16), abs=1e-12)


def test_partial_results_belong_to_their_states_and_settings(rng, tmp_path, monkeypatch):
    x, y = two_models(rng)
    monkeypatch.setattr(partial, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(partial.Work, "finish", lambda self: None)
    first = compare_layers(x, y, work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert compare_layers(x, y, work=tmp_path).equals(first)
    assert len(list(tmp_path.iterdir())) == 1
    compare_layers(x + 1, y, work=tmp_path)
    compare_layers(x, y, ks=(3,), work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    for file in tmp_path.rglob("correlation.safetensors"):
        file.write_bytes(b"not a tensor file")
    with pytest.raises(ValueError, match=r"broken file.*delete it"):
        compare_layers(x, y, work=tmp_path)


@pytest.fixture
def elsewhere(monkeypatch):
    """Tensors in main memory are treated as those of an accelerator: the device's kernels run on them.

    And like those they refuse to become arrays, unless they are brought to the host first.
    """
    def refuse(self, *_, **__):
        raise TypeError("can't convert a tensor of a device to numpy: bring it to the host first")

    def numpy_of(self, *_, **__):
        return told(self) if sys._getframe(1).f_code is arrays.to_numpy.__code__ else refuse(self)

    told = torch.Tensor.numpy
    monkeypatch.setattr(torch.Tensor, "__array__", refuse)
    monkeypatch.setattr(torch.Tensor, "numpy", numpy_of)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("hrsa.similarity") and hasattr(module, "on_accelerator"):
            monkeypatch.setattr(module, "on_accelerator", arrays.is_tensor)


def test_tensors_on_a_device_stay_there_and_give_the_same(rng, elsewhere):
    x, y = two_models(rng, 2, 400, 40)
    tensors = [torch.from_numpy(states) for states in (x, y)]
    same(compare_layers(*tensors, EVERY), compare_layers(x, y, EVERY), abs=1e-5)
    small = two_models(rng, 2, 2500, 8)
    same(compare_layers(*map(torch.from_numpy, small), ("cka", "debiased_cka")),
         compare_layers(*small, ("cka", "debiased_cka")), abs=1e-5)
    for name in METRICS:
        here, there = compare_arrays(x[0], y[0], name), compare_arrays(tensors[0][0], tensors[1][0], name)
        assert there == pytest.approx(here, abs=1e-5), name
    with pytest.raises(ValueError, match="cpu and main memory"):
        compare_arrays(tensors[0][0], y[0], "cka")
    tensors[0][1, 30, 2] = torch.inf
    with pytest.raises(ValueError, match=r"states_x\[1\]\[30, 2\]"):
        compare_layers(*tensors)


def test_intervals_and_nulls_on_a_device(rng, elsewhere):
    x, y = two_models(rng, 2, 400, 24)
    texts, classes = np.arange(400) // 8, np.arange(400) % 8 // 4
    options = {"resamples": 6, "permutations": 2}
    here = compare_layers(x, y, EVERY, texts=texts, classes=classes, rng=np.random.default_rng(1), **options)
    there = compare_layers(torch.from_numpy(x), torch.from_numpy(y), EVERY, texts=torch.from_numpy(texts),
                           classes=torch.from_numpy(classes), rng=np.random.default_rng(1), **options)
    same(there, here, abs=1e-4)


def test_twins_and_attacks_of_tensors_on_a_device(rng, elsewhere):
    x, y = two_models(rng, 1, 200, 8)
    x, y, ids = x[0], y[0], rng.integers(0, 30, 200)
    near = [torch.from_numpy(x), torch.from_numpy(y)]
    for made in (lambda a, b, i: robustness.twins(a, b, i, np.random.default_rng(2)).values(),
                 lambda a, b, _: [variant for *_, variant in robustness.attacks(a, b, np.random.default_rng(2))]):
        for ours, theirs in zip(made(*near, torch.from_numpy(ids)), made(x, y, ids), strict=True):
            assert all((p == q).all() for p, q in zip(ours, theirs, strict=True))
    assert (resampling.text_weights(torch.from_numpy(ids), 3, np.random.default_rng(4))
            == resampling.text_weights(ids, 3, np.random.default_rng(4))).all()
    half = robustness.twins(*(part.bfloat16() for part in near), ids, rng)["as recorded"]
    assert (half.x == near[0].bfloat16().double().tolist()).all()


def test_probes_of_tensors_on_a_device(rng, elsewhere):
    x, _ = two_models(rng, 1, 120, 10)
    labels = rng.integers(0, 3, 120)
    for task, target in (("classification", labels), ("regression", labels + 0.5)):
        there, here = (fit_probe(form, target, task) for form in (torch.from_numpy(x[0]), x[0]))
        assert (there.predict(x[0]) == here.predict(x[0])).all()
