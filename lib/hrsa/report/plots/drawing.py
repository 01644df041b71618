"""A figure that shows itself in Jupyter, interactive and static, and is published as files."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from PIL import Image

from hrsa.report.plots import interactive, static, style
from hrsa.report.plots.chart import Chart
from hrsa.study import store

PLOTLY = "application/vnd.plotly.v1+json"
_SLUG = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")


@dataclass(frozen=True, repr=False)
class Drawing:
    """A chart, the tidy table it was drawn from, its description, and where it was published ("" before)."""

    chart: Chart
    table: pd.DataFrame
    alt: str
    files: str = ""

    @cached_property
    def _static(self) -> dict[str, bytes]:
        return static.pictures(self.chart, self.alt)

    @property
    def png(self) -> bytes:
        """The static picture, 7 inches wide at 200 pixels per inch."""
        return self._static["png"]

    @property
    def svg(self) -> bytes:
        """The static picture as SVG, text as outlines."""
        return self._static["svg"]

    @cached_property
    def plotly(self) -> dict[str, Any]:
        """The interactive picture as plotly's JSON; `plotly.graph_objects.Figure(drawing.plotly)` edits it."""
        return interactive.plotly_json(self.chart, self.alt, self.files)

    def publish(self, profile_name: str, chapter: str, name: str, alt: str) -> Drawing:
        """Write `figures/<profile>/<chapter>/<name>.svg`, `.png` and `.csv` (the tidy table); return the drawing.

        `alt` says in a sentence what is drawn, for those who cannot see it. A chapter that runs once per pair names
        the pair, as in "07_cka/base-vs-rlvr". ValueError: no text in `alt`, or a name unfit for a file.
        """
        stem = f"{profile_name}/{chapter}/{name}"
        if not _SLUG.match(stem):
            raise ValueError(f"expected letters, digits, '.', '_' and '-' in profile, chapter and name, got {stem!r}")
        if not alt.strip():
            raise ValueError(f"expected a sentence that describes figure {stem}, got {alt!r}")
        drawing = replace(self, alt=alt.strip(), files=stem)
        table = self.table.to_csv(index=False, lineterminator="\n", float_format="%.8g").encode()
        for suffix, content in ((".svg", drawing.svg), (".png", drawing.png), (".csv", table)):
            with store.atomic(store.FIGURES / f"{stem}{suffix}") as temporary:
                temporary.write_bytes(content)
        return drawing

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Plotly JSON for front ends that know it, PNG for others, the description for none of both.

        JupyterLab shows the PNG at its own size and puts the interactive figure in its place under the pointer.
        """
        shown = io.BytesIO()
        with Image.open(io.BytesIO(self.png)) as picture:
            picture.reduce(style.SHARP).save(shown, "png", optimize=True)
        png = base64.b64encode(shown.getvalue()).decode()
        return {PLOTLY: self.plotly, "image/png": png, "text/plain": self.alt}
