"""Figures over a continuous axis: curves, scatter, histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hrsa.report.plots import chart as c
from hrsa.report.plots import style
from hrsa.report.plots.drawing import Drawing

BINS = (10, 50)  # fewest and most bins of a histogram
_NEAR, _SHARE = 0.9, 0.25  # similarities are shown as distance from 1 where so large a share lies above so much
_LEAST = 1e-7  # distances from 1 of less are none: about what float32 can tell


def curves(table: pd.DataFrame, x: str, y: str, hue: str | None = None, facet: str | None = None,
           low: str | None = None, high: str | None = None, dash: str | None = None,
           references: Sequence[str] = (), quantity: str | None = None, xlabel: str | None = None,
           ylabel: str | None = None) -> Drawing:
    """Lines of `y` over `x`, one per `hue` (colour, marker) and `dash` (line style), panels by `facet`.

    `low` and `high` are columns that bound a shaded interval. `references` are columns, such as "null" and "runs",
    drawn beside each series in its colour as thin broken lines. Series named as references (`style.REFERENCES`) are
    grey and broken by themselves. `x` is numeric, or a category such as a layer label. `quantity` (key of
    `style.SCALES`) fixes the y range; where it is a similarity and a quarter of the values or more lies above .9, the
    whole figure shows the distance from 1 on a logarithmic axis, turned so that more alike is up still and 1 is its
    upper end. ValueError: missing columns, nothing to draw, or several rows for one point.
    """
    c.check(table, [x, y, hue, facet, low, high, dash, *references], [y, *references])
    c.once(table, [x, hue, facet, dash], "point")
    scale, given = style.scale(quantity), table
    distance = scale.until_one and _near_one(table[y])
    if distance:
        table, bounds = _from_one(table, [y, *references], [name for name in (low, high) if name is not None])
    names = () if c.is_continuous(table[x]) else tuple(c.levels(table[x]))
    looks = style.looks([name for name, _ in c.by_level(table, hue)])
    dashes = {name: i for i, (name, _) in enumerate(c.by_level(table, dash))} if dash else {}
    panels = []
    for title, rows in c.by_level(table, facet):
        marks = []
        for name, series in c.by_level(rows, hue):
            for style_name, line in c.by_level(series, dash):
                look = style.dashed(looks[name], dashes.get(style_name))
                marks.append(_line(line, x, y, low, high, names, look, _both(name, style_name)))
            marks += [_reference(series, x, column, names, looks[name], i, name)
                      for i, column in enumerate(references, start=1)]
        panels.append(c.Panel(title, tuple(marks)))
    legend = [(name, looks[name], "line") for name in looks if hue and hue != dash]
    legend += [(name, style.dashed(_key_look(looks, hue, dash, name), i), "line") for name, i in dashes.items()]
    legend += [(_reference_name(name), style.reference_look(style.GREY, i), "line")
               for i, name in enumerate(references, start=1)]
    up = c.Axis(ylabel or scale.label or y, style.padded(scale.range))
    if distance:
        up = c.Axis(f"1 - {up.label} (log)".replace(") (", ", "), bounds, log=True)
    columns = c.across(len(panels))
    picture = c.Chart(
        tuple(panels), c.Axis(xlabel or x, names=tuple(map(c.label, names)), whole=_whole(table[x])),
        up, height=(3.3, 2.9, 2.6)[columns - 1], columns=columns, legend=tuple(legend),
        zero="y" if scale.low is not None and scale.low < 0 and not distance else "")
    return Drawing(picture, given, f"Curves of {picture.y.label} over {picture.x.label}")


def _near_one(values: pd.Series) -> bool:
    finite = values[np.isfinite(values.to_numpy(float, na_value=np.nan))]
    return bool((finite > _NEAR).mean() >= _SHARE)


def _from_one(table: pd.DataFrame, lines: list[str], bands: list[str]) -> tuple[pd.DataFrame, tuple[float, float]]:
    """The table with similarities as distance from 1, and the bounds of a logarithmic axis for them, largest first.

    What is 1, or nearer to it than any line comes, lies on the upper end of the axis.
    """
    found = {name: 1 - c.column_values(table, name) for name in dict.fromkeys([*lines, *bands])}
    known = np.concatenate([found[name][found[name] > _LEAST] for name in lines])
    least = float(known.min()) / 2 if known.size else _LEAST
    found = {name: np.maximum(values, least) for name, values in found.items()}
    most = max(float(np.nanmax(values)) for values in found.values() if np.isfinite(values).any())
    return table.assign(**found), (1.3 * max(most, 2 * least), least / 1.3)


def _reference_name(column: str) -> str:
    return style.REFERENCE_NAMES.get(column, column)


def _both(name: str, style_name: str) -> str:
    return " · ".join(part for part in dict.fromkeys((name, style_name)) if part)


def _key_look(looks: dict, hue: str | None, dash: str | None, name: str) -> style.Look:
    return looks[name] if hue == dash else style.Look(style.GREY, 0, None)


def _whole(column: pd.Series) -> int:
    """Span of a column of whole numbers, 0 for others."""
    return int(np.ptp(column)) if c.is_continuous(column) and (column % 1 == 0).all() else 0


def _at(rows: pd.DataFrame, x: str, names: tuple) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows in order of `x`, and their x positions."""
    where = c.places(rows[x], list(names)) if names else c.column_values(rows, x)
    order = np.argsort(where, kind="stable")
    return rows.iloc[order], where[order]


