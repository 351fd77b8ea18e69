"""Runs PTX with NumPy, the threads of a block side by side, and checks what it does.

    module = parse(ptx_text)
    kernel = module.kernel("rows")             # a name, or a regex that one name matches
    machine = Machine()
    x = machine.pointer(array)                 # what the kernel stores is then in the array
    machine.launch(kernel, grid=4, block=128, args=[x, array.size, 0.5], shared_bytes=1024)
    assert not machine.races

Every access is checked for bounds and alignment, and every `PtxError` names the instruction.
After a launch, `machine` holds

* `races`: shared accesses that no barrier orders, and global ones of two blocks;
* `traffic[pointer]`: bytes and 32-byte sectors read and written in each buffer;
* `instructions` and `lanes`: how often warps, and threads, ran each mnemonic.

What the hardware leaves open is not modelled: blocks run one after the other, memory is
sequentially consistent, and the approximate functions return rounded exact values.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import access, arithmetic, bitwise, control, conversions, warp  # noqa: F401  (handlers)
from .block import Block, Dim3, Program
from .memory import BUFFER_BITS, GlobalBuffer, LocalMemory, Memory, Region, SharedMemory, Traffic
from .program import Kernel, Parameter, Variable, aligned
from .races import MOST_RACES, BlockShadow
from .scalars import Array, PtxError

Argument = int | float | bytes | np.generic


class Machine:
    """Global memory, and the launches on it.

    What `programs` holds of other machines is not decoded again: pass one dict to all of them.
    """

    def __init__(self, programs: dict[int, Program] | None = None) -> None:
        self.races: list[str] = []
        self.traffic: dict[int, Traffic] = {}
        self.instructions: Counter[str] = Counter()
        self.lanes: Counter[str] = Counter()
        self._buffers: list[GlobalBuffer] = []
        self._variables: dict[int, tuple[Variable, int]] = {}  # by identity
        self._programs = {} if programs is None else programs  # by identity of the kernel

    def pointer(self, array: np.ndarray[Any, Any]) -> int:
        """Register an array as global memory; kernels see, and change, its own data."""
        if not array.flags.c_contiguous:
            raise ValueError("only a contiguous array can be global memory")
        number = len(self._buffers) + 1
        data = array.reshape(-1).view(np.uint8)
        self._buffers.append(GlobalBuffer(f"buffer {number}", data, BlockShadow(data.size)))
        return number << BUFFER_BITS

    def variable(self, kernel: Kernel, name: str) -> Array:
        """The bytes of a .global or .const variable, to read or to fill."""
        return self._buffers[(self._module_variables(kernel)[name] >> BUFFER_BITS) - 1].data

    def launch(
        self,
        kernel: Kernel,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Argument],
        shared_bytes: int = 0,
        *,
        check_blocks: bool = True,
        most_steps: int = 10_000_000,
    ) -> None:
        """Run a kernel.

        Parameters
        ----------
        grid, block
            Blocks in x, y, z, and threads of a block; a number means x alone.
        args
            Integers, floats and pointers, as many as the kernel has parameters; structs as bytes.
        shared_bytes
            Size of the dynamic shared memory.
        check_blocks
            Whether plain accesses of two blocks to the same global bytes, one of them a write,
            are races. Kernels that order them by fences and atomics need False.
        most_steps
            Instructions of one block after which it is taken for an endless loop.
        """
        grid, block = _dim3(grid), _dim3(block)
        threads = block[0] * block[1] * block[2]
        if not 1 <= threads <= 1024:
            raise PtxError(f"a block of {threads} threads")
        if kernel.required_threads not in (None, threads):
            raise PtxError(f"{kernel.name} needs blocks of {kernel.required_threads} threads")
        program = self._program(kernel)
        parameters = _pack(kernel, args)
        symbols = self._symbols(kernel, program)
        self._start_launch(program)
        total_shared = aligned(program.shared_bytes, 16) + shared_bytes

        def memory(shared: SharedMemory, local: LocalMemory) -> Memory:
            return Memory(self._buffers, shared, local, Region("the parameters", parameters))

        with np.errstate(all="ignore"):
            for z, y, x in itertools.product(*(range(n) for n in reversed(grid))):
                one = Block(
                    program, memory, symbols, (x, y, z), grid, block, total_shared, self.races
                )
                one.run(most_steps)
                self._end_block((x, y, z), check_blocks)
        self._count(program)

    def _program(self, kernel: Kernel) -> Program:
        if id(kernel) not in self._programs:
            self._programs[id(kernel)] = Program(kernel)
        return self._programs[id(kernel)]

    def _module_variables(self, kernel: Kernel) -> dict[str, int]:
        """Addresses of the module's .global and .const variables, made when first needed."""
        for v in kernel.variables.values():
            made = v.space in ("global", "const") and v.contents is not None
            if made and id(v) not in self._variables:
                self._variables[id(v)] = v, self.pointer(v.initial_bytes())
        known = (self._variables.get(id(v)) for v in kernel.variables.values())
        return {entry[0].name: entry[1] for entry in known if entry is not None}

    def _symbols(self, kernel: Kernel, program: Program) -> dict[str, int]:
        parameters = {p.name: p.offset for p in kernel.parameters}
        local, shared = program.local_offsets, program.shared_offsets
        return self._module_variables(kernel) | parameters | local | shared

    def _start_launch(self, program: Program) -> None:
        self.races = []
        size = len(program.steps)
        program.warps_run, program.lanes_run = [0] * size, [0] * size
        for buffer in self._buffers:
            buffer.start_launch()
        self.traffic = {i + 1 << BUFFER_BITS: b.traffic for i, b in enumerate(self._buffers)}

    def _end_block(self, index: Dim3, check_blocks: bool) -> None:
        for buffer in self._buffers:
            race = buffer.shadow.end_block()
            if race and check_blocks and len(self.races) < MOST_RACES:
                self.races.append(
                    f"block {index} races with an earlier block at {race[1]} bytes of "
                    f"{buffer.name}, from offset {race[0]}"
                )

    def _count(self, program: Program) -> None:
        self.instructions, self.lanes = Counter(), Counter()
        for instruction, warps, lanes in zip(
            program.kernel.instructions, program.warps_run, program.lanes_run, strict=True
        ):
            if warps:
                self.instructions[instruction.mnemonic] += warps
                self.lanes[instruction.mnemonic] += lanes


