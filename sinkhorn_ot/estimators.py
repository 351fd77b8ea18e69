"""Balanced k-means with scikit-learn's conventions; only this file needs scikit-learn."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import kmeans_plusplus
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from sinkhorn_ot.arrays import row_blocks
from sinkhorn_ot.exact.balanced import balanced_labels
from sinkhorn_ot.exact.result import BalancedResult

Floats = NDArray[np.floating[Any]]


class BalancedKMeans(TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """k-means whose clusters have exactly the same size, or sizes between bounds.

    Lloyd's alternation: samples are assigned by `balanced_labels`, exactly and from the potentials
    of the round before, and centres become the means of their clusters (Bradley, Bennett and
    Demiriz, MSR-TR-2000-65, whose assignment is a minimum cost flow).  Each step lowers the
    inertia, so it ends in a local optimum.

    Parameters
    ----------
    n_clusters : int
    size_min, size_max : int, optional
        Bounds on the sizes of the clusters.  Without both, sizes are floor or ceil of N / K.
    n_init : int
        Starts, each by k-means++; the one of least inertia is kept.
    max_iter : int
        At most this many rounds of a start.
    tol : float
        A start ends when a round lowers the inertia by less than this part of it; 0 goes on until
        no label changes.
    random_state : int, RandomState or None

    Attributes
    ----------
    cluster_centers_ : (K, D) array
    labels_ : (N,) int64
    inertia_ : float
        Sum of squared distances of the samples to the centres of their clusters.
    sizes_ : (K,) int64
    n_iter_ : int
    n_features_in_ : int

    Notes
    -----
    The N x K matrix of a round is float32 (float64 for float64 samples), made in blocks but kept
    whole: 4 GB for a million by a thousand.

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
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.size_min = size_min
        self.size_max = size_max
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # scikit-learn's name
        """Cluster the rows of X.

        Parameters
        ----------
        X : (N, D) array of float64 or float32
        y : ignored
        """
        x = validate_data(self, X, dtype=[np.float64, np.float32])
        if not 1 <= self.n_clusters <= len(x):
            raise ValueError(
                f"n_samples={len(x)} should be >= n_clusters={self.n_clusters}, and that at least 1"
            )
        for name, value in {"n_init": self.n_init, "max_iter": self.max_iter}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        random = check_random_state(self.random_state)
        self.inertia_ = math.inf
        for _ in range(self.n_init):
            self._start(x, kmeans_plusplus(x, self.n_clusters, random_state=random)[0])
        return self

    def _start(self, x: Floats, centres: Floats) -> None:
        """Alternate from these centres, and remember what is better than before."""
        g: Any = None
        labels: Any = None
        before, n_iter = math.inf, 0
        while n_iter < self.max_iter:
            n_iter += 1
            found = self._assign(x, centres, g)
            g, same = found.g, labels is not None and np.array_equal(found.labels, labels)
            labels = found.labels
            centres = _means(x, labels, centres)
            inertia = _inertia(x, labels, centres)
            if same or before - inertia < self.tol * before:
                break
            before = inertia
        if inertia < self.inertia_:
            self.inertia_, self.n_iter_ = inertia, n_iter
            self.labels_, self.cluster_centers_ = labels, centres
            self.sizes_ = np.bincount(labels, minlength=self.n_clusters)

    def _assign(self, x: Floats, centres: Floats, g: Any) -> BalancedResult:
        result: BalancedResult
        if self.size_min is None and self.size_max is None:
            result = balanced_labels(scores(x, centres), g_init=g)
        else:
            result = balanced_labels(
                scores(x, centres), sizes_min=self.size_min, sizes_max=self.size_max, g_init=g
            )
        return result

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return the nearest centre of each row; sizes are not kept, as rows come one by one."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.asarray(scores(x, self.cluster_centers_).argmax(1))

    def transform(self, X: Any) -> Floats:
        """Return the (N, K) distances to the centres."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        squared = (x**2).sum(1)[:, None] - scores(x, self.cluster_centers_)
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def scores(x: Floats, centres: Floats) -> Floats:
    """``2 <x_i, c_k> - |c_k|^2``: minus the squared distances, but for a constant of each row."""
    out = np.empty((len(x), len(centres)), x.dtype)
    centres = centres.astype(x.dtype)
    norms = (centres**2).sum(1)
    for rows in row_blocks(*out.shape):
        np.matmul(2 * x[rows], centres.T, out=out[rows])
        out[rows] -= norms
    return out


def _means(x: Floats, labels: NDArray[np.int64], centres: Floats) -> Floats:
    """The mean of each cluster, in float64; an empty one keeps its centre."""
    sizes = np.bincount(labels, minlength=len(centres))
    order = np.argsort(labels, kind="stable")
    used = sizes > 0
    starts = (np.cumsum(sizes) - sizes)[used]
    means = centres.astype(np.float64)
    means[used] = np.add.reduceat(x[order], starts, 0, np.float64) / sizes[used, None]
    return means.astype(x.dtype)


def _inertia(x: Floats, labels: NDArray[np.int64], centres: Floats) -> float:
    blocks = row_blocks(*x.shape)
    return math.fsum(
        float(((x[rows] - centres[labels[rows]]).astype(np.float64) ** 2).sum()) for rows in blocks
    )
