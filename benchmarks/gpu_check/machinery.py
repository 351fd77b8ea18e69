"""The machines whose kernels are checked: what a user gets on a GPU, or the stand-ins for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machines
import torch

from gpu_check.stage import Stage
from sinkhorn_ot import backends, sinkhorn
from sinkhorn_ot.arrays import place_of

#: Names of tests/kernels/machines.py, by device.
NAMES = {"cuda": ("cuda", "triton"), "cpu": ("host", "interpreter")}
#: Where the build stage puts the CUDA kernels that are compiled for the host.
HOST_LIBRARY = Path("_cuda_host.so")


def machines_of(stage: Stage) -> dict[str, machines.Machine]:
    """Return the machines that can run here; record why another one cannot."""
    found = {}
    for name in NAMES[stage.device]:
        try:
            machine = machines.machine(name, lambda: stage.source / HOST_LIBRARY)
            probe = torch.zeros((2, 2), device=machine.device)
            reason = machine.backend.why_not(place_of(probe))
        except (OSError, ImportError) as error:
            reason = str(error)
        if reason:
            stage.record(machine=name, unavailable=reason)
        else:
            found[name] = machine
    return found


def solver_of(machine: machines.Machine) -> Callable[..., Any]:
    """Return `sinkhorn` on a machine."""
    name = machine.backend.name
    others = [one for one in backends.BACKENDS if one.name != name]
    backends.BACKENDS = (*others, machine.backend)
    return functools.partial(sinkhorn, backend=name)


def synchronise(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if device == "cuda":
        torch.cuda.synchronize()
