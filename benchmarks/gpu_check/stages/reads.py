"""The time of one read of the matrix: every kind and dtype, beside a device-to-device copy."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machines
import torch
from problems import EPSILON

from gpu_check.machinery import machines_of, synchronise
from gpu_check.problems_on_device import make_logits
from gpu_check.stage import Stage
from sinkhorn_ot.entropic.checks import room_for_entries
from sinkhorn_ot.passes import SETS, Problem

MILLION, WIDER, LONG = (1_000_000, 1_000), (1_000_000, 3_000), (100_000, 30_000)
#: By worth: what a solve is made of comes first.
CASES = (
    (MILLION, torch.float32), (MILLION, torch.bfloat16), (WIDER, torch.float32),
    (WIDER, torch.bfloat16), (LONG, torch.float32), (LONG, torch.bfloat16),
    (MILLION, torch.float16), (MILLION, torch.float64),
)  # fmt: skip
SMALL = (
    ((2_000, 100), torch.float32), ((2_000, 100), torch.bfloat16), ((40, 9_000), torch.float32),
)  # fmt: skip
KINDS = ("masses", "labels", "kept entries", "log domain")
#: Reads that are timed together, and how often; reads before that, which compile and warm up.
TOGETHER, RUNS, BEFORE = 10, 5, 3
#: Columns of logits so low that their masses underflow, and the log domain is needed.
LOW, FAR = 5, 1e3
#: Part of the free memory that the logits of a case may take.
MOST_MEMORY = 0.7


def main(stage: Stage) -> None:
    """Time all cases on every machine, as long as there is time."""
    found = machines_of(stage)
    stage.attempt("copy", lambda: copy_speed(stage))
    for (n, k), dtype in SMALL if stage.rehearsal else CASES:
        size = f"{n:,} x {k:,} {str(dtype).removeprefix('torch.')}"
        if not stage.has_time_for(3.0, size):
            return
        if stage.device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            if n * k * dtype.itemsize > MOST_MEMORY * free:
                stage.record(left_out=size, reason=f"{free / 1e9:.0f} GB of memory are free")
                continue
        time_case(stage, found, n, k, dtype)


def time_case(
    stage: Stage, found: dict[str, machines.Machine], n: int, k: int, dtype: torch.dtype
) -> None:
    """Record the milliseconds of each kind of read on each machine."""
    logits = make_logits("middle", n, k, stage.device, dtype)
    case: dict[str, Any] = {
        "n": n, "k": k, "dtype": str(dtype).removeprefix("torch."),
        "gigabytes": n * k * dtype.itemsize / 1e9,
    }  # fmt: skip
    for kind in KINDS:
        if kind == "log domain":  # the last of them, for the logits are others then
            logits[:, :LOW] -= FAR
        for name, machine in found.items():
            stage.attempt(
                "read",
                lambda machine=machine, kind=kind: milliseconds(
                    stage, reader(machine, logits, kind)
                ),
                machine=name,
                kind=kind,
                model=None if stage.rehearsal else model(name, n, k, dtype),
                **case,
            )


def reader(machine: machines.Machine, logits: torch.Tensor, kind: str) -> Callable[[], object]:
    """Return a function that queues one read."""
    n, k = logits.shape
    b = torch.full((k,), 1 / k, dtype=torch.float64, device=logits.device)
    g = torch.zeros_like(b)
    passes = machine.backend.passes(Problem(logits, None, b, EPSILON))
    if kind == "kept entries":
        words = room_for_entries(logits, n, None, machine.backend.needs(logits, n))
        kept = passes.keep(words // SETS)
        return lambda: passes.read(g, kept=kept)
    return lambda: passes.read(g, assign=kind == "labels")


def milliseconds(stage: Stage, read: Callable[[], object]) -> dict[str, float]:
    """Return the time of a read: on the device, and that of queueing it on the host."""
    if stage.rehearsal:
        began = time.perf_counter()
        read()
        return {"device": 1e3 * (time.perf_counter() - began), "host": 0.0}
    for _ in range(BEFORE):
        read()
    device, host = [], []
    for _ in range(RUNS):
        torch.cuda.synchronize()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began = time.perf_counter()
        first.record()
        for _ in range(TOGETHER):
            read()
        last.record()
        host.append(1e3 * (time.perf_counter() - began) / TOGETHER)
        torch.cuda.synchronize()
        device.append(first.elapsed_time(last) / TOGETHER)
    return {"device": statistics.median(device), "host": statistics.median(host)}


def copy_speed(stage: Stage) -> dict[str, float]:
    """Return the bytes a second, read and written, of a copy of as much as a million rows."""
    n, k = SMALL[0][0] if stage.rehearsal else MILLION
    source = torch.zeros((n, k), device=stage.device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = []
    for _ in range(5):
        synchronise(stage.device)
        began = time.perf_counter()
        for _ in range(TOGETHER):
            target.copy_(source)
        synchronise(stage.device)
        seconds.append((time.perf_counter() - began) / TOGETHER)
    return {"bytes_per_second": 2 * source.nbytes / statistics.median(seconds)}


def model(machine: str, n: int, k: int, dtype: torch.dtype) -> float | None:
    """Return the milliseconds that docs/gpu_kernels.md says, for the GPU of its table that this is.

    The table is of 1,000,000 x 1000; other numbers of rows and columns scale it, while rows are
    held whole.
    """
    if k > 4096:
        return None
    name = torch.cuda.get_device_name()
    page = Path(__file__).parents[3] / "docs" / "gpu_kernels.md"
    rows = [
        [cell.strip() for cell in line.strip("| \n").split("|")]
        for line in page.read_text().splitlines()
        if re.match(r"\| (CUDA|Triton) \|", line)
    ]
    kernels, logits = {"cuda": "CUDA", "triton": "Triton"}[machine], str(dtype)[6:]
    for row in rows:
        if row[:2] == [kernels, logits] and row[2].split()[0] in name:
            return float(row[-2]) * n * k / 1e9
    return None
