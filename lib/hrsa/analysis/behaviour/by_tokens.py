"""Local change around a query by layer and by kind of token: where must two models differ for their scores to differ?

`evaluation.foretelling` compares two models around a query by what they embed. Here a query or a document is the mean
state, at one layer, of its tokens of one kind: all of them, those of its content words or of its function words, and
for queries those of the instruction. What is not of the kind in question is the mean over all tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.hidden_states import layer_labels, stream_states
from hrsa.analysis.layerwise import matched_layers
from hrsa.analysis.recordings import Recording
from hrsa.analysis.units import WORD, Units, overlaps
from hrsa.evaluation.foretelling import (
    KNOWN_SCORES,
    LOCAL,
    behaviour_table,
    embedded_documents,
    foretold,
    local_change,
    right_documents,
)
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Profile
from hrsa.study.progress import progress
from hrsa.texts.suite import EvalTask, load_task, query_prompt
from hrsa.training.train import make_model, make_weights_key

PARTS = ("all tokens", "content words", "function words", "instruction")  # of a text; the last of queries alone
_QUERIES, _DOCUMENTS = "query", "documents"
KINDS = (*((_QUERIES, part) for part in PARTS), *((_DOCUMENTS, part) for part in PARTS[:3]))
_TABLE = "by_tokens.parquet"
_SAME, _ALIKE = 1e-6, 1e-4  # spreads of local change, and of unit vectors, of less are rounding


def parts_of(text: str, prompt: str, spans: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens of each of `PARTS` of a text behind an instruction, from the characters [start, end) (t, 2) of all tokens.

    Function words are scikit-learn's English stop words; a token that two words share belongs to both.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # here, because the import is slow

    words = [(match.group(), match.span()) for match in WORD.finditer(text) if match.start() >= len(prompt)]
    function = [word.strip(".,;:!?()[]\"'").lower() in ENGLISH_STOP_WORDS for word, _ in words]
    sides = {PARTS[1]: [span for (_, span), known in zip(words, function, strict=True) if not known],
             PARTS[2]: [span for (_, span), known in zip(words, function, strict=True) if known]}
    found = {name: np.unique(overlaps(spans, chosen)[0]) for name, chosen in sides.items()}
    own = (spans[:, 1] > len(prompt)) & (spans[:, 1] > spans[:, 0])
    inside = ~own & (spans[:, 1] > spans[:, 0])
    return {PARTS[0]: np.flatnonzero(own), **found, PARTS[3]: np.flatnonzero(inside)}


def mean_states(embedder: Any, texts: list[str], prompts: list[str]) -> tuple[list[str], np.ndarray]:
    """Labels of the layers, and mean states (layers, texts, parts, d) of each text, its prompt before it, by `PARTS`.

    Zeros where a text has no token of a part within the length that the model embeds.
    """
    module, tokenizer, longest = embedder[0].auto_model.eval(), embedder.tokenizer, embedder.max_seq_length
    whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    spans = tokenizer(whole, truncation=True, max_length=longest, return_offsets_mapping=True)["offset_mapping"]
    members, rows, start = [], [], 0
    for at, (text, prompt, tokens) in enumerate(zip(whole, prompts, spans, strict=True)):
        for part, own in enumerate(parts_of(text, prompt, np.array(tokens).reshape(-1, 2)).values()):
            members.append(start + own)
            rows.append(np.full(len(own), at * len(PARTS) + part))
        start += len(tokens)
    units = Units(whole, longest, pd.DataFrame(), np.concatenate(members), np.concatenate(rows), start)
    found = None
    for batch in stream_states(module, tokenizer, whole, longest, units.keep()):
        at, states = units.pool(batch)  # (b,), (l, b, d)
        if found is None:
            found = np.zeros((len(states), len(texts) * len(PARTS), states.shape[2]), np.float32)
        found[:, at] = states
    return layer_labels(len(found) - 2), found.reshape(len(found), len(texts), len(PARTS), -1)


def make_local_by_tokens(profile: Profile, pair: str) -> Path:
    """Artefact with `by_tokens.parquet` [task, query, layer, side, part, *LOCAL] of the backbones of a pair, as they
    came, on the local retrieval tasks; NaN where nothing of a query's own is there to compare. ValueError when the
    profile has none."""
    arms = profile.pair(pair)
    names = [task for task in profile.suite.tasks if load_task(task, profile).family == "retrieval"]
    if not names:
        raise ValueError(f"expected a retrieval task in suite.tasks of {profile.name}, got "
                         f"{list(profile.suite.tasks)}: local change is asked around queries")
    key = store.key(models=[make_weights_key(profile, name) for name in (arms.a, arms.b)], tasks=names,
                    texts=[store.file_hash(file) for name in names
                           for file in sorted((store.SUITE / "eval" / name).glob("*.parquet"))],
                    suite=profile.suite.model_dump(include={"max_docs", "max_queries"}),
                    max_length=profile.recipe.max_length, code=code_hash(make_local_by_tokens))

    def build(folder: Path) -> None:
        models = [make_model(profile, name) for name in (arms.a, arms.b)]
        tables = []
        with progress(len(names), "local change by token", pair, "task") as bar:
            for name in names:
                tables.append(_of_task(load_task(name, profile), models))
                bar.update()
        store.write_table(folder / _TABLE, pd.concat(tables, ignore_index=True))

    return store.make(store.artefact(profile.name, "similarity", f"{pair}-by-tokens", key), build,
                      (make_local_by_tokens,), pair=pair)


def _of_task(task: EvalTask, models: list[Any]) -> pd.DataFrame:
    prompt, queries, corpus = query_prompt(task.instruction), task.queries["text"], embedded_documents(task)
    texts, prompts = [*queries, *corpus], [prompt] * len(queries) + [""] * len(corpus)
    both = [mean_states(model, texts, prompts) for model in models]
    right = right_documents(task)
    tables = []
    x, y = (Recording(Path(), tuple(labels), pd.DataFrame()) for labels, _ in both)
    for layers in matched_layers(x, y):
        for side, part in KINDS:
            at = {_QUERIES: 0, _DOCUMENTS: 0, side: PARTS.index(part)}
            vectors = [(states[layer, : len(queries), at[_QUERIES]], states[layer, len(queries) :, at[_DOCUMENTS]])
                       for layer, (_, states) in zip(layers, both, strict=True)]
            asked = tuple(_unit(q) for q, _ in vectors)
            table = local_change(asked, tuple(_unit(d) for _, d in vectors), right)
            alike = all(np.ptp(q, axis=0).max() < _ALIKE for q in asked)  # all that varies is rounding
            table.loc[alike | ~vectors[0][0].any(axis=1)] = np.nan  # no such token, or nothing of the query's own
            tables.append(table.assign(task=task.name, query=task.queries["id"].to_numpy(), side=side, part=part,
                                       layer=x.labels[layers[0]]))
    return pd.concat(tables, ignore_index=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def foretold_by_tokens(profile: Profile, pair: str, per_query: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """What local change adds, out of sample, to what scores foretell of an outcome: a row for each layer and kind of
    token.

    Columns: layer, side, part, share (of the variance within tasks: `foretelling.foretold`'s gain), low, high, p,
    queries. Of a query's own tokens what lies around its right documents is left out. NaN where fewer than half of the
    queries have such a token, or local change does not vary within any task (an instruction that a causal model reads
    before the query).
    """
    known = behaviour_table(profile, pair, per_query).drop(columns=LOCAL).dropna(subset=[outcome])
    local = store.read_table(make_local_by_tokens(profile, pair) / _TABLE, [*LOCAL, "layer", "side", "part"])
    rows = []
    for (layer, side, part), table in local.groupby(["layer", "side", "part"], sort=False):
        joined = known.merge(table.dropna(subset=LOCAL), on=["task", "query"])
        told = [name for name in LOCAL if side == _DOCUMENTS or name != "around"]
        spread = joined.groupby("task")[told].transform("std").to_numpy()
        gain = {"share": np.nan, "low": np.nan, "high": np.nan, "p": np.nan}
        if 2 * len(joined) >= len(known) and np.nanmax(spread, initial=0) > _SAME:
            gain = foretold(joined, outcome, KNOWN_SCORES, told).set_index("predictors").loc["gain"].to_dict()
        rows.append({"layer": layer, "side": side, "part": part, **gain, "queries": len(joined)})
    return pd.DataFrame(rows)
