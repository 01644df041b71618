"""RLVR: group relative policy optimisation with a verifiable reward, by TRL.

Source: Shao et al. 2024 (arXiv 2402.03300), equations 3 and 21, with the token-level loss of DAPO (Yu et al. 2025,
arXiv 2503.14476, equation 8) and, where `grpo_beta` says so, a KL penalty. The reward is 1 for an exactly right answer
and 0 otherwise.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from hrsa.models.zoo.problems import is_correct, stream
from hrsa.models.zoo.trl import TRL_LOGGERS, run_trainer, trainer_settings
from hrsa.study import store
from hrsa.study.profile import Zoo
from hrsa.study.runtime import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WARMUP_STEPS = 5  # without warm-up the policy collapsed in trials
_QUANTITIES = {"loss": "loss", "learning_rate": "learning rate", "reward": "reward", "entropy": "entropy",
               "completions/mean_length": "completion tokens", "frac_reward_zero_std": "groups without signal"}


def exact_reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """One reward per completion: 1.0 when its final answer is exactly right, else 0.0."""
    return [float(is_correct(text, right)) for text, right in zip(completions, answer, strict=True)]


def train_rounds(start: Path, zoo: Zoo, work: Path,
                 rounds: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, pd.DataFrame]:
    """The model of folder `start` after `rounds` times `zoo.grpo_steps` updates, its tokenizer, and the curve.

    Before each round but the first the reference of the KL penalty becomes the policy reached so far and the
    optimizer starts anew, as prolonged RLVR does (ProRL, Liu et al. 2025, arXiv 2505.24864, section 3.3). Finished
    rounds are kept in `work`: a run that was killed goes on after the last of them and ends with the same weights.
    """
    from hrsa.models.language_model import load_lm
    from hrsa.study.runtime import prepare

    curves, folder = [], start
    for number in range(rounds):
        done = work / f"round-{number}"
        if not done.is_dir():
            model, tokenizer = load_lm(folder)
            prepare(torch.get_num_threads(), zoo.seed + number)
            curve = train_grpo(model, tokenizer, zoo, work, number)
            with store.atomic(done) as temporary:
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
                store.write_table(temporary / "curve.parquet", curve)
        folder = done
        curves.append(store.read_table(done / "curve.parquet", ["step", "quantity", "value"]))
    return *load_lm(folder), pd.concat(curves, ignore_index=True)


def train_grpo(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, zoo: Zoo, work: Path,
               number: int = 0) -> pd.DataFrame:
    """Train `model` in place for one round of `zoo.grpo_steps` steps; returns the curve [step, quantity, value].

    Each step draws `grpo_prompts` training problems, new ones in each round (`number`, from 0), and
    `grpo_completions` samples of each at temperature 1; every sample is used for one update.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    needed = zoo.grpo_steps * zoo.grpo_prompts
    problems = islice(stream("train", "grpo", zoo), number * needed, (number + 1) * needed)
    data = Dataset.from_list([{"prompt": p.prompt, "answer": p.answer} for p in problems])
    with quiet(*TRL_LOGGERS):
        config = GRPOConfig(**trainer_settings(
            zoo, work, max_steps=zoo.grpo_steps, learning_rate=zoo.grpo_lr,
            lr_scheduler_type="constant_with_warmup", warmup_steps=min(_WARMUP_STEPS, zoo.grpo_steps),
            per_device_train_batch_size=zoo.grpo_prompts * zoo.grpo_completions,
            num_generations=zoo.grpo_completions, steps_per_generation=1,
            max_completion_length=zoo.completion_tokens, temperature=1.0, beta=zoo.grpo_beta, loss_type="dapo",
            shuffle_dataset=False))
        trainer = GRPOTrainer(model=model, reward_funcs=exact_reward, args=config, train_dataset=data,
                              processing_class=tokenizer)
        curve = run_trainer(trainer, "GRPO", _QUANTITIES)
    return curve.assign(step=curve["step"] + number * zoo.grpo_steps)
