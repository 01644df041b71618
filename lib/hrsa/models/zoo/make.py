"""Backbones of the zoo as artefacts: trained, measured, written with a card."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hrsa.models import adapters, gguf_package
from hrsa.study import store
from hrsa.study.backbone_kinds import is_measured
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Backbone, Profile, Zoo

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Made = tuple[PreTrainedModel, PreTrainedTokenizerBase, pd.DataFrame]
    Maker = Callable[[Profile, Backbone, Path | None, list[str], Path], Made]

_MODES = ("greedy", "sampled")
SAMPLES = 6  # completions shown in the card
_OWN = {"pretrain_": {"base", "cpt"}, "cpt_": {"cpt"}, "grpo_rounds": {"rlvr-long"}, "grpo_kept": set(),
        "grpo_": {"rlvr", "rlvr-long"}, "sft_": {"sft"}, "lora": {"cpt", "sft", "rlvr", "rlvr-long"}}
# begin of a setting's name -> arms it bears on; others bear on all


def make_backbone(profile: Profile, name: str) -> Path:
    """The artefact folder of a zoo backbone or package, made first when it is not there, what it is compared with
    before it.

    Holds `model/` (an ordinary Hugging Face causal LM with its tokenizer: in bfloat16, or in float32 where it comes
    from a package or has adapters merged), `card.json`, `curve.parquet` [step, quantity, value] (empty for a package),
    `problems.parquet` [problem, family, answer, mode, completion, correct, worked] and `held_out.parquet` [text]:
    held-out problems and documents, the same for every arm of the zoo; with `zoo.lora` also `adapter/`. Raises
    ValueError for a backbone of another source, and for a package that is not installed.
    """
    backbone = profile.backbone(name)
    if not is_measured(backbone):
        raise ValueError(f"expected a backbone of source zoo, or a package without a card, got {name} of source "
                         f"{backbone.source}: "
                         "use hrsa.models.resolve.make_backbone_folder")
    other = profile.compared_with(name)
    origin = make_backbone(profile, other) if other else None
    suite = sorted((store.SUITE / "train").glob("*")) if backbone.arm in ("base", "cpt") else []
    brought = {"package": gguf_package.package_origin(str(backbone.path))} if backbone.source == "package" else {}
    roots = code_of(profile, backbone)
    key = store.key(zoo=settings_of(profile, backbone), arm=backbone.arm, start=backbone.start,
                    compared_with=origin.name if origin else None, threads=profile.threads,
                    suite=[store.file_hash(p) for p in suite if p.is_file()], code=code_hash(*roots), **brought)
    folder = store.artefact(profile.name, "backbones", name, key)
    return store.make(folder, lambda temporary: _build(profile, backbone, origin, temporary, store.scratch(folder),
                                                       roots[-1]),
                      roots, profile=profile.name, arm=backbone.arm, start=backbone.start,
                      seed=zoo_of(profile, backbone).seed, threads=profile.threads)


def kept_updates(profile: Profile, backbone: Backbone) -> list[int]:
    """Those of `zoo.grpo_kept` that are updates of this RLVR arm of adapters; of a prolonged one those after the first
    round. None for other arms."""
    zoo, first = profile.zoo, profile.zoo.grpo_steps * (backbone.arm == "rlvr-long")
    if zoo.lora is None or backbone.source != "zoo" or backbone.arm not in ("rlvr", "rlvr-long"):
        return []
    return [update for update in zoo.grpo_kept if first < update <= zoo.grpo_steps * _rounds(zoo, backbone)]


def make_updates(profile: Profile, name: str) -> Path:
    """Artefact folder with the adapters of an RLVR arm after each of its updates among `zoo.grpo_kept`: `0005/` ...

    It is trained again, up to the last of them; a prolonged arm goes on from the same of the arm `rlvr`, and its own
    are those after the first round. Holds `curve.parquet` and `adapter/` too. ValueError for another arm, and where
    none of its updates is kept.
    """
    backbone, zoo = profile.backbone(name), zoo_of(profile, profile.backbone(name))
    kept = kept_updates(profile, backbone)
    if not kept:
        raise ValueError(f"expected an RLVR arm of adapters with updates among zoo.grpo_kept={list(zoo.grpo_kept)}, "
                         f"got {name} of arm {backbone.arm}: correct the profile")
    origin = make_backbone(profile, str(backbone.start))
    first = make_updates(profile, _short_one(profile, backbone)) if backbone.arm == "rlvr-long" else None
    rounds = -(-max(kept) // zoo.grpo_steps)
    key = store.key(zoo=settings_of(profile, backbone), arm=backbone.arm, start=origin.name, kept=kept,
                    first=first and first.name, threads=profile.threads, code=code_hash(make_updates))
    target = store.artefact(profile.name, "backbones", f"{name}-updates", key)

    def build(folder: Path) -> None:
        from hrsa.models.zoo import adapter_arms
        from hrsa.study.runtime import prepare

        prepare(profile.threads, zoo.seed)
        work = store.scratch(target)
        curve = adapter_arms.reinforce(origin / "model", zoo, work, rounds, first, kept)
        folder.mkdir(exist_ok=True)
        for update in kept:
            adapters.keep(work / adapter_arms.UPDATES / f"{update:04d}", folder / f"{update:04d}", str(backbone.start))
        adapters.keep(work / "adapter", folder / "adapter", str(backbone.start))
        store.write_table(folder / "curve.parquet", curve)

    return store.make(target, build, (make_updates,), arm=backbone.arm, start=backbone.start, kept=kept)


def zoo_of(profile: Profile, backbone: Backbone) -> Zoo:
    """The zoo's settings with the seed of this backbone's training."""
    return profile.zoo if backbone.seed is None else profile.zoo.model_copy(update={"seed": backbone.seed})


def settings_of(profile: Profile, backbone: Backbone) -> dict[str, Any]:
    """The zoo's settings that bear on this backbone: a change of the others does not make it again."""
    arm = backbone.arm if backbone.source == "zoo" else None  # what a package brings is measured, not made

    def bears(setting: str) -> bool:
        return next((arm in arms for begin, arms in _OWN.items() if setting.startswith(begin)), True)

    own = {} if backbone.geometry is None else {"geometry": backbone.geometry.model_dump(mode="json")}
    return own | {setting: value for setting, value in zoo_of(profile, backbone).model_dump().items() if bears(setting)}


