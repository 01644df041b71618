"""A model as it came: how it attends, pools and is prompted, read from its own files and proved when it is opened.

Three kinds. A decoder language model, or an encoder of the BERT kind, brings its attention alone: the study's recipe
says how its states are pooled. An embedder's folder (sentence-transformers' `modules.json`, which the embedders of this
project have too) brings all of it and is run unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrsa.models.embedder import Pooled, assemble
from hrsa.models.language_model import (
    Attention,
    keep_first,
    leak_probe,
    load_encoder,
    read_config_and_tokenizer,
)
from hrsa.models.loading import Kernel, quiet_loading
from hrsa.models.positions import most_positions
from hrsa.study.errors import first_line
from hrsa.study.runtime import device
from hrsa.texts.suite import QUERY_TEMPLATE

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FLAGS = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean",
          "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean_tokens": "weightedmean",
          "lasttoken": "lasttoken"}  # older names of what pooling does


@dataclass(frozen=True)
class Manner:
    """How a model works as it came; see `read_manner`."""

    kind: Literal["decoder", "encoder", "embedder"]
    attention: Attention
    pooling: str | None  # sentence-transformers' names, joined by +; None: the model has none of its own
    prompts: Mapping[str, str]  # of an embedder: name -> what goes before a text, empty ones left out

    @property
    def own_prompts(self) -> Mapping[str, str] | None:
        """The prompts that the model's texts carry; None where queries carry their task's instruction: a language model
        has no prompts, and an embedder trained with instructions has them in the study's template."""
        start = QUERY_TEMPLATE.partition("{")[0]
        instructed = any(prompt.startswith(start) for prompt in self.prompts.values())
        return None if self.kind != "embedder" or instructed else self.prompts


def read_manner(folder_or_id: str | Path) -> Manner:
    """How a model (folder or hub id) works, by its configuration and its `modules.json`; no weights are read.

    Raises ValueError when there is no such model, or when it is an embedder of other parts than a network that makes
    token states and a pooling of them.
    """
    config, _ = read_config_and_tokenizer(folder_or_id)
    causal = getattr(config, "is_causal", True) and getattr(config, "use_bidirectional_attention", None) is not True
    encoder = _is_encoder(config)
    attention: Attention = "bidirectional" if encoder or not causal else "causal"
    modules = _content(folder_or_id, "modules.json")
    if modules is None:
        return Manner("encoder" if encoder else "decoder", attention, None, {})
    types = [module["type"].rpartition(".")[2] for module in modules]
    if types[:2] != ["Transformer", "Pooling"]:
        raise ValueError(f"expected an embedder of a Transformer and its Pooling in {folder_or_id}, got the modules "
                         f"{types}: token states and how they are pooled are what is compared; take another model")
    pooling = _content(folder_or_id, f"{modules[1]['path']}/config.json") or {}
    modes = pooling.get("pooling_mode") or [_FLAGS[name] for name in _FLAGS if pooling.get(f"pooling_mode_{name}")]
    settings = _content(folder_or_id, "config_sentence_transformers.json") or {}
    prompts = {name: text for name, text in (settings.get("prompts") or {}).items() if text}
    return Manner("embedder", attention, modes if isinstance(modes, str) else "+".join(modes) or "mean", prompts)


def open_as_it_came(folder: str, max_length: int, layers: int | None = None, pooling: Pooled = "mean",
                    kernel: Kernel = "auto") -> SentenceTransformer:
    """The model in `folder` as a SentenceTransformer in float32, with the attention of `read_manner`, proved.

    max_length: tokens of a text, where the model's own limit is not lower; layers, kernel: as `load_encoder`; pooling:
    of a model that has none of its own, as `assemble`. Raises ValueError as `read_manner` and `load_weights`,
    RuntimeError when the network attends otherwise than it says.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    manner = read_manner(folder)
    if manner.kind != "embedder":
        config, _ = read_config_and_tokenizer(folder)
        with torch.device("meta"):
            max_length = min(max_length, most_positions(AutoModel.from_config(config)) or max_length)
        return assemble(folder, manner.attention, max_length, None, layers, pooling, kernel)
    network, _ = load_encoder(folder, manner.attention, kernel)  # whose weights are all there, and finite
    used = {"attn_implementation": network.config._attn_implementation, "dtype": torch.float32}
    del network
    try:
        with quiet_loading():
            model = SentenceTransformer(folder, device=str(device()), local_files_only=True, model_kwargs=used)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"expected an embedder that sentence-transformers opens in {folder}, got {first_line(error)}: "
                         "save it again with save_pretrained") from error
    if layers is not None:
        keep_first(model[0].model, layers, folder)
    limits = (model.max_seq_length, most_positions(model[0].model), max_length)
    model.max_seq_length = min(limit for limit in limits if limit)
    leak_probe(model[0].model, model.tokenizer, manner.attention)
    return model.eval()


def _is_encoder(config: Any) -> bool:
    """Whether a configuration is that of a network made to fill gaps in a text, which sees it whole."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def _content(folder_or_id: str | Path, name: str) -> Any:
    """A JSON file of a model; None where it has none."""
    from transformers.utils import cached_file

    path = cached_file(str(folder_or_id), name, _raise_exceptions_for_missing_entries=False,
                       _raise_exceptions_for_connection_errors=False)
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected JSON in {name} of {folder_or_id}, got {first_line(error)}: save the model "
                         "again") from error
