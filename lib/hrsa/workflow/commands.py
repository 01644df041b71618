"""The command `hrsa`: what each of its subcommands takes, does and prints.

`hrsa --help` lists them, `hrsa COMMAND --help` says what one takes, `hrsa --install-completion` teaches the shell to
complete them. An error is one message and exit code 1; a signal is one message and 128 and its number. Libraries are
imported by the command that needs them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hrsa.study import runtime, store
from hrsa.study.errors import GOES_ON, SignalError, explained, is_expected
from hrsa.study.profile import load_profile

log = logging.getLogger(__name__)
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Does a reasoning LLM make a better embedding model than its base? The study's commands.")


def profile_names() -> list[str]:
    """Names that `--profile` completes to: the files of notebooks/profiles/."""
    return sorted(file.stem for file in (store.NOTEBOOKS / "profiles").glob("*.yaml"))


ProfileOption = Annotated[str, typer.Option("--profile", autocompletion=profile_names,
                                            help="A file of notebooks/profiles/, by its name.")]
Cores = Annotated[int, typer.Option(min=0, help="Jobs at a time; 0 is as many as there are cores.")]


@app.command()
def book(profile: ProfileOption = "mini", cores: Cores = 0) -> None:
    """Run what is missing of a study and build its report."""
    from hrsa.report import chapters
    from hrsa.workflow import engine

    study = load_profile(profile)
    engine.run_study(study, cores or _cores())
    target = store.ROOT / chapters.record(study, "book", "study")
    sys.stderr.write(f"The report: {os.path.relpath(target.with_name('index.html'))}\n")


@app.command()
def run(rule: str, name: str, profile: ProfileOption = "mini",
        gpus: Annotated[int, typer.Option(min=0, help="Graphics cards to wait for and hold while the job runs.")] = 0
        ) -> None:
    """Run one job of a study, as the Snakefile does: a rule (measure, 07_cka, ...) and what it is run for."""
    from hrsa.workflow import graph, job
    from hrsa.workflow.gpus import hold_cards

    study = load_profile(profile)
    graph.needs(study, rule, name)
    with hold_cards(gpus):
        raise typer.Exit(job.attempt(study, rule, name))


@app.command()
def compare(a: Annotated[str, typer.Option(help="Folder or hub name of a model.")],
            b: Annotated[str, typer.Option(help="That of the other.")],
            texts: Annotated[Path, typer.Option(help=".txt (a text a line), .jsonl, .parquet (column text).")],
            unit: Annotated[str, typer.Option(help="What is compared: token, word or text.")] = "word",
            max_length: Annotated[int, typer.Option(help="Words of a text (tokens for unit token).")] = 64,
            out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("compare"),
            cores: Cores = 0) -> None:
    """Compare any two models on a file of texts: chapters 05 to 09 as a report of their own."""
    from hrsa.workflow.compare_two import book_command, check_place, profile_of, write_study

    check_place(out.resolve())
    study, front, tags = profile_of(a, b, texts, unit, max_length)
    write_study(out.resolve(), study, front, tags)
    command, environment = book_command(out.resolve(), study, cores)
    with subprocess.Popen(command, env=environment) as child:
        try:
            child.wait()
        except SignalError as end:  # that process says so
            child.send_signal(end.number)
    raise typer.Exit(child.returncode if child.returncode >= 0 else 128 - child.returncode)


@app.command()
def plan(profile: ProfileOption = "mini",
         tflops: Annotated[float | None, typer.Option(help="Sustained in training; else 120 in bf16, 0.1 a CPU "
                                                      "thread.")] = None,
         tflops_fp32: Annotated[float | None, typer.Option(help="Sustained in float32; else 12 on a GPU.")] = None,
         gpus: Annotated[int | None, typer.Option(help="That share a training run by FSDP; else 4.")] = None,
         gpu_memory: Annotated[float | None, typer.Option(help="GB of one GPU; else 44.")] = None) -> None:
    """Print the graph of a study, its runs and what each stage costs; runs nothing."""
    from hrsa.workflow.plan import assumed_machine, plan_text

    for name, value in (("tflops", tflops), ("tflops-fp32", tflops_fp32), ("gpus", gpus), ("gpu-memory", gpu_memory)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"expected --{name} above 0 and finite, got {value}")
    study = load_profile(profile)
    sys.stdout.write(plan_text(study, assumed_machine(study, tflops, tflops_fp32, gpus, gpu_memory)))


@app.command()
def rehearse(profile: ProfileOption = "mini", cores: Cores = 0,
             gpus: Annotated[int | None, typer.Option(help="That share a training run by FSDP; else 1.")] = None,
             pairs: Annotated[list[str] | None, typer.Option("--pair", help="Only this pair, and what it needs; may be "
                                                            "given several times.")] = None,
             workflow_profile: Annotated[Path | None, typer.Option(help="Of Snakemake, for a cluster, such as "
                                                                   "configs/snakemake/slurm.")] = None) -> None:
    """Run every job of a study in small, and print what would fail, and what the whole costs on this machine."""
    from hrsa.workflow.rehearsal.rehearse import run_rehearsal

    text, fails = run_rehearsal(load_profile(profile), cores or _cores(), gpus, pairs or (), workflow_profile)
    sys.stdout.write(text)
    raise typer.Exit(1 if fails else 0)


@app.command()
def power(files: Annotated[list[Path] | None, typer.Argument(help="Evidence files to plan from, in place of the "
                                                             "profile's own run.")] = None,
          profile: ProfileOption = "mini",
          margin: Annotated[float | None, typer.Option(help="In score points of 1; else the profile's.")] = None,
          tasks: Annotated[int | None, typer.Option(help="Of the study planned; else as many as were scored.")] = None,
          seeds: Annotated[str, typer.Option(help="Numbers of seeds to plan for.")] = "2,3,5,8,12,20",
          queries: Annotated[str, typer.Option(help="Numbers of queries per task.")] = "100,400,1600",
          hours_of: Annotated[str | None, typer.Option(help="A profile: its training in GPU-hours, estimated, in place "
                                                       "of the hours measured here.")] = None,
          tflops: Annotated[float, typer.Option(help="Sustained, for --hours-of.")] = 120.0) -> None:
    """Print the seeds, queries and hours that prove a margin, for every pair, from the scores that are there."""
    from hrsa.verdict import paired_scores
    from hrsa.verdict.evidence import join_evidence
    from hrsa.workflow.plan import pair_hours, power_text

    sizes = _numbers(seeds, "--seeds"), _numbers(queries, "--queries")
    for option, value, most in (("--margin", margin, 1), ("--tasks", tasks, 10**6), ("--tflops", tflops, 10**9)):
        if value is not None and not 0 < value < most:
            raise ValueError(f"expected {option} above 0 and below {most:,}, got {value}")
    study = load_profile(profile)
    per_query = join_evidence(files)[0] if files else paired_scores.read_query_scores(study)[0]
    hours, kind = paired_scores.hours_per_seed(study), "training and scoring both arms, measured here"
    if hours_of:
        hours = pair_hours(load_profile(hours_of), tflops)
        kind = f"GPU-hours, at most, to train both arms of {hours_of}'s largest pair at {tflops:g} TFLOP/s"
    for pair in study.pairs:
        sys.stdout.write(power_text(study, pair, per_query, margin or study.verdict.margin, tasks, sizes, hours))
    sys.stdout.write(f"Power: the chance to prove the margin if there is no difference. Hours: {kind}.\n")


@app.command()
def evidence(files: Annotated[list[Path] | None, typer.Argument(help="Evidence files to join and judge.")] = None,
             profile: ProfileOption = "mini",
             share: Annotated[Path | None, typer.Option(help="File to write the scores of this run to.")] = None,
             source: Annotated[str, typer.Option(help="Who shares: machine or laboratory.")] = "unnamed") -> None:
    """Write a run's scores to a file for others (--share), or print the verdict of files joined."""
    from hrsa.report.prose import verdict
    from hrsa.verdict import evidence as stored
    from hrsa.verdict import synthesis

    if (share is None) == (not files):
        raise ValueError(f"expected either --share FILE or evidence files, got {'both' if files else 'neither'}")
    study = load_profile(profile)
    if share:
        sys.stdout.write(f"wrote {stored.share_evidence(study, share, source)}\n")
        return
    pool = stored.pool_evidence(study, files)
    table = synthesis.score_verdicts(pool.per_query, pool.families, study.pairs, pool.seeds,
                                     **study.verdict.model_dump())
    sys.stdout.write(f"{pool.sources.to_string(index=False)}\n\n{verdict.evidence_sources(pool, study.seeds)}\n\n"
                     f"{verdict.verdict_lines(table)}\n{verdict.families_agree(table)}\n")


