"""A backbone's folder of weights, made or fetched where it is missing, and the key that identifies its content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Profile

if TYPE_CHECKING:
    pass
if TYPE_CHECKING:
    pass
from hrsa.models.adapters import FILES, apply

if TYPE_CHECKING:
    pass
from hrsa.models.language_model import _check_folder
from hrsa.study.backbone_kinds import MADE, are_adapters


def backbone_folder(profile: Profile, name: str) -> str:
    """Where the backbone `name` is: a folder's path (made first for zoo arms, packages and adapters) or a hub id.

    Raises ValueError for an unknown name and for a folder that is missing or holds no model with its tokenizer.
    """
    backbone = profile.backbone(name)
    if backbone.source in MADE:
        from hrsa.models.zoo.make import make_backbone

        return str(make_backbone(profile, name) / "model")
    if backbone.source == "hub":
        return str(backbone.path)
    folder = (store.ROOT / str(backbone.path)).resolve()
    if are_adapters(backbone):
        pass

        return str(merged_folder(profile, name, folder))
    _check_folder(folder)
    return str(folder)


def backbone_key(profile: Profile, name: str) -> str:
    """What stands for a backbone's weights in keys: the artefact's name, the hub id, the hash of a folder's files."""
    source, folder = profile.backbone(name).source, backbone_folder(profile, name)
    if source in MADE:
        return Path(folder).parent.name
    if source == "hub":
        return folder
    files = sorted(f for f in Path(folder).iterdir() if f.suffix in (".safetensors", ".json") and f.name != "card.json")
    return store.key(files={f.name: store.file_hash(f) for f in files})


def merged_folder(profile: Profile, name: str, folder: Path) -> Path:
    """Folder of an ordinary model: the adapters in `folder` merged into the backbone that `name` starts from.

    Made once, as an artefact. Raises ValueError when the backbone `name` has no `start`.
    """
    pass
    from hrsa.models.language_model import load_lm

    start = profile.backbone(name).start
    if start is None:
        raise ValueError(f"backbone {name}: expected `start`, the backbone that the adapters in {folder.name} are for, "
                         "got none: name it in the profile")
    key = store.key(start=backbone_key(profile, start), adapters=[store.file_hash(folder / file) for file in FILES],
                    code=code_hash(merged_folder))

    def build(temporary: Path) -> None:
        model, tokenizer = load_lm(backbone_folder(profile, start))
        apply(model, folder).save_pretrained(temporary / "model")
        tokenizer.save_pretrained(temporary / "model")

    target = store.artefact(profile.name, "backbones", name, key)
    return store.make(target, build, (merged_folder,), start=start) / "model"
