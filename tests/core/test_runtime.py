"""How it behaves as a guest: threads, bits, floating-point state, forks, imports."""

import gc
import multiprocessing
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import sinkhorn_ot
from sinkhorn_ot import sinkhorn
from sinkhorn_ot.backends import cpu
from sinkhorn_ot.group import GroupKept, GroupPasses


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_same_bits_for_any_number_of_threads(simd, dtype, normal, monkeypatch):
    logits = normal(3001, 57).astype(dtype)
    results = []
    for threads in (1, 2, 2, 3):
        monkeypatch.setattr(cpu, "threads", lambda threads=threads: threads)
        results.append(sinkhorn(logits, tol=1e-6))
    for other in results[1:]:
        assert other.g.tobytes() == results[0].g.tobytes()
        assert other.f.tobytes() == results[0].f.tobytes()
        assert other.labels.tobytes() == results[0].labels.tobytes()
        assert other.marginal_violation == results[0].marginal_violation


def test_denormals_are_back_after_a_solve(normal):
    """Flush-to-zero ends with the call."""
    sinkhorn(normal(3000, 50))
    tiny = np.float32(1e-30) * np.full(4, 1e-10, np.float32)
    assert (tiny > 0).all()


def test_numpy_alone_is_enough():
    """Neither import nor a solve pulls in torch or triton, and nothing is printed."""
    out = run(
        """
        import sys
        import numpy as np
        import sinkhorn_ot
        labels = sinkhorn_ot.equipartition_labels(np.eye(4))
        assert labels.tolist() == [0, 1, 2, 3]
        heavy = {"torch", "triton", "scipy", "sklearn", "selfsup"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    assert out == ""


def test_threads_follow_the_environment_and_torch():
    code = """
        {before}
        from sinkhorn_ot.backends import cpu
        print(cpu.threads())
        """
    assert run(code.format(before=""), OMP_NUM_THREADS="3") == "3\n"
    assert run(code.format(before="import torch; torch.set_num_threads(1)")) == "1\n"


def _solve_in_child(queue) -> None:
    queue.put(sinkhorn(np.eye(300, dtype=np.float32)).labels)


def test_forked_child_answers(normal):
    """OpenMP's threads do not survive a fork; the child must not wait for them."""
    sinkhorn(normal(3000, 50))  # starts the pool in the parent
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_solve_in_child, args=(queue,))
    child.start()
    labels = queue.get(timeout=60)
    child.join()
    np.testing.assert_array_equal(labels, np.arange(300))


def test_forced_level_must_exist(normal, monkeypatch):
    monkeypatch.setenv("SINKHORN_OT_SIMD", "mmx")
    with pytest.raises(ValueError, match=r"SINKHORN_OT_SIMD='mmx' is not one of .*plain"):
        sinkhorn(normal(5, 2))


def test_without_the_compiled_core_the_reference_runs_and_says_so():
    """Installed without a compiler: one clear warning, the right labels, an honest report."""
    run(
        """
        import sys, warnings
        sys.modules["sinkhorn_ot._cpu"] = None  # what a failed build leaves behind
        import numpy as np
        import sinkhorn_ot
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                result = sinkhorn_ot.sinkhorn(np.eye(4))
        assert result.backend == "reference"
        assert result.labels.tolist() == [0, 1, 2, 3]
        assert len(caught) == 1, caught
        assert caught[0].filename == "<string>"  # it points at the caller
        assert "install a C++17 compiler" in str(caught[0].message)
        assert "compiled core is missing" in sinkhorn_ot.available_backends()["cpu"]
        try:
            sinkhorn_ot.sinkhorn(np.eye(4), backend="cpu")
        except ValueError as error:
            assert "'cpu' cannot run here" in str(error)
        else:
            raise AssertionError("a named backend must run or raise")
        """
    )


def test_available_backends():
    assert list(sinkhorn_ot.available_backends()) == ["cuda", "triton", "cpu", "reference"]
    for found in (sinkhorn_ot.available_backends(), sinkhorn_ot.available_backends(np.eye(2))):
        assert found["cpu"] == found["reference"] == "ok"
    # why it cannot read these logits, or why it cannot read any
    assert re.search("CUDA tensor|not installed", found["triton"])
    assert found["cuda"] != "ok"


def test_report_for_bug_reports():
    done = subprocess.run(
        [sys.executable, "-m", "sinkhorn_ot"], capture_output=True, text=True, check=True
    )
    assert f"sinkhorn_ot {sinkhorn_ot.__version__}" in done.stdout
    assert f"numpy       {np.__version__}" in done.stdout
    assert "cpu        ok" in done.stdout


def test_report_survives_a_wrong_setting():
    done = subprocess.run(
        [sys.executable, "-m", "sinkhorn_ot"],
        env={**os.environ, "SINKHORN_OT_SIMD": "mmx"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "unusable: SINKHORN_OT_SIMD='mmx'" in done.stdout


def test_nothing_that_is_kept_outlives_a_call(normal):
    """Without the garbage collector too: no cycle holds it."""
    gc.collect()
    gc.disable()
    try:
        for epsilon in (0.5, 1e-4):  # the latter by way of larger ones
            sinkhorn(normal(3000, 50), epsilon=epsilon)
        alive = [x for x in gc.get_objects() if type(x) in (GroupKept, GroupPasses)]
    finally:
        gc.enable()
    assert not alive


def test_a_shard_without_a_row_of_the_sample_reads_nothing():
    """Beyond its last row lies memory that must not be touched: a process of its own would end."""
    run(
        """
        import ctypes, mmap
        import numpy as np
        from sinkhorn_ot.backends.cpu import CpuPasses
        from sinkhorn_ot.passes import Problem
        page = mmap.PAGESIZE
        memory, beyond = mmap.mmap(-1, 1002 * page), 1000 * page
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        guard = ctypes.c_void_p(address + 2 * page)
        assert ctypes.CDLL(None).mprotect(guard, ctypes.c_size_t(beyond), 0) == 0
        rows = page // 64
        logits = np.frombuffer(memory, np.float32, rows * 16, page).reshape(rows, 16)
        b = np.full(16, 1 / 16)
        passes = CpuPasses(Problem(logits, None, b, 1.0, total=1_000_000, first=10_001))
        assert passes.read(np.zeros(16)).weight == rows
        assert passes.read(np.zeros(16), stride=25_000).weight == 0
        """
    )
