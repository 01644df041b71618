"""The backbones that come with the project: makes them again and writes them, with their cards, to `data/backbones`.

    hrsa backbones                 all arms of the profile `smollm2-arms`, to `data/backbones/smollm2-sft` and so on
    hrsa backbones sft rlvr        these, and what they start from
    hrsa backbones --profile mine sft    an arm of another profile, to `data/backbones/mine-sft`

A stage that was interrupted goes on where it was. On one machine, with one number of threads, the files come out the
same to the bit; the card says which machine and how many threads made those in the repository.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hrsa.models.zoo.make import make_backbone
from hrsa.study import store
from hrsa.study.profile import Profile

PROFILE = "smollm2-arms"
SHIPPED = store.ROOT / "data" / "backbones"
TABLES = ("curve.parquet", "problems.parquet")
LARGEST = {"model.safetensors": 16e6, "adapter_model.safetensors": 10e6}  # bytes: what the repository can carry
TEXT = ("Training text: the training tasks of `data/suite` (licences in its cards) and docstrings of installed "
        "packages, without any text that shares 13 successive words with an evaluation or probe text.")
ARMS = {
    "base": "pretrained from random weights on real text and on verifiable problems with their answers",
    "cpt": "continued pretraining of the base on real text alone: the control for any further training",
    "sft": "supervised fine-tuning of the base on worked solutions",
    "rlvr": "GRPO from the base; the reward is 1 for an exactly right answer and 0 otherwise",
    "rlvr-long": "GRPO from the base in several rounds, reference and optimizer renewed before each",
}


def ship(profile: Profile, names: list[str], jobs: int) -> None:
    """Make the backbones `names` of `profile`, `jobs` at a time, and write each to a folder of `data/backbones`.

    A folder holds the model's files as `from_pretrained` reads them, or those of its adapters as peft reads them,
    `README.md` (the model card), `card.json`, `curve.parquet` and `problems.parquet`. Of what a package brings only
    these are written: the package has the weights. Raises RuntimeError when one cannot be made or its weights are
    larger than the repository carries.
    """
    waiting = {name for chosen in names for name in _chain(profile, chosen)}
    done: set[str] = set()
    while waiting:
        ready = [name for name in sorted(waiting) if profile.compared_with(name) in {None, *done}]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda name: _make_in_process(profile, name), ready))
        done |= set(ready)
        waiting -= done
    for name in sorted(done):
        _write(profile, name)


def _chain(profile: Profile, name: str | None) -> list[str]:
    """A backbone and those that must be there before it."""
    return [] if name is None else [name, *_chain(profile, profile.compared_with(name))]


def _make_in_process(profile: Profile, name: str) -> None:
    """Make one backbone by a process of its own, which takes threads and seeds for itself."""
    command = [Path(sys.executable).with_name("hrsa"), "run", "backbone", name, "--profile", profile.name]
    threads = {"OMP_NUM_THREADS": str(profile.threads)}
    if subprocess.run(command, env=os.environ | threads, check=False).returncode:
        raise RuntimeError(f"expected the backbone {name} of profile {profile.name} to be made, its process failed: "
                           "the reason is above; the same command goes on where it stopped")


def _write(profile: Profile, name: str) -> None:
    """Copy one artefact to its folder and write its cards."""
    made = make_backbone(profile, name)
    provenance = store.read_json(made / store.PROVENANCE)
    card = store.read_json(made / "card.json") | {"made": {
        "command": _command(profile, name), "machine": f"{processor()}, {provenance['machine']}",
        "threads": profile.threads, "seed": provenance["seed"], "written": provenance["written"],
        "versions": provenance["versions"], "artefact": made.name}}
    part = "adapter" if (made / "adapter").is_dir() else "model"
    with store.atomic(folder_of(profile, name)) as temporary:
        if "package" in card:
            temporary.mkdir()
        else:
            _copy_weights(profile, name, made / part, temporary)
        card["hashes"] = {file: digest for file, digest in card["hashes"].items()
                          if (temporary / file).is_file() or " " in file}
        for table in TABLES:
            shutil.copy(made / table, temporary / table)
        store.write_json(temporary / "card.json", card)
        (temporary / "README.md").write_text(model_card(profile, name, card), encoding="utf8")


def _copy_weights(profile: Profile, name: str, made: Path, folder: Path) -> None:
    """Copy a model or its adapters; RuntimeError for weights that are larger than the repository carries."""
    shutil.copytree(made, folder)
    (weights,) = folder.glob("*.safetensors")
    if (size := weights.stat().st_size) > (most := LARGEST[weights.name]):
        raise RuntimeError(f"expected weights of at most {most / 1e6:.0f} MB, got {size / 1e6:.1f} MB for {name}: "
                           f"make the {made.name} of profile {profile.name} smaller")


def folder_of(profile: Profile, name: str) -> Path:
    """Where a shipped backbone lies: under its profile's name, without `-arms`, and its own."""
    return SHIPPED / f"{profile.name.removesuffix('-arms')}-{name}"


