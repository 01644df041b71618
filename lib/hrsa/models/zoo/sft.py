"""SFT: supervised fine-tuning on worked solutions, by TRL. The loss is on the solution alone, not on the question.

On request hidden states are held to those of the start (`geometry` of a backbone), by the penalty `cka_distance`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from hrsa.models.zoo import shared_prefix
from hrsa.models.zoo.problems import stream
from hrsa.models.zoo.trl import TRL_LOGGERS, run_trainer, trainer_settings
from hrsa.study.profile import Zoo
from hrsa.study.runtime import quiet
from hrsa.study.sections import Geometry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTTrainer

DISTANCE = "1 - CKA"  # quantity of a curve
_WARMUP_STEPS = 3
_QUANTITIES = {"loss": "loss", "learning_rate": "learning rate"}


def train_sft(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, zoo: Zoo, work: Path,
              geometry: Geometry | None = None) -> pd.DataFrame:
    """Train `model` in place for `zoo.sft_steps` steps of `zoo.sft_batch` worked solutions of training problems.

    geometry: a penalty on how far states move from those of the model as it came. Returns the curve [step, quantity,
    value]; the loss includes the penalty.
    """
    from datasets import Dataset
    from trl import SFTConfig

    problems = islice(stream("train", "sft", zoo), zoo.sft_steps * zoo.sft_batch)
    data = Dataset.from_list([{"prompt": p.prompt, "completion": p.worked} for p in problems])
    with quiet(*TRL_LOGGERS):
        config = SFTConfig(**trainer_settings(
            zoo, work, max_steps=zoo.sft_steps, learning_rate=zoo.sft_lr, lr_scheduler_type="cosine",
            warmup_steps=min(_WARMUP_STEPS, zoo.sft_steps), per_device_train_batch_size=zoo.sft_batch,
            max_length=zoo.context, completion_only_loss=True))
        trainer = _trainer(geometry, model)(model=model, args=config, train_dataset=data, processing_class=tokenizer)
        curve = run_trainer(trainer, "SFT", _QUANTITIES)
    return curve


def _trainer(geometry: Geometry | None, model: PreTrainedModel) -> type[SFTTrainer]:
    """TRL's trainer, or one that adds the penalty against `model` as it is now."""
    from trl import SFTTrainer

    if geometry is None:
        return SFTTrainer
    start = copy.deepcopy(model).eval()

    class Held(SFTTrainer):
        def compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
            real = inputs["attention_mask"].bool()  # (b, t)
            with torch.no_grad(), shared_prefix.block_outputs(start, geometry.blocks) as before:
                start(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            with shared_prefix.block_outputs(model, geometry.blocks) as now:
                loss = super().compute_loss(model, inputs, **options)
            return loss + geometry.weight * mean_distance(now, before, real)

    return Held


def mean_distance(now: Mapping[int, torch.Tensor], before: Mapping[int, torch.Tensor],
                  real: torch.Tensor) -> torch.Tensor:
    """Mean over blocks of `cka_distance` of outputs (b, t, d), by block, from those before, at real tokens (b, t)."""
    return torch.stack([cka_distance(states[real], before[block][real]) for block, states in now.items()]).mean()


def cka_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1 - linear CKA of states (n, d_x) and (n, d_y) of the same n tokens, differentiable; 0 to 1.

    Half the squared distance of the two normalised Gram matrices of centred states, in float32: so taken, small values
    are no differences of large ones. Source: Kornblith et al. 2019, eq. 4.
    """
    one, other = (_normed_gram(states) for states in (x, y))
    return (one - other).square().sum() / 2


def _normed_gram(states: torch.Tensor) -> torch.Tensor:
    centred = states.float() - states.float().mean(0)  # (n, d)
    gram = centred @ centred.T  # (n, n)
    return gram / torch.linalg.matrix_norm(gram)
