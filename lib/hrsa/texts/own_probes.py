"""Probe texts of one's own: a file of texts in place of the suite's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hrsa.study import store
from hrsa.texts.lines import read_json_rows, read_lines, text_fault
from hrsa.texts.suite import PROBE_COLUMNS, TEXT_SEED

_NAMES = {"label": "topic"}  # what a file may call a column -> what it is called here


def read_texts(path: Path | str) -> pd.DataFrame:
    """Probe texts from a file of one's own, in a seeded order, so that the first texts of a set are a sample of it.

    path: a .txt (one text a line, empty lines do not count), .jsonl or .parquet file; the columns are `PROBE_COLUMNS`.
    Tables need a column text and may have id, set (default "texts"), difficulty, label or topic (a class) and target
    (a number); what is not there is missing. A relative path counts from the repository. ValueError: no such file, an
    unknown ending, bytes that are not UTF-8, a row that is not a JSON object, no column text, an empty text, the same
    id twice (1 and "1" are the same), both label and topic, one class alone, a label or difficulty that is a list or an
    object, a target that is no number.
    """
    path = store.ROOT / path
    if not path.is_file():
        raise ValueError(f"expected a file of texts, got {path}, which is not there: correct its path")
    table = _table(path)
    if both := [pair for pair in _NAMES.items() if set(pair) <= set(table)]:
        raise ValueError(f"expected one of the columns {both[0]} in {path.name}, got both: they mean the same, so "
                         "remove one")
    table = table.rename(columns=_NAMES)
    if "text" not in table or table.empty:
        raise ValueError(f"expected rows with a column `text` in {path.name}, got {len(table)} rows with columns "
                         f"{list(table.columns)}: add it")
    bad = [not isinstance(text, str) or not text.strip() or bool(text_fault(text)) for text in table["text"]]
    if any(bad):
        raise ValueError(f"expected a text in every row of {path.name}, got {table['text'].iloc[bad.index(True)]!r} in "
                         f"row {bad.index(True)} ({sum(bad)} such rows): remove them")
    defaults = {"id": [f"t{i}" for i in range(len(table))], "set": "texts", "difficulty": "", "topic": None,
                "target": np.nan}
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    for name in ("id", "set"):
        table[name] = _names(table[name], path)
    twice = table["id"][table["id"].duplicated()]
    if len(twice):
        raise ValueError(f"expected every id once in {path.name}, got {twice.iloc[0]!r} twice: number the rows anew")
    for name, missing in (("topic", None), ("difficulty", "")):
        table[name] = _labels(table[name], missing, path)
    labelled = table["topic"].dropna()
    if len(labelled) > 1 and len(set(labelled)) == 1:
        raise ValueError(f"expected two labels or more in {path.name}, got {labelled.iloc[0]!r} only: "
                         "nothing can be told apart by it, so label other texts too or leave the column out")
    table["target"] = _numbers(table["target"], path)
    return table.sample(frac=1, random_state=TEXT_SEED).reset_index(drop=True)[PROBE_COLUMNS]


def _table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return store.read_table(path)
    if path.suffix == ".txt":
        return pd.DataFrame({"text": [line.strip() for _, line in read_lines(path)]})
    if path.suffix == ".jsonl":
        return pd.DataFrame([row for _, row in read_json_rows(path, 'lines such as {"text": "..."}')])
    raise ValueError(f"expected a .txt, .jsonl or .parquet file of texts, got {path.name}: convert it")


def _names(column: pd.Series, path: Path) -> list[str]:
    """A column of ids or sets as text; ValueError for a row without one."""
    for row, value in enumerate(column):
        if not pd.api.types.is_scalar(value) or pd.isna(value) or not str(value).strip():
            raise ValueError(f"expected a text or a number in column {column.name!r} of {path.name}, got {value!r} in "
                             f"row {row}: name every row, or leave the column out")
    return [str(value) for value in column]


def _labels(column: pd.Series, missing: str | None, path: Path) -> list[str | None]:
    """A column of labels as text, `missing` where there is none; ValueError for a list or an object."""
    for row, value in enumerate(column):
        if not pd.api.types.is_scalar(value):
            called = "label or topic" if column.name == "topic" else column.name
            raise ValueError(f"expected a text, a number or nothing in column {called} of {path.name}, got {value!r} "
                             f"in row {row}: give one label a row, or leave the column out")
    return [missing if pd.isna(value) else str(value) for value in column]


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """A column of targets as numbers, NaN where there is none; ValueError for what is no finite number."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    bad = (column.notna() & ~np.isfinite(numbers)).to_numpy()
    if bad.any():
        raise ValueError(f"expected finite numbers in column 'target' of {path.name}, got "
                         f"{column.iloc[int(bad.argmax())]!r} in row {int(bad.argmax())}: correct it; classes belong "
                         "in column 'label'")
    return numbers
