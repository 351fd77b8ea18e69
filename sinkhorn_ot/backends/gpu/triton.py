"""The passes as Triton kernels, which are compiled when they are first used: no toolkit needed.

Supported are Linux, NVIDIA GPUs of compute capability 8.0 or later, and the Triton of every torch
from 2.6 on: 3.2 to 3.9, or for GPUs of compute capability 10.0 or later 3.3 to 3.9. AMD's are
refused: the kernels are compiled for them in the tests, but none has run them.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import shutil
import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sinkhorn_ot.arrays import Array, Place
from sinkhorn_ot.backends.gpu.kernels import (
    KEPT_TENSORS,
    LEAST,
    MinibatchRead,
    Read,
    Segments,
    Sums,
    Tile,
    exact_rate,
    filling,
    rounded_rate,
)
from sinkhorn_ot.backends.gpu.minibatch import DeviceMinibatch
from sinkhorn_ot.backends.gpu.passes import DevicePasses, needs_of, not_on_gpu
from sinkhorn_ot.passes import Needs, Problem

#: The Triton of torch 2.6.
OLDEST = (3, 2)
#: Columns that a program holds at most; longer rows go in chunks, in float32 and in float64. (With
#: 8192 columns registers spill where there are labels.)
MOST_WIDTH, QUICK_CHUNK, EXACT_CHUNK = 4096, 2048, 1024
#: The narrowest tile: a vector of 16 bytes of the smallest dtype.
LEAST_WIDTH = 8
#: Entries of a tile for each thread of a program, in float32 and in float64.
QUICK_ENTRIES, EXACT_ENTRIES = 16, 4
THREADS_OF_A_WARP = 32
LEAST_WARPS, MOST_WARPS = 4, 8
#: Multiprocessors of a device that is not there: kernels compiled ahead of time are an H100's.
PROCESSORS = 132
#: Turns of a program after which float64 takes over its float32 sums; each costs it a line of sums.
TURNS = 256

#: Arguments that `read_rows` does without in each mode.
LEFT_OUT = {
    "whole": "best best_column chunk_top begin end entry column row",
    "stats": "a sums bad_row f labels entries tops begin end entry column row",
    "apply": "odd bad_row f labels best best_column chunk_top begin end entry column row",
    "fill": "a sums odd bad_row f labels best best_column chunk_top entries",
}


@dataclass(frozen=True)
class Launch:
    """What the kernels want to know besides: how they cut up what is not rows."""

    warps: int
    turns: int
    columns: int  # of a program of the kernels that go column by column
    slabs: int  # that it adds at a time, or rows
    short: tuple[int, int]  # segments of a program, and entries of each at a time
    long: tuple[int, int]


GPU = Launch(warps=LEAST_WARPS, turns=TURNS, columns=32, slabs=32, short=(16, 32), long=(1, 1024))
#: What costs in the interpreter is the number of tiles: they are large, and sums change over soon.
INTERPRETED = Launch(
    warps=LEAST_WARPS, turns=2, columns=1024, slabs=64, short=(1024, 32), long=(1024, 32)
)
INTERPRETED_ENTRIES, INTERPRETED_ROWS, INTERPRETED_BLOCKS = 1 << 16, 256, 2


def why_not(place: Place | None) -> str | None:
    """None, or why the kernels cannot run."""
    if sys.platform != "linux":
        return f"the Triton kernels are supported on Linux, not on {sys.platform}"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; pip install torch"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; torch brings it on Linux, unless it is built for CPUs only"
    if place is not None and place.device is None:
        return "the logits are not a CUDA tensor"
    torch, triton = map(importlib.import_module, ("torch", "triton"))
    version = release(triton.__version__)
    if version < OLDEST:
        return f"Triton {triton.__version__} is too old; torch 2.6 brings 3.2, which works"
    if interpreted():
        if version < (3, 7) and release(np.__version__) >= (2, 4):
            return (
                f"the interpreter of Triton {triton.__version__} fails with NumPy "
                f"{np.__version__}; pip install 'numpy<2.4', or use a later Triton"
            )
        return None
    if torch.version.hip:
        return "torch is built for AMD GPUs; the kernels compile for them, but none has run them"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    if not any(shutil.which(name) for name in compilers if name):
        return "Triton finds no C compiler for its launchers; install gcc or set CC"
    if place is None:
        return None
    reason = not_on_gpu(place)
    if reason:
        return reason
    major, minor = torch.cuda.get_device_capability(place.device)
    if major >= 10 and version < (3, 3):
        return (
            f"Triton {triton.__version__} knows no GPU of compute capability {major}.{minor}; "
            "torch 2.7 brings 3.3, which does"
        )
    return None


def release(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(map(int, version.split(".")[:2]))


def interpreted() -> bool:
    """Whether Triton interprets its kernels: slowly, and on CPU tensors too."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def needs(logits: Array, n: int) -> Needs:
    """What kept entries take."""
    return needs_of(logits, n, TritonKernels())


