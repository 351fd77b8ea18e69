"""PTX text to modules, kernels and instructions.

Names are resolved here: each register of each scope has a slot of its own, so names that repeat
in the braces of inline assembly do not meet.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator

from .program import (
    Address,
    Immediate,
    Instruction,
    Kernel,
    Module,
    Negated,
    Operand,
    Pair,
    Parameter,
    Register,
    Sink,
    Special,
    Symbol,
    Variable,
    Vector,
    aligned,
)
from .scalars import TYPES, PtxError, ScalarType, immediate

_LINES_WITHOUT_SEMICOLON = re.compile(r"^\s*\.(version|target|address_size|file|loc)\b.*$", re.M)
_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_HEADER = re.compile(r"\s*([^;{]*)([;{])")
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*(?:\((.*?)\))?([^()]*)$", re.S)
_DECLARATION = re.compile(r"([\w$%]+)\s*((?:\[\s*\w*\s*\])*)$")
_STATEMENT = re.compile(r"\s*(?:(\{)|(\})|([\w$%]+)\s*:(?!:)|([^;]*);)")
_INSTRUCTION = re.compile(r"(?:@\s*(!?)\s*([\w$%]+)\s+)?([\w.:]+)\s*(.*)$", re.S)
_LITERAL = re.compile(r"[-+]?(0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|[\d.][\w.]*([eE][-+]\d+)?)$")
_NAMED = re.compile(r"([\w$%]+(?:\.\w+)?)\s*(?:([+-])\s*(-?\w+))?$")


def parse(text: str) -> Module:
    """Read a PTX module, as nvcc or Triton writes it."""
    text = _COMMENTS.sub(" ", _LINES_WITHOUT_SEMICOLON.sub("", text))
    variables: dict[str, Variable] = {}
    entries: list[tuple[str, str]] = []
    at = 0
    while match := _HEADER.match(text, at):
        header, at = match[1].strip(), match.end()
        body = ""
        if match[2] == "{":
            end = _closing_brace(text, at)
            body, at = text[at:end], end + 1
        if ".entry" in header:
            entries.append((header, body))
        elif variable := _variable(header, body):
            variables[variable.name] = variable
    return Module(
        {
            _entry(header)[1]: functools.partial(_kernel, header, body, variables)
            for header, body in entries
        }
    )


def _entry(header: str) -> re.Match[str]:
    """Name, parameters and directives of a kernel."""
    match = _ENTRY.search(header)
    if match is None:
        raise PtxError(f"cannot read the entry {header!r}")
    return match


def _kernel(header: str, body: str, variables: dict[str, Variable]) -> Kernel:
    return _BodyParser(header, body, variables).kernel


def _closing_brace(text: str, at: int) -> int:
    depth = 1
    for match in re.compile(r"[{}]").finditer(text, at):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    raise PtxError("a brace is not closed")


def _declared(text: str) -> tuple[str, ScalarType, int, int | None]:
    """Name, element type, alignment and bytes of `.align 4 .f32 name[2][3]`."""
    match = _DECLARATION.search(text.strip())
    scalar = next((TYPES[w] for w in re.findall(r"\.(\w+)", text) if w in TYPES), None)
    if match is None or scalar is None:
        raise PtxError(f"cannot read the declaration {text!r}")
    align = re.search(r"\.align\s+(\d+)", re.sub(r"\.ptr.*", "", text))
    dims = re.findall(r"\[\s*(\w*)\s*\]", match[2])
    size = None if "" in dims else scalar.width * math.prod(int(d, 0) for d in dims)
    return match[1], scalar, int(align[1]) if align else scalar.width, size


def _variable(header: str, body: str = "") -> Variable | None:
    space = re.match(
        r"(?:\.(?:extern|visible|weak|common)\s+)*\.(shared|global|const|local)\b", header
    )
    if space is None:
        return None
    name, scalar, align, size = _declared(header.split("=")[0])
    contents = None
    initial = body or (header.partition("=")[2].strip())
    if size is not None and space[1] in ("global", "const"):
        literals = [x.strip() for x in re.sub(r"[{}]", " ", initial).split(",") if x.strip()]
        if all(_LITERAL.match(x) for x in literals):  # else addresses: an error once it is used
            contents = b"".join(immediate(x, scalar).tobytes() for x in literals).ljust(size, b"\0")
    return Variable(name, space[1], align, size, contents)


def _split(text: str) -> list[str]:
    """Split at the commas outside of braces and brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []


