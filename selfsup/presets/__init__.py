"""The presets: the paper's settings, and small ones for two cores."""

from selfsup.presets.paper import PAPER, as_authors
from selfsup.presets.small import SMALL

PRESETS = SMALL | PAPER

__all__ = ["PAPER", "PRESETS", "SMALL", "as_authors"]
