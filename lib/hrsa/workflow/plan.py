"""Print what a profile would do, before it does: the graph, the backbones, and what each stage costs.

No weights are loaded and nothing is downloaded. Sizes come from configurations (`hrsa.models.size`), operations and memory
from the profile (`hrsa.workflow.costs`); what turns them into hours is assumed, printed, and can be given on the command line.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from hrsa.models.size import Size, measured, published, size
from hrsa.study import store
from hrsa.study.profile import Model, Profile, load_profile
from hrsa.texts.negative_search import REFERENCE_TOKENS
from hrsa.workflow import costs, graph

GIGA = 1e9
GPU = {"bf16": 120.0, "fp32": 12.0}  # TFLOP/s sustained: 38% and 62% of an A100's peak of 312 and 19.5
CPU = 0.1  # TFLOP/s sustained by a thread, of the order of what training of the mini study reached
CARDS, CARD_GB = 4, 44.0  # of the published study


class Machine(NamedTuple):
    """What the study runs on; rates are sustained TFLOP/s."""

    gpus: int  # that share one training run
    memory: float  # GB of one GPU
    bf16: float  # training
    fp32: float  # embedding: models are loaded in float32
    cpu: float  # comparisons, which run on a CPU
    unit: str  # "GPU" or "CPU"


class Stage(NamedTuple):
    """A line of the table; memory None where it is small or the profile's own limit."""

    name: str
    hours: float
    unit: str
    memory: float | None  # bytes on one GPU, at most
    disk: float  # bytes


def machine_of(profile: Profile, tflops: float | None = None, fp32: float | None = None, gpus: int | None = None,
               memory: float | None = None) -> Machine:
    """The machine assumed for a profile: GPUs when it trains in bf16, else this CPU's threads."""
    cpu = CPU * profile.threads
    if profile.recipe.precision == "bf16":
        return Machine(gpus or CARDS, memory or CARD_GB, tflops or GPU["bf16"], fp32 or GPU["fp32"], cpu, "GPU")
    rate = tflops or cpu
    return Machine(gpus or 1, memory or float("inf"), rate, fp32 or rate, rate, "CPU")


def sizes(profile: Profile) -> dict[str, Size]:
    """Measures of every backbone by name. ValueError: a hub model of unknown shape."""
    return {backbone.name: size(profile, backbone) for backbone in profile.backbones}


def embedders(profile: Profile, backbone: str | None = None) -> list[Model]:
    """Embedders that the study trains, of one backbone or of all."""
    return [m for m in profile.models() if m.seed is not None and backbone in (None, m.backbone)]


def rows(profile: Profile, tera_flops: float, gpus: int = 1) -> list[dict]:
    """One row per backbone: its embedders, the hours to train them at `tera_flops` sustained, and the memory of a run
    (bytes; the most that a variant of the recipe takes)."""
    table = []
    for name, measures in sizes(profile).items():
        runs = embedders(profile, name)
        recipes = [profile.varied(run.ablation) for run in runs]
        operations = sum(costs.training(measures, recipe, gpus) for recipe in recipes)
        memory = [costs.training_memory(measures, recipe, gpus) for recipe in recipes]
        table.append({"backbone": name, "runs": len(runs), "hours": operations / (tera_flops * 1e12) / 3600,
                      "memory": max(memory, key=lambda m: m.total) if memory else None})
    return table


def _hours(operations: float, rate: float) -> float:
    return operations / (rate * 1e12) / 3600


def _mining(profile: Profile, machine: Machine) -> Stage:
    """The reference embedder over queries and positives; triples on disk."""
    pairs, recipe, embedder = costs.pairs_to_mine(profile), profile.recipe, profile.suite.mining.embedder
    length = min(REFERENCE_TOKENS, recipe.max_length)
    neural = pairs and embedder not in ("bm25", "minilm")
    reference = measured(published(embedder)) if neural else None
    weights = {"bm25": 0, "minilm": costs.MINILM}.get(embedder, costs.linear(reference) if reference else 0)
    triples = pairs or recipe.steps * recipe.batch_size
    return Stage("hard negatives", _hours(2 * pairs * length * 2 * weights, machine.fp32), machine.unit,
                 costs.passing_memory(reference, length) if reference else None,
                 triples * (2 + recipe.hard_negatives) * recipe.max_length * costs.LETTERS)


