"""Kinds of backbones: which are made by the study, which are adapters, and which have a card."""

from __future__ import annotations

from hrsa.study import store
from hrsa.study.profile import Backbone

MADE = ("zoo", "package")  # sources of backbones whose folder of weights is an artefact of the study, with a card


def are_adapters(backbone: Backbone) -> bool:
    """Whether a backbone's folder holds LoRA adapters, which become a model in the backbone it starts from."""
    return backbone.source == "folder" and (store.ROOT / str(backbone.path) / "adapter_config.json").is_file()


def has_card(backbone: Backbone) -> bool:
    """Whether a card describes this backbone: always for the zoo's and packages, and for shipped folders."""
    return backbone.source in MADE or (
        backbone.source == "folder" and (store.ROOT / str(backbone.path) / "card.json").is_file())
