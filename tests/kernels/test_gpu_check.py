"""The GPU check finds its own mistakes here, not on a borrowed machine: it is rehearsed whole.

What its stages do with a GPU cannot be seen here; what they do with failures, time limits, lost
processes and the words of NVIDIA's tools can.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_check import __main__ as command_line
from gpu_check import check, page
from gpu_check.stage import Stage
from gpu_check.stages import STAGES, About, parity, sanitize

CHECK = Path(check.__file__).parent


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    out = tmp_path_factory.mktemp("rehearsal")
    done = subprocess.run(
        [sys.executable, CHECK, f"--out={out}", "--device=cpu", "--seconds=900"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, out


def records(out, stage):
    return json.loads((out / "results.json").read_text())["stages"][stage]["records"]


def test_every_stage_is_completed(rehearsal):
    done, out = rehearsal
    stages = json.loads((out / "results.json").read_text())["stages"]
    assert {name: s["outcome"] for name, s in stages.items()} == {
        about.name: "completed" for about in STAGES
    }, done.stdout
    assert done.returncode == 0
    errors = [r for s in stages.values() for r in s["records"] if "error" in r]
    assert errors == []
    unavailable = [r for s in stages.values() for r in s["records"] if "machine" in r]
    assert not any("unavailable" in r for r in unavailable)


def test_the_page_says_what_was_found(rehearsal):
    done, out = rehearsal
    assert (out / "results.md").read_text().strip() == done.stdout.strip()
    lines = done.stdout.splitlines()
    assert len(lines) <= 100
    assert "rehearsal" in lines[0]
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 4 << 20
    assert {path.stem for path in (out / "logs").iterdir()} == {about.name for about in STAGES}


def test_kernels_pass_on_both_machines(rehearsal):
    runs = {r["run"]: r for r in records(rehearsal[1], "parity") if "run" in r}
    for machine in ("host", "interpreter"):
        ours = runs[f"choice, {machine}"]
        assert (ours["passed"], ours["failed"], ours["unfinished"]) == (2, 0, 0)


def test_every_kind_of_read_is_timed(rehearsal):
    found = [r for r in records(rehearsal[1], "reads") if r.get("device", 0) > 0]
    cases = {(r["n"], r["dtype"], r["machine"], r["kind"]) for r in found}
    assert len(cases) == len(found) == 3 * 2 * 4


def test_solves_reach_their_violation(rehearsal):
    """Recomputed in float64 from the potentials, ours and those of the peers that ran."""
    solved = [r for r in records(rehearsal[1], "solves") if "violation" in r]
    assert {r["solver"] for r in solved} >= {"host", "interpreter", "torch, two products"}
    ours = [r for r in solved if r["what"] == "ours"]
    assert {(r["dtype"], r["tol"]) for r in ours} >= {("float32", 1e-6), ("bfloat16", 1e-3)}
    for r in ours:
        assert r["violation"] <= 1.01 * r["tol"], r
    exact = [r for r in solved if r["solver"] == "SeLa's loop, float64"]
    assert exact
    assert all(r["violation"] <= 1.01 * r["tol"] for r in exact)


def test_bits_and_kernels_are_clean(rehearsal):
    bits = [r for r in records(rehearsal[1], "bits") if "different" in r]
    assert len(bits) == 4
    assert not any(sum(r["different"].values()) for r in bits)
    ran = [r for r in records(rehearsal[1], "sanitize") if "tool" in r]
    assert len(ran) >= 2
    assert all(r["clean"] for r in ran)


def test_networks_are_trained(rehearsal):
    found = records(rehearsal[1], "learn")
    assert {r["arch"] for r in found if "images_per_second" in r} == {"resnet18", "alexnet"}
    (digits,) = (r for r in found if r["what"] == "digits")
    assert digits["nmi"] > 0.1  # two epochs; labels that know nothing have 0.02


@pytest.fixture
def stage_runner(tmp_path, monkeypatch):
    """Run a stage in a folder of its own; its sources are the repository's."""
    monkeypatch.setattr(check, "GRACE", 0.0)
    (tmp_path / "out" / "logs").mkdir(parents=True)

    def run(name, limit):
        about = About(name, "", 1.0)
        return check.run_stage(about, "cpu", check.REPOSITORY, tmp_path, tmp_path / "out", limit)

    return run


def test_a_stage_that_fails_says_why(stage_runner):
    ended = stage_runner("nonsense", 60)
    assert ended["outcome"].startswith("failed: ModuleNotFoundError")
    assert ended["records"] == []


