"""LoRA adapters of zoo arms: trained in place of all weights, kept by themselves, and merged for every later stage.

Source: Hu et al. 2022 (arXiv 2106.09685), by peft.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrsa.models.loading import counted_names
from hrsa.study import store
from hrsa.study.errors import first_line
from hrsa.study.profile import Lora

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

FILES = ("adapter_config.json", "adapter_model.safetensors")
_SAME = 1e-3  # of the largest logit: between a model with adapters beside it and merged, which round differently


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Without warnings of peft's: it asks for a property that transformers 5 has renamed, and of experts that are
    one array it looks for modules."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match any")
        yield


def configuration(lora: Lora, task: Literal["CAUSAL_LM", "FEATURE_EXTRACTION"] = "CAUSAL_LM") -> LoraConfig:
    """Adapters on all linear layers but the LM head, of a language model or of a network without its head."""
    from peft import LoraConfig, TaskType

    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear",
                      task_type=TaskType[task])


def write(model: PeftModel, folder: Path) -> None:
    """Write the adapters of a peft model to `folder`, at once or not at all."""
    model.peft_config["default"].base_model_name_or_path = None  # a path of this machine otherwise
    with store.atomic(folder) as temporary:
        model.save_pretrained(temporary, selected_adapters=["default"])


def keep(trained: Path, folder: Path, start: str) -> None:
    """Copy the adapters in `trained` to the new folder `folder`, with the name of the model that they are for."""
    folder.mkdir()
    settings = store.read_json(trained / FILES[0]) | {"base_model_name_or_path": start}
    store.write_json(folder / FILES[0], settings)
    shutil.copy(trained / FILES[1], folder / FILES[1])


def apply(model: PreTrainedModel, folder: Path, or_unchanged: bool = False) -> PreTrainedModel:
    """`model` with the adapters in `folder` merged into its weights, in place.

    or_unchanged: adapters that change no weight will do, for an arm made here, whose card says how far it moved.
    ValueError when they do not fit, or in part; when no weight changes; when weights that they adapt or replace are
    tied to others; or when the merged model computes something else than the one with its adapters beside it.
    """
    import torch
    from peft import PeftModel
    from peft.utils import ModulesToSaveWrapper
    from safetensors import SafetensorError

    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"expected LoRA adapters in {folder}, got no {missing}: give the folder of an arm that was "
                         "trained with zoo.lora")
    try:
        with quiet_peft(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error of our own follows
            adapted = PeftModel.from_pretrained(model, folder)
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = first_line(error)
        raise ValueError(f"expected the adapters in {folder.name} to fit {type(model).__name__}, got: {reason}. Give "
                         "the model that they were trained on as start") from error
    layers = [module for module in adapted.modules() if hasattr(module, "get_delta_weight")]
    replaced = [module for module in adapted.modules() if isinstance(module, ModulesToSaveWrapper)]
    _refuse_tied(adapted, [*(module.get_base_layer() for module in layers),
                           *(module.original_module for module in replaced)], folder)
    with torch.no_grad():
        changed = any(module.get_delta_weight("default").count_nonzero() for module in layers)
    if not changed and not replaced and not or_unchanged:
        raise ValueError(f"expected adapters that change {type(model).__name__}, got adapters in {folder.name} that "
                         "change no weight: they are untrained, or made for a class of model whose layers have other "
                         "names (a task_type other than CAUSAL_LM); give the adapters of a trained causal LM")
    _refuse_other_names(adapted, folder)
    expected = _some_states(adapted)
    with quiet_peft():
        whole = adapted.merge_and_unload()
    if not (difference := float((_some_states(whole) - expected).abs().max() / expected.abs().max())) <= _SAME:
        raise ValueError(f"expected the model with the adapters in {folder.name} merged to compute what it computes "
                         f"with them beside it, got states that differ by {difference:.2g} of the largest: merge them "
                         "where they were trained and give the folder of the whole model")
    return whole


def _refuse_tied(model: PeftModel, modules: list[Any], folder: Path) -> None:
    """ValueError when a weight of these modules is one of others too."""
    counts: dict[int, int] = {}
    for module in model.get_base_model().modules():
        for weights in module.parameters(recurse=False):
            counts[id(weights)] = counts.get(id(weights), 0) + 1
    if any(counts.get(id(weights), 0) > 1 for module in modules for weights in module.parameters(recurse=False)):
        raise ValueError(f"expected adapters of layers with weights of their own, got in {folder.name} adapters of "
                         "tied embeddings, which would change what the model reads too: train without lm_head and the "
                         "embeddings among target_modules and modules_to_save")


def _refuse_other_names(model: PeftModel, folder: Path) -> None:
    """ValueError when the file of adapters lacks some that its settings name for this model, or has others."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / FILES[1], framework="pt") as file:
        given = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    found = {"without": sorted(wanted - given), "that it has no place for": sorted(given - wanted)}
    if faults := counted_names(found, 2):
        raise ValueError(f"expected adapters in {folder.name} for exactly the layers that its {FILES[0]} names in "
                         f"{type(model.get_base_model()).__name__}, got {' and '.join(faults)}: give the model that "
                         "they were trained on as start, and whole adapters")


