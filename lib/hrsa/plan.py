"""Print what a profile would do, before it does: the graph, the runs, and how large they are.

Nothing is loaded or downloaded. Sizes of the published models come from their configuration, built on the meta
device, which has shapes and no memory.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from hrsa import pipeline
from hrsa.profile import Backbone, Profile, load_profile

QWEN25_15B = {"model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
              "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936}
SHAPES = {  # hub id -> the part of its configuration that sets its size
    "Qwen/Qwen2.5-0.5B": {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24,
                          "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
                          "vocab_size": 151936},
    "Qwen/Qwen2.5-1.5B": QWEN25_15B,
    "Qwen/Qwen2.5-Math-1.5B": QWEN25_15B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": QWEN25_15B,
    "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B": QWEN25_15B,
    "hkust-nlp/Qwen-2.5-1.5B-SimpleRL-Zoo": QWEN25_15B,
    "Qwen/Qwen3-0.6B-Base": {"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28,
                             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
                             "intermediate_size": 3072, "vocab_size": 151936},
    "Qwen/Qwen3-4B": {"model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                      "intermediate_size": 9728, "vocab_size": 151936},
}
SHAPES["hkust-nlp/Qwen-2.5-0.5B-SimpleRL-Zoo"] = SHAPES["Qwen/Qwen2.5-0.5B"]
SHAPES["Qwen/Qwen3-0.6B"] = SHAPES["Qwen/Qwen3-0.6B-Base"]
SHAPES["TianHongZXY/Qwen3-4B-PSR"] = SHAPES["Qwen/Qwen3-4B"]

PASSES = {"forward": 2, "backward": 4, "cached gradient": 2, "checkpointing": 2}  # FLOP per parameter and token


class Size(NamedTuple):
    """A backbone's size: layers, width, parameters (embedding included)."""

    layers: int
    width: int
    parameters: int


def shape(profile: Profile, backbone: Backbone) -> dict:
    """The configuration that sets a backbone's size, as transformers names its fields.

    Raises ValueError for a hub model that this module does not know.
    """
    zoo = profile.zoo
    if backbone.source == "zoo":
        return {"model_type": "qwen3", "hidden_size": zoo.hidden_size, "num_hidden_layers": zoo.layers,
                "num_attention_heads": zoo.heads, "num_key_value_heads": zoo.kv_heads,
                "head_dim": zoo.head_dim or zoo.hidden_size // zoo.heads, "intermediate_size": zoo.intermediate_size,
                "vocab_size": zoo.vocab_size}
    if backbone.source == "folder":
        from transformers import AutoConfig

        from hrsa.backbone import backbone_folder

        return AutoConfig.from_pretrained(backbone_folder(profile, backbone.name)).to_dict()
    if backbone.path not in SHAPES:
        raise ValueError(f"expected a hub model of known shape, one of {sorted(SHAPES)}, got {backbone.path!r}: "
                         "add its configuration to hrsa.plan.SHAPES, or give its folder")
    return SHAPES[backbone.path]


def size(profile: Profile, backbone: Backbone) -> Size:
    """Layers, width and parameter count of a backbone's encoder, from its configuration on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModel

    fields = dict(shape(profile, backbone))
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    count = sum(p.numel() for p in model.parameters())
    return Size(config.num_hidden_layers, config.hidden_size, count)


def training_tokens(profile: Profile) -> int:
    """Most tokens that one embedder's training can see: every text at the maximal length."""
    recipe = profile.recipe
    return recipe.steps * recipe.batch_size * (2 + recipe.hard_negatives) * recipe.max_length


def rows(profile: Profile, tera_flops: float) -> list[dict]:
    """One row per backbone: its size and, for all its embedders, hours and disk at `tera_flops` sustained."""
    embedders = [m for m in profile.models() if m.seed is not None]
    table = []
    for backbone in profile.backbones:
        layers, width, parameters = size(profile, backbone)
        runs = [m for m in embedders if m.backbone == backbone.name]
        per_token = sum(PASSES.values()) - (0 if profile.recipe.gradient_checkpointing else PASSES["checkpointing"])
        hours = len(runs) * training_tokens(profile) * parameters * per_token / (tera_flops * 1e12) / 3600
        states = (layers + 2) * profile.analysis.max_tokens * width * 4 * (1 + len(profile.seeds))
        weights = parameters * 2 * (1 + len(runs) * (1 + len(profile.recipe.checkpoints)))
        optimiser = parameters * (4 + 4 + 8)  # float32 weights, gradients and two AdamW moments
        table.append({"backbone": backbone.name, "layers": layers, "width": width, "parameters": parameters,
                      "runs": len(runs), "hours": hours, "disk_gb": (weights + states) / 1e9,
                      "memory_gb": optimiser / 1e9})
    return table


def text(profile: Profile, tera_flops: float) -> str:
    """The plan as text: graph, runs, sizes and the assumptions behind them."""
    lines = [f"{profile.name}: {profile.title}", "", "Graph (job x how many <- what it waits for)"]
    for rule, names in pipeline.jobs(profile).items():
        waits = sorted({needed for name in names for needed, _ in pipeline.needs(profile, rule, name)})
        lines.append(f"  {rule:15s} x {len(names):3d}  <- {', '.join(waits) if rule != 'book' else 'everything'}")
    lines += ["", "Runs", *(f"  {p.name}: {p.a} -> {p.b} ({p.kind})" for p in profile.pairs)]
    lines += [f"  seeds {list(profile.seeds)}, ablations {[a.name for a in profile.ablations]}"]
    lines += [f"  local tasks {list(profile.suite.tasks)}, benchmarks {list(profile.suite.benchmarks)}", "", "Size"]
    lines += [f"  {'backbone':22s} {'layers':>6s} {'width':>6s} {'M param.':>9s} {'runs':>5s} {'hours':>9s} "
              f"{'disk GB':>8s} {'state GB':>8s}"]
    table = rows(profile, tera_flops)
    lines += [f"  {r['backbone']:22s} {r['layers']:6d} {r['width']:6d} {r['parameters'] / 1e6:9.1f} {r['runs']:5d} "
              f"{r['hours']:9.2f} {r['disk_gb']:8.2f} {r['memory_gb']:8.2f}" for r in table]
    lines += [f"  {'all':22s} {'':33s}{sum(r['hours'] for r in table):9.2f} {sum(r['disk_gb'] for r in table):8.2f}"]
    lines += [
        "",
        f"Hours: contrastive training of all runs at {tera_flops:g} TFLOP/s sustained, at most "
        f"{training_tokens(profile) / 1e6:.1f} M tokens a run (every text at {profile.recipe.max_length} tokens).",
        "Disk: bf16 weights of backbones, embedders and checkpoints, and the token states kept for HRSA.",
        "State: float32 weights, gradients and AdamW moments of one run, before FSDP divides them; no activations.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line: print the plan; 1 with one message when the profile is not valid."""
    parser = argparse.ArgumentParser(description="Print the graph, the runs and their estimated size.")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--tflops", type=float, help="sustained TFLOP/s (default: 120 for bf16, 0.1 for fp32)")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        speed = options.tflops or (120.0 if profile.recipe.precision == "bf16" else 0.1)
        sys.stdout.write(text(profile, speed))
    except ValueError as error:
        sys.stderr.write(f"hrsa: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
