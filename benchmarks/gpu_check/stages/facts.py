"""Facts about the machine: the GPU, its driver and clocks, versions of everything."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from machine import processor

from gpu_check.stage import Stage

PACKAGES = (
    "torch", "triton", "numpy", "scipy", "jax", "cupy-cuda13x", "torchvision", "pybind11",
    "POT", "ott-jax", "geomloss", "flash-sinkhorn", "curegot", "pytest",
)  # fmt: skip
QUERY = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,"
    "ecc.mode.current"
)


def main(stage: Stage) -> None:
    """Record them, each kind by itself: one that cannot be had does not hide the others."""
    stage.record(
        python=platform.python_version(),
        system=platform.platform(),
        processors=torch.multiprocessing.cpu_count(),
        packages={name: version for name in PACKAGES if (version := version_of(name))},
    )
    stage.record(tools={name: tool_version(name) for name in ("nvcc", "compute-sanitizer", "ncu")})
    if stage.device == "cuda":
        stage.attempt("gpu", gpu)
        stage.attempt("clocks", lambda: {"nvidia_smi": output(["nvidia-smi", f"--query-gpu={QUERY}",
                                                               "--format=csv"])})  # fmt: skip
    else:
        stage.record(what="gpu", name=f"no GPU: rehearsal on {processor()}")
    stage.attempt("report", lambda: {"lines": output([sys.executable, "-m", "sinkhorn_ot"])})


def gpu() -> dict[str, Any]:
    """Return what torch knows of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "l2_mb": round(properties.L2_cache_size / 1e6, 1),
        "cuda": torch.version.cuda,
        "devices": torch.cuda.device_count(),
    }


def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def tool_version(name: str) -> str | None:
    """Return what a tool says of its version; None where there is none."""
    place = find(name)
    if place is None:
        return None
    lines = [line for line in output([place, "--version"]).splitlines() if "elease" in line]
    return lines[0].strip() if lines else "of unknown version"


def find(tool: str) -> str | None:
    """Return where one of CUDA's tools is: on the PATH, or beside nvcc."""
    nvcc = shutil.which("nvcc")
    places = [Path(nvcc).resolve().parent] if nvcc else []
    places.append(Path("/usr/local/cuda/bin"))
    found = shutil.which(tool)
    return found or next((str(p / tool) for p in places if (p / tool).is_file()), None)


def output(command: list[str]) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return (done.stdout + done.stderr).strip()
