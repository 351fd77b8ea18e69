"""The accelerated solve: as right as the textbook iteration, and cheaper where that crawls."""

import math
import subprocess
import sys
import textwrap
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
from problems import EPSILON, FAMILIES, make_logits, true_violation

from sinkhorn_ot import SinkhornWarning, equipartition_labels, sinkhorn
from sinkhorn_ot.arrays import place_of
from sinkhorn_ot.backends import named
from sinkhorn_ot.backends.cpu import CpuPasses, needs
from sinkhorn_ot.entropic.checks import room_for_entries
from sinkhorn_ot.group import Group, GroupPasses
from sinkhorn_ot.passes import Problem
from sinkhorn_ot.solvers.model import CAREFUL, KNOWN, Model
from sinkhorn_ot.solvers.watch import Seen

N, K = 20_000, 100


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """Logits, and the labels of a float64 textbook solve at tol 1e-9."""
    logits = make_logits(request.param, N, K)
    exact = logits.astype(np.float64)
    return request.param, logits, sinkhorn(exact, tol=1e-9, method="newton", backend="cpu")


@pytest.mark.parametrize("tol", [1e-3, 1e-4, 1e-6])
def test_every_family_is_solved_rightly(family, tol):
    """The reported violation is the true one, and nearly all labels are those of the limit."""
    _, logits, truth = family
    result = sinkhorn(logits, tol=tol)
    assert result.converged
    true = true_violation(logits, result.g)
    assert abs(result.marginal_violation - true) <= max(0.01 * true, 1e-7)
    np.testing.assert_array_equal(result.labels, (logits.astype(np.float64) + result.g).argmax(1))
    assert abs(result.g.mean()) < 1e-9
    if tol <= 1e-4:
        assert (result.labels == truth.labels).mean() >= 0.999


def test_the_limit_is_that_of_the_textbook(family):
    """An independent check of the truth above: plain float64 iterations agree with it."""
    name, logits, truth = family
    some = logits[:2000].astype(np.float64)
    plain = sinkhorn(
        some, tol=1e-7, method="sinkhorn", max_iter=100_000, backend="cpu", epsilon=4 * EPSILON
    )
    newton = sinkhorn(some, tol=1e-10, method="newton", backend="cpu", epsilon=4 * EPSILON)
    assert (plain.labels == newton.labels).mean() >= 0.999, name
    assert truth.converged


def test_it_reads_less_where_the_textbook_crawls(family):
    """Peaked logits: fewer reads, honestly counted, than the plain iteration takes."""
    name, logits, _ = family
    newton = sinkhorn(logits, tol=1e-4)
    plain = sinkhorn(logits, tol=1e-4, method="sinkhorn", max_iter=10_000)
    assert plain.converged
    if name in ("peaked", "middle", "late"):
        assert newton.n_passes < plain.n_passes / 2
    else:
        assert newton.n_passes < 2 * plain.n_passes


@pytest.mark.parametrize("seed", range(3))
def test_columns_that_are_far_from_their_marginal_do_not_stop_a_sample(seed):
    """It took six to eight reads while steps were shortened as a whole for their longest entry."""
    result = sinkhorn(make_logits("late", 40_000, 500, seed), epsilon=EPSILON, tol=1e-3)
    assert result.converged
    assert result.n_passes < 5


