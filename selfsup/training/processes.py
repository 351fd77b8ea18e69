"""The processes of a run: one, or as many as ``torchrun`` started; and where they compute."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from selfsup.errors import RunError


@dataclass(frozen=True)
class World:
    """A process among all of a run; `group` is None when it is alone."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the files and the console."""
        return self.rank == 0

    def share(self, n: int, unit: int) -> slice:
        """Return this process's part of n rows, cut only at multiples of `unit`.

        A batch of `unit` images then goes through the network just as in one process.
        """
        units = -(-n // unit)
        cuts = [min(n, unit * (units * r // self.size)) for r in (self.rank, self.rank + 1)]
        return slice(*cuts)

    def sum(self, x: Tensor) -> Tensor:
        """All-reduce a sum over the processes."""
        if self.group is not None:
            x = x.clone()
            dist.all_reduce(x, group=self.group)
        return x

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Broadcast the first process's buffers: each measured statistics of its own images."""
        if self.group is not None:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0, group=self.group)


def check_device(device: str) -> str:
    """Return the device that is meant, "auto" resolved; raise unless tensors can be made on it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {device!r} cannot be used here: {reason}") from error
    return device


@contextmanager
def joined(device: str) -> Iterator[tuple[World, str]]:
    """Join the processes that ``torchrun`` started, if it did; give the device of this one."""
    several = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    device = check_device(device)
    if several and device == "cuda":
        device = check_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # images have one size
    if not several:
        yield World(), device
        return
    patience = timedelta(hours=2)  # the others wait while the first one clusters by k-means
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=patience)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), dist.group.WORLD), device
    finally:
        dist.destroy_process_group()
