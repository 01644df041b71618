"""The cards of a profile's small backbones as tidy tables, and what they allow to be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.intervals import order
from hrsa.report.foreign import as_code, as_markdown
from hrsa.report.prose.scores import counted
from hrsa.report.prose.yardsticks import similarity_name
from hrsa.similarity.metrics import METRICS
from hrsa.study import store
from hrsa.study.backbone_kinds import has_card, is_measured
from hrsa.study.profile import Profile

Cards = dict[str, dict[str, Any]]
AGAIN, AS_SHIPPED, SCALED, ROUNDED = "trained again", "as shipped", "scaled", "base in bf16"  # how a point of the
# table of `hrsa backbones --along` was made
READOUT = "probe_delta"  # its loss of a carried readout, beside the keys of `METRICS`
_BASIS = "inverse_row_entropy"
_MODES = ("sampled", "greedy")
_WAYS = ("worked", "direct")
_LEARNT = {"base": ("pretrained from random weights", "real text, and problems with their answers, some worked out"),
           "cpt": ("continued pretraining", "real text alone: the control for any further training"),
           "sft": ("supervised fine-tuning", "worked solutions"),
           "rlvr": ("GRPO", "its own answers: the reward is 1 for an exactly right answer and 0 otherwise"),
           "rlvr-long": ("GRPO for longer, in rounds with a renewed reference", "its own answers, rewarded as in GRPO")}


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
    parts = [f"{', '.join(made)} {'was' if len(made) == 1 else 'were'} made by this run"] * bool(made)
    come, them = ("comes", "it") if len(shipped) == 1 else ("come", "them")
    parts += [f"{', '.join(shipped)} {come} with the project: `make backbones` made {them}, and the cards in "
              "`data/backbones/` say when, where and with which files as result"] * bool(shipped)
    parts += [f"`{b.name}` comes in the Python package {as_code(b.path)}, its quantised weights made ordinary ones"
              for b in profile.backbones if b.source == "package"]
    return f"{'; '.join(parts)}."


def arm_table(profile: Profile, cards: Cards) -> pd.DataFrame:
    """One row per backbone: how it is made (its start; adapter and seed where there are), what it learns from."""
    rows = []
    for name, card in cards.items():
        backbone = profile.backbone(name)
        made, learns = _LEARNT[card["arm"]]
        if "package" in card:
            made, learns = f"comes trained, in the Python package {card['package']['package']}", "its makers' data"
        made += f" from {card['start']}" if card["start"] else ""
        adapter = profile.zoo.lora is not None if backbone.source == "zoo" else "adapter_config.json" in card["hashes"]
        made += ", as a LoRA adapter" if adapter and card["start"] else ""
        seed = card["made"]["seed"] if "made" in card else backbone.seed
        rows.append({"backbone": name, "how it is made": made + (f", seed {seed}" if seed else ""),
                     "what it learns from": learns})
    return pd.DataFrame(rows)


def problems_said(cards: Cards) -> str:
    """Which problems the arms were taught on and are asked, and in which form: sentences."""
    families = sorted({family for card in cards.values() for family in card["accuracy_by_family"]["sampled"]})
    chat = any("package" in card for card in cards.values())
    form = ("in the model's own chat template after three worked examples: `4 - 1 - 7`, answered `-4`, or worked, "
            "`4 - 1 = 3, 3 - 7 = -4`" if chat else
            "as `Calculate 4-1-7:` and answered `-4`, or worked between think tags, `<think>3-7=-4</think>-4`")
    return (f"The problems ({' and '.join(map(as_markdown, families))} of one-digit numbers) come from `reasoning-gym` "
            f"and are asked {form}. Whether to work an answer out is the model's own choice, and part of what training "
            "changes.")


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


def changes_said(cards: Cards) -> str:
    """All arms at once, Markdown: which raise accuracy over their start by how much, and which also work better."""
    arms = {name: card for name, card in cards.items() if cards.get(card["compared_with"])}
    lines = [_level(name, card) for name, card in cards.items() if name not in arms]
    for mode in _MODES if arms else ():
        by: dict[str, list[str]] = {}
        for name, card in arms.items():
            change = card["accuracy_difference"][mode]
            by.setdefault(_verb(change), []).append(f"{as_code(name)} {_span(change, '+.1%')}")
        told = "; ".join(f"{verb} {mode} accuracy: {', '.join(names)}" for verb, names in by.items())
        lines.append(f"Against its start an arm {told}.")
    ways: dict[str, list[str]] = {}
    for name, card in arms.items():
        ways.setdefault(_worked(card, cards[card["compared_with"]])[0], []).append(as_code(name))
    if ways:
        told = "; ".join(f"{word}: {', '.join(names)}" for word, names in ways.items())
        lines.append(f"Among worked answers: {told}.")
    return "\n".join(f"- {line}" for line in lines)


def _verb(change: dict[str, Any]) -> str:
    return "raises" if change["low"] > 0 else "lowers" if change["high"] < 0 else "does not measurably change"


def _worked(card: dict[str, Any], start: dict[str, Any]) -> tuple[str, str]:
    """Whether an arm got better within worked answers: a few words, and the end of a sentence."""
    after, before = (c["accuracy_by_mode"]["sampled"]["worked"] for c in (card, start))
    if not after["n"] or not before["n"]:
        return "none to compare", ""
    if after["low"] > before["high"]:
        return "more are right", "so it also works better, and does not only work more often"
    if after["high"] < before["low"]:
        return "fewer are right", "so its working got worse"
    return "open", "and the intervals overlap: whether the working itself got better is open"


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
        parts.append(f"{_verb(change)} {mode} accuracy ({_span(change, '+.1%')})")
    share = card["worked_share"]["sampled"]
    text = (f"{as_code(name)} {' and '.join(parts)} against {as_code(card['compared_with'])}. It works out "
            f"{_span(share)} of its sampled answers, after {_span(start['worked_share']['sampled'])}.")
    if not (verdict := _worked(card, start)[1]):
        return text
    after, before = (c["accuracy_by_mode"]["sampled"]["worked"] for c in (card, start))
    return f"{text} Among worked answers {_span(after)} are right, after {_span(before)}, {verdict}."


def along_values(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each point and metric of the table along RL, as the similarities of studies are made: the mean over
    layers but the embedding output (inverse row entropy: the last layer), bounds averaged alike.

    Adds `similarity`, its printed name, and `apart`, the distance from identical models, with apart_low and apart_high.
    """
    keys = ["arm", "made", "updates", "target", "metric"]
    rows = table[table["layer"] != "0"]
    last = rows.groupby(keys, sort=False).tail(1)
    rows = pd.concat([rows[rows["metric"] != _BASIS], last[last["metric"] == _BASIS]])
    how = dict.fromkeys(("value", "low", "high", "null"), "mean")
    how |= dict.fromkeys(("weights", "kl", "accuracy", "k"), "first")
    found = rows.groupby(keys, sort=False, as_index=False).agg(how)
    away = np.array([METRICS[metric].apart([value, low, high]) if metric in METRICS else (value, low, high) for
                     metric, value, low, high in found[["metric", "value", "low", "high"]].itertuples(index=False)])
    names = [similarity_name(row.metric, row.k) if row.metric in METRICS else "loss of a carried readout"
             for row in found.itertuples()]
    return found.assign(similarity=names, apart=away[:, 0], apart_low=away[:, 1:].min(1), apart_high=away[:, 1:].max(1))


