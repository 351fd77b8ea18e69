"""What a benchmark ran on: the processor, and versions of packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """Return the name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(*packages: str) -> dict[str, str | None]:
    """Return the versions of Python and of packages; None for one that is not installed."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def machine() -> str:
    """Return the processor, its vectors and cores."""
    from sinkhorn_ot.backends.cpu import simd_level  # gpu_check asks for the rest before it builds

    return f"{processor()} with {simd_level()}, {len(os.sched_getaffinity(0))} cores"


def told(*packages: str) -> str:
    """Return these versions in words."""
    return ", ".join(f"{name} {number or '-'}" for name, number in versions(*packages).items())
