import ast
import re

import jupytext
import nbformat
import pytest

from hrsa.report import chapters
from hrsa.study import store

CHAPTERS = sorted({*chapters.STUDY_CHAPTERS, *chapters.PAIR_CHAPTERS, "03_training", "explore"})  # the last: no page
PARAMETERS = {"03_training": {"profile", "backbone", "seed"},
              **{chapter: {"profile", "pair"} for chapter in chapters.PAIR_CHAPTERS}}
LINES = (10, 15)  # a code cell has at most ten lines of code; now and then, up to fifteen
LONG = 0.15  # largest share of cells that may be longer than ten


def _read(chapter, ending):
    path = store.NOTEBOOKS / f"{chapter}.{ending}"
    assert path.is_file(), f"expected the chapter {path.name}, got none"
    return jupytext.read(path)


def _content(notebook):
    return [(cell.cell_type, cell.source.strip(), sorted(cell.metadata.get("tags", []))) for cell in notebook.cells]


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def test_there_are_no_other_notebooks():
    assert sorted(path.stem for path in store.NOTEBOOKS.glob("*.ipynb")) == CHAPTERS
    assert sorted(path.stem for path in store.NOTEBOOKS.glob("*.py")) == CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_pair_has_one_content_and_no_outputs(chapter):
    source, notebook = _read(chapter, "py"), _read(chapter, "ipynb")
    assert _content(source) == _content(notebook), f"run `jupytext --sync notebooks/{chapter}.ipynb`"
    nbformat.validate(notebook)
    for cell in _code(notebook):
        assert cell.outputs == [] and cell.execution_count is None, f"clear the outputs of {chapter}.ipynb"
    for form in (source, notebook):
        assert form.metadata.kernelspec.name == "python3"
        assert form.metadata.jupytext.formats == "ipynb,py:percent"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_parameters_are_one_cell_of_plain_literals(chapter):
    notebook = _read(chapter, "py")
    first, second = notebook.cells[:2]
    assert first.cell_type == "markdown" and re.match(r"# \S.*\n\s*\n\S", first.source), "expected a title and a reason"
    assert second.metadata.get("tags") == ["parameters"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    values = {}
    for statement in ast.parse(second.source).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1, ast.unparse(statement)
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert set(values) == PARAMETERS.get(chapter, {"profile"})
    assert values["profile"] == "smoke"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_imports_from_rooms(chapter):
    deep = [node.module for cell in _code(_read(chapter, "py")) for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.ImportFrom) and node.module.startswith("hrsa.") and node.module.count(".") > 1]
    assert not deep, f"import from the room's face, or the module itself: {deep}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_narrates(chapter):
    notebook = _read(chapter, "py")
    kinds = "".join("c" if cell.cell_type == "code" else "m" for cell in notebook.cells)
    assert "ccc" not in kinds, "at most two code cells in a row"
    assert kinds.endswith("m") or "publish(" not in notebook.cells[-1].source, "say how to read the last figure"
    cells = _code(notebook)
    longest = max(cells, key=lambda cell: len(_lines(cell)))
    assert len(_lines(longest)) <= LINES[1], longest.source
    assert sum(len(_lines(cell)) > LINES[0] for cell in cells) <= LONG * len(cells)
    for cell in cells:
        bad = [node for node in ast.walk(ast.parse(cell.source))
               if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        assert not bad, f"functions belong in lib/hrsa: {cell.source}"
        assert "tqdm.auto" not in cell.source and not re.search(r"^\s*(%|!)", cell.source, re.M), cell.source


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_figures_are_published_one_per_cell_under_the_run_they_show(chapter):
    notebook = _read(chapter, "py")
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        published = cell.source.count(".publish(") if cell.cell_type == "code" else 0
        assert published <= 1, cell.source
        if published:
            prose = following is not None and (following.cell_type == "markdown" or "Markdown(" in following.source)
            assert prose, f"say how to read it: {cell.source}"
            stem = re.search(r"\.publish\(\s*\S+,\s*f?[\"']([^\"']+)[\"'],\s*f?[\"']([^\"']+)[\"']", cell.source)
            assert stem, f"expected publish(profile name, chapter, name, alt): {cell.source}"
            assert stem[1].split("/")[0] == chapter, stem[1]
            run = {"pair"} if chapter in chapters.PAIR_CHAPTERS else {"backbone", "seed"}
            if PARAMETERS.get(chapter, {"profile"}) != {"profile"}:
                named = {name for part in re.findall(r"{([^}]+)}", stem[1]) for name in re.findall(r"\w+", part)}
                assert run <= named or "model" in named, f"two runs would write one file: {stem[1]}"


@pytest.mark.parametrize("chapter", sorted(PARAMETERS))
def test_chapters_that_run_several_times_set_no_labels(chapter):
    text = "\n".join(cell.source for cell in _read(chapter, "py").cells)
    assert not re.search(r"^\([\w-]+\)=$|^:(name|label):", text, re.M), "two pages would have one label"
