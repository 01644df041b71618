"""Where training pairs come from: the suite, parquet and jsonl files, and Hugging Face data sets.

Each row is either `instruction`, `query`, `positive` and perhaps `negatives` (a list), or the published form
`{"query": [instruction, text], "pos": [...], "neg": [...]}`, of which every positive makes a pair.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hrsa.study import hub, store
from hrsa.study.errors import first_line
from hrsa.study.profile import Profile
from hrsa.texts.lines import read_json_rows

if TYPE_CHECKING:
    from datasets import Dataset

_FORMATS = (".parquet", ".jsonl")
HUB = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<config>[\w.-]+))?"
                 r"(?::(?P<split>[\w.-]+))?")
SPLIT = "train"
FORMS = '{"query": [instruction, text], "pos": [...], "neg": [...]} or {"instruction", "query", "positive"}'


@dataclass(frozen=True)
class Source:
    """One entry of `suite.train`: the name of its task, and where its rows are."""

    task: str
    place: Path | str  # a file, a folder, or org/name of the hub
    revision: str | None = None  # commit of a hub data set
    config: str | None = None  # of a hub data set that has several
    split: str = SPLIT  # of a data set that has several
    instruction: str | None = None  # of a task of the suite, whose files carry none

    def hash(self) -> str:
        """Hash of the content: of the file, or of a data set's Arrow files."""
        if isinstance(self.place, Path) and self.place.is_file():
            return store.file_hash(self.place)
        return store.key(files=[store.file_hash(Path(f["filename"])) for f in self._dataset().cache_files])

    def read(self) -> pd.DataFrame:
        """All rows [task, instruction, query, positive, negatives (list)], unchecked but for their form.

        Raises ValueError for a row of another form, an unreadable data set or a split that is not there.
        """
        if isinstance(self.place, Path) and self.place.suffix == ".jsonl":
            table = pd.DataFrame(_json_rows(self.place))
        elif isinstance(self.place, Path) and self.place.is_file():
            table = _unfolded(store.read_table(self.place), self.place)
        else:
            table = _unfolded(self._dataset().to_pandas(), self.place)
        if self.instruction is not None:
            table["instruction"] = self.instruction
        given = table["negatives"] if "negatives" in table else [None] * len(table)
        return table.assign(task=self.task, negatives=[[] if _missing(row) else row for row in given])

    def columns(self, names: list[str], within: tuple[str, Collection[str]] | None = None) -> pd.DataFrame:
        """These columns of a data set; of the rows whose value in the column `within[0]` is one of `within[1]`.

        ValueError where one of them is not there.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        found = self._dataset()
        if missing := [name for name in names if name not in found.column_names]:
            where = " of ".join(filter(None, [self.config, str(self.place)]))
            raise ValueError(f"expected columns {names} in {where}, got {found.column_names}: name those that hold the "
                             f"texts in place of {missing}")
        table = found.select_columns(names).data.table
        if within:
            column, values = within
            table = table.filter(pc.is_in(table[column].cast(pa.string()), pa.array(list(values), pa.string())))
        return table.to_pandas()

    def _dataset(self) -> Dataset:
        """The rows of a folder written by `save_to_disk`, or of a hub data set (downloaded once, then cached)."""
        import datasets

        try:
            if isinstance(self.place, Path):
                found = datasets.load_from_disk(str(self.place))
            else:
                found = datasets.load_dataset(self.place, self.config, split=self.split, revision=self.revision)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"expected a data set in suite.train, got {self.place} ({first_line(error)}): for a hub "
                             "name connect to the hub, or save the data set with datasets' save_to_disk elsewhere and "
                             "give its folder; for a folder, save it anew") from error
        if isinstance(found, datasets.DatasetDict):
            if self.split not in found:
                raise ValueError(f"expected the split {self.split!r} in {self.place}, got {sorted(found)}: name one as "
                                 f"{self.place}:split in suite.train")
            found = found[self.split]
        return found


def named_sources(profile: Profile) -> list[Source]:
    """The sources of training pairs that `suite.train` names, in its order.

    Names are tasks of the suite, paths of parquet or jsonl files, folders written by `datasets`' `save_to_disk`
    (`path[:split]`), and hub data sets (`hub:org/name[@revision][/config][:split]`), at the commit that the study saw
    first.

    Raises ValueError for a name that is none of these, for two entries whose tasks would have the same name, and as
    `hub.make_commit`.
    """
    known = store.read_json(store.SUITE / "train" / "tasks.json")
    found = [_source(name, known, profile) for name in (known if profile.suite.train == "all" else profile.suite.train)]
    tasks = [source.task for source in found]
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ValueError(f"expected a task name of its own for each entry of suite.train, got {twice} more than once "
                         "(a file's or folder's name without its ending): rename the file or folder")
    return found


def _source(name: str, known: dict[str, Any], profile: Profile) -> Source:
    if name in known:
        return Source(name, store.SUITE / "train" / f"{name}.parquet", instruction=known[name]["instruction"])
    if matched := HUB.fullmatch(name):
        parts = matched.groupdict()
        commit = hub.make_commit(profile, parts["repository"], parts["revision"], "dataset")
        return Source("-".join(filter(None, [parts["repository"].split("/")[1], parts["config"]])),
                      parts["repository"], commit, parts["config"], parts["split"] or SPLIT)
    path, _, split = name.partition(":")
    place = store.ROOT / path
    if ".." in Path(path).parts:
        raise ValueError(f"expected in suite.train a path that stays in its folder, got {name!r}, which climbs out of "
                         "it by '..': give the whole path from the root, or put the file into the repository")
    if (place.suffix in _FORMATS and place.is_file() and not split) or place.is_dir():
        return Source(place.stem if place.is_file() else place.name, place, split=split or SPLIT)
    raise ValueError(f"expected in suite.train a task, one of {sorted(known)}, the path of a .parquet or .jsonl file, "
                     f"of a folder written by save_to_disk, or hub:org/name[@revision][/config][:split], got {name!r}: "
                     f"correct the profile or put the file at {place}")


def _unfolded(table: pd.DataFrame, place: Path | str) -> pd.DataFrame:
    """The table itself, or one row per positive when its rows have the published form."""
    if "pos" not in table:
        return table
    return pd.DataFrame(_published(table.to_dict("records"), str(place)))


def _published(rows: Iterable[dict], place: str) -> Iterator[dict]:
    for number, row in enumerate(rows):
        try:
            yield from _pairs(row)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{place}, row {number}: expected {FORMS}, got {str(row)[:80]!r} ({error}): correct the "
                             "row") from error


def _json_rows(path: Path) -> Iterator[dict]:
    """Pairs of a jsonl file in either form; ValueError names the line that is neither."""
    for number, row in read_json_rows(path, FORMS):
        try:
            pairs = _pairs(row) if "pos" in row else [row]
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: expected {FORMS}, got {str(row)[:80]!r} ({error}): correct the "
                             "line") from error
        yield from pairs


def _pairs(row: dict) -> list[dict]:
    """The pairs of a row of the published form."""
    asked, negatives = row["query"], row.get("neg")
    if not _is_list(asked) or len(asked) != 2:
        raise TypeError("query is a list of two texts, the instruction and what is asked")
    if not _is_list(row["pos"]) or not (_missing(negatives) or _is_list(negatives)):
        raise TypeError("pos and neg are lists of texts")
    if not _missing(row.get("positive")):
        raise TypeError("a row has pos or positive, not both")
    instruction, query = asked
    return [{"instruction": instruction, "query": query, "positive": positive,
             "negatives": [] if _missing(negatives) else list(negatives)} for positive in row["pos"]]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)
