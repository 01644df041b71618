"""Probe texts -> token states of every layer of a model, written once and read by every comparison.

One forward pass per model serves all of HRSA (see `hidden_states`), its probes too. Every non-pad token counts; a
seeded sample of tokens, the same for every model of a profile, is kept. Where tokenizers differ, rows are words or
texts in place of tokens (`analysis.units`). Backbones of a pair, and their embedders of the first seed, get a second
pass in bfloat16: how alike they are to themselves is the ceiling of every similarity.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis import units
from hrsa.analysis.hidden_states import layer_labels, stream_states, tokenise
from hrsa.models.positions import most_positions
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Analysis, Profile
from hrsa.study.progress import progress

BF16 = "bf16"  # folder, inside that of a model, with its states at that precision: the ceiling of a similarity


@dataclass(frozen=True)
class Recording:
    """Recorded states of one model, read layer by layer; see `write_states` for the files."""

    folder: Path
    labels: tuple[str, ...]
    tokens: pd.DataFrame  # one row per token: row, text, set, difficulty, position, token_id, length

    def layer(self, index: int) -> np.ndarray:
        """States (n, d) float32 of the layer at this place among the labels, mapped from disk."""
        return np.load(self.folder / f"layer-{index:02d}.npy", mmap_mode="r")

    def pooled(self) -> tuple[np.ndarray, pd.DataFrame]:
        """Pooled vectors (texts, d) and the table with id, set, difficulty, topic and target of those texts."""
        return np.load(self.folder / "pooled.npy"), store.read_table(self.folder / "pooled.parquet", ["id"])


def open_recording(folder: Path) -> Recording:
    """The states in an artefact folder. ValueError when its tables are broken or lack columns."""
    columns = ["row", "text", "set", "position", "token_id", "length"]
    tokens = store.read_table(folder / "tokens.parquet", columns)
    return Recording(folder, tuple(store.read_json(folder / "layers.json")), tokens)


def check_same_rows(x: Recording, y: Recording) -> None:
    """Raise ValueError unless row i is the same token (or word) of the same text in both."""
    columns = ["text", "position", "token_id"]
    if len(x.tokens) == len(y.tokens):
        same = (x.tokens[columns].to_numpy() == y.tokens[columns].to_numpy()).all(axis=1)
        if same.all():
            return
        row = int(same.argmin())
        place = f"row {row} is token id {x.tokens['token_id'][row]} of text {x.tokens['text'][row]} in one and " \
                f"{y.tokens['token_id'][row]} of text {y.tokens['text'][row]} in the other"
    else:
        place = f"{len(x.tokens)} and {len(y.tokens)} tokens"
    raise ValueError(f"expected the same tokens in {x.folder.name} and {y.folder.name}, got {place}: token states "
                     "can be compared only between models with equal tokenizers; set analysis.unit to word")


def open_pair(a: Path, b: Path) -> tuple[Recording, Recording]:
    """Two recordings of the same rows, row i the same in both. ValueError when the tokenizers differ."""
    x, y = open_recording(a), open_recording(b)
    check_same_rows(x, y)
    return x, y


def select_texts(table: pd.DataFrame, per_set: int) -> pd.DataFrame:
    """The first `per_set` texts of each `set` (all when there are fewer); `probe_texts` orders them as samples."""
    return table.groupby("set", sort=False).head(per_set).reset_index(drop=True)


def write_states(folder: Path, embedder: Any, texts: pd.DataFrame, analysis: Analysis, run: str,
                 ceiling: bool = False) -> None:
    """Fill `folder` with the states and pooled vectors of one model; the memory used does not grow with the texts.

    `embedder` is a SentenceTransformer, `texts` the table of `suite.read_probe_texts`, `analysis` the profile's
    section, `run` the name that the progress bar shows. Files: layer-00.npy ... (n, d) float32 in the order of the
    labels in layers.json; tokens.parquet (see `units.sample_units`; a row is an `analysis.unit`); pooled.npy
    (texts, d), as the model pools, without an instruction, and pooled.parquet with id, set, difficulty, topic and
    target of those texts. Every text passes through the model once. With `ceiling`, the layers and tokens once more in
    the folder bf16: the same rows with weights and states in bfloat16 (the model is left so).
    """
    chosen = select_texts(texts, analysis.texts_per_set)
    module, tokenizer = embedder[0].auto_model.eval(), embedder.tokenizer
    positions = most_positions(module)
    rows = units.units(chosen, tokenizer, analysis.unit, analysis.max_length, analysis.max_tokens, positions,
                       str(embedder[1].pooling_mode))
    probes = select_texts(texts, analysis.probe_texts // texts["set"].nunique())
    more = probes[~probes["id"].isin(chosen["id"])]
    place = {name: at for at, name in enumerate([*chosen["id"], *more["id"]])}
    others = more["text"].tolist()
    if analysis.unit != "token":
        others = [units.first_words(text, analysis.max_length) for text in others]
    pooled = _write_layers(folder, module, tokenizer, rows, run, [*rows.texts, *others], list(embedder)[1:])
    _write_pooled(folder, pooled[[place[name] for name in probes["id"]]], probes)
    if ceiling:
        (folder / BF16).mkdir()
        _write_layers(folder / BF16, _in_bf16(module), tokenizer, rows, f"{run} {BF16}", rows.texts)


def _write_layers(folder: Path, module: Any, tokenizer: Any, rows: units.Units, run: str, texts: list[str],
                  head: Sequence[Any] = ()) -> np.ndarray | None:
    """Write the layers of the rows, which lie in the first of `texts`; with a `head`, returns (texts, d) pooled."""
    files: list[np.memmap] = []
    pooled: np.ndarray | None = None
    more = texts[len(rows.texts) :]
    others = sum(map(len, tokenise(tokenizer, more, rows.max_length))) if more else 0
    keep = np.concatenate([rows.keep(), np.zeros(others, bool)])
    with progress(len(rows.table), "states", run, unit="row") as bar:
        for batch in stream_states(module, tokenizer, texts, rows.max_length, keep, head=head):
            if head:
                pooled = np.empty((len(texts), batch.pooled.shape[1]), np.float32) if pooled is None else pooled
                pooled[batch.texts] = batch.pooled
            if not len(batch.rows):
                continue
            at, states = rows.pool(batch)  # (b,), (l, b, d)
            files = files or _open_layers(folder, len(states), (len(rows.table), states.shape[2]))
            for file, layer in zip(files, states, strict=True):
                file[at] = layer
            bar.update(len(at))
    for file in files:
        file.flush()
    store.write_json(folder / "layers.json", layer_labels(len(files) - 2))
    store.write_table(folder / "tokens.parquet", rows.table)
    return pooled


def _in_bf16(module: Any) -> Any:
    """The model with its weights in bfloat16, as it would be loaded; buffers (rotary frequencies) stay float32."""
    import torch

    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return module


def _open_layers(folder: Path, layers: int, shape: tuple[int, int]) -> list[np.memmap]:
    """One writable .npy file per layer, mapped and not read into memory. OSError when the disk has no room for them:
    found only while they are written, it would end the process without a word."""
    files = [folder / f"layer-{i:02d}.npy" for i in range(layers)]
    opened = [np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape) for file in files]
    for file in files if hasattr(os, "posix_fallocate") else ():
        with open(file, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return opened


def _write_pooled(folder: Path, pooled: np.ndarray, chosen: pd.DataFrame) -> None:
    """Write the vectors (n, d) of texts for the probes, and those texts."""
    bad = ~np.isfinite(pooled).all(axis=1)
    if bad.any():
        raise ValueError(f"expected finite embeddings, got NaN or infinity for text {chosen['id'][bad.argmax()]}: "
                         "run the model in float32, or look at its weights")
    np.save(folder / "pooled.npy", pooled)
    store.write_table(folder / "pooled.parquet", chosen[["id", "set", "difficulty", "topic", "target"]])


def has_ceiling(profile: Profile, model_id: str) -> bool:
    """Whether a model is also run in bfloat16: the backbones of pairs, and the first seed of their embedders."""
    backbones = {name for pair in profile.compared() for name in (pair.a, pair.b)}
    return model_id in backbones | {f"{name}-s{seed}" for name in backbones for seed in profile.seeds[:1]}


def followed_seeds(profile: Profile) -> tuple[int, ...]:
    """The seeds whose embedders are compared over the steps of training: two, so that two runs of one arm are there."""
    return profile.seeds[:2]


def checkpoints_of(profile: Profile, model_id: str) -> list[int]:
    """The checkpoints at which a model is compared: those of embedders of the profile's pairs, of `followed_seeds`."""
    model, arms = profile.model(model_id), {name for pair in profile.pairs for name in (pair.a, pair.b)}
    if model.backbone not in arms or model.ablation or model.seed not in followed_seeds(profile):
        return []
    return [step for step in profile.recipe.checkpoints if step != profile.recipe.steps]


