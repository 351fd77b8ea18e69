"""Threads in the PTX interpreter: what passes between them, memory, and mistakes it must find."""

import numpy as np
import pytest
from ptx import Machine, PtxError
from ptx_programs import kernel, run


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
