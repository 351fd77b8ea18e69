"""The PTX interpreter: its arithmetic against exact arithmetic, and the mistakes it must find."""

import json
import math
import os
import subprocess
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx import Machine, PtxError, parse

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


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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


def nearest(exact: Fraction, precision: int, smallest: int) -> float:
    """A fraction rounded to nearest even, with the given bits and exponent of the last denormal."""
    if exact == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(exact.numerator)) - math.log2(exact.denominator))
    exponent += (abs(exact) >= Fraction(2) ** (exponent + 1)) - (
        abs(exact) < Fraction(2) ** exponent
    )
    unit = Fraction(2) ** max(exponent + 1 - precision, smallest)
    return float(round(exact / unit) * unit)


FORMATS = {"f32": (np.float32, 24, -149), "f64": (np.float64, 53, -1074)}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("spread", [3, 40, None])
def test_fma_is_rounded_once(name, spread, rng):
    dtype, precision, smallest = FORMATS[name]
    a, b, c = (floats(rng, dtype, 512, spread) for _ in range(3))
    with np.errstate(all="ignore"):
        c[::2] = -(a * b)[::2] * dtype(1 + 2**-20)  # cancels
        c[1::4] = (a * b)[1::4] * dtype(2.0 ** (precision // 2 + 1))
        native = (a.astype(np.float64) * b + c).astype(dtype)
    result = evaluate(f"fma.rn.{name} {{d}}, {{0}}, {{1}}, {{2}}", dtype, a, b, c)
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    np.testing.assert_array_equal(np.isnan(result[~finite]), np.isnan(native[~finite]))
    for x, y, z, got in zip(a[finite], b[finite], c[finite], result[finite], strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        if abs(exact) > Fraction(float(np.finfo(dtype).max)):
            continue  # where infinity begins is in the test of conversions
        assert got == nearest(exact, precision, smallest), (x, y, z)


ROUND = {"rz": math.trunc, "rm": math.floor, "rp": math.ceil}


@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_directed_roundings(mode, op, rng):
    a, b = (np.ldexp(rng.normal(size=256), rng.integers(-20, 20, 256)).astype("f4") for _ in "ab")
    result = evaluate(f"{op}.{mode}.f32 {{d}}, {{0}}, {{1}}", "f4", a, b)
    for x, y, got in zip(a, b, result, strict=True):
        x, y = Fraction(float(x)), Fraction(float(y))
        exact = {"add": x + y, "sub": x - y, "mul": x * y}[op]
        unit = Fraction(2) ** (math.frexp(float(exact))[1] - 24)
        assert Fraction(float(got)) == ROUND[mode](exact / unit) * unit


@pytest.mark.parametrize("dtype", ["f2", ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_narrowing_conversions(dtype, rng):
    name = "f16" if dtype == "f2" else "bf16"
    x = floats(rng, np.float32, 1024, 20)
    with np.errstate(all="ignore"):
        expected = x.astype(dtype).astype("f4")
    bits = evaluate(f"cvt.rn.{name}.f32 {{d}}, {{0}}", "u2", x)
    np.testing.assert_array_equal(bits.view(dtype).astype("f4"), expected)
    toward_zero = evaluate(f"cvt.rz.{name}.f32 {{d}}, {{0}}", "u2", x).view(dtype).astype("f4")
    finite = np.isfinite(x)
    assert (np.abs(toward_zero[finite]) <= np.abs(x[finite])).all()
    assert np.isfinite(toward_zero[finite]).all()
    packed = evaluate(f"cvt.rn.{name}x2.f32 {{d}}, {{0}}, {{1}}", "u4", x, x[::-1])
    np.testing.assert_array_equal(packed >> 16, bits)
    np.testing.assert_array_equal(packed & 0xFFFF, bits[::-1])
    widened = evaluate(f"cvt.f32.{name} {{d}}, {{0}}", "f4", bits)
    np.testing.assert_array_equal(widened, expected)


def test_conversions_to_integers_clamp():
    x = np.array([2.5, -2.5, 3.5, 1e20, -1e20, np.nan, np.inf, 0.49999997], "f4")
    s32 = evaluate("cvt.rni.s32.f32 {d}, {0}", "i4", x)
    np.testing.assert_array_equal(s32, [2, -2, 4, 2**31 - 1, -(2**31), 0, 2**31 - 1, 0])
    u32 = evaluate("cvt.rzi.u32.f32 {d}, {0}", "u4", x)
    np.testing.assert_array_equal(u32, [2, 0, 3, 2**32 - 1, 0, 0, 2**32 - 1, 0])
    u64 = evaluate("cvt.rpi.u64.f32 {d}, {0}", "u8", x)
    np.testing.assert_array_equal(u64, [3, 0, 4, 2**64 - 1, 0, 2**63, 2**64 - 1, 1])
    floor = evaluate("cvt.rmi.f32.f32 {d}, {0}", "f4", x)
    np.testing.assert_array_equal(floor, np.floor(x))
    unit = evaluate("cvt.sat.f32.f32 {d}, {0}", "f4", x)
    np.testing.assert_array_equal(unit, [1, 0, 1, 1, 0, 0, 1, x[7]])


@pytest.mark.parametrize("source", ["u4", "i4", "u8", "i8"])
def test_integers_to_floats(source, rng):
    x = words(rng, 512, source)
    name = f"{'s' if source[0] == 'i' else 'u'}{8 * int(source[1])}"
    result = evaluate(f"cvt.rn.f32.{name} {{d}}, {{0}}", "f4", x)
    np.testing.assert_array_equal(result, x.astype("f4"))
    down = evaluate(f"cvt.rm.f32.{name} {{d}}, {{0}}", "f4", x)
    up = evaluate(f"cvt.rp.f32.{name} {{d}}, {{0}}", "f4", x)
    for value, low, high in zip(x, down, up, strict=True):
        assert int(low) <= int(value) <= int(high)
        assert low == high or np.nextafter(low, np.float32(np.inf)) == high


def test_integer_widths_and_signs(rng):
    x = words(rng, 256, "u4")
    signed = evaluate("cvt.s32.s8 {d}, {0}", "i4", x)
    np.testing.assert_array_equal(signed, (x & 0xFF).astype("u1").view("i1"))
    clamped = evaluate("cvt.sat.u8.s32 {d}, {0}", "u4", x)
    np.testing.assert_array_equal(clamped, np.clip(x.view("i4"), 0, 255))


BINARY = {
    "add.s32": lambda a, b: a + b,
    "sub.s32": lambda a, b: a - b,
    "mul.lo.s32": lambda a, b: a * b,
    "mul.hi.s32": lambda a, b: a * b >> 32,
    "div.s32": lambda a, b: int(Fraction(a, b)) if b else -1,
    "rem.s32": lambda a, b: a - b * int(Fraction(a, b)),
    "min.s32": min,
    "xor.b32": lambda a, b: a ^ b,
    "add.sat.s32": lambda a, b: max(-(2**31), min(2**31 - 1, a + b)),
    "mul.hi.s64": lambda a, b: a * b >> 64,
    "mul.lo.s64": lambda a, b: a * b,
}


@pytest.mark.parametrize("name", BINARY)
def test_integer_arithmetic_against_python(name, rng):
    bits = int(name[-2:])
    a, b = rng.permutation(words(rng, dtype=f"i{bits // 8}")), words(rng, dtype=f"i{bits // 8}")
    if name.startswith("rem"):
        b[b == 0] = 7
    result = evaluate(f"{name} {{d}}, {{0}}, {{1}}", f"u{bits // 8}", a, b)
    expected = [BINARY[name](int(x), int(y)) % 2**bits for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(result, np.array(expected, f"u{bits // 8}"))


def funnel(direction, overflow):
    def shift(low, high, count):
        count = count % 32 if overflow == "wrap" else min(count, 32)
        both = high << 32 | low
        return both >> count if direction == "r" else both << count >> 32

    return shift


def permute(a, b, selector):
    source = (b << 32 | a).to_bytes(8, "little")
    out = []
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = source[nibble & 7]
        out.append((0xFF if byte & 0x80 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(out), "little")


def extract(x, position, length):
    return x >> (position & 255) & ((1 << (length & 255)) - 1)


def extract_signed(x, position, length):
    """Bit by bit, as the manual has it."""
    position, length = position & 255, length & 255
    sign = x >> min(position + length - 1, 31) & 1 if length else 0
    bits = [
        x >> (position + i) & 1 if i < length and position + i <= 31 else sign for i in range(32)
    ]
    return sum(bit << i for i, bit in enumerate(bits))


TERNARY = {
    **{f"shf.{d}.{o}.b32": funnel(d, o) for d in "lr" for o in ("wrap", "clamp")},
    "prmt.b32": permute,
    "bfe.u32": extract,
    "bfe.s32": extract_signed,
    "mad.lo.u32": lambda a, b, c: a * b + c,
    "mad.hi.u32": lambda a, b, c: (a * b >> 32) + c,
}


@pytest.mark.parametrize("name", TERNARY)
def test_bit_operations_against_python(name, rng):
    a, b, c = (rng.permutation(words(rng)) for _ in range(3))
    if name.startswith(("shf", "bfe")):
        c = rng.integers(0, 40, c.size, "u4")
    if name.startswith("bfe"):
        b = rng.integers(0, 36, c.size, "u4")
    result = evaluate(f"{name} {{d}}, {{0}}, {{1}}, {{2}}", "u4", a, b, c)
    expected = [TERNARY[name](*map(int, v)) % 2**32 for v in zip(a, b, c, strict=True)]
    np.testing.assert_array_equal(result, np.array(expected, "u4"))


@pytest.mark.parametrize("table", [0x96, 0xE8, 0xCA, 0x01])
def test_lop3(table, rng):
    a, b, c = (rng.permutation(words(rng)) for _ in range(3))
    result = evaluate(f"lop3.b32 {{d}}, {{0}}, {{1}}, {{2}}, {table}", "u4", a, b, c)
    for bit in range(32):
        row = (a >> bit & 1) * 4 + (b >> bit & 1) * 2 + (c >> bit & 1)
        np.testing.assert_array_equal(result >> bit & 1, table >> row & 1)


def test_counting_bits(rng):
    x = words(rng)
    counts = {
        "popc.b32": lambda v: bin(v).count("1"),
        "clz.b32": lambda v: 32 - v.bit_length(),
        "bfind.u32": lambda v: (v.bit_length() - 1) % 2**32,
        "brev.b32": lambda v: int(f"{v:032b}"[::-1], 2),
    }
    for name, function in counts.items():
        result = evaluate(f"{name} {{d}}, {{0}}", "u4", x)
        np.testing.assert_array_equal(result, [function(int(v)) for v in x], err_msg=name)


@pytest.mark.parametrize("name", ["lt", "ne", "ltu", "neu", "equ", "geu", "num", "nan"])
def test_ordered_and_unordered_comparisons(name, rng):
    a, b = floats(rng, np.float32), floats(rng, np.float32)
    b[::3] = a[::3]
    nan = np.isnan(a) | np.isnan(b)
    plain = {"lt": a < b, "ne": a != b, "eq": a == b, "ge": a >= b}
    expected = {"num": ~nan, "nan": nan}.get(name)
    if expected is None:
        expected = plain[name[:2]] | nan if name.endswith("u") else plain[name] & ~nan
    body = f"setp.{name}.f32 %p1|%p2, {{0}}, {{1}};\nselp.u32 {{d}}, 1, 2, %p1;\n"
    body += "@%p2 add.u32 {d}, {d}, 4"
    np.testing.assert_array_equal(evaluate(body, "u4", a, b), np.where(expected, 1, 6))


def test_comparison_combined_with_a_predicate(rng):
    a, b = (rng.integers(0, 4, 64, "u4") for _ in range(2))
    body = "setp.eq.u32 %p1, {0}, 2;\nsetp.lo.or.u32 %p2, {0}, {1}, !%p1;\nselp.u32 {d}, 1, 0, %p2"
    np.testing.assert_array_equal(evaluate(body, "u4", a, b), (a < b) | (a != 2))


def test_minima_of_nan_and_zeros():
    a = np.array([np.nan, 1, 0.0, -0.0, np.nan], "f4")
    b = np.array([1, np.nan, -0.0, 0.0, np.nan], "f4")
    largest = evaluate("max.f32 {d}, {0}, {1}", "f4", a, b)
    np.testing.assert_array_equal(largest, [1, 1, 0, 0, np.nan])
    assert not np.signbit(largest[2:4]).any()
    assert largest.view("u4")[4] == 0x7FFFFFFF
    assert np.isnan(evaluate("min.NaN.f32 {d}, {0}, {1}", "f4", a, b)[[0, 1, 4]]).all()


def test_flush_to_zero():
    tiny = np.array([2.0**-130, -(2.0**-130), 2.0**-126], "f4")
    kept = evaluate("mul.f32 {d}, {0}, 0f3F800000", "f4", tiny)
    flushed = evaluate("mul.ftz.f32 {d}, {0}, 0f3F800000", "f4", tiny)
    np.testing.assert_array_equal(kept, tiny)
    np.testing.assert_array_equal(flushed, [0, -0.0, 2.0**-126])
    exponent = np.array([-140, -126, 3.5], "f4")
    np.testing.assert_array_equal(
        evaluate("ex2.approx.ftz.f32 {d}, {0}", "f4", exponent),
        np.array([0, 2.0**-126, 2.0**3.5], "f4"),
    )


@pytest.mark.parametrize("dtype", ["f2", ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_packed_arithmetic(dtype, rng):
    name = "f16x2" if dtype == "f2" else "bf16x2"
    a, b, c = (rng.normal(size=128).astype(dtype) for _ in range(3))
    packed = [x.view("u4") for x in (a, b, c)]
    result = evaluate(f"fma.rn.{name} {{d}}, {{0}}, {{1}}, {{2}}", "u4", *packed).view(dtype)
    exact = a.astype("f8") * b.astype("f8") + c.astype("f8")  # exact: short significands
    np.testing.assert_array_equal(result, exact.astype(dtype))


@pytest.mark.parametrize("mode", ["bfly", "down", "up", "idx"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(mode, width):
    out, valid = np.zeros(64, "u4"), np.zeros(64, "u4")
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    run(
        f"shfl.sync.{mode}.b32 %r1|%p1, %r0, 3, {clamp}, -1;\nselp.u32 %r2, 1, 0, %p1;\n"
        "mad.wide.u32 %rd4, %r0, 4, %rd0;\nst.global.u32 [%rd4], %r1;\n"
        "mad.wide.u32 %rd5, %r0, 4, %rd1;\nst.global.u32 [%rd5], %r2;",
        out,
        valid,
        block=64,
    )
    lane = np.arange(64) % width
    start = np.arange(64) - lane
    source = {"bfly": lane ^ 3, "down": lane + 3, "up": lane - 3, "idx": lane * 0 + 3}[mode]
    inside = (source >= 0) & (source < width)
    np.testing.assert_array_equal(valid, inside)
    np.testing.assert_array_equal(out, start + np.where(inside, source, lane))


def test_votes_matches_and_reductions():
    out = np.zeros((5, 32), "u4")
    store = "".join(f"st.global.u32 [%rd4+{128 * i}], %r{10 + i};\n" for i in range(5))
    run(
        "setp.lt.u32 %p1, %r0, 5;\nvote.sync.ballot.b32 %r10, %p1, -1;\n"
        "vote.sync.any.pred %p2, %p1, -1;\nselp.u32 %r11, 1, 0, %p2;\nshr.u32 %r3, %r0, 3;\n"
        "match.any.sync.b32 %r12, %r3, -1;\nredux.sync.add.u32 %r13, %r0, -1;\n"
        "mov.u32 %r14, %lanemask_lt;\nmad.wide.u32 %rd4, %r0, 4, %rd0;\n" + store,
        out,
    )
    lane = np.arange(32)
    np.testing.assert_array_equal(out[:2], [[31] * 32, [1] * 32])
    np.testing.assert_array_equal(out[2], 0xFF << (lane // 8 * 8))
    np.testing.assert_array_equal(out[3], lane.sum())
    np.testing.assert_array_equal(out[4], (1 << lane) - 1)


def test_divergent_threads_meet_at_a_shuffle():
    """Half of the lanes go around through code that lies behind the shuffle."""
    out = np.zeros(32, "u4")
    run(
        "and.b32 %r1, %r0, 1;\nmov.u32 %r3, %r0;\nsetp.eq.u32 %p1, %r1, 1;\n@%p1 bra FAR;\n"
        "BACK: shfl.sync.idx.b32 %r2, %r3, 5, 31, -1;\n"
        "mad.wide.u32 %rd4, %r0, 4, %rd0;\nst.global.u32 [%rd4], %r2;\nret;\n"
        "FAR: add.u32 %r3, %r0, 100;\nbra BACK;",
        out,
    )
    assert (out == 105).all()


def test_scopes_of_inline_assembly():
    out = np.zeros(32, "u4")
    inner = (
        "{{ .reg .b16 low, high; .reg .b32 t;\n mov.b32 {{low, high}}, %r0;\n"
        " mov.b32 t, {{high, low}};\n L: add.u32 {0}, t, 1; }}\n"
    )
    run(
        inner.format("%r1") + inner.format("%r2") + "add.u32 %r3, %r1, %r2;\n"
        "mad.wide.u32 %rd4, %r0, 4, %rd0;\nst.global.u32 [%rd4], %r3;",
        out,
    )
    np.testing.assert_array_equal(out, (np.arange(32) * 65536 + 1) * 2)


def test_atomics_and_traffic():
    total, old = np.zeros(2, "f4"), np.zeros(64, "u4")
    machine = run(
        "cvt.rn.f32.u32 %f1, %r0;\nred.global.add.f32 [%rd0], %f1;\n"
        "atom.global.gpu.relaxed.inc.u32 %r2, [%rd0+4], 6;\n"
        "mad.wide.u32 %rd4, %r0, 4, %rd1;\nst.global.u32 [%rd4], %r2;",
        total,
        old,
        block=64,
    )
    assert total[0] == 63 * 32
    np.testing.assert_array_equal(old, np.arange(64) % 7)
    traffic = list(machine.traffic.values())[1]
    assert (traffic.bytes_read, traffic.bytes_written, traffic.sectors) == (0, 256, 8)
    assert machine.lanes["st.global.u32"] == 64
    assert machine.instructions["st.global.u32"] == 2
    assert not machine.races


def test_matrix_fragments_and_async_copies(rng):
    """cp.async with zero fill into shared memory, then ldmatrix.trans out of it."""
    source, out = rng.integers(0, 2**16, (32, 8), "u2"), np.zeros((4, 32), "u4")
    run(
        "mov.u32 %r1, sh;\nmad.lo.u32 %r1, %r0, 16, %r1;\nmad.wide.u32 %rd4, %r0, 16, %rd0;\n"
        "setp.eq.u32 %p1, %r0, 31;\nselp.u32 %r2, 4, 16, %p1;\n"
        "cp.async.cg.shared.global.L2::128B [%r1], [%rd4], 16, %r2;\n"
        "cp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\n"
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r3, %r4, %r5, %r6}, [%r1];\n"
        "mad.wide.u32 %rd5, %r0, 4, %rd1;\nst.global.u32 [%rd5], %r3;\n"
        "st.global.u32 [%rd5+128], %r4;\nst.global.u32 [%rd5+256], %r5;\n"
        "st.global.u32 [%rd5+384], %r6;",
        source,
        out,
        shared_bytes=512,
        declarations=".extern .shared .align 16 .b8 sh[];",
    )
    source[31, 2:] = 0
    expected = source.reshape(4, 8, 8).swapaxes(1, 2)
    np.testing.assert_array_equal(out.view("u2").reshape(4, 8, 8), expected)


@pytest.mark.parametrize("order", ["", ".trans"])
def test_matrices_come_back_as_they_were(order, rng):
    source, out = rng.integers(0, 2**16, (32, 8), "u2"), np.zeros((32, 8), "u2")
    machine = run(
        "mul.lo.u32 %r1, %r0, 16;\nmad.wide.u32 %rd4, %r0, 16, %rd0;\n"
        "mad.wide.u32 %rd5, %r0, 16, %rd1;\n"
        "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd4];\n"
        "st.shared.v4.u32 [%r1], {%r3, %r4, %r5, %r6};\nbar.warp.sync -1;\n"
        f"ldmatrix.sync.aligned.m8n8.x4{order}.shared.b16 {{%r7, %r8, %r9, %r10}}, [%r1];\n"
        "bar.warp.sync -1;\n"
        f"stmatrix.sync.aligned.m8n8.x4{order}.shared.b16 [%r1], {{%r7, %r8, %r9, %r10}};\n"
        "bar.warp.sync -1;\nld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [%r1];\n"
        "st.global.v4.u32 [%rd5], {%r3, %r4, %r5, %r6};",
        source,
        out,
        shared_bytes=512,
    )
    np.testing.assert_array_equal(out, source)
    assert not machine.races


def test_branch_tables_and_module_constants():
    out = np.zeros(32, "u4")
    run(
        "and.b32 %r1, %r0, 3;\nbrx.idx %r1, T;\nT: .branchtargets A, B, C, A;\n"
        "A: mov.u32 %r2, 10;\nbra.uni E;\nB: mov.u32 %r2, 20;\nbra E;\nC: mov.u32 %r2, 30;\n"
        "E: mov.u64 %rd4, table;\ncvta.global.u64 %rd4, %rd4;\n"
        "mad.wide.u32 %rd5, %r1, 4, %rd4;\nld.u32 %r3, [%rd5];\nadd.u32 %r2, %r2, %r3;\n"
        "ld.const.f32 %f1, [c];\ncvt.rzi.u32.f32 %r4, %f1;\nadd.u32 %r2, %r2, %r4;\n"
        "mad.wide.u32 %rd6, %r0, 4, %rd0;\nst.global.u32 [%rd6], %r2;",
        out,
        declarations=".global .align 4 .u32 table[4] = {5, 6, 7, 8};\n"
        ".const .align 4 .f32 c = 0f3FC00000;",  # 1.5
    )
    choice = np.arange(32) % 4
    np.testing.assert_array_equal(out, np.array([10, 20, 30, 10])[choice] + choice + 5 + 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("mad.wide.u32 %rd4, %r0, 4, %rd0;\nld.global.u32 %r1, [%rd4+4];", "out of bounds"),
        ("ld.global.u32 %r1, [%rd0+-4];", "out of bounds"),
        ("mov.u64 %rd4, 0;\nst.global.u32 [%rd4], %r0;", "out of bounds"),
        ("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0+4];", "misaligned"),
        ("ld.shared.u32 %r1, [64];", "out of bounds"),
        ("ld.shared.u32 %r1, [2];", "misaligned"),
        ("frobnicate.b32 %r1, %r0;", "frobnicate"),
        ("add.weird.u32 %r1, %r0, 1;", "weird"),
        ("call (%r1), foo, (%r0);", "call"),
        ("trap;", "trap"),
        (
            "setp.eq.u32 %p1, %r0, 3;\n@%p1 ret;\nshfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;",
            "inactive",
        ),
        ("setp.lt.u32 %p1, %r0, 16;\n@%p1 bar.sync 1, 32;", "never complete.*bar.sync 1"),
        ("setp.lt.u32 %p1, %r0, 16;\n@%p1 bar.sync 1;\n@!%p1 bar.sync 2;", "never complete"),
        ("setp.lt.u32 %p1, %r0, 16;\n@%p1 bar.sync 1;\n@!%p1 bar.sync 1;", "divergent"),
    ],
)
def test_mistakes_raise(body, message):
    with pytest.raises(PtxError, match=f"(?s){message}"):
        run(body, np.zeros(32, "u4"), shared_bytes=64)


def test_wrong_arguments_raise():
    k = kernel("", 2)
    with pytest.raises(PtxError, match="2 parameters, not 1"):
        Machine().launch(k, 1, 32, [0])
    with pytest.raises(PtxError, match="float"):
        Machine().launch(k, 1, 32, [0, 1.5])


@pytest.mark.parametrize("barrier", ["bar.sync 0;", "bar.warp.sync -1;", ""])
def test_missing_barrier_is_found(barrier):
    """Each thread reads what another one, of its own warp or of the other, has written."""
    exchange = "shl.b32 %r1, %r0, 2;\nst.shared.u32 [%r1], %r0;\n{}\nxor.b32 %r2, %r1, {};\n"
    exchange += "ld.shared.u32 %r3, [%r2];"
    for distance, enough in ((4, barrier != ""), (128, barrier.startswith("bar.sync"))):
        machine = run(exchange.format(barrier, distance), block=64, shared_bytes=256)
        assert bool(machine.races) != enough, machine.races


def test_plain_write_that_another_block_touches_is_found():
    body = "mov.u32 %r1, %ctaid.x;\nmad.wide.u32 %rd4, %r1, {}, %rd0;\n{} [%rd4], %r1;"
    assert run(body.format(0, "st.global.u32"), np.zeros(4, "u4"), grid=4).races
    assert not run(body.format(4, "st.global.u32"), np.zeros(4, "u4"), grid=4).races
    assert not run(body.format(0, "red.global.add.u32"), np.zeros(4, "u4"), grid=4).races
    reads_neighbour = body.format(4, "st.global.u32") + "\nld.global.u32 %r2, [%rd0];"
    assert run(reads_neighbour, np.zeros(4, "u4"), grid=4).races


# Compiled kernels


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
