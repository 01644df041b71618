"""Which tokens and texts of two models keep the fewest of their nearest neighbours, at any layer, and what they say.

The mean overlap of chapter 08 is about all tokens; these are its extremes, chosen because they are. They show what
changed, and are no measure of how much.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.hidden_states import tokenise
from hrsa.analysis.layerwise import matched_layers
from hrsa.analysis.pairs import cases
from hrsa.analysis.recordings import Recording, make_recording, open_pair
from hrsa.analysis.units import WORD, first_words
from hrsa.similarity.budget import Limits
from hrsa.similarity.knn import Neighbours, neighbours, overlap
from hrsa.similarity.metrics import shown_k
from hrsa.similarity.states import Layer
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Analysis, Profile

MOST_CHANGED = 5  # tokens, and texts, of a layer
_NAMED = 4  # neighbours of a token in one model alone
_AROUND = 6  # tokens or words before and after one
_TEXT = 100  # characters of a text
CHANGED_COLUMNS = ["kind", "place", "row", "text", "passage", "overlap", "only_a", "only_b", "mean", "k"]


class NeighbourTable(StrEnum):
    """The tables of `make_changed_neighbours`: names of files."""

    CHANGED = "changed.parquet"  # matched layers
    WORDS = "words.parquet"  # what every row of the recordings says
    TEXTS = "texts.parquet"  # how every text begins


def words_of_rows(tokens: pd.DataFrame, texts: dict[str, str], analysis: Analysis,
                  tokenizer: Any = None) -> pd.DataFrame:
    """What each row of a recording says, and where: [own, passage], one row per row of `tokens`.

    `texts`: id -> text; `tokenizer` is needed where rows are tokens. In a passage «» are around what is the row's own.
    ValueError: a token that is not at its place, which another tokenizer or other texts would cause.
    """
    parts = {name: _parts(texts[name], analysis, tokenizer) for name in tokens["text"].unique()}
    found = []
    for row in tokens.itertuples():
        ids, join = parts[row.text]
        if tokenizer is not None and (row.position >= len(ids) or ids[row.position] != row.token_id):
            raise ValueError(f"expected token id {row.token_id} at place {row.position} of text {row.text}, got "
                             f"{ids[row.position:row.position + 1] or 'the end'}: give the tokenizer and the texts "
                             "that were recorded")
        before, own, after = (join(ids[max(0, start):end]) for start, end in (
            (row.position - _AROUND, row.position), (row.position, row.position + 1),
            (row.position + 1, row.position + 1 + _AROUND)))
        space, said = own[:len(own) - len(own.lstrip())], own.strip() or repr(own)
        found.append((said, f"{before}{space}«{said}»{after}".strip()))
    return pd.DataFrame(found, columns=["own", "passage"])


def _parts(text: str, analysis: Analysis, tokenizer: Any) -> tuple[list, Any]:
    """The tokens or words of a text, or the text as its only part, and what joins some of them to a text."""
    if analysis.unit == "token":
        return tokenise(tokenizer, [text], analysis.max_length)[0], tokenizer.decode
    cut = first_words(text, analysis.max_length)
    if analysis.unit == "text":
        return [_short(cut)], "".join
    words = [text[slice(*match.span())] for match in WORD.finditer(cut)]
    return [f" {word}" for word in words], "".join


def _short(text: str) -> str:
    said = " ".join(text.split())
    return said if len(said) <= _TEXT else f"{said[:_TEXT].rsplit(' ', 1)[0]} …"


def changed_neighbours(x: Recording, y: Recording, i: int, j: int, analysis: Analysis, words: pd.DataFrame,
                       texts: dict[str, str]) -> pd.DataFrame:
    """The rows and the texts whose neighbours differ most between layer i of x and layer j of y: `CHANGED_COLUMNS`.

    `kind` is "row" or "text", `place` counts from 1, the most changed first. `overlap` is the Jaccard index of a row's
    k nearest neighbours, or the mean of a text's rows (of texts with at least as many rows as the median text); `mean`
    is that of all rows, k the one that is shown. Of a row, `only_a` and `only_b` say the nearest of the neighbours that
    it has in one model alone. Equal overlaps: the smaller overlap of the largest k first, then the lower row. `words`:
    as `words_of_rows`; `texts`: id -> how it begins. ValueError as `knn.neighbours`.
    """
    limits = Limits.of(analysis.memory_mb)
    a, b = (neighbours(Layer(part.layer(at), name), analysis.ks, limits)
            for part, at, name in ((x, i, "x"), (y, j, "y")))
    shared, at = overlap(a, b), a.ks.index(shown_k(a.ks))
    mine, k = shared[:, at], a.ks[at]
    order = np.lexsort((np.arange(len(mine)), shared[:, -1], mine))[:MOST_CHANGED]
    rows = [("row", place, row, x.tokens["text"][row], words["passage"][row], mine[row], *_alone(a, b, row, k, words))
            for place, row in enumerate(order, 1)]
    if analysis.unit != "text":
        of_text = pd.DataFrame({"text": x.tokens["text"], "overlap": mine}).groupby("text")["overlap"]
        sizes = of_text.size()
        means = of_text.mean()[sizes >= sizes.median()].sort_values(kind="stable").head(MOST_CHANGED)
        rows += [("text", place, -1, name, texts[name], value, "", "")
                 for place, (name, value) in enumerate(means.items(), 1)]
    table = pd.DataFrame(rows, columns=CHANGED_COLUMNS[:-2])
    return table.assign(mean=mine.mean(), k=k)


def _alone(a: Neighbours, b: Neighbours, row: int, k: int, words: pd.DataFrame) -> tuple[str, str]:
    """What the nearest neighbours say that a row has in a alone, and in b alone."""
    near = [part.index[row, :k] for part in (a, b)]
    return tuple(", ".join(list(dict.fromkeys(words["own"][n] for n in own if n not in other))[:_NAMED])
                 for own, other in (near, near[::-1]))


def make_changed_neighbours(profile: Profile, pair: str) -> Path:
    """Artefact folder with `changed_neighbours` of the backbones of a pair and of its embedders of the first seed.

    Files (`NeighbourTable`): CHANGED [models, layer_x, layer_y, `CHANGED_COLUMNS`] at matched layers; WORDS, see
    `words_of_rows`; TEXTS [text, passage]. States are recorded first where they are missing. ValueError: unknown pair.
    """
    todo = {case.models: case for case in reversed(cases(profile, pair)) if case.models in ("backbones", "embedders")}
    states = {name: make_recording(profile, name) for case in todo.values() for name in (case.a, case.b)}
    used = profile.analysis.model_dump(include={"ks", "unit", "max_length"})
    key = store.key(cases=todo, analysis=used, states=sorted(folder.name for folder in states.values()),
                    code=code_hash(make_changed_neighbours))

    def build(folder: Path) -> None:
        known = _texts(profile)
        tables = []
        for models in ("backbones", "embedders"):
            if models not in todo:
                continue
            x, y = open_pair(states[todo[models].a], states[todo[models].b])
            if models == "backbones":
                words = words_of_rows(x.tokens, known, profile.analysis, _tokenizer(profile, todo[models].a))
                begins = {name: _short(known[name]) for name in x.tokens["text"].unique()}
            tables += [changed_neighbours(x, y, i, j, profile.analysis, words, begins).assign(
                models=models, layer_x=x.labels[i], layer_y=y.labels[j]) for i, j in matched_layers(x, y)]
        store.write_table(folder / NeighbourTable.CHANGED, pd.concat(tables, ignore_index=True))
        store.write_table(folder / NeighbourTable.WORDS, words)
        store.write_table(folder / NeighbourTable.TEXTS, pd.DataFrame(begins.items(), columns=["text", "passage"]))

    return store.make(store.artefact(profile.name, "similarity", f"{pair}-neighbours", key), build,
                      (make_changed_neighbours,), pair=pair, inputs=sorted(folder.name for folder in states.values()))


def _texts(profile: Profile) -> dict[str, str]:
    from hrsa.texts import own_probes, suite

    own = profile.analysis.texts
    table = suite.read_probe_texts(profile) if own is None else own_probes.read_texts(own)
    return dict(zip(table["id"], table["text"], strict=True))


def _tokenizer(profile: Profile, name: str) -> Any:
    """The tokenizer of a backbone, as it was recorded with, where rows are its tokens."""
    from hrsa.models.as_it_came import read_manner
    from hrsa.models.embedder import exact_prompts
    from hrsa.models.language_model import read_config_and_tokenizer
    from hrsa.models.resolve import make_backbone_folder

    if profile.analysis.unit != "token":
        return None
    folder = make_backbone_folder(profile, name)
    _, tokenizer = read_config_and_tokenizer(folder)
    return tokenizer if read_manner(folder).kind == "embedder" else exact_prompts(tokenizer)
