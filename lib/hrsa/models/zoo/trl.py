"""What the TRL trainers of the zoo share: settings for small models, progress, the curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PrinterCallback, Trainer, TrainerCallback

from hrsa.study.profile import Zoo
from hrsa.study.progress import progress
from hrsa.study.runtime import device

TRL_LOGGERS = ("transformers", "trl", "datasets", "accelerate")  # under the trainers: they log errors only


def trainer_settings(zoo: Zoo, work: Path, **own: Any) -> dict[str, Any]:
    """Arguments of either TRL configuration: float32, nothing saved, sent or printed, and a log entry per step."""
    return {
        "output_dir": str(work), "seed": zoo.seed, "data_seed": zoo.seed, "use_cpu": device().type == "cpu",
        "bf16": False, "activation_checkpointing": False, "dataloader_pin_memory": False, "report_to": "none",
        "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "weight_decay": 0.0, "max_grad_norm": 1.0,
        **own,
    }


class Steps(TrainerCallback):
    """Shows the trainer's steps in the study's progress bar."""

    def __init__(self, bar: Any):
        self.bar = bar

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count one step."""
        self.bar.update()


def run_trainer(trainer: Trainer, stage: str, quantities: dict[str, str]) -> pd.DataFrame:
    """Train with a progress bar and without the trainer's own output.

    Returns the curve [step, quantity, value] of the log entries named by `quantities` (log key -> quantity); raises
    RuntimeError when the trainer logged none of one of them.
    """
    trainer.remove_callback(PrinterCallback)
    with progress(trainer.args.max_steps, stage, f"seed {trainer.args.seed}") as bar:
        trainer.add_callback(Steps(bar))
        trainer.train()
    rows = [(entry["step"], quantity, float(entry[name])) for name, quantity in quantities.items()
            for entry in trainer.state.log_history if name in entry]
    curve = pd.DataFrame(rows, columns=["step", "quantity", "value"])
    missing = set(quantities.values()) - set(curve["quantity"])
    if missing:
        raise RuntimeError(f"expected the trainer to log {sorted(quantities)}, got nothing for {sorted(missing)}: "
                           "TRL may have renamed them")
    return curve
