"""Several processes: the labels of one, and the same bits after being killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys

import pytest
import torch
from tiny_run import TINY, assert_same_run

from selfsup.data import load_data
from selfsup.training.checkpoints import checkpoints, create_run, load_checkpoint, read_log
from selfsup.training.fit import Trainer
from selfsup.training.label_pass import label_step
from selfsup.training.processes import World

PAIR = TINY.but(updates=9, epochs=3, batch_size=100, checkpoint_minutes=0.0)
CALLS = 100_000  # function calls of about two steps
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_NUM_THREADS": "1"}

# Goes on with a run, and dies after so many function calls: in a step, a label step, a checkpoint.
SOON_KILLED = """
import os, signal, sys
from selfsup.cli import main
from selfsup.training.fit import Trainer
left = int(sys.argv[2])
fit = Trainer.fit
def fit_until_killed(trainer, *arguments):
    def count(frame, event, argument):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if left and trainer.world.rank == int(sys.argv[3]):
        sys.setprofile(count)
    fit(trainer, *arguments)
Trainer.fit = fit_until_killed
sys.exit(main(["train", "--resume", sys.argv[1]]))
"""


def torchrun(run):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", "-m", "selfsup", "train", "--resume", str(run)]  # fmt: skip
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def group(size, run, calls=0, victim=0):
    """Go on with a run as torchrun would; kill the others when the victim has died."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        command = [sys.executable, "-c", SOON_KILLED, *map(str, (run, calls, victim))]
        started.append(
            subprocess.Popen(
                command, env=ENVIRONMENT | where, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
    status = started[victim].wait()
    for process in started:
        if status:
            process.send_signal(signal.SIGKILL)
        process.wait()
    return status


def test_two_processes_label_as_one_and_survive_ten_kills(tmp_path):
    # The first label update of torchrun's two processes is that of a single process with the same
    # weights, and a run of two that is killed at ten random moments ends in the bits of one that
    # was not.
    finished, killed = tmp_path / "finished", tmp_path / "killed"
    create_run(PAIR.but(keep=1000), finished)
    torchrun(finished)

    images = load_data(PAIR.data).train
    single = Trainer(PAIR, images, tmp_path / "single")
    labels = single.labels
    report = label_step(PAIR, single.network, images, labels, World())
    first = torch.load(checkpoints(finished)[1], weights_only=True)
    assert (first["step"], first["labels"]["updates"]) == (1, 1)
    assert torch.equal(first["labels"]["labels"], labels.labels)
    for theirs, ours in zip(first["labels"]["states"], labels.states, strict=True):
        assert (theirs - ours).abs().max() < 1e-7  # float32 sums round otherwise where rows are cut
    line = read_log(finished, "update")[0]
    for name in ("ce_before", "ce_after"):
        assert line[name] == pytest.approx([getattr(h, name) for h in report.heads], rel=1e-9)

    create_run(PAIR, killed)
    moments = random.Random(0)
    for _ in range(10):
        assert group(2, killed, moments.randint(1, CALLS), moments.randint(0, 1)) == -signal.SIGKILL
    steps = load_checkpoint(killed)["step"]
    assert 0 < steps < 42  # it was killed on the way, not before and not after
    assert group(2, killed) == 0
    assert_same_run(killed, finished)


def test_three_processes_resume_in_the_same_bits(tmp_path):
    # three summands can be added in another order, two can not
    config = PAIR.but(epochs=1, updates=3, batch_size=90)
    finished, killed = tmp_path / "finished", tmp_path / "killed"
    create_run(config, finished)
    create_run(config, killed)
    assert group(3, finished) == 0
    assert group(3, killed, 3 * CALLS) == -signal.SIGKILL
    assert 0 < load_checkpoint(killed)["step"] < 15  # of 15 steps
    assert group(3, killed) == 0
    assert_same_run(killed, finished)
