"""A study rehearsed before its long run: every job in small on this machine, what would fail, what the whole costs.

`hrsa rehearse --profile paper` (or `make rehearse PROFILE=paper`) tries what comes from elsewhere one by one
(`checks`), writes the profile in small (`in_small`) into a study of its own, `data/runs/<profile>-rehearsal/`, lets the
ordinary engine run it, and measures this machine (`throughput`). Nothing of the study itself is read or written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hrsa.report import chapters
from hrsa.report.prose.pages import filled_page
from hrsa.study import store
from hrsa.study.profile import Profile
from hrsa.workflow import graph
from hrsa.workflow.compare_two import book_command, copy_sources, write_profile
from hrsa.workflow.engine import SNAKEMAKE
from hrsa.workflow.job import OWNER_VARIABLE
from hrsa.workflow.plan import (
    Machine,
    Size,
    assumed_machine,
    counted_size,
    memory_advice,
    stage_costs,
)
from hrsa.workflow.rehearsal import in_small
from hrsa.workflow.rehearsal.checks import (
    Finding,
    Trials,
    one_line,
    reason_of,
    try_models,
    try_tasks,
    try_training_data,
)
from hrsa.workflow.rehearsal.throughput import Throughput, device_memory, fits_here, make_throughput, measured_machine
from hrsa.workflow.sizes import shape_of

TABLE, PAGE = "rehearsal.csv", "rehearsal.md"  # in the rehearsal's folder
_SOURCES = ("Snakefile", "notebooks/*.py", "notebooks/*.ipynb", "jupyter_book/_config.yml", "jupyter_book/*.md",
            "jupyter_book/references.bib", "jupyter_book/_static/**/*")
_LINKED = ("suite", "results")  # folders of data/ that a study reads


class _Cost(NamedTuple):
    """What the full run costs, and on what."""

    stages: pd.DataFrame
    machine: Machine
    measured: Throughput | None


def run_rehearsal(profile: Profile, cores: int, gpus: int | None = None, pairs: Collection[str] = (),
                  workflow_profile: Path | None = None) -> tuple[str, bool]:
    """Rehearse a study; the page that says what was found, and whether anything would fail.

    cores: jobs at a time; gpus: that share a training in the full run; pairs: only these, all for none;
    workflow_profile: of Snakemake, where jobs go to a cluster. The page and `rehearsal.csv`, a row per trial and job
    [kind, what, outcome, reason, why, seconds, peak_mb], are written to `data/runs/<profile>-rehearsal/`. Raises
    ValueError for a profile that says how backbones are made and not what to study, and for unknown pairs.
    """
    if profile.chapters is None and not (profile.pairs and profile.seeds):
        raise ValueError(f"expected pairs and seeds in profile {profile.name}, got none: there is no study to rehearse")
    profile = in_small.selected_pairs(profile, pairs)
    folder = store.RUNS / in_small.rehearsal_name(profile)
    trials = Trials()
    try_models(profile, folder, trials)
    suite = try_training_data(profile, in_small.small_suite(profile.suite), trials)
    suite = try_tasks(profile, suite, folder, trials)
    made = all(b.name in trials.places or in_small.is_made(profile, b) for b in profile.backbones)
    small = in_small.small_profile(profile, trials.places, suite) if made else None
    if small:
        write_root(folder, small)
        trials.findings += _run_jobs(folder, small, cores, workflow_profile)
    cost = _full_run(profile, trials, gpus)
    table = pd.DataFrame(trials.findings, columns=list(Finding._fields))
    text = rehearsal_text(profile, small, table, cost, folder)
    table.to_csv(folder / TABLE, index=False)
    (folder / PAGE).write_text(text, encoding="utf8")
    return text, bool((table["outcome"] != "ran").any())


def write_root(folder: Path, small: Profile) -> None:
    """Make `folder` a study of the small profile: this study's notebooks and pages, and links to its data."""
    copy_sources(folder, *_SOURCES)
    write_profile(folder, small)
    (folder / "data").mkdir(exist_ok=True)
    for name in _LINKED:
        link = folder / "data" / name
        if (store.ROOT / "data" / name).is_dir() and not link.exists():
            link.unlink(missing_ok=True)  # one that leads nowhere
            link.symlink_to((store.ROOT / "data" / name).resolve())


