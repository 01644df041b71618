"""Killed jobs, full disks, folders that may not be written: one message, nothing half-written, and the same command
goes on."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from hrsa.report import plots
from hrsa.study import store
from hrsa.study.errors import GOES_ON
from hrsa.workflow.engine import OPTIONS, SNAKEMAKE, _reasons

JOB = """
import os, signal, sys, time
from pathlib import Path
from hrsa.study import store
from hrsa.texts import hard_negatives
from hrsa.workflow import commands, graph
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever started the tests may have had them ignored
    signal.signal(number, signal.SIG_DFL)
def build(folder):
    (folder / "half").write_text("1")
    print("writes", flush=True)
    time.sleep(float(sys.argv[1]))
def mined(profile):
    return store.make(store.artefact(profile.name, "texts", "triples", "0"), build, (store.make,))
hard_negatives.make_triples = mined
sys.exit(commands.main(["run", "mine", "study", "--profile", "smoke"]))
"""
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.fixture
def root(tmp_path):
    """The root of a study with a space and letters beyond ASCII in its path, that has a profile and nothing else."""
    root = tmp_path / "my stüdy 研究"
    (root / "notebooks" / "profiles").mkdir(parents=True)
    shutil.copy(store.NOTEBOOKS / "profiles" / "smoke.yaml", root / "notebooks" / "profiles")
    return root


def environment(root):
    return {name: value for name, value in os.environ.items() if name != "HRSA_OWNER"} | {"HRSA_ROOT": str(root)}


def job(root, seconds):
    return subprocess.Popen([sys.executable, "-c", JOB, str(seconds)], env=environment(root), **PIPES)


def test_a_killed_job_says_so_and_the_same_command_finishes_it(root):
    progress, made = root / "data/runs/smoke/progress", root / "data/runs/smoke/texts"
    ends = {signal.SIGKILL: "- mine study: expected it to end by itself, got killed", signal.SIGTERM:
            "- mine study: ended by SIGTERM"}
    for number, said in ends.items():
        with job(root, 60) as killed:
            assert killed.stdout.readline() == "writes\n"
            killed.send_signal(number)
            err = killed.communicate(timeout=30)[1]
        assert killed.returncode == (-number if number == signal.SIGKILL else 128 + number)
        assert err.count("hrsa: ") == (number != signal.SIGKILL) and "Traceback" not in err
        assert not (made / "triples-0").exists() and _reasons(progress, 1, "").startswith(said)
    assert _reasons(progress, -9, "") == f"{ends[signal.SIGTERM]}\n- Snakemake was ended by SIGKILL"
    with job(root, 0) as again:
        assert again.wait(timeout=60) == 0, again.stderr.read()
    assert [file.name for file in made.iterdir()] == ["triples-0"] and not list(progress.iterdir())
    assert (root / "data/runs/smoke/records/mine/study.json").is_file()


RULES = """
rule all:
    input: "records/02_texts/study.json", "records/mine/study.json"
rule:
    name: "02_texts"
    output: "records/02_texts/{name}.json"
    shell: "python -c 'import json; raise KeyboardInterrupt'"
rule:
    name: "mine"
    output: "records/mine/{name}.json"
    shell: "python -c 'import pakage'"
"""
TOLD = {  # what Snakemake is given -> what is said of it
    RULES: ["- 02_texts study: expected it to end by itself, got ended before it had begun by KeyboardInterrupt",
            "- mine study: expected it to end by itself, got ended before it had begun by ModuleNotFoundError: "
            "No module named 'pakage'"],
    "rule all:\n    input: 'x'\n": ["- Snakemake: MissingInputException in rule all in file"],
    "rule all:\n    shell: 'kill -TERM $PPID; sleep 1'\n": ["- Snakemake was asked to end before the study had"]}


@pytest.mark.parametrize(("rules", "expected"), TOLD.items())
def test_what_left_no_word_is_told_in_a_line(rules, expected, tmp_path):
    (tmp_path / "Snakefile").write_text(rules)
    done = subprocess.run([*SNAKEMAKE, "--cores", "1", *OPTIONS], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    said = _reasons(tmp_path / "progress", done.returncode, done.stdout).splitlines()
    assert len(said) == len(expected) and all(map(str.startswith, sorted(said), expected)), (said, done.stdout)


def test_an_interruption_while_the_command_loads_is_a_line(tmp_path):
    interrupted = "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / "typer.py").write_text(f"import os, signal, time\n{interrupted}\ntime.sleep(9)\n")
    done = subprocess.run([sys.executable, "-c", "import sys, hrsa.workflow as w; sys.exit(w.run_command())", "book"],
                          env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, f"hrsa: interrupted; {GOES_ON}")


WRITING = """
import resource, sys
from pathlib import Path
import numpy as np
import pandas as pd
from hrsa.analysis.recordings import _open_layers
from hrsa.study import store
from hrsa.study.errors import explained, is_expected
from hrsa.study.partial import Work
folder, limits = Path(sys.argv[1]), map(int, sys.argv[2:])  # bytes of a file, in turn; -1: any number
values = np.random.default_rng(0).random(300_000)
def states(temporary):
    for layer in _open_layers(temporary, 1, (1000, 600)):
        layer[:] = 1
