"""The smoke study killed again and again and given the same command each time: what is left, said, and comes out.

    python benchmarks/faults.py FOLDER [--rounds 2] [--seed N] [--minutes 11] [--write benchmarks/faults.md]

FOLDER is filled with a clone of this checkout's commit. There the study runs once undisturbed; then every kind of
process gets every signal, in a drawn order and at drawn moments, `--rounds` times over. When the command has ended, the
same command is given again, in half of the cases at once; a study that is finished is compared with the undisturbed
one and begun anew. The same call of this file goes on where it stopped: `--minutes` bounds one stretch, after which
what the study has made so far is compared too. When all kills are done, the last study is finished.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
from safetensors import safe_open

from hrsa.study import store

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ENDING = ("make", "engine", "Snakemake", "all of them")  # the last as a terminal does it: the process group
KINDS = (*ENDING, "job", "kernel", "training")
MARK = "HRSA_SOAK"  # environment variable: number of the start that a process belongs to
FIRST, LAST = 0.5, 25.0  # seconds to the next kill
GONE = 10.0  # seconds in which everything below a command that ended must have ended
BUILT = ("data/runs", "figures/smoke", "jupyter_book/executed", "jupyter_book/_build", ".snakemake")
SECONDS = ("seconds", "hours", "minutes")  # columns, and rows of a quantity, that differ between two runs of one study


class Soak:
    """The clone, the running command and what has been seen so far, kept in `state.json`."""

    def __init__(self, folder: Path, seed: int, rounds: int):
        self.folder, self.clone, self.kept = folder, folder / "a clöne", folder / "state.json"
        self.make: subprocess.Popen | None = None
        self.began = 0.0
        if self.kept.is_file():
            self.state = store.read_json(self.kept)
            return
        cards = [(kind, number.name) for kind in KINDS for number in SIGNALS] * rounds
        random.Random(seed).shuffle(cards)
        self.state: dict[str, Any] = {"seed": seed, "cards": cards, "kills": [], "starts": 0, "studies": 0, "files": 0,
                                      "orphans": [], "broken": [], "differ": [], "refused": 0, "seconds": 0.0}
        clone(self.clone)
        self.state["commit"] = subprocess.run(["git", "rev-parse", "HEAD"], cwd=self.clone, capture_output=True,
                                              text=True, check=True).stdout.strip()
        self.save()

    def save(self) -> None:
        store.write_json(self.kept, self.state)

    def start(self) -> None:
        """Give the command, with the signals' usual handling whatever started this file."""
        self.state["starts"] += 1
        self.save()
        clean = {name: value for name, value in os.environ.items() if not re.match("MAKE|MFLAGS|HRSA_", name)}
        environment = clean | {"PYTHONPATH": str(self.clone / "lib"), MARK: str(self.state["starts"])}
        with open(self.said(), "w", encoding="utf8") as said:
            self.make = subprocess.Popen(
                ["make", "--no-print-directory", "-o", ".venv/installed", "book", "PROFILE=smoke"], cwd=self.clone,
                env=environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS[1:]])
        self.began = time.monotonic()

    def said(self) -> Path:
        (self.folder / "said").mkdir(exist_ok=True)
        return self.folder / "said" / f"{self.state['starts']:03d}.txt"

    def processes(self, start: int) -> list[psutil.Process]:
        """Living processes that belong to a start."""
        found = []
        for process in psutil.process_iter(["environ", "status", "cmdline"]):
            if (process.info["environ"] or {}).get(MARK) == str(start) and (
                    process.info["status"] != psutil.STATUS_ZOMBIE):
                found.append(process)
        return found

    def of_kind(self, kind: str) -> psutil.Process | None:
        """A running process of this kind."""
        for process in self.processes(self.state["starts"]):
            try:
                if kind in kinds_of(process):
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def ended(self, seconds: float) -> bool:
        """Whether the command ends within some seconds."""
        try:
            self.make.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def after_end(self, chance: random.Random) -> str:
        """What the ended command said; it is given again, at once or when all that was below it has gone."""
        number, said, code = self.state["starts"], message(self.said().read_text("utf8")), self.make.returncode
        self.state["seconds"] += time.monotonic() - self.began
        self.state["refused"] += "expected no other `make book`" in said
        self.make = None
        if code == 0:
            self.compare(finished=True)
            self.forget()
        if at_once := chance.random() < 0.5:
            self.start()
        until = time.monotonic() + GONE
        while (left := self.processes(number)) and time.monotonic() < until:
            time.sleep(0.2)
        self.state["orphans"] += [" ".join(process.info["cmdline"])[:200] for process in left]
        if not at_once:
            self.start()
        self.check_files()
        return f"{code}: {said}" if said or code else "0"

    def check_files(self) -> None:
        """Every file that stands under its name can be read to its end."""
        for file in built_files(self.clone):
            self.state["files"] += 1
            try:
                read(file)
            except FileNotFoundError:
                continue  # a command that was given again at once has replaced it
            except Exception as error:
                self.state["broken"].append(f"{file.relative_to(self.clone)}: {error}")

    def compare(self, finished: bool) -> None:
        """The tables, weights and states that are there are those of the undisturbed study: all of them, or where the
        study has not `finished` those made so far."""
        self.state["studies"] += finished
        first, now = (contents(folder) for folder in (self.folder / "undisturbed", self.clone))
        unequal = sorted(now.keys() - first.keys()) + [name for name in first.keys() & now.keys()
                                                       if not same(first[name], now[name])]
        unequal += sorted(first.keys() - now.keys()) if finished else []
        self.state.setdefault("compared", []).append(len(now))
        self.state["differ"] += [name for name in unequal if name not in self.state["differ"]]

    def forget(self) -> None:
        """Remove what the study built, so that it begins anew."""
        for name in BUILT:
            shutil.rmtree(self.clone / name, ignore_errors=True)

    def stop(self) -> None:
        """End what runs, uncounted."""
        if self.make is not None:
            for process in self.processes(self.state["starts"]):
                process.kill()
            self.make.wait()
            self.state["seconds"] += time.monotonic() - self.began
            self.make = None
            self.compare(finished=False)
        self.save()

    def undisturbed(self) -> None:
        """The study once without a kill; its files are what the others are held against."""
        self.start()
        if self.make.wait():
            raise RuntimeError(f"expected the study to finish, got:\n{self.said().read_text('utf8')[-2000:]}")
        self.state["undisturbed"] = time.monotonic() - self.began
        for name in BUILT[:2]:
            shutil.copytree(self.clone / name, self.folder / "undisturbed" / name)
        self.make = None
        self.forget()
        self.save()

    def kill(self) -> None:
        """The next kill: its moment, its target, what followed."""
        kind, name = self.state["cards"][0]
        chance = random.Random(f"{self.state['seed']} {len(self.state['kills'])} {self.state['starts']}")
        if self.make is None:
            self.start()
        if self.ended(chance.uniform(FIRST, LAST)):
            self.state.setdefault("ends", []).append(self.after_end(chance))
            return
        target, until = self.of_kind(kind), time.monotonic() + 15
        while target is None and time.monotonic() < until and self.make.poll() is None:
            time.sleep(0.1)
            target = self.of_kind(kind)
        cards = self.state["cards"]
        if target is None:  # none of this kind for a while: its turn comes later
            cards.append(cards.pop(0))
            return
        cards.pop(0)
        seen = {"kind": kind, "signal": name, "start": self.state["starts"],
                "after": round(time.monotonic() - self.began, 1), "was": job_of(target)}
        print(f"{len(self.state['kills']) + 1}: {name} to {kind}, {seen['after']} s after start {seen['start']}",
              flush=True)
        try:
            (os.killpg if kind == ENDING[-1] else os.kill)(target.pid, signal.Signals[name])
        except ProcessLookupError:
            cards.append((kind, name))
            return
        goes_on = kind == "make" and name in ("SIGINT", "SIGHUP")  # make waits for what it began
        if kind in ENDING and self.ended(5 if goes_on else 90):
            seen["end"] = self.after_end(chance)
        self.state["kills"].append(seen)
        self.save()


