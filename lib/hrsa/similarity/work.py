"""Partial results of a comparison, kept on disk so that an interrupted one goes on at the last finished block."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hrsa import paths

SAVE_SECONDS = 2.0  # at least this long between two savings of one sum


@dataclass
class Work:
    """Partial sums and finished rows of one comparison; without a folder, nothing is kept.

    Everything lies in a folder named by `key`, which stands for the states, the settings and the code: partial
    results of another comparison are never taken up. Files are written under another name and renamed, so that a
    process killed at any moment leaves whole files only.
    """

    folder: Path | None = None
    saved: float = field(default=-np.inf, repr=False)

    @classmethod
    def of(cls, folder: Path | str | None, **parts: Any) -> Work:
        """Work in `folder`/key of the JSON-able `parts`."""
        if folder is None:
            return cls()
        return cls(Path(folder) / paths.key(**parts, code=paths.code_hash("hrsa.similarity")))

    def load(self, name: str, total: dict[str, np.ndarray]) -> int:
        """Fill `total` with the saved sums and return how many blocks they hold; 0 when nothing is saved."""
        file = self._file(name)
        if file is None or not file.exists():
            return 0
        try:
            with safe_open(file, framework="np") as saved:
                for key, value in total.items():
                    value[...] = saved.get_tensor(key)
                return int(saved.metadata()["blocks"])
        except SafetensorError as error:
            raise ValueError(f"expected partial sums in {file}, got a broken file ({error}): delete it") from None

    def save(self, name: str, blocks: int, total: dict[str, np.ndarray], last: bool) -> None:
        """Keep the sums of the first `blocks` blocks, unless some were kept a moment ago and more are to come."""
        file = self._file(name)
        if file is None or (not last and time.monotonic() - self.saved < SAVE_SECONDS):
            return
        with paths.atomic(file) as temporary:
            save_file({key: np.ascontiguousarray(value) for key, value in total.items()}, temporary,
                      metadata={"blocks": str(blocks)})
        self.saved = time.monotonic()

    def rows(self, name: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Rows of the finished table, made when they are not there yet."""
        file = self.folder / f"{name}.parquet" if self.folder else None
        if file is not None and file.exists():
            return paths.read_table(file).to_dict("records")
        made = make()
        if file is not None:
            paths.write_table(file, pd.DataFrame(made).astype({"k": "Int64"}))
        return made

    def finish(self) -> None:
        """Remove the partial results: the comparison is complete."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, name: str) -> Path | None:
        return self.folder / f"{name}.safetensors" if self.folder else None
