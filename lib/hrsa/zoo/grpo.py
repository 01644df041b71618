"""RLVR: group relative policy optimisation with a verifiable reward, by TRL.

Source: Shao et al. 2024 (arXiv 2402.03300), equations 3 and 21, with the token-level loss of DAPO (Yu et al. 2025,
arXiv 2503.14476, equation 8) and no KL penalty. The reward is 1 for an exactly right answer and 0 otherwise.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hrsa.profile import Zoo
from hrsa.zoo.problems import is_correct, stream
from hrsa.zoo.trainers import run, settings, silence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WARMUP_STEPS = 5  # without warm-up the policy collapsed in trials
QUANTITIES = {"loss": "loss", "learning_rate": "learning rate", "reward": "reward", "entropy": "entropy",
              "completions/mean_length": "completion tokens", "frac_reward_zero_std": "groups without signal"}


def exact_reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """One reward per completion: 1.0 when its final answer is exactly right, else 0.0."""
    return [float(is_correct(text, right)) for text, right in zip(completions, answer, strict=True)]


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, zoo: Zoo, work: Path) -> pd.DataFrame:
    """Train `model` in place for `zoo.grpo_steps` steps; returns the curve [step, quantity, value].

    Each step draws `grpo_prompts` training problems and `grpo_completions` samples of each at temperature 1; every
    sample is used for one update.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    problems = islice(stream("train", "grpo", zoo.seed), zoo.grpo_steps * zoo.grpo_prompts)
    data = Dataset.from_list([{"prompt": p.prompt, "answer": p.answer} for p in problems])
    with silence():
        config = GRPOConfig(**settings(
            zoo, work, max_steps=zoo.grpo_steps, learning_rate=zoo.grpo_lr,
            lr_scheduler_type="constant_with_warmup", warmup_steps=min(WARMUP_STEPS, zoo.grpo_steps),
            per_device_train_batch_size=zoo.grpo_prompts * zoo.grpo_completions,
            num_generations=zoo.grpo_completions, steps_per_generation=1,
            max_completion_length=zoo.completion_tokens, temperature=1.0, beta=0.0, loss_type="dapo",
            shuffle_dataset=False))
        trainer = GRPOTrainer(model=model, reward_funcs=exact_reward, args=config, train_dataset=data,
                              processing_class=tokenizer)
        return run(trainer, "GRPO", QUANTITIES)