def _training(profile: Profile, known: dict[str, Size], machine: Machine) -> list[Stage]:
    """Contrastive training, and what it leaves: float32 embedders and kept steps."""
    table = rows(profile, machine.bf16, machine.gpus)
    runs = [(known[m.backbone].parameters, profile.varied(m.ablation)) for m in embedders(profile)]
    resumed = 2 * 12 * max((weights for weights, _ in runs), default=0)
    kept = sum(4 * weights * (1 + len(recipe.checkpoints)) for weights, recipe in runs)
    memory = max((row["memory"].total for row in table if row["memory"]), default=None)
    return [Stage("training", sum(row["hours"] for row in table), machine.unit, memory, resumed),
            Stage("embedders, kept steps", 0.0, machine.unit, None, kept)]


def _evaluation(profile: Profile, known: dict[str, Size], machine: Machine) -> list[Stage]:
    """Every model on the local tasks and on each benchmark."""
    length = profile.recipe.max_length
    loads = {"local tasks": costs.local(profile, length)} if profile.suite.tasks else {}
    loads |= {name: costs.benchmark(name, length) for name in profile.suite.benchmarks}
    models = [known[m.backbone] for m in profile.models()]
    memory = max(costs.passing_memory(m, length) for m in models)
    return [Stage(f"scores, {name}", _hours(sum(costs.forward(m, load.tokens, length) for m in models), machine.fp32),
                  machine.unit, memory, load.bytes + len(models) * load.queries * costs.RUN_FILE)
            for name, load in loads.items()]


def _states(profile: Profile, known: dict[str, Size], machine: Machine) -> Stage:
    """Recordings of every model, of backbones and the first seed's embedders also in bf16, and of its kept steps."""
    analysis, sets = profile.analysis, store.read_json(store.SUITE / "probe" / "sets.json")
    tokens = (len(sets) * analysis.texts_per_set + analysis.probe_texts) * analysis.max_length
    operations = disk = 0.0
    for name, measures in known.items():
        runs = embedders(profile, name)
        recordings = 2 + len(runs) + (1 + len(profile.recipe.checkpoints) if runs else 0)
        operations += recordings * costs.forward(measures, tokens, analysis.max_length)
        disk += recordings * (measures.layers + 2) * costs.rows_compared(profile) * measures.width * 4
    memory = max(costs.passing_memory(m, analysis.max_length) for m in known.values())
    return Stage("states of all layers", _hours(operations, machine.fp32), machine.unit, memory, disk)


def stages(profile: Profile, machine: Machine) -> list[Stage]:
    """What each stage costs, in the order of the graph. ValueError: a hub model of unknown shape."""
    known = sizes(profile)
    made = sum(costs.making(profile, b, known[b.name]) for b in profile.backbones)
    fetched = sum(2 * known[b.name].lm for b in profile.backbones if b.source != "folder")
    pairs = [profile.pair(name) for name in graph.jobs(profile).get(graph.pair_chapters(profile)[0], ())]
    compared = sum(costs.similarity(profile, pair.name, known[pair.a]) for pair in pairs)
    maps = sum(2 * 8 * known[pair.a].width ** 2 for pair in pairs)
    written = costs.pages(profile)
    return [
        Stage("backbones", _hours(made, machine.fp32), machine.unit, None, fetched),
        _mining(profile, machine), *_training(profile, known, machine), *_evaluation(profile, known, machine),
        _states(profile, known, machine), Stage("similarity (HRSA)", _hours(compared, machine.cpu), "CPU", None, maps),
        Stage("pages of the report", written * costs.SECONDS_A_PAGE / 3600, "CPU", None, written * costs.PAGE)]


def main(arguments: list[str] | None = None) -> int:
    """Command line: print the plan; 1 with one message when the profile is not valid or a model cannot be switched."""
    from hrsa.plan_text import text

    parser = argparse.ArgumentParser(description="Print the graph, the backbones and what each stage costs.")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--tflops", type=float, help="sustained in training (default: 120 in bf16; 0.1 a CPU thread)")
    parser.add_argument("--tflops-fp32", type=float, help="sustained in float32 (default: 12 on a GPU)")
    parser.add_argument("--gpus", type=int, help="that share a training run by FSDP (default: 4)")
    parser.add_argument("--gpu-memory", type=float, help="GB of one GPU (default: 44)")
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if name != "profile" and value is not None and value <= 0:
            parser.error(f"expected --{name.replace('_', '-')} above 0, got {value}")
    try:
        profile = load_profile(options.profile)
        machine = machine_of(profile, options.tflops, options.tflops_fp32, options.gpus, options.gpu_memory)
        sys.stdout.write(text(profile, machine))
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"hrsa: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
