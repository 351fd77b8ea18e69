"""`equipartition_labels` inside compiled graphs."""

import pytest
import torch

import sinkhorn_ot.torch_ops
from sinkhorn_ot import equipartition_labels

OPTIONS = (None, 0.1, 1e-3, 1000, None, "auto", None, "auto")


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


def test_a_callback_has_no_place_in_a_graph():
    with pytest.raises(torch._dynamo.exc.Unsupported, match="no place for a callback"):
        compiled(lambda x: equipartition_labels(x, callback=print))(torch.randn(9, 3))
