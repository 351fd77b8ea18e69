"""NVIDIA's compiler: where it is, and the PTX that it makes of a source."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path


def find_nvcc() -> str | None:
    """Where setup.py looks, too."""
    places = [os.environ.get("CUDA_HOME", ""), sysconfig.get_path("purelib") + "/nvidia/cu13"]
    wheels = [f"{place}/bin/nvcc" for place in places if Path(place, "bin", "nvcc").is_file()]
    return shutil.which("nvcc") or next(iter(wheels), None)


def compile_ptx(nvcc: str, unit: str, arch: int, folder: Path, sources: Path) -> str:
    """Return the PTX of a .cu source."""
    out = folder / f"{unit}_{arch}.ptx"
    subprocess.run(
        [nvcc, "-O3", "-std=c++17", "-ptx", f"-arch=sm_{arch}", str(sources / f"{unit}.cu"),
         "-o", str(out)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return out.read_text()
