"""Batches of texts of like length, so that padding is small and a forward pass stays within a number of tokens."""

from __future__ import annotations

import numpy as np


def token_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Positions of texts in batches whose padded size (texts x longest) is at most `budget` tokens, longest first.

    lengths (n,): tokens of each text; texts of one length keep their order. A text longer than the budget makes a batch
    of its own. Returns position arrays (b,), int64.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")  # (n,)
    batches, begin = [], 0
    while begin < len(order):
        count = max(1, budget // max(1, int(lengths[order[begin]])))
        batches.append(order[begin : begin + count])
        begin += count
    return batches