@app.command()
def state(profile: ProfileOption = "mini") -> None:
    """Record what a study states before its first score, where `book` is not what starts it (a cluster)."""
    from hrsa.verdict.statement import record_statement

    stated = record_statement(load_profile(profile))[-1]
    sys.stdout.write(f"stated {stated['hash']} on {stated['written']}: margin {stated['margin']:g}, seeds "
                     f"{', '.join(map(str, stated['seeds']))}, pairs {', '.join(stated['family'])}\n")


@app.command()
def results(profile: ProfileOption = "mini",
            film: Annotated[bool, typer.Option("--film", help="Similarities over the steps of training instead; trains "
                                               "what is missing.")] = False, cores: Cores = 0) -> None:
    """Write the tables of a finished run to data/results/, ready to commit."""
    from hrsa.report import chapters
    from hrsa.report import results as made
    from hrsa.workflow import engine

    study = load_profile(profile)
    if film:
        trained = [chapters.record(study, "03_training", name) for name in chapters.jobs(study)["03_training"]]
        engine.run_study(study, cores or _cores(), trained)
    log.info("written: %s", (made.make_film if film else made.make_results)(study).relative_to(store.ROOT))


@app.command()
def ablations(names: Annotated[list[str] | None, typer.Argument(help="Rows; all when none is named.")] = None,
              profile: ProfileOption = "ablations", cores: Cores = 0,
              table: Annotated[bool, typer.Option("--table", help="Only write the table of what is finished.")] = False,
              ) -> None:
    """Change one part of the recipe at a time, for both arms: cost, runs, and a table in data/results/."""
    from hrsa.workflow import ablations as rows_of
    from hrsa.workflow import engine

    study = load_profile(profile)
    rows = rows_of.selected_rows(study, names or [])
    sys.stderr.write(f"{rows_of.cost(study, rows)}\n")
    for at, row in () if table else enumerate(rows, 1):
        log.info("row %d of %d: %s", at, len(rows), row.name)
        engine.run_study(study, cores or _cores(), rows_of.records_of(study, row))
    done, missing = rows_of.write_finished(study)
    log.info("written: data/results/ablations.parquet, done: %s; not done: %s", ", ".join(done),
             ", ".join(missing) or "none")


