"""Charts for print: matplotlib, without global state, the same bytes each time."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import numpy as np
from matplotlib import style as mpl_style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hrsa.report.foreign import as_drawn
from hrsa.report.plots import style
from hrsa.report.plots.chart import Axis, Chart, Mark

TICKS = 12  # most category labels along an axis
ROWS = 20  # most labels of the rows of a heat map: they stand below each other
MARKED = 12  # about how many markers a line carries
_PLACES, _LONG = re.compile(rb' (?:d|x|y)="[^"]*"'), re.compile(rb"(\.\d\d)\d+")
CHARACTER = 0.06  # inches of one character of a tick label


def pictures(chart: Chart, alt: str) -> dict[str, bytes]:
    """The chart as "png" and "svg", with `alt` as its description; drawn and laid out once for both."""
    found = {}
    with mpl_style.context(["default", style.RC]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is drawn as a box, and the table has it
        figure = _figure(chart)
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine("none")  # as it lies now
        figure.set_dpi(style.SHARP * style.PIXELS)
        # `savefig` would draw a figure that has a layout engine once more for each form
        for form, write, silent in (("png", FigureCanvasAgg(figure).print_png, "Software"),
                                    ("svg", FigureCanvasSVG(figure).print_svg, "Date")):
            buffer = io.BytesIO()
            write(buffer, metadata={"Description": alt, silent: None})
            found[form] = buffer.getvalue()
    return found | {"svg": _lean(found["svg"])}


def _lean(svg: bytes) -> bytes:
    """The same picture without indentation, its places in hundredths of a point: a fifth smaller."""
    return _PLACES.sub(lambda match: _LONG.sub(rb"\1", match[0]), re.sub(rb">\s+<", b"><", svg))


def _figure(chart: Chart) -> Figure:
    rows, columns = chart.shape
    height = rows * chart.height + (0.3 * legend_rows(chart) if chart.legend else 0)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=not chart.square, sharey=True).ravel()
    image = None
    for i, (ax, panel) in enumerate(zip(axes, chart.panels, strict=False)):
        ax.set_title(as_drawn(panel.title))
        _frame(ax, chart)
        for mark in panel.marks:
            image = _DRAW[mark.kind](ax, mark, chart) or image
        ax.set_xlabel(chart.x.label if i + columns >= len(chart.panels) else "")
        ax.set_ylabel(chart.y.label if i % columns == 0 else "")
        ax.tick_params(labelbottom=i + columns >= len(chart.panels))
    for ax in axes[len(chart.panels):]:
        ax.set_visible(False)
    if chart.legend:
        figure.legend(handles=[_key(*entry) for entry in chart.legend], loc="outside upper center",
                      ncols=-(-len(chart.legend) // legend_rows(chart)), handlelength=2.6)
    if any(mark.kind == "grid" for panel in chart.panels for mark in panel.marks):
        bar = figure.colorbar(image, cax=axes[min(columns, len(chart.panels)) - 1].inset_axes([1.05, 0, 0.05, 1]))
        bar.set_label(chart.scale.label)
        bar.outline.set_visible(False)
    return figure


def legend_rows(chart: Chart) -> int:
    """Lines that the legend takes at the figure's width."""
    room = sum(len(name) * 0.075 + 0.6 for name, *_ in chart.legend)
    return max(1, int(-(-room // (style.WIDTH - 0.4))))


def _frame(ax: Any, chart: Chart) -> None:
    """Axes, ticks, zero line and margin of one panel."""
    _ticks(ax.xaxis, chart.x, chart)
    _ticks(ax.yaxis, chart.y, chart)
    if chart.x.range:
        ax.set_xlim(chart.x.range)
    if chart.y.log:
        ax.set_yscale("log")
    if chart.y.range:
        ax.set_ylim(chart.y.range)
    if chart.y.names:
        ends = (-0.5, len(chart.y.names) - 0.5)
        ax.set_ylim(ends[::-1] if chart.y.down else ends)
    if chart.zero == "diagonal":
        ax.axline((0, 0), slope=1, color=style.GREY, lw=1, ls="--", zorder=1)
    elif chart.zero:
        (ax.axvline if chart.zero == "x" else ax.axhline)(0, color=style.GREY, lw=1, zorder=1)
    if chart.band is not None:
        ax.axvspan(-chart.band, chart.band, color=style.PALE, zorder=0, lw=0)
        for edge in (-chart.band, chart.band):
            ax.axvline(edge, color=style.GREY, lw=0.8, ls=":", zorder=1)
    if chart.square:
        ax.set_aspect("equal")


def _ticks(axis: Any, wanted: Axis, chart: Chart) -> None:
    if wanted.names:
        shown, angle = ticks(wanted, chart)
        middle = 0.5 if chart.panel else 0  # cells of a heat map lie between whole numbers
        axis.set_ticks([i + middle for i in shown], list(map(as_drawn, shown.values())))
        if angle:
            axis.set_tick_params(labelrotation=angle, labelrotation_mode="xtick")
    elif wanted.whole:
        axis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def ticks(axis: Axis, chart: Chart) -> tuple[dict[int, str], int]:
    """Labels by position, thinned where there is no room for all, and the angle at which they are written."""
    across = axis is chart.x
    most = TICKS if across else ROWS if chart.square else len(axis.names) or 1
    step = max(1, -(-len(axis.names) // most))
    shown = {i: axis.names[i] for i in range(0, len(axis.names), step)}
    if across:
        shown = {i: name.replace("+", "\n+") for i, name in shown.items()}
    widest = max(len(line) for name in shown.values() for line in name.split("\n"))
    room = (chart.panel or (style.WIDTH - 0.9) / chart.shape[1]) / len(shown)
    return shown, 35 if across and widest * CHARACTER > room else 0


def _interval(mark: Mark) -> np.ndarray:
    """(2, n) distances down and up from the value, for error bars."""
    value = mark.x if mark.kind == "interval" else mark.y
    return np.clip(np.stack([value - mark.low, mark.high - value]), 0, None)


def _line(ax: Any, mark: Mark, chart: Chart) -> None:
    look = mark.look
    if mark.low is not None:
        ax.fill_between(mark.x, mark.low, mark.high, color=look.colour, alpha=0.16, lw=0)
    marker = None if look.marker is None else style.MARKERS[look.marker][0]
    ax.plot(mark.x, mark.y, color=look.colour, ls=style.DASHES[look.dash][0], marker=marker, lw=look.width,
            markevery=max(1, len(mark.x) // MARKED))


def _point(ax: Any, mark: Mark, chart: Chart) -> None:
    look = mark.look
    ax.plot(mark.x, mark.y, ls="", marker=style.MARKERS[look.marker or 0][0], color=look.colour, ms=4,
            alpha=point_opacity(len(mark.x)), mew=0)


def point_opacity(count: int) -> float:
    """Opacity at which overlapping points still show their density."""
    return float(np.clip(80 / max(count, 1), 0.35, 0.9))


def _bar(ax: Any, mark: Mark, chart: Chart) -> None:
    ax.bar(mark.x, mark.y, mark.width, color=mark.look.colour, hatch=style.HATCHES[mark.look.hatch][0], lw=0)
    if mark.low is not None:
        ax.errorbar(mark.x, mark.y, _interval(mark), ls="", color="#222222", lw=1.1, capsize=2.5)


def _forest(ax: Any, mark: Mark, chart: Chart) -> None:
    look = mark.look
    ax.errorbar(mark.x, mark.y, xerr=_interval(mark), ls="", color=look.colour, lw=1.6, capsize=2.5,
                marker=style.MARKERS[look.marker or 0][0], ms=5)


def _step(ax: Any, mark: Mark, chart: Chart) -> None:
    look = mark.look
    dash = style.DASHES[look.hatch % len(style.DASHES)][0]
    ax.stairs(mark.y, mark.x, fill=True, color=look.colour, alpha=0.14)
    ax.stairs(mark.y, mark.x, color=look.colour, lw=1.6, ls=dash)


def _grid(ax: Any, mark: Mark, chart: Chart) -> Any:
    mesh = ax.pcolormesh(np.ma.masked_invalid(mark.z), vmin=chart.scale.low, vmax=chart.scale.high,
                         cmap=chart.scale.colours, rasterized=mark.z.size > 1024)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set(aspect="equal", xlim=(0, len(chart.x.names)), ylim=(0, len(chart.y.names)))
    _ticks(ax.xaxis, chart.x, chart)
    _ticks(ax.yaxis, chart.y, chart)
    if chart.annotate:
        for (row, column), value in np.ndenumerate(mark.z):
            if np.isfinite(value):
                ax.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", size=7.5,
                        color="white" if _luminance(mesh.to_rgba(value)) < 0.408 else "#262626")
    return mesh


def _luminance(colour: tuple[float, float, float, float]) -> float:
    """Relative luminance of a colour (WCAG 2), from 0, black, to 1, white."""
    parts = np.asarray(colour[:3])
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


_DRAW = {"line": _line, "point": _point, "bar": _bar, "interval": _forest, "step": _step, "grid": _grid}


def _key(name: str, look: style.Look, kind: str) -> Line2D | Patch:
    """Legend entry."""
    if kind == "bar":
        return Patch(facecolor=look.colour, hatch=style.HATCHES[look.hatch][0], label=as_drawn(name), lw=0)
    marker = None if look.marker is None or kind == "step" else style.MARKERS[look.marker][0]
    dash = {"line": look.dash, "step": look.hatch % len(style.DASHES)}.get(kind)
    return Line2D([], [], color=look.colour, label=as_drawn(name), marker=marker, lw=look.width,
                  ls="" if dash is None else style.DASHES[dash][0])
