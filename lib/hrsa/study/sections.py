"""The sections of a profile, strict and frozen; the reason stands beside each default."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

CONTROLS = ("random", "noised")  # sources of backbones that are another with its weights changed
NAME_PATTERN = r"^[a-z0-9][a-z0-9.]*(-[a-z0-9.]+)*$"
_OF_A_RUN = re.compile(r"(?:^|-)s\d+(?=-|$)")  # in the ids of embedders: base-s0, base-s0-causal
_RESERVED = ("bm25", "chance")  # ids of the baselines that stand beside the backbones
MOST_SEEDS = 2**32  # libraries take no larger ones


def _is_text(value: Any) -> bool:
    """Whether a name stays text when YAML, or Snakemake on its command line, reads it: not a number, a date, true."""
    if not isinstance(value, str):
        return False
    with contextlib.suppress(ValueError):
        float(value)
        return False
    with contextlib.suppress(yaml.YAMLError):
        return isinstance(yaml.safe_load(value), str)
    return True  # no YAML at all: the pattern of names says what is wrong


def _named_by_text(value: Any) -> Any:
    if not _is_text(value):
        raise ValueError("expected a name that reads as text, such as run-7, and not as a number, a date or a word of "
                         "YAML's own")
    return value


def _free(value: str) -> str:
    if _OF_A_RUN.search(value) or value in _RESERVED:
        raise ValueError(f"expected a name that no run of the study has: not one of {_RESERVED}, and without a part "
                         "such as s0, which says the seed of an embedder")
    return value


def fit_name(text: str, most: int = 80) -> str:
    """A name that a backbone of a profile can have, made from any text, of at most `most` characters."""
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower())[:most - len("model-")].strip("-.")
    name = _OF_A_RUN.sub(lambda part: part[0].replace("s", "seed", 1), name)[:most - len("model-")].strip("-.")
    return name if name not in ("", *_RESERVED) and _is_text(name) else f"model-{name}".strip("-.")


def _once(values: Sequence) -> Sequence:
    if len(set(values)) != len(values):
        raise ValueError("expected every entry once")
    return values


Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80), BeforeValidator(_named_by_text)]
ModelName = Annotated[Name, AfterValidator(_free)]  # part of the ids of embedders
Text = Annotated[str, Field(min_length=1)]
Title = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*\S[^\x00-\x1f\x7f\u2028\u2029]*$")]
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=MOST_SEEDS)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Once = AfterValidator(_once)


class Section(BaseModel):
    """Base of all profile sections: frozen, unknown keys fail, and so do NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `true` is no number, although Python counts it as 1."""
        flag = cls.model_fields[info.field_name].annotation is bool
        if not flag and any(isinstance(x, bool) for x in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError("expected something other than true or false")
        return value


class Geometry(Section):
    """A penalty of fine-tuning: `weight` times the mean, over `blocks`, of 1 - linear CKA of states and the start's."""

    weight: Positive
    blocks: Annotated[tuple[Count, ...], Field(min_length=1), Once]  # whose outputs are held to, counted from 1


class Backbone(Section):
    """One decoder LM: made on the spot (`zoo`), loaded from a Python `package`, a `folder` or the `hub`, or a control.

    Controls are another backbone of the profile with its weights drawn anew (`random`) or with noise added (`noised`).
    """

    name: ModelName
    source: Literal["zoo", "package", "folder", "hub", "random", "noised"]
    path: Text | None = None  # folder (relative to the repository), hub id, or package with a GGUF file
    revision: Text | None = Field(None, exclude_if=lambda value: value is None)  # of a hub model: branch, tag or
    # commit; None: what `main` is when the study first uses it
    card: Text | None = None  # of a package: folder with its measurements, so that no run takes them again
    arm: Literal["base", "cpt", "sft", "rlvr", "rlvr-long", "control"]  # how it was made; others start from `base`
    start: Text | None = None  # backbone that an arm other than base starts from
    noise: Positive | None = None  # of source noised: standard deviation of what is added to every matrix,
    # as a share of that of its own entries
    seed: Seed | None = None  # of a zoo backbone or a control, where it is not `zoo.seed`: the same recipe, other
    # random numbers and training problems; the held-out ones are the same
    geometry: Geometry | None = Field(None, exclude_if=lambda value: value is None)  # of a zoo arm sft

    @model_validator(mode="after")
    def _complete(self) -> Backbone:
        if (self.path is None) != (self.source in ("zoo", "random", "noised")):
            raise ValueError(f"backbone {self.name}: expected a path for source package, folder or hub and none for "
                             f"zoo, random or noised, got source={self.source}, path={self.path}")
        if self.source == "zoo" and (self.start is None) != (self.arm == "base"):
            raise ValueError(f"backbone {self.name}: expected start for every zoo arm but base, "
                             f"got arm={self.arm}, start={self.start}")
        if (self.source in CONTROLS) != (self.arm == "control") or (self.source in CONTROLS and self.start is None):
            raise ValueError(f"backbone {self.name}: expected arm control and a start for source random or noised, and "
                             f"no other, got source={self.source}, arm={self.arm}, start={self.start}")
        if (self.noise is None) == (self.source == "noised"):
            raise ValueError(f"backbone {self.name}: expected noise for source noised and no other, got "
                             f"source={self.source}, noise={self.noise}")
        if self.revision is not None and self.source != "hub":
            raise ValueError(f"backbone {self.name}: expected a revision for source hub only, got "
                             f"revision={self.revision}, source={self.source}")
        if self.card is not None and self.source != "package":
            raise ValueError(f"backbone {self.name}: expected a card of its own for source package only, got "
                             f"card={self.card}, source={self.source}: what the others have lies in their folder")
        if self.source == "package" and self.arm != "base":
            raise ValueError(f"backbone {self.name}: expected arm base for source package, got {self.arm}: nothing "
                             "that it could be measured against comes with it")
        if self.seed is not None and self.source not in ("zoo", *CONTROLS):
            raise ValueError(f"backbone {self.name}: expected a seed of its own for source zoo, random or noised only, "
                             f"got seed={self.seed}, source={self.source}")
        if self.geometry is not None and (self.source, self.arm) != ("zoo", "sft"):
            raise ValueError(f"backbone {self.name}: expected geometry for source zoo and arm sft only, got "
                             f"source={self.source}, arm={self.arm}")
        return self


