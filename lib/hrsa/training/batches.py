"""Which triples make which batch, and what triples must be like to train on."""

from __future__ import annotations

import numpy as np
import pandas as pd

COLUMNS = ["task", "instruction", "query", "positive", "negatives"]


def batches(groups: np.ndarray, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Rows of each batch, (steps, batch_size): a pure function of its arguments.

    groups (rows,): group of each triple (its task and instruction). Every pass shuffles each group, cuts it into
    full batches of that group alone, leaves out the rest, and shuffles the batches of all groups; so groups come in
    proportion to their size and no triple comes twice in a pass. Raises ValueError when a group is smaller than a
    batch.
    """
    names, counts = np.unique(groups, return_counts=True)
    small = {str(n): int(c) for n, c in zip(names, counts, strict=True) if c < batch_size}
    if small or not len(groups):
        raise ValueError(f"expected at least batch_size={batch_size} triples of every task, got "
                         f"{small or 'no triples at all'}: lower recipe.batch_size, raise suite.max_pairs or leave "
                         "the task out")
    chance = np.random.default_rng([seed, batch_size])
    members = [np.flatnonzero(groups == name) for name in names]
    order: list[np.ndarray] = []
    while len(order) < steps:
        one_pass = []
        for rows in members:
            full = len(rows) // batch_size * batch_size
            one_pass += list(chance.permutation(rows)[:full].reshape(-1, batch_size))
        order += [one_pass[i] for i in chance.permutation(len(one_pass))]
    return np.stack(order[:steps])


def check_triples(triples: pd.DataFrame, negatives: int) -> None:
    """ValueError unless `triples` has all columns, no empty text, and at least `negatives` negatives in each row."""
    missing = [name for name in COLUMNS if name not in triples]
    if missing:
        raise ValueError(f"expected columns {COLUMNS}, got {list(triples.columns)}: add {missing}")
    for name in ("query", "positive"):
        empty = triples.index[triples[name].str.strip() == ""]
        if len(empty):
            raise ValueError(f"expected text in column {name}, got {len(empty)} empty ones, first in row {empty[0]}: "
                             "remove these rows")
    counts = triples["negatives"].map(len)
    if (counts < negatives).any():
        raise ValueError(f"expected {negatives} hard negatives in every triple, got fewer in "
                         f"{int((counts < negatives).sum())} of {len(triples)} rows: lower recipe.hard_negatives or "
                         "mine from a larger corpus")
