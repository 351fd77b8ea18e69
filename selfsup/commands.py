"""What the command line can be asked for: the options of each command."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfsup.config import FLAT, Config
from selfsup.evaluation.protocols import Settings
from selfsup.evaluation.subject import Images

Level = Literal["0", "1", "2", "3", "moco-v2"]


@dataclass(frozen=True)
class Train:
    """Train from a preset."""

    config: Annotated[Config, FLAT]
    out: Path | None = None
    """New run directory; runs/PRESET when left out."""
    level: Level | None = None
    """Augmentation level of the training views, as in the authors' code; sets all of augment."""
    label_level: Level | None = None
    """The same for the label pass; sets all of label-augment."""
    as_authors: bool = False
    """Do all that docs/differences.md lists as the authors' code does it."""
    dry_run: bool = False
    """Build everything, print the settings and what the full run needs, try a few small steps."""


@dataclass(frozen=True)
class Resume:
    """Go on with a stopped run; it ends in the same bits as if never stopped."""

    resume: Path
    data: str | None = None
    """Folder of the images, when it has moved."""
    epochs: int | None = None
    """Train to so many epochs instead; schedules stretch, and label updates grow in proportion."""
    processes_may_differ: bool = False
    """Go on with another number of processes; the bits are others then."""


@dataclass(frozen=True)
class Run:
    """A run."""

    run: tyro.conf.Positional[Path]
    data: str | None = None
    """Folder of the images, when it has moved."""


@dataclass(frozen=True)
class Evaluate:
    """Say how good a run is; writes RUN/evaluation.json.

    RUN/report.html is written anew where the images are those that the run was trained on.
    """

    run: tyro.conf.Positional[Path]
    protocol: tuple[str, ...] = ()
    """Names of protocols; the usual ones when left out."""
    baselines: tuple[str, ...] = ()
    """What to compare with: untrained, pixels, kmeans, supervised."""
    images: Annotated[Images, FLAT] = field(default_factory=Images)
    device: str = "auto"
    fresh: bool = False
    """Compute anew what RUN/evaluation.json has already; trainings of protocols begin anew."""
    settings: Annotated[Settings, FLAT] = field(default_factory=Settings)


@dataclass(frozen=True)
class Transfer:
    """Train a fresh network on a run's labels, and evaluate it; called again, it goes on."""

    run: tyro.conf.Positional[Path]
    arch: str
    """As of train."""
    rotation: bool = False
    """Predict quarter turns as well."""
    image_size: int | None = None
    """Side of the network's input; that of the run, for AlexNet 224."""
    epochs: int | None = None
    """As published (90) of ImageNet, those of the run for other images."""
    out: Path | None = None
    """New run directory; RUN-to-ARCH when left out."""
    data: str | None = None
    """Folder of the images, when it has moved."""
    device: str = "auto"
    protocol: tuple[str, ...] = ()
    """Names of protocols; the usual ones when left out."""


@dataclass(frozen=True)
class Labels(Run):
    """Write a run's labels: index, path and one column per head."""

    csv: Path = Path("labels.csv")


@dataclass(frozen=True)
class Predict:
    """Label new images with a trained run: index, path and one column per head."""

    run: tyro.conf.Positional[Path]
    data: str
    """Folder of images, however nested; or a zip file of one."""
    csv: Path | None = None
    """File to write; RUN/predictions.csv when left out."""
    device: str = "auto"
    workers: int = 0
    """Processes that decode images."""


@dataclass(frozen=True)
class Export:
    """Write weights, how to standardise images for them, and the embeddings of the run's images."""

    run: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    data: str | None = None
    """Folder of other images to embed; those of the run when left out."""
    device: str = "auto"


@dataclass(frozen=True)
class ExportClusters:
    """Make a folder for every cluster of a head, with links to its images."""

    run: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    head: int = 0
    copy: bool = False
    """Copy the images instead."""
    data: str | None = None
    """Folder of the images, when it has moved."""
