"""Notebooks run by papermill, strictly: unknown parameters and dead kernels fail, unfinished ones keep another name."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrsa.report.chapters import executed, jobs, record
from hrsa.study import store
from hrsa.study.errors import first_line
from hrsa.study.profile import Profile
from hrsa.study.runtime import COLLECTED

if TYPE_CHECKING:
    import nbformat


HASH = "sha256"  # in a record: of the executed notebook


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


def read_page(profile: Profile, chapter: str, name: str) -> nbformat.NotebookNode:
    """The executed notebook of a job, whole and clean: it begins with a heading, has run to its end without a warning,
    and is the file that its record names. JobError names it and what is wrong."""
    file = store.ROOT / executed(profile, chapter, name)
    if not file.is_file():
        raise JobError(f"{file.name}: expected this executed notebook, got none")
    try:
        return _whole(file, store.ROOT / record(profile, chapter, name))
    except JobError:
        raise
    except Exception as error:  # of JSON, of nbformat, or of a part that is missing
        raise JobError(f"{file.name}: expected a whole executed notebook, got {type(error).__name__}: "
                       f"{first_line(error)}") from error


def _whole(file: Path, written: Path) -> nbformat.NotebookNode:
    import nbformat

    check_executed(file)
    notebook = nbformat.read(file, as_version=4)
    if notebook.metadata.get("papermill", {}).get("exception"):
        raise JobError(f"{file.name}: expected a notebook that ran to its end, got one that failed")
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise JobError(f"{file.name}: expected no warnings, got in cell {number}: {output.text[:300]}")
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        raise JobError(f"{file.name}: expected a first cell that begins with '# Title', got "
                       f"{first.source[:60] if first else 'no cell'!r}")
    said = store.read_json(written)["made"].get(HASH) if written.is_file() else None
    if said not in (None, found := store.file_hash(file)):
        raise JobError(f"{file.name}: expected the notebook as it was executed, with SHA-256 {said}, got {found}")
    return notebook


def give_back(profile: Profile) -> list[str]:
    """Remove the records of jobs whose executed notebook, or whose record itself, is no longer whole, so that the jobs
    run again; return what is wrong with each.

    The book's record goes with them: a graph whose end is there does not miss what led to it.
    """
    told = []
    for rule, names in jobs(profile).items():
        for name in names:
            written = store.ROOT / record(profile, rule, name)
            if not written.is_file():
                continue
            try:
                if not isinstance(store.read_json(written).get("made"), dict):
                    raise JobError(f"{written.name} of {rule}: expected what the job made, got none")
                if rule[:2].isdigit():
                    read_page(profile, rule, name)
            except (JobError, ValueError, AttributeError) as error:
                told.append(first_line(error))
                written.unlink()
    for name in jobs(profile)["book"] if told else ():
        (store.ROOT / record(profile, "book", name)).unlink(missing_ok=True)
    return told


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
            papermill.execute_notebook(
                str(working), str(working), parameters=parameters, engine_name=_engine(), progress_bar=False,
                log_output=False, cwd=str(store.ROOT),
                shutdown_kernel="immediate",  # what it made is on disk; to take a million objects apart takes a second
                extra_arguments=[f"--IPKernelApp.exec_lines=import gc; gc.set_threshold(*{COLLECTED})"])
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


@cache
def _engine() -> str:
    """The name of an engine that is papermill's own, but writes the notebook when it has ended and not twice a cell."""
    from papermill.engines import NBClientEngine, papermill_engines

    class WrittenOnce(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            nb_man.output_path, path = None, nb_man.output_path
            try:
                return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)
            finally:
                nb_man.output_path = path

    papermill_engines.register("hrsa", WrittenOnce)
    return "hrsa"


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
