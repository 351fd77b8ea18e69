"""Memory errors, races and uninitialised reads as compute-sanitizer sees them; ncu's figures."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from typing import Any

from gpu_check.machinery import HOST_LIBRARY, machines_of
from gpu_check.stage import Stage
from gpu_check.stages.facts import find

#: Seconds that one of them needs at least, and those that are left for ncu.
LEAST, FOR_NCU = 20.0, 15.0
#: In the order of what they are worth.
TOOLS = ("memcheck", "racecheck", "initcheck")
#: What compute-sanitizer exits with when it has found something.
FOUND = 99
METRICS = {
    "gpu__time_duration.sum": "time",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM throughput",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy",
}
#: Launches of that kernel in a read: in float32, and twice behind gates that stay shut.
OF_A_READ = 3
#: Our kernels' names begin so, in CUDA and in Triton.
OURS = re.compile(r"read_rows|read_log|finish|prepare|add_segments")


def main(stage: Stage) -> None:
    """Every tool on every machine; without compute-sanitizer the kernels run as they are."""
    names = list(machines_of(stage))
    sanitizer = find("compute-sanitizer")
    jobs = [(tool, name) for tool in TOOLS for name in names]
    if sanitizer is None:
        stage.record(left_out="compute-sanitizer", reason="it is not installed")
        jobs = [("none", name) for name in names]
    profile = find("ncu")
    for tool, name in jobs:
        limit = stage.left - FOR_NCU
        if not stage.has_time_for(LEAST + FOR_NCU, f"{tool}, {name}"):
            continue
        command = [sys.executable, "-m", "gpu_check.every_kernel", name]
        if stage.rehearsal:
            command.append(str(stage.source / HOST_LIBRARY))
        if sanitizer is not None and tool != "none":
            command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *command]
        stage.attempt(
            "sanitizer",
            lambda command=command, limit=limit: sanitized(command, limit),
            tool=tool,
            machine=name,
        )
    if stage.rehearsal or not names:
        return
    if profile is None:
        stage.record(left_out="ncu", reason="it is not installed")
    elif stage.has_time_for(8.0, "ncu"):
        stage.attempt("ncu", lambda: profiled(profile, names[0], stage.left))


def sanitized(command: list[str], limit: float) -> dict[str, Any]:
    """Run under a tool; return how it ended and what it said of which kernels.

    `clean` is None where the tool did not come to a verdict.
    """
    # torch would hand out pieces of large blocks, in which a step too far is still inside
    variables = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit, env=variables,
            errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"ended": f"stopped after {limit:.0f} s", "clean": None}
    print(done.stdout[-20_000:], done.stderr[-5_000:])
    return verdict(done.stdout, done.returncode, done.stderr)


def verdict(printed: str, code: int, errors: str = "") -> dict[str, Any]:
    """Return what a report of compute-sanitizer comes to."""
    lines = [line[10:].strip() for line in printed.splitlines() if line.startswith("=========")]
    totals = [line for line in lines if "SUMMARY" in line]
    where = [line for line in lines if re.search(r"\bin \S*|\bat \S*", line) and OURS.search(line)]
    if code not in (0, FOUND) or "every kernel ran" not in printed:
        words = [*totals, *lines, *errors.strip().splitlines()[-1:]]
        found = code == FOUND or any("Invalid" in line or "hazard" in line for line in lines)
        ended = f"exit {code}: {words[-1] if words else ''}"[:300]
        return {"ended": ended, "clean": False if found else None, "ours": sorted(set(where))[:5]}
    return {
        "ended": totals[-1] if totals else "ran, without a tool",
        "clean": code == 0,
        "ours": sorted(set(where))[:5],
    }


def profiled(ncu: str, name: str, limit: float) -> dict[str, Any]:
    """Return what ncu says of the float32 read of 1,000,000 x 1000."""
    command = [
        ncu, "--clock-control", "none", "--csv", "--kernel-name", "regex:read_rows",
        "--launch-skip", str(OF_A_READ), "--launch-count", "1", "--metrics", ",".join(METRICS),
        sys.executable, "-m", "gpu_check.every_kernel", name, "--read", "1000000x1000",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=limit, errors="replace"
    )
    print(done.stdout[-5_000:], done.stderr[-5_000:])
    found = figures(done.stdout)
    if not found:
        words = [line for line in done.stdout.splitlines() if "==ERROR==" in line]
        raise RuntimeError(f"ncu printed no figures (exit {done.returncode}): {words[:1]}")
    return {"machine": name, **found}


def figures(printed: str) -> dict[str, str]:
    """Return the metrics of ncu's CSV, with their units."""
    start = printed.find('"ID"')
    rows = csv.DictReader(io.StringIO(printed[start:])) if start >= 0 else []
    return {
        METRICS[row["Metric Name"]]: f"{row['Metric Value']} {row['Metric Unit']}"
        for row in rows
        if row.get("Metric Name") in METRICS
    }
