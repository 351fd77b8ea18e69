"""Whose rows are where when several processes hold a matrix, and how these agree.

All processes run the same solve on the same numbers: whatever decides something is a sum, a maximum
or a list over all of them. So they go the same way without a word about the way itself.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from sinkhorn_ot.arrays import Array, BadRow, is_torch, namespace

T = TypeVar("T")
#: What a process tells the others: what must be the same for all, and what is its own.
Told = tuple[dict[str, object], Any]


class Peers:
    """The processes of a `torch.distributed` group, numbered by their rank in it."""

    def __init__(self, process_group: Any) -> None:
        self.torch = _torch_of(process_group)
        self.dist = self.torch.distributed
        self.group = process_group
        self.rank = int(self.dist.get_rank(process_group))
        config = self.dist.get_backend_config(process_group)  # such as "cpu:gloo,cuda:nccl"
        self.devices = {part.split(":")[0] for part in config.split(",")}

    def gather(self, x: T) -> list[T]:
        """Return what each process passed, by rank."""
        everyone: list[Any] = [None] * self.dist.get_world_size(self.group)
        self.dist.all_gather_object(everyone, x, group=self.group)
        return everyone

    def agree(self, make: Callable[[], T], tell: Callable[[T], Told]) -> tuple[T, list[Any]]:
        """Make something in every process; return it and what each tells of its own.

        If one fails, or tells something else than the others where all must be the same, all raise.
        """
        told: Told = {}, None
        failure = None
        try:
            made = make()
            told = tell(made)
        except Exception as error:  # noqa: BLE001  # raised below, when all know
            failure = error
        kind = next((t for t in (TypeError, ValueError) if isinstance(failure, t)), RuntimeError)
        everyone = self.gather((told, None if failure is None else (kind, str(failure))))
        for rank, (_, failed) in enumerate(everyone):
            if failed is not None:
                raise failed[0](f"rank {rank}: {failed[1]}") from failure
        first = everyone[0][0][0]
        for rank, ((same, _), _) in enumerate(everyone):
            for name in {**first, **same}:
                one, other = first.get(name), same.get(name)
                if one != other:
                    raise ValueError(
                        f"{name} must be the same in all processes of the group, but is {one!r} "
                        f"on rank 0 and {other!r} on rank {rank}"
                    )
        return made, [told[1] for told, _ in everyone]

    def reduce(self, x: Array, how: str) -> Array:
        """Return the "SUM", "MAX" or "MIN" over all processes, of vectors of equal length."""
        tensor = x if is_torch(x) else self.torch.from_numpy(x)
        shared = tensor.to(self._device(tensor.device), copy=True)
        self.dist.all_reduce(shared, getattr(self.dist.ReduceOp, how), group=self.group)
        shared = shared.to(tensor.device)
        return shared if is_torch(x) else shared.numpy()

    def exchange(
        self,
        sent: Sequence[tuple[int, np.ndarray[Any, Any]]],
        received: Sequence[tuple[int, np.ndarray[Any, Any]]],
    ) -> None:
        """Send arrays of bytes to ranks, and fill others by what ranks send here."""
        dist, device = self.dist, self._device(self.torch.device("cpu"))
        arrived = [(x, self.torch.from_numpy(x).to(device)) for _, x in received]
        posted = [
            *(self._post(dist.isend, self.torch.from_numpy(x).to(device), to) for to, x in sent),
            *(
                self._post(dist.irecv, tensor, source)
                for (source, _), (_, tensor) in zip(received, arrived, strict=True)
            ),
        ]
        for work in dist.batch_isend_irecv(posted) if posted else ():
            work.wait()
        for x, tensor in arrived if device.type != "cpu" else ():
            x[...] = tensor.cpu().numpy()

    def _post(self, way: Any, tensor: Array, rank: int) -> Any:
        peer = self.dist.get_global_rank(self.group, rank)
        return self.dist.P2POp(way, tensor, peer, self.group)

    def _device(self, device: Any) -> Any:
        """`device` itself, or where the group can send from."""
        if device.type in self.devices:
            return device
        if "cuda" in self.devices:
            return self.torch.device("cuda", self.torch.cuda.current_device())
        return self.torch.device("cpu")


class Shard:
    """The place of the rows of this process; without `peers` these are all rows."""

    def __init__(
        self, counts: Sequence[int], peers: Peers | None = None, *, asks: bool = False
    ) -> None:
        self.peers = peers
        self.rank = 0 if peers is None else peers.rank
        self.starts = (0, *itertools.accumulate(counts))
        self.first, self.last = self.starts[self.rank : self.rank + 2]
        self.total = self.starts[-1]
        self.asks = asks  # whether any process has a callback

    def sum(self, x: Array) -> Array:
        """Return the sum of the vectors of all processes."""
        return x if self.peers is None else self.peers.reduce(x, "SUM")

    def max(self, x: Array) -> Array:
        """Return the maximum of the vectors of all processes."""
        return x if self.peers is None else self.peers.reduce(x, "MAX")

    def log_sum(self, x: Array) -> Array:
        """Return the logarithm of the sum of the exponentials of the vectors of all processes."""
        if self.peers is None:
            return x
        xp = namespace(x)
        top = self.max(x)
        shift = xp.where(xp.isfinite(top), top, 0.0)
        total = self.sum(xp.exp(x - shift))
        none = total == 0
        return xp.where(none, -math.inf, xp.log(xp.where(none, 1.0, total))) + shift

    def min(self, x: int) -> int:
        """Return the least of the numbers of all processes."""
        return x if self.peers is None else int(self.peers.reduce(np.array([x]), "MIN")[0])

    def least(self, row: int | None) -> int | None:
        """Return the least row that a process passed."""
        least = self.min(self.total if row is None else row)
        return least if least < self.total else None

    def raise_least(self, row: int | None) -> None:
        """Raise `BadRow` for the least bad row that a process met."""
        least = self.least(row)
        if least is not None:
            raise BadRow(least)

    def hear(self, word: str | None) -> str | None:
        """Return the word of the process that has one."""
        if self.peers is None:
            return word
        everyone = enumerate(self.peers.gather(word))
        return next((f"rank {rank}: {word}" for rank, word in everyone if word is not None), None)

    def stops(self, callback: Callable[[Any], object] | None, info: object) -> bool:
        """Ask the callbacks of all processes whether to stop; if one raises, all do."""
        if self.peers is None or not self.asks:
            return callback is not None and bool(callback(info))
        answer, failure = False, None
        try:
            answer = callback is not None and bool(callback(info))
        except BaseException as error:  # noqa: BLE001  # raised below, when all know
            failure = error
        answers = self.peers.gather((answer, failure is not None))
        if failure is not None:
            raise failure
        for rank, (_, failed) in enumerate(answers):
            if failed:
                raise RuntimeError(f"the callback of rank {rank} raised an error")
        return any(answer for answer, _ in answers)


def _torch_of(process_group: Any) -> Any:
    """The torch that a process group is of; complain of what is none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        raise TypeError(
            f"process_group must be a torch.distributed.ProcessGroup, got "
            f"{type(process_group).__name__}, and torch.distributed is not "
            f"{'imported' if torch is None else 'part of this build of torch'}"
        )
    if not isinstance(process_group, torch.distributed.ProcessGroup):
        raise TypeError(
            f"process_group must be a torch.distributed.ProcessGroup that this process is a member "
            f"of, got {process_group!r}; after torch.distributed.init_process_group pass "
            "torch.distributed.group.WORLD or what new_group returned"
        )
    if not torch.distributed.is_initialized():
        raise ValueError(
            "process_group needs torch.distributed: call torch.distributed.init_process_group first"
        )
    return torch
