"""One step of SGD: precision, learning rate, rotation, gradient."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from selfsup.config import OptimiserConfig
from selfsup.sela import SelfLabels


def precision_on(device: torch.device, wanted: str) -> torch.dtype:
    """Return the type in which the network computes."""
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:  # an old torch does not say what the processor has
        has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


def autocast(device: torch.device, wanted: str) -> AbstractContextManager[None]:
    """Return the context of mixed precision; idle for float32."""
    dtype = precision_on(device, wanted)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def build_optimiser(config: OptimiserConfig, network: nn.Module) -> torch.optim.SGD:
    """Return SGD as `config` says, for what is not frozen; a group says its share of the rate."""
    learned = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for _, p in learned], "share": 1.0}]
    if config.lr_heads is not None:
        share = config.lr_heads / config.lr
        trunk = [p for name, p in learned if name.startswith("trunk.")]
        heads = [p for name, p in learned if not name.startswith("trunk.")]
        groups = [{"params": trunk, "share": 1.0}, {"params": heads, "share": share}]
    return torch.optim.SGD(
        groups, config.lr, config.momentum,
        weight_decay=config.weight_decay, nesterov=config.nesterov,
    )  # fmt: skip


def new_scaler(config: OptimiserConfig, device: torch.device) -> torch.amp.GradScaler:
    """Return what keeps gradients in float16 from underflowing; idle otherwise."""
    half = precision_on(device, config.precision) == torch.float16
    return torch.amp.GradScaler(device.type, enabled=half)


def learning_rate(config: OptimiserConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step.

    A step schedule is multiplied by ``config.lr_fall`` before each of ``config.lr_drops``. A cosine
    is half a wave down to zero, after a short linear rise.
    """
    if config.lr_schedule == "step":
        epoch = step // steps_per_epoch
        return float(config.lr * config.lr_fall ** sum(epoch >= drop for drop in config.lr_drops))
    steps = config.epochs * steps_per_epoch
    rise = min(1.0, (step + 1) / max(1, steps // 50))
    return config.lr * rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def quarter_turns(images: Tensor) -> Tensor:
    """Return (4B, C, S, S): the (B, C, S, S) images turned by 0, 90, 180 and 270 degrees."""
    return torch.cat([torch.rot90(images, turns, (2, 3)) for turns in range(4)])


def objective(
    model: nn.Module, views: Tensor, index: Tensor, labels: SelfLabels, rotation: bool
) -> Tensor:
    """Return the loss on (B, C, S, S) views of the images at `index`, that of rotation added."""
    if not rotation:
        return labels.loss(model(views), index)
    *heads, turns = model(quarter_turns(views), rotated=True)
    truth = torch.arange(4, device=turns.device).repeat_interleave(len(index))
    loss = F.cross_entropy(turns, truth)  # of RotNet
    return loss + labels.loss(heads, index) if heads else loss


def gradient_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    views: Tensor,
    index: Tensor,
    labels: SelfLabels,
    config: OptimiserConfig,
    *,
    rotation: bool = False,
) -> Tensor:
    """Take one SGD step on (B, C, S, S) views of the images at `index`; return the loss."""
    total = torch.zeros((), dtype=torch.float64, device=views.device)
    optimiser.zero_grad(set_to_none=True)
    parts = [torch.chunk(x, config.accumulate) for x in (views, index)]
    for i, (x, some) in enumerate(zip(*parts, strict=True), 1):
        silent = isinstance(model, DistributedDataParallel) and i < config.accumulate
        with model.no_sync() if silent else nullcontext():  # type: ignore[operator]
            with autocast(views.device, config.precision):
                loss = objective(model, x, some, labels, rotation) / config.accumulate
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    if config.clip:
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    scaler.step(optimiser)
    scaler.update()
    return total
