"""Features of any images, streamed through a network in blocks and kept on disk.

A pass gives every layer that is asked for. What it finds is a file of RUN/features, whose name is a
digest of weights, layer, images and view; protocols that ask for the same read it. A pass that was
stopped goes on where it was. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from selfsup.config import AugmentConfig, Config
from selfsup.data import ImageSet
from selfsup.errors import ConfigError, RunError
from selfsup.models import AlexNet, Network
from selfsup.sela import SelfLabels
from selfsup.training.label_pass import batch_of
from selfsup.training.step import autocast

#: The layer that heads see.
TRUNK = "trunk"
#: Layers by the names that papers give them, after their ReLU.
ALEXNET = {"conv1": "features.2", "conv2": "features.6", "conv3": "features.10",
           "conv4": "features.13", "conv5": "features.16", "pool5": "features",
           "fc6": "classifier.2", "fc7": "classifier.5"}  # fmt: skip
#: Images that a digest looks at, about, and the shorter side to which files are decoded for it.
LOOKED_AT, DIGEST_SIDE = 32, 16
#: Seconds between notes of how far a pass has come.
NOTE = 5.0


@dataclass(frozen=True)
class View:
    """How images are shown: the same way each time."""

    size: int
    """Side of the network's input."""
    centre: float = 1.0
    """Part of the shorter side that is shown."""

    @classmethod
    def of(cls, config: Config) -> View:
        """Return a centre crop of the part that a run's label pass shows."""
        return cls(config.data.image_size, config.labels.label_augment.centre)

    @property
    def augment(self) -> AugmentConfig:
        """Return the view as an augmentation without chance."""
        return AugmentConfig(centre=self.centre)

    @property
    def batch(self) -> int:
        """How many images go through the network at once."""
        return batch_of(self.size)


def layer_module(network: Network, layer: str) -> nn.Module:
    """Return the module that makes a layer, by the papers' names or those of the trunk's modules.

    Raises
    ------
    ConfigError
        The trunk has no such layer.
    """
    trunk = network.trunk
    if layer == TRUNK:
        return trunk
    names = ALEXNET if isinstance(trunk, AlexNet) else {}
    modules: dict[str, nn.Module] = dict(trunk.named_modules())
    if (name := names.get(layer, layer)) not in modules:
        known = [TRUNK, *(names or [m for m, _ in trunk.named_children()])]
        raise ConfigError(f"no layer {layer!r} in a {type(trunk).__name__}; it has "
                          f"{', '.join(known)}")  # fmt: skip
    return modules[name]