def _build(profile: Profile, backbone: Backbone, origin: Path | None, folder: Path, work: Path, maker: Maker) -> None:
    """Fill the empty artefact folder."""
    from hrsa.study.runtime import prepare

    zoo = zoo_of(profile, backbone)
    prepare(profile.threads, zoo.seed)
    texts, held_out = _texts(backbone, origin)
    clock = time.monotonic()
    model, tokenizer, curve = maker(profile, backbone, origin, texts, work)
    measured = curve.loc[curve["quantity"] == "seconds", "value"]  # of every update, those before an interruption too
    seconds = measured.sum() if len(measured) else time.monotonic() - clock
    trained = work / "adapter"
    exact = trained.is_dir() or backbone.source == "package"  # adapters move weights by less than bfloat16 rounds
    (model if exact else model.bfloat16()).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    if trained.is_dir():
        adapters.keep(trained, folder / "adapter", str(backbone.start))
    problems, card = _measure(profile, backbone, folder, origin, held_out)  # what was stored is what is measured
    card |= _reward(curve)
    store.write_table(folder / "held_out.parquet", pd.DataFrame({"text": held_out}))
    store.write_table(folder / "curve.parquet", curve)
    store.write_table(folder / "problems.parquet", problems)
    hashes = {p.name: store.file_hash(p) for part in ("model", "adapter") for p in sorted((folder / part).glob("*"))}
    hashes["held-out text"] = store.key(texts=held_out)
    if texts:
        hashes["training text"] = store.key(texts=texts)
    store.write_json(folder / "card.json", {
        "arm": backbone.arm, "start": backbone.start, "compared_with": profile.compared_with(backbone.name),
        **_size(zoo, backbone, model.num_parameters()), "seconds": round(float(seconds), 1), **card, "hashes": hashes})


