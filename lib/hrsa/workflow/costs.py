"""What each stage of a study costs: operations, memory and disk, derived from the profile and from sizes.

Operations are counted, times and memory are estimates. Texts are taken at the profile's maximal length, so that hours
are upper bounds for training; operations of norms, softmax and optimiser are left out.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from hrsa.analysis import pairs
from hrsa.evaluation.evaluate import TEXTS_PER_PASS
from hrsa.models.size import Size
from hrsa.report import chapters
from hrsa.study import store
from hrsa.study.profile import Backbone, Profile, Recipe

BYTES = {"fp32": 4, "bf16": 2}  # of a number that a matrix product reads
LETTERS = 3.0  # characters per token, an estimate: about 4 in English, 3 in code, 1 to 2 in Chinese or Japanese
RUN_FILE = 40 * 1000  # bytes a query leaves in a run file: 1000 documents, each with name and score
MINILM = 6 * 12 * 384**2  # multiplied parameters of the bundled reference: 6 blocks of width 384
DECOMPOSITION = 20  # operations of a singular value decomposition per cubed dimension (Golub and Van Loan, 8.6)
SECONDS_A_PAGE = 15  # start of a kernel, imports, figures: pages of the mini study that only draw took 8 to 26 s
PAGE = 2**20  # bytes of a page of the report: that of the mini study has 27 MB on 27 pages


class Memory(NamedTuple):
    """Bytes on one GPU (or of one process)."""

    weights: float  # with gradients and moments
    work: float  # what is held of weights beside them
    activations: float

    @property
    def total(self) -> float:
        """All bytes."""
        return sum(self)


def linear(size: Size) -> int:
    """Parameters that every token is multiplied by: all but the embedding."""
    return size.parameters - size.embedding


def forward(size: Size, tokens: float, length: int) -> float:
    """Operations of a forward pass over `tokens` in texts of `length`: 2 per parameter, and attention's 4 x length x
    width of all heads per layer (both triangles: kernels skip none when attention is bidirectional)."""
    return tokens * (2 * linear(size) + 4 * length * size.heads * size.head_dim * size.layers)


def step_tokens(recipe: Recipe) -> int:
    """Most tokens of a batch: query, positive and negatives at the maximal length."""
    return recipe.batch_size * (2 + recipe.hard_negatives) * recipe.max_length


def passes(recipe: Recipe, gpus: int) -> float:
    """A training step in forward passes: one, a backward of two (one for LoRA, whose weights are few), one more for
    gradient checkpointing, one more for those pieces of the gradient cache that `hrsa.training.infonce` runs twice."""
    twice = 1.0 if gpus > 1 else max(0.0, 1 - recipe.chunk_tokens / step_tokens(recipe))
    return 1 + (1 if recipe.lora else 2) + recipe.gradient_checkpointing + twice


def training(size: Size, recipe: Recipe, gpus: int) -> float:
    """Operations of one embedder's training."""
    return forward(size, recipe.steps * step_tokens(recipe), recipe.max_length) * passes(recipe, gpus)


def adapters(size: Size, r: int) -> int:
    """Parameters of LoRA adapters of rank `r` on all linear layers."""
    w, q, kv = size.width, size.heads * size.head_dim, size.kv_heads * size.head_dim
    return size.layers * r * (2 * (w + q) + 2 * (w + kv) + 3 * (w + size.intermediate))


def of_block(size: Size, precision: str) -> int:
    """Bytes that one block keeps per token for its backward pass, an estimate: four states of the width in float32
    (residuals and norms), and in the recipe's precision the inputs of its matrix products."""
    q, kv = size.heads * size.head_dim, size.kv_heads * size.head_dim
    return 16 * size.width + BYTES[precision] * (4 * size.width + 2 * q + 2 * kv + 4 * size.intermediate)


