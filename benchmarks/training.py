"""Contrastive steps against sentence-transformers' CachedMultipleNegativesRankingLoss: speed, memory, agreement.

    python benchmarks/training.py [--threads 1] [--batch 128] [--rounds 5] [--write benchmarks/training.md]

Texts are queries and passages of the suite's training tasks, in their own lengths and proportions, with 3 negatives
drawn from the same task; the model is a random Qwen3 of 6 layers x 224 with a tokenizer trained on these texts, in
float32 without dropout. Every passage of a batch is another text and no score is masked on our side, for the peer
masks none: only so are both losses the same. Ours and theirs run in turn; seconds are CPU seconds of this process.
Memory is the growth of the peak resident set of a process of its own over one step (Linux only).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS, PEER, BUDGET = "ours", "peer, 32 texts", "peer, token budget"
MEMORY = (64, 256, 1024, 2048)  # batch sizes of the memory runs
MAX_LENGTH, CHUNK, TEMPERATURE = 128, 4096, 0.05  # 4096 tokens are what 32 texts of 128 tokens take


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
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
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from hrsa import paths  # noqa: E402
from hrsa.backbone import prepare  # noqa: E402
from hrsa.export import assemble, export  # noqa: E402
from hrsa.infonce import InfoNCE  # noqa: E402

NEGATIVES = 3


def suite_texts() -> pd.DataFrame:
    """Training pairs of the suite [task, query, positive], without repeats."""
    files = sorted((paths.SUITE / "train").glob("*.parquet"))
    tables = [pd.read_parquet(f)[["query", "positive"]].assign(task=f.stem) for f in files]
    return pd.concat(tables).drop_duplicates("query").drop_duplicates("positive").reset_index(drop=True)


def write_model(folder: Path, texts: pd.DataFrame, hidden: int, layers: int) -> None:
    """A random Qwen3 and a byte-level BPE tokenizer of 8,192 tokens trained on the texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<pad>", "<end>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(texts[["query", "positive"]].to_numpy().ravel().tolist(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, head_dim=hidden // 4,
                         num_attention_heads=4, num_key_value_heads=2, intermediate_size=3 * hidden, pad_token_id=0,
                         eos_token_id=1, max_position_embeddings=256, tie_word_embeddings=True)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def batch_of(model: SentenceTransformer, texts: pd.DataFrame, size: int, seed: int) -> list[dict]:
    """Tokenised columns query, positive and negatives; a batch is of one task, as in training, all texts different."""
    chance = np.random.default_rng(seed)
    counts = texts["task"].value_counts()
    tasks = counts[counts >= (1 + NEGATIVES) * size]
    chosen = chance.choice(tasks.index, p=tasks / tasks.sum()) if len(tasks) else None
    rows = texts if chosen is None else texts[texts["task"] == chosen]
    rows = rows.iloc[chance.permutation(len(rows))[: (1 + NEGATIVES) * size]]
    passages = rows["positive"].to_numpy().reshape(1 + NEGATIVES, size)
    return [model.preprocess(list(column)) for column in (rows["query"].to_numpy()[:size], *passages)]


def make_loss(kind: str, model: SentenceTransformer) -> torch.nn.Module:
    if kind == OURS:
        return InfoNCE(model, TEMPERATURE, CHUNK)
    size = {"mini_batch_num_tokens": CHUNK} if kind == BUDGET else {"mini_batch_size": CHUNK // MAX_LENGTH}
    return CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **size)


def labels_of(features: list[dict]) -> dict[str, torch.Tensor]:
    """Identifiers under which no text repeats another."""
    rows = len(features[0]["input_ids"])
    ids = torch.arange(rows * len(features)).reshape(len(features), rows).T
    return {"ids": ids, "known": ids[:, 1:2]}


def step(kind: str, model: SentenceTransformer, features: list[dict]) -> tuple[float, float]:
    """CPU seconds of forward and backward pass, and the loss; the gradient stays in the model."""
    model.zero_grad()
    loss_module, labels = make_loss(kind, model), labels_of(features) if kind == OURS else None
    began = time.process_time()
    loss = loss_module([dict(column) for column in features], labels)
    loss.backward()
    return time.process_time() - began, float(loss.detach())


def gradient(model: SentenceTransformer) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])


