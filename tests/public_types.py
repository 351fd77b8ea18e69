"""What types tell of the public functions; `make lint` has mypy check it, strictly."""

from typing import Any, assert_type

import numpy as np
import torch
from numpy.typing import NDArray

from sinkhorn_ot import SinkhornResult, equipartition_labels, sinkhorn

matrix: NDArray[np.float64] = np.zeros((4, 2))
assert_type(sinkhorn(matrix, epsilon=0.1), SinkhornResult)
assert_type(sinkhorn(iter([matrix])), list[SinkhornResult])
assert_type(equipartition_labels(matrix), NDArray[Any])
assert_type(equipartition_labels(torch.zeros(4, 2), max_iter=3), torch.Tensor)
assert_type(equipartition_labels(iter([torch.zeros(4, 2)])), torch.Tensor)


def of_other_packages() -> None:
    """Their keywords are errors."""
    sinkhorn(matrix, reg=0.1)  # type: ignore[call-overload]