def _run_jobs(folder: Path, small: Profile, cores: int, workflow_profile: Path | None) -> list[Finding]:
    """Run all jobs that can run; what became of each."""
    runs = folder / "data" / "runs" / small.name
    shutil.rmtree(runs / "progress", ignore_errors=True)
    command, environment = book_command(folder, small, cores)
    if workflow_profile is not None:
        subprocess.run([command[0], "state", "--profile", small.name], env=environment, check=False, cwd=folder)
        command = [*SNAKEMAKE, "--workflow-profile", str(workflow_profile.resolve()), "--keep-going", "--nolock",
                   "--config", f"profile={small.name}"]
        environment.pop(OWNER_VARIABLE, None)  # jobs elsewhere have no process here to follow
    done = subprocess.run(command, env=environment, check=False, cwd=folder, stdout=subprocess.DEVNULL)
    findings = collected_jobs(folder, small)
    if done.returncode and all(found.outcome == "ran" for found in findings):
        findings.append(Finding("engine", "all", "fails", "other", f"it ended with code {done.returncode}: see "
                                f"{runs / 'snakemake.log'}"))
    return findings


def collected_jobs(folder: Path, small: Profile) -> list[Finding]:
    """What became of every job of a rehearsal, from the records and messages that jobs leave."""
    progress = folder / "data" / "runs" / small.name / "progress"
    found: dict[tuple[str, str], Finding] = {}
    for rule, names in chapters.jobs(small).items():
        for name in names:
            failed, record = progress / f"{rule}--{name}.failed", folder / chapters.record(small, rule, name)
            if failed.is_file():
                said = failed.read_text(encoding="utf8").removeprefix(f"{rule} {name}: ")
                found[rule, name] = Finding(rule, name, "fails", reason_of(said), one_line(said))
            elif record.is_file():
                said = store.read_json(record)
                found[rule, name] = Finding(rule, name, "ran", seconds=said["seconds"], peak_mb=said["peak_mb"])
            else:
                found[rule, name] = Finding(rule, name, "not run", "other", "it has left no record and no message: see "
                                            "snakemake.log")
    for (rule, name), job in found.items():
        stopped = [f"{a} {b}" for a, b in graph.needs(small, rule, name) if found[a, b].outcome != "ran"]
        if stopped and job.outcome == "not run":
            found[rule, name] = job._replace(reason="waits", why=f"it waits for {', '.join(stopped[:3])}")
    return list(found.values())


def _full_run(profile: Profile, trials: Trials, gpus: int | None) -> _Cost | None:
    """Time, memory and disk of the study itself, with findings on what does not fit; None where they cannot be counted.
    """
    sized = profile.model_copy(update={"backbones": tuple(
        b.model_copy(update={"source": "folder", "path": str(trials.originals[b.name]), "revision": None})
        if b.source == "hub" and b.name in trials.originals else b for b in profile.backbones)})
    measured = None
    with trials.trial("machine", "throughput") as note:
        sizes = {b.name: counted_size(shape_of(sized, b)) for b in sized.backbones}
        measured = _measure(profile, sizes, trials)
        note("", "" if measured else "no model to measure with: rates are assumed")
    machine = measured_machine(profile, measured, gpus) if measured else assumed_machine(profile, None, None, gpus)
    cost = None
    with trials.trial("machine", "the plan of the full run"):
        stages = stage_costs(sized, machine)
        first = stages["stage"] == "backbones"
        fetched = sum(trials.fetched.values()) / 1e9
        stages.loc[first, "disk GB"] = max(float(stages.loc[first, "disk GB"].iloc[0]), fetched)
        cost = _Cost(stages, machine, measured)
    if cost is None:
        return None
    for name in sized.trained() if profile.chapters is None else ():
        advice = memory_advice(sizes[name], profile.recipe, machine)
        if advice != "yes":
            trials.findings.append(Finding("machine", f"training {name}", "fails", "memory",
                                           f"{machine.gpus} x {machine.memory:.0f} GB do not hold it; {advice}"))
    needed, free = stages["disk GB"].sum(), shutil.disk_usage(store.RUNS).free / 1e9
    if needed > free:
        trials.findings.append(Finding("machine", "disk", "fails", "disk",
                                       f"the study needs {needed:,.1f} GB, and {free:,.1f} GB are free"))
    return cost


