"""Figures over categories: heat map, bars, forest."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hrsa.report.plots import chart as c
from hrsa.report.plots import style
from hrsa.report.plots.drawing import Drawing

_STRIP, _FACETS = 5, 3  # most moments of a film in print; most maps of one moment
CELLS = 256  # most rows or columns of a heat map: beyond, cells are smaller than a pixel


def heatmap(table: pd.DataFrame, x: str, y: str, value: str, facet: str | None = None,
            quantity: str | None = None, xlabel: str | None = None, ylabel: str | None = None) -> Drawing:
    """Square cells coloured by `value`, first `x` left and first `y` at the bottom, panels by `facet`.

    `quantity` (key of `style.SCALES`) fixes the colours and their range, so that figures of one quantity can be
    compared across the book. Few cells carry their number. Cells without a row, or with NaN, stay empty.
    ValueError: missing columns, nothing to draw, two rows for one cell, more than 256 cells along an axis.
    """
    c.check(table, [x, y, value, facet], [value])
    c.once(table, [x, y, facet], "cell")
    columns, rows = c.levels(table[x]), c.levels(table[y])
    if max(len(columns), len(rows)) > CELLS:
        raise ValueError(f"expected at most {CELLS} cells along an axis, got {len(rows)} x {len(columns)}: "
                         "aggregate or sample before drawing")
    panels = tuple(c.Panel(title, (_grid(part, x, y, value, columns, rows),))
                   for title, part in c.by_level(table, facet))
    scale = _whole_scale(style.scale(quantity), table[value])
    across = c.across(len(panels))
    room = c.square_room(across)
    picture = c.Chart(
        panels, c.Axis(xlabel or x, names=tuple(map(c.label, columns))),
        c.Axis(ylabel or y, names=tuple(map(c.label, rows))),
        height=float(np.clip(room * len(rows) / len(columns), 1.0, 5.0 if len(rows) <= 12 else 6.5)) + 0.65,
        columns=across, scale=scale, square=True, panel=room,
        annotate=len(columns) <= (10, 7, 5)[across - 1] and len(rows) <= 20)
    return Drawing(picture, table, f"Heat map of {scale.label or value} by {picture.y.label} and {picture.x.label}")


def film(table: pd.DataFrame, x: str, y: str, value: str, over: str, facet: str, quantity: str | None = None,
         xlabel: str | None = None, ylabel: str | None = None, label: str | None = None) -> Drawing:
    """Heat maps as `heatmap` draws them, side by side by `facet`, one after another by `over`.

    Interactive, a reader moves along `over`; in print a row for each facet shows at most 5 of its values, the first
    and the last among them. `label` says what `over` is. ValueError: as `heatmap`; more than 3 facets; fewer than two
    values of `over`, or a facet that lacks one.
    """
    c.check(table, [x, y, value, over, facet], [value])
    c.once(table, [x, y, over, facet], "cell")
    columns, rows, facets, moments = (c.levels(table[name]) for name in (x, y, facet, over))
    shown = table.groupby(facet, sort=False, observed=True)[over].unique()
    if len(facets) > _FACETS or len(moments) < 2 or shown.map(len).min() < len(moments):
        raise ValueError(f"expected at most {_FACETS} values of {facet}, each with all of two or more values of "
                         f"{over}, got {shown.to_dict()}")

    def panel(which: object, when: object, title: str) -> c.Panel:
        part = table[(table[facet] == which) & (table[over] == when)]
        return c.Panel(title, (_grid(part, x, y, value, columns, rows),))

    strip = [moments[round(i)] for i in np.linspace(0, len(moments) - 1, min(_STRIP, len(moments)))]
    label, scale = label or over, _whole_scale(style.scale(quantity), table[value])
    picture = c.Chart(
        tuple(panel(which, when, f"{c.label(which)}\n{label} {c.label(when)}") for which in facets for when in strip),
        c.Axis(xlabel or x, names=tuple(map(c.label, columns))), c.Axis(ylabel or y, names=tuple(map(c.label, rows))),
        height=c.square_room(len(strip)) * max(1, len(rows) / len(columns)) + 0.9, columns=len(strip), scale=scale,
        square=True, panel=c.square_room(len(strip)), film=c.Film(label, tuple(map(c.label, moments)), tuple(
            tuple(panel(which, when, c.label(which)) for which in facets) for when in moments)))
    axes = f"{picture.y.label} and {picture.x.label}"
    return Drawing(picture, table, f"Heat maps of {scale.label} by {axes}, over {label}")


def _grid(part: pd.DataFrame, x: str, y: str, value: str, columns: list, rows: list) -> c.Mark:
    z = np.full((len(rows), len(columns)), np.nan)
    at_row = c.places(part[y], rows).astype(int)
    z[at_row, c.places(part[x], columns).astype(int)] = c.column_values(part, value)
    return c.Mark("grid", np.arange(len(columns)), np.arange(len(rows)), z=z)


def _whole_scale(scale: style.Scale, values: pd.Series) -> style.Scale:
    """The scale with its range; a free one takes the range of the values and their column's name."""
    if scale.range is not None:
        return scale
    return style.Scale(scale.label or str(values.name), float(values.min()), float(values.max()), scale.colours)


