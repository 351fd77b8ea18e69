"""Typed settings of a run, in five parts; a function takes the part that it reads."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tyro

from selfsup.errors import ConfigError

T = TypeVar("T")
#: On the command line the settings of all parts are named alike: --epochs, not --optimiser.epochs.
FLAT = tyro.conf.arg(name="")

ARCHS = (
    "small-resnet", "alexnet", "alexnet-small", "resnet18", "resnet50", "preact-resnet18",
    "preact-resnet50",
)  # fmt: skip
DatasetName = Literal[
    "digits", "fashion-mnist", "cifar10", "cifar100", "svhn", "imagenet", "folder", "own"
]


#: Settings of any part that are at least 1, above 0, at least 0.
COUNTS = {"image_size", "width", "blocks", "stem_stride", "head_groups", "label_views", "max_iter",
          "epochs", "batch_size", "accumulate", "keep", "keep_every"}  # fmt: skip
POSITIVE = {"epsilon", "schedule_power", "marginal_spread", "tol", "lr", "lr_heads", "lr_fall"}
NOT_NEGATIVE = {"workers", "hold_out", "imbalance_seed", "updates", "momentum", "weight_decay",
                "clip", "seed", "checkpoint_minutes", "report_minutes", "knn_every"}  # fmt: skip


class _Part:
    """Settings of one kind, whose numbers are checked."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name, value in vars(self).items():
            if name in COUNTS and not value >= 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
            if name in POSITIVE and value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}")
            if name in NOT_NEGATIVE and not value >= 0:
                raise ConfigError(f"{name} must not be negative, got {value}")


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges from which every image draws its own random parameters."""

    crop: tuple[float, float] = (1.0, 1.0)
    """Share of the area that a random crop shows, resized to the input; (1, 1): centre crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  #: Aspect ratio of a random crop.
    crop_grid: int = 0
    """Draw crops as of an image whose shorter side has so many pixels; 0: as it is."""
    centre: float = 1.0  #: Part of the shorter side that a centre crop shows.
    place: tuple[float, float] = (0.5, 0.5)
    """Where a centre crop lies instead, down and across: (0, 0) is the upper left corner."""
    rotate: float = 0.0  #: Degrees, either way.
    scale: tuple[float, float] = (1.0, 1.0)  #: Shown part of the side: below 1 zooms in.
    stretch: float = 0.0  #: Log of the largest change of aspect ratio.
    shift: float = 0.0  #: Fraction of the side, either way.
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  #: Turns of the colour circle, either way.
    jitter: float = 1.0
    """Probability that brightness, contrast, saturation and hue of an image are changed."""
    grey: float = 0.0  #: Probability.
    blur: float = 0.0  #: Probability of a Gaussian blur.
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """In pixels of an input of 224; in proportion for other sizes."""
    erase: float = 0.0  #: Probability of a hole.


_COLOUR = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, grey=0.2, flip=True)
#: The augmentation levels of the authors' code, and MoCo-v2's ("Aug++" of their later models).
LEVELS: dict[str, AugmentConfig] = {
    "0": AugmentConfig(centre=0.875),
    "1": AugmentConfig(centre=0.875, flip=True),
    "2": AugmentConfig(crop=(0.08, 1.0), flip=True),
    "3": dataclasses.replace(_COLOUR, crop=(0.08, 1.0)),
    "moco-v2": dataclasses.replace(_COLOUR, crop=(0.2, 1.0), jitter=0.8, hue=0.1, blur=0.5),
}


@dataclass(frozen=True)
class DataConfig(_Part):
    """Which images."""

    dataset: DatasetName
    image_size: int  #: Side of the network's input.
    data: str | None = None  #: Folder (or zip file) of the images.
    classes: Literal["none", "folders"] = "none"
    """folder: whether the names of folders are classes; they are watched, never trained on."""
    hold_out: float = 0.0
    """folder: share of each class that is kept for tests, where there is no folder of tests."""
    imbalance: Literal["full", "light", "heavy"] = "full"
    """Of training images with classes, leave out: light, half of the last class; heavy, a share of
    each class that grows from 1/C of the first to all of the last of C, in the paper C = 10."""
    imbalance_seed: int = 0  #: Decides which images are left out.
    skip_unreadable: bool = False  #: Go on without the files that cannot be read.
    in_memory: bool = True
    """Decode all images once; otherwise each time they are used, in worker processes."""
    workers: int = 0  #: Processes that decode images; 0 decodes in the training process.

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        super().__post_init__()
        if self.hold_out >= 1:
            raise ConfigError(f"hold_out is a share below 1, got {self.hold_out}")
        if self.hold_out and self.classes == "none":
            raise ConfigError("hold_out is a share of each class: it goes with --classes folders")


