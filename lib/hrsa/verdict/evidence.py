"""What a verdict rests on: scores per query of this run, and evidence files of other machines.

An evidence file is one parquet table of scores per query that carries the fingerprint of the recipe, suite, models and
verdict section it was made under, the statement made before the run (`verdict.statement`), and a hash of all this and
of its rows. Files of several machines join only when the fingerprints agree; a file that is no longer what was written
is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hrsa.evaluation.evaluate import evaluate_model
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.errors import first_line
from hrsa.study.profile import Profile
from hrsa.verdict import paired_scores
from hrsa.verdict.competence import GATE
from hrsa.verdict.paired_scores import QUERY_COLUMNS, checked_scores
from hrsa.verdict.statement import ESTIMAND, statement

OWN_SOURCE = "this run"
_META = b"hrsa.evidence"
_HASH = "hash"  # of rows and metadata, in the metadata
_CARRIED = {"source": str, "profile": str, "fingerprint": dict, "statement": dict, "families": dict, "provenance": dict}
_OF_A_SEED = r"-s\d+(?:-|$)"  # in the id of an embedder


def study_fingerprint(profile: Profile) -> dict[str, str]:
    """Hash of each part of a profile that must agree before scores may be joined; seeds may differ.

    The suite counts by the bytes of its files too, so that edited texts do not join with unedited ones; so do
    backbones that are folders or packages. Zoo backbones count by their recipe: machines that round differently make
    other weights.
    """
    from hrsa.models.gguf_package import package_origin
    from hrsa.models.resolve import make_backbone_key

    content = profile.model_dump(mode="json")
    weights = {b.name: make_backbone_key(profile, b.name) for b in profile.backbones if b.source == "folder"}
    weights |= {b.name: package_origin(str(b.path))["sha256"] for b in profile.backbones if b.source == "package"}
    names = (*profile.suite.tasks, *([] if profile.suite.train == "all" else profile.suite.train))
    files = {file.relative_to(store.SUITE).as_posix(): store.file_hash(file)
             for file in sorted(store.SUITE.rglob("*.parquet")) if profile.suite.train == "all"
             or any(name in file.as_posix() for name in names)}
    return {
        "models": store.key(backbones=content["backbones"], pairs=content["pairs"], zoo=content["zoo"], **weights),
        "recipe": store.key(recipe=content["recipe"], ablations=content["ablations"]),
        "suite": store.key(suite=content["suite"], files=files),
        "verdict": store.key(verdict=content["verdict"], estimand=ESTIMAND, gate=GATE),
    }


def write_evidence(path: Path, profile: Profile, per_query: pd.DataFrame, source: str,
                   families: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write an evidence file and return what `read_evidence` gives for it; `source` names the machine or laboratory.

    `per_query`: model, task, query, value; `families`: the family of each task.
    """
    meta = {"source": source, "profile": profile.name, "fingerprint": study_fingerprint(profile),
            "statement": statement(profile), "families": dict(families),
            "provenance": store.provenance(code=code_hash(evaluate_model))}
    rows = checked_scores(per_query, str(path))[QUERY_COLUMNS].reset_index(drop=True)
    meta = json.loads(json.dumps(meta | {_HASH: _hash(rows, meta)}))
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata({_META: json.dumps(meta).encode()})
    with store.atomic(Path(path)) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return table.to_pandas(), meta