class Pair(Section):
    """Two backbones to compare; every difference is `b` minus `a`."""

    name: Name
    a: Text
    b: Text
    kind: Literal["SFT", "RLVR", "RLVR, prolonged", "control", "other"]  # other: any two models, of no known relation


class Control(Section):
    """Two embedders of which is known beforehand whether they differ: what a study makes of them says what it can see.

    Every difference is `b` minus `a`, seed by seed. What is not named is the same in both.
    """

    name: Name
    expects: Literal["same", "different"]
    a: str  # backbone
    b: str  # backbone, the same one where only its training differs
    ablation: str | None = None  # of the recipe, for b alone
    other_order: bool = False  # b is the embedder of the next seed: the same data in another order


class Lora(Section):
    """LoRA adapters on all linear layers; the defaults are the published ones of contrastive training."""

    r: Count = 16
    alpha: Count = 32
    dropout: float = Field(0.1, ge=0, lt=1)


class Zoo(Section):
    """How zoo backbones are made: one small Qwen3-architecture LM, then real GRPO and real SFT from it, or from a
    model that a package brings."""

    vocab_size: int = Field(2048, ge=300)  # half of what reads English best: the LM head is then a third of
    # the cost, not half; 256 are the bytes
    hidden_size: Count = 160
    layers: Count = 4  # five states with the embedding output: enough for a curve over depth
    heads: Count = 4
    head_dim: Count | None = None  # hidden_size / heads unless told
    kv_heads: Count = 2
    intermediate_size: Count = 448
    context: Count = 256
    pretrain_steps: Count = 1300
    pretrain_batch: Count = 16  # sequences of `pretrain_length` tokens; small, so that few tokens give many updates
    pretrain_length: Count = 128
    pretrain_lr: Positive = 3e-3  # small models take large rates; warm-up and cosine follow
    pretrain_precision: Literal["fp32", "bf16"] = "fp32"  # bf16 autocast is half as fast again on recent CPUs
    families: tuple[Literal["sums", "products"], ...] = Field(("sums",), min_length=1)  # of problems
    form: Literal["plain", "chat"] = Field("plain", exclude_if=lambda value: value == "plain")  # of problems: as
    # in the pretraining text of small models, or in a model's own chat template
    terms: tuple[Count, Count] = (3, 4)  # fewest and most numbers in a problem of the pretraining text
    asked: tuple[Count, Count] | None = None  # the same of the problems that GRPO and SFT learn from and that are
    # measured; harder ones than those pretrained on leave room to learn. None: those of `terms`
    worked_share: float = Field(0.55, ge=0, lt=1)  # of pretraining tokens: problems with their answers
    worked_documents: Share = 0.5  # of these problems: with a worked solution
    grpo_steps: Count = 30
    grpo_lr: Positive = 1e-4  # three times as much collapsed in trials
    grpo_prompts: Count = 32  # per step
    grpo_completions: int = Field(8, ge=2)  # per prompt: the group whose mean is the baseline
    grpo_beta: NotNegative = 0.0  # weight of the KL penalty against the reference, the policy a round began with
    grpo_kept: Annotated[tuple[Count, ...], Once] = Field((), exclude_if=lambda value: not value)  # updates after which
    # `hrsa backbones --along` keeps the adapters of an arm trained again
    grpo_rounds: int = Field(4, ge=2)  # of the prolonged arm: reference and optimizer start anew with each
    completion_tokens: Count = 28  # the longest worked solution has 23
    sft_steps: Count = 50
    sft_batch: Count = 64
    sft_lr: Positive = 5e-4
    frozen_precision: Literal["fp32", "bf16"] = Field("bf16", exclude_if=lambda value: value == "bf16")  # in which a
    # model's own weights, rounded to bfloat16, are multiplied beside adapters; some CPUs are far quicker in fp32
    lora: Lora | None = Field(None, exclude_if=lambda value: value is None)  # of all arms but base; None: all weights
    cpt_steps: Count = 50  # updates of continued pretraining, on batches like those of pretraining
    cpt_lr: Positive = 3e-4
    held_out_of: int = Field(10, ge=2, exclude_if=lambda value: value == 10)  # one multiset of terms in so
    # many is held out
    problems_held_out: Count = 400  # for accuracy with its interval; +-5 points at 50%
    seed: Seed = 0

    @model_validator(mode="after")
    def _buildable(self) -> Zoo:
        if self.heads % self.kv_heads or (self.head_dim is None and self.hidden_size % self.heads):
            raise ValueError(f"expected heads that are a multiple of kv_heads, and a hidden_size that is one of heads "
                             f"where head_dim is not told, got hidden_size={self.hidden_size}, heads={self.heads}, "
                             f"kv_heads={self.kv_heads}")
        if (self.head_dim or self.hidden_size // self.heads) % 2:
            raise ValueError(f"expected an even head_dim (rotary positions turn pairs), got "
                             f"{self.head_dim or self.hidden_size // self.heads}")
        for name, (least, most) in (("terms", self.terms), ("asked", self.asked or self.terms)):
            if not 2 <= least <= most:
                raise ValueError(f"expected {name} as [fewest, most], 2 <= fewest <= most, got {[least, most]}")
        return self


class Recipe(Section):
    """Contrastive training. Defaults are the published recipe; profiles scale it down."""

    temperature: Positive = 0.02
    batch_size: int = Field(2048, ge=2)  # queries; the more, the more in-batch negatives
    steps: Count = 782  # one epoch of 1,603,172 triples
    hard_negatives: Whole = 3
    learning_rate: Positive = 2e-5
    warmup_ratio: Share = 0.03
    weight_decay: Share = 0.05
    max_length: int = Field(512, ge=8)  # tokens, of query and of passage
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = True  # memory for one more forward pass
    chunk_tokens: int = Field(65536, ge=64)  # tokens per forward pass of the cached gradient
    near_positive_margin: NotNegative | None = None  # mask a negative this much nearer to the query than its
    # positive: likely right too. Qwen3-Embedding takes 0.1; the published study masks none
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    pooling: Literal["mean", "last"] = Field("mean", exclude_if=lambda value: value == "mean")  # of a text's token
    # states, the instruction's left out: their mean, as published, or the last of them; of embedder and untrained
    # backbone alike
    kernel: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field("auto", exclude_if=lambda v: v == "auto")
    # of attention; auto: SDPA, or eager where an architecture lacks it. flash_attention_2 is for training, in bf16 on a
    # card; scores and states are float32, which it does not compute, and take auto
    layers: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)  # the first n blocks and the final
    # norm, of embedder and untrained backbone alike (arXiv 2410.14578); None: all of them
    lora: Lora | None = None
    sharding: Literal["none", "full"] = Field("none", exclude_if=lambda value: value == "none")  # full: weights,
    # gradients and optimiser are spread over the processes that train together (FSDP2), for what no single card holds
    shuffled_positives: bool = Field(False, exclude_if=lambda value: not value)  # a control: every query of a task gets
    # the positive of another, so that there is nothing to learn but how the texts are distributed
    checkpoints: Annotated[tuple[Count, ...], Once] = ()  # steps kept for the dynamics chapter; 0: the backbone

    @model_validator(mode="after")
    def _reached(self) -> Recipe:
        if late := [step for step in self.checkpoints if step > self.steps]:
            raise ValueError(f"expected checkpoints within steps={self.steps}, got {late}: remove them")
        return self

    @model_validator(mode="after")
    def _computable(self) -> Recipe:
        if self.kernel == "flash_attention_2" and self.precision != "bf16":
            raise ValueError(f"expected precision bf16 for the attention kernel flash_attention_2, got "
                             f"{self.precision}: change one of them")
        return self


