"""Loaders of files that others write, under a coverage-guided fuzzer (atheris). Prints a table of time, runs, findings.

    pip install atheris     # into an environment that has this package; nothing else here needs it
    python benchmarks/fuzz.py KEPT [--minutes 10] [--only profile jsonl …] [--write benchmarks/fuzz.md]

Each loader gets `--minutes` in a process of its own, from whole files and what KEPT holds of earlier runs: the inputs
that reached new code, and under `findings/` those that broke something. A loader may give a result of any bytes, or
refuse them by a ValueError that says what was expected; all else is a finding. A run adds to those before it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hrsa.study import store
from hrsa.study.profile import PROFILES, load_profile
from hrsa.texts import own_probes
from hrsa.texts.suite import load_training
from hrsa.verdict.evidence import read_evidence, write_evidence

SMOKE = load_profile("smoke")
ROWS = {"probes.jsonl": [{"text": "a", "set": "s", "label": "x", "target": 1.5, "id": 7}, {"text": "b", "label": "y"}],
        "pairs.jsonl": [{"query": ["Find.", "q"], "pos": ["p", "r"], "neg": ["n"]},
                        {"instruction": "Find.", "query": "q", "positive": "p", "negatives": ["n"]}]}


def training(file: Path) -> None:
    """Training pairs from a file, as a study reads them."""
    suite = SMOKE.suite.model_copy(update={"train": (str(file),), "max_pairs": None})
    load_training(SMOKE.model_copy(update={"suite": suite}))


LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-max_len=20000", "-print_final_stats=1")
INSTRUMENTED = """
import sys
import atheris
sys.path.insert(0, sys.argv.pop(1))
with atheris.instrument_imports(include=["hrsa", "yaml"], enable_loader_override=False):
    import fuzz
