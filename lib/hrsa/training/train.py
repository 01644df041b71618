"""Contrastive training of an embedder from a backbone: the stage, and loading what it made.

    hrsa train PROFILE MODEL          also under `accelerate launch` or torchrun (docs/distributed.md)

Arms of one seed see the same batches in the same order and differ in the backbone that they start from; the fingerprint
beside each embedder records it, and a run whose fingerprint differs in more is refused. Libraries that are slow to
import are imported inside the functions.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hrsa.models.language_model import flash_attention, leak_probe
from hrsa.models.resolve import make_backbone_folder, make_backbone_key
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Model, Profile, Recipe
from hrsa.study.runtime import prepare
from hrsa.texts.hard_negatives import make_triples, read_triples
from hrsa.texts.suite import query_prompt
from hrsa.training import distributed
from hrsa.training.fingerprint import run_fingerprint, same_recipe, start_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)
_MODEL, _CHECKPOINTS = "model", "checkpoints"  # folders of an embedder
_CURVE, _FINGERPRINT, _EXPORT = "curve.parquet", "fingerprint.json", "export.json"  # files beside them
_BEGUN = "begun.json"  # in the folder of unfinished work: which folder the run writes to, by its hash
_SAMPLE = 8  # texts of each kind that an export must embed as the model in memory does


def train_on_triples(backbone: str, name: str, triples: pd.DataFrame, recipe: Recipe, seed: int, folder: Path,
                     work: Path, run: str) -> dict[str, Any]:
    """Train one embedder and write `model/`, `checkpoints/step-000015/`, `curve.parquet` and `fingerprint.json`.

    backbone: folder or hub id; name: what to call it in the fingerprint; triples: as `hard_negatives.read_triples`
    gives them; folder: where to write; work: where unfinished work waits to be resumed. Rank 0 writes. The same call
    goes on where it was killed and replaces what it wrote. Returns the fingerprint. Raises ValueError for unfit triples
    and for a `model/` or `checkpoints/` that is not of this run, RuntimeError when the attention is not that of the
    recipe or the export differs.
    """
    from hrsa.models.embedder import assemble
    from hrsa.training.batches import check_triples, draw_batches, shuffle_positives
    from hrsa.training.trainer import fit

    check_triples(triples, recipe.hard_negatives)
    if recipe.shuffled_positives:
        triples = shuffle_positives(triples, seed)
    late = [step for step in recipe.checkpoints if step > recipe.steps]
    if late:
        raise ValueError(f"expected recipe.checkpoints within recipe.steps={recipe.steps}, got {late}: remove them")
    if distributed.rank() == 0:
        _make_room(folder, work)
    groups = triples["task"].str.cat(triples["instruction"], sep="\t").to_numpy(dtype=str)
    batches = draw_batches(groups, recipe.batch_size, recipe.steps, seed)
    first = triples.drop_duplicates("task")
    prompts = {task: query_prompt(text) for task, text in zip(first["task"], first["instruction"], strict=True)}

    def bare() -> SentenceTransformer:
        return assemble(backbone, recipe.attention, recipe.max_length, prompts, recipe.layers, recipe.pooling,
                        recipe.kernel)

    def fresh() -> SentenceTransformer:
        return _with_adapters(bare(), recipe)

    model = bare()
    start = start_of(model, name)
    leak_probe(_with_adapters(model, recipe)[0].model, model.tokenizer, recipe.attention)
    steps = work / _CHECKPOINTS
    steps.mkdir(parents=True, exist_ok=True)

    def keep(step: int, weights: dict[str, Any] | None) -> None:
        if distributed.rank() == 0:  # a run that was killed after this step kept it, and goes on from an earlier one
            shutil.rmtree(steps / _step(step), ignore_errors=True)
        _export(model, weights, fresh, steps / _step(step))

    flash = recipe.kernel == "flash_attention_2"
    with flash_attention(model[0].model, model.tokenizer, recipe.attention) if flash else contextlib.nullcontext():
        curve, weights = fit(model, triples, batches, recipe, seed, work, run, keep)
    record = run_fingerprint(curve, recipe, seed, start, code_hash(train_on_triples))
    final = _export(model, weights, fresh, folder / _MODEL)
    if distributed.rank() == 0:
        _write(final, triples.iloc[batches[0][:_SAMPLE]], recipe, folder, steps, curve, record)
    return record


def _make_room(folder: Path, work: Path) -> None:
    """Remove what an earlier call with the same `folder` and `work` left in `folder`, and note in `work` that this one
    writes there. ValueError when something stands there that no such call wrote."""
    note, mine = work / _BEGUN, store.key(folder=str(folder.resolve()))
    there = [part for part in (folder / _MODEL, folder / _CHECKPOINTS) if part.exists()]
    if there and not (note.is_file() and store.read_json(note) == mine):
        raise ValueError(f"expected no {' and no '.join(part.name for part in there)} in {folder}, but for those of a "
                         f"run with unfinished work in {work}, got others: give another folder, or move them away")
    for part in there:
        shutil.rmtree(part)
    store.write_json(note, mine)


def _with_adapters(model: SentenceTransformer, recipe: Recipe) -> SentenceTransformer:
    """The same model, with LoRA adapters where the recipe says so."""
    from hrsa.models.adapters import add_lora

    if recipe.lora:
        add_lora(model, recipe.lora)
    return model


def _export(model: SentenceTransformer, weights: dict[str, Any] | None, fresh: Callable[[], SentenceTransformer],
            folder: Path) -> SentenceTransformer:
    """Write an embedder from rank 0 and return it: `model`, or where its weights are spread over processes a fresh one
    with the whole `weights`."""
    from hrsa.models.embedder import save_embedder

    if distributed.rank() == 0:
        if weights is not None:
            model = fresh()
            model.load_state_dict(weights)
        save_embedder(model, folder)
    distributed.wait()
    return model


def _write(model: SentenceTransformer, sample: pd.DataFrame, recipe: Recipe, folder: Path, steps: Path,
           curve: pd.DataFrame, record: dict[str, Any]) -> None:
    """Check the export on `sample` and write what stands beside it."""
    from hrsa.models.embedder import check_export

    shutil.copytree(steps, folder / _CHECKPOINTS)
    prompt = query_prompt(sample["instruction"].iloc[0])
    seen = check_export(model, folder / _MODEL, recipe.attention, list(sample["query"]), prompt,
                        list(sample["positive"]))
    store.write_table(folder / _CURVE, curve)
    store.write_json(folder / _FINGERPRINT, record)
    store.write_json(folder / _EXPORT, seen)


def _step(step: int) -> str:
    return f"step-{step:06d}"


@dataclass(frozen=True)
class _Inputs:
    """What one embedder is trained from, made where it was missing, and the artefact that it becomes."""

    model: Model
    recipe: Recipe
    triples: Path  # artefact
    backbone: str  # folder or hub id
    arm: str  # key of what all arms of a seed share
    folder: Path


def _inputs(profile: Profile, model_id: str) -> _Inputs:
    """The inputs of an embedder; rank 0 makes what is missing. ValueError for a backbone's id, and where processes
    would train from different inputs."""
    model = profile.model(model_id)
    if model.seed is None:
        known = [m.id for m in profile.models() if m.seed is not None]
        raise ValueError(f"expected an embedder, one of {known}, got the backbone {model_id!r}: name an embedder")
    recipe = profile.varied(model.ablation)
    triples = distributed.in_turn(lambda: make_triples(profile))
    backbone = distributed.in_turn(lambda: make_backbone_folder(profile, model.backbone))
    several = {"processes": profile.processes} if profile.processes > 1 else {}
    arm = store.key(recipe=recipe.model_dump(mode="json"), seed=model.seed, threads=profile.threads, texts=triples.name,
                    code=code_hash(train_embedder), **several)
    key = store.key(arm=arm, backbone=make_backbone_key(profile, model.backbone))
    folder = store.artefact(profile.name, "embedders", model_id, key)
    if (theirs := distributed.agreed(folder.name)) != folder.name:
        raise ValueError(f"expected all processes to train {theirs}, got {folder.name} in process "
                         f"{distributed.rank()}: give every machine the same code, profile and data")
    return _Inputs(model, recipe, triples, backbone, arm, folder)


def train_embedder(profile: Profile, model_id: str) -> Path:
    """Folder of the embedder `model_id` (such as `base-s0`), trained first if it is not there yet.

    An interrupted run goes on where it was when called again. Several processes (`distributed.start`) train one model,
    each on its share of every batch; rank 0 writes. Raises ValueError for a backbone's id, for unfit triples, for more
    or fewer processes than the profile says, and when the run differs from another arm of its seed in more than what it
    starts from.
    """
    given = _inputs(profile, model_id)

    def build(temporary: Path) -> None:
        prepare(profile.threads, given.model.seed)
        record = train_on_triples(given.backbone, given.model.backbone, read_triples(given.triples),
                                  given.recipe, given.model.seed, temporary, store.scratch(given.folder), model_id)
        same_recipe({model_id: record, **_finished_arms(profile, given.model, given.arm)})

    if distributed.agreed((given.folder / store.PROVENANCE).is_file()):
        return given.folder
    if distributed.count() != profile.processes:
        raise ValueError(f"expected {profile.processes} process(es) to train {model_id}, as profile {profile.name} "
                         f"says, got {distributed.count()}: what a run has kept is of that number. `make book` starts "
                         "them; by hand start as many (docs/distributed.md), or change `processes` and train anew")
    if distributed.rank() == 0:
        store.make(given.folder, build, (train_embedder,), model=model_id, arm=given.arm, inputs=[given.triples.name],
                   processes=distributed.count())
    else:
        build(given.folder)
    distributed.wait()
    return given.folder


def make_weights_key(profile: Profile, model_id: str) -> str:
    """What stands for a model's weights in keys.

    For an embedder its artefact's name (it is trained first where missing); for a backbone its key, with the number of
    blocks where the recipe keeps the first ones, its pooling where that is not the mean, and the attention kernel where
    the recipe names one for float32.
    """
    model = profile.model(model_id)
    if model.seed is not None:
        return train_embedder(profile, model_id).name
    recipe = profile.recipe
    parts = [make_backbone_key(profile, model.backbone), "" if recipe.layers is None else f"first-{recipe.layers}",
             "" if recipe.pooling == "mean" else recipe.pooling,
             "" if recipe.kernel in ("auto", "flash_attention_2") else recipe.kernel]
    return "-".join(part for part in parts if part)


def _finished_arms(profile: Profile, model: Model, arm: str) -> dict[str, dict[str, Any]]:
    """Fingerprints of the finished embedders of the same seed, recipe, texts and code: model id -> fingerprint."""
    ids = {m.id for m in profile.models() if (m.seed, m.ablation) == (model.seed, model.ablation)}
    found = {}
    for path in sorted((store.RUNS / profile.name / "embedders").glob(f"*/{store.PROVENANCE}")):
        record = store.read_json(path)
        if record["model"] in ids and record["arm"] == arm:
            found[record["model"]] = store.read_json(path.with_name(_FINGERPRINT))
    return found


def make_fingerprints(profile: Profile, model_id: str) -> dict[str, dict[str, Any]]:
    """Fingerprints of the embedder `model_id`, trained first where missing, and of the other arms of its seed and
    recipe that are finished."""
    arm = store.read_json(train_embedder(profile, model_id) / store.PROVENANCE)["arm"]
    return _finished_arms(profile, profile.model(model_id), arm)


def is_trained(profile: Profile, model_id: str) -> bool:
    """Whether an embedder is finished as profile, data and code are now; what it would be trained from is made where it
    is missing."""
    return (_inputs(profile, model_id).folder / store.PROVENANCE).is_file()


def read_fingerprint(folder: Path) -> dict[str, Any]:
    """The fingerprint of an embedder in its folder, from `fingerprint.run_fingerprint`."""
    return store.read_json(folder / _FINGERPRINT)


def read_training_curve(folder: Path) -> pd.DataFrame:
    """The curve of an embedder in its folder: one row per step, with the columns `trainer.CURVE`."""
    return store.read_table(folder / _CURVE)


def read_export_check(folder: Path) -> dict[str, Any]:
    """What was seen when an embedder's folder was loaded again: attention, largest difference, number of texts."""
    return store.read_json(folder / _EXPORT)


