"""Decoder language models: where they are, loading them causal or bidirectional, and the proof that they are which.

Attention is switched by `config.is_causal` on the configuration object, which transformers 5 turns into the mask of
every layer under eager and SDPA and which survives saving. Some architectures ignore the flag and nothing in
transformers says so; `leak_probe` therefore looks at what the network does and not at what its configuration claims.
torch and transformers are imported inside the functions: chapters that only read tables must not wait for them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrsa.models.loading import Kernel, load_weights
from hrsa.models.positions import first_position
from hrsa.study import store
from hrsa.study.errors import first_line
from hrsa.study.runtime import device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Attention = Literal["causal", "bidirectional"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
PROBE_LENGTHS = (8, 5)  # tokens of the two rows of the leak probe: the second is padded, but for a batch of equals
HEAD_SIZE = 8  # of a miniature: the least that rotary positions turn in several frequencies
_TOLERANCE = 1e-6  # of the largest state: masked positions have weight 0, so that what is not seen moves nothing
_SAME = 1e-3  # of the largest state: between batches of other shapes, whose sums are rounded in another order
_ONE_WAY = 1e-4  # of what a change of a token moves later ones: below it, it moves no earlier one
_SAME_BF16 = 3e-2  # the same in bfloat16, of 8 bits


def load_lm(folder_or_id: str | Path, kernel: Kernel = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in float32 on `device()`, in eval mode, and its tokenizer with a pad token.

    Raises ValueError when there is no such model, or when it is an embedder's folder (saved bidirectional: as a
    language model it would see the tokens it is to predict).
    """
    from transformers import AutoModelForCausalLM

    config, tokenizer = read_config_and_tokenizer(folder_or_id)
    if config.get_text_config(decoder=True) is not config:
        raise ValueError(f"expected a language model of text alone, got {folder_or_id} of type {config.model_type}, a "
                         "model of text and something else: save its text part as a model of its own (the "
                         "configuration is `text_config`, the class the one for causal LMs)")
    if not getattr(config, "is_causal", True):
        raise ValueError(f"expected a causal language model, got an embedder's folder {folder_or_id} whose "
                         "configuration says is_causal=false: give the folder of the backbone it was trained from")
    return _load(AutoModelForCausalLM, folder_or_id, config, tokenizer, kernel), tokenizer


