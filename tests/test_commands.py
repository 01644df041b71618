"""The command `hrsa`: help, errors in one message, exit codes, completion in the shell, the Makefile's calls of it."""

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.main import get_command

from hrsa.study import store
from hrsa.workflow.commands import app, main, profile_names

HRSA = Path(sys.executable).with_name("hrsa")  # as it is installed
COMMANDS = {
    "book": {"--profile", "--cores"}, "run": {"--profile", "--gpus"},
    "compare": {"--a", "--b", "--texts", "--unit", "--max-length", "--out", "--cores"},
    "plan": {"--profile", "--tflops", "--tflops-fp32", "--gpus", "--gpu-memory"},
    "rehearse": {"--profile", "--cores", "--gpus", "--pair", "--workflow-profile"},
    "power": {"--profile", "--margin", "--tasks", "--seeds", "--queries", "--hours-of", "--tflops"},
    "evidence": {"--profile", "--share", "--source"}, "results": {"--profile", "--film", "--cores"}, "train": set(),
    "state": {"--profile"}, "ablations": {"--profile", "--cores", "--table"},
    "backbones": {"--profile", "--jobs", "--along"}, "untrained": set(),
    "paper-data": {"--profile", "--out"}, "share": {"--out"}}
TARGETS = {  # a target of the Makefile with its variables -> what it must give to hrsa
    "plan PROFILE=smoke": "plan --profile smoke",
    'rehearse PROFILE=paper PAIRS="one two"': "rehearse --profile paper --pair one --pair two",
    "book PROFILE=smoke CORES=3": "book --profile smoke --cores 3",
    "share": "share",
    'share PAGE=13_verdict OUT="a b.html"': 'share "13_verdict" --out "a b.html"',
    "compare A=one B=two TEXTS=file": 'compare --a "one" --b "two" --texts "file" --unit "word" --out "compare"',
    'power EVIDENCE="a.json b.json" MARGIN=0.03': "power a.json b.json --profile mini --margin 0.03",
    "power HOURS_OF=paper": "power --profile mini --hours-of paper",
    'evidence FILES="a.json b.json"': "evidence a.json b.json --profile mini",
    "evidence OUT=mine.json SOURCE=us": 'evidence --profile mini --share "mine.json" --source "us"',
    "results PROFILE=smoke": "results --profile smoke",
    """compare A='a b;"c"' B=two TEXTS=file LENGTH=9""": """compare --a 'a b;"c"' --b two --texts file --unit word """
                                                       "--out compare --max-length 9",
    "film CORES=1": "results --film --profile film --cores 1", "film PROFILE=mini": "results --film --profile mini",
    'ablations ONLY="causal full"': "ablations causal full --profile ablations",
    "ablations PROFILE=smoke CORES=1": "ablations --profile smoke --cores 1",
    'paper-data SETS="nq squad"': "paper-data nq squad",
    'backbones ARMS="base rlvr"': "backbones base rlvr"}


