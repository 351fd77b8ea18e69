"""Labels of exactly given class sizes, the best there are, with a proof."""

from __future__ import annotations

import math
import sys
import time
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sinkhorn_ot.api import sinkhorn
from sinkhorn_ot.arrays import Array, BadRow, check_matrix, float64, heads_of, is_torch, row_blocks
from sinkhorn_ot.backends.host_rows import HostRows
from sinkhorn_ot.balanced_start import EPSILON, WIDEST, Sample, candidates, masses_within, on_grid
from sinkhorn_ot.class_sizes import class_sizes
from sinkhorn_ot.result import Progress, SinkhornResult
from sinkhorn_ot.solvers.balanced import Floats, Infeasible, Optimum, Sizes, solve

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: Potentials at the wanted epsilon are tried with so many reads; where they do not reach the
#: violation, epsilon falls from the spread of the logits by this factor, with so many reads each.
START_TOL, START_READS = 1e-3, 10
LEVEL_TOL, LEVEL_READS, FALL = 1e-2, 15, 2.5
#: All but the last of these are of a sample: so many rows for each class.
LEVEL_ROWS = 64
#: Rows of a sample hold about so many entries.
SAMPLE_ENTRIES = 1 << 20
#: Bytes that are granted however small the matrix is.
ALWAYS = 64 << 20
#: What is kept of a row besides its candidates, and of a candidate, in bytes.
ROW_BYTES, CANDIDATE_BYTES = 32, 12


class BalancedProgress(NamedTuple):
    """What a callback of `balanced_labels` receives.

    Attributes
    ----------
    n_passes : float
        Reads of the matrix so far.
    to_repair : int or None
        Samples by which classes are still too large; None while potentials are sought.
    seconds : float
        Wall time since the call.
    """

    n_passes: float
    to_repair: int | None
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class BalancedResult:
    """Labels of exactly balanced classes, and potentials that prove how good they are.

    Arrays are of the library and on the device of the logits.

    Attributes
    ----------
    labels : (N,) int64
        ``argmax_k (logits_ik + g_k)`` up to rounding, where ties are shared out such that the
        classes have their sizes.
    g : (K,) float64
        Potentials of the classes (prices); -inf for a class that may hold nothing.
    counts : (K,) int64
        Size of each class.
    objective : float
        ``sum_i logits[i, labels[i]]``, in units of the logits.
    upper_bound : float
        No labels of admissible sizes have a larger objective: `g` proves it
        (`sinkhorn_ot.certificate`).
    gap : float
        ``upper_bound - objective``: 0 up to rounding, or at most ``max_gap * abs(objective)``.
    sizes_min, sizes_max : (K,) int64
        The sizes that were admissible.
    n_passes : float
        Reads of the N x K matrix.
    n_moved : int
        How often a sample was moved to another class after the first labels.
    """

    labels: Array
    g: Array
    counts: Array
    objective: float
    upper_bound: float
    gap: float
    sizes_min: Array
    sizes_max: Array
    n_passes: float
    n_moved: int

    def __repr__(self) -> str:
        """One line; the arrays are attributes."""
        n, k = self.labels.shape[0], self.g.shape[0]
        return (
            f"BalancedResult({n} x {k}, sizes {int(self.counts.min())} to "
            f"{int(self.counts.max())}, objective={self.objective:.10g}, gap={self.gap:.3g}, "
            f"n_passes={self.n_passes:.3g}, n_moved={self.n_moved})"
        )


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
    or ``sizes[k]``, or between ``sizes_min[k]`` and ``sizes_max[k]``.  This is the transport problem
    without regularisation, solved exactly: entropic potentials nearly balance the classes, and
    the few samples that are left move along shortest paths between classes until the
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
        Potentials to begin with, such as `BalancedResult.g` of a similar problem.  No entropic
        problem is solved then.
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
        24 more for the entries near the largest of each row, of which at most 64 are kept.
    backend : str
        What solves the entropic problem, as in `sinkhorn`.  The exact part runs on the CPU.
    process_group : None
        Not possible: gather the logits in one process, or use `equipartition_labels`.
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
        NaN or +inf, a row that is -inf everywhere, wrong shapes or sizes, or forbidden pairings that
        leave no labels of these sizes: then it says which classes and how many samples conflict.

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
            "balanced_labels works in one process: gather the logits there, or use "
            "equipartition_labels(process_group=...), whose classes are nearly balanced"
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
    for number, head in enumerate(heads):
        try:
            results.append(_solve(head, request))
        except (TypeError, ValueError) as error:
            raise type(error)(f"head {number}: {error}") from error
    if not results:
        raise ValueError("logits hold no head: pass at least one (N, K) matrix")
    return results


