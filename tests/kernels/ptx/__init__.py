"""A PTX interpreter for tests: runs what nvcc and Triton emit, without a GPU."""

from .interpreter import Machine
from .memory import Traffic
from .parser import parse
from .program import Kernel, Module
from .scalars import PtxError

__all__ = ["Kernel", "Machine", "Module", "PtxError", "Traffic", "parse"]
