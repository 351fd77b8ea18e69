"""A backbone of timm and a data set of one's own: python examples/timm_backbone.py RUN."""

import sys

import timm
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score as nmi
from torch.utils.data import Dataset

import selfsup


class Digits(Dataset):  # any map-style data set: its items are images, or begin with one
    images = load_digits().images.astype("uint8") * 15

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i][:, :, None].repeat(3, axis=2)


# num_classes=0 takes the classifier away: what is left makes features. pretrained=True, or a file
# in checkpoint_path, gives a network that has seen images before, which small sets need.
trunk = timm.create_model("test_resnet", num_classes=0)
trained = selfsup.train(
    Digits(), trunk, out=sys.argv[1], image_size=32, clusters=(10, 10), epochs=5, updates=20,
    lr=0.05, report_minutes=1e9,
)  # fmt: skip
score = nmi(load_digits().target, trained.labels.labels[0])
print(f"{trained.network.dim} features; NMI with the digits: {score:.3f}")
