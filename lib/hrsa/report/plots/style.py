"""One look for every figure: colour scales by quantity, hues that survive colour blindness and grey, sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from hrsa.analysis.variance import NEITHER
from hrsa.similarity.metrics import METRICS

WIDTH = 7.0  # inches; shown 700 px wide, the text column of the book
PIXELS = 100  # shown pixels per inch, so that 9 pt text is 12.5 px tall
SHARP = 2  # pixels of a published PNG per shown pixel: sharp in print and on fine screens

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/, without its yellow (too pale on white)
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("v", "triangle-down"),
           ("P", "cross"), ("X", "x"))  # (matplotlib, plotly)
DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"), ((0, (1, 4)), "1px,5px"),
          ((0, (7, 2)), "7px,2px"))
HATCHES = (("", ""), ("//", "/"), ("..", "."), ("xx", "x"), ("\\\\", "\\"), ("++", "+"), ("--", "-"))
GREY = "#6b6b6b"
PALE = "#e4e4e4"

# Names that have the same hue in every figure (index into HUES, which also picks marker and hatch)
_KNOWN = {"backbones": 0, "embedders": 1, "base": 0, "sft": 1, "rlvr": 2, "own": 0, "cross": 1}
# Series that are no measurement but something to read measurements against: grey, never solid, no markers
REFERENCES = {"null": 1, "two runs of one recipe": 2, "other arm, other order": 3, "ceiling": 4}
# Columns that are drawn as references, and what they are called in a legend
REFERENCE_NAMES = {"runs": "two runs of one recipe", "crossed": NEITHER}


@dataclass(frozen=True)
class Scale:
    """How one quantity is drawn wherever it occurs: its name, range and colour map (matplotlib's name)."""

    label: str
    low: float | None
    high: float | None
    colours: str = "viridis"
    until_one: bool = False  # a similarity that is 1 for identical models: near 1, its distance from 1 is what varies

    @property
    def range(self) -> tuple[float, float] | None:
        """(low, high), or None when the data set it."""
        return None if self.low is None or self.high is None else (self.low, self.high)


SCALES = {
    **{key: Scale(metric.label, *(metric.axis or (None, None)), metric.colours,
                  until_one=metric.sign > 0 and metric.identical == metric.high == 1)
       for key, metric in METRICS.items()},
    "score": Scale("score", 0, 1, "viridis"),
    "accuracy": Scale("accuracy", 0, 1, "viridis"),
    "similarity": Scale("similarity", 0, 1, "viridis", until_one=True),
}
FREE = Scale("", None, None, "viridis")

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8.5, "legend.frameon": False, "axes.titlelocation": "center",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#444444",
    "axes.grid": True, "grid.color": PALE, "grid.linewidth": 0.7, "axes.axisbelow": True,
    "lines.linewidth": 1.7, "lines.markersize": 4.5, "hatch.linewidth": 0.6, "hatch.color": "white",
    "svg.hashsalt": "hrsa", "svg.fonttype": "path", "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Look:
    """How one series looks: colour, and indices into DASHES, MARKERS (None: no marker) and HATCHES."""

    colour: str
    dash: int = 0
    marker: int | None = 0
    hatch: int = 0
    width: float = 1.7


def scale(quantity: str | None) -> Scale:
    """The scale of a quantity; None leaves range and label to the data. ValueError names the known ones."""
    if quantity is None:
        return FREE
    if quantity not in SCALES:
        raise ValueError(f"expected a quantity, one of {sorted(SCALES)} or None, got {quantity!r}")
    return SCALES[quantity]


def looks(names: list[str]) -> dict[str, Look]:
    """A look for each series name: fixed for known names (a seed's suffix does not count), else the next free one."""
    found: dict[str, Look] = {}
    wanted = {_KNOWN[_stem(name)] for name in names if _stem(name) in _KNOWN}
    reserved = set(_KNOWN.values()) if wanted else set()
    free = sorted(range(len(HUES)), key=lambda i: (i in wanted, i in reserved, i))
    n = 0
    for name in names:
        if name in REFERENCES:
            found[name] = Look(GREY, REFERENCES[name], None, 0, 1.4)
            continue
        i = _KNOWN.get(_stem(name))
        if i is None or i in {look.hatch for look in found.values()}:
            i, n = free[n % len(free)], n + 1
        found[name] = Look(HUES[i], 0, i, i)
    return found


def _stem(name: str) -> str:
    return re.sub(r"-s\d+$", "", name)


def dashed(look: Look, dash: int | None) -> Look:
    """The look with another line style (None: its own)."""
    return look if dash is None else replace(look, dash=dash)


def reference_look(colour: str, dash: int) -> Look:
    """A thin broken line without markers, for nulls and yardsticks beside a series of that colour."""
    return Look(colour, dash, None, 0, 1.1)


def padded(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """A range with 3% of room at both ends, so that points on the bound are whole; None stays None."""
    if bounds is None:
        return None
    room = 0.03 * (bounds[1] - bounds[0]) or 0.5
    return bounds[0] - room, bounds[1] + room


def colour_scale(name: str) -> list[list]:
    """A matplotlib colour map in plotly's form: [share of the range, colour]."""
    return [[step / 16, to_hex(colormaps[name](step / 16))] for step in range(17)]


def faded(colour: str, opacity: float) -> str:
    """A colour with opacity, in CSS's form."""
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return f"rgba({red},{green},{blue},{opacity})"
