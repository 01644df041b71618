"""Every task of the published benchmarks by name: through the study's own evaluation, from a hub on loopback.

    python benchmarks/benchmark_tasks.py [--only STS12,XNLI] [--kept FOLDER] [--write docs/benchmark_tasks.md]

The benchmarks are those that profile `paper` names. For each of their tasks the hub (tests/hub.py) holds a few rows
under the name, revision and layout that mteb asks for; the real mteb loads them, `capped` takes a few texts, a model of
random weights embeds them, and `run_task` scores them with a value for each item, whose mean must be mteb's score. What
`--kept` holds is not run again. One thread, one process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hrsa.study import store
from hrsa.study.profile import load_profile

sys.path.insert(0, str(store.ROOT / "tests"))
PAPER = "paper"
SMALL = {"max_docs": 6, "max_queries": 2, "max_subsets": 2}
HEADER = "| task | benchmark | kind | shape | subsets | values | outcome |"
PAGE = """# Tasks of the published benchmarks

Printed by `python benchmarks/benchmark_tasks.py --write docs/benchmark_tasks.md`, and by no hand, with mteb {version};
a test checks that every task is here, and that two drawn by chance still are what their rows say.

Profile `{paper}` names {benchmarks}.
Each of their {tasks} tasks is asked for by name from a hub on loopback that holds a few rows in the task's own layout,
and scored with a model of random weights. `works`: mteb gives a score, and the values of its items average to it.
Values: one an item (a query, a pair, a sample of a classifier or of a clustering), or one a subset where mteb's measure
is of all items together. Else the outcome is the reason for which a study stops at the task; `suite.benchmark_tasks` in
a profile leaves it out.

| kind | tasks | work |
|---|--:|--:|
{kinds}

{header}
|---|---|---|---|--:|---|---|
{rows}
"""


@lru_cache
def published(names: tuple[str, ...]) -> dict[str, tuple[Any, str]]:
    """The tasks of mteb's benchmarks of these names: name -> task, the first benchmark that has it."""
    import mteb

    found: dict[str, tuple[Any, str]] = {}
    for name in names:
        for task in mteb.get_benchmark(name).tasks:
            found.setdefault(task.metadata.name, (task, name))
    return found


def shape(task: Any) -> str:
    """The kind of task as mteb's code has it, without the words that all have."""
    bases = [c.__name__ for c in type(task).__mro__ if c.__module__.startswith("mteb.abstasks")]
    return next(name for name in bases if name.startswith("AbsTask")).removeprefix("AbsTask")


def outcome(hub: Any, name: str, model: Any, work: Path) -> list[str]:
    """How values are counted, and `works` or why not, of a task that the hub is given first."""
    from hub_tasks import publish

    from hrsa.evaluation.encoder import InstructedEncoder, model_meta
    from hrsa.evaluation.evaluate import run_task
    from hrsa.evaluation.tasks import study_tasks

    paper = load_profile(PAPER)
    suite = paper.suite.model_copy(update=SMALL | {"benchmark_tasks": (name,)})
    try:
        publish(hub, published(paper.suite.benchmarks)[name][0])
        (task,) = study_tasks(paper.model_copy(update={"suite": suite}))
        _, values = run_task(InstructedEncoder(model, model_meta("tiny", "1"), "bidirectional", "generic"), task, work)
    except Exception as error:
        said = " ".join(str(error).partition(" failed on ")[2].partition(": ")[2].split()) or repr(error)
        return ["", said.partition(". No score was kept")[0].replace("|", "\\|")[:160]]
    return ["a subset" if all(key.rpartition("/")[2] == "all" for key in values) else "an item", "works"]


def row(name: str, found: list[str]) -> list[str]:
    """The cells of a task's line."""
    task, benchmark = published(load_profile(PAPER).suite.benchmarks)[name]
    return [name, benchmark, task.metadata.type, shape(task), f"{len(task.hf_subsets):,}", *found]


def page(rows: list[list[str]]) -> str:
    """The page of docs: how many work by kind, and the table."""
    from importlib import metadata

    rows = sorted(rows, key=lambda cells: (cells[2], cells[0]))
    all_, work = Counter(r[2] for r in rows), Counter(r[2] for r in rows if r[-1] == "works")
    kinds = "\n".join(f"| {kind} | {count} | {work[kind]} |" for kind, count in sorted(all_.items()))
    names = load_profile(PAPER).suite.benchmarks
    return PAGE.format(version=metadata.version("mteb"), tasks=len(rows), paper=PAPER, header=HEADER, kinds=kinds,
                       benchmarks=f"{', '.join(names[:-1])} and {names[-1]}",
                       rows="\n".join(f"| {' | '.join(cells)} |" for cells in rows))


def read_page(text: str) -> dict[str, list[str]]:
    """The rows of a page that `page` made, by task."""
    lines = text.split(HEADER)[1].strip().splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {cells[0]: cells for cells in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names with commas between them; otherwise all")
    parser.add_argument("--kept", type=Path, help="folder of what was judged; otherwise a new one")
    parser.add_argument("--write", type=Path, help="the page to write")
    options = parser.parse_args()
    kept = options.kept or Path(tempfile.mkdtemp())
    kept.mkdir(parents=True, exist_ok=True)
    from hub import serving

    with serving() as hub:
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(kept / "hub")}
        warnings.simplefilter("ignore")
        from tiny import tiny_backbone

        from hrsa.evaluation.evaluate import TASK_LOGGERS
        from hrsa.models.embedder import assemble
        from hrsa.study.runtime import quiet

        tasks, rows = published(load_profile(PAPER).suite.benchmarks), []
        model = assemble(str(tiny_backbone(kept / "tiny", 0)), "bidirectional", 128)
        with quiet(*TASK_LOGGERS):
            for name in options.only.split(",") if options.only else sorted(tasks):
                file = kept / f"{name}.json"
                if not file.is_file():
                    store.write_json(file, outcome(hub, name, model, kept / "work"))
                rows.append(row(name, store.read_json(file)))
                sys.stdout.write(f"{' | '.join(rows[-1])}\n")
                sys.stdout.flush()
    if options.write:
        options.write.write_text(page(rows), encoding="utf8")


if __name__ == "__main__":
    main()