@app.command()
def train(profile: Annotated[str, typer.Argument(help="Name in notebooks/profiles/, or a .yaml file.")],
          model: Annotated[str, typer.Argument(help="Embedder, such as base-s0.")]) -> None:
    """Train one embedder: as one process, or as one of those that accelerate or torchrun started."""
    from hrsa.training import distributed
    from hrsa.training.train import train_embedder
    from hrsa.workflow.job import follow_owner

    follow_owner()
    distributed.start()
    folder = train_embedder(load_profile(profile), model)
    if distributed.rank() == 0:
        log.info("trained: %s", folder)


@app.command()
def backbones(arms: Annotated[list[str] | None, typer.Argument(help="Arms of the profile; all when none is named.")]
              = None, profile: ProfileOption = "smollm2-arms",
              jobs: Annotated[int, typer.Option(min=0, help="Arms at a time; 0 is as many as the cores carry.")] = 0,
              along: Annotated[bool, typer.Option("--along", help="Measure RLVR arms on their way instead.")] = False,
              ) -> None:
    """Make the shipped backbones again and write them, with their cards, to data/backbones/."""
    from hrsa.models.zoo.ship import ship
    from hrsa.workflow.along_rl import make_along

    study = load_profile(profile)
    if along:
        return log.info("written: %s", make_along(study).relative_to(store.ROOT))
    known = [backbone.name for backbone in study.backbones]
    if unknown := sorted(set(arms or ()) - set(known)):
        raise ValueError(f"expected arms of profile {study.name}, {known}, got {unknown}")
    ship(study, arms or known, jobs or max(1, _cores() // study.threads))


@app.command()
def paper_data(names: Annotated[list[str] | None, typer.Argument(help="Sets; all eleven when none is named.")] = None,
               profile: ProfileOption = "paper",
               out: Annotated[Path | None, typer.Option(help="Folder of the sets; else data/paper.")] = None) -> None:
    """Make the published training sets from public data sets of the hub, with a data card; goes on set by set."""
    from hrsa.report.prose.texts import published_sets_card
    from hrsa.texts import published_sets

    study, folder = load_profile(profile), out or store.ROOT / published_sets.SETS_FOLDER
    for name in names or published_sets.read_published_sets():
        made = published_sets.make_published_set(study, name, folder)
        log.info("%s: %d triples of %d published", name, made["triples"], made["entry"]["published"])
    cards = [store.read_json(file) for name in published_sets.read_published_sets()
             if (file := folder / f"{name}.json").is_file()]
    with store.atomic(folder / "README.md") as temporary:
        temporary.write_text(published_sets_card(cards), encoding="utf8")


@app.command()
def share(page: Annotated[str, typer.Argument(help="A page, such as 13_verdict; the whole report when none.")] = "",
          out: Annotated[Path | None, typer.Option(help="Else PAGE.html, or report.pdf.")] = None) -> None:
    """A page of the built report as one HTML file that needs no other, or all of it as a PDF, printed by Chromium."""
    from hrsa.report.book.share import print_report, write_page

    log.info("written: %s", write_page(page, out or Path(f"{page}.html")) if page else
             print_report(out or Path("report.pdf")))


@app.command()
def untrained(profile: Annotated[str, typer.Argument(help="Name in notebooks/profiles/, or a .yaml file.")],
              names: Annotated[list[str] | None, typer.Argument(help="Backbones; all when none is named.")] = None
              ) -> None:
    """Measure, score and compare backbones before contrastive training, into data/results/."""
    from hrsa.workflow.untrained import make_untrained_results, selected_backbones

    log.info("written: %s", make_untrained_results(selected_backbones(load_profile(profile), names or []), profile))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit code: 0, 1 with one message on stderr, 2 when it was called wrongly, 128 and the
    number of the signal that ended it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        with _signals():
            try:
                return _called(arguments)
            except SignalError as end:
                return _ended(end.number)
    except Exception as error:
        if not isinstance(error, BrokenPipeError):  # who read the output has gone, and wants no more
            sys.stderr.write(f"hrsa: {explained(error)}{_where(error)}\n")
        with contextlib.suppress(OSError, ValueError):  # what could not be printed is not tried again at the end
            if isinstance(error, OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _called(arguments: Sequence[str] | None) -> int:
    """The exit code of a subcommand whose output is out."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="hrsa")
    except SystemExit as end:
        sys.stdout.flush()
        return end.code
    raise AssertionError("expected the command to end by an exit code")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP as a SignalError of this process; children that it forks keep the usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own, wanted = os.getpid(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, frame: Any) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in wanted:
            signal.signal(each, signal.SIG_IGN)  # one is enough: what it began is ended below
        raise SignalError(number)

    before = {each: signal.getsignal(each) for each in wanted}
    for each in wanted:
        if before[each] is not signal.SIG_IGN:  # under nohup
            signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _ended(number: int) -> int:
    """End what this process began, say so in a line, and return the exit code."""
    from hrsa.workflow.job import kill_children

    kill_children()
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    with contextlib.suppress(OSError):  # the terminal may have gone
        sys.stderr.write(f"\nhrsa: {how}; {GOES_ON}\n")
    return 128 + number


def _where(error: Exception) -> str:
    """For an error that nobody foresaw: where its traceback was written to."""
    if is_expected(error):
        return ""
    file = store.RUNS / "traceback.txt"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf8")
        return f"\nThis is a fault of the program. Where it arose: {file}"
    return ""


def _cores() -> int:
    import joblib

    return joblib.cpu_count()


def _numbers(text: str, option: str) -> list[int]:
    """`2,3,5` as numbers."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"expected whole numbers above 0 with commas between them for {option}, got {text!r}")
    return numbers


if __name__ == "__main__":  # as torchrun and accelerate start it
    runtime.spare_collector()
    sys.exit(main())
