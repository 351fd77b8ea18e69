"""The same bits: from run to run, on two streams at a time, after another process's work."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from gpu_check.machinery import machines_of, solver_of
from gpu_check.problems_on_device import EPSILON, make_logits
from gpu_check.stage import Stage

RUNS = 5
#: What another process does meanwhile: it multiplies, and fills memory with NaN.
OTHER = """
import torch
x = torch.randn({side}, {side}, device={device!r})
for _ in range({times}):
    x = x @ x / x.norm()
torch.full((1 << {bits},), float("nan"), device={device!r})
"""
LARGE = {"side": 4096, "times": 200, "bits": 30}


def main(stage: Stage) -> None:
    """Compare digests of labels, f and g, for each machine and dtype."""
    n, k = (2_000, 40) if stage.rehearsal else (200_000, 1_000)
    for name, machine in machines_of(stage).items():
        solve = solver_of(machine)
        for dtype in (torch.float32, torch.bfloat16):
            if not stage.has_time_for(2.0, f"{name}, {dtype}"):
                return
            logits = make_logits("middle", n, k, stage.device, dtype)
            stage.attempt(
                "bits",
                lambda solve=solve, logits=logits: {"different": compare(stage, solve, logits)},
                machine=name,
                dtype=str(logits.dtype)[6:],
            )


def compare(stage: Stage, solve: Callable[..., Any], logits: torch.Tensor) -> dict[str, int]:
    """Return how many solves gave other bits than the first one, by what was special of them."""
    first = digest(solve, logits)
    runs = 2 if stage.rehearsal else RUNS
    different = {"run again": sum(digest(solve, logits) != first for _ in range(runs - 1))}
    if stage.device == "cuda":
        with ThreadPoolExecutor(2) as pool:
            beside = list(pool.map(lambda _: digest_on_a_stream(solve, logits), range(2)))
    else:  # the stand-ins know neither streams nor threads
        beside = [digest(solve, logits)]
    different["on two streams"] = sum(other != first for other in beside)
    size = {"side": 64, "times": 2, "bits": 10} if stage.rehearsal else LARGE
    script = OTHER.format(device=stage.device, **size)
    with subprocess.Popen([sys.executable, "-c", script]) as other:
        beside = [digest(solve, logits) for _ in range(1 if stage.rehearsal else RUNS)]
    if other.returncode:
        raise RuntimeError(f"the other process ended with exit code {other.returncode}")
    different["beside another process"] = sum(one != first for one in beside)
    spoil(logits)
    different["in memory full of NaN"] = int(digest(solve, logits) != first)
    return different


def spoil(logits: torch.Tensor) -> None:
    """Fill memory that the next solve is likely to get with NaN: nothing may be read unwritten."""
    blocks = [torch.full_like(logits[: len(logits) // 4], torch.nan) for _ in range(4)]
    del blocks


def digest_on_a_stream(solve: Callable[..., Any], logits: torch.Tensor) -> str:
    """Solve on a stream of this thread's own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(stream):
        return digest(solve, logits)


def digest(solve: Callable[..., Any], logits: torch.Tensor) -> str:
    """Solve, and return the digest of the result."""
    return digest_of(solve(logits, epsilon=EPSILON, tol=1e-6))


def digest_of(result: Any) -> str:
    """Return what tells results from others, bit by bit."""
    hashed = hashlib.sha256()
    for tensor in (result.labels, result.f, result.g):
        hashed.update(tensor.cpu().numpy().tobytes())
    return hashed.hexdigest()
