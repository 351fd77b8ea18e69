"""Several processes: the labels of one, and the same bits after being killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from test_runs import assert_same_run

from selfsup.config import AugmentConfig, Config
from selfsup.data import load_data
from selfsup.runs import checkpoints, create_run, read_log
from selfsup.sela import label_step
from selfsup.train import Trainer
from selfsup.world import World

PAIR = Config(
    preset="pair",
    dataset="digits",
    image_size=8,
    width=4,
    clusters=(10, 6),
    epsilon=0.1,
    updates=9,
    epochs=3,
    batch_size=100,
    checkpoint_minutes=0.0,
    augment=AugmentConfig(rotate=10, shift=0.1),
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_NUM_THREADS": "1"}

# Goes on with a run and dies so many seconds later.
SOON_KILLED = """
import os, signal, sys
import selfsup.train
from selfsup.__main__ import main
after = float(sys.argv[2])
fit = selfsup.train.Trainer.fit
def fit_until_killed(trainer):
    if trainer.world.first and after:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, as SIGKILL does
        signal.setitimer(signal.ITIMER_REAL, after)
    fit(trainer)
selfsup.train.Trainer.fit = fit_until_killed
sys.exit(main(["train", "--resume", sys.argv[1]]))
"""


def torchrun(run):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", "-m", "selfsup", "train", "--resume", str(run)]  # fmt: skip
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def pair(script, *arguments):
    """Start two processes as torchrun would; when one ends, end the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in (0, 1):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        command = [sys.executable, "-c", script, *map(str, arguments)]
        started.append(
            subprocess.Popen(command, env=ENVIRONMENT | where, stderr=subprocess.DEVNULL)
        )
    status = started[0].wait()
    if status:
        started[1].send_signal(signal.SIGKILL)
    started[1].wait()
    return status


def test_two_processes_label_as_one_and_survive_ten_kills(tmp_path):
    # The first label update of torchrun's two processes is that of a single process with the same
    # weights, and a run of two that is killed at ten random moments ends in the bits of one that
    # was not.
    finished, killed = tmp_path / "finished", tmp_path / "killed"
    create_run(replace(PAIR, keep=1000), finished)
    torchrun(finished)

    images = load_data(PAIR).train
    single = Trainer(PAIR, images, tmp_path / "single")
    labels, report = label_step(single.network, images, PAIR, single.labels, 0, World())
    first = torch.load(checkpoints(finished)[1], weights_only=True)
    assert (first["step"], first["updates"]) == (1, 1)
    assert torch.equal(first["labels"], labels.labels)
    for theirs, ours in zip(first["potentials"], labels.potentials, strict=True):
        assert (theirs - ours).abs().max() < 1e-9
    line = read_log(finished, "update")[0]
    for name in ("ce_before", "ce_after"):
        assert line[name] == pytest.approx([getattr(h, name) for h in report.heads], rel=1e-9)

    create_run(replace(PAIR, keep=1000), killed)
    moments = random.Random(0)
    deaths = 0
    for _ in range(10):
        deaths += pair(SOON_KILLED, killed, moments.uniform(0.02, 0.4)) == -signal.SIGALRM
    steps = [torch.load(path, weights_only=True)["step"] for path in checkpoints(killed)]
    assert deaths == 10, f"it was finished after {deaths} kills, at step {max(steps)}"
    assert pair(SOON_KILLED, killed, 0) == 0
    assert_same_run(killed, finished)
