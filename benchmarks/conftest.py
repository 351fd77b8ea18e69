"""Options of ``pytest benchmarks``, and how a function is measured there."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import pytest
from machine import machine, versions
from measuring import yardstick
from numpy.typing import NDArray
from problems import size_of

#: Rounds of a benchmark at most, however short; and at least, but for what takes twice --seconds.
ROUNDS, LEAST = 200, 3
#: Seconds from which on a first call tells well enough how long the next ones take.
LONG = 1.0
Read = Callable[[NDArray[Any]], float]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this suite."""
    group = parser.getgroup("sinkhorn_ot")
    group.addoption(
        "--size", action="append", type=size_of, help="NxK (or BxK), in place of each file's SIZES"
    )
    group.addoption("--seconds", type=float, default=0.5, help="for the rounds of a benchmark")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a size at those of its file, or of the command line."""
    if "size" in metafunc.fixturenames:
        sizes = metafunc.config.getoption("--size") or metafunc.module.SIZES
        metafunc.parametrize("size", sizes, ids=[f"{n}x{k}" for n, k in sizes])


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    """Tell what the speed depends on, and not whose machine it is."""
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    return {"machine": machine(), "threads": threads, **versions("numpy", "torch")}


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Leave out each round's time, what is told twice, digits that mean nothing, and the branch."""
    commit = output_json["commit_info"]
    output_json["commit_info"] = {name: commit[name] for name in ("id", "dirty")}
    for each in output_json["benchmarks"]:
        del each["stats"]["data"], each["options"], each["params"]
    output_json["benchmarks"] = json.loads(
        json.dumps(output_json["benchmarks"]), parse_float=lambda x: float(f"{float(x):.4g}")
    )


@pytest.fixture(scope="session")
def read() -> Read:
    """Return what measures R."""
    return yardstick()


class Measured:
    """Measures a function; what else is to be recorded of it goes into `info`."""

    def __init__(self, benchmark: Any, seconds: float, read: Read) -> None:
        self._benchmark, self._seconds, self._read = benchmark, seconds, read
        self.info: dict[str, Any] = benchmark.extra_info

    def __call__(
        self,
        run: Callable[[], Any],
        x: NDArray[Any],
        *,
        group: str,
        solver: str,
        role: Literal["ours", "yardstick", "peer"],
        packages: list[str],
        prepare: Callable[[], object] | None = None,
    ) -> Any:
        """Measure `run`, which works on the array `x`; return what it returns.

        It runs once to be warm, and again to be timed if that was short, as first calls are slow.
        Then it runs for as long as ``--seconds`` says. R is measured before each run; the first R
        is left out.
        """
        self._benchmark.group, reads = group, []

        def setup() -> None:
            if prepare is not None:
                prepare()
            reads.append(self._read(x))

        once = 0.0
        for _ in range(2):
            if once < LONG:
                setup()
                start = time.perf_counter()
                run()
                once = time.perf_counter() - start
        least = LEAST if once < 2 * self._seconds else 1
        rounds = max(least, min(ROUNDS, int(self._seconds / once)))
        answer = self._benchmark.pedantic(run, setup=setup, rounds=rounds)
        self.info.update(
            solver=solver,
            role=role,
            R=statistics.median(reads[1:]),
            bytes=x.nbytes,
            versions=versions(*packages),
        )
        return answer


@pytest.fixture
def measured(benchmark: Any, pytestconfig: pytest.Config, read: Read) -> Measured:
    """Return what measures a function for ``--seconds``."""
    return Measured(benchmark, pytestconfig.getoption("--seconds"), read)