def load_encoder(folder_or_id: str | Path, attention: Attention = "causal", kernel: Kernel = "auto",
                 layers: int | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The network without its LM head, in float32 on `device()`, in eval mode, and its tokenizer with a pad token.

    Of a model of text and something else (images, sound) the text decoder is taken, a model of its own from then on.
    `attention` is set and then proved by `leak_probe`: RuntimeError for an architecture that cannot be switched.
    `layers` keeps the first so many blocks, then the final norm (pruned as in arXiv 2410.14578); None keeps all.
    Raises ValueError when there is no such model, or when it has fewer blocks.
    """
    from transformers import AutoModel

    if attention not in ("causal", "bidirectional"):
        raise ValueError(f"expected attention 'causal' or 'bidirectional', got {attention!r}")
    config, tokenizer = read_config_and_tokenizer(folder_or_id)
    text = config.get_text_config(decoder=True)
    text.is_causal = config.is_causal = attention == "causal"
    model = _load(AutoModel, folder_or_id, config, tokenizer, kernel)
    if text is not config:
        model = _text_part(model, folder_or_id)
    if layers is not None:
        keep_first(model, layers, folder_or_id)
    leak_probe(model, tokenizer, attention)
    if attention == "bidirectional" and model.config._attn_implementation == "eager" and model._supports_sdpa:
        model.set_attn_implementation("sdpa")  # of whoever opens an embedder's folder plainly
        try:
            leak_probe(model, tokenizer, attention)
        except RuntimeError as error:
            raise RuntimeError(f"{type(model).__name__} is bidirectional with the kernel eager and not with SDPA, by "
                               f"which an embedder's folder is opened elsewhere: {error}") from error
        model.set_attn_implementation("eager")
    return model, tokenizer


def keep_first(model: PreTrainedModel, layers: int, folder_or_id: str | Path) -> None:
    """Drop all but the first `layers` blocks of a network; what its configuration lists per block is cut alike.
    ValueError when it has fewer, or none in one list."""
    config, depth = model.config, model.config.num_hidden_layers
    if layers > depth:
        raise ValueError(f"expected recipe.layers of at most the {depth} blocks of {folder_or_id}, got {layers}: lower "
                         "it, or leave it out to keep them all")
    found = block_list(model)
    if found is None:
        raise ValueError(f"expected a network with a list of {depth} blocks to keep the first {layers} of, got "
                         f"{type(model).__name__}: leave recipe.layers out")
    module, name, blocks = found
    setattr(module, name, blocks[:layers])
    for name, value in vars(config).items():  # layer_types, no_rope_layers, ...
        if "layer" in name and isinstance(value, list | tuple) and len(value) == depth:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers


def block_list(model: torch.nn.Module) -> tuple[torch.nn.Module, str, torch.nn.ModuleList] | None:
    """Where a network keeps its blocks: the module, the attribute and the list; None when they are not in one list."""
    import torch

    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    return next(((module, name, child) for module in model.modules() for name, child in module.named_children()
                 if isinstance(child, torch.nn.ModuleList) and len(child) == depth), None)


def _text_part(model: PreTrainedModel, folder_or_id: str | Path) -> PreTrainedModel:
    """The text decoder of a model of text and something else. ValueError when it is no model of its own."""
    from transformers import AutoModel, PreTrainedModel

    part = model.get_decoder()
    if part is model or not isinstance(part, PreTrainedModel) or type(part.config) not in AutoModel._model_mapping:
        raise ValueError(f"expected a decoder language model, got {folder_or_id} of type {model.config.model_type}, a "
                         f"model of text and something else whose text part ({type(part).__name__}) transformers does "
                         "not load as a model of its own: take another model")
    part.config.pad_token_id = model.config.pad_token_id
    return part


@contextlib.contextmanager
def flash_attention(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, attention: Attention) -> Iterator[None]:
    """Inside, `model` attends by FlashAttention 2; a `leak_probe` in bfloat16 proves how, since libraries that ignore
    `is_causal` under this kernel are known. ValueError where it cannot be had (no card, no package, architecture)."""
    import torch

    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("flash_attention_2")
    except (ImportError, ValueError) as error:
        raise ValueError(f"expected FlashAttention 2 for {type(model).__name__} on {device()}, got {first_line(error)} "
                         "Give recipe.kernel: auto, or install flash-attn on a machine with a card") from error
    try:
        with torch.autocast(device().type, torch.bfloat16):
            leak_probe(model, tokenizer, attention, _SAME_BF16)
        yield
    finally:
        model.set_attn_implementation(before)


def leak_probe(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, attention: Attention,
               same: float = _SAME) -> None:
    """Prove by perturbation that `model` attends as `attention` says and never to padding, in batches of every kind.

    On a row alone, rows of equal length, and rows of different length padded left and padded right: changing a row's
    last token must move its first state when bidirectional and must not when causal; changing the tokens under the
    padding must move nothing; and a row has the same states alone and in any batch (padding on the left, which shifts
    absolute positions, excepted), within `same` of the largest state. Some architectures are bidirectional only where a
    batch has padding.
    When bidirectional, no block may look back only, as recurrent blocks and short convolutions do between blocks that
    attend. Works for any model that returns hidden states, with or without LM head or adapters. Raises RuntimeError.
    """
    expected = attention == "bidirectional"
    whole, short = PROBE_LENGTHS
    states = {}
    for lengths, side in (((whole,), "no"), ((whole, whole), "no"), (PROBE_LENGTHS, "left"), (PROBE_LENGTHS, "right")):
        states[lengths, side], moved, leaked = _perturb(model, tokenizer, lengths, side)
        if any(m != expected for m in moved):
            raise RuntimeError(
                f"expected {attention} attention: the first state of each row should "
                f"{'move' if expected else 'stay'} when its last token changes; got moved={moved} for rows of "
                f"{lengths} tokens with {side} padding in {type(model).__name__}. Set config.is_causal on the "
                "configuration object, or take an architecture that transformers can switch")
        if leaked:
            raise RuntimeError(
                f"expected states that do not depend on padding, got states that move when the tokens under the "
                f"{side} padding change in {type(model).__name__}: pass the attention mask to the model, or take "
                "another attention kernel")
    alone, equal, padded = (states[key] for key in (((whole,), "no"), ((whole, whole), "no"), (PROBE_LENGTHS, "right")))
    second = _states(model, *_rows(model, tokenizer, (whole, short), "right", only=1))
    for what, first, other in (("rows of equal length", alone[0], equal[0]), ("a padded batch", alone[0], padded[0]),
                               ("a padded batch", second[0], padded[1, :short])):
        if not (difference := float((first - other).abs().max() / first.abs().max())) <= same:
            raise RuntimeError(
                f"expected a row to have the same states alone and in {what}, got a difference of {difference:.2g} of "
                f"the largest state in {type(model).__name__} with {attention} attention: take another attention "
                "kernel or an architecture that transformers can switch")
    if expected and (blocks := _one_way_blocks(model, tokenizer)):
        raise RuntimeError(f"expected bidirectional attention in every block, got {len(blocks)} that only look back "
                           f"(the first is {blocks[0]}) in {type(model).__name__}: they are recurrent or convolve, and "
                           "no setting turns them; give attention: causal, or take an architecture that attends in "
                           "every block")


def _one_way_blocks(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Index and class of the blocks that carry a change of a token to later tokens and to no earlier one."""
    import torch

    found = []

    def watch(block: torch.nn.Module, inputs: tuple, named: dict[str, Any], output: Any) -> None:
        states = inputs[0] if inputs else named.get("hidden_states")
        before = output if isinstance(output, torch.Tensor) else output[0]  # (1, t, ...)
        if not isinstance(states, torch.Tensor) or states.shape[:2] != (1, PROBE_LENGTHS[0]):
            return
        changed, middle = states.clone(), states.shape[1] // 2
        changed[:, middle] = states[:, 1]
        named = named | ({} if inputs else {"hidden_states": changed})
        after = block.forward(*((changed, *inputs[1:]) if inputs else ()), **named)
        moved = ((after if isinstance(after, torch.Tensor) else after[0]) - before).abs().flatten(2).amax(-1)[0]  # (t,)
        later = moved[middle + 1:].max()
        if later > _TOLERANCE * before.abs().max() and moved[:middle].max() < _ONE_WAY * later:
            found.append(f"{names[block]} {type(block).__name__}")

    where = block_list(model)
    names = {block: i for i, block in enumerate(where[2] if where else ())}
    handles = [block.register_forward_hook(watch, with_kwargs=True) for block in names]
    try:
        _states(model, *_rows(model, tokenizer, PROBE_LENGTHS[:1], "no"))
    finally:
        for handle in handles:
            handle.remove()
    return found


def prove_architecture(shape: Mapping[str, Any], attention: Attention) -> None:
    """Prove that the architecture of a configuration can attend as `attention` says, without its weights.

    `shape` as config.json names its fields. `leak_probe` judges a miniature of two blocks with the architecture's
    heads, of `HEAD_SIZE` dimensions each, and random weights. RuntimeError for one that cannot be switched.
    """
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    heads = shape["num_attention_heads"]
    config = AutoConfig.for_model(
        shape["model_type"], hidden_size=heads * HEAD_SIZE, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=shape.get("num_key_value_heads") or heads, head_dim=HEAD_SIZE, vocab_size=64,
        intermediate_size=2 * heads * HEAD_SIZE, pad_token_id=0, bos_token_id=None, eos_token_id=None,
        initializer_range=0.2)
    config.is_causal = attention == "causal"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0})), pad_token="<pad>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
    leak_probe(model, tokenizer, attention)


