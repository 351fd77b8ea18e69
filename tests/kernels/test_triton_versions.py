"""Which Tritons, platforms and GPUs the backend takes, and what it answers for the others.

That the kernels run in each of them is what `make test-triton-versions` shows.
"""

import sys

import numpy as np
import pytest
import torch
import triton
from triton_variants import variants

from sinkhorn_ot.arrays import Place
from sinkhorn_ot.backends.gpu.triton import bits, why_not

PLACE = Place(torch, torch.device("cuda", 0))


@pytest.fixture
def pretend(monkeypatch):
    """An NVIDIA GPU of some compute capability, and a Triton of some version."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def set_up(version, capability=(9, 0)):
        monkeypatch.setattr(triton, "__version__", version)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return why_not(PLACE)

    return set_up


@pytest.mark.parametrize("version", ["3.2.0", "3.3.1+git1234", "3.6.0", "3.9.0", "3.10.0", "4.0.0"])
def test_supported(pretend, version):
    assert pretend(version) is None


def test_too_old(pretend):
    assert "3.1.0 is too old" in pretend("3.1.0")


def test_blackwell_needs_triton_3_3(pretend):
    assert "compute capability 12.0" in pretend("3.2.0", (12, 0))
    assert pretend("3.3.0", (12, 0)) is None


def test_other_platforms(pretend, monkeypatch):
    """AMD's torch calls its devices cuda, and has compute capabilities that look like NVIDIA's."""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "built for AMD GPUs" in pretend("3.6.0", (9, 4))
    monkeypatch.setattr(sys, "platform", "win32")
    assert "supported on Linux, not on win32" in pretend("3.6.0")


def test_interpreters_that_fail_with_a_later_numpy(pretend, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(np, "__version__", "2.4.0")
    assert "pip install 'numpy<2.4'" in pretend("3.6.0")
    assert pretend("3.7.0") is None
    monkeypatch.setattr(np, "__version__", "2.3.5")
    assert pretend("3.6.0") is None


@pytest.mark.parametrize("number", [0.05, -0.0, 1 / 3, 5e-324, float("nan")])
def test_float64_arguments_keep_their_bits(number):
    assert np.array(bits(number)).view(np.float64).tobytes() == np.float64(number).tobytes()


def test_no_argument_is_a_float64():
    """Triton 3.2 and 3.3 hand over every Python float as a float32."""
    for variant in variants(100, torch.float32, weighted=True):
        assert "fp64" not in variant.signature.values(), variant.name
        assert "" not in variant.signature.values(), variant.name
