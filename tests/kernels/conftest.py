"""What several tests need compiled; workers of pytest-xdist share it."""

import os
from collections.abc import Callable
from pathlib import Path

import host_programs
import machines
import numpy as np
import pytest
import torch
from cuda_compiler import compile_ptx, find_nvcc
from once import once

NAMES = os.environ.get("SINKHORN_OT_MACHINES", "host").split(",")


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module", params=NAMES)
def machine(request: pytest.FixtureRequest) -> machines.Machine:
    """Each machine that this run of pytest is to use."""
    return machines.machine(request.param, lambda: request.getfixturevalue("host_library"))


@pytest.fixture
def make(machine: machines.Machine) -> Callable[..., torch.Tensor]:
    """Seeded normal logits on the machine's device; and float64 vectors."""

    def tensor(
        *shape: int, dtype: torch.dtype = torch.float64, std: float = 1.0, seed: int = 0
    ) -> torch.Tensor:
        values = np.random.default_rng(seed).normal(0, std, shape)
        return torch.tensor(values).to(dtype).to(machine.device)

    return tensor


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA extension, compiled for the host; or where the environment says that one is."""
    if machines.BUILT in os.environ:
        return Path(os.environ[machines.BUILT])

    def build(folder: Path) -> None:
        machines.build_module(folder, machines.SOURCES)

    return once(tmp_path_factory, "host_library", build) / machines.LIBRARY


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder with the engine of tests/kernels/cuda_host for one of host_programs.BUILDS."""

    def of(name: str) -> Path:
        return once(
            tmp_path_factory,
            f"engine_{name}",
            lambda folder: host_programs.compile_engine(name, folder),
        )

    return of


@pytest.fixture(scope="session")
def nvcc() -> str:
    """A compiler of CUDA."""
    found = find_nvcc()
    assert found, "no nvcc: pip install 'cuda-toolkit[nvcc,cudart,cccl]'"
    return found


@pytest.fixture(scope="session")
def ptx(tmp_path_factory: pytest.TempPathFactory, nvcc: str) -> Callable[[str, int], str]:
    """The PTX of a .cu source of csrc/cuda for an architecture."""

    def of(unit: str, arch: int) -> str:
        folder = once(
            tmp_path_factory,
            f"ptx_{unit}_{arch}",
            lambda folder: compile_ptx(nvcc, unit, arch, folder, machines.SOURCES),
        )
        return (folder / f"{unit}_{arch}.ptx").read_text()

    return of
