"""The sections of a profile, strict and frozen; the reason stands beside each default."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

CONTROLS = ("random", "noised")  # sources of backbones that are another with its weights changed
NAME_PATTERN = r"^[a-z0-9][a-z0-9.]*(-[a-z0-9.]+)*$"


class Section(BaseModel):
    """Base of all profile sections: frozen, unknown keys fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Backbone(Section):
    """One decoder LM: made on the spot (`zoo`), loaded from a Python `package`, a `folder` or the `hub`, or a control.

    Controls are another backbone of the profile with its weights drawn anew (`random`) or with noise added (`noised`).
    """

    name: str = Field(pattern=NAME_PATTERN)
    source: Literal["zoo", "package", "folder", "hub", "random", "noised"]
    path: str | None = None  # folder (relative to the repository), hub id, or package with a GGUF file
    revision: str | None = Field(None, exclude_if=lambda value: value is None)  # of a hub model: branch, tag or commit;
    # None: what `main` is when the study first uses it
    card: str | None = None  # of a package: folder with its measurements, so that no run takes them again
    arm: Literal["base", "cpt", "sft", "rlvr", "rlvr-long", "control"]  # how it was made; others start from `base`
    start: str | None = None  # backbone that an arm other than base starts from
    noise: float | None = Field(None, gt=0)  # of source noised: standard deviation of what is added to every matrix,
    # as a share of that of its own entries
    seed: int | None = None  # of a zoo backbone or a control, where it is not `zoo.seed`: the same recipe, other random
    # numbers and training problems; the held-out ones are the same

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
        return self


class Pair(Section):
    """Two backbones to compare; every difference is `b` minus `a`."""

    name: str = Field(pattern=NAME_PATTERN)
    a: str
    b: str
    kind: Literal["SFT", "RLVR", "RLVR, prolonged", "control", "other"]  # other: any two models, of no known relation


class Control(Section):
    """Two embedders of which is known beforehand whether they differ: what a study makes of them says what it can see.

    Every difference is `b` minus `a`, seed by seed. What is not named is the same in both.
    """

    name: str = Field(pattern=NAME_PATTERN)
    expects: Literal["same", "different"]
    a: str  # backbone
    b: str  # backbone, the same one where only its training differs
    ablation: str | None = None  # of the recipe, for b alone
    other_order: bool = False  # b is the embedder of the next seed: the same data in another order


