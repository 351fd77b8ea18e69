"""Programs of tests/kernels/cuda_host: kernels and the engine that runs them, under sanitizers."""

import os
import platform
import subprocess
from pathlib import Path

from machines import HARNESS, compile_one

CXX = os.environ.get("CXX", "g++")
SCHEDULES = ["random", "first-warp", "last-warp"]

# TSan needs the engine without -fsanitize=thread: flags for the kernels, and for the engine.
BUILDS = {
    "plain": (["-O2"], ["-O2"]),
    "tsan": (["-O1", "-g", "-fsanitize=thread"], ["-O2", "-DSINKHORN_HOST_TSAN"]),
    "asan": (["-O1", "-g", "-fsanitize=address"], ["-O1", "-g", "-fsanitize=address"]),
}


def compile_cpp(*arguments: str | Path) -> None:
    """Compile without a warning; pragmas are those of nvcc."""
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    compile_one([CXX, "-std=c++17", *warnings, f"-I{HARNESS}", *map(str, arguments)])


def compile_engine(name: str, folder: Path) -> None:
    """Compile the engine for one of BUILDS."""
    compile_cpp(*BUILDS[name][1], "-c", HARNESS / "engine.cpp", "-o", folder / "engine.o")


def compile_program(name: str, engine: Path, target: Path, *arguments: str | Path) -> None:
    """Compile a program for one of BUILDS, and link it with the engine in a folder."""
    compile_cpp(*BUILDS[name][0], *arguments, engine / "engine.o", "-o", target)


def run(
    program: Path, *arguments: str, schedule: str = "random", seed: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run a program under a schedule of its threads."""
    environment = {
        **os.environ,
        "SINKHORN_HOST_SCHEDULE": schedule,
        "SINKHORN_HOST_SEED": str(seed),
        "TSAN_OPTIONS": "history_size=7 halt_on_error=1",
    }

    def attempt(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    done = attempt(program, *arguments)
    if "unexpected memory mapping" in done.stderr:  # TSan, where addresses are very random
        done = attempt("setarch", platform.machine(), "-R", program, *arguments)
    return done
