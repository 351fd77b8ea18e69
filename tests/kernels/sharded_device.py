"""What each process of a group runs on a machine that stands in for a GPU (see machines.py)."""

import math
import os
from pathlib import Path

import machines
import torch
from sharded import family, masses, outcome, own_rows, peculiar, sink_column

from sinkhorn_ot import backends, sinkhorn
from sinkhorn_ot.backends.gpu.cuda import CudaKernels

CASES = {
    "marginals": family(
        "late", 3000, 30, cuts=(0.37, 0.71), torch_dtype=torch.float32,
        options={"a": torch.tensor(masses(3000)), "tol": 1e-6, "epsilon": 0.1},
    ),
    "a column underflows": peculiar(
        sink_column, n=3000, k=30, torch_dtype=torch.float32, options={"tol": 1e-6, "epsilon": 0.1}
    ),
    "first is empty": family(
        "peaked", 3000, 30, cuts=(0.0, 0.5), torch_dtype=torch.bfloat16, options={"epsilon": 0.1}
    ),
}  # fmt: skip


def on_a_device(rank: int, size: int, group) -> dict:
    """The GPU kernels, compiled for the host."""
    backend = machines.host_of(CudaKernels(machines.load(Path(os.environ[machines.BUILT])))).backend
    backends.BACKENDS = (backend,)
    found = {}
    for name, case in CASES.items():
        logits, rest = own_rows(case, case.input(), rank, size)
        found[name] = sinkhorn(logits, backend="host", process_group=group, **rest)
    logits = torch.full((700, 5), math.nan if rank else 0.0)
    found["nan"] = outcome(lambda: sinkhorn(logits, backend="host", process_group=group))
    return found
