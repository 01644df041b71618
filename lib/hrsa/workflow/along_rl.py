"""Along RL: how far RLVR arms have moved from their base after some updates, beside other arms at equal distance.

    hrsa backbones --along

writes `data/results/along_rl.parquet` and its record. Arms are trained again for the adapters on the way, which the
repository does not carry; those it carries stand beside them, and what is no RLVR once more with its change of the
weights scaled to the size of an RLVR arm's. Every point is measured as the studies measure backbones: on the probe
texts, in the blocks that `recipe.layers` keeps. What is finished is not made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hrsa.analysis.layerwise import curve
from hrsa.analysis.probes import compare_probes
from hrsa.analysis.recordings import BF16, make_recording, open_pair
from hrsa.models import adapters
from hrsa.models.zoo.make import kept_updates, make_backbone, make_updates, zoo_of
from hrsa.models.zoo.ship import folder_of
from hrsa.report.chapters import ALONG
from hrsa.report.prose.backbones import AGAIN, AS_SHIPPED, READOUT, ROUNDED, SCALED
from hrsa.similarity.metrics import METRIC_FAMILIES, shown_k
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Backbone, Pair, Profile
from hrsa.study.progress import progress

_SHOWN = ("correlation", "inverse_row_entropy", "debiased_cka", "knn")
_TABLE, _PROBLEMS = "point.parquet", 128  # held-out problems that a point answers: one batch


class Point(NamedTuple):
    """An arm at a place on its way from the base."""

    arm: str
    made: str  # AGAIN, AS_SHIPPED or SCALED
    updates: int
    factor: float  # of the change of the weights
    target: str  # the arm whose distance in weights it is scaled to
    folder: Path  # of adapters

    @property
    def name(self) -> str:
        """A name that a backbone can have."""
        return f"{self.arm}-{self.made.replace(' ', '-')}-{self.target or f'{self.updates:04d}'}"


def make_along(profile: Profile) -> Path:
    """Write the table of all points, a row for each metric and layer, and its record; returns the table's file.

    Columns: arm, made, updates, factor, target, weights (`adapters.relative_change`), kl (nats per token of own
    answers), accuracy (share of held-out problems solved when sampled), metric, layer, k, value, low, high, null, n.
    Of shipped arms kl and accuracy are those of their cards.
    The rows of `ROUNDED` are the base against itself in bfloat16: what rounding alone moves. ValueError for a profile
    without a base and RLVR arms of adapters on it.
    """
    rlvr = [b for b in profile.backbones if b.source == "zoo" and b.arm in ("rlvr", "rlvr-long")]
    if profile.zoo.lora is None or len({b.start for b in rlvr}) != 1:
        raise ValueError(f"expected RLVR arms of adapters (zoo.lora) from one base, got {[b.name for b in rlvr]} in "
                         f"profile {profile.name}: take notebooks/profiles/smollm2-arms.yaml")
    base = str(rlvr[0].start)
    found = points(profile, base, rlvr)
    study = _study(profile, base, found)
    tables = []
    with progress(len(found), "along RL", profile.name, "point") as bar:
        for point in found:
            tables.append(store.read_table(_make_point(profile, study, base, point) / _TABLE))
            bar.update()
    states = make_recording(study, base)
    floor = _compared(profile, states, states / BF16)
    table = pd.concat([*tables, floor.assign(arm=base, made=ROUNDED, updates=0, factor=1.0, target="")],
                      ignore_index=True)
    store.write_table(ALONG, table)
    again = {b.name: adapters.relative_change(make_updates(profile, b.name) / "adapter", _weights(profile, base),
                                              folder_of(profile, b.name))
             for b in rlvr if _again(profile, b) and profile.zoo.grpo_steps in kept_updates(profile, b)}
    store.write_json(ALONG.with_suffix(".json"), {
        **store.provenance(), "command": f"hrsa backbones --along --profile {profile.name}", "problems": _PROBLEMS,
        "profile": profile.model_dump(mode="json"), "sha256": store.file_hash(ALONG), "again_from_shipped": again})
    return ALONG


def points(profile: Profile, base: str, rlvr: list[Backbone]) -> list[Point]:
    """Every kept update of the RLVR arms of the zoo's seed, trained again; every arm of the base as shipped; what is no
    RLVR scaled to the distance in weights of each RLVR arm as shipped."""
    found = [Point(b.name, AGAIN, int(folder.name), 1.0, "", folder)
             for b in rlvr if _again(profile, b) for folder in sorted(make_updates(profile, b.name).glob("[0-9]*"))]
    shipped = [b for b in profile.backbones if b.source == "zoo" and b.start == base
               and (folder_of(profile, b.name) / adapters.FILES[1]).is_file()]
    found += [Point(b.name, AS_SHIPPED, _card(profile, b.name)["steps"], 1.0, "", folder_of(profile, b.name))
              for b in shipped]
    far = {b.name: adapters.relative_change(folder_of(profile, b.name), _weights(profile, base)) for b in shipped}
    goals = [b for b in shipped if b in rlvr and b.seed is None]
    for one in shipped:
        for goal in goals if one not in rlvr and one.seed is None else ():
            factor = far[goal.name] / far[one.name]
            found.append(Point(one.name, SCALED, _card(profile, one.name)["steps"], factor, goal.name,
                               _make_scaled(profile, one.name, factor)))
    return found


def _again(profile: Profile, backbone: Backbone) -> bool:
    return backbone.seed is None and bool(kept_updates(profile, backbone))


def _card(profile: Profile, name: str) -> dict[str, Any]:
    return store.read_json(folder_of(profile, name) / "card.json")


def _weights(profile: Profile, base: str) -> Path:
    return make_backbone(profile, base) / "model"


def _make_scaled(profile: Profile, name: str, factor: float) -> Path:
    """Artefact folder of a shipped arm's adapters with their change of the weights multiplied."""
    origin = folder_of(profile, name)
    key = store.key(adapters=store.file_hash(origin / adapters.FILES[1]), factor=factor, code=code_hash(_make_scaled))
    return store.make(store.artefact(profile.name, "backbones", f"{name}-scaled", key),
                      lambda folder: adapters.scaled(origin, folder, factor), (_make_scaled,), factor=factor)


