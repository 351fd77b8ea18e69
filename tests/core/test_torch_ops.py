"""`equipartition_labels` inside compiled graphs."""

import numpy as np
import pytest
import torch

import sinkhorn_ot.torch_ops
from sinkhorn_ot import equipartition_labels, sinkhorn

OPTIONS = (None, 0.1, 1e-3, 1000, None, "auto", None, "auto", "argmax")
#: Dynamo tells the message of an exception in what it compiles: torch 2.9 does, 2.7 does not.
TELLS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)


def compiled(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("shape", [(300, 10), (2, 300, 10)], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_operator_keeps_torch_s_rules(shape, requires_grad):
    """Schema, fake tensors, autograd and symbolic shapes: torch's own check."""
    logits = torch.randn(shape, requires_grad=requires_grad)
    checks = torch.library.opcheck(sinkhorn_ot.torch_ops.equipartition_labels, (logits, *OPTIONS))
    assert set(checks.values()) == {"SUCCESS"}


def test_a_graph_without_breaks_gives_the_same_labels():
    """And one that was made for one number of rows serves others."""

    @compiled
    def loss(logits):
        labels = equipartition_labels(2 * logits, epsilon=0.1)
        return labels, torch.nn.functional.cross_entropy(logits, labels)

    for n in (300, 301, 520):
        logits = torch.randn(n, 10, requires_grad=True)
        labels, value = loss(logits)
        assert labels.equal(equipartition_labels(2 * logits, epsilon=0.1))
        value.backward()
        assert logits.grad.abs().sum() > 0


def test_options_reach_the_solve():
    logits = torch.randn(400, 4)
    b = torch.tensor([0.7, 0.1, 0.1, 0.1])
    labels = compiled(lambda x: equipartition_labels(x, b=b, tol=1e-6))(logits)
    assert labels.equal(equipartition_labels(logits, b=b, tol=1e-6))
    assert labels.bincount()[0] > 200


def test_marginals_may_be_a_list():
    logits = torch.randn(400, 2)
    labels = compiled(lambda x: equipartition_labels(x, b=[0.9, 0.1]))(logits)
    assert labels.equal(equipartition_labels(logits, b=[0.9, 0.1]))


def test_marginals_of_the_other_library_are_refused_as_eagerly():
    b = np.array([0.9, 0.1])
    logits = torch.randn(40, 2)
    with pytest.raises(TypeError, match="b is a ndarray but logits is a Tensor"):
        equipartition_labels(logits, b=b)
    message = "b is a ndarray but logits is a Ten" if TELLS else ""
    with pytest.raises(torch._dynamo.exc.Unsupported, match=message):
        compiled(lambda x: equipartition_labels(x, b=b))(logits)


def test_a_callback_has_no_place_in_a_graph():
    message = "no place for a callback" if TELLS else ""
    with pytest.raises(torch._dynamo.exc.Unsupported, match=message):
        compiled(lambda x: equipartition_labels(x, callback=print))(torch.randn(9, 3))


def test_sinkhorn_is_one_graph_break_under_compile():
    """Nothing of a solve is traced, and it gives the bits of an eager call."""
    graphs = []

    def count(module, _):
        graphs.append(module)
        return module.forward

    compiled = torch.compile(lambda x: sinkhorn(2 * x, epsilon=0.5).g + 1, backend=count)
    for n in (64, 65):
        logits = torch.randn(n, 8, generator=torch.Generator().manual_seed(n))
        assert torch.equal(compiled(logits), sinkhorn(2 * logits, epsilon=0.5).g + 1)
    assert len(graphs) <= 4  # before and after, for the first size and for any


def test_an_exception_of_a_callback_keeps_its_type():
    """Also one that cannot be made from a message alone; which head it was is a note."""

    class Odd(ValueError):
        def __init__(self, one, two):
            super().__init__(one)

    def callback(info):
        raise Odd(1, 2)

    stack = torch.zeros(2, 30, 4)
    with pytest.raises(Odd, match="while head 0 was solved"):
        sinkhorn(stack, callback=callback)
