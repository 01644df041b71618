"""The cards of a profile's zoo backbones as tidy tables, and what they allow to be said."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hrsa import paths
from hrsa.profile import Profile
from hrsa.zoo.make import make_backbone

Cards = dict[str, dict[str, Any]]
MODES = ("sampled", "greedy")
WAYS = ("worked", "direct")


def cards(profile: Profile) -> Cards:
    """The card of every zoo backbone of the profile by name, made first where needed; ValueError when it has none."""
    names = [b.name for b in profile.backbones if b.source == "zoo"]
    if not names:
        raise ValueError(f"expected zoo backbones in profile {profile.name}, got only models made elsewhere: this "
                         "chapter describes how backbones were made; leave it out for this profile")
    return {name: paths.read_json(make_backbone(profile, name) / "card.json") for name in names}


def training_curves(profile: Profile) -> pd.DataFrame:
    """The training curves of all zoo backbones: [backbone, arm, step, quantity, value]."""
    tables = [paths.read_table(make_backbone(profile, b.name) / "curve.parquet", ["step", "quantity", "value"])
              .assign(backbone=b.name, arm=b.arm) for b in profile.backbones if b.source == "zoo"]
    return pd.concat(tables, ignore_index=True)


def overview(cards: Cards) -> pd.DataFrame:
    """One row per backbone: arm, start, size, updates, perplexity, accuracies, KL divergence from the start."""
    return pd.DataFrame([{
        "backbone": name, "arm": card["arm"], "start": card["start"] or "random weights",
        "parameters": card["parameters"], "updates": card["steps"], "perplexity": card["perplexity"]["value"],
        **{mode: card["accuracy"][mode]["value"] for mode in MODES},
        "KL from start": card["kl_from_start"]["value"] if card["kl_from_start"] else None,
    } for name, card in cards.items()])


def accuracy(cards: Cards) -> pd.DataFrame:
    """Accuracy on held-out problems: [backbone, mode, value, low, high, n]."""
    return pd.DataFrame([{"backbone": name, "mode": mode, **card["accuracy"][mode]}
                         for name, card in cards.items() for mode in MODES])


def differences(cards: Cards) -> pd.DataFrame:
    """Accuracy minus that of the start on the same problems: [backbone, start, mode, value, low, high]."""
    return pd.DataFrame([{"backbone": name, "start": card["start"], "mode": mode, **card["accuracy_difference"][mode]}
                         for name, card in cards.items() if card["start"] for mode in MODES])


def ways(cards: Cards) -> pd.DataFrame:
    """Sampled answers by way: [backbone, way (worked/direct), share, value, low, high, n]; ways never taken absent."""
    rows = []
    for name, card in cards.items():
        found = card["accuracy_by_mode"]["sampled"]
        total = sum(found[way]["n"] for way in WAYS)
        rows += [{"backbone": name, "way": way, "share": found[way]["n"] / total, **found[way]}
                 for way in WAYS if found[way]["n"]]
    return pd.DataFrame(rows)


def weights(cards: Cards) -> pd.DataFrame:
    """Relative weight change from the start per layer: [backbone, layer, value]."""
    return pd.DataFrame([{"backbone": name, **row} for name, card in cards.items() if card["start"]
                         for row in card["weight_change"]])


def samples(cards: Cards, each: int = 3) -> pd.DataFrame:
    """The first sampled completions of every backbone: [backbone, problem, completion, answer, correct]."""
    return pd.DataFrame([{"backbone": name, **{key: row[key] for key in ("problem", "completion", "answer")},
                          "correct": "yes" if row["correct"] else "no"}
                         for name, card in cards.items() for row in card["samples"][:each]])


def findings(cards: Cards) -> str:
    """Markdown list: per backbone what it solves, and per arm what its intervals say about the change."""
    lines = []
    for name, card in cards.items():
        lines.append(_level(name, card) if card["start"] is None else _change(name, card, cards[card["start"]]))
    return "\n".join(f"- {line}" for line in lines)


def _span(entry: dict[str, Any], form: str = ".1%") -> str:
    return f"{entry['value']:{form}} [{entry['low']:{form}}, {entry['high']:{form}}]"


def _level(name: str, card: dict[str, Any]) -> str:
    """What a base solves, and whether that leaves reinforcement learning something to reward and to gain."""
    sampled, greedy = card["accuracy"]["sampled"], card["accuracy"]["greedy"]
    if sampled["high"] < 0.1:
        room = "so little that few groups of samples hold a right answer: a weak start for RLVR"
    elif sampled["low"] > 0.5:
        room = "so much that RLVR has little left to gain"
    else:
        room = "which leaves RLVR right answers to reward and wrong ones to mend"
    return (f"`{name}` solves {_span(sampled)} of the held-out problems when sampled and {_span(greedy)} greedily, "
            f"{room}. It works out {_span(card['worked_share']['sampled'])} of its sampled answers.")


def _change(name: str, card: dict[str, Any], start: dict[str, Any]) -> str:
    """How an arm differs from its start: accuracy, the way it answers, and accuracy within worked answers."""
    parts = []
    for mode in MODES:
        change = card["accuracy_difference"][mode]
        verb = "raises" if change["low"] > 0 else "lowers" if change["high"] < 0 else "does not measurably change"
        parts.append(f"{verb} {mode} accuracy ({_span(change, '+.1%')})")
    share = card["worked_share"]["sampled"]
    text = (f"`{name}` {' and '.join(parts)} against `{card['start']}`. It works out {_span(share)} of its sampled "
            f"answers, after {_span(start['worked_share']['sampled'])}.")
    after, before = (c["accuracy_by_mode"]["sampled"]["worked"] for c in (card, start))
    if not after["n"] or not before["n"]:
        return text
    if after["low"] > before["high"]:
        verdict = "so it also works better, and does not only work more often"
    elif after["high"] < before["low"]:
        verdict = "so its working got worse"
    else:
        verdict = "and the intervals overlap: whether the working itself got better is open"
    return f"{text} Among worked answers {_span(after)} are right, after {_span(before)}, {verdict}."
