"""The page's part on the evaluation: a table for each protocol, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfsup.data import ImageSet
from selfsup.evaluation.protocols import PROTOCOLS
from selfsup.evaluation.run import Result
from selfsup.evaluation.table import cells
from selfsup.report.tiles import data_url, tiles_of


def evaluation_part(results: Sequence[Result], images: ImageSet) -> dict[str, Any]:
    """Return what the page's template shows of an evaluation.

    Parameters
    ----------
    results : sequence of Result
        What evaluation.json holds.
    images : ImageSet
        All images that the run was trained on, whose numbers the neighbours are.
    """
    tables = []
    for protocol in PROTOCOLS:
        own = [r for r in results if r.protocol == protocol.name and r.rows]
        places = {result.images for result in own}
        for place in sorted(places):
            rows = [row for result in own if result.images == place for row in result.rows]
            heads = [
                {"method": row["method"], "part": row["part"], **head}
                for row in rows
                for head in row.get("each_head", [])
            ]
            tables.append({
                "title": protocol.name + (f" on {place}" if len(places) > 1 else ""),
                "help": protocol.help,
                "cells": cells(rows),
                "heads": cells(heads) if heads else None,
                "picture": _picture(rows, images),
            })  # fmt: skip
    left_out = [f"{r.protocol} was not run: {r.reason}" for r in results if r.reason]
    return {"tables": tables, "left_out": left_out}


def _picture(rows: Sequence[dict[str, Any]], images: ImageSet) -> str | None:
    """Return the first row's neighbours: an image on the left, its neighbours beside it."""
    found = [row["neighbours"] for row in rows if "neighbours" in row]
    if not found:
        return None
    index = np.array(found[0], np.int64)
    if index.max() >= len(images):  # of other images
        return None
    return data_url(tiles_of(images, index.ravel(), files=False), index.shape[1])
