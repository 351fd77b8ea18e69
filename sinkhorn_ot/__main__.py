"""``python -m sinkhorn_ot``: label a file, prove labels, or say what can run here."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sinkhorn_ot.api import available_backends, sinkhorn
from sinkhorn_ot.backends import cpu
from sinkhorn_ot.exact.balanced import balanced_labels
from sinkhorn_ot.exact.certificate import bounds
from sinkhorn_ot.exact.result import BalancedProgress
from sinkhorn_ot.passes import Progress

#: `verify` calls labels optimal if the gap is at most this part of the sum of their |logits|.
OPTIMAL = 1e-9
LOGITS = "logits must be a .npy matrix (N x K)"
LABELS = "labels must be a file of N integers (.npy, or a number a line)"
SIZES = "--sizes must be a file of K integers (.npy, or a number a line)"
G = "g must be a .npy file of K potentials"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sinkhorn_ot", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add = commands.add_parser("solve", help="balanced labels of the rows of a .npy file")
    add.add_argument("logits", type=Path, help="N x K matrix (.npy), read as a memory map")
    add.add_argument("-o", "--out", type=Path, required=True, help="labels, .npy or .csv")
    add.add_argument("--potentials", type=Path, help="also write g (.npy), which `verify` takes")
    add.add_argument("--exact", action="store_true", help="classes of exactly equal size")
    add.add_argument("--sizes", type=Path, help="sizes of the classes (.npy, or a number a line)")
    add.add_argument("--epsilon", type=float, help="default: 0.04; not of exact sizes")
    add.add_argument("--tol", type=float, help="default: 0.001; not of exact sizes")
    add.add_argument("--memory-limit", type=int, help="bytes that may be added to the input")
    add.set_defaults(run=solve)
    add = commands.add_parser("verify", help="prove sizes of labels, and how good they are")
    add.add_argument("logits", type=Path, help="N x K matrix (.npy)")
    add.add_argument("labels", type=Path, help="N integers (.npy, or a number a line)")
    add.add_argument("g", type=Path, help="K potentials (.npy)")
    add.set_defaults(run=verify)
    add = commands.add_parser("doctor", help="versions, backends and reasons, for a bug report")
    add.set_defaults(run=doctor)
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        return doctor(options) if options.command is None else int(options.run(options))
    except (OSError, ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def solve(options: argparse.Namespace) -> int:
    """Label a file; under torchrun each process labels its part of the rows."""
    given = {name: getattr(options, name) for name in ("epsilon", "tol")}
    given = {name: value for name, value in given.items() if value is not None}
    exact = options.exact or options.sizes is not None
    if exact and given:
        raise ValueError(
            f"labels of exact sizes have no {' and no '.join(given)}: leave out "
            f"{' and '.join(f'--{name}' for name in given)}, or --exact and --sizes"
        )
    _check_targets(options)
    logits, size, rank = _matrix(options.logits), *_processes()
    sizes = None if options.sizes is None else _load(options.sizes, SIZES, text=True).ravel()
    n = len(logits)
    group: Any = None
    if size > 1:
        group = _join()
        logits = logits[n * rank // size : n * (rank + 1) // size]
    bar = _Bar(quiet=rank > 0)
    shared = {"memory_limit": options.memory_limit, "process_group": group, "callback": bar}
    result: Any
    if exact:
        result = balanced_labels(logits, sizes=sizes, **shared)
    else:
        result = sinkhorn(logits, **given, **shared)
    bar.close()
    labels = result.labels if group is None else _gather(group, result.labels)
    if rank == 0:
        _save(options.out, labels)
        if options.potentials is not None:
            np.save(options.potentials, result.g)
        counts = np.bincount(labels, minlength=len(result.g))
        print(f"{result!r}\nsizes {counts.min()} to {counts.max()}; labels in {options.out}")
    if exact or result.converged or options.tol == 0:  # --tol 0 asks for steps, not for an end
        return 0
    if rank == 0:
        print("not solved to --tol: labels are those of the least violation", file=sys.stderr)
    return 1


def verify(options: argparse.Namespace) -> int:
    """Print sizes and gap; the status is 0 if the labels are optimal for their sizes."""
    logits, g = _matrix(options.logits), _load(options.g, G)
    labels = _load(options.labels, LABELS, text=True).ravel()
    n, k = logits.shape
    if labels.shape != (n,) or g.shape != (k,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"for logits of shape {(n, k)} there must be {n} integers and {k} potentials, got "
            f"{labels.dtype} labels of shape {labels.shape} and g of shape {g.shape}"
        )
    if n and not 0 <= labels.min() <= labels.max() < k:
        raise ValueError(f"labels must be in 0..{k - 1}, got {labels.min()} to {labels.max()}")
    counts = np.bincount(labels, minlength=k)
    found = bounds(logits, labels, g, counts, counts)
    scale = np.abs(logits[np.arange(n), labels], dtype=np.float64).sum()
    optimal = abs(found.gap) <= OPTIMAL * scale < math.inf
    print(f"sizes        {counts.min()} to {counts.max()} ({n} samples, {k} classes)")
    print(f"objective    {found.objective!r}")
    print(f"upper bound  {found.upper_bound!r}")
    print(f"gap          {found.gap:.3g}: {'optimal' if optimal else 'not proved optimal'}")
    return 0 if optimal else 1


def doctor(_: argparse.Namespace) -> int:
    """Print versions, backends and reasons."""
    print(f"sinkhorn_ot {importlib.metadata.version('sinkhorn_ot')}")
    print(f"python      {platform.python_version()} on {platform.platform()}")
    for package in ("numpy", "torch", "triton"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"{package:<11} {version}")
    print("backends")
    for name, reason in available_backends().items():
        print(f"  {name:<10} {reason}")
    if cpu.why_not(None) is None:
        forced = os.environ.get("SINKHORN_OT_SIMD")
        try:
            level = cpu.simd_level() + (" (SINKHORN_OT_SIMD)" if forced else "")
        except ValueError as error:
            level = f"unusable: {error}"
        print(f"cpu core    {cpu.threads()} threads, SIMD {level}")
    return 0


class _Bar:
    """A line on the terminal that is written over: reads, what is left, seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self.shows = sys.stderr.isatty() and not quiet

    def __call__(self, info: Progress | BalancedProgress) -> bool:
        if self.shows:
            if isinstance(info, Progress):
                left = f"violation {info.marginal_violation:.2e}"
            else:
                left = "potentials" if info.to_repair is None else f"{info.to_repair} to repair"
            line = f"{info.n_passes:7.1f} reads  {left:<24} {info.seconds:7.1f} s"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        return False

    def close(self) -> None:
        if self.shows:
            print(file=sys.stderr)


