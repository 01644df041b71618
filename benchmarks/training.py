"""Contrastive steps against sentence-transformers' CachedMultipleNegativesRankingLoss: speed, memory, agreement.

    python benchmarks/training.py [--threads 1] [--batch 96] [--rounds 4] [--write benchmarks/training.md]

Texts are queries and passages of the suite's training tasks, in their own lengths and proportions, with 3 negatives
drawn from the same task; the model is a random Qwen2 of 4 layers x 160 (that of the shipped backbones is 6 x 224)
with a tokenizer trained on these texts, in float32 without dropout. Every passage of a batch is another text and no
score is masked on our side, for the peer masks none: only so are both losses the same. Our mini-batches are those of
one budget of tokens; the peer gets the best of several mini-batch sizes and the best of several token budgets, chosen
here beforehand. Both then run in turn on the same batches; seconds are CPU seconds of this process, without
tokenising, which is the same for both. Memory is the growth of the peak resident set of a process of its own over one
step (Linux only). The cost of intermediate checkpoints is that of whole runs of
`hrsa train` with and without them.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = "ours, 4096 tokens"
PEERS = (("peer, 16 texts", "peer, 32 texts", "peer, 64 texts", "peer, 128 texts"),  # of each, the best takes part
         ("peer, 2048 tokens", "peer, 8192 tokens"))
MEMORY = (64, 512, 2048)  # batch sizes of the memory runs
MAX_LENGTH = 128
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
DEFAULT = {"hidden_size": 160, "num_hidden_layers": 4, "intermediate_size": 448, **HEADS}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 192, **HEADS}
RUN = {"batch_size": 16, "steps": 24, "hard_negatives": 2, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32",
       "gradient_checkpointing": False, "chunk_tokens": 8192}  # the default profile's recipe, shortened
KEPT = (8,)  # intermediate checkpoints of the runs that keep some: as often as the default profile's 2 in 48


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--one", help="a memory run, started by this script itself")
    parser.add_argument("--model", type=Path, help="its model")
    parser.add_argument("--write", type=Path, help="Markdown file for the printed tables")
    return parser.parse_args()


if __name__ == "__main__":  # thread counts are read when the numerical libraries load
    OPTIONS = arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(OPTIONS.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from training_setup import NEGATIVES, batch_of, gradient, labels_of, make_loss, suite_texts, write_model  # noqa: E402

from hrsa.models.embedder import assemble  # noqa: E402
from hrsa.study.profile import Recipe  # noqa: E402
from hrsa.study.runtime import prepare  # noqa: E402
from hrsa.training.train import train_on_triples  # noqa: E402


def step(kind: str, model: SentenceTransformer, features: list[dict]) -> tuple[float, float]:
    """CPU seconds of forward and backward pass, and the loss; the gradient stays in the model."""
    model.zero_grad()
    loss_module, labels = make_loss(kind, model), labels_of(features) if kind == OURS else None
    began = time.process_time()
    loss = loss_module([dict(column) for column in features], labels)
    loss.backward()
    return time.process_time() - began, float(loss.detach())


def chosen(model: SentenceTransformer, texts: pd.DataFrame, batch: int) -> tuple[list[str], str]:
    """The peer's quickest mini-batch size and its quickest token budget, by one step each, and all these seconds."""
    step(OURS, model, batch_of(model, texts, batch, 0))  # warms up
    features = batch_of(model, texts, batch, 1)
    seconds = {kind: step(kind, model, features)[0] for group in PEERS for kind in group}
    said = ", ".join(f"{kind.removeprefix('peer, ')} {value:.2f} s" for kind, value in seconds.items())
    return [min(group, key=seconds.get) for group in PEERS], f"The peer's choices beforehand, one step each: {said}."


def compare(model: SentenceTransformer, texts: pd.DataFrame, batch: int, rounds: int,
            peers: list[str]) -> tuple[pd.DataFrame, tuple[float, float]]:
    """Interleaved rounds, each on another batch: speed of each, and how far loss and gradient are apart (relative)."""
    kinds, rows, apart = (OURS, *peers), [], []
    for index in range(rounds):
        features = batch_of(model, texts, batch, 2 + index)
        tokens = sum(int(column["attention_mask"].sum()) for column in features)
        results = {}
        for kind in kinds[index % len(kinds):] + kinds[: index % len(kinds)]:
            seconds, loss = step(kind, model, features)
            results[kind] = seconds, loss, gradient(model)
        ours = results[OURS]
        for kind in peers:
            _, loss, other = results[kind]
            apart.append((abs(loss - ours[1]) / abs(loss), float((other - ours[2]).norm() / other.norm())))
        rows += [{"loss": kind, "speed": tokens / results[kind][0], "ratio": results[kind][0] / ours[0]}
                 for kind in kinds]
    table = pd.DataFrame(rows).groupby("loss", sort=False)[["speed", "ratio"]].median().loc[list(kinds)]
    loss, grad = np.max(apart, axis=0)
    return table, (float(loss), float(grad))


