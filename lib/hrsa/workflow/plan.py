"""What a profile would do, before it does: its graph, its runs, the hours, memory and disk of each stage, its power.

Backbones are counted from configurations, on the meta device; hours are operations at an assumed rate, and printed so.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hrsa.analysis.layerwise import MAPS, REFITS
from hrsa.analysis.pairs import cases
from hrsa.analysis.recordings import followed_seeds
from hrsa.models.as_it_came import read_manner
from hrsa.models.language_model import prove_architecture
from hrsa.report.prose.pages import filled_page
from hrsa.report.prose.verdict import power_advice
from hrsa.study import store
from hrsa.study.backbone_kinds import are_adapters
from hrsa.study.profile import Pair, Profile, Recipe
from hrsa.training.infonce import MINI_BATCHES
from hrsa.verdict import paired_scores
from hrsa.verdict.power import CAUTION, measure, power_table
from hrsa.workflow import graph
from hrsa.workflow.sizes import comparison_mb, shape_of

_TERA_HOUR = 3.6e15  # operations of an hour at 1 TFLOP/s
_LETTERS = 3.0  # characters per token: about 4 in English, 3 in code, 1 to 2 in Chinese or Japanese
_RUN_FILE = 40e-6  # GB that a query leaves: 1000 documents, each with name and score


class Machine(NamedTuple):
    """The machine that a plan assumes; rates are sustained TFLOP/s."""

    gpus: int  # that share one training run
    memory: float  # GB of one GPU
    bf16: float  # training
    fp32: float  # embedding: models are loaded in float32
    cpu: float  # comparisons, which run on a CPU
    unit: str  # GPU or CPU


class Size(NamedTuple):
    """How large a backbone is, counted from the built model."""

    layers: int
    width: int
    parameters: int  # of the encoder: embedding and blocks, without an LM head
    embedding: int
    features: int  # inputs and outputs of all linear layers of the encoder
    lm: int  # parameters with the LM head, which is the embedding where the two are tied

    def first(self, layers: int | None) -> Size:
        """The size of the model's first `layers` blocks; of all for None."""
        share = (layers or self.layers) / self.layers
        return self._replace(layers=layers or self.layers, features=round(share * self.features),
                             parameters=self.embedding + round(share * (self.parameters - self.embedding)))

    def forward(self, tokens: float) -> float:
        """Operations of a forward pass over so many tokens."""
        return 2.0 * tokens * (self.parameters - self.embedding)


def assumed_machine(profile: Profile, tflops: float | None = None, fp32: float | None = None, gpus: int | None = None,
                    memory: float | None = None) -> Machine:
    """The machine assumed for a profile: the published study's four GPUs when it trains in bf16, at 38% and 62% of an
    A100's peak of 312 and 19.5 TFLOP/s; else this CPU's threads, at about what training of the mini study reached."""
    cpu = 0.1 * profile.threads
    if profile.recipe.precision == "bf16":
        return Machine(gpus or 4, memory or 44.0, tflops or 120.0, fp32 or 12.0, cpu, "GPU")
    return Machine(gpus or 1, memory or float("inf"), tflops or cpu, fp32 or tflops or cpu, tflops or cpu, "CPU")


