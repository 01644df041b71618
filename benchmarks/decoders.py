"""Every decoder architecture of transformers through the project's own loading: which attend how, and what is refused.

    python benchmarks/decoders.py [--only qwen3,llama] [--kept FOLDER] [--write docs/decoders.md]

Each model type that transformers maps to a causal LM is built tiny from its own configuration (few blocks, one of each
kind that the architecture mixes), with random weights and a tokenizer trained on a few texts, saved, and loaded by
`load_encoder` causal and bidirectional, with SDPA and with eager attention. `leak_probe` judges. One process each, so
that one that crashes stops no other; what `--kept` holds is not run again. One thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hrsa.models.language_model import load_encoder
from hrsa.study import store

PAGE = """# Decoders of transformers {version}

Printed by `python benchmarks/decoders.py --write docs/decoders.md`, and by no hand; a test checks that every model type
of the installed transformers is here, and that a few drawn by chance still are what their rows say.

Each type that transformers maps to a causal LM ({types}) is built tiny from its own configuration, with random weights,
and loaded as the study loads a backbone. What is asked of it is proved on rows alone, in batches of equal and of
unequal length, padded left and padded right, with SDPA and with eager attention (`leak_probe`).

{told}

`works`: both kernels. `works (eager)`: it has no SDPA, and eager attention is taken by itself. `with SDPA only`: the
recipe must not ask for eager. `refused`: the study stops before it trains, with the reason. `not built`: no tiny model
could be made here, or transformers itself fails on it. A mixture is judged by its default configuration, with a block
of each kind. The last rows are models of text and images beyond the mapping,
whose text decoder is taken. FlashAttention is proved when it is asked for, on the card.

