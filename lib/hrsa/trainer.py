"""The loop of contrastive training: sentence-transformers' trainer with our loss, order of batches and checkpoints.

Checkpoints hold the trained weights, the optimiser, the schedule, the random state and the log; one counts only when
its marker, written last, lists every file with its size. A run that was killed goes on from the newest whole one and
ends with the same bits. The order of batches is given from outside and the loop adds no chance of its own to it.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from transformers import PrinterCallback, TrainerCallback

from hrsa import paths
from hrsa.backbone import device
from hrsa.fingerprint import CLIP, text_hash
from hrsa.infonce import InfoNCE, text_id
from hrsa.profile import Recipe
from hrsa.progress import progress
from hrsa.texts import query_prompt

log = logging.getLogger(__name__)
SAVES = 10  # checkpoints per run: an interruption costs at most a tenth of the run
WEIGHTS, MARKER = "trained.safetensors", "complete.json"
CURVE = ["step", "loss", "learning_rate", "grad_norm", "masked", "near", "truncated", "tokens", "seconds", "batch"]


class Order(DefaultBatchSampler):
    """Hands out batches in the given order: order (steps, b), rows of the data set."""

    def __init__(self, order: np.ndarray):
        super().__init__(range(order.size), batch_size=order.shape[1], drop_last=True)
        self.order = order

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.order.tolist()

    def __len__(self) -> int:
        return len(self.order)


class Collator:
    """Rows of one task -> tokenised columns query, positive, negative_1 ... for the trainer, and labels for the loss.

    known: query -> identifiers of all its positives in the training set. Besides the columns a batch carries `batch`
    (hash of the texts, in order) and `truncated` (how many texts were longer than the model's max_seq_length).
    """

    valid_label_columns = ("label",)

    def __init__(self, model: SentenceTransformer, negatives: int, known: dict[str, list[int]]):
        self.model, self.negatives, self.known = model, negatives, known

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `rows`, which share one instruction."""
        columns = {"query": [row["query"] for row in rows], "positive": [row["positive"] for row in rows]}
        for i in range(self.negatives):
            columns[f"negative_{i + 1}"] = [row["negatives"][i] for row in rows]
        batch: dict[str, Any] = {"truncated": 0}
        for name, texts in columns.items():
            prompt = query_prompt(rows[0]["instruction"]) if name == "query" else ""
            features = self.model.preprocess(texts, prompt=prompt or None)
            batch["truncated"] += self._truncated(features["attention_mask"], texts, prompt)
            batch |= {f"{name}_{key}": value for key, value in features.items()}
        most = max(len(self.known[query]) for query in columns["query"])
        known = [ids + ids[:1] * (most - len(ids)) for ids in (self.known[query] for query in columns["query"])]
        ids = [[text_id(text) for text in texts] for texts in columns.values()]
        batch["label"] = {"ids": torch.tensor(ids).T, "known": torch.tensor(known)}  # (b, columns), (b, m)
        batch["batch"] = text_hash(text for texts in zip(*columns.values(), strict=True) for text in texts)
        return batch

    def _truncated(self, mask: torch.Tensor, texts: list[str], prompt: str) -> int:
        """How many texts lost tokens: those that fill the limit are tokenised once more, without it."""
        limit = self.model.max_seq_length
        full = [prompt + texts[i] for i in (mask.sum(1) >= limit).nonzero().flatten().tolist()]
        if not full:
            return 0
        whole = self.model.tokenizer(full, truncation=False, padding=False, verbose=False)["input_ids"]
        return sum(len(ids) > limit for ids in whole)


class _Watch(TrainerCallback):
    """Progress bar, and a call after chosen steps (before the trainer writes its checkpoint of the same step)."""

    def __init__(self, run: str, steps: tuple[int, ...], keep: Callable[[int], None]):
        self.run, self.steps, self.keep, self.bar = run, steps, keep, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = progress(state.max_steps, "training", self.run)
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(1)
        if state.global_step in self.steps:
            self.keep(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


class _Trainer(SentenceTransformerTrainer):
    """No model card, checkpoints of the trained weights only, complete or not there; the loss's counts in the log."""

    loss: InfoNCE

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.began, self.seen = time.monotonic(), {key: inputs.pop(key) for key in ("batch", "truncated")}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self.seen, **self.loss.record, "seconds": time.monotonic() - self.began}
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach().contiguous() for n, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        missing, unexpected = self.model.load_state_dict(load_file(Path(checkpoint) / WEIGHTS), strict=False)
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        if unexpected or trained & set(missing):
            raise ValueError(f"expected the weights of this model in {checkpoint}, got others: delete {checkpoint}")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        work = Path(self.args.output_dir)
        newest = work / f"checkpoint-{self.state.global_step}"
        paths.write_json(newest / MARKER, {f.name: f.stat().st_size for f in newest.iterdir()})
        for old in work.glob("checkpoint-*"):
            if old != newest:
                shutil.rmtree(old)


def newest_checkpoint(work: Path) -> Path | None:
    """The checkpoint in `work` with the most steps that is whole; None when there is none."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        if (folder / MARKER).is_file():
            sizes = paths.read_json(folder / MARKER)
            if all((folder / n).is_file() and (folder / n).stat().st_size == size for n, size in sizes.items()):
                whole.append(folder)
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def arguments(recipe: Recipe, seed: int, work: Path) -> SentenceTransformerTrainingArguments:
    """The recipe in the trainer's words."""
    return SentenceTransformerTrainingArguments(
        output_dir=str(work), seed=seed, max_steps=recipe.steps, per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate, lr_scheduler_type="cosine", weight_decay=recipe.weight_decay,
        warmup_steps=math.ceil(recipe.warmup_ratio * recipe.steps), max_grad_norm=CLIP, optim="adamw_torch",
        bf16=recipe.precision == "bf16", use_cpu=device().type == "cpu",
        save_strategy="steps", save_steps=max(1, recipe.steps // SAVES), logging_strategy="steps", logging_steps=1,
        logging_nan_inf_filter=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )


def fit(model: SentenceTransformer, triples: pd.DataFrame, order: np.ndarray, recipe: Recipe, seed: int, work: Path,
        run: str, keep: Callable[[int], None]) -> pd.DataFrame:
    """Train `model` in place, from the newest whole checkpoint in `work` if there is one.

    triples: columns instruction, query, positive, negatives; order (steps, b): rows of each batch; keep(step) is
    called after each of `recipe.checkpoints`. Returns one row per step with the columns `CURVE`. Raises
    FloatingPointError naming the step when the loss stops being finite.
    """
    known: dict[str, dict[int, None]] = {}
    for query, positive in zip(triples["query"], triples["positive"], strict=True):
        known.setdefault(query, {})[text_id(positive)] = None
    columns = ["instruction", "query", "positive", "negatives"]
    data = Dataset.from_pandas(triples[columns], preserve_index=False)
    if recipe.gradient_checkpointing:
        model[0].model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    args = arguments(recipe, seed, work)
    args.batch_sampler = lambda dataset, **rest: Order(order)
    trainer = _Trainer(
        model=model, args=args, train_dataset=data,
        loss=InfoNCE(model, recipe.temperature, recipe.chunk_tokens, recipe.near_positive_margin),
        data_collator=Collator(model, recipe.hard_negatives, {q: list(ids) for q, ids in known.items()}),
        callbacks=[_Watch(run, recipe.checkpoints, keep)])
    trainer.remove_callback(PrinterCallback)
    resume = newest_checkpoint(work)
    if resume:
        log.info("%s goes on from %s", run, resume.name)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    curve = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])[CURVE]
    log.info("%s: %d of %d texts truncated; scores masked: %d repeats of a known text, %d near positives", run,
             curve["truncated"].sum(), order.size * (2 + recipe.hard_negatives), curve["masked"].sum(),
             curve["near"].sum())
    if not np.isfinite(curve["loss"]).all():
        step = int(curve.loc[~np.isfinite(curve["loss"]), "step"].iloc[0])
        raise FloatingPointError(f"expected a finite loss, got none at step {step}: lower recipe.learning_rate")
    return curve
