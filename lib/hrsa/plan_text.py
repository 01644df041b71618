"""The plan of a profile as text of at most 120 columns: graph, backbones, training, stages, assumptions."""

from __future__ import annotations

import textwrap

from hrsa.models.size import Size, proved
from hrsa.study.profile import Profile
from hrsa.workflow import costs, graph
from hrsa.workflow.plan import GIGA, Machine, Stage, embedders, rows, sizes, stages

COLUMNS = 120


def text(profile: Profile, machine: Machine) -> str:
    """The whole plan. ValueError: a hub model of unknown shape; RuntimeError: one whose mask cannot be switched."""
    known = sizes(profile)
    parts = [f"{profile.name}: {profile.title}", _graph(profile), _backbones(profile, known),
             _training(profile, known, machine), _stages(stages(profile, machine)), _assumptions(profile, machine)]
    lines = [part for line in "\n\n".join(parts).splitlines() for part in _folded(line)]
    return "\n".join(lines) + "\n"


def _folded(line: str) -> list[str]:
    """The line, folded at spaces where it is too long for the page."""
    indent = " " * (4 + len(line) - len(line.lstrip()))
    return textwrap.wrap(line, COLUMNS, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _graph(profile: Profile) -> str:
    lines = ["Graph (job x how many <- what it waits for)"]
    jobs = graph.jobs(profile)
    for rule, names in jobs.items():
        waits = sorted({needed for name in names for needed, _ in graph.needs(profile, rule, name)})
        lines.append(f"  {rule:15s} x {len(names):3d}  <- {', '.join(waits) if rule != 'book' else 'everything'}")
    pairs = [profile.pair(name) for name in jobs.get(graph.pair_chapters(profile)[0], ())]
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


def _training(profile: Profile, known: dict[str, Size], machine: Machine) -> str:
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