def test_warm_start_after_five_percent_of_labels_moved():
    """A re-solve from the last g takes two to four reads."""
    logits = make_logits("middle", 100_000, 200)
    first = sinkhorn(logits, tol=1e-3)
    rng = np.random.default_rng(0)
    moved = logits.copy()
    rows = rng.choice(len(logits), 5000, replace=False)
    moved[rows] = logits[rng.permutation(rows)]
    moved[rows] += rng.normal(0, 0.1, (5000, 200)).astype(np.float32)
    again = sinkhorn(moved, tol=1e-3, g_init=first.g)
    assert (again.labels != first.labels).mean() > 0.03
    assert again.converged
    assert again.n_passes <= 4


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_infeasible_pattern_ends_like_the_textbook(backend):
    """A third of the samples may only join cluster 0: no plan, and not worse than plain steps."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 30)).astype(np.float32)
    logits[:1000, 1:] = -np.inf
    with pytest.warns(SinkhornWarning, match="no feasible plan"):
        newton = sinkhorn(logits, method="newton", max_iter=40, epsilon=0.3, backend=backend)
    with pytest.warns(SinkhornWarning):
        plain = sinkhorn(logits, method="sinkhorn", max_iter=40, epsilon=0.3, backend=backend)
    assert newton.marginal_violation <= plain.marginal_violation * 1.001
    assert (newton.labels[:1000] == 0).all()


def test_forbidden_pairings_and_unused_clusters():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 20)).astype(np.float32)
    forbidden = rng.random(logits.shape) < 0.4
    forbidden[np.arange(len(logits)), rng.integers(1, 20, len(logits))] = False
    logits[forbidden] = -np.inf
    b = np.r_[0, np.full(19, 1 / 19)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = sinkhorn(logits, b=b, tol=1e-6)
    assert result.converged
    assert not forbidden[np.arange(len(logits)), result.labels].any()
    assert result.counts[0] == 0
    np.testing.assert_allclose(result.counts[1:] / len(logits), 1 / 19, rtol=0.05)


def test_rows_in_order_of_their_class():
    """Samples and kept rows spread over the data, so sorted rows do no harm."""
    logits = make_logits("middle", N, K)
    order = np.argsort(logits.argmax(1), kind="stable")
    result = sinkhorn(logits[order], tol=1e-4)
    assert result.converged
    expected = sinkhorn(logits, tol=1e-8)
    assert (result.labels == expected.labels[order]).mean() >= 0.999


@pytest.fixture
def model(normal):
    """A model whose kept entries are all there are, at a g; and the dense matrices beside it."""
    logits = normal(500, 12, std=0.5)
    b = np.arange(1, 13) / 78
    passes = GroupPasses(Problem(logits, None, b, 1.0), Group(), named("cpu", place_of(logits)))
    g = np.linspace(-0.5, 0.5, 12)
    p = np.exp(logits + g)
    p /= p.sum(1, keepdims=True)
    made = Model(passes.problem, passes, 1 << 16)
    seen = Seen(g, made.read(g).log_mass, 1e-10)
    made.settle(seen)
    return made, seen, p.mean(0), np.diag(p.mean(0)) - p.T @ p / 500, b


@pytest.mark.parametrize("lam", [0.0, 0.1, 1e8])
def test_a_step_solves_its_formula(model, lam):
    """``(H + lam diag(b)) d = (b - m) + lam diag(b) log(b / m)``, by dense linear algebra."""
    made, seen, m, hessian, b = model
    made.lam = lam
    right = b - m + lam * b * np.log(b / m)
    d = np.linalg.lstsq(hessian + lam * np.diag(b), right, rcond=None)[0]
    found, _ = made.step(seen)
    free = b @ (d - found)  # a constant changes nothing, and lam = 0 leaves it open
    np.testing.assert_allclose(found + free * (lam == 0), d, atol=1e-4)
    if lam > 1e6:
        np.testing.assert_allclose(found, np.log(b / m), atol=1e-4)


def test_lam_follows_how_good_a_step_was(model):
    """Sinkhorn's step is accepted; one three times too long, uphill at its end, is not."""
    made, seen, m, _, b = model
    start = replace(seen, violation=float(abs(m - b).sum()))

    def after(d):
        g = seen.g + d
        reading = made.read(g)
        return Seen(g, reading.log_mass, float(abs(np.exp(reading.log_mass) - b).sum()))

    made.lam = 1.0
    assert made.accepts(start, after(np.log(b / m)))
    assert made.lam < 1.0
    made.lam = 1.0
    assert not made.accepts(start, after(3 * np.log(b / m) + 20 * (np.arange(12) == 0)))
    assert made.lam > 1.0


@pytest.mark.parametrize(("slope", "lam"), [(0.2, 1 / 3), (0.4, 1.0), (0.9, 2.0), (1.1, 5.0)])
def test_lam_follows_the_slope_at_the_end_of_a_step(model, slope, lam):
    """Where the violation stayed as it was, two slopes decide; the last step is taken back."""
    made, seen, m, _, b = model
    made.lam = 1.0
    step = np.log(b / m)
    before = 0.01 * (m - b)  # gradients, so that the slopes are as 1 to -slope
    after = -slope * before
    start = Seen(seen.g, np.log(before + b), 1.0)
    end = Seen(seen.g + step, np.log(after + b), 1.0)
    assert made.accepts(start, end) == (slope <= 1)
    assert made.lam == pytest.approx(lam)


