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
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from hrsa.study.code_hash import check_unchanged

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(os.environ.get("HRSA_ROOT", Path(__file__).parents[3])).resolve()
SUITE = ROOT / "data" / "suite"
RUNS = ROOT / "data" / "runs"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
BOOK = ROOT / "jupyter_book"
PROVENANCE = "provenance.json"  # in every finished artefact, written last
VERSIONS_OF = ("torch", "transformers", "sentence-transformers", "mteb", "trl", "numpy", "scikit-learn")
_MARKS = (PROVENANCE, "record.json", "card.json")  # of artefacts, committed results and shipped backbones
_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # folders may be shared by several
_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]{8})-(\d+)\.(partial|replaced)(\.[a-z]+)?")
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
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    A folder at `path` is replaced when this project wrote it, by a folder. ValueError for any other, before the block.
    """
    if path.is_dir() and not is_own(path):
        raise ValueError(f"expected a place for something new, or what this project wrote, in {path}, got a folder of "
                         "another kind: give another name, or move the folder away")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}.{end}") for end in ("partial", "replaced"))
    _remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            if not temporary.is_dir():
                raise ValueError(f"expected a file, or nothing, in {path}, got a folder: move it away")
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        _remove(temporary)
        _remove(old)


def is_own(folder: Path) -> bool:
    """Whether a folder may be replaced: it is empty, part of `data/runs`, or says that this project wrote it."""
    place = folder.resolve()
    if RUNS in place.parents or any(_TEMPORARY.fullmatch(part) for part in place.parts) or not any(place.iterdir()):
        return True
    for mark in _MARKS:
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((place / mark).read_text(encoding="utf8"))
            if isinstance(said, dict) and {"written", "versions"} <= said.get("made", said).keys():
                return True
    return False


def sweep(*folders: Path, deep: bool = True) -> list[Path]:
    """Remove what processes of this machine that were killed left half-written in these folders and (`deep`) below
    them; return what it was.

    What was to be replaced when its process was killed gets its name back, where nothing new has it.
    """
    gone = []
    for folder in folders:
        for place, inside, files in os.walk(folder):
            for name in sorted((*inside, *files)):
                file, found = Path(place, name), _TEMPORARY.fullmatch(name)
                if found and found[2] == _MACHINE and not _is_written(file, int(found[3])):
                    _give_back(file, file.with_name(found[1]), found[4] == "replaced")
                    gone.append(file)
            inside[:] = [name for name in inside if deep and not _TEMPORARY.fullmatch(name)]
    return gone


def _give_back(file: Path, named: Path, replaced: bool) -> None:
    """Remove a temporary file or folder, or give it its name back."""
    with contextlib.suppress(FileNotFoundError):  # another process sweeps too
        if replaced and not named.exists():
            os.replace(file, named)
        else:
            _remove(file)


def _is_written(file: Path, pid: int) -> bool:
    """Whether the process that began a temporary file is alive: its number may be another's by now."""
    try:
        owner = psutil.Process(pid)
        return owner.status() != psutil.STATUS_ZOMBIE and owner.create_time() <= file.lstat().st_mtime + 1
    except (psutil.Error, FileNotFoundError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically; NaN is refused (ValueError)."""
    with atomic(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a broken one raises ValueError naming the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, nested too deep
        raise ValueError(f"expected JSON in {path}, got {error}: delete the file and run the stage again") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a tidy table as parquet (zstd), atomically."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, compression="zstd", index=False)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a parquet table and check that it has `columns`; ValueError says what is missing or broken."""
    import pandas as pd

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
    if folder.parent.is_dir():
        sweep(folder.parent, deep=False)
    with atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        build(temporary)
        seconds = round(time.monotonic() - start, 1)
        write_json(temporary / PROVENANCE, provenance(name=folder.name, seconds=seconds, **recorded))
    shutil.rmtree(scratch(folder), ignore_errors=True)
    return folder
