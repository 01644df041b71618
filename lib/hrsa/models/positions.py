"""The positions that a network has, and so how long a text it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def most_positions(model: torch.nn.Module) -> int | None:
    """Tokens of the longest text that a network has positions for; None where nothing limits them."""
    count, first = getattr(model.config, "max_position_embeddings", None), first_position(model)
    return count - first if count and first else count


def first_position(model: torch.nn.Module) -> int:
    """The position of a text's first token: 0, but for networks of the RoBERTa kind, which count the tokens that are no
    pad tokens, from behind the pad token's number."""
    import torch

    tables = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Embedding)
              and name.rpartition(".")[2] == "position_embeddings" and m.padding_idx is not None]
    return tables[0].padding_idx + 1 if tables else 0