class Ablation(Section):
    """A variant of the recipe: the named fields take these values, all else stays."""

    name: ModelName
    change: dict[str, float | int | str | dict | None] = Field(min_length=1)  # None: lora off, all weights are trained
    backbones: Annotated[tuple[Text, ...], Field(min_length=1), Once]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Once] = (0,)


class Mining(Section):
    """Hard negatives."""

    embedder: Text = "Qwen/Qwen3-Embedding-0.6B"  # the published reference; `minilm` is offline, `bm25` the quickest
    revision: Text | None = Field(None, exclude_if=lambda value: value is None)  # of one on the hub, as a backbone's
    margin: float = Field(0.95, gt=0, le=1)  # keep a candidate only below this share of the positive's similarity
    skip_ranks: Whole = 100  # take from ranks below min(this, skip_share of N): nearer ones may be right
    skip_share: Share = 0.10
    passages: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)  # of a task, to search: those of
    # so many of its pairs, so that few training pairs still find negatives near by; None: those trained on alone


class Suite(Section):
    """Texts to train on and tasks to score."""

    train: Annotated[tuple[Text, ...], Field(min_length=1), Once] | Literal["all"] = "all"  # task names in
    # data/suite/train, or a path to jsonl or parquet
    max_pairs: Count | None = None  # per training task, the first of a seeded shuffle
    tasks: Annotated[tuple[Text, ...], Once] = ()  # local evaluation tasks, names in data/suite/eval
    benchmarks: Annotated[tuple[Text, ...], Once] = ()  # mteb benchmarks by name (needs the hub)
    uninstructed: Literal["refuse", "generic", "bare"] = "refuse"  # a benchmark task that brings no instruction: stop,
    # or mteb's phrase for the task type, or the text alone; silence here changes scores unseen
    benchmark_tasks: Annotated[tuple[Text, ...], Field(min_length=1), Once] | None = Field(
        None, exclude_if=lambda value: value is None)  # only these tasks of the benchmarks; None: all of them
    max_docs: Count | None = None  # cap on each corpus, or on the rows of a split; relevant documents always stay
    max_queries: Count | None = None
    dimensions: Annotated[tuple[Count, ...], Once] = Field((), exclude_if=lambda value: not value)  # scores once more
    # with the first so many dimensions of each embedding (Matryoshka, arXiv 2205.13147)
    max_subsets: Count | None = Field(None, exclude_if=lambda value: value is None)  # languages or domains of a
    # benchmark's task, the first; an average over fewer is another score
    mining: Mining = Mining()


