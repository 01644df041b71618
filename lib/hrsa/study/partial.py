"""Partial results of a comparison, kept on disk so that an interrupted one goes on at the last finished block."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hrsa.study import store

SAVE_SECONDS = 2.0  # between two savings: what an interruption costs at most, beside the block it hit
PART = "part"  # column of a kept table: the number of the item that a row belongs to


@dataclass
class Work:
    """Partial sums and finished rows of one comparison; without a folder, nothing is kept.

    Files are written under another name and renamed, so that a process killed at any moment leaves whole files only;
    and no oftener than every two seconds, so that quick comparisons write nothing.
    """

    folder: Path | None = None
    saved: float = field(default_factory=time.monotonic, repr=False)
    waiting: dict[Path, Callable[[Path], None]] = field(default_factory=dict, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, folder: Path | str | None, **parts: Any) -> Work:
        """Work in `folder`/key of the JSON-able `parts`: what belongs to others is never taken up."""
        if folder is None:
            return cls()
        return cls(Path(folder) / store.key(**parts))

    def load(self, name: str, total: dict[str, np.ndarray]) -> int:
        """Fill `total` with the saved sums and return how many blocks they hold; 0 when nothing is saved."""
        file = self.folder / f"{name}.safetensors" if self.folder else None
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
        """Keep the sums of the first `blocks` blocks when it is time, and in any case when they are the `last`."""
        if self.folder is None or not (last or self._due()):
            return
        copy = {key: np.array(value) for key, value in total.items()}
        self._keep(f"{name}.safetensors", lambda file: save_file(copy, file, metadata={"blocks": str(blocks)}))

    def rows(self, name: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Rows of the finished table, made when they are not there yet."""
        return self.tables(name, [None], lambda _: pd.DataFrame(make()).astype({"k": "Int64"})).to_dict("records")

    def tables(self, name: str, items: Iterable[Any], make: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
        """The tables that `make` gives of each item, joined; those that an earlier run kept are not made again."""
        parts = self._kept(name)
        for item in islice(items, len(parts), None):
            parts.append(make(item))
            if self.folder is not None:
                table = pd.concat([part.assign(**{PART: at}) for at, part in enumerate(parts)], ignore_index=True)
                self._keep(f"{name}.parquet", lambda file, table=table: table.to_parquet(file, index=False))
        return pd.concat(parts, ignore_index=True)

    def _kept(self, name: str) -> list[pd.DataFrame]:
        file = self.folder / f"{name}.parquet" if self.folder else None
        if file is None or not file.exists():
            return []
        table = store.read_table(file, [PART])
        parts = table.pop(PART)
        return [table[parts == at] for at in range(int(parts.max()) + 1)]

    def _due(self) -> bool:
        return time.monotonic() - self.saved >= SAVE_SECONDS

    def _keep(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file, and those that wait, when it is time; otherwise let it wait too."""
        with self.lock:
            self.waiting[self.folder / name] = write
            if not self._due():
                return
            for file, content in self.waiting.items():
                with store.atomic(file) as temporary:
                    content(temporary)
            self.waiting.clear()
            self.saved = time.monotonic()

    def finish(self) -> None:
        """Remove the partial results: the comparison is complete."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
