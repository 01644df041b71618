"""Print what a profile would do, before it does: the graph, the backbones, and what each stage costs.

No weights are loaded and nothing is downloaded. Sizes come from configurations (`models.size`), operations and memory
from the profile (`costs`); what turns them into hours is assumed, printed, and can be given on the command line.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from hrsa.models.size import Size, measured, proved, published, size
from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import Model, Profile
from hrsa.texts.negative_search import REFERENCE_TOKENS
from hrsa.workflow import costs, graph

COLUMNS = 120

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
    pairs = [profile.pair(name) for name in chapters.jobs(profile).get(chapters.pair_chapters(profile)[0], ())]
    compared = sum(costs.similarity(profile, pair.name, known[pair.a]) for pair in pairs)
    maps = sum(2 * 8 * known[pair.a].width ** 2 for pair in pairs)
    written = costs.pages(profile)
    return [
        Stage("backbones", _hours(made, machine.fp32), machine.unit, None, fetched),
        _mining(profile, machine), *_training(profile, known, machine), *_evaluation(profile, known, machine),
        _states(profile, known, machine), Stage("similarity (HRSA)", _hours(compared, machine.cpu), "CPU", None, maps),
        Stage("pages of the report", written * costs.SECONDS_A_PAGE / 3600, "CPU", None, written * costs.PAGE)]


def text(profile: Profile, machine: Machine) -> str:
    """The whole plan. ValueError: a hub model of unknown shape; RuntimeError: one whose mask cannot be switched."""
    known = sizes(profile)
    parts = [f"{profile.name}: {profile.title}", _graph(profile), _backbones(profile, known),
             _training_table(profile, known, machine), _stages(stages(profile, machine)),
             _assumptions(profile, machine)]
    lines = [part for line in "\n\n".join(parts).splitlines() for part in _folded(line)]
    return "\n".join(lines) + "\n"


def _folded(line: str) -> list[str]:
    """The line, folded at spaces where it is too long for the page."""
    indent = " " * (4 + len(line) - len(line.lstrip()))
    return textwrap.wrap(line, COLUMNS, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _graph(profile: Profile) -> str:
    lines = ["Graph (job x how many <- what it waits for)"]
    jobs = chapters.jobs(profile)
    for rule, names in jobs.items():
        waits = sorted({needed for name in names for needed, _ in graph.needs(profile, rule, name)})
        lines.append(f"  {rule:15s} x {len(names):3d}  <- {', '.join(waits) if rule != 'book' else 'everything'}")
    pairs = [profile.pair(name) for name in jobs.get(chapters.pair_chapters(profile)[0], ())]
    trained = {m.backbone for m in embedders(profile)}
    lines += ["", "Runs"]
    for p in pairs:
        lines.append(f"  {p.name}: {p.a} -> {p.b} ({p.kind}{'' if {p.a, p.b} <= trained else ', as they came'})")
    lines += [f"  seeds {list(profile.seeds)}, ablations {[a.name for a in profile.ablations]}",
              f"  local tasks {list(profile.suite.tasks)}", f"  benchmarks {list(profile.suite.benchmarks)}"]
    return "\n".join(lines)


def _backbones(profile: Profile, known: dict[str, Size]) -> str:
    attention = profile.recipe.attention
    lines = [f"Backbones (counted at full size without weights; M: million parameters, of the encoder and of the LM)\n"
             f"  {'backbone':18s} {'type':6s} {'layers':>6s} {'width':>6s} {'M':>8s} {'M of LM':>8s}  "
             f"{'attention: query/key heads x size':33s} mask"]
    for name, s in known.items():
        masks = {mode: proved(s.model_type, s.heads, s.kv_heads, mode) for mode in ("causal", attention)}
        lines.append(f"  {name:18s} {s.model_type:6s} {s.layers:6d} {s.width:6d} {s.parameters / 1e6:8.1f} "
                     f"{s.lm / 1e6:8.1f}  {s.attention:33s} {' -> '.join(masks.values())}")
    lines.append("  Mask: as it came -> in training, by config.is_causal; each proved by perturbing the input of a "
                 "random miniature.")
    return "\n".join(lines)


def _training_table(profile: Profile, known: dict[str, Size], machine: Machine) -> str:
    lines = [f"Training of embedders ({machine.gpus} {machine.unit}{'s' if machine.gpus > 1 else ''} a run; GB on one)",
             f"  {'backbone':18s} {'runs':>4s} {machine.unit + '-hours':>10s} {'hours/run':>9s} {'weights':>8s} "
             f"{'beside':>7s} {'activ.':>7s} {'GB':>7s}  fits"]
    for row in rows(profile, machine.bf16, machine.gpus):
        if not row["runs"]:
            lines.append(f"  {row['backbone']:18s} {0:4d} {'-':>10s}  compared as it came")
            continue
        m, each = row["memory"], row["hours"] / row["runs"] / machine.gpus
        lines.append(f"  {row['backbone']:18s} {row['runs']:4d} {row['hours']:10.2f} {each:9.2f} "
                     f"{m.weights / GIGA:8.2f} {m.work / GIGA:7.2f} {m.activations / GIGA:7.2f} {m.total / GIGA:7.2f}  "
                     f"{_fits(profile, known[row['backbone']], machine, m.total)}")
    return "\n".join(lines)


def _fits(profile: Profile, size: Size, machine: Machine, total: float) -> str:
    """Whether a run fits the memory given, and if not what to change."""
    limit = machine.memory * GIGA
    if machine.unit == "CPU" and limit == float("inf"):
        return ""
    if total <= limit:
        return "yes"
    if chunk := costs.fitting(size, profile.recipe, machine.gpus, limit):
        return f"no: recipe.chunk_tokens {chunk}"
    for gpus in (2 * machine.gpus, 4 * machine.gpus, 8 * machine.gpus):
        if costs.fitting(size, profile.recipe, gpus, limit):
            return f"no: --gpus {gpus}" + ("" if profile.recipe.gradient_checkpointing else ", gradient_checkpointing")
    return "no: GPUs with more memory, or recipe.lora"


def _stages(table: list[Stage]) -> str:
    lines = ["By stage (GB on one GPU or in one process, at most; disk of the whole study)",
             f"  {'stage':34s} {'GPU-hours':>10s} {'CPU-hours':>10s} {'memory GB':>10s} {'disk GB':>10s}"]
    for s in table:
        hours = [f"{s.hours:10.2f}" if s.unit == unit and s.hours else f"{'-':>10s}" for unit in ("GPU", "CPU")]
        memory = f"{'-':>10s}" if s.memory is None else f"{s.memory / GIGA:10.2f}"
        lines.append(f"  {s.name:34s} {hours[0]} {hours[1]} {memory} {s.disk / GIGA:10.2f}")
    by_unit = [sum(s.hours for s in table if s.unit == unit) for unit in ("GPU", "CPU")]
    largest = max((s.memory for s in table if s.memory), default=0)
    lines.append(f"  {'all':34s} {by_unit[0]:10.2f} {by_unit[1]:10.2f} {largest / GIGA:10.2f} "
                 f"{sum(s.disk for s in table) / GIGA:10.2f}")
    return "\n".join(lines)


def _assumptions(profile: Profile, machine: Machine) -> str:
    recipe, shared = profile.recipe, machine.gpus > 1
    hours = (f"GPU-hours: {machine.bf16:g} TFLOP/s sustained in training (bf16, --tflops), {machine.fp32:g} in float32 "
             "(scores and states, --tflops-fp32)." if machine.unit == "GPU" else
             f"CPU-hours: one process at {machine.cpu:g} TFLOP/s sustained ({profile.threads} thread(s), --tflops); "
             "the start of a job is not in them, but for pages.")
    lines = [
        hours,
        f"Training: at most {recipe.steps} x {costs.step_tokens(recipe):,} tokens a run (every text at "
        f"{recipe.max_length}; padding and shorter texts cost less), each worth "
        f"{costs.passes(recipe, machine.gpus):.2f} forward passes: one, backward, "
        f"{'checkpointing, ' if recipe.gradient_checkpointing else ''}pieces of the gradient cache that run twice.",
        "Memory of training: weights, gradients and moments in float32"
        f"{f', divided by FSDP over {machine.gpus} (--gpus)' if shared else ''}; beside them "
        f"{'gathered blocks and ' if shared else ''}bf16 copies; activations, an estimate, of the tokens that hold a "
        f"graph at a time (chunk_tokens {recipe.chunk_tokens}{', a quarter of it under FSDP' if shared else ''}).",
        "Disk: backbones in bf16, as published; embedders and kept steps in float32; of training, two resumable "
        "checkpoints of a run; of scores, the data and a run file per model; negatives at the maximal length.",
        *_loads(profile),
        f"States: {costs.rows_compared(profile):,} rows of each layer in float32; backbones and the first seed twice "
        "(bf16), kept steps of one seed.",
        f"Similarity: on a CPU at {machine.cpu:g} TFLOP/s ({profile.threads} thread(s)); products only. Sorting, "
        "reading and resampling come on top: in the mini study, of small products, they took several times as long. "
        f"Memory: analysis.memory_mb = {profile.analysis.memory_mb}.",
        f"Pages: {costs.pages(profile)} notebooks, {costs.SECONDS_A_PAGE} s each to start and draw, as in the mini "
        "study."]
    return "\n".join(["Assumptions", *(f"  {line}" for line in lines)])


def _loads(profile: Profile) -> list[str]:
    length, lines = profile.recipe.max_length, []
    for name in profile.suite.benchmarks:
        load = costs.benchmark(name, length)
        unknown = f" ({load.unknown} of unknown size left out)" if load.unknown else ""
        lines.append(f"{name}: {load.tasks} tasks{unknown}, {load.texts:,} distinct texts, {load.tokens / 1e6:,.0f} M "
                     f"tokens, {load.queries:,} queries.")
    if lines:
        lines.append(f"Counts are those that mteb publishes; {costs.LETTERS:g} characters a token is an estimate; "
                     "classification and clustering embed samples, so that their share is an upper bound.")
    return lines
