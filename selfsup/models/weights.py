"""Weights in and out: torchvision's models, the authors' releases, checkpoints of runs."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selfsup.errors import WeightsError
from selfsup.models.network import Network
from selfsup.models.resnet import ResNet

#: Names of heads in weights; and the parts of the authors' ResNet, which is one nn.Sequential.
HEAD = re.compile(r"(fc|top_layer)\d*\.|heads\.|rotation_head\.")
_RESNET_PARTS = {
    "features.0": "conv1",
    "features.1": "bn1",
    "features.4": "layer1",
    "features.5": "layer2",
    "features.6": "layer3",
    "features.7": "layer4",
}


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
    expected = _named_module(network.trunk).state_dict()
    trunk: dict[str, Tensor] = {}
    statistics: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, value in weights.items():
        if isinstance(value, Tensor) and name not in ("labels", "L"):
            name = re.sub(r"(^|\.)module\.", r"\1", name)  # of (Distributed)DataParallel
            if name in ("mean", "std"):
                statistics[name] = value
            elif (own := _trunk_name(name, network.trunk)) not in expected and HEAD.match(name):
                heads[name] = value
            else:
                trunk[own] = value
    _check(network, trunk, statistics)
    for name, value in statistics.items():
        network.get_buffer(name).copy_(value)
    _named_module(network.trunk).load_state_dict(trunk, strict=False)
    loaded, rotation = _load_heads(network, heads)
    return LoadReport(
        loaded, rotation, tuple(heads), labels if isinstance(labels, Tensor) else None
    )


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path}: no weights can be read here ({error})") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a file of tensors. A model pickled whole is not loaded, since that can "
            "run any code: save its state_dict() where it was made"
        ) from error
    if not isinstance(contents, Mapping):
        raise WeightsError(f"{path}: holds a {type(contents).__name__}, not a state dict")
    return contents


def _named_module(trunk: nn.Module) -> nn.Module:
    """Return the module whose names a state dict uses."""
    return trunk.net if isinstance(trunk, ResNet) else trunk


def _trunk_name(name: str, trunk: nn.Module) -> str:
    """Translate a name of any source into one of the trunk's."""
    if not isinstance(trunk, ResNet):
        return name.removeprefix("trunk.")
    match = re.match(r"features\.\d+", name)
    if match:
        return _RESNET_PARTS.get(match[0], match[0]) + name[match.end() :]
    return name.removeprefix("trunk.net.")


def _check(network: Network, trunk: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> None:
    expected = _named_module(network.trunk).state_dict()
    expected |= {name: network.get_buffer(name) for name in statistics}
    weights = {**trunk, **statistics}
    missing = [
        name
        for name in expected
        # weights of 2018 and before have no such counter
        if name not in weights and not name.endswith("num_batches_tracked")
    ]
    unknown = [name for name in weights if name not in expected]
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    found = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
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
    heads = network.heads
    if heads.linear is not None and _take(
        weights, "heads.linear", heads.linear.weight, heads.linear.bias
    ):
        loaded = list(range(len(heads.clusters)))
    else:
        loaded = [
            i
            for i in range(len(heads.clusters))
            if any(_take(weights, name, *heads.parameters_of(i)) for name in _head_names(i))
        ]
    turns = network.rotation_head
    names = ["rotation_head", *_head_names(len(heads.clusters))]  # the authors': the last of all
    rotation = turns is not None and any(
        _take(weights, name, turns.weight, turns.bias) for name in names
    )
    return tuple(loaded), rotation


def _head_names(index: int) -> list[str]:
    """Return the names that a head has in foreign weights."""
    return ["fc", "top_layer", "top_layer0"] if index == 0 else [f"top_layer{index}"]


def _take(weights: dict[str, Tensor], name: str, weight: Tensor, bias: Tensor) -> bool:
    """Copy a linear layer out of `weights` if it is there and fits."""
    pair = f"{name}.weight", f"{name}.bias"
    if any(
        key not in weights or weights[key].shape != target.shape
        for key, target in zip(pair, (weight, bias), strict=True)
    ):
        return False
    weight.copy_(weights.pop(pair[0]))
    bias.copy_(weights.pop(pair[1]))
    return True
