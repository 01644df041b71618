"""Text to pretrain on: the suite's training texts, and the docstrings of installed packages, read at run time."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from hrsa.study import store
from hrsa.texts.decontamination import grams, reserved

log = logging.getLogger(__name__)

PRETRAINING_CHARACTERS = 10_000_000
HELD_OUT = 0.02  # of the pretraining documents

# Scientific packages that the environment has anyway. NetworkX is an evaluation task and must stay out.
PACKAGES = ("numpy", "scipy", "sympy", "pandas", "sklearn", "matplotlib", "statsmodels")
TRIPLE_QUOTED = re.compile(r'("""|\'\'\')(.*?)\1', re.S)
_SHORTEST, _LONGEST = 200, 4000  # characters of a document: shorter ones are labels, longer ones mostly listings


def digest(text: str) -> int:
    """A 64-bit number made from the text, which gives an order and a split that are the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def package_documents() -> list[str]:
    """Docstrings of the packages, in the order of their files; ValueError names a package that is not installed."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"expected the package {name} in this environment, got none: install requirements.lock")
        folder = Path(spec.submodule_search_locations[0])
        for file in sorted(folder.rglob("*.py")):
            if not re.search(r"/tests?/", file.as_posix()[len(folder.as_posix()):]):
                found += [text for text in docstrings(file) if _SHORTEST <= len(text) <= _LONGEST]
    return found


def docstrings(file: Path) -> Iterator[str]:
    """Yield the triple-quoted strings of a Python file that stand alone on their line, which docstrings do.

    Parsing the syntax would be exact and takes ten times as long for the 3,000 files read here.
    """
    source = file.read_text(encoding="utf8", errors="replace")
    for match in TRIPLE_QUOTED.finditer(source):
        before = source[source.rfind("\n", 0, match.start()) + 1 : match.start()]
        if before.strip() in ("", "r", "R"):
            yield re.sub(r"\n{3,}", "\n\n", inspect.cleandoc(match.group(2))).strip()


def read_pretraining_text() -> tuple[list[str], list[str]]:
    """Read documents of real text to pretrain on, and held-out ones: at most 10 million characters in all.

    The suite's training texts and the documentation inside installed packages, each once, in an order that hashes
    decide (the same everywhere), without any document that shares 13 successive words with an evaluation or probe
    text.
    """
    found: list[str] = []
    for path in sorted((store.SUITE / "train").glob("*.parquet")):
        table = store.read_table(path, ["query", "positive"])
        found += [f"{q}\n{p}" for q, p in zip(table["query"], table["positive"], strict=True)]
    found += package_documents()
    order = sorted({digest(text): text for text in found}.items())
    kept, characters, forbidden = ([], []), 0, reserved()
    for key, text in order:
        if characters + len(text) <= PRETRAINING_CHARACTERS and grams(text).isdisjoint(forbidden):
            characters += len(text)
            kept[key % 2**32 < HELD_OUT * 2**32].append(text)  # not the bits that decide the order
    log.info("pretraining text: %d documents, %d held out, %d characters", len(kept[0]), len(kept[1]), characters)
    return kept
