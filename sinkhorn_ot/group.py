"""Several processes that solve one problem: how they agree, and the sum of what each reads.

All processes run the same solve on the same numbers: whatever decides something is a sum, a maximum
or a list over all of them. So they go the same way without a word about the way itself. A method
that waits for the other processes says so; no property does.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from sinkhorn_ot.arrays import Array, float64, is_torch, namespace, what_is_bad
from sinkhorn_ot.passes import (
    Backend,
    Counts,
    Kept,
    Problem,
    Reading,
    room_for_rows,
    sampled_here,
    sampled_row,
)

T = TypeVar("T")
#: What a process tells the others: what must be the same for all, and what is its own.
Told = tuple[dict[str, object], Any]

#: Of the room for kept entries so much is filled on purpose, as rows may turn out longer than those
#: of the last read; and after they did, less than before.
FILL, LESS = 0.9, 0.7
#: The spread of the logits is that of so many rows, or where they are short of so many entries.
SPREAD_ROWS, SPREAD_ENTRIES = 8, 1 << 10


class Group:
    """The processes of a `torch.distributed` group, by rank; of None this process alone."""

    def __init__(self, process_group: Any = None) -> None:
        self.alone = process_group is None
        self.rank = 0
        if self.alone:
            return
        self.torch = _torch_of(process_group)
        self.dist = self.torch.distributed
        self.group = process_group
        self.rank = int(self.dist.get_rank(process_group))
        config = self.dist.get_backend_config(process_group)  # such as "cpu:gloo,cuda:nccl"
        self.devices = {part.split(":")[0] for part in config.split(",")}

    def gather(self, x: T) -> list[T]:
        """Return what each process passed, by rank."""
        if self.alone:
            return [x]
        everyone: list[Any] = [None] * self.dist.get_world_size(self.group)
        self.dist.all_gather_object(everyone, x, group=self.group)
        return everyone

    def agree(self, make: Callable[[], T], tell: Callable[[T], Told]) -> tuple[T, list[Any]]:
        """Make something in every process; return it and what each tells of its own.

        If one fails, or tells something else than the others where all must be the same, all raise.
        """
        if self.alone:
            made = make()
            return made, [tell(made)[1]]
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

    def sum(self, x: Array) -> Array:
        """Return the sum of the vectors of all processes."""
        return x if self.alone else self._reduce(x, "SUM")

    def max(self, x: Array) -> Array:
        """Return the largest of each entry of the vectors of all processes."""
        return x if self.alone else self._reduce(x, "MAX")

    def log_sum(self, x: Array) -> Array:
        """Return the logarithm of the sum of the exponentials of the vectors of all processes."""
        if self.alone:
            return x
        xp = namespace(x)
        top = self.max(x)
        shift = xp.where(xp.isfinite(top), top, 0.0)
        total = self.sum(xp.exp(x - shift))
        none = total == 0
        return xp.where(none, -math.inf, xp.log(xp.where(none, 1.0, total))) + shift

    def min(self, x: int) -> int:
        """Return the least of the numbers of all processes."""
        return x if self.alone else int(self._reduce(np.array([x]), "MIN")[0])

    def hear(self, word: str | None) -> str | None:
        """Return the word of the first process that has one."""
        if self.alone:
            return word
        everyone = enumerate(self.gather(word))
        return next((f"rank {rank}: {word}" for rank, word in everyone if word is not None), None)

    def asks(self, question: Callable[[T], object] | None, about: T) -> bool:
        """Ask a question in all processes; whether one says yes. If one raises, all do."""
        if self.alone:
            return question is not None and bool(question(about))
        answer, failure = False, None
        try:
            answer = question is not None and bool(question(about))
        except BaseException as error:  # noqa: BLE001  # raised below, when all know
            failure = error
        answers = self.gather((answer, failure is not None))
        if failure is not None:
            raise failure
        for rank, (_, failed) in enumerate(answers):
            if failed:
                raise RuntimeError(f"the callback of rank {rank} raised an error")
        return any(answer for answer, _ in answers)

    def _reduce(self, x: Array, how: str) -> Array:
        tensor = x if is_torch(x) else self.torch.from_numpy(x)
        shared = tensor.to(self._device(tensor.device), copy=True)
        self.dist.all_reduce(shared, getattr(self.dist.ReduceOp, how), group=self.group)
        shared = shared.to(tensor.device)
        return shared if is_torch(x) else shared.numpy()

    def _device(self, device: Any) -> Any:
        """`device` itself, or where the group can send from."""
        if device.type in self.devices:
            return device
        if "cuda" in self.devices:
            return self.torch.device("cuda", self.torch.cuda.current_device())
        return self.torch.device("cpu")


class GroupPasses:
    """Reads of the rows of all processes: what solvers see.

    Masses are added, each for the weight of its rows.  Where they underflowed the read is repeated
    in the log domain, and which part of the rows entries are kept of is decided here, for all
    processes alike.
    """

    def __init__(self, problem: Problem, group: Group, backend: Backend) -> None:
        self.problem, self.group = problem, group
        self.xp = namespace(problem.b)
        #: None without rows: there is nothing to read then
        self.local = backend.passes(problem) if problem.logits.shape[0] else None
        self.log_floor = math.log(backend.underflow / problem.n) if backend.underflow else -math.inf
        self.may_wait = self.local is None or self.local.may_wait
        self.without_rows = 0.0  # reads by the others
        self.kept_reads = 0.0  # what operations on kept entries read, in reads
        self.counts_first = backend.counts_first
        self.fill = FILL
        self.most_words = len(problem.b) * backend.words_an_entry  # of a row that is kept
        self.last_kept: Counts | None = None

    @property
    def reads(self) -> float:
        """Reads of the matrix so far, in units of its bytes."""
        mine = self.without_rows if self.local is None else self.local.reads
        return mine + self.kept_reads

    def number(self, x: Array) -> float:
        """Bring a number to the host; a device is waited for."""
        return float(x) if self.local is None else self.local.number(x)

    def bad_row(self) -> Exception:
        """Return the error for the first bad row that any process has met; waits for all."""
        problem = self.problem
        own = None if self.local is None else self.local.first_bad_row()
        row = self.group.min(problem.n if own is None else own)
        if row == problem.n:
            return RuntimeError("masses are NaN though no row is bad: please report this")
        word = None
        if row == own:  # the process that holds it tells all
            word = what_is_bad(float64(problem.logits[row - problem.first], problem.b), row)
        return ValueError(self.group.hear(word))

    def spread(self) -> float:
        """Return the standard deviation of the logits within their rows; waits for all processes.

        Of some of the rows of all processes, and in units of the logits; forbidden pairings do not
        count.
        """
        problem, b = self.problem, self.problem.b
        stride = max(problem.n // max(SPREAD_ROWS, SPREAD_ENTRIES // len(b)), 1)
        here = sampled_here(problem.n, problem.first, problem.logits.shape[0], stride)
        rows = sampled_row(np.arange(*here), stride) - problem.first
        some = float64(problem.logits[rows], b)
        if is_torch(b):  # so few numbers are not worth operations on a device
            some, b = some.cpu().numpy(), b.cpu().numpy()
        allowed = (abs(some) < math.inf) & (b > 0)
        count = allowed.sum(1).clip(1)
        with np.errstate(over="ignore"):  # an infinite spread is no spread that can be divided
            mean = np.where(allowed, some, 0.0).sum(1) / count
            squares = np.where(allowed, some - mean[:, None], 0.0) ** 2
        variances = self.group.sum((squares.sum(1) / count).sum().reshape(1))
        return math.sqrt(float(variances[0]) / (problem.n // stride))

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        stride: int = 1,
        assign: bool = False,
        kept: GroupKept | None = None,
    ) -> Reading:
        """Read the rows once, or a sample of them, as `Passes.read` does; waits for all processes.

        `kept` is filled on the way, with entries of as many rows as there is room for.
        """
        if kept is None:
            reading = self._added(g, exact=exact, stride=stride, assign=assign)
        else:
            share = self._share(g, kept, self.problem.n // stride)
            reading = self._added(
                g, exact=exact, stride=stride, assign=assign, kept=kept.local, share=share
            )
            kept.counted = None
            if not self.counts_first:
                self.last_kept = kept.count()
        if math.isfinite(self.log_floor):
            low = (reading.log_mass < self.log_floor) & (self.problem.b > 0)
            if bool(low.any()):
                log = self._added(g, log=True, stride=stride)
                reading = reading._replace(log_mass=log.log_mass)
        return reading

    def keep(self, words: int) -> GroupKept:
        """Return room for kept entries: so many words of 4 bytes, of all processes together."""
        return GroupKept(self, words)

    def _added(self, g: Array, *, stride: int = 1, **how: Any) -> Reading:
        """A read of the rows held here, with the masses of all processes."""
        xp, b = self.xp, self.problem.b
        if self.local is None:
            self.without_rows += 1 / stride
            mine = Reading(xp.full_like(b, -math.inf), xp.zeros_like(b[:1]))
            if how.get("assign"):
                mine = mine._replace(f=b[:0], labels=xp.asarray(b[:0], dtype=xp.int64))
        else:
            mine = self.local.read(g, stride=stride, **how)
        if self.group.alone:
            return mine
        parts = xp.concatenate((mine.log_mass, xp.zeros_like(b[:1])))
        nothing = mine.weight == 0
        parts = parts + xp.log(xp.where(nothing, 1.0, mine.weight))
        sums = self.group.log_sum(xp.where(nothing, -math.inf, parts))
        total = xp.where(sums[-1:] == -math.inf, 0.0, sums[-1:])  # rows without mass
        return mine._replace(log_mass=sums[:-1] - total, weight=xp.exp(sums[-1:]))

    def _share(self, g: Array, kept: GroupKept, rows: int) -> float:
        """The part of so many rows of which entries are to be kept.

        How many words a row takes is known from those that were kept last. If none were, some are
        read for it; if these did not fit, less is filled from now on.
        """
        most, last = self.most_words, self.last_kept
        if self.counts_first or (room_for_rows(rows, most) <= kept.room and not _misfit(last)):
            return 1.0
        if last is None:
            some = max(int(self.fill * kept.room / most) // 2, 1)
            self._added(g, stride=-(-self.problem.n // some), kept=kept.local)
            kept.counted = None
            last = kept.count()
        if last.misfits:
            self.fill *= LESS
        words = rows * (last.words / last.rows if last.rows else most)
        return min(1.0, self.fill * kept.room / max(words, 1))


def _misfit(last: Counts | None) -> bool:
    return last is not None and last.misfits > 0


class GroupKept:
    """The kept entries of all processes.

    What `Kept` says of them holds, but for the weights, which add up to 1 here.
    """

    def __init__(self, passes: GroupPasses, words: int) -> None:
        self.passes, self.room = passes, words
        problem = passes.problem
        # rows may be longer in one process than in others: what they take together is counted
        here = words
        if passes.counts_first:
            here = words * problem.logits.shape[0] // problem.n
        self.local: Kept | None = None if passes.local is None else passes.local.keep(here)
        self.matrix_bytes = problem.n * len(problem.b) * int(problem.logits.itemsize)
        self.counted: Counts | None = None  # since they were filled
        self.held_here = False  # whether some of them are kept in this process
        self.weight: Array = None

    def count(self) -> Counts:
        """Return how much is kept; waits for all processes, and for a device."""
        if self.counted is None:
            mine = Counts(0, 0, 0, 0) if self.local is None else self.local.counts
            self.held_here = mine.rows > 0
            counts = Counts(*self.passes.group.sum(np.array(mine, np.int64)).tolist())
            full = counts.words > self.room and not self.passes.counts_first
            self.counted = counts._replace(misfits=counts.misfits + full)
        return self.counted

    def mass(self, delta: Array) -> tuple[Array, Array]:
        """Return ``sum_i w_i p_i`` and ``sum_i w_i p_i**2``; waits for all processes."""
        k, xp, local = len(delta), self.passes.xp, self._used()
        parts = (delta * 0.0, delta * 0.0, delta[:1] * 0.0) if local is None else local.mass(delta)
        if not self.passes.group.alone:
            sums = self.passes.group.sum(xp.concatenate(parts))
            parts = sums[:k], sums[k:-1], sums[-1:]
        self.weight = xp.where(parts[2] > 0, parts[2], 1.0)
        return parts[0] / self.weight, parts[1] / self.weight

    def second_moment(self, v: Array) -> Array:
        """Return ``sum_i w_i p_i <p_i, v>``; waits for all processes."""
        local = self._used()
        mine = v * 0.0 if local is None else local.second_moment(v)
        return self.passes.group.sum(mine) / self.weight

    def _used(self) -> Kept | None:
        """What is kept here, to be read once; None for nothing, and if not all fitted."""
        counts = self.count()
        if counts.misfits:
            return None
        self.passes.kept_reads += counts.bytes / self.matrix_bytes
        return self.local if self.held_here else None


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
