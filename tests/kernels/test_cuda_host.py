"""The harness that runs CUDA kernels on the CPU computes right, and sees what is wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from host_programs import SCHEDULES, compile_program, run
from machines import HARNESS
from once import once


def selftest(name: str, factory: pytest.TempPathFactory, engine: Callable[[str], Path]) -> Path:
    def build(folder: Path) -> None:
        compile_program(name, engine(name), folder / "selftest", HARNESS / "selftest.cpp")

    return once(factory, f"selftest_{name}", build) / "selftest"


@pytest.fixture(scope="session")
def plain(tmp_path_factory, engine) -> Path:
    return selftest("plain", tmp_path_factory, engine)


@pytest.fixture(scope="session")
def tsan(tmp_path_factory, engine) -> Path:
    return selftest("tsan", tmp_path_factory, engine)


@pytest.fixture(scope="session")
def asan(tmp_path_factory, engine) -> Path:
    return selftest("asan", tmp_path_factory, engine)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "case",
    ["shuffles", "votes", "masks", "sums", "large-blocks", "early-return", "atomics", "vectors"],
)
def test_kernels_compute_what_they_do_on_a_device(plain, case, schedule):
    """Else a right kernel would fail, or a wrong one pass, for the harness's sake."""
    done = run(plain, case, schedule=schedule)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", ["half-types", "bit-functions"])
def test_arithmetic_of_the_header(plain, case):
    """All bit patterns of the 2-byte types, and the corner cases of the bit functions."""
    done = run(plain, case)
    assert (done.returncode, done.stderr) == (0, "")


def test_unwritten_shared_memory_is_nan(plain):
    """Else a kernel that forgets to clear its shared memory would find zeros there, and pass."""
    done = run(plain, "unwritten")
    assert (done.returncode, done.stderr) == (0, "")


def order(program: Path, schedule: str, seed: int) -> tuple[list[int], list[int]]:
    """The blocks in the order they ran, and the thread that began each."""
    lines = run(program, "order", schedule=schedule, seed=seed).stdout.splitlines()
    pairs = [tuple(map(int, line.split())) for line in lines]
    assert sorted(block for block, _ in pairs) == list(range(16))
    return [block for block, _ in pairs], [thread for _, thread in pairs]


def test_schedules_decide_who_runs_first(plain):
    """Each schedule shows other faults: they must differ, and a seed must give the same again."""
    assert all(thread < 32 for thread in order(plain, "first-warp", 1)[1])
    assert all(thread >= 96 for thread in order(plain, "last-warp", 1)[1])
    blocks, threads = order(plain, "random", 1)
    assert len({thread // 32 for thread in threads}) == 4
    assert blocks != sorted(blocks)
    assert order(plain, "random", 1) == (blocks, threads)
    assert order(plain, "random", 2) != (blocks, threads)


def test_unknown_schedule_is_refused(plain):
    """A misspelt schedule would test less than it says."""
    done = run(plain, "sums", schedule="first_warp")
    assert done.returncode == 1
    assert "SINKHORN_HOST_SCHEDULE is 'first_warp'" in done.stderr


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("divergent", r"block \(0,0,0\) cannot go on: .*16 wait at {here}: __syncthreads, 16 wait"),
        ("two-barriers", r"{here}: __syncthreads: .* is not where others wait, {here}"),
        ("gone-lane", r"{here}: __shfl_xor_sync .* have returned|have returned, .*{here}: __shfl"),
        ("absent-lane", r"{here}: __syncwarp .* never were: 0xffffff00"),
        ("not-in-mask", r"{here}: __syncwarp .* is not in the mask"),
        ("source-not-in-mask", r"{here}: __shfl_sync with mask 0x0000ffff: .* reads lane 20"),
        ("mixed", r"{here}: __(any|ballot)_sync .* meets lanes that call __(any|ballot)_sync"),
        ("width", r"{here}: __shfl_down_sync .* a width of 12"),
        ("no-threads", r"a block of \(0,1,1\) threads"),
        ("many-threads", r"a block of \(1025,1,1\) threads"),
        ("tall-grid", r"a grid of \(1,65536,1\) blocks"),
        ("much-shared", r"1048576 bytes of shared memory"),
    ],
)
def test_misuse_is_a_clear_error(plain, case, message, schedule):
    """What is undefined or hangs on a device must neither pass nor hang here, and say where."""
    done = run(plain, case, schedule=schedule)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(message.replace("{here}", r"\S*selftest\.cpp:\d+"), done.stdout), done.stdout


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("case", ["sums", "votes", "masks", "atomics"])
def test_right_kernels_have_no_races(tsan, case, schedule):
    """Barriers, warp functions and atomics must order what they do on a device: no false alarm."""
    done = run(tsan, case, schedule=schedule)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "case",
    [
        "no-barrier",
        "no-atomic",
        "no-atomic-across-blocks",
        "one-writer",  # in every block: these threads are not one, and no barrier orders them
        "late-thread",  # a barrier must not order what comes after it
        "late-lane",
    ],
)
def test_races_are_reported(tsan, case, schedule):
    """The planted faults that give right results in most runs, here as on a device."""
    done = run(tsan, case, schedule=schedule)
    assert done.returncode == 66
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert "selftest.cpp:" in done.stderr


@pytest.mark.parametrize("case", ["divergent", "gone-lane"])
def test_an_error_is_not_also_a_race(tsan, case):
    """A launch that fails leaves threads behind; TSan must be told that they are done."""
    done = run(tsan, case)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", ["shuffles", "sums", "large-blocks", "access", "gone-lane"])
def test_right_kernels_have_no_memory_errors(asan, case):
    """Switching stacks, also after a launch that failed, must not confuse ASan: no false alarm."""
    done = run(asan, case)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", ["past-global", "past-shared"])
def test_overruns_are_reported(asan, case):
    """One element past the end of a global, and of the dynamic shared array."""
    done = run(asan, case)
    assert done.returncode == 1
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "access_kernel" in done.stderr
