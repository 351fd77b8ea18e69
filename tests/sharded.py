"""Problems, how their rows are cut, and what the processes of a group do with them."""

import datetime
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.distributed as dist
from once import once
from problems import equal_rows, make_logits

from sinkhorn_ot import equipartition_labels, sinkhorn

LIMIT = datetime.timedelta(seconds=100)  # a process that waits for others in vain


@dataclass(frozen=True)
class Case:
    """A problem and how its rows are cut: at these parts of N, for 2 and for 3 processes."""

    make: Callable[[], np.ndarray]
    options: dict = field(default_factory=dict)
    cuts: tuple = (0.37, 0.71)
    torch_dtype: torch.dtype | None = None
    solve: Callable = sinkhorn
    by_backend: bool = True  # run it with the reference too

    def input(self):
        logits = self.make()
        return logits if self.torch_dtype is None else torch.tensor(logits).to(self.torch_dtype)

    def bounds(self, n: int, size: int) -> list[int]:
        cuts = self.cuts[: size - 1]
        return [0, *(int(cut * n) for cut in cuts), n]


def family(name, n, k, **kwargs):
    return Case(lambda: make_logits(name, n, k), **kwargs)


def peculiar(change, n=5000, k=64, **kwargs):
    """Clustered logits, changed in place."""

    def make():
        logits = make_logits("middle", n, k)
        change(logits, np.random.default_rng(3))
        return logits

    return Case(make, **kwargs)


def sort_rows(logits, rng):
    logits[:] = logits[np.argsort(logits.argmax(1), kind="stable")]


def sink_column(logits, rng):
    logits[:, 5] -= 40.0


def forbid(logits, rng):
    some = rng.random(logits.shape) < 0.3
    some[np.arange(len(logits)), rng.integers(0, logits.shape[1], len(logits))] = False
    logits[some] = -np.inf


