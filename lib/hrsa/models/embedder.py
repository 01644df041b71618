"""Backbone -> SentenceTransformer, and its folder: pooling without the instruction, plain loading, LoRA merged.

Pooling leaves out the first `prompt_length` tokens of a query, and sentence-transformers takes that number from the
instruction tokenised alone. A byte-level tokenizer joins the instruction's last space with the query's first word, and
so does one that writes spaces as letters (Gemma, Llama): the number would be one too large and that word left out of
the mean. The tokenizer of an embedder therefore drops white space at the end of a text, before all else: the
instruction alone then has exactly the tokens that hold nothing of the query, but perhaps a last space, and
`prompt_tokens` proves it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrsa.models.adapters import merged
from hrsa.models.language_model import Attention, leak_probe, load_encoder
from hrsa.models.loading import Kernel, quiet_loading
from hrsa.models.positions import most_positions
from hrsa.study import store
from hrsa.study.runtime import device

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

Pooled = Literal["mean", "last"]
_MODES = {"mean": "mean", "last": "lasttoken"}  # what sentence-transformers calls them
EXPORT_TOLERANCE = 1e-5  # between unit vectors of the model as trained and as loaded from its folder, in float32
_STARTS = ("word", "Word", "7", "(", "é", "中")  # of queries, by which it is tried where an instruction ends


def exact_prompts(tokenizer: Any) -> Any:
    """The tokenizer with white space dropped at the end of a text; a class that would rebuild itself from its
    vocabulary when loaded (and so forget this) becomes the generic one. ValueError for a slow tokenizer."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    if not tokenizer.is_fast:
        raise ValueError(f"expected a fast tokenizer, got {type(tokenizer).__name__}: save the backbone with one")
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    strip = normalizers.Strip(left=False, right=True)
    backend.normalizer = normalizers.Sequence([strip, backend.normalizer]) if backend.normalizer else strip
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    special = {name: str(value) for name in names if (value := getattr(tokenizer, name)) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right", **special)


def prompt_tokens(tokenizer: Any, prompt: str) -> int:
    """How many leading tokens of an instructed query pooling leaves out: those of the instruction tokenised alone, but
    for an end token (a begin token counts), as sentence-transformers counts them.

    ValueError when before some query one of them holds something of the query, or the next one something of the
    instruction other than white space.
    """
    alone = tokenizer(prompt)["input_ids"]
    count = len(alone) - (bool(alone) and alone[-1] in tokenizer.all_special_ids)
    for start in _STARTS:
        spans = tokenizer(prompt + start, return_offsets_mapping=True)["offset_mapping"]
        inside = next((i for i, (_, end) in enumerate(spans) if end > len(prompt)), None)
        if inside is None:  # a character that the tokenizer drops
            continue
        if inside < count or prompt[spans[count][0] :].strip():
            raise ValueError(f"expected the instruction to end where a token ends, got {count} tokens alone and "
                             f"{inside} before the query {start!r} in {prompt!r} by {type(tokenizer).__name__}, so "
                             "that pooling would cut the query or take in the instruction: end the instruction "
                             "template otherwise, or take a model with another tokenizer")
    return count


def assemble(folder: str, attention: Attention, max_length: int, prompts: Mapping[str, str] | None = None,
             layers: int | None = None, pooling: Pooled = "mean", kernel: Kernel = "auto") -> SentenceTransformer:
    """The backbone in `folder` (or hub id) as a SentenceTransformer with cosine similarity.

    attention: as `language_model.load_encoder`, which proves it. max_length: tokens of a text, instruction included.
    prompts: name -> instruction prompt, saved with the model. layers: blocks kept, as `load_encoder`. pooling: the mean
    over a text's tokens, or the last of them that is not padding. kernel: of attention, as `loading.load_weights`.
    Raises ValueError when a prompt fills `max_length`, or that is more than the network has positions for.
    """
    from safetensors.torch import save_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder, tokenizer = load_encoder(folder, attention, kernel, layers)
    if (most := most_positions(encoder)) and max_length > most:
        raise ValueError(f"expected recipe.max_length of at most the {most} tokens that {folder} was made for, got "
                         f"{max_length}: lower it")
    tokenizer = exact_prompts(tokenizer)
    for prompt in (prompts or {}).values():
        if (length := prompt_tokens(tokenizer, prompt)) >= max_length:
            raise ValueError(f"expected an instruction of fewer tokens than max_length={max_length}, got {length} in "
                             f"{prompt!r}: raise recipe.max_length or shorten the instruction")
    with tempfile.TemporaryDirectory() as temporary:  # of this process: save_pretrained would write in rank 0 alone
        encoder.config.architectures, encoder.config.dtype = [type(encoder).__name__], encoder.dtype
        encoder.config.save_pretrained(temporary)
        save_model(encoder, str(Path(temporary) / "model.safetensors"), metadata={"format": "pt"})
        tokenizer.save_pretrained(temporary)
        used = {"attn_implementation": encoder.config._attn_implementation}
        del encoder
        with quiet_loading():
            transformer = Transformer(temporary, max_seq_length=max_length, model_kwargs=used)
    transformer.model.config.name_or_path = transformer.tokenizer.name_or_path = ""  # the folder is gone
    pool = Pooling(transformer.get_embedding_dimension(), _MODES[pooling], include_prompt=False)
    return SentenceTransformer(modules=[transformer, pool], prompts=dict(prompts or {}),
                               similarity_fn_name="cosine", device=str(device()))


def save_embedder(model: SentenceTransformer, folder: Path) -> None:
    """Write a folder that plain `SentenceTransformer(folder)` loads, whole or not at all."""
    with store.atomic(folder) as temporary:
        merged(model).save_pretrained(str(temporary), create_model_card=False)


def open_embedder(folder: Path, kernel: Kernel = "auto") -> SentenceTransformer:
    """The embedder in `folder`, on `hrsa.study.runtime.device()`; kernel: of attention, auto is the library's choice,
    and flash_attention_2, which computes nothing in float32, is auto here."""
    from sentence_transformers import SentenceTransformer

    used = {} if kernel in ("auto", "flash_attention_2") else {"attn_implementation": kernel}
    with quiet_loading():
        return SentenceTransformer(str(folder), device=str(device()), local_files_only=True, model_kwargs=used)


def embed(model: SentenceTransformer, texts: list[str], prompt: str | None = None) -> np.ndarray:
    """Unit vectors (n, d) of texts."""
    return model.encode(texts, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)


def check_export(model: SentenceTransformer, folder: Path, attention: Attention, queries: list[str], prompt: str,
                 passages: list[str]) -> dict[str, Any]:
    """Load `folder` plainly and prove that it embeds as `model` does and attends as `attention` says.

    Returns what was seen, for the record. Raises RuntimeError with the largest difference, or from the leak probe.
    """
    import numpy as np

    plain = open_embedder(folder)
    leak_probe(plain[0].model, plain.tokenizer, attention)
    pairs = [(embed(m, queries, prompt), embed(m, passages)) for m in (model, plain)]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(*pairs, strict=True))
    if not difference <= EXPORT_TOLERANCE:
        raise RuntimeError(f"expected the embedder loaded from {folder.name} to embed as trained, got unit vectors "
                           f"that differ by {difference:.2g} (at most {EXPORT_TOLERANCE:.0g}): its folder lacks "
                           "something that changes the embeddings")
    return {"attention": attention, "difference": difference, "texts": len(queries) + len(passages)}
