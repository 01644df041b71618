"""Fixtures of all tests."""

import atexit
import contextlib
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import smoke
from browser import chromium
from hub import serving
from hypothesis import given
from hypothesis.strategies import just

from hrsa.study.runtime import spare_collector

spare_collector()
SEED = int(os.environ.setdefault("HRSA_TEST_SEED", str(np.random.SeedSequence().entropy % 2**32)))

# The hub's clients read where it is when they are imported: for every test it is on loopback, with a cache of its own.
_OPEN = contextlib.ExitStack()
atexit.register(_OPEN.close)
HUB = _OPEN.enter_context(serving())
os.environ |= {"HF_ENDPOINT": HUB.endpoint, "HF_HOME": _OPEN.enter_context(tempfile.TemporaryDirectory())}


def pytest_report_header():
    return f"random inputs from HRSA_TEST_SEED={SEED}"


def pytest_collection_modifyitems(items):
    """The smoke study first: it takes longest, and the other worker has the rest."""
    items.sort(key=lambda item: item.path.stem != "test_pipeline")


@given(just(0))
def _nothing(_):
    """A test by hypothesis."""


def pytest_collection_finish():
    _nothing()  # it registers its generators, and asks the collector who holds them
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _libraries_stay():
    """What libraries make when they are imported is not looked through at the end of every training."""
    before = len(sys.modules)
    yield
    if len(sys.modules) > before + 50:
        gc.collect()
        gc.freeze()


@pytest.fixture
def rng():
    """A fresh generator from the seed that the report header prints."""
    return np.random.default_rng(SEED)


@pytest.fixture
def hub():
    """The hub on loopback that the clients of this process ask, empty, and nothing of it fetched before."""
    HUB.repositories.clear()
    HUB.asked.clear()
    for kept in Path(os.environ["HF_HOME"]).iterdir():
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    return HUB


@pytest.fixture(scope="session")
def _smoke(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    return smoke.run_once(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder, SEED)


@pytest.fixture(scope="session")
def study(_smoke):
    """The finished smoke study, to be worked on by one module of tests."""
    return _smoke[0]


@pytest.fixture(scope="session")
def report(_smoke):
    """The report of the smoke study, to be read by any test."""
    return _smoke[1]


@pytest.fixture(scope="session")
def browser():
    """One headless Chromium for all tests of pages."""
    with chromium() as driver:
        yield driver
