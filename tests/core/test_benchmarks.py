"""The benchmarks that take seconds at small sizes still run; their figures are made elsewhere."""

import copy
import json
import os
import re
import subprocess
import sys

import guard
import numpy
import pytest
import records
from once import once

COMMANDS = {
    "passes.py --n 3000 --k 50 --runs 1": r"(?s)\| late \| \d.* ns per 16 entries",
    "reads.py --seeds 1": r"(?s)k-means, epsilon 2 .*0 of 1 .*0 joining rows .* 0 of 1 \|",
    "solve_file.py --rows 20000 --k 100": (r"0\.004 \| solve --exact \| [\d.]+ \| 0.\d+ \| 200 \|"),
    "compare.py table": r"\| sinkhorn_ot ",
    "balanced.py --n 1000 --k 20 --families peaked --solvers sinkhorn_ot greedy --runs 1": (
        r"greedy [^\n]*\| 50 \| \d\.\de-0[4-9] "
    ),
    "kmeans.py --n 1000 --k 10 --width 4 --rounds 2 --solvers sinkhorn_ot": (
        r"\| sinkhorn_ot \| [^\n]*\| 100 \| \d+ \|"
    ),
    "tiny_epsilon.py --n 1000 --k 20": r"\| normal, 2,000 x 300 \| 100,000 ",
    "cluster_scores.py --images 1000 --clusters 30 --classes 10": (
        r"\| scikit-learn: ami \| [^|]* \| (0|\d\.\de-1[3-9]) \|"
    ),
}


#: Torch's function beside these runs our network, so R alone judges them.
OURS_INSIDE = {"test_label_update", "test_training_step"}


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


@pytest.mark.parametrize("page", records.PAGES, ids=lambda page: page.name)
def test_tables_of_a_page_are_those_of_the_results(page):
    text = page.read_text()
    assert records.filled(text) == text, "python benchmarks/records.py writes them"


def test_each_table_that_is_kept_is_in_a_page():
    text = "".join(page.read_text() for page in records.PAGES)
    kept = {path.stem for path in records.RESULTS.glob("*.json")} - {"bench", "curves"}
    shown = {place[2] for place in records.PLACE.finditer(text)}
    assert {name for name in kept if not name.startswith("gpu_")} <= shown
    assert {"bench codes", "comparison 1000000x1000", "comparison 1000000x1000 short"} <= shown


def test_a_table_keeps_its_rows_and_what_made_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["x/balanced.py", "--n", "9", "--save", "a", "--families", "b c"]
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    table = records.Table(["what", "much"], "a", ["numpy"])
    table.add("one", 12345.678)
    table.add("two", 0.000123456)
    table.add("three", None)
    lines = records.kept("a")
    assert lines[:-1] == [
        "| what | much |", "|---|---|", "| one | 12,346 |", "| two | 1.2e-04 |", "| three |  |", "",
    ]  # fmt: skip
    assert lines[-1].startswith("`python benchmarks/balanced.py --n 9 --families 'b c'` on 20")
    assert " 1 thread, load " in lines[-1]
    assert lines[-1].endswith(f"numpy {numpy.__version__} (benchmarks/results/a.json).")
    assert capsys.readouterr().out.splitlines() == lines[:-2]
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0] == ["one", 12346.0]


@pytest.mark.parametrize("solver", ["sinkhorn_ot", "textbook", "sela_original", "torch_two_matvec"])
def test_a_case_reaches_its_violation(solver):
    """Recomputed in float64 from the g that a solver returns, within the 5% that are allowed."""
    case = json.loads(run(f"case.py {solver} --family flat --n 2000 --k 50 --tol 1e-3"))
    assert case["violation"] <= 1.05e-3


