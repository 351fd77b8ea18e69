"""Every wrong input is refused with what was received, where, and what to do."""

import re

import numpy as np
import pytest
import torch

from sinkhorn_ot import equipartition_labels, sinkhorn

GOOD = np.random.default_rng(0).normal(size=(6, 3))


def with_entry(value, row=4, column=1):
    logits = GOOD.copy()
    logits[row, column] = value
    return logits


def with_row(value, row=2):
    logits = GOOD.copy()
    logits[row] = value
    return logits


def with_column(value, column=1):
    logits = GOOD.copy()
    logits[:, column] = value
    return logits


CASES = [
    (with_entry(np.nan), {}, ValueError, r"logits\[4, 1\] is nan"),
    (with_entry(np.inf), {}, ValueError, r"logits\[4, 1\] is inf"),
    (with_row(-np.inf), {}, ValueError, "row 2 of logits is -inf everywhere"),
    (with_column(-np.inf), {}, ValueError, "column 1 of logits is -inf for every sample"),
    (GOOD.tolist(), {}, TypeError, "got list; wrap it with numpy.asarray"),
    (GOOD[0], {}, ValueError, r"got shape \(3,\)"),
    (GOOD[None, None], {}, ValueError, r"got shape \(1, 1, 6, 3\)"),
    (GOOD[:0], {}, ValueError, r"at least one sample.*\(0, 3\)"),
    (GOOD[:, :0], {}, ValueError, r"at least one sample.*\(6, 0\)"),
    (GOOD.astype(int), {}, TypeError, r"got int64; pass logits.astype\('float64'\)"),
    (torch.tensor(GOOD).long(), {}, TypeError, r"got int64; pass logits.double\(\)"),
    (GOOD.astype(complex), {}, TypeError, "got complex128; pass logits.real"),
    (GOOD > 0, {}, TypeError, "got bool"),
    (GOOD.astype(">f8"), {}, TypeError, r"byte-swapped.*astype\('float64'\)"),
    (np.ma.masked_array(GOOD), {}, TypeError, "masked array"),
    (torch.tensor(GOOD).to_sparse(), {}, TypeError, "to_dense"),
    (torch.tensor(GOOD).to("meta"), {}, ValueError, "device 'meta'"),
    (GOOD, {"b": np.ones(4) / 4}, ValueError, r"b must have shape \(3,\), got \(4,\)"),
    (GOOD, {"b": [0.5, 0.6, -0.1]}, ValueError, r"b\[2\] is -0.1"),
    (GOOD, {"b": [0.5, np.nan, 0.5]}, ValueError, r"b\[1\] is nan"),
    (GOOD, {"b": [0.5, 0.5, 0.1]}, ValueError, "b must sum to 1, got 1.1"),
    (GOOD, {"b": [2, 2, 2]}, ValueError, "b must sum to 1, got 6.0.* balanced_labels as sizes="),
    (GOOD, {"b": "uniform"}, TypeError, "b must be a vector of 3 numbers"),
    (GOOD, {"b": torch.ones(3) / 3}, TypeError, "b is a Tensor but logits is a ndarray"),
    (torch.tensor(GOOD), {"b": np.ones(3) / 3}, TypeError, "b is a ndarray but logits is a Tensor"),
    (GOOD, {"a": np.ones(6)}, ValueError, "a must sum to 1, got 6.0; divide it by its sum$"),
    (GOOD, {"g_init": [0, np.nan, 0]}, ValueError, r"g_init\[1\] is nan"),
    (GOOD, {"g_init": np.zeros(2)}, ValueError, r"g_init must have shape \(3,\)"),
    (GOOD, {"epsilon": 0}, ValueError, "epsilon must be finite and > 0, got 0"),
    (GOOD, {"epsilon": -1.0}, ValueError, "epsilon must be finite and > 0, got -1"),
    (GOOD, {"epsilon": np.nan}, ValueError, "epsilon must be finite"),
    (GOOD, {"epsilon": 1e-320}, ValueError, "epsilon must be finite and > 0, got 1e-320"),
    (GOOD, {"epsilon": "0.04"}, TypeError, "epsilon must be a number, got str"),
    (GOOD, {"tol": -1e-3}, ValueError, "tol must be finite and >= 0"),
    (GOOD, {"max_iter": 0}, ValueError, "max_iter must be an integer >= 1, got 0"),
    (GOOD, {"max_iter": 10.0}, ValueError, "max_iter must be an integer"),
    (
        GOOD,
        {"method": "magic"},
        ValueError,
        "method must be one of auto, sinkhorn, newton, got 'magic'",
    ),
    (
        GOOD,
        {"backend": "cuda9"},
        ValueError,
        "backend must be one of auto, cuda, triton, cpu, reference",
    ),
    (GOOD, {"memory_limit": -1}, ValueError, "memory_limit must be an integer >= 0, got -1"),
    (GOOD, {"memory_limit": 0.5}, ValueError, "memory_limit must be an integer >= 0, got 0.5"),
    (GOOD[None][:0], {}, ValueError, "logits hold no head"),
    (GOOD[None], {"g_init": np.zeros((2, 3))}, ValueError, "g_init has 2 rows for 1 heads"),
    (np.stack([GOOD] * 2), {"g_init": np.zeros((1, 3))}, ValueError, "but there is a head 2"),
    (GOOD, {"callback": 3}, TypeError, "callback must be callable, got int"),
    (GOOD, {"reg": 0.1}, TypeError, "unexpected keyword argument 'reg'; here it is epsilon"),
    (GOOD, {"lamb": 25}, TypeError, "argument 'lamb'; here it is epsilon = 1 / lambda"),
    (GOOD, {"numItermax": 9}, TypeError, "argument 'numItermax'; here it is max_iter"),
    (GOOD, {"stopThr": 1e-9}, TypeError, "argument 'stopThr'; here it is tol"),
    (GOOD, {"sizes": [2, 2, 2]}, TypeError, "'sizes'; here it is a keyword of balanced_labels"),
    (GOOD, {"n_clusters": 3}, TypeError, "'n_clusters'; here it is the number of columns"),
    (GOOD, {"wrong": 1}, TypeError, "argument 'wrong'; help.sinkhorn_ot.sinkhorn. lists them"),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("logits", "kwargs", "error", "message"), CASES, ids=[case[3] for case in CASES]
)
def test_refused_with_a_useful_message(backend, logits, kwargs, error, message):
    before = np.array(logits) if isinstance(logits, np.ndarray) else None
    with pytest.raises(error, match=message):
        sinkhorn(logits, **{"backend": backend, **kwargs})
    if before is not None:
        np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_first_bad_row_is_named_in_a_large_input(backend):
    """Also when another thread meets a later one first."""
    logits = np.zeros((5000, 40), np.float32)
    logits[[4999, 3333, 1234], 7] = np.nan
    with pytest.raises(ValueError, match=re.escape("logits[1234, 7] is nan")):
        equipartition_labels(logits, backend=backend)