def make_recording(profile: Profile, model_id: str, step: int | None = None) -> Path:
    """Artefact folder with the states of one model on the probe texts; made in one forward pass, then kept.

    Models with a ceiling (`has_ceiling`) get a second pass in bfloat16. Texts are the suite's probe texts, or those of
    `analysis.texts`.

    `step` picks a training checkpoint of an embedder (0: the backbone it starts from); None is the finished model.
    See `write_states` for the files. The same texts and tokens are taken for every model whose tokenizer is equal.
    """
    from hrsa.texts import own_probes, suite
    from hrsa.training.train import make_weights_key

    own = profile.analysis.texts
    files = sorted((store.SUITE / "probe").iterdir()) if own is None else [store.ROOT / own]
    content = {file.name: store.file_hash(file) for file in files if file.is_file() and file.suffix != ".md"}
    ceiling = step is None and has_ceiling(profile, model_id)
    name = model_id if step is None else f"{model_id}-step-{step:06d}"
    used = profile.analysis.model_dump(include={"texts_per_set", "max_length", "max_tokens", "probe_texts", "unit"})
    origin = make_weights_key(profile, model_id)
    key = store.key(analysis=used, texts=content, model=origin, step=step, ceiling=ceiling, threads=profile.threads,
                    code=code_hash(make_recording))

    def build(folder: Path) -> None:
        from hrsa.study import runtime
        from hrsa.training import train

        table = suite.read_probe_texts(profile) if own is None else own_probes.read_texts(own)
        runtime.prepare(profile.threads, units.SAMPLE_SEED)
        write_states(folder, train.make_model(profile, model_id, step), table, profile.analysis, name, ceiling)

    return store.make(store.artefact(profile.name, "states", name, key), build, (make_recording,), model=origin,
                      step=step)