{table}
"""
KERNELS = ("sdpa", "eager")
ATTENTIONS = ("bidirectional", "causal")
SECONDS = 120  # of one architecture
HEADER = "| model type | class | bidirectional | causal | why not |"
NO_SDPA = "with the attention kernel sdpa"
BRIEF = {  # what a refusal says -> the cell of the table
    "an encoder-decoder": "an encoder-decoder: two stacks of layers",
    "with the kernel eager and not with SDPA": "looks back only, whatever is asked, under SDPA without padding",
    "expected bidirectional attention:": "looks back only, whatever is asked",
    r"in every block, got .* \(the first is \d+ (\w+)\)": r"blocks that only look back (\1)",
    "expected causal attention:": "sees both ways, whatever is asked",
    "do not depend on padding": "reads what is under padding",
    "same states alone and in": "other states alone than in a batch",
    r"exactly the weights.*got (\d+ \w+.*?)(, \.\.\.|\)[;:])": r"transformers loads it with weights \1)",
    "widths": "layers of unequal width",
    r"states of its layers.*?got \w+ \((.*)\): take": r"gives no states for tokens and a mask: \1",
    "does not load as a model of its own": "its text part is no model of its own",
    "that transformers loads by AutoModel,": "transformers has no class for it without its LM head",
    "several states a token": "several states a token",
    r"expected a loadable model, got it \((.*?)\): for": r"does not load: \1",
}
TEXTS = ["A stone lies in the river of seven moons.", "Find the passage that answers the question.",
         "Green paper wanders to the end."]
WIDTH, VOCABULARY = 64, 320
_SIZES = {
    WIDTH: "hidden_size d_model n_embd emb_dim embedding_size embedding_dim intermediate_size ffn_dim "
           "decoder_ffn_dim encoder_ffn_dim ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size "
           "intermediate_size_mlp shared_intermediate_size dense_intermediate_size dff dim_ff d_inner "
           "feed_forward_size expert_ffn_hidden_size moe_shared_expert_intermediate_size "
           "shared_experts_intermediate_size word_embed_proj_dim lru_width d_ff attention_hidden_size "
           "input_embedding_size output_embedding_size hidden_size_global router_hidden_size prompt_mid_dim "
           "out_hidden_size input_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers num_blocks "
       "depth num_encoder_layers num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k "
       "num_key_value_heads swa_num_key_value_heads kv_n_heads n_shared_experts num_shared_experts "
       "moe_num_shared_experts max_window_layers num_query_groups top_k_experts",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads "
       "attention_heads num_experts num_local_experts n_routed_experts moe_num_experts swa_num_attention_heads "
       "index_n_heads linear_num_key_heads linear_num_value_heads linear_num_heads mamba_n_heads "
       "num_encoder_attention_heads num_decoder_attention_heads zero_expert_num",
    1: "topk_group n_group num_expert_group type_vocab_size mamba_n_groups n_groups mamba_ngroups "
       "first_k_dense_replace num_dense_layers moe_layer_start_index",
    16: "head_dim kv_lora_rank v_head_dim d_kv d_head dim_head swa_head_dim kv_channels linear_key_head_dim "
        "linear_value_head_dim linear_head_dim index_head_dim mamba_d_state state_size ssm_state_size "
        "mamba_head_dim laurel_rank adapter_rank q_lora_rank attention_head_size global_head_dim d_rel "
        "o_lora_rank mamba_dt_rank time_step_rank hidden_size_per_layer_input num_buckets",
    8: "qk_nope_head_dim qk_rope_head_dim rotary_dim chunk_size mamba_chunk_size index_topk",
    32: "mamba_d_head mamba_headdim",
    128: "max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length rel_extent "
         "mamba_d_ssm",
    VOCABULARY: "vocab_size vocab_size_per_layer_input decoder_vocab_size",
}
SIZES = {name: size for size, names in _SIZES.items() for name in names.split()}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks")
_QWEN4 = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
          "indexer_compress_ratio": 2, "ngram_vocab_size_base": 64, "split_ngram_parts": 1}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
OWN: dict[str, dict[str, Any]] = {  # what the sizes above do not fit
    "axk1": {"head_dim": 8},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8}, "ffn_config": {
        "hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "deepseek_v3": {"head_dim": 8},
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "hunyuan_v1_dense": {"head_dim": 16}, "hunyuan_v1_moe": {"head_dim": 16}, "ministral": {"head_dim": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "longcat_flash": {"qk_head_dim": 16, "head_dim": 8},
    "mamba2": {"head_dim": 16, "num_heads": 8},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "qwen4_exp_text": _QWEN4, "qwen4_exp": {"text_config": _QWEN4},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "lsh_attn_chunk_length": 16,
                 "local_attn_chunk_length": 16},
    "qwen2_vl": {"text_config": _MROPE}, "qwen2_5_vl": {"text_config": _MROPE},
    "xmod": {"default_language": "en_XX"}, "youtu": {"head_dim": 8},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32, "num_hidden_layers": 4,
              "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"mamba_headdim": 16, "attention_hidden_size": 128, "attention_head_dim": 32},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 32, "mamba_n_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "nemotron": {"num_key_value_heads": 2},
}


TEXT_PARTS = ("llava", "mistral3", "paligemma", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # more with a text decoder


def causal_types() -> dict[str, str]:
    """Every model type that transformers maps to a causal LM, and the class."""
    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that make it tiny; lists with an entry per block keep one block of each kind."""
    depth = next((config[name] for name in DEPTHS if isinstance(config.get(name), int)), None)
    blocks = {name: value for name, value in config.items() if isinstance(value, list | tuple) and len(value) == depth}
    kinds = list(zip(*blocks.values(), strict=True)) or [()] * 2
    kept = sorted({kinds.index(kind) for kind in kinds})[:4]
    kept = kept if len(kept) > 1 else [kept[0]] * 2
    small: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("config") and "model_type" in value:
            small[name] = shrink(value) | {"model_type": value["model_type"]}
        elif name in blocks:
            small[name] = [value[i] for i in kept]
        elif name in DEPTHS and value == depth:
            small[name] = len(kept)
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            small[name] = min(value, SIZES[name])
        elif name in ("initializer_range", "init_std"):
            small[name] = 0.2
        elif name.endswith("token_id") and value is not None:
            small[name] = {"pad_token_id": 0, "eos_token_id": 1}.get(name, 2)
    if "num_key_value_heads" in small and config["num_key_value_heads"] == config.get("num_attention_heads"):
        small["num_key_value_heads"] = small["num_attention_heads"]
    return small


def tiny_config(model_type: str) -> Any:
    """The configuration of a tiny model of this type."""
    own = OWN.get(model_type, {})
    try:
        full = transformers.AutoConfig.for_model(model_type)
    except ValueError:  # defaults that are none
        full = transformers.AutoConfig.for_model(model_type, **own)
    small = shrink(full.to_dict())
    for name, value in own.items():
        small[name] = small[name] | value if isinstance(small.get(name), dict) else value
    return transformers.AutoConfig.for_model(model_type, **small)


