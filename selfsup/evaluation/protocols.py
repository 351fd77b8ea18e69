"""All protocols, and their settings: a new one is a line in each."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfsup.evaluation.frame import Protocol
from selfsup.evaluation.knn import KNN, KnnSettings


@dataclass(frozen=True)
class Settings:
    """Settings of protocols, by name; on the command line as --NAME.FIELD."""

    knn: KnnSettings = field(default_factory=KnnSettings)

    def of(self, protocol: Protocol) -> object:
        """Return the settings of a protocol; None if it has none."""
        return getattr(self, protocol.name.replace("-", "_"), None)


#: In the order in which they are run.
PROTOCOLS: tuple[Protocol, ...] = (KNN,)
