"""The arithmetic of the PTX interpreter, against exact arithmetic."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx_programs import evaluate, floats, words


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
