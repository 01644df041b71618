"""The cards of a profile's small backbones as tidy tables, and what they allow to be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.report.foreign import as_code
from hrsa.study import store
from hrsa.study.backbone_kinds import has_card, is_measured
from hrsa.study.profile import Profile

Cards = dict[str, dict[str, Any]]
_MODES = ("sampled", "greedy")
_WAYS = ("worked", "direct")


def card_folders(profile: Profile) -> dict[str, Path]:
    """Where the card, curve and answers of each backbone are, by name; ValueError when none has a card.

    Those of the zoo and of packages are made first where needed. A backbone in a folder has a card when it was shipped
    by `hrsa.models.zoo.ship`; one without, or on the hub, is left out.
    """
    from hrsa.models.zoo.make import make_backbone

    folders = {}
    for backbone in profile.backbones:
        if is_measured(backbone):
            folders[backbone.name] = make_backbone(profile, backbone.name)
        elif has_card(backbone):
            folders[backbone.name] = store.ROOT / str(backbone.card or backbone.path)
    if not folders:
        raise ValueError(f"expected backbones with a card in profile {profile.name}, got only models made elsewhere: "
                         "this chapter describes how backbones were made; leave it out for this profile")
    return folders


def make_cards(profile: Profile) -> Cards:
    """The card of every backbone that has one, by name; ValueError when none has."""
    return {name: store.read_json(folder / "card.json") for name, folder in card_folders(profile).items()}


def where_backbones_come_from(profile: Profile) -> str:
    """One sentence: whether the backbones were made in this run, shipped with the project or come in a package."""
    shipped = [f"`{b.name}`" for b in profile.backbones if b.source == "folder" and has_card(b)]
    made = [f"`{b.name}`" for b in profile.backbones if b.source == "zoo"]
    parts = [f"{', '.join(made)} were made by this run"] * bool(made)
    parts += [f"{', '.join(shipped)} come with the project: `make backbones` made them, and the cards in "
              "`data/backbones/` say when, where and with which files as result"] * bool(shipped)
    parts += [f"`{b.name}` comes in the Python package {as_code(b.path)}, its quantised weights made ordinary ones"
              for b in profile.backbones if b.source == "package"]
    return f"{'; '.join(parts)}."


def training_curves(profile: Profile) -> pd.DataFrame:
    """The training curves of all backbones with a card: [backbone, arm, step, quantity, value]."""
    tables = [store.read_table(folder / "curve.parquet", ["step", "quantity", "value"])
              .assign(backbone=name, arm=profile.backbone(name).arm)
              for name, folder in card_folders(profile).items()]
    return pd.concat(tables, ignore_index=True)


def card_table(cards: Cards) -> pd.DataFrame:
    """One row per backbone: arm, start, size, updates, perplexity, accuracies, KL divergence from another."""
    return pd.DataFrame([{
        "backbone": name, "arm": card["arm"],
        "start": card["start"] or ("a package" if "package" in card else "random weights"),
        "parameters": card["parameters"], "updates": card["steps"], "perplexity": card["perplexity"]["value"],
        **{mode: card["accuracy"][mode]["value"] for mode in _MODES},
        "compared with": card["compared_with"], "KL": card["kl"]["value"] if card["kl"] else None,
    } for name, card in cards.items()])


def accuracy(cards: Cards) -> pd.DataFrame:
    """Accuracy on held-out problems: [backbone, mode, value, low, high, n]."""
    return pd.DataFrame([{"backbone": name, "mode": mode, **card["accuracy"][mode]}
                         for name, card in cards.items() for mode in _MODES])


def accuracy_differences(cards: Cards) -> pd.DataFrame:
    """Accuracy minus that of another on the same problems: [backbone, compared with, mode, value, low, high]."""
    return pd.DataFrame([{"backbone": name, "compared with": card["compared_with"], "mode": mode,
                          **card["accuracy_difference"][mode]}
                         for name, card in cards.items() if card["compared_with"] for mode in _MODES])


def accuracy_by_family(cards: Cards) -> pd.DataFrame:
    """Sampled accuracy by family of problems: [backbone, family, value, low, high, n]."""
    return pd.DataFrame([{"backbone": name, "family": family, **share} for name, card in cards.items()
                         for family, share in card["accuracy_by_family"]["sampled"].items()])


def ways(cards: Cards) -> pd.DataFrame:
    """Sampled answers by way: [backbone, way (worked/direct), share, value, low, high, n]; ways never taken absent."""
    rows = []
    for name, card in cards.items():
        found = card["accuracy_by_mode"]["sampled"]
        total = sum(found[way]["n"] for way in _WAYS)
        rows += [{"backbone": name, "way": way, "share": found[way]["n"] / total, **found[way]}
                 for way in _WAYS if found[way]["n"]]
    return pd.DataFrame(rows)


def weights(cards: Cards) -> pd.DataFrame:
    """Change of the weights from those compared with, per layer: [backbone, layer, value, effective_rank]."""
    return pd.DataFrame([{"backbone": name, **row} for name, card in cards.items() if card["compared_with"]
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
        other = cards.get(card["compared_with"])
        lines.append(_change(name, card, other) if other else _level(name, card))
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
    return (f"{as_code(name)} solves {_span(sampled)} of the held-out problems when sampled and {_span(greedy)} "
            f"greedily, {room}. It works out {_span(card['worked_share']['sampled'])} of its sampled answers.")


def _change(name: str, card: dict[str, Any], start: dict[str, Any]) -> str:
    """How an arm differs from its start: accuracy, the way it answers, and accuracy within worked answers."""
    parts = []
    for mode in _MODES:
        change = card["accuracy_difference"][mode]
        verb = "raises" if change["low"] > 0 else "lowers" if change["high"] < 0 else "does not measurably change"
        parts.append(f"{verb} {mode} accuracy ({_span(change, '+.1%')})")
    share = card["worked_share"]["sampled"]
    text = (f"{as_code(name)} {' and '.join(parts)} against {as_code(card['compared_with'])}. It works out "
            f"{_span(share)} of its sampled answers, after {_span(start['worked_share']['sampled'])}.")
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
