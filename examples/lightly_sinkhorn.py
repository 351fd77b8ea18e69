"""lightly's Sinkhorn replaced in three lines: python examples/lightly_sinkhorn.py."""

from types import SimpleNamespace

import torch
from torch import distributed

from sinkhorn_ot import sinkhorn_codes


def loop(out, iterations=3, epsilon=0.05, gather_distributed=False):
    """What lightly's function does in one process, written from its mathematics."""
    q = torch.exp(out / epsilon).t()
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).t()


try:
    from lightly.loss import swav_loss
except ImportError:  # lightly brings much along; this stands for its module
    swav_loss = SimpleNamespace(sinkhorn=loop)

theirs = swav_loss.sinkhorn


def sinkhorn(out, iterations=3, epsilon=0.05, gather_distributed=False):  # the three lines
    group = distributed.group.WORLD if gather_distributed else None
    return sinkhorn_codes(out, epsilon, iterations, process_group=group)


swav_loss.sinkhorn = sinkhorn  # SwaVLoss calls what it finds in its module

scores = torch.randn(256, 300, generator=torch.Generator().manual_seed(0)).div(4).clamp(-1, 1)
print(f"largest difference: {(theirs(scores) - swav_loss.sinkhorn(scores)).abs().max():.1e}")
half = scores.half()
print(f"finite in float16: {theirs(half).isfinite().all()}, {sinkhorn(half).isfinite().all()}")