def counted_size(shape: dict[str, Any]) -> Size:
    """The size of the model that a configuration describes, counted on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    encoder = model.base_model
    return Size(shape["num_hidden_layers"], shape["hidden_size"], sum(p.numel() for p in encoder.parameters()),
                encoder.get_input_embeddings().weight.numel(),
                sum(m.in_features + m.out_features for m in encoder.modules() if isinstance(m, torch.nn.Linear)),
                sum(p.numel() for p in model.parameters()))


def step_tokens(recipe: Recipe) -> int:
    """Tokens of a training step, at most."""
    return recipe.batch_size * (2 + recipe.hard_negatives) * recipe.max_length


def training_operations(size: Size, recipe: Recipe, gpus: int) -> float:
    """Operations of one training, at most. A step is a forward pass, a backward of two (of one for LoRA), one more
    for gradient checkpointing and one more when the gradient cache runs its mini-batches twice."""
    twice = gpus > 1 or step_tokens(recipe) > recipe.chunk_tokens
    passes = 2 + (not recipe.lora) + recipe.gradient_checkpointing + twice
    return size.forward(recipe.steps * step_tokens(recipe)) * passes


def training_memory(size: Size, recipe: Recipe, gpus: int) -> float:
    """Bytes of one of `gpus` that share a training by FSDP, an estimate. Divided: weights, gradients and two moments
    (LoRA: those of the adapters). Alone bf16 copies, under FSDP two gathered blocks and the embedding. Of each token
    that holds a graph: the input of each block and the states of one (without checkpointing, of all)."""
    copy, blocks = (2 if recipe.precision == "bf16" else 0), size.parameters - size.embedding
    weights = 16 * size.features * recipe.lora.r + 4 * size.parameters if recipe.lora else 16 * size.parameters
    copies = 2 * (4 + copy) * blocks / size.layers + 4 * size.embedding if gpus > 1 else copy * blocks
    most, mini_batch = step_tokens(recipe) // gpus, recipe.chunk_tokens // MINI_BATCHES
    held, full = min(most, mini_batch if gpus > 1 else recipe.chunk_tokens), 16 * size.width
    full += (4 - copy) * size.features / size.layers  # four float32 states, and what linear layers take and give
    if recipe.gradient_checkpointing:
        return weights / gpus + copies + held * 4 * size.width * size.layers + min(most, mini_batch) * full
    return weights / gpus + copies + held * full * size.layers


def memory_advice(size: Size, recipe: Recipe, machine: Machine) -> str:
    """The word yes when a training fits a GPU of the machine, else what to change."""
    for gpus in (machine.gpus * 2**n for n in range(4)):
        chunk = recipe.chunk_tokens
        while chunk >= MINI_BATCHES * recipe.max_length or chunk == recipe.chunk_tokens:
            smaller = recipe.model_copy(update={"chunk_tokens": chunk})
            if training_memory(size, smaller, gpus) <= machine.memory * 1e9:
                changes = [f"--gpus {gpus}"] * (gpus > machine.gpus)
                changes += [f"recipe.chunk_tokens {chunk}"] * (chunk < recipe.chunk_tokens)
                return f"no: {', '.join(changes)}" if changes else "yes"
            chunk //= 2
    return "no: GPUs with more memory, or recipe.lora"


def backbone_costs(profile: Profile, machine: Machine) -> pd.DataFrame:
    """A row per backbone: [backbone, type, layers, width, M (million parameters), runs, hours (of all runs, on one
    device), each, GB (largest, on one GPU), fits]. ValueError: a published model of unknown shape."""
    rows = []
    for backbone in profile.backbones:
        shape = shape_of(profile, backbone)
        size, trained = counted_size(shape), [m for m in profile.models() if m.seed is not None]
        recipes = [profile.varied(m.ablation) for m in trained if m.backbone == backbone.name]
        runs = [(size.first(recipe.layers), recipe, machine.gpus) for recipe in recipes]
        hours = sum(training_operations(*run) for run in runs) / machine.bf16 / _TERA_HOUR
        largest = max(runs, key=lambda run: training_memory(*run), default=None)
        rows.append((backbone.name, shape["model_type"], size.layers, size.width, size.parameters / 1e6, len(runs),
                     hours, hours / machine.gpus / max(len(runs), 1), training_memory(*largest) / 1e9 if largest else 0,
                     memory_advice(*largest[:2], machine) if largest else "compared as it came"))
    columns = ["backbone", "type", "layers", "width", "M", "runs", "hours", "each", "GB", "fits"]
    return pd.DataFrame(rows, columns=columns)


def evaluated_texts(profile: Profile) -> dict[str, pd.DataFrame]:
    """What each evaluation embeds, a row per column of a task [column, texts (distinct), letters (mean)]: from files of
    local tasks, and as mteb publishes benchmarks. ValueError: no such benchmark."""
    import mteb

    from hrsa.texts.suite import load_task

    found = {"local tasks": [
        (side, table[column].nunique(), table[column].str.len().mean())
        for task in (load_task(name, profile) for name in profile.suite.tasks)
        for side in ("corpus", "queries", "train", "test") if (table := getattr(task, side)) is not None
        for column in ("text", "sentences", "sentence1", "sentence2") if column in table]}
    for name in profile.suite.benchmarks:
        try:
            tasks = mteb.get_benchmark(name).tasks
        except KeyError as error:
            raise ValueError(f"expected an mteb benchmark in suite.benchmarks, got {name!r}: {error.args[0]}") from None
        wanted = profile.suite.benchmark_tasks
        found[name] = [(column, told["unique_texts"], told["average_text_length"]) for task in tasks
                       if wanted is None or task.metadata.name in wanted
                       for split in task.eval_splits
                       for column, told in (task.metadata.descriptive_stats or {}).get(split, {}).items()
                       if isinstance(told, dict) and "average_text_length" in told]
    return {name: pd.DataFrame(rows, columns=["column", "texts", "letters"]) for name, rows in found.items() if rows}


def similarity_operations(profile: Profile, pair: str, size: Size, n: int) -> float:
    """Operations of the products in chapters 05 to 08 for a pair on `n` rows, at most: by layer, Gram matrices and
    neighbours, resamples, Procrustes maps; by two layers, cross-covariances of the models and of permuted rows."""
    used, d, layers, compared = profile.analysis, size.width, size.layers + 2, len(cases(profile, pair))
    maps = 1 + (used.bootstrap + used.permutations) / REFITS  # each decomposed in 20 d^3: Golub, Van Loan, 8.6
    by_layer = 8 * n**2 * d + 12 * n**2 * used.bootstrap + maps * (2 * n * d**2 + 20 * d**3)
    return compared * layers * by_layer + (compared + MAPS) * 2 * n * d**2 * layers**2


def stage_costs(profile: Profile, machine: Machine) -> pd.DataFrame:
    """A row per stage that takes long or much [stage, unit (of hours), hours, GB (of a process), disk GB (of all)].
    ValueError: a published model of unknown shape, or no such benchmark."""
    recipe, used, backbones = profile.recipe, profile.analysis, backbone_costs(profile, machine)
    sizes = {b.name: counted_size(shape_of(profile, b)) for b in profile.backbones}
    models = [(m, sizes[m.backbone].first(recipe.layers)) for m in profile.models()]
    weights = max(4 * s.parameters for _, s in models) / 1e9
    trained = sum(4 * s.parameters * (1 + len(recipe.checkpoints)) for m, s in models if m.seed is not None) / 1e9
    fetched = sum(2 * sizes[b.name].lm for b in profile.backbones if b.source != "folder") / 1e9
    stages = [("backbones", "CPU", 0.0, 0.0, fetched),
              ("training", machine.unit, backbones["hours"].sum(), backbones["GB"].max(), trained)]
    for name, found in evaluated_texts(profile).items():
        tokens = (found["texts"] * (found["letters"] / _LETTERS).clip(upper=recipe.max_length)).sum()
        queries = found["texts"][found["column"].str.startswith("queries")].sum()
        hours = sum(s.forward(tokens) for _, s in models) / machine.fp32 / _TERA_HOUR
        stages.append((f"scores, {name}", machine.unit, hours, weights,
                       found["texts"] @ found["letters"] / 1e9 + len(models) * queries * _RUN_FILE))
    texts = len(store.read_json(store.SUITE / "probe" / "sets.json")) * used.texts_per_set
    rows = min(used.max_tokens, texts * used.max_length)
    copies = {None: 2} | {seed: 1 + (at == 0) + len(recipe.checkpoints)  # in bf16, of kept steps
                          for at, seed in enumerate(followed_seeds(profile))}
    recorded = [s for m, s in models for _ in range(copies.get(m.seed, 1))]
    operations = sum(s.forward((texts + used.probe_texts) * used.max_length) for s in recorded)
    compared = sum(similarity_operations(profile, p.name, sizes[p.a], rows) for p in profile.compared())
    held = max((comparison_mb(used, *(sizes[name][:2] for name in (p.a, p.b)))[0] for p in profile.compared()),
               default=0.0)
    stages += [("states of all layers", machine.unit, operations / machine.fp32 / _TERA_HOUR, weights,
                sum(4 * rows * s.width * (s.layers + 2) for s in recorded) / 1e9),
               ("similarity (HRSA)", "CPU", compared / machine.cpu / _TERA_HOUR,
                max(used.memory_mb, held) / 1e3, 0.0)]
    return pd.DataFrame(stages, columns=["stage", "unit", "hours", "GB", "disk GB"])


def plan_text(profile: Profile, machine: Machine) -> str:
    """The whole plan. ValueError: a model of unknown shape; RuntimeError: one whose mask cannot be switched."""
    for backbone in profile.backbones:
        shaped = backbone.source == "folder" and not are_adapters(backbone)
        came = read_manner(store.ROOT / str(backbone.path)).attention if shaped else "causal"
        for attention in (came, profile.recipe.attention):
            prove_architecture(shape_of(profile, backbone), attention)
    stages = stage_costs(profile, machine)
    return filled_page(
        "plan.txt", name=profile.name, title=profile.title, graph=graph.outline(profile), letters=_LETTERS,
        runs="\n".join(f"  {p.name}: {p.a} -> {p.b} ({p.kind}{'' if p in profile.pairs else ', as they came'})"
                       for p in profile.compared()),
        seeds=list(profile.seeds), ablations=[a.name for a in profile.ablations], **machine._asdict(),
        evaluation="\n    ".join([*profile.suite.tasks, *profile.suite.benchmarks]), length=profile.recipe.max_length,
        attention=profile.recipe.attention, backbones=_table(backbone_costs(profile, machine)), stages=_table(stages),
        hours=" and ".join(f"{sum_:,.2f} {unit}-hours" for unit, sum_ in stages.groupby("unit")["hours"].sum().items()),
        disk=stages["disk GB"].sum())


def _table(table: pd.DataFrame) -> str:
    wide = {name: max(map(len, [name, *table[name]])) for name in table.select_dtypes(exclude="number")}
    table = table.assign(**{name: table[name].str.ljust(width) for name, width in wide.items()})
    table.columns = [name.ljust(wide.get(name, 0)) for name in table]
    return textwrap.indent(table.to_string(index=False, float_format="{:.2f}".format), "  ")


def pair_hours(profile: Profile, tera_flops: float) -> float:
    """GPU-hours to train both arms of a profile's most expensive pair with one seed, estimated as the plan's are."""
    one = profile.model_copy(update={"seeds": profile.seeds[:1], "ablations": ()})
    hours = backbone_costs(one, assumed_machine(one, tera_flops, gpus=1)).set_index("backbone")["hours"]
    return max(hours[pair.a] + hours[pair.b] for pair in profile.pairs)


def power_text(study: Profile, pair: Pair, per_query: pd.DataFrame, margin: float, tasks: int | None,
               sizes: tuple[list[int], list[int]], hours: float | None) -> str:
    """The plan of one pair as text, from the seeds that both arms were scored with."""
    seeds = paired_scores.seeds_of(per_query, pair.a, pair.b)
    if len(seeds) < 2:
        raise ValueError(f"expected scores of both arms of {pair.name} with two seeds or more, got seeds {seeds}: "
                         "the variation between training runs cannot be seen; run more seeds, or name evidence files")
    a, b, of_task = paired_scores.paired(per_query, pair.a, pair.b, seeds)
    n_tasks = tasks or len(set(of_task))
    found, cautious = measure(a, b, of_task), measure(a, b, of_task, CAUTION)
    tables = [power_table(v, margin, *sizes, n_tasks, hours, study.verdict.alpha) for v in (found, cautious)]
    sd = ", ".join(f"{name} {np.sqrt(value):.4f}" for name, value in asdict(found).items())
    text = tables[0].assign(cautious=tables[1]["power"]).to_string(index=False, float_format="{:.4g}".format)
    return (f"{pair.name}: margin {margin:g}, {n_tasks} tasks; from seeds {seeds}, {len(set(of_task))} tasks, "
            f"{len(of_task)} queries; standard deviations: {sd}\n{text}\n{power_advice(tables[0], margin)}\nIf runs "
            f"vary as much as {len(seeds)} seeds leave possible ({CAUTION:.0%} upper limit, column cautious): "
            f"{power_advice(tables[1], margin)}\n\n")