def test_heads_of_several_lengths_are_refused_before_they_are_solved():
    """Their labels would not stack; nobody is asked after the head before."""
    solved = []
    heads = iter([GOOD, GOOD, GOOD[:4], GOOD])
    with pytest.raises(ValueError, match=r"head 2: .* 4 rows, but those .* have 6"):
        equipartition_labels(heads, callback=lambda info: solved.append(info.n_passes) or False)
    both = len(solved)
    assert next(heads) is GOOD
    assert len(sinkhorn(iter([GOOD, GOOD[:4]]))) == 2
    assert len(solved) == both


def test_row_forbidden_by_unused_clusters():
    """Finite logits only where b = 0 are no way out either."""
    logits = GOOD.copy()
    logits[3, :2] = -np.inf
    with pytest.raises(ValueError, match=r"row 3 .* among the clusters with b > 0"):
        sinkhorn(logits, b=[0.5, 0.5, 0.0])


def test_result_methods_refuse_other_shapes_and_libraries():
    result = sinkhorn(GOOD)
    with pytest.raises(ValueError, match="plan needs the 6 rows"):
        result.plan(GOOD[:3])
    with pytest.raises(ValueError, match="3 clusters of this result"):
        result.predict(GOOD[:, :2])
    with pytest.raises(TypeError, match="got a Tensor"):
        result.predict(torch.tensor(GOOD))
    with pytest.raises(ValueError, match="row 4 of logits holds NaN"):
        result.soft_labels(with_entry(np.nan))
    with pytest.raises(ValueError, match="row 4 of logits holds NaN"):
        result.plan(with_entry(np.nan))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_marginals_of_16_bits_may_be_rounded(dtype):
    """They sum to 1 as nearly as their dtype can, and are normalised in float64."""
    prior = torch.rand(50, generator=torch.Generator().manual_seed(0)).to(dtype)
    b = prior / prior.sum()
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1))
    result = sinkhorn(logits, b=b, epsilon=0.5)
    exact = sinkhorn(logits, b=b.double() / b.double().sum(), epsilon=0.5)
    assert torch.equal(result.g, exact.g)
    with pytest.raises(ValueError, match="b must sum to 1, got"):
        sinkhorn(logits, b=1.1 * b)