def bars(table: pd.DataFrame, x: str, y: str, hue: str | None = None, facet: str | None = None,
         low: str | None = None, high: str | None = None, quantity: str | None = None,
         xlabel: str | None = None, ylabel: str | None = None) -> Drawing:
    """Bars from zero to `y` at each category `x`, side by side by `hue` (colour, hatching), panels by `facet`.

    `low` and `high` are columns that bound an interval. `quantity` fixes the y range.
    """
    c.check(table, [x, y, hue, facet, low, high], [y])
    c.once(table, [x, hue, facet], "bar")
    scale = style.scale(quantity)
    names = c.levels(table[x])
    series = [name for name, _ in c.by_level(table, hue)]
    looks, width = style.looks(series), 0.8 / len(series)
    panels = []
    for title, rows in c.by_level(table, facet):
        marks = []
        for name, part in c.by_level(rows, hue):
            where = c.places(part[x], names) + (series.index(name) - (len(series) - 1) / 2) * width
            marks.append(c.Mark("bar", where, c.column_values(part, y), looks[name], name, c.column_values(part, low),
                                c.column_values(part, high), width=0.92 * width))
        panels.append(c.Panel(title, tuple(marks)))
    across = c.across(len(panels))
    picture = c.Chart(
        tuple(panels), c.Axis(xlabel or x, names=tuple(map(c.label, names))),
        c.Axis(ylabel or scale.label or y, scale.range), height=(3.2, 2.8, 2.6)[across - 1], columns=across,
        legend=tuple((name, look, "bar") for name, look in looks.items() if hue), zero="y")
    return Drawing(picture, table, f"Bars of {picture.y.label} by {picture.x.label}")


def forest(table: pd.DataFrame, label: str, value: str, low: str, high: str, margin: float | None = None,
           hue: str | None = None, facet: str | None = None, xlabel: str | None = None) -> Drawing:
    """Intervals (`low` to `high`, a marker at `value`), one row per `label`, first on top, with a line at zero.

    `margin` shades zero plus or minus the margin.
    """
    c.check(table, [label, value, low, high, hue, facet], [value, low, high])
    c.once(table, [label, hue, facet], "interval")
    if margin is not None and not margin > 0:
        raise ValueError(f"expected a margin above zero or None, got {margin}")
    names = c.levels(table[label])
    series = [name for name, _ in c.by_level(table, hue)]
    looks, step = style.looks(series), 0.7 / len(series)
    panels = []
    for title, rows in c.by_level(table, facet):
        marks = []
        for name, part in c.by_level(rows, hue):
            where = c.places(part[label], names) + (series.index(name) - (len(series) - 1) / 2) * step
            marks.append(c.Mark("interval", c.column_values(part, value), where, looks[name], name,
                                c.column_values(part, low), c.column_values(part, high)))
        panels.append(c.Panel(title, tuple(marks)))
    picture = c.Chart(
        tuple(panels), c.Axis(xlabel or value), c.Axis("", names=tuple(map(c.label, names)), down=True),
        height=0.75 + len(names) * (0.16 + 0.13 * len(series)), columns=c.across(len(panels)),
        legend=tuple((name, look, "interval") for name, look in looks.items() if hue), zero="x", band=margin)
    return Drawing(picture, table, f"Intervals of {picture.x.label} by {label}")
