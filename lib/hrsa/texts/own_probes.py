"""Probe texts of one's own: a file of texts in place of the suite's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from hrsa.study import store
from hrsa.texts.suite import PROBE_COLUMNS, TEXT_SEED

_NAMES = {"label": "topic"}  # what a file may call a column -> what it is called here


def read_texts(path: Path | str) -> pd.DataFrame:
    """Probe texts from a file of one's own, in a seeded order, so that the first texts of a set are a sample of it.

    path: a .txt (one text a line, empty lines do not count), .jsonl or .parquet file; the columns are `PROBE_COLUMNS`.
    Tables need a column text and may have id, set (default "texts"), difficulty, label or topic (a class) and target
    (a number); what is not there is missing. A relative path counts from the repository. ValueError: no such file, an
    unknown ending, a row that is not JSON, no column text, an empty text, the same id twice.
    """
    path = store.ROOT / path
    if not path.is_file():
        raise ValueError(f"expected a file of texts, got {path}, which is not there: correct its path")
    table = _table(path).rename(columns=_NAMES)
    if "text" not in table or table.empty:
        raise ValueError(f"expected rows with a column `text` in {path.name}, got {len(table)} rows with columns "
                         f"{list(table.columns)}: add it")
    bad = [not isinstance(text, str) or not text.strip() for text in table["text"]]
    if any(bad):
        raise ValueError(f"expected a text in every row of {path.name}, got {table['text'].iloc[bad.index(True)]!r} in "
                         f"row {bad.index(True)} ({sum(bad)} such rows): remove them")
    defaults = {"id": [f"t{i}" for i in range(len(table))], "set": "texts", "difficulty": "", "topic": None,
                "target": np.nan}
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    twice = table["id"][table["id"].duplicated()]
    if len(twice):
        raise ValueError(f"expected every id once in {path.name}, got {twice.iloc[0]!r} twice: number the rows anew")
    table["target"] = pd.to_numeric(table["target"])
    table["id"], table["set"] = table["id"].astype(str), table["set"].astype(str)
    table["topic"] = [None if pd.isna(label) else str(label) for label in table["topic"]]
    return table.sample(frac=1, random_state=TEXT_SEED).reset_index(drop=True)[PROBE_COLUMNS]


def _table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return store.read_table(path)
    lines = path.read_text(encoding="utf8").splitlines()
    if path.suffix == ".txt":
        return pd.DataFrame({"text": [line.strip() for line in lines if line.strip()]})
    if path.suffix == ".jsonl":
        try:
            return pd.DataFrame([json.loads(line) for line in lines if line.strip()])
        except json.JSONDecodeError as error:
            raise ValueError(f'expected lines such as {{"text": "..."}} in {path.name}, got {error}: correct the line'
                             ) from error
    raise ValueError(f"expected a .txt, .jsonl or .parquet file of texts, got {path.name}: convert it")