def _texts(backbone: Backbone, origin: Path | None) -> tuple[list[str], list[str]]:
    """Real documents to train on (none for arms that learn from problems alone) and held-out ones (the origin's)."""
    from hrsa.texts.pretraining import read_pretraining_text

    texts, held_out = read_pretraining_text() if backbone.arm in ("base", "cpt") else ([], [])
    if backbone.source == "package":
        texts = []
    if origin is not None:
        held_out = store.read_table(origin / "held_out.parquet", ["text"])["text"].tolist()
    return texts, held_out


def _brought(profile: Profile, backbone: Backbone, origin: Path | None, texts: list[str], work: Path) -> Made:
    """What a package brings."""
    curve = pd.DataFrame(columns=["step", "quantity", "value"]).astype({"step": "int64", "value": "float64"})
    return *gguf_package.load_package(str(backbone.path)), curve


def _pretrained(profile: Profile, backbone: Backbone, origin: Path | None, texts: list[str], work: Path) -> Made:
    from hrsa.models.zoo.corpus import train_tokenizer
    from hrsa.models.zoo.pretrain import pretrain

    tokenizer = train_tokenizer(texts, profile.zoo)
    model, curve = pretrain(zoo_of(profile, backbone), texts, tokenizer, work)
    return model, tokenizer, curve


def _pretrained_further(profile: Profile, backbone: Backbone, origin: Path, texts: list[str], work: Path) -> Made:
    from hrsa.models.language_model import load_lm
    from hrsa.models.zoo.pretrain import go_on

    model, tokenizer = load_lm(origin / "model")
    return model, tokenizer, go_on(model, zoo_of(profile, backbone), texts, tokenizer, work)


def _fine_tuned(profile: Profile, backbone: Backbone, origin: Path, texts: list[str], work: Path) -> Made:
    from hrsa.models.language_model import load_lm
    from hrsa.models.zoo.sft import train_sft

    model, tokenizer = load_lm(origin / "model")
    curve = train_sft(model, tokenizer, zoo_of(profile, backbone), work, backbone.geometry)
    return model.eval(), tokenizer, curve


def _reinforced(profile: Profile, backbone: Backbone, origin: Path, texts: list[str], work: Path) -> Made:
    from hrsa.models.zoo.grpo import train_rounds

    zoo = zoo_of(profile, backbone)
    model, tokenizer, curve = train_rounds(origin / "model", zoo, work, _rounds(zoo, backbone))
    return model.eval(), tokenizer, curve


def _adapted(profile: Profile, backbone: Backbone, origin: Path, texts: list[str], work: Path) -> Made:
    from hrsa.models.language_model import load_lm
    from hrsa.models.zoo import adapter_arms

    start, zoo = origin / "model", zoo_of(profile, backbone)
    if backbone.arm == "sft":
        curve = adapter_arms.fine_tune(start, zoo, work, backbone.geometry)
    elif backbone.arm == "cpt":
        curve = adapter_arms.pretrain_further(start, zoo, texts, work)
    else:
        curve = adapter_arms.reinforce(start, zoo, work, _rounds(zoo, backbone), _first_round(profile, backbone))
    model, tokenizer = load_lm(start)
    return adapters.apply(model, work / "adapter", or_unchanged=True), tokenizer, curve


def _first_round(profile: Profile, backbone: Backbone) -> Path | None:
    """The artefact of the arm `rlvr` that a prolonged one of the same start and seed goes on from, where there is one.

    Its settings, problems and random numbers are those of the first round: made again it would come out the same.
    """
    same = _short_one(profile, backbone)
    return make_backbone(profile, same) if same and backbone.arm == "rlvr-long" else None


def _short_one(profile: Profile, backbone: Backbone) -> str | None:
    """The arm `rlvr` of the same start and seed."""
    return next((other.name for other in profile.backbones if other.source == "zoo" and other.arm == "rlvr"
                 and (other.start, other.seed) == (backbone.start, backbone.seed)), None)


def _rounds(zoo: Zoo, backbone: Backbone) -> int:
    return zoo.grpo_rounds if backbone.arm == "rlvr-long" else 1


