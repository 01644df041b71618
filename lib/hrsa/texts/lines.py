"""Lines and JSON rows of a text file: what one record is, the same for every reader.

A line ends at a line feed, a carriage return, or both. The other signs that Unicode calls line ends (U+2028, U+2029,
U+0085, vertical tab, form feed) stand inside texts of the web, and belong to the text they stand in.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, with their numbers from 1; a byte order mark belongs to no line.

    Raises ValueError with file and line for bytes that are not UTF-8, and for the character NUL.
    """
    number = 0
    with open(path, "rb") as file:
        for raw in file:
            if number == 0 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise ValueError(f"{path}, line 1: expected UTF-8, got the mark of UTF-16: save the file as UTF-8")
            if number == 0:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            for part in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
                number += 1
                try:
                    line = part.decode("utf8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}, line {number}: expected UTF-8, got {part[error.start:error.end]!r} "
                                     f"after {part[:error.start][-40:]!r}: save the file as UTF-8") from error
                if why := text_fault(line):
                    raise ValueError(f"{path}, line {number}: expected text in UTF-8, got {why}: save the file as "
                                     "UTF-8 and remove the character")
                if line.strip():
                    yield number, line


def read_json_rows(path: Path, form: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file, with their line numbers; `form` says in errors what a row looks like.

    Raises ValueError with file and line for what is not one JSON object a line, a key that is given twice, and text
    that no UTF-8 file can hold (half of a surrogate pair, NUL).
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line, object_pairs_hook=_once)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            _check_strings(row)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: expected {form}, got {line[:80]!r} ({str(error)[:200]}): correct "
                             "the line") from error
        yield number, row


def text_fault(text: str) -> str | None:
    """What makes a text unfit for a UTF-8 file, in words; None where nothing does."""
    if "\0" in text:
        return "the character NUL (of a binary or a UTF-16 file)"
    try:
        text.encode("utf8")
    except UnicodeEncodeError as error:
        return f"half of a surrogate pair, {text[error.start]!a}"
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return row


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        if why := text_fault(value):
            raise ValueError(why)
    elif isinstance(value, (list, dict)):
        for part in value if isinstance(value, list) else (*value, *value.values()):
            _check_strings(part)
