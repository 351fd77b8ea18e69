"""Balanced k-means with scikit-learn's conventions; only this file needs scikit-learn."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.cluster import kmeans_plusplus
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from sinkhorn_ot.arrays import row_blocks
from sinkhorn_ot.entropic.checks import check_integer, check_number
from sinkhorn_ot.exact.balanced import SAMPLE_ENTRIES
from sinkhorn_ot.exact.potentials import Goal, entropic_potentials
from sinkhorn_ot.exact.repair import BadRow, Sizes, TooLarge
from sinkhorn_ot.exact.rows import HostRows
from sinkhorn_ot.exact.sizes import class_sizes
from sinkhorn_ot.exact.start import EPSILON, WIDEST, Sample, solve_from

#: Bytes of the N x K matrix that are held by default, and of the rows that are made at a time.
HELD, SPAN = 1 << 30, 1 << 24
#: k-means++ looks at so many samples a cluster.
SEEDING = 16

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


class BalancedKMeans(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Clusters by k-means that have exactly the same size, or sizes between bounds.

    Lloyd's alternation: samples are assigned as by `balanced_labels`, exactly, beginning with the
    potentials of the round before, and centres become the means of their clusters (Bradley, Bennett
    and Demiriz, MSR-TR-2000-65, whose assignment is a minimum cost flow).  Each step lowers the
    inertia, so it ends in a local optimum.

    Parameters
    ----------
    n_clusters : int
        How many, K.
    size_min, size_max : int, optional
        Bounds on the sizes of the clusters, 0 and N if only the other is given.  Without both,
        sizes are floor or ceil of N / K.
    init : "k-means++" or (K, D) array
        Centres to begin with.  k-means++ chooses them among 16 samples a cluster, drawn at random.
    n_init : int
        Starts, of which that of least inertia is kept.  An array of centres is one start.
    max_iter : int
        At most this many rounds of a start.
    tol : float
        A start ends when a round lowers the inertia by less than this part of it; 0 goes on until
        no label changes.
    random_state : int, RandomState or None
        Of k-means++.  With an integer the same samples give the same bits.
    memory_limit : int, optional
        Bytes of the N x K matrix (of the dtype of the samples) that may be held, by default 1 GiB.
        A round works with up to 0.6 of that besides, and with about 60 bytes a sample.

    Attributes
    ----------
    cluster_centers_ : (K, D) array
        Means of the clusters, in the dtype of the samples.
    labels_ : (N,) int64
    inertia_ : float
        Sum of squared distances of the samples to the centres of their clusters.
    sizes_ : (K,) int64
    n_iter_ : int
        Rounds of the start that was kept.
    n_features_in_ : int

    Raises
    ------
    ValueError
        NaN or infinite samples, more clusters than samples, sizes that cannot be, a parameter out
        of range.  A failed `fit` leaves the attributes of the one before.

    Notes
    -----
    If N x K does not fit into `memory_limit`, its rows are made anew in blocks whenever they are
    read, about twice a round, and only one in so many as fit are held.  Labels are the optimum all
    the same; a round is slower, and with fewer than about 100 held rows a cluster much slower
    (docs/kmeans.md).

    Squared distances are compared in the dtype of the samples, float32 or float64.

    Examples
    --------
    >>> import numpy as np
    >>> from sinkhorn_ot import BalancedKMeans
    >>> x = np.array([[0.0], [1.0], [2.0], [9.0]])
    >>> sorted(np.bincount(BalancedKMeans(2, random_state=0).fit_predict(x)).tolist())
    [2, 2]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        size_min: int | None = None,
        size_max: int | None = None,
        init: Any = "k-means++",
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        random_state: Any = None,
        memory_limit: int | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.size_min = size_min
        self.size_max = size_max
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.memory_limit = memory_limit

    def fit(self, X: Any, y: Any = None) -> Self:  # scikit-learn's name
        """Cluster the rows of X.

        Parameters
        ----------
        X : (N, D) array of float64 or float32
            Other dtypes are converted to float64.
        y : None
            Ignored.

        Returns
        -------
        BalancedKMeans
            Itself, with the attributes set.
        """
        x = validate_data(self, X, dtype=[np.float64, np.float32])
        for name in ("n_clusters", "n_init", "max_iter", "memory_limit"):
            value = getattr(self, name)
            if value is not None or name != "memory_limit":
                check_integer(value, name, least=1)
        check_number(self.tol, "tol", positive=False)
        if self.n_clusters > len(x):
            raise ValueError(f"n_samples={len(x)} should be >= n_clusters={self.n_clusters}")
        sizes = self._sizes(len(x))
        random = check_random_state(self.random_state)
        n_init = self.n_init if isinstance(self.init, str) else 1
        starts = (self._start(x, sizes, self._seeds(x, random)) for _ in range(n_init))
        best = min(starts, key=lambda start: start.inertia)
        self.inertia_, self.n_iter_ = best.inertia, best.n_iter
        self.labels_, self.cluster_centers_ = best.labels, best.centres
        self.sizes_ = np.bincount(best.labels, minlength=self.n_clusters)
        return self

    @property
    def _n_features_out(self) -> int:
        """Columns of `transform`, for scikit-learn's `get_feature_names_out`."""
        return len(self.cluster_centers_)

    def _sizes(self, n: int) -> Sizes:
        try:
            return class_sizes(n, self.n_clusters, None, None, self.size_min, self.size_max)
        except (TypeError, ValueError) as error:
            message = str(error).replace("sizes_min", "size_min").replace("sizes_max", "size_max")
            raise type(error)(message) from None

    def _seeds(self, x: Floats, random: np.random.RandomState) -> Floats:
        """Return the centres to begin with."""
        k = self.n_clusters
        if not isinstance(self.init, str):
            centres = np.array(self.init, x.dtype)
            if centres.shape != (k, x.shape[1]) or not np.isfinite(centres).all():
                raise ValueError(
                    f"init must be {k} x {x.shape[1]} finite numbers, got shape {centres.shape}"
                )
            return centres
        if self.init != "k-means++":
            raise ValueError(f"init must be 'k-means++' or an array of centres, got {self.init!r}")
        some = x
        if len(x) > SEEDING * k:
            some = x[np.sort(random.choice(len(x), SEEDING * k, replace=False))]
        return np.asarray(kmeans_plusplus(some, k, random_state=random)[0])

    def _start(self, x: Floats, sizes: Sizes, centres: Floats) -> Clustering:
        """Alternate from these centres."""
        limit = HELD if self.memory_limit is None else self.memory_limit
        held = max(1, limit // (self.n_clusters * x.itemsize))
        found: Assignment | None = None
        before, n_iter = math.inf, 0
        while True:
            n_iter += 1
            with np.errstate(over="ignore", invalid="ignore"):  # an error names the row
                last, found = found, assign(Scores(x, centres), sizes, held, found)
                centres = _means(x, found.labels, centres)
                inertia = _inertia(x, found.labels, centres)
            if not math.isfinite(inertia):
                raise ValueError(f"the inertia overflows float64: it is {inertia}; scale X down")
            same = last is not None and np.array_equal(found.labels, last.labels)
            if same or before - inertia < self.tol * before or n_iter == self.max_iter:
                return Clustering(inertia, n_iter, found.labels, centres)
            before = inertia

    def predict(self, X: Any) -> Labels:
        """Return the nearest centre of each row.

        Sizes are not kept: a sample alone has no size to keep to.  So of the samples that were
        clustered those go elsewhere than in `labels_` that the sizes had moved; `balanced_labels`
        divides a batch of new samples evenly.

        Parameters
        ----------
        X : (N, D) array of float64 or float32
            Other dtypes are converted to float64.

        Returns
        -------
        (N,) int64 array
            Numbers of the clusters.
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        made = Scores(x, self.cluster_centers_)
        return np.concatenate([made[rows].argmax(1) for rows in row_blocks(*made.shape)])

    def transform(self, X: Any) -> Floats:
        """Return the distances to the centres; the whole matrix is made.

        Parameters
        ----------
        X : (N, D) array of float64 or float32
            Other dtypes are converted to float64.

        Returns
        -------
        (N, K) array
            Euclidean distances, in the dtype of X.
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        out = np.empty((len(x), len(self.cluster_centers_)), x.dtype)
        for rows in row_blocks(*out.shape):  # differences in float64
            out[rows] = cdist(x[rows], self.cluster_centers_)
        return out


class Clustering(NamedTuple):
    """Where a start ended."""

    inertia: float
    n_iter: int
    labels: Labels
    centres: Floats


class Scores:
    """Minus the squared distances to centres, but for a constant of each row: an (N, K) matrix.

    ``2 <x_i - m, c_k - m> - |c_k - m|^2``, where m is the mean of the centres, which keeps digits
    where data lie far from 0.  Rows are made when they are asked for, by a slice.
    """

    def __init__(self, x: Floats, centres: Floats) -> None:
        self.x = x
        self.dtype, self.itemsize = x.dtype, x.itemsize
        self.shape = len(x), len(centres)
        middle = centres.mean(0, dtype=np.float64)
        apart = centres - middle
        self.middle = middle.astype(x.dtype)
        self.weight = (2 * apart.T).astype(x.dtype)
        self.norms = (apart**2).sum(1).astype(x.dtype)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Floats:
        """Return these rows."""
        made: Floats = (self.x[rows] - self.middle) @ self.weight
        made -= self.norms
        return made

    def matrix(self, step: int) -> Floats:
        """Return one row in `step`, made in blocks."""
        n, k = self.shape
        out = np.empty((-(-n // step), k), self.dtype)
        for rows in row_blocks(*out.shape):
            out[rows] = self[rows.start * step : rows.stop * step : step]
        return out


class Assignment(NamedTuple):
    """The exact labels of a round, and the potentials that prove them."""

    labels: Labels
    g: NDArray[np.float64]


def assign(scores: Scores, sizes: Sizes, held: int, before: Assignment | None) -> Assignment:
    """Find the labels with the largest sum of scores; `held` rows of the matrix may be kept.

    If not all can be, the entropic problem is solved on one row in so many.  There the classes are
    given the masses that the labels of the round before have there: what these rows are out of
    balance by changes little from round to round.
    """
    n, k = scores.shape
    step = -(-n // held)
    matrix = scores.matrix(step)
    rows = HostRows(matrix) if step == 1 else HostRows(scores, SPAN)
    sample = Sample.of(HostRows(matrix).sample(max(256, SAMPLE_ENTRIES // k)), sizes)
    epsilon = EPSILON * sample.deviation
    goal, g = Goal.of(sample, sizes, n), None
    if before is not None:
        goal = goal.shifted(_share(before.labels[::step], k) - _share(before.labels, k))
        g = before.g
    try:
        g, _ = entropic_potentials(matrix, sample, goal, epsilon, None, "auto", _ignore, g)
        end = solve_from(rows, sizes, sample, g, epsilon, room=WIDEST, tell=_ignore, most=n)
    except BadRow as error:
        raise ValueError(
            f"squared distances of row {error.row} overflow {scores.dtype}; scale X down"
        ) from None
    except TooLarge:
        raise ValueError("sums of squared distances overflow float64; scale X down") from None
    return Assignment(end.labels, end.g)


def _ignore(*_: object) -> None:
    """Hear of progress, and say nothing."""


def _share(labels: Labels, k: int) -> NDArray[np.float64]:
    return np.bincount(labels, minlength=k) / len(labels)


def _means(x: Floats, labels: Labels, centres: Floats) -> Floats:
    """The mean of each cluster, in float64; an empty one keeps its centre."""
    sums = np.zeros(centres.shape)
    for rows in row_blocks(*x.shape):
        order = np.argsort(labels[rows], kind="stable")
        here, starts = np.unique(labels[rows][order], return_index=True)
        sums[here] += np.add.reduceat(x[rows][order], starts, 0, np.float64)
    sizes = np.bincount(labels, minlength=len(centres))[:, None]
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), centres).astype(x.dtype)


def _inertia(x: Floats, labels: Labels, centres: Floats) -> float:
    blocks = row_blocks(*x.shape)
    return math.fsum(
        float(((x[rows] - centres[labels[rows]]).astype(np.float64) ** 2).sum()) for rows in blocks
    )
