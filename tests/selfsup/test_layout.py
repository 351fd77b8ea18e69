"""The layout: the method on a page that knows no room, imports without circles, short functions."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import selfsup

PACKAGE = Path(selfsup.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, LONGEST, MOST_PARAMETERS = 400, 60, 12


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Return the modules that a file imports, those for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_the_method_is_a_page_on_torch_and_sinkhorn_ot():
    """Docstrings aside, which grow with what is promised."""
    path = PACKAGE / "sela.py"
    text = path.read_text()
    strings = [
        node.body[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    ]
    told = sum(string.end_lineno - string.lineno + 1 for string in strings)
    assert len(text.splitlines()) - told <= 130
    outside = {name.split(".")[0] for name in imports(path)}
    assert outside <= {"__future__", "warnings", "collections", "functools", "typing", "torch",
                       "sinkhorn_ot"}  # fmt: skip


def test_imports_have_no_circles():
    modules = {name_of(path): path for path in FILES}
    graph = {}
    for name, path in modules.items():
        if name != "selfsup":  # the doors, which are opened when they are asked for
            graph[name] = {other for other in imports(path) if other in modules} - {name, "selfsup"}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(modules) - 1


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST, node.name
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            assert count <= MOST_PARAMETERS, node.name
