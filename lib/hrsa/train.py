"""Contrastive training of an embedder from a backbone: the stage, its data order, and loading what it made.

Arms of one seed see the same batches in the same order, so that nothing but the initial weights sets them apart; the
fingerprint beside each embedder proves it. Libraries that are slow to import are imported inside the functions.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hrsa import paths
from hrsa.backbone import backbone_folder, backbone_key, prepare
from hrsa.fingerprint import fingerprint, same_recipe, start_of
from hrsa.mining import mine
from hrsa.profile import Model, Profile, Recipe
from hrsa.texts import query_prompt

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)
COLUMNS = ["task", "instruction", "query", "positive", "negatives"]
CANDIDATES, SHOWN = 300, 400  # passages among which an example is sought, and characters of it that are shown
EXAMPLES = 8  # texts of each kind that an export must embed as the model in memory does


def batches(groups: np.ndarray, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Rows of each batch, (steps, batch_size): a pure function of its arguments.

    groups (rows,): group of each triple (its task and instruction). Every pass shuffles each group, cuts it into
    full batches of that group alone, leaves out the rest, and shuffles the batches of all groups; so groups come in
    proportion to their size and no triple comes twice in a pass. Raises ValueError when a group is smaller than a
    batch.
    """
    names, counts = np.unique(groups, return_counts=True)
    small = {str(n): int(c) for n, c in zip(names, counts, strict=True) if c < batch_size}
    if small or not len(groups):
        raise ValueError(f"expected at least batch_size={batch_size} triples of every task, got "
                         f"{small or 'no triples at all'}: lower recipe.batch_size, raise suite.max_pairs or leave "
                         "the task out")
    chance = np.random.default_rng([seed, batch_size])
    members = [np.flatnonzero(groups == name) for name in names]
    order: list[np.ndarray] = []
    while len(order) < steps:
        one_pass = []
        for rows in members:
            full = len(rows) // batch_size * batch_size
            one_pass += list(chance.permutation(rows)[:full].reshape(-1, batch_size))
        order += [one_pass[i] for i in chance.permutation(len(one_pass))]
    return np.stack(order[:steps])


def check_triples(triples: pd.DataFrame, negatives: int) -> None:
    """ValueError unless `triples` has all columns, no empty text, and at least `negatives` negatives in each row."""
    missing = [name for name in COLUMNS if name not in triples]
    if missing:
        raise ValueError(f"expected columns {COLUMNS}, got {list(triples.columns)}: add {missing}")
    for name in ("query", "positive"):
        empty = triples.index[triples[name].str.strip() == ""]
        if len(empty):
            raise ValueError(f"expected text in column {name}, got {len(empty)} empty ones, first in row {empty[0]}: "
                             "remove these rows")
    counts = triples["negatives"].map(len)
    if (counts < negatives).any():
        raise ValueError(f"expected {negatives} hard negatives in every triple, got fewer in "
                         f"{int((counts < negatives).sum())} of {len(triples)} rows: lower recipe.hard_negatives or "
                         "mine from a larger corpus")


def train(backbone: str, name: str, triples: pd.DataFrame, recipe: Recipe, seed: int, folder: Path, work: Path,
          run: str) -> dict[str, Any]:
    """Train one embedder and write `model/`, `checkpoints/step-000015/`, `curve.parquet` and `fingerprint.json`.

    backbone: folder or hub id; name: what to call it in the fingerprint; triples: table with `COLUMNS`; folder: where
    to write; work: where unfinished work waits to be resumed. Returns the fingerprint. Raises ValueError for unfit
    triples, RuntimeError when the attention is not that of the recipe or the export differs.
    """
    from hrsa.export import add_lora, assemble, check_export, export
    from hrsa.trainer import fit

    check_triples(triples, recipe.hard_negatives)
    late = [step for step in recipe.checkpoints if step > recipe.steps]
    if late:
        raise ValueError(f"expected recipe.checkpoints within recipe.steps={recipe.steps}, got {late}: remove them")
    groups = triples["task"].str.cat(triples["instruction"], sep="\t").to_numpy(dtype=str)
    order = batches(groups, recipe.batch_size, recipe.steps, seed)
    first = triples.drop_duplicates("task")
    prompts = {task: query_prompt(text) for task, text in zip(first["task"], first["instruction"], strict=True)}
    model = assemble(backbone, recipe.attention, recipe.max_length, prompts)
    start = start_of(model, name)
    if recipe.lora:
        add_lora(model, recipe.lora)
    steps = work / "checkpoints"
    steps.mkdir(parents=True, exist_ok=True)
    curve = fit(model, triples, order, recipe, seed, work, run, lambda step: export(model, steps / _step(step)))
    export(model, folder / "model")
    shutil.copytree(steps, folder / "checkpoints")
    sample = triples.iloc[order[0][:EXAMPLES]]
    prompt = query_prompt(sample["instruction"].iloc[0])
    seen = check_export(model, folder / "model", recipe.attention, list(sample["query"]), prompt,
                        list(sample["positive"]))
    paths.write_table(folder / "curve.parquet", curve)
    record = fingerprint(curve, recipe, seed, start)
    paths.write_json(folder / "fingerprint.json", record)
    paths.write_json(folder / "export.json", seen)
    return record


def _step(step: int) -> str:
    return f"step-{step:06d}"


