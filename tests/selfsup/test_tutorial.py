"""The tutorial's commands run one after the other, as its reader runs them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from selfsup.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "selfsup" / "tutorial.md"


def test_every_command_of_the_tutorial_works_on_the_folder_that_it_makes(tmp_path, monkeypatch):
    """Only the training is shorter, and its network smaller, than on the page."""
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})
    commands = re.findall(r"^    python -m selfsup (.*)$", text, re.M)
    assert [c.split()[0] for c in commands] == [
        "train", "labels", "export-clusters", "predict", "evaluate", "export",
    ]  # fmt: skip
    short = "--epochs 1 --updates 2 --image-size 16 --width 8"
    for command in commands:
        assert main(command.replace("--epochs 20", short).split()) == 0
    labels, new = (
        list(csv.reader(Path(file).read_text().splitlines())) for file in ("labels.csv", "new.csv")
    )
    assert (len(labels), len(new)) == (1 + 1200, 1 + 297)
    assert ",".join(labels[0]) in text
    results = json.dumps(json.loads(Path("runs/folder/evaluation.json").read_text()))
    assert "untrained" in results
    assert len(list(Path("clusters").iterdir())) == 10
    assert {"weights.pt", "embeddings.npy"} <= {p.name for p in Path("exported").iterdir()}
    assert "untrained network" in Path("runs/folder/report.html").read_text()
