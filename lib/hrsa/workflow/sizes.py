"""How large the models of a profile are, by their configurations, and the memory that a comparison of two takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hrsa.analysis.layerwise import REFITS
from hrsa.models.language_model import network_folder
from hrsa.similarity.budget import enough_mb, least_mb
from hrsa.similarity.metrics import METRIC_FAMILIES, MORE
from hrsa.study import store
from hrsa.study.backbone_kinds import are_adapters
from hrsa.study.profile import Analysis, Backbone, Profile
from hrsa.study.sections import CONTROLS


def shape_of(profile: Profile, backbone: Backbone) -> dict[str, Any]:
    """The configuration that sets a backbone's size; zoo arms, adapters and controls have that of what they start from.
    ValueError: a published model that `shapes.yaml` does not list."""
    while backbone.start and (backbone.source in ("zoo", *CONTROLS) or are_adapters(backbone)):
        backbone = profile.backbone(backbone.start)
    zoo = profile.zoo
    if backbone.source == "zoo":
        return {"model_type": "qwen3", "hidden_size": zoo.hidden_size, "num_hidden_layers": zoo.layers,
                "num_attention_heads": zoo.heads, "num_key_value_heads": zoo.kv_heads,
                "head_dim": zoo.head_dim or zoo.hidden_size // zoo.heads, "intermediate_size": zoo.intermediate_size,
                "vocab_size": zoo.vocab_size, "tie_word_embeddings": True}
    if backbone.source == "folder":
        return store.read_json(Path(network_folder(store.ROOT / str(backbone.path))) / "config.json")
    entries = yaml.safe_load(Path(__file__).with_name("shapes.yaml").read_text(encoding="utf8"))
    shapes = {known: entry["config"] for entry in entries for known in entry["models"]}
    if backbone.path not in shapes:
        raise ValueError(f"expected a model of known shape, one of {sorted(shapes)}, got {backbone.path!r}: add its "
                         "configuration to shapes.yaml, or give its folder")
    return shapes[backbone.path]


def comparison_mb(used: Analysis, x: tuple[int, int], y: tuple[int, int]) -> tuple[float, str]:
    """MB that chapters 05 to 08 hold at once for two models of so many (layers, dimensions), whatever
    `analysis.memory_mb`, and of what the most."""
    widths = [[width] * (layers + 2) for layers, width in (x, y)]
    found = [least_mb(*widths, used.max_tokens, METRIC_FAMILIES["cka"])]
    for family, metrics in (METRIC_FAMILIES | {MORE: used.more}).items():
        fewer = REFITS if family == "procrustes" else 1
        drawn = max(used.bootstrap // fewer, min(used.bootstrap, 10))
        found.append(least_mb(*(each[:1] for each in widths), used.max_tokens, metrics, max(used.ks), drawn))
    return max(found)


def check_memory(profile: Profile) -> None:
    """ValueError, before a study starts, when `analysis.memory_mb` is less than a comparison of one of its pairs cannot
    do without. Models of unknown size are left to the comparison, which says so itself."""
    for pair in profile.compared():
        try:
            shapes = [shape_of(profile, profile.backbone(name)) for name in (pair.a, pair.b)]
            sizes = [(shape["num_hidden_layers"], shape["hidden_size"]) for shape in shapes]
        except (ValueError, OSError, KeyError):
            continue
        enough_mb(profile.analysis.memory_mb, comparison_mb(profile.analysis, *sizes), f"pair {pair.name}")