def _study(profile: Profile, base: str, found: list[Point]) -> Profile:
    """The profile with the points as backbones; the base and one of them in bfloat16 too."""
    own = [Backbone(name=p.name, source="folder", path=str(p.folder), arm=profile.backbone(p.arm).arm, start=base)
           for p in found]
    return Profile.model_validate(profile.model_dump() | {
        "backbones": [profile.backbone(base), *own], "pairs": [],
        "analysis_pairs": [Pair(name="floor", a=base, b=own[0].name, kind="other")]})


def _make_point(profile: Profile, study: Profile, base: str, point: Point) -> Path:
    """Artefact folder with the rows of one point."""
    states = [make_recording(study, name) for name in (base, point.name)]
    key = store.key(states=[folder.name for folder in states], zoo=zoo_of(profile, profile.backbone(base)).model_dump(
        include={"form", "terms", "asked", "held_out_of", "completion_tokens", "seed"}), problems=_PROBLEMS,
        adapters=store.file_hash(point.folder / adapters.FILES[1]),
        analysis=profile.analysis.model_dump(include={"ks", "bootstrap", "permutations"}), code=code_hash(_make_point))

    def build(folder: Path) -> None:
        moved = adapters.relative_change(point.folder, _weights(profile, base))
        known = _of_card(profile, point) if point.made == AS_SHIPPED else _behaviour(profile, base, point.folder)
        table = _compared(profile, *states).assign(weights=moved, **known)
        store.write_table(folder / _TABLE, table.assign(**{name: getattr(point, name) for name in (
            "arm", "made", "updates", "factor", "target")}))

    return store.make(store.artefact(profile.name, "similarity", f"along-{point.name}", key), build, (_make_point,),
                      arm=point.arm, updates=point.updates)


def _compared(profile: Profile, a: Path, b: Path) -> pd.DataFrame:
    """Two recordings compared at matched layers by the metrics that are shown, and by readouts where both have texts'
    vectors."""
    x, y = open_pair(a, b)
    tables = [curve(x, y, family, profile.analysis, split=False) for family in METRIC_FAMILIES]
    table = pd.concat(tables, ignore_index=True).rename(columns={"layer_x": "layer"})
    shown = shown_k(profile.analysis.ks)
    table = table[table["metric"].isin(_SHOWN) & (table["set"] == "all") & (table["k"].isna() | (table["k"] == shown))]
    table = table[["metric", "layer", "k", "value", "low", "high", "null", "n"]]
    if not (b / "pooled.npy").is_file():
        return table.reset_index(drop=True)
    probes = pd.DataFrame(compare_probes(x, y, profile.analysis))
    lost = probes[(probes["task"] == "classification") & (probes["split"] == "test") & (probes["quantity"] == "delta")]
    row = lost[["value", "low", "high", "n"]].mean().to_frame().T.assign(metric=READOUT, layer=x.labels[-1])
    return pd.concat([table, row], ignore_index=True).astype({"k": "Int64", "n": int})


def _of_card(profile: Profile, point: Point) -> dict[str, float]:
    card = _card(profile, point.arm)
    return {"kl": card["kl"]["value"], "accuracy": card["accuracy"]["sampled"]["value"]}


def _behaviour(profile: Profile, base: str, folder: Path) -> dict[str, float]:
    """KL divergence from the base and accuracy of the model with the adapters in `folder`, as cards measure them."""
    from hrsa.models.language_model import load_lm
    from hrsa.models.zoo import adapter_arms, measure
    from hrsa.models.zoo.forms import form_of
    from hrsa.models.zoo.problems import draw
    from hrsa.study.runtime import prepare

    zoo = profile.zoo
    prepare(profile.threads, zoo.seed)
    model, tokenizer = adapter_arms.attached(_weights(profile, base), zoo, folder)
    form, asked = form_of(zoo, tokenizer), draw("held-out", min(_PROBLEMS, zoo.problems_held_out), "held-out", zoo)
    table, answers = measure.complete(model, form, asked, "sampled", zoo.completion_tokens, zoo.seed)
    first = adapter_arms.rounded(load_lm(_weights(profile, base))[0], zoo)
    return {"kl": measure.divergence(model, first, form, asked, answers)["value"], "accuracy": table["correct"].mean()}