fuzz.fuzz(sys.argv.pop(1), sys.argv[1:])
"""
LOADERS: dict[str, tuple[str, Callable[[Path], object]]] = {  # name -> the file's name, what reads it
    "profile": ("own.yaml", load_profile),
    "probe texts, txt": ("own.txt", own_probes.read_texts),
    "probe texts, jsonl": ("own.jsonl", own_probes.read_texts),
    "probe texts, parquet": ("own.parquet", own_probes.read_texts),
    "training pairs, jsonl": ("own.jsonl", training),
    "training pairs, parquet": ("own.parquet", training),
    "evidence": ("own.parquet", read_evidence),
    "record, json": ("own.json", store.read_json)}


def seeds(name: str) -> list[bytes]:
    """Whole files that a loader takes."""
    if name == "profile":
        return [file.read_bytes() for file in sorted(PROFILES.glob("*.yaml"))]
    if name == "evidence":
        scores = pd.DataFrame({"model": ["base-s0", "rlvr-s0"], "task": "t", "query": "q", "value": [0.5, 1.0]})
        with tempfile.TemporaryDirectory() as folder:
            write_evidence(Path(folder, "x.parquet"), SMOKE, scores, "a machine", {"t": "retrieval"})
            return [Path(folder, "x.parquet").read_bytes()]
    rows = ROWS["pairs.jsonl" if "pairs" in name else "probes.jsonl"]
    if "parquet" in name:
        with tempfile.TemporaryDirectory() as folder:
            made = []
            for row in rows:
                pd.DataFrame([row]).to_parquet(Path(folder, "x.parquet"))
                made.append(Path(folder, "x.parquet").read_bytes())
            return made
    return ["\n".join(map(json.dumps, rows)).encode(), *(json.dumps(row).encode() for row in rows)]


def refuses_in_words(loader: Callable[[Path], object], file: Path, content: bytes) -> None:
    """Let a loader read these bytes; whatever is no result and no refusal in words goes up."""
    file.write_bytes(content)
    try:
        loader(file)
    except ValueError as error:
        if "expected" not in str(error) and "correct these keys" not in str(error):
            raise


def fuzz(name: str, options: list[str]) -> None:
    """In a process of its own: libFuzzer on one loader, which does not come back."""
    import atheris

    file_name, loader = LOADERS[name]
    file = Path(tempfile.mkdtemp(), file_name)
    atheris.Setup([sys.argv[0], *options], lambda content: refuses_in_words(loader, file, content))
    atheris.Fuzz()


def slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def run(name: str, kept: Path, minutes: float) -> dict[str, float]:
    """Fuzz one loader for some minutes, again after each finding; what was seen."""
    place, found = kept / slug(name), kept / "findings" / slug(name)
    for folder in (place, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(name)):
        (place / f"seed-{number}").write_bytes(content)
    words = kept / "words.txt"
    told = "\n".join(file.read_text("utf8") for file in PROFILES.glob("*.yaml"))
    words.write_text("\n".join(f'"{word}"' for word in sorted(set(re.findall(r"\w+", told)))), encoding="utf8")
    seen, left = {"seconds": 0.0, "runs": 0, "reached": 0}, 60 * minutes
    while left > 5:
        done = subprocess.run(
            [sys.executable, "-c", INSTRUMENTED, str(Path(__file__).parent), name, str(place), f"-dict={words}",
             f"-max_total_time={int(left)}", f"-artifact_prefix={found}/", *LIMITS],
            capture_output=True, text=True, check=False, errors="replace")
        runs = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
        spent = re.findall(r"stat::average_exec_per_sec: +(\d+)", done.stderr)
        if not runs:
            raise RuntimeError(f"expected the fuzzer to run on {name}, got:\n{done.stderr[-2000:]}")
        seconds = left if done.returncode == 0 else min(left, max(1.0, int(runs[-1]) / max(int(spent[-1]), 1)))
        reached = re.findall(r"cov: (\d+)", done.stderr)
        seen["seconds"] += seconds
        seen["runs"] += int(runs[-1])
        seen["reached"] = max(seen["reached"], *map(int, reached or [0]))
        left -= seconds
        if done.returncode:
            print(f"{name}: {done.stderr[-1500:]}", flush=True)
    return seen


def page(seen: dict[str, dict[str, float]], kept: Path) -> str:
    found = {name: len(list((kept / "findings" / slug(name)).glob("*"))) for name in seen}
    rows = [f"| {name} | {one['seconds'] / 60:.1f} | {one['runs']:,} | {one['reached']:,} | {found[name]} |"
            for name, one in seen.items()]
    whole = {key: sum(one[key] for one in seen.values()) for key in ("seconds", "runs")}
    return "\n".join([
        "# Fuzzed loaders", "",
        "Printed by `python benchmarks/fuzz.py`: bytes that atheris (libFuzzer) makes, guided by the branches of this "
        "package and of PyYAML that they reach. A finding is an input that a loader neither takes nor refuses in "
        "words; those of earlier runs are mended and kept as tests (`tests/test_fuzzed.py`).", "",
        f"{whole['runs']:,.0f} runs in {whole['seconds'] / 60:.0f} minutes, one process.", "",
        "| loader | minutes | runs | branches reached | findings |", "|---|---|---|---|---|", *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    options.kept.mkdir(parents=True, exist_ok=True)
    state = options.kept / "seen.json"
    seen = json.loads(state.read_text("utf8")) if state.is_file() else {}
    for name in options.only:
        before = seen.get(name, {"seconds": 0.0, "runs": 0, "reached": 0})
        now = run(name, options.kept.resolve(), options.minutes)
        seen[name] = {"seconds": before["seconds"] + now["seconds"], "runs": before["runs"] + now["runs"],
                      "reached": max(before["reached"], now["reached"])}
        state.write_text(json.dumps(seen), encoding="utf8")
    print(page(seen, options.kept))
    if options.write:
        options.write.write_text(page(seen, options.kept), encoding="utf8")


if __name__ == "__main__":
    main()
