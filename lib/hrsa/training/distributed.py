"""Distributed training: the processes that train one model, what they exchange, and that they agree.

A process that was started by itself is rank 0 of one, and gets back here what it gives. `accelerate launch` and
torchrun set the environment that `start` reads.
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


def shard_on_cpu() -> None:
    """Let accelerate spread weights over processes on a CPU as it does over cards.

    It counts the kinds of process groups for which it has FSDP, and leaves out gloo's, although torch's `fully_shard`
    has all that it needs there. To be called once the trainer's arguments are there, for they make this state anew.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    state = PartialState()
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


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
    """Maximum over processes, entry by entry, in place."""
    if _is_distributed():
        import torch.distributed as dist

        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def agreed(value: T) -> T:
    """Give rank 0's value to every process."""
    if not _is_distributed():
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Wait until all processes have come here."""
    if _is_distributed():
        import torch.distributed as dist

        dist.barrier()


def in_turn(work: Callable[[], T]) -> T:
    """Do `work` in rank 0 first and in the others afterwards, so that they find it done; returns its result."""
    if rank() == 0:
        result = work()
        wait()
        return result
    wait()
    return work()