MAKERS = {"base": _pretrained, "cpt": _pretrained_further, "sft": _fine_tuned, "rlvr": _reinforced,
          "rlvr-long": _reinforced}  # arm -> what gives its model in eval mode, its tokenizer and the training curve


def code_of(profile: Profile, backbone: Backbone) -> tuple[Callable, ...]:
    """The functions that make this backbone: other arms' are not among them, but for adapters, which share them."""
    if backbone.source == "package":
        return _build, _brought
    return _build, _adapted if profile.zoo.lora and backbone.arm != "base" else MAKERS[backbone.arm]


def _measure(profile: Profile, backbone: Backbone, folder: Path, origin: Path | None,
             held_out: list[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of answered held-out problems and the measured part of the card.

    A model from a package, and adapters on one, are measured as the adapters were trained: on its weights in bfloat16,
    the adapters beside them.
    """
    from hrsa.models.language_model import load_lm
    from hrsa.models.zoo import adapter_arms, measure
    from hrsa.models.zoo.forms import form_of
    from hrsa.models.zoo.problems import draw

    zoo, adapted = profile.zoo, (folder / "adapter").is_dir()
    model, tokenizer = adapter_arms.attached(origin / "model", zoo, folder / "adapter") if adapted else load_lm(
        folder / "model")
    model = adapter_arms.rounded(model, zoo) if backbone.source == "package" else model.eval()
    tokenizer.model_max_length = zoo.context  # documents are cut there
    form = form_of(zoo, tokenizer)
    asked = draw("held-out", zoo.problems_held_out, "held-out", zoo)
    answers = {mode: measure.complete(model, form, asked, mode, zoo.completion_tokens, zoo.seed) for mode in _MODES}
    tables = {mode: table for mode, (table, _) in answers.items()}
    card: dict[str, Any] = {
        "perplexity": measure.perplexity(model, tokenizer, held_out), **measure.answer_shares(tables),
        "accuracy_difference": None, "kl": None, "weight_change": None,
        "samples": tables["sampled"].head(SAMPLES).drop(columns="mode").to_dict("records"),
    }
    if origin is not None:
        first, _ = load_lm(origin / "model")
        before = store.read_table(origin / "problems.parquet", ["mode", "correct"])
        card["accuracy_difference"] = {
            mode: measure.paired_difference(t["correct"], before["correct"][before["mode"] == mode])
            for mode, t in tables.items()}
        card["kl"] = measure.divergence(model, adapter_arms.rounded(first, zoo) if adapted else first, form, asked,
                                        answers["sampled"][1])
        card["weight_change"] = measure.weight_change(*(load_lm(made / "model")[0] for made in (folder, origin)))
    return pd.concat(tables.values(), ignore_index=True), card


def _reward(curve: pd.DataFrame) -> dict[str, Any]:
    """Mean reward of the first and the last quarter of the updates, {reward: {first, last, n}}; nothing without one."""
    rewards = curve.loc[curve["quantity"] == "reward", "value"].to_numpy()
    if len(rewards) == 0:
        return {}
    n = max(1, len(rewards) // 4)
    return {"reward": {"first": float(rewards[:n].mean()), "last": float(rewards[-n:].mean()), "n": n}}


def _size(zoo: Zoo, backbone: Backbone, parameters: int) -> dict[str, Any]:
    """Parameters, and the updates of this arm with what they saw together."""
    size: dict[str, Any] = {"parameters": parameters}
    if backbone.source == "package":
        return {**size, "steps": 0, "package": gguf_package.package_origin(str(backbone.path))}
    if backbone.arm in ("base", "cpt"):
        steps = zoo.pretrain_steps if backbone.arm == "base" else zoo.cpt_steps
        return {**size, "steps": steps, "tokens_seen": steps * zoo.pretrain_batch * zoo.pretrain_length}
    if backbone.arm == "sft":
        return {**size, "steps": zoo.sft_steps, "completions_seen": zoo.sft_steps * zoo.sft_batch}
    steps = zoo.grpo_steps * _rounds(zoo, backbone)
    return {**size, "steps": steps, "completions_seen": steps * zoo.grpo_prompts * zoo.grpo_completions}
