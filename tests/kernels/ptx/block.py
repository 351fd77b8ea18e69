"""One block: its registers, its program counters, and who may run next.

The threads at the lowest program counter run together, so that threads that went different ways
meet again. A barrier holds threads back until all are there, and so does an instruction with a
membermask; if nobody can go on, the program is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from .decoder import Step, decode
from .memory import LocalMemory, Memory, SharedMemory
from .program import Kernel
from .races import SharedShadow
from .scalars import TYPES, UNSIGNED, Array, PtxError

Dim3 = tuple[int, int, int]
_POISON = 0xFF  # of registers, shared and local memory: as a float it is NaN


class Group:
    """Threads of a block that run an instruction together."""

    def __init__(self, mask: Array) -> None:
        self.mask = mask
        self.lanes = np.flatnonzero(mask)
        self.full = self.lanes.size == mask.size

    def assign(self, register: Array, bits: Array) -> None:
        """Store bits, of all threads or an array of one, in the group's part of a register."""
        if self.full:
            register[...] = bits
        else:
            np.copyto(register, bits, where=self.mask)

    def pick(self, values: Array) -> Array:
        """The group's part of values of all threads, or of an array of one."""
        if values.size == 1 and self.mask.size > 1:
            return np.full(self.lanes.size, values[0])
        return values if self.full else values[self.lanes]

    def spread(self, values: Array) -> Array:
        """The inverse of `pick`: values at all threads, undefined outside of the group."""
        if self.full:
            return values
        result = np.zeros(self.mask.size, values.dtype)
        result[self.lanes] = values
        return result

    @cached_property
    def warps(self) -> int:
        """How many warps have a thread in the group."""
        return int(np.unique(self.lanes >> 5).size)


