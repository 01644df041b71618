"""Prompts that begin alike: what they share goes through the model once, and its keys and values serve all of them.

A few examples before each question make most of a prompt. Sampling and training then cost what questions and answers
cost. The result is that of whole rows, gradients included, but for rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

Ids = Sequence[int]


def split(prompts: Sequence[Ids]) -> tuple[list[int], list[list[int]]]:
    """What all prompts begin with, and what is left of each: at least one token."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(p[:-1] for p in prompts), strict=False))
    first = [tokens[0] for tokens in alike]
    return first, [list(p[len(first) :]) for p in prompts]


@torch.no_grad()
def generate(model: PreTrainedModel, prompts: Sequence[Ids], tokens: int, end: int, sampled: bool) -> list[list[int]]:
    """One completion of each prompt, of at most `tokens` token ids, `end` (end of text) included where it was reached.

    Greedy, or sampled at temperature 1 from the whole vocabulary by torch's global random numbers.
    """
    first, rests = split(prompts)
    longest, where = max(map(len, rests)), model.device
    ids = torch.tensor([[*[end] * (longest - len(rest)), *rest] for rest in rests], device=where)  # (b, t)
    mask = torch.tensor([[1] * len(first) + [0] * (longest - len(rest)) + [1] * len(rest) for rest in rests],
                        device=where)  # padding lies between what is shared and the question
    place = mask.cumsum(1)[:, len(first) :] - 1  # (b, t)
    cache = _cached(model, first, len(prompts))
    decoder, head = _decoder(model), model.get_output_embeddings()
    found: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=where)  # those that have not ended, (b,)
    for _ in range(tokens):
        states = decoder(input_ids=ids, attention_mask=mask, position_ids=place, past_key_values=cache,
                         use_cache=True).last_hidden_state[:, -1]
        logits = head(states.contiguous()).float()  # (b, d) -> (b, vocabulary); a view of three axes is slow
        ids = _draw(logits, torch.rand(len(prompts), 1)[rows.cpu()]) if sampled else logits.argmax(-1)  # (b,)
        for row, token in zip(rows.tolist(), ids.tolist(), strict=True):
            found[row].append(token)
        going = (ids != end).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(rows):
            cache.batch_select_indices(going)
        rows, ids, place = rows[going], ids[going, None], place[going, -1:] + 1
        mask = torch.cat([mask[going], mask.new_ones(len(going), 1)], 1)
    return found


def _draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One token of each row of logits (b, vocabulary) by its probability, from a number in [0, 1) for each, (b, 1)."""
    total = logits.softmax(-1).cumsum(-1)
    drawn = uniform.to(total.device) * total[:, -1:]
    return torch.searchsorted(total, drawn, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def predicted(model: PreTrainedModel, prompts: Sequence[Ids],
              completions: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (n, vocabulary) in float32 of the n tokens of all completions, these tokens (n,) and their rows (n,)."""
    states, ids, _, counted = passed(model, prompts, completions)
    logits = model.get_output_embeddings()(states[:, :-1][counted])  # (n, d) -> (n, vocabulary)
    return logits.float(), ids[:, 1:][counted], counted.nonzero()[:, 0]


def passed(model: PreTrainedModel, prompts: Sequence[Ids], completions: Sequence[Ids]) -> tuple[torch.Tensor, ...]:
    """Last states (b, t, d) of what prompts do not share and of the completions, their token ids (b, t), which of them
    are real (b, t), and the positions (b, t - 1) whose next token is the completion's."""
    first, rests = split(prompts)
    rows = [[*rest, *completion] for rest, completion in zip(rests, completions, strict=True)]
    ids, real = right_padded(rows, 0, model.device)  # (b, t)
    place = torch.arange(1, ids.shape[1], device=ids.device)[None]
    begin = torch.tensor([len(rest) for rest in rests], device=ids.device)[:, None]
    counted = real[:, 1:] & (place >= begin)
    mask = torch.cat([real.new_ones(len(rows), len(first)), real], 1).long()
    states = _decoder(model)(input_ids=ids, attention_mask=mask, use_cache=True,
                             past_key_values=_cached(model, first, len(rows))).last_hidden_state
    return states, ids, real, counted


@contextlib.contextmanager
def block_outputs(model: PreTrainedModel, blocks: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Inside, the output (b, t, d) of these blocks, counted from 1, in the last forward pass of `model`, by block.

    ValueError for a block that the model does not have.
    """
    layers, found = _decoder(model).layers, {}
    if max(blocks) > len(layers):
        raise ValueError(f"expected blocks of at most {len(layers)}, which the model has, got {list(blocks)}: correct "
                         "geometry.blocks")

    def catch(block: int) -> Callable[..., None]:
        def keep(_module: torch.nn.Module, _inputs: tuple, output: torch.Tensor | tuple) -> None:
            found[block] = output[0] if isinstance(output, tuple) else output
        return keep

    hooks = [layers[block - 1].register_forward_hook(catch(block)) for block in blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def right_padded(rows: Sequence[Ids], pad: int, where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids padded right: ids (b, t) and which are real (b, t)."""
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows], device=where)
    lengths = torch.tensor([len(row) for row in rows], device=where)
    return ids, torch.arange(length, device=where)[None] < lengths[:, None]


def _cached(model: PreTrainedModel, first: list[int], rows: int) -> DynamicCache:
    """The keys and values of `first`, once for each row."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    if first:
        _decoder(model)(input_ids=torch.tensor([first], device=model.device), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(rows)
    return cache


def _decoder(model: PreTrainedModel) -> torch.nn.Module:
    """The network under the LM head, adapters included."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()
