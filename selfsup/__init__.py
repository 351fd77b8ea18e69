"""SeLa (Asano, Rupprecht and Vedaldi, ICLR 2020): labels and network, learned together.

``python -m selfsup train folder --data DIR`` clusters a folder of images. From Python:
:class:`SelfLabels` is the method, for a loop of one's own; :func:`train` is all of it, for any
``torch.nn.Module`` and any data set; :mod:`selfsup.labellers` has other ways to label.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfsup.errors import SelfsupError
    from selfsup.sela import SelfLabels, equipartition, multi_head_loss, update_times
    from selfsup.training.api import train
    from selfsup.training.trained import Trained

__all__ = [
    "SelfLabels", "SelfsupError", "Trained", "equipartition", "multi_head_loss", "train",
    "update_times",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for: without torch the command line can still say what is missing."""
    if name not in __all__:
        raise AttributeError(f"module 'selfsup' has no attribute {name!r}")
    others = {"SelfsupError": "errors", "Trained": "training.trained", "train": "training.api"}
    return getattr(import_module(f"selfsup.{others.get(name, 'sela')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