def _check(request: _Request) -> None:
    for name, value in (("max_gap", request.max_gap), ("epsilon", request.epsilon)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not (math.isfinite(value) and (value > 0 or (value == 0 and name == "max_gap"))):
            least = ">= 0" if name == "max_gap" else "> 0"
            raise ValueError(f"{name} must be finite and {least}, got {value}")
    limit = request.memory_limit
    if limit is not None and (
        isinstance(limit, bool) or not isinstance(limit, numbers.Integral) or limit < 0
    ):
        raise ValueError(f"memory_limit must be an integer >= 0, got {limit!r}")
    if request.callback is not None and not callable(request.callback):
        raise TypeError(f"callback must be callable, got {type(request.callback).__name__}")


def _solve(logits: Array, request: _Request) -> BalancedResult:
    start = time.perf_counter()
    logits = check_matrix(logits)
    n, k = map(int, logits.shape)
    sizes = class_sizes(
        n, k, request.b, request.sizes, request.sizes_min, request.sizes_max
    )
    rows = HostRows(logits)
    spent = 0.0

    def tell(n_passes: float, to_repair: int | None) -> None:
        if request.callback is not None:
            seconds = time.perf_counter() - start
            request.callback(BalancedProgress(n_passes, to_repair, seconds))

    sample = Sample.of(rows.sample(max(256, SAMPLE_ENTRIES // k)), sizes)
    epsilon = float(request.epsilon or EPSILON * sample.deviation)
    if request.g_init is not None:
        g = _given_potentials(request.g_init, k)
    else:
        g, spent = _potentials(logits, sample, sizes, epsilon, request, tell)
    g[sizes.high == 0] = -math.inf
    g = on_grid(sample, sizes, n, g, epsilon)
    kept = candidates(sample, n, g, epsilon, _room(rows, request.memory_limit))
    try:
        end = solve(
            rows, sizes, g, kept, max_gap=float(request.max_gap),
            tell=lambda left: tell(spent + rows.reads, left),
        )  # fmt: skip
    except BadRow as error:
        raise _explain_row(logits, error.row) from None
    except Infeasible as error:
        raise _explain_conflict(error, sizes, n) from None
    return _result(logits, end, sizes, spent + rows.reads)


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


def _potentials(
    logits: Array,
    sample: Sample,
    sizes: Sizes,
    epsilon: float,
    request: _Request,
    tell: Callable[[float, int | None], None],
) -> tuple[Floats, float]:
    """Potentials of the entropic problem, and the reads of the matrix that they took."""
    n, k = map(int, logits.shape)
    if epsilon == 0.0 or not math.isfinite(epsilon):  # all logits are equal, or bad
        return np.zeros(k), 0.0
    target, free = (sizes.low + sizes.high) / 2, np.zeros(k, bool)
    if (sizes.high - sizes.low).max() > 1:
        target = n * masses_within(sample, sizes, n)
        free = (target > sizes.low * (1 + 1e-6) + 1e-6) & (target < sizes.high * (1 - 1e-6))
    used = _columns_in_use(logits, sample) & (sizes.high > 0)
    target = np.where(used, np.maximum(target, 1e-6 * n / k), 0.0)
    if not used.any():
        return np.zeros(k), 0.0

    masses = float64(target / target.sum(), logits)
    spent = 0.0

    def entropic(
        level: float, g: Array | None, tol: float, reads: int, stride: int = 1
    ) -> SinkhornResult:
        nonlocal spent
        before = spent

        def watch(info: Progress) -> bool:
            tell(before + info.n_passes / stride, None)
            return info.n_passes >= reads

        found: SinkhornResult = sinkhorn(
            logits[::stride], b=masses, epsilon=level, tol=tol, g_init=g,
            memory_limit=request.memory_limit, backend=request.backend, callback=watch,
        )  # fmt: skip
        spent += found.n_passes / stride
        return found

    end = entropic(epsilon, None, START_TOL, START_READS)
    if not end.converged:  # such as many equal rows
        falls = max(1, math.ceil(math.log(sample.deviation / epsilon, FALL)))
        start, stride = None, max(1, n // max(LEVEL_ROWS * k, LEVEL_ROWS << 10))
        for fall in range(falls, -1, -1):
            step = 1 if fall == 0 else stride
            end = entropic(epsilon * FALL**fall, start, LEVEL_TOL, LEVEL_READS, step)
            start = end.g
    g = np.array(end.g.cpu().numpy() if is_torch(end.g) else end.g)
    level = float(np.median(g[free & used])) if (free & used).any() else 0.0
    g[free | ~used] = level
    return g, spent


def _columns_in_use(logits: Array, sample: Sample) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which clusters some row may join; all rows are looked at only where the sample has none."""
    seen = np.asarray((sample.rows > -math.inf).any(0))
    for rows in row_blocks(*logits.shape):
        if seen.all():
            break
        some = (logits[rows] > -math.inf).any(0)
        seen |= np.asarray(some.cpu().numpy() if is_torch(some) else some)
    return seen


def _given_potentials(g_init: Array, k: int) -> Floats:
    g = np.array(g_init.detach().cpu().numpy() if is_torch(g_init) else g_init, np.float64)
    if g.shape != (k,):
        raise ValueError(f"g_init must have shape ({k},), got {g.shape}")
    if not (g < math.inf).all():
        raise ValueError("g_init must be finite, or -inf for classes that may hold nothing")
    finite = g > -math.inf
    return np.where(finite, g, g[finite].min() if finite.any() else 0.0)


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


def _explain_row(logits: Array, row: int) -> ValueError:
    """The error for the first row that cannot be labelled."""
    values = float64(logits[row], logits)
    values = np.asarray(values.cpu().numpy() if is_torch(values) else values)
    wrong = ~(values < math.inf)
    if wrong.any():
        column = int(wrong.argmax())
        return ValueError(
            f"logits[{row}, {column}] is {values[column]} (the first bad row is {row}); logits must "
            "be finite, or -inf to forbid a pairing"
        )
    return ValueError(
        f"row {row} of logits is -inf for every class that may hold samples, so sample {row} can go "
        "nowhere; allow at least one class or drop the sample"
    )


def _explain_conflict(error: Infeasible, sizes: Sizes, n: int) -> ValueError:
    """The error for sizes that forbidden pairings rule out: Hall's condition fails."""
    reached, pool = error.reached[:-1], bool(error.reached[-1])
    inside = int(reached[error.labels].sum())
    if pool:
        others = np.flatnonzero(~reached)
        return ValueError(
            f"no labels have these sizes: the {_names(others)} must hold at least "
            f"{sizes.low[others].sum()} samples, but -inf forbids them to all but {n - inside}; "
            "allow more pairings or lower these sizes"
        )
    classes = np.flatnonzero(reached)
    return ValueError(
        f"no labels have these sizes: -inf leaves {inside} samples (such as sample "
        f"{int(reached[error.labels].argmax())}) only the {_names(classes)}, which may hold at most "
        f"{sizes.high[classes].sum()}; allow more pairings or raise these sizes"
    )


def _names(classes: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    shown = ", ".join(map(str, classes[:8]))
    if len(classes) == 1:
        return f"class {shown}"
    return f"{len(classes)} classes {shown}{', ...' if len(classes) > 8 else ''}"
