"""Settings of a process: threads, seeds, device, and how much libraries print."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import random
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Thresholds of the garbage collector in the command's processes and in the kernels of its jobs: the libraries make a
# million objects that stay, and to look through them again and again took an eighth of a small job's time.
COLLECTED = (100_000, 50, 100)


def spare_collector() -> None:
    """Let the garbage collector of this process look less often (`COLLECTED`), and not once more when it ends, which
    took up to a third of a small job's time."""
    gc.set_threshold(*COLLECTED)
    atexit.register(gc.freeze)


def prepare(threads: int, seed: int) -> None:
    """Set up this process for work with torch: CPU threads, the global seeds that trainers of libraries read (Python,
    numpy, torch), deterministic kernels, and no progress bars of transformers."""
    import torch

    warnings.filterwarnings("ignore", "IProgress not found")  # tqdm.auto, imported by others, wants notebook widgets
    from transformers.utils import logging

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on CUDA
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads are beside those asked for
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (trainers of third parties read the global state)
    torch.manual_seed(seed)
    logging.disable_progress_bar()


def device() -> torch.device:
    """The first CUDA device when there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Let these libraries (names of their loggers) log errors only, and datasets draw no progress bars, for a while.

    Warnings still show, but for one that TRL causes and cannot be helped.
    """
    import datasets

    loggers = {name: logging.getLogger(name) for name in libraries}
    levels = {name: logger.level for name, logger in loggers.items()}
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # TRL 1.16 still reads a property that transformers 5.23 has renamed
            warnings.filterwarnings("ignore", r"`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        if bars:
            datasets.enable_progress_bars()
