"""InfoNCE over in-batch, cross-device and hard negatives, with exact gradient caching.

A loss module for sentence-transformers' trainer. Embeddings are computed in mini-batches cut by a token budget
from texts sorted by length, so that padding is small and memory does not grow with the batch; the loss is taken over
all of them; then each mini-batch is run again, with the same random state, to carry its gradient into the weights
(GradCache, arXiv 2101.06983). Mini-batches that fit into the budget together keep their graph and are not run again.
Letters: b queries of this process, p passages of all processes, n texts, k distinct texts, t sequence, d dimensions.
"""

from __future__ import annotations

import contextlib
import hashlib
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

from hrsa.training import distributed
from hrsa.training.gradient_cache import Features, MiniBatch, Moment, blank, mini_batches_of

MINI_BATCHES = 4  # forward passes that share the token budget: shorter ones pad less, four keep a GPU busy
MASKED = ("duplicates", "known", "near")  # why a score is left out, in the order in which reasons are tried
_SCORES_HELD = 2**20  # scores held at once (4 MiB in float32), in blocks of queries: memory stays flat in the batch


def text_id(text: str) -> int:
    """A signed 64-bit integer that stands for `text`: equal texts get equal numbers (BLAKE2b).

    >>> text_id("a") == text_id("a"), text_id("a") == text_id("b")
    (True, False)
    """
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


def cosines(queries: Tensor, passages: Tensor) -> Tensor:
    """Cosines (b, p) of queries (b, d) and passages (p, d), embeddings of any length above 0."""
    return normalize(queries, dim=-1) @ normalize(passages, dim=-1).T


def near_positives(scores: Tensor, own: Tensor, margin: float) -> Tensor:
    """Which passages are nearer to a query than its positive by more than `margin`: likely right answers too.

    scores (b, p): cosines; own (b,): position of each positive; margin >= 0, in units of cosine. Returns (b, p), never
    True at `own`; no gradient passes. Source: Qwen3-Embedding (arXiv 2506.05176), the mask of eq. 1, margin 0.1.
    """
    return scores.detach() > scores.detach().gather(1, own[:, None]) + margin


