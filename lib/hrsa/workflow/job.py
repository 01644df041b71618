"""Run one job of the study: a notebook, strictly, or a stage; leave a record when it has succeeded.

papermill only warns about a parameter that a notebook does not have, and can call a cell of a dead kernel completed.
Here both fail. An executed notebook is renamed to its place only when it is whole; a failed one stays beside it
as `<name>.failed.ipynb`, to be opened and read.

`hrsa run RULE NAME --profile PROFILE` is what the Snakefile calls.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from hrsa.report import chapters
from hrsa.report.chapters import groups
from hrsa.report.notebooks import HASH, JobError, run_notebook
from hrsa.study import hub, store
from hrsa.study.errors import SignalError, explained
from hrsa.study.profile import Profile
from hrsa.study.progress import FILE_VARIABLE
from hrsa.workflow import graph
from hrsa.workflow.graph import NOT_CHAPTERS

OWNER_VARIABLE = "HRSA_OWNER"  # process without which a job must not go on: the engine that started it
TRAINING = ("03_training", "embedder")  # rules whose jobs train an embedder
FAILED, BEGUN = ".failed", ".begun"  # endings of a job's files: why it failed; that it has begun, gone when it ends
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# of glibc: blocks below 1 GiB come from memory that the process keeps. Else every large array is asked of the system
# anew, cleared by it and given back, which took a sixth of a study's processor time. It is read when a process starts:
# the engine gives it to jobs, a job to its kernel.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
log = logging.getLogger(__name__)


def uses_hub(profile: Profile) -> bool:
    """Whether anything of a profile comes from the hub: backbones, training pairs, the reference embedder, tasks."""
    suite = profile.suite
    return bool(suite.benchmarks or any(b.source == "hub" for b in profile.backbones)
                or any(name.startswith("hub:") for name in suite.train) or hub.is_on_hub(suite.mining.embedder))


def environment(profile: Profile) -> dict[str, str]:
    """Environment variables of a job: threads, quiet libraries, memory that is kept, no look at the hub when nothing
    comes from it."""
    online = uses_hub(profile)
    threads = str(profile.threads)
    return {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "MPLBACKEND": "agg",
        "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore:IProgress not found", **KEEP_MEMORY,
        **({} if online else OFFLINE),
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


def run_job(profile: Profile, rule: str, name: str) -> Path:
    """Do one job of the study and write its record; return the record's path."""
    start = time.monotonic()
    if rule in TRAINING and profile.processes > 1:
        train_together(profile, name)
    if rule in graph.NOT_CHAPTERS:
        made = run_stage(profile, rule, name)
    else:
        output = store.ROOT / chapters.executed(profile, rule, name)
        untrained = rule in chapters.PAIR_CHAPTERS and profile.pair(name) in profile.analysis_pairs
        run_notebook(store.NOTEBOOKS / f"{rule}.ipynb", output, graph.parameters(profile, rule, name),
                     chapters.cells_left_out(profile, rule) | ({"embedders"} if untrained else set()))
        made = {"notebook": output.name, HASH: store.file_hash(output)}
    return write_record(profile, rule, name, made, time.monotonic() - start)


def train_together(profile: Profile, model_id: str) -> None:
    """Train an embedder by `profile.processes` processes of this machine, which torchrun starts, watches and ends.

    Each is `hrsa train`; what they train is there for the job to find. Raises JobError with what the first that failed
    has said.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
               "--nproc-per-node", str(profile.processes), "-m", "hrsa.workflow.commands", "train", profile.name,
               model_id]
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, OWNER_VARIABLE: str(os.getpid())}) as child:
        for line in child.stderr:
            sys.stderr.write(line)
            said.append(line)
    if child.returncode:
        own = [line.removeprefix("hrsa: ").strip() for line in said if line.startswith("hrsa: ")]
        raise JobError(f"expected {profile.processes} process(es) to train {model_id}, got: "
                       f"{own[0] if own else ''.join(said)[-2000:]}")


def write_record(profile: Profile, rule: str, name: str, made: dict[str, str], seconds: float) -> Path:
    """Write a job's record: artefacts, wall time (s) and peak memory (MB) of this process and of its kernels."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes there, KiB elsewhere
    target = store.ROOT / chapters.record(profile, rule, name)
    store.write_json(target, store.provenance(
        rule=rule, name=name, made=made, seconds=round(seconds, 1), peak_mb=round(peak / unit),
        fingerprint=graph.job_fingerprint(profile, rule), profile=profile.name,
    ))
    return target


def attempt(profile: Profile, rule: str, name: str) -> int:
    """Run a job with its progress and, if it fails, its message in files that the engine shows: 0, or 1.

    A job that is killed leaves the file that says it has begun.
    """
    folder = store.RUNS / profile.name / "progress"
    folder.mkdir(parents=True, exist_ok=True)
    state, failure = folder / f"{rule}--{name}.json", folder / f"{rule}--{name}{FAILED}"
    failure.unlink(missing_ok=True)
    begun = failure.with_suffix(BEGUN)
    begun.write_text(f"{rule} {name}", encoding="utf8")
    os.environ.update({FILE_VARIABLE: str(state), **environment(profile)})
    try:
        follow_owner()
        run_job(profile, rule, name)
    except Exception as error:
        log.debug("job failed", exc_info=True)
        message = f"{rule} {name}: {explained(error)}"
        failure.write_text(message, encoding="utf8")
        sys.stderr.write(f"hrsa: {message}\n")
        return 1
    except SignalError as end:
        failure.write_text(f"{rule} {name}: ended by {signal.Signals(end.number).name}", encoding="utf8")
        raise
    finally:
        state.unlink(missing_ok=True)
        begun.unlink(missing_ok=True)
    return 0


def run_stage(profile: Profile, rule: str, name: str) -> dict[str, str]:
    """Do one job that is not a notebook; return the names of the artefacts it made."""
    if rule == "book":
        from hrsa.report.book import report

        return {"html": str(report.build(profile)).removeprefix(f"{store.ROOT}/")}
    from hrsa.analysis import recordings
    from hrsa.evaluation import evaluate
    from hrsa.models import resolve
    from hrsa.texts import hard_negatives
    from hrsa.training import train

    if rule == "backbone":
        folder = str(resolve.make_backbone_folder(profile, name)).removeprefix(f"{store.ROOT}/")
        from_hub = profile.backbone(name).source == "hub"
        return {"backbone": resolve.make_backbone_key(profile, name) if from_hub else folder}
    if rule == "mine":
        return {"triples": hard_negatives.make_triples(profile).name}
    if rule == "embedder":
        return {"embedder": train.train_embedder(profile, name).name}
    if rule == "measure":
        made = {}
        for id in groups(profile)[name]:
            if profile.chapters is None:
                made[f"evaluation of {id}"] = evaluate.evaluate_model(profile, id).name
            if id != "bm25":
                made[f"states of {id}"] = recordings.make_recording(profile, id).name
                for step in recordings.checkpoints_of(profile, id):
                    made[f"states of {id}, step {step}"] = recordings.make_recording(profile, id, step).name
        return made
    raise ValueError(f"expected one of the stages {NOT_CHAPTERS}, got {rule!r}")
