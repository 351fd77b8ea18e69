"""``python -m sinkhorn_ot``: versions, backends and reasons, for pasting into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import sinkhorn_ot
from sinkhorn_ot.backends import cpu


def main() -> None:
    """Print the report."""
    print(f"sinkhorn_ot {sinkhorn_ot.__version__}")
    print(f"python      {platform.python_version()} on {platform.platform()}")
    for package in ("numpy", "torch", "triton"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"{package:<11} {version}")
    print("backends")
    for name, reason in sinkhorn_ot.available_backends().items():
        print(f"  {name:<10} {reason}")
    if cpu.why_not(None) is None:
        forced = os.environ.get("SINKHORN_OT_SIMD")
        try:
            level = cpu.simd_level() + (" (SINKHORN_OT_SIMD)" if forced else "")
        except ValueError as error:
            level = f"unusable: {error}"
        print(f"cpu core    {cpu.threads()} threads, SIMD {level}")


if __name__ == "__main__":
    main()
