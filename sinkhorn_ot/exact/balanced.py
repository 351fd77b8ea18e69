"""Labels of exactly given class sizes, the best there are, with a proof."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sinkhorn_ot.arrays import Array, check_matrix, heads_of, is_torch, namespace
from sinkhorn_ot.entropic.checks import METHODS, Options, check_integer, check_number
from sinkhorn_ot.entropic.heads import alike, naming, with_options
from sinkhorn_ot.exact.equal_rows import EqualRows
from sinkhorn_ot.exact.errors import explain_conflict, explain_row
from sinkhorn_ot.exact.potentials import Goal, entropic_potentials, given_potentials
from sinkhorn_ot.exact.repair import (
    BadRow,
    FarOff,
    Floats,
    Improve,
    Infeasible,
    Optimum,
    Sizes,
    TooLarge,
)
from sinkhorn_ot.exact.result import BalancedProgress, BalancedResult
from sinkhorn_ot.exact.rows import HostRows
from sinkhorn_ot.exact.sizes import class_sizes
from sinkhorn_ot.exact.start import EPSILON, WIDEST, Sample, solve_from

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: Rows of a sample hold about so many entries.
SAMPLE_ENTRIES = 1 << 20
#: Bytes that are granted however small the matrix is.
ALWAYS = 64 << 20
#: Potentials are good to begin with if they leave no more than one sample in so many to move.
NEAR = 100
#: What is kept of a row besides its candidates, and of a candidate, in bytes.
ROW_BYTES, CANDIDATE_BYTES = 32, 12


@dataclass(frozen=True)
class _Request:
    """What the caller asked for, of one head; the names are those of `balanced_labels`."""

    b: Array | None
    sizes: Array | None
    sizes_min: Array | None
    sizes_max: Array | None
    g_init: Array | None
    max_gap: float
    epsilon: float | None
    memory_limit: int | None
    backend: str
    callback: Callable[[BalancedProgress], object] | None


def balanced_labels(
    logits: Array | Iterator[Array],
    b: Array | None = None,
    *,
    sizes: Array | None = None,
    sizes_min: Array | int | None = None,
    sizes_max: Array | int | None = None,
    g_init: Array | None = None,
    max_gap: float = 0.0,
    epsilon: float | None = None,
    memory_limit: int | None = None,
    backend: str = "auto",
    process_group: ProcessGroup | None = None,
    callback: Callable[[BalancedProgress], object] | None = None,
) -> Any:
    """Labels with the largest sum of logits of all whose classes have exactly the wanted sizes.

    Maximises ``sum_i logits[i, labels[i]]`` where class k has floor or ceil of ``N * b_k`` samples,
    or ``sizes[k]``, or between ``sizes_min[k]`` and ``sizes_max[k]``.  This is the transport
    problem without regularisation, solved exactly: entropic potentials nearly balance the classes,
    and the few samples that are left move along shortest paths between classes until the
    potentials prove that nothing is better (docs/exact.md).

    Parameters
    ----------
    logits : (N, K) numpy.ndarray or torch.Tensor
        float64, float32, float16 or bfloat16, larger is better; a memory map works too.  -inf
        forbids a pairing.  Stored values are widened to float64 and compared there.  A tensor on
        a GPU is read in blocks through the host.  A (T, N, K) stack, or an iterator of (N, K)
        arrays, gives a list of results.
    b : (K,), optional
        Mass of each class, adding up to 1; 1 / K each by default.  Class k gets floor or ceil of
        ``N * b_k`` samples, whichever serves the sum.
    sizes : (K,) integers, optional
        Size of each class; they add up to N.
    sizes_min, sizes_max : (K,) integers or one integer, optional
        Bounds on the sizes; 0 and N by default.
    g_init : (K,), optional
        Potentials to begin with, such as `BalancedResult.g` of a similar problem.  The entropic
        problem is solved, from them, only if they leave more than 1 in 100 samples to move.
        (T, K) for T heads.
    max_gap : float
        Stop once labels of the wanted sizes are proved to be within ``max_gap * abs(objective)`` of
        the optimum.  0, the default, goes on to the optimum.
    epsilon : float, optional
        Entropy weight of the potentials to begin with, in units of the logits; by default 0.02 of
        the standard deviation of the logits within rows.  The result does not depend on it, but for
        the choice among equally good labels.
    memory_limit : int, optional
        Bytes that the call may add to the input and the returned arrays, by default 0.5 of
        the input, or 67 MB if that is more.  32 bytes a sample are needed in any case, and at least
        24 more for the entries near the largest of each row, of which at most 24 are kept.
    backend : str
        What solves the entropic problem, as in `sinkhorn`.  The exact part runs on the CPU.
    process_group : None
        Not possible: gather the logits in one process, or use `equipartition_labels` with
        ``rounding="argmax"``.
    callback : callable, optional
        Gets a `BalancedProgress` now and then.  What it returns does not matter; what it raises
        ends the call.

    Returns
    -------
    BalancedResult
        Labels, potentials and the proof; a list of them for T heads.  The same bits for any number
        of threads.

    Raises
    ------
    TypeError
        Unsupported array type or dtype.
    ValueError
        NaN or +inf, a row that is -inf everywhere, wrong shapes or sizes, or forbidden pairings
        that leave no labels of these sizes: then it says which classes and how many samples
        conflict.

    Examples
    --------
    >>> import numpy as np
    >>> result = balanced_labels(np.array([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]]))
    >>> result.labels
    array([0, 0, 1, 1])
    >>> result.objective, result.gap
    (7.0, 0.0)
    """
    if process_group is not None:
        raise ValueError(
            "exact labels are made in one process: gather the logits there; in several use "
            "equipartition_labels with rounding='argmax', whose classes are nearly balanced"
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return torch.compiler.disable(balanced_labels)(
            logits, b, sizes=sizes, sizes_min=sizes_min, sizes_max=sizes_max, g_init=g_init,
            max_gap=max_gap, epsilon=epsilon, memory_limit=memory_limit, backend=backend,
            callback=callback,
        )  # fmt: skip
    request = _Request(
        b, sizes, sizes_min, sizes_max, g_init, max_gap, epsilon, memory_limit, backend, callback
    )
    _check(request)
    heads = heads_of(logits)
    if heads is None:
        return _solve(logits, request)
    results = []
    for number, (head, wish) in enumerate(with_options(heads, request)):
        with naming(number):
            results.append(_solve(head, wish))
    return results


def exact_labels(logits: Array | Iterator[Array], options: Options) -> Array:
    """``equipartition_labels(..., rounding="exact")``: labels of a matrix, or of heads stacked."""
    if options.process_group is not None:
        raise ValueError(
            "rounding='exact' works in one process: gather the logits there; in several pass "
            "rounding='argmax', whose classes are nearly balanced"
        )
    if options.callback is not None:
        raise ValueError(
            "rounding='exact' has no violation to tell a callback; balanced_labels has a callback "
            "of its own"
        )
    check_number(options.epsilon, "epsilon", positive=True)
    check_number(options.tol, "tol", positive=False)
    check_integer(options.max_iter, "max_iter", least=1)
    if options.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {options.method!r}")
    heads = heads_of(logits)
    found = balanced_labels(
        logits if heads is None else alike(heads),
        options.b,
        g_init=options.g_init,
        memory_limit=options.memory_limit,
        backend=options.backend,
    )
    if isinstance(found, BalancedResult):
        return found.labels
    labels = [result.labels for result in found]
    return namespace(labels[0]).stack(labels)


def _check(request: _Request) -> None:
    check_number(request.max_gap, "max_gap", positive=False)
    if request.epsilon is not None:
        check_number(request.epsilon, "epsilon", positive=True)
    if request.memory_limit is not None:
        check_integer(request.memory_limit, "memory_limit", least=0)
    if request.callback is not None and not callable(request.callback):
        raise TypeError(f"callback must be callable, got {type(request.callback).__name__}")


@np.errstate(over="ignore", invalid="ignore")  # sums that are not finite are an error in the end
def _solve(logits: Array, request: _Request) -> BalancedResult:
    start = time.perf_counter()
    logits = check_matrix(logits)
    n, k = map(int, logits.shape)
    sizes = class_sizes(n, k, request.b, request.sizes, request.sizes_min, request.sizes_max)
    rows = HostRows(logits)

    def tell(n_passes: float, to_repair: int | None) -> None:
        if request.callback is not None:
            seconds = time.perf_counter() - start
            request.callback(BalancedProgress(n_passes, to_repair, seconds))

    sample = Sample.of(rows.sample(max(256, SAMPLE_ENTRIES // k)), sizes)
    epsilon = float(request.epsilon or EPSILON * sample.deviation)
    room = _room(rows, request.memory_limit)
    given = None if request.g_init is None else given_potentials(request.g_init, k)

    def find(g: Floats, spent: float, most: int, improve: Improve | None = None) -> BalancedResult:
        end = solve_from(
            rows, sizes, sample, g, epsilon, room=room, max_gap=float(request.max_gap),
            tell=lambda left: tell(spent + rows.reads, left), most=most, improve=improve,
        )  # fmt: skip
        return _result(logits, end, sizes, spent + rows.reads)

    try:
        if given is not None:
            with contextlib.suppress(FarOff):
                return find(given, 0.0, max(k, n // NEAR))
        goal = Goal.of(sample, sizes, n)
        g, spent = entropic_potentials(
            logits, sample, goal, epsilon, request.memory_limit,
            request.backend, lambda n_passes, _: tell(n_passes + rows.reads, None), given,
        )  # fmt: skip
        solved = spent > 0 and not goal.free.any()
        equal = EqualRows.of(sample, n * goal.masses, g, epsilon) if solved else None
        if equal is None:
            return find(g, spent, n)
        return find(equal.by_plan(g), spent, n, equal.by_counts)
    except BadRow as error:
        raise explain_row(logits, error.row) from None
    except Infeasible as error:
        raise explain_conflict(error, sizes, n) from None
    except TooLarge:
        raise ValueError(
            "logits are so large that sums of them overflow float64; divide them by a constant"
        ) from None


def _room(rows: HostRows, limit: int | None) -> int:
    """How many candidates a row may have."""
    if limit is None:
        limit = max(ALWAYS, rows.n * rows.k * rows.itemsize // 2)
    room = (limit // rows.n - ROW_BYTES) // CANDIDATE_BYTES
    if room < 2:
        raise ValueError(
            f"memory_limit={limit} is too little for {rows.n} samples: exact labels need "
            f"{rows.n * (ROW_BYTES + 2 * CANDIDATE_BYTES)} bytes"
        )
    return min(room, WIDEST)


def _result(logits: Array, end: Optimum, sizes: Sizes, n_passes: float) -> BalancedResult:
    def like(x: np.ndarray[Any, Any]) -> Array:
        return sys.modules["torch"].from_numpy(x).to(logits.device) if is_torch(logits) else x

    return BalancedResult(
        labels=like(end.labels),
        g=like(end.g),
        counts=like(end.counts),
        objective=end.objective,
        upper_bound=end.objective + end.gap,
        gap=end.gap,
        sizes_min=like(sizes.low),
        sizes_max=like(sizes.high),
        n_passes=n_passes,
        n_moved=end.moves,
    )
