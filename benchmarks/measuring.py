"""R, repeated runs, memory, and a process of its own for a measurement."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
HERE = Path(__file__).parent
#: Seconds of a first run above which there is no second; seconds that short runs are repeated for,
#: as their first ones share the cores with threads that made the problem; and how often at most.
ONE_RUN_ABOVE, AT_LEAST, MOST_RUNS = 60.0, 0.5, 50


def yardstick() -> Callable[[NDArray[Any]], float]:
    """Compile yardstick.c for this processor; return a function: seconds to read an array (R)."""
    folder = Path(tempfile.mkdtemp())
    library = folder / "yardstick.so"
    flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
    source = HERE / "yardstick.c"
    subprocess.run([os.environ.get("CC", "cc"), *flags, source, "-o", library], check=True)
    function = ctypes.CDLL(str(library)).seconds_to_read
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    checksum = np.zeros(1)

    def read(x: NDArray[Any]) -> float:
        words = x.nbytes // len(x) // 4  # of a row; the bits are read as float32
        return function(x.ctypes.data, len(x), words, checksum.ctypes.data)

    return read


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Runs:
    """Seconds of each run; R around each; what the peak of memory rose by."""

    answer: Any
    seconds: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    added: int = 0


def repeated(
    solve: Callable[[NDArray[Any]], T],
    logits: NDArray[Any],
    least: int,
    pristine: NDArray[Any] | None = None,
) -> Runs:
    """Solve `least` times or more; where `pristine` is passed, after it was copied to `logits`."""
    read, runs = yardstick(), Runs(None)
    before = peak_bytes()  # the input is the largest thing so far
    while not _enough(runs.seconds, least):
        if pristine is not None:
            np.copyto(logits, pristine)
        runs.reads += [read(logits) for _ in range(3)]
        start = time.perf_counter()
        runs.answer = solve(logits)
        runs.seconds.append(time.perf_counter() - start)
        runs.reads += [read(logits) for _ in range(3)]
        if len(runs.seconds) == 1:
            runs.added = peak_bytes() - before
    return runs


def _enough(seconds: list[float], least: int) -> bool:
    if len(seconds) < least:
        return bool(seconds) and seconds[0] >= ONE_RUN_ABOVE
    return sum(seconds) >= AT_LEAST or len(seconds) >= MOST_RUNS


def isolated(script: str, *arguments: object, limit: float) -> dict[str, Any] | str:
    """Run a program of this folder in a process of its own, stopped after `limit` seconds.

    Returns the JSON of the last line that it prints, or in words why there is none.
    """
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"over {limit:g} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"failed: {lines[-1] if lines else f'status {done.returncode}'}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
