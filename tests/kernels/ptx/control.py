"""Branches, exits, block barriers, and what does nothing here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .decoder import Decoder, Step, handles, reader, writer
from .program import Symbol
from .scalars import TYPES, Array, PtxError
from .warp import warp_barrier

if TYPE_CHECKING:
    from .block import Block, Group


def _label(d: Decoder, index: int) -> str:
    operand = d.operands[index]
    if not isinstance(operand, Symbol):
        raise PtxError("a branch needs a label")
    return operand.name


@handles("bra")
def _branch(d: Decoder) -> Step:
    d.ignore("uni")
    target = d.kernel.target(_label(d, 0), d.instruction.scope)

    def step(block: Block, group: Group) -> bool:
        block.jump(group, target)
        return True

    return step


@handles("brx")
def _indexed_branch(d: Decoder) -> Step:
    d.need("idx")
    d.ignore("uni")
    scope = d.instruction.scope
    labels = d.kernel.branch_tables[_label(d, 1)]
    targets = np.array([d.kernel.target(label, scope) for label in labels])
    index = reader(d.operands[0], TYPES["u32"])
    text = d.text

    def step(block: Block, group: Group) -> bool:
        chosen = group.pick(index(block))
        if (chosen >= targets.size).any():
            raise PtxError(f"branch index out of range in: {text}")
        block.jump(group, targets[chosen])
        return True

    return step


@handles("ret", "exit")
def _exit(d: Decoder) -> Step:
    d.ignore("uni")

    def step(block: Block, group: Group) -> bool:
        block.exit(group)
        return True

    return step


@handles("trap", "brkpt")
def _trap(d: Decoder) -> Step:
    def step(block: Block, group: Group) -> None:
        raise PtxError(f"thread {group.lanes[0]} of block {block.index} reached a {d.opcode}")

    return step


@handles("bar", "barrier")
def _barrier(d: Decoder) -> Step:
    if d.flag("warp"):
        d.need("sync")
        return warp_barrier(d)
    d.ignore("cta")
    aligned = d.flag("aligned") or d.opcode == "bar"
    if d.need("sync", "red") == "red":
        return _reducing_barrier(d, aligned)
    d.expect(1, 2)
    number = reader(d.operands[0], TYPES["u32"])
    count = reader(d.operands[1], TYPES["u32"]) if len(d.operands) == 2 else None
    text = d.text

    def step(block: Block, group: Group) -> bool:
        expected = group.pick(count(block)) if count else None
        block.arrive(group, group.pick(number(block)), expected, aligned, text)
        return True

    return step


def _reducing_barrier(d: Decoder, aligned: bool) -> Step:
    """__syncthreads_count, _and and _or: threads get the result when they pass the barrier."""
    name = d.need("popc", "and", "or")
    scalar = d.type()
    d.expect(3, 4)
    number = reader(d.operands[1], TYPES["u32"])
    count = reader(d.operands[2], TYPES["u32"]) if len(d.operands) == 4 else None
    predicate = reader(d.operands[-1], TYPES["pred"])
    write = writer(d.operands[0], scalar)
    text = d.text

    def finish(block: Block, group: Group) -> None:
        votes = group.pick(predicate(block))
        result: Array = np.array(
            [{"popc": votes.sum(), "and": votes.all(), "or": votes.any()}[name]]
        )
        write(block, group, result)

    def step(block: Block, group: Group) -> bool:
        expected = group.pick(count(block)) if count else None
        block.arrive(group, group.pick(number(block)), expected, aligned, text, finish)
        return True

    return step


@handles("fence", "membar", "griddepcontrol", "nanosleep", "prefetch", "prefetchu")
def _nothing(d: Decoder) -> Step:
    """Fences order what the interpreter runs in order anyway; the others are only hints."""
    if d.opcode == "fence" and "proxy" in d.rest:
        raise PtxError("fence.proxy is not supported")
    d.rest.clear()
    return lambda block, group: None