def _check_targets(options: argparse.Namespace) -> None:
    """Refuse, before the solve, files that cannot be written and those that are its input."""
    used = {"the logits": options.logits, "the sizes": options.sizes}
    for flag, path, suffixes in (
        ("-o", options.out, (".npy", ".csv")),
        ("--potentials", options.potentials, (".npy",)),
    ):
        if path is None:
            continue
        what = "labels" if flag == "-o" else "potentials"
        if path.suffix not in suffixes:
            raise ValueError(f"{what} go into a {' or a '.join(suffixes)} file, got {flag} {path}")
        for name, other in used.items():
            if other is not None and _same(path, other):
                raise ValueError(f"{flag} {path} would overwrite {name}; name another file")
        used[f"the {what}"] = path
        if not path.parent.is_dir():
            raise ValueError(f"{flag} {path}: there is no folder {path.parent}; make it first")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f"{flag} {path} cannot be written here; name another file")


def _same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def _matrix(path: Path) -> Any:
    logits = _load(path, LOGITS)
    if logits.ndim != 2:
        raise ValueError(f"{LOGITS}, got shape {logits.shape} in {path}")
    return logits


def _load(path: Path, wanted: str, *, text: bool = False) -> Any:
    """An array of a file: .npy as a memory map; with `text` others as integers, one a line."""
    if not path.exists():
        raise FileNotFoundError(f"{wanted}, got {path}, which does not exist")
    if not text and path.suffix != ".npy":
        raise ValueError(f"{wanted}, got {path}")
    try:
        if path.suffix != ".npy":
            return np.loadtxt(path, dtype=np.int64, ndmin=1)
        values = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{wanted}, got {path}: {error}") from error
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{wanted}, got an archive of arrays in {path}")
    return values


def _save(path: Path, labels: Any) -> None:
    if path.suffix == ".npy":
        np.save(path, labels)
    else:
        np.savetxt(path, labels, fmt="%d")


def _processes() -> tuple[int, int]:
    """How many processes torchrun has started, and which one this is."""
    return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))


def _join() -> Any:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    return dist.group.WORLD


def _gather(group: Any, labels: Any) -> Any:
    import torch.distributed as dist

    parts: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(parts, labels, group=group)
    dist.destroy_process_group()
    return np.concatenate(parts)


if __name__ == "__main__":
    sys.exit(main())
