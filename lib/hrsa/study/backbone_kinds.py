"""Kinds of backbones: which are made by the study, which are adapters, and which have a card."""

from __future__ import annotations

from hrsa.study import store
from hrsa.study.profile import Backbone
from hrsa.study.sections import CONTROLS


def is_measured(backbone: Backbone) -> bool:
    """Whether the study makes a backbone's weights together with a card: the zoo's, and a package without one."""
    return backbone.source == "zoo" or (backbone.source == "package" and backbone.card is None)


def is_derived(backbone: Backbone) -> bool:
    """Whether the study writes a backbone's weights without measuring them: a package with a card, and controls."""
    return backbone.card is not None or backbone.source in CONTROLS


def are_adapters(backbone: Backbone) -> bool:
    """Whether a backbone's folder holds LoRA adapters, which become a model in the backbone it starts from."""
    return backbone.source == "folder" and (store.ROOT / str(backbone.path) / "adapter_config.json").is_file()


def has_card(backbone: Backbone) -> bool:
    """Whether a card describes this backbone: always for the zoo's and packages, and for shipped folders."""
    return is_measured(backbone) or backbone.card is not None or (
        backbone.source == "folder" and (store.ROOT / str(backbone.path) / "card.json").is_file())
