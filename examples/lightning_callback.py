"""SeLa as a callback of Lightning: python examples/lightning_callback.py."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from selfsup import SelfLabels, update_times

images = torch.tensor(load_digits().images, dtype=torch.float32).flatten(1) / 16


class Relabel(lightning.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if module.labels.due(trainer.global_step * len(batch[1])):
            features = module.trunk.eval()(images.to(module.device)).detach()
            module.labels.update(features=features, heads=module.heads)
            module.train()


class SeLa(lightning.LightningModule):
    def __init__(self, labels):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.BatchNorm1d(256, affine=False))
        self.heads = nn.ModuleList(nn.Linear(256, 10) for _ in range(3))
        self.labels = labels

    def training_step(self, batch, _):
        features = self.trunk(batch[0] + 0.1 * torch.randn_like(batch[0]))
        return self.labels.loss([head(features) for head in self.heads], batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, 0.9, nesterov=True)


labels = SelfLabels(len(images), (10,) * 3, 0.1, times=update_times(15 * len(images), 60, power=1))
loader = DataLoader(list(zip(images, range(len(images)), strict=True)), 128, shuffle=True)
lightning.Trainer(max_epochs=15, callbacks=[Relabel()], logger=False).fit(SeLa(labels), loader)
print(f"{labels.updates} updates; sizes of head 0: {torch.bincount(labels.labels[0]).tolist()}")