class Lora(Section):
    """LoRA adapters on all linear layers; the defaults are the published ones of contrastive training."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.1


class Zoo(Section):
    """How zoo backbones are made: one small Qwen3-architecture LM, then real GRPO and real SFT from it, or from a
    model that a package brings."""

    vocab_size: int = 2048  # half of what reads English best: the LM head is then a third of the cost, not half
    hidden_size: int = 160
    layers: int = 4  # five states with the embedding output: enough for a curve over depth
    heads: int = 4
    head_dim: int | None = None  # hidden_size / heads unless told
    kv_heads: int = 2
    intermediate_size: int = 448
    context: int = 256
    pretrain_steps: int = 1300
    pretrain_batch: int = 16  # sequences of `pretrain_length` tokens; small, so that few tokens give many updates
    pretrain_length: int = 128
    pretrain_lr: float = 3e-3  # small models take large rates; warm-up and cosine follow
    pretrain_precision: Literal["fp32", "bf16"] = "fp32"  # bf16 autocast is half as fast again on recent CPUs
    families: tuple[Literal["sums", "products"], ...] = Field(("sums",), min_length=1)  # of problems
    form: Literal["plain", "chat"] = Field("plain", exclude_if=lambda value: value == "plain")  # of problems: as
    # in the pretraining text of small models, or in a model's own chat template
    terms: tuple[int, int] = (3, 4)  # fewest and most numbers in a problem of the pretraining text
    asked: tuple[int, int] | None = None  # the same of the problems that GRPO and SFT learn from and that are measured;
    # harder ones than those pretrained on leave room to learn. None: those of `terms`
    worked_share: float = Field(0.55, ge=0, lt=1)  # of pretraining tokens: problems with their answers
    worked_documents: float = Field(0.5, ge=0, le=1)  # of these problems: with a worked solution
    grpo_steps: int = 30
    grpo_lr: float = 1e-4  # three times as much collapsed in trials
    grpo_prompts: int = 32  # per step
    grpo_completions: int = 8  # per prompt: the group whose mean is the baseline
    grpo_beta: float = Field(0.0, ge=0)  # weight of the KL penalty against the reference, the policy a round began with
    grpo_rounds: int = Field(4, ge=2)  # of the prolonged arm: reference and optimizer start anew with each
    completion_tokens: int = 28  # the longest worked solution has 23
    sft_steps: int = 50
    sft_batch: int = 64
    sft_lr: float = 5e-4
    lora: Lora | None = Field(None, exclude_if=lambda value: value is None)  # of all arms but base; None: all weights
    cpt_steps: int = 50  # updates of continued pretraining, on batches like those of pretraining
    cpt_lr: float = 3e-4
    held_out_of: int = Field(10, ge=2, exclude_if=lambda value: value == 10)  # one multiset of terms in so
    # many is held out
    problems_held_out: int = 400  # for accuracy with its interval; +-5 points at 50%
    seed: int = 0


class Recipe(Section):
    """Contrastive training. Defaults are the published recipe; profiles scale it down."""

    temperature: float = Field(0.02, gt=0)
    batch_size: int = Field(2048, ge=2)  # queries; the more, the more in-batch negatives
    steps: int = Field(782, ge=1)  # one epoch of 1,603,172 triples
    hard_negatives: int = Field(3, ge=0)
    learning_rate: float = 2e-5
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    weight_decay: float = 0.05
    max_length: int = Field(512, ge=8)  # tokens, of query and of passage
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = True  # memory for one more forward pass
    chunk_tokens: int = Field(65536, ge=64)  # tokens per forward pass of the cached gradient
    near_positive_margin: float | None = Field(None, ge=0)  # mask a negative this much nearer to the query than its
    # positive: likely right too. Qwen3-Embedding takes 0.1; the published study masks none
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    layers: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)  # the first n blocks and the final
    # norm, of embedder and untrained backbone alike (arXiv 2410.14578); None: all of them
    lora: Lora | None = None
    shuffled_positives: bool = Field(False, exclude_if=lambda value: not value)  # a control: every query of a task gets
    # the positive of another, so that there is nothing to learn but how the texts are distributed
    checkpoints: tuple[int, ...] = ()  # steps kept for the dynamics chapter; 0 is the backbone itself


class Ablation(Section):
    """A variant of the recipe: the named fields take these values, all else stays."""

    name: str = Field(pattern=NAME_PATTERN)
    change: dict[str, float | int | str | dict]
    backbones: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)


class Mining(Section):
    """Hard negatives."""

    embedder: str = "Qwen/Qwen3-Embedding-0.6B"  # the published reference; `minilm` is offline, `bm25` the quickest
    revision: str | None = Field(None, exclude_if=lambda value: value is None)  # of one on the hub, as a backbone's
    margin: float = Field(0.95, gt=0, le=1)  # keep a candidate only below this share of the positive's similarity
    skip_ranks: int = Field(100, ge=0)  # take from ranks below min(this, skip_share of N): nearer ones may be right
    skip_share: float = Field(0.10, ge=0, le=1)
    passages: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)  # of a task, to search: those of
    # so many of its pairs, so that few training pairs still find negatives near by; None: those trained on alone


class Suite(Section):
    """Texts to train on and tasks to score."""

    train: tuple[str, ...] | Literal["all"] = "all"  # task names in data/suite/train, or a path to jsonl or parquet
    max_pairs: int | None = None  # per training task, the first of a seeded shuffle
    tasks: tuple[str, ...] = ()  # local evaluation tasks, names in data/suite/eval
    benchmarks: tuple[str, ...] = ()  # mteb benchmarks by name (needs the hub)
    uninstructed: Literal["refuse", "generic", "bare"] = "refuse"  # a benchmark task that brings no instruction: stop,
    # or mteb's phrase for the task type, or the text alone; silence here changes scores unseen
    max_docs: int | None = None  # cap on each local corpus; relevant documents always stay
    max_queries: int | None = None
    mining: Mining = Mining()


class Analysis(Section):
    """HRSA."""

    texts: str | None = None  # probe texts of one's own: a .txt (one text a line), .jsonl or .parquet file
    unit: Literal["token", "word", "text"] = "token"  # what is compared; words and texts fit tokenizers that differ
    texts_per_set: int = 200  # probe texts of each set whose token states are compared
    max_length: int = 128  # tokens per probe text
    max_tokens: int = Field(4000, le=50_000)  # seeded sample of tokens, the same for every model
    ks: tuple[int, ...] = (5, 10, 50)  # neighbours, as published
    memory_mb: int = Field(512, ge=64)  # states of both models held at once by a comparison of layers
    bootstrap: int = 200  # resamples of texts for an interval
    permutations: int = 20  # row shuffles for a null
    probe_texts: int = 1200  # split 80/10/10


class Verdict(Section):
    """Stated before the run and hashed into its results."""

    margin: float = Field(0.02, gt=0)  # on 0..1: a smaller difference would not change a choice
    alpha: float = Field(0.05, gt=0, lt=0.5)
    resamples: int = 2000


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