def _dim3(size: int | Sequence[int]) -> Dim3:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    x, y, z = (*sizes, 1, 1, 1)[:3]
    return int(x), int(y), int(z)


def _pack(kernel: Kernel, args: Sequence[Argument]) -> Array:
    """The parameters as the kernel sees them."""
    if len(args) != len(kernel.parameters):
        raise PtxError(
            f"{kernel.name} has {len(kernel.parameters)} parameters, not {len(args)}: "
            + ", ".join(p.name for p in kernel.parameters)
        )
    data = np.zeros(aligned(kernel.parameter_bytes, 16), np.uint8)
    for parameter, value in zip(kernel.parameters, args, strict=True):
        packed = _packed_argument(parameter, value)
        data[parameter.offset : parameter.offset + parameter.size] = np.frombuffer(packed, np.uint8)
    return data


def _packed_argument(parameter: Parameter, value: Argument) -> bytes:
    size, scalar = parameter.size, parameter.type
    if isinstance(value, bytes | np.void) or scalar is None:
        packed = bytes(value)  # type: ignore[arg-type]
    elif scalar.is_float:
        packed = scalar.to_bits(np.array([value], np.float64)).tobytes()
    elif isinstance(value, float | np.floating):
        raise PtxError(f"the float {value} for the integer parameter {parameter.name}")
    else:
        low = -(1 << (8 * size - 1))
        if not low <= int(value) < 1 << 8 * size:
            raise PtxError(f"{value} does not fit the parameter {parameter.name}")
        packed = (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    if len(packed) != size:
        raise PtxError(f"{parameter.name} has {size} bytes, not {len(packed)}")
    return packed
