"""Fixtures of all tests."""

import os

import numpy as np
import pytest
from browser import chromium

SEED = int(os.environ.setdefault("HRSA_TEST_SEED", str(np.random.SeedSequence().entropy % 2**32)))


def pytest_report_header():
    return f"random inputs from HRSA_TEST_SEED={SEED}"


def pytest_collection_modifyitems(items):
    """The smoke study first: it takes longest, and the other worker has the rest."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)


@pytest.fixture
def rng():
    """A fresh generator from the seed that the report header prints."""
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def browser():
    """One headless Chromium for all tests of pages."""
    with chromium() as driver:
        yield driver