def compare(model: SentenceTransformer, texts: pd.DataFrame, batch: int, rounds: int) -> tuple[pd.DataFrame, str]:
    """Interleaved rounds, each on another batch: speed of each, and how far loss and gradient are apart."""
    kinds, rows, apart = (OURS, PEER, BUDGET), [], []
    for index in range(rounds + 1):  # the first round warms up
        features = batch_of(model, texts, batch, index)
        tokens = sum(int(column["attention_mask"].sum()) for column in features)
        results = {}
        for kind in kinds[index % 3:] + kinds[: index % 3]:
            seconds, loss = step(kind, model, features)
            results[kind] = seconds, loss, gradient(model)
        ours = results[OURS]
        for kind in (PEER, BUDGET):
            _, loss, other = results[kind]
            apart.append((abs(loss - ours[1]) / abs(loss), float((other - ours[2]).norm() / other.norm())))
        if index:
            rows += [{"round": index, "loss": kind, "speed": tokens / results[kind][0],
                      "ratio": results[kind][0] / ours[0]} for kind in kinds]
    table = pd.DataFrame(rows).groupby("loss", sort=False)[["speed", "ratio"]].median()
    loss, grad = np.max(apart, axis=0)
    return table, (f"Largest relative difference over {len(apart)} comparisons: loss {loss:.1e}, gradient {grad:.1e} "
                   "(length of the difference over length of the gradient).")


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


def saving(model: SentenceTransformer, folder: Path, seconds: float) -> str:
    """What intermediate checkpoints cost beside training."""
    times = []
    for index in range(5):
        began = time.process_time()
        export(model, folder / f"checkpoint-{index}")
        times.append(time.process_time() - began)
    once = statistics.median(times)
    return (f"An intermediate checkpoint takes {once:.3f} s where a step takes {seconds:.2f} s: 3 in 40 steps (default "
            f"profile) add {3 * once / (40 * seconds):.2%}, 4 in 782 steps (published recipe) "
            f"{4 * once / (782 * seconds):.3%}.")


def machine(threads: int) -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").is_file() else []
    return (f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {threads} thread(s), torch "
            f"{torch.__version__}, {time.strftime('%Y-%m-%d')}")


def report(options: argparse.Namespace) -> str:
    texts = suite_texts()
    with tempfile.TemporaryDirectory() as temporary:
        folder, small = Path(temporary) / "model", Path(temporary) / "small"
        write_model(folder, texts, 224, 6)
        write_model(small, texts, 64, 2)
        model = assemble(str(folder), "bidirectional", MAX_LENGTH).train()
        table, agreement = compare(model, texts, options.batch, options.rounds)
        seconds = step(OURS, model, batch_of(model, texts, options.batch, 1))[0]
        saved = saving(model, Path(temporary), seconds)
        memory = {kind: peak(kind, options.batch, folder, options.threads) for kind in table.index}
        flat = {size: peak(OURS, size, small, options.threads) for size in MEMORY}
    size = sum(p.numel() for p in model.parameters())
    lines = [f"{machine(options.threads)}. Model of {size / 1e6:.1f} M parameters, float32; {options.batch} queries, "
             f"{NEGATIVES} negatives, at most {MAX_LENGTH} tokens; {options.rounds} interleaved rounds.", "",
             "| loss | tokens/s (median) | seconds, relative to ours (median) | growth of the peak, MB |",
             "|---|---|---|---|"]
    lines += [f"| {kind} | {row['speed']:,.0f} | {row['ratio']:.2f} | {memory[kind]:.0f} |"
              for kind, row in table.iterrows()]
    lines += ["", agreement, "Duplicate masking is off in this comparison (the peer has none).", "", saved, "",
              f"Growth of the peak with the batch, a model of 2 layers x 64, {CHUNK} tokens held at once:", "",
              "| queries | growth of the peak, MB |", "|---|---|"]
    return "\n".join([*lines, *(f"| {batch:,} | {value:.0f} |" for batch, value in flat.items())]) + "\n"


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