def peak(kind: str, batch: int, folder: Path, threads: int) -> float:
    """MB by which the peak resident set of a fresh process grows over one step."""
    command = [sys.executable, __file__, "--one", kind, "--batch", str(batch), "--model", str(folder),
               "--threads", str(threads)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def one(kind: str, batch: int, folder: Path) -> None:
    """A memory run: print the growth of the peak in MB."""
    model = assemble(str(folder), "bidirectional", MAX_LENGTH).train()
    texts = suite_texts()
    step(kind, model, batch_of(model, texts, 4, 0))  # gradients and what libraries keep are there beforehand
    features = batch_of(model, texts, batch, 1)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, which exec passes on from the parent
    before = highest()
    step(kind, model, features)
    sys.stdout.write(f"{highest() - before:.1f}\n")


def highest() -> float:
    """Peak resident set of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def checkpoints(folder: Path, texts: pd.DataFrame, work: Path) -> tuple[float, float]:
    """CPU seconds of a whole run, set-up and final export included, without and with intermediate checkpoints.

    After a run of one step that loads the libraries: four runs, without, with, with, without, of each the mean.
    """
    counts = texts["task"].value_counts()
    rows = texts[texts["task"] == counts.index[0]].head(RUN["batch_size"] * RUN["steps"])
    others = rows["positive"].tolist()
    triples = rows.assign(instruction="Find the passage", negatives=[
        [others[i - 1], others[i - 2]] for i in range(len(rows))]).reset_index(drop=True)
    seconds: dict[tuple, list[float]] = {(): [], KEPT: []}
    for index, kept in enumerate((None, (), KEPT, KEPT, ())):
        began = time.process_time()
        (work / str(index)).mkdir()
        recipe = Recipe(**{**RUN, "steps": 1}) if kept is None else Recipe(**RUN, checkpoints=kept)
        train_on_triples(str(folder), "random", triples, recipe, 0, work / str(index), work / f"{index}-work",
                         "benchmark")
        if kept is not None:
            seconds[kept].append(time.process_time() - began)
    return sum(seconds[()]) / 2, sum(seconds[KEPT]) / 2


def machine(threads: int) -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").is_file() else []
    return (f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {threads} thread(s), torch "
            f"{torch.__version__}, {time.strftime('%Y-%m-%d')}")


def report(options: argparse.Namespace) -> str:
    texts = suite_texts()
    with tempfile.TemporaryDirectory() as temporary:
        folder, small = Path(temporary) / "model", Path(temporary) / "small"
        write_model(folder, texts, **DEFAULT)
        write_model(small, texts, **SMALL)
        model = assemble(str(folder), "bidirectional", MAX_LENGTH).train()
        size = sum(p.numel() for p in model.parameters())
        peers, said = chosen(model, texts, options.batch)
        table, apart = compare(model, texts, options.batch, options.rounds, peers)
        memory = {kind: peak(kind, options.batch, folder, options.threads) for kind in table.index}
        flat = {batch: peak(OURS, batch, small, options.threads) for batch in MEMORY}
        without, kept = checkpoints(folder, texts, Path(temporary))
    lines = [f"{machine(options.threads)}. Model of {size / 1e6:.1f} M parameters, float32; {options.batch} queries, "
             f"{NEGATIVES} negatives, at most {MAX_LENGTH} tokens; {options.rounds} interleaved rounds, medians.", "",
             "| loss, embedded at once | tokens/s | seconds, relative to ours | growth of the peak, MB |",
             "|---|--:|--:|--:|"]
    lines += [f"| {kind} | {row['speed']:,.0f} | {row['ratio']:.2f} | {memory[kind]:.0f} |"
              for kind, row in table.iterrows()]
    lines += ["", said, "", f"Largest relative difference: loss {apart[0]:.1e}, gradient {apart[1]:.1e} (length of the "
              "difference over length of the gradient). Duplicate masking is off in this comparison (the peer has "
              "none).", "", f"Growth of the peak with the batch, a model of {SMALL['num_hidden_layers']} layers x "
              f"{SMALL['hidden_size']}, 4,096 tokens held at once:", "", "| queries | growth of the peak, MB |",
              "|--:|--:|", *(f"| {batch:,} | {value:.0f} |" for batch, value in flat.items()), "",
              f"Whole runs of {RUN['steps']} steps of {RUN['batch_size']} queries, set-up and final export included: "
              f"{without:.1f} s without intermediate checkpoints, {kept:.1f} s with {len(KEPT)}: ratio "
              f"{kept / without:.3f} (aim: at most 1.05).", "",
              "On a GPU (`benchmarks/training_gpu.py`): not measured yet, no GPU has been at hand."]
    return "\n".join(lines) + "\n"


def main(options: argparse.Namespace) -> None:
    prepare(options.threads, 0)
    torch.use_deterministic_algorithms(False)
    if options.one:
        one(options.one, options.batch, options.model)
        return
    text = report(options)
    sys.stdout.write(text)
    if options.write:
        options.write.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main(OPTIONS)
