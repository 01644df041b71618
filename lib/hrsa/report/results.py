"""Results of a long run as small committed tables, for reports on machines that could not repeat the run.

    hrsa results --profile smollm2      (or: make results PROFILE=smollm2)

writes `data/results/<profile>/` from the artefacts of a finished run. A report that shows such tables says so, names
their machine and date, and puts beside them what it computed itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hrsa.analysis import intervals
from hrsa.analysis.ablations import RECIPE
from hrsa.analysis.dynamics import DYNAMICS, FILM, FILMED, make_dynamics
from hrsa.analysis.pairs import PairTable, make_comparison
from hrsa.report.chapters import ABLATIONS, COMMITTED, FILMS, RESULTS, committed_studies, pair_chapters
from hrsa.report.prose import backbones
from hrsa.similarity.metrics import METRICS, shown_k
from hrsa.study import store
from hrsa.study.backbone_kinds import has_card
from hrsa.study.profile import Pair, Profile, load_profile
from hrsa.study.progress import progress
from hrsa.verdict import controls, evidence, paired_scores, statement, synthesis
from hrsa.verdict.differences import Row, ablation_rows, make_ablation_table

_LEVELS = {"correlation": "", "inverse_row_entropy": " (basis)", "debiased_cka": " (global)", "knn": " (local)"}

log = logging.getLogger(__name__)
_CARDS = "cards.json"
_RECORD = "record.json"
_RUN = ("written", "commit", "machine", "rows")  # what is recorded of a run that made rows of the ablations
_SAME = 1e-6  # between similarities of the same two models, measured twice
_SCORES = "scores"  # an evidence file: it joins with those of other machines


def make_results(profile: Profile, folder: Path | None = None) -> Path:
    """Write the tables of a run and their record to `data/results/<profile>/` (or `folder`); return the folder.

    Tables: scores [model, task, query, value], verdicts (`synthesis.score_verdicts`), controls
    (`controls.control_verdicts`), variances (`synthesis.score_variances`), similarities and levels
    (`synthesis.make_similarities`, `make_levels`; of pairs without embedders too), sources
    (`synthesis.make_similarity_sources`). Beside them `cards.json`, the cards of the backbones that have one. What is
    missing is computed first. The record holds the profile, its statement, the SHA-256 of each table, and where and
    how long it ran.
    """
    folder = folder or RESULTS / profile.name
    stated = profile.verdict.model_dump()
    per_query, families = paired_scores.make_query_scores(profile)
    arguments = (profile.pairs, profile.seeds)
    with progress(6, "results", profile.name, "table") as bar:
        tables = {"verdicts": synthesis.score_verdicts(per_query, families, *arguments, **stated)}
        bar.update()
        tables["controls"] = controls.control_verdicts(per_query, profile.controls, profile.seeds, **stated,
                                                       pairs=profile.pairs, judged=tables["verdicts"])
        bar.update()
        tables["variances"] = synthesis.score_variances(per_query, *arguments)
        bar.update()
        tables["similarities"] = synthesis.make_similarities(profile, profile.compared())
        bar.update()
        tables["levels"] = make_levels(profile, profile.compared())
        bar.update()
        tables["sources"] = synthesis.make_similarity_sources(profile)
        bar.update()
    with store.atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        evidence.write_evidence(temporary / f"{_SCORES}.parquet", profile, per_query, COMMITTED, families.to_dict())
        for name, table in tables.items():
            store.write_table(temporary / f"{name}.parquet", table)
        cards = backbones.make_cards(profile) if any(map(has_card, profile.backbones)) else {}
        store.write_json(temporary / _CARDS, cards)
        hashes = {file.stem: store.file_hash(file) for file in sorted(temporary.glob("*.parquet"))}
        store.write_json(temporary / _RECORD, {
            **store.provenance(), "command": f"make book PROFILE={profile.name} && make results PROFILE={profile.name}",
            "profile": profile.model_dump(mode="json"), "statements": statement.record_statement(profile),
            "sha256": hashes, "hours": hours(profile)})
    return folder


def hours(profile: Profile) -> float:
    """Hours of computing that the artefacts of this profile took, all processes added up."""
    files = (store.RUNS / profile.name).rglob(store.PROVENANCE)
    return sum(store.read_json(file)["seconds"] for file in files) / 3600


def read_results(name: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The committed tables of a profile by name, and their record.

    Raises ValueError when a file is not the one that the record names.
    """
    folder = RESULTS / name
    record = store.read_json(folder / _RECORD)
    tables = {table: verified_table(folder / f"{table}.parquet", expected, record["command"])
              for table, expected in record["sha256"].items()}
    return tables, record