def _some_states(model: Any) -> torch.Tensor:
    """Logits (1, t, v) of a few tokens, in float64 on the CPU."""
    import torch

    ids = torch.linspace(1, model.get_input_embeddings().num_embeddings - 1, 8).long()[None]  # (1, t)
    with torch.no_grad():
        return model.eval()(input_ids=ids.to(model.device)).logits.double().cpu()


def scaled(folder: Path, target: Path, factor: float) -> None:
    """Write the adapters in `folder` to the new folder `target`, changed so that they move weights by `factor` times as
    much."""
    from safetensors.torch import load_file, save_file

    target.mkdir(exist_ok=True)
    shutil.copy(folder / FILES[0], target / FILES[0])
    pairs = load_file(folder / FILES[1])
    save_file({name: value * factor if ".lora_B." in name else value for name, value in pairs.items()},
              target / FILES[1], metadata={"format": "pt"})


def relative_change(folder: Path, start: Path, other: Path | None = None) -> float:
    """||dW|| / ||W|| (Frobenius) over all matrices of the model in `start` that the adapters in `folder` are for.

    dW is their change, or its difference from that of `other`, adapters of the same matrices.
    """
    from safetensors import safe_open

    one = _products(folder)
    two = {} if other is None else _products(other)
    moved = size = 0.0
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in sorted(start.glob("*.safetensors"))]
        where = {name: file for file in files for name in [*file.keys()]}
        for name, (a, b) in one.items():
            parts = [(a, b)] + ([(two[name][0], -two[name][1])] if two else [])
            moved += sum(((p.T @ q) * (r @ s.T)).sum().item() for r, p in parts for s, q in parts)
            size += where[name].get_tensor(name).double().square().sum().item()
    return (max(moved, 0.0) / size) ** 0.5


def _products(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By name of a matrix, A (r, d_in) and B (d_out, r) of its change B A, in float64."""
    from safetensors.torch import load_file

    settings, pairs = store.read_json(folder / FILES[0]), load_file(folder / FILES[1])
    share = settings["lora_alpha"] / settings["r"]
    return {name.removeprefix("base_model.model.").replace(".lora_A.", "."): (
        value.double(), share * pairs[name.replace(".lora_A.", ".lora_B.")].double())
        for name, value in pairs.items() if ".lora_A." in name}


def add_lora(model: SentenceTransformer, lora: Lora) -> None:
    """Put LoRA adapters on all linear layers, in place, and freeze the rest (arXiv 2106.09685).

    ValueError where they cannot be put: on a mixture of experts, whose experts are one array, with dropout.
    """
    from peft import get_peft_model

    try:
        with quiet_peft():
            model[0].model = get_peft_model(model[0].model, configuration(lora, "FEATURE_EXTRACTION"))
    except ValueError as error:
        raise ValueError(f"expected a network that takes LoRA adapters, got {type(model[0].model).__name__} "
                         f"({first_line(error)}): give lora.dropout: 0 for a mixture of experts, or train all "
                         "weights") from error


def merged(model: SentenceTransformer) -> SentenceTransformer:
    """The model itself, or with adapters a copy that has them merged into its weights."""
    from peft import PeftModel

    if not isinstance(model[0].model, PeftModel):
        return model
    whole = copy.copy(model)
    whole._modules = dict(model._modules)
    whole._modules["0"] = copy.copy(model[0])
    whole[0]._modules = {**model[0]._modules, "model": copy.deepcopy(model[0].model).merge_and_unload()}
    return whole
