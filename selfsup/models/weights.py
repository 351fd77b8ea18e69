"""Weights in: torchvision's models, the authors' releases, checkpoints of runs."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selfsup.errors import UNLOADABLE, WeightsError
from selfsup.models.network import Network
from selfsup.models.resnet import ResNet

#: Names of heads in weights; and the parts of the authors' ResNet, which is one nn.Sequential.
HEAD = re.compile(r"(fc|top_layer)\d*\.|heads\.|rotation_head\.")
_RESNET_PARTS = dict(
    zip([f"features.{i}" for i in (0, 1, 4, 5, 6, 7)],
        ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"], strict=True)
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` found besides the trunk, which it always loads whole."""

    heads: tuple[int, ...]
    """Heads of the network that were loaded."""
    rotation: bool
    """Whether the rotation head was loaded."""
    ignored: tuple[str, ...]
    """Weights of heads that the network has no place for."""
    labels: Tensor | None
    """Cluster labels beside the weights, as they were stored."""


@torch.no_grad()
def load_weights(
    network: Network, source: str | os.PathLike[str] | Mapping[str, Any]
) -> LoadReport:
    """Load the trunk of a network, and such heads as fit.

    Parameters
    ----------
    network : Network
        What to load into. A checkpoint of a run sets its mean and std too; others have none.
    source : path or mapping
        A state dict in the names of torchvision's ResNets, of the authors' code, or of a
        :class:`Network`; alone, under "state_dict" or, in a checkpoint, under "network".

    Returns
    -------
    LoadReport
        Which heads were loaded, what was left out, and the labels stored with the weights.

    Raises
    ------
    WeightsError
        Nothing is loaded when weights of the trunk are missing, unknown or of another shape.
    """
    contents = source if isinstance(source, Mapping) else _read(source)
    weights = contents.get("network", contents.get("state_dict", contents))
    labels = contents.get("labels", contents.get("L"))
    if isinstance(labels, Mapping):  # of a run
        labels = labels.get("labels")
    named = network.trunk.net if isinstance(network.trunk, ResNet) else network.trunk
    expected, statistics = named.state_dict(), {"mean": network.mean, "std": network.std}
    trunk: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, value in weights.items():
        if isinstance(value, Tensor) and name not in ("labels", "L"):
            name = re.sub(r"(^|\.)module\.", r"\1", name)  # of (Distributed)DataParallel
            own = name if name in statistics else _trunk_name(name, network.trunk)
            is_head = own not in expected and HEAD.match(name)
            (heads if is_head else trunk)[name if is_head else own] = value
    expected |= {name: value for name, value in statistics.items() if name in trunk}
    _check(network, expected, trunk)
    for name in statistics.keys() & trunk.keys():
        statistics[name].copy_(trunk.pop(name))
    named.load_state_dict(trunk, strict=False)
    loaded, rotation = _load_heads(network, heads)
    return LoadReport(
        loaded, rotation, tuple(heads), labels if isinstance(labels, Tensor) else None
    )


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: no weights can be read here ({error})") from error
    except UNLOADABLE as error:
        raise WeightsError(
            f"{path}: not a file of tensors. A model pickled whole is not loaded, since that can "
            "run any code: save its state_dict() where it was made"
        ) from error
    if not isinstance(contents, Mapping):
        raise WeightsError(f"{path}: holds a {type(contents).__name__}, not a state dict")
    return contents


def _trunk_name(name: str, trunk: nn.Module) -> str:
    """Translate a name of any source into one of the trunk's."""
    if not isinstance(trunk, ResNet):
        return name.removeprefix("trunk.")
    match = re.match(r"features\.\d+", name)
    if match:
        return _RESNET_PARTS.get(match[0], match[0]) + name[match.end() :]
    return name.removeprefix("trunk.net.")


def _check(network: Network, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise unless all that is expected is there in its shape, and nothing else."""
    found = {
        # weights of 2018 and before have no such counter
        "missing": [
            x for x in expected if x not in weights and not x.endswith("num_batches_tracked")
        ],
        "unknown": [x for x in weights if x not in expected],
        "of another shape": [
            f"{x} {tuple(weights[x].shape)} instead of {tuple(value.shape)}"
            for x, value in expected.items()
            if x in weights and weights[x].shape != value.shape
        ],
    }
    if any(found.values()):
        faults = [f"{fault}: {_first_few(names)}" for fault, names in found.items() if names]
        raise WeightsError(
            f"these weights do not fit a {type(network.trunk).__name__} of {network.dim} features; "
            + "; ".join(faults)
        )


def _first_few(names: Sequence[str], shown: int = 3) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _load_heads(network: Network, weights: dict[str, Tensor]) -> tuple[tuple[int, ...], bool]:
    """Load what fits and take it out of `weights`."""

    def taken(weight: Tensor, bias: Tensor, *names: str) -> bool:
        for name in names:
            pair = {f"{name}.weight": weight, f"{name}.bias": bias}
            if all(key in weights and weights[key].shape == x.shape for key, x in pair.items()):
                for key, place in pair.items():
                    place.copy_(weights.pop(key))
                return True
        return False

    def foreign(index: int) -> list[str]:
        return ["fc", "top_layer", "top_layer0"] if index == 0 else [f"top_layer{index}"]

    heads, turns, every = network.heads, network.rotation_head, range(len(network.heads.clusters))
    whole = heads.linear
    if whole is not None and taken(whole.weight, whole.bias, "heads.linear"):
        loaded = list(every)
    else:
        loaded = [i for i in every if taken(*heads.parameters_of(i), *foreign(i))]
    last = ["rotation_head", *foreign(len(every))]  # the authors': after all others
    return tuple(loaded), turns is not None and taken(turns.weight, turns.bias, *last)
