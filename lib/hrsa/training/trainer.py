"""The loop of contrastive training: sentence-transformers' trainer with our loss, batch sampler and checkpoints.

Checkpoints hold the trained weights, the optimiser, the schedule, the random state and the log; one counts only when
its marker, written last, lists every file with its size. A run that was killed goes on from the newest whole one and
ends with the same bits. The batches are given from outside; the loop draws none.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.utils import load_fsdp_model
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import PrinterCallback, TrainerCallback

from hrsa.models.language_model import block_list
from hrsa.study import store
from hrsa.study.profile import Recipe
from hrsa.study.progress import progress
from hrsa.study.runtime import device
from hrsa.training import distributed
from hrsa.training.batches import CUT, Collator, FixedBatchSampler, global_record
from hrsa.training.fingerprint import MAX_GRAD_NORM
from hrsa.training.infonce import MASKED, InfoNCE, text_id

log = logging.getLogger(__name__)
Weights = dict[str, torch.Tensor]
SAVES = 10  # checkpoints per run: an interruption costs at most a tenth of the run
_WHOLE = {"version": 2, "state_dict_type": "FULL_STATE_DICT"}  # FSDP2; checkpoints are written whole, by rank 0
WEIGHTS, MARKER = "trained.safetensors", "complete.json"
CURVE = ["step", "task", "loss", "learning_rate", "grad_norm", *MASKED, *CUT, "tokens", "seconds", "batch"]


class _Watch(TrainerCallback):
    """Progress bar, and a call after chosen steps (before the trainer writes its checkpoint of the same step)."""

    keep: Callable[[int], None]

    def __init__(self, run: str, steps: tuple[int, ...]):
        self.run, self.steps, self.bar = run, steps, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if distributed.rank():
            torch.manual_seed(args.seed + distributed.rank())  # other dropout in every process, after the weights
            return
        self.bar = progress(state.max_steps, "training", self.run)
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            self.bar.update(1)
        if state.global_step in self.steps:
            self.keep(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            self.bar.close()


class _Trainer(SentenceTransformerTrainer):
    """No model card, checkpoints of the trained weights only, complete or not there; the loss's counts in the log."""

    loss: InfoNCE

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.began = time.monotonic()
        self.seen = global_record(inputs.pop("rows"), inputs.pop("cut"), self.args.device)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self.seen, **self.loss.record, "seconds": time.monotonic() - self.began}
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        if state_dict is None:
            state_dict = {n: p.detach().contiguous() for n, p in self.model.named_parameters() if p.requires_grad}
        save_file(state_dict, Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            load_fsdp_model(self.accelerator.state.fsdp_plugin, self.accelerator, model, checkpoint)
            return
        missing, unexpected = self.model.load_state_dict(load_file(Path(checkpoint) / WEIGHTS), strict=False)
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        if unexpected or trained & set(missing):
            raise ValueError(f"expected the weights of this model in {checkpoint}, got others: delete {checkpoint}")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        distributed.wait()  # every process has written its part
        if distributed.rank() == 0:
            work = Path(self.args.output_dir)
            newest = work / f"checkpoint-{self.state.global_step}"
            sizes = {str(f.relative_to(newest)): f.stat().st_size for f in newest.rglob("*") if f.is_file()}
            store.write_json(newest / MARKER, sizes)
            for old in work.glob("checkpoint-*"):
                if old != newest:
                    shutil.rmtree(old)
        distributed.wait()

    def weights(self) -> Weights | None:
        """Under FSDP all weights, whole, on the CPU (every process must call; empty but in rank 0); else None, for the
        model has them."""
        return self.accelerator.get_state_dict(self.model_wrapped) if self.is_fsdp_enabled else None


def newest_checkpoint(work: Path) -> Path | None:
    """The whole checkpoint in `work` that has the most steps; None when there is none."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        if (folder / MARKER).is_file():
            sizes = store.read_json(folder / MARKER)
            if all((folder / n).is_file() and (folder / n).stat().st_size == size for n, size in sizes.items()):
                whole.append(folder)
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def arguments(recipe: Recipe, seed: int, work: Path,
              blocks: Collection[str] = ()) -> SentenceTransformerTrainingArguments:
    """The trainer's arguments for a recipe; each process takes its share of the recipe's batch.

    blocks: classes of the network's blocks, each gathered by itself where weights are spread over processes. Raises
    ValueError when the batch does not divide by the number of processes, or weights were spread over one.
    """
    if recipe.batch_size % distributed.count():
        raise ValueError(f"expected recipe.batch_size to be a multiple of the {distributed.count()} processes, got "
                         f"{recipe.batch_size}: change one of them")
    if recipe.sharding == "full" and distributed.count() == 1:
        raise ValueError("expected several processes for recipe.sharding: full, got one: set `processes` in the "
                         "profile, or sharding to none")
    return SentenceTransformerTrainingArguments(
        output_dir=str(work), seed=seed, max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size // distributed.count(),
        accelerator_config={"split_batches": True},
        learning_rate=recipe.learning_rate, lr_scheduler_type="cosine", weight_decay=recipe.weight_decay,
        warmup_steps=math.ceil(recipe.warmup_ratio * recipe.steps), max_grad_norm=MAX_GRAD_NORM, optim="adamw_torch",
        bf16=recipe.precision == "bf16", use_cpu=device().type == "cpu",
        save_strategy="steps", save_steps=max(1, recipe.steps // SAVES), logging_strategy="steps", logging_steps=1,
        logging_nan_inf_filter=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        **({"fsdp": True, "fsdp_config": {**_WHOLE, "transformer_layer_cls_to_wrap": sorted(blocks)}}
           if recipe.sharding == "full" else {}),
    )


def _blocks(model: SentenceTransformer) -> set[str]:
    """Names of the classes of a network's blocks; ValueError when they are not in one list."""
    found = block_list(model[0].model)
    if found is None:
        raise ValueError(f"expected a network with a list of blocks for recipe.sharding: full, got "
                         f"{type(model[0].model).__name__}: set sharding to none")
    return {type(block).__name__ for block in found[2]}


def _trainer(model: SentenceTransformer, triples: pd.DataFrame, batches: np.ndarray, recipe: Recipe,
             args: SentenceTransformerTrainingArguments, watch: _Watch) -> _Trainer:
    """The trainer that hands the rows of `triples` to our loss, batch by batch."""
    known: dict[str, dict[int, None]] = {}
    for query, positive in zip(triples["query"], triples["positive"], strict=True):
        known.setdefault(query, {})[text_id(positive)] = None
    columns = ["instruction", "query", "positive", "negatives"]
    args.batch_sampler = lambda dataset, **rest: FixedBatchSampler(batches)
    trainer = _Trainer(
        model=model, args=args, train_dataset=Dataset.from_pandas(triples[columns], preserve_index=False),
        loss=InfoNCE(model, recipe.temperature, recipe.chunk_tokens, recipe.near_positive_margin),
        data_collator=Collator(model, recipe.hard_negatives, {q: list(ids) for q, ids in known.items()}),
        callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    return trainer


def fit(model: SentenceTransformer, triples: pd.DataFrame, batches: np.ndarray, recipe: Recipe, seed: int, work: Path,
        run: str, keep: Callable[[int, Weights | None], None]) -> tuple[pd.DataFrame, Weights | None]:
    """Train `model` in place, from the newest whole checkpoint in `work` if there is one.

    triples: columns task, instruction, query, positive, negatives; batches (steps, b): rows of each batch, which is of
    one task; keep(step, weights) is called after each of `recipe.checkpoints`, by all processes alike; weights: as
    `_Trainer.weights`. work: a folder that all processes see. Returns one row per step with the columns `CURVE`, and
    the final weights likewise. Raises FloatingPointError naming the step when the loss stops being finite.
    """
    if recipe.gradient_checkpointing:
        model[0].model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    watch = _Watch(run, recipe.checkpoints)
    args = arguments(recipe, seed, work, _blocks(model) if recipe.sharding == "full" else ())
    if args.fsdp:
        distributed.shard_on_cpu()
    trainer = _trainer(model, triples, batches, recipe, args, watch)
    if trainer.is_fsdp_enabled and recipe.sharding == "none":
        raise ValueError("expected a launcher without FSDP of its own, got one with it: set recipe.sharding: full in "
                         "the profile, which records it, and launch without")
    watch.keep = lambda step: keep(step, trainer.weights())
    resume = distributed.agreed(newest_checkpoint(work))
    if resume:
        log.info("%s goes on from %s", run, resume.name)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    weights = trainer.weights()
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    curve = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    tasks = triples["task"].to_numpy()[batches[:, 0]]  # (steps,); a batch is of one task
    curve = curve.assign(task=tasks[curve["step"] - 1])[CURVE]
    log.info("%s: %d queries and %d passages cut; scores masked: %d duplicates, %d known positives, %d near positives",
             run, *curve[[*CUT, *MASKED]].sum())
    if not np.isfinite(curve["loss"]).all():
        step = int(curve.loc[~np.isfinite(curve["loss"]), "step"].iloc[0])
        raise FloatingPointError(f"expected a finite loss, got none at step {step}: lower recipe.learning_rate")
    return curve, weights
