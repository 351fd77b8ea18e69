"""The core on AArch64 against the float64 reference, on the same stored values."""

import platform
import warnings

import ml_dtypes
import numpy as np

from sinkhorn_ot import available_backends, balanced_labels, sinkhorn
from sinkhorn_ot.backends import cpu

DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)


def check_solves() -> None:
    """Potentials, labels and violations equal the reference's, in each dtype and layout."""
    for dtype in DTYPES:
        for n, k in ((1, 2), (300, 33), (1500, 70)):
            logits = np.random.default_rng(k).normal(size=(n, k)).astype(dtype)
            for view in (logits, np.asfortranarray(logits), logits[::-1, ::-1]):
                ours = sinkhorn(view, epsilon=0.5, tol=1e-6, backend="cpu")
                truth = sinkhorn(view, epsilon=0.5, tol=1e-9, backend="reference")
                assert ours.converged, (dtype, n, k)
                np.testing.assert_allclose(ours.g, truth.g, atol=2e-4)
                np.testing.assert_allclose(ours.f, truth.f, atol=2e-4)
                shifted = view.astype(np.float64) + ours.g
                np.testing.assert_array_equal(ours.labels, shifted.argmax(axis=1))


def check_fixed_iterations() -> None:
    """Ten textbook iterations in float64 are the reference's, with -inf and zeros in b too."""
    logits = np.random.default_rng(0).normal(size=(200, 17))
    logits[::3, 4] = -np.inf
    b = np.full(17, 1 / 16)
    b[9] = 0.0
    ours, truth = (
        sinkhorn(logits, b=b, epsilon=0.1, tol=0, max_iter=10, backend=name)
        for name in ("cpu", "reference")
    )
    used = b > 0
    np.testing.assert_allclose(ours.g[used], truth.g[used], atol=1e-12)
    assert ours.g[9] == -np.inf


def check_tiny_numbers() -> None:
    """Weights that underflow, and float32 numbers below the normal ones, are no slower end."""
    logits = np.random.default_rng(1).normal(size=(2000, 40)).astype(np.float32) * 30
    logits[0] *= 1e-42
    ours = sinkhorn(logits, epsilon=0.04, tol=1e-4, backend="cpu")
    truth = sinkhorn(logits, epsilon=0.04, tol=1e-4, backend="reference")
    assert ours.converged
    assert truth.converged
    assert (ours.labels == truth.labels).mean() > 0.99


def check_exact_labels() -> None:
    """Exactly equal classes, proved by a bound that plain NumPy adds up."""
    for dtype in DTYPES:
        logits = np.random.default_rng(2).normal(size=(1003, 20)).round(1).astype(dtype)
        result = balanced_labels(logits)
        values = logits.astype(np.float64)
        assert np.ptp(result.counts) == 1
        bound = (values + result.g).max(axis=1).sum() - result.counts @ result.g
        assert abs(bound - values[np.arange(1003), result.labels].sum()) < 1e-9 * abs(bound)


if __name__ == "__main__":
    assert platform.machine() == "aarch64", platform.machine()
    assert available_backends()["cpu"] == "ok", available_backends()
    with warnings.catch_warnings(action="error"):
        for check in (check_solves, check_fixed_iterations, check_tiny_numbers, check_exact_labels):
            check()
            print(f"{check.__name__}: ok", flush=True)
    print(f"{platform.machine()}, {cpu.simd_level()}, NumPy {np.__version__}")