def clone(folder: Path) -> None:
    """The commit of this checkout, with the packages of the running Python."""
    subprocess.run(["git", "clone", "--quiet", str(store.ROOT), str(folder)], check=True)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])


def kinds_of(process: psutil.Process) -> set[str]:
    """What a process of the study is; nothing for a shell in between."""
    words = process.cmdline()
    commands = [at for at, word in enumerate(words) if Path(word).name == "hrsa"]
    if Path(words[0]).name == "make" if words else False:
        return {"make", "all of them"}
    if "ipykernel_launcher" in words:
        return {"kernel"} | ({"training"} if "03_training" in job_of(process.parent()) else set())
    if words[1:3] == ["-m", "snakemake"]:
        return {"Snakemake"}
    if not commands or len(words) <= commands[0] + 1:
        return set()
    if words[commands[0] + 1] == "run":
        return {"job"} | ({"training"} if "embedder" in words else set())
    return {"engine"}


def job_of(process: psutil.Process | None) -> str:
    """Rule and name of the job that a process does, or whose kernel it is."""
    try:
        for each in (process, *process.parents()) if process else ():
            words = each.cmdline()
            if "run" in words and "--profile" in words and Path(words[1]).name == "hrsa":
                return " ".join(words[words.index("run") + 1 : words.index("--profile")])
    except psutil.NoSuchProcess:
        pass
    return ""


