"""Run one job of the study: a notebook, strictly, or a stage; leave a record when it has succeeded.

papermill only warns about a parameter that a notebook does not have, and can call a cell of a dead kernel completed.
Here both fail. An executed notebook is renamed to its place only when it is whole; a failed one stays beside it
as `<name>.failed.ipynb`, to be opened and read.

`python -m hrsa.workflow.job RULE NAME --profile PROFILE` is what the Snakefile calls.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

from hrsa.study import store
from hrsa.study.profile import Profile, load_profile
from hrsa.study.progress import FILE_VARIABLE
from hrsa.workflow import graph

# Where this package is there, jsonschema, which nbformat loads, compiles a grammar of addresses at import: 1.7 s a job.
sys.modules.setdefault("rfc3987_syntax", None)

import nbformat  # noqa: E402

OWNER_VARIABLE = "HRSA_OWNER"  # process without which a job must not go on: the engine that started it
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
log = logging.getLogger(__name__)


class JobError(RuntimeError):
    """A job failed; the message says which, what was expected, what came and what to do."""


def environment(profile: Profile) -> dict[str, str]:
    """Environment variables of a job: threads, quiet libraries, and no look at the hub when nothing comes from it."""
    online = (profile.suite.benchmarks or any(b.source == "hub" for b in profile.backbones)
              or any(name.startswith("hub:") for name in profile.suite.train))
    threads = str(profile.threads)
    return {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "MPLBACKEND": "agg",
        "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore:IProgress not found", **({} if online else OFFLINE),
    }


def follow_owner() -> None:
    """End this process and its children, within two seconds, when the process that owns the study has gone."""
    if OWNER_VARIABLE not in os.environ:
        return
    try:
        owner = psutil.Process(int(os.environ[OWNER_VARIABLE]))
    except psutil.NoSuchProcess:
        raise JobError("expected the engine that started this job to be alive, got none: run `make book`") from None

    def watch() -> None:
        try:
            with contextlib.suppress(psutil.NoSuchProcess):
                while owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(1)
            with contextlib.suppress(psutil.NoSuchProcess):
                _kill([p for p in psutil.Process().parents() if "snakemake" in " ".join(p.cmdline())])
            kill_children()
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def kill_children() -> None:
    """Kill all processes below this one (the kernel of a notebook, say)."""
    _kill(psutil.Process().children(recursive=True))


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


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
    import papermill

    _check_parameters(notebook, parameters)
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    with store.atomic(output) as temporary:
        working = temporary.with_suffix(".ipynb")
        try:
            nbformat.write(chapter_without(notebook, without), working)
            papermill.execute_notebook(str(working), str(working), parameters=parameters, progress_bar=False,
                                       log_output=False, cwd=str(store.ROOT))
            check_executed(working)
            os.replace(working, temporary)
        except Exception as error:
            message = error if isinstance(error, JobError) else f"{type(error).__name__}: {_last_line(error)}"
            if working.exists():
                os.replace(working, failed)
            raise JobError(f"{message}\nThe notebook as far as it ran: {failed.name} beside {output.name}") from error
    return output


def chapter_without(notebook: Path, tags: Collection[str]) -> nbformat.NotebookNode:
    """The notebook without the cells that carry one of these tags."""
    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if not set(tags) & set(cell.metadata.get("tags", []))]
    return content


def _last_line(error: Exception) -> str:
    """What a failed cell said: the exception's own words where papermill knows them."""
    if hasattr(error, "ename"):
        return f"cell {error.exec_count} raised {error.ename}: {error.evalue}"
    return str(error)


def run_job(profile: Profile, rule: str, name: str) -> Path:
    """Do one job of the study and write its record; return the record's path."""
    start = time.monotonic()
    if rule in graph.NOT_CHAPTERS:
        made = graph.run_stage(profile, rule, name)
    else:
        output = store.ROOT / graph.executed(profile, rule, name)
        untrained = rule in graph.PAIR_CHAPTERS and profile.pair(name) in profile.analysis_pairs
        run_notebook(store.NOTEBOOKS / f"{rule}.ipynb", output, graph.parameters(profile, rule, name),
                     frozenset({"embedders"} if untrained else ()))
        made = {"notebook": output.name}
    return write_record(profile, rule, name, made, time.monotonic() - start)


def write_record(profile: Profile, rule: str, name: str, made: dict[str, str], seconds: float) -> Path:
    """Write a job's record: artefacts, wall time (s) and peak memory (MB) of this process and of its kernels."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes there, KiB elsewhere
    target = store.ROOT / graph.record(profile, rule, name)
    store.write_json(target, store.provenance(
        rule=rule, name=name, made=made, seconds=round(seconds, 1), peak_mb=round(peak / unit),
        fingerprint=graph.fingerprint(profile, rule), profile=profile.name,
    ))
    return target


def _said(error: Exception) -> str:
    """What went wrong, with what to do where the error itself does not say it (a missing file, a full disk)."""
    if isinstance(error, OSError) and error.filename:
        return (f"expected to read or write {error.filename}, got: {error.strerror}. Restore the file, or make room, "
                "and give the same command again")
    return str(error)


def main(arguments: list[str] | None = None) -> int:
    """Command line of one job; 0 when it succeeded, 1 with one message on stderr when not."""
    parser = argparse.ArgumentParser(description="Run one job of the study.")
    parser.add_argument("rule")
    parser.add_argument("name")
    parser.add_argument("--profile", required=True)
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        graph.needs(profile, options.rule, options.name)
    except ValueError as error:
        sys.stderr.write(f"hrsa: {error}\n")
        return 1
    return _attempt(profile, options.rule, options.name)


def _attempt(profile: Profile, rule: str, name: str) -> int:
    """Run a job with its progress and, if it fails, its message in files that the engine shows."""
    folder = store.RUNS / profile.name / "progress"
    folder.mkdir(parents=True, exist_ok=True)
    state, failure = folder / f"{rule}--{name}.json", folder / f"{rule}--{name}.failed"
    failure.unlink(missing_ok=True)
    os.environ.update({FILE_VARIABLE: str(state), **environment(profile)})
    try:
        follow_owner()
        run_job(profile, rule, name)
    except Exception as error:
        log.debug("job failed", exc_info=True)
        message = f"{rule} {name}: {_said(error)}"
        failure.write_text(message, encoding="utf8")
        sys.stderr.write(f"hrsa: {message}\n")
        return 1
    finally:
        state.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
