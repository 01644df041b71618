"""How many blocks, which rate: embedders of cut models on pairs of the training tasks that were left out of training.

    python benchmarks/depth.py [--profile mini] [--steps 40] [--write benchmarks/depth.md] 8 8:2e-4 8:5e-4:lora …

Each configuration is blocks[:rate[:lora]]. An embedder is trained by the profile's recipe from its first backbone, on
the profile's training pairs but for `--held-out` of each task; those are then the queries, and the passages of the
whole task the corpus. Shown is the mean reciprocal rank over tasks, of the cut backbone as it came (causal) and of the
embedder (bidirectional), and the loss. No evaluation text is read: what is chosen here is chosen blindly. One thread,
one seed; lines are printed as they come.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pandas as pd

from hrsa.models.embedder import assemble, open_embedder
from hrsa.models.resolve import make_backbone_folder
from hrsa.study.profile import Lora, Profile, Recipe, load_profile
from hrsa.study.runtime import prepare
from hrsa.texts.hard_negatives import make_triples, read_triples
from hrsa.texts.suite import query_prompt
from hrsa.training.train import read_training_curve, train_on_triples

HEADER = "| blocks | trained | rate | untrained | trained embedder | first loss | loss, last ten | seconds a step |"


def recipe_of(profile: Profile, configuration: str, steps: int) -> Recipe:
    """The profile's recipe with the blocks, the rate and the adapters of a configuration such as 8:5e-4:lora."""
    blocks, rate, lora = (*configuration.split(":"), "", "")[:3]
    change = {"layers": int(blocks), "steps": steps, "checkpoints": (), "lora": Lora() if lora else None}
    return profile.recipe.model_copy(update=change | ({"learning_rate": float(rate)} if rate else {}))


def split(triples: pd.DataFrame, held_out: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on, and the `held_out` of each task, drawn with a fixed seed."""
    left = triples.groupby("task").sample(held_out, random_state=0)
    return triples.drop(left.index).reset_index(drop=True), left


def mean_reciprocal_rank(model, queries: pd.DataFrame, corpus: pd.DataFrame) -> float:
    """Mean over tasks of the mean reciprocal rank of each query's positive among its task's passages."""
    found = []
    for task, part in queries.groupby("task"):
        passages = sorted(corpus.loc[corpus["task"] == task, "positive"].unique())
        prompt = query_prompt(part["instruction"].iloc[0])
        x = model.encode(part["query"].tolist(), prompt=prompt, normalize_embeddings=True)  # (q, d)
        y = model.encode(passages, normalize_embeddings=True)  # (n, d)
        scores = x @ y.T  # (q, n)
        own = scores[np.arange(len(part)), [passages.index(text) for text in part["positive"]]]
        found.append((1 / (1 + (scores > own[:, None]).sum(axis=1))).mean())
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configurations", nargs="+")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    profile = load_profile(options.profile)
    triples = read_triples(make_triples(profile))
    learn, left = split(triples, options.held_out)
    name = profile.backbones[0].name
    backbone = make_backbone_folder(profile, name)
    recipe = profile.recipe
    lines = [f"`python benchmarks/depth.py --profile {profile.name} --steps {options.steps} "
             f"{' '.join(options.configurations)}`", "",
             f"Mean reciprocal rank over {left['task'].nunique()} training tasks, {len(left)} pairs left out; "
             f"{options.steps} steps of {recipe.batch_size} queries with {recipe.hard_negatives} hard negatives, "
             f"{recipe.max_length} tokens, one thread, one seed. Chance is a loss of "
             f"{np.log(recipe.batch_size * (1 + recipe.hard_negatives)):.2f}.", "", HEADER,
             "|" + "---|" * (HEADER.count("|") - 1)]
    print("\n".join(lines), flush=True)
    for configuration in options.configurations:
        lines.append(_try(configuration, recipe_of(profile, configuration, options.steps), backbone, name, learn, left,
                          triples))
        print(lines[-1], flush=True)
    if options.write:
        options.write.write_text("# Blocks and rate, on held-out pairs of the training tasks\n\n" + "\n".join(lines)
                                 + "\n", encoding="utf8")


def _try(configuration: str, recipe: Recipe, backbone: str, name: str, learn: pd.DataFrame, left: pd.DataFrame,
         corpus: pd.DataFrame) -> str:
    """One row of the table."""
    before = mean_reciprocal_rank(assemble(backbone, "causal", recipe.max_length, layers=recipe.layers), left, corpus)
    with tempfile.TemporaryDirectory() as place:
        prepare(1, 0)
        folder, work = Path(place) / "embedder", Path(place) / "work"
        folder.mkdir()
        clock = time.monotonic()
        train_on_triples(backbone, name, learn, recipe, 0, folder, work, configuration)
        seconds = time.monotonic() - clock
        loss = read_training_curve(folder)["loss"]
        after = mean_reciprocal_rank(open_embedder(folder / "model"), left, corpus)
    how = "LoRA" if recipe.lora else "all weights"
    return (f"| {recipe.layers} | {how} | {recipe.learning_rate:g} | {before:.3f} | {after:.3f} | {loss.iloc[0]:.2f} | "
            f"{loss.tail(10).mean():.2f} | {seconds / recipe.steps:.1f} |")


if __name__ == "__main__":
    main()
