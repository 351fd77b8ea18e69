"""Instructions to steps: Python functions that run one instruction on a group of threads.

An instruction is decoded once, when it is first reached. Its handler reads the modifiers it
knows from a `Decoder`; a modifier nobody reads is an error, and so is an unknown opcode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .program import (
    Address,
    Immediate,
    Instruction,
    Kernel,
    Negated,
    Operand,
    Pair,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)
from .scalars import TYPES, Array, PtxError, ScalarType, immediate

if TYPE_CHECKING:
    from .block import Block, Group

# A step returns True when it has set the program counters itself.
Step = Callable[["Block", "Group"], bool | None]
Handler = Callable[["Decoder"], Step]
# Values for all threads of the block, or an array of one where all threads see the same.
Read = Callable[["Block"], Array]
Write = Callable[["Block", "Group", Array], None]

HANDLERS: dict[str, Handler] = {}


def handles(*opcodes: str) -> Callable[[Handler], Handler]:
    """Register a decoder for some opcodes."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(opcodes, handler))
        return handler

    return register


def decode(instruction: Instruction, kernel: Kernel) -> Step:
    """The step that runs an instruction."""
    handler = HANDLERS.get(instruction.opcode)
    if handler is None:
        raise PtxError(f"unsupported instruction: {instruction.text}")
    decoder = Decoder(instruction, kernel)
    try:
        step = handler(decoder)
    except (PtxError, IndexError, ValueError, KeyError) as error:
        raise PtxError(f"cannot run {instruction.text!r}: {error!r}") from error
    if decoder.rest:
        raise PtxError(f"unsupported modifiers .{'.'.join(decoder.rest)} in {instruction.text!r}")
    return step


class Decoder:
    """An instruction whose modifiers are taken one by one."""

    def __init__(self, instruction: Instruction, kernel: Kernel) -> None:
        self.instruction = instruction
        self.kernel = kernel
        self.opcode = instruction.opcode
        self.text = instruction.text
        self.operands = list(instruction.operands)
        self.rest = list(instruction.modifiers)

    def flag(self, name: str) -> bool:
        """Take a modifier if it is there."""
        if name in self.rest:
            self.rest.remove(name)
            return True
        return False

    def ignore(self, *names: str) -> None:
        """Take modifiers that change nothing here."""
        self.rest = [m for m in self.rest if m not in names]

    def choice(self, *names: str) -> str | None:
        """Take the first of the modifiers that is one of these."""
        found = next((m for m in self.rest if m in names), None)
        if found is not None:
            self.rest.remove(found)
        return found

    def need(self, *names: str) -> str:
        """Take one of these modifiers; it is an error if there is none."""
        found = self.choice(*names)
        if found is None:
            raise PtxError(f"none of {', '.join(names)} in {self.text!r}")
        return found

    def type(self) -> ScalarType:
        """Take the last modifier, the type."""
        if not self.rest or self.rest[-1] not in TYPES:
            raise PtxError(f"no known type in {self.text!r}")
        return TYPES[self.rest.pop()]

    def expect(self, *counts: int) -> None:
        """Check the number of operands."""
        if len(self.operands) not in counts:
            raise PtxError(f"{len(self.operands)} operands in {self.text!r}")


def reader(operand: Operand, scalar: ScalarType) -> Read:
    """A function that reads an operand as values of a type."""
    if isinstance(operand, Immediate):
        constant = scalar.from_bits(immediate(operand.text, scalar))
        return lambda block: constant
    raw = bits_reader(operand, scalar)
    return lambda block: scalar.from_bits(raw(block))


def bits_reader(operand: Operand, scalar: ScalarType) -> Read:
    """A function that reads an operand's bits; a register's may be wider than the type."""
    match operand:
        case Register(slot=slot):
            return lambda block: block.registers[slot]
        case Immediate(text):
            constant = immediate(text, scalar)
            return lambda block: constant
        case Special(name):
            return lambda block: block.special(name)
        case Symbol(name, offset):
            return lambda block: np.array([block.address_of(name) + offset], np.uint64)
        case Negated(register):
            return lambda block: ~block.registers[register.slot]
        case Vector(items):
            return _packed_reader(items, scalar)
    raise PtxError(f"cannot read {operand}")


def _packed_reader(items: Sequence[Operand], scalar: ScalarType) -> Read:
    part = TYPES[f"b{8 * scalar.width // len(items)}"]
    reads = [reader(item, part) for item in items]

    def read(block: Block) -> Array:
        columns = np.broadcast_arrays(*(r(block) for r in reads))
        return np.stack(columns, -1).view(scalar.storage)[..., 0]

    return read


def writer(operand: Operand, scalar: ScalarType) -> Write:
    """A function that stores values of a type in a group's lanes of a register."""
    store = bits_writer(operand, scalar)
    return lambda block, group, values: store(block, group, scalar.to_bits(values))


def bits_writer(operand: Operand, scalar: ScalarType) -> Write:
    """A function that stores bits; in a wider register they are sign- or zero-extended."""
    match operand:
        case Sink():
            return lambda block, group, bits: None
        case Vector(items):
            part = TYPES[f"b{8 * scalar.width // len(items)}"]
            writes = [bits_writer(item, part) for item in items]

            def unpack(block: Block, group: Group, bits: Array) -> None:
                columns = np.ascontiguousarray(bits).view(part.storage)
                for i, write in enumerate(writes):
                    write(block, group, columns.reshape(-1, len(items))[:, i])

            return unpack
        case Register(slot=slot, type=register_type) if scalar.kind == "pred":
            if register_type.kind != "pred":
                raise PtxError(f"{operand.name} is no predicate")
            return lambda block, group, bits: group.assign(block.registers[slot], bits)
        case Register(slot=slot, type=register_type):
            signed, storage = np.dtype(f"i{scalar.width}"), register_type.storage

            def write(block: Block, group: Group, bits: Array) -> None:
                if bits.dtype != storage:
                    if scalar.is_signed:
                        bits = bits.view(signed)
                    bits = bits.astype(storage)
                group.assign(block.registers[slot], bits)

            return write
    raise PtxError(f"cannot write to {operand}")


def pair(operand: Operand) -> tuple[Operand, Operand]:
    """The two results of a|b; a second one that is not there is a sink."""
    return (operand.first, operand.second) if isinstance(operand, Pair) else (operand, Sink())


def elements(operand: Operand) -> tuple[Operand, ...]:
    """The items of a vector, or the operand alone."""
    return operand.items if isinstance(operand, Vector) else (operand,)


def address_reader(operand: Operand) -> Callable[[Block, Group], Array]:
    """A function that reads the int64 addresses of a group's lanes."""
    if not isinstance(operand, Address):
        raise PtxError(f"{operand} is no address")
    base, offset = operand.base, operand.offset
    if isinstance(base, Register):
        slot = base.slot
        return lambda block, group: (
            block.registers[slot][group.lanes].astype(np.uint64).view(np.int64) + offset
        )
    name = base.name if base else None

    def read(block: Block, group: Group) -> Array:
        start = block.address_of(name) if name else 0
        return np.full(group.lanes.size, start + offset, np.int64)

    return read


def elementwise(
    d: Decoder,
    function: Callable[..., Array],
    sources: Sequence[ScalarType],
    result: ScalarType,
) -> Step:
    """The step of an operation that works on each thread for itself."""
    d.expect(len(sources) + 1)
    reads = [reader(o, t) for o, t in zip(d.operands[1:], sources, strict=True)]
    write = writer(d.operands[0], result)

    def step(block: Block, group: Group) -> None:
        write(block, group, function(*[read(block) for read in reads]))

    return step