def test_a_stage_is_stopped_at_its_limit(stage_runner):
    """Without this one stage that hangs would take all the time there is."""
    assert stage_runner("learn", 0.1)["outcome"] == "stopped at its limit of 0 s"


def test_what_a_stopped_stage_recorded_is_kept(stage_runner, tmp_path):
    (tmp_path / "nonsense.jsonl").write_text('{"what": "kept"}\n{"what": "cut sh')
    assert stage_runner("nonsense", 60)["records"] == [{"what": "kept"}]


TESTS = """
import os
import pytest

def test_before(): pass
def test_wrong(): assert 1 + 1 == 3
def test_crash(): os._exit(9)
def test_after(): pass
def test_left(): pytest.skip("not here")
"""


def test_a_lost_process_is_started_anew(tmp_path, monkeypatch):
    """The test that took it down is told, and those after it are run all the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    monkeypatch.setenv("PYTHONPATH", str(CHECK.parent))
    stage = Stage("cpu", tmp_path, tmp_path / "records.jsonl", deadline=float("inf"))
    parity.run_tests(stage, "all", ["test_it.py"], "host", 1e4)
    (found,) = map(json.loads, stage.records.read_text().splitlines())
    assert (found["passed"], found["failed"], found["skipped"], found["ended"]) == (2, 1, 1, "")
    assert found["failures"] == [
        {"test": "test_wrong", "why": "assert (1 + 1) == 3"},
        {"test": "test_crash", "why": "took the process down"},
    ]
    assert found["skips"] == ["Skipped: not here"]


CLEAN = """========= COMPUTE-SANITIZER
every kernel ran
========= ERROR SUMMARY: 0 errors
"""
DIRTY = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 16 bytes
=========     at void sinkhorn_ot::read_rows_kernel<float>(sinkhorn_ot::RowPass)+0x4b0
=========     by thread (31,0,0) in block (2,0,0)
every kernel ran
========= ERROR SUMMARY: 1 error
"""
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at finish_kernel(Finish)+0x150
=========     and Read access at finish_kernel(Finish)+0x1f0 [32 hazards]
every kernel ran
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
REFUSED = """========= COMPUTE-SANITIZER
========= Error: Device not supported. Please refer to the "Supported Devices" section
"""


@pytest.mark.parametrize(
    ("printed", "code", "clean", "ended", "ours"),
    [
        (CLEAN, 0, True, "ERROR SUMMARY: 0 errors", 0),
        (DIRTY, 99, False, "ERROR SUMMARY: 1 error", 1),
        (RACE, 99, False, "RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", 2),
        (REFUSED, 1, None, "exit 1: Error: Device not supported. Please refer to", 0),
        ("", -11, None, "exit -11: ", 0),
    ],
)
def test_verdicts_of_compute_sanitizer(printed, code, clean, ended, ours):
    found = sanitize.verdict(printed, code)
    assert found["clean"] is clean
    assert found["ended"].startswith(ended)
    assert len(found.get("ours", [])) == ours


