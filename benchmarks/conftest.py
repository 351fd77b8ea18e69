"""Prints, after pytest-benchmark's own tables, the medians as ratios to `cpu`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import pytest
from pytest_benchmark.session import BenchmarkSession


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write one line per family and solver."""
    session: BenchmarkSession = config._benchmarksession
    rows = [
        (b.extra_info, b.stats.median, b.stats.min, b.stats.max)
        for b in session.benchmarks
        if "solver" in b.extra_info
    ]
    if not rows:
        return
    ours = {info["family"]: median for info, median, _, _ in rows if info["solver"] == "cpu"}
    write = terminalreporter.write_line
    write("")
    write(_processor() if platform.system() == "Linux" else platform.processor())
    packages = ("numpy", "torch", "POT")
    write(
        ", ".join([f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)])
    )
    header = f"{'family':8} {'solver':18} {'median s':>9} {'min':>7} {'max':>7}"
    write(f"{header} {'iterations':>10} {'violation':>10} {'x cpu':>6}")
    for info, median, low, high in rows:
        cpu = ours.get(info["family"])  # missing when deselected or failed
        ratio = "-" if cpu is None else f"{median / cpu:.1f}"
        write(
            f"{info['family']:8} {info['solver']:18} {median:9.2f} {low:7.2f} {high:7.2f} "
            f"{info['n_iter']:10} {info['violation']:10.1e} {ratio:>6}"
        )
