"""The gradient cache's mini-batches: forward passes of bounded size, and what it takes to run one again exactly.

Texts are sorted by length before they are cut, so that padding is small; equal texts are embedded once. Letters: n
texts, k distinct texts, b rows of a batch, t sequence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hrsa.models.token_batches import token_batches

Features = dict[str, Any]


class Moment:
    """Random state and precision of a forward pass, to run it again exactly."""

    def __init__(self, device: torch.device):
        self.device, self.cpu = device, torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self.autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, random numbers and precision are those of that pass; outside, nothing changes."""
        enabled, dtype = self.autocast
        with (torch.random.fork_rng([self.device] if self.cuda is not None else []),
              torch.autocast(self.device.type, dtype, enabled)):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


@dataclass
class MiniBatch:
    """A mini-batch of the gradient cache: texts embedded in one forward pass."""

    texts: Tensor  # positions among the k distinct texts
    features: Features
    tokens: int  # padding included
    moment: Moment | None = None
    kept: Tensor | None = None  # embeddings with their graph


def blank(mini_batch: MiniBatch) -> MiniBatch:
    """A pass over the last, shortest text of `mini_batch` whose embedding is thrown away: it counts for nothing."""
    features = {key: value[-1:] if isinstance(value, Tensor) else value
                for key, value in mini_batch.features.items()}
    return MiniBatch(mini_batch.texts[:0], features, features["input_ids"].numel())


def _merged(columns: list[Features]) -> Features:
    """One padded set of features of the texts of several columns, in their order."""
    keys = [k for k, v in columns[0].items() if isinstance(v, Tensor) and v.shape == columns[0]["input_ids"].shape]
    width = max(column["input_ids"].shape[1] for column in columns)
    return {key: torch.cat([pad(c[key], (0, width - c[key].shape[1])) for c in columns]) for key in keys}  # (n, t)


def mini_batches_of(features: list[Features], budget: int) -> tuple[list[MiniBatch], Tensor]:
    """Cut the texts of all columns into mini-batches; texts of one instruction (`prompt_length`) are sorted together.

    features: one tokenised column each, as sentence-transformers hands them to a loss: `input_ids` and
    `attention_mask` (b, t). Equal texts are taken once. Returns the mini-batches and, for each of the n texts (column
    after column), its position among the k distinct ones. ValueError when padding is not on the right.
    """
    if not all(bool(column["attention_mask"][:, 0].all()) for column in features):
        raise ValueError("expected texts of at least one token, padded on the right; got a first token that is "
                         "masked: set tokenizer.padding_side = 'right' and leave out empty texts")
    groups: dict[int, list[int]] = {}
    for index, column in enumerate(features):
        groups.setdefault(int(column.get("prompt_length") or 0), []).append(index)
    rows, result, distinct = len(features[0]["input_ids"]), [], 0
    where = torch.empty(len(features), rows, dtype=torch.long)  # (columns, b)
    for prompt_length, members in groups.items():
        merged = _merged([features[i] for i in members])
        first, inverse = _distinct(merged)
        where[members] = (distinct + inverse).reshape(len(members), rows)
        lengths = merged["attention_mask"].sum(1).cpu()[first]  # (k,)
        for batch in map(torch.from_numpy, token_batches(lengths.numpy(), budget)):
            longest = int(lengths[batch[0]])
            content = {key: value[first[batch].to(value.device), :longest] for key, value in merged.items()}
            content |= {"prompt_length": prompt_length} if prompt_length else {}
            result.append(MiniBatch(distinct + batch, content | {"modality": "text"}, longest * len(batch)))
        distinct += len(first)
    return result, where.flatten()


def _distinct(merged: Features) -> tuple[Tensor, Tensor]:
    """Row of the first of each group of equal texts (k,), and the group of each text (n,)."""
    seen: dict[bytes, int] = {}
    first, group = [], []
    lengths = merged["attention_mask"].sum(1).tolist()
    for row, (ids, length) in enumerate(zip(merged["input_ids"].cpu().numpy(), lengths, strict=True)):
        group.append(seen.setdefault(ids[:length].tobytes(), len(seen)))
        if len(seen) > len(first):
            first.append(row)
    return torch.tensor(first), torch.tensor(group)
