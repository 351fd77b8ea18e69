"""`make bench`: sinkhorn_ot beside its peers, from float32 logits to labels at equal violation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from problems import FAMILIES, make_logits, true_violation
from pytest_benchmark.fixture import BenchmarkFixture
from solvers import SOLVERS

N, K, TOL, ROUNDS = 100_000, 1_000, 1e-3, 3


@pytest.fixture(scope="module", params=FAMILIES)
def problem(request: pytest.FixtureRequest) -> tuple[str, NDArray[np.float32]]:
    """One family at the size of the benchmark."""
    return request.param, make_logits(request.param, N, K)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solve(
    benchmark: BenchmarkFixture, problem: tuple[str, NDArray[np.float32]], solver: str
) -> None:
    """Time the whole way from logits to labels; the answer must be right."""
    family, logits = problem
    benchmark.group = family
    answer = benchmark.pedantic(SOLVERS[solver], (logits, TOL), rounds=ROUNDS)
    violation = true_violation(logits, answer.g)
    assert violation <= 1.05 * TOL  # equal work: the speed of a wrong answer means nothing
    benchmark.extra_info.update(
        family=family, solver=solver, n_iter=answer.n_iter, violation=violation
    )