def test_a_sanitizer_is_given_the_kernels(tmp_path):
    """A stand-in that runs its command as the real one does: the kernels' own output is seen."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\nshift 4\n\"$@\"\necho '========= ERROR SUMMARY: 0 errors'\n")
    tool.chmod(0o755)
    command = [str(tool), "--tool", "memcheck", "--error-exitcode", "99"]
    found = sanitize.sanitized([*command, "echo", "every kernel ran"], 60)
    assert found == {"ended": "ERROR SUMMARY: 0 errors", "clean": True, "ours": []}
    found = sanitize.sanitized([*command, "echo", "something else"], 60)
    assert found["clean"] is None


NCU = """==PROF== Connected to process 12
==PROF== Profiling "read_rows_kernel": 0%....100% - 1 pass
==PROF== Disconnected from process 12
every kernel ran
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","12","read_rows_kernel","dram__throughput.avg.pct_of_peak_sustained_elapsed","%","91.20"
"0","12","read_rows_kernel","gpu__time_duration.sum","ns","1,012,345"
"0","12","read_rows_kernel","sm__warps_active.avg.pct_of_peak_sustained_active","%","30.91"
"""


def test_figures_of_ncu():
    assert sanitize.figures(NCU) == {
        "DRAM throughput": "91.20 %", "time": "1,012,345 ns", "occupancy": "30.91 %",
    }  # fmt: skip
    assert sanitize.figures("==ERROR== no permission") == {}


def results_of(name, when):
    """Results as a GPU might give them, with something wrong in them."""
    solve = {"family": "late", "n": 10, "k": 2, "dtype": "float32", "tol": 1e-3, "seconds": 0.02,
             "violation": 9e-4, "peak_gb": 0.1}  # fmt: skip
    found = {
        "facts": [{"what": "gpu", "name": name}],
        "parity": [
            {"run": "all, cuda", "machine": "cuda", "ended": "", "passed": 5, "failed": 1,
             "skipped": 0, "unfinished": 0, "skips": [],
             "failures": [{"test": "test_x[3]", "why": "not close"}]},
        ],
        "reads": [
            {"what": "copy", "bytes_per_second": 4e12},
            {"what": "read", "n": 1000, "k": 1000, "dtype": "float32", "gigabytes": 0.004,
             "machine": "cuda", "kind": "masses", "model": 1.5, "device": 2.0, "host": 0.25},
            {"what": "read", "n": 1000, "machine": "triton", "kind": "kept entries", "error": "no"},
            {"left_out": "x", "reason": "2 s were left"},
        ],
        "solves": [
            {"what": "ours", "solver": "cuda", **solve, "reads": 3.5, "waits": 7,
             "converged": True},
            {"what": "peer", "solver": "POT", **solve, "seconds": 0.2},
            {"what": "peer", "solver": "OTT", "error": "RuntimeError: JAX sees no GPU"},
        ],
        "bits": [{"machine": "cuda", "dtype": "float32", "different": {"run again": 2}}],
    }  # fmt: skip
    return {
        "format": 1, "device": "cuda", "seconds": 600, "started": when, "commit": "abc",
        "digest": "d", "stages": {
            stage: {"outcome": "completed", "seconds": 1, "records": list_}
            for stage, list_ in found.items()
        },
    }  # fmt: skip


def test_the_page_of_several_gpus(tmp_path, capsys):
    files = []
    for name, when in (("NVIDIA H200", "2026-12-02"), ("NVIDIA A100", "2026-12-01")):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(results_of(name, when)))
    target = tmp_path / "gpu_results.md"
    assert page.write(target, files) == 0
    text = target.read_text()
    assert text.index("## NVIDIA A100, 2026-12-01") < text.index("## NVIDIA H200, 2026-12-02")
    # 4 MB in 2 ms are half a thousandth of a copy at 4 TB/s
    assert "| 1,000 x 1,000 | float32 | cuda | 2 (0.00) |  |  |  | 0.25 | 1.50 |" in text
    assert "- read, triton, kept entries failed: no" in text
    assert "| all, cuda | 5 | 1 | 0 | no |" in text
    assert "`test_x[3]`: not close" in text
    assert "| late | 10 x 2 | float32 | cuda | 20 / 3.5 / 7 (9e-04) |  | 0.100 |" in text
    assert "| late | 10 x 2 | 200, x 10 (9e-04) |" in text
    assert "2 differ when run again" in text
    assert "- peer, OTT failed: RuntimeError: JAX sees no GPU" in text
    assert "left out: x (2 s were left)" in text


def test_no_results_make_a_page_that_says_so(tmp_path):
    target = tmp_path / "gpu_results.md"
    assert page.write(target, []) == 0
    assert "No GPU has run any of this yet" in target.read_text()
    committed = check.REPOSITORY / "docs" / "gpu_results.md"
    sources = sorted((check.REPOSITORY / "benchmarks" / "results").glob("gpu_*.json"))
    page.write(target, sources)
    assert committed.read_text() == target.read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"started": "now"}'])
def test_other_files_are_refused(tmp_path, content, capsys):
    source, target = tmp_path / "results.json", tmp_path / "page.md"
    source.write_text(content)
    assert page.write(target, [source]) == 2
    assert "results.json: not the results.json of a check" in capsys.readouterr().err
    assert not target.exists()


def test_a_rehearsal_is_no_result(rehearsal, tmp_path, capsys):
    assert page.write(tmp_path / "page.md", [rehearsal[1] / "results.json"]) == 2
    assert "a rehearsal without a GPU has no place on the page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out DIR is missing"),
        (["--out", "x", "--seconds", "5"], "--seconds must be at least 30, got 5"),
        (["--out", "x", "--stages", "speed"], "invalid choice: 'speed'"),
        (["--out", __file__, "--device", "cpu"], "is a file; name a folder"),
        (["--out", "x", "y.json"], "y.json: results are read for --page only"),
        (["--page", "x", "--out", "y"], "it takes no --out"),
        (["--out", "x"], "--device cpu rehearses the check without a GPU"),
    ],
)
def test_wrong_arguments(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
    monkeypatch.setattr(check, "why_no_gpu", lambda: "torch sees no GPU")
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
