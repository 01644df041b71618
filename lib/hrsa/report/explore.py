"""Menus over finished runs: a map, the matched layers, and the words behind one cell; for `notebooks/explore.ipynb`.

What finished runs hold is read and nothing is trained; a cell's neighbours are looked for when it is chosen. Needs
ipywidgets, of the extra `book`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ipywidgets as widgets

from hrsa.analysis.explore import finished
from hrsa.analysis.explore.finished import ABOVE_NULL, FIRST_STAGE, LAST_STAGE, VALUE
from hrsa.analysis.intervals import yardsticks
from hrsa.analysis.recordings import Recording
from hrsa.report.foreign import as_html
from hrsa.report.plots.categorical import heatmap
from hrsa.report.plots.continuous import curves
from hrsa.report.plots.drawing import Drawing
from hrsa.report.prose.similarity import changed_tables
from hrsa.similarity.metrics import METRICS
from hrsa.study.profile import load_profile

NOTHING = ("No finished run is here. Run `make smoke` (minutes) or `make book PROFILE=name`, then open this notebook "
           "again: it reads what a run has left.")
UNSEEDED = -1  # the only seed of a pair without embedders


def runs_said() -> str:
    """Markdown: the finished runs and their pairs, or what to run where there is none."""
    runs = finished.finished_pairs()
    return "\n".join(f"- `{profile}`: {', '.join(pairs)}" for profile, pairs in runs.items()) or NOTHING


@dataclass
class _View:
    """What menus choose, below them; drawn anew when one of them says something else."""

    draw: Callable[[], str]
    menus: Sequence[widgets.Dropdown]
    shown: widgets.HTML = field(default_factory=widgets.HTML)
    drawn: tuple = ()

    def update(self) -> None:
        """Show what is chosen, or that there is nothing to choose."""
        chosen = tuple(menu.value for menu in self.menus)
        if chosen != self.drawn:
            empty = [menu.description for menu in self.menus if menu.value is None]
            lost = f"<p>Nothing is left of this run to choose: {', '.join(empty)}.</p>"
            self.shown.value = lost if empty else self.draw()
            self.drawn = chosen

    def widget(self) -> widgets.VBox:
        """The view, to display."""
        line = widgets.HBox(list(self.menus), layout=widgets.Layout(flex_flow="row wrap"))
        return widgets.VBox([line, self.shown])


class Explorer:
    """The menus, and three views that follow them: `map`, `layers` and `cell` are widgets to display.

    `profile` is chosen at first where a run of it is finished. Without any finished run each widget says what to run.
    """

    def __init__(self, profile: str):
        self._runs, self._settling = finished.finished_pairs(), False
        if not self._runs:
            self.map = self.layers = self.cell = widgets.HTML(as_html(NOTHING))
            return
        self.profile, self.pair, self.seed, self.stage = map(_menu, ("Profile", "Pair", "Seed", "Stage"))
        self.models, self.metric, self.shown = map(_menu, ("Models", "Metric", "Shown"))
        self.layer_metric, self.layer_a, self.layer_b = map(_menu, ("Metric", "Layer of a", "Layer of b"))
        run = [self.profile, self.pair]
        self._views = [_View(self._map, [*run, self.models, self.metric, self.shown]),
                       _View(self._layers, [*run, self.seed, self.layer_metric]),
                       _View(self._cell, [*run, self.seed, self.stage, self.layer_a, self.layer_b])]
        self.map, self.layers, self.cell = (view.widget() for view in self._views)
        _offer(self.profile, list(self._runs), profile)
        _offer(self.shown, [VALUE, ABOVE_NULL])
        for menu in {menu for view in self._views for menu in view.menus}:
            menu.observe(self._settle, "value")
        self._settle()

    def _settle(self, _: Any = None) -> None:
        """After a choice: offer what fits it, from the run down to the layer, then draw what changed."""
        if self._settling:
            return
        self._settling = True
        try:
            self._offer_fitting()
            for view in self._views:
                view.update()
        finally:
            self._settling = False

    def _offer_fitting(self) -> None:
        name = self.profile.value
        study = load_profile(name)
        _offer(self.pair, self._runs[name])
        pair = self.pair.value
        trained = study.pair(pair) in study.pairs
        _offer(self.seed, study.seeds if trained else [("none", UNSEEDED)])
        _offer(self.models, [FIRST_STAGE, LAST_STAGE] if trained else [FIRST_STAGE])
        _offer(self.metric, _named(finished.maps_of(name, pair)))
        _offer(self.layer_metric, _named(finished.metrics_of(name, pair)))
        _offer(self.stage, finished.stages_of(study, pair, self.seed.value))
        states = self._states() if self.stage.value else ()
        for menu, part in zip((self.layer_a, self.layer_b), states, strict=False):
            _offer(menu, part.labels, part.labels[-1])

    def _states(self) -> tuple[Recording, Recording]:
        return finished.open_stage(load_profile(self.profile.value), self.pair.value, self.seed.value, self.stage.value)

    def _map(self) -> str:
        pair = load_profile(self.profile.value).pair(self.pair.value)
        cells = finished.read_layer_map(self.profile.value, pair.name, self.metric.value, self.models.value,
                                        self.shown.value)
        if cells["value"].isna().all():
            return "<p>No cell lies above the null.</p>"
        return _picture(heatmap(cells, "layer_x", "layer_y", "value", quantity=self.metric.value,
                                xlabel=f"state of {pair.a}", ylabel=f"state of {pair.b}"))

    def _layers(self) -> str:
        metric = self.layer_metric.value
        curve = finished.read_layer_curve(self.profile.value, self.pair.value, metric, self.seed.value)
        curve["neighbours"] = "k = " + curve["k"].astype(str)
        facet = "neighbours" if METRICS[metric].has_k else None
        return _picture(curves(curve, "layer_x", "value", "models", facet, "low", "high", quantity=metric,
                               xlabel="state", references=yardsticks(curve), ylabel=METRICS[metric].label))

    def _cell(self) -> str:
        study = load_profile(self.profile.value)
        pair = study.pair(self.pair.value)
        changed = finished.read_changed(study, pair.name, self._states(), self.layer_a.value, self.layer_b.value)
        first = changed.iloc[0]
        tables = "".join(part.html() for part in changed_tables(changed, pair, study.analysis.unit))
        return f"<p>Mean overlap {first['mean']:.3f} at k = {first['k']}.</p>{tables}"


def _menu(name: str) -> widgets.Dropdown:
    return widgets.Dropdown(description=name)


def _offer(menu: widgets.Dropdown, options: Sequence[Any], value: Any = None) -> None:
    """Give a menu other options; what was chosen stays chosen where it can, else it is `value` or the first."""
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    wanted = [kept for kept in (menu.value, value) if kept in values]
    menu.options = list(options)
    if values:
        menu.value = (wanted or values)[0]


def _named(metrics: Sequence[str]) -> list[tuple[str, str]]:
    return [(METRICS[metric].name, metric) for metric in metrics]


def _picture(drawing: Drawing) -> str:
    data = base64.b64encode(drawing.png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{as_html(drawing.alt)}" style="max-width: 700px">'
