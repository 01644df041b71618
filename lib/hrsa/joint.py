"""Several processes that train one model: who they are, what they hold together, and that they agree.

Started alone, a process is rank 0 of one and everything here is the identity. `accelerate launch` and torchrun set the
environment that `start` reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(hours=12)  # the others wait while rank 0 mines negatives or makes a backbone


def start() -> None:
    """Join the process group that the launcher describes, if there is one; its device becomes this process's own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def _together() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def count() -> int:
    """How many processes train together."""
    import torch.distributed as dist

    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Number of this process, from 0; rank 0 writes."""
    import torch.distributed as dist

    return dist.get_rank() if _together() else 0


def gathered(local: Tensor) -> tuple[Tensor, int]:
    """Rows (n, ...) of all processes, rank after rank, and where this process's rows begin. All bring equally many."""
    import torch
    import torch.distributed as dist

    if not _together():
        return local, 0
    parts = [torch.empty_like(local) for _ in range(count())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts), rank() * len(local)


def summed(value: Tensor) -> Tensor:
    """Sum over processes, in place."""
    import torch.distributed as dist

    if _together():
        dist.all_reduce(value)
    return value


def largest(value: Tensor) -> Tensor:
    """Entry by entry the largest of all processes, in place."""
    import torch.distributed as dist

    if _together():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def agreed(value: T) -> T:
    """Rank 0's value, in every process."""
    import torch.distributed as dist

    if not _together():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Go on when all processes are here."""
    import torch.distributed as dist

    if _together():
        dist.barrier()


def in_turn(work: Callable[[], T]) -> T:
    """The result of `work`, which rank 0 does first and the others when it is done, so that they find it done."""
    if rank() == 0:
        result = work()
        wait()
        return result
    wait()
    return work()