def _embedder(profile: Profile, model_id: str) -> Model:
    model = profile.model(model_id)
    if model.seed is None:
        known = [m.id for m in profile.models() if m.seed is not None]
        raise ValueError(f"expected an embedder, one of {known}, got the backbone {model_id!r}")
    return model


def train_embedder(profile: Profile, model_id: str) -> Path:
    """Folder of the embedder `model_id` (such as `base-s0`), trained first if it is not there yet.

    An interrupted run goes on where it was when called again. Raises ValueError for a backbone's id, for unfit
    triples, and when the run differs from another arm of its seed in anything but the initial weights.
    """
    model = _embedder(profile, model_id)
    recipe = profile.varied(model.ablation)
    texts = mine(profile)
    backbone = backbone_folder(profile, model.backbone)
    arm = paths.key(recipe=recipe.model_dump(mode="json"), seed=model.seed, threads=profile.threads, texts=texts.name,
                    code=paths.code_hash("hrsa.train"))
    key = paths.key(arm=arm, backbone=backbone_key(profile, model.backbone))
    folder = paths.artefact(profile.name, "embedders", model_id, key)

    def build(temporary: Path) -> None:
        prepare(profile.threads, model.seed)
        triples = paths.read_table(texts / "triples.parquet", COLUMNS)
        record = train(backbone, model.backbone, triples, recipe, model.seed, temporary, paths.scratch(folder),
                       model_id)
        same_recipe({model_id: record, **_arms(profile, model, arm)})

    return paths.make(folder, build, model=model_id, arm=arm, inputs=[texts.name])


def weights_key(profile: Profile, model_id: str) -> str:
    """What stands for a model's weights in keys: an embedder's artefact name (made first when needed), or the
    `backbone_key` of a backbone."""
    model = profile.model(model_id)
    return backbone_key(profile, model.backbone) if model.seed is None else train_embedder(profile, model_id).name


def _arms(profile: Profile, model: Model, arm: str) -> dict[str, dict[str, Any]]:
    """Fingerprints of the finished embedders of the same seed, recipe, texts and code: model id -> fingerprint."""
    ids = {m.id for m in profile.models() if (m.seed, m.ablation) == (model.seed, model.ablation)}
    found = {}
    for path in sorted((paths.RUNS / profile.name / "embedders").glob("*/provenance.json")):
        record = paths.read_json(path)
        if record["model"] in ids and record["arm"] == arm:
            found[record["model"]] = paths.read_json(path.with_name("fingerprint.json"))
    return found


def arms(profile: Profile, model_id: str) -> dict[str, dict[str, Any]]:
    """Fingerprints of the embedder `model_id` and of the other arms of its seed and recipe that are finished."""
    folder = train_embedder(profile, model_id)
    arm = paths.read_json(folder / "provenance.json")["arm"]
    return _arms(profile, _embedder(profile, model_id), arm)


def load_embedder(profile: Profile, model_id: str, step: int | None = None) -> SentenceTransformer:
    """A model of the study as a SentenceTransformer, on `hrsa.backbone.device()`.

    A backbone's id gives the backbone as it came: causal, untrained, with mean pooling. An embedder's id gives its
    final state or, with `step`, one of `recipe.checkpoints`; step 0 is its backbone as it came. Raises ValueError
    for a step that was not kept.
    """
    from hrsa.export import assemble, load

    model = profile.model(model_id)
    recipe = profile.varied(model.ablation)
    if model.seed is None or step == 0:
        if step:
            raise ValueError(f"expected step 0 or None for the backbone {model_id}, got {step}")
        return assemble(backbone_folder(profile, model.backbone), "causal", recipe.max_length)
    folder = train_embedder(profile, model_id)
    if step is None:
        return load(folder / "model")
    if not (folder / "checkpoints" / _step(step)).is_dir():
        raise ValueError(f"expected a step kept for {model_id}, one of {[0, *recipe.checkpoints]}, got {step}: add it "
                         "to recipe.checkpoints and train again")
    return load(folder / "checkpoints" / _step(step))


def nearest(profile: Profile, model_id: str) -> pd.DataFrame:
    """An example from the largest training task: a query, its positive and the passage nearest to it [what, cosine,
    text]; of the first `CANDIDATES` triples the first whose nearest passage is another, else the first of all."""
    from hrsa.export import embed

    triples = paths.read_table(mine(profile) / "triples.parquet", COLUMNS)
    triples = triples[triples["task"] == triples["task"].mode()[0]].head(CANDIDATES)
    passages = list(dict.fromkeys(triples["positive"]))
    model = load_embedder(profile, model_id)
    x = embed(model, list(triples["query"]), query_prompt(triples["instruction"].iloc[0]))  # (b, d)
    cosines = x @ embed(model, passages).T  # (b, p)
    own = np.array([passages.index(text) for text in triples["positive"]])
    best = cosines.argmax(1)
    i = int(np.argmax(best != own))
    rows = [("query", None, triples["query"].iloc[i]), ("its positive", cosines[i, own[i]], passages[own[i]]),
            ("nearest passage", cosines[i, best[i]], passages[best[i]])]
    return pd.DataFrame([(what, cosine, text[:SHOWN]) for what, cosine, text in rows],
                        columns=["what", "cosine", "text"])
