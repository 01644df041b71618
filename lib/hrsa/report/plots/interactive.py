"""Charts for reading: plotly figures as plain dictionaries (plotly's JSON form), so that nothing varies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hrsa.report.foreign import as_label
from hrsa.report.plots import style
from hrsa.report.plots.chart import Axis, Chart, Film, Mark, across, square_room
from hrsa.report.plots.static import MARKED, legend_rows, point_opacity, ticks

DIGITS = 5  # significant digits kept: finer than a screen can show
FONT = "DejaVu Sans, Verdana, sans-serif"
GAP = {"shared": 0.035, "square": 0.07}  # between panels, share of the width
_ANNOTATED = 2  # most panels of a film side by side whose cells carry their numbers
TITLE, LEGEND, BOTTOM = 28, 24, 52  # pixels of a panel title, a legend line, the x axis with its label


def plotly_json(chart: Chart, alt: str, files: str) -> dict[str, Any]:
    """The chart as plotly's JSON; `layout.meta` carries the description and the published files' stem.

    A film is its first frame and a slider, whose steps bring the cells of the others. Labels of axes and scales are the
    page's own and may hold TeX; names come from data and are shown as text.
    """
    if chart.film:
        return _film_json(chart, chart.film, alt, files)
    traces: list[dict] = []
    layout = _layout(chart, alt, files)
    for i, panel in enumerate(chart.panels):
        axes = {"xaxis": _name("x", i), "yaxis": _name("y", i)}
        for mark in panel.marks:
            traces += [{**trace, **axes} for trace in _DRAW[mark.kind](mark, chart)]
        layout[_name("xaxis", i)], layout[_name("yaxis", i)] = _axes(chart, i)
        layout["annotations"].append(_title(panel.title, chart, i))
        layout["shapes"] += _lines(chart, i)
    traces += [_key(*entry) for entry in chart.legend]
    return {"data": traces, "layout": layout}


def _film_json(chart: Chart, film: Film, alt: str, files: str) -> dict[str, Any]:
    count = len(film.frames[0])
    room = square_room(count)
    one = replace(chart, film=None, panels=film.frames[0], columns=across(count), panel=room,
                  annotate=count <= _ANNOTATED, height=room + 0.65)
    figure = plotly_json(one, alt, files)
    steps = [{"method": "restyle", "label": as_label(name),
              "args": [{"z": [[numbers(row) for row in panel.marks[0].z] for panel in panels]}, list(range(count))]}
             for name, panels in zip(film.names, film.frames, strict=True)]
    layout = figure["layout"]
    layout["sliders"] = [{"active": 0, "steps": steps, "currentvalue": {"prefix": f"{film.label}: "}, "y": -0.12}]
    return figure


def _name(axis: str, i: int) -> str:
    return axis if i == 0 else f"{axis}{i + 1}"


def _layout(chart: Chart, alt: str, files: str) -> dict[str, Any]:
    rows, _ = chart.shape
    top = (TITLE if any(panel.title for panel in chart.panels) else 10) + _legend_height(chart)
    layout: dict[str, Any] = {
        "meta": {"alt": alt, "files": files},
        "height": round(rows * chart.height * style.PIXELS) + _legend_height(chart),
        "width": round(style.WIDTH * style.PIXELS),
        "margin": {"l": 10, "r": 10, "t": top, "b": 10},
        "font": {"family": FONT, "size": 12, "color": "#222222"},
        "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest", "bargap": 0,
        "barmode": "overlay", "showlegend": bool(chart.legend), "annotations": [], "shapes": [],
        "legend": {"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "x": 0.5, "xanchor": "center",
                   "tracegroupgap": 4, "itemwidth": 36},
    }
    if any(mark.kind == "grid" for panel in chart.panels for mark in panel.marks):
        layout["coloraxis"] = {
            "cmin": chart.scale.low, "cmax": chart.scale.high, "colorscale": style.colour_scale(chart.scale.colours),
            "colorbar": {"title": {"text": f"<br>{chart.scale.label}", "side": "right"}, "thickness": 12,
                         "outlinewidth": 0, "x": round((1 + _share(chart)) / 2 + 0.01, 4), "xanchor": "left"}}
    return layout


def _legend_height(chart: Chart) -> int:
    return LEGEND * legend_rows(chart) + 6 if chart.legend else 0


def _share(chart: Chart) -> float:
    """Share of the drawing area's width that panels of square cells fill at the book's width."""
    return min(1.0, chart.panel * chart.shape[1] / (style.WIDTH - 1.4)) if chart.panel else 1.0


def _domains(chart: Chart, i: int) -> tuple[list[float], list[float]]:
    """Share of the drawing area that panel i takes, across and up."""
    rows, columns = chart.shape
    row, column = divmod(i, columns)
    gap, share = GAP["square" if chart.square else "shared"], _share(chart)
    width = (share - gap * (columns - 1)) / columns
    gap_up = (TITLE + (BOTTOM if chart.square else 8)) / (rows * chart.height * style.PIXELS)
    height = (1 - gap_up * (rows - 1)) / rows
    left, bottom = (1 - share) / 2 + column * (width + gap), 1 - row * (height + gap_up) - height
    return [round(left, 5), round(left + width, 5)], [round(max(bottom, 0), 5), round(bottom + height, 5)]


def _axes(chart: Chart, i: int) -> tuple[dict, dict]:
    """Both axes of panel i: labels on the outer panels only, shared ranges."""
    columns = chart.shape[1]
    across, up = _domains(chart, i)
    last = i + columns >= len(chart.panels)
    grid = any(mark.kind == "grid" for mark in chart.panels[i].marks)
    common = {"automargin": True, "ticks": "outside", "ticklen": 4, "linecolor": "#444444", "gridcolor": style.PALE,
              "zeroline": False, "showline": not grid, "showgrid": not grid}
    x = {**common, **_ticks(chart.x, chart), "domain": across, "anchor": _name("y", i),
         "title": {"text": chart.x.label if last else "", "standoff": 8, "font": {"size": 12.5}},
         "showticklabels": last or grid}
    y = {**common, **_ticks(chart.y, chart), "domain": up, "anchor": _name("x", i),
         "title": {"text": chart.y.label if i % columns == 0 else "", "standoff": 8, "font": {"size": 12.5}},
         "showticklabels": i % columns == 0}
    if chart.square:
        x["constrain"] = y["constrain"] = "domain"
        x["constraintoward"] = "right" if grid else "center"  # next to the colour bar
        y["scaleanchor"] = _name("x", i)
    elif i:
        x["matches"], y["matches"] = "x", "y"
    return x, y


def _ticks(axis: Axis, chart: Chart) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if axis.names:
        shown, angle = ticks(axis, chart)
        ends = [-0.5, len(axis.names) - 0.5]
        found = {"tickmode": "array", "tickvals": list(shown), "ticktext": [as_label(text) for text in
                 shown.values()], "range": ends[::-1] if axis.down else ends, "tickangle": -angle}
    elif axis.whole:
        found = {"dtick": 1} if axis.whole < 8 else {"nticks": 8}
    if axis.range:
        found["range"] = np.log10(axis.range).tolist() if axis.log else list(axis.range)
    if axis.log:
        decades = abs(found["range"][1] - found["range"][0])
        step = max(1, round(decades / 6)) if decades > 1.5 else "D2"
        found |= {"type": "log", "exponentformat": "power", "dtick": step}
    return found


def _title(text: str, chart: Chart, i: int) -> dict[str, Any]:
    across, up = _domains(chart, i)
    return {"text": as_label(text), "x": round(sum(across) / 2, 5), "y": up[1], "xref": "paper", "yref": "paper",
            "xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}


def _lines(chart: Chart, i: int) -> list[dict[str, Any]]:
    """Zero line, diagonal and margin of panel i."""
    x, y = _name("x", i), _name("y", i)
    line = {"type": "line", "xref": x, "yref": y, "layer": "below", "line": {"color": style.GREY, "width": 1}}
    found = []
    if chart.band is not None:
        found.append({"type": "rect", "xref": x, "yref": f"{y} domain", "x0": -chart.band, "x1": chart.band, "y0": 0,
                      "y1": 1, "layer": "below", "fillcolor": style.PALE,
                      "line": {"color": style.GREY, "width": 1, "dash": "dot"}})
    if chart.zero == "diagonal":
        low, high = chart.x.range
        found.append({**line, "x0": low, "x1": high, "y0": low, "y1": high,
                      "line": {"color": style.GREY, "width": 1, "dash": "dash"}})
    elif chart.zero == "x":
        found.append({**line, "yref": f"{y} domain", "x0": 0, "x1": 0, "y0": 0, "y1": 1})
    elif chart.zero == "y":
        found.append({**line, "xref": f"{x} domain", "y0": 0, "y1": 0, "x0": 0, "x1": 1})
    return found


def numbers(values: np.ndarray | None) -> list | None:
    """A JSON list with DIGITS significant digits and None for NaN."""
    if values is None:
        return None
    return [None if not np.isfinite(value) else float(f"{value:.{DIGITS}g}") for value in np.asarray(values, float)]


def _trace(mark: Mark, chart: Chart, mode: str) -> dict[str, Any]:
    look, name = mark.look, as_label(mark.name)
    at = {"text": [as_label(chart.x.names[round(v)]) for v in mark.x]} if chart.x.names else {}
    where = "%{text}" if chart.x.names else "%{x}"
    return {"type": "scatter", "mode": mode, "name": name,
            "legendgroup": as_label(mark.group) or name.split(" · ")[0],
            "showlegend": False, "x": numbers(mark.x), "y": numbers(mark.y), **at,
            "line": {"color": look.colour, "width": look.width * 1.2, "dash": style.DASHES[look.dash][1]},
            "marker": {"color": look.colour, "size": 7, "symbol": style.MARKERS[look.marker or 0][1]},
            "hovertemplate": f"{where}: %{{y:.4g}}<extra>{name}</extra>"}


def _line(mark: Mark, chart: Chart) -> list[dict]:
    trace = _trace(mark, chart, "lines" if mark.look.marker is None else "lines+markers")
    trace["marker"]["maxdisplayed"] = MARKED
    if mark.low is None:
        return [trace]
    ends = np.sort(np.stack([mark.low, mark.high], axis=1), axis=1)  # (n, 2); an axis may run downwards
    trace["customdata"] = [numbers(pair) for pair in ends]
    trace["hovertemplate"] = trace["hovertemplate"].replace(
        "%{y:.4g}", "%{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]")
    keep = np.isfinite(mark.low) & np.isfinite(mark.high)
    x, low, high = mark.x[keep], mark.low[keep], mark.high[keep]
    band = {"type": "scatter", "mode": "lines", "x": numbers(np.concatenate([x, x[::-1]])),
            "y": numbers(np.concatenate([high, low[::-1]])), "fill": "toself", "line": {"width": 0},
            "fillcolor": style.faded(mark.look.colour, 0.16), "hoverinfo": "skip", "showlegend": False,
            "legendgroup": trace["legendgroup"], "name": trace["name"]}
    return [band, trace]


def _point(mark: Mark, chart: Chart) -> list[dict]:
    trace = _trace(mark, chart, "markers")
    trace["marker"] |= {"size": 6, "opacity": point_opacity(len(mark.x))}
    trace["hovertemplate"] = trace["hovertemplate"].replace("%{x}:", "%{x:.4g},")
    return [trace]


def _bar(mark: Mark, chart: Chart) -> list[dict]:
    trace = _trace(mark, chart, "")
    for unused in ("mode", "line"):
        del trace[unused]
    trace |= {"type": "bar", "width": mark.width, "textposition": "none", "error_y": _error(mark, "#222222"),
              "marker": {"color": mark.look.colour, "pattern": _pattern(mark.look)}}
    return [{key: value for key, value in trace.items() if value is not None}]


def _pattern(look: style.Look) -> dict[str, Any]:
    return {"shape": style.HATCHES[look.hatch][1], "fgcolor": "white", "size": 6, "fillmode": "overlay"}


def _error(mark: Mark, colour: str) -> dict[str, Any] | None:
    if mark.low is None:
        return None
    value = mark.x if mark.kind == "interval" else mark.y
    return {"type": "data", "symmetric": False, "array": numbers(mark.high - value),
            "arrayminus": numbers(value - mark.low), "color": colour, "thickness": 1.5, "width": 4}


def _forest(mark: Mark, chart: Chart) -> list[dict]:
    names = [as_label(chart.y.names[round(v)]) for v in mark.y]
    text = [f"{name}: {value:.4g} [{low:.4g}, {high:.4g}]"
            for name, value, low, high in zip(names, mark.x, mark.low, mark.high, strict=True)]
    trace = _trace(mark, chart, "markers")
    trace |= {"text": text, "hovertemplate": "%{text}<extra>" + as_label(mark.name) + "</extra>",
              "error_x": _error(mark, mark.look.colour)}
    return [trace]


def _step(mark: Mark, chart: Chart) -> list[dict]:
    look = mark.look
    trace = _trace(mark, chart, "lines")
    trace |= {"x": numbers(np.repeat(mark.x, 2)), "y": numbers(np.concatenate([[0], np.repeat(mark.y, 2), [0]])),
              "fill": "tozeroy", "fillcolor": style.faded(look.colour, 0.14),
              "line": {"color": look.colour, "width": 2, "dash": style.DASHES[look.hatch % len(style.DASHES)][1]}}
    return [trace]


def _grid(mark: Mark, chart: Chart) -> list[dict]:
    labels = None
    if mark.z.size <= 4096:
        labels = [[as_label(f"{up} / {across}") for across in chart.x.names] for up in chart.y.names]
    trace = {"type": "heatmap", "z": [numbers(row) for row in mark.z], "coloraxis": "coloraxis", "hoverongaps": False,
             "hovertext": labels, "hovertemplate": ("%{hovertext}: " if labels else "%{y} / %{x}: ")
             + "%{z:.4g}<extra></extra>", "xgap": 1 if chart.annotate else 0, "ygap": 1 if chart.annotate else 0}
    if chart.annotate:
        trace |= {"texttemplate": "%{z:.2f}", "textfont": {"size": 11}}
    return [{key: value for key, value in trace.items() if value is not None}]


_DRAW = {"line": _line, "point": _point, "bar": _bar, "interval": _forest, "step": _step, "grid": _grid}


def _key(name: str, look: style.Look, kind: str) -> dict[str, Any]:
    """A trace without data that stands in the legend for a series of all panels; a click hides the series."""
    name = as_label(name)
    if kind == "bar":
        return {"type": "bar", "name": name, "legendgroup": name, "showlegend": True, "x": [None], "y": [None],
                "marker": {"color": look.colour, "pattern": _pattern(look)}}
    dash = look.hatch % len(style.DASHES) if kind == "step" else look.dash
    mode = {"line": "lines" if look.marker is None else "lines+markers", "step": "lines"}.get(kind, "markers")
    return {"type": "scatter", "mode": mode, "name": name, "legendgroup": name, "showlegend": True, "x": [None],
            "y": [None], "line": {"color": look.colour, "width": look.width * 1.2, "dash": style.DASHES[dash][1]},
            "marker": {"color": look.colour, "size": 7, "symbol": style.MARKERS[look.marker or 0][1]}}
