"""The build of the CUDA kernels for the host, which several tests run."""

import os
from pathlib import Path

import machines
import pytest


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA extension, compiled for the host; or where the environment says that one is."""
    if "SINKHORN_OT_HOST_LIBRARY" in os.environ:
        return Path(os.environ["SINKHORN_OT_HOST_LIBRARY"])
    return machines.build_module(tmp_path_factory.mktemp("host_library"), machines.SOURCES)
