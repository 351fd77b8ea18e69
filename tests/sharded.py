"""What each process of tests/test_distributed.py does: solve its part of every case."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from problems import make_logits

from sinkhorn_ot import SinkhornWarning, equipartition_labels, sinkhorn


@dataclass
class Case:
    """Logits, options, and where two or three processes cut the rows."""

    name: str
    logits: Any
    cuts: tuple[int, ...]  # of three processes; two take the first and the last part together
    options: dict[str, Any] = field(default_factory=dict)

    def part(self, rank: int, size: int) -> slice:
        """The rows of a process."""
        n = len(self.logits)
        edges = (0, *self.cuts, n) if size == 3 else (0, self.cuts[0], n)
        return slice(edges[rank], edges[rank + 1])

    def options_of(self, rows: slice) -> dict[str, Any]:
        """The options of a process: its part of `a`."""
        own = dict(self.options)
        if "a" in own:
            own["a"] = own["a"][rows]
        return own


def cases() -> Iterator[Case]:
    """All cases; the same in every process."""
    rng = np.random.default_rng(0)

    def problem(family: str, n: int, k: int) -> Any:
        return make_logits(family, n, k)

    small = rng.normal(size=(1437, 10)).astype(np.float32)
    yield Case("digits", small, (719, 1000), {"epsilon": 0.1, "tol": 1e-2})
    yield Case("double digits", small.astype(float), (719, 1000), {"epsilon": 0.1, "tol": 1e-2})
    yield Case("empty first", small, (0, 500), {"epsilon": 0.1})
    yield Case("empty middle", small, (700, 700), {"epsilon": 0.1})
    yield Case("empty last", small, (1437, 1437), {"epsilon": 0.1})
    yield Case("one row", small, (1, 2), {"epsilon": 0.1, "tol": 1e-6})
    for family in ("flat", "peaked", "early", "late"):
        for tol in (1e-3, 1e-6):
            logits = problem(family, 5000, 64)
            yield Case(f"{family} {tol}", logits, (1234, 3210), {"tol": tol})
            yield Case(f"double {family} {tol}", logits.astype(float), (77, 3210), {"tol": tol})
    large = problem("middle", 40_000, 100)
    yield Case("partial", large, (13_333, 20_001), {"tol": 1e-4, "memory_limit": 3_000_000})
    yield Case("whole", large, (7, 39_990), {"tol": 1e-5})
    yield Case("reference", large[:3000, :20], (900, 2000), {"backend": "reference"})
    yield Case("textbook", large, (11_111, 30_000), {"tol": 1e-3, "method": "sinkhorn"})
    yield Case("fixed", large, (11_111, 30_000), {"tol": 0, "max_iter": 4})
    yield Case("double", large.astype(np.float64), (9_999, 30_000), {"tol": 1e-4})
    yield Case("bfloat16", torch.from_numpy(large).bfloat16(), (9_999, 30_000), {"tol": 1e-3})
    yield Case("torch", torch.from_numpy(large), (20_000, 25_000), {"tol": 1e-3})
    a, b = rng.uniform(0.2, 1.8, len(large)), rng.uniform(0.2, 1.8, 100)
    a, b = a / a.sum(), b / b.sum()
    yield Case("marginals", large, (15_000, 31_000), {"a": a, "b": b, "tol": 1e-4})
    start = {"g_init": 0.02 * rng.normal(size=100), "tol": 1e-4}
    yield Case("warm", large, (15_000, 31_000), start)
    far = rng.normal(size=(4000, 50))
    far[:, 7] -= 60.0  # its mass underflows in float32 sums
    yield Case("underflow", far.astype(np.float32), (1500, 2500), {"tol": 1e-3})
    forbidden = rng.normal(size=(4000, 50)).astype(np.float32)
    forbidden[rng.random(forbidden.shape) < 0.5] = -np.inf
    yield Case("forbidden", forbidden, (1500, 2500), {"tol": 1e-4})
    by_class = rng.normal(size=(6000, 30)).astype(np.float32)
    by_class[np.arange(6000), np.arange(6000) // 200] += 8.0  # a process sees ten clusters
    yield Case("sorted", by_class, (2000, 4000), {"tol": 1e-4})


def errors(rank: int, size: int, group: Any) -> dict[str, str]:
    """Mistakes of one process, and what each of them is told."""
    logits = np.random.default_rng(rank).normal(size=(100 + rank, 5))
    last = rank == size - 1
    holed = logits.copy()
    if last:
        holed[3, 1] = np.nan
    other = {"process_group": group}
    a = np.full(len(logits), 1 / 100)
    calls: dict[str, tuple[Any, dict[str, Any]]] = {
        "bad row": (holed, {}),
        "columns": (logits[:, :4] if last else logits, {}),
        "dtype": (logits.astype(np.float32) if last else logits, {}),
        "integers": (logits.astype(int) if last else logits, {}),
        "epsilon": (logits, {"epsilon": 0.1 if last else 0.2}),
        "method": (logits, {"method": "magic" if last else "auto"}),
        "g_init": (logits, {"g_init": np.arange(5.0) * rank}),
        "a": (logits, {"a": a}),
        "nobody": (logits[:0], {}),
        "no room": (logits, {"method": "newton", "memory_limit": 0}),
        "group": (logits, {"process_group": "world"}),
    }
    said = {}
    for name, (x, options) in calls.items():
        try:
            sinkhorn(x, **{**other, **options})
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def main() -> None:
    """Solve this process's part of all cases and save what came out."""
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    group = dist.group.WORLD
    out: dict[str, Any] = {"said": errors(rank, size, group)}
    for case in cases():
        rows = case.part(rank, size)
        result = sinkhorn(case.logits[rows], process_group=group, **case.options_of(rows))
        out[case.name] = [
            *(torch.as_tensor(x) for x in (result.labels, result.f, result.g)),
            result.n_iter, result.marginal_violation, result.converged, result.n_passes,
        ]  # fmt: skip
    stack = np.random.default_rng(1).normal(size=(3, 600, 8))
    mine = stack[:, 200 * rank : 200 * (rank + 1) if rank < size - 1 else 600]
    out["stack"] = torch.from_numpy(equipartition_labels(mine, process_group=group))
    watched: list[float] = []

    def stop(progress: Any) -> bool:
        watched.append(progress.marginal_violation)
        return len(watched) == 2

    only = stop if rank == 0 else None  # one process watches, all stop
    stopped = sinkhorn(mine[0], tol=1e-9, callback=only, process_group=group)
    out["stopped"] = stopped.n_iter, len(watched)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sinkhorn(mine[0], tol=1e-9, max_iter=1, process_group=group)
    out["warnings"] = sum(issubclass(w.category, SinkhornWarning) for w in caught)
    torch.save(out, folder / f"out-{size}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
