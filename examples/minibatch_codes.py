"""SwAV's way, soft labels of one view for the other: python examples/minibatch_codes.py."""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score as nmi
from torch import nn

from sinkhorn_ot import equipartition_labels, sinkhorn_codes

digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
n, k, temperature = len(images), 10, 0.1

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
prototypes = nn.Linear(64, k, bias=False)
optimiser = torch.optim.Adam([*network.parameters(), *prototypes.parameters()], 1e-3)


def scores(x):
    """Return the (B, k) cosines of embeddings and prototypes."""
    weight = nn.functional.normalize(prototypes.weight)
    return nn.functional.normalize(network(x)) @ weight.T


for _ in range(40):
    for index in torch.randperm(n).split(256):
        first, second = (scores(images[index] + 0.2 * torch.randn(len(index), 64)) for _ in "12")
        loss = 0.0
        for z, other in ((first, second), (second, first)):
            code = sinkhorn_codes(z, epsilon=0.05)  # constants: no gradient goes through them
            loss -= (code * (other / temperature).log_softmax(1)).sum(1).mean() / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
with torch.no_grad():
    labels = equipartition_labels(scores(images), epsilon=0.05)
print(f"NMI with the digits: {nmi(digits.target, labels):.3f}")
