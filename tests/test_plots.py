import base64
import io
import itertools
import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from matplotlib.image import imread

from hrsa.report import plots
from hrsa.report.plots import style
from hrsa.study import store

LAYERS = ["0", "1", "2", "10", "10+norm"]


def _grid(rng, facets=("backbones", "embedders")):
    rows = [{"models": m, "layer_x": x, "layer_y": y} for m in facets for x, y in itertools.product(LAYERS, LAYERS)]
    return pd.DataFrame(rows).assign(value=rng.random(len(rows)))


def _curves(rng):
    table = pd.DataFrame([{"models": m, "k": k, "layer": layer} for m in ("backbones", "embedders") for k in (5, 10, 50)
                          for layer in LAYERS])
    value = rng.uniform(0.2, 0.8, len(table))
    return table.assign(value=value, low=value - 0.1, high=value + 0.1, null=0.05, runs=0.95)


def _near(lines):
    """Similarities close to 1, one of them at 1."""
    near = lines.assign(**{name: 1 - (1 - lines[name]) / 1000 for name in ("value", "low", "high", "runs")})
    near.loc[0, ["value", "high"]] = 1.0
    return near


def _moments(rng):
    return pd.concat([_grid(rng).assign(step=step) for step in (0, 1, 2, 5, 8, 20, 40)], ignore_index=True)


def _bars(rng):
    table = pd.DataFrame([{"split": s, "readout": r, "models": m} for s in ("train", "dev", "test")
                          for r in ("own", "cross") for m in ("backbones", "embedders")])
    value = rng.uniform(0.2, 0.8, len(table))
    return table.assign(value=value, low=value - 0.1, high=value + 0.1)


def _every(rng):
    grid, lines, bars = _grid(rng), _curves(rng), _bars(rng)
    points = pd.DataFrame({"a": rng.random(40), "b": rng.random(40), "pair": ["p", "q"] * 20})
    return {
        "heatmap": plots.heatmap(grid, "layer_x", "layer_y", "value", facet="models", quantity="cka"),
        "film": plots.film(_moments(rng), "layer_x", "layer_y", "value", over="step", facet="models", quantity="cka",
                           label="training step"),
        "curves": plots.curves(lines, "layer", "value", "models", facet="k", low="low", high="high",
                               references=["null", "runs"], quantity="knn"),
        "near one": plots.curves(_near(lines), "layer", "value", "models", facet="k", low="low", high="high",
                                 references=["null", "runs"], quantity="knn"),
        "dashes": plots.curves(lines, "layer", "value", "models", dash="k"),
        "bars": plots.bars(bars, "split", "value", "readout", facet="models", low="low", high="high", quantity="score"),
        "forest": plots.forest(bars, "split", "value", "low", "high", margin=0.1, hue="readout", facet="models"),
        "scatter": plots.scatter(points, "a", "b", hue="pair"),
        "histogram": plots.histogram(points, "a", hue="pair", quantity="correlation"),
    }


@pytest.fixture
def every(rng):
    return _every(rng)


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FIGURES", tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["heatmap", "film", "curves", "near one", "dashes", "bars", "forest", "scatter",
                                  "histogram"])
def test_a_drawing_shows_itself_interactive_static_and_as_text(every, kind):
    data = every[kind]._repr_mimebundle_()
    figure = go.Figure(data["application/vnd.plotly.v1+json"])  # plotly's own validation of names and types
    assert len(figure.data) > 0
    text = json.dumps(data["application/vnd.plotly.v1+json"], allow_nan=False)
    assert '"template"' not in text and len(text) < 60_000
    pixels = imread(io.BytesIO(base64.b64decode(data["image/png"])))
    assert pixels.shape[1] == 700 and imread(io.BytesIO(every[kind].png)).shape[1] == 1400
    assert pixels[..., :3].std() > 0.02, "nothing is drawn"
    assert data["text/plain"] == every[kind].alt
    assert every[kind].plotly["layout"]["xaxis"]["title"]["text"]


