"""A backbone's folder of weights, made where it is missing, and the key that identifies its content."""

from __future__ import annotations

from pathlib import Path

from hrsa.models.adapters import FILES, apply
from hrsa.models.derived import add_noise, randomise, unpack
from hrsa.models.gguf_package import package_origin
from hrsa.models.language_model import check_folder, load_lm, network_folder
from hrsa.models.zoo.make import make_backbone
from hrsa.study import hub, store
from hrsa.study.backbone_kinds import are_adapters, is_derived, is_measured
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Profile

_LOADED = ("vocab.txt", "merges.txt")  # by a tokenizer, beside what ends as other files of a model do


def make_backbone_folder(profile: Profile, name: str) -> str:
    """The folder where the weights of backbone `name` are.

    Those of zoo arms, packages, adapters and controls are made first, those on the hub downloaded at the commit that
    the study saw first.

    Raises ValueError for an unknown name, for a folder that is missing or holds no model with its tokenizer, and as
    `hub.make_snapshot`.
    """
    backbone = profile.backbone(name)
    if is_measured(backbone):
        return str(make_backbone(profile, name) / "model")
    if is_derived(backbone):
        return str(make_derived(profile, name) / "model")
    if backbone.source == "hub":
        folder = hub.make_snapshot(profile, str(backbone.path), backbone.revision)
        check_folder(Path(network_folder(folder)))
        return str(folder)
    folder = (store.ROOT / str(backbone.path)).resolve()
    if are_adapters(backbone):
        return str(make_merged(profile, name, folder))
    check_folder(Path(network_folder(folder)))
    return str(folder)


def make_backbone_key(profile: Profile, name: str) -> str:
    """What stands for a backbone's weights in keys: the artefact's name, the hub id with its commit, the hash of a
    folder's files. The weights are made first where they are missing."""
    backbone = profile.backbone(name)
    if backbone.source == "hub":
        return f"{backbone.path}@{hub.make_commit(profile, str(backbone.path), backbone.revision)}"
    folder = make_backbone_folder(profile, name)
    if is_measured(backbone) or is_derived(backbone) or are_adapters(backbone):
        return Path(folder).parent.name
    modules = Path(folder) / "modules.json"  # of an embedder, whose modules may lie in folders of their own
    parts = {Path(folder), *(Path(folder) / m["path"] for m in (store.read_json(modules) if modules.is_file() else ()))}
    files = sorted(f for part in parts if part.is_dir() for f in part.iterdir() if f.name != "card.json"
                   and (f.suffix in (".safetensors", ".json", ".jinja", ".model") or f.name in _LOADED))
    return store.key(files={str(f.relative_to(folder)): store.file_hash(f) for f in files})


def make_merged(profile: Profile, name: str, folder: Path) -> Path:
    """Folder of an ordinary model, an artefact: the adapters in `folder` merged into the backbone `name` starts from.

    Raises ValueError when the backbone `name` has no `start`.
    """
    start = profile.backbone(name).start
    if start is None:
        raise ValueError(f"backbone {name}: expected `start`, the backbone that the adapters in {folder.name} are for, "
                         "got none: name it in the profile")
    adapters = [store.file_hash(folder / file) for file in FILES]
    key = store.key(start=make_backbone_key(profile, start), adapters=adapters, code=code_hash(make_merged))

    def build(temporary: Path) -> None:
        model, tokenizer = load_lm(make_backbone_folder(profile, start))
        apply(model, folder).save_pretrained(temporary / "model")
        tokenizer.save_pretrained(temporary / "model")

    target = store.artefact(profile.name, "backbones", name, key)
    return store.make(target, build, (make_merged,), start=start) / "model"


def make_derived(profile: Profile, name: str) -> Path:
    """Artefact folder whose `model/` is what a package brings, or a control: another backbone with its weights changed.

    Raises ValueError for a package that is not installed.
    """
    backbone = profile.backbone(name)
    seed = profile.zoo.seed if backbone.seed is None else backbone.seed
    if backbone.source == "package":
        settings = {"package": package_origin(str(backbone.path))}
    else:
        settings = {**backbone.model_dump(mode="json", include={"source", "noise"}), "threads": profile.threads,
                    "seed": seed, "start": make_backbone_key(profile, str(backbone.start))}

    def build(temporary: Path) -> None:
        if backbone.source == "package":
            unpack(str(backbone.path), temporary / "model")
            return
        start = make_backbone_folder(profile, str(backbone.start))
        if backbone.source == "random":
            randomise(start, temporary / "model", seed, profile.threads)
        else:
            add_noise(start, temporary / "model", float(backbone.noise or 0), seed, profile.threads)

    target = store.artefact(profile.name, "backbones", name, store.key(**settings, code=code_hash(make_derived)))
    return store.make(target, build, (make_derived,), start=backbone.start)