def passes(problem: Problem) -> DevicePasses:
    """The passes over rows on the GPU."""
    return DevicePasses(problem, TritonKernels())


def minibatch(scores: Array, epsilon: float, n_valid: Array | None) -> DeviceMinibatch:
    """The passes over a minibatch on the GPU."""
    return DeviceMinibatch(scores, epsilon, n_valid, TritonKernels())


class TritonKernels:
    """Launches of the kernels of the files triton_*.py here; see `Kernels`."""

    holds_rows = True

    def tile(self, k: int, exact: bool, on: Any) -> Tile:
        """Return how rows of k entries are cut up."""
        width = max(power_of_two(k), LEAST_WIDTH)
        if width > MOST_WIDTH:
            width = EXACT_CHUNK if exact else QUICK_CHUNK
        chunks = -(-k // width)
        if on.type == "cpu":
            rows = min(max(INTERPRETED_ENTRIES // width, 1), INTERPRETED_ROWS)
            return Tile(width, chunks, rows, INTERPRETED_BLOCKS, INTERPRETED)
        entries = EXACT_ENTRIES if exact else QUICK_ENTRIES
        warps = width // (entries * THREADS_OF_A_WARP)
        warps = min(max(warps, LEAST_WARPS), MOST_WARPS)
        threads = warps * THREADS_OF_A_WARP
        return Tile(
            width,
            chunks,
            rows=max(threads * entries // width, 1),
            blocks=filling(threads, on, PROCESSORS),
            launch=replace(GPU, warps=warps),
        )

    def prepare(self, g: Array, epsilon: float, padded: Array, high: Array, low: Array) -> None:
        """Split g for float32, and pad it."""
        rate = rounded_rate(epsilon)
        self._queue(
            "prepare", (-(-len(padded) // 1024),), g, g=g, padded_g=padded, high=high, low=low,
            rate=rate if 1e-30 < rate < 1e30 else math.nan, k=len(g), padded=len(padded),
            WIDTH=1024,
        )  # fmt: skip

    def read_rows(self, read: Read) -> None:
        """Read rows, in the `mode` of the read."""
        tile, kept = read.tile, read.kept
        row_stride, _ = read.x.stride()
        vector = 16 // read.x.element_size() if read.vectors else 1
        tensors = {
            name: getattr(read, name)
            for name in (
                "x", "a", "g", "high", "low", "sums", "odd", "bad_row", "gate", "f", "labels",
                "log_sum", "best", "best_column",
            )
        }  # fmt: skip
        tensors |= {name: getattr(kept, name, None) for name in KEPT_TENSORS}
        tensors["entries"], tensors["tops"] = tensors.pop("count"), tensors.pop("top")
        tensors |= dict.fromkeys(LEFT_OUT[read.mode].split())
        rate = rounded_rate(read.epsilon)
        self._queue(
            "read_rows", (read.blocks, tile.chunks), read.x, tile.launch.warps, **tensors,
            n=read.n, epsilon_bits=bits(read.epsilon),
            log_n_bits=bits(-read.epsilon * math.log(read.n)),
            exact_rate_bits=bits(exact_rate(read.epsilon) if read.exact else rate), rate=rate,
            pieces=kept.pieces if kept else 1, step=kept.step(tile) if kept else 1, least=LEAST,
            **self._rows(read, row_stride // vector),
            MODE=read.mode, EXACT=read.exact, VECTOR=vector, ROWS=tile.rows, WIDTH=tile.width,
            TURNS=tile.launch.turns,
        )  # fmt: skip

    def finish(self, sums: Sums, n: int, g: Array, out: Array, low_mass: Array) -> None:
        """Add the slabs: log masses, and the weight of the rows."""
        cut = self._cut(g)
        self._queue(
            "finish", (-(-len(out) // cut.columns),), g, **sums._asdict(), g=g, out=out,
            low_mass=low_mass, n=n, quick_slabs=len(sums.quick), exact_slabs=len(sums.exact),
            k=len(g), SLABS=cut.slabs, COLUMNS=cut.columns,
        )  # fmt: skip

    def read_log(self, read: Read, tops: Array, totals: Array) -> None:
        """Sum the columns in the log domain."""
        cut = self._cut(read.x)
        columns = min(power_of_two(read.k), cut.columns)
        self._queue(
            "read_log", (read.blocks, -(-read.k // columns)), read.x, x=read.x, g=read.g,
            f=read.f, gate=read.gate, tops=tops, totals=totals,
            exact_rate_bits=bits(exact_rate(read.epsilon)), **self._rows(read, read.x.stride()[0]),
            ROWS=cut.slabs, COLUMNS=columns,
        )  # fmt: skip

    def finish_log(self, tops: Array, totals: Array, n: int, gate: Array, out: Array) -> None:
        """Add what `read_log` left."""
        cut = self._cut(out)
        slabs, k = tops.shape
        self._queue(
            "finish_log", (-(-k // cut.columns),), out, tops=tops, totals=totals, gate=gate,
            out=out, n=n, slabs=slabs, k=k, SLABS=cut.slabs, COLUMNS=cut.columns,
        )  # fmt: skip

    def add_segments(
        self, segments: Segments, p: Array, q: Array | None, first: Array, second: Array | None
    ) -> None:
        """Sum ``value * p[index]`` over each segment, and ``value**2 * q[index]``."""
        count, cut = len(segments.begin), self._cut(p)
        each, lanes = cut.long if segments.long else cut.short
        self._queue(
            "add_segments", (-(-count // each),), p, begin=segments.begin, end=segments.end,
            value=segments.value, index=segments.index, p=p, q=q, first=first, second=second,
            segments=count, SEGMENTS=each, LANES=lanes,
        )  # fmt: skip

    def minibatch_rows(self, read: MinibatchRead) -> None:
        """Find the largest score of each row, or with masses its scale."""
        batches, n, _ = read.x.shape
        self._queue(
            "minibatch_rows", (batches * -(-n // read.tile.rows),), read.x, read.tile.launch.warps,
            masses=read.masses, tops=read.tops, scales=read.scales, **self._minibatch(read),
        )  # fmt: skip

    def minibatch_columns(self, read: MinibatchRead) -> None:
        """Sum columns into slabs, or write codes."""
        out_strides = (0, 0, 1) if read.out is None else read.out.stride()
        self._queue(
            "minibatch_columns", (read.x.shape[0] * read.blocks, read.tile.chunks), read.x,
            read.tile.launch.warps, tops=None if read.largest is not None else read.tops,
            largest=read.largest, masses=read.masses, scales=read.scales, sums=read.sums,
            out=read.out, out_batch_stride=out_strides[0], out_row_stride=out_strides[1],
            out_col_stride=out_strides[2], rows_per_block=read.rows_per_block, blocks=read.blocks,
            OUT_UNIT=out_strides[2] == 1, **self._minibatch(read),
        )  # fmt: skip

    def minibatch_finish(self, sums: Array, masses: Array) -> None:
        """Add the slabs of each batch."""
        cut = self._cut(sums)
        batches, blocks, k = sums.shape
        self._queue(
            "minibatch_finish", (batches, -(-k // cut.columns)), sums, sums=sums, masses=masses,
            blocks=blocks, k=k, SLABS=cut.slabs, COLUMNS=cut.columns,
        )  # fmt: skip

    def _minibatch(self, read: MinibatchRead) -> dict[str, Any]:
        """What both kernels over the rows of a minibatch are told."""
        vector = 16 // read.x.element_size() if read.vectors else 1
        batch_stride, row_stride, col_stride = read.x.stride()
        return {
            "x": read.x,
            "n_valid": read.n_valid,
            "rate_bits": bits(read.rate),
            "n": read.x.shape[1],
            "batch_stride": batch_stride // vector,
            "row_stride": row_stride // vector,
            "col_stride": col_stride,
            "K": read.x.shape[2],
            "EXACT": read.tops.dtype.itemsize == 8,
            "VECTOR": vector,
            "UNIT": col_stride == 1 or read.vectors,
            "ROWS": read.tile.rows,
            "WIDTH": read.tile.width,
        }

    def _cut(self, on: Array) -> Launch:
        return INTERPRETED if on.device.type == "cpu" else GPU

    def _rows(self, read: Read, row_stride: int) -> dict[str, Any]:
        """Which rows a read takes, and where they lie."""
        col_stride = read.x.stride()[1]
        return {
            "row_stride": row_stride,
            "col_stride": col_stride,
            "stride": read.stride,
            "count": read.count,
            "rows_per_block": read.rows_per_block,
            "K": read.k,
            "SAMPLED": read.stride > 1,
            "UNIT": col_stride == 1 or read.vectors,
        }

    def _queue(
        self,
        name: str,
        grid: tuple[int, ...],
        on: Array,
        warps: int = LEAST_WARPS,
        **arguments: Any,
    ) -> None:
        """Launch a kernel on the device and the stream of `on`."""
        kernel = kernel_of(name)
        if on.device.type == "cpu":
            with warnings.catch_warnings():  # NumPy's, of rows that hold NaN or infinities
                warnings.simplefilter("ignore", RuntimeWarning)
                kernel[grid](**arguments)
            return
        with sys.modules["torch"].cuda.device(on.device):
            kernel[grid](**arguments, num_warps=warps)


def kernel_of(name: str) -> Any:
    """Return a kernel: only now is Triton imported."""
    file = "triton_read" if name in ("prepare", "read_rows") else "triton_sums"
    if name.startswith("minibatch"):
        file = "triton_minibatch"
    return getattr(importlib.import_module(f"sinkhorn_ot.backends.gpu.{file}"), name)


def bits(number: float) -> int:
    """Return the bits of a float64 number: as an argument they stay what they are."""
    return int(np.float64(number).view(np.int64))


def power_of_two(k: int) -> int:
    """Return the least power of two that is not less than k."""
    return 1 << (k - 1).bit_length()
