"""What a parsed PTX module consists of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .scalars import PtxError, ScalarType


@dataclass(frozen=True)
class Register:
    """A declared register; `slot` is its place in the register file."""

    name: str
    slot: int
    type: ScalarType


@dataclass(frozen=True)
class Special:
    """A read-only register of the machine, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A literal; what bits it has depends on the instruction's type."""

    text: str


@dataclass(frozen=True)
class Symbol:
    """A variable, parameter or label, plus bytes."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    """[base + offset]; a base of None is the bare number."""

    base: Register | Symbol | None
    offset: int


@dataclass(frozen=True)
class Vector:
    """The list {a, b, ...}."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """The two results a|b."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Negated:
    """The opposite of a predicate, !p."""

    register: Register


@dataclass(frozen=True)
class Sink:
    """_ : a result nobody wants."""


Operand = Register | Special | Immediate | Symbol | Address | Vector | Pair | Negated | Sink


@dataclass(frozen=True)
class Instruction:
    """One instruction, its names resolved, its modifiers not yet understood."""

    text: str
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None = None
    guard_negated: bool = False
    scope: int = 0

    @property
    def mnemonic(self) -> str:
        return ".".join((self.opcode, *self.modifiers))


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter; `type` is None for a struct passed by value."""

    name: str
    type: ScalarType | None
    size: int
    offset: int


@dataclass(frozen=True)
class Variable:
    """A .shared, .local, .global or .const variable; size None is the dynamic shared array."""

    name: str
    space: str
    align: int
    size: int | None
    contents: bytes | None = None

    def initial_bytes(self) -> np.ndarray:
        """The contents a module variable starts with."""
        if self.contents is None:
            raise PtxError(f"variable {self.name} has no contents the interpreter can make")
        return np.frombuffer(self.contents, np.uint8).copy()


@dataclass
class Kernel:
    """One .entry: what to run, and where its names lie."""

    name: str
    parameters: list[Parameter]
    variables: dict[str, Variable]  # of the module and its own
    required_threads: int | None = None
    registers: list[ScalarType] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[tuple[int, str], int] = field(default_factory=dict)
    branch_tables: dict[str, list[str]] = field(default_factory=dict)
    parents: list[int] = field(default_factory=lambda: [0])  # the scope around each scope

    def target(self, label: str, scope: int) -> int:
        """Where a label seen from a scope points to."""
        while (scope, label) not in self.labels:
            if scope == 0:
                raise PtxError(f"no label {label} in {self.name}")
            scope = self.parents[scope]
        return self.labels[scope, label]

    @property
    def parameter_bytes(self) -> int:
        return max((p.offset + p.size for p in self.parameters), default=0)

    def layout(self, space: str) -> tuple[dict[str, int], int]:
        """Offsets of the static variables of a space that the kernel uses, and their total size.

        The dynamic shared array, if any, begins where the static ones end.
        """
        used = {name for i in self.instructions for name in _symbols(i.operands)}
        chosen = [v for v in self.variables.values() if v.space == space and v.name in used]
        offsets, end = {}, 0
        for variable in sorted(chosen, key=lambda v: v.size is None):
            end = aligned(end, variable.align)
            offsets[variable.name] = end
            end += variable.size or 0
        return offsets, end


@dataclass
class Module:
    """The kernels of one PTX text; each is read when it is first asked for."""

    readers: dict[str, Callable[[], Kernel]]  # by name
    known: dict[str, Kernel] = field(default_factory=dict)  # that have been read

    def kernel(self, pattern: str) -> Kernel:
        """The kernel of exactly this name, or else the only one whose name matches the regex."""
        found = [name for name in self.readers if re.search(pattern, name)]
        if pattern in self.readers:
            found = [pattern]
        if len(found) != 1:
            names = ", ".join(self.readers) or "none"
            raise PtxError(f"{len(found)} kernels match {pattern!r}; the module has: {names}")
        (name,) = found
        if name not in self.known:
            self.known[name] = self.readers[name]()
        return self.known[name]


def aligned(offset: int, align: int) -> int:
    return -(-offset // align) * align


def _symbols(operands: tuple[Operand, ...]) -> Iterator[str]:
    for operand in operands:
        if isinstance(operand, Symbol):
            yield operand.name
        elif isinstance(operand, Address) and isinstance(operand.base, Symbol):
            yield operand.base.name
        elif isinstance(operand, Vector):
            yield from _symbols(operand.items)
