"""What can be wrong with what a user asks for; the command line prints no traceback of these."""

from pickle import UnpicklingError

#: What torch.load raises for files that are not its own; it interprets any bytes as a program.
UNLOADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    UnpicklingError,
)  # fmt: skip


class SelfsupError(Exception):
    """The message says what was found, where, and what to do."""


class ConfigError(SelfsupError, ValueError):
    """A setting that cannot be meant."""


class DataError(SelfsupError):
    """The images are missing or unreadable."""


class RunError(SelfsupError):
    """A run directory is missing, exists already, does not fit or cannot be written."""


class WeightsError(SelfsupError, ValueError):
    """Weights that do not fit a network, or a file that holds none."""
