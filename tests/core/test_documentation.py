"""The Python of README, docs and docstrings is run and its output compared: it cannot drift."""

import doctest
from pathlib import Path

import pytest

import sinkhorn_ot.api

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXAMPLES = [page for page in PAGES if ">>> " in page.read_text()]


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page(page):
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted >= 3
    assert results.failed == 0


def test_pages_with_examples_are_found():
    assert {"README.md", "start.md", "epsilon.md"} <= {page.name for page in EXAMPLES}


def test_docstring_examples():
    results = doctest.testmod(sinkhorn_ot.api)
    assert results.attempted >= 4
    assert results.failed == 0
