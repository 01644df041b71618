"""Arms made as LoRA adapters of a larger model: GRPO, fine-tuning and continued pretraining by one loop that resumes.

The model's own weights stay as they are, rounded to bfloat16, which recent processors multiply several times as fast
(others do in float32: `zoo.frozen_precision`); the adapters and the optimizer's moments are float32. What prompts share
is computed once (`shared_prefix`).
Sources: LoRA, Hu et al. 2022 (arXiv 2106.09685); GRPO, Shao et al. 2024 (arXiv 2402.03300), equations 3 and 4, with the
token-level loss and, since groups without signal move nothing, the filter of DAPO (Yu et al. 2025, arXiv 2503.14476,
equations 8 and 11); rounds with a renewed reference, ProRL (Liu et al. 2025, arXiv 2505.24864, section 3.3).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hrsa.models import adapters
from hrsa.models.language_model import load_lm
from hrsa.models.zoo import sft, shared_prefix
from hrsa.models.zoo.corpus import pack
from hrsa.models.zoo.forms import form_of
from hrsa.models.zoo.problems import stream
from hrsa.study import store
from hrsa.study.profile import Zoo
from hrsa.study.progress import progress
from hrsa.study.sections import Geometry

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Objective = Callable[[int], tuple[torch.Tensor, dict[str, float]]]  # step -> loss, other quantities of the curve

EVERY = 10  # steps from one checkpoint to the next
UPDATES = "updates"  # folder of adapters after chosen updates
WARMUP_STEPS = 5
_CLIP = 1.0  # of the gradient's norm
LEAST_STD = 1e-4  # added to a group's standard deviation of rewards
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
SEEDS = 1_000_003  # steps with random numbers of their own per seed


def fine_tune(start: Path, zoo: Zoo, work: Path, geometry: Geometry | None = None) -> pd.DataFrame:
    """Adapters in `work/adapter` that `zoo.sft_steps` batches of worked solutions made; the curve.

    The loss is that of the solutions alone, not of the questions; geometry: a penalty, over the tokens of a batch, on
    how far states move from those of the start, which the loss of the curve includes. The curve is [step, quantity,
    value].
    """
    model, tokenizer = attached(start, zoo)
    form = form_of(zoo, tokenizer)
    problems = list(islice(stream("train", "sft", zoo), zoo.sft_steps * zoo.sft_batch))

    def objective(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = problems[step * zoo.sft_batch : (step + 1) * zoo.sft_batch]
        texts = [form.prompt(p) for p in batch], [form.solution(p) for p in batch]
        if geometry is None:
            logits, tokens, _ = shared_prefix.predicted(model, *texts)
            return torch.nn.functional.cross_entropy(logits, tokens), {}
        with torch.no_grad(), model.disable_adapter(), shared_prefix.block_outputs(model, geometry.blocks) as before:
            _, _, real, _ = shared_prefix.passed(model, *texts)
        with shared_prefix.block_outputs(model, geometry.blocks) as now:
            logits, tokens, _ = shared_prefix.predicted(model, *texts)
        apart = sft.mean_distance(now, before, real)
        loss = torch.nn.functional.cross_entropy(logits, tokens) + geometry.weight * apart
        return loss, {sft.DISTANCE: apart.item()}

    return _fit(model, objective, zoo.sft_steps, zoo.sft_lr, zoo, work, "SFT")


def pretrain_further(start: Path, zoo: Zoo, texts: list[str], work: Path) -> pd.DataFrame:
    """Adapters in `work/adapter` that `zoo.cpt_steps` batches of packed real text made; the curve."""
    model, tokenizer = attached(start, zoo)
    rows = torch.from_numpy(pack(texts, tokenizer, zoo, "continued pretraining")).long()  # (steps * b, t)

    def objective(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        ids = rows[step * zoo.pretrain_batch : (step + 1) * zoo.pretrain_batch].to(model.device)  # (b, t)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()  # (b, t - 1, vocabulary)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), {}

    return _fit(model, objective, zoo.cpt_steps, zoo.cpt_lr, zoo, work, "continued pretraining")


def reinforce(start: Path, zoo: Zoo, work: Path, rounds: int, first: Path | None = None,
              kept: Sequence[int] = ()) -> pd.DataFrame:
    """Adapters in `work/adapter` after `rounds` times `zoo.grpo_steps` updates by reward; the curve.

    Each round but the first begins with a new optimizer and takes the policy reached so far as reference of the KL
    penalty; the adapters go on. `first` is the artefact of an arm whose one round is taken as the first. Finished
    rounds are kept in `work`, and the adapters after the updates `kept` (but for those of `first`) in
    `work/updates/0005` and so on.
    """
    curves, before = [], None
    for number in range(rounds):
        done = work / f"round-{number}"
        if not done.is_dir() and number == 0 and first is not None:
            with store.atomic(done) as temporary:
                shutil.copytree(first / "adapter", temporary / "adapter")
                shutil.copy(first / "curve.parquet", temporary / "curve.parquet")
        if not done.is_dir():
            running = work / f"running-{number}"
            places = {update: work / UPDATES / f"{update:04d}" for update in kept}
            curve = _round(start, before, zoo, running, number, places)
            with store.atomic(done) as temporary:
                shutil.copytree(running / "adapter", temporary / "adapter")
                store.write_table(temporary / "curve.parquet", curve)
            shutil.rmtree(running)
        before = done / "adapter"
        curves.append(store.read_table(done / "curve.parquet", ["step", "quantity", "value"]))
    if not (work / "adapter").is_dir():
        shutil.copytree(before, work / "adapter")
    return pd.concat(curves, ignore_index=True)


def _round(start: Path, before: Path | None, zoo: Zoo, work: Path, number: int,
           kept: Mapping[int, Path]) -> pd.DataFrame:
    """One round of GRPO from the adapters in `before` (none: fresh ones), which are its reference too.

    Each step draws `grpo_prompts` problems, new ones in each round, and `grpo_completions` samples of each at
    temperature 1; every sample is used for one update.
    """
    model, tokenizer = attached(start, zoo, before)
    form, steps = form_of(zoo, tokenizer), zoo.grpo_steps
    needed = steps * zoo.grpo_prompts
    problems = list(islice(stream("train", "grpo", zoo), number * needed, (number + 1) * needed))
    reference = {name: p.detach().clone() for name, p in _trained(model).items()}

    def objective(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = problems[step * zoo.grpo_prompts : (step + 1) * zoo.grpo_prompts]
        asked = [p for p in batch for _ in range(zoo.grpo_completions)]
        prompts = [form.prompt(p) for p in asked]
        completions = shared_prefix.generate(model, prompts, zoo.completion_tokens, tokenizer.eos_token_id, True)
        rewards = torch.tensor([float(form.is_right(c, p)) for c, p in zip(completions, asked, strict=True)])
        loss, entropy = _policy_loss(model, prompts, completions, rewards.reshape(len(batch), -1), zoo.grpo_beta,
                                     reference)
        return loss, {
            "reward": rewards.mean().item(), "completion tokens": float(np.mean([len(c) for c in completions])),
            "groups without signal": (rewards.reshape(len(batch), -1).std(1) == 0).float().mean().item(),
            "worked answers": float(np.mean([form.is_worked(form.text(c)) for c in completions])),
            "entropy": entropy}

    curve = _fit(model, objective, steps, zoo.grpo_lr, zoo, work, "GRPO", number * steps, cosine=False, kept=kept)
    return curve.assign(step=curve["step"] + number * steps)


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards (groups, samples), each minus its group's mean and by its group's standard deviation, flattened."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred / (rewards.std(1, keepdim=True) + LEAST_STD)).flatten()


def _policy_loss(model: PeftModel, prompts: list[list[int]], completions: list[list[int]], rewards: torch.Tensor,
                 beta: float, reference: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Loss over the tokens of the groups that hold both right and wrong answers, and their mean entropy in nats.

    Every sample is from the policy that is updated, so that the ratio of the two is 1 and nothing is clipped.
    """
    advantage = advantages(rewards)
    kept = [i for i, value in enumerate(advantage.tolist()) if value]
    if not kept:
        return sum(p.sum() for p in _trained(model).values()) * 0, 0.0
    chosen = [prompts[i] for i in kept], [completions[i] for i in kept]
    logits, tokens, rows = shared_prefix.predicted(model, *chosen)
    own = logits.log_softmax(-1)  # (n, vocabulary)
    taken = own.gather(1, tokens[:, None])[:, 0]  # (n,)
    weight = advantage[kept].to(taken.device)[rows]
    loss = -(weight * (taken - taken.detach()).exp()).mean()
    if beta:
        with torch.no_grad(), _as(model, reference):
            other, _, _ = shared_prefix.predicted(model, *chosen)
        ratio = other.log_softmax(-1).gather(1, tokens[:, None])[:, 0] - taken
        loss = loss + beta * (ratio.exp() - ratio - 1).mean()  # unbiased and never below 0
    with torch.no_grad():
        return loss, -(own.exp() * own).sum(-1).mean().item()


