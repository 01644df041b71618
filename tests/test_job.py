import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import psutil
import pytest

from hrsa.report import notebooks
from hrsa.study.runtime import COLLECTED
from hrsa.workflow import job as run

CELLS = '# %% tags=["parameters"]\nvalue = 1\n\n# %%\n'


def _notebook(folder, body):
    path = folder / "chapter.ipynb"
    notebook = jupytext.reads(CELLS + body, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    jupytext.write(notebook, path)
    return path


def test_a_notebook_runs_with_its_parameters_and_appears_whole(tmp_path):
    body = "import gc\nprint(value + 1, gc.get_threshold())"
    out = notebooks.run_notebook(_notebook(tmp_path, body), tmp_path / "out.ipynb", {"value": 41})
    cells = json.loads(out.read_text())["cells"]
    said = ["".join(o.get("text", "")) for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    assert said == [f"42 {COLLECTED}\n"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chapter.ipynb", "out.ipynb"]


def test_cells_with_a_tag_that_does_not_apply_are_left_out(tmp_path):
    notebook = _notebook(tmp_path, 'print("kept")\n\n# %% tags=["embedders"]\nraise ValueError("no embedders here")')
    out = notebooks.run_notebook(notebook, tmp_path / "out.ipynb", {}, frozenset({"embedders"}))
    assert "kept" in out.read_text() and "no embedders" not in out.read_text()
    with pytest.raises(notebooks.JobError, match="no embedders here"):
        notebooks.run_notebook(notebook, tmp_path / "all.ipynb", {})


def test_an_unknown_parameter_and_an_untagged_notebook_fail_before_anything_runs(tmp_path):
    with pytest.raises(notebooks.JobError, match=r"expected parameters among \['value'\], got \['valu'\]"):
        notebooks.run_notebook(_notebook(tmp_path, "1"), tmp_path / "out.ipynb", {"valu": 1})
    with pytest.raises(notebooks.JobError, match="expected a notebook"):
        notebooks.run_notebook(tmp_path / "nothing.ipynb", tmp_path / "out.ipynb", {})
    assert not (tmp_path / "out.ipynb").exists()


def test_a_failed_cell_fails_and_the_failed_notebook_survives(tmp_path):
    with pytest.raises(notebooks.JobError, match=r"raised ValueError: no such pair(.|\n)*out.failed.ipynb"):
        notebooks.run_notebook(_notebook(tmp_path, "raise ValueError('no such pair')"), tmp_path / "out.ipynb", {})
    assert not (tmp_path / "out.ipynb").exists()
    assert "no such pair" in (tmp_path / "out.failed.ipynb").read_text()


def test_a_dead_kernel_fails(tmp_path):
    with pytest.raises(notebooks.JobError):
        notebooks.run_notebook(_notebook(tmp_path, "import os; os.kill(os.getpid(), 9)"), tmp_path / "out.ipynb", {})
    assert not (tmp_path / "out.ipynb").exists()


def _cell(**changes):
    return {"cell_type": "code", "source": ["1"], "outputs": [], "execution_count": 1,
            "metadata": {"papermill": {"status": "completed"}}} | changes


@pytest.mark.parametrize("bad", [{"execution_count": None}, {"metadata": {}},
                                 {"outputs": [{"output_type": "error", "ename": "E", "evalue": "v"}]}])
def test_a_cell_that_did_not_finish_is_seen(tmp_path, bad):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": [_cell()]}))
    notebooks.check_executed(path)
    path.write_text(json.dumps({"cells": [_cell(), _cell(**bad)]}))
    with pytest.raises(notebooks.JobError, match=r"cell 1"):
        notebooks.check_executed(path)


def test_a_job_ends_with_its_owner(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"]) as owner:
        code = (
            "import subprocess, sys, time; from hrsa.workflow.job import follow_owner; follow_owner()\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])\n"
            "print(child.pid, flush=True); time.sleep(120)"
        )
        environment = {**os.environ, run.OWNER_VARIABLE: str(owner.pid)}
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as job:
            kernel = psutil.Process(int(job.stdout.readline()))
            owner.kill()
            owner.wait()
            assert job.wait(timeout=20) == 1
    deadline = time.time() + 10
    while kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE and time.time() < deadline:
        time.sleep(0.1)
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["measure", "base", "--profile", "nowhere"], "expected a profile"),
        (["07_cka", "a-vs-b", "--profile", "smoke"], "expected a job of profile smoke"),
        (["kneading", "base", "--profile", "smoke"], "expected a job of profile smoke"),
    ],
)
def test_the_command_line_fails_with_one_message(arguments, said):
    done = subprocess.run([Path(sys.executable).with_name("hrsa"), "run", *arguments],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_environment_keeps_offline_profiles_offline():
    from hrsa.study.profile import load_profile

    assert run.environment(load_profile("mini"))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in run.environment(load_profile("paper"))
    assert Path(sys.executable).exists()


def test_a_job_keeps_the_memory_of_its_arrays():
    from hrsa.study.profile import load_profile

    script = ("import resource, numpy as np; before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
              "for _ in range(20): np.full(8_000_000, 1.0)\n"
              "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)")
    kept, usual = (int(subprocess.run([sys.executable, "-c", script], env={**os.environ, **more}, text=True, check=True,
                                      capture_output=True).stdout)
                   for more in (run.environment(load_profile("smoke")), {}))
    assert kept < usual / 5, "pages that the system had to give"


def test_nothing_is_looked_through_when_a_process_ends():
    script = ("class Ring:\n    def __del__(self): print('looked through')\n"
              "ring = Ring(); ring.itself = ring; del ring")
    said = [subprocess.run([sys.executable, "-c", begin + script], text=True, check=True, capture_output=True).stdout
            for begin in ("", "from hrsa.study.runtime import spare_collector; spare_collector()\n")]
    assert said == ["looked through\n", ""]


def test_a_missing_file_and_a_full_disk_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "tasks.json").read_text(encoding="utf8")
    said = run.explained(missing.value)
    assert re.match(r"expected to read or write .*tasks.json, got: No such file.* Restore the file", said)
    full = OSError(28, "No space left on device", str(tmp_path / "x"))
    assert "No space left on device" in run.explained(full) and "Make room" in run.explained(full)
    assert run.explained(ValueError("expected a, got b")) == "expected a, got b"


def test_a_job_loads_what_it_needs_and_no_more():
    code = ("import sys; import hrsa.workflow.job; print({'torch', 'sentence_transformers', 'nbformat', 'papermill', "
            "'pandas', 'scipy', 'pyarrow'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"  # 7 s of imports that the job of a chapter leaves to its kernel
