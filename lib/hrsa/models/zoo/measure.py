"""What a zoo backbone can do and how far it is from its start: accuracy, perplexity, KL divergence, weight change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.proportion import proportion_confint

from hrsa.models.zoo import shared_prefix
from hrsa.models.zoo.forms import Form
from hrsa.models.zoo.problems import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 128  # problems or documents at once
LOGITS = 2**28  # float32 numbers at once, 1 GiB: a large vocabulary takes fewer rows at a time
PERPLEXITY_TOKENS = 20_000  # of held-out real text; the mean is then within a few hundredths of a nat
Z = 1.959964  # two-sided 95%


def complete(model: PreTrainedModel, form: Form, problems: Sequence[Problem], mode: str, tokens: int,
             seed: int) -> tuple[pd.DataFrame, list[list[int]]]:
    """Answer each problem once, by `mode`: "greedy", or "sampled" at temperature 1 from the whole vocabulary.

    Returns the table [problem, family, answer, mode, completion, correct, worked] and the completions' token ids, end
    of text included where it was reached within `tokens` tokens. The global random state is left as it was.
    """
    kept = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(problems), _BATCH):
            kept += shared_prefix.generate(model, [form.prompt(p) for p in problems[start : start + _BATCH]], tokens,
                                           form.tokenizer.eos_token_id, mode == "sampled")
    texts = [form.text(ids) for ids in kept]
    table = pd.DataFrame({
        "problem": [p.expression for p in problems], "family": [p.family for p in problems],
        "answer": [p.answer for p in problems], "mode": mode,
        "completion": texts, "correct": [form.is_right(ids, p) for ids, p in zip(kept, problems, strict=True)],
        "worked": [form.is_worked(t) for t in texts]})
    return table, kept


def proportion(hits: Sequence[bool]) -> dict[str, float | int | None]:
    """Share of True with its 95% Wilson interval: {value, low, high, n}; all None but n when there is nothing."""
    n, count = len(hits), int(np.sum(hits))
    if n == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = proportion_confint(count, n, alpha=0.05, method="wilson")
    return {"value": count / n, "low": float(low), "high": float(high), "n": n}


def answer_shares(tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Accuracy and share of worked answers by mode, with intervals, from the tables of `complete` by mode.

    Keys: accuracy, worked_share {mode: share}; accuracy_by_mode {mode: {worked, direct: share}}; accuracy_by_family
    {mode: {family: share}}.
    """
    return {
        "accuracy": {mode: proportion(t["correct"]) for mode, t in tables.items()},
        "worked_share": {mode: proportion(t["worked"]) for mode, t in tables.items()},
        "accuracy_by_mode": {mode: {"worked": proportion(t["correct"][t["worked"]]),
                                    "direct": proportion(t["correct"][~t["worked"]])} for mode, t in tables.items()},
        "accuracy_by_family": {mode: {family: proportion(part["correct"]) for family, part in t.groupby("family")}
                               for mode, t in tables.items()},
    }


def paired_difference(after: Sequence[bool], before: Sequence[bool]) -> dict[str, float]:
    """Difference of two shares on the same problems, after minus before, with a paired 95% interval.

    The interval is Wald's with half a count added to each cell of the 2 x 2 table (Agresti and Min 2005), which
    keeps its coverage in small samples and where few answers change. Raises ValueError for unequal lengths.
    """
    if len(after) != len(before) or len(after) == 0:
        raise ValueError(f"expected the same problems before and after, got {len(before)} and {len(after)} answers: "
                         "measure both on one list of problems")
    after, before, n = np.asarray(after, bool), np.asarray(before, bool), len(after) + 2
    gained, lost = (after & ~before).sum() + 0.5, (~after & before).sum() + 0.5
    centre = (gained - lost) / n
    half = Z * np.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    return {"value": float(after.mean() - before.mean()), "low": float(centre - half), "high": float(centre + half)}


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, Any]:
    """Perplexity per token of held-out documents, each alone and cut at the context: {value, tokens, documents}."""
    loss, tokens, documents = 0.0, 0, 0
    rows = _rows(model, tokenizer.model_max_length)
    for start in range(0, len(texts), rows):
        ids = tokenizer(list(texts[start : start + rows]), truncation=True, verbose=False)["input_ids"]
        ids = [[*row, tokenizer.eos_token_id][: tokenizer.model_max_length] for row in ids]
        batch, real = shared_prefix.right_padded(ids, tokenizer.pad_token_id, model.device)  # (b, t)
        logits = model(input_ids=batch, attention_mask=real.long()).logits[:, :-1].float()  # (b, t - 1, vocab)
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
        loss += each[real[:, 1:]].double().sum().item()
        tokens += int(real[:, 1:].sum())
        documents += len(ids)
        if tokens >= PERPLEXITY_TOKENS:
            break
    if tokens == 0:
        raise ValueError(f"expected held-out documents of two tokens or more, got {len(texts)} documents")
    return {"value": float(np.exp(loss / tokens)), "tokens": tokens, "documents": documents}


