"""What the Triton backend would launch, without a launch: for those who compile ahead of time."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import product
from typing import Any

from sinkhorn_ot.arrays import Array, dtype_name, is_torch
from sinkhorn_ot.backends.gpu.minibatch import DeviceMinibatch
from sinkhorn_ot.backends.gpu.passes import DevicePasses
from sinkhorn_ot.backends.gpu.triton import LEAST_WARPS, TritonKernels, kernel_of
from sinkhorn_ot.passes import Problem

#: How Triton writes the type of a pointer.
POINTERS = {
    "float64": "*fp64",
    "float32": "*fp32",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "int64": "*i64",
    "int32": "*i32",
}


@dataclass(frozen=True)
class Variant:
    """A kernel as it is launched: all that a compiler ahead of time needs to know."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]  # arguments that are multiples of 16
    warps: int


def variants(k: int, dtype: Any, *, aligned: bool = True, weighted: bool = False) -> list[Variant]:
    """All that rows of k entries launch, for those who compile ahead of time.

    Parameters
    ----------
    k
        Entries of a row.
    dtype
        Their torch dtype.
    aligned
        Whether rows start at multiples of 16 bytes.
    weighted
        Whether rows have masses of their own.
    """
    torch = importlib.import_module("torch")
    n, padded = 1 << 16, -(-k // 16) * 16 if aligned else k + 1 - k % 2
    logits = torch.empty((n, padded), dtype=dtype, device="meta")[:, :k]
    b = torch.empty(k, dtype=torch.float64, device="meta")
    recorder = Recorder()
    a = torch.empty(n, dtype=torch.float64, device="meta") if weighted else None
    passes = DevicePasses(Problem(logits, a, b, 0.05), recorder)
    for exact, assign in product((False, True), repeat=2):
        passes.read(b, exact=exact, assign=assign)
    kept = passes.keep(1 << 20)
    passes.read(b, kept=kept)
    recorder.add_segments(kept.by_row, b, None, b, None)
    recorder.add_segments(kept.by_column, b, b, b, b)
    for n_valid in (None, torch.empty(1, dtype=torch.int64, device="meta")):
        step = DeviceMinibatch(logits[None], 0.05, n_valid, recorder)
        step.last(step.next(step.first()[0]), logits[None])
    return recorder.variants


class Recorder(TritonKernels):
    """Notes what would be launched."""

    def __init__(self) -> None:
        self.variants: list[Variant] = []

    def _queue(
        self,
        name: str,
        grid: tuple[int, ...],
        on: Array,
        warps: int = LEAST_WARPS,
        **arguments: Any,
    ) -> None:
        variant = variant_of(name, warps, arguments)
        if variant not in self.variants:
            self.variants.append(variant)


def variant_of(name: str, warps: int, arguments: dict[str, Any]) -> Variant:
    """Return what a compiler has to know of a launch."""
    kernel = kernel_of(name)
    signature, constants, aligned = {}, {}, []
    for place, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif is_torch(value):
            signature[parameter.name] = POINTERS[dtype_name(value)]
            if value.storage_offset() * value.element_size() % 16 == 0:
                aligned.append(place)
        else:
            # the type that is annotated; Triton before 3.4 knows only those of integers
            signature[parameter.name] = (
                "fp32" if isinstance(value, float) else parameter.annotation_type
            )
    return Variant(name, kernel, signature, constants, tuple(aligned), warps)
