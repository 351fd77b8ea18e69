"""Build the compiled modules where the copied sources are, for this machine's GPU alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import Any

import torch

from gpu_check.machinery import HOST_LIBRARY
from gpu_check.stage import Stage

#: The GPU that the rehearsal compiles for, where there is an nvcc: an H100 or H200.
REHEARSED = "90"


def main(stage: Stage) -> None:
    """Build; then ask the package what it can run."""
    stage.attempt("modules", lambda: build(stage))
    if stage.rehearsal:
        stage.attempt("host harness", lambda: build_host(stage))
    report = run([sys.executable, "-m", "sinkhorn_ot"], stage)
    print(report)
    backends = re.findall(r"^  (cuda|triton|cpu|reference) +(.+)$", report, re.MULTILINE)
    stage.record(what="backends", **dict(backends))


def build(stage: Stage) -> dict[str, Any]:
    """Run setup.py as pip would, but without an environment of its own and without a network."""
    arch = REHEARSED
    if stage.device == "cuda":
        arch = "{}{}".format(*torch.cuda.get_device_capability())
    began = time.perf_counter()
    printed = run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], stage,
        {"SINKHORN_OT_CUDA": "auto", "SINKHORN_OT_CUDA_ARCHS": arch},
    )  # fmt: skip
    print(printed)
    seconds = round(time.perf_counter() - began, 1)
    built = sorted(path.name.split(".")[0] for path in (stage.source / "sinkhorn_ot").glob("_*.so"))
    missing = re.findall(r"built without its CUDA kernels: (.*)", printed)
    found: dict[str, Any] = {"seconds": seconds, "modules": built, "arch": f"sm_{arch}"}
    if "_cpu" not in built:
        return {**found, "error": "the module _cpu was not built; the log has the compiler's words"}
    return {**found, "without_cuda": missing[0][:300]} if missing else found


def build_host(stage: Stage) -> dict[str, Any]:
    """Compile the CUDA kernels for the host, as tests/kernels/machines.py does."""
    import machines

    began = time.perf_counter()
    library = machines.build_module(stage.source / "tests", stage.source / "csrc" / "cuda")
    library.rename(stage.source / HOST_LIBRARY)
    return {"seconds": round(time.perf_counter() - began, 1)}


def run(command: list[str], stage: Stage, variables: dict[str, str] | None = None) -> str:
    """Run a command in the copied sources; return all that it prints."""
    done = subprocess.run(
        command, cwd=stage.source, env={**os.environ, **(variables or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.stdout