writers = {
    "states": lambda: store.make(folder / "states-0", states, (store.make,)),
    "array": lambda: store.make(folder / "array-0", lambda made: np.save(made / "a.npy", values), (store.make,)),
    "table": lambda: store.write_table(folder / "table.parquet", pd.DataFrame({"a": values})),
    "json": lambda: store.write_json(folder / "x.json", values.tolist()),
    "sums": lambda: Work(folder / "work", saved=-9.0).save("sums", 1, {"a": values}, last=True)}
for most in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    for name, write in writers.items():
        try:
            write()
            print(name, "written")
        except Exception as error:
            assert is_expected(error)
            print(name, explained(error))
    print(*(file.relative_to(folder) for file in folder.rglob("*") if file.is_file()))
"""
PLACES = {"states-0/layer-00.npy", "array-0/a.npy", "table.parquet", "x.json", "work/sums.safetensors"}


def mounted(mount, folder, *command):
    """A command that sees something else mounted on `folder`, where the system lets every user do so for itself."""
    return ["unshare", "-rm", "sh", "-c", f"{mount} && exec \"$@\"", str(folder), *map(str, command)]


def may_mount():
    asked = mounted('mount -t tmpfs none "$0"', "/tmp", "true")
    return shutil.which("unshare") and subprocess.run(asked, capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason="users may mount nothing here, not even for themselves")


def lines(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


def lacks_room(said):
    return len(said) == 5 and all(" expected room on the disk" in line and "Make room" in line for line in said)


def test_a_file_that_has_no_room_is_one_message_and_leaves_nothing(tmp_path):
    said = lines(sys.executable, "-c", WRITING, str(tmp_path), "1000000", "-1")
    assert lacks_room(said[:5]) and said[5] == "", said
    assert [line.split()[1:] for line in said[6:11]] == [["written"]] * 5
    assert {name for name in said[11].split() if not name.endswith(store.PROVENANCE)} == PLACES


@needs_mount
def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path):
    writing = (sys.executable, "-c", WRITING, tmp_path, -1)
    said = lines(*mounted('mount -t tmpfs -o size=1m none "$0"', tmp_path, *writing))
    assert lacks_room(said[:5]) and said[5] == "", said


@needs_mount
def test_a_folder_that_may_not_be_written_is_one_message(root):
    command = (Path(sys.executable).with_name("hrsa"), "book", "--profile", "smoke")
    read_only = mounted('mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"', root, *command)
    done = subprocess.run(read_only, env=environment(root), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("hrsa: ") == 1 and "Traceback" not in done.stderr
    assert "my stüdy 研究" in done.stderr and "got: Read-only file system" in done.stderr


def test_the_soak_sees_a_file_that_was_cut_short(tmp_path, monkeypatch, rng):
    monkeypatch.syspath_prepend(str(store.ROOT / "benchmarks"))
    import faults

    table = pd.DataFrame({"a": rng.random(50), "seconds": rng.random(50)})
    table.to_parquet(tmp_path / "x.parquet")
    table.to_csv(tmp_path / "x.csv", index=False)
    np.save(tmp_path / "x.npy", table["a"])
    save_file({"a": table["a"].to_numpy()}, tmp_path / "x.safetensors")
    store.write_json(tmp_path / "x.json", [1])
    drawing = plots.scatter(table, "a", "seconds")
    (tmp_path / "x.svg").write_bytes(drawing.svg)
    (tmp_path / "x.png").write_bytes(drawing.png)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        assert faults.read(file) is not None
        file.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(Exception, match=r"\w"):
            faults.read(file)
    other = table.assign(seconds=0.0)
    assert faults.same(faults.untimed(table), faults.untimed(other))
    assert not faults.same(faults.untimed(table), faults.untimed(other.assign(a=other["a"] + 1e-16 + 1e-9)))
    said = faults.message("1 of 3 jobs done, 0.1 min | training\n\nhrsa: ended by SIGTERM\nThe report: x\n")
    assert said == "hrsa: ended by SIGTERM"


def test_make_that_is_ended_lets_its_command_say_so(tmp_path):
    waiting = tmp_path / "hrsa"
    waiting.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n"
                       "signal.signal(signal.SIGTERM, lambda *_: (sys.stderr.write('hrsa: ended\\n'), os._exit(143)))\n"
                       "print('waits', flush=True)\ntime.sleep(60)\n")
    waiting.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    command = ["make", "--no-print-directory", "-o", ".venv/installed", f"BIN={tmp_path}", "plan", "PROFILE=smoke"]
    with subprocess.Popen(command, cwd=store.ROOT, env=clean, **PIPES) as make:
        assert make.stdout.readline() == "waits\n"
        make.send_signal(signal.SIGTERM)
        assert make.communicate(timeout=20)[1].startswith("hrsa: ended\n")