class _BodyParser:
    """Parses one .entry, with the scopes its braces open."""

    def __init__(self, header: str, body: str, variables: dict[str, Variable]) -> None:
        match = _entry(header)
        threads = re.search(r"\.reqntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", match[3])
        self.kernel = Kernel(
            match[1],
            list(self._parameters(match[2] or "")),
            dict(variables),
            math.prod(int(n) for n in threads.groups() if n) if threads else None,
        )
        self.scope = 0
        self.names: list[dict[str, Register]] = [{}]
        self._body(body)

    @staticmethod
    def _parameters(text: str) -> Iterator[Parameter]:
        offset = 0
        for part in _split(text):
            name, scalar, align, size = _declared(part)
            is_struct = "[" in part
            offset = aligned(offset, align if is_struct else scalar.width)
            size = size if is_struct and size is not None else scalar.width
            yield Parameter(name, None if is_struct else scalar, size, offset)
            offset += size

    def _body(self, body: str) -> None:
        at, kernel, label = 0, self.kernel, ""
        while match := _STATEMENT.match(body, at):
            at = match.end()
            if match[1]:
                kernel.parents.append(self.scope)
                self.names.append({})
                self.scope = len(kernel.parents) - 1
            elif match[2]:
                self.scope = kernel.parents[self.scope]
            elif match[3]:
                label = match[3]
                kernel.labels[self.scope, label] = len(kernel.instructions)
            else:
                self._statement(" ".join(match[4].split()), label)
        if body[at:].strip():
            raise PtxError(f"cannot read {body[at:].strip()[:80]!r}")

    def _statement(self, text: str, label: str) -> None:
        if text.startswith(".reg"):
            self._registers(text)
        elif text.startswith(".branchtargets"):
            self.kernel.branch_tables[label] = _split(text.removeprefix(".branchtargets"))
        elif variable := _variable(text):
            self.kernel.variables[variable.name] = variable
        elif text and not text.startswith((".pragma", ".param")):
            self.kernel.instructions.append(self._instruction(text))

    def _registers(self, text: str) -> None:
        type_name, names = text.removeprefix(".reg").strip().lstrip(".").split(None, 1)
        if type_name not in TYPES:
            raise PtxError(f"registers of type {type_name} are not supported: {text}")
        for name in _split(names):
            counted = re.match(r"(.+)<(\d+)>$", name)
            group = [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name]
            for one in group:
                slot = len(self.kernel.registers)
                self.names[self.scope][one] = Register(one, slot, TYPES[type_name])
                self.kernel.registers.append(TYPES[type_name])

    def _lookup(self, name: str) -> Register | None:
        scope = self.scope
        while name not in self.names[scope]:
            if scope == 0:
                return None
            scope = self.kernel.parents[scope]
        return self.names[scope][name]

    def _instruction(self, text: str) -> Instruction:
        match = _INSTRUCTION.match(text)
        if match is None:
            raise PtxError(f"cannot read the instruction {text!r}")
        opcode, *modifiers = match[3].replace("shared::cta", "shared").split(".")
        # calls and directives are no error before they are reached
        known = opcode not in ("call", "")
        operands = tuple(self._operand(o) for o in _split(match[4])) if known else ()
        guard = self._lookup(match[2]) if match[2] else None
        if match[2] and guard is None:
            raise PtxError(f"no register {match[2]} for {text!r}")
        return Instruction(
            text, opcode, tuple(modifiers), operands, guard, match[1] == "!", self.scope
        )

    def _operand(self, text: str) -> Operand:
        if text.startswith("{"):
            return Vector(tuple(self._operand(o) for o in _split(text[1:-1])))
        if text.startswith("["):
            return self._address(text[1:-1].strip())
        if "|" in text:
            first, second = text.split("|")
            return Pair(self._operand(first.strip()), self._operand(second.strip()))
        if text == "_":
            return Sink()
        if text.startswith("!"):
            register = self._lookup(text[1:].strip())
            if register is None:
                raise PtxError(f"no register {text[1:]}")
            return Negated(register)
        if _LITERAL.match(text):
            return Immediate(text)
        named = self._named(text)
        if isinstance(named, Address):
            raise PtxError(f"cannot read the operand {text!r}")
        return named

    def _named(self, text: str) -> Register | Special | Symbol | Immediate | Address:
        match = _NAMED.match(text)
        if match is None:
            raise PtxError(f"cannot read the operand {text!r}")
        name, sign, number = match.groups()
        offset = int(f"{sign}{number}".replace("+-", "-").replace("--", ""), 0) if sign else 0
        if name == "WARP_SZ":
            return Immediate("32")
        register = self._lookup(name)
        if register is not None:
            return Address(register, offset) if sign else register
        if name.startswith("%"):
            return Special(name)
        return Symbol(name, offset)

    def _address(self, text: str) -> Address:
        if _LITERAL.match(text):
            return Address(None, int(text, 0))
        named = self._named(text)
        if isinstance(named, Address):
            return named
        if isinstance(named, Register):
            return Address(named, 0)
        if isinstance(named, Symbol):
            return Address(Symbol(named.name), named.offset)
        raise PtxError(f"cannot read the address [{text}]")
