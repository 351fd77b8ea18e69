"""The benchmarks' own commands still run after every change; their figures are made elsewhere."""

import re
import subprocess
import sys

import pytest

COMMANDS = {
    "passes.py --n 3000 --k 50 --runs 1": r"(?s)(\| late \| \d.*){2}256 x 64 peaked",
    "gpu.py --device cpu --size 2000x50 --runs 1": r"\| sinkhorn_ot \| [\d.e-]+ s",
    "case.py sinkhorn_ot --family late --n 2000 --k 50": r'"violation"',
    "case.py sela_original --family flat --n 2000 --k 50": r'"violation"',
    "case.py torch_two_matvec --family flat --n 2000 --k 50": r'"violation"',
    "compare.py table": r"\| sinkhorn_ot ",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_prints_its_figures(command):
    done = subprocess.run(
        [sys.executable, *command.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd="benchmarks",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(COMMANDS[command], done.stdout), done.stdout