def test_these_are_the_commands():
    assert set(get_command(app).commands) == set(COMMANDS)


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS) and "--install-completion" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_names_its_options(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    found = {word.rstrip(".,") for word in printed.split() if word.startswith("--")}
    assert found - {"--help"} == COMMANDS[name]
    assert printed.startswith("Usage: hrsa " + name)


@pytest.mark.parametrize("arguments", [["plan", "--nothing"], ["nothing"], ["train"]])
def test_a_wrong_call_is_one_message_and_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Usage: hrsa" in said.err and said.err.count("Error") == 1


@pytest.mark.parametrize(("arguments", "expected"), [
    (["plan", "--profile", "none"], "expected a profile"),
    (["plan", "--gpus", "0"], "expected --gpus above 0 and finite, got 0"),
    (["power", "--seeds", "two"], "expected whole numbers above 0 with commas between them for --seeds, got 'two'"),
    (["plan", "--tflops", "nan"], "expected --tflops above 0 and finite, got nan"),
    (["power", "--margin", "0"], "expected --margin above 0 and below 1, got 0"),
    (["power", "--queries", "0,5"], "expected whole numbers above 0"),
    (["plan", "--profile", "007"], "expected a profile, one of"),
    (["plan", "--profile", "../profiles/smoke"], "expected a profile, one of"),
    (["plan", "--profile", "x" * 300], "expected a profile, one of"),
    (["book", "--profile", "smollm2-arms"], "expected seeds in profile smollm2-arms, got none"),
    (["evidence", "--share", "", "--profile", "smoke"], "a file to write evidence to, got the folder ."),
    (["evidence", "--share", "README.md", "--profile", "smoke"], "got README.md, which is something else: give"),
    (["compare", "--a", "x", "--b", "y", "--texts", "t", "--out", "."], "for the report, got"),
    (["compare", "--a", "x", "--b", "y", "--texts", "t", "--out", "README.md"], "which is something else: give"),
    (["evidence"], "expected either --share FILE or evidence files, got neither"),
    (["backbones", "nobody"], "expected arms of profile smollm2-arms"),
    (["run", "measure", "nobody", "--profile", "smoke"], "expected a job of profile smoke"),
    (["compare", "--a", "x", "--b", "y", "--texts", "none.txt"], "none.txt")])
def test_an_error_is_one_message_and_exit_code_1(arguments, expected, capsys):
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("hrsa: ") and expected in said.err
    assert "Traceback" not in said.err and said.err.count("hrsa: ") == 1


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
FRESH = """
import signal
for name in ("SIGINT", "SIGHUP"):  # whatever started the tests may have had them ignored
    signal.signal(getattr(signal, name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
HANGING = FRESH + """
import sys, time
from hrsa.workflow import commands
def wait(name):
    print("waits", flush=True)
    time.sleep(60)
commands.load_profile = wait
sys.exit(commands.main(["state", "--profile", "smoke"]))
"""


@pytest.mark.parametrize(("number", "said"), [
    (signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM"), (signal.SIGHUP, "ended by SIGHUP")])
def test_a_signal_is_one_message_and_ends_what_was_begun(number, said):
    code = HANGING.replace("time.sleep(60)", "import subprocess; subprocess.run(['sleep', '61'])")
    with subprocess.Popen([sys.executable, "-c", code], **PIPES) as run:
        assert run.stdout.readline() == "waits\n"
        time.sleep(0.3)
        [child] = psutil.Process(run.pid).children()
        run.send_signal(number)
        _, err = run.communicate(timeout=20)
    assert (run.returncode, err) == (
        128 + number, f"\nhrsa: {said}; what is finished stays. The same command goes on from here.\n")
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_second_signal_is_no_traceback():
    with subprocess.Popen([sys.executable, "-c", HANGING], **PIPES) as run:
        run.stdout.readline()
        for _ in range(5):
            run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=20)
    assert run.returncode == 130 and err.count("hrsa: interrupted") == 1 and "Traceback" not in err


ENGINE = FRESH + """
import sys
from hrsa.workflow import commands, engine
engine.SNAKEMAKE = [sys.executable, "-c", "import time; print('1 of 3 steps', flush=True); time.sleep(60)"]
sys.exit(commands.main(["book", "--profile", "smoke", "--cores", "1"]))
"""


@pytest.fixture
def started(tmp_path):
    """A function that starts the engine on a study in a folder, with a Snakemake that goes on for a minute."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    shutil.copy(store.NOTEBOOKS / "profiles" / "smoke.yaml", tmp_path / "notebooks" / "profiles")
    environment = {name: value for name, value in os.environ.items() if name != "HRSA_OWNER"}
    return lambda: subprocess.Popen([sys.executable, "-c", ENGINE], cwd=tmp_path, **PIPES, start_new_session=True,
                                    env=environment | {"HRSA_ROOT": str(tmp_path)})


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_an_engine_that_is_ended_takes_its_jobs_along_and_says_one_thing(started, tmp_path, number, said, send):
    with started() as run:
        assert "1 of 3 jobs done" in run.stderr.readline()
        [child] = psutil.Process(run.pid).children()
        send(run.pid, number)
        _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (
        128 + number, f"\nhrsa: {said}; what is finished stays. The same command goes on from here.\n")
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert "1 of 3 steps" in (tmp_path / "data" / "runs" / "smoke" / "snakemake.log").read_text()
    with started() as again:  # nothing is locked
        assert "1 of 3 jobs done" in again.stderr.readline()
        again.terminate()


def test_an_engine_whose_log_cannot_be_written_stops(started, tmp_path):
    (tmp_path / "data" / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "data" / "runs" / "smoke" / "snakemake.log").symlink_to("/dev/full")
    with started() as run:
        _, err = run.communicate(timeout=60)
    assert run.returncode == 1 and err.count("hrsa: ") == 1 and "Traceback" not in err
    assert "hrsa: expected room on the disk, got: No space left on device. Make room" in err


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.ENOSPC, "No space left on device", "data/x"), "expected room on the disk for data/x, got: No space"),
    (OSError(errno.ENOSPC, "No space left on device"), "expected room on the disk, got: No space"),
    (PermissionError(errno.EACCES, "Permission denied", "data/x"), "expected to read or write data/x, got: Permission"),
    (ModuleNotFoundError("No module named 'x'", name="x"), "expected the package x, got none: run `make setup`"),
    (MemoryError(), "expected more memory"), (RuntimeError("stop"), "stop"), (FloatingPointError("nan"), "nan"),
    (ValueError(), "ValueError"), (KeyError("a"), "KeyError: 'a'\nThis is a fault of the program. Where it arose: "),
    (TypeError("no"), "TypeError: no\nThis is a fault of the program. Where it arose: "),
    (RecursionError("deep"), "deep"), (UnicodeEncodeError("utf8", "\ud800", 0, 1, "no"), "'utf8' codec can't encode")])
