"""SFT: supervised fine-tuning on worked solutions, by TRL. The loss is on the solution alone, not on the question."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hrsa.models.zoo.problems import stream
from hrsa.models.zoo.trl import TRL_LOGGERS, run_trainer, trainer_settings
from hrsa.study.profile import Zoo
from hrsa.study.runtime import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WARMUP_STEPS = 3
_QUANTITIES = {"loss": "loss", "learning_rate": "learning rate"}


def train_sft(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, zoo: Zoo, work: Path) -> pd.DataFrame:
    """Train `model` in place for `zoo.sft_steps` steps of `zoo.sft_batch` worked solutions of training problems.

    Returns the curve [step, quantity, value].
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    problems = islice(stream("train", "sft", zoo), zoo.sft_steps * zoo.sft_batch)
    data = Dataset.from_list([{"prompt": p.prompt, "completion": p.worked} for p in problems])
    with quiet(*TRL_LOGGERS):
        config = SFTConfig(**trainer_settings(
            zoo, work, max_steps=zoo.sft_steps, learning_rate=zoo.sft_lr, lr_scheduler_type="cosine",
            warmup_steps=min(_WARMUP_STEPS, zoo.sft_steps), per_device_train_batch_size=zoo.sft_batch,
            max_length=zoo.context, completion_only_loss=True))
        trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
        curve = run_trainer(trainer, "SFT", _QUANTITIES)
    return curve
