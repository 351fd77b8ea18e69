"""The page's part on the evaluation: a table for each protocol, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from selfsup.data import ImageSet
from selfsup.evaluation.features import shown_digest
from selfsup.evaluation.protocols import PROTOCOLS
from selfsup.evaluation.run import Result
from selfsup.evaluation.table import cells, left_out
from selfsup.report.tiles import data_url, tiles_of


def evaluation_part(results: Sequence[Result], images: ImageSet) -> dict[str, Any]:
    """Return what the page's template shows of an evaluation.

    Parameters
    ----------
    results : sequence of Result
        What evaluation.json holds.
    images : ImageSet
        All images that the run was trained on, of which the neighbours are drawn.
    """
    tables, several = [], len({result.images for result in results}) > 1
    for protocol in PROTOCOLS:
        own = [r for r in results if r.protocol == protocol.name and r.rows]
        for place in sorted({result.images for result in own}):
            rows = [row for result in own if result.images == place for row in result.rows]
            heads = [
                {"method": row["method"], "part": row["part"], **head}
                for row in rows
                for head in row.get("each_head", [])
            ]
            tables.append({
                "title": protocol.name + (f" on {place}" if several else ""),
                "help": protocol.help,
                "cells": cells(rows),
                "heads": cells(heads) if heads else None,
                "picture": _picture(rows, images),
            })  # fmt: skip
    told = [
        left_out(result) + (f" ({result.images})" if several else "")
        for result in results
        if result.reason
    ]
    return {"tables": tables, "left_out": told}


def _picture(rows: Sequence[dict[str, Any]], images: ImageSet) -> str | None:
    """Return the first row's neighbours: an image on the left, its neighbours beside it.

    They are drawn only where `images` has images of the same names that show the same.
    """
    found = next((row["neighbours"] for row in rows if "neighbours" in row), None)
    if found is None:
        return None
    number = {path: i for i, path in enumerate(images.paths)}
    paths = [path for line in found["paths"] for path in line]
    if not set(paths) <= number.keys():
        return None
    index = np.array([number[path] for path in paths], np.int64)
    if shown_digest(images, torch.from_numpy(index)) != found["shown"]:
        return None
    return data_url(tiles_of(images, index, files=False), len(found["paths"][0]))