def write_model(model_type: str, folder: Path) -> None:
    """A random tiny causal LM of this type and its tokenizer, saved in `folder`."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "<end>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    torch.manual_seed(0)
    auto = transformers.AutoModelForImageTextToText if model_type in TEXT_PARTS else transformers.AutoModelForCausalLM
    config = tiny_config(model_type)
    config.save_pretrained(folder)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    tokenizer.save_pretrained(folder)
    model = auto.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():  # none is zero, as gates and biases often are at first
            weights.add_(0.05 * torch.randn_like(weights))
    model.save_pretrained(folder)


def judge(model_type: str) -> dict[str, str]:
    """What became of this type: `built`, and by attention and kernel, "works" or the reason of the refusal."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_model(model_type, Path(folder))
            found = {"built": "yes"}
        except Exception as error:
            found = {"built": f"{type(error).__name__}: {error}"}
        for attention in ATTENTIONS:
            for kernel in KERNELS:
                try:
                    load_encoder(folder, attention, kernel)
                    found[f"{attention} {kernel}"] = "works"
                except (ValueError, RuntimeError) as error:
                    found[f"{attention} {kernel}"] = str(error).replace(folder, "it")
                except Exception as error:
                    found[f"{attention} {kernel}"] = f"CRASH {type(error).__name__}: {error}"
    return found


def _write_judged(model_type: str, file: Path) -> None:
    with store.atomic(file) as temporary:
        temporary.write_text(json.dumps(judge(model_type)), encoding="utf8")


def judged(model_type: str, kept: Path) -> dict[str, str]:
    """`judge` in a process of its own, its answer kept in a file of `kept`."""
    file = kept / f"{model_type}.json"
    if not file.is_file():
        process = multiprocessing.get_context("fork").Process(target=_write_judged, args=(model_type, file))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        if not file.is_file():
            return {"built": f"no answer in {SECONDS} seconds, or a crash (exit code {process.exitcode})"}
    return store.read_json(file)


def brief(message: str) -> str:
    """What a refusal says, in the words of the table."""
    for pattern, words in BRIEF.items():
        if match := re.search(pattern, message, re.DOTALL):
            return " ".join(match.expand(words).split()).replace("|", "/")
    return " ".join(message.split())[:160].replace("|", "/")


def row(model_type: str, found: dict[str, str]) -> list[str]:
    """The cells of a type: its name, its class, both outcomes, and why not."""
    name = causal_types().get(model_type, "with a text part")
    cells, reasons = [], {}
    for attention in ATTENTIONS:
        sdpa, eager = (found.get(f"{attention} {kernel}", found["built"]) for kernel in KERNELS)
        if sdpa == eager == "works":
            cells.append("works")
        elif NO_SDPA in sdpa and eager == "works":
            cells.append("works (eager)")
        elif "works" in (sdpa, eager):
            cells.append("with kernel: eager" if eager == "works" else "with SDPA only")
            reasons[attention] = brief(sdpa if eager == "works" else eager)
        elif found["built"] != "yes" and "an encoder-decoder" not in eager:
            cells.append("not built")
            reasons[attention] = brief(found["built"])
        else:
            cells.append("refused")
            reasons[attention] = brief(eager if NO_SDPA in sdpa or "with the kernel eager" in eager else sdpa)
    both = len(set(reasons.values())) < len(reasons)
    why = next(iter(reasons.values())) if both else "; ".join(
        words if len(reasons) == 1 else f"{attention}: {words}" for attention, words in reasons.items())
    return [model_type, name, *cells, why]


def page(rows: list[list[str]]) -> str:
    """The page of docs: how many work, and the table."""
    first = [r for r in rows if r[0] in causal_types()]
    counts = {a: Counter(r[2 + i] for r in first) for i, a in enumerate(ATTENTIONS)}
    told = "\n".join(f"- {a}: " + ", ".join(f"{n} {word}" for word, n in counts[a].most_common()) for a in ATTENTIONS)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return PAGE.format(version=transformers.__version__, types=len(first), told=told,
                       table=f"{HEADER}\n|---|---|---|---|---|\n{table}")


def read_page(text: str) -> dict[str, list[str]]:
    """The rows of a page that `page` made, by model type."""
    lines = text.split(HEADER)[1].strip().splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {cells[0]: cells for cells in rows}


def _prepare() -> None:
    """Quiet, one thread, and what every architecture imports, once for all the processes that are forked."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    judge("llama")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    kept = options.kept or Path(tempfile.mkdtemp())
    kept.mkdir(parents=True, exist_ok=True)
    _prepare()
    rows = []
    for model_type in options.only.split(",") if options.only else (*causal_types(), *TEXT_PARTS):
        rows.append(row(model_type, judged(model_type, kept)))
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    if options.write:
        options.write.write_text(page(rows), encoding="utf8")


if __name__ == "__main__":
    main()
