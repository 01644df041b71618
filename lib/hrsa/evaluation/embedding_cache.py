"""Embeddings on disk, by content: what a model has embedded once is not embedded again.

A folder holds one safetensors file for each set of texts that was new at a time: `keys` (n, 32), the SHA-256 of prompt
and text, and `vectors` (n, d) float32; a text takes 4 d + 32 bytes. A file gets its name when it is whole and carries
a hash of each part; one that was cut short or changed is removed when it is met, and its texts are embedded anew.
mteb's `CachedEmbeddingWrapper` is not used: it writes index and vectors in place, so that an interruption leaves them
apart, and finds a text by itself and not by the instruction before it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hrsa.study import store

log = logging.getLogger(__name__)
KEY = 32  # bytes of a key
_PARTS = ("keys", "vectors")  # of a file; their hashes stand in this order in one field, since safetensors has no order


def text_key(prompt: str, text: str) -> bytes:
    """The key of a text after a prompt: its SHA-256."""
    return hashlib.sha256(f"{prompt}\0{text}".encode()).digest()


def cache_size(folder: Path) -> tuple[int, int]:
    """How many texts a folder of embeddings holds, and its bytes on disk; (0, 0) for one that is not there."""
    files = sorted(folder.glob("*.safetensors"))
    return len(Embeddings(folder).where), sum(file.stat().st_size for file in files)


class Embeddings:
    """The embeddings of one model in `folder`, which need not be there yet. One process at a time may add."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.where: dict[bytes, tuple[Path, int]] = {}  # key -> file and row
        for file in sorted(folder.glob("*.safetensors")):
            keys = self._part(file, "keys")  # (n, 32)
            if keys is not None:
                self.where |= {row.tobytes(): (file, i) for i, row in enumerate(keys)}

    def take(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The vectors (d,) of those of `keys` that the cache holds, by key."""
        rows: dict[Path, list[bytes]] = {}
        for key in keys:
            if key in self.where:
                rows.setdefault(self.where[key][0], []).append(key)
        found = {}
        for file, wanted in rows.items():
            vectors = self._part(file, "vectors")  # (n, d)
            if vectors is None:
                self.where = {key: place for key, place in self.where.items() if place[0] != file}
            else:
                found |= {key: vectors[self.where[key][1]] for key in wanted}
        return found

    def add(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep vectors (n, d) float32 under `keys`, all different and not here yet."""
        parts = {"keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY), "vectors": vectors}
        hashes = {name: _hash(part) for name, part in parts.items()}
        file = self.folder / f"{hashes['keys'][:16]}.safetensors"
        with store.atomic(file) as temporary:
            save_file(parts, temporary, metadata={"sha256": " ".join(hashes[name] for name in _PARTS)})
        self.where |= {key: (file, i) for i, key in enumerate(keys)}

    def _part(self, file: Path, name: str) -> np.ndarray | None:
        """One part of a file; None when it is gone, and, the file removed, when it is not what was written."""
        try:
            with safe_open(file, framework="numpy") as content:
                part, said = content.get_tensor(name), (content.metadata() or {}).get("sha256", "")
            if _hash(part) == dict(zip(_PARTS, said.split(), strict=False)).get(name):
                return part
            reason = f"its {name} do not hash to what it says"
        except FileNotFoundError:  # the folder may be deleted at any time
            return None
        except SafetensorError as error:
            reason = str(error)
        log.warning("%s is not whole (%s): removed, its texts are embedded anew", file.name, reason)
        file.unlink(missing_ok=True)
        return None


def _hash(part: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(part)).hexdigest()
