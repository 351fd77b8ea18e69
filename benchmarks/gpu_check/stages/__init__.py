"""The stages of the check, in the order of what they are worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A stage, and how much of the time it may take."""

    name: str  # also of its module
    purpose: str
    most: float  # part of the time that is left when it begins


STAGES = (
    About("facts", "the GPU, its driver, versions, clocks", 0.1),
    About("build", "the compiled modules, for this GPU alone", 0.5),
    About("parity", "the kernels against the float64 reference", 0.33),
    About("reads", "the time of one read of the matrix", 0.33),
    About("solves", "whole solves, beside what users have", 0.45),
    About("bits", "the same bits from run to run", 0.25),
    About("sanitize", "memory errors and races, as NVIDIA's tools see them", 0.55),
    About("learn", "selfsup: a whole small training, images per second of large ones", 1.0),
)
