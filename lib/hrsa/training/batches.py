"""The batches of a training run: which triples each holds, its sampler and collator, and what triples must be like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

from hrsa.texts.hard_negatives import TRIPLE_COLUMNS
from hrsa.texts.suite import query_prompt
from hrsa.training import distributed
from hrsa.training.fingerprint import text_hash
from hrsa.training.infonce import text_id

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CUT = ("queries_cut", "passages_cut")  # texts that were longer than the model reads


def draw_batches(groups: np.ndarray, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Draw the rows of each batch, (steps, batch_size); the same arguments give the same batches.

    groups (rows,): group of each triple (its task and instruction). Every pass shuffles each group, cuts it into
    full batches of that group alone, leaves out the rest, and shuffles the batches of all groups; so groups come in
    proportion to their size and no triple comes twice in a pass. Raises ValueError when a group is smaller than a
    batch.

    >>> groups = np.array(["faq"] * 4 + ["code"] * 2)
    >>> batches = draw_batches(groups, batch_size=2, steps=3, seed=0)  # one pass
    >>> sorted(batches.ravel().tolist()), [len(set(groups[rows])) for rows in batches]
    ([0, 1, 2, 3, 4, 5], [1, 1, 1])
    """
    names, counts = np.unique(groups, return_counts=True)
    small = {str(n): int(c) for n, c in zip(names, counts, strict=True) if c < batch_size}
    if small or not len(groups):
        raise ValueError(f"expected at least batch_size={batch_size} triples of every task, got "
                         f"{small or 'no triples at all'}: lower recipe.batch_size, raise suite.max_pairs or leave "
                         "the task out")
    chance = np.random.default_rng([seed, batch_size])
    members = [np.flatnonzero(groups == name) for name in names]
    drawn: list[np.ndarray] = []
    while len(drawn) < steps:
        one_pass = []
        for rows in members:
            full = len(rows) // batch_size * batch_size
            one_pass += list(chance.permutation(rows)[:full].reshape(-1, batch_size))
        drawn += [one_pass[i] for i in chance.permutation(len(one_pass))]
    return np.stack(drawn[:steps])


def check_triples(triples: pd.DataFrame, negatives: int) -> None:
    """ValueError unless `triples` has all columns, no empty text, and at least `negatives` negatives in each row."""
    missing = [name for name in TRIPLE_COLUMNS if name not in triples]
    if missing:
        raise ValueError(f"expected columns {TRIPLE_COLUMNS}, got {list(triples.columns)}: add {missing}")
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


def shuffle_positives(triples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same triples with the queries of each task in another order, so that no query keeps its own passages.

    A positive stays with its hard negatives; `seed` fixes the order. The queries of a task move by at least one place:
    each gets another row's passages, which are its own only where two rows share a positive.
    """
    chance = np.random.default_rng([seed, len(triples)])
    queries = triples["query"].to_numpy(dtype=object).copy()  # (rows,)
    for rows in triples.reset_index(drop=True).groupby("task", sort=True).indices.values():
        order = chance.permutation(rows)
        queries[order] = triples["query"].to_numpy(dtype=object)[np.roll(order, 1)]
    return triples.assign(query=queries)


class FixedBatchSampler(DefaultBatchSampler):
    """A batch sampler that hands out given batches: (steps, b), rows of the data set."""

    def __init__(self, batches: np.ndarray):
        super().__init__(range(batches.size), batch_size=batches.shape[1], drop_last=True)
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches.tolist()

    def __len__(self) -> int:
        return len(self.batches)


class Collator:
    """Turns rows of one task into tokenised columns query, positive, negative_1 ... and labels for the loss.

    known: query -> identifiers of all its positives in the training set. Besides the columns a batch carries `rows`
    (hash of the texts of each row, in order) and `cut` (how many queries, and how many passages, were longer than the
    model's max_seq_length and lost tokens). A process sees its own share of the global batch.
    """

    valid_label_columns = ("label",)

    def __init__(self, model: SentenceTransformer, negatives: int, known: dict[str, list[int]]):
        self.model, self.negatives, self.known = model, negatives, known

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `rows`, which share one instruction."""
        columns = {"query": [row["query"] for row in rows], "positive": [row["positive"] for row in rows]}
        for i in range(self.negatives):
            columns[f"negative_{i + 1}"] = [row["negatives"][i] for row in rows]
        batch: dict[str, Any] = {}
        cut = [0, 0]  # queries, passages
        for name, texts in columns.items():
            prompt = query_prompt(rows[0]["instruction"]) if name == "query" else ""
            features = self.model.preprocess(texts, prompt=prompt or None)
            cut[name != "query"] += self._truncated(features["attention_mask"], texts, prompt)
            batch |= {f"{name}_{key}": value for key, value in features.items()}
        most = max(len(self.known[query]) for query in columns["query"])
        known = [ids + ids[:1] * (most - len(ids)) for ids in (self.known[query] for query in columns["query"])]
        ids = [[text_id(text) for text in texts] for texts in columns.values()]
        batch["label"] = {"ids": torch.tensor(ids).T, "known": torch.tensor(known)}  # (b, columns), (b, m)
        return batch | {"rows": [text_hash(texts) for texts in zip(*columns.values(), strict=True)], "cut": cut}

    def _truncated(self, mask: torch.Tensor, texts: list[str], prompt: str) -> int:
        """How many texts lost tokens: those that fill the limit are tokenised once more, without it."""
        limit = self.model.max_seq_length
        full = [prompt + texts[i] for i in (mask.sum(1) >= limit).nonzero().flatten().tolist()]
        if not full:
            return 0
        whole = self.model.tokenizer(full, truncation=False, padding=False, verbose=False)["input_ids"]
        return sum(len(ids) > limit for ids in whole)


def global_record(rows: list[str], cut: list[int], where: torch.device) -> dict[str, Any]:
    """What one step of all processes consumed: hash of its texts in order (`batch`), and how many were cut (`CUT`).

    rows: hash of each row of this process's share; cut: its `cut`. The same for any number of processes.
    """
    mine = torch.tensor([list(bytes.fromhex(row)) for row in rows], dtype=torch.uint8, device=where)  # (b, 32)
    everything = distributed.gathered(mine)[0].cpu().numpy()
    totals = distributed.summed(torch.tensor(cut, device=where)).tolist()
    return {"batch": text_hash(row.tobytes().hex() for row in everything), **dict(zip(CUT, totals, strict=True))}
