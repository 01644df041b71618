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

import sys

from hrsa.study import store
from hrsa.workflow import gpus, graph
from hrsa.study.profile import load_profile

STUDY = load_profile(config.get("profile", "mini"))
STAGES = ("backbone", "mine", "embedder", "measure")
PRIORITY = {"backbone": 3, "mine": 3, "03_training": 2, "embedder": 2, "measure": 1}  # what most others wait for, first
CHAPTERS = [rule for rule in graph.jobs(STUDY) if rule not in (*STAGES, "book")]
MODEL_RULES = ("backbone", "mine", "03_training", "embedder", "measure")
CARDS = min(1, len(gpus.visible()))
RUN = f"hrsa.workflow.job {{params.rule}} {{wildcards.name}} --profile {config.get('profile', 'mini')}"
COMMAND = f"{sys.executable} -m {RUN}"
MODEL_COMMAND = f"{sys.executable} -m hrsa.workflow.gpus {{resources.gpu}} {RUN}"


def kept(command, rule="{params.rule}"):
    """The command, and a copy of its record where Snakemake keeps its files elsewhere (a pod without shared files)."""
    record = store.ROOT / graph.record(STUDY, rule, "{wildcards.name}")
    return f"{command} && {{{{ test {record} -ef {{output}} || cp {record} {{output}}; }}}}"


def records(rule):
    return lambda wildcards: [graph.record(STUDY, *job) for job in graph.needs(STUDY, rule, wildcards.name)]


wildcard_constraints:
    name="[^/]+",


rule all:
    input:
        graph.record(STUDY, "book", "study"),


for stage in STAGES:

    rule:
        name: stage
        input: records(stage)
        output: graph.record(STUDY, stage, "{name}")
        params:
            rule=stage,
            fingerprint=graph.fingerprint(STUDY, stage),
        priority: PRIORITY[stage]
        threads: STUDY.threads
        resources:
            gpu=CARDS,
        shell: kept(MODEL_COMMAND)


for chapter in CHAPTERS:

    rule:
        name: chapter
        input:
            records(chapter),
            source=f"notebooks/{chapter}.py",
        output: graph.record(STUDY, chapter, "{name}")
        params:
            rule=chapter,
            fingerprint=graph.fingerprint(STUDY, chapter),
        priority: PRIORITY.get(chapter, 0)
        threads: STUDY.threads
        resources:
            **({"gpu": CARDS} if chapter in MODEL_RULES else {}),
        shell: kept(MODEL_COMMAND if chapter in MODEL_RULES else COMMAND)


rule book:
    input:
        records("book"),
        "jupyter_book/_config.yml",
        "jupyter_book/intro.md",
    output: graph.record(STUDY, "book", "{name}")
    params:
        rule="book",
        fingerprint=graph.fingerprint(STUDY, "book"),
    shell: kept(COMMAND, "book")
