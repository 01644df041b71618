"""The training sets of the published study, made from public data sets of the hub: sampled, mined and written.

`published_sets.yaml` beside this file has the table: where each set comes from, which columns hold query and positive,
its instruction and the published number of triples. Each set becomes `<name>.parquet`, which `suite.train` takes by its
path, and `<name>.json`, its card, written last: a set whose card says the same inputs is not made again.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import Field

from hrsa.study import hub, store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Mining, Profile
from hrsa.study.sections import Count, Section, Text
from hrsa.texts.hard_negatives import mine_triples, write_triples
from hrsa.texts.lines import text_fault
from hrsa.texts.negative_search import REFERENCE_TOKENS
from hrsa.texts.suite import TEXT_SEED
from hrsa.texts.training_sources import SPLIT, Source

SETS_TABLE = Path(__file__).with_suffix(".yaml")
SETS_FOLDER = "data/paper"  # where profile `paper` looks for the sets
_SPARE = 0.02  # pairs mined beyond the published number, for those that find too few negatives


class PublishedSet(Section):
    """One entry of the table."""

    title: Text
    published: Count  # triples
    hub: Text  # org/name of a data set
    revision: Text | None = None  # branch, tag or commit; None: `main` as the study first sees it
    configs: tuple[Text, ...] = ()  # read one after the other; none: the data set has no configurations
    columns: dict[Literal["query", "positive"], Text] = Field(default_factory=dict)  # -> the column that holds it
    judged: bool = False  # the layout of mteb's retrieval sets, in place of columns
    instruction: Text


def read_published_sets(table: Path = SETS_TABLE) -> dict[str, PublishedSet]:
    """The table, by the sets' names."""
    return {name: PublishedSet.model_validate(entry)
            for name, entry in yaml.safe_load(table.read_text(encoding="utf8")).items()}


def make_published_set(profile: Profile, name: str, folder: Path, table: Path = SETS_TABLE) -> dict[str, Any]:
    """The card of one set, which is fetched, sampled, mined and written to `folder` first where it is not there.

    As many pairs as were published, of a seeded shuffle (all, where there are fewer), with `recipe.hard_negatives`
    each; the passages searched are the positives of all pairs. Raises ValueError for a name that the table does not
    have, for other columns than it says, and as `hub.make_commit` and `mine_triples`.
    """
    known = read_published_sets(table)
    if name not in known:
        raise ValueError(f"expected one of the published sets {list(known)}, got {name!r}: correct the name")
    one, wanted = known[name], profile.recipe.hard_negatives
    commit = hub.make_commit(profile, one.hub, one.revision, "dataset")
    mining, tokens = _pinned_mining(profile), min(REFERENCE_TOKENS, profile.recipe.max_length)
    key = store.key(entry=one.model_dump(), commit=commit, mining=mining.model_dump(), wanted=wanted, tokens=tokens,
                    seed=TEXT_SEED, code=code_hash(make_published_set))
    card, file = folder / f"{name}.json", folder / f"{name}.parquet"
    if card.is_file() and file.is_file():
        made = store.read_json(card)
        if made["key"] == key and made["sha256"] == store.file_hash(file):
            return made
    try:
        rows = _judged_pairs(one, name, commit) if one.judged else _column_pairs(one, name, commit)
    except ValueError as error:
        raise ValueError(f"{name} of {table.name}: {error}") from error
    pairs = _clean(rows)
    if pairs.empty:
        raise ValueError(f"expected pairs of texts in {one.hub} for {name}, got none in {len(rows)} rows: correct "
                         f"{table.name}")
    pairs = pairs.assign(task=name, instruction=one.instruction, negatives=[[]] * len(pairs))
    drawn = pairs.iloc[np.random.default_rng(TEXT_SEED).permutation(len(pairs))[: math.ceil(
        one.published * (1 + _SPARE))]].reset_index(drop=True)
    triples, report = mine_triples(drawn, mining, wanted, profile.threads, tokens, pairs)
    triples = triples.iloc[: one.published]
    write_triples(file, triples)
    facts = {"rows": len(rows), "pairs": len(pairs), "drawn": len(drawn), "triples": len(triples)}
    store.write_json(card, store.provenance(
        key=key, sha256=store.file_hash(file), name=name, commit=commit, hard_negatives=wanted, tokens=tokens,
        entry=one.model_dump(mode="json"), mining=mining.model_dump(mode="json"), mined=report["tasks"][name], **facts))
    return store.read_json(card)


def _pinned_mining(profile: Profile) -> Mining:
    """`suite.mining` with the commit of a reference embedder on the hub."""
    mining = profile.suite.mining
    if not hub.is_on_hub(mining.embedder):
        return mining
    return mining.model_copy(update={"revision": hub.make_commit(profile, mining.embedder, mining.revision)})


def _column_pairs(one: PublishedSet, name: str, commit: str) -> pd.DataFrame:
    """Rows [query, positive] of all configurations, as they stand."""
    named = [one.columns["query"], one.columns["positive"]]
    parts = [Source(name, one.hub, commit, config).columns(named) for config in one.configs or (None,)]
    return pd.concat(parts, ignore_index=True)[named].set_axis(["query", "positive"], axis=1)


def _judged_pairs(one: PublishedSet, name: str, commit: str) -> pd.DataFrame:
    """Rows [query, positive] of a retrieval set: every query with each document judged right for it."""
    judged = Source(name, one.hub, commit, "default", SPLIT).columns(["query-id", "corpus-id", "score"])
    judged = judged[judged["score"] > 0].astype({"query-id": str, "corpus-id": str})
    queries = _texts_of(Source(name, one.hub, commit, "queries", "queries"), ["text"], set(judged["query-id"]))
    corpus = _texts_of(Source(name, one.hub, commit, "corpus", "corpus"), ["title", "text"], set(judged["corpus-id"]))
    return pd.DataFrame({"query": judged["query-id"].map(queries), "positive": judged["corpus-id"].map(corpus)})


def _texts_of(source: Source, parts: list[str], ids: Collection[str]) -> dict[str, str]:
    """Identifier -> its text, the columns `parts` that are not empty joined by a space."""
    table = source.columns(["_id", *parts], ("_id", ids))
    joined = [" ".join(filter(None, row)) for row in table[parts].itertuples(index=False, name=None)]
    return dict(zip(table["_id"].astype(str), joined, strict=True))


def _clean(rows: pd.DataFrame) -> pd.DataFrame:
    """The pairs of two different texts, each pair once, in their order."""
    fit = [isinstance(q, str) and isinstance(p, str) and bool(q.strip()) and bool(p.strip()) and q != p
           and not text_fault(q) and not text_fault(p) for q, p in zip(rows["query"], rows["positive"], strict=True)]
    return rows.loc[fit, ["query", "positive"]].drop_duplicates().reset_index(drop=True)
