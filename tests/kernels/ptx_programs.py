"""Short programs for the PTX interpreter, and the operands that its tests give them."""

import numpy as np
from ptx import Machine, parse

REGISTERS = """
    .reg .pred %p<8>;
    .reg .b16 %h<16>;
    .reg .b32 %r<32>;
    .reg .f32 %f<16>;
    .reg .b64 %rd<32>;
    .reg .f64 %d<16>;
"""


def kernel(body, parameters=1, declarations=""):
    """A kernel whose thread t has %r0 = t, and %rd0.. = the pointer parameters."""
    names = [f".param .u64 p{i}" for i in range(parameters)]
    loads = "".join(f"ld.param.u64 %rd{i}, [p{i}];\n" for i in range(parameters))
    return parse(
        f".version 8.0\n.target sm_80\n.address_size 64\n{declarations}\n"
        f".visible .entry k({', '.join(names)})\n{{{REGISTERS}\nmov.u32 %r0, %tid.x;\n{loads}"
        f"{body}\nret;\n}}\n"
    ).kernel("k")


def run(body, *arrays, block=32, grid=1, shared_bytes=0, declarations=""):
    machine = Machine()
    pointers = [machine.pointer(a) for a in arrays]
    k = kernel(body, len(arrays), declarations)
    machine.launch(k, grid, block, pointers, shared_bytes)
    return machine


def evaluate(instruction, result, *columns):
    """One instruction on columns: its text has {0}, {1}, ... for the operands and {d} for d."""
    columns = [np.ascontiguousarray(c) for c in columns]
    out = np.zeros(len(columns[0]), result)
    body, names = "", []
    for i, a in enumerate([*columns, out]):
        size = a.dtype.itemsize
        prefix = {2: "%h", 4: "%f" if a.dtype.kind == "f" else "%r", 8: "%rd"}[size]
        if a.dtype == np.float64:
            prefix = "%d"
        names.append(f"{prefix}{i + 10}" if prefix == "%rd" else f"{prefix}{i + 2}")
        body += f"mad.wide.u32 %rd{20 + i}, %r0, {size}, %rd{i};\n"
        if a is not out:
            body += f"ld.global.b{8 * size} {names[-1]}, [%rd{20 + i}];\n"
    body += instruction.format(*names[:-1], d=names[-1]) + ";\n"
    body += f"st.global.b{8 * out.itemsize} [%rd{20 + len(columns)}], {names[-1]};"
    run(body, *columns, out, block=len(out))
    return out


def words(rng, n=256, dtype=np.uint32):
    """Random words of all magnitudes, with the extremes."""
    bits = 8 * np.dtype(dtype).itemsize
    unsigned = f"u{bits // 8}"
    x = rng.integers(0, 2**bits, n, unsigned, endpoint=False) >> rng.integers(0, bits, n, unsigned)
    x[:6] = [0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 3]
    return x.view(dtype)


def floats(rng, dtype, n=256, spread=None):
    """Random floats over the range of exponents, with zeros, infinities, NaN and denormals."""
    info = np.finfo(dtype)
    spread = spread or info.maxexp - 2
    x = np.ldexp(rng.normal(size=n), rng.integers(-spread, spread, n)).astype(dtype)
    tiny = float(info.tiny)
    x[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, tiny / 2, -tiny / 4, float(info.max)]
    return rng.permutation(x)
