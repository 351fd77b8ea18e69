"""Rows as text: a table for each protocol, whose columns are what its rows have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfsup.evaluation.run import Result

#: What stands in a cell for a number.
DIGITS = 4


def columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the columns: of all that is no list or dict, in order of appearance."""
    names = {
        name: None
        for row in rows
        for name, value in row.items()
        if not isinstance(value, list | dict)
    }
    return list(names)


def cell(value: Any) -> str:
    """Return the text of a number or a word."""
    if isinstance(value, float):
        return f"{value:.{DIGITS}f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"
    return "" if value is None else str(value)


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the table: a line of names, then a line for each row."""
    names = columns(rows)
    return [[name.replace("_", " ") for name in names]] + [
        [cell(row.get(name)) for name in names] for row in rows
    ]


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as aligned text; words on the left, numbers on the right."""
    table = cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = [any(isinstance(row.get(name), str) for row in rows) for name in columns(rows)]
    lines = [
        "  ".join(
            one.ljust(width) if word else one.rjust(width)
            for one, width, word in zip(line, widths, left, strict=True)
        )
        for line in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def left_out(result: Result) -> str:
    """Return what a person is told of a protocol or baseline that was not run."""
    name = f"baseline {result.method}" if result.protocol == "baseline" else result.protocol
    return f"{name}: not run, as {result.reason}"


def report_text(results: Sequence[Result]) -> str:
    """Return a table for each protocol that was run, and a line for each that was not."""
    parts = []
    for name in dict.fromkeys(result.protocol for result in results):
        rows = [row for result in results if result.protocol == name for row in result.rows]
        if rows:
            parts.append(f"{name}\n{text_table(rows)}")
    parts += [left_out(result) for result in results if result.reason]
    return "\n\n".join(parts)
