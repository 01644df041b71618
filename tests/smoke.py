"""The smoke study, run once for all tests that look at it, in a copy of the checkout."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from filelock import FileLock

from hrsa.study import store
from hrsa.study.profile import load_profile

SMOKE = load_profile("smoke")
COPIED = ("Snakefile", "notebooks", "data/suite", "data/backbones", "data/results", "jupyter_book")


def run_once(folder, seed):
    """The finished study of `folder`, and its report as it was when the study had ended, which stays as it is.

    Of several processes that ask, the first runs it and the others wait. On the way there the engine is killed without
    warning once. The study's path has a space and a letter beyond ASCII.
    """
    root, report = folder / "my stüdy", folder / "report"
    with FileLock(folder / "study.lock"):
        if not report.is_dir():
            _check_out(root)
            first = engine(root)
            time.sleep(random.Random(seed).uniform(15, 45))
            first.send_signal(signal.SIGKILL)
            first.communicate()
            deadline = time.time() + 20
            while alive(root) and time.time() < deadline:
                time.sleep(0.5)
            assert not alive(root), "jobs outlived the engine that owned them"
            finish(engine(root))
            shutil.copytree(root / "jupyter_book" / "_build" / "html", report)
    return root, report


def _check_out(root):
    """A copy of the sources, with Python, in which the study runs without touching the developer's own artefacts."""
    root.mkdir()
    (root / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name in COPIED:
        source = store.ROOT / name
        if source.is_dir():
            built = shutil.ignore_patterns("executed", "_build", ".ipynb_checkpoints")
            shutil.copytree(source, root / name, ignore=built)
        elif source.exists():
            shutil.copy(source, root / name)


def engine(root):
    """`hrsa book` of the study in `root`, as a process that goes on."""
    environment = {name: value for name, value in os.environ.items() if name != "HRSA_OWNER"}
    environment |= {"HRSA_ROOT": str(root), "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    command = [root / ".venv" / "bin" / "python", "-m", "hrsa.workflow.commands", "book", "--profile", "smoke"]
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Wait for an engine that must succeed; what it has said."""
    said = process.communicate()[1]
    assert process.returncode == 0, said[-4000:]
    return said


def alive(root):
    """Processes of the study in `root` that still run."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        environment = process.info["environ"] or {}
        if environment.get("HRSA_ROOT") == str(root) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
