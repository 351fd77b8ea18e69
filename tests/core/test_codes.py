"""`sinkhorn_codes` against the published loops, written here from their papers."""

import numpy as np
import pytest
import sharded
import torch

import sinkhorn_ot.torch_ops
from sinkhorn_ot import sinkhorn_codes
from sinkhorn_ot.backends import cpu
from sinkhorn_ot.backends.minibatch import ArrayMinibatch


def swav(scores, epsilon, n_iter):
    """Caron et al., NeurIPS 2020, appendix A: Q of K rows and B columns, normalised in turn."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    k, b = q.shape
    for _ in range(n_iter):
        q = q / q.sum(1, keepdim=True) / k
        q = q / q.sum(0, keepdim=True) / b
    return (q / q.sum(0, keepdim=True)).T


def scores_of(b=96, k=40, seed=0, dtype=torch.float64):
    return torch.randn(b, k, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1).to(dtype)


TOLERANCES = {
    torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 2e-3,
}  # fmt: skip


@pytest.mark.parametrize("n_iter", [1, 2, 3, 7])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES.items(), ids=str)
def test_it_is_the_published_loop_iterate_for_iterate(n_iter, dtype, tolerance):
    scores = scores_of(dtype=dtype)
    codes = sinkhorn_codes(scores, 0.05, n_iter)
    assert codes.dtype == dtype
    truth = swav(scores.double(), 0.05, n_iter)
    torch.testing.assert_close(codes.double(), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("b", "k", "epsilon"), [(4, 3000, 0.025), (2, 3000, 0.03), (3000, 4, 0.03)]
)
def test_masses_of_few_rows_stay_in_range(b, k, epsilon):
    """An iteration makes them about B / K times what they were."""
    scores = torch.rand(b, k, generator=torch.Generator().manual_seed(0)) * 2 - 1
    truth = swav(scores.double(), epsilon, 3)
    torch.testing.assert_close(sinkhorn_codes(scores, epsilon).double(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("simd", cpu._cpu.simd_levels())
@pytest.mark.parametrize("k", [1, 7, 64, 1029])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_every_instruction_set_and_row_length(simd, k, dtype, monkeypatch):
    monkeypatch.setenv("SINKHORN_OT_SIMD", simd)
    scores = scores_of(70, k, dtype=dtype)
    codes = sinkhorn_codes(scores)
    truth = swav(scores.double(), 0.05, 3)
    torch.testing.assert_close(codes.double(), truth, rtol=0, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("simd", cpu._cpu.simd_levels())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_codes_of_16_bits_are_the_nearest_ones(simd, dtype, monkeypatch):
    """Of all sizes: float32 codes are rounded, the smallest to denormal numbers."""
    monkeypatch.setenv("SINKHORN_OT_SIMD", simd)
    scores = scores_of(500, 9, dtype=dtype)
    exact = sinkhorn_codes(scores.float(), 0.2, 1)
    assert exact.min() < 1e-4
    torch.testing.assert_close(sinkhorn_codes(scores, 0.2, 1), exact.to(dtype), rtol=0, atol=0)


def test_array_operations_give_the_same_codes():
    """Devices without kernels have these, and so has the CPU without the compiled core."""
    scores, n_valid = torch.stack([scores_of(), scores_of(seed=1)]), torch.tensor([96, 50])
    for library in (torch.asarray, np.asarray):
        step = ArrayMinibatch(library(scores), 0.05, library(n_valid))
        out = library(torch.empty_like(scores))
        masses, largest = step.first()
        np.testing.assert_allclose(largest, [scores[0].max(), scores[1, :50].max()])
        step.last(step.next(step.next(masses)), out)
        np.testing.assert_allclose(out, sinkhorn_codes(scores, n_valid=n_valid), atol=1e-13)


def test_rows_and_columns_may_lie_anywhere():
    scores = scores_of(48, 24, dtype=torch.float32)
    truth = sinkhorn_codes(scores).numpy()
    wide = torch.zeros(24, 97)
    wide[:, 1::2] = scores.T
    numpy = wide.numpy()[:, 1::2].T
    records = np.zeros(48, np.dtype([("odd", "i1"), ("row", "f4", 24)]))
    records["row"] = scores
    for x in (wide[:, 1::2].T, numpy, np.flip(numpy, 1)[:, ::-1], records["row"]):
        np.testing.assert_array_equal(sinkhorn_codes(x), truth)
        out = np.zeros_like(x) if isinstance(x, np.ndarray) else torch.zeros_like(x)
        out = out[::-1] if isinstance(x, np.ndarray) else out
        np.testing.assert_array_equal(sinkhorn_codes(x, out=out), truth)
        sinkhorn_codes(x, out=x)  # in the place of the scores
        np.testing.assert_array_equal(x, truth)
        x[:] = scores.numpy() if isinstance(x, np.ndarray) else scores


def test_the_same_bits_for_any_number_of_threads():
    scores, threads = scores_of(300, 700, dtype=torch.float32), torch.get_num_threads()
    try:
        codes = [torch.set_num_threads(n) or sinkhorn_codes(scores) for n in (1, 2, 3)]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])


def test_numpy_and_batches_and_out():
    scores = torch.stack([scores_of(seed=seed) for seed in range(3)])
    codes = sinkhorn_codes(scores.numpy())
    for batch, one in zip(codes, scores, strict=True):
        np.testing.assert_allclose(batch, swav(one, 0.05, 3), atol=1e-12)
    out = torch.empty_like(scores)
    assert sinkhorn_codes(scores, out=out) is out
    np.testing.assert_array_equal(out, sinkhorn_codes(scores))


def test_large_scores_neither_overflow_nor_vanish():
    """A shift of all changes nothing; in float16 the published loop is infinite at once."""
    scores = scores_of(dtype=torch.float16)
    assert not swav(scores, 0.05, 3).isfinite().all()
    shifted = scores_of() + 1e4
    torch.testing.assert_close(
        sinkhorn_codes(shifted), sinkhorn_codes(scores_of()), rtol=0, atol=1e-9
    )
    far = torch.tensor([[0.0, 0.1], [-300.0, -300.1], [0.3, 0.0]])
    assert sinkhorn_codes(far).sum(1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("step", [None, ArrayMinibatch])
def test_rows_sum_to_one_where_many_columns_have_no_mass(step, monkeypatch):
    """In float32: exp(-200) is 0 there, and 2000 times the inverse of next to nothing is large."""
    if step is not None:
        monkeypatch.setattr(sinkhorn_ot.entropic.codes, "minibatch_of", lambda place: step)
    scores = np.zeros((3, 2000), np.float32)
    scores[0, 0] = 10
    codes = sinkhorn_codes(scores)
    np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(codes, sinkhorn_codes(scores.astype(float)), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4000), (4096, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_many_iterations_neither_overflow_nor_underflow(size, dtype):
    """An iteration of ``diag(v) Q diag(u)`` makes its parts about B / K times as large."""
    scores = scores_of(*size, dtype=dtype)
    codes = sinkhorn_codes(scores, n_iter=20).double()
    truth = swav(scores.double(), 0.05, 20)
    torch.testing.assert_close(codes, truth, rtol=0, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("of", [int, torch.tensor], ids=["int", "tensor"])
def test_only_valid_rows_count(of):
    scores = scores_of()
    codes = sinkhorn_codes(scores, n_valid=of(60))
    torch.testing.assert_close(codes[:60], swav(scores[:60], 0.05, 3))
    assert not codes[60:].any()
    ragged = sinkhorn_codes(torch.stack([scores, scores]), n_valid=torch.tensor([96, 60]))
    torch.testing.assert_close(ragged[1], codes)
    torch.testing.assert_close(ragged[0], swav(scores, 0.05, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.longlong, np.ulonglong])
def test_counts_may_be_integers_of_any_kind(dtype):
    scores = scores_of().numpy()
    truth = sinkhorn_codes(scores, n_valid=60)
    np.testing.assert_array_equal(sinkhorn_codes(scores, n_valid=dtype(60)), truth)


def test_counts_may_be_unsigned_tensors():
    """PyTorch has no minimum of uint16."""
    scores = torch.stack([scores_of(), scores_of(seed=1)])
    counts = torch.tensor([96, 50])
    truth = sinkhorn_codes(scores, n_valid=counts)
    torch.testing.assert_close(sinkhorn_codes(scores, n_valid=counts.to(torch.uint16)), truth)


@pytest.mark.parametrize("what", [torch.nan, torch.inf, 1e4])
@pytest.mark.parametrize("of", [torch.asarray, np.asarray])
def test_rows_that_do_not_count_may_hold_anything(what, of):
    scores = scores_of()
    truth = sinkhorn_codes(scores[:60])
    scores[60:] = what
    n_valid = of(torch.tensor(60))
    np.testing.assert_array_equal(sinkhorn_codes(of(scores), n_valid=n_valid)[:60], truth)
    out = of(torch.empty_like(scores))[None]
    step = ArrayMinibatch(of(scores)[None], 0.05, n_valid[None])
    step.last(step.next(step.next(step.first()[0])), out)
    np.testing.assert_allclose(out[0, :60], truth, atol=1e-13)
    assert not out[0, 60:].any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("of", [torch.asarray, np.asarray])
def test_a_batch_may_have_no_row_that_counts(of):
    scores, n_valid = of(scores_of(6, 4).reshape(2, 3, 4)), of(torch.tensor([0, 2]))
    out = of(torch.empty(2, 3, 4, dtype=torch.float64))
    step = ArrayMinibatch(scores, 0.05, n_valid)
    step.last(step.next(step.first()[0]), out)
    assert not out[0].any()
    np.testing.assert_allclose(out, sinkhorn_codes(scores, 0.05, 2, n_valid=n_valid), atol=1e-13)


def test_a_view_of_the_negative_is_read_as_such():
    """The sign of the imaginary part of a conjugate is noted outside of its memory."""
    scores = torch.complex(torch.zeros_like(scores_of()), scores_of())
    lazy = torch.conj(scores).imag
    assert lazy.is_neg()
    torch.testing.assert_close(sinkhorn_codes(lazy), sinkhorn_codes(-scores_of()))


def test_nan_is_not_hidden():
    scores = scores_of()
    scores[3, 5] = torch.nan
    assert sinkhorn_codes(scores).isnan().all()


def test_one_operator_serves_all_batch_sizes():
    """No graph break, no compilation for each size, and in the graph one operator does the work."""
    graphs = []

    def count(module, _):
        graphs.append(module)
        return module.forward

    compiled = torch.compile(sinkhorn_codes, fullgraph=True, dynamic=True, backend=count)
    for b in (64, 65, 96):
        scores = scores_of(b, dtype=torch.float32)
        torch.testing.assert_close(compiled(scores), sinkhorn_codes(scores))
    (graph,) = graphs
    ours = [node for node in graph.graph.nodes if "sinkhorn" in str(node.target)]
    assert [node.target for node in ours] == [sinkhorn_ot.torch_ops.sinkhorn_codes]


@pytest.mark.parametrize("of", [int, torch.tensor, np.asarray], ids=["int", "tensor", "numpy"])
def test_numbers_may_change_between_calls_of_what_is_compiled(of):
    """A count, and the temperature of a schedule."""
    torch.compiler.reset()
    compiled = torch.compile(sinkhorn_codes, fullgraph=True, backend="eager")
    scores = scores_of(8, 5)
    for count, epsilon in ((6, 0.05), (5, 0.06), (4, 0.07)):
        out = torch.empty_like(scores)
        found = compiled(scores, epsilon, n_valid=of(count), out=out)
        torch.testing.assert_close(found, sinkhorn_codes(scores, epsilon, n_valid=count))


def test_the_operator_keeps_the_rules_of_torch():
    """Schema, fake tensors, autograd and symbolic shapes: torch's own check."""
    scores = scores_of(8, 5, dtype=torch.float32)
    arguments = (scores, 0.05, 3, torch.tensor(6), torch.empty_like(scores))
    checks = torch.library.opcheck(sinkhorn_ot.torch_ops.sinkhorn_codes, arguments)
    assert set(checks.values()) == {"SUCCESS"}


