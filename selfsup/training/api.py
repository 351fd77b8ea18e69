"""Training from Python, with a network and images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from selfsup.config import Config
from selfsup.data import ImageSet, load_data, own_images
from selfsup.errors import ConfigError
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import create_run, load_config, refuse_existing
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
    run = Path(out)
    trunk = model if isinstance(model, nn.Module) else None
    arch = {"arch": "own"} if trunk is not None else {"arch": model} if model else {}
    config = PRESETS[preset].but(**arch, **settings) if not resume else load_config(run)
    if resume and settings:
        raise ConfigError(f"resume takes its settings from {run}; drop {', '.join(settings)}")
    with joined(config.run.device) as (world, device):
        config, images = _images(data, config)
        clusters = fit_clusters(config.labels, len(images))
        config = config.but(clusters=clusters)
        if world.first and not resume:
            refuse_existing(run)
        trainer = Trainer(config, images, run, world, device, trunk)
        if resume:
            trainer.load()
        elif world.first:
            create_run(config, run)
        trainer.fit()
    return Trained.load(run, device=device, trunk=trunk)


def _images(data: Any, config: Config) -> tuple[Config, ImageSet]:
    if isinstance(data, str | Path):
        config = config.but(data=str(Path(data).resolve()))
        return config, load_data(config.data).train
    config = config.but(dataset="own", data=None)
    files = own_images(data, config.data.workers)
    if not config.data.in_memory:
        return config, files
    return config, files.in_memory(config.data.image_size, config.data.skip_unreadable)[0]
