"""Shared fixtures: seeded problems, and the SIMD levels this machine can run."""

from collections.abc import Callable

import numpy as np
import pytest

from sinkhorn_ot import _cpu

LEVELS = _cpu.simd_levels()


@pytest.fixture(params=["avx512", "avx2", "plain"])
def simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one SIMD level for the test; "plain" always runs."""
    if request.param not in LEVELS:
        pytest.skip(f"this processor has no {request.param}: its kernels cannot run here")
    monkeypatch.setenv("SINKHORN_OT_SIMD", request.param)
    return request.param


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    """Seeded N x K normal logits."""

    def make(n: int, k: int, std: float = 1.0, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(0, std, (n, k))

    return make