def message(text: str) -> str:
    """What a command said beside its progress, on one line."""
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not re.match(r"\d+ of [\d?]+ jobs done|The report: ", line)]
    return " / ".join(told)


def built_files(root: Path) -> list[Path]:
    """Files of a study under their final names; what is written at the moment has another, and waits in other
    folders."""
    found = []
    for name in BUILT[:3]:
        for file in (root / name).rglob("*"):
            parts = file.relative_to(root).parts
            if file.is_file() and not any(part.startswith(".") or part == "progress" for part in parts):
                found.append(file)
    return found


def read(file: Path) -> Any:
    """A file to its end, by its kind; an exception when it's cut short."""
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pandas()
    if file.suffix in (".json", ".ipynb"):
        return json.loads(file.read_text("utf8"))
    if file.suffix == ".npy":
        return np.load(file)
    if file.suffix == ".safetensors":
        with safe_open(file, "np") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    content = file.read_bytes()
    ends = {".svg": b"</svg>", ".png": b"IEND\xaeB`\x82", ".csv": b"\n"}.get(file.suffix, b"")
    if not content.rstrip(b"\n" if file.suffix == ".svg" else b"").endswith(ends):
        raise ValueError(f"expected {ends!r} at its end, got {content[-20:]!r}")
    return content


def contents(root: Path) -> dict[str, Any]:
    """Tables, weights and states of a finished study by their places; what was measured in seconds is left out."""
    found = {}
    for file in built_files(root):
        name = str(file.relative_to(root))
        if file.suffix in (".parquet", ".csv") and name.startswith(BUILT[:2]):
            found[name] = untimed(pd.read_csv(io.BytesIO(file.read_bytes())) if file.suffix == ".csv" else read(file))
        elif file.suffix in (".npy", ".safetensors"):
            found[name] = store.file_hash(file)
    return found


def untimed(table: pd.DataFrame) -> pd.DataFrame:
    """A table without columns and rows of seconds."""
    table = table.drop(columns=[name for name in SECONDS if name in table])
    if "quantity" in table:
        table = table[~table["quantity"].isin(SECONDS)]
    return table.reset_index(drop=True)


def same(a: Any, b: Any) -> bool:
    """Whether two contents are equal, to the last bit."""
    return a.equals(b) if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame) else a is b or bool(
        isinstance(a, str) and a == b)


