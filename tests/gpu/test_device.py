"""What only a GPU can show: streams, graphs, a second device, and who is chosen. `make test-gpu`.

Without a GPU these fail, and say so: there is nothing that could stand in for them.
"""

import numpy as np
import pytest
import torch

import sinkhorn_ot
from sinkhorn_ot import equipartition_labels, sinkhorn


@pytest.fixture(scope="module", params=["cuda", "triton"])
def backend(request):
    assert torch.cuda.is_available(), "tests/gpu needs a GPU"
    reason = sinkhorn_ot.available_backends()[request.param]
    assert reason == "ok", reason
    return request.param


def normal(n, k, device="cuda", dtype=torch.float32, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, k))
    return torch.tensor(values).to(dtype).to(device)


def test_auto_prefers_the_gpu(backend):
    result = sinkhorn(normal(1000, 10))
    assert result.backend in ("cuda", "triton")
    assert result.labels.is_cuda
    assert sinkhorn(normal(1000, 10, "cpu")).backend == "cpu"
    assert sinkhorn_ot.available_backends(normal(9, 3, "cpu"))[backend] != "ok"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_large_solve_agrees_with_the_cpu(backend, dtype):
    logits = normal(200_000, 300, dtype=dtype)
    result = sinkhorn(logits, epsilon=0.1, tol=1e-5, backend=backend)
    expected = sinkhorn(logits.cpu(), epsilon=0.1, tol=1e-5, backend="cpu")
    assert result.converged
    assert (result.labels.cpu() == expected.labels).double().mean() > 0.9999
    torch.testing.assert_close(result.g.cpu(), expected.g, rtol=0, atol=1e-4)


def test_the_current_stream_is_used(backend):
    """The logits are made on a side stream, behind a long queue, and nobody waits for them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        slow = torch.randn(4000, 4000, device="cuda")
        for _ in range(20):
            slow = slow @ slow / slow.norm()
        logits = normal(5000, 50) + 0 * slow[0, 0]
        labels = equipartition_labels(logits, backend=backend)
    stream.synchronize()
    assert labels.equal(equipartition_labels(logits, backend=backend))


def test_fixed_iterations_go_into_a_cuda_graph(backend):
    logits = normal(5000, 50)
    b, g_init = torch.full((50,), 0.02, device="cuda"), torch.zeros(50, device="cuda")
    options = {"b": b, "g_init": g_init, "tol": 0, "max_iter": 5, "backend": backend}
    equipartition_labels(logits, **options)  # compiles what there is to compile
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels = equipartition_labels(logits, **options)
    for seed in (1, 2):
        logits.copy_(normal(5000, 50, seed=seed))
        graph.replay()
        assert labels.equal(equipartition_labels(logits, **options))


def test_a_graph_cannot_wait_for_convergence(backend):
    logits = normal(5000, 50)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(ValueError, match="pass tol=0"), torch.cuda.graph(graph):
        equipartition_labels(logits, backend=backend)


def test_no_host_wait_but_for_the_violation(backend):
    """Torch reports waits: one for each iteration of a textbook solve, and some at its ends."""
    logits = normal(20_000, 100)
    sinkhorn(logits, method="sinkhorn", tol=1e-4, backend=backend)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as waits:
            result = sinkhorn(logits, method="sinkhorn", tol=1e-4, backend=backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) <= result.n_iter + 10


def test_a_second_device(backend):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    logits = normal(5000, 50, "cuda:1")
    labels = equipartition_labels(logits, backend=backend)
    assert labels.device == logits.device
    assert labels.cpu().equal(equipartition_labels(logits.cpu(), backend="cpu"))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_graph(backend, mode):
    logits = normal(5000, 50)
    compiled = torch.compile(
        lambda x: equipartition_labels(2 * x, backend=backend), fullgraph=True, mode=mode
    )
    assert compiled(logits).equal(equipartition_labels(2 * logits, backend=backend))


@pytest.mark.parametrize("limit", [0.1, 0.3])
def test_a_memory_limit_is_kept(backend, limit):
    logits = normal(500_000, 200)
    bytes_ = int(limit * logits.nbytes)
    sinkhorn(logits, backend=backend)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = sinkhorn(logits, backend=backend, memory_limit=bytes_)
    returned = result.labels.nbytes + result.f.nbytes + result.g.nbytes
    assert torch.cuda.max_memory_allocated() - before - returned <= bytes_