def read_evidence(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Scores per query and metadata of an evidence file.

    ValueError, with file, expected and got: it is not one, its rows or metadata are no longer what was written, or its
    values are no scores. FileNotFoundError: there is no such file.
    """
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # texts that are no UTF-8 are found here, and not where they are used
        said = (table.schema.metadata or {}).get(_META)
        meta = None if said is None else json.loads(said)
        rows = table.to_pandas()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise ValueError(f"expected an evidence file in {path}, got {first_line(error)}: copy it again") from error
    if meta is None:
        raise ValueError(f"expected an evidence file in {path}, got parquet without a fingerprint: "
                         "write it with hrsa evidence")
    if wrong := [key for key, kind in _CARRIED.items() if not isinstance(meta, dict) or
                 not isinstance(meta.get(key), kind)]:
        raise ValueError(f"expected an evidence file in {path} that says its {', '.join(_CARRIED)}, got none or "
                         f"another kind of {', '.join(wrong)}: write it with hrsa evidence")
    rows = checked_scores(rows, str(path))[QUERY_COLUMNS]
    _check_values(path, rows)
    _check_hash(path, rows, meta)
    return rows, meta


def _check_values(path: Path, rows: pd.DataFrame) -> None:
    """ValueError unless ids are text, every score is a finite number, and those of a model on a task have a mean that a
    score has."""
    for name in QUERY_COLUMNS[:-1]:
        if other := {type(value).__name__ for value in rows[name]} - {"str"}:
            raise ValueError(f"expected text in column {name} of {path}, got {', '.join(sorted(other))}: write it with "
                             "hrsa evidence")
    numbers = pd.to_numeric(rows["value"], errors="coerce")
    if not (pd.api.types.is_numeric_dtype(rows["value"]) and np.isfinite(numbers).all()):
        row = int(np.argmin(np.isfinite(numbers))) if not np.isfinite(numbers).all() else 0
        raise ValueError(f"expected finite numbers in column value of {path}, got {str(rows['value'].iloc[row])!r} in "
                         f"row {row}: leave out what was not scored")
    means = numbers.groupby([rows["model"], rows["task"]]).mean()
    if (means.abs() > 1 + 1e-6).any():
        (model, task), mean = means.abs().idxmax(), means.abs().max()
        raise ValueError(f"expected scores on 0..1 (correlations on -1..1) in {path}, got {mean:g} for {model} on "
                         f"{task}, the mean over its queries: divide percentages by 100")


def _check_hash(path: Path, rows: pd.DataFrame, meta: Mapping[str, Any]) -> None:
    """ValueError unless an evidence file holds what was written, by its own hash; files that are older than the hash
    count when a record beside them names their bytes, as in data/results."""
    found = _hash(rows, {key: value for key, value in meta.items() if key != _HASH})
    if meta.get(_HASH) == found:
        return
    record = Path(path).with_name("record.json")
    if _HASH not in meta and record.is_file():
        found, said = store.file_hash(Path(path)), store.read_json(record).get("sha256", {}).get(Path(path).stem)
        if found == said:
            return
    said = meta.get(_HASH, "no hash")
    raise ValueError(f"expected rows and metadata in {path} as they were written, with hash {said}, got {found}: the "
                     "file was changed or damaged; copy it again, or write it again with hrsa evidence")


def _hash(rows: pd.DataFrame, meta: Mapping[str, Any]) -> str:
    """SHA-256 of scores per query and of what is carried with them, whatever the file's encoding."""
    digest = hashlib.sha256(store.canonical(meta).encode())
    for name in QUERY_COLUMNS[:-1]:
        digest.update(json.dumps(rows[name].astype(str).tolist()).encode())
    digest.update(rows[QUERY_COLUMNS[-1]].to_numpy(dtype="<f8").tobytes())
    return digest.hexdigest()


def join_evidence(files: Sequence[Path]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """One table of scores per query from several evidence files, and their metadata.

    Raises ValueError when fingerprints differ (naming the parts that do), or when two files hold the same embedder and
    query with another score: an arm and seed counts once. Of untrained backbones and chance, which every file brings,
    the first file's scores count.
    """
    return _joined(_loaded(files))


class _Loaded(NamedTuple):
    """An evidence file in memory."""

    file: str
    per_query: pd.DataFrame
    meta: dict[str, Any]


def _loaded(files: Sequence[Path]) -> list[_Loaded]:
    return [_Loaded(Path(file).name, *read_evidence(Path(file))) for file in files]


def _joined(loaded: Sequence[_Loaded]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    if not loaded:
        raise ValueError("expected evidence files to join, got none: name one, or more")
    first = loaded[0].meta["fingerprint"]
    for one in loaded:
        differing = sorted(part for part in first if one.meta["fingerprint"].get(part) != first[part])
        if differing:
            raise ValueError(f"expected the fingerprint of {loaded[0].file} in {one.file}, got another "
                             f"for {', '.join(differing)}: leave it out, for runs of one recipe, suite and margin join")
    table = pd.concat([one.per_query for one in loaded], ignore_index=True).drop_duplicates(ignore_index=True)
    baselines = ~table["model"].str.contains(_OF_A_SEED)  # machines round differently: the first counts
    table = table[~(baselines & table.duplicated(["model", "task", "query"]))]
    return checked_scores(table.reset_index(drop=True), "the joined files"), [one.meta for one in loaded]


@dataclass(frozen=True)
class Pool:
    """Joined scores and where they come from."""

    per_query: pd.DataFrame  # model, task, query, value
    families: pd.Series  # of each task
    seeds: tuple[int, ...]  # for which every pair has both arms
    sources: pd.DataFrame  # source, seeds, models, scores, written, commit, code, statement


def received(profile: Profile) -> list[Path]:
    """Evidence files of others for this profile, in `data/evidence/<profile>/`."""
    return sorted((store.ROOT / "data" / "evidence" / profile.name).glob("*.parquet"))


def share_evidence(profile: Profile, path: Path, source: str) -> Path:
    """Write what has been scored here as an evidence file for others; `source` names machine or laboratory.

    ValueError when there is something else under this path already.
    """
    _check_place(path)
    per_query, families = paired_scores.read_query_scores(profile)
    write_evidence(path, profile, per_query, source, families)
    return path


def _check_place(path: Path) -> None:
    """ValueError unless there is nothing under `path`, or an evidence file, which is replaced."""
    if path.is_dir():
        raise ValueError(f"expected a file to write evidence to, got the folder {path}: name a file in it, such as "
                         f"{path / 'evidence.parquet'}")
    if path.exists():
        try:
            read_evidence(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"expected a new file, or an older evidence file, to write evidence to, got {path}, which "
                             "is something else: give another name, or move it away") from error


def make_pool(profile: Profile) -> Pool:
    """This run's scores, made first where missing and kept as `data/runs/<profile>/evidence.parquet`, joined with
    the files received. ValueError when a file does not join."""
    own = store.RUNS / profile.name / "evidence.parquet"
    per_query, families = paired_scores.make_query_scores(profile)
    written = write_evidence(own, profile, per_query, OWN_SOURCE, families)
    return _pool(profile, [_Loaded(own.name, *written), *_loaded(received(profile))])


def pool_evidence(profile: Profile, files: Sequence[Path]) -> Pool:
    """Evidence files as one body of scores; ValueError as `join_evidence`, and when no seed is complete."""
    return _pool(profile, _loaded(files))


def _pool(profile: Profile, loaded: Sequence[_Loaded]) -> Pool:
    per_query, metas = _joined(loaded)
    seeds = set.intersection(*(set(paired_scores.seeds_of(per_query, pair.a, pair.b)) for pair in profile.pairs))
    if not seeds:
        raise ValueError(f"expected scores of both arms of {', '.join(p.name for p in profile.pairs)} for a seed, got "
                         f"those of {sorted(per_query['model'].unique())}: join files that complete a seed")
    families = {task: family for meta in metas for task, family in meta["families"].items()}
    return Pool(per_query, pd.Series(families), tuple(sorted(seeds)), pd.DataFrame(map(_described, loaded)))


def _described(loaded: _Loaded) -> dict[str, Any]:
    """The row of `Pool.sources` for one evidence file."""
    table, meta, made = loaded.per_query, loaded.meta, loaded.meta["provenance"]
    models = sorted(table["model"].unique())
    seeds = sorted({int(found[1]) for model in models if (found := re.search(r"-s(\d+)$", model))})
    return {"source": meta["source"], "file": loaded.file, "seeds": ", ".join(map(str, seeds)), "models": len(models),
            "scores": len(table), "written": made["written"], "commit": made["commit"][:10], "code": made["code"],
            "statement": meta["statement"]["hash"]}
