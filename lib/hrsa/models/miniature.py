"""A model in small: two random blocks of its own architecture behind its own tokenizer, from files without weights.

What depends on a model's files and not on its weights can be tried on it in seconds: whether the configuration builds,
how it attends, which attention kernel it has, what its tokenizer does with instructions.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
from pathlib import Path
from typing import Any

from hrsa.models.as_it_came import read_manner
from hrsa.models.language_model import HEAD_SIZE, network_folder, read_config_and_tokenizer
from hrsa.models.loading import quiet_loading
from hrsa.study import store
from hrsa.study.errors import first_line

BLOCKS = 2
_HEADS = 4
_EXPERTS = 4  # of a mixture, at most
_LEFT = ("*.safetensors", "*.index.json", "*.bin", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.pt", "*.pth")


def write_miniature(folder: Path, target: Path, seed: int, narrow: bool = True) -> Path:
    """Write a random model of `BLOCKS` blocks to `target`, with the files of the model in `folder` beside it.

    folder: configuration and tokenizer, of a language model, an encoder or an embedder; its weights are not read.
    narrow: a few small heads; else as wide as the model itself. Raises ValueError when the folder is not that of a
    model that can be studied, when a special token of its tokenizer has no row in its embedding, and when its
    architecture cannot be built as small as this.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    config, tokenizer = read_config_and_tokenizer(folder)
    if (largest := max(tokenizer.all_special_ids)) >= config.vocab_size:
        raise ValueError(f"expected a tokenizer whose special tokens are among the {config.vocab_size} rows of the "
                         f"embedding in {folder}, got number {largest}: give the tokenizer that belongs to the model")
    small = _shortened(config, BLOCKS, narrow)
    auto = AutoModelForCausalLM if read_manner(folder).kind == "decoder" else AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = auto.from_config(small)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, AssertionError) as error:
            raise ValueError(f"expected an architecture that can be built of {BLOCKS} blocks from the configuration in "
                             f"{folder}, got {type(error).__name__}: {first_line(error)}") from error
    with store.atomic(target) as temporary:
        shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns(*_LEFT))
        with quiet_loading():
            model.save_pretrained(temporary / Path(network_folder(folder)).relative_to(folder))
        if (temporary / "modules.json").is_file():
            _pool(temporary, small.hidden_size)
    return target


def _shortened(config: Any, blocks: int, narrow: bool) -> Any:
    """A copy of a configuration with so many blocks and, where `narrow`, small heads and experts."""
    depth = config.num_hidden_layers
    small = copy.deepcopy(config)
    for name, value in list(vars(small).items()):
        if isinstance(value, list | tuple) and len(value) == depth and depth > 0:  # layer_types, no_rope_layers, ...
            setattr(small, name, value[:blocks])
    changes = {"num_hidden_layers": min(blocks, depth), "initializer_range": 0.2, "use_cache": False}
    if narrow:
        plain = not any(isinstance(x, list) for x in _values(getattr(config, "rope_parameters", None)))
        head = HEAD_SIZE * 2 if plain else getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads)
        grouped = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) != (
            config.num_attention_heads)
        changes |= {"hidden_size": _HEADS * head, "num_attention_heads": _HEADS,
                    "num_key_value_heads": _HEADS // 2 if grouped else _HEADS}
        if not hasattr(config, "qk_rope_head_dim"):  # of latent attention, whose heads have parts of their own
            changes["head_dim"] = head
        for name, value in vars(config).items():
            if isinstance(value, int) and not isinstance(value, bool):
                if "intermediate_size" in name or name in ("ffn_dim", "n_inner"):
                    changes[name] = 2 * _HEADS * head
                elif name in ("num_experts", "num_local_experts", "n_routed_experts"):
                    changes[name] = min(value, _EXPERTS)
                elif name in ("num_experts_per_tok", "n_group", "topk_group"):
                    changes[name] = min(value, 2 if name == "num_experts_per_tok" else 1)
    for name, value in changes.items():
        if hasattr(small, name):
            with contextlib.suppress(AttributeError):  # computed from the others
                setattr(small, name, value)
    return small


def _values(rope: Any) -> list:
    """The settings of rotary positions, also where kinds of layers have their own."""
    found = list(rope.values()) if isinstance(rope, dict) else []
    return found + [inner for value in found if isinstance(value, dict) for inner in value.values()]


def _pool(folder: Path, width: int) -> None:
    """Set the width that the pooling of an embedder's folder expects."""
    for module in store.read_json(folder / "modules.json"):
        file = folder / module["path"] / "config.json"
        if module["type"].endswith("Pooling") and file.is_file():
            settings = store.read_json(file)
            names = [name for name in ("word_embedding_dimension", "embedding_dimension") if name in settings]
            store.write_json(file, settings | dict.fromkeys(names, width))