def info_nce(scores: Tensor, own: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Loss of each query, -log softmax of its positive (van den Oord et al., arXiv 1807.03748, eq. 4).

    scores (b, p): cosines; own (b,): position of each positive; mask (b, p): scores left out; temperature > 0 divides
    the cosines. Returns (b,).

    >>> scores = cosines(torch.eye(2), torch.tensor([[2.0, 0], [0, 3], [1, 1]]))  # two queries, three passages
    >>> info_nce(scores, torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.bool), temperature=0.05).round(decimals=3)
    tensor([0.0030, 0.0030])
    """
    return cross_entropy((scores / temperature).masked_fill(mask, -torch.inf), own, reduction="none")


def _sharded(model: nn.Module) -> bool:
    """Whether the weights are spread over processes (FSDP): then all must make as many forward and backward passes."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, FSDPModule | FullyShardedDataParallel) for module in model.modules())


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
    held at once; margin: as for `near_positives`, None masks none of them. Under torch.distributed the passages of
    all processes are negatives; every process must bring the same number of queries, and the mean of the processes'
    losses and gradients is that of the global batch. After each forward pass `record` holds, of the global batch, the
    loss, the count of tokens without padding, and of scores left out: those of passages that repeat the query's own
    positive or the query itself (`duplicates`), else one of its other positives (`known`), else `near` positives.
    """

    def __init__(self, model: nn.Module, temperature: float, chunk_tokens: int, margin: float | None = None):
        super().__init__()
        self.model, self.temperature, self.chunk_tokens, self.margin = model, temperature, chunk_tokens, margin
        self.record: dict[str, float | int] = {}

    def forward(self, sentence_features: list[Features], labels: dict[str, Tensor] | None = None) -> Tensor:
        """Mean loss over this process's queries; its backward pass runs the mini-batches.

        sentence_features: as for `mini_batches_of`. labels: `ids` (b, columns) identifiers of the texts (`text_id`)
        and `known` (b, m) identifiers of each query's positives, filled up with any of them; None takes texts of
        equal tokens as equal and knows no positive but the row's own.
        """
        features, training = list(sentence_features), torch.is_grad_enabled()
        if len(features) < 2:
            raise ValueError(f"expected columns query, positive and negatives, got {len(features)} column(s): "
                             "give at least a query and a positive")
        ids = _token_ids(features) if labels is None else labels["ids"]
        known = torch.cat([ids[:, :2], *([] if labels is None else [labels["known"]])], dim=1)  # (b, m)
        mini_batches, where = mini_batches_of(features, max(1, self.chunk_tokens // MINI_BATCHES))
        if _sharded(self.model):  # as many passes in every process
            most = int(distributed.largest(torch.tensor(len(mini_batches), device=ids.device)))
            mini_batches += [blank(mini_batches[-1]) for _ in range(most - len(mini_batches))]
        distinct = self._embed(mini_batches, training)  # (k, d)
        embeddings = distinct[where.to(distinct.device)].requires_grad_(training)  # (n, d)
        loss = self._loss(embeddings, ids, known)
        tokens = sum(column["attention_mask"].sum() for column in features)
        self.record |= {"loss": float(distributed.summed(loss.clone()) / distributed.count()),
                        "tokens": int(distributed.summed(tokens))}
        if training:
            gradients = torch.zeros_like(distinct).index_add_(0, where.to(distinct.device), embeddings.grad)
            loss.requires_grad_().register_hook(partial(self._carry, mini_batches, gradients))
        return loss

    def _embed(self, mini_batches: list[MiniBatch], training: bool) -> Tensor:
        """Embeddings (k, d) of distinct texts, detached; the last mini-batches within the budget keep their graph."""
        left, keep, sharded = self.chunk_tokens, len(mini_batches), _sharded(self.model)
        while training and keep and not sharded and mini_batches[keep - 1].tokens <= left:
            keep -= 1
            left -= mini_batches[keep].tokens
        outputs = []
        for index, mini_batch in enumerate(mini_batches):
            kept = training and index >= keep
            mini_batch.moment = Moment(mini_batch.features["input_ids"].device)
            last = keep == 0 and index == len(mini_batches) - 1
            with torch.set_grad_enabled(kept), _no_sync(self.model, last):
                output = self._pass(mini_batch)
            outputs.append(output.detach())
            mini_batch.kept = output if kept else None
        order = torch.argsort(torch.cat([mini_batch.texts for mini_batch in mini_batches]))
        return torch.cat(outputs)[order.to(outputs[0].device)]

    def _pass(self, mini_batch: MiniBatch) -> Tensor:
        """Embeddings (texts of the mini-batch, d)."""
        return self.model(dict(mini_batch.features))["sentence_embedding"][: len(mini_batch.texts)]

    def _mask(self, scores: Tensor, passages: Tensor, own: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Scores left out (b, p), and how many for each reason in `MASKED`; known as for `_loss`."""
        duplicates = false_negatives(passages, own, known[:, :2])
        mask = repeats = duplicates | false_negatives(passages, own, known[:, 2:])
        if self.margin is not None:
            mask = repeats | near_positives(scores, own, self.margin)
        return mask, torch.stack([duplicates.sum(), (repeats & ~duplicates).sum(), (mask & ~repeats).sum()])

    def _loss(self, embeddings: Tensor, ids: Tensor, known: Tensor) -> Tensor:
        """Mean loss, detached; leaves its gradient, summed over processes, in `embeddings.grad` (n, d).

        known (b, m): identifiers of each row's query, of its positive, then of its other known positives.
        """
        count, places = len(ids), torch.arange(len(embeddings), device=embeddings.device)
        exact = torch.promote_types(embeddings.dtype, torch.float32)
        queries = embeddings.detach()[:count].to(exact).requires_grad_(embeddings.requires_grad)  # (b, d)
        passages, begin = distributed.gathered(embeddings.detach()[count:].to(exact))  # (p, d)
        passages.requires_grad_(embeddings.requires_grad)
        passage_ids, _ = distributed.gathered(ids[:, 1:].T.flatten())  # (p,)
        own = begin + places[:count]
        total, masked = embeddings.new_zeros((), dtype=exact), places.new_zeros(len(MASKED))
        step = max(1, _SCORES_HELD // len(passages))
        for rows in (slice(i, i + step) for i in range(0, count, step)):
            scores = cosines(queries[rows], passages)
            mask, counts = self._mask(scores, passage_ids, own[rows], known[rows])
            part = info_nce(scores, own[rows], mask, self.temperature).sum() / count
            if embeddings.requires_grad:
                part.backward()
            total, masked = total + part.detach(), masked + counts
        self.record = dict(zip(MASKED, distributed.summed(masked).tolist(), strict=True))
        if embeddings.requires_grad:
            theirs = distributed.summed(passages.grad)[begin : begin + len(embeddings) - count]
            embeddings.grad = torch.cat([queries.grad, theirs]).to(embeddings.dtype)
        return total

    def _carry(self, mini_batches: list[MiniBatch], gradients: Tensor, scale: Tensor) -> None:
        """Carry the gradients (k, d) of the embeddings, times `scale`, into the weights, one mini-batch at a time."""
        kept = [mini_batch for mini_batch in mini_batches if mini_batch.kept is not None]
        again = [mini_batch for mini_batch in mini_batches if mini_batch.kept is None]
        if kept:
            own = [gradients[mini_batch.texts.to(gradients.device)] * scale for mini_batch in kept]
            torch.autograd.backward([mini_batch.kept for mini_batch in kept], own)
            for mini_batch in kept:
                mini_batch.kept = None
        for mini_batch in again:
            gradient = gradients[mini_batch.texts.to(gradients.device)] * scale
            with torch.enable_grad(), mini_batch.moment.again(), _no_sync(self.model, mini_batch is again[-1]):
                self._pass(mini_batch).backward(gradient)