def _command(profile: Profile, name: str) -> str:
    return f"hrsa backbones --profile {profile.name} {name}"


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
                platform.processor() or platform.machine())


def model_card(profile: Profile, name: str, card: dict[str, Any]) -> str:
    """The model card in Markdown, `card.md` beside this file with every number from `card`."""
    units = {"tokens_seen": "tokens", "completions_seen": "completions"}
    seen = ", ".join(f"{card[key]:,} {unit}" for key, unit in units.items() if key in card) or "nothing seen"
    made = card["made"] | {"versions": ", ".join(f"{key} {value}" for key, value in card["made"]["versions"].items())}
    return Path(__file__).with_name("card.md").read_text(encoding="utf8").format(
        **made, name=name, profile=profile.name, kind=_kind(profile, card, _how(profile, name)),
        steps=card["steps"], seen=seen, minutes=card["seconds"] / 60, evidence="\n".join(_evidence(card)),
        files="\n".join(f"- `{file}`: {digest}" for file, digest in card["hashes"].items()),
        text="Nothing was trained here." if "package" in card else
        TEXT if {"model.safetensors", "training text"} & set(card["hashes"]) else "Trained on problems alone.")


def _how(profile: Profile, name: str) -> str:
    backbone = profile.backbone(name)
    held = "" if backbone.geometry is None else (
        f", with a penalty on what that does to hidden states: {backbone.geometry.weight:g} times 1 - linear CKA from "
        f"the start's, mean over blocks {', '.join(map(str, backbone.geometry.blocks))}")
    return ARMS[backbone.arm] + held


def _kind(profile: Profile, card: dict[str, Any], how: str) -> str:
    """What the weights are, and `how` they were made."""
    if "model.safetensors" in card["hashes"]:
        return f"A Qwen3-architecture language model of {card['parameters'] / 1e6:.1f} million parameters, {how}"
    name, millions = card["start"], card["parameters"] / 1e6
    if "package" in card:
        package = card["package"]
        return (f"{package['file']} of {millions:.0f} million parameters in the Python package {package['package']} "
                f"{package['version']} ({package['licence']}), dequantised and measured here; the weights are there")
    return (f"LoRA adapters of rank {profile.zoo.lora.r} on `{name}` of profile `{profile.name}` ({millions:.0f} "
            f"million parameters), {how.replace('the base', f'`{name}`')}. `hrsa.models.adapters.apply` merges them")


def _evidence(card: dict[str, Any]) -> list[str]:
    """The measured part of the model card."""
    lines = ["| measure on held-out material | value | 95% interval |", "|---|---|---|",
             f"| perplexity per token of real text | {card['perplexity']['value']:.1f} | |"]
    rows = [(f"problems solved, {mode}", share, ".1%") for mode, share in card["accuracy"].items()]
    rows += [(f"{family}, sampled", share, ".1%") for family, share in card["accuracy_by_family"]["sampled"].items()]
    rows += [(f"{way} answers solved, sampled ({share['n']} of {card['accuracy']['sampled']['n']})", share, ".1%")
             for way, share in card["accuracy_by_mode"]["sampled"].items() if share["n"]]
    other = card["compared_with"]
    if other:
        rows += [(f"problems solved, {mode}, minus `{other}`", share, "+.1%")
                 for mode, share in card["accuracy_difference"].items()]
    lines += [f"| {what} | {share['value']:{form}} | {share['low']:{form}} to {share['high']:{form}} |"
              for what, share, form in rows]
    if "reward" in card:
        lines += [f"| mean reward of the {part} {card['reward']['n']} updates | {card['reward'][part]:.3f} | |"
                  for part in ("first", "last")]
    if other:
        lines.append(f"| KL divergence from `{other}`, nats per token of own answers | {card['kl']['value']:.4f} | |")
        lines += [f"| relative change of weights from `{other}`, {row['layer']} | {row['value']:.4f} | |"
                  for row in card["weight_change"]]
    return lines
