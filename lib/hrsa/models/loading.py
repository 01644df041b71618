"""Weights from files: whole, all of them and no others, finite, in float32, and without a word on the screen.

transformers fills what a checkpoint lacks with random numbers and only logs it. Its loading report is read here, and a
model that is not exactly what its files say is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrsa.study.errors import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kernel = Literal["auto", "sdpa", "eager", "flash_attention_2"]
_UNUSED = "pooler."  # of an encoder: a layer behind its states, for classifiers of sentences
_LFS = b"version https://git-lfs"
_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without progress bars and loading tables of transformers: on a page of the book a bar is a warning."""
    from transformers.utils import logging as library

    bars, level = library.is_progress_bar_enabled(), library.get_verbosity()
    library.disable_progress_bar()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def check_weight_files(folder: Path) -> None:
    """ValueError unless the folder has weights as safetensors, every such file whole."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for end in ("bin", "pt", "pth") for file in folder.glob(f"*.{end}"))
        got = f"pickles, {pickles}, which can run any code" if pickles else "no weights"
        raise ValueError(f"expected a loadable model in {folder}: weights as model.safetensors, got {got}: load it "
                         "where it is trusted and save it with save_pretrained, which writes safetensors")
    for file in files:
        if (fault := _fault(file)) is not None:
            raise ValueError(f"expected whole weights in {file}, got {fault}: copy or download the file again")


def _fault(file: Path) -> str | None:
    """What is wrong with a safetensors file, by its header and its length; None for a whole one."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(len(_LFS))
        if first == _LFS:
            return "a Git LFS pointer in place of the weights (run `git lfs pull`)"
        length = int.from_bytes(first[:8], "little")
        if size < 8 or not 2 <= length <= size - 8:
            return "an empty file" if size == 0 else f"{size} bytes that are no safetensors file, or the start of one"
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "a header that is not that of a safetensors file"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"{size} bytes where its header says {expected}"


def load_weights(auto: Any, folder_or_id: str | Path, config: Any, kernel: Kernel) -> PreTrainedModel:
    """The model of the class that `auto` picks with the weights in a folder or of a hub id, in float32.

    kernel: of attention; auto is SDPA, or eager for an architecture that has no SDPA; so is flash_attention_2, which
    computes nothing in float32 (`language_model.flash_attention` switches to it for training). Raises ValueError when a
    weight is missing, unexpected, of another shape or not finite, and OSError when there is no such model.
    """
    if Path(folder_or_id).is_dir():
        check_weight_files(Path(folder_or_id))
    kernel = "auto" if kernel == "flash_attention_2" else kernel
    with quiet_loading():
        try:
            model, report = _read(auto, folder_or_id, config, "sdpa" if kernel == "auto" else kernel)
        except ValueError as error:
            if "attention implementation" not in str(error) and "scaled_dot_product_attention" not in str(error):
                raise
            if kernel != "auto":
                raise ValueError(f"expected an architecture with the attention kernel {kernel}, got {folder_or_id} "
                                 f"({first_line(error)}): give the kernel auto or eager") from error
            _LOG.info("%s has no SDPA attention: eager is used", config.model_type)
            model, report = _read(auto, folder_or_id, config, "eager")
    _check_report(model, report, folder_or_id)
    return model


def _read(auto: Any, folder_or_id: str | Path, config: Any, kernel: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    import torch

    return auto.from_pretrained(folder_or_id, config=config, dtype=torch.float32, attn_implementation=kernel,
                                use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True)


def counted_names(found: Mapping[str, Sequence[str]], most: int) -> list[str]:
    """"2 missing (a, b)" for each kind of names that there are some of, with the first `most` of them."""
    return [f"{len(names)} {what} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
            for what, names in found.items() if names]


def _check_report(model: PreTrainedModel, report: dict[str, Any], folder_or_id: str | Path) -> None:
    """ValueError when the report tells of weights that are not those of the checkpoint, or when one is not finite."""
    import torch

    head = _of_the_head(model, set(report["unexpected_keys"])) if report["unexpected_keys"] else set()
    found = {
        "missing": sorted(name for name in report["missing_keys"] if not name.startswith(_UNUSED)),
        "unexpected": sorted(name for name in set(report["unexpected_keys"]) - head if not name.startswith(_UNUSED)),
        "of another shape": sorted(str(entry[0]) for entry in report["mismatched_keys"]),
        "NaN or infinite": [name for name, weights in model.named_parameters() if not torch.isfinite(weights).all()],
    }
    if faults := counted_names(found, 3):
        raise ValueError(f"expected in {folder_or_id} exactly the weights of the {type(model).__name__} that its "
                         f"config.json describes, all finite, got {'; '.join(faults)}: give the "
                         "config.json that belongs to the weights, or save the model again with save_pretrained")


def _of_the_head(model: PreTrainedModel, names: set[str]) -> set[str]:
    """Those of the names in a checkpoint that are weights which the network's language model, or what it was pretrained
    as, has beyond the network, by their names in files or by those that transformers gives them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForPreTraining
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    found = set()
    for auto in (AutoModelForCausalLM, AutoModelForPreTraining, AutoModelForImageTextToText):
        try:
            with torch.device("meta"), quiet_loading():
                whole = auto.from_config(model.config)
        except (ValueError, TypeError, AttributeError):
            continue
        head = {name for name in whole.state_dict() if not name.startswith(f"{whole.base_model_prefix}.")}
        renamings = [one for one in get_model_conversion_mapping(whole) if isinstance(one, WeightRenaming)]
        found |= {name for name in names if head & {name, *(one.rename_source_key(name)[0] for one in renamings)}}
    return found
