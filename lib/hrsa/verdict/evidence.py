"""What a verdict rests on: the statement made before the run, scores per query, and files of other machines.

A study states its margin, error rate, seeds and family of pairs first; `state` keeps that statement with its hash
and its time, and keeps every later one beside it, so that a change shows. An evidence file is one parquet table of
scores per query that carries the fingerprint of the recipe, suite, models and verdict section it was made under:
files of several machines join only when these agree.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hrsa.evaluation.evaluate import evaluate_model
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Model, Profile

COLUMNS = ["model", "task", "query", "value"]
META = b"hrsa.evidence"
ESTIMAND = "mean over tasks of the mean over queries and seeds of score(b) - score(a), arms paired by seed and query"


def statement(profile: Profile) -> dict[str, Any]:
    """What is fixed before any score is seen, with its `hash`."""
    stated = {
        "estimand": ESTIMAND,
        **profile.verdict.model_dump(mode="json"),
        "seeds": list(profile.seeds),
        "family": {pair.name: [pair.a, pair.b] for pair in profile.pairs},
        "tasks": [*profile.suite.tasks, *profile.suite.benchmarks],
    }
    return {**stated, "hash": store.key(**stated)}


def state(profile: Profile) -> list[dict[str, Any]]:
    """Record the profile's statement, once, and return all statements recorded so far, the oldest first.

    Call it before the first score exists. Each entry is a `statement` with the time it was `written`. A statement
    that differs from the last one recorded is added, never put in its place: more than one entry means a change.
    """
    file = store.RUNS / profile.name / "statements.json"
    stated = store.read_json(file) if file.is_file() else []
    current = statement(profile)
    if not stated or stated[-1]["hash"] != current["hash"]:
        stated.append({**current, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        store.write_json(file, stated)
    return stated


def changes(statements: Sequence[dict[str, Any]]) -> list[str]:
    """What changed from each statement to the next, one sentence per item; empty when nothing did."""
    found = []
    for before, after in itertools.pairwise(statements):
        found += [f"{name}: {before.get(name)} became {after.get(name)} on {after['written']}"
                  for name in sorted((before.keys() | after.keys()) - {"hash", "written"})
                  if before.get(name) != after.get(name)]
    return found


def stated_before(profile: Profile, statements: Sequence[dict[str, Any]]) -> bool:
    """Whether the last statement was recorded before the profile's oldest score was written (true without scores)."""
    written = [store.read_json(file)["written"]
               for file in (store.RUNS / profile.name / "evaluation").glob("*/provenance.json")]
    return not written or statements[-1]["written"] <= min(written)


def fingerprint(profile: Profile) -> dict[str, str]:
    """Hash of each part of a profile that must agree before scores may be joined; seeds may differ.

    The suite counts by the bytes of its files too, so that edited texts do not join with unedited ones; so do
    backbones that are folders or packages. Zoo backbones count by their recipe: machines that round differently make
    other weights.
    """
    from hrsa.models.gguf_package import gguf_file
    from hrsa.models.language_model import backbone_key

    content = profile.model_dump(mode="json")
    weights = {b.name: backbone_key(profile, b.name) for b in profile.backbones if b.source == "folder"}
    weights |= {b.name: store.file_hash(gguf_file(str(b.path))) for b in profile.backbones if b.source == "package"}
    names = (*profile.suite.tasks, *([] if profile.suite.train == "all" else profile.suite.train))
    files = {file.relative_to(store.SUITE).as_posix(): store.file_hash(file)
             for file in sorted(store.SUITE.rglob("*.parquet")) if profile.suite.train == "all"
             or any(name in file.as_posix() for name in names)}
    return {
        "models": store.key(backbones=content["backbones"], pairs=content["pairs"], zoo=content["zoo"], **weights),
        "recipe": store.key(recipe=content["recipe"], ablations=content["ablations"]),
        "suite": store.key(suite=content["suite"], files=files),
        "verdict": store.key(verdict=content["verdict"], estimand=ESTIMAND),
    }