def along_said(table: pd.DataFrame, record: dict[str, Any]) -> str:
    """What the table of `hrsa backbones --along` shows, Markdown: where drift begins, short against prolonged RL, other
    training at equal distance in weights, another run of the same arm, and how near the rerun came to what is shipped.
    """
    found = along_values(table)
    lines = [_onset(arm, rows, found) for arm, rows in found[found["made"] == AGAIN].groupby("arm", sort=False)]
    shipped = found[found["made"] == AS_SHIPPED]
    arms = {b["name"]: b["arm"] for b in record["profile"]["backbones"]}
    rlvr = [name for name in shipped["arm"].unique() if arms[name] == "rlvr"]
    pairs = [(long, rlvr[0]) for long in shipped["arm"].unique() if arms[long] == "rlvr-long"] if rlvr else []
    pairs += [(other, rlvr[0]) for other in rlvr[1:]]
    lines += [_held(_point(shipped, one), _point(shipped, other)) for one, other in pairs]
    for (_, target), rows in found[found["made"] == SCALED].groupby(["arm", "target"], sort=False):
        lines.append(_held(rows, _point(shipped, target), f", its change of the weights scaled to the size of "
                                                          f"{as_code(target)}'s,"))
    lines += [f"{as_code(arm)} trained again ends {share:.2%} of the weights away from the one that is shipped, which "
              f"itself is {_point(shipped, arm)['weights'].iloc[0]:.2%} from its base: the recipe and the seed are the "
              "same, the processor and its rounding need not be" for arm, share in record["again_from_shipped"].items()]
    return "\n".join(f"- {line}." for line in lines)


