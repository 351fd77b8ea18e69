"""The PTX interpreter on kernels that nvcc and Triton compile."""

import json
import math
import os
import subprocess
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx import Machine, parse

CUDA = r"""
#include <cuda_bf16.h>
__constant__ float scale[2] = {2.0f, 0.5f};
__device__ int order[4] = {3, 1, 0, 2};

// For each row: log sum exp2, by one block; the masses of the columns by atomics.
template <typename T>
__global__ void rows(const T* x, float* lse, float* mass, int n, int k) {
    extern __shared__ float part[];
    int row = blockIdx.y * gridDim.x + blockIdx.x;
    if (row >= n) return;
    float sum = 0;
    for (int j = threadIdx.x; j < k; j += blockDim.x) {
        float e = exp2f(float(x[row * (long long)k + j]) * scale[0] * scale[1]);
        sum += e;
        atomicAdd(mass + j, e);
    }
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
#ifndef PLANT_MISSING_BARRIER
    __syncthreads();
#endif
    if (threadIdx.x == 0) {
        float total = 0;
        for (int w = 0; w < blockDim.x / 32; w++) total += part[w];
        lse[row] = log2f(total);
    }
}
template __global__ void rows<float>(const float*, float*, float*, int, int);
template __global__ void rows<__nv_bfloat16>(const __nv_bfloat16*, float*, float*, int, int);

extern "C" __global__ void doubles(double* x, const double* y, const long long* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = exp(x[i]) / y[i] + log(y[i]) + double(z[i] / 7 + z[i] % 1000003);
}

extern "C" __global__ void branches(int* x, int n) {
    __shared__ int table[4];
    int local[8];
    if (threadIdx.x < 4) table[threadIdx.x] = order[threadIdx.x];
    __syncthreads();
    int i = threadIdx.x;
    if (i >= n) return;
    for (int j = 0; j < 8; j++) local[(j * 3 + i) & 7] = j * i;
    int sum = 0;
    switch (x[i]) {
        case 0: sum = 5; break;
        case 1: for (int j = 0; j < i; j++) sum += table[j & 3]; break;
        case 2: sum = -i; break;
        case 3: sum = __popc(i) + __ffs(i); break;
        default: sum = i % 3;
    }
    x[i] = sum + local[x[i] & 7];
}
"""


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compile_cuda(request, nvcc, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")

    def compile_with(*options):
        source, ptx = folder / "k.cu", folder / f"k{len(options)}.ptx"
        if not ptx.exists():
            source.write_text(CUDA)
            command = [nvcc, "-std=c++17", "-O3", "-ptx", f"-arch={request.param}", *options]
            subprocess.run([*command, str(source), "-o", str(ptx)], check=True)
        return parse(ptx.read_text())

    return compile_with


@pytest.mark.parametrize("dtype", ["f4", ml_dtypes.bfloat16], ids=["f32", "bf16"])
def test_cuda_rows(compile_cuda, dtype, rng):
    module = compile_cuda()
    x = rng.normal(size=(7, 150)).astype(dtype)
    lse, mass = np.zeros(7, "f4"), np.zeros(150, "f4")
    machine = Machine()
    pointers = [machine.pointer(a) for a in (x, lse, mass)]
    name = "rowsIf" if dtype == "f4" else "rowsI.*bfloat16"
    machine.launch(module.kernel(name), (4, 2), 64, [*pointers, 7, 150], shared_bytes=8)
    e = np.exp2(x.astype("f8"))
    np.testing.assert_allclose(lse, np.log2(e.sum(1)), rtol=1e-6)
    np.testing.assert_allclose(mass, e.sum(0), rtol=1e-6)
    assert machine.traffic[pointers[0]].bytes_read == x.nbytes
    assert sum(n for name, n in machine.lanes.items() if name.startswith("ex2")) == x.size
    assert not machine.races


def test_cuda_missing_barrier_is_found(compile_cuda, rng):
    module = compile_cuda("-DPLANT_MISSING_BARRIER")
    machine = Machine()
    arrays = (rng.normal(size=(1, 50)).astype("f4"), np.zeros(1, "f4"), np.zeros(50, "f4"))
    pointers = [machine.pointer(a) for a in arrays]
    machine.launch(module.kernel("rowsIf"), 1, 64, [*pointers, 1, 50], shared_bytes=8)
    assert any("shared race" in race and "ld.shared" in race for race in machine.races)


def test_cuda_float64(compile_cuda, rng):
    x, y = rng.normal(size=100) * 20, np.abs(rng.normal(size=100)) + 0.1
    z = rng.integers(-(2**60), 2**60, 100)
    quotient = np.array([int(Fraction(int(v), 7)) for v in z])
    remainder = np.array([int(math.copysign(abs(int(v)) % 1000003, v)) for v in z])
    expected = np.exp(x) / y + np.log(y) + (quotient + remainder).astype("f8")
    machine = Machine()
    pointers = [machine.pointer(a) for a in (x, y, z)]
    machine.launch(compile_cuda().kernel("doubles"), 2, 64, [*pointers, 100])
    np.testing.assert_allclose(x, expected, rtol=4e-16)


def test_cuda_branches_local_and_static_memory(compile_cuda):
    x = (np.arange(60) % 6).astype("i4")
    order = [3, 1, 0, 2]
    expected = []
    for i, v in enumerate(x.tolist()):
        local = {(j * 3 + i) & 7: j * i for j in range(8)}
        ffs = (i & -i).bit_length()
        steps = sum(order[j & 3] for j in range(i))
        cases = {0: 5, 1: steps, 2: -i, 3: i.bit_count() + ffs}
        expected.append(cases.get(v, i % 3) + local[v & 7])
    machine = Machine()
    machine.launch(compile_cuda().kernel("branches"), 1, 64, [machine.pointer(x), 60])
    np.testing.assert_array_equal(x, expected)
    assert not machine.races


TRITON = """
import json, sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def rows(x, prefix, total, largest, where, k, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < k
    logits = tl.load(x + row * k + column, mask=inside, other=-float("inf"))
    top = tl.max(logits, 0)
    e = tl.exp2(logits - top)
    tl.store(prefix + row * k + column, tl.cumsum(e.to(tl.float64), 0), mask=inside)
    tl.store(total + row, tl.sum(e, 0))
    tl.store(largest + row, top)
    tl.store(where + row, tl.argmax(logits, 0))


signature = dict(x="*fp32", prefix="*fp64", total="*fp32", largest="*fp32", where="*i32", k="i32",
                 BLOCK="constexpr")
out = []
for capability in (80, 90):
    source = ASTSource(fn=rows, signature=signature, constexprs=dict(BLOCK=256))
    k = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    out.append((k.asm["ptx"], k.metadata.shared))
print(json.dumps(out))
"""


def test_triton_kernel(tmp_path, rng):
    script = tmp_path / "rows_kernel.py"
    script.write_text(TRITON)
    env = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    out = subprocess.run([sys.executable, script], env=env, check=True, capture_output=True)
    for ptx, shared_bytes in json.loads(out.stdout):
        x = rng.normal(size=(5, 200)).astype("f4")
        prefix, where = np.zeros_like(x, "f8"), np.zeros(5, "i4")
        total, largest = np.zeros(5, "f4"), np.zeros(5, "f4")
        machine = Machine()
        kernel = parse(ptx).kernel("rows")
        pointers = [machine.pointer(a) for a in (x, prefix, total, largest, where)]
        scratch = [0] * (len(kernel.parameters) - 6)  # pointers that Triton adds
        machine.launch(kernel, 5, 128, [*pointers, 200, *scratch], shared_bytes)
        e = np.exp2(x - x.max(1, keepdims=True)).astype("f8")
        np.testing.assert_allclose(prefix, np.cumsum(e, 1), rtol=3e-7)
        np.testing.assert_allclose(total, e.sum(1), rtol=3e-7)
        np.testing.assert_array_equal(largest, x.max(1))
        np.testing.assert_array_equal(where, x.argmax(1))
        assert machine.traffic[pointers[0]].bytes_read == x.nbytes
        assert not machine.races
