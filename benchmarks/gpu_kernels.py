"""What the GPU kernels are made of, and how fast a model says they are: docs/gpu_kernels.md.

    python benchmarks/gpu_kernels.py docs/gpu_kernels.md

Registers, spills and the width of loads come from the machine code that nvcc and Triton made; bytes
and instructions are counted while tests/kernels/ptx executes the PTX. There is no GPU in this.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))

import gpu_code
import machines
from cuda_compiler import compile_ptx, find_nvcc
from ptx_machine import PtxKernels, TritonPtxKernels

from sinkhorn_ot.backends.gpu import cuda
from sinkhorn_ot.backends.gpu.passes import DevicePasses
from sinkhorn_ot.passes import Problem

ROWS, K = 512, 1000  # that are executed; long enough for sums to be flushed as often as ever
MODELLED = 1_000_000  # rows


@dataclass(frozen=True)
class Gpu:
    """From the vendor's data sheets: bandwidth, multiprocessors, clock under load."""

    name: str
    arch: int
    bandwidth: float  # bytes a second
    processors: int
    clock: float
    doubles: int  # float64 operations that a multiprocessor starts in a clock

    #: exponentials and warps' instructions that a multiprocessor starts in a clock, and bytes that
    #: its first-level cache gives
    exponentials, instructions, cache = 16, 4, 128


GPUS = (
    Gpu("A100 SXM 80 GB", 80, 2.04e12, 108, 1.41e9, 32),
    Gpu("H100 SXM", 90, 3.35e12, 132, 1.75e9, 64),
    Gpu("H200 SXM", 90, 4.8e12, 132, 1.75e9, 64),
    Gpu("B200", 100, 8.0e12, 148, 1.85e9, 64),
)
DOUBLE_OPERATIONS = ("add", "sub", "mul", "fma", "max", "min", "set", "cvt")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Counted:
    """One read of ROWS x K entries, as executed."""

    kernel: str
    compiled: Any  # by Triton
    matrix: int  # bytes read of the matrix
    sums: int  # bytes of the slabs, read and written
    vectors: int  # bytes of g, which come from the first-level cache
    instructions: int  # of warps
    exponentials: int
    doubles: int


def count(kernels: Any, dtype: torch.dtype) -> Counted:
    """Execute the read that makes neither labels nor keeps entries, with a single block."""
    logits = torch.randn(ROWS, K, generator=torch.Generator().manual_seed(0)).to(dtype)
    b = torch.full((K,), 1 / K, dtype=torch.float64)
    kernels.launches.clear()
    DevicePasses(Problem(logits, None, b, 0.3), kernels).read(torch.zeros_like(b))
    # the read comes second, after the split of g; others wait behind gates that stay shut
    name, ran, places, *code = next(one for one in kernels.launches if "read_rows" in one[0])
    matrix = ran.traffic[places[logits.untyped_storage().data_ptr()]]
    others = [t for t in ran.traffic.values() if t is not matrix]
    written = sum(t.bytes_written for t in others)
    sums = sum(t.bytes_read + t.bytes_written for t in others if t.bytes_written)
    assert written
    return Counted(
        name,
        code[0] if code else None,
        matrix.bytes_read,
        sums,
        sum(t.bytes_read for t in others if not t.bytes_written),
        sum(n for op, n in ran.instructions.items() if not op.startswith(("mov", "cvta"))),
        sum(n for op, n in ran.lanes.items() if op.startswith("ex2")),
        sum(n for op, n in ran.lanes.items() if op.endswith("f64") and op[:3] in DOUBLE_OPERATIONS),
    )


def times(gpu: Gpu, one: Counted) -> dict[str, float]:
    """Seconds for MODELLED rows, were each of these the only thing that takes time."""
    scale = MODELLED / ROWS
    per_clock = gpu.processors * gpu.clock
    return {
        "memory": scale * (one.matrix + one.sums) / gpu.bandwidth,
        "instructions": scale * one.instructions / (gpu.instructions * per_clock),
        "cache": scale * (one.matrix + one.vectors) / (gpu.cache * per_clock),
        "exponentials": scale * one.exponentials / (gpu.exponentials * per_clock),
        "float64": scale * one.doubles / (gpu.doubles * per_clock),
    }