def test_both_forms_show_the_numbers_of_the_table(rng, every):
    lines = every["curves"].table
    trace = next(t for t in every["curves"].plotly["data"] if t["name"] == "embedders" and t["x"] != [None]
                 and t.get("fill") is None and t["xaxis"] == "x2")
    wanted = lines[(lines.models == "embedders") & (lines.k == 10)]["value"].to_numpy()
    np.testing.assert_allclose(trace["y"], wanted, rtol=1e-4)
    mark = next(m for m in every["curves"].chart.panels[1].marks if m.name == "embedders")
    np.testing.assert_array_equal(mark.y, wanted)
    grid = every["heatmap"].table.sample(frac=1, random_state=int(rng.integers(1 << 30)))
    shuffled = plots.heatmap(grid, "layer_x", "layer_y", "value", facet="models", quantity="cka")
    cell = grid[(grid.models == "backbones") & (grid.layer_x == "10") & (grid.layer_y == "1")]["value"].item()
    panel = next(p for p in shuffled.chart.panels if p.title == "backbones")
    assert panel.marks[0].z[1, 3] == cell, "rows are y from the bottom, columns x, in order of the layers' numbers"
    assert shuffled.chart.x.names == tuple(LAYERS)


def test_a_film_shows_every_moment_where_a_reader_can_move_and_few_in_print(rng):
    table = _moments(rng)
    drawing = plots.film(table, "layer_x", "layer_y", "value", over="step", facet="models", label="training step")
    slider = drawing.plotly["layout"]["sliders"][0]
    assert [step["label"] for step in slider["steps"]] == ["0", "1", "2", "5", "8", "20", "40"]
    for step, moment in zip(slider["steps"], (0, 1, 2, 5, 8, 20, 40), strict=True):
        (changed, traces) = step["args"]
        for at, models in zip(traces, ("backbones", "embedders"), strict=True):
            cell = table[(table["models"] == models) & (table["step"] == moment) & (table["layer_x"] == "10")
                         & (table["layer_y"] == "1")]["value"].item()
            assert changed["z"][at][1][3] == pytest.approx(cell, rel=1e-4)
    assert [t["z"] for t in drawing.plotly["data"]] == slider["steps"][0]["args"][0]["z"]
    titles = [panel.title.split("\n")[1] for panel in drawing.chart.panels]
    assert titles == [f"training step {n}" for n in (0, 2, 5, 8, 40)] * 2
    with pytest.raises(ValueError, match="expected at most 3 values of models, each with all of two or more values"):
        plots.film(table.query("models != 'embedders' or step != 5"), "layer_x", "layer_y", "value", "step", "models")
    with pytest.raises(ValueError, match="expected at most 3 values of models"):
        plots.film(table.query("step == 5"), "layer_x", "layer_y", "value", "step", "models")


def test_similarities_near_one_are_drawn_as_distance_from_it(rng, every):
    drawing, lines = every["near one"], _near(_curves(rng))
    assert drawing.chart.y.log and drawing.chart.y.label == "1 - k-NN overlap (Jaccard index, log)"
    bottom, top = drawing.chart.y.range
    assert bottom > 0.95 > top > 0  # the null is far from 1, and more alike is up
    axis = drawing.plotly["layout"]["yaxis"]
    assert axis["type"] == "log" and axis["range"] == pytest.approx(np.log10([bottom, top]))
    assert drawing.table["value"].max() == 1  # the table beside the figure keeps the similarities
    mark = next(m for m in drawing.chart.panels[1].marks if m.name == "embedders")
    wanted = drawing.table.query("models == 'embedders' and k == 10")["value"]
    np.testing.assert_allclose(mark.y, 1 - wanted)
    smallest = min(np.nanmin(m.y) for panel in drawing.chart.panels for m in panel.marks)
    assert smallest == pytest.approx(1.3 * top) and drawing.chart.panels[0].marks[0].y[0] == smallest  # at 1: the end
    same = plots.curves(lines.assign(value=1.0), "layer", "value", "models", facet="k", quantity="knn")
    assert same.chart.y.log and same.png  # all of it
    names = [name for name, _, _ in drawing.chart.legend]
    assert names == ["backbones", "embedders", "null", "two runs of one recipe"]
    few = lines.assign(value=lines["value"].where(np.arange(len(lines)) % 5 == 0, 0.5))  # a fifth of the points near 1
    for table, quantity, log in ((few, "knn", False), (lines, "residual_ratio", False), (lines, "score", False),
                                 (lines, "similarity", True)):
        assert plots.curves(table, "layer", "value", "models", facet="k", quantity=quantity).chart.y.log == log
    assert not every["curves"].chart.y.log


