"""A chart as data: panels of marks, two axes, a colour scale. Both renderers draw the same description."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from hrsa.report.plots.style import FREE, Look, Scale

ONE = ""  # name of the only panel or series when there is no facet or hue


@dataclass(frozen=True)
class Axis:
    """One axis: its label with unit, fixed range or None, and the names of categories at 0, 1, 2..."""

    label: str
    range: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    whole: int = 0  # span of an axis of whole numbers, where ticks are whole too; 0: any numbers
    down: bool = False  # first category on top
    log: bool = False  # logarithmic, between the bounds of `range`; the larger one may come first


@dataclass(frozen=True)
class Mark:
    """One series in one panel. NaN in `y` leaves a gap; `low` and `high` bound an interval around the value."""

    kind: Literal["line", "bar", "point", "interval", "step", "grid"]
    x: np.ndarray
    y: np.ndarray
    look: Look | None = None
    name: str = ONE
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    width: float = 0.8  # of a bar, in units of x
    z: np.ndarray | None = None  # (len(y), len(x)) of a grid
    group: str = ""  # entry of the legend that switches it; none: that of the first part of its name


@dataclass(frozen=True)
class Panel:
    """Marks that share one pair of axes."""

    title: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Film:
    """What an interactive chart shows one after another, in the places of its first panels."""

    label: str  # of what changes from frame to frame
    names: tuple[str, ...]  # of the frames
    frames: tuple[tuple[Panel, ...], ...]  # of grids


@dataclass(frozen=True)
class Chart:
    """All that a renderer needs."""

    panels: tuple[Panel, ...]
    x: Axis
    y: Axis
    height: float  # inches of one row of panels, without legend
    columns: int = 2
    legend: tuple[tuple[str, Look, str], ...] = ()  # (name, look, kind)
    scale: Scale = FREE  # colours of grids
    square: bool = False
    panel: float | None = None  # inches of a panel's width, where its cells are to be square
    annotate: bool = False  # numbers in the cells of grids
    zero: Literal["", "x", "y", "diagonal"] = ""  # reference line at zero, or x = y
    film: Film | None = None  # instead of the panels, where a reader can move
    band: float | None = field(default=None)  # half-width of the shaded margin around zero, on the x axis

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of panels."""
        columns = min(self.columns, len(self.panels))
        return -(-len(self.panels) // columns), columns


def across(panels: int) -> int:
    """Panels side by side: at most three, and four as two by two."""
    return 2 if panels == 4 else min(3, panels)


def square_room(across: int) -> float:
    """Inches of a panel's width, where so many panels of square cells stand side by side."""
    return (4.2, 2.75, 1.85)[across - 1] if across <= 3 else 5.4 / across


def check(table: pd.DataFrame, columns: Iterable[str | None], numbers: Iterable[str | None]) -> pd.DataFrame:
    """The table, when it can be drawn: not empty, all columns there, numbers numeric and not all missing."""
    wanted = [name for name in columns if name is not None]
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise ValueError(f"expected columns {wanted}, got {list(table.columns)}: {missing} missing")
    if table.empty:
        raise ValueError(f"expected rows to draw, got an empty table with columns {list(table.columns)}")
    for name in (name for name in numbers if name is not None):
        if not is_numeric_dtype(table[name]):
            raise ValueError(f"expected numbers in column {name!r}, got {table[name].dtype}")
        if not np.isfinite(table[name].to_numpy(float, na_value=np.nan)).any():
            raise ValueError(f"expected at least one finite number in column {name!r}, got {len(table)} missing ones")
    return table.reset_index(drop=True)


def once(table: pd.DataFrame, columns: Iterable[str | None], what: str) -> None:
    """ValueError when two rows would be drawn at the same place."""
    keys = [name for name in dict.fromkeys(columns) if name is not None]
    twice = table[table.duplicated(keys)]
    if len(twice):
        raise ValueError(f"expected one row per {what} ({', '.join(keys)}), got several for "
                         f"{twice.iloc[0][keys].to_dict()}: aggregate or give facet, hue or dash")


def _natural(name: str) -> tuple:
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def levels(column: pd.Series) -> list:
    """Distinct values in reading order.

    Categories in their own order, numbers ascending, names that all start with a digit (layers) by that number,
    other names by first appearance. Missing values raise ValueError.
    """
    if column.isna().any():
        raise ValueError(f"expected a value in every row of column {column.name!r}, got {column.isna().sum()} missing")
    if isinstance(column.dtype, pd.CategoricalDtype):
        present = set(column.unique())
        return [value for value in column.cat.categories if value in present]
    values = list(column.unique())
    if is_numeric_dtype(column):
        return sorted(values)
    if all(str(value)[:1].isdigit() for value in values):
        return sorted(values, key=lambda value: _natural(str(value)))
    return values


def label(value: object) -> str:
    """Text of a level: whole floats without the point."""
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def by_level(table: pd.DataFrame, column: str | None) -> list[tuple[str, pd.DataFrame]]:
    """(name, rows) for each level of a column, or one unnamed group without a column; numbers say of what ("k = 5")."""
    if column is None:
        return [(ONE, table)]
    before = f"{column} = " if is_continuous(table[column]) else ""
    return [(before + label(value), table[table[column] == value]) for value in levels(table[column])]


def is_continuous(column: pd.Series) -> bool:
    """Whether a column is drawn on a numeric axis (numbers that are no categories or truth values)."""
    return is_numeric_dtype(column) and not is_bool_dtype(column)


def places(column: pd.Series, names: list) -> np.ndarray:
    """Index of each value in `names`."""
    index = {value: i for i, value in enumerate(names)}
    return np.array([index[value] for value in column], dtype=float)


def column_values(table: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """A column as float64, or None."""
    return None if column is None else table[column].to_numpy(dtype=float, na_value=np.nan)