def page(state: dict[str, Any]) -> str:
    """The table and what was found."""
    rows = []
    for kind in KINDS:
        for number in SIGNALS:
            seen = [kill for kill in state["kills"] if (kill["kind"], kill["signal"]) == (kind, number.name)]
            ends = sorted({short(kill["end"]) if "end" in kill else "the study goes on" for kill in seen})
            rows.append(f"| {kind} | {number.name} | {len(seen)} | {'<br>'.join(ends)} |")
    stopped = sorted({generic(end) for end in state.get("ends", []) if not end.startswith("0")})
    checks = {"processes left over ten seconds after the command had ended": state["orphans"],
              "files under their final name that could not be read": state["broken"],
              "tables, weights or states that differ from those of the undisturbed study": state["differ"]}
    return "\n".join([
        "# Kills", "",
        f"Printed by `python benchmarks/faults.py` at commit {state['commit'][:10]}, seed {state['seed']}, on "
        f"{os.cpu_count()} cores: {len(state['kills'])} kills of {len(state['kills']) + len(state['cards'])} planned, "
        f"of the smoke study, which took {state['undisturbed'] / 60:.1f} minutes undisturbed on this machine. "
        f"`make book PROFILE=smoke` was given {state['starts']} times in {state['seconds'] / 60:.0f} minutes; it "
        f"came to its end in {state['studies']} of them, and was killed again in the others. Starts refused because an "
        f"engine that was killed seemed to run: {state['refused']}; no lock was removed by hand.", "",
        *(f"- {len(found)} {what}{': ' if found else ''}{'; '.join(found)}" for what, found in checks.items()), "",
        f"Read to their end: {state['files']:,} files, all that stood under a final name each time the command had "
        "ended. Compared to the last bit, without what is measured in seconds: "
        f"{' and '.join(map(str, state.get('compared', [])))} tables, weights and states, at the end of a study or of "
        "a stretch.", "",
        "Exit code of `make`, and what was said beside its progress:", "",
        "| killed | signal | times | what followed |", "|---|---|---|---|", *rows, "",
        "A killed job, kernel or training run does not end the study: what does not need it goes on. The command then "
        f"ended by itself, {len(stopped)} times with another message:", "",
        *(f"- {short(end, 400)}" for end in stopped), ""]).replace(f"{store.ROOT}/", "")


def generic(text: str) -> str:
    """A message without what differs from one time to the next."""
    return re.sub(r"\d{4,}|0x[0-9a-f]+", "N", text)


def short(text: str, most: int = 260) -> str:
    """The beginning of a message, as a cell of a table."""
    text = generic(text).replace("|", "\\|")
    return text if len(text) <= most else f"{text[:most]} …"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--minutes", type=float, default=11)
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    soak, until = Soak(options.folder.resolve(), options.seed, options.rounds), time.monotonic() + 60 * options.minutes
    print(f"seed {soak.state['seed']}, {len(soak.state['cards'])} kills to do", flush=True)
    try:
        if "undisturbed" not in soak.state:
            soak.undisturbed()
        while soak.state["cards"] and time.monotonic() < until:
            soak.kill()
        last = random.Random(soak.state["seed"])
        while not soak.state["cards"] and "finished" not in soak.state and time.monotonic() < until:
            if soak.make is None:
                soak.start()
            studies = soak.state["studies"]
            if soak.ended(max(1.0, until - time.monotonic())):
                soak.state.setdefault("ends", []).append(soak.after_end(last))
                if soak.state["studies"] > studies:
                    soak.state["finished"] = True
    finally:
        soak.stop()
    if "finished" not in soak.state:
        print(f"{len(soak.state['cards'])} kills to do, then to finish: give the same command again", flush=True)
    print(page(soak.state))
    if options.write:
        options.write.write_text(page(soak.state), encoding="utf8")


if __name__ == "__main__":
    main()
