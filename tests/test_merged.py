import nbformat
import pytest
from nbformat import v4

from hrsa.report.book.merged import merged_page


def run(*outputs, pair="a", extra=()):
    """A chapter as a page: a heading, injected parameters, a cell for each output, and more text."""
    cells = [v4.new_markdown_cell("# 7. Title\nWhat it is.", id="top"),
             v4.new_code_cell(f'pair = "{pair}"', id=f"random-{pair}", metadata={"tags": ["injected-parameters"]})]
    for number, text in enumerate(outputs):
        shown = v4.new_output("display_data", {"text/plain": text})
        folded = {"tags": ["hide-input"]}
        cells.append(v4.new_code_cell("show()", id=f"code-{number}", outputs=[shown], metadata=folded))
    return v4.new_notebook(cells=[*cells, *extra, v4.new_markdown_cell("The end.", id="end")])


def test_what_runs_share_stands_once_and_the_rest_once_for_each_with_a_tag():
    page = merged_page({"a": run("one", "same"), "b": run("two", "same", pair="b")}, "pair", {"a": "A <1>", "b": "B"})
    nbformat.validate(page)
    shown = [(cell.outputs[0].data["text/plain"], cell.metadata["tags"]) for cell in page.cells if cell.get("outputs")]
    assert shown == [("one", ["hide-input", "only-0"]), ("two", ["hide-input", "only-1"]), ("same", ["hide-input"])]
    tops = [cell.source for cell in page.cells if cell.cell_type == "markdown"]
    assert len(tops) == 2 and tops[1] == "The end."
    title, menu, rest = tops[0].split("\n\n")
    assert title == "# 7. Title" and rest == "What it is."
    assert '<option value="a">A &lt;1&gt;</option><option value="b">B</option>' in menu
    assert "in turn: A &lt;1&gt;, B." in menu
    given = [cell.metadata["tags"] for cell in page.cells if cell.source.startswith("pair = ")]
    assert given == [["injected-parameters", "only-0"], ["injected-parameters", "only-1"]]


def test_a_cell_that_one_run_left_out_belongs_to_the_other():
    more = v4.new_code_cell("more()", id="more", outputs=[v4.new_output("display_data", {"text/plain": "embedders"})])
    page = merged_page({"a": run("one"), "b": run("one", pair="b", extra=[more])}, "pair", {"a": "A", "b": "B"})
    tags = {cell.source: cell.metadata.get("tags") for cell in page.cells}
    assert tags["more()"] == ["only-1"] and tags["show()"] == ["hide-input"]


def test_one_run_is_its_own_page_and_strangers_are_refused():
    alone = run("one")
    assert merged_page({"a": alone}, "pair", {"a": "A"}) is alone
    other = run("one")
    other.cells[0]["id"] = "elsewhere"
    with pytest.raises(ValueError, match=r"expected runs of one chapter, got \['b'\] with another first cell"):
        merged_page({"a": alone, "b": other}, "pair", {"a": "A", "b": "B"})
