"""Backbones made on the spot: a small LM pretrained from scratch, real RLVR (GRPO) and real SFT, on it or on another.

Needs the extra `zoo` (TRL, reasoning-gym).
"""
