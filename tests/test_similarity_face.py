import subprocess
import sys

import numpy as np
import pytest

import hrsa.similarity
from hrsa.similarity import linear_cka


def test_linear_cka_is_the_formula_and_what_it_claims_to_be_invariant_to(rng):
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 7))
    a, b = x - x.mean(0), y - y.mean(0)
    wanted = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(wanted, rel=1e-6)
    turned = y @ np.linalg.qr(rng.normal(size=(7, 7)))[0] * rng.uniform(0.1, 10) + rng.normal(size=7)
    for debiased in (False, True):
        assert linear_cka(x, turned, debiased) == pytest.approx(linear_cka(x, y, debiased), abs=1e-5)
        assert linear_cka(x, x, debiased) == pytest.approx(1)
    assert linear_cka(x, y, debiased=True) < linear_cka(x, y)


def test_linear_cka_refuses_what_it_cannot_compare(rng):
    with pytest.raises(ValueError, match="expected two arrays of the same 4 rows or more, got 9 and 8"):
        linear_cka(rng.normal(size=(9, 2)), rng.normal(size=(8, 2)))
    with pytest.raises(ValueError, match="got 3 and 3"):
        linear_cka(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)))
    with pytest.raises(ValueError, match="finite"):
        linear_cka(np.full((9, 2), np.nan), rng.normal(size=(9, 2)))


def test_the_face_gives_every_name_it_lists_and_loads_no_heavy_library_for_one():
    assert {name for name in hrsa.similarity.__all__ if not hasattr(hrsa.similarity, name)} == set()
    with pytest.raises(AttributeError, match="no attribute 'linear_kca': choose one of"):
        _ = hrsa.similarity.linear_kca
    code = "import sys; from hrsa.similarity import linear_cka; print(sorted({'torch', 'sklearn', 'transformers', " \
           "'matplotlib', 'mteb'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
