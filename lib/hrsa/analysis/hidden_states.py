"""Token states of a decoder, streamed batch by batch: texts sorted by length, every layer, no pad token.

`transformers` returns the last hidden state after the model's final norm, unlike all others; here the raw output of
the last block is caught as well, so a model of L blocks has L + 2 labelled states: "0" (embedding output), "1" ...
"L" (raw block outputs) and "L+norm" (what the embedder pools).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hrsa.models.token_batches import token_batches

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 4096  # per forward pass, padding included: every layer of a batch is held at once


class Batch(NamedTuple):
    """Token states of one batch of texts."""

    rows: np.ndarray  # (n,) where each token stands when all texts are joined in the order they were given
    states: np.ndarray  # (l, n, d) float32
    texts: np.ndarray  # (b,) the texts of the batch
    pooled: np.ndarray | None = None  # (b, d) float32, one vector per text, where a head was given


def layer_labels(layers: int) -> list[str]:
    """Labels of the states of a model of `layers` blocks: "0", "1" ... "L", "L+norm"."""
    return [str(i) for i in range(layers + 1)] + [f"{layers}+norm"]


def tokenise(tokenizer: Any, texts: list[str], max_length: int) -> list[list[int]]:
    """Token ids of each text, cut at `max_length`. ValueError names the first text without a token."""
    ids = tokenizer(texts, truncation=True, max_length=max_length, padding=False)["input_ids"]
    for i, row in enumerate(ids):
        if not row:
            raise ValueError(f"expected at least one token in every text, got none in text {i} ({texts[i]!r:.60}): "
                             "remove the text")
    return ids


def stream_states(
    model: Any, tokenizer: Any, texts: list[str], max_length: int, keep: np.ndarray | None = None,
    batch_tokens: int = BATCH_TOKENS, head: Sequence[Any] = (),
) -> Iterator[Batch]:
    """Yield the states of all non-pad tokens, batch by batch; batches come longest texts first.

    `model` is a decoder without head (`AutoModel`); `keep` an optional (n,) boolean mask over the tokens of all
    texts joined in their given order. A batch holds (l, n_batch, d) with l = blocks + 2, see `layer_labels`; its
    `rows` restore the order. `head`, the modules of an embedder behind its decoder, adds pooled vectors: tokens and
    texts are served by one forward pass. Raises ValueError for an empty text, for a mask of another length, for a
    state that is NaN or infinite (names the layer and the text) and for a model whose blocks cannot be found.
    """
    ids = tokenise(tokenizer, texts, max_length)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    if keep is not None and keep.shape != (starts[-1],):
        raise ValueError(f"expected a mask over {starts[-1]} tokens, got shape {keep.shape}: make it from the same "
                         "tokenizer, texts and max_length")
    for batch in token_batches(np.array([len(row) for row in ids]), batch_tokens):
        states, real = _forward(model, [ids[i] for i in batch], tokenizer.pad_token_id)  # (l, b, t, d), (b, t)
        text_of = np.repeat(batch, [len(ids[i]) for i in batch])
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in batch])
        wanted = np.ones(len(rows), bool) if keep is None else keep[rows]
        if not wanted.any() and not head:
            continue
        real_and_wanted = real.clone()
        real_and_wanted[real] = real.new_tensor(wanted)
        flat = np.stack([layer[real_and_wanted].float().cpu().numpy() for layer in states])  # (l, n, d)
        _check_finite(flat, text_of[wanted])
        yield Batch(rows[wanted], flat, batch, _pooled(head, states[-1], real) if head else None)


def _forward(model: Any, ids: list[list[int]], pad: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States (b, t, d) of every layer of one right-padded batch, and the mask (b, t) of real tokens."""
    import torch

    device = next(model.parameters()).device
    width = max(map(len, ids))
    tokens = torch.tensor([row + [pad] * (width - len(row)) for row in ids], device=device)  # (b, t)
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)  # (b, t)
    blocks = _blocks(model)
    with _caught_output(blocks[-1]) as caught, torch.inference_mode():
        out = model(input_ids=tokens, attention_mask=real, output_hidden_states=True, use_cache=False)
    if len(out.hidden_states) != len(blocks) + 1:
        raise ValueError(f"expected {len(blocks) + 1} hidden states of a model with {len(blocks)} blocks, got "
                         f"{len(out.hidden_states)}: use a decoder of plain blocks")
    return [*out.hidden_states[:-1], caught[0], out.last_hidden_state], real.bool()


def _pooled(head: Sequence[Any], states: torch.Tensor, real: torch.Tensor) -> np.ndarray:
    """Vectors (b, d) float32 that the modules of an embedder make of last states (b, t, d) and their mask (b, t)."""
    import torch

    features = {"token_embeddings": states, "attention_mask": real.long()}
    with torch.inference_mode():
        for module in head:
            features = module(features)
    return features["sentence_embedding"].float().cpu().numpy()


@contextlib.contextmanager
def _caught_output(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what `module` returns inside the block; the hook is gone afterwards, whatever happened."""
    caught: list[torch.Tensor] = []

    def catch(_module: Any, _args: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    hook = module.register_forward_hook(catch)
    try:
        yield caught
    finally:
        hook.remove()


def _blocks(model: Any) -> torch.nn.ModuleList:
    """The decoder's list of blocks: the first module list as long as its configuration says."""
    import torch

    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"expected a decoder with a list of {count} blocks, got {type(model).__name__}: "
                     "use a model whose blocks stand in one ModuleList")


def _check_finite(states: np.ndarray, texts: np.ndarray) -> None:
    bad = ~np.isfinite(states).all(axis=2)  # (l, n)
    if bad.any():
        layer, token = np.argwhere(bad)[0]
        label = layer_labels(len(states) - 2)[layer]
        raise ValueError(f"expected finite states, got NaN or infinity at layer {label} in text {texts[token]}: "
                         "run the model in float32, or look at its weights")
