"""Progress of long work: the stage, the run and the time left, as a bar or as lines in a file that a runner shows."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm.std import tqdm

FILE_VARIABLE = "HRSA_PROGRESS"  # set by the runner: bars inside a notebook kernel would end up in the notebook


class FileBar:
    """The part of tqdm's interface that the study uses, written as one JSON object to a file, twice a second."""

    def __init__(self, path: Path, total: int | None, description: str, unit: str):
        self.path, self.total, self.description, self.unit = path, total, description, unit
        self.n, self.start, self.last = 0, time.time(), 0.0
        self._write()

    def update(self, n: int = 1) -> None:
        """Count `n` more units."""
        self.n += n
        if time.time() - self.last > 0.5 or self.n == self.total:
            self._write()

    def _write(self) -> None:
        self.last = time.time()
        state = {"description": self.description, "n": self.n, "total": self.total, "unit": self.unit,
                 "start": self.start}
        temporary = self.path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(state), encoding="utf8")
        os.replace(temporary, self.path)

    def close(self) -> None:
        """Write the last state."""
        self._write()

    def __enter__(self) -> FileBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def progress(total: int | None, stage: str, run: str, unit: str = "step") -> Any:
    """A bar to `update()` and `close()` (or use in `with`) for `total` units of work of one run of a stage."""
    description = f"{stage} · {run}"
    path = os.environ.get(FILE_VARIABLE)
    if path:
        return FileBar(Path(path), total, description, unit)
    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
