"""The evaluation of a run: protocol after protocol, kept as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from selfsup.errors import RunError
from selfsup.evaluation.features import digest, images_digest, weights_digest
from selfsup.evaluation.frame import Evaluation, Protocol, Row
from selfsup.evaluation.protocols import PROTOCOLS, Settings
from selfsup.evaluation.subject import Images, subject
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


def read_results(run: Path) -> list[Result]:
    """Return what RUN/evaluation.json holds; nothing where it is of another form."""
    path = run / FILE
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
        return [Result(**{**one, "rows": tuple(one["rows"])}) for one in content["results"]]
    except (ValueError, TypeError, KeyError):
        return []


def write_results(run: Path, results: Sequence[Result]) -> None:
    """Write RUN/evaluation.json."""
    content = {"results": [asdict(result) for result in results]}
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
    run: Path,
    images: Images | None = None,
    *,
    protocols: Sequence[str] = (),
    settings: Settings | None = None,
    device: str = "auto",
    fresh: bool = False,
    trunk: nn.Module | None = None,
) -> Iterator[Result]:
    """Run protocols on a run; write RUN/evaluation.json after each, and give what it found.

    What evaluation.json has already is given as it is, unless `fresh`: so an evaluation that was
    stopped goes on. Results for weights that the run has no more are dropped.

    Parameters
    ----------
    run : Path
        The run's directory.
    images : Images, optional
        Which images; those of the run without.
    protocols : sequence of str
        Names; the usual ones without.
    settings : Settings, optional
        Of the protocols.
    device : str
        Where to compute.
    fresh : bool
        Compute anew what is there already.
    trunk : torch.nn.Module, optional
        A network that was passed from Python when the run was trained.

    Raises
    ------
    SelfsupError
        There is no run, no images, or no protocol of a name.
    """
    wanted, settings = chosen(protocols), settings or Settings()
    evaluation, _ = subject(run, images or Images(), device, trunk)
    for protocol in wanted:
        yield _result(evaluation, protocol, settings.of(protocol), fresh)


def _result(evaluation: Evaluation, protocol: Protocol, settings: object, fresh: bool) -> Result:
    run = evaluation.run
    values = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else None
    place = evaluation.config.data.data or evaluation.config.data.dataset
    key = digest(
        protocol.name, evaluation.method, weights_digest(evaluation.network), evaluation.place,
        images_digest(evaluation.train, ""), values,
    )  # fmt: skip
    results = read_results(run)
    same = [result for result in results if result.key == key]
    if same and same[-1].reason is None and not fresh:
        return Result(**{**vars(same[-1]), "kept": True})
    began = time.perf_counter()
    reason = protocol.why_not(evaluation)
    rows = () if reason else tuple(
        {"method": evaluation.method, **row} for row in protocol.run(evaluation, settings)
    )  # fmt: skip
    result = Result(
        protocol.name, evaluation.method, place, rows, reason,
        round(time.perf_counter() - began, 2), values, key,
    )  # fmt: skip
    others = [
        one
        for one in results
        if (one.protocol, one.method, one.images) != (protocol.name, evaluation.method, place)
    ]
    write_results(run, [*others, result])
    return result
