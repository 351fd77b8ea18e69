"""What a solver asks of a backend: the protocol between the two, and its words.

problem    logits, marginals and epsilon; in a group of processes the rows held here
read       one pass over the rows with a vector g of K numbers in hand: column masses, and on
           request labels and f
sample     a read of one row in each `stride`, spread by a hash (`sampled_row`)
kept       the large entries of some rows, which a read leaves behind on its way; what is asked of
           them costs a part of a read
share      the part of the rows of which entries are kept
weight     the mass of the rows that were read or kept, times n

A backend knows the rows that this process holds.  `group.GroupPasses` adds up what those of all
processes find; it is what solvers see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sinkhorn_ot.arrays import Array, Place

#: Entries are kept down to exp(-REACH) of the largest of their row.
REACH = 7.0
#: Sets of kept entries that a solve holds: those of the last step that was accepted, and those of
#: the step that is tried.
SETS = 2


class Progress(NamedTuple):
    """One entry of `SinkhornResult.history`, and what a callback receives.

    Attributes
    ----------
    n_passes : float
        Reads of the matrix so far.
    marginal_violation : float
        ``||m - b||_1`` at that point, in [0, 2].
    seconds : float
        Wall time since the solve began.
    """

    n_passes: float
    marginal_violation: float
    seconds: float


@dataclass(frozen=True)
class Problem:
    """A checked input."""

    logits: Array  # (rows, K), as the user passed it; in a group the rows held here
    a: Array | None  # (rows,) float64: the mass of each; None for 1/n each
    b: Array  # (K,) float64
    epsilon: float
    total: int | None = None  # rows of all processes; None: those of `logits` are all
    first: int = 0  # rows of the processes before this one

    @property
    def n(self) -> int:
        """N: the rows of all processes."""
        return int(self.logits.shape[0]) if self.total is None else self.total


class Reading(NamedTuple):
    """What a read found; all of it belongs to the g of that read."""

    log_mass: Array  # (K,) logarithms of the column masses, for a total mass of 1; NaN: a bad row
    weight: Array  # (1,) of the rows that were read
    f: Array | None = None  # (rows,) float64
    labels: Array | None = None  # (rows,) int64


@dataclass(frozen=True)
class Needs:
    """What kept entries take in a backend."""

    besides: int  # bytes that do not go to the entries, while they are filled
    held: int  # and afterwards
    least: int  # words of 4 bytes below which they are no use
    everything: int  # words that hold all of the matrix
    small: int = 1 << 19  # words that are worth it however small the matrix
    always: int = 64 << 20  # bytes that are granted however small the matrix


def room_for_rows(rows: int, words: int) -> int:
    """Room in which so many rows of so many words fit for certain, and what is left over beside."""
    return (rows + 130) * words * 15 // 14  # of chunks of memory: one for each block of rows


class Counts(NamedTuple):
    """How much is kept."""

    rows: int
    words: int  # of 4 bytes
    bytes: int  # that an operation on them reads
    misfits: int  # not 0 if not all fitted: nothing is kept then; rows and words are what it takes


class Kept(Protocol):
    """Large entries of some rows, ``e_ik = exp((logits_ik + g_k) / epsilon - c_i)``.

    They are those at the g of a read; c_i is near the largest exponent of row i.  A `delta` of K
    numbers moves g to g + epsilon * delta; p_i are then the probabilities of row i, e_i *
    exp(delta) over its sum, and w_i is its weight.
    """

    @property
    def counts(self) -> Counts:
        """What is kept; a device is waited for."""

    def mass(self, delta: Array) -> tuple[Array, Array, Array]:
        """Return ``sum_i w_i p_i``, ``sum_i w_i p_i**2`` (K,) and ``sum_i w_i`` (1,).

        They may be good to about 1e-7 of themselves only.
        """

    def second_moment(self, v: Array) -> Array:
        """Return ``sum_i w_i p_i <p_i, v>`` at the delta of the last `mass`: (K,)."""


class Passes(Protocol):
    """The reads of the rows held here; vectors are float64 and live where the backend puts them."""

    @property
    def may_wait(self) -> bool:
        """Whether numbers may be looked at: not while a CUDA graph is recorded."""

    @property
    def reads(self) -> float:
        """Reads of the rows held here so far, in units of their bytes."""

    def number(self, x: Array) -> float:
        """Bring a number to the host; a device is waited for."""

    def first_bad_row(self) -> int | None:
        """The first row without a finite maximum that a read of all rows met, else None.

        It is counted over all processes. All masses of a read that meets one are NaN.
        """

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        log: bool = False,
        stride: int = 1,
        assign: bool = False,
        kept: Any = None,
        share: float = 1.0,
    ) -> Reading:
        """Read the rows once, or a sample of them.

        Without `exact` a backend may use float32 exponentials (masses good to about 1e-7 of
        themselves).  `log` asks for sums in the log domain, `assign` for f and labels.  `kept` is
        filled on the way, with entries of the rows whose hash (`hashed`) is below
        ``share * 2**32``; a backend that counts first may take as many rows as there is room for.
        """

    def keep(self, words: int) -> Kept:
        """Return room for kept entries, in words of 4 bytes."""


class Minibatch(Protocol):
    """The passes over batches of scores, (batches, n, k), of which `n_valid` rows count."""

    def first(self) -> tuple[Array, Array]:
        """Return masses with ``v = exp((top - largest) / epsilon)``, and the largest scores.

        These are (batches, k) and (batches,).
        """

    def next(self, masses: Array) -> Array:
        """Return the next masses: v is the inverse of the row sums of ``Q diag(u)``."""

    def last(self, masses: Array, out: Array) -> None:
        """Write the codes ``diag(v) Q diag(u)``, and 0 into rows that do not count."""


@dataclass(frozen=True)
class Backend:
    """One way to read rows; a new one is a line in `backends.BACKENDS`."""

    name: str
    devices: tuple[str, ...]  # for whose tensors "auto" takes it; NumPy arrays are on "cpu"
    why_not: Callable[[Place | None], str | None]  # None, or why it cannot run (on arrays there)
    passes: Callable[[Problem], Passes]
    needs: Callable[[Array, int], Needs]  # what kept entries of so many rows like these take
    #: A column mass (in units of the mean row's) below which entries were lost to underflow, so
    #: that a read is repeated in the log domain; 0 where the backend sees to it itself.
    underflow: float = 0.0
    #: Words of 4 bytes that a kept entry takes in a row of which all entries are kept.
    words_an_entry: int = 1
    #: Whether a read finds out how many entries there are before it keeps any.
    counts_first: bool = False
    #: How it makes the codes of minibatches: of scores, epsilon and `n_valid`, if it does.
    minibatch: Callable[[Array, float, Array | None], Minibatch] | None = None


@dataclass(frozen=True)
class Settings:
    """How a `Problem` is to be solved."""

    g: Array  # (K,) float64, where to start
    warm: bool  # whether the caller knows that this is near
    tol: float
    max_iter: int
    backend: Backend
    words: int = 0  # that kept entries may take; 0 for textbook steps alone
    asks: Callable[[Progress], bool] | None = None  # whether to stop; None if nobody is asked
    slow: str | None = None  # why no faster backend runs, if the slow one was not asked for


def hashed(j: Any) -> Any:
    """Fibonacci hashing of non-negative integers (numbers, arrays or tensors) to 32 bits.

    The upper half of ``j * 0x9E3779B97F4A7C15 mod 2**64``, in halves as int64 has no unsigned
    product.  Consecutive numbers are spread evenly, and without a period.
    """
    return (j * 0x9E3779B9 + (j * 0x7F4A7C15 >> 32)) & 0xFFFFFFFF


def sampled_row(j: Any, stride: int) -> Any:
    """Row number j of a sample of one row in each `stride`."""
    return j * stride + hashed(j) % stride if stride > 1 else j


def sampled_here(n: int, first: int, count: int, stride: int) -> tuple[int, int]:
    """Which numbers of a sample are of `count` rows from `first` on: from one to before another.

    The sample is of n rows, of which a process may hold a part.
    """
    if stride == 1:
        return first, first + count

    def number(row: int) -> int:
        j = row // stride
        if sampled_row(j, stride) < row:
            j += 1
        return min(j, n // stride)

    return number(first), number(first + count)