@contextmanager
def tapped(network: Network, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give a dict that holds the layers' outputs after each forward pass.

    The network is in evaluation mode inside, and as it was afterwards.
    """
    found: dict[str, Tensor] = {}
    modes = [(module, module.training) for module in network.modules()]
    hooks = []
    for layer in layers:

        def keep(_: nn.Module, __: object, output: Tensor, layer: str = layer) -> None:
            found[layer] = output

        module = layer_module(network, layer.removesuffix("/flat"))
        hooks.append(module.register_forward_hook(keep))
    network.eval()
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def flattened(output: Tensor, layer: str) -> Tensor:
    """Return (B, D) float32 of a layer's output: maps as their mean, or whole with ``/flat``."""
    if output.ndim > 2 and not layer.endswith("/flat"):
        output = output.flatten(2).float().mean(2)
    return output.flatten(1).float()


@torch.no_grad()
def stream(
    network: Network,
    images: ImageSet,
    view: View,
    layers: Sequence[str] = (TRUNK,),
    *,
    start: int = 0,
    title: str = "features",
    quiet: bool = False,
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Give (B, D) float32 features of one block of rows after the other, on the network's device.

    Parameters
    ----------
    network : Network
        In whose device and evaluation mode they are made.
    images : ImageSet
        In memory or on disk.
    view : View
        What of each image is shown.
    layers : sequence of str
        "trunk"; or a layer (see :func:`layer_module`), whose maps are averaged over places; or one
        with "/flat" behind, whose maps come whole.
    start : int
        The first row.
    title : str
        Of the progress bar.
    quiet : bool
        Show none.
    """
    device = network.mean.device
    batches = list(torch.split(torch.arange(start, len(images)), view.batch))
    shown = images.views(batches, view.augment, view.size, seeds=[0] * len(batches), device=device)
    disable = True if quiet else None  # None: unless there is a terminal
    bar = tqdm(
        total=len(images), initial=start, desc=title, unit=" images", leave=False, disable=disable
    )
    with bar, tapped(network, layers) as found:
        for index, x in zip(batches, shown, strict=True):
            with autocast(device, "auto" if device.type == "cuda" else "float32"):
                network.features(x)
            rows = slice(int(index[0]), int(index[-1]) + 1)
            yield rows, {layer: flattened(found[layer], layer) for layer in layers}
            bar.update(len(index))


def digest(*parts: object) -> str:
    """Return 16 hexadecimal digits that stand for values which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(network: Network) -> str:
    """Return a digest of the trunk's weights and of what images are standardised by."""
    return _tensors_digest({"mean": network.mean, "std": network.std, **network.trunk.state_dict()})


def state_digest(network: Network, labels: SelfLabels) -> str:
    """Return a digest of all that a run has learned: trunk, heads, labels, potentials."""
    states = {f"state {h}": x for h, x in enumerate(labels.states) if x is not None}
    return _tensors_digest({**network.state_dict(), "labels": labels.labels, **states})


def _tensors_digest(named: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name, value in named.items():
        whole.update(name.encode())
        whole.update(value.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def images_digest(images: ImageSet, place: str) -> str:
    """Return a digest of the images' names and classes, and of what some of them show."""
    whole = hashlib.sha256(place.encode())
    whole.update("\n".join(images.paths).encode(errors="surrogateescape"))
    whole.update(images.targets.numpy().tobytes())
    some = torch.arange(0, len(images), max(1, len(images) // LOOKED_AT))
    whole.update(shown_digest(images, some).encode())
    return whole.hexdigest()[:16]


def shown_digest(images: ImageSet, index: Tensor) -> str:
    """Return a digest of what some images show."""
    whole = hashlib.sha256()
    for picture in images.thumbnails(index, DIGEST_SIDE):
        whole.update(np.ascontiguousarray(picture).tobytes())
    return whole.hexdigest()[:16]


class FeatureStore:
    """Features that were made before, and those that are missing.

    Parameters
    ----------
    folder : Path
        RUN/features.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def features(
        self,
        network: Network,
        images: ImageSet,
        place: str,
        view: View,
        layers: Sequence[str] = (TRUNK,),
        title: str = "features",
    ) -> list[Tensor]:
        """Return the (n, D) float32 features of each layer, mapped from their files.

        Parameters
        ----------
        network, images, view, layers, title
            See :func:`stream`.
        place : str
            What tells these images from others of the same names, such as their folder.

        Raises
        ------
        RunError
            The files cannot be written.
        """
        device = network.mean.device.type
        key = [weights_digest(network), images_digest(images, place), asdict(view), device]
        files = [self.folder / f"{x.replace('/', '-')}-{digest(x, *key)}.npy" for x in layers]
        missing = [(x, f) for x, f in zip(layers, files, strict=True) if not f.exists()]
        try:
            if missing:
                self.folder.mkdir(parents=True, exist_ok=True)
                _fill(network, images, view, missing, title)
            # copy on write: a tensor that refuses writing would warn
            return [torch.from_numpy(np.load(file, mmap_mode="c")) for file in files]
        except OSError as error:
            raise RunError(f"{self.folder} could not be written ({error.strerror}): make room, or "
                           "delete what is in it") from error  # fmt: skip


def _fill(
    network: Network,
    images: ImageSet,
    view: View,
    wanted: Sequence[tuple[str, Path]],
    title: str,
) -> None:
    """Write the files of some layers in one pass, or in what is left of it."""
    layers = [layer for layer, _ in wanted]
    files = [file for _, file in wanted]
    partial = [file.with_suffix(".partial") for file in files]
    notes = [file.with_suffix(".rows") for file in files]
    begun = all(note.exists() and part.exists() for note, part in zip(notes, partial, strict=True))
    start = min(int(note.read_text()) for note in notes) if begun else 0
    maps = [np.load(part, mmap_mode="r+") for part in partial] if start else []
    noted = time.monotonic()
    for rows, found in stream(network, images, view, layers, start=start, title=title):
        if not maps:
            maps = [
                np.lib.format.open_memmap(
                    part, "w+", np.float32, (len(images), found[layer].shape[1])
                )
                for part, layer in zip(partial, layers, strict=True)
            ]
        for layer, values in zip(layers, maps, strict=True):
            values[rows] = found[layer].cpu().numpy()
        if time.monotonic() - noted > NOTE:
            for values, note in zip(maps, notes, strict=True):
                values.flush()
                note.write_text(str(rows.stop))
            noted = time.monotonic()
    for values, part, note, file in zip(maps, partial, notes, files, strict=True):
        values.flush()
        os.replace(part, file)
        note.unlink(missing_ok=True)
