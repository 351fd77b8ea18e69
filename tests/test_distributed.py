"""process_group=: rows over two and three processes give what one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sharded import cases

from sinkhorn_ot import equipartition_labels, sinkhorn

HERE = Path(__file__).parent
CASES = {case.name: case for case in cases()}


@pytest.fixture(scope="module", params=[2, 3])
def outs(request, tmp_path_factory):
    """What the processes of a group found, in the order of ranks."""
    folder, size = tmp_path_factory.mktemp("group"), request.param
    path = os.pathsep.join([str(HERE), str(HERE.parent / "benchmarks"), str(HERE.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    group = [
        subprocess.Popen(
            [sys.executable, str(HERE / "sharded.py"), str(rank), str(size), str(folder)],
            env=environment,
        )
        for rank in range(size)
    ]
    assert [process.wait(timeout=300) for process in group] == [0] * size
    return [torch.load(folder / f"out-{size}-{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def alone():
    return {name: sinkhorn(case.logits, **case.options) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_group_finds_what_one_process_finds(outs, alone, name):
    # Not only the optimum, within tol: the same path to it, whatever the cuts, sketch and all.
    truth = alone[name]
    # float32 sums of few rows in another order differ; the Hessian magnifies that
    few = len(CASES[name].logits) < 10_000 and "double" not in name
    tolerance = 5e-7 if few else 1e-8
    labels = torch.cat([out[name][0] for out in outs])
    f = torch.cat([out[name][1] for out in outs])
    assert torch.equal(labels, torch.as_tensor(truth.labels))
    for out in outs:
        _, _, g, n_iter, violation, converged, _ = out[name]
        assert (g - torch.as_tensor(truth.g)).abs().max() < tolerance
        assert torch.equal(g, outs[0][name][2])  # to the bit among the processes
        assert (n_iter, converged) == (truth.n_iter, truth.converged)
        assert violation == pytest.approx(truth.marginal_violation, rel=1e-3, abs=1e-8)
    assert (f - torch.as_tensor(truth.f)).abs().max() < 1e-6
    if name not in ("underflow", "reference"):  # which count what each process reads again
        assert outs[0][name][6] == pytest.approx(truth.n_passes, rel=0.02)


def test_the_cases_hold_part_of_the_rows_and_all_of_them(alone):
    # else the sketch of a group would be tested in one of its two states only
    assert alone["partial"].n_passes < 8
    assert alone["whole"].converged


def test_heads_are_solved_one_after_the_other(outs):
    stack = np.random.default_rng(1).normal(size=(3, 600, 8))
    labels = torch.cat([out["stack"] for out in outs], 1)
    assert torch.equal(labels, torch.from_numpy(equipartition_labels(stack)))


def test_one_process_stops_all_and_rank_0_warns(outs):
    assert [out["stopped"] for out in outs] == [(1, 2)] + [(1, 0)] * (len(outs) - 1)
    assert [out["warnings"] for out in outs] == [1] + [0] * (len(outs) - 1)


def test_a_mistake_in_one_process_is_an_error_in_all(outs):
    last = len(outs) - 1
    row = sum(100 + rank for rank in range(last)) + 3
    expected = {
        "bad row": f"ValueError: row {row} of the logits of all processes, which is row 3 of rank "
        f"{last}, is bad",
        "columns": f"ValueError: the number of columns of logits must be the same in all "
        f"processes: rank 0 has 5, rank {last} has 4",
        "dtype": "ValueError: the dtype of logits must be the same",
        "epsilon": f"ValueError: epsilon must be the same in all processes: rank 0 has 0.2, rank "
        f"{last} has 0.1",
        "g_init": "ValueError: the sum of g_init * index must be the same",
        "a": "ValueError: a must sum to 1, got",
        "nobody": "ValueError: no process of the group has any rows",
        "no room": "ValueError: method='newton' has no room",
        "group": "TypeError: process_group must be a torch.distributed.ProcessGroup",
    }
    for rank, out in enumerate(outs):
        for name, text in expected.items():
            assert out["said"][name].startswith(text), (rank, name)
        own = "" if rank == last else f"rank {last} of the group: "
        assert out["said"]["integers"].startswith(f"TypeError: {own}logits must be one of")
        assert out["said"]["method"].startswith(f"ValueError: {own}method must be one of")