def _rows(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, lengths: tuple[int, ...], side: str,
          only: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (b, t) and mask (b, t) of probe rows padded on `side`; of the row `only` alone without its padding."""
    import torch

    vocabulary = model.get_input_embeddings().num_embeddings
    length = max(lengths)
    ids = torch.linspace(1, vocabulary - 1, 2 * length).long().reshape(2, length)[: len(lengths)]  # (b, t)
    mask = torch.stack([torch.arange(length) < n for n in lengths])  # (b, t)
    if side == "left":
        mask = mask.flip(1)
    ids[~mask] = tokenizer.pad_token_id
    return (ids, mask) if only is None else (ids[only][mask[only]][None], mask[only][mask[only]][None])


def _perturb(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, lengths: tuple[int, ...],
             side: str) -> tuple[torch.Tensor, list[bool], bool]:
    """States (b, t, d); per row whether its first moves with its last token; whether any moves with the padding."""
    import torch

    vocabulary = model.get_input_embeddings().num_embeddings
    ids, mask = _rows(model, tokenizer, lengths, side)
    rows = torch.arange(len(lengths))
    first = mask.long().argmax(1)  # (b,)
    last = first + mask.sum(1) - 1  # (b,)
    other_last, other_pad = ids.clone(), ids.clone()
    other_last[rows, last] = (ids[rows, last] + vocabulary // 2) % vocabulary
    if side == "right" or not _counts_pads(model):
        other_pad[~mask] = (ids[~mask] + vocabulary // 2) % vocabulary
    before, after_last = (_states(model, x, mask) for x in (ids, other_last))  # (b, t, d)
    least = _TOLERANCE * before[mask].abs().max()
    moved = (after_last - before)[rows, first].abs().amax(-1) > least  # (b,)
    if mask.all() or (side == "left" and first_position(model)):  # other tokens there would shift its positions
        return before, moved.tolist(), False
    after_pad = _states(model, other_pad, mask)
    return before, moved.tolist(), bool(((after_pad - before)[mask].abs() > least).any())


def _counts_pads(model: torch.nn.Module) -> bool:
    """Whether positions are counted from the pad tokens themselves, as encoders of the RoBERTa kind do: another token
    under padding on the left would be counted as text."""
    return any(hasattr(module, "create_position_ids_from_input_ids") for module in model.modules())


def _states(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Final hidden states (b, t, d) in float64 on the CPU, without dropout."""
    import torch

    training = model.training
    where = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()
            output = model(input_ids=ids.to(where), attention_mask=mask.long().to(where), output_hidden_states=True,
                           use_cache=False)
        widths = {states.shape[-1] for states in output.hidden_states}
        shapes = {tuple(states.shape[:-1]) for states in output.hidden_states}
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise RuntimeError(f"expected a decoder that gives the states of its layers for tokens and a mask, got "
                           f"{type(model).__name__} ({first_line(error)}): take an architecture that transformers can "
                           "switch") from error
    finally:
        model.train(training)
    if len(widths) > 1:
        raise RuntimeError(f"expected states of one width in all layers, got the widths {sorted(widths)} in "
                           f"{type(model).__name__}: layers of unequal width cannot be compared, take another model")
    if shapes != {tuple(ids.shape)}:
        raise RuntimeError(f"expected one state a token in every layer, got arrays of {sorted(shapes)} states for "
                           f"{tuple(ids.shape)} tokens in {type(model).__name__}: its layers pass on several states a "
                           "token, which cannot be compared with one; take another model")
    return output.hidden_states[-1].double().cpu()


def network_folder(folder_or_id: str | Path) -> str | Path:
    """Where in an embedder's folder the network is (older ones have `0_Transformer`); any other is returned as it is.
    """
    modules = Path(folder_or_id) / "modules.json"
    if not modules.is_file() or (Path(folder_or_id) / "config.json").is_file():
        return folder_or_id
    return Path(folder_or_id) / store.read_json(modules)[0]["path"]


def read_config_and_tokenizer(folder_or_id: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Configuration, and tokenizer with a pad token (the end-of-text token where it has none)."""
    from transformers import AutoConfig, AutoTokenizer

    folder_or_id = network_folder(folder_or_id)
    _check(folder_or_id)
    try:
        config = AutoConfig.from_pretrained(folder_or_id)
        tokenizer = AutoTokenizer.from_pretrained(folder_or_id)
    except (OSError, ValueError) as error:
        raise _unreachable(folder_or_id, error) from error
    if getattr(config, "is_encoder_decoder", False) or getattr(type(config), "is_encoder_decoder", False):
        raise ValueError(f"expected a decoder language model, got {folder_or_id} of type {config.model_type}, an "
                         "encoder-decoder, whose layers are two stacks: give a decoder")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"expected a tokenizer with a pad or end-of-text token in {folder_or_id}, got neither: "
                             "set tokenizer.pad_token and save the tokenizer again")
        tokenizer.pad_token = tokenizer.eos_token
    return config, tokenizer


def _load(auto: Any, folder_or_id: str | Path, config: Any, tokenizer: PreTrainedTokenizerBase,
          kernel: Kernel) -> PreTrainedModel:
    """`load_weights` on `device()`, in eval mode, with the tokenizer's pad token in the configuration."""
    config.pad_token_id = tokenizer.pad_token_id
    try:
        model = load_weights(auto, network_folder(folder_or_id), config, kernel)
    except OSError as error:
        raise _unreachable(folder_or_id, error) from error
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ValueError(f"expected an architecture that transformers loads by {auto.__name__}, got {folder_or_id} of "
                         f"type {config.model_type}: take another model") from error
    return model.to(device()).eval()


def _check(folder_or_id: str | Path) -> None:
    """ValueError unless this is a complete folder or reads like a hub id."""
    if Path(folder_or_id).is_dir() or isinstance(folder_or_id, Path) or not HUB_ID.fullmatch(folder_or_id):
        check_folder(Path(folder_or_id))


def check_folder(folder: Path) -> None:
    """ValueError unless the folder holds a model's configuration and a tokenizer."""
    if not folder.is_dir():
        raise ValueError(f"expected a model folder (or a hub id such as Qwen/Qwen2.5-0.5B), got {folder}, which is "
                         "not there: correct the backbone's path in the profile")
    for what, names in (("a model (config.json)", ("config.json",)), ("a tokenizer", TOKENIZER_FILES)):
        if not any((folder / name).is_file() for name in names):
            got = sorted(p.name for p in folder.iterdir())
            raise ValueError(f"expected {what} in {folder}, got the files {got}: save model and tokenizer into one "
                             "folder with save_pretrained")


def _unreachable(folder_or_id: str | Path, error: Exception) -> ValueError:
    """The error for a folder that does not load or a hub id that cannot be fetched."""
    reason = first_line(error)
    return ValueError(f"expected a loadable model, got {folder_or_id} ({reason}): for a hub id connect to the hub or "
                      "download the model beforehand and give its folder in the profile; for a folder, save it anew")
