# The study as a graph: one rule per kind of job. What the jobs are, what each needs and the hash of the code and
# settings it depends on come from hrsa.workflow.graph, so that the graph and the code cannot disagree.
#
#   make book PROFILE=mini        runs it here
#   make plan PROFILE=paper       prints it
#
# Guards: records are small and written atomically by the job itself after success; executed notebooks are kept
# apart from the outputs, so a failed one survives; checkpoints live in data/runs/ beside the artefacts; inputs are
# the py:percent sources; `params.fingerprint` makes changed code or settings run again.
#
# Jobs that run a model ask for one `gpu` where this machine has any; hrsa.workflow.gpus hands each its own. On a cluster the
# profiles in configs/snakemake/ ask for it (docs/cluster.md).

import shlex
import sys
from pathlib import Path

from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.workflow import gpus, graph
from hrsa.workflow.job import TRAINING, follow_owner

follow_owner()  # as jobs do: an engine that is killed before the first of them leaves nothing behind
STUDY = load_profile(config.get("profile", "mini"))
STAGES = ("backbone", "mine", "embedder", "measure")
PRIORITY = {"backbone": 3, "mine": 3, "03_training": 2, "embedder": 2, "measure": 1}  # what most others wait for, first
CHAPTERS = [rule for rule in chapters.jobs(STUDY) if rule not in (*STAGES, "book")]
MODEL_RULES = ("backbone", "mine", "03_training", "embedder", "measure")
CARDS = min(1, len(gpus.visible()))
TOGETHER = {rule: STUDY.processes for rule in TRAINING}  # processes of a job
COMMAND = (f"{shlex.quote(str(Path(sys.executable).with_name('hrsa')))} run {{params.rule}} {{wildcards.name}} "
           f"--profile {config.get('profile', 'mini')}")
MODEL_COMMAND = f"{COMMAND} --gpus {{resources.gpu}}"


def kept(command, rule="{params.rule}"):
    """The command, and a copy of its record where Snakemake keeps its files elsewhere (a pod without shared files)."""
    record = shlex.quote(str(store.ROOT / chapters.record(STUDY, rule, "{wildcards.name}")))
    return f"{command} && {{{{ test {record} -ef {{output:q}} || cp {record} {{output:q}}; }}}}"


def records(rule):
    return lambda wildcards: [chapters.record(STUDY, *job) for job in graph.needs(STUDY, rule, wildcards.name)]


wildcard_constraints:
    name="[^/]+",


rule all:
    input:
        chapters.record(STUDY, "book", "study"),


for stage in STAGES:

    rule:
        name: stage
        input: records(stage)
        output: chapters.record(STUDY, stage, "{name}")
        params:
            rule=stage,
            fingerprint=graph.job_fingerprint(STUDY, stage),
        priority: PRIORITY[stage]
        threads: STUDY.threads * TOGETHER.get(stage, 1)
        resources:
            gpu=CARDS * TOGETHER.get(stage, 1),
        shell: kept(MODEL_COMMAND)


for chapter in CHAPTERS:

    rule:
        name: chapter
        input:
            records(chapter),
            source=f"notebooks/{chapter}.py",
        output: chapters.record(STUDY, chapter, "{name}")
        params:
            rule=chapter,
            fingerprint=graph.job_fingerprint(STUDY, chapter),
        priority: PRIORITY.get(chapter, 0)
        threads: STUDY.threads * TOGETHER.get(chapter, 1)
        resources:
            **({"gpu": CARDS * TOGETHER.get(chapter, 1)} if chapter in MODEL_RULES else {}),
        shell: kept(MODEL_COMMAND if chapter in MODEL_RULES else COMMAND)


rule book:
    input:
        records("book"),
        "jupyter_book/_config.yml",
        "jupyter_book/intro.md",
        "jupyter_book/glossary.md",
    output: chapters.record(STUDY, "book", "{name}")
    params:
        rule="book",
        fingerprint=graph.job_fingerprint(STUDY, "book"),
    shell: kept(COMMAND, "book")
