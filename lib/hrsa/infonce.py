"""InfoNCE over in-batch, cross-device and hard negatives, with exact gradient caching.

A loss module for sentence-transformers' trainer. Embeddings are computed in pieces cut by a token budget from texts
sorted by length, so that padding is small and memory does not grow with the batch; the loss is taken over all of
them; then each piece is run again, with the same random state, to carry its gradient into the weights (GradCache,
arXiv 2101.06983). Pieces that fit into the budget together keep their graph and are not run again.
Letters: b queries of this process, p passages of all processes, n texts, t sequence, d dimensions.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad
from torch.nn.parallel import DistributedDataParallel

PIECES = 4  # forward passes that share the token budget: shorter ones pad less, four keep a GPU busy
SCORES = 2**24  # scores held at once (64 MiB in float32): queries are taken in blocks of this many scores

Features = dict[str, Any]


def text_id(text: str) -> int:
    """A signed 64-bit integer that stands for `text`: equal texts get equal numbers (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def false_negatives(passages: Tensor, own: Tensor, known: Tensor) -> Tensor:
    """Which passages are no negatives of a query: they repeat one of its known texts.

    passages (p,): identifiers of all passages; own (b,): position in `passages` of each query's positive; known
    (b, m): identifiers of each query's positives and of the query itself. Returns (b, p), True where a score must
    not enter the denominator; never True at `own`.
    """
    mask = torch.zeros(len(own), len(passages), dtype=torch.bool, device=passages.device)  # (b, p)
    for column in known.T:
        mask |= passages[None, :] == column[:, None]
    mask[torch.arange(len(own), device=own.device), own] = False
    return mask


def info_nce(queries: Tensor, passages: Tensor, own: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Loss of each query, -log softmax of its positive (van den Oord et al., arXiv 1807.03748, eq. 4).

    queries (b, d), passages (p, d): embeddings of any length, compared by cosine; own (b,): position of each
    positive; mask (b, p): scores left out; temperature > 0 divides the cosines. Returns (b,).
    """
    scores = normalize(queries, dim=-1) @ normalize(passages, dim=-1).T / temperature  # (b, p)
    return cross_entropy(scores.masked_fill(mask, -torch.inf), own, reduction="none")


class _Moment:
    """Random state and precision of a forward pass, to run it again exactly."""

    def __init__(self, device: torch.device):
        self.device, self.cpu = device, torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self.autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        enabled, dtype = self.autocast
        with (torch.random.fork_rng([self.device] if self.cuda is not None else []),
              torch.autocast(self.device.type, dtype, enabled)):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


@dataclass
class _Piece:  # texts embedded in one forward pass
    texts: Tensor  # (k,) positions among the n texts
    features: Features
    tokens: int  # padding included
    moment: _Moment | None = None
    kept: Tensor | None = None  # (k, d) with its graph


def cut(lengths: Tensor, budget: int) -> list[Tensor]:
    """Positions of texts, longest first, in pieces whose padded size (texts x longest) is at most `budget` tokens.

    lengths (n,): tokens of each text. A text longer than the budget is a piece of its own.
    """
    order = torch.argsort(lengths, descending=True, stable=True)  # (n,)
    pieces, begin = [], 0
    while begin < len(order):
        size = max(1, budget // max(1, int(lengths[order[begin]])))
        pieces.append(order[begin : begin + size])
        begin += size
    return pieces


def _merged(columns: list[Features]) -> Features:
    """One padded set of features of the texts of several columns, in their order."""
    keys = [k for k, v in columns[0].items() if isinstance(v, Tensor) and v.shape == columns[0]["input_ids"].shape]
    width = max(column["input_ids"].shape[1] for column in columns)
    return {key: torch.cat([pad(c[key], (0, width - c[key].shape[1])) for c in columns]) for key in keys}  # (n, t)


def pieces_of(features: list[Features], budget: int) -> list[_Piece]:
    """Cut the texts of all columns into pieces; those that share an instruction (`prompt_length`) are sorted together.

    features: one tokenised column each, as sentence-transformers hands them to a loss: `input_ids` and
    `attention_mask` (b, t). ValueError when padding is not on the right.
    """
    if not all(bool(column["attention_mask"][:, 0].all()) for column in features):
        raise ValueError("expected texts of at least one token, padded on the right; got a first token that is "
                         "masked: set tokenizer.padding_side = 'right' and leave out empty texts")
    groups: dict[int, list[int]] = {}
    for index, column in enumerate(features):
        groups.setdefault(int(column.get("prompt_length") or 0), []).append(index)
    rows, result = len(features[0]["input_ids"]), []
    for prompt_length, members in groups.items():
        merged = _merged([features[i] for i in members])
        places = torch.cat([torch.arange(rows) + i * rows for i in members])  # (n,)
        lengths = merged["attention_mask"].sum(1)  # (n,)
        for piece in cut(lengths.cpu(), budget):
            longest = int(lengths[piece[0]])
            content = {key: value[piece.to(value.device), :longest] for key, value in merged.items()}
            content |= {"prompt_length": prompt_length} if prompt_length else {}
            result.append(_Piece(places[piece], content | {"modality": "text"}, longest * len(piece)))
    return result


def _gathered(local: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes, rank after rank, and where this process's rows begin."""
    if not (dist.is_available() and dist.is_initialized()):
        return local, 0
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts), dist.get_rank() * len(local)


def _summed(value: Tensor) -> Tensor:
    """Sum over processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value


def _no_sync(model: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """Let DistributedDataParallel exchange gradients only in the last backward pass of a step."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


def _token_ids(features: list[Features]) -> Tensor:
    """Identifiers (b, columns) of texts by their tokens, where the caller gave none."""
    columns = [[text_id(repr(row[mask.bool()].tolist()))
                for row, mask in zip(c["input_ids"], c["attention_mask"], strict=True)] for c in features]
    return torch.tensor(columns, device=features[0]["input_ids"].device).T


class InfoNCE(nn.Module):
    """Loss module for `SentenceTransformerTrainer`: columns are query, positive, then any number of hard negatives.

    model: a SentenceTransformer; temperature > 0; chunk_tokens: tokens, padding included, whose activations may be
    held at once. Under torch.distributed the passages of all processes are negatives; every process must bring
    the same number of queries, and the mean of the processes' losses and gradients is that of the joint batch.
    After each forward pass `record` holds the loss of this process, and of all processes the count of masked scores
    and of tokens without padding.
    """

    def __init__(self, model: nn.Module, temperature: float, chunk_tokens: int):
        super().__init__()
        self.model, self.temperature, self.chunk_tokens = model, temperature, chunk_tokens
        self.record: dict[str, float | int] = {}

    def forward(self, sentence_features: list[Features], labels: dict[str, Tensor] | None = None) -> Tensor:
        """Mean loss over this process's queries; its backward pass runs the pieces.

        sentence_features: as for `pieces_of`. labels: `ids` (b, columns) identifiers of the texts (`text_id`) and
        `known` (b, m) identifiers of each query's positives, filled up with any of them; None takes texts of equal
        tokens as equal and knows no positive but the row's own.
        """
        features, training = list(sentence_features), torch.is_grad_enabled()
        if len(features) < 2:
            raise ValueError(f"expected columns query, positive and negatives, got {len(features)} column(s)")
        ids = _token_ids(features) if labels is None else labels["ids"]
        known = torch.cat([ids[:, :2], *([] if labels is None else [labels["known"]])], dim=1)  # (b, m)
        pieces = pieces_of(features, max(1, self.chunk_tokens // PIECES))
        embeddings = self._embed(pieces, training).requires_grad_(training)  # (n, d)
        loss = self._loss(embeddings, ids, known)
        tokens = sum(column["attention_mask"].sum() for column in features)
        self.record |= {"loss": float(loss), "tokens": int(_summed(tokens))}
        if training:
            loss.requires_grad_().register_hook(partial(self._carry, pieces, embeddings.grad))
        return loss

    def _embed(self, pieces: list[_Piece], training: bool) -> Tensor:
        """Embeddings (n, d) of all texts, detached; the last pieces that fit the budget keep their graph."""
        left, keep = self.chunk_tokens, len(pieces)
        while training and keep and pieces[keep - 1].tokens <= left:
            keep -= 1
            left -= pieces[keep].tokens
        outputs = []
        for index, piece in enumerate(pieces):
            kept = training and index >= keep
            piece.moment = _Moment(piece.features["input_ids"].device)
            last = keep == 0 and index == len(pieces) - 1
            with torch.set_grad_enabled(kept), _no_sync(self.model, last):
                output = self.model(dict(piece.features))["sentence_embedding"]  # (k, d)
            outputs.append(output.detach())
            piece.kept = output if kept else None
        order = torch.argsort(torch.cat([piece.texts for piece in pieces]))
        return torch.cat(outputs)[order.to(outputs[0].device)]

    def _loss(self, embeddings: Tensor, ids: Tensor, known: Tensor) -> Tensor:
        """Mean loss, detached; leaves its gradient, summed over processes, in `embeddings.grad` (n, d)."""
        count, places = len(ids), torch.arange(len(embeddings), device=embeddings.device)
        exact = torch.promote_types(embeddings.dtype, torch.float32)
        queries = embeddings.detach()[:count].to(exact).requires_grad_(embeddings.requires_grad)  # (b, d)
        passages, begin = _gathered(embeddings.detach()[count:].to(exact))  # (p, d)
        passages.requires_grad_(embeddings.requires_grad)
        passage_ids, _ = _gathered(ids[:, 1:].T.flatten())  # (p,)
        own = begin + places[:count]
        total, masked = embeddings.new_zeros((), dtype=exact), places.new_zeros(())
        step = max(1, SCORES // len(passages))
        for rows in (slice(i, i + step) for i in range(0, count, step)):
            mask = false_negatives(passage_ids, own[rows], known[rows])
            part = info_nce(queries[rows], passages, own[rows], mask, self.temperature).sum() / count
            if embeddings.requires_grad:
                part.backward()
            total, masked = total + part.detach(), masked + mask.sum()
        self.record = {"masked": int(_summed(masked))}
        if embeddings.requires_grad:
            theirs = _summed(passages.grad)[begin : begin + len(embeddings) - count]
            embeddings.grad = torch.cat([queries.grad, theirs]).to(embeddings.dtype)
        return total

    def _carry(self, pieces: list[_Piece], gradients: Tensor, scale: Tensor) -> None:
        """Carry the gradients (n, d) of the embeddings, times `scale`, into the weights, piece by piece."""
        kept = [piece for piece in pieces if piece.kept is not None]
        again = [piece for piece in pieces if piece.kept is None]
        if kept:
            own = [gradients[piece.texts.to(gradients.device)] * scale for piece in kept]
            torch.autograd.backward([piece.kept for piece in kept], own)
            for piece in kept:
                piece.kept = None
        for piece in again:
            gradient = gradients[piece.texts.to(gradients.device)] * scale
            with torch.enable_grad(), piece.moment.again(), _no_sync(self.model, piece is again[-1]):
                self.model(dict(piece.features))["sentence_embedding"].backward(gradient)
