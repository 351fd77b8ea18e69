"""A machine that runs the PTX which nvcc makes of the .cu sources.

Only the kernels are replaced: the launches are those of csrc/cuda, built for the host, which hand
the name of a kernel, its grid and the bytes of its arguments to a stand-in. It looks the kernel up
in the PTX and interprets it (tests/kernels/ptx).
"""

import ctypes
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from machines import load
from ptx import Machine as Interpreter
from ptx import parse
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_variants import Variant, variant_of

from sinkhorn_ot.backends.gpu.cuda import CudaKernels
from sinkhorn_ot.backends.gpu.triton import GPU, LEAST_WARPS, Launch, TritonKernels

STAND_IN = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint * 3), ctypes.POINTER(ctypes.c_uint * 3),
    ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t),
)  # fmt: skip


class Symbol(ctypes.Structure):
    """Dl_info of <dlfcn.h>."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("file", "base")] + [
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


class PtxKernels(CudaKernels):
    """Launches whose kernels are interpreted; what they read and wrote is added up."""

    def __init__(self, library: Path, ptx: Callable[[str], str]) -> None:
        super().__init__(load(library))
        self.ptx = ptx  # the text of a unit of csrc/cuda
        self.units: dict[str, Any] = {}
        self.programs: dict[int, Any] = {}
        self.interpreter = Interpreter(self.programs)
        self.storages: dict[int, int] = {}
        self.keep: list[Any] = []
        self.launches: list[tuple[str, Interpreter, dict[int, int]]] = []
        self.error: BaseException | None = None
        self.libdl = ctypes.CDLL(None)
        self.callback = STAND_IN(self._launch)  # kept: C calls it
        self.set_stand_in = ctypes.CDLL(str(library)).sinkhorn_set_stand_in

    def address(self, x: Any) -> int:
        """Return where the interpreter has a tensor; 0 for None."""
        return 0 if x is None else place(x, self.interpreter, self.storages, self.keep)

    def _queue(self, function: Any, *arguments: Any, on: Any) -> None:
        self.set_stand_in(self.callback)
        try:
            super()._queue(function, *arguments, on=on)
        finally:
            self.set_stand_in(None)
        self.interpreter, self.storages, self.keep = Interpreter(self.programs), {}, []
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _launch(self, kernel: Any, grid: Any, block: Any, shared: int, n: int, values: Any,
                sizes: Any) -> None:  # fmt: skip
        try:
            symbol = Symbol()
            assert self.libdl.dladdr(ctypes.c_void_p(kernel), ctypes.byref(symbol))
            name = symbol.name.decode()
            arguments = [np.void(ctypes.string_at(values[i], sizes[i])) for i in range(n)]
            self.interpreter.launch(
                self._kernel(name), list(grid[0]), list(block[0]), arguments, shared
            )
            if self.interpreter.races:
                raise RuntimeError(f"{name}: {self.interpreter.races}")
            self.launches.append((name, self.interpreter, dict(self.storages)))
        except BaseException as error:  # noqa: BLE001  (C has no exceptions: it is raised again)
            self.error = error

    def _kernel(self, name: str) -> Any:
        # the type of the logits is the first template argument
        types = {"Id": "f64", "If": "f32", "I6__half": "f16", "I13__nv_bfloat16": "bf16"}
        rows = next((u for t, u in types.items() if f"read_rows_kernel{t}" in name), None)
        unit = f"rows_{rows}" if rows else "minibatch" if "minibatch" in name else "passes"
        if unit not in self.units:
            self.units[unit] = parse(self.ptx(unit))
        return self.units[unit].kernel(name)


def compile_variant(variant: Variant, target: GPUTarget) -> Any:
    """Compile a Triton kernel ahead of time."""
    if "constants" in inspect.signature(ASTSource).parameters:  # Triton 3.2
        from triton.backends.compiler import AttrsDescriptor

        aligned = {"tt.divisibility": list(variant.aligned)}
        source = ASTSource(
            fn=variant.kernel,
            signature={n: kind for n, kind in variant.signature.items() if kind != "constexpr"},
            constants=variant.constants,
            attrs=AttrsDescriptor.from_dict({"arg_properties": aligned, "cls": "AttrsDescriptor"}),
        )
    else:
        source = ASTSource(
            fn=variant.kernel,
            signature=variant.signature,
            constexprs=variant.constants,
            attrs={(place,): [["tt.divisibility", 16]] for place in variant.aligned},
        )
    return triton.compile(source, target=target, options={"num_warps": variant.warps})


class TritonPtxKernels(TritonKernels):
    """Launches of the PTX that Triton makes for a GPU, on tensors of this host."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)
        self.compiled: dict[Any, tuple[Any, Any]] = {}
        self.programs: dict[int, Any] = {}
        self.launches: list[tuple[str, Interpreter, dict[int, int], Any]] = []

    def tile(self, k: int, exact: bool, on: Any) -> Any:
        """Return the tile of a GPU."""
        return super().tile(k, exact, torch.device("meta"))

    def _cut(self, on: Any) -> Launch:
        return GPU

    def _queue(
        self, name: str, grid: Any, on: Any, warps: int = LEAST_WARPS, **arguments: Any
    ) -> None:
        variant = variant_of(name, warps, arguments)
        key = repr((name, variant.signature, variant.constants, variant.aligned, warps))
        if key not in self.compiled:
            code = compile_variant(variant, self.target)
            self.compiled[key] = code, parse(code.asm["ptx"]).kernel(name)
        code, kernel = self.compiled[key]
        interpreter, storages, keep = Interpreter(self.programs), {}, []
        plain = []
        for parameter, kind in variant.signature.items():
            if kind == "constexpr":
                continue
            value = arguments[parameter]
            if isinstance(value, torch.Tensor):
                value = place(value, interpreter, storages, keep)
            plain.append(value)
        plain += [0] * (len(kernel.parameters) - len(plain))  # scratch that is not wanted
        interpreter.launch(kernel, list(grid), 32 * warps, plain, code.metadata.shared)
        if interpreter.races:
            raise RuntimeError(f"{name}: {interpreter.races}")
        self.launches.append((name, interpreter, storages, code))


def place(x: Any, interpreter: Interpreter, storages: dict[int, int], keep: list[Any]) -> int:
    """Register the storage of a tensor with an interpreter: kernels may not leave it."""
    storage = x.untyped_storage()
    start = storage.data_ptr()
    if start not in storages:
        view = (ctypes.c_uint8 * max(storage.nbytes(), 1)).from_address(start or id(keep))
        keep.append(storage)
        storages[start] = interpreter.pointer(np.frombuffer(view, np.uint8))
    return storages[start] + x.data_ptr() - start
