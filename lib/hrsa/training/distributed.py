"""Distributed training: the processes that train one model, what they exchange, and that they agree.

Started alone, a process is rank 0 of one and everything here is the identity. `accelerate launch` and torchrun set the
environment that `start` reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_TIMEOUT = timedelta(hours=12)  # the others wait while rank 0 mines negatives or makes a backbone


def start() -> None:
    """Join the process group that the launcher describes, if there is one; its device becomes this process's own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=_TIMEOUT)


def _is_distributed() -> bool:
    dist = sys.modules.get("torch.distributed")  # a process that did not import it has joined no group
    return dist is not None and dist.is_available() and dist.is_initialized()


def count() -> int:
    """How many processes train together."""
    if not _is_distributed():
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def rank() -> int:
    """Number of this process, from 0; rank 0 writes."""
    if not _is_distributed():
        return 0
    import torch.distributed as dist

    return dist.get_rank()


def gathered(local: Tensor) -> tuple[Tensor, int]:
    """Rows (n, ...) of all processes, rank after rank, and where this process's rows begin. All bring equally many."""
    if not _is_distributed():
        return local, 0
    import torch
    import torch.distributed as dist

    shares = [torch.empty_like(local) for _ in range(count())]
    dist.all_gather(shares, local.contiguous())
    return torch.cat(shares), rank() * len(local)


def summed(value: Tensor) -> Tensor:
    """Sum over processes, in place."""
    if _is_distributed():
        import torch.distributed as dist

        dist.all_reduce(value)
    return value


def largest(value: Tensor) -> Tensor:
    """Entry by entry the largest of all processes, in place."""
    if _is_distributed():
        import torch.distributed as dist

        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def agreed(value: T) -> T:
    """Rank 0's value, in every process."""
    if not _is_distributed():
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Go on when all processes are here."""
    if _is_distributed():
        import torch.distributed as dist

        dist.barrier()


def in_turn(work: Callable[[], T]) -> T:
    """The result of `work`, which rank 0 does first and the others when it is done, so that they find it done."""
    if rank() == 0:
        result = work()
        wait()
        return result
    wait()
    return work()
