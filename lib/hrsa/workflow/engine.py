"""Run the whole study with Snakemake, so that the answer to any interruption is the same command again.

`hrsa book --profile mini` takes the lock of this checkout, which the system frees however a process ends, starts
Snakemake without a lock of its own (`--nolock`: a killed run would leave it behind) and shows what is running: jobs
done, and for each running job its stage, its run and the time left. When this process goes, the jobs go too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hrsa.report.chapters import RESULTS
from hrsa.report.notebooks import give_back
from hrsa.study import hub, store
from hrsa.study.profile import PROFILES, Profile
from hrsa.verdict import statement
from hrsa.workflow import gpus
from hrsa.workflow.job import BEGUN, FAILED, KEEP_MEMORY, OWNER_VARIABLE, follow_owner, kill_children
from hrsa.workflow.sizes import check_memory

_STEPS = re.compile(r"(\d+) of (\d+) steps")
_JOB_ERROR = re.compile(r"^Error in rule .*?^ +output: (\S+)", re.MULTILINE | re.DOTALL)
# an error of a job's, or of Snakemake's own; not what it says of a job that failed
_ERROR = re.compile(r"^(?!RuleException|CalledProcess|WorkflowError:\s+At least one job)"
                    r"\w*(?:Error|Exception|Interrupt)\b.*$", re.MULTILINE)
log = logging.getLogger(__name__)
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
OPTIONS = ("--rerun-incomplete", "--keep-going", "--rerun-triggers", "input", "mtime", "params", "--nolock")


class EngineError(RuntimeError):
    """The study cannot start, or stopped; the message says why and what to do."""


@contextlib.contextmanager
def only_engine() -> Iterator[None]:
    """Hold this checkout's lock; EngineError when another engine holds it. A dead engine holds nothing."""
    folder = store.ROOT / ".snakemake"
    folder.mkdir(exist_ok=True)
    with open(folder / "engine.lock", "w", encoding="utf8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "expected no other `make book` in this folder, got one running: wait for it, or end it"
            raise EngineError(message) from None
        yield


def snakemake_command(profile: Profile, cores: int, *more: str) -> list[str]:
    """Snakemake's command line for a profile; `more`: further options, or records to make in place of the report's."""
    return [*SNAKEMAKE, *more, "--cores", str(cores), *OPTIONS, *_cards(), "--config", f"profile={profile.name}"]


def _cards() -> list[str]:
    """Snakemake's option for the graphics cards of this machine, so that jobs queue for them; nothing without one."""
    cards = len(gpus.visible())
    return ["--resources", f"gpu={cards}"] if cards else []


class Display:
    """One line per running job on a terminal; elsewhere a line per finished step and one a minute for long jobs."""

    def __init__(self, profile: Profile):
        self.folder = store.RUNS / profile.name / "progress"
        self.done, self.total = 0, 0
        self.broken: OSError | None = None  # why Snakemake's output could not be kept
        self.start = time.time()
        self.terminal = sys.stderr.isatty()
        self.drawn = 0
        self.said = time.time()

    def jobs(self) -> list[str]:
        """What the running jobs say: stage, run, share done, time left."""
        lines = []
        for file in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(OSError, json.JSONDecodeError):
                lines.append(progress_line(json.loads(file.read_text(encoding="utf8")), time.time()))
        return lines

    def step(self, line: str) -> None:
        """Take note of a line of Snakemake's output."""
        if found := _STEPS.search(line):
            self.done, self.total = int(found[1]), int(found[2])
            if not self.terminal:
                self._plain()

    def draw(self) -> None:
        """Show the present state."""
        if not self.terminal:
            if time.time() - self.said > 60:
                self._plain()
            return
        width = shutil.get_terminal_size().columns - 1
        lines = [self._head(), *self.jobs()]
        sys.stderr.write(f"\x1b[{self.drawn}F\x1b[J" if self.drawn else "")
        sys.stderr.write("".join(line[:width] + "\n" for line in lines))
        sys.stderr.flush()
        self.drawn = len(lines)

    def _head(self) -> str:
        minutes = (time.time() - self.start) / 60
        return f"{self.done} of {self.total or '?'} jobs done, {minutes:.1f} min"

    def _plain(self) -> None:
        self.said = time.time()
        sys.stderr.write(" | ".join([self._head(), *self.jobs()]) + "\n")
        sys.stderr.flush()


def progress_line(state: dict, now: float) -> str:
    """`training · base-s0  24/60 step  40 %  1:10 left`, from the state a job writes about itself."""
    n, total = state["n"], state["total"]
    text = f"{state['description']}  {n}/{total or '?'} {state['unit']}"
    if n and total:
        left = int((now - state["start"]) / n * (total - n))
        text += f"  {100 * n // total} %  {left // 60}:{left % 60:02d} left"
    return text


def _run_jobs(profile: Profile, cores: int, records: Sequence[str]) -> None:
    """Run the jobs of a profile that are missing or out of date; EngineError lists those that failed."""
    display = Display(profile)
    for old in display.folder.glob("*"):
        old.unlink()
    display.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **KEEP_MEMORY, OWNER_VARIABLE: str(os.getpid())}
    written = store.RUNS / profile.name / "snakemake.log"
    with open(written, "w", encoding="utf8") as copy:
        child = subprocess.Popen(snakemake_command(profile, cores, *records), cwd=store.ROOT, env=environment,
                                 text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        reader = threading.Thread(target=_read, args=(child, copy, display), daemon=True)
        reader.start()
        try:
            while child.poll() is None and display.broken is None:
                display.draw()
                time.sleep(0.5)
        finally:
            if child.poll() is None:  # interrupted, or the log cannot be written
                kill_children()
            reader.join()  # before the log is closed
        display.draw()
    if display.broken is not None:
        raise display.broken
    if child.returncode:
        said = _reasons(display.folder, child.returncode, written.read_text(encoding="utf8"))
        raise EngineError(
            "the study stopped; what is finished stays. Correct this and give the same command again:\n"
            f"{said}\n(log: {written.relative_to(store.ROOT)})"
        )


def _reasons(folder: Path, code: int, told: str) -> str:
    """Why jobs failed, a line each, by the files that they left and, of those that left none, by what Snakemake has
    told; `code` is its exit code, negative for a signal."""
    failed, begun = (sorted(folder.glob(f"*{ending}")) for ending in (FAILED, BEGUN))
    found = [file.read_text(encoding="utf8") for file in failed]
    if code < 0:
        found.append(f"Snakemake was ended by {signal.Signals(-code).name}")
    else:
        found += [f"{file.read_text(encoding='utf8')}: expected it to end by itself, got killed (by the system, when "
                  "memory runs out): free memory" for file in begun]
    left = {file.stem for file in (*failed, *begun)}
    since = 0
    for block in _JOB_ERROR.finditer(told):
        record, words = Path(block[1]), _ERROR.findall(told[since : block.start()])
        since = block.end()
        if f"{record.parent.name}--{record.stem}" not in left:
            found.append(f"{record.parent.name} {record.stem}: expected it to end by itself, got ended before it had "
                         f"begun{f' by {words[-1].strip()}' if words else ''}")
    if not found:
        own = [" ".join(told[error.start() :].split()) for error in _ERROR.finditer(told)]
        found.append(f"Snakemake: {own[-1][:400]}" if own else
                     f"Snakemake was asked to end before the study had ended, and has (exit code {code})")
    return "\n".join(f"- {text}" for text in found)


def _read(child: subprocess.Popen, copy, display: Display) -> None:
    try:
        with child.stdout:
            for line in child.stdout:
                copy.write(line)
                copy.flush()
                display.step(line)
    except OSError as error:  # the disk is full, say: nothing that comes after could be kept either
        display.broken = error


def _check_startable(profile: Profile) -> None:
    """EngineError for a profile that jobs would not find by its name, or that has nothing to train or to compare."""
    if not (place := PROFILES / f"{profile.name}.yaml").is_file():
        raise EngineError(f"expected the profile in {PROFILES.relative_to(store.ROOT)}, where every job reads it, got "
                          f"no {place.name} there: copy it there and give its name")
    missing = [part for part in ("pairs", "seeds") if not getattr(profile, part) and profile.chapters is None]
    if missing:
        raise EngineError(f"expected {' and '.join(missing)} in profile {profile.name}, got none: it says how "
                          "backbones are made, and not what to study; add them, or give another profile")


def run_study(profile: Profile, cores: int, records: Sequence[str] = ()) -> None:
    """Run a study under this checkout's lock, with its statement recorded first; EngineError when it stopped.

    `records`: files of the jobs to do, with all that they need; none: the whole study.
    """
    _check_startable(profile)
    check_memory(profile)
    with only_engine():
        follow_owner()
        store.sweep(store.RUNS, store.FIGURES, store.BOOK / "executed", RESULTS)
        for sentence in give_back(profile):
            log.warning("made again: %s", sentence)
        statement.record_statement(profile)
        for sentence in hub.moved(profile):
            log.warning(sentence)
        _run_jobs(profile, cores, records)