def test_codes_are_constants_and_writing_them_is_noticed():
    scores = scores_of().requires_grad_()
    assert not sinkhorn_codes(scores).requires_grad
    square = scores.detach().clone().requires_grad_() ** 2
    with torch.no_grad():
        buffer = torch.empty_like(square)
    product = (square * buffer).sum()
    sinkhorn_codes(scores, out=buffer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_out_that_cannot_be_written_is_refused(tmp_path):
    """It was written through its address: a crash where a file is mapped."""
    scores = scores_of(6, 4).numpy()
    np.save(tmp_path / "codes.npy", scores)
    fixed = scores.copy()
    fixed.setflags(write=False)
    for out in (np.load(tmp_path / "codes.npy", mmap_mode="r"), fixed):
        with pytest.raises(ValueError, match="out is a read-only array"):
            sinkhorn_codes(scores, out=out)
        np.testing.assert_array_equal(out, scores)


@pytest.mark.parametrize("of", [torch.asarray, np.asarray])
def test_out_that_overlaps_is_refused(of):
    """Codes would be written over scores still to be read, or over codes."""
    wide = scores_of(9, 8)
    for scores, out in ((wide[:-1], wide[1:]), (wide[1:].T, wide[1:])):
        with pytest.raises(ValueError, match="out overlaps the scores"):
            sinkhorn_codes(of(scores), out=of(out))
    for out in (wide[0].expand(9, 8), torch.empty(100).double().as_strided((9, 8), (7, 1))):
        with pytest.raises(ValueError, match=r"out overlaps itself: .*\(9, 8\), its strides"):
            sinkhorn_codes(of(scores_of(9, 8)), out=of(out))
    truth = sinkhorn_codes(wide[:4])
    np.testing.assert_array_equal(sinkhorn_codes(of(wide[:4]), out=of(wide[4:8])), truth)
    one = of(wide[4:5])
    sinkhorn_codes(one, out=one[:, :])
    np.testing.assert_allclose(one.sum(1), 1)


def in_parts(rank, size, group):
    scores = scores_of()
    parts = (scores[:30], scores[30:], scores[:0])
    first_alone = torch.distributed.new_group([0])
    if rank:
        with pytest.raises(TypeError, match="ProcessGroup that this process is a member of"):
            sinkhorn_codes(scores, process_group=first_alone)
    if rank == 1:
        return torch.asarray(sinkhorn_codes(parts[1].numpy(), process_group=group))
    return sinkhorn_codes(parts[rank], process_group=group)


def test_processes_give_the_codes_of_one(tmp_path):
    """With parts of any size, of which one is nothing, and of NumPy's arrays too."""
    parts = sharded.run(tmp_path, 3, in_parts)
    torch.testing.assert_close(torch.cat(parts), swav(scores_of(), 0.05, 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), TypeError, "got list"),
        ((np.ones((2, 2), int),), TypeError, "got int64"),
        ((np.ma.ones((2, 2)),), TypeError, "scores is a masked array"),
        ((np.ones((2, 2), ">f4"),), TypeError, "scores has byte-swapped dtype >f4"),
        ((np.ones((2, 2)), "a"), TypeError, "epsilon must be a number, got str"),
        ((np.ones((2, 2)), True), TypeError, "epsilon must be a number, got bool"),
        ((np.ones((2, 2), "f4"), 1e-40), ValueError, "pass scores in float64"),
        ((np.ones(3),), ValueError, r"got \(3,\)"),
        ((np.ones((2, 2)), 0.0), ValueError, "epsilon must be finite and > 0, got 0.0"),
        ((np.ones((2, 2)), 0.1, 0), ValueError, "n_iter must be an integer >= 1, got 0"),
        ((torch.ones(2, 2).to_sparse(),), TypeError, "scores is a torch.sparse_coo tensor"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sinkhorn_codes(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_valid": 1.0}, TypeError, "n_valid must be an integer or integers, got float64"),
        ({"n_valid": True}, TypeError, "n_valid must be an integer or integers, got bool"),
        ({"n_valid": np.array([1, 2, 3])}, ValueError, r"of the 2 batches, got shape \(3,\)"),
        ({"n_valid": 4}, ValueError, "between 0 and the 3 rows of a batch of scores, got 4"),
        ({"n_valid": np.array([3, 5])}, ValueError, "and the 3 rows of a batch of scores, got 5"),
        ({"n_valid": np.array([-1, 3])}, ValueError, "and the 3 rows of a batch of scores, got -1"),
        ({"out": np.ones((2, 3, 4), np.float32)}, ValueError, "out must be like scores"),
        ({"out": torch.ones(2, 3, 4)}, TypeError, "out is a Tensor but scores is a ndarray"),
        ({"out": [[[0.0]]]}, TypeError, "out must be a numpy.ndarray or a torch.Tensor, got list"),
        ({"process_group": "x"}, TypeError, "process_group must be a .*ProcessGroup that this"),
    ],
)
def test_what_does_not_fit_the_scores_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        sinkhorn_codes(np.ones((2, 3, 4)), **options)