def test_the_foreseen_violation_is_found(model, monkeypatch):
    """Kept entries that are all there are predict it: no more is found, and hardly less."""
    made, seen, m, _, b = model
    monkeypatch.setattr("sinkhorn_ot.solvers.model.CHEAP", math.inf)  # all entries are not cheap
    start = replace(seen, violation=float(abs(m - b).sum()))
    made.lam, made.proven = 0.3, True
    d, foreseen = made.step(start)
    found = abs(np.exp(made.read(seen.g + d).log_mass) - b).sum()
    assert found <= foreseen <= max(CAREFUL * found * 1.01, CAREFUL * KNOWN * start.violation)


def test_a_rare_cluster_is_filled():
    """A column that no sample shows at first (far below the others) still gets its share."""
    logits = make_logits("peaked", N, K)
    logits[:, 7] -= 4.0
    result = sinkhorn(logits, tol=1e-4)
    assert result.converged
    assert result.counts[7] > 0.8 * N / K


MEMORY = """
    import resource, sys
    import numpy as np
    from problems import make_logits
    from sinkhorn_ot import sinkhorn
    logits = make_logits({family!r}, 400_000, 100)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    result = sinkhorn(logits, memory_limit={limit})
    assert result.converged
    returned = result.labels.nbytes + result.f.nbytes
    print((peak() - before - returned) / logits.nbytes)
"""


@pytest.mark.parametrize("family", ["flat", "late"])
@pytest.mark.parametrize(("limit", "part"), [(None, 0.55), (0.02, 0.02)])
def test_memory_stays_below_its_limit(family, limit, part):
    """Peak memory of a process that solves 160 MB: the input, the results and what was allowed."""
    limit = None if limit is None else int(limit * 160e6)
    code = textwrap.dedent(MEMORY.format(family=family, limit=limit))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd="benchmarks",
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= part + 0.005  # the allocator's own pages


@pytest.mark.parametrize("as_iterator", [False, True])
def test_heads_are_solved_one_by_one(as_iterator):
    """A stack and an iterator give each head what it gets alone; g_init has a row per head."""
    stack = np.stack([make_logits("middle", 3000, 20, seed=seed) for seed in range(3)])
    alone = [sinkhorn(head, tol=1e-6) for head in stack]
    heads = (head for head in stack) if as_iterator else stack
    together = sinkhorn(heads, tol=1e-6)
    for one, other in zip(alone, together, strict=True):
        assert one.g.tobytes() == other.g.tobytes()
        np.testing.assert_array_equal(one.labels, other.labels)
    heads = (head for head in stack) if as_iterator else stack
    labels = equipartition_labels(heads, tol=1e-6, g_init=np.stack([r.g for r in alone]))
    np.testing.assert_array_equal(labels, np.stack([r.labels for r in alone]))


def test_newton_takes_exactly_max_iter_when_tol_is_zero():
    result = sinkhorn(make_logits("late", 3000, 50), tol=0, max_iter=6, method="newton")
    assert result.n_iter == 6
    assert result.marginal_violation < 1e-9


