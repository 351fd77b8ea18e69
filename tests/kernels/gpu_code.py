"""What the compilers made of the GPU kernels: registers, stack, shared memory, kinds of loads."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
#: Per multiprocessor: registers, warps, blocks, bytes of shared memory.
REGISTERS, WARPS, BLOCKS = 65536, 64, 32
SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}
#: Registers go to warps, shared memory to blocks, in units.
REGISTER_UNIT, SHARED_UNIT, RESERVED = 256, 128, 1024


@dataclass
class Code:
    """A kernel as machine code."""

    name: str
    registers: int
    stack: int  # bytes a thread: spills, or arrays that have no place in registers
    loads: Counter[str] = field(default_factory=Counter)  # LDG instructions by width in bits


def of_library(path: Path, arch: int, *, loads: bool = False) -> dict[str, Code]:
    """Return the kernels in a library or cubin for one GPU architecture."""
    only = [] if path.suffix == ".cubin" else ["-arch", f"sm_{arch}"]
    usage = run(["cuobjdump", "--dump-resource-usage", *only, path])
    found = {}
    for name, registers, stack in re.findall(r"Function (\S+?):\s+REG:(\d+) STACK:(\d+)", usage):
        found[name] = Code(name, int(registers), int(stack))
    if loads:
        for part in run(["cuobjdump", "-sass", *only, path]).split("Function : ")[1:]:
            code = found[part.split("\n", 1)[0].strip()]
            for width in re.findall(r"\bLDG\.E(?:\.\w+)*?(?:\.(64|128))?(?:\.\w+)* R", part):
                code.loads[width or "32"] += 1
    return found


def of_cubin(cubin: bytes, arch: int, *, loads: bool = False) -> Code:
    """Return the one kernel of a cubin in memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        (code,) = of_library(Path(file.name), arch, loads=loads).values()
    return code


def occupancy(arch: int, code: Code, threads: int, shared_bytes: int) -> float:
    """Return the part of a multiprocessor's warps that can be resident."""
    warps = threads // 32
    per_warp = -(-code.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    shared = -(-(shared_bytes + RESERVED) // SHARED_UNIT) * SHARED_UNIT
    blocks = min(BLOCKS, WARPS // warps, REGISTERS // per_warp // warps, SHARED[arch] // shared)
    return blocks * warps / WARPS


def run(command: list[object]) -> str:
    """Run one of the tools that come with Triton; return what it prints."""
    tool, *arguments = map(str, command)
    return subprocess.run(
        [str(TOOLS / tool), *arguments], check=True, capture_output=True, text=True
    ).stdout