class Program:
    """A kernel with the steps decoded so far, and how often each was run."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        size = len(kernel.instructions)
        self.steps: list[Step | None] = [None] * size
        self.warps_run = [0] * size
        self.lanes_run = [0] * size
        self.shared_offsets, self.shared_bytes = kernel.layout("shared")
        self.local_offsets, self.local_bytes = kernel.layout("local")
        self.shared_granule = _shared_granule(kernel)
        # of each register; 0 for a predicate
        self.register_bits = [0 if t.kind == "pred" else t.bits for t in kernel.registers]

    def step(self, position: int) -> Step:
        step = self.steps[position]
        if step is None:
            step = decode(self.kernel.instructions[position], self.kernel)
            self.steps[position] = step
        return step


def _shared_granule(kernel: Kernel) -> int:
    """The smallest access that may be to shared memory: what races are found at."""
    sizes = [4]
    for instruction in kernel.instructions:
        if instruction.opcode in ("ld", "st", "atom", "red") and instruction.modifiers:
            scalar = TYPES.get(instruction.modifiers[-1])
            local = {"global", "param", "const", "local"} & set(instruction.modifiers)
            if scalar is not None and not local:
                sizes.append(scalar.width)
    return min(sizes)


class Block:
    """The state of the block that runs."""

    def __init__(
        self,
        program: Program,
        memory: Callable[[SharedMemory, LocalMemory], Memory],
        symbols: dict[str, int],
        index: Dim3,
        grid: Dim3,
        size: Dim3,
        shared_bytes: int,
        races: list[str],
    ) -> None:
        self.program, self.index = program, index
        self.threads = size[0] * size[1] * size[2]
        thread = np.arange(self.threads)
        self.lane, self.warp = thread & 31, thread >> 5
        self.warps = -(-self.threads // 32)
        self.registers = self._registers(program.register_bits)
        shadow = SharedShadow(shared_bytes, program.shared_granule, self.warps)
        shared = SharedMemory(
            "shared memory", np.full(shared_bytes, _POISON, np.uint8), shadow, races
        )
        local_bytes = -(-program.local_bytes // 16) * 16
        local_data = np.full((self.threads, local_bytes), _POISON, np.uint8)
        self.memory = memory(shared, LocalMemory("local memory", local_data))
        self.symbols = symbols
        self._special = _special_registers(index, grid, size, thread, shared_bytes)
        self._races = races
        self.pc = np.zeros(self.threads, np.int64)
        self.alive = np.ones(self.threads, bool)
        self.parked = np.zeros(self.threads, bool)  # at an instruction with a membermask
        self.barrier = np.full(self.threads, -1)  # the number of the barrier one waits at
        self.expected = np.zeros(self.threads, np.int64)  # threads it needs; 0 for all
        self.aligned = np.zeros(self.threads, bool)
        self.finishers: dict[int, Callable[[Block, Group], None]] = {}
        self.position = 0
        self.steps_run = 0

    def _registers(self, bits: list[int]) -> list[Array]:
        """Those of one size are rows of one array: making an array for each takes longer."""
        rows: dict[int, Iterator[Array]] = {}
        for size, count in Counter(bits).items():
            shape = count, self.threads * size // 8
            made = np.full(shape, _POISON, np.uint8).view(UNSIGNED[size]) if size else None
            rows[size] = iter(np.zeros((count, self.threads), bool) if made is None else made)
        return [next(rows[size]) for size in bits]

    # What steps use

    def special(self, name: str) -> Array:
        """A special register."""
        if name in ("%clock", "%clock_hi", "%clock64", "%globaltimer", "%globaltimer_lo"):
            return np.array([self.steps_run], np.uint64)
        if name not in self._special:
            raise PtxError(f"unsupported special register {name}")
        return self._special[name]

    def address_of(self, name: str) -> int:
        """Where a variable or parameter lies in its space."""
        if name not in self.symbols:
            raise PtxError(f"{name} has no address here")
        return self.symbols[name]

    def thread_of(self, lane: Array) -> Array:
        """For each thread, the thread that is this lane of its warp."""
        return np.minimum(self.warp * 32 + lane, self.threads - 1)

    def present(self, group: Group, lane: Array) -> Array:
        """For each thread, whether this lane of its warp is in the group."""
        thread = self.warp * 32 + lane
        inside = (lane >= 0) & (lane < 32) & (thread < self.threads)
        return inside & group.mask[np.where(inside, thread, 0)]

    def jump(self, group: Group, target: int | Array) -> None:
        self.pc[group.lanes] = target

    def exit(self, group: Group) -> None:
        self.alive[group.lanes] = False

    def converge(self, group: Group, members: Array, text: str) -> Group:
        """The part of the group whose membermask is here in full; the others are parked."""
        in_warp = np.zeros(self.warps * 32, bool)
        in_warp[: self.threads] = group.mask
        here = np.packbits(in_warp, bitorder="little").view(np.uint32)[self.warp]
        itself = (members >> self.lane.astype(np.uint32)) & 1 == 1
        if not itself[group.lanes].all():
            lane = int(group.lanes[~itself[group.lanes]][0])
            raise PtxError(f"thread {lane} is not in its own membermask in: {text}")
        missing = (members & ~here) != 0
        if not missing[group.lanes].any():
            return group
        self._complain_about_exited(group, members, text)
        complete, waiting = Group(group.mask & ~missing), group.mask & missing
        self.parked |= waiting
        self.pc[complete.lanes] = self.position + 1
        self.pc[waiting] = self.position
        return complete

    def _complain_about_exited(self, group: Group, members: Array, text: str) -> None:
        alive = np.zeros(self.warps * 32, bool)
        alive[: self.threads] = self.alive
        living = np.packbits(alive, bitorder="little").view(np.uint32)[self.warp]
        gone = (members & ~living) & group.mask.astype(np.uint32) * np.uint32(0xFFFFFFFF)
        if gone.any():
            thread = int(np.argmax(gone != 0))
            raise PtxError(
                f"inactive lanes {int(gone[thread]):#x} in the membermask of thread {thread} "
                f"in: {text}"
            )

    def arrive(
        self,
        group: Group,
        number: Array,
        expected: Array | None,
        aligned: bool,
        text: str,
        finish: Callable[[Block, Group], None] | None = None,
    ) -> None:
        """Wait at a barrier."""
        self.pc[group.lanes] = self.position
        self.barrier[group.lanes] = number
        self.expected[group.lanes] = 0 if expected is None else expected
        self.aligned[group.lanes] = aligned
        if finish is not None:
            self.finishers[self.position] = finish

    # The scheduler

    def run(self, most_steps: int) -> None:
        """Run until all threads have left."""
        while self.alive.any():
            ready = self.alive & (self.barrier < 0)
            candidates = ready & ~self.parked
            if not candidates.any():
                self._open_barrier()
                continue
            position = int(self.pc[candidates].min())
            mask = ready & (self.pc == position)
            self.parked &= ~mask
            later = self.pc[ready & ~mask & (self.pc > position)]
            stop = int(later.min()) if later.size else len(self.program.steps)
            self._run_straight(Group(mask), position, stop)
            if self.steps_run > most_steps:
                raise PtxError(f"block {self.index} still runs after {most_steps} steps")

    def _run_straight(self, group: Group, position: int, stop: int) -> None:
        """Run until a jump, or until where other threads are."""
        program, registers = self.program, self.registers
        instructions = program.kernel.instructions
        while position < stop:
            instruction, step = instructions[position], program.step(position)
            active = group
            if instruction.guard is not None:
                taken = registers[instruction.guard.slot] ^ instruction.guard_negated
                if not taken[group.lanes].all():
                    active = Group(group.mask & taken)
            self.position = position
            self.steps_run += 1
            if active.lanes.size:
                program.warps_run[position] += active.warps
                program.lanes_run[position] += active.lanes.size
                if step(self, active):
                    if active is not group:
                        self.pc[group.mask & ~active.mask] = position + 1
                    return
            position += 1
        self.pc[group.lanes] = position
        if position >= len(instructions):
            self.exit(group)

    def _open_barrier(self) -> None:
        """Nobody can run: open a barrier that is complete, or say why there is none."""
        waiting = self.alive & (self.barrier >= 0)
        for number in np.unique(self.barrier[waiting]):
            here = waiting & (self.barrier == number)
            expected = int(self.expected[here].max())
            everyone = expected == 0 and (here == self.alive).all()
            if everyone or (expected and np.count_nonzero(here) == expected):
                self._check_aligned(here)
                self._release(here)
                return
        raise PtxError("these can never complete: " + "; ".join(self._stuck()))

    def _check_aligned(self, here: Array) -> None:
        """All threads of a warp must wait at the same barrier instruction."""
        for warp in np.unique(self.warp[here & self.aligned]):
            places = np.unique(self.pc[here & (self.warp == warp)])
            if places.size > 1:
                text = self.program.kernel.instructions[places[0]].text
                raise PtxError(f"warp {warp} is divergent at a barrier: {text}")

    def _release(self, here: Array) -> None:
        group = Group(here)
        places = [int(place) for place in np.unique(self.pc[here])]
        finish = self.finishers.get(places[0])
        if len(places) > 1 and any(place in self.finishers for place in places):
            raise PtxError("threads meet at different reducing barriers")
        if finish is not None:
            finish(self, group)
        self.pc[here] += 1
        self.barrier[here] = -1
        self.memory.shared.shadow.barrier()

    def _stuck(self) -> list[str]:
        blocked = self.alive & ((self.barrier >= 0) | self.parked)
        return [
            f"{np.count_nonzero(blocked & (self.pc == place))} of {self.threads} threads at: "
            f"{self.program.kernel.instructions[place].text}"
            for place in np.unique(self.pc[blocked])
        ]


def _special_registers(
    index: Dim3, grid: Dim3, size: Dim3, thread: Array, shared_bytes: int
) -> dict[str, Array]:
    lane = (thread & 31).astype(np.uint32)
    bit = np.uint32(1) << lane
    x, rest = thread % size[0], thread // size[0]
    values: dict[str, Array | int] = {
        "%laneid": lane,
        "%warpid": thread >> 5,
        "%nwarpid": -(-thread.size // 32),
        "%smid": 0,
        "%nsmid": 1,
        "%gridid": 0,
        "%dynamic_smem_size": shared_bytes,
        "%total_smem_size": shared_bytes,
        "%lanemask_eq": bit,
        "%lanemask_lt": bit - np.uint32(1),
        "%lanemask_le": (bit - np.uint32(1)) | bit,
        "%lanemask_gt": ~((bit - np.uint32(1)) | bit),
        "%lanemask_ge": ~(bit - np.uint32(1)),
    }
    threads = {"x": x, "y": rest % size[1], "z": rest // size[1]}
    for axis, name in enumerate("xyz"):
        values[f"%tid.{name}"] = threads[name]
        values[f"%ntid.{name}"] = size[axis]
        values[f"%ctaid.{name}"] = index[axis]
        values[f"%nctaid.{name}"] = grid[axis]
    return {name: np.atleast_1d(np.asarray(v)).astype(np.uint32) for name, v in values.items()}
