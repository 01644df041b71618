"""Backbones of the zoo as artefacts: trained, measured, written with a card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hrsa import paths
from hrsa.profile import Backbone, Profile

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODES = ("greedy", "sampled")
SAMPLES = 6  # completions shown in the card


def make_backbone(profile: Profile, name: str) -> Path:
    """The artefact folder of a zoo backbone, made first when it is not there, its start before it.

    Holds `model/` (an ordinary Hugging Face causal LM with its tokenizer), `card.json`, `curve.parquet`
    [step, quantity, value], `problems.parquet` [problem, answer, mode, completion, correct, worked] and
    `held_out.parquet` [text]: held-out problems and documents, the same for every arm of a base. Raises ValueError
    for a backbone that is not of the zoo.
    """
    backbone = profile.backbone(name)
    if backbone.source != "zoo":
        raise ValueError(f"expected a backbone of source zoo, got {name} of source {backbone.source}: "
                         "use hrsa.backbone.backbone_folder")
    start = make_backbone(profile, backbone.start) if backbone.start else None
    suite = sorted((paths.SUITE / "train").glob("*")) if start is None else []
    key = paths.key(zoo=profile.zoo.model_dump(), arm=backbone.arm, start=start, threads=profile.threads,
                    suite=[paths.file_hash(p) for p in suite if p.is_file()],
                    code=paths.code_hash("hrsa.zoo.make"))
    folder = paths.artefact(profile.name, "backbones", name, key)
    return paths.make(folder, lambda temporary: _build(profile, backbone, start, temporary, paths.scratch(folder)),
                      profile=profile.name, arm=backbone.arm, start=start.name if start else None,
                      seed=profile.zoo.seed, threads=profile.threads)


def _build(profile: Profile, backbone: Backbone, start: Path | None, folder: Path, work: Path) -> None:
    """Fill the empty artefact folder."""
    from hrsa.backbone import prepare

    prepare(profile.threads, profile.zoo.seed)
    texts, held_out = _texts(start)
    clock = time.monotonic()
    model, tokenizer, curve = _train(profile, backbone, start, texts, work)
    seconds = time.monotonic() - clock
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    problems, card = _measure(profile, model, tokenizer, start, held_out)
    paths.write_table(folder / "held_out.parquet", pd.DataFrame({"text": held_out}))
    paths.write_table(folder / "curve.parquet", curve)
    paths.write_table(folder / "problems.parquet", problems)
    hashes = {p.name: paths.file_hash(p) for p in sorted((folder / "model").iterdir())}
    hashes["held-out text"] = paths.key(texts=held_out)
    if texts:
        hashes["pretraining text"] = paths.key(texts=texts)
    paths.write_json(folder / "card.json", {
        "arm": backbone.arm, "start": backbone.start, **_size(profile, backbone, model), "seconds": round(seconds, 1),
        **card, "hashes": hashes})


def _texts(start: Path | None) -> tuple[list[str], list[str]]:
    """Real documents to pretrain on (none for an arm that starts from another) and held-out ones (the start's)."""
    if start is not None:
        return [], paths.read_table(start / "held_out.parquet", ["text"])["text"].tolist()
    from hrsa.texts import pretraining_text

    return pretraining_text()


def _train(profile: Profile, backbone: Backbone, start: Path | None, texts: list[str],
           work: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, pd.DataFrame]:
    """The arm's model in eval mode, its tokenizer, and the curve of its training."""
    from hrsa.backbone import load_lm

    if start is None:
        from hrsa.zoo.corpus import train_tokenizer
        from hrsa.zoo.pretrain import pretrain

        tokenizer = train_tokenizer(texts, profile.zoo)
        model, curve = pretrain(profile.zoo, texts, tokenizer, work)
        return model, tokenizer, curve
    model, tokenizer = load_lm(start / "model")
    if backbone.arm == "rlvr":
        from hrsa.zoo.grpo import train
    else:
        from hrsa.zoo.sft import train
    curve = train(model, tokenizer, profile.zoo, work)
    return model.eval(), tokenizer, curve


def _measure(profile: Profile, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, start: Path | None,
             held_out: list[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of answered held-out problems and the measured part of the card."""
    from hrsa.backbone import load_lm
    from hrsa.zoo import measure
    from hrsa.zoo.problems import draw

    zoo = profile.zoo
    asked = draw("held-out", zoo.problems_held_out, "held-out", zoo.seed)
    answers = {mode: measure.complete(model, tokenizer, asked, mode, zoo.completion_tokens, zoo.seed)
               for mode in MODES}
    tables = {mode: table for mode, (table, _) in answers.items()}
    card: dict[str, Any] = {
        "perplexity": measure.perplexity(model, tokenizer, held_out),
        "accuracy": {mode: measure.proportion(t["correct"]) for mode, t in tables.items()},
        "worked_share": {mode: measure.proportion(t["worked"]) for mode, t in tables.items()},
        "accuracy_by_mode": {mode: {"worked": measure.proportion(t["correct"][t["worked"]]),
                                    "direct": measure.proportion(t["correct"][~t["worked"]])}
                             for mode, t in tables.items()},
        "accuracy_difference": None, "kl_from_start": None, "weight_change": None,
        "samples": tables["sampled"].head(SAMPLES).drop(columns="mode").to_dict("records"),
    }
    if start is not None:
        origin, _ = load_lm(start / "model")
        before = paths.read_table(start / "problems.parquet", ["mode", "correct"])
        card["accuracy_difference"] = {
            mode: measure.paired_difference(t["correct"], before["correct"][before["mode"] == mode])
            for mode, t in tables.items()}
        card["kl_from_start"] = measure.divergence(model, origin, tokenizer, asked, answers["sampled"][1])
        card["weight_change"] = measure.weight_change(model, origin)
    return pd.concat(tables.values(), ignore_index=True), card


def _size(profile: Profile, backbone: Backbone, model: PreTrainedModel) -> dict[str, Any]:
    """Parameters, and the updates of this arm with what each of them saw."""
    zoo = profile.zoo
    size: dict[str, Any] = {"parameters": model.num_parameters()}
    if backbone.arm == "base":
        tokens = zoo.pretrain_steps * zoo.pretrain_batch * zoo.pretrain_length
        return {**size, "steps": zoo.pretrain_steps, "tokens_seen": tokens}
    if backbone.arm == "rlvr":
        sampled = zoo.grpo_steps * zoo.grpo_prompts * zoo.grpo_completions
        return {**size, "steps": zoo.grpo_steps, "completions_seen": sampled}
    return {**size, "steps": zoo.sft_steps, "completions_seen": zoo.sft_steps * zoo.sft_batch}
