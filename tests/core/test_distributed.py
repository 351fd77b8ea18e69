"""Process groups: shards give what one process with all rows gives, and no process is left waiting.

One group of two and one of three processes run everything (tests/sharded.py) once.
"""

import re
import warnings

import numpy as np
import pytest
import sharded
import torch

from sinkhorn_ot import equipartition_labels, sinkhorn

NAMES = [
    (name, backend)
    for name, case in sharded.CASES.items()
    for backend in (("cpu", "reference") if case.by_backend else ("cpu",))
]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """What every process found, in a group of 2 and one of 3."""
    return [
        sharded.run_once(tmp_path_factory, f"group_of_{size}", size, sharded.everything)
        for size in (2, 3)
    ]


def agree(alone, parts, tolerance=3e-7, reads=0.2):
    """Assert that the results of the processes are the result of one.

    A sum of float32 rounds otherwise where rows are cut, and g follows. So may how many steps of
    conjugate gradients are enough, each of which costs up to 0.06 reads here.
    """
    for part in parts:
        assert part.n_iter == alone.n_iter
        assert part.n_passes == pytest.approx(alone.n_passes, rel=0.01, abs=reads)
        assert part.converged == alone.converged
        assert part.marginal_violation == pytest.approx(alone.marginal_violation, abs=1e-7)
        assert [p[:2] for p in part.history] == [p[:2] for p in parts[0].history]
        assert len(part.history) == len(alone.history)
        assert type(part.g) is type(alone.g)
        used = np.isfinite(np.asarray(alone.g))
        np.testing.assert_allclose(part.g[used], alone.g[used], rtol=0, atol=tolerance)
        assert np.array_equal(part.g, parts[0].g)
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), alone.labels)
    np.testing.assert_allclose(np.concatenate([p.f for p in parts]), alone.f, rtol=0, atol=2e-7)


@pytest.mark.parametrize(("name", "backend"), NAMES)
def test_shards_give_what_one_process_gives(groups, name, backend):
    """The same path: as many steps and reads, the same g up to rounding, and the same labels."""
    case = sharded.CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = sinkhorn(case.input(), backend=backend, **case.options)
    for parts in groups:
        found = [part["cases"][name, backend] for part in parts]
        in_float64 = {"tolerance": 1e-9, "reads": 1e-3}
        agree(alone, found, **(in_float64 if backend == "reference" else {}))


def test_heads_are_solved_one_by_one(groups):
    """A stack, an iterator and the labels alone, in all processes together."""
    case = sharded.STACK
    alone = sinkhorn(case.input(), **case.options)
    for parts in groups:
        for way in (0, 1):
            for head, one in enumerate(alone):
                agree(one, [part["stack"][way][head] for part in parts])
        labels = np.concatenate([part["stack"][2] for part in parts], axis=1)
        np.testing.assert_array_equal(labels, [one.labels for one in alone])


@pytest.mark.parametrize("name", sharded.GAPS)
def test_a_gap_is_proved_by_all_together(groups, name):
    """Every process has the same bound, and the true distance is within it."""
    case = sharded.CASES[name]
    logits = case.input()
    alone = sinkhorn(logits, **case.options)
    best = sinkhorn(logits, **case.options | {"tol": 1e-11}).objective
    for parts in groups:
        found = [part["gaps"][name] for part in parts]
        assert found == found[:1] * len(parts)
        objective, gap = found[0]
        assert objective == pytest.approx(alone.objective, abs=1e-6)
        assert abs(objective - best) <= gap <= 3 * alone.gap(logits) + 1e-7


MISUSE = {
    **{
        f"nan {backend} {method}": r"ValueError: rank {last}: logits\[{row3}, 2\] is nan"
        for backend in ("cpu", "reference")
        for method in ("auto", "sinkhorn")
    },
    "nan in both": r"ValueError: rank 0: logits\[650, 1\] is nan \(the first bad row is 650\)",
    "empty column": "ValueError: column 4 of logits is -inf for every sample",
    "other K": "ValueError: the number of columns .* is 20 on rank 0 and 9 on rank {last}",
    "other dtype": "ValueError: the dtype of logits .* 'float32' on rank 0 and 'float64' on rank",
    "other library": "ValueError: the library of logits .* 'numpy' on rank 0 and 'torch' on rank",
    "other epsilon": "ValueError: epsilon .* is 0.1 on rank 0 and 0.2 on rank {last}",
    "other b": "ValueError: b must be the same",
    "other backend": "ValueError: backend must be the same .* 'reference' on rank 0 and 'cpu'",
    "only one has a": "ValueError: whether there is an a must be the same",
    "bad tol": "ValueError: rank {last}: tol must be finite and >= 0",
    "bad type": "TypeError: rank {last}: logits must be a numpy.ndarray",
    "all empty": "ValueError: logits need at least one sample",
    "a is not 1": "ValueError: a must sum to 1 over all processes, got {mass}",
    "no room": "ValueError: method='newton' has no room .* shape \\({total}, 20\\)",
    "fewer heads": "ValueError: whether logits hold another head",
    "bad head": r"ValueError: head 1: rank {last}: logits\[{row3}, 2\] is nan",
    "a stack and a matrix": "ValueError: .* must be the same",
    "a stops": "'SinkhornResult'",
}


@pytest.mark.parametrize("way", MISUSE)
def test_an_error_of_one_is_an_error_of_all(groups, way):
    """All processes raise the same, which says whose fault it is; global numbers of rows."""
    for parts in groups:
        counts = [700 + rank for rank in range(len(parts))]
        message = MISUSE[way]
        for name, value in {
            "last": len(parts) - 1,
            "row3": sum(counts[:-1]) + 3,
            "total": sum(counts),
            "mass": f"{sum(counts) / 700:.3}",
        }.items():
            message = message.replace(f"{{{name}}}", str(value))
        for part in parts:
            assert part["misuse"][way] == parts[0]["misuse"][way]
            assert re.match(message, part["misuse"][way]), part["misuse"][way]


def test_a_callback_stops_all_or_raises_in_all(groups):
    for parts in groups:
        *others, last = (part["misuse"] for part in parts)
        assert last["a raises"] == "KeyError: 'mine'"
        for other in others:
            assert other["a raises"].startswith(f"RuntimeError: the callback of rank {len(others)}")
            assert other["stopped"] == last["stopped"]
        assert not last["stopped"].startswith("(50,")


def test_every_process_warns(groups):  # made an error, it must be one in all, or some would wait
    for parts in groups:
        warned = [part["misuse"]["warned"] for part in parts]
        assert warned == ["'SinkhornResult' 1"] * len(parts)


@pytest.mark.parametrize("group", [3, "gloo", -100])
def test_what_is_no_process_group_is_refused(group):
    """-100 is what torch gives to processes that are no members of a new group."""
    with pytest.raises(TypeError, match=r"process_group must be a torch.distributed.ProcessGroup"):
        sinkhorn(np.eye(3), process_group=group)


def test_a_compiled_graph_has_no_place_for_it():
    step = torch.compile(
        lambda x: equipartition_labels(x, process_group=3), fullgraph=True, backend="eager"
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match="no place for a process group"):
        step(torch.eye(3))