def _line(rows: pd.DataFrame, x: str, y: str, low: str | None, high: str | None, names: tuple,
          look: style.Look, name: str) -> c.Mark:
    rows, where = _at(rows, x, names)
    return c.Mark("line", where, c.column_values(rows, y), look, name, c.column_values(rows, low),
                  c.column_values(rows, high))


def _reference(rows: pd.DataFrame, x: str, column: str, names: tuple, look: style.Look, i: int,
               name: str) -> c.Mark:
    rows, where = _at(rows.drop_duplicates(x), x, names)
    look = style.reference_look(look.colour, i)
    return c.Mark("line", where, c.column_values(rows, column), look, _both(name, _reference_name(column)),
                  group=_reference_name(column))


def scatter(table: pd.DataFrame, x: str, y: str, hue: str | None = None, facet: str | None = None,
            diagonal: bool = True, xlabel: str | None = None, ylabel: str | None = None) -> Drawing:
    """Points, one per row, by `hue`; panels by `facet`.

    `diagonal` draws x = y and gives both axes one range: above the line, the quantity on the y axis is larger.
    """
    c.check(table, [x, y, hue, facet], [x, y])
    looks = style.looks([name for name, _ in c.by_level(table, hue)])
    panels = [c.Panel(title, tuple(c.Mark("point", c.column_values(part, x), c.column_values(part, y), looks[name],
                                          name)
                                   for name, part in c.by_level(rows, hue)))
              for title, rows in c.by_level(table, facet)]
    bounds = None
    if diagonal:
        both = table[[x, y]].to_numpy(float)
        bounds = style.padded((float(np.nanmin(both)), float(np.nanmax(both))))
    columns = c.across(len(panels))
    picture = c.Chart(
        tuple(panels), c.Axis(xlabel or x, bounds), c.Axis(ylabel or y, bounds),
        height=(4.4, 3.4, 2.6)[columns - 1], columns=columns, square=diagonal,
        legend=tuple((name, look, "point") for name, look in looks.items() if hue),
        zero="diagonal" if diagonal else "")
    return Drawing(picture, table, f"Scatter of {picture.y.label} against {picture.x.label}")


def histogram(table: pd.DataFrame, value: str, hue: str | None = None, facet: str | None = None,
              xlabel: str | None = None, ylabel: str = "share of rows", quantity: str | None = None) -> Drawing:
    """Distribution of `value`: outlines over common bins, one per `hue`, panels by `facet`.

    Heights are shares of a series' finite rows and add up to one; `quantity` fixes the x range.
    """
    c.check(table, [value, hue, facet], [value])
    scale = style.scale(quantity)
    finite = table[np.isfinite(c.column_values(table, value))]
    edges = _edges(c.column_values(finite, value), scale.range)
    looks = style.looks([name for name, _ in c.by_level(finite, hue)])
    panels = []
    for title, rows in c.by_level(finite, facet):
        marks = []
        for name, part in c.by_level(rows, hue):
            counts, _ = np.histogram(c.column_values(part, value), edges)
            marks.append(c.Mark("step", edges, counts / len(part), looks[name], name))
        panels.append(c.Panel(title, tuple(marks)))
    columns = c.across(len(panels))
    picture = c.Chart(
        tuple(panels), c.Axis(xlabel or scale.label or value, style.padded(scale.range)), c.Axis(ylabel),
        height=(3.2, 2.8, 2.5)[columns - 1], columns=columns,
        legend=tuple((name, look, "step") for name, look in looks.items() if hue),
        zero="x" if edges[0] < 0 < edges[-1] else "")
    return Drawing(picture, table, f"Distribution of {picture.x.label}")


def _edges(values: np.ndarray, bounds: tuple[float, float] | None) -> np.ndarray:
    """Bin edges: Freedman and Diaconis' count within BINS, over `bounds` widened to hold every value."""
    low, high = bounds or (values.min(), values.max())
    low, high = min(low, values.min()), max(high, values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    count = len(np.histogram_bin_edges(values, "fd", (values.min(), max(values.max(), values.min() + 1e-9)))) - 1
    count = int(np.clip(count * (high - low) / max(np.ptp(values), 1e-9), *BINS))
    return np.linspace(low, high, count + 1)
