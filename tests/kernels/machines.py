"""The machines that can run the GPU kernels, the real one and those that stand in for it.

host         the .cu sources, compiled by g++ and run by tests/kernels/cuda_host
interpreter  the Triton kernels, run by Triton's interpreter (only with TRITON_INTERPRET=1)
cuda, triton what a user gets on a GPU

SINKHORN_OT_MACHINES names those that a run of pytest is to use; by default it is host.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pybind11

from sinkhorn_ot.backends import BACKENDS
from sinkhorn_ot.backends.gpu.cuda import CudaKernels
from sinkhorn_ot.backends.gpu.minibatch import DeviceMinibatch
from sinkhorn_ot.backends.gpu.passes import DevicePasses, needs_of
from sinkhorn_ot.passes import Backend

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc" / "cuda"
HARNESS = HERE / "cuda_host"
#: What `build_module` makes.
LIBRARY = "_cuda_host.so"
#: Environment variable that says where such a build is, so that it is not made again.
BUILT = "SINKHORN_OT_HOST_LIBRARY"
UNITS = ("rows_f64", "rows_f32", "rows_f16", "rows_bf16", "passes", "minibatch")

#: Compiles a host build of a .cu source; the engine and the bindings are plain C++.
COMPILE = ("g++", "-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DSINKHORN_HOST")


@dataclass(frozen=True)
class Machine:
    """Where the kernels run, and on tensors of which device."""

    backend: Backend
    device: str


def machine(name: str, library: Callable[[], Path]) -> Machine:
    """Return a machine by name; `library` tells where the build for the host is."""
    if name == "host":
        return host_of(CudaKernels(load(library())))
    (backend,) = (one for one in BACKENDS if one.name == name.replace("interpreter", "triton"))
    return Machine(backend, "cpu" if name == "interpreter" else "cuda")


def host_of(kernels: CudaKernels) -> Machine:
    """Return the machine of kernels that run on this host."""
    backend = Backend(
        "host",
        (),
        lambda place: None,
        lambda problem: DevicePasses(problem, kernels),
        lambda logits, n: needs_of(logits, n, kernels),
        counts_first=True,
        minibatch=lambda scores, epsilon, n_valid: DeviceMinibatch(
            scores, epsilon, n_valid, kernels
        ),
    )
    return Machine(backend, "cpu")


def build_module(folder: Path, sources: Path, flags: Iterable[str] = ("-O2",)) -> Path:
    """Compile the CUDA extension for the host; return where it is in the folder."""
    include = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('include'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    common = (*COMPILE, *flags, "-fPIC", f"-I{sources}", f"-I{HARNESS}")
    bindings = (f"-I{include}", f"-I{pybind11.get_include()}", "-DSINKHORN_MODULE=_cuda_host",
                "-fvisibility=hidden")  # fmt: skip
    commands = [
        [*common, "-x", "c++", "-c", str(sources / f"{unit}.cu"), "-o", str(folder / f"{unit}.o")]
        for unit in UNITS
    ]
    commands.append([*common, *bindings, "-c", str(sources / "bind.cpp"),
                     "-o", str(folder / "bind.o")])  # fmt: skip
    commands.append([*common, "-c", str(HARNESS / "engine.cpp"), "-o", str(folder / "engine.o")])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, commands))
    target = folder / LIBRARY
    compile_one(["g++", "-shared", *flags, *map(str, folder.glob("*.o")), "-o", str(target)])
    return target


def compile_one(command: list[str]) -> None:
    """Run a compiler; what it complains of is in the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def load(path: Path) -> ModuleType:
    """Import an extension module from where it was built."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
