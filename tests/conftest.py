"""Fixtures of all tests."""

import os

import numpy as np
import pytest
from browser import chromium

SEED = int(os.environ.get("HRSA_TEST_SEED", np.random.SeedSequence().entropy % 2**32))


def pytest_report_header():
    return f"random inputs from HRSA_TEST_SEED={SEED}"


@pytest.fixture
def rng():
    """A fresh generator from the seed that the report header prints."""
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def browser():
    """One headless Chromium for all tests of pages."""
    with chromium() as driver:
        yield driver
