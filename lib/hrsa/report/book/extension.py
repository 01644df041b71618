"""What Sphinx and myst-nb need to show the study's figures, maths and search from file://, without a network."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import MimeRenderPlugin

from hrsa.report.book.glossary import link_terms
from hrsa.report.foreign import as_html
from hrsa.report.plots.drawing import PLOTLY

FIGURE = "hrsa-figure"  # class of a figure's container: counted when the report is checked
VENDOR = {  # file under _static -> (package that carries it, file inside the package)
    "vendor/plotly.min.js": ("plotly", "package_data/plotly.min.js"),
    "vendor/tex-svg-full.js": ("mathjax", "static/mathjax/es5/tex-svg-full.js"),
}
_FORMATS = {"svg": "SVG", "csv": "data (CSV)"}  # a figure's own menu gives it as PNG
THEBE = ("init_thebe_core", "update_thebe_context")  # name a script on a CDN, although nothing here is launched


class PlotlyRenderer(MimeRenderPlugin):
    """Renders plotly's JSON as a container that _static/hrsa.js draws in, with links to the published files."""

    mime_priority_overrides = (("html", PLOTLY, 0),)

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        """HTML of one figure; the same figure gives the same bytes."""
        if data.mime_type != PLOTLY:
            return None
        return [nodes.raw(text=figure_html(data.content), format="html", classes=["output", FIGURE])]


def figure_html(figure: dict[str, Any]) -> str:
    """A figure's container, its JSON, and links to what was published of it (`layout.meta.files`)."""
    text = json.dumps(figure, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    name = "figure-" + hashlib.sha256(text.encode()).hexdigest()[:12]
    layout = figure.get("layout", {})
    meta = layout.get("meta") or {}
    alt, stem = as_html(meta.get("alt", "Figure")), meta.get("files", "")
    links = " · ".join(f'<a href="_static/figures/{stem}.{end}">{label}</a>' for end, label in _FORMATS.items())
    static = f'<noscript><img src="_static/figures/{stem}.svg" alt="{alt}"></noscript>' if stem else ""
    if stem and "sliders" in layout:  # paper shows the moments of a film side by side
        static += f'<img class="hrsa-strip" src="_static/figures/{stem}.svg" alt="">'
    below = f'<figcaption class="hrsa-files">{links}</figcaption>' if stem else ""
    return (f'<figure class="{FIGURE}" aria-label="{alt}"><div class="hrsa-plotly" '
            f'style="min-height:{int(layout.get("height", 400))}px" data-figure="{name}"></div>'
            f'<script type="application/json" class="{name}">{text}</script>{static}{below}</figure>')


def vendor_file(package: str, name: str) -> Path:
    """A file inside an installed package; ValueError says which package to install."""
    spec = find_spec(package)
    found = Path(spec.origin).parent / name if spec and spec.origin else None
    if found is None or not found.is_file():
        raise ValueError(f"expected {name} in package {package}, got none: run `make setup`, which installs it")
    return found


def _copy_vendor(app: Any) -> None:
    for name, (package, inside) in VENDOR.items():
        target = Path(app.outdir) / "_static" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(vendor_file(package, inside), target)


def _drop_thebe(app: Any, config: Any) -> None:
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            handler = listener.handler
            if handler.__module__ == "sphinx_thebe" and handler.__name__ in THEBE:
                app.disconnect(listener.id)


def _plotly_where_needed(app: Any, page: str, template: str, context: dict, doctree: Any) -> None:
    if doctree is not None and any(FIGURE in node["classes"] for node in doctree.findall(nodes.raw)):
        app.add_js_file("vendor/plotly.min.js")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx extension: local plotly.js and MathJax, nothing from a CDN; terms link to the glossary."""
    app.connect("config-inited", _drop_thebe)
    app.connect("builder-inited", _copy_vendor)
    app.connect("doctree-resolved", link_terms)
    app.connect("html-page-context", _plotly_where_needed)
    app.set_html_assets_policy("always")  # MathJax on every page: figures carry maths where the text has none
    return {"parallel_read_safe": True, "parallel_write_safe": True}
