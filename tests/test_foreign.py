"""Text of others is shown as text: no HTML, Markdown, MyST, TeX or template that stands in it takes effect."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from docutils import nodes
from docutils.core import publish_doctree
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from myst_parser.docutils_ import Parser

from hrsa.models.as_it_came import Manner
from hrsa.report import foreign, plots
from hrsa.report.book.extension import figure_html
from hrsa.report.plots.tables import table
from hrsa.report.prose import answer, pages, run_records, texts, verdict
from hrsa.study import store
from hrsa.study.profile import load_profile

EXTENSIONS = yaml.safe_load((store.BOOK / "_config.yml").read_text(encoding="utf8"))["parse"]["myst_enable_extensions"]
HOSTILE = [
    "<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "$x$", "$$\\frac{a}{b}$$", "\\(x\\)", "\\begin{a}",
    "{ref}`x`", "{raw}`x`", "```{include} /etc/passwd\n```", "`code`", "``", "a | b", "two\n\nblocks", "# head",
    "- item", "1. item", "1) item", "> quote", "[a](javascript:alert(1))", "![a](x.png)", "<https://example.org>",
    "https://example.org", "www.example.org", "{{ title }}", "{% if %}", "*a* **b** _c_ __d__ ~~e~~", "[^1]", "[x]",
    "---", "===", "+++", "(target)=", "% comment", ":::{raw} html\n<b>\n:::", "::: note", "a\\", "&lt;b&gt;", "&amp;",
    "\x1b[31mred", "\u202eabc", "\ud800", "a\u2028b", "term\n: definition", "| a |\n|---|\n| b |", "    indented",
    "\tindented", "<!-- x -->", "]]>", "@cite", "'quoted' \"twice\"", "日本語 ünï", "50 %{x}", "{eval-rst}", "a{b}",
    "$" * 9, "`" * 9, "x" * 500]


def doctree(markdown):
    """The document that the book's parser makes of a page."""
    return publish_doctree(markdown, parser=Parser(), settings_overrides={
        "myst_enable_extensions": EXTENSIONS, "report_level": 5, "file_insertion_enabled": False})


def plain(text):
    """What of a text is shown, on one line."""
    return foreign._line(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_inline_text_is_one_paragraph_of_text(text):
    for before, after in (("", ""), ("The set ", " has 3."), ("(", ")"), ("**", "**")):
        shown = foreign.as_markdown(text)
        assert "\n" not in shown
        tree = doctree(f"{before}{shown}{after}")
        kinds = {node.tagname for node in tree.findall() if node is not tree}
        assert kinds <= {"paragraph", "#text", "strong"}, kinds
        assert plain(text) in " ".join(tree.astext().split())


@given(text=st.text(st.characters(codec=None), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_stays_text(text):
    html = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])
    tokens = html.parse(f"The set {foreign.as_markdown(text)} has 3.")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    (code,) = html.parse(f"x {foreign.as_code(text)} y")[1:2]
    assert [child.type for child in code.children] == ["text", "code_inline", "text"]
    block = html.parse(foreign.as_block(text, "yaml"))
    assert [token.type for token in block] == ["fence"] and block[0].info == "yaml"
    assert "\n\n" not in foreign.as_html(text) and not re.search("[<>\"']", foreign.as_html(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_code_spans_and_blocks_hold_what_they_show(text):
    tree = doctree(f"Study {foreign.as_code(text)}, committed")
    (code,) = tree.findall(nodes.literal)
    assert code.astext().strip() == (plain(text).strip("`").strip() or "\ufffd")
    tree = doctree(foreign.as_block(text, "text") + "\nafter\n")
    assert [node.tagname for node in tree.children] == ["literal_block", "paragraph"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_of_a_markdown_table_is_one_cell(text):
    tree = doctree(f"| set | n |\n|---|---|\n| {foreign.as_markdown(text)} | 3 |")
    cells = [entry.astext() for entry in tree.findall(nodes.entry)]
    assert len(cells) == 4 and cells[3] == "3" and " ".join(cells[2].split()) == plain(text)


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "\ud800"])  # which pandas refuses
def test_a_table_in_a_page_stays_one_piece_of_html(text):
    page = f"before\n\n{table(pd.DataFrame({'query': [text, 'x']}), text).html()}\n\nafter\n"
    tree = doctree(page)
    assert [node.tagname for node in tree.children] == ["paragraph", "raw", "paragraph"]
    raw = tree.children[1].astext()
    assert not re.search("<(script|img|b|!--)", raw) and "mathjax_ignore" in raw


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "\ud800"])
def test_a_label_of_a_figure_is_no_markup(text):
    frame = pd.DataFrame({"set": [text, "x"] * 2, "family": ["a", "a", text, text], "value": [0.1, 0.2, 0.3, 0.4]})
    drawing = plots.bars(frame, x="set", y="value", hue="family", quantity="score", xlabel="set", ylabel="score")
    said = [trace["name"] for trace in drawing.plotly["data"]] + list(drawing.plotly["layout"]["xaxis"]["ticktext"])
    said += [trace["hovertemplate"].split("<extra>")[1].removesuffix("</extra>")
             for trace in drawing.plotly["data"] if "hovertemplate" in trace]
    assert all(not re.search(r"[<>$]|%\{", name.replace("<br>", "")) for name in said)
    assert "<script>" not in figure_html(drawing.plotly).replace('<script type="application/json"', "")
    assert drawing.svg.startswith(b"<?xml") and drawing.png.startswith(b"\x89PNG")


