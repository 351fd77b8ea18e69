"""``python -m sinkhorn_ot``: versions, backends and reasons, for pasting into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from sinkhorn_ot.api import available_backends
from sinkhorn_ot.backends import cpu


def main() -> None:
    """Print the report."""
    print(f"sinkhorn_ot {importlib.metadata.version('sinkhorn_ot')}")
    print(f"python      {platform.python_version()} on {platform.platform()}")
    for package in ("numpy", "torch", "triton"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"{package:<11} {version}")
    print("backends")
    for name, reason in available_backends().items():
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