def rows(folder: Path) -> Iterator[str]:
    """The table, line by line."""
    nvcc = find_nvcc()
    assert nvcc, "no nvcc: pip install 'cuda-toolkit[nvcc,cudart,cccl]'"
    library = machines.build_module(folder, machines.SOURCES)
    built = Path(cuda._cuda.__file__)
    for gpu in GPUS:
        codes = gpu_code.of_library(built, gpu.arch, loads=True)
        for dtype in DTYPES:
            ptx = functools.partial(
                compile_ptx, nvcc, arch=gpu.arch, folder=folder, sources=machines.SOURCES
            )
            one = count(in_one_block(PtxKernels(library, ptx)), dtype)
            tile = cuda.CudaKernels(cuda._cuda).tile(K, dtype == torch.float64, torch.device("cpu"))
            sums = 8 if dtype == torch.float64 else 4
            threads, lanes = tile.launch.threads, tile.launch.lanes
            shared = 512 + 8 * lanes * tile.launch.per
            shared += threads * tile.launch.per * sums if threads > lanes else 0
            yield line("CUDA", gpu, dtype, one, codes[one.kernel], threads, shared)
    for gpu in GPUS:
        for dtype in DTYPES:
            one = count(in_one_block(TritonPtxKernels(gpu.arch)), dtype)
            code = gpu_code.of_cubin(one.compiled.asm["cubin"], gpu.arch, loads=True)
            about = one.compiled.metadata
            yield line("Triton", gpu, dtype, one, code, 32 * about.num_warps, about.shared)


def in_one_block(kernels: Any) -> Any:
    """Share no rows out: what one block does is all there is to count."""
    tile = kernels.tile
    kernels.tile = lambda *what: replace(tile(*what), blocks=1)
    return kernels


def line(
    kind: str, gpu: Gpu, dtype: torch.dtype, one: Counted, code: gpu_code.Code, threads: int,
    shared: int,
) -> str:  # fmt: skip
    """One line of the table."""
    busy = gpu_code.occupancy(gpu.arch, code, threads, shared)
    least = ROWS * K * dtype.itemsize
    spent = times(gpu, one)
    slowest = max(spent, key=lambda what: spent[what])
    cells = (
        kind,
        str(dtype).removeprefix("torch."),
        gpu.name,
        code.registers,
        code.stack,
        128 if code.loads["128"] else 32,
        f"{busy:.0%}",
        f"{one.matrix / least:.3f}",
        f"{(one.matrix + one.sums) / least:.3f}",
        f"{32 * one.instructions / ROWS / K:.0f}",
        f"{1e3 * least * MODELLED / ROWS / gpu.bandwidth:.2f}",
        f"{1e3 * spent[slowest]:.2f}",
        slowest,
    )
    return f"| {' | '.join(map(str, cells))} |"


HEADER = """\
# The GPU kernels, compiled and counted

The times in this table are a model's: **no GPU has run any of this**. It is made by

    python benchmarks/gpu_kernels.py docs/gpu_kernels.md

*Registers*, *spills* (bytes of stack a thread) and the width of the *loads* (bits) are read from
the machine code for each GPU; *busy* is the part of a multiprocessor's warps that this leaves
room for. *Matrix* is what the kernel asks for of the logits, over N x K x itemsize, and *with sums*
adds what it reads and writes of its sums, both counted while the compiled PTX is executed for
{rows} x {k} logits; *instructions* are those of a thread for each entry, moves aside, counted the
same way. *Bandwidth* is the time (ms) to read {millions} x {k} logits at the speed of the data
sheet; *model* is that of the slowest of: memory, the issue of instructions, the first-level cache,
exponentials, float64 arithmetic. It knows nothing of latency, and takes an instruction of PTX for
one of the machine.

One read that neither makes labels nor keeps entries:

"""

TITLES = ("kernels", "logits", "GPU", "registers", "spills", "loads", "busy", "matrix",
          "with sums", "instructions", "bandwidth", "model", "bound by")  # fmt: skip

FOOTER = """
Less than half of the warps are resident where rows have more than 256 entries. A thread then holds
16 entries and as many sums; a kernel with 64 registers would spill them. What hides the latency of
memory is bytes on their way: 20 warps with 2 KB each are 40 KB on a multiprocessor, and an H100
needs about 18 KB (3.35 TB/s times 0.7 microseconds, over 132 multiprocessors). A B200 needs 38 KB.
"""


def main() -> None:
    """Write the page to the file that is named."""
    with tempfile.TemporaryDirectory() as folder:
        table = "\n".join(rows(Path(folder)))
    titles = f"| {' | '.join(TITLES)} |\n{'|---' * len(TITLES)}|\n"
    header = HEADER.format(rows=ROWS, k=K, millions=f"{MODELLED:,}")
    page = header + titles + table + "\n" + FOOTER
    Path(sys.argv[1]).write_text(page)


if __name__ == "__main__":
    main()
