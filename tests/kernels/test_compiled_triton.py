"""The Triton kernels, compiled ahead of time for NVIDIA and AMD: no GPU is asked.

What is compiled is what would be launched: `variants` records it from the passes themselves.
"""

import re
import shutil

import gpu_code
import pytest
import torch
import triton
from ptx_machine import compile_variant
from triton.backends.compiler import GPUTarget
from triton_variants import variants

from sinkhorn_ot.backends.gpu.triton import release

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# Triton 3.2 knows no compute capability 10.0, and `why_not` says so (test_triton_versions.py)
ARCHS = (80, 90) if release(triton.__version__) < (3, 3) else (80, 90, 100)
NVIDIA = {arch: GPUTarget("cuda", arch, 32) for arch in ARCHS}
AMD = GPUTarget("hip", "gfx942", 64)
K = 1000


def is_minibatch(variant):
    """Whether it goes over the rows of a minibatch: that must not spill either."""
    return variant.name in ("minibatch_rows", "minibatch_columns")


def is_plain(variant):
    """Whether it is the read that a solve is made of: float32 masses and nothing else."""
    wanted = variant.constants
    return (
        variant.name == "read_rows"
        and wanted["MODE"] == "whole"
        and not (
            wanted["EXACT"] or variant.signature["labels"] != "constexpr" or "entries" not in wanted
        )
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arch", NVIDIA)
def test_nvidia(arch, dtype):
    """No spills where a solve spends its time, hardly any elsewhere; loads of 16 bytes."""
    seen = 0
    for variant in variants(K, dtype):
        compiled = compile_variant(variant, NVIDIA[arch])
        reads = variant.name == "read_rows" or is_minibatch(variant)
        code = gpu_code.of_cubin(compiled.asm["cubin"], arch, loads=reads)
        # ptxas chooses a number of registers, and now and then gives up a few bytes for it
        never = is_plain(variant) or is_minibatch(variant)
        assert code.stack <= (0 if never else 64), variant.name
        if reads:
            assert code.loads["128"] > 0, variant.constants
        if is_plain(variant):
            seen += 1
            threads = 32 * variant.warps
            busy = gpu_code.occupancy(arch, code, threads, compiled.metadata.shared)
            assert busy >= 0.25  # docs/gpu_kernels.md says why that is enough
    assert seen == (dtype != torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_amd(dtype, monkeypatch):
    # Triton before 3.5 has no linker of its own; it is not needed for the assembly
    monkeypatch.setenv("TRITON_HIP_LLD_PATH", shutil.which("true"))
    for variant in variants(K, dtype):
        assembly = compile_variant(variant, AMD).asm["amdgcn"]
        spills = re.findall(r"\.vgpr_spill_count:\s+(\d+)", assembly)
        assert spills == ["0"], variant.name
        if is_plain(variant):
            assert "global_load_dwordx4" in assembly


@pytest.mark.parametrize(
    ("k", "aligned", "weighted"), [(7, False, True), (999, False, False), (9001, False, True)]
)
def test_other_shapes(k, aligned, weighted):
    """Short rows, rows that no vector fits, rows in chunks; rows with masses of their own."""
    for variant in variants(k, torch.float32, aligned=aligned, weighted=weighted):
        compiled = compile_variant(variant, NVIDIA[90])
        assert gpu_code.of_cubin(compiled.asm["cubin"], 90).stack <= 64, variant.name
