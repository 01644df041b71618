"""Number tables: right-aligned, with a caption, scrolling sideways when wide."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from hrsa.report.foreign import as_html

MISSING = "–"
PROSE = 32  # characters: longer cells wrap
INTERVAL = re.compile(r"\[[^\[\]]*\]")  # stays on one line
NO_MATHS = "tex2jax_ignore mathjax_ignore"  # classes of what MathJax leaves as it is: cells may be texts of others


@dataclass(frozen=True, repr=False)
class Table:
    """A table ready to show: column heads, rows of text, which columns are numbers, and a caption."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    caption: str

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        lines = [self._plain(row, widths) for row in (self.heads, *self.rows)]
        return "\n".join([self.caption, *lines])

    def _plain(self, row: tuple[str, ...], widths: list[int]) -> str:
        cells = zip(row, widths, self.numeric, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip()

    def html(self) -> str:
        """The table as HTML; class `hrsa-table` is styled by the book."""
        side = ["right" if right else "left" for right in self.numeric]
        heads = "".join(f'<th scope="col" style="text-align:{s}">{as_html(h)}</th>'
                        for h, s in zip(self.heads, side, strict=True))
        rows = "\n".join("<tr>" + "".join(_td(cell, s) for cell, s in zip(row, side, strict=True)) + "</tr>"
                         for row in self.rows)
        return (f'<div class="hrsa-table {NO_MATHS}" style="overflow-x:auto"><table>\n'
                f'<caption>{as_html(self.caption)}</caption>\n'
                f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": repr(self)}


def _td(cell: str, side: str) -> str:
    kind = ' class="hrsa-text"' if len(cell) > PROSE else ' class="hrsa-parts"' if " " in cell else ""
    whole = INTERVAL.sub(lambda interval: interval[0].replace(" ", "\u00a0"), cell)
    return f'<td{kind} style="text-align:{side}">{as_html(whole)}</td>'


def table(dataframe: pd.DataFrame, caption: str, decimals: int | Mapping[str, int] = 3) -> Table:
    """Show a table of numbers under a caption.

    `decimals` of floats: one number, or a number by column (3 for those not named). Whole numbers get thousands
    separators, missing values a dash, underscores in heads become spaces. A named index becomes columns.
    ValueError: no rows, no caption.
    """
    if dataframe.empty:
        raise ValueError(f"expected rows to show, got an empty table with columns {list(dataframe.columns)}")
    if not caption.strip():
        raise ValueError("expected a caption that says what the table holds, got an empty one")
    named = any(name is not None for name in dataframe.index.names)
    frame = dataframe.reset_index() if named else dataframe
    by_column = decimals if isinstance(decimals, Mapping) else dict.fromkeys(frame.columns, decimals)
    columns = [[_cell(value, by_column.get(name, 3)) for value in frame[name]] for name in frame.columns]
    numeric = tuple(is_numeric_dtype(frame[name]) and not is_bool_dtype(frame[name]) for name in frame.columns)
    heads = tuple(_head(name) for name in frame.columns)
    return Table(heads, tuple(zip(*columns, strict=True)), numeric, caption.strip())


def _head(name: Any) -> str:
    parts = name if isinstance(name, tuple) else (name,)
    return " · ".join(str(part) for part in parts if part != "").replace("_", " ")


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, list | tuple | dict):
        return str(value)
    if pd.isna(value):
        return MISSING
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{value:,}"
    if isinstance(value, Real):
        return ("\u221e" if value > 0 else "-\u221e") if math.isinf(value) else f"{value:,.{decimals}f}"
    return str(value)
