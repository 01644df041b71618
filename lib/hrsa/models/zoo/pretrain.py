"""Pretraining of a zoo backbone from scratch: a Qwen3-architecture LM, next-token loss, AdamW, resumable to the bit."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hrsa.models.zoo.corpus import pack
from hrsa.study import store
from hrsa.study.profile import Zoo
from hrsa.study.progress import progress
from hrsa.study.runtime import device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

log = logging.getLogger(__name__)
WARMUP = 0.05  # of the steps
FLOOR = 0.1  # of the peak learning rate, reached at the end of the cosine
BETAS, DECAY, CLIP = (0.9, 0.95), 0.1, 1.0  # usual for language models
CPT_WARMUP_STEPS = 5
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def new_model(zoo: Zoo, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A random Qwen3 causal LM of the zoo's size with tied embeddings; the weights follow from `zoo.seed`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(zoo.seed)
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=zoo.vocab_size, hidden_size=zoo.hidden_size, num_hidden_layers=zoo.layers,
        num_attention_heads=zoo.heads, num_key_value_heads=zoo.kv_heads,
        head_dim=zoo.head_dim or zoo.hidden_size // zoo.heads,
        intermediate_size=zoo.intermediate_size, max_position_embeddings=zoo.context, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    ))


def learning_rate(step: int, zoo: Zoo) -> float:
    """The rate of a step counted from 0: linear warm-up, then a cosine down to a tenth of the peak."""
    warmup = max(1, round(WARMUP * zoo.pretrain_steps))
    if step < warmup:
        return zoo.pretrain_lr * (step + 1) / warmup
    done = (step - warmup) / max(1, zoo.pretrain_steps - warmup)
    return zoo.pretrain_lr * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)


def pretrain(zoo: Zoo, texts: list[str], tokenizer: PreTrainedTokenizerFast, work: Path, every: int = 100,
             stop: int | None = None) -> tuple[Qwen3ForCausalLM, pd.DataFrame]:
    """A new model trained for `zoo.pretrain_steps` steps, going on from the checkpoint in `work` when there is one.

    Every `every` steps the weights, the optimizer's moments and the losses go to `work`; what follows is a function
    of these and of the step alone, so that a run killed anywhere ends with the same weights. `stop` ends early, after
    that many steps. Returns the model and the curve [step, quantity (loss, learning rate), value].
    """
    model = new_model(zoo, tokenizer).to(device())
    rates = [learning_rate(step, zoo) for step in range(zoo.pretrain_steps)]
    return model, _train(model, zoo, pack(texts, tokenizer, zoo), rates, work, "pretraining", every, stop)


def go_on(model: Qwen3ForCausalLM, zoo: Zoo, texts: list[str], tokenizer: PreTrainedTokenizerFast,
          work: Path, every: int = 100) -> pd.DataFrame:
    """Continued pretraining of `model`, in place, on real documents alone, for `zoo.cpt_steps` steps; the curve.

    A new optimizer, a few steps of warm-up, then a constant rate. Resumes as `pretrain` does.
    """
    rates = [zoo.cpt_lr * min(1, (step + 1) / CPT_WARMUP_STEPS) for step in range(zoo.cpt_steps)]
    rows = pack(texts, tokenizer, zoo, "continued pretraining")
    return _train(model, zoo, rows, rates, work, "continued pretraining", every)


def _train(model: Qwen3ForCausalLM, zoo: Zoo, packed: np.ndarray, rates: list[float], work: Path, stage: str,
           every: int, stop: int | None = None) -> pd.DataFrame:
    """One step per rate on successive batches of the packed rows (steps * b, t); the curve."""
    model.train()
    optimizer = torch.optim.AdamW(_groups(model), lr=rates[0], betas=BETAS, fused=True)
    rows = torch.from_numpy(packed).long()  # (steps * b, t)
    losses = _resume(work, model, optimizer)
    with progress(len(rates), stage, f"seed {zoo.seed}") as bar:
        bar.update(len(losses))
        for step in range(len(losses), len(rates) if stop is None else stop):
            batch = rows[step * zoo.pretrain_batch : (step + 1) * zoo.pretrain_batch]  # (b, t)
            losses.append(_step(model, optimizer, batch.to(model.device), rates[step], zoo.pretrain_precision))
            if (step + 1) % every == 0 and step + 1 < len(rates):
                _checkpoint(work, model, optimizer, losses)
            bar.update()
    model.eval()
    steps = np.arange(1, len(losses) + 1)
    return pd.concat([pd.DataFrame({"step": steps, "quantity": quantity, "value": values})
                      for quantity, values in (("loss", losses), ("learning rate", rates[: len(losses)]))],
                     ignore_index=True)


def document_positions(ids: torch.Tensor, end: int) -> torch.Tensor:
    """Positions within documents, (b, t), of rows of token ids (b, t) in which `end` closes each document.

    Given to the model without an attention mask, they also keep documents from attending to each other: transformers
    reads every restart as the begin of a new sequence.
    """
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    begins = torch.zeros_like(ids)
    begins[:, 1:] = torch.where(ids[:, :-1] == end, place[:, 1:], 0)
    return place - torch.cummax(begins, 1)[0]


def _groups(model: torch.nn.Module) -> list[dict]:
    """Weight decay on matrices, none on the vectors of norms."""
    parameters = list(model.parameters())
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0}]


def _step(model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, batch: torch.Tensor, rate: float,
          precision: str) -> float:
    """One update on a batch (b, t) of token ids; returns the loss in nats per token before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    own = document_positions(batch[:, :-1], model.config.eos_token_id)
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
        states = model.model(input_ids=batch[:, :-1], position_ids=own, use_cache=False).last_hidden_state
        logits = model.lm_head(states).flatten(0, 1)  # (b, t - 1, d) -> (b * (t - 1), vocabulary)
    loss = torch.nn.functional.cross_entropy(logits.float(), batch[:, 1:].flatten())
    if not torch.isfinite(loss):
        raise RuntimeError(f"expected a finite pretraining loss, got {loss.item()}: lower zoo.pretrain_lr")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return loss.item()


def _checkpoint(work: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    """Write all that the next step depends on as one safetensors file, atomically."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        tensors |= {f"{moment}.{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
    with store.atomic(work / "checkpoint.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"losses": json.dumps(losses)})


def _resume(work: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Load the checkpoint in `work` into model and optimizer; the losses so far, empty without a checkpoint."""
    file = work / "checkpoint.safetensors"
    if not file.is_file():
        return []
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        losses = json.loads(stored.metadata()["losses"])
        for name, parameter in model.named_parameters():
            parameter.copy_(stored.get_tensor(f"weight.{name}"))
            optimizer.state[parameter] = {moment: stored.get_tensor(f"{moment}.{name}").to(parameter.device)
                                          for moment in MOMENTS}
    log.info("pretraining goes on after step %d from %s", len(losses), work.name)
    return losses
