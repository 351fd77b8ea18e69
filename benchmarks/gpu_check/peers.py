"""What a user would otherwise run on a GPU: each from logits there to labels there.

All stop at the same violation. POT and OTT are called by benchmarks/solvers.py, too; what their
stopping rules are is said there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from problems import EPSILON

MAX_ITER = 2000


@dataclass(frozen=True)
class Answer:
    """Labels, and either the potential g of the clusters or the plan, from which masses follow."""

    labels: torch.Tensor
    n_iter: int | None
    g: torch.Tensor | None = None
    plan: torch.Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """Logits, and where they are inner products the points, for those who solve no others."""

    logits: torch.Tensor
    features: torch.Tensor | None = None
    prototypes: torch.Tensor | None = None


def two_products(problem: Problem, tol: float) -> Answer:
    """The loop that people write, in float32: exponentials in place, two products an iteration.

    The logits are overwritten.
    """
    return _scaling(problem.logits, tol)


def sela_loop(problem: Problem, tol: float) -> Answer:
    """The SeLa authors' recurrence in float64, from its maths: the same two products."""
    return _scaling(problem.logits.double(), tol)


def _scaling(p: torch.Tensor, tol: float) -> Answer:
    """Scale the rows and columns of ``exp(p / EPSILON)`` in turn; p is overwritten."""
    n, k = p.shape
    p.sub_(p.amax(1, keepdim=True)).div_(EPSILON).exp_()
    u = torch.ones(k, dtype=p.dtype, device=p.device)
    for n_iter in range(MAX_ITER):  # noqa: B007  (it is returned)
        v = (p @ u).reciprocal_().div_(n)
        mass = (v @ p).mul_(u)
        violation = float((mass - 1 / k).abs().sum())
        if violation <= tol or math.isnan(violation):
            break
        u.mul_((1 / k) / mass)
    return Answer(p.mul_(u).argmax(1), n_iter, EPSILON * u.double().log())


def pot(problem: Problem, tol: float) -> Answer:
    """POT on torch tensors, in float64; its 2-norm test is set to ensure the 1-norm."""
    import ot

    cost = -problem.logits.double()
    n, k = cost.shape
    a, b = (torch.full((m,), 1 / m, dtype=cost.dtype, device=cost.device) for m in (n, k))
    plan, log = ot.sinkhorn(
        a, b, cost, EPSILON, numItermax=MAX_ITER, stopThr=tol / math.sqrt(k), log=True
    )
    return Answer(plan.argmax(1), int(log["niter"]) + 1, EPSILON * log["v"].log())


def ott(problem: Problem, tol: float) -> Answer:
    """OTT on JAX's device, which must be the same GPU; memory is shared, not copied."""
    import jax
    from solvers import ott_solve

    device = jax.devices()[0].platform
    if problem.logits.is_cuda and device not in ("gpu", "cuda"):
        raise RuntimeError(f"JAX sees no GPU, only {device}")
    out = ott_solve(jax.dlpack.from_dlpack(problem.logits), tol, MAX_ITER)
    g = torch.from_dlpack(out.f).double()
    return Answer((problem.logits + g.float()).argmax(1), int(out.n_iters), g)


def curegot(problem: Problem, tol: float) -> Answer:
    """CuRegOT's quasi-Newton method, in float64; it returns the plan alone."""
    import curegot

    cost = -problem.logits.double()
    a, b = (torch.full((m,), 1 / m, dtype=cost.dtype, device=cost.device) for m in cost.shape)
    found = curegot.torch.sinkhorn_splr(cost, a, b, EPSILON, tol=tol, max_iter=MAX_ITER, verbose=0)
    return Answer(found["plan"].argmax(1), int(found["niter"]), plan=found["plan"])


def _points(problem: Problem, tol: float, *, module: str, **options: object) -> Answer:
    """GeomLoss or FlashSinkhorn: their iterations follow from blur and scaling, not from `tol`.

    With unit vectors half the squared distance is 1 minus the logit, so it is the same problem.
    """
    loss = importlib.import_module(module).SamplesLoss(
        "sinkhorn", p=2, blur=math.sqrt(EPSILON), debias=False, potentials=True, **options
    )
    _, g = loss(problem.features, problem.prototypes)
    return Answer((problem.logits + g.view(1, -1)).argmax(1), None, g.view(-1).double())


#: name -> the module that must be installed, whether it solves points alone, and the function
PEERS: dict[str, tuple[str, bool, Callable[[Problem, float], Answer]]] = {
    "torch, two products": ("torch", False, two_products),
    "SeLa's loop, float64": ("torch", False, sela_loop),
    "OTT": ("ott", False, ott),
    "POT": ("ot", False, pot),
    "cuRegOT": ("curegot", False, curegot),
    "GeomLoss": ("geomloss", True, functools.partial(_points, module="geomloss", backend="online")),
    "FlashSinkhorn": ("flash_sinkhorn", True, functools.partial(_points, module="flash_sinkhorn")),
}


def installed(name: str) -> bool:
    """Whether a peer can be tried here."""
    return importlib.util.find_spec(PEERS[name][0]) is not None


def unit_points(n: int, k: int, device: str, width: int = 128) -> Problem:
    """Unit features times unit prototypes, as in SwAV: around centres of uneven weight."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    unit = functools.partial(torch.nn.functional.normalize, dim=1)
    centres, prototypes = unit(normal(max(k // 10, 1), width)), unit(normal(k, width))
    weight = 1 / torch.arange(1, len(centres) + 1, device=device)
    which = torch.multinomial(weight, n, replacement=True, generator=generator)
    features = unit(centres[which] + 0.5 * unit(normal(n, width)))
    return Problem(features @ prototypes.T, features, prototypes)
