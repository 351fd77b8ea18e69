"""The processes of a run: one, or as many as ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from selfsup.runs import RunError


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
        """Return the sum of `x` over the processes."""
        if self.group is not None:
            x = x.clone()
            dist.all_reduce(x, group=self.group)
        return x

    def gather_rows(self, rows: Tensor, share: slice, n: int) -> Tensor:
        """Return all n rows, of which this process has those of its share, in every process."""
        if self.group is None:
            return rows
        whole = rows.new_zeros((n, *rows.shape[1:]))
        whole[share] = rows
        dist.all_reduce(whole, group=self.group)
        return whole

    def broadcast(self, x: Tensor) -> Tensor:
        """Return the first process's `x`, of the same shape everywhere."""
        if self.group is not None:
            dist.broadcast(x, 0, group=self.group)
        return x

    def agree(self, network: nn.Module) -> None:
        """Take the first process's buffers: each measured batch statistics of its own images."""
        for buffer in network.buffers():
            self.broadcast(buffer)


def check_device(device: str) -> None:
    """Raise unless tensors can be made on it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {device!r} cannot be used here: {reason}") from error


@contextmanager
def joined(device: str) -> Iterator[tuple[World, str]]:
    """Join the processes that ``torchrun`` started, if it did; give the device of this one."""
    several = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if several and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    check_device(device)
    if not several:
        yield World(), device
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo",
        timeout=timedelta(hours=2),  # the others wait while the first one clusters by k-means
    )
    try:
        yield World(dist.get_rank(), dist.get_world_size(), dist.group.WORLD), device
    finally:
        dist.destroy_process_group()
