"""How large each stage was run, and what memory it took: tokens, layers, width, corpus, sequence length.

    python benchmarks/limits.py [--only comparison …] [--write docs/limits.md]
    python benchmarks/limits.py --one 3     # the fourth row alone

Models are random ones of the size named, texts are random words; all else is the study's own code, one thread. Each row
has a process of its own; memory is its peak resident set above what importing took; seconds depend on what else the
machine does. Beside it stands what was set or estimated beforehand: `memory_mb` of a comparison, and what `hrsa plan`
says of a training.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pandas as pd

HEAD = "| stage | size | seconds | peak MB | set or estimated MB |"
RUNS: list[tuple[str, dict[str, int]]] = [
    ("comparison", {"layers": 13, "tokens": 4_000, "width": 576}),
    ("comparison", {"layers": 1, "tokens": 50_000, "width": 128}),
    ("comparison", {"layers": 1, "tokens": 4_000, "width": 2_048}),
    ("intervals", {"layers": 1, "tokens": 20_000, "width": 128, "resamples": 200}),
    ("recording", {"texts": 400, "length": 128, "layers": 12, "width": 256}),
    ("recording", {"texts": 12, "length": 4_096, "layers": 4, "width": 128}),
    ("training", {"queries": 64, "passages": 3, "length": 128, "layers": 8, "width": 256}),
    ("training", {"queries": 2_048, "passages": 3, "length": 32, "layers": 2, "width": 64}),
    ("training", {"queries": 4, "passages": 3, "length": 4_096, "layers": 2, "width": 64}),
    ("scores", {"documents": 30_000, "queries": 500, "length": 32, "layers": 2, "width": 64}),
    ("negatives", {"passages": 100_000, "queries": 500, "width": 384}),
    ("verdict", {"seeds": 12, "tasks": 20, "queries": 100_000}),
]


def write_model(folder: Path, layers: int, width: int, length: int) -> Callable[[int, int, int], list[str]]:
    """A random Qwen2 of a size, and what makes random texts (count, tokens, seed) of words that are one token each."""
    import training_setup

    texts = training_setup.suite_texts()
    training_setup.write_model(
        folder, texts, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=3 * width, max_position_embeddings=2 * length)
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))["model"]["vocab"]
    known = sorted(token[1:] for token in vocabulary if re.fullmatch("Ġ[a-z]{3,}", token))

    def words(count: int, tokens: int, seed: int = 0) -> list[str]:
        drawn = np.random.default_rng(seed).integers(0, len(known), (count, tokens))
        return [" ".join(known[i] for i in row) for row in drawn]

    return words


def comparison(work: Path, layers: int, tokens: int, width: int, resamples: int = 0) -> tuple[Callable, float]:
    from similarity_limits import write_states

    from hrsa.similarity import compare_layers
    from hrsa.similarity.budget import MEMORY_MB, least_mb
    from hrsa.similarity.metrics import METRICS, ON_REQUEST

    metrics = [name for name in METRICS if name not in ON_REQUEST]
    if resamples:
        metrics = [name for name in metrics if METRICS[name].family != "procrustes"]
    files = write_states(work, layers, tokens, width)
    options = {"texts": np.arange(tokens) // 40, "resamples": resamples, "rng": np.random.default_rng(0)}
    needed, _ = least_mb([width] * layers, [width] * layers, tokens, metrics, 50, resamples)
    sides = ([np.load(file, mmap_mode="r") for file in side] for side in files)
    return lambda: compare_layers(*sides, metrics, layers="matched", threads=1, **(options if resamples else {})), max(
        MEMORY_MB, needed)


def recording(work: Path, texts: int, length: int, layers: int, width: int) -> tuple[Callable, None]:
    from hrsa.analysis.recordings import write_states
    from hrsa.models.embedder import assemble
    from hrsa.study.sections import Analysis

    words = write_model(work / "model", layers, width, length)
    model = assemble(str(work / "model"), "causal", length)
    table = pd.DataFrame({"id": [f"t{i}" for i in range(texts)], "set": "texts", "text": words(texts, length),
                          "difficulty": "", "topic": None, "target": np.nan})
    used = Analysis(texts_per_set=texts, max_length=length, max_tokens=50_000, probe_texts=texts)
    (work / "states").mkdir()
    return lambda: write_states(work / "states", model, table, used, "limits"), None


def training(work: Path, queries: int, passages: int, length: int, layers: int, width: int) -> tuple[Callable, float]:
    from hrsa.study.profile import Recipe
    from hrsa.training.train import train_on_triples
    from hrsa.workflow.plan import counted_size, training_memory

    words = write_model(work / "model", layers, width, length)
    recipe = Recipe(batch_size=queries, steps=1, hard_negatives=passages - 1, max_length=length, precision="fp32",
                    gradient_checkpointing=False, chunk_tokens=4_096, warmup_ratio=0)
    texts = words(queries * (1 + passages), length - 12)
    columns = [texts[i * queries : (i + 1) * queries] for i in range(1 + passages)]
    triples = pd.DataFrame({"task": "t", "instruction": "find.", "query": columns[0], "positive": columns[1],
                            "negatives": list(map(list, zip(*columns[2:], strict=True)))})
    config = pd.read_json(work / "model" / "config.json", typ="series").to_dict()
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "intermediate_size", "vocab_size", "tie_word_embeddings")
    size = counted_size({name: config[name] for name in names})
    return lambda: train_on_triples(str(work / "model"), "random", triples, recipe, 0, work / "out",
                                    work / "unfinished", "limits"), training_memory(size, recipe, 1) / 2**20


def scores(work: Path, documents: int, queries: int, length: int, layers: int, width: int) -> tuple[Callable, None]:
    from hrsa.evaluation.encoder import InstructedEncoder, model_meta
    from hrsa.evaluation.evaluate import run_task
    from hrsa.evaluation.tasks import local_task
    from hrsa.models.embedder import assemble
    from hrsa.texts.suite import EvalTask

    words = write_model(work / "model", layers, width, length)
    model = assemble(str(work / "model"), "causal", length)
    corpus = pd.DataFrame({"id": [f"d{i}" for i in range(documents)], "text": words(documents, length)})
    asked = pd.DataFrame({"id": [f"q{i}" for i in range(queries)], "text": words(queries, length // 2, seed=1)})
    task = EvalTask("Limits", "retrieval", False, "find.", "ndcg_at_10", corpus=corpus, queries=asked,
                    qrels={f"q{i}": {f"d{i}": 1} for i in range(queries)})
    return lambda: run_task(InstructedEncoder(model, model_meta("limits", "1"), "causal"), local_task(task),
                            work / "scores"), None


def negatives(work: Path, passages: int, queries: int, width: int) -> tuple[Callable, None]:
    from mining import Generator

    from hrsa.study.profile import Mining
    from hrsa.texts import hard_negatives

    found, position = [f"p{i:08d}" for i in range(passages)], np.random.default_rng(0).permutation(passages)[:queries]
    return lambda: hard_negatives.find_negatives(
        [f"q{i:08d}" for i in position], ["Find."] * queries, found, position, Generator(width, 0),
        Mining(embedder="generator"), 3), None


def verdict(work: Path, seeds: int, tasks: int, queries: int) -> tuple[Callable, None]:
    from hrsa.verdict import verdict as decide

    rng = np.random.default_rng(0)
    a = rng.random((1, queries)) + rng.normal(0, 0.02, (seeds, queries))
    b, names = a + rng.normal(0, 0.03, (seeds, queries)), np.arange(queries) % tasks
    return lambda: decide(a, b, 0.02, names), None


STAGES = {"comparison": comparison, "intervals": comparison, "recording": recording, "training": training,
          "scores": scores, "negatives": negatives, "verdict": verdict}


def told(size: dict[str, int]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in size.items())


def highest() -> float:
    """Peak resident set of this process in MB (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def one(at: int) -> None:
    """A row: its stage prepared, then its peak measured while it runs."""
    import torch

    from hrsa.study.runtime import prepare

    prepare(1, 0)
    torch.use_deterministic_algorithms(False)
    stage, size = RUNS[at]
    with tempfile.TemporaryDirectory() as work:
        run, stated = STAGES[stage](Path(work), **size)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf8")  # forget the peak so far
        before, began = highest(), time.perf_counter()
        run()
        seconds, peak = time.perf_counter() - began, highest() - before
    set_to = f"{stated:,.0f}" if stated else ""
    sys.stdout.write(f"| {stage} | {told(size)} | {seconds:.1f} | {peak:,.0f} | {set_to} |\n")


def page(rows: list[str]) -> str:
    """The page of docs: the table, and what says beforehand that something will not fit."""
    text = " ".join((__doc__ or "").split("\n\n")[-1].split())
    return "\n".join([
        "# Limits", "", "Printed by `python benchmarks/limits.py`. What is larger has not been run. " + text, "",
        HEAD, "|---|---|--:|--:|--:|", *rows, "", "Of more than 50,000 tokens, what counts neighbours or pairs of "
        "tokens takes a seeded sample; more tokens a text than the network has positions for are refused.", "",
        "What says so before it starts: a comparison that cannot keep `analysis.memory_mb` is refused, and so is a "
        "study with such a pair (`make book`); `make plan` and `make rehearse` tell whether a training fits the memory "
        "of the machine, and what to change; states of a model take their room on the disk before the first is "
        "written. Recorded states are mapped files: their pages count in the peak, and the system may take them back.",
        ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--one", type=int, help="a single row, started by this script itself")
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    if options.one is not None:
        one(options.one)
        return
    rows: list[Any] = []
    for at, (stage, _) in enumerate(RUNS):
        if stage in options.only:
            command = [sys.executable, __file__, "--one", str(at)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"expected a row of {RUNS[at]}, got:\n{done.stderr[-2000:]}")
            rows.append(done.stdout.strip().splitlines()[-1])
            print(rows[-1], flush=True)
    if options.write:
        options.write.write_text(page(rows), encoding="utf8")


if __name__ == "__main__":
    main()