def measure(folder):
    """Run the suite on small problems, each once and by one thread."""
    environment = {name: x for name, x in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--benchmark-only"]
    command += ["--size", "300x20", "--seconds", "0", "--benchmark-json", folder / "bench.json"]
    command += ["-k", "(flat or codes or step or update or views or 32) and not ott"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return once(tmp_path_factory, "bench", measure) / "bench.json"


def altered(run, what, times, r=1.0):
    """Return a run whose medians, where `what` says so of a benchmark, are so many times longer."""
    run = copy.deepcopy(run)
    for each in run["benchmarks"]:
        if what(each):
            each["stats"]["median"] *= times
            each["extra_info"]["R"] *= r
    return run


def test_the_suite_records_what_was_found(measured):
    """Of each kind of benchmark: reads, violation or gap, R, bytes and versions; no raw times."""
    found = json.loads(measured.read_text())
    by_name = {each["name"]: each for each in found["benchmarks"]}
    info = {name: each["extra_info"] for name, each in by_name.items()}
    solve = info["test_solve[300x20-flat-sinkhorn_ot]"]
    assert solve["violation"] <= 1.05e-3
    assert 1 <= solve["reads"] < 10
    assert solve["bytes"] == 4 * 300 * 20
    assert solve["versions"].keys() == {"Python", "sinkhorn-ot"}
    assert abs(info["test_exact[300x20-flat-sinkhorn_ot]"]["gap"]) < 1e-12
    assert 0 < info["test_label_update[300x20-selfsup]"]["violation"] < 0.05  # 300 in 128 classes
    assert all(each["R"] > 0 for each in info.values())
    assert not any("data" in each["stats"] for each in by_name.values())
    ours = {name for name, each in info.items() if each["role"] == "ours"}
    assert {name.split("[")[0] for name in ours} == {
        "test_codes", "test_decoding", "test_exact", "test_label_update", "test_read", "test_solve",
        "test_training_step", "test_views",
    }  # fmt: skip
    assert {
        name.split("[")[0] for name, by in guard.multiples(found).items() if len(by) == 1
    } == OURS_INSIDE
    assert found["machine_info"]["threads"] == "1"


def test_the_guard_names_what_has_worsened(measured, tmp_path):
    """On a machine with half the speed nothing has; a benchmark of twice the time has, by name."""
    name, stored = "test_solve[300x20-flat-sinkhorn_ot]", json.loads(measured.read_text())
    slower = altered(stored, lambda each: True, 2.0, r=2.0)
    assert guard.worsened(guard.changes(slower, stored), 0.1) == []
    worse = altered(slower, lambda each: each["name"] == name, 2.0)
    assert guard.worsened(guard.changes(worse, stored), 0.1) == [name]
    assert guard.worsened(guard.changes(worse, stored), 1.1) == []
    for run, status in ((slower, 0), (worse, 1)):
        path = tmp_path / f"{status}.json"
        path.write_text(json.dumps(run))
        command = [sys.executable, "benchmarks/guard.py", str(path), "--stored", str(measured)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert (name in done.stderr) == bool(status)


def test_the_guard_is_not_deceived_by_a_change_of_one_unit(measured):
    """A faster memory shortens R, another torch its loop: what has both units is not named."""
    stored = json.loads(measured.read_text())
    memory = altered(stored, lambda each: True, 1.0, r=0.4)
    loops = altered(stored, lambda each: each["extra_info"]["role"] == "yardstick", 0.4)
    named = guard.worsened(guard.changes(memory, stored), 0.5)
    assert {name.split("[")[0] for name in named} == OURS_INSIDE
    assert guard.worsened(guard.changes(loops, stored), 0.5) == []


def test_the_guard_names_a_slower_network_though_torchs_loop_runs_it_too(measured):
    stored = json.loads(measured.read_text())
    slower = altered(stored, lambda each: each["name"].split("[")[0] in OURS_INSIDE, 2.0)
    named = guard.worsened(guard.changes(slower, stored), 0.5)
    assert {name.split("[")[0] for name in named} == OURS_INSIDE


def test_the_guard_tells_of_other_numbers_of_threads(measured, tmp_path):
    """Runs of the same number are compared without a word about it."""
    other = json.loads(measured.read_text())
    other["machine_info"]["threads"] = "3"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    said = "this run is of 3 threads, the stored one of 1: they are not comparable in R"
    for run, told in ((path, True), (measured, False)):
        command = [sys.executable, "benchmarks/guard.py", str(run), "--stored", str(measured)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (said in done.stdout) == told


def test_the_guard_refuses_runs_of_other_sizes(measured, tmp_path):
    other = json.loads(measured.read_text())
    for each in other["benchmarks"]:
        each["name"] = f"{each['name']} of another size"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    command = [sys.executable, "benchmarks/guard.py", str(path), "--stored", str(measured)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no benchmark in common" in done.stderr
