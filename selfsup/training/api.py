"""Training from Python, with a network and images of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from selfsup.config import Config
from selfsup.data import ImageSet, load_data, own_images
from selfsup.errors import ConfigError
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import create_run, load_config, refuse_existing, write_whole
from selfsup.training.fit import Trainer
from selfsup.training.label_pass import fit_clusters
from selfsup.training.processes import joined
from selfsup.training.trained import Trained


def train(
    data: Any,
    model: nn.Module | str | None = None,
    *,
    out: str | Path,
    preset: str = "folder",
    resume: bool = False,
    **settings: Any,
) -> Trained:
    """Train SeLa, and write a run as the command line does.

    Parameters
    ----------
    data : str, Path or torch.utils.data.Dataset
        A folder of images (or a zip file), or a map-style data set: see
        :func:`selfsup.data.own_images`.
    model : torch.nn.Module or str, optional
        What makes (B, D) features of (B, C, S, S) images with mean 0 and deviation 1; or an
        `arch`, as of ``--arch``. That of the preset without.
    out : str or Path
        The run's directory.
    preset : str
        The settings to start from.
    resume : bool
        Go on with the run that is there.
    **settings
        Any field of the parts of :class:`selfsup.config.Config`, such as ``epochs=20``,
        ``clusters=(50,) * 10``, ``image_size=224``.

    Returns
    -------
    Trained
        Labels, network, and `predict`.

    Raises
    ------
    SelfsupError
        Settings that cannot be meant, images that cannot be read, training that diverges.
    """
    run, trunk = Path(out), model if isinstance(model, nn.Module) else None
    images: ImageSet | None = None
    if resume and settings:
        raise ConfigError(f"resume takes its settings from {run}; drop {', '.join(settings)}")
    arch = "own" if trunk is not None else model
    own = settings | ({"arch": arch} if arch else {})
    config = load_config(run) if resume else PRESETS[preset].but(**own)
    if isinstance(data, str | Path):
        config = config.but(data=str(Path(data).resolve()))
    else:
        config = config.but(dataset="own", data=None)
        images = files = own_images(data, config.data.workers)
        if config.data.in_memory:
            images, _ = files.in_memory(config.data.image_size, config.data.skip_unreadable)
    with trainer_of(config, run, images, trunk=trunk, resume=resume) as trainer:
        trainer.fit()
    return Trained.load(run, device=str(trainer.device), trunk=trunk)


@contextmanager
def trainer_of(
    config: Config, run: Path, images: ImageSet | None = None, *, trunk: nn.Module | None = None,
    resume: bool = False, processes_may_differ: bool = False,
) -> Iterator[Trainer]:  # fmt: skip
    """Give the trainer of a new run, or of one that goes on; without `images` load and tell them.

    Inside, the processes that ``torchrun`` started are joined.
    """
    with joined(config.run.device) as (world, device):
        if world.first and not resume:
            refuse_existing(run)
        if images is None:
            splits = load_data(config.data)
            images = splits.train
            if world.first:
                print(f"{splits.found}\ndevice: {device}", flush=True)
        config = config.but(clusters=fit_clusters(config.labels, len(images)))
        trainer = Trainer(config, images, run, world, device, trunk)
        if resume:
            trainer.load(processes_may_differ=processes_may_differ)
        if world.first and not resume:
            create_run(config, run)
        elif world.first and config != load_config(run):  # longer, or images elsewhere
            write_whole(run / "config.json", config.to_json().encode())
        yield trainer
