"""Where artefacts live, what they are called and how they are written.

An artefact is a folder `data/runs/<profile>/<stage>/<name>-<key>/`. The key hashes everything that changes the
content: configuration, seed, the keys of the inputs and the code that makes it (`study.code_hash`). A folder appears
under its name only when it is complete (written beside it, then renamed), with `provenance.json` inside. The same
call again therefore finds finished work and never half-written work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.study.code_hash import check_unchanged

ROOT = Path(os.environ.get("HRSA_ROOT", Path(__file__).parents[3])).resolve()
SUITE = ROOT / "data" / "suite"
RUNS = ROOT / "data" / "runs"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
BOOK = ROOT / "jupyter_book"
PROVENANCE = "provenance.json"  # in every finished artefact, written last
VERSIONS_OF = ("torch", "transformers", "sentence-transformers", "mteb", "trl", "numpy", "scikit-learn")
_LARGE = 2**20  # bytes of a file whose hash a process keeps
_HASHES: dict[tuple[int, int, int, int], str] = {}  # device, inode, size and time of a large file -> its SHA-256


def canonical(value: Any) -> str:
    """JSON text of `value` that is the same for equal values: sorted keys, no spaces; paths become their names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=lambda v: Path(v).name)


def key(**parts: Any) -> str:
    """Twelve hexadecimal digits that identify `parts` (JSON-able values; a path counts by its name)."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; a process reads a large file once, unless its size or time change."""
    with open(path, "rb") as handle:
        about = os.fstat(handle.fileno())
        if about.st_size < _LARGE:
            return hashlib.file_digest(handle, "sha256").hexdigest()
        known = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        if known not in _HASHES:
            _HASHES[known] = hashlib.file_digest(handle, "sha256").hexdigest()
        return _HASHES[known]


def provenance(**extra: Any) -> dict[str, Any]:
    """Versions, machine, commit and time of the running process, merged with `extra`."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    versions = {}
    for name in VERSIONS_OF:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip() or "not a git checkout",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
        **extra,
    }


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically; NaN is refused (ValueError)."""
    with atomic(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a broken one raises ValueError naming the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {path}, got {error}: delete the file and run the stage again") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a tidy table as parquet (zstd), atomically."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, compression="zstd", index=False)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a parquet table and check that it has `columns`; ValueError says what is missing or broken."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise
    except Exception as error:
        message = f"expected a parquet table in {path}, got {error}: delete it and run the stage again"
        raise ValueError(message) from error
    missing = [name for name in columns or [] if name not in table.columns]
    if missing:
        raise ValueError(f"expected columns {columns} in {path}, got {list(table.columns)}: add {missing}")
    return table


def artefact(profile: str, stage: str, name: str, key: str) -> Path:
    """Folder of an artefact, whether made yet or not."""
    return RUNS / profile / stage / f"{name}-{key}"


def scratch(folder: Path) -> Path:
    """Folder beside an artefact for resumable work in progress (checkpoints); `make` removes it at the end."""
    return folder.with_name(f".{folder.name}.work")


def make(folder: Path, build: Callable[[Path], None], by: tuple[Callable, ...], **recorded: Any) -> Path:
    """Return `folder`, built first when it is not there yet by the code of the functions `by`.

    `build(temporary)` fills an empty folder, which gets its final name only afterwards, together with
    `provenance.json` (seconds it took, versions, commit and `recorded`). Errors leave nothing under the final name.
    RuntimeError when that code has changed on disk since this process started.
    """
    if (folder / PROVENANCE).is_file():
        return folder
    check_unchanged(*by)
    start = time.monotonic()
    with atomic(folder) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        build(temporary)
        seconds = round(time.monotonic() - start, 1)
        write_json(temporary / PROVENANCE, provenance(name=folder.name, seconds=seconds, **recorded))
    shutil.rmtree(scratch(folder), ignore_errors=True)
    return folder
