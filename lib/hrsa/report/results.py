"""Results of a long run as small committed tables, for reports on machines that could not repeat the run.

    python -m hrsa.report.results --profile family      (or: make results PROFILE=family)

writes `data/results/<profile>/` from the artefacts of a finished run. A report that shows such tables says so, names
their machine and date, and puts beside them what it computed itself.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.overview import levels
from hrsa.study import store
from hrsa.study.profile import Profile, load_profile
from hrsa.study.progress import progress
from hrsa.verdict import evidence, synthesis

log = logging.getLogger(__name__)
FOLDER = store.ROOT / "data" / "results"
RECORD = "record.json"
SCORES = "scores"  # an evidence file: it joins with those of other machines
HERE, THERE = "this run", "committed"


def export(profile: Profile, folder: Path | None = None) -> Path:
    """Write the tables of a run and their record to `data/results/<profile>/` (or `folder`); return the folder.

    Tables: scores [model, task, query, value], verdicts (`hrsa.verdict.synthesis.score_verdicts`), controls, similarities
    (`hrsa.verdict.synthesis.similarities`) and levels (`hrsa.overview.levels`). What is missing is computed first.
    The record holds the profile, its statement, the SHA-256 of each table, and where and how long it ran.
    """
    folder = folder or FOLDER / profile.name
    stated = profile.verdict.model_dump()
    per_query, families = evidence.gather(profile)
    arguments = (profile.pairs, profile.seeds)
    with progress(4, "results", profile.name, "table") as bar:
        tables = {"verdicts": synthesis.score_verdicts(per_query, families, *arguments, **stated)}
        bar.update()
        tables["controls"] = synthesis.controls(per_query, *arguments, **stated)
        bar.update()
        tables["similarities"] = synthesis.similarities(profile)
        bar.update()
        tables["levels"] = levels(profile)
        bar.update()
    with store.atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        evidence.write(temporary / f"{SCORES}.parquet", profile, per_query, THERE, families.to_dict())
        for name, table in tables.items():
            store.write_table(temporary / f"{name}.parquet", table)
        hashes = {file.stem: store.file_hash(file) for file in sorted(temporary.glob("*.parquet"))}
        store.write_json(temporary / RECORD, {
            **store.provenance(), "command": f"make book PROFILE={profile.name} && make results PROFILE={profile.name}",
            "profile": profile.model_dump(mode="json"), "statements": evidence.state(profile), "sha256": hashes,
            "hours": hours(profile)})
    return folder


def hours(profile: Profile) -> float:
    """Hours of computing that the artefacts of this profile took, all processes added up."""
    files = (store.RUNS / profile.name).rglob("provenance.json")
    return sum(store.read_json(file)["seconds"] for file in files) / 3600


def load(name: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The committed tables of a profile by name, and their record.

    Raises ValueError when a file is not the one that the record names.
    """
    folder = FOLDER / name
    record = store.read_json(folder / RECORD)
    tables = {table: synthesis.verified(folder / f"{table}.parquet", expected, record["command"])
              for table, expected in record["sha256"].items()}
    return tables, record


def beside(committed: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Rows of the committed table, and those of this run's for the same pairs, told apart by the column `source`.

    Rows keep the order of the committed pairs, each followed by this run's.
    """
    shared = own[own["pair"].isin(set(committed["pair"]))]
    both = pd.concat([committed.assign(source=THERE), shared.assign(source=HERE)], ignore_index=True)
    order = {pair: place for place, pair in enumerate(committed["pair"].unique())}
    return both.sort_values("pair", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def origin(record: dict[str, Any]) -> str:
    """Markdown: which run the committed tables are of."""
    profile = record["profile"]
    return (f"**Committed results.** The tables marked *{THERE}* are those of profile `{profile['name']}`: "
            f"{len(profile['backbones'])} backbones, {len(profile['seeds'])} seeds, {record['hours']:.1f} hours of "
            f"computing on {record['machine']}, written {record['written']} by `{record['command']}` at commit "
            f"`{record['commit'][:12]}`. They were not computed by this run.")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the tables of a finished run to data/results.")
    parser.add_argument("--profile", default="family")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("written: %s", export(load_profile(parser.parse_args().profile)).relative_to(store.ROOT))


if __name__ == "__main__":
    main()
