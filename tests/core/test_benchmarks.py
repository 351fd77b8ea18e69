"""The benchmarks that take seconds at small sizes still run; their figures are made elsewhere."""

import json
import re
import subprocess
import sys

import pytest

COMMANDS = {
    "passes.py --n 3000 --k 50 --runs 1": r"(?s)(\| late \| \d.*){2}\| 10000 x 100 \| 1e-06 \| \d",
    "reads.py 1": r"(?s)k-means, epsilon 2 .*0 of 1 .*0 joining rows .* 0 of 1 \\|",
    "codes.py --calls 2 --sizes 16x300": r"(?s)torch \d.*\| 16 x 300 \| \d.*e-\d+ \|",
    "solve_file.py --rows 20000 --k 100 --exact": r"0.00 GB: .* s, 0.\d+ GB .* sizes 200 to 200",
    "compare.py table": r"\| sinkhorn_ot ",
    "balanced.py --n 1000 --k 20 --families peaked --solvers sinkhorn_ot greedy --runs 1": (
        r"greedy [^\n]*\| 50 to 50 \| [\d.]+ \| \d\.\de-0[2-9] "
    ),
    "kmeans.py --n 1000 --k 10 --width 4 --rounds 2 --solvers sinkhorn_ot": (
        r'"smallest": 100, "largest": 100'
    ),
    "kmeans.py --table": r"\| k-means-constrained \| .*\| 2000 to 2000 \|",
}


def run(command):
    done = subprocess.run(
        [sys.executable, *command.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd="benchmarks",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_prints_its_figures(command):
    printed = run(command)
    assert re.search(COMMANDS[command], printed), printed


@pytest.mark.parametrize("solver", ["sinkhorn_ot", "textbook", "sela_original", "torch_two_matvec"])
def test_a_case_reaches_its_violation(solver):
    """Recomputed in float64 from the g that a solver returns, within the 5% that are allowed."""
    case = json.loads(run(f"case.py {solver} --family flat --n 2000 --k 50 --tol 1e-3"))
    assert case["violation"] <= 1.05e-3