def test_pages_show_sets_sources_and_titles_as_text():
    bad = "<img src=x onerror=alert(1)> $x$ {ref}`y` | `z`\n\n# h"
    shown = plain(bad)
    mini = load_profile("mini")
    texts_ = pd.DataFrame({"set": [bad, bad, "b"], "text": ["x"] * 3})
    manner = Manner("decoder", "causal", None, {})
    models = [{"layers": 2, "width": 8, "vocabulary": 9, "manner": manner}] * len(mini.backbones)
    levels = pd.DataFrame({"similarity": "CKA", "value": [0.5], "low": 0.4, "high": 0.6, "null": 0.1, "layer_x": "0"})
    pool = SimpleNamespace(seeds=(0,), sources=pd.DataFrame({"source": [bad, "b"], "code": ["c", "c"]}))
    families = pd.DataFrame({"pair": "p", "family": ["all", bad], "verdict": ["different", "equivalent"]})
    report = {"margin": 0.9, "tasks": {bad: {"mined": 3, "left_out": 0, "suspect_share": 0.5, "largest_ratio": 0.5}}}
    for markdown in (
            pages.front_page(mini.model_copy(update={"chapters": ("07_cka",)}), models, texts_, {"09_probes": bad}),
            answer.comparison(levels, texts_, "word"), verdict.evidence_sources(pool, (0,)),
            verdict.families_agree(families)):
        tree = doctree(markdown)
        assert shown in " ".join(tree.astext().split())
        assert not {node.tagname for node in tree.findall()} & {"math", "image", "target"}
        assert {node.astext().strip() for node in tree.findall(nodes.raw)} <= {"<!-- the answer of this run -->"}
        assert all(node.astext() != "h" for node in tree.findall(nodes.title))
    assert foreign.as_code(bad) in texts.margin_sentence(report)


def test_the_settings_of_a_profile_cannot_end_their_block(monkeypatch, tmp_path):
    monkeypatch.setattr(run_records, "PROFILES", tmp_path)
    (tmp_path / "smoke.yaml").write_text("# ```\n# {raw} html\nname: smoke\n````\n<script>", encoding="utf8")
    record = {"rule": "mine", "name": "study", "seconds": 1.0, "peak_mb": 1, "made": {"a": "<script>\n\n# x"},
              "commit": "`$x$`", "fingerprint": "f", "written": "now", "machine": "<b>", "python": "3",
              "versions": {"a": "1"}}
    monkeypatch.setattr(run_records, "read_records", lambda profile: [record])
    page = run_records.records_page(load_profile("smoke"))
    tree = doctree(page)
    assert [node.astext() for node in tree.findall(nodes.literal_block)][-1].endswith("````\n<script>")
    assert "<b>" in tree.astext() and "`$x$`" in tree.astext()
    assert not any("<script>" in node.astext() for node in tree.findall(nodes.raw))
