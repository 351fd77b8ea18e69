"""Weights in: torchvision's models, the authors' releases, checkpoints of runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from selfsup.errors import UNLOADABLE, WeightsError
from selfsup.models.network import Network
from selfsup.models.resnet import ResNet

#: Names of heads, here and elsewhere.
HEAD = re.compile(r"(fc|top_layer\d*|heads|rotation_head)\.")
TRUNK = "trunk."
#: The parts of the authors' ResNet, which is one nn.Sequential.
RESNET_PARTS = {
    "features.0": "conv1", "features.1": "bn1", "features.4": "layer1", "features.5": "layer2",
    "features.6": "layer3", "features.7": "layer4",
}  # fmt: skip


@torch.no_grad()
def load_weights(network: Network, source: str | os.PathLike[str] | Mapping[str, Any]) -> None:
    """Load the trunk of a network, and such heads as fit, from a state dict or a file of one.

    Names are those of torchvision's ResNets, of the authors' code, or of a :class:`Network`. The
    state dict stands alone, under "state_dict" or, in a checkpoint of a run, under "network"; that
    sets mean and std too. Where weights of the trunk are missing, unknown or of another shape,
    nothing is loaded, and a `WeightsError` names them.
    """
    contents = source if isinstance(source, Mapping) else _read(source)
    weights = contents.get("network", contents.get("state_dict", contents))
    places = _places(network)
    found = {
        _own_name(name, network, places): value
        for name, value in weights.items()
        if isinstance(value, Tensor) and name not in ("labels", "L")
    }
    fitting = [x for x in found if x in places and found[x].shape == places[x].shape]
    strange = [x for x in found if x not in fitting and not HEAD.match(x)]
    faults = {
        # weights of 2018 and before have no counter of batches
        "missing": [
            x.removeprefix(TRUNK) for x in places
            if x.startswith(TRUNK) and x not in found and not x.endswith("num_batches_tracked")
        ],
        "unknown": [x for x in strange if x not in places],
        "of another shape": [
            f"{x.removeprefix(TRUNK)} {tuple(found[x].shape)} instead of {tuple(places[x].shape)}"
            for x in strange if x in places
        ],
    }  # fmt: skip
    told = [
        f"{len(names)} {fault}: {shorten(', '.join(names), 200, placeholder=' ...')}"
        for fault, names in faults.items() if names
    ]  # fmt: skip
    if told:
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
    if isinstance(network.trunk, ResNet):
        name = re.sub(r"^features\.\d+", lambda part: RESNET_PARTS.get(part[0], part[0]), name)
    if TRUNK + name in places:
        return TRUNK + name
    return re.sub(r"^(fc|top_layer)\.", "top_layer0.", name)