def test_rows_with_large_offsets_keep_an_honest_violation(simd):
    """A constant of 100 per row changes no plan, and must not blur the violation in float32."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 50)) + 100 * rng.normal(size=(3000, 1))
    logits = logits.astype(np.float32)
    result = sinkhorn(logits, tol=1e-6)
    true = true_violation(logits, result.g)
    assert abs(result.marginal_violation - true) <= max(0.01 * true, 1e-7)
    assert result.converged
    np.testing.assert_array_equal(result.labels, (logits.astype(np.float64) + result.g).argmax(1))


@pytest.mark.parametrize("n", [256, 257, 308, 513, 1000])
def test_all_rows_are_kept_where_there_is_room_for_all(n, normal):
    """Whatever the number of rows: none is passed over, and nothing is lost between chunks."""
    problem = Problem(normal(n, 15), None, np.full(15, 1 / 15), 0.5)
    passes = GroupPasses(problem, Group(), named("cpu", place_of(problem.logits)))
    kept = passes.keep(needs(problem.logits, n).everything)
    passes.read(np.zeros(15), kept=kept)
    assert kept.count().rows == n
    assert kept.count().misfits == 0


def test_entries_are_used_only_after_they_were_kept():
    problem = Problem(np.zeros((300, 15)), None, np.full(15, 1 / 15), 0.05)
    kept = CpuPasses(problem).keep(10_000)
    with pytest.raises(RuntimeError, match="before a pass filled them"):
        kept.mass(np.zeros(15))


def test_what_does_not_fit_is_not_kept_and_less_is_tried(normal):
    """Rows that are denser than those before: nothing is kept, then fewer rows are."""
    logits = np.where(np.arange(40_000)[:, None] < 20_000, 40.0, 1.0) * normal(40_000, 50)
    problem = Problem(logits.astype(np.float32), None, np.full(50, 1 / 50), 1.0)
    passes = GroupPasses(problem, Group(), named("cpu", place_of(logits)))
    kept = passes.keep(200_000)
    passes.read(np.zeros(50), kept=kept)
    sparse = kept.count()
    assert sparse.misfits == 0
    problem.logits[:] = 0.0  # now all entries are equally large
    passes.read(np.zeros(50), kept=kept)
    assert kept.count().misfits > 0
    m, s = kept.mass(np.zeros(50))
    assert not m.any()
    assert not s.any()
    passes.read(np.zeros(50), kept=kept)
    assert kept.count().misfits == 0
    assert kept.count().rows > 1000
    np.testing.assert_allclose(kept.mass(np.zeros(50))[0], 1 / 50)


@pytest.mark.parametrize("tol", [0.3, 0.1, 0.03, 0.01, 1e-3, 1e-5])
def test_small_problems_whose_first_steps_nearly_end_it(tol):
    """Two Sinkhorn steps come first; what follows may or may not have kept entries."""
    for seed in range(30):
        logits = np.random.default_rng(seed).normal(0, 0.1, (200, 12)).astype(np.float32)
        assert sinkhorn(logits, tol=tol).converged


def test_there_is_room_for_very_many_clusters():
    logits = np.broadcast_to(np.float32(0), (40_000, 100_000))
    assert room_for_entries(logits, 40_000, None, needs(logits, 40_000)) > 0
    assert room_for_entries(logits, 40_000, 0, needs(logits, 40_000)) == 0


def test_few_clusters_stay_below_a_small_memory_limit(normal):
    """With K = 10 labels and f are as large as the input: only one pair may exist at a time."""
    logits = make_logits("late", 200_000, 10)
    tracemalloc.start()
    result = sinkhorn(logits, tol=1e-5, memory_limit=int(0.02 * logits.nbytes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.n_iter > 3
    assert peak <= result.labels.nbytes + result.f.nbytes + 0.02 * logits.nbytes


@pytest.mark.parametrize("method", ["auto", "sinkhorn"])
def test_the_first_bad_row_is_named_though_samples_come_first(method):
    logits = np.zeros((20_000, 10), np.float32)
    logits[1, 3] = logits[15_000:, 0] = np.nan
    with pytest.raises(ValueError, match=r"logits\[1, 3\] is nan"):
        sinkhorn(logits, method=method)


def test_mass_on_few_rows(normal):
    """Samples without any mass are no obstacle."""
    logits = normal(20_000, 10).astype(np.float32)
    a = np.zeros(20_000)
    a[[5, 777, 9000, 12_345, 19_999]] = 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = sinkhorn(logits, a=a, epsilon=1.0, tol=1e-6)
    few = sinkhorn(logits[a > 0], epsilon=1.0, tol=1e-9)
    np.testing.assert_allclose(result.g, few.g, atol=1e-4)


def test_what_a_head_raises_or_warns_names_it(normal):
    stack = np.stack([normal(300, 20, std=3)] * 3)
    with pytest.warns(SinkhornWarning) as record:
        sinkhorn(stack, max_iter=1)
    heads = [str(warning.message).split(" stopped")[0] for warning in record]
    assert heads == ["sinkhorn (head 0)", "sinkhorn (head 1)", "sinkhorn (head 2)"]
    stack[1, 5, 3] = np.nan
    for solve in (sinkhorn, equipartition_labels):
        with pytest.raises(ValueError, match=r"head 1: logits\[5, 3\] is nan"):
            solve(iter(stack), tol=1.0)


def test_newton_without_room_says_so():
    logits = make_logits("flat", 3000, 50)
    with pytest.raises(ValueError, match=r"no room to keep entries .* memory_limit=1000"):
        sinkhorn(logits, method="newton", memory_limit=1000)
    assert sinkhorn(logits, memory_limit=1000).converged


def test_warnings_of_heads_point_at_the_caller(normal):
    with pytest.warns(SinkhornWarning) as record:
        sinkhorn(np.stack([normal(300, 20, std=3)] * 2), max_iter=1)
    assert [warning.filename for warning in record] == [__file__] * 2
