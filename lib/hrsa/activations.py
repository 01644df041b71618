"""Probe texts -> token states of every layer of a model, written once and read by every comparison.

One forward pass per model serves all of HRSA (see `hrsa.streaming`). Every non-pad token counts and nothing is
pooled; a seeded sample of tokens, the same for every model of a profile, is kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa import paths
from hrsa.profile import Analysis, Profile
from hrsa.progress import progress
from hrsa.streaming import layer_labels, stream_states, tokenise

SAMPLE_SEED = 0  # of texts and tokens; one value, because every model must see the same rows


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
        return np.load(self.folder / "pooled.npy"), paths.read_table(self.folder / "pooled.parquet", ["id"])


def open_recording(folder: Path) -> Recording:
    """The states in an artefact folder. ValueError when its tables are broken or lack columns."""
    columns = ["row", "text", "set", "position", "token_id", "length"]
    tokens = paths.read_table(folder / "tokens.parquet", columns)
    return Recording(folder, tuple(paths.read_json(folder / "layers.json")), tokens)


def check_same_rows(x: Recording, y: Recording) -> None:
    """Raise ValueError unless row i is the same token of the same text in both: the tokenizers must be equal."""
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
    raise ValueError(f"expected the same token ids in {x.folder.name} and {y.folder.name}, got {place}: token states "
                     "can be compared only between models with equal tokenizers")


def select_texts(table: pd.DataFrame, per_set: int) -> pd.DataFrame:
    """The first `per_set` texts of each `set` (all when there are fewer); `probe_texts` orders them as samples."""
    return table.groupby("set", sort=False).head(per_set).reset_index(drop=True)


def sample_tokens(table: pd.DataFrame, ids: list[list[int]], max_tokens: int, seed: int = SAMPLE_SEED) -> pd.DataFrame:
    """A seeded sample of tokens, described one per row.

    `table` has one text per row (`id`, `set`, `difficulty`) and `ids` its tokens. Returns the columns row (0 ...),
    text, set, difficulty, position (in its text, from 0), token_id, length (of its text, tokens) and `place` (among
    all tokens of all texts). Depends on the tokenizer and the texts only, so equal tokenizers give equal rows.
    """
    lengths = np.array([len(row) for row in ids])
    total = int(lengths.sum())
    rng = np.random.default_rng(seed)
    place = np.sort(rng.choice(total, size=min(max_tokens, total), replace=False))  # (n,)
    text = np.repeat(np.arange(len(ids)), lengths)[place]
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return pd.DataFrame({
        "row": np.arange(len(place)),
        "text": table["id"].to_numpy()[text],
        "set": table["set"].to_numpy()[text],
        "difficulty": table["difficulty"].to_numpy()[text],
        "position": place - start[text],
        "token_id": np.concatenate([np.asarray(row) for row in ids])[place],
        "length": lengths[text],
        "place": place,
    })


def write_states(folder: Path, embedder: Any, texts: pd.DataFrame, analysis: Analysis, run: str) -> None:
    """Fill `folder` with the states and pooled vectors of one model; the memory used does not grow with the texts.

    `embedder` is a SentenceTransformer, `texts` the table of `hrsa.texts.probe_texts`, `analysis` the profile's
    section, `run` the name that the progress bar shows. Files: layer-00.npy ... (n, d) float32 in the order of the
    labels in layers.json; tokens.parquet (see `sample_tokens`); pooled.npy (texts, d), as the model pools, and
    pooled.parquet with id, set, difficulty, topic and target of those texts.
    """
    chosen = select_texts(texts, analysis.texts_per_set)
    embedder.max_seq_length = analysis.max_length
    module, tokenizer = embedder[0].auto_model.eval(), embedder.tokenizer
    content = chosen["text"].tolist()
    ids = tokenise(tokenizer, content, analysis.max_length)
    tokens = sample_tokens(chosen, ids, analysis.max_tokens)
    place = tokens.pop("place").to_numpy()
    keep = np.zeros(sum(map(len, ids)), bool)
    keep[place] = True
    files: list[np.memmap] = []
    with progress(len(place), "states", run, unit="token") as bar:
        for batch in stream_states(module, tokenizer, content, analysis.max_length, keep):
            files = files or _open_layers(folder, len(batch.states), (len(place), batch.states.shape[2]))
            for file, layer in zip(files, batch.states, strict=True):
                file[np.searchsorted(place, batch.rows)] = layer
            bar.update(len(batch.rows))
    for file in files:
        file.flush()
    paths.write_json(folder / "layers.json", layer_labels(len(files) - 2))
    paths.write_table(folder / "tokens.parquet", tokens)
    _write_pooled(folder, embedder, texts, analysis.probe_texts)


def _open_layers(folder: Path, layers: int, shape: tuple[int, int]) -> list[np.memmap]:
    """One writable .npy file per layer, mapped and not read into memory."""
    return [
        np.lib.format.open_memmap(folder / f"layer-{i:02d}.npy", mode="w+", dtype=np.float32, shape=shape)
        for i in range(layers)
    ]


def _write_pooled(folder: Path, embedder: Any, texts: pd.DataFrame, count: int) -> None:
    """Embed `count` texts, evenly from all sets, for the probes: as the model pools them, without an instruction."""
    chosen = select_texts(texts, count // texts["set"].nunique())
    pooled = embedder.encode(chosen["text"].tolist(), batch_size=32, prompt="", show_progress_bar=False)  # (n, d)
    bad = ~np.isfinite(pooled).all(axis=1)
    if bad.any():
        raise ValueError(f"expected finite embeddings, got NaN or infinity for text {chosen['id'][bad.argmax()]}: "
                         "run the model in float32, or look at its weights")
    np.save(folder / "pooled.npy", pooled.astype(np.float32))
    paths.write_table(folder / "pooled.parquet", chosen[["id", "set", "difficulty", "topic", "target"]])


def record_states(profile: Profile, model_id: str, step: int | None = None) -> Path:
    """Artefact folder with the states of one model on the probe texts; made in one forward pass, then kept.

    `step` picks a training checkpoint of an embedder (0: the backbone it starts from); None is the finished model.
    See `write_states` for the files. The same texts and tokens are taken for every model whose tokenizer is equal.
    """
    from hrsa import texts
    from hrsa.train import weights_key

    table = texts.probe_texts(profile)
    name = model_id if step is None else f"{model_id}-step-{step:06d}"
    used = profile.analysis.model_dump(include={"texts_per_set", "max_length", "max_tokens", "probe_texts"})
    content = hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
    origin = weights_key(profile, model_id)
    key = paths.key(analysis=used, texts=content, model=origin, step=step, threads=profile.threads,
                    code=paths.code_hash("hrsa.activations"))

    def build(folder: Path) -> None:
        from hrsa import backbone, train

        backbone.prepare(profile.threads, SAMPLE_SEED)
        write_states(folder, train.load_embedder(profile, model_id, step), table, profile.analysis, name)

    return paths.make(paths.artefact(profile.name, "states", name, key), build, model=origin, step=step)
