"""The README's Python is run and its output compared: it cannot drift from the code."""

import doctest
from pathlib import Path

import sinkhorn_ot.api

README = Path(__file__).parents[2] / "README.md"


def test_readme_examples():
    assert "@@" not in README.read_text()
    results = doctest.testfile(str(README), module_relative=False)
    assert results.attempted >= 8
    assert results.failed == 0


def test_docstring_examples():
    results = doctest.testmod(sinkhorn_ot.api)
    assert results.attempted >= 4
    assert results.failed == 0