def write(path: Path, profile: Profile, per_query: pd.DataFrame, source: str, families: Mapping[str, str]) -> None:
    """Write an evidence file; `source` names the machine or laboratory.

    `per_query`: model, task, query, value; `families`: the family of each task.
    """
    meta = {"source": source, "profile": profile.name, "fingerprint": fingerprint(profile),
            "statement": statement(profile), "families": dict(families),
            "provenance": store.provenance(code=code_hash(evaluate_model))}
    table = pa.Table.from_pandas(_checked(per_query, str(path))[COLUMNS], preserve_index=False)
    with store.atomic(Path(path)) as temporary:
        pq.write_table(table.replace_schema_metadata({META: json.dumps(meta).encode()}), temporary, compression="zstd")


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Scores per query and metadata of an evidence file; ValueError when it is not one."""
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"expected an evidence file in {path}, got {error}: copy it again") from error
    meta = (table.schema.metadata or {}).get(META)
    if meta is None:
        raise ValueError(f"expected an evidence file in {path}, got parquet without a fingerprint: "
                         "write it with hrsa.verdict.evidence.write")
    return _checked(table.to_pandas(), str(path)), json.loads(meta)


def join(files: Sequence[Path]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """One table of scores per query from several evidence files, and their metadata.

    Raises ValueError when fingerprints differ (naming the parts that do), or when two files hold the same model and
    query with another score: an arm and seed counts once.
    """
    if not files:
        raise ValueError("expected evidence files to join, got none")
    loaded = [read(Path(file)) for file in files]
    first = loaded[0][1]["fingerprint"]
    for file, (_, meta) in zip(files, loaded, strict=True):
        differing = sorted(part for part in first if meta["fingerprint"].get(part) != first[part])
        if differing:
            raise ValueError(f"expected the fingerprint of {Path(files[0]).name} in {Path(file).name}, got another "
                             f"for {', '.join(differing)}: only runs of one recipe, suite and margin join")
    table = pd.concat([scores for scores, _ in loaded], ignore_index=True).drop_duplicates(ignore_index=True)
    return _checked(table, "the joined files"), [meta for _, meta in loaded]


def _checked(per_query: pd.DataFrame, where: str) -> pd.DataFrame:
    missing = [name for name in COLUMNS if name not in per_query.columns]
    if missing:
        raise ValueError(f"expected columns {COLUMNS} in {where}, got {list(per_query.columns)}: add {missing}")
    twice = per_query[per_query.duplicated(["model", "task", "query"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(f"expected one score per model, task and query in {where}, got {len(twice)} more, the first "
                         f"for {row['model']}, {row['task']}, {row['query']}: leave one of the runs out")
    return per_query


def seeds_of(per_query: pd.DataFrame, a: str, b: str) -> list[int]:
    """Seeds for which embedders of both backbones were scored, ascending."""
    models = set(per_query["model"])
    by_arm = [{int(found[1]) for model in models if (found := re.fullmatch(re.escape(arm) + r"-s(\d+)", model))}
              for arm in (a, b)]
    return sorted(by_arm[0] & by_arm[1])


def paired(per_query: pd.DataFrame, a: str, b: str, seeds: Sequence[int],
           ablation: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two arms paired by seed and query: (seeds, queries), (seeds, queries) and task ids (queries,).

    `a` and `b` are backbone names. ValueError when a model is missing or the models have not the same queries.
    """
    ids = {arm: [Model(backbone=arm, seed=seed, ablation=ablation).id for seed in seeds] for arm in (a, b)}
    wide = per_query.pivot_table(index=["task", "query"], columns="model", values="value", aggfunc="first", sort=True)
    absent = [model for models in ids.values() for model in models if model not in wide.columns]
    if absent:
        raise ValueError(f"expected scores of {absent}, got those of {list(wide.columns)}: evaluate these models")
    wide = wide[[*ids[a], *ids[b]]].dropna(how="all")
    holes = wide.index[wide.isna().any(axis=1)]
    if len(holes):
        raise ValueError(f"expected the same queries for {a} and {b} in every seed, got {len(holes)} without a score "
                         f"in some, the first {holes[0]}: evaluate these models on one suite")
    tasks = wide.index.get_level_values("task").to_numpy(dtype=object)
    return wide[ids[a]].to_numpy().T, wide[ids[b]].to_numpy().T, tasks


def gather(profile: Profile) -> tuple[pd.DataFrame, pd.Series]:
    """Scores per query of all embedders without ablation, made first where missing, and the family of each task."""
    from hrsa.evaluation.evaluate import collect

    scores, per_query = collect(profile, [m.id for m in profile.models() if m.seed is not None and m.ablation is None])
    return per_query, scores.drop_duplicates("task").set_index("task")["family"]


def finished(profile: Profile) -> tuple[pd.DataFrame, pd.Series]:
    """As `gather`, from the evaluations that are there (the newest of each embedder); makes nothing.

    ValueError when there is none.
    """
    tables = []
    for m in profile.models():
        found = _artefacts(profile, "evaluation", m.id) if m.seed is not None and m.ablation is None else []
        if found:
            newest = max(found, key=lambda folder: store.read_json(folder / "provenance.json")["written"])
            tables.append((store.read_table(newest / "scores.parquet"), store.read_table(newest / "per_query.parquet")))
    if not tables:
        raise ValueError(f"expected scores of embedders of profile {profile.name}, got none: run "
                         f"`make book PROFILE={profile.name}` first, or name evidence files")
    scores, per_query = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    return per_query[COLUMNS], scores.drop_duplicates("task").set_index("task")["family"]


def _artefacts(profile: Profile, stage: str, name: str) -> list[Path]:
    """Finished artefacts of a model, of whatever key."""
    folders = sorted((store.RUNS / profile.name / stage).glob(f"{name}-[0-9a-f]*"))
    return [f for f in folders if len(f.name) == len(name) + 13 and (f / "provenance.json").is_file()]


def hours_per_seed(profile: Profile) -> float | None:
    """Measured hours to train and score both arms of one pair with one seed (None: nothing measured yet)."""
    seconds = []
    for stage in ("embedders", "evaluation"):
        found = [store.read_json(folder / "provenance.json")["seconds"]
                 for m in profile.models() if m.seed is not None and m.ablation is None
                 for folder in _artefacts(profile, stage, m.id)]
        if not found:
            return None
        seconds.append(float(np.mean(found)))
    return 2 * sum(seconds) / 3600
