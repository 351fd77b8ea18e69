"""The evaluation of a run: protocol after protocol, kept as they come."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfsup.errors import RunError, SelfsupError
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
    """Which images, see `Evaluation.place`."""
    rows: tuple[Row, ...] = ()
    reason: str | None = None
    """Why it was not run."""
    seconds: float = 0.0
    settings: dict[str, Any] | None = None
    key: str = ""
    """Stands for weights, labels, images and settings: the same key is not computed twice."""
    kept: bool = False
    """Whether it was found in evaluation.json."""


def read_results(run: Path, state: str) -> list[Result]:
    """Return what RUN/evaluation.json holds of a run's `state`.

    Raises
    ------
    ValueError
        Another version wrote it, or a person.
    """
    path = run / FILE
    try:
        if not path.exists():
            return []
        content = json.loads(path.read_text())
        found = [Result(**{**one, "rows": tuple(one["rows"])}) for one in content["results"]]
        return found if content["state"] == state else []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not in the form of this version") from error


def write_results(run: Path, state: str, results: Sequence[Result]) -> None:
    """Write RUN/evaluation.json."""
    content = {"state": state, "results": [asdict(result) for result in results]}
    text = json.dumps(content, indent=1, allow_nan=False)
    write_whole(run / FILE, (text + "\n").encode())


def _set_aside(run: Path, state: str) -> None:
    """Rename an evaluation.json of another form, so that it is not lost."""
    try:
        read_results(run, state)
    except ValueError as error:
        (run / FILE).replace(run / f"{FILE}.old")
        warnings.warn(f"{error}: it is now {FILE}.old", stacklevel=3)


def _finite(value: Any) -> Any:
    """Return a value of a row as JSON can hold it: None for what is no number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


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
    that was stopped goes on. Results of a run that has learned something else since are dropped.

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
        Rows, or the reason why there are none.

    Raises
    ------
    RunError
        There is no protocol or baseline of a name.

    Warns
    -----
    UserWarning
        RUN/evaluation.json was in another form and has been renamed.
    """
    wanted, settings = chosen(protocols), settings or Settings()
    if unknown := [name for name in baselines if name not in BASELINES]:
        raise RunError(f"no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}")
    evaluation = evaluation.but(fresh=fresh)
    _set_aside(evaluation.run, evaluation.state)
    for protocol in wanted:
        yield _result(evaluation, protocol, settings.of(protocol))
    for name in baselines:
        of_use = [p for p in wanted if p.name in BASELINES[name].only or not BASELINES[name].only]
        try:
            others = list(BASELINES[name].make(evaluation.but(fresh=False))) if of_use else []
        except SelfsupError as error:
            yield Result("baseline", name, evaluation.place, reason=str(error))
            continue
        for other in others:
            for protocol in of_use:
                if protocol.why_not(other) is None:
                    yield _result(other.but(fresh=fresh), protocol, settings.of(protocol))


def _result(evaluation: Evaluation, protocol: Protocol, settings: Any) -> Result:
    """Find a result in evaluation.json, or compute it and write it there."""
    run, method, place = evaluation.run, evaluation.method, evaluation.place
    values = None if settings is None else asdict(settings)
    parts = [part for part in (evaluation.train, evaluation.test) if part is not None]
    key = digest(
        protocol.name, method, evaluation.state, weights_digest(evaluation.network),
        [images_digest(part, place) for part in parts], evaluation.clusters, values,
    )  # fmt: skip
    results = read_results(run, evaluation.state)
    for one in results:
        if one.key == key and one.reason is None and not evaluation.fresh:
            return replace(one, kept=True)
    began, rows = time.perf_counter(), []
    reason = protocol.why_not(evaluation)
    if reason is None:
        try:
            found = protocol.run(evaluation, settings)
            rows = [_finite({"method": method, **row}) for row in found]
        except SelfsupError as error:
            reason = str(error)
    seconds = round(time.perf_counter() - began, 2)
    result = Result(protocol.name, method, place, tuple(rows), reason, seconds, values, key)
    same = (result.protocol, result.method, result.images)
    others = [one for one in results if (one.protocol, one.method, one.images) != same]
    write_results(run, evaluation.state, [*others, result])
    return result