@contextlib.contextmanager
def _as(model: PeftModel, values: dict[str, torch.Tensor]) -> Iterator[None]:
    """The model with other values of its adapters, for a while."""
    trained = _trained(model)
    own = {name: p.data for name, p in trained.items()}
    try:
        for name, p in trained.items():
            p.data = values[name]
        yield
    finally:
        for name, p in trained.items():
            p.data = own[name]


def attached(start: Path, zoo: Zoo, before: Path | None = None) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The model of folder `start` with trainable adapters, fresh or those in `before`, and its tokenizer."""
    from peft import PeftModel, get_peft_model

    model, tokenizer = load_lm(start, "eager")  # few tokens, many rows: quicker than SDPA on CPUs
    torch.manual_seed(zoo.seed)
    rounded(model, zoo)
    with adapters.quiet_peft():
        found = get_peft_model(model, adapters.configuration(zoo.lora)) if before is None else (
            PeftModel.from_pretrained(model, before, is_trainable=True))
    return found.train(), tokenizer


def rounded(model: PreTrainedModel, zoo: Zoo) -> PreTrainedModel:
    """The model, its weights rounded to bfloat16 in place: what adapters are trained and measured on."""
    model.bfloat16()
    return model.float() if zoo.frozen_precision == "fp32" else model


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _fit(model: PeftModel, objective: Objective, steps: int, rate: float, zoo: Zoo, work: Path, stage: str,
         offset: int = 0, cosine: bool = True, kept: Mapping[int, Path] | None = None) -> pd.DataFrame:
    """Train the adapters for `steps` steps, going on from the checkpoint in `work` when there is one.

    The rate warms up and then falls as a cosine or stays. Random numbers follow from the seed and the step (counted
    from `offset`) alone, so that a run killed anywhere ends with the same adapters, written to `work/adapter`; those
    after an update in `kept` (counted like steps, the first is 1) are written to its folder.
    """
    trained = _trained(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, weight_decay=0.0)
    rows = _resume(work, trained, optimizer)
    with progress(steps, stage, f"seed {zoo.seed}") as bar:
        bar.update(len(rows))
        for step in range(len(rows), steps):
            now = rate * min(1, (step + 1) / WARMUP_STEPS) * (0.5 * (1 + np.cos(np.pi * step / steps)) if cosine else 1)
            clock = time.monotonic()
            torch.manual_seed(zoo.seed * SEEDS + offset + step)
            loss, quantities = objective(step)
            if not torch.isfinite(loss):
                raise RuntimeError(f"expected a finite loss of {stage}, got {loss.item()}: lower the learning rate")
            optimizer.param_groups[0]["lr"] = now
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), _CLIP)
            optimizer.step()
            rows.append({"loss": loss.item(), "learning rate": float(now), **quantities,
                         "seconds": time.monotonic() - clock})
            if (place := (kept or {}).get(offset + step + 1)) is not None:
                adapters.write(model, place)
            if (step + 1) % EVERY == 0:
                _checkpoint(work, trained, optimizer, rows)
            bar.update()
    adapters.write(model, work / "adapter")
    entries = [(step, quantity, value) for step, row in enumerate(rows, 1) for quantity, value in row.items()]
    return pd.DataFrame(entries, columns=["step", "quantity", "value"])


def _checkpoint(work: Path, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer,
                rows: list[dict[str, float]]) -> None:
    """Write all that the next step depends on as one safetensors file, atomically."""
    tensors = {f"weight.{name}": p.detach() for name, p in trained.items()}
    for name, p in trained.items():
        tensors |= {f"{moment}.{name}": optimizer.state[p][moment] for moment in _MOMENTS}
    with store.atomic(work / "checkpoint.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"rows": json.dumps(rows)})


def _resume(work: Path, trained: dict[str, torch.nn.Parameter],
            optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Load the checkpoint in `work` into adapters and optimizer; the curve so far, empty without a checkpoint."""
    file = work / "checkpoint.safetensors"
    if not file.is_file():
        return []
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        for name, p in trained.items():
            p.copy_(stored.get_tensor(f"weight.{name}"))
            optimizer.state[p] = {moment: stored.get_tensor(f"{moment}.{name}") for moment in _MOMENTS}
            for moment in _MOMENTS[1:]:
                optimizer.state[p][moment] = optimizer.state[p][moment].to(p.device)
        return json.loads(stored.metadata()["rows"])
