"""One page of a chapter that was run several times: its text once, and what differs between runs behind a switch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import nbformat

from hrsa.report.foreign import as_html

INJECTED = "injected-parameters"
VARIANT = "only-{}"  # tag of a cell that belongs to one run, by its place; myst-nb makes a class of it


def merged_page(runs: Mapping[str, nbformat.NotebookNode], key: str,
                labels: Mapping[str, str]) -> nbformat.NotebookNode:
    """A notebook with every cell of a chapter's runs in its order.

    `runs`: name of the run -> the chapter as a page, all of one source; `key`: what tells them apart ("pair");
    `labels`: name -> what a reader chooses by. A cell that reads and shows the same in all runs stands once, any other
    once for each run with a tag of its own; below the heading is the switch. One run is given back as it is. ValueError
    when the runs share no first cell.
    """
    names = list(runs)
    if len(names) == 1:
        return runs[names[0]]
    cells = {name: {_place(cell): cell for cell in page.cells} for name, page in runs.items()}
    longest = max(runs.values(), key=lambda page: len(page.cells))
    heading = _place(longest.cells[0])
    if missing := [name for name in names if heading not in cells[name]]:
        raise ValueError(f"expected runs of one chapter, got {missing} with another first cell: run them again")
    page = nbformat.v4.new_notebook(metadata=longest.metadata)
    page.cells.append(_with_switch(cells[names[0]][heading], key, {name: labels[name] for name in names}))
    for place in [_place(cell) for cell in longest.cells[1:]]:
        page.cells += _variants({name: cells[name][place] for name in names if place in cells[name]}, names)
    for number, cell in enumerate(page.cells):
        cell["id"] = f"cell-{number}"
    return page


def _place(cell: nbformat.NotebookNode) -> str:
    """What a cell is known by in all runs of its notebook."""
    return INJECTED if INJECTED in cell.metadata.get("tags", []) else cell.id


def _with_switch(heading: nbformat.NotebookNode, key: str, labels: Mapping[str, str]) -> nbformat.NotebookNode:
    """The first cell with a menu of the runs under its title; without scripts all runs are shown, and it says so."""
    options = "".join(f'<option value="{as_html(name)}">{as_html(label)}</option>'
                      for name, label in labels.items())
    title, _, rest = heading.source.partition("\n")
    menu = (f'<div class="hrsa-switch" data-key="{as_html(key)}"><label>{as_html(key.capitalize())} '
            f"<select>{options}</select></label><noscript>Without scripts everything is shown for each in turn: "
            f"{as_html(', '.join(labels.values()))}.</noscript></div>")
    return nbformat.from_dict({**heading, "source": f"{title}\n\n{menu}\n\n{rest.lstrip()}"})


def _variants(cells: Mapping[str, nbformat.NotebookNode], names: list[str]) -> Iterator[nbformat.NotebookNode]:
    first = next(iter(cells.values()))
    same = len({_shown(cell) for cell in cells.values()}) == 1
    if first.cell_type != "code" or (same and len(cells) == len(names)):
        yield first
        return
    for name, cell in cells.items():
        cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), VARIANT.format(names.index(name))})
        yield cell


def _shown(cell: nbformat.NotebookNode) -> str:
    """What a reader sees of a cell, as text that can be compared."""
    outputs = [{key: value for key, value in output.items() if key not in ("execution_count", "metadata")}
               for output in cell.get("outputs", [])]
    return json.dumps([cell.source, outputs], sort_keys=True)