def test_every_entry_of_a_legend_switches_something_and_hover_gives_the_interval(every):
    for name in ("curves", "near one"):
        data = every[name].plotly["data"]
        keys = {trace["legendgroup"] for trace in data if trace.get("showlegend")}
        assert {"null", "two runs of one recipe"} <= keys
        drawn = [trace for trace in data if not trace.get("showlegend")]
        assert keys <= {trace["legendgroup"] for trace in drawn}, "an entry that switches nothing"
        told = [trace for trace in drawn if "customdata" in trace]
        assert told and all("[%{customdata[0]:.4g}, %{customdata[1]:.4g}]" in t["hovertemplate"] for t in told)
        for trace in told:
            for value, (low, high) in zip(trace["y"], trace["customdata"], strict=True):
                assert None in (value, low, high) or low <= value <= high


def test_one_quantity_has_one_scale_everywhere(rng):
    first = plots.heatmap(_grid(rng), "layer_x", "layer_y", "value", facet="models", quantity="cka")
    second = plots.heatmap(_grid(rng).assign(value=0.5), "layer_x", "layer_y", "value", facet="models", quantity="cka")
    assert first.plotly["layout"]["coloraxis"] == second.plotly["layout"]["coloraxis"]
    assert (first.chart.scale.low, first.chart.scale.high) == (0, 1)
    signed = plots.heatmap(_grid(rng), "layer_x", "layer_y", "value", facet="models", quantity="correlation")
    assert signed.plotly["layout"]["coloraxis"]["cmin"] == -1 and signed.chart.scale.colours != "viridis"
    free = plots.heatmap(_grid(rng), "layer_x", "layer_y", "value", facet="models")
    assert free.chart.scale.low == free.table["value"].min()
    for quantity in ("cka", "knn", "inverse_row_entropy", "score"):
        assert style.scale(quantity).range == (0, 1)
        axis = plots.curves(_curves(rng), "layer", "value", "models", "k", quantity=quantity).plotly["layout"]["yaxis"]
        assert axis["range"] == pytest.approx([-0.03, 1.03])
    with pytest.raises(ValueError, match=r"expected a quantity, one of \['accuracy'.*got 'warmth'"):
        plots.heatmap(_grid(rng), "layer_x", "layer_y", "value", facet="models", quantity="warmth")


def test_series_are_told_apart_without_colour_and_known_names_keep_theirs():
    looks = style.looks(["backbones", "embedders", "null", "two runs of one recipe"])
    assert looks["backbones"] == style.looks(["other", "backbones"])["backbones"]
    null, runs = looks["null"], looks["two runs of one recipe"]
    assert null.colour == runs.colour == style.GREY and null.dash != runs.dash and 0 not in (null.dash, runs.dash)
    seven = style.looks(["base-s0", "base-s1", "rlvr-s0", "sft-s0", "x", "y", "z"])
    assert len({look.marker for look in seven.values()}) == len({look.colour for look in seven.values()}) == 7
    assert seven["rlvr-s0"].colour == style.looks(["rlvr"])["rlvr"].colour


@pytest.mark.parametrize("colours", sorted({scale.colours for scale in style.SCALES.values()}))
def test_colour_scales_read_in_grey(colours):
    """Lightness rises along a sequential scale, and falls to both ends of a diverging one."""
    from matplotlib import colormaps

    red, green, blue = colormaps[colours](np.linspace(0, 1, 33))[:, :3].T
    light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    half = light[:17] if colours == "RdBu_r" else light
    assert (np.diff(half) > 0).all() and np.ptp(half) > 0.5


def test_published_files_hold_the_same_bytes_each_time(rng, published):
    state = rng.bit_generator.state
    contents = []
    for run in ("one", "two"):
        rng.bit_generator.state = state
        every = _every(rng)
        for kind in ("heatmap", "bars", "histogram"):
            assert every[kind].publish("smoke", f"07_cka/{run}", kind, "A figure & its <text>.").files.endswith(kind)
        contents.append({p.name: p.read_bytes() for p in sorted((published / "smoke" / "07_cka" / run).iterdir())})
    assert contents[0] == contents[1] and len(contents[0]) == 9
    svg = contents[0]["bars.svg"].decode()
    assert "A figure &amp; its &lt;text&gt;." in svg and not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", svg)
    table = pd.read_csv(published / "smoke" / "07_cka" / "one" / "bars.csv")
    assert list(table.columns) == ["split", "readout", "models", "value", "low", "high"]


def test_drawing_leaves_no_trace_in_the_process(every):
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert every["histogram"].png
    assert dict(matplotlib.rcParams) == before


def test_a_published_drawing_needs_words_and_a_fit_name(every, published):
    with pytest.raises(ValueError, match="expected a sentence that describes figure smoke/05/x"):
        every["bars"].publish("smoke", "05", "x", " ")
    for name in ("../x", "a b", "", "/x"):
        with pytest.raises(ValueError, match="expected letters, digits"):
            every["bars"].publish("smoke", "05", name, "Bars.")
    assert list(published.iterdir()) == []


