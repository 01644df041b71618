"""A profile in small: the same pairs, jobs and settings; few seeds, steps and texts; stand-ins for its models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hrsa.study import store
from hrsa.study.backbone_kinds import are_adapters
from hrsa.study.profile import Backbone, Profile, Suite, Zoo, checked_profile
from hrsa.study.sections import CONTROLS

DOCUMENTS, QUERIES, SUBSETS, PAIRS = 60, 6, 2, 60  # of a task; of a training set
_PROCESSES = 2  # of a training that several share
_SEEDS = 2  # the least that runs can vary between
_STEPS, _BATCH, _LENGTH = 4, 8, 128
_CHUNK = 1024  # tokens at a time: less than a batch has, as in long trainings
_ANALYSIS = {"texts_per_set": 12, "max_length": 48, "max_tokens": 400, "bootstrap": 10, "permutations": 3,
             "probe_texts": 160}
_RESAMPLES = 200
_ZOO = {"vocab_size": 512, "hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": None,
        "intermediate_size": 128, "context": 160, "pretrain_steps": 60, "pretrain_batch": 16, "pretrain_length": 64,
        "pretrain_lr": 1e-2, "worked_share": 0.7, "grpo_steps": 3, "grpo_prompts": 16, "completion_tokens": 24,
        "sft_steps": 4, "sft_batch": 16, "cpt_steps": 4, "problems_held_out": 40}  # nearly those of profile smoke


def rehearsal_name(profile: Profile) -> str:
    """What the rehearsal of a profile is called."""
    return f"{profile.name}-rehearsal"


def root_of(profile: Profile, backbone: Backbone) -> Backbone:
    """What a control, adapters or a zoo arm come from in the end; any other backbone is its own."""
    while backbone.start and (backbone.source in ("zoo", *CONTROLS) or are_adapters(backbone)):
        backbone = profile.backbone(backbone.start)
    return backbone


def is_made(profile: Profile, backbone: Backbone) -> bool:
    """Whether a rehearsal makes a backbone as the study does, in small: controls, a zoo that starts from nothing."""
    return backbone.source in CONTROLS or root_of(profile, backbone).source == "zoo"


def selected_pairs(profile: Profile, pairs: Collection[str]) -> Profile:
    """The profile with these pairs only, and the backbones, ablations and controls that they need; all for none named.

    Raises ValueError for an unknown pair, and where none is left that embedders are trained for.
    """
    if not pairs:
        return profile
    kept = [profile.pair(name) for name in pairs]
    names = {name for pair in kept for name in (pair.a, pair.b)}
    while more := {start for name in names if (start := profile.backbone(name).start)} - names:
        names |= more
    trained = [pair for pair in profile.pairs if pair in kept]
    if not trained and profile.chapters is None:
        raise ValueError(f"expected one of the pairs {[p.name for p in profile.pairs]} among --pair, got {list(pairs)}")
    ablations = [a.model_copy(update={"backbones": found}) for a in profile.ablations
                 if (found := tuple(name for name in a.backbones if name in names))]
    known = {a.name for a in ablations}
    controls = [c for c in profile.controls if {c.a, c.b} <= names and (c.ablation is None or c.ablation in known)]
    return profile.model_copy(update={
        "backbones": tuple(b for b in profile.backbones if b.name in names), "pairs": tuple(trained),
        "analysis_pairs": tuple(p for p in profile.analysis_pairs if p in kept), "ablations": tuple(ablations),
        "controls": tuple(controls)})


def small_suite(suite: Suite) -> Suite:
    """The suite with few texts of everything. Files are named by their whole path; what is mined is mined with a model
    that comes with the package, for random vectors tell nothing apart and would leave no negative."""
    train = suite.train
    if train != "all":
        train = tuple(str(store.ROOT / name) if (store.ROOT / name).exists() else name for name in train)
    mining = suite.mining
    if mining.embedder != "bm25":
        mining = mining.model_copy(update={"embedder": "minilm", "revision": None})
    return suite.model_copy(update={"train": train, "mining": mining, "max_pairs": PAIRS, "max_docs": DOCUMENTS,
                                    "max_queries": QUERIES, "max_subsets": SUBSETS})


def small_profile(profile: Profile, places: Mapping[str, Path], suite: Suite) -> Profile:
    """The profile to rehearse with. places: folder of the stand-in by backbone; suite: as `small_suite`, without what
    has failed. Raises ValueError for a profile that cannot be as small as this."""
    seeds = profile.seeds[:_SEEDS]
    recipe, small = profile.recipe, _small_recipe(profile.recipe.model_dump(mode="json"))
    texts = profile.analysis.texts
    analysis = profile.analysis.model_dump(mode="json") | {
        name: min(value, getattr(profile.analysis, name)) for name, value in _ANALYSIS.items()}
    analysis |= {"ks": [k for k in profile.analysis.ks if k < 100] or [5],
                 "texts": texts and str((store.ROOT / texts).resolve())}
    ablations = []
    for ablation in profile.ablations:
        kept = [seed for seed in ablation.seeds if seed in seeds] or list(ablation.seeds[:1])
        change = {name: _smaller(name, value, recipe, small) for name, value in ablation.change.items()}
        ablations.append({"name": ablation.name, "change": change, "backbones": ablation.backbones, "seeds": kept})
    zoo = profile.zoo.model_dump(mode="json")
    if any(b.source == "zoo" and is_made(profile, b) for b in profile.backbones):
        zoo |= _ZOO
    return checked_profile({
        **profile.model_dump(mode="json", include={"pairs", "analysis_pairs", "chapters", "threads", "controls"}),
        "processes": min(profile.processes, _PROCESSES),
        "name": rehearsal_name(profile), "title": f"{profile.title}: a rehearsal"[:200], "seeds": seeds,
        "backbones": [_stand_in(profile, b, places) for b in profile.backbones],
        "zoo": Zoo(**zoo).model_dump(mode="json"), "recipe": small, "ablations": ablations, "analysis": analysis,
        "suite": suite.model_dump(mode="json"),
        "verdict": profile.verdict.model_dump() | {"resamples": max(_RESAMPLES, round(4 / profile.verdict.alpha) + 1)},
    }, f"the rehearsal of {profile.name}")


def _stand_in(profile: Profile, backbone: Backbone, places: Mapping[str, Path]) -> dict[str, Any]:
    """A backbone's entry: its stand-in's folder, or what is made as in the study."""
    if is_made(profile, backbone):
        return backbone.model_dump(mode="json")
    return {"name": backbone.name, "source": "folder", "path": str(places[backbone.name]), "arm": backbone.arm,
            "start": backbone.start}


def _small_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    most = {"steps": _STEPS, "batch_size": _BATCH, "max_length": _LENGTH, "chunk_tokens": _CHUNK}
    small = recipe | {name: min(value, recipe[name]) for name, value in most.items()}
    small["checkpoints"] = [_STEPS // 2] if recipe["checkpoints"] else []
    return small | ({"layers": 1} if recipe.get("layers") else {})


def _smaller(name: str, value: Any, recipe: Any, small: Mapping[str, Any]) -> Any:
    """What an ablation changes, in small: still a change, and in the same direction where it is a number of steps,
    texts or tokens."""
    if name == "layers":
        return 2 if small.get("layers") == 1 else 1
    if name == "checkpoints":
        return [1]
    if name in ("steps", "batch_size", "max_length", "chunk_tokens"):
        return small[name] // 2 if value < getattr(recipe, name) else small[name] * 2
    return value
