"""
A file that is larger than memory
=================================

A ``.npy`` file is opened as a memory map and read in place, a few times from its first row to its
last; nothing of it is copied. Here the file is small; a terabyte needs no other program. From a
shell: ``python -m sinkhorn_ot solve logits.npy -o labels.npy``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sinkhorn_ot import sinkhorn

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "logits.npy"
rng = np.random.default_rng(0)
file = np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=(200_000, 100))
favour = rng.normal(size=100)
for start in range(0, 200_000, 20_000):
    file[start : start + 20_000] = rng.normal(size=(20_000, 100)) + favour
file.flush()

# %%
# ``memory_limit`` bounds what a call may add, in bytes, beyond the file and the labels. The
# callback is told how far the solve is.
logits = np.load(path, mmap_mode="r")
seen = []
result = sinkhorn(
    logits,
    epsilon=0.1,
    tol=1e-6,
    memory_limit=8 << 20,
    callback=lambda progress: seen.append((progress.n_passes, progress.marginal_violation)),
)
print(f"{path.stat().st_size / 1e6:.0f} MB read {result.n_passes:.1f} times, "
      f"violation {result.marginal_violation:.1e}")  # fmt: skip

figure, axis = plt.subplots(figsize=(6, 3))
axis.semilogy(*zip(*seen, strict=True), "o-")
axis.set_xlabel("reads of the file")
axis.set_ylabel("marginal violation")
figure.tight_layout()

# %%
# The map is closed before the file is deleted.
del logits, file
folder.cleanup()