def test_every_error_of_a_command_is_one_message(error, said, tmp_path, monkeypatch, capsys):
    def fails(name):
        raise error

    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    monkeypatch.setattr("hrsa.workflow.commands.load_profile", fails)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    assert main(["state"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hrsa: {said}") and "Traceback" not in err
    assert (tmp_path / "runs" / "traceback.txt").is_file() == ("fault of the program" in err)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(("output", "code", "said"), [
    (">/dev/full", 1, "hrsa: expected room on the disk, got: No space left on device. Make room"), ("| true", 0, "")])
def test_output_that_cannot_be_written_is_no_traceback(output, code, said):
    done = subprocess.run(f"{shlex.quote(str(HRSA))} state --help {output}", shell=True, capture_output=True, text=True,
                          check=False)
    assert done.returncode == code and done.stderr.startswith(said) and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_the_installed_command_has_no_traceback_either():
    done = subprocess.run([HRSA, "plan", "--profile", "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("hrsa: expected a profile")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("words", "expected"), [
    ("hrsa pl", {"plan"}), ("hrsa plan --gpu", {"--gpus", "--gpu-memory"}),
    ("hrsa plan --profile sm", {"smoke", "smollm2", "smollm2-arms", "smollm2-geometry", "smollm2-more"})])
def test_the_shell_completes(words, expected):
    asked = {"_HRSA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([HRSA], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == expected, done.stderr
    assert "smoke" in profile_names()


@pytest.mark.parametrize(("target", "expected"), TARGETS.items())
def test_the_makefile_calls_it(target, expected, tmp_path):
    recorder = tmp_path / "hrsa"
    recorder.write_text(f"#!{sys.executable}\nimport shlex, sys\nprint(shlex.join(sys.argv[1:]))\n")
    recorder.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    asked = subprocess.run(f"make --no-print-directory -o .venv/installed BIN={tmp_path} {target}", shell=True,
                           cwd=store.ROOT, capture_output=True, text=True, check=False, env=clean)
    assert asked.returncode == 0, asked.stderr
    assert shlex.split(asked.stdout.splitlines()[-1]) == shlex.split(expected)


def test_the_statement_is_recorded_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    assert main(["state", "--profile", "smoke"]) == 0 == main(["state", "--profile", "smoke"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("stated ") and "pairs base-vs-rlvr, base-vs-sft" in first
    assert len(store.read_json(tmp_path / "smoke" / "statements.json")) == 1
