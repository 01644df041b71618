"""Notebooks run by papermill, strictly: unknown parameters and dead kernels fail, unfinished ones keep another name."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrsa.study import store

if TYPE_CHECKING:
    import nbformat


class JobError(RuntimeError):
    """A job failed; the message says which, what was expected, what came and what to do."""


def _check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook's `parameters` cell does not set."""
    import papermill

    if not notebook.is_file():
        raise JobError(f"expected a notebook, got {notebook.name}: see the files in {store.NOTEBOOKS.name}/")
    known = sorted(papermill.inspect_notebook(str(notebook)))
    if not known:
        raise JobError(f"{notebook.name}: expected a cell tagged `parameters`, got none: tag its first code cell")
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise JobError(f"{notebook.name}: expected parameters among {known}, got {unknown}: correct the name")


def check_executed(notebook: Path) -> None:
    """Raise JobError unless every code cell of an executed notebook was run to its end without an error."""
    content = json.loads(notebook.read_text(encoding="utf8"))
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        status = cell["metadata"].get("papermill", {}).get("status")
        failed = [o for o in cell["outputs"] if o["output_type"] == "error"]
        if failed:
            raise JobError(f"{notebook.name}: cell {number} raised {failed[0]['ename']}: {failed[0]['evalue']}")
        if status != "completed" or cell["execution_count"] is None:
            raise JobError(f"{notebook.name}: expected cell {number} to have run, got status {status!r}: the kernel "
                           "died (out of memory?); free memory and run again")


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any],
                 without: frozenset[str] = frozenset()) -> Path:
    """Execute a notebook with papermill into `output`, which appears only when every cell has run.

    Cells with a tag in `without` are left out. Raises JobError for unknown parameters, a failed cell or a dead kernel;
    the failed notebook is then kept beside `output` as `<stem>.failed.ipynb`.
    """
    import nbformat
    import papermill

    _check_parameters(notebook, parameters)
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    with store.atomic(output) as temporary:
        working = temporary.with_name(f"{temporary.name}.ipynb")  # papermill goes by the ending
        try:
            nbformat.write(chapter_without(notebook, without), working)
            papermill.execute_notebook(str(working), str(working), parameters=parameters, progress_bar=False,
                                       log_output=False, cwd=str(store.ROOT))
            check_executed(working)
            os.replace(working, temporary)
        except Exception as error:
            message = error if isinstance(error, JobError) else f"{type(error).__name__}: {_raised(error)}"
            if working.exists():
                os.replace(working, failed)
            raise JobError(f"{message}\nThe notebook as far as it ran: {failed.name} beside {output.name}") from error
        finally:
            working.unlink(missing_ok=True)
    return output


def chapter_without(notebook: Path, tags: Collection[str]) -> nbformat.NotebookNode:
    """The notebook without the cells that carry one of these tags."""
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if not set(tags) & set(cell.metadata.get("tags", []))]
    return content


def _raised(error: Exception) -> str:
    """What a failed cell said: the exception's own words where papermill knows them."""
    if hasattr(error, "ename"):
        return f"cell {error.exec_count} raised {error.ename}: {error.evalue}"
    return str(error)
