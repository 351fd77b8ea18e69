"""The .cu sources under sanitizers: no race, no step out of bounds; and planted ones are found.

tests/kernels/cuda_host/driver.cpp runs every kernel and compares with plain loops. Threads are fibers that
the harness switches in several orders; what one does without synchronisation, the thread sanitizer
sees as a race.
"""

import shutil
from pathlib import Path

import pytest
from machines import HARNESS, SOURCES, compile_one
from test_cuda_host import BUILDS, SCHEDULES, run


def build(name: str, folder: Path, sources: Path = SOURCES) -> Path:
    """Compile the driver, and the engine it needs, for one sanitizer."""
    kernel_flags, engine_flags = BUILDS[name]
    common = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", f"-I{HARNESS}"]
    engine, program = folder / f"{name}_engine.o", folder / f"{name}_driver"
    if not engine.exists():
        compile_one([*common, *engine_flags, "-c", str(HARNESS / "engine.cpp"), "-o", str(engine)])
    compile_one(
        [*common, *kernel_flags, "-DSINKHORN_HOST", f"-I{sources}", str(HARNESS / "driver.cpp"),
         str(engine), "-o", str(program)]
    )  # fmt: skip
    return program


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda_sources")


@pytest.fixture(scope="module")
def tsan(folder):
    return build("tsan", folder)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_races(tsan, schedule):
    done = run(tsan, "", schedule)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_step_out_of_bounds(folder):
    done = run(build("asan", folder), "")
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
    "an entry of a sketch too many": (
        "read_rows.cuh", "at < end; at += held.lanes", "at <= end; at += held.lanes",
        "asan", "heap-buffer-overflow",
    ),
    "a column of the sums too many": (
        "columns.cuh", "  if (c >= padded) return;", "  if (c > padded) return;",
        "asan", "heap-buffer-overflow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_found(what, folder, tmp_path):
    """In copies of the real sources: were they not found, the tests above would say nothing."""
    file, right, wrong, sanitizer, report = PLANTED[what]
    sources = tmp_path / "cuda"
    shutil.copytree(SOURCES, sources)
    text = (sources / file).read_text()
    assert text.count(right) == 1, "the line to change is not there any more"
    (sources / file).write_text(text.replace(right, wrong))
    for name in ("tsan_engine.o", "asan_engine.o"):
        if (folder / name).exists():
            shutil.copy(folder / name, tmp_path / name)
    done = run(build(sanitizer, tmp_path, sources), "")
    assert done.returncode != 0
    assert report in done.stderr