CALLS = {
    "heatmap": lambda t: plots.heatmap(t, "layer", "k", "value"),
    "curves": lambda t: plots.curves(t, "layer", "value", "models", "k"),
    "bars": lambda t: plots.bars(t, "layer", "value", "models", "k"),
    "forest": lambda t: plots.forest(t, "layer", "value", "low", "high", hue="models", facet="k"),
    "scatter": lambda t: plots.scatter(t, "low", "value", "models"),
    "histogram": lambda t: plots.histogram(t, "value", "models"),
}


@pytest.mark.parametrize("kind", CALLS)
def test_what_cannot_be_drawn_is_refused_with_words(rng, kind):
    table = _curves(rng)
    table = table if kind != "heatmap" else table[table.models == "backbones"]
    CALLS[kind](table)
    with pytest.raises(ValueError, match="expected rows to draw, got an empty table"):
        CALLS[kind](table.iloc[:0])
    with pytest.raises(ValueError, match=r"expected columns .*\['value'\] missing"):
        CALLS[kind](table.drop(columns="value"))
    with pytest.raises(ValueError, match=r"expected at least one finite number in column 'value', got \d+ missing"):
        CALLS[kind](table.assign(value=np.nan))
    with pytest.raises(ValueError, match="expected numbers in column 'value'"):
        CALLS[kind](table.assign(value="high"))
    if kind not in ("scatter", "histogram"):
        with pytest.raises(ValueError, match="expected one row per"):
            CALLS[kind](pd.concat([table, table.iloc[:1]]))


def test_gaps_stay_gaps(rng):
    table = _curves(rng).query("k == 5 and models == 'backbones'").reset_index(drop=True)
    table.loc[2, "value"] = np.nan
    drawing = plots.curves(table, "layer", "value", low="low", high="high")
    assert [t["y"][2] for t in drawing.plotly["data"] if len(t["y"]) == 5] == [None]
    grid = _grid(rng).query("layer_x != '1' or layer_y != '2'")
    z = plots.heatmap(grid, "layer_x", "layer_y", "value", facet="models").plotly["data"][0]["z"]
    assert z[2][1] is None and z[1][2] is not None


def test_a_heat_map_too_fine_for_the_screen_is_refused():
    table = pd.DataFrame({"x": range(300), "y": 0, "v": 1.0})
    with pytest.raises(ValueError, match="expected at most 256 cells along an axis, got 1 x 300"):
        plots.heatmap(table, "x", "y", "v")


def test_a_histogram_counts_every_row_once(rng):
    table = pd.DataFrame({"v": np.append(rng.normal(size=201), np.nan), "m": ["a", "b"] * 101})
    for mark in plots.histogram(table, "v", "m", quantity="correlation").chart.panels[0].marks:
        assert mark.y.sum() == pytest.approx(1)
    assert plots.histogram(table.assign(v=0.5), "v").png


def test_a_table_is_aligned_escaped_and_captioned():
    frame = pd.DataFrame({"task": ["<b>", "x" * 40], "n_docs": [12345, 2], "score": [0.12345, np.nan],
                          "ok": [True, False]})
    shown = plots.table(frame, "Scores & counts", {"score": 2})
    data = shown._repr_mimebundle_()
    html = data["text/html"]
    assert "&lt;b&gt;" in html and "<caption>Scores &amp; counts</caption>" in html and "n docs" in html
    assert '<td style="text-align:right">12,345</td>' in html and ">0.12<" in html and ">–<" in html and ">yes<" in html
    assert 'class="hrsa-text" style="text-align:left">xxx' in html and "overflow-x:auto" in html
    assert data["text/plain"].splitlines()[0] == "Scores & counts"
    parts = plots.table(pd.DataFrame({"x": ["0.5 [0.4, 0.6]"], "y": [-np.inf]}), "Parts").html()
    assert '<td class="hrsa-parts" style="text-align:left">0.5 [0.4,\u00a00.6]</td>' in parts and ">-\u221e<" in parts
    pivoted = plots.table(frame.set_index("task")[["score"]], "Indexed")
    assert pivoted.heads == ("task", "score") and pivoted.rows[0] == ("<b>", "0.123")
    with pytest.raises(ValueError, match="expected rows to show"):
        plots.table(frame.iloc[:0], "Nothing")
    with pytest.raises(ValueError, match="expected a caption"):
        plots.table(frame, " ")
