"""The build of the CUDA kernels for the host, which several tests run."""

from pathlib import Path

import machines
import pytest


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA extension, compiled for the host."""
    return machines.build_module(tmp_path_factory.mktemp("host_library"), machines.SOURCES)