def two_spreads(logits, rng):
    logits[:] = rng.normal(size=logits.shape)
    logits[: len(logits) // 2] *= 0.3
    logits[len(logits) // 2 :] *= 8.0


def second_half_is_huge(logits, rng):
    logits[:] = rng.normal(size=logits.shape)
    logits[len(logits) // 2 :] += 3e4


def masses(n, seed=5):
    a = np.random.default_rng(seed).random(n) + 0.1
    return a / a.sum()


CASES = {
    **{
        f"{name}-{n}x{k}-{tol:g}": family(
            name, n, k, options={"tol": tol, "epsilon": 0.1 if k == 10 else 0.04},
            by_backend=n < 2000,
        )
        for name in ("flat", "peaked", "late")
        for n, k in ((1437, 10), (5000, 64), (40_000, 100))
        for tol in (1e-3, 1e-6)
    },
    "larger epsilons after it crept": Case(
        lambda: equal_rows(0, [0.3], 4000, 50), options={"epsilon": 0.01}, by_backend=False
    ),
    "few rows of all fit": family(
        "peaked", 40_000, 100, options={"tol": 1e-6, "memory_limit": 1_500_000}, by_backend=False
    ),
    "no room to keep entries": family("late", 1437, 10, options={"memory_limit": 1000}),
    "textbook": family("middle", 1437, 10, options={"method": "sinkhorn", "tol": 1e-6}),
    "newton": family("middle", 1437, 10, options={"method": "newton", "tol": 1e-9}),
    "exactly five": family("late", 5000, 64, options={"tol": 0, "max_iter": 5}),
    "exactly five of newton": family(
        "late", 5000, 64, options={"tol": 0, "max_iter": 5, "method": "newton"}, by_backend=False
    ),
    "first is empty": family("peaked", 5000, 64, cuts=(0.0, 0.3), by_backend=False),
    "first and second are empty": family("peaked", 1437, 10, cuts=(0.0, 0.0)),
    "second is empty": family("late", 1437, 10, cuts=(0.4, 0.4), options={"tol": 1e-6}),
    "last is empty": family("late", 1437, 10, cuts=(1.0, 1.0), options={"tol": 1e-6}),
    "a row or two": family("late", 5000, 64, cuts=(0.0002, 0.0006), options={"tol": 1e-6}),
    "one row": family("late", 1, 10, cuts=(0.0, 1.0), options={"epsilon": 1.0}),
    "three in one block": family("late", 200, 12, cuts=(0.2, 0.4), options={"tol": 1e-5}),
    "float64": Case(
        lambda: make_logits("late", 5000, 64).astype(np.float64), {"tol": 1e-7}, by_backend=False
    ),
    "float16": Case(lambda: make_logits("middle", 5000, 64).astype(np.float16), by_backend=False),
    "bfloat16": Case(
        lambda: make_logits("middle", 5000, 64).astype(ml_dtypes.bfloat16), {"tol": 1e-5},
        by_backend=False,
    ),
    "torch": family("late", 1437, 10, torch_dtype=torch.float32, options={"tol": 1e-6}),
    "torch bfloat16": family(
        "middle", 40_000, 100, torch_dtype=torch.bfloat16, options={"tol": 1e-4}, by_backend=False
    ),
    "columns are contiguous": Case(
        lambda: np.asfortranarray(make_logits("late", 5000, 64)), {"tol": 1e-6}, by_backend=False
    ),
    "marginals": family(
        "late", 5000, 64, by_backend=False,
        options={"a": masses(5000), "b": np.r_[0, masses(63, 6)], "tol": 1e-6},
    ),
    "marginals of few rows": family(
        "middle", 1437, 10, options={"a": masses(1437), "b": masses(10), "tol": 1e-6},
    ),
    "marginals of a sampled problem": family(
        "peaked", 40_000, 100, by_backend=False, options={"a": masses(40_000), "tol": 1e-5}
    ),
    "warm": family(
        "late", 1437, 10, options={"g_init": np.linspace(-0.3, 0.3, 10), "tol": 1e-6}
    ),
    "sorted by class": peculiar(sort_rows, options={"tol": 1e-5}, by_backend=False),
    "few rows sorted by class": peculiar(
        sort_rows, n=1437, k=10, options={"tol": 1e-6, "epsilon": 0.1}
    ),
    "a column underflows": peculiar(sink_column, options={"tol": 1e-4}, by_backend=False),
    "forbidden pairings": peculiar(forbid, n=1437, k=10, options={"tol": 1e-6}),
    "dense rows here, sparse rows there": peculiar(
        two_spreads, n=60_000, k=100, cuts=(0.5, 0.6), by_backend=False,
        options={"epsilon": 0.3, "tol": 1e-4},
    ),
    "an odd first row beyond float32": peculiar(
        second_half_is_huge, n=202, k=12, cuts=(0.5, 0.75), by_backend=False,
        options={"epsilon": 0.5, "tol": 1e-6},
    ),
    "forbidden pairings, sampled": peculiar(
        forbid, n=20_000, k=40, options={"tol": 1e-6}, by_backend=False
    ),
}  # fmt: skip


def own_rows(case, logits, rank, size):
    """The rows of a rank, and the options with its part of a."""
    n = logits.shape[-2]
    first, last = case.bounds(n, size)[rank : rank + 2]
    options = dict(case.options)
    if "a" in options:
        options["a"] = options["a"][first:last]
    return logits[..., first:last, :], options


def run(tmp_path: Path, size: int, work: Callable) -> list:
    """Return what `work` returns in each process of a group."""
    _start(tmp_path, size, work)
    return _found(tmp_path, size)


def run_once(factory: pytest.TempPathFactory, name: str, size: int, work: Callable) -> list:
    """Do the same, once for all workers of pytest-xdist."""
    return _found(once(factory, name, lambda folder: _start(folder, size, work)), size)


def _start(folder: Path, size: int, work: Callable) -> None:
    torch.multiprocessing.spawn(_child, (size, str(folder), work), nprocs=size)


def _found(folder: Path, size: int) -> list:
    return [pickle.loads((folder / f"{rank}").read_bytes()) for rank in range(size)]


def _child(rank: int, size: int, folder: str, work: Callable) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=size, timeout=LIMIT
    )
    found = work(rank, size, dist.group.WORLD)
    (Path(folder) / f"{rank}").write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def solve_all(rank: int, size: int, group) -> dict:
    found = {}
    for name, case in CASES.items():
        logits, options = own_rows(case, case.input(), rank, size)
        for backend in ("cpu", "reference") if case.by_backend else ("cpu",):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = sinkhorn(logits, backend=backend, process_group=group, **options)
            found[name, backend] = result
    return found


#: Problems of which every process asks for the gap.
GAPS = ("marginals", "forbidden pairings, sampled", "first is empty", "torch", "a row or two")


def gaps(rank: int, size: int, group) -> dict[str, tuple[float, float]]:
    """Objective and gap of some problems."""
    found = {}
    for name in GAPS:
        logits, options = own_rows(CASES[name], CASES[name].input(), rank, size)
        result = sinkhorn(logits, process_group=group, **options)
        found[name] = result.objective, result.gap(logits, process_group=group)
    return found


def outcome(call: Callable) -> str:
    """What was returned, or what was raised."""
    try:
        return repr(call())
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def misuse(rank: int, size: int, group) -> dict[str, str]:
    """Ways in which one process may go wrong; none may leave the others waiting."""
    good = np.random.default_rng(rank).normal(size=(700 + rank, 20)).astype(np.float32)

    def solve(logits=good, **options):
        return outcome(lambda: type(sinkhorn(logits, process_group=group, **options)).__name__)

    def on_last(bad, otherwise):
        return bad if rank == size - 1 else otherwise

    def raises(info):
        raise KeyError("mine")

    nan = good.copy()
    nan[[3, 600], 2] = np.nan
    found = {
        f"nan {backend} {method}": solve(on_last(nan, good), backend=backend, method=method)
        for backend in ("cpu", "reference")
        for method in ("auto", "sinkhorn")
    }
    late = good.copy()
    late[650:, 1] = np.nan
    empty_column = good.copy()
    empty_column[:, 4] = -np.inf
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found["warned"] = f"{solve(max_iter=1, tol=1e-9)} {len(caught)}"
    found |= {
        "nan in both": solve(on_last(nan, late)),
        "empty column": solve(empty_column),
        "other K": solve(on_last(good[:, :9], good)),
        "other dtype": solve(on_last(good.astype(np.float64), good)),
        "other library": solve(on_last(torch.tensor(good), good)),
        "other epsilon": solve(epsilon=on_last(0.2, 0.1)),
        "other b": solve(b=on_last(masses(20), masses(20, 6))),
        "other backend": solve(backend=on_last("cpu", "reference")),
        "only one has a": solve(a=on_last(np.full(len(good), 1 / 1401), None)),
        "bad tol": solve(tol=on_last(-1.0, 1e-3)),
        "bad type": solve(on_last([[1.0]], good)),
        "all empty": solve(good[:0]),
        "a is not 1": solve(a=np.full(len(good), 1 / 700)),
        "no room": solve(method="newton", memory_limit=10),
        "a stops": solve(tol=0, max_iter=50, callback=on_last(lambda info: True, None)),
        "a raises": solve(callback=on_last(raises, None)),
        "fewer heads": solve(iter([good] * on_last(1, 2))),
        "bad head": solve(np.stack([good, on_last(nan, good)])),
        "a stack and a matrix": solve(on_last(good[None], good)),
    }
    stopped = sinkhorn(
        good, tol=1e-9, max_iter=50, process_group=group,
        callback=on_last(lambda info: info.n_passes > 3, None),
    )  # fmt: skip
    found["stopped"] = repr((stopped.n_iter, stopped.marginal_violation))
    return found


STACK = Case(
    lambda: np.stack([make_logits("middle", 1437, 10, seed=seed) for seed in range(3)]),
    {"tol": 1e-6, "g_init": np.linspace(0, 0.1, 30).reshape(3, 10)},
)


def everything(rank: int, size: int, group) -> dict:
    logits, options = own_rows(STACK, STACK.input(), rank, size)
    return {
        "cases": solve_all(rank, size, group),
        "misuse": misuse(rank, size, group),
        "gaps": gaps(rank, size, group),
        "stack": [
            sinkhorn(logits, process_group=group, **options),
            sinkhorn(iter(logits), process_group=group, **options),
            equipartition_labels(logits, process_group=group, **options),
        ],
    }
