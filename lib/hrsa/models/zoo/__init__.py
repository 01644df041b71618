"""Backbones made on the spot: a small LM pretrained from scratch, then real RLVR (GRPO) and real SFT from it.

Needs the extra `zoo` (TRL, reasoning-gym). Nothing but `hrsa.models.language_model.backbone_folder` and chapter 01 uses it.
"""

from hrsa.models.zoo.make import make_backbone

__all__ = ["make_backbone"]