def make_model(profile: Profile, model_id: str, step: int | None = None) -> SentenceTransformer:
    """A model of the study, made first where missing, as a SentenceTransformer on `hrsa.study.runtime.device()`.

    A backbone's id gives the backbone as it came (`as_it_came`), untrained, pooled as the recipe pools where it has no
    pooling of its own. An embedder's id gives its final state or, with `step`, one of `recipe.checkpoints`; step 0 is
    its backbone as it came. Raises ValueError for a step that was not kept.
    """
    from hrsa.models.as_it_came import open_as_it_came
    from hrsa.models.embedder import open_embedder

    model = profile.model(model_id)
    recipe = profile.varied(model.ablation)
    if model.seed is None or step == 0:
        if step:
            raise ValueError(f"expected step 0 or None for the backbone {model_id}, got {step}: leave the step out")
        backbone = make_backbone_folder(profile, model.backbone)
        return open_as_it_came(backbone, recipe.max_length, recipe.layers, recipe.pooling, recipe.kernel)
    folder = train_embedder(profile, model_id)
    if step is None:
        return open_embedder(folder / _MODEL, recipe.kernel)
    if not (folder / _CHECKPOINTS / _step(step)).is_dir():
        raise ValueError(f"expected a step kept for {model_id}, one of {[0, *recipe.checkpoints]}, got {step}: add it "
                         "to recipe.checkpoints and train again")
    return open_embedder(folder / _CHECKPOINTS / _step(step), recipe.kernel)
