"""Batches by length: every text once, longest first, within the budget, none smaller than need be."""

import numpy as np

from hrsa.models.token_batches import token_batches


def test_token_batches_hold_every_text_once_within_the_budget(rng):
    lengths = rng.integers(1, 60, size=50)
    batches = token_batches(lengths, 128)
    longest_first = sorted(range(50), key=lambda i: -lengths[i])  # stable: texts of one length keep their order
    assert np.concatenate(batches).tolist() == longest_first
    for batch, after in zip(batches, [*batches[1:], [longest_first[-1]]], strict=True):
        assert len(batch) * lengths[batch].max() <= 128
        assert after[0] == longest_first[-1] or (len(batch) + 1) * lengths[batch].max() > 128
    assert [len(batch) for batch in token_batches(np.array([200, 300]), 128)] == [1, 1]