class Committed(NamedTuple):
    """The committed results of one study; the cards are those of its backbones, by name."""

    name: str
    tables: dict[str, pd.DataFrame]
    record: dict[str, Any]
    cards: backbones.Cards


def read_every() -> list[Committed]:
    """The results of every committed study, by name. ValueError: none, or as `read_results`.

    Cards that were not committed with the tables are those of the study's profile.
    """
    names = committed_studies()
    if not names:
        raise ValueError(f"expected a study with committed results in {RESULTS}, got none: `hrsa results` writes them")
    found = []
    for name in names:
        tables, record = read_results(name)
        file = RESULTS / name / _CARDS
        cards = store.read_json(file) if file.is_file() else backbones.make_cards(load_profile(name))
        found.append(Committed(name, tables, record, cards))
    return found


def joined_tables(studies: Sequence[Committed], table: str) -> pd.DataFrame:
    """A table of all studies that have it, with the column source: "committed", and of which study where several are.

    Rows of `levels` that a study before has for the same pair and models, equal to rounding, are left out; where they
    are not equal the pair is named with its study. Empty where no study has the table.
    """
    parts: list[pd.DataFrame] = []
    for one in studies:
        if table in one.tables:
            part = one.tables[table].assign(source=f"{COMMITTED}, {one.name}" if len(studies) > 1 else COMMITTED)
            parts.append(_new_levels(part, parts, one.name) if table == "levels" else part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _new_levels(table: pd.DataFrame, before: Sequence[pd.DataFrame], study: str) -> pd.DataFrame:
    """The rows of `levels` that `before` does not have; those of a pair that it has with other values are renamed."""
    known = {key: rows["value"].to_numpy() for part in before for key, rows in part.groupby(["pair", "models"])}
    kept = []
    for key, rows in table.groupby(["pair", "models"], sort=False):
        if key not in known:
            kept.append(rows)
        elif len(rows) != len(known[key]) or not np.allclose(rows["value"], known[key], rtol=0, atol=_SAME):
            kept.append(rows.assign(pair=f"{study}: {key[0]}"))
    return pd.concat(kept) if kept else table.iloc[:0]


def joined_cards(studies: Sequence[Committed]) -> backbones.Cards:
    """The cards of all studies by name of the backbone, each once; with its study where a name has several cards."""
    known: backbones.Cards = {}
    for one in studies:
        names = {name: name if known.get(name, card) == card else f"{one.name}: {name}"
                 for name, card in one.cards.items()}
        known |= {names[name]: card | {"compared_with": names.get(card["compared_with"], card["compared_with"])}
                  for name, card in one.cards.items()}
    return known


def side_by_side(committed: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of `joined_tables`, and those of this run's for the same pairs, told apart by the column
    `source`.

    Rows keep the order of the committed pairs, each followed by this run's.
    """
    shared = own[own["pair"].isin(set(committed["pair"]))]
    both = pd.concat([committed, shared.assign(source=evidence.OWN_SOURCE)], ignore_index=True)
    order = {pair: place for place, pair in enumerate(committed["pair"].unique())}
    return both.sort_values("pair", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def make_ablation_results(profile: Profile, rows: Sequence[Row], missing: Sequence[str], seconds_a_step: float) -> Path:
    """Write `differences.make_ablation_table` of finished rows to data/results/ablations.parquet, its record beside it.

    Rows that were committed before and are missing here stay, where only the list of ablations and controls has changed
    since; the record says of which run each row is, and by how much the recipe's row, which each run has, differed in
    score. missing: names of the rows that are not done here; seconds_a_step: of the recipe, measured. Returns the file.
    """
    file = ABLATIONS
    table = make_ablation_table(profile, rows)
    now = store.provenance() | {"rows": list(table["ablation"])}
    before, runs, repeated = _rows_before(profile, table, missing)
    table = pd.concat([table, before], ignore_index=True)
    order = [row.name for row in ablation_rows(profile)]
    table = table.sort_values("ablation", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
    store.write_table(file, table)
    store.write_json(file.with_suffix(".json"), {
        **store.provenance(), "command": f"make ablations PROFILE={profile.name}",
        "profile": profile.model_dump(mode="json"), "sha256": store.file_hash(file),
        "not_done": [name for name in missing if name not in set(before["ablation"])],
        "runs": [*runs, {name: now[name] for name in _RUN}], "recipe_differs": repeated,
        "seconds": float(table["seconds"].sum()), "seconds_a_step": seconds_a_step})
    return file


def _rows_before(profile: Profile, table: pd.DataFrame, missing: Sequence[str]
                 ) -> tuple[pd.DataFrame, list[dict[str, Any]], float | None]:
    """Committed rows that are missing in `table`, the runs that they are of, and the largest difference in score
    between the recipe's rows; nothing of another study."""
    nothing = table.iloc[:0], [], None
    if not ABLATIONS.is_file():
        return nothing
    before, record = read_committed(ABLATIONS.stem)
    stated, now = record["profile"], profile.model_dump(mode="json")
    if {name for name in stated if stated[name] != now.get(name)} - {"ablations", "controls", "title"}:
        return nothing
    same = {row.name: (row.setting, row.value) for row in ablation_rows(profile)}
    kept = before[[name in missing and same[name] == (setting, value) for name, setting, value in
                   before[["ablation", "setting", "value"]].itertuples(index=False)]]
    runs = record.get("runs") or [{name: record.get(name, list(before["ablation"])) for name in _RUN}]
    runs = [run | {"rows": [name for name in run["rows"] if name in set(kept["ablation"])]} for run in runs]
    scores = [rows.loc[rows["ablation"] == RECIPE, ["score_a", "score_b"]].to_numpy() for rows in (before, table)]
    repeated = float(np.abs(scores[0] - scores[1]).max()) if scores[0].shape == scores[1].shape and len(kept) else None
    return kept, [run for run in runs if run["rows"]], repeated


def make_film(profile: Profile) -> Path:
    """Write what `analysis.make_dynamics` finds of every pair to data/results/dynamics.parquet, its record beside it.

    Columns are those of its tables and pair; rows of the film have "map" in `layers`. Returns the table's file.
    """
    parts = []
    for pair in profile.pairs:
        folder = make_dynamics(profile, pair.name)
        maps = store.read_table(folder / FILM).assign(layers="map", metric=FILMED, seed=profile.seeds[0])
        parts.append(pd.concat([store.read_table(folder / DYNAMICS), maps], ignore_index=True).assign(pair=pair.name))
    store.write_table(FILMS, pd.concat(parts, ignore_index=True))
    store.write_json(FILMS.with_suffix(".json"), {
        **store.provenance(), "command": f"make film PROFILE={profile.name}",
        "profile": profile.model_dump(mode="json"),
        "sha256": store.file_hash(FILMS), "hours": hours(profile)})
    return FILMS


def read_committed(name: str) -> tuple[pd.DataFrame, dict]:
    """A table of `data/results/` and its provenance; ValueError when the file is not the one its provenance names."""
    file = store.ROOT / "data" / "results" / f"{name}.parquet"
    record = store.read_json(file.with_suffix(".json"))
    return verified_table(file, record["sha256"], record["command"]), record


def verified_table(file: Path, sha256: str, command: str) -> pd.DataFrame:
    """The table in a committed file; ValueError when its hash is another: it says to restore it or run `command`."""
    found = store.file_hash(file)
    if found != sha256:
        raise ValueError(f"expected {file.name} of {file.parent.name} with SHA-256 {sha256}, got {found}: "
                         f"to restore it, restore the file from the repository or run `{command}` again")
    return store.read_table(file)


def make_overview(profile: Profile, pair: str) -> pd.DataFrame:
    """Matched-layer similarity of a pair at four levels: similarity, models, layer_x, value, low, high, null, runs,
    crossed.

    Rows are those of `intervals.over_seeds`, on all texts; of the numbers of neighbours the one that is shown. Levels
    whose chapter the profile leaves out are left out.
    """
    parts = []
    for metric, level in _LEVELS.items():
        if not any(chapter.endswith(METRICS[metric].family) for chapter in pair_chapters(profile)):
            continue
        table = store.read_table(make_comparison(profile, pair, METRICS[metric].family) / PairTable.CURVE)
        rows = intervals.over_seeds(table[(table["metric"] == metric) & (table["set"] == "all")])
        if metric == "knn":
            rows = rows[rows["k"] == shown_k(rows["k"])]
        parts.append(rows.assign(similarity=METRICS[metric].name + level))
    columns = ["similarity", "models", "layer_x", "value", "low", "high", "null", "runs", "crossed"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def make_levels(profile: Profile, pairs: Sequence[Pair] | None = None) -> pd.DataFrame:
    """`make_overview` of every pair in `profile.pairs` (or in `pairs`), with the column pair."""
    return pd.concat([make_overview(profile, pair.name).assign(pair=pair.name)
                      for pair in (profile.pairs if pairs is None else pairs)], ignore_index=True)