def _point(found: pd.DataFrame, arm: str) -> pd.DataFrame:
    return found[found["arm"] == arm]


def _onset(arm: str, rows: pd.DataFrame, found: pd.DataFrame) -> str:
    """From which update on each metric is further from identical than the base in bfloat16 is from itself."""
    floor = found[found["made"] == ROUNDED].set_index("metric")
    parts = []
    for metric, steps in rows[rows["metric"] != READOUT].groupby("metric", sort=False):
        beyond = steps[steps["apart_low"] > floor.loc[metric, "apart_high"]]["updates"]
        parts.append(f"{steps['similarity'].iloc[0]} " + (f"from update {beyond.min()} on" if len(beyond) else
                                                          f"not within {counted(steps['updates'].max(), 'update')}"))
    kept = ", ".join(map(str, sorted(rows["updates"].unique())))
    last = rows[rows["updates"] == rows["updates"].max()].iloc[0]
    return (f"{as_code(arm)}, trained again and kept after updates {kept}: further from its base than rounding to "
            f"bfloat16 moves the base are {', '.join(parts)}. After update {last['updates']} its weights have moved by "
            f"{last['weights']:.2%}, and its answers by {last['kl']:.3f} nats a token")


def _held(one: pd.DataFrame, other: pd.DataFrame, how: str = "") -> str:
    """One point against another, metric by metric: further from the base, less far, or not to be told."""
    both = one.merge(other, on="metric", suffixes=("", "_other"))
    words: dict[str, list[str]] = {}
    for row in both.to_dict("records"):
        side = order(row["apart_low"], row["apart_high"], row["apart_low_other"], row["apart_high_other"])
        word = {1: "further", -1: "less far", 0: "not told apart"}[side]
        words.setdefault(word, []).append(f"{row['similarity']} ({row['apart']:.2g} against {row['apart_other']:.2g})")
    a, b = one.iloc[0], other.iloc[0]
    return (f"{as_code(a['arm'])}{how} against {as_code(b['arm'])}, "
            f"{counted(a['updates'], 'update')} against {b['updates']}, weights moved by {a['weights']:.2%} against "
            f"{b['weights']:.2%}, {a['kl']:.3f} nats a token against {b['kl']:.3f}: "
            + "; ".join(f"{word} by {', '.join(of)}" for word, of in words.items()))


def along_figure(table: pd.DataFrame) -> pd.DataFrame:
    """The points along RL for a figure: arm, made, KL, similarity, value, low, high, updates."""
    found = along_values(table)
    found = found[(found["made"] != ROUNDED) & (found["metric"] != READOUT)]
    return found.assign(KL=found["kl"])[["arm", "made", "KL", "similarity", "value", "low", "high", "updates"]]


def along_table(table: pd.DataFrame) -> pd.DataFrame:
    """The points along RL for reading: arm and how it was made, updates, weights, KL, a column for each similarity."""
    found = along_values(table[table["metric"] != READOUT])
    found["cell"] = [f"{row.apart:.2g} [{row.apart_low:.2g}, {row.apart_high:.2g}]" for row in found.itertuples()]
    found["arm"] = found["arm"] + ", " + found["made"] + found["target"].map(lambda name: f" to {name}" if name else "")
    place = ["arm", "updates", "weights", "kl"]
    wide = found.pivot_table("cell", place, "similarity", aggfunc="first", sort=False).reset_index()
    return wide[[*place, *found["similarity"].unique()]].rename(columns={"kl": "KL"}).rename_axis(columns=None)