class Analysis(Section):
    """HRSA."""

    texts: Text | None = None  # probe texts of one's own: a .txt (one text a line), .jsonl or .parquet file
    unit: Literal["token", "word", "text"] = "token"  # what is compared; words and texts fit tokenizers that differ
    texts_per_set: Count = 200  # probe texts of each set whose token states are compared
    max_length: Count = 128  # tokens per probe text
    max_tokens: int = Field(4000, ge=4, le=50_000)  # seeded sample of tokens, the same for every model
    ks: Annotated[tuple[Count, ...], Field(min_length=1), Once] = (5, 10, 50)  # neighbours, as published
    more: Annotated[tuple[Literal["mutual_knn", "cknna", "rsa", "svcca"], ...], Once] = Field(
        (), exclude_if=lambda value: not value)  # measures beside the published ones; each costs about as much as k-NN
    memory_mb: int = Field(512, ge=64)  # what a comparison of layers holds at once, of both models' states and of sums;
    # one that cannot do with so little says so before the study starts
    bootstrap: int = Field(200, ge=2)  # resamples of texts for an interval
    permutations: Count = 20  # row shuffles for a null
    probe_texts: Count = 1200  # split 80/10/10

    @model_validator(mode="after")
    def _enough_rows(self) -> Analysis:
        if max(self.ks) >= self.max_tokens:
            raise ValueError(f"expected ks below max_tokens={self.max_tokens}, for so many tokens have fewer "
                             f"neighbours, got ks={list(self.ks)}: lower ks, or take more tokens")
        return self


class Verdict(Section):
    """Stated before the run and hashed into its results."""

    margin: float = Field(0.02, gt=0, lt=1)  # on 0..1: a smaller difference would not change a choice
    alpha: float = Field(0.05, gt=0, lt=0.5)
    resamples: int = Field(2000, ge=20)

    @model_validator(mode="after")
    def _fine_enough(self) -> Verdict:
        if self.resamples * self.alpha < 4:
            raise ValueError(f"expected resamples of at least 4 / alpha = {4 / self.alpha:g}, got {self.resamples}")
        return self


class Model(Section):
    """A model of the study: a backbone as it came (`seed` None) or an embedder trained from it."""

    backbone: str
    seed: int | None = None
    ablation: str | None = None

    @property
    def id(self) -> str:
        """`base`, `base-s0` or, for a variant of the recipe, `base-s0-causal`."""
        parts = [self.backbone, "" if self.seed is None else f"s{self.seed}", self.ablation or ""]
        return "-".join(part for part in parts if part)
