"""The page of run records: what was run, with what, for how long."""

from __future__ import annotations

import pandas as pd
import yaml

from hrsa.report.foreign import as_block, as_markdown
from hrsa.report.notebooks import HASH
from hrsa.report.plots.tables import table
from hrsa.study import store
from hrsa.study.profile import PROFILES, Profile

_COLUMNS = ("rule", "name", "seconds", "peak_mb", "made", "commit", "fingerprint", "written")


def read_records(profile: Profile) -> list[dict]:
    """Records of all finished jobs of a profile, in the order in which they were written."""
    folder = store.RUNS / profile.name / "records"
    found = [store.read_json(path) for path in sorted(folder.rglob("*.json"))]
    if not found:
        raise ValueError(f"expected run records in {folder}, got none: run `make book PROFILE={profile.name}`")
    return sorted(found, key=lambda record: (record["written"], record["rule"], record["name"]))


def records_page(profile: Profile) -> str:
    """Markdown of the page: the run in brief, each stage, each job, library versions, and the profile itself."""
    records = read_records(profile)
    frame = pd.DataFrame([{name: record.get(name) for name in _COLUMNS} for record in records])
    text = PROFILES.joinpath(f"{profile.name}.yaml")
    settings = text.read_text(encoding="utf8") if text.is_file() else yaml.safe_dump(profile.model_dump(mode="json"))
    return "\n".join([
        "# Run records\n",
        "What was run for this report, on what, and how long it took. Wall times count work done; a job that found "
        "its artefact finished took none.\n",
        brief(profile, records), "\n## Stages\n", stage_table(frame).html(), "\n## Library versions\n",
        versions(records).html(), "\n## Jobs\n", ":::{dropdown} Every job\n", job_table(frame).html(), "\n:::\n",
        "## Profile\n", "The settings of this run; all that is not named here has the default of "
        "`lib/hrsa/study/sections.py`.\n", as_block(settings, "yaml"),
    ])


def _distinct(records: list[dict], name: str) -> str:
    return ", ".join(dict.fromkeys(as_markdown(record[name]) for record in records if record.get(name)))


def brief(profile: Profile, records: list[dict]) -> str:
    """A definition list of the run as a whole."""
    total = sum(record["seconds"] for record in records)
    lines = {
        "Profile": f"`{profile.name}`: {as_markdown(profile.title)}",
        "Seeds": ", ".join(map(str, profile.seeds)),
        "Commit": _distinct(records, "commit"),
        "Machine": _distinct(records, "machine"),
        "Python": _distinct(records, "python"),
        "Time of all jobs": f"{total / 60:.1f} minutes, one after another",
        "Peak memory of a job": f"{max(record['peak_mb'] for record in records):,.0f} MB",
        "First and last job": f"{as_markdown(records[0]['written'])} and {as_markdown(records[-1]['written'])}",
    }
    return "\n".join(f"- **{name}**: {value}" for name, value in lines.items())


def stage_table(frame: pd.DataFrame) -> object:
    """Jobs, total wall time and peak memory of each stage."""
    summed = frame.groupby("rule", sort=False).agg(jobs=("name", "size"), seconds=("seconds", "sum"),
                                                   longest=("seconds", "max"), peak=("peak_mb", "max")).reset_index()
    summed.columns = ["stage", "jobs", "wall time (s)", "longest job (s)", "peak memory (MB)"]
    return table(summed, "Wall time and peak memory per stage", decimals=1)


def job_table(frame: pd.DataFrame) -> object:
    """One row per job, with the names of its artefacts (which end in their content hash) and its commit."""
    made = [", ".join(str(value) for name, value in (record or {}).items() if name != HASH) for record in frame["made"]]
    shown = pd.DataFrame({
        "stage": frame["rule"], "run": frame["name"], "wall time (s)": frame["seconds"],
        "peak memory (MB)": frame["peak_mb"], "artefact": made, "fingerprint": frame["fingerprint"],
        "commit": frame["commit"].str.slice(0, 7),
    })
    return table(shown, "Jobs in the order in which they finished", decimals=1)


def versions(records: list[dict]) -> object:
    """Versions of the libraries that the numbers depend on; several when records come from several environments."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.get("versions", {}).items():
            found.setdefault(name, {})[version] = None
    rows = [{"library": name, "version": ", ".join(several)} for name, several in sorted(found.items())]
    return table(pd.DataFrame(rows), "Versions at run time")