def _measure(profile: Profile, sizes: dict[str, Size], trials: Trials) -> Throughput | None:
    """The rates of the widest model that is trained and of which two blocks fit; None where none is."""
    names = profile.trained() if profile.chapters is None else []
    fit = [name for name in names if name in trials.originals and fits_here(sizes[name], profile.recipe)]
    if not fit:
        return None
    name = max(fit, key=lambda one: sizes[one].width)
    return make_throughput(name, trials.originals[name], sizes[name], profile)


def rehearsal_text(profile: Profile, small: Profile | None, table: pd.DataFrame, cost: _Cost | None,
                   folder: Path) -> str:
    """The page on a rehearsal, Markdown. table: the findings; small: None where nothing could be run."""
    bad = table[table["outcome"] == "fails"]
    jobs = table.groupby("kind", sort=False).agg(
        tried=("outcome", "size"), ran=("outcome", lambda x: (x == "ran").sum()),
        failed=("outcome", lambda x: (x == "fails").sum()), waited=("outcome", lambda x: (x == "not run").sum()),
        seconds=("seconds", "sum"), peak_mb=("peak_mb", "max")).reset_index()
    waiting = table[table["outcome"] == "not run"]
    lines = [f"- {row.kind} {row.what}: **{row.reason}**. {row.why}" for row in bad.itertuples()]
    lines += [f"- not run: {kind}, {len(rows)} of them; {rows['why'].iloc[0]}"
              for kind, rows in waiting.groupby("kind")]
    notes = [f"- {row.kind} {row.what}: {row.why}" for row in table[(table["outcome"] == "ran")
                                                                   & (table["why"] != "")].itertuples()]
    measured = cost.measured if cost else None
    report = folder / "jupyter_book" / "_build" / "html" / "index.html"
    free = shutil.disk_usage(store.RUNS).free / 1e9
    return filled_page(
        "rehearsal.md", name=profile.name, jobs=_block(jobs.fillna({"peak_mb": 0})),
        verdict=f"{len(bad)} of {len(table)} trials and jobs would fail." if len(bad) else
        f"All {len(table)} trials and jobs ran.", failures="\n".join(lines) or "Nothing.",
        notes="\n".join(notes) or "Nothing.", speed=_speed(measured, device_memory()),
        stages=_block(cost.stages) if cost else "It could not be computed.", sum=_sum(cost, free),
        documents=in_small.DOCUMENTS, queries=in_small.QUERIES, subsets=in_small.SUBSETS,
        steps=small.recipe.steps if small else 0, seeds=list(small.seeds) if small else [],
        widest=measured.backbone if measured else "none", cpu=cost.machine.cpu if cost else 0,
        report=os.path.relpath(report) if report.is_file() else "it could not")


def _speed(found: Throughput | None, memory: float) -> str:
    if found is None:
        return f"Nothing was measured, rates are assumed; {memory:.0f} GB of memory."
    return "\n".join([
        f"- training: {found.train_tokens:,.0f} tokens/s with {found.million:,.3g} million parameters in two blocks, "
        f"{found.bf16:.3g} TFLOP/s in the recipe's precision",
        f"- evaluation: {found.texts:,.1f} texts/s, {found.texts * found.million:,.3g} for a model of one million "
        f"parameters, {found.fp32:.3g} TFLOP/s in float32",
        f"- memory: {memory:.0f} GB; training these two blocks took {found.peak_gb:.2f} GB at its peak, where the plan "
        f"estimates {found.estimated_gb:.2f} GB beside what libraries hold"])


def _sum(cost: _Cost | None, free: float) -> str:
    if cost is None:
        return ""
    hours = cost.stages.groupby("unit")["hours"].sum()
    return (f"{' and '.join(f'{value:,.2f} {unit}-hours' for unit, value in hours.items())}; at most "
            f"{cost.stages['GB'].max():,.1f} GB of memory; {cost.stages['disk GB'].sum():,.2f} GB of disk, of which "
            f"{free:,.0f} GB are free.")


def _block(table: pd.DataFrame) -> str:
    """A table as a block of Markdown code, which reads as well in a terminal."""
    return textwrap.indent(table.to_string(index=False, float_format="{:.2f}".format), "    ")
