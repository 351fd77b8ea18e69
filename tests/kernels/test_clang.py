"""clang compiles the SIMD levels of the CPU core too, and they give the reference's numbers.

clang comes from the ziglang package, which has no OpenMP: the rest of the module is g++'s.
"""

import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pybind11
import pytest

from sinkhorn_ot import _cpu

CORE = Path("csrc/cpu")
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fno-math-errno", "-fno-trapping-math", f"-I{CORE}"]
CHECK = """
    import importlib.util, sys
    import ml_dtypes, numpy as np

    spec = importlib.util.spec_from_file_location("sinkhorn_ot._cpu", sys.argv[1])
    sys.modules["sinkhorn_ot._cpu"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from sinkhorn_ot import sinkhorn
    from sinkhorn_ot.backends import cpu
    assert cpu._cpu is module

    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        for n, k in ((300, 33), (2000, 70)):
            logits = np.random.default_rng(k).normal(size=(n, k)).astype(dtype)
            ours = sinkhorn(logits, epsilon=0.5, tol=1e-6, backend="cpu")
            truth = sinkhorn(logits, epsilon=0.5, tol=1e-9, backend="reference")
            assert ours.converged
            np.testing.assert_allclose(ours.g, truth.g, atol=1e-4)
            shifted = logits.astype(np.float64) + ours.g
            np.testing.assert_array_equal(ours.labels, shifted.argmax(1))
    print(cpu.simd_level())
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clang")
    clang = [sys.executable, "-m", "ziglang", "c++", "-target", "x86_64-linux-gnu"]
    python = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    objects = []
    for source in sorted(CORE.glob("*.cpp")):
        compiler = clang if source.stem.startswith("level_") else ["g++", "-fopenmp", *python]
        objects.append(str(folder / f"{source.stem}.o"))
        run([*compiler, *FLAGS, "-Wall", "-Werror", "-c", str(source), "-o", objects[-1]])
    target = folder / "_cpu.so"
    run(["g++", "-shared", "-fopenmp", *objects, "-o", str(target)])
    return target


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("level", ["avx512", "avx2", "plain"])
def test_kernels_of_clang_give_the_reference_s_numbers(module, level, monkeypatch):
    if level not in _cpu.simd_levels():
        pytest.skip(f"this processor has no {level}: its kernels cannot run here")
    monkeypatch.setenv("SINKHORN_OT_SIMD", level)
    assert run([sys.executable, "-c", textwrap.dedent(CHECK), str(module)]) == f"{level}\n"
