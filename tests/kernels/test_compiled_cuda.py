"""The compiled CUDA extension: it loads anywhere, and its kernels are what they are meant to be."""

import re
import subprocess
from pathlib import Path

import gpu_code
import numpy as np
import pytest

import sinkhorn_ot
from sinkhorn_ot.backends import cuda

SIZES = {"d": 8, "f": 4, "6__half": 2, "13__nv_bfloat16": 2}
READ_ROWS = re.compile(
    r"read_rows_kernelI(?P<type>d|f|6__half|13__nv_bfloat16)(?P<sums>d|f)NS0_3CutILi(?P<span>\d+)"
    r"ELi(?P<per>\d+)ELi(?P<vector>\d+)EEELNS0_4ModeE(?P<mode>\d)ELb(?P<full>\d)E"
)


@pytest.fixture(scope="module")
def library():
    module = cuda._cuda
    assert module is not None, cuda.why_not(None)
    return Path(module.__file__)


@pytest.fixture(scope="module", params=[80, 90, 100])
def kernels(request, library):
    return request.param, gpu_code.of_library(library, request.param, loads=True)


def test_it_loads_without_a_driver(library):
    """Nothing of CUDA is linked dynamically: the runtime is inside."""
    needed = subprocess.run(["ldd", library], check=True, capture_output=True, text=True).stdout
    assert "cuda" not in needed.replace(str(library), "")


@pytest.mark.skipif(cuda._cuda is not None and not cuda._cuda.why_not(), reason="there is a GPU")
def test_without_a_gpu_the_first_use_says_what_is_missing():
    reason = sinkhorn_ot.available_backends()["cuda"]
    assert re.search("driver|GPU", reason)
    with pytest.raises(ValueError, match=f"backend 'cuda' cannot run here: {reason}"):
        sinkhorn_ot.sinkhorn(np.eye(3), backend="cuda")


def test_no_kernel_spills(kernels):
    _, codes = kernels
    assert len(codes) > 130  # of which the next test looks at those that read rows
    assert {name: code.stack for name, code in codes.items() if code.stack} == {}


def test_kernels_leave_room_for_others(kernels):
    """Half of the warps, or for reasons that docs/gpu_kernels.md gives a quarter."""
    arch, codes = kernels
    for name, code in codes.items():
        read = READ_ROWS.search(name)
        lean = read and read["full"] == "0" and read["mode"] != "3" and read["sums"] == "f"
        least = 0.25 if read and not (lean and read["per"] == "8") else 0.5
        threads = 128 if read else 256
        shared = 512 + threads * int(read["per"]) * (4 if read["sums"] == "f" else 8) if read else 0
        assert gpu_code.occupancy(arch, code, threads, shared) >= least, name


def test_aligned_rows_are_read_16_bytes_at_a_time(kernels):
    _, codes = kernels
    seen = 0
    for name, code in codes.items():
        read = READ_ROWS.search(name)
        if read and int(read["vector"]) > 1:
            seen += 1
            vectors = int(read["per"]) * SIZES[read["type"]] // 16
            assert code.loads["128"] >= vectors, name
    assert seen > 50
