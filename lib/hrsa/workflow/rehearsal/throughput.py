"""How fast this machine trains and embeds, and how much memory that takes, measured on two blocks of a real width.

A step of training is the study's own (the recipe's precision, gradient cache, checkpointing, loss and optimiser); what
it did in operations is counted as `hrsa plan` counts the whole, so that the rates can stand in place of assumed ones.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil

from hrsa.models.miniature import write_miniature
from hrsa.study.profile import Profile, Recipe
from hrsa.study.runtime import device, prepare
from hrsa.workflow.plan import Machine, Size, assumed_machine, step_tokens, training_memory, training_operations

_STEPS = 3  # the first warms up
_QUERIES = 2  # of a step on a CPU; on a card as many as fill the gradient cache twice
_TEXTS = 32  # embedded on a CPU, on a card eight times as many
_ROOM = 0.8  # of the memory that may be taken


class Throughput(NamedTuple):
    """What was measured, on two blocks of `backbone`."""

    backbone: str
    million: float  # parameters, without the embedding
    train_tokens: float  # per second
    texts: float  # embedded per second, of the recipe's length, in float32
    bf16: float  # TFLOP/s of training, in the recipe's precision
    fp32: float  # of embedding
    peak_gb: float  # of the training steps: on a card, of its memory, else of this process
    estimated_gb: float  # the plan's estimate of the same


def device_memory() -> float:
    """GB of this machine's first card, or of its main memory where it has none."""
    import torch

    if device().type == "cuda":
        return torch.cuda.get_device_properties(0).total_memory / 1e9
    return psutil.virtual_memory().total / 1e9


def measured_machine(profile: Profile, found: Throughput, gpus: int | None) -> Machine:
    """The machine for `plan`: measured rates and memory; `gpus` that share a training, else one; comparisons on the CPU
    at the rate that is assumed."""
    unit = "GPU" if device().type == "cuda" else "CPU"
    return Machine(gpus or 1, device_memory(), found.bf16, found.fp32, assumed_machine(profile).cpu, unit)


def trial_recipe(recipe: Recipe) -> Recipe:
    """The recipe of a few steps as large as this machine needs to be busy, through the gradient cache where the
    recipe's own goes through it."""
    each = step_tokens(recipe) // recipe.batch_size
    queries = _QUERIES
    if device().type == "cuda":
        queries = min(recipe.batch_size, max(_QUERIES, -(-2 * recipe.chunk_tokens // each)))
    cached = step_tokens(recipe) > recipe.chunk_tokens
    chunk = min(recipe.chunk_tokens, max(64, queries * each // 2)) if cached else recipe.chunk_tokens
    return recipe.model_copy(update={"batch_size": queries, "steps": _STEPS, "checkpoints": (), "chunk_tokens": chunk,
                                     "layers": None, "sharding": "none"})


def fits_here(size: Size, recipe: Recipe) -> bool:
    """Whether two blocks of a model are likely to train in the memory that is free here, by the plan's estimate."""
    import torch

    free = torch.cuda.mem_get_info()[0] if device().type == "cuda" else psutil.virtual_memory().available
    return training_memory(size.first(2), trial_recipe(recipe), 1) < _ROOM * free


def make_throughput(backbone: str, folder: Path, size: Size, profile: Profile) -> Throughput:
    """Train and embed with two random blocks as wide as the model in `folder`, of that `size`.

    Raises ValueError as `write_miniature`, and torch.OutOfMemoryError where a card is too small for it.
    """
    import torch

    from hrsa.models.adapters import add_lora
    from hrsa.models.embedder import assemble, embed
    from hrsa.models.language_model import flash_attention
    from hrsa.training.trainer import fit

    recipe, two, card = trial_recipe(profile.recipe), size.first(2), device().type == "cuda"
    prepare(profile.threads, 0)
    with tempfile.TemporaryDirectory() as temporary:
        model = assemble(str(write_miniature(folder, Path(temporary) / "model", 0, narrow=False)), recipe.attention,
                         recipe.max_length, None, None, recipe.pooling, recipe.kernel)
        text = _long_text(model.tokenizer, recipe.max_length)
        triples = _triples(text, recipe)
        batches = np.tile(np.arange(recipe.batch_size), (recipe.steps, 1))
        if recipe.lora:
            add_lora(model, recipe.lora)
        if card:
            torch.cuda.reset_peak_memory_stats()
        flash = recipe.kernel == "flash_attention_2"
        with flash_attention(model[0].model, model.tokenizer, recipe.attention) if flash else contextlib.nullcontext():
            curve, _ = fit(model, triples, batches, recipe, 0, Path(temporary) / "work", "throughput", lambda *_: None)
        peak = torch.cuda.max_memory_allocated() if card else psutil.Process().memory_info().rss
        model.eval()
        texts = [f"{i} {text}" for i in range(_TEXTS * (8 if card else 1))]
        embed(model, texts[:2])
        began = time.monotonic()
        embed(model, texts)
        seconds = time.monotonic() - began
    best = curve.iloc[1:].assign(speed=lambda t: t["tokens"] / t["seconds"])["speed"].max()
    operations = training_operations(two, recipe, 1) / (recipe.steps * step_tokens(recipe))  # of a token
    return Throughput(backbone, (two.parameters - two.embedding) / 1e6, float(best), len(texts) / seconds,
                      float(best) * operations / 1e12, two.forward(len(texts) * recipe.max_length) / seconds / 1e12,
                      peak / 1e9, training_memory(two, recipe, 1) / 1e9)


def _long_text(tokenizer, most: int) -> str:
    """A text that fills the recipe's length."""
    words = "a text as long as the recipe lets one be "
    return words * (2 * most // max(1, len(tokenizer(words, add_special_tokens=False)["input_ids"])) + 1)


def _triples(text: str, recipe: Recipe) -> pd.DataFrame:
    """As many triples as a batch has queries, all different."""
    rows = range(recipe.batch_size)
    return pd.DataFrame({
        "task": "throughput", "instruction": "find what fits", "query": [f"{i} {text}" for i in rows],
        "positive": [f"yes {i} {text}" for i in rows],
        "negatives": [[f"no {i} {j} {text}" for j in range(recipe.hard_negatives)] for i in rows]})
