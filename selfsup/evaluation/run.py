"""The evaluation of a run: protocol after protocol, kept as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfsup.errors import RunError
from selfsup.evaluation.baselines import BASELINES
from selfsup.evaluation.features import digest, images_digest, weights_digest
from selfsup.evaluation.frame import Evaluation, Protocol, Row
from selfsup.evaluation.protocols import PROTOCOLS, Settings
from selfsup.training.checkpoints import write_whole

FILE = "evaluation.json"


@dataclass(frozen=True)
class Result:
    """What a protocol found of a method, or why it was not run."""

    protocol: str
    method: str
    images: str
    """Where the images are."""
    rows: tuple[Row, ...] = ()
    reason: str | None = None
    """Why it was not run."""
    seconds: float = 0.0
    settings: dict[str, Any] | None = None
    key: str = ""
    """Stands for weights, labels, images and settings: the same key is not computed twice."""
    kept: bool = False
    """Whether it was found in evaluation.json."""


def read_results(run: Path, weights: str | None = None) -> list[Result]:
    """Return what RUN/evaluation.json holds, unless of other `weights` or in another form."""
    path = run / FILE
    try:
        content = json.loads(path.read_text()) if path.exists() else {"results": []}
        if weights is not None and content.get("weights") != weights:
            return []
        return [Result(**{**one, "rows": tuple(one["rows"])}) for one in content["results"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []  # an older version wrote it, or a person


def write_results(run: Path, weights: str, results: Sequence[Result]) -> None:
    """Write RUN/evaluation.json."""
    content = {"weights": weights, "results": [asdict(result) for result in results]}
    write_whole(run / FILE, (json.dumps(content, indent=1) + "\n").encode())


def chosen(names: Sequence[str]) -> list[Protocol]:
    """Return the protocols of these names, or the usual ones.

    Raises
    ------
    RunError
        There is none of a name.
    """
    known = {protocol.name: protocol for protocol in PROTOCOLS}
    if unknown := [name for name in names if name not in known]:
        raise RunError(f"no protocol {unknown[0]!r}; there are {', '.join(known)}")
    return [p for p in PROTOCOLS if (p.name in names if names else p.usual)]


def evaluate(
    evaluation: Evaluation,
    protocols: Sequence[str] = (),
    baselines: Sequence[str] = (),
    settings: Settings | None = None,
    *,
    fresh: bool = False,
) -> Iterator[Result]:
    """Run protocols on a run, then on baselines; give each result when it is there.

    RUN/evaluation.json is written after each. What it has already is given as it is: an evaluation
    that was stopped goes on. Results for weights that the run has no more are dropped.

    Parameters
    ----------
    evaluation : Evaluation
        Of the run, see :func:`selfsup.evaluation.subject.load_subject`.
    protocols : sequence of str
        Names; the usual ones without.
    baselines : sequence of str
        Names of :data:`BASELINES`.
    settings : Settings, optional
        Of the protocols.
    fresh : bool
        Compute anew what is there already.

    Yields
    ------
    Result
        Rows, or for the run itself the reason why there are none.

    Raises
    ------
    RunError
        There is no protocol or baseline of a name.
    """
    wanted, settings = chosen(protocols), settings or Settings()
    if unknown := [name for name in baselines if name not in BASELINES]:
        raise RunError(f"no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}")
    weights = weights_digest(evaluation.network)
    for protocol in wanted:
        yield _result(evaluation, protocol, settings.of(protocol), weights, fresh)
    for name in baselines:
        of_use = [p for p in wanted if p.name in BASELINES[name].only or not BASELINES[name].only]
        for other in BASELINES[name].make(evaluation) if of_use else ():
            for protocol in of_use:
                if protocol.why_not(other) is None:
                    yield _result(other, protocol, settings.of(protocol), weights, fresh)


def _result(
    evaluation: Evaluation, protocol: Protocol, settings: Any, weights: str, fresh: bool
) -> Result:
    """Find a result in evaluation.json, or compute it and write it there."""
    run, method = evaluation.run, evaluation.method
    values = None if settings is None else asdict(settings)
    place = evaluation.config.data.data or evaluation.config.data.dataset
    key = digest(
        protocol.name, method, weights_digest(evaluation.network), evaluation.place,
        images_digest(evaluation.train, ""), evaluation.clusters, values,
    )  # fmt: skip
    results = read_results(run, weights)
    for one in results:
        if one.key == key and one.reason is None and not fresh:
            return replace(one, kept=True)
    began, rows = time.perf_counter(), []
    reason = protocol.why_not(evaluation)
    if reason is None:
        rows = [{"method": method, **row} for row in protocol.run(evaluation, settings)]
    seconds = round(time.perf_counter() - began, 2)
    result = Result(protocol.name, method, place, tuple(rows), reason, seconds, values, key)
    same = (result.protocol, result.method, result.images)
    others = [one for one in results if (one.protocol, one.method, one.images) != same]
    write_results(run, weights, [*others, result])
    return result
