"""Shared fixtures: seeded problems, and the SIMD levels this machine can run."""

from collections.abc import Callable
from pathlib import Path

import machines
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


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA extension, compiled for the host."""
    return machines.build_module(tmp_path_factory.mktemp("host_library"), machines.SOURCES)


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    """Seeded N x K normal logits."""

    def make(n: int, k: int, std: float = 1.0, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(0, std, (n, k))

    return make
