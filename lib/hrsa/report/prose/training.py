"""Tables and sentences of the chapter on training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hrsa.report.prose.scores import counted
from hrsa.study.profile import Profile, Recipe
from hrsa.texts.hard_negatives import make_triples, read_triples
from hrsa.texts.suite import query_prompt
from hrsa.training.fingerprint import flat, same_recipe

_CANDIDATES, _SHOWN = 300, 400  # passages among which an example is sought, and characters of it that are shown
_REASONS = {"duplicates": "duplicate", "known": "known positive", "near": "near positive"}
_ALL = "all tasks"
_PROOF = {"data": "data and order", "learning_rate": "learning rates", "seed": "seed",
          "start.weights": "start: weights", "start.tokenizer": "start: tokenizer",
          "start.parameters": "start: parameters"}  # field of a fingerprint -> column
_HASH = 12  # characters of a hash that are shown
_LAST = 10  # steps whose mean loss says how training ended


def cut_counts(curve: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """What training consumed of each task and, last, of all, and how many of these texts lost tokens.

    curve: as `train.read_training_curve` gives it. Columns: task, steps, queries, queries_cut, passages, passages_cut,
    share (of all texts); a text counts each time it is consumed, and tokens are those of the backbone's own tokenizer.
    """
    steps = curve.groupby("task", sort=False).agg(
        steps=("step", "size"), queries_cut=("queries_cut", "sum"), passages_cut=("passages_cut", "sum"))
    steps = pd.concat([steps, steps.sum().rename(_ALL).to_frame().T]).rename_axis("task").reset_index()
    queries = steps["steps"] * recipe.batch_size
    passages = queries * (1 + recipe.hard_negatives)
    share = (steps["queries_cut"] + steps["passages_cut"]) / (queries + passages)
    table = steps.assign(queries=queries, passages=passages, share=share)
    return table[["task", "steps", "queries", "queries_cut", "passages", "passages_cut", "share"]]


def chance_loss(recipe: Recipe) -> float:
    """The loss (nats per query) of a model that cannot tell the passages of a batch apart: the log of their number."""
    return float(np.log(recipe.batch_size * (1 + recipe.hard_negatives)))


def loss_sentence(curve: pd.DataFrame, recipe: Recipe) -> str:
    """Where the loss began and ended, and whether the end is below chance; `_LAST` steps or a quarter make an end."""
    last = min(_LAST, max(1, len(curve) // 4))
    end, chance = curve["loss"].tail(last), chance_loss(recipe)
    error = end.std(ddof=1) / np.sqrt(last) if last > 1 else np.inf
    said = ("clearly below chance" if end.mean() + 2 * error < chance else
            "above chance" if end.mean() > chance else "below chance, and not clearly so")
    steps = "step" if last == 1 else f"{last} steps"
    return (f"The loss began at {curve['loss'].iloc[0]:.2f} nats per query. Over the last {steps} its mean is "
            f"{end.mean():.2f}, {said} ({chance:.2f}).")


def masked(curve: pd.DataFrame) -> pd.DataFrame:
    """Scores left out of each step's loss [step, reason, scores]; a score counts for the first reason that holds."""
    return pd.concat([pd.DataFrame({"step": curve["step"], "reason": reason, "scores": curve[column]})
                      for column, reason in _REASONS.items()], ignore_index=True)


def masked_sentence(curve: pd.DataFrame, recipe: Recipe) -> str:
    """How many scores were left out, for which reason, and by which margin near positives were sought."""
    whole = len(curve) * recipe.batch_size**2 * (1 + recipe.hard_negatives)
    counts = curve[list(_REASONS)].sum()
    steps = int((curve[list(_REASONS)].sum(axis=1) > 0).sum())
    margin = recipe.near_positive_margin
    near = (f"{counted(counts['near'], 'near positive', ',')} (more than {margin:g} nearer to the query than its own "
            "passage)"
            if margin is not None else
            "no near positives, since the recipe sets no `near_positive_margin` (nor does the published one)")
    return (f"In {counted(len(curve), 'step')} {counts.sum():,} of {whole:,} scores were masked "
            f"({counts.sum() / whole:.2%}), in {steps} of the steps at least one: "
            f"{counted(counts['duplicates'], 'duplicate', ',')}, "
            f"{counted(counts['known'], 'known positive', ',')}, and {near}.")


def nearest(profile: Profile, model_id: str) -> pd.DataFrame:
    """An example from the largest training task: a query, its positive and the passage nearest to it [what, cosine,
    text]; of the first `_CANDIDATES` triples the first whose nearest passage is another, else the first of all."""
    from hrsa.models.embedder import embed
    from hrsa.training.train import make_model

    triples = read_triples(make_triples(profile))
    triples = triples[triples["task"] == triples["task"].mode()[0]].head(_CANDIDATES)
    passages = list(dict.fromkeys(triples["positive"]))
    model = make_model(profile, model_id)
    x = embed(model, list(triples["query"]), query_prompt(triples["instruction"].iloc[0]))  # (b, d)
    cosines = x @ embed(model, passages).T  # (b, p)
    own = np.array([passages.index(text) for text in triples["positive"]])
    best = cosines.argmax(1)
    i = int(np.argmax(best != own))
    rows = [("query", None, triples["query"].iloc[i]), ("its positive", cosines[i, own[i]], passages[own[i]]),
            ("nearest passage", cosines[i, best[i]], passages[best[i]])]
    return pd.DataFrame([(what, cosine, text[:_SHOWN]) for what, cosine, text in rows],
                        columns=["what", "cosine", "text"])


def _fingerprints_by_seed(profile: Profile) -> dict[int, dict[str, dict[str, Any]]]:
    from hrsa.training.train import make_fingerprints

    arms = [model for model in profile.models() if model.seed is not None and model.ablation is None]
    found = {}
    for seed in profile.seeds:
        ids, records = [model.id for model in arms if model.seed == seed], {}
        for id in ids:
            if id not in records:  # those of the other finished arms come with it
                records |= make_fingerprints(profile, id)
        found[seed] = {id: records[id] for id in ids}
    return found


def all_fingerprints(profile: Profile) -> pd.DataFrame:
    """What the embedders of the recipe were trained on and from, a row each: [embedder and the columns of
    `_PROOF`], hashes shortened."""
    rows = [{"embedder": id, **{name: str(flat(record)[field])[:_HASH] for field, name in _PROOF.items()}}
            for records in _fingerprints_by_seed(profile).values() for id, record in records.items()]
    return pd.DataFrame(rows, columns=["embedder", *_PROOF.values()])


def arms_sentence(profile: Profile) -> str:
    """That the arms of each seed agree in all but their start; ValueError of `same_recipe` names what differs."""
    by_seed = _fingerprints_by_seed(profile)
    fields = {seed: len(same_recipe(records)) for seed, records in by_seed.items()}
    arms = sorted({profile.model(id).backbone for records in by_seed.values() for id in records})
    starts = min(len({record["start"]["weights"] for record in records.values()}) for records in by_seed.values())
    twice = "." if starts == len(arms) else ": some backbone was trained twice under two names."
    return (f"Within each seed ({', '.join(map(str, by_seed))}) the arms ({', '.join(arms)}) agree in all "
            f"{min(fields.values())} recorded fields. They are {len(arms)} arms and start from {starts} different "
            f"weights{twice}")