def training_memory(size: Size, recipe: Recipe, gpus: int) -> Memory:
    """Memory of one of `gpus` that share a training run by FSDP (1: alone).

    Weights, gradients and two moments in float32 (with LoRA: of the adapters; the rest is only read), divided; beside
    them alone the bf16 copies of autocast, or under FSDP two gathered blocks with their copies and the embedding.
    Activations: inputs of all blocks (with checkpointing, one block in full; without, all in full) of the tokens
    that hold a graph at a time, `chunk_tokens` or, under FSDP, the quarter of it that is one mini-batch.
    """
    from hrsa.training.infonce import MINI_BATCHES

    trained = adapters(size, recipe.lora.r) if recipe.lora else size.parameters
    states = 4 * size.parameters + 12 * trained + (4 * trained if recipe.lora else 0)
    copy = 2 if recipe.precision == "bf16" else 0
    work = 2 * (4 + copy) * size.block + 4 * size.embedding if gpus > 1 else copy * linear(size)
    piece = max(1, recipe.chunk_tokens // MINI_BATCHES)
    most = step_tokens(recipe) // gpus
    held, full = min(most, piece if gpus > 1 else recipe.chunk_tokens), of_block(size, recipe.precision)
    if recipe.gradient_checkpointing:
        kept = held * 4 * size.width * size.layers + min(most, piece) * full
    else:
        kept = held * full * size.layers
    return Memory(states / gpus, work, kept)


def fitting(size: Size, recipe: Recipe, gpus: int, limit: float) -> int | None:
    """The largest `chunk_tokens`, halved from the recipe's, whose training fits `limit` bytes; None: not even one text
    of maximal length a piece."""
    from hrsa.training.infonce import MINI_BATCHES

    chunk = recipe.chunk_tokens
    while chunk >= MINI_BATCHES * recipe.max_length:
        if training_memory(size, recipe.model_copy(update={"chunk_tokens": chunk}), gpus).total <= limit:
            return chunk
        chunk //= 2
    return None


def passing_memory(size: Size, length: int) -> float:
    """Bytes of a model that only embeds: float32 weights, and a batch of the longest texts in one block."""
    return 4.0 * size.parameters + TEXTS_PER_PASS * length * of_block(size, "fp32")


class Load(NamedTuple):
    """What a benchmark has to be embedded, each distinct text once."""

    tasks: int
    unknown: int  # tasks whose size mteb does not tell
    texts: int
    tokens: float  # cut at the maximal length
    queries: int
    bytes: float  # of the data


def load_of(tasks: list[list[tuple[str, int, float]] | None], length: int) -> Load:
    """Sum over tasks, each a list of (column, texts, mean characters) or None where that is not known."""
    parts = [part for task in tasks for part in task or ()]
    return Load(len(tasks), sum(task is None for task in tasks), sum(n for _, n, _ in parts),
                sum(n * min(mean / LETTERS, length) for _, n, mean in parts),
                sum(n for name, n, _ in parts if name.startswith("queries")), sum(n * mean for _, n, mean in parts))


@cache
def benchmark(name: str, length: int) -> Load:
    """Load of an mteb benchmark, from the statistics that mteb publishes of every task. ValueError: no benchmark."""
    import mteb

    try:
        tasks = mteb.get_benchmark(name).tasks
    except KeyError as error:
        raise ValueError(f"expected the name of an mteb benchmark in suite.benchmarks, got {name!r}: "
                         f"{error.args[0]}") from None
    return load_of([_told(task) for task in tasks], length)


def _told(task) -> list[tuple[str, int, float]] | None:
    """Columns of a task's evaluated splits; None where mteb tells nothing. Where the benchmark takes some languages
    only, their texts count, but no more than the split's distinct ones: pairs of languages share texts."""
    told = task.metadata.descriptive_stats or {}
    found = []
    for split in (told[name] for name in task.eval_splits if name in told):
        subsets = split.get("hf_subset_descriptive_stats") or {}
        chosen = [subsets[name] for name in task.hf_subsets if name in subsets]
        for name, value in split.items():
            if isinstance(value, dict) and "average_text_length" in value:
                count = value["unique_texts"]
                if chosen:
                    count = min(count, sum(part[name]["unique_texts"] for part in chosen))
                found.append((name, count, value["average_text_length"]))
    return found or None


def local(profile: Profile, length: int) -> Load:
    """Load of the profile's local tasks, from their files and caps."""
    from hrsa.texts.suite import load_task

    tasks = []
    for task in (load_task(name, profile) for name in profile.suite.tasks):
        columns = [(side, table[column]) for side in ("corpus", "queries", "train", "test")
                   if (table := getattr(task, side)) is not None
                   for column in ("text", "sentences", "sentence1", "sentence2") if column in table]
        tasks.append([(side, len(texts.unique()), texts.str.len().mean()) for side, texts in columns])
    return load_of(tasks, length)


def pairs_to_mine(profile: Profile) -> int:
    """Training pairs of the suite's own tasks, capped; files that a profile names are taken to bring negatives."""
    import pyarrow.parquet as pq

    known, train = store.read_json(store.SUITE / "train" / "tasks.json"), profile.suite.train
    counts = [pq.read_metadata(store.SUITE / "train" / f"{name}.parquet").num_rows
              for name in (known if train == "all" else train) if name in known]
    return sum(min(count, profile.suite.max_pairs or count) for count in counts)


def rows_compared(profile: Profile) -> int:
    """Most tokens of a recording: the sample asked for, or all that the probe texts have."""
    analysis, sets = profile.analysis, store.read_json(store.SUITE / "probe" / "sets.json")
    return min(analysis.max_tokens, len(sets) * analysis.texts_per_set * analysis.max_length)


def similarity(profile: Profile, pair: str, size: Size) -> float:
    """Operations of chapters 05 to 08 and of the dynamics for one pair, at most.

    Every case has an interval and a null. By layer: Gram matrices, their resamples and the search of neighbours (n^2
    each); Procrustes fits, a tenth as many as resamples and permutations. By two layers: cross-covariances, for the map
    and the maps of its null. A kept step of training costs a case without interval.
    """
    from hrsa.analysis.layerwise import MAPS, REFITS

    analysis, n, d, layers = profile.analysis, rows_compared(profile), size.width, size.layers + 2
    fit = 2 * n * d**2 + DECOMPOSITION * d**3
    fits = 1 + (analysis.bootstrap + analysis.permutations) / REFITS
    by_layer = 8 * n**2 * d + 12 * n**2 * analysis.bootstrap + fits * fit
    maps = 2 * n * d**2 * layers**2
    cases = pairs.cases(profile, pair)
    steps = len(profile.recipe.checkpoints) if any(case.models == "embedders" for case in cases) else 0
    return len(cases) * (layers * by_layer + maps) + MAPS * maps + steps * layers * (8 * n**2 * d + fit)


def making(profile: Profile, backbone: Backbone, size: Size) -> float:
    """Operations of making a zoo arm: three forward passes per token learned from, one per token sampled. Problems are
    taken to be as long as `completion_tokens`, twice with their solution."""
    zoo = profile.zoo
    batch, problem = zoo.pretrain_batch * zoo.pretrain_length, 2 * zoo.completion_tokens
    sampled = zoo.grpo_steps * zoo.grpo_prompts * zoo.grpo_completions * problem
    tokens = {"base": 3 * zoo.pretrain_steps * batch, "cpt": 3 * zoo.cpt_steps * batch,
              "sft": 3 * zoo.sft_steps * zoo.sft_batch * problem, "rlvr": 4 * sampled,
              "rlvr-long": 4 * zoo.grpo_rounds * sampled}[backbone.arm]
    return 2.0 * size.lm * tokens if backbone.source == "zoo" else 0.0


def pages(profile: Profile) -> int:
    """Notebooks that a study executes."""
    return sum(len(names) for rule, names in chapters.jobs(profile).items() if rule[:2].isdigit())