@torch.no_grad()
def divergence(model: PreTrainedModel, start: PreTrainedModel, form: Form, problems: Sequence[Problem],
               completions: Sequence[Sequence[int]]) -> dict[str, Any]:
    """KL(model || start) of the next-token distributions along completions sampled from `model`.

    Nats per token over the whole vocabulary, not a sampled estimate: {value, tokens}.
    """
    total, tokens = 0.0, 0
    rows = _rows(model, 2 * max(map(len, completions)))
    for at in range(0, len(problems), rows):
        prompts = [form.prompt(p) for p in problems[at : at + rows]]
        own, other = (shared_prefix.predicted(m, prompts, completions[at : at + rows])[0].log_softmax(-1)
                      for m in (model, start))  # (n, vocabulary)
        total += (own.exp() * (own - other)).sum(-1).double().sum().item()
        tokens += len(own)
    return {"value": total / tokens, "tokens": tokens}


def weight_change(model: PreTrainedModel, start: PreTrainedModel) -> list[dict[str, Any]]:
    """Change of the weights per layer: [{layer, value, effective_rank}].

    `value` is ||W - W_start|| / ||W_start|| (Frobenius). `effective_rank` is that of the change as a share of the
    full rank, the mean over the layer's matrices; None where nothing but vectors changed. Layers are "embedding" (tied
    to the LM head), "1" to the last block, and "final norm".
    """
    squares: dict[str, list[float]] = {}
    ranks: dict[str, list[float]] = {}
    before = dict(start.named_parameters())
    for name, weight in model.named_parameters():
        block = re.search(r"\.layers\.(\d+)\.", name)
        layer = str(int(block[1]) + 1) if block else "embedding" if "embed" in name else "final norm"
        change = (weight.detach() - before[name].detach()).double()
        entry = squares.setdefault(layer, [0.0, 0.0])
        entry[0] += change.square().sum().item()
        entry[1] += before[name].detach().double().square().sum().item()
        if change.ndim == 2 and change.any():
            ranks.setdefault(layer, []).append(effective_rank(change) / min(change.shape))
    return [{"layer": layer, "value": (moved / size) ** 0.5,
             "effective_rank": float(np.mean(ranks[layer])) if layer in ranks else None}
            for layer, (moved, size) in squares.items()]


def effective_rank(matrix: torch.Tensor) -> float:
    """Exponential of the entropy of the normalised singular values, 1 to min(m, n), of a nonzero matrix (m, n).

    Source: Roy and Vetterli 2007, "The effective rank", definition 1.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares = torch.linalg.eigvalsh((wide @ wide.T).double())  # ten times as fast as an SVD; what is below 1e-7 of the
    values = squares[squares > 1e-14 * squares.max()].sqrt()  # largest value is rounding and left out
    share = values / values.sum()
    return float((-(share * share.log()).sum()).exp())


def _rows(model: PreTrainedModel, length: int) -> int:
    """How many rows of at most `length` tokens to predict at once."""
    return max(1, min(_BATCH, LOGITS // (length * model.config.vocab_size)))
