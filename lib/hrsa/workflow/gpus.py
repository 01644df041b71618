"""Hands each job its own graphics card: a lease on a device, held until the process ends.

    hrsa run measure s0 --profile mini --gpus 1

waits until one of the cards that this process may see is free, takes it, sets CUDA_VISIBLE_DEVICES to it, and runs the
job. A lease is a lock on a file of the machine, named by the card's identity:
jobs of several studies, and of a scheduler that numbers cards anew for each job, never meet on one card; the kernel
releases the lock however the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
NVIDIA_SMI = "nvidia-smi"
WAIT = 1.0  # seconds between two looks for a free card


def visible() -> list[str]:
    """Identities of the NVIDIA cards that this process may use, as CUDA takes them; empty where there are none.

    Numbers in CUDA_VISIBLE_DEVICES become the identities of the cards they stand for.
    """
    if shutil.which(NVIDIA_SMI) is None:
        return []
    answer = subprocess.run([NVIDIA_SMI, "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True,
                            check=False)
    cards = [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []
    if VISIBLE not in os.environ:
        return cards
    named = [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    return [cards[int(name)] if name.isdigit() and int(name) < len(cards) else name for name in named]


@contextlib.contextmanager
def lease(count: int, ids: Sequence[str], folder: Path | None = None, wait: float = WAIT) -> Iterator[list[str]]:
    """Hold `count` of the devices `ids` that nobody else holds, waiting `wait` seconds between attempts.

    folder: where the locks lie, on this machine (default: in the directory for temporary files). Raises ValueError
    when more are wanted than there are.
    """
    if count > len(ids):
        raise ValueError(f"expected {count} graphics card(s) for this job, got {len(ids)} on this machine "
                         f"({NVIDIA_SMI}, {VISIBLE}): ask the scheduler for a machine with as many, or set the job's "
                         "resource gpu to fewer")
    folder = folder or Path(tempfile.gettempdir()) / f"hrsa-devices-{getpass.getuser()}"
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        held = _take(count, ids, folder)
        if len(held) == count:
            break
        _release(held)  # never wait with a part: two jobs that each hold one of two would wait for ever
        time.sleep(wait)
    try:
        yield list(held)
    finally:
        _release(held)


def _take(count: int, ids: Sequence[str], folder: Path) -> dict[str, int]:
    """Lock up to `count` free devices: identity -> open file."""
    held: dict[str, int] = {}
    for name in ids:
        if len(held) == count:
            break
        handle = os.open(folder / f"{name.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held[name] = handle
        except BlockingIOError:
            os.close(handle)
    return held


def _release(held: dict[str, int]) -> None:
    for handle in held.values():
        os.close(handle)
    held.clear()


@contextlib.contextmanager
def hold_cards(count: int) -> Iterator[None]:
    """Hold `count` cards and let this process and its children see no others; with 0 nothing is taken or changed."""
    if not count:
        yield
        return
    before = os.environ.get(VISIBLE)
    with lease(count, visible()) as held:
        os.environ[VISIBLE] = ",".join(held)
        try:
            yield
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before
