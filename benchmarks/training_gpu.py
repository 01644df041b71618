"""Contrastive steps at the published size on one GPU: speed, share of the card's matrix peak, memory, beside the peer.

    python benchmarks/training_gpu.py [--batch 2048] [--rounds 3] [--tiny] [--write benchmarks/training_gpu.md]

**Not measured yet: no GPU has been at hand.** What is tested is that it runs, on a CPU with `--tiny`.

Model: Qwen2.5-1.5B's shape with random weights in float32, bfloat16 autocast, gradient checkpointing; batch: 2,048
queries with 3 negatives of at most 512 tokens, texts as in `training.py`. The peer is sentence-transformers'
CachedMultipleNegativesRankingLoss with the best of several mini-batch sizes; sizes that do not fit are said. A step is
forward and backward pass, without the optimiser; times are wall-clock after synchronising. The matrix peak is measured
here with one large product in bfloat16. Useful operations: 6 for each weight outside the embeddings and each token,
and 12 t^2 d for the attention of each layer to a text of t tokens; passes that gradient caching and gradient
checkpointing repeat are not counted, so that a share of 60% would be the most.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from training_setup import NEGATIVES, batch_of, labels_of, make_loss, suite_texts, write_model
from transformers.utils import logging

from hrsa.models.embedder import assemble
from hrsa.study.runtime import device

QWEN = {"vocab_size": 151_936, "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960,
        "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 2048}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64}
OURS = "ours, 65536 tokens"  # the published recipe's `chunk_tokens`
PEERS = ("peer, 32 texts", "peer, 64 texts", "peer, 128 texts", "peer, 256 texts")
MAX_LENGTH, SIDE = 512, 8192  # tokens of a text; rows of the matrices whose product measures the peak


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for a CPU")
    parser.add_argument("--write", type=Path, help="Markdown file for the printed table")
    return parser.parse_args(given)


def now() -> float:
    """Wall-clock seconds when all that was asked of the card is done."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matrix_peak(side: int) -> float:
    """Operations per second of a bfloat16 product of two (side, side) matrices, the best of five."""
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device()) for _ in range(2))
    seconds = []
    for _ in range(6):  # the first warms up
        began = now()
        torch.mm(a, b)
        seconds.append(now() - began)
    return 2 * side**3 / min(seconds[1:])


def useful(model: SentenceTransformer, features: list[dict]) -> tuple[int, float]:
    """Tokens of a batch, and operations that a step needs for them."""
    encoder = model[0].model
    outside = sum(p.numel() for p in encoder.parameters()) - encoder.get_input_embeddings().weight.numel()
    lengths = torch.cat([column["attention_mask"].sum(1) for column in features]).double()  # (n,)
    attention = 12 * encoder.config.num_hidden_layers * encoder.config.hidden_size * float((lengths**2).sum())
    return int(lengths.sum()), 6 * outside * float(lengths.sum()) + attention


def step(kind: str, model: SentenceTransformer, features: list[dict]) -> tuple[float, float, float] | None:
    """Seconds, peak memory (GB; 0 on a CPU) and loss of one step; None when it does not fit."""
    model.zero_grad(set_to_none=True)
    where, card = device(), device().type == "cuda"
    labels = labels_of(features) if kind == OURS else None
    columns = [{k: v.to(where) if torch.is_tensor(v) else v for k, v in column.items()} for column in features]
    labels = labels and {name: value.to(where) for name, value in labels.items()}
    if card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = now()
    try:
        with torch.autocast(where.type, torch.bfloat16):
            loss = make_loss(kind, model)(columns, labels)
        loss.backward()
    except torch.OutOfMemoryError:
        return None
    return now() - began, torch.cuda.max_memory_allocated() / 1e9 if card else 0.0, float(loss.detach())


def compare(model: SentenceTransformer, texts: pd.DataFrame, options: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """Interleaved steps of ours and of the peer's best size: medians of tokens/s, operations/s and memory."""
    first, rows = batch_of(model, texts, options.batch, 0), []
    step(OURS, model, first)  # warms up
    tried = {kind: step(kind, model, first) for kind in PEERS}
    fits = {kind: found[0] for kind, found in tried.items() if found}
    said = ", ".join(f"{kind.removeprefix('peer, ')} {f'{fits[kind]:.2f} s' if kind in fits else 'out of memory'}"
                     for kind in PEERS)
    kinds = [OURS, *([min(fits, key=fits.get)] if fits else [])]
    for index in range(options.rounds):
        features = batch_of(model, texts, options.batch, 1 + index)
        tokens, operations = useful(model, features)
        for kind in kinds[index % len(kinds):] + kinds[: index % len(kinds)]:
            found = step(kind, model, features)
            if found is None:
                raise MemoryError(f"expected {kind} to fit, got out of memory in round {index}: lower --batch")
            seconds, memory, loss = found
            rows.append({"kind": kind, "speed": tokens / seconds, "rate": operations / seconds, "memory": memory,
                         "loss": loss})
    return pd.DataFrame(rows).groupby("kind", sort=False).median(), f"The peer's sizes, one step each: {said}."


def report(options: argparse.Namespace) -> str:
    """The table and what was measured on, in Markdown."""
    texts = suite_texts()
    with tempfile.TemporaryDirectory() as temporary:
        write_model(Path(temporary), texts.head(500) if options.tiny else texts, **(TINY if options.tiny else QWEN))
        model = assemble(temporary, "bidirectional", 32 if options.tiny else MAX_LENGTH).train()
    model[0].model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    table, said = compare(model, texts, options)
    most = matrix_peak(256 if options.tiny else SIDE)
    name = torch.cuda.get_device_name() if device().type == "cuda" else "a CPU (a trial of this script, no result)"
    size = sum(p.numel() for p in model.parameters())
    lines = [f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}. Model of {size / 1e6:,.1f} M "
             f"parameters, bfloat16 autocast, gradient checkpointing; {options.batch:,} queries, {NEGATIVES} "
             f"negatives; matrix peak {most / 1e12:,.2f} Tflop/s; {options.rounds} interleaved rounds, medians.", "",
             "| loss, embedded at once | tokens/s | share of the matrix peak | peak memory, GB |", "|---|--:|--:|--:|"]
    lines += [f"| {kind} | {row['speed']:,.0f} | {row['rate'] / most:.1%} | {row['memory']:.1f} |"
              for kind, row in table.iterrows()]
    return "\n".join([*lines, "", said]) + "\n"


def main(options: argparse.Namespace) -> int:
    if device().type != "cuda" and not options.tiny:
        sys.stderr.write("expected a CUDA device, got none: run on a machine with a GPU, or try it out with --tiny\n")
        return 1
    logging.disable_progress_bar()
    text = report(options)
    sys.stdout.write(text)
    if options.write:
        options.write.write_text(text, encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main(arguments()))