@dataclass(frozen=True)
class ModelConfig(_Part):
    """Which network."""

    arch: str = "small-resnet"
    """small-resnet, alexnet, alexnet-small, resnet18, resnet50, preact-resnet18, preact-resnet50;
    or module:function, which returns a torch.nn.Module that makes features of images."""
    width: int = 16  #: small-resnet: channels after the stem; the features have four times as many.
    blocks: int = 1  #: small-resnet: residual blocks in each of the three stages.
    stem_stride: int = 1  #: small-resnet: stride of the first convolution.
    final_norm: bool = True
    """preact-resnet: normalise before the pooling, which the authors' code leaves out."""
    channels_last: bool = True
    """Memory format of images and weights; if no convolution makes fewer than 8 channels."""
    init: str | None = None  #: A run, or a file of weights, to start from.
    rotation: bool = False  #: Predict quarter turns as well (RotNet).
    sync_batch_norm: bool = False  #: On several GPUs, share the statistics of batch normalisation.

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        super().__post_init__()
        if self.arch not in (*ARCHS, "own") and ":" not in self.arch:
            known = ", ".join(ARCHS)
            raise ConfigError(f"arch {self.arch!r} is none of {known} or module:function")


@dataclass(frozen=True)
class LabelConfig(_Part):
    """Which labels, and when they are renewed."""

    clusters: tuple[int, ...] = (10,)
    """K of each head; 0 chooses one that fits the number of images."""
    labelling: Literal[
        "equipartition", "k-means", "balanced k-means", "argmax", "fixed", "none"
    ] = "equipartition"
    """SeLa's transport; baselines: k-means, k-means with clusters of equal size, argmax; a file;
    nothing (rotation alone)."""
    labels_file: str | None = None
    """Where fixed labels come from: a run, or the .npy or .csv file that it wrote."""
    rounding: Literal["argmax", "exact"] = "argmax"
    """Labels of equipartition: the argmax of its plan, or classes of exactly the wanted sizes."""
    epsilon: float = 0.04  #: 1 / lambda.
    marginal: Literal["uniform", "gaussian", "zipf"] = "uniform"
    """Sizes of equipartition's clusters; the larger go to those that are the larger now, as SeLaVi
    meant it."""
    marginal_spread: float = 0.1  #: gaussian: standard deviation over mean; zipf: exponent.
    tol: float = 1e-2  #: Marginal violation at which a solve stops.
    max_iter: int = 300
    updates: int = 80
    """Label updates, the first before the first step, the last at the end; 0: random labels."""
    schedule_power: float = 2.0  #: 1 linear, 1.5 as SeLaVi, 2 as SeLa on ImageNet.
    heads_per_update: Literal["all", "one"] = "all"
    """"one": each update renews one head, in turn; others keep their labels, random at first."""
    head_groups: int = 1
    """Groups of heads that see other random views in a label pass, which keeps them different."""
    label_augment: AugmentConfig = AugmentConfig()  #: What a label pass sees.
    label_sees: Literal["label-augment", "augment"] = "label-augment"
    """augment: a label pass sees the views of training, as the authors'."""
    label_views: int = 1
    """Random views averaged into a label; one is enough where label_augment is not random."""
    label_mode: Literal["eval", "train"] = "eval"
    """train: dropout and the statistics of shuffled batches in the label pass, as the authors'."""
    features_in: Literal["device", "memory", "disk"] = "device"
    """Where the features of a label pass wait for the heads, which take them in blocks."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        super().__post_init__()
        if self.labelling == "none":
            if self.clusters:
                raise ConfigError("labelling none has no clusters: --clusters without a number")
        elif not self.clusters or min(self.clusters) < 0 or 1 in self.clusters:
            raise ConfigError(f"clusters needs a K >= 2 for every head, got {self.clusters}")
        if (self.labelling == "fixed") != (self.labels_file is not None):
            raise ConfigError("labels_file goes with labelling fixed, and fixed with labels_file")
        if self.head_groups > 1 and self.heads_per_update == "one":
            raise ConfigError("head_groups > 1 are groups of all heads: --heads-per-update all")
        if self.head_groups > len(self.clusters) > 0:
            raise ConfigError(f"{self.head_groups} head_groups of {len(self.clusters)} heads")


@dataclass(frozen=True)
class OptimiserConfig(_Part):
    """How the network learns."""

    epochs: int = 100
    batch_size: int = 128  #: Images per step, over all processes.
    accumulate: int = 1  #: Parts in which a batch goes through the network, to save memory.
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """auto: bfloat16 on a GPU or a processor with instructions for it, else float32."""
    lr: float = 0.05  #: Highest learning rate.
    lr_heads: float | None = None  #: Highest learning rate of the heads, where it differs.
    lr_schedule: Literal["cosine", "step"] = "cosine"
    lr_drops: tuple[int, ...] = ()  #: Epochs before which the rate of a step schedule falls.
    lr_fall: float = 0.1  #: What it is multiplied by at a drop.
    clip: float = 0.0  #: Largest norm of the gradient; 0 leaves it as it is.
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        super().__post_init__()
        if self.batch_size % self.accumulate:
            parts = f"{self.accumulate} equal parts (accumulate)"
            raise ConfigError(f"batch_size {self.batch_size} cannot be cut into {parts}")
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs a momentum above 0")


@dataclass(frozen=True)
class RunConfig(_Part):
    """What is kept of a run, and where it computes."""

    preset: str = "own"  #: Names the run's directory and its report.
    seed: int = 0
    device: str = "auto"
    """auto: the first GPU if there is one, else the CPU; only CPU runs repeat to the bit."""
    keep: int = 2  #: Newest checkpoints that are kept.
    keep_every: int = 50  #: Epochs between checkpoints that are kept for good.
    checkpoint_minutes: float = 15.0  #: A checkpoint inside an epoch after that long without one.
    report_minutes: float = 10.0  #: A report while training after that long without one.
    knn_every: int = 5
    """Epochs between kNN accuracies of a few images, where classes are known; 0: none."""
    supervised_epochs: int = 20
    """Epochs of the evaluation's baseline that is shown the true classes."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run."""

    data: Annotated[DataConfig, FLAT]
    model: Annotated[ModelConfig, FLAT] = field(default_factory=ModelConfig)
    labels: Annotated[LabelConfig, FLAT] = field(default_factory=LabelConfig)
    optimiser: Annotated[OptimiserConfig, FLAT] = field(default_factory=OptimiserConfig)
    run: Annotated[RunConfig, FLAT] = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Refuse parts that do not go together."""
        if self.labels.labelling == "none" and not self.model.rotation:
            raise ConfigError("labelling none leaves nothing to learn but rotation: --rotation")

    def but(self, **changes: Any) -> Self:
        """Return the settings with some of their parts' fields changed."""
        parts = {}
        for part in fields(self):
            old = getattr(self, part.name)
            names = {f.name for f in fields(old)} & changes.keys()
            parts[part.name] = dataclasses.replace(old, **{n: changes.pop(n) for n in names})
        if changes:
            raise ConfigError(f"no settings of these names: {', '.join(changes)}")
        return dataclasses.replace(self, **parts)

    @property
    def label_augment(self) -> AugmentConfig:
        """What a label pass sees."""
        own = self.labels.label_sees == "label-augment"
        return self.labels.label_augment if own else self.optimiser.augment

    def clean(self) -> Self:
        """Return settings by which a label pass sees images as they are, without random changes."""
        centre = AugmentConfig(centre=self.labels.label_augment.centre)
        return self.but(
            label_augment=centre, label_sees="label-augment", label_views=1, label_mode="eval"
        )

    @property
    def ln_k(self) -> float:
        """Loss of a network that knows nothing: the mean ln K, and ln 4 for quarter turns."""
        heads = [math.log(k) for k in self.labels.clusters]
        return sum(heads) / max(len(heads), 1) + math.log(4) * self.model.rotation

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a file of what :meth:`to_json` returned."""
        try:
            return _from_json(cls, json.loads(path.read_text()))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: not the settings of a run ({error})") from error


def _from_json(kind: type[T], values: dict[str, Any]) -> T:
    """Make a dataclass from what `dataclasses.asdict` gave, through JSON's lists."""
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        hint = hints.get(name)
        if dataclasses.is_dataclass(hint):
            values[name] = _from_json(typing.cast(type, hint), value)
        elif isinstance(value, list):
            values[name] = tuple(value)
    return kind(**values)
