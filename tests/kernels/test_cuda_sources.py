"""The .cu sources under sanitizers: no race, no step out of bounds; and planted ones are found.

cuda_host/driver.cpp runs every kernel and compares with plain loops. Threads are fibers that the
harness switches in several orders; what one does without synchronisation, the thread sanitizer sees
as a race.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from host_programs import SCHEDULES, compile_program, run
from machines import HARNESS, SOURCES
from once import once


def compile_driver(name: str, engine: Path, folder: Path, sources: Path = SOURCES) -> Path:
    """Compile the driver for one sanitizer."""
    target = folder / "driver"
    kernels = ["-DSINKHORN_HOST", f"-I{sources}", HARNESS / "driver.cpp"]
    compile_program(name, engine, target, *kernels)
    return target


@pytest.fixture(scope="session")
def driver(tmp_path_factory, engine) -> Callable[[str], Path]:
    """The driver for a sanitizer."""

    def of(name: str) -> Path:
        folder = once(
            tmp_path_factory,
            f"driver_{name}",
            lambda folder: compile_driver(name, engine(name), folder),
        )
        return folder / "driver"

    return of


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_races(driver, schedule):
    done = run(driver("tsan"), schedule=schedule)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_step_out_of_bounds(driver):
    done = run(driver("asan"))
    assert (done.returncode, done.stderr) == (0, "")


PLANTED = {
    "a missing barrier between the warps of a row": (
        "groups.cuh",
        "if (threadIdx.x % kWarp == 0) board[threadIdx.x / kWarp] = v;\n  __syncthreads();",
        "if (threadIdx.x % kWarp == 0) board[threadIdx.x / kWarp] = v;",
        "tsan", "data race",
    ),
    "a missing barrier before the sums of the groups are added": (
        "read_rows.cuh",
        "    if (groups == 1) return;\n    __syncthreads();\n",
        "    if (groups == 1) return;\n",
        "tsan",
        "data race",
    ),
    "a plain add across the groups of a block": (
        "read_rows.cuh",
        "board[int(threadIdx.x) / held.lanes * width + mine + C::column(j)] = sum[j];",
        "board[mine + C::column(j)] += sum[j];",
        "tsan",
        "data race",
    ),
    "a plain add across blocks": (
        "read_rows.cuh",
        "p.sums + blockIdx.x * (p.k + 1) + chunk",
        "p.sums + chunk",
        "tsan",
        "data race",
    ),
    "a plain flag where an atomic is needed": (
        "columns.cuh", "atomicOr(gate, 1);", "*gate |= 1;", "tsan", "data race",
    ),
    "a row read one entry too far": (
        "rows.cuh", "if (C::column(j) < left)", "if (C::column(j) <= left)",
        "asan", "heap-buffer-overflow",
    ),
    "a kept entry too many": (
        "read_rows.cuh", "at < end; at += held.lanes", "at <= end; at += held.lanes",
        "asan", "heap-buffer-overflow",
    ),
    "a column of the sums too many": (
        "columns.cuh", "  if (c >= padded) return;", "  if (c > padded) return;",
        "asan", "heap-buffer-overflow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_found(what, engine, tmp_path):
    """In copies of the real sources: were they not found, the tests above would say nothing."""
    file, right, wrong, sanitizer, report = PLANTED[what]
    sources = tmp_path / "cuda"
    shutil.copytree(SOURCES, sources)
    text = (sources / file).read_text()
    assert text.count(right) == 1, "the line to change is not there any more"
    (sources / file).write_text(text.replace(right, wrong))
    done = run(compile_driver(sanitizer, engine(sanitizer), tmp_path, sources))
    assert done.returncode != 0
    assert report in done.stderr
