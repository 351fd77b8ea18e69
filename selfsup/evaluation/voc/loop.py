"""Training on whole images of different sizes: what detection and segmentation share."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from selfsup.errors import RunError
from selfsup.evaluation.frame import Evaluation
from selfsup.evaluation.voc.data import Target, VocImages, VocSettings, mirrored
from selfsup.seeds import Stream, generator_of, seed_of
from selfsup.training.checkpoints import write_whole
from selfsup.training.step import autocast, new_scaler

Batch = list[tuple[Tensor, Target]]
#: Minutes after which a training is saved.
SAVE_MINUTES = 10.0


@dataclass(frozen=True)
class VocTraining(VocSettings):
    """SGD with momentum 0.9, whose rate falls to a tenth at some steps."""

    frozen: bool = False
    steps: int = 150_000
    batch: int = 2
    lr: float = 0.001
    drops: tuple[int, ...] = (50_000, 100_000)
    """Steps at which the rate falls."""
    weight_decay: float = 5e-4
    warmup: int = 1000
    """Steps in which the rate rises: new layers are wild at first."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall: float = 0.1 ** sum(step >= drop for drop in self.drops)
        return self.lr * rise * fall


def fit(
    model: nn.Module,
    images: VocImages,
    loss: Callable[[Batch], Tensor],
    settings: VocTraining,
    evaluation: Evaluation,
    folder: Path,
) -> None:
    """Train a model on images, half of them mirrored, or go on after a stop.

    Random numbers are functions of seed and step.

    Parameters
    ----------
    model : torch.nn.Module
        What of it requires gradients is trained.
    images : VocImages
        What to train on.
    loss : callable
        Of a list of images and targets, on the model's device.
    settings : VocTraining
        How long and how fast.
    evaluation : Evaluation
        Whose seed, device and precision are used.
    folder : Path
        Where the training is saved, every ten minutes and at the end.

    Raises
    ------
    RunError
        The loss is not finite.
    """
    device, seed = evaluation.device, evaluation.seed
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(
        learned, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
    )
    scaler = new_scaler(evaluation.config.optimiser, device)
    file = folder / "training.pt"
    parts: dict[str, Any] = {"model": model, "optimiser": optimiser, "scaler": scaler}
    start = _restored(file, parts, device) if file.exists() else 0
    model.train()
    saved, bar = time.monotonic(), tqdm(range(start, settings.steps), folder.name, disable=None)
    for step, batch in zip(bar, _batches(images, settings, start, evaluation), strict=True):
        optimiser.param_groups[0]["lr"] = settings.rate(step)
        torch.manual_seed(seed_of(seed, Stream.DROPOUT, step))  # of dropout and of what is sampled
        with autocast(device, evaluation.config.optimiser.precision):
            value = loss(batch)
        if not bool(value.isfinite()):
            raise RunError(f"{folder.name}: the loss is not finite at step {step + 1}, training "
                           f"diverges; take a smaller lr than {settings.lr}")  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimiser)
        scaler.update()
        bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
        if step + 1 == settings.steps or time.monotonic() - saved > 60 * SAVE_MINUTES:
            saved = time.monotonic()
            _save(file, parts, step + 1)
    model.eval()


def _save(file: Path, parts: dict[str, Any], step: int) -> None:
    content = io.BytesIO()
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "step": step}, content)
    write_whole(file, content.getbuffer())


def _restored(file: Path, parts: dict[str, Any], device: torch.device) -> int:
    """Load what was saved; return the steps that were done."""
    states = torch.load(file, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return int(states["step"])


def _batches(
    images: VocImages, settings: VocTraining, start: int, evaluation: Evaluation
) -> Iterator[Batch]:
    """Give the batches of the steps from `start` on; each epoch has an order of its own."""
    batch, seed = min(settings.batch, len(images)), evaluation.seed
    per_epoch = len(images) // batch

    def chosen(step: int) -> list[int]:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(images), generator=generator_of(seed, Stream.ORDER, epoch))
        return order[place * batch : (place + 1) * batch].tolist()

    wanted = range(start, settings.steps)
    loader = DataLoader(
        images, batch_sampler=map(chosen, wanted), collate_fn=list,
        num_workers=settings.workers, generator=torch.Generator(),
    )  # fmt: skip
    for step, batch_ in zip(wanted, loader, strict=True):
        flips = torch.rand(len(batch_), generator=generator_of(seed, Stream.VIEWS, step)) < 0.5
        pairs = [mirrored(*one) if flip else one for one, flip in zip(batch_, flips, strict=True)]
        yield [on_device(image, target, evaluation.device) for image, target in pairs]


def on_device(image: Tensor, target: Target, device: torch.device) -> tuple[Tensor, Target]:
    """Return an image and its target on a device."""
    return image.to(device), {name: value.to(device) for name, value in target.items()}
