"""Weights in: torchvision's models, the authors' releases, checkpoints of runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from selfsup.errors import UNLOADABLE, WeightsError
from selfsup.models.network import Network
from selfsup.models.resnet import ResNet

#: Names of heads, here and elsewhere.
HEAD = re.compile(r"(fc|top_layer\d*|heads|rotation_head)\.")
#: The parts of the authors' ResNet, which is one nn.Sequential.
RESNET_PARTS = {
    "features.0": "conv1", "features.1": "bn1", "features.4": "layer1", "features.5": "layer2",
    "features.6": "layer3", "features.7": "layer4",
}  # fmt: skip


@torch.no_grad()
def load_weights(network: Network, source: str | os.PathLike[str] | Mapping[str, Any]) -> None:
    """Load the trunk of a network, and such heads as fit.

    Parameters
    ----------
    network : Network
        What to load into. A checkpoint of a run sets its mean and std too; others have none.
    source : path or mapping
        A state dict in the names of torchvision's ResNets, of the authors' code, or of a
        :class:`Network`; alone, under "state_dict" or, in a checkpoint, under "network".

    Raises
    ------
    WeightsError
        Nothing is loaded when weights of the trunk are missing, unknown or of another shape.
    """
    contents = source if isinstance(source, Mapping) else _read(source)
    weights = contents.get("network", contents.get("state_dict", contents))
    places = _places(network)
    found = {
        _own_name(name, network, places): value
        for name, value in weights.items()
        if isinstance(value, Tensor) and name not in ("labels", "L")
    }
    # weights of 2018 and before have no counter of batches
    missing = [
        name for name in places
        if name.startswith("trunk.") and name not in found and "num_batches" not in name
    ]  # fmt: skip
    unknown, misshapen, fitting = [], [], []
    for name, value in found.items():
        if name in places and places[name].shape == value.shape:
            fitting.append(name)
        elif not HEAD.match(name) and name in places:
            misshapen.append(f"{name} {tuple(value.shape)} instead of {tuple(places[name].shape)}")
        elif not HEAD.match(name):
            unknown.append(name)
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    if any(faults.values()):
        told = [f"{fault}: {_first_few(names)}" for fault, names in faults.items() if names]
        raise WeightsError(
            f"these weights do not fit a {type(network.trunk).__name__} of {network.dim} features; "
            + "; ".join(told)
        )
    for name in fitting:
        places[name].copy_(found[name])


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


def _places(network: Network) -> dict[str, Tensor]:
    """Return what can be loaded, by name; each head by the authors' name too."""
    places = dict(network.state_dict())
    heads = [network.heads.parameters_of(i) for i in range(len(network.heads.clusters))]
    if network.rotation_head is not None:  # the authors': after all others
        heads.append((network.rotation_head.weight, network.rotation_head.bias))
    for i, (weight, bias) in enumerate(heads):
        places |= {f"top_layer{i}.weight": weight, f"top_layer{i}.bias": bias}
    return places


def _own_name(name: str, network: Network, places: Mapping[str, Tensor]) -> str:
    """Translate a name of any source into one of the network's, where it has such a one."""
    name = re.sub(r"(^|\.)module\.", r"\1", name)  # of (Distributed)DataParallel
    prefix = "trunk."
    if isinstance(network.trunk, ResNet):
        prefix = "trunk.net."
        name = re.sub(r"^features\.\d+", lambda part: RESNET_PARTS.get(part[0], part[0]), name)
    if prefix + name in places:
        return prefix + name
    return re.sub(r"^(fc|top_layer)\.", "top_layer0.", name)


def _first_few(names: Sequence[str], shown: int = 3) -> str:
    more = len(names) - shown
    few = [re.sub(r"^trunk\.(net\.)?", "", name) for name in names[:shown]]
    return ", ".join(few) + (f" and {more} more" if more > 0 else "")
