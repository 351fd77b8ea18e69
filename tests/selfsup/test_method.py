"""The method: schedule, loss, label step, objective, and the authors' recurrence."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from solvers import sela_original

import selfsup
from selfsup import labellers
from selfsup.config import Config, DataConfig, LabelConfig, ModelConfig, RunConfig
from selfsup.data import TensorImages, load_data
from selfsup.errors import ConfigError
from selfsup.models import MultiHead
from selfsup.presets import PRESETS
from selfsup.sela import SelfLabels, Shard, multi_head_loss, update_times
from selfsup.training.fit import new_network
from selfsup.training.label_pass import (
    cross_entropies,
    feature_pass,
    fit_clusters,
    label_step,
    new_labels,
)
from selfsup.training.processes import World
from selfsup.training.step import (
    build_optimiser,
    gradient_step,
    new_scaler,
    objective,
    quarter_turns,
)
from sinkhorn_ot import sinkhorn

CONFIG = Config(
    DataConfig("digits", 8),
    ModelConfig(width=4),
    LabelConfig(clusters=(10, 7), epsilon=0.1),
    run=RunConfig("test"),
)


@pytest.fixture(scope="module")
def images():
    return load_data(CONFIG.data).train


@pytest.fixture(scope="module")
def network(images):
    return new_network(CONFIG, images)


def at_random(n, config):
    return new_labels(config.labels, n, config.run.seed, 1, World())


def step(network, images, config, old=None):
    """Return the labels after an update, and its report; the old ones stay as they are."""
    labels = at_random(len(images), config)
    if old is not None:
        labels.load_state_dict(copy.deepcopy(old.state_dict()))
    report = label_step(config, network, images, labels, World())
    return labels, report


def features_of(network, images, config=CONFIG, **options):
    return feature_pass(config, network, images, **options)


def logits_of(network, images, head=0):
    with torch.no_grad():
        return network.heads[head](features_of(network, images))


@pytest.fixture(scope="module")
def trained(images):
    """A network that has had a few epochs, as logits of a random one are too easy."""
    config = CONFIG.but(epochs=8, nesterov=True)
    network = new_network(config, images)
    optimiser = build_optimiser(config.optimiser, network)
    scaler = new_scaler(config.optimiser, torch.device("cpu"))
    labels, _ = step(network, images, config)
    network.train()
    for epoch in range(8):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for index in order.split(100)[:-1]:
            (x,) = images.views([index], config.optimiser.augment, 8, seeds=[0])
            gradient_step(network, optimiser, scaler, x, index, labels, config.optimiser)
    return network.eval()


# the schedule and the heads that are due


def test_schedule_of_sela_on_imagenet():
    # 400 epochs and 100 updates: the authors' times are (E + 1.01) N linspace(0, 1, 100)^2.
    times = update_times(401.01, 100, 2.0)
    assert [round(t, 3) for t in times[:6]] == [0, 0.041, 0.164, 0.368, 0.655, 1.023]
    assert sum(t < 10 for t in times) == 16
    assert sum(t < 40 for t in times) == 32
    assert times[-1] - times[-2] == pytest.approx(8.06, abs=0.005)


def test_linear_and_power_schedules_by_hand():
    assert update_times(12, 4, 1.0) == pytest.approx([0, 4, 8, 12])
    assert update_times(8, 5, 1.5) == pytest.approx([0, 1, 8 / math.sqrt(8), 8 * 0.75**1.5, 8])
    assert update_times(100, 1, 2.0) == [0.0]


def test_one_head_in_turn_or_all_of_them_or_all_in_groups():
    def due(updates, **settings):
        labels, heads = SelfLabels(10, (5, 6, 7, 8), **settings), []
        for labels.updates in updates:
            heads.append(labels.heads_due())
        return heads

    assert due((0, 9)) == [[[0, 1, 2, 3]]] * 2
    assert due(range(6), one_head=True) == [[[0]], [[1]], [[2]], [[3]], [[0]], [[1]]]
    groups = due(range(8), groups=2)
    for pair in groups:
        assert [len(g) for g in pair] == [2, 2]
        assert sorted(pair[0] + pair[1]) == [0, 1, 2, 3]
    assert len({tuple(map(tuple, g)) for g in groups}) > 1  # reshuffled from update to update
    assert due([3], groups=2) == [groups[3]]


def test_random_labels_are_balanced_and_differ_between_heads():
    clusters = (7, 7, 10)
    labels = SelfLabels(1000, clusters).labels
    for head, k in zip(labels, clusters, strict=True):
        assert set(torch.bincount(head, minlength=k).tolist()) <= {1000 // k, 1000 // k + 1}
    assert (labels[0] == labels[1]).double().mean() < 0.3
    assert torch.equal(labels, SelfLabels(1000, clusters).labels)


def test_updates_are_due_at_their_moments_and_never_twice():
    labels = SelfLabels(4, (2,), times=[0, 10, 20])
    logits = [torch.randn(4, 2, generator=torch.Generator().manual_seed(0))]
    seen = []
    for images in range(0, 30, 4):
        if labels.due(images):
            labels.update(logits)
            seen.append(images)
    assert seen == [0, 12, 20]


def test_a_loop_that_asks_once_more_at_its_end_makes_every_update():
    # The last update is at the end. The authors ask before steps alone. For CIFAR, at times
    # (E + 1.0001) N linspace(0, 1, 400) in E = 400 epochs of 391 steps, the last one never comes.
    logits = [torch.randn(50, 2, generator=torch.Generator().manual_seed(0))]
    labels, made = SelfLabels(50, (2,), times=update_times(4 * 50, 7)), []
    for seen in range(0, 4 * 50 + 1, 10):  # 20 steps of 10 images, and the end
        if labels.due(seen):
            labels.update(logits)
            made.append(seen)
    assert made == [0, 10, 30, 50, 90, 140, 200]  # 200 (i / 6)^2, at the next step
    theirs = SelfLabels(50, (2,), times=update_times(401.0001 * 50_000, 400, 1.0))
    for step in range(400 * 391):
        theirs.updates += theirs.due(step * 128)
    assert theirs.updates == 399


def test_labels_and_potentials_travel_through_a_state_dict():
    logits = [torch.randn(60, k, generator=torch.Generator().manual_seed(k)) for k in (4, 6)]
    labels, again = SelfLabels(60, (4, 6), 0.2), SelfLabels(60, (4, 6), 0.2, seed=9)
    labels.update(logits)
    again.load_state_dict(labels.state_dict())
    assert again.updates == 1
    assert torch.equal(again.predict(logits), labels.labels)
    other = [z + 1 for z in logits]
    assert torch.equal(again.predict(other), labels.labels)  # a shift of a row says nothing
    assert (again.labels != torch.stack([z.argmax(1) for z in logits])).any()


def test_logits_of_each_head_or_heads_on_features_give_the_same_labels():
    features = torch.randn(80, 5, generator=torch.Generator().manual_seed(0))
    heads = torch.nn.ModuleList(torch.nn.Linear(5, k) for k in (4, 6))
    one, other = SelfLabels(80, (4, 6)), SelfLabels(80, (4, 6))
    one.update([head(features).detach() for head in heads])
    other.update(features=features, heads=heads)
    assert torch.equal(one.labels, other.labels)


Z = [torch.randn(60, k, generator=torch.Generator().manual_seed(k)) for k in (4, 6)]
MISTAKES = {
    "too few": (lambda own: own.update(Z[:1]), "there are 2 heads, got 1"),
    "too many": (lambda own: own.update([*Z, Z[0]]), "there are 2 heads, got 3"),
    "none": (lambda own: own.update(), "there are 2 heads, got 0"),
    "another K": (lambda own: own.update([Z[0], Z[0]]), "head 1 needs .* 60 x 6 tensor"),
    "another N": (lambda own: own.update([Z[0], Z[1][:59]]), "head 1 needs .* 60 x 6 tensor"),
    "NumPy": (lambda own: own.update([Z[0], Z[1].numpy()]), "head 1 needs .* got ndarray"),
    "a short shard": (lambda own: own.update(Z, rows=slice(0, 9)), "head 0 needs .* 9 x 4 tensor"),
    "one head": (lambda own: own.update(features=Z[0], heads=[torch.exp]), "2 heads, got 1"),
    "a narrow head": (
        lambda own: own.update(features=Z[0], heads=[torch.exp] * 2),
        "head 1 needs .* 60 x 6 tensor",
    ),
    "NaN": (lambda own: own.update([Z[0], Z[1] * math.nan]), "is nan"),
    "one output": (lambda own: own.loss(Z[:1], torch.arange(60)), "there are 2 heads, got 1"),
    "wide output": (lambda own: own.loss(Z[::-1], torch.arange(60)), "head 0 needs .* 60 x 4"),
    "another batch": (lambda own: own.loss(Z, torch.arange(30)), "head 0 needs .* 30 x 4"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_own_loops_name_the_head_and_renew_none(mistake):
    own = SelfLabels(60, (4, 6))
    before = own.labels.clone()
    wrong, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        wrong(own)
    assert torch.equal(own.labels, before)
    assert own.states == [None, None]
    assert own.updates == 0


@pytest.mark.parametrize("clusters", [5, [10, 0]])
def test_clusters_are_one_number_a_head(clusters):
    with pytest.raises(ValueError, match="clusters must be a K >= 1 of each head"):
        SelfLabels(60, clusters)


def test_the_public_names_are_listed():
    assert set(selfsup.__all__) <= set(dir(selfsup))


def test_every_labeller_has_the_same_signature():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    z, shard = x[:, :4], Shard(40, slice(0, 40))
    always = torch.arange(80).view(2, 40) % 4
    for labeller, expected in (
        (labellers.equipartition, sinkhorn(z, epsilon=0.04).labels),
        (labellers.argmax, z.argmax(1)),
        (labellers.fixed(always), always[1]),
    ):
        assert torch.equal(labeller(1, z, x, None, shard).labels, expected)
    found = labellers.kmeans()(1, z, x, None, shard)
    assert torch.equal(labellers.nearest(x, found.state), found.labels)
    with pytest.raises(ValueError, match="features"):
        labellers.kmeans()(1, z, None, None, shard)


def test_clusters_fit_the_images_and_more_of_them_are_refused():
    assert fit_clusters(LabelConfig(clusters=(0, 5)), 300) == (15, 5)
    assert fit_clusters(LabelConfig(clusters=(0,)), 5) == (2,)
    assert fit_clusters(LabelConfig(clusters=(0,)), 10**6) == (128,)
    with pytest.raises(ConfigError, match="128 are more than the 20 images"):
        fit_clusters(LabelConfig(clusters=(128,)), 20)
    with pytest.raises(ConfigError, match="at least 2"):
        fit_clusters(LabelConfig(), 1)


# the objective


def test_loss_is_the_mean_over_heads():
    logits = (torch.zeros(2, 4), torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]))
    labels = torch.tensor([[0, 3], [0, 1]])
    # Head 0: ln 4. Head 1: the mean of ln(4/3) and ln 2.
    expected = (math.log(4) + (math.log(4 / 3) + math.log(2)) / 2) / 2
    assert float(multi_head_loss(logits, labels)) == pytest.approx(expected)


def test_rotation_adds_the_cross_entropy_of_the_turns():
    heads = (torch.zeros(1, 4),)
    turns = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 3.0, 0], [4.0, 0, 0, 0]])
    labels = torch.tensor([[2]])
    lse = [math.log(math.exp(z) + 3) for z in (1.0, 2.0, 3.0, 4.0)]
    rotation = ((lse[0] - 1) + (lse[1] - 2) + (lse[2] - 3) + lse[3]) / 4

    def loss(*outputs):
        own = SelfLabels(1, [4] * (len(outputs) - 1))
        own.labels = labels[: len(outputs) - 1]
        x = torch.zeros(1, 1, 2, 2)
        return float(objective(lambda x, rotated: outputs, x, torch.tensor([0]), own, True))

    assert loss(*heads, turns) == pytest.approx(math.log(4) + rotation, rel=1e-6)
    assert loss(turns) == pytest.approx(rotation, rel=1e-6)  # RotNet: no heads


def test_quarter_turns_of_a_marked_corner():
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 0] = 1
    corners = [tuple(map(int, turned[0].nonzero()[0])) for turned in quarter_turns(image)]
    assert corners == [(0, 0), (2, 0), (2, 2), (0, 2)]  # counter-clockwise


def test_cross_entropies_by_hand_and_in_blocks(monkeypatch):
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 3
    labels = [torch.arange(50) % 6, torch.zeros(50, dtype=torch.int64)]
    expected = [float(torch.nn.functional.cross_entropy(logits.double(), y)) for y in labels]
    monkeypatch.setattr("selfsup.training.label_pass.BLOCK", 42)  # seven rows at a time
    assert (cross_entropies(logits, *labels) / 50).tolist() == pytest.approx(expected, rel=1e-6)


def soft_objective(plan, logits, epsilon):
    entropy = -np.where(plan > 0, plan * np.log(np.where(plan > 0, plan, 1)), 0).sum()
    return float((plan * logits).sum() + epsilon * entropy)


def test_no_plan_with_the_same_marginals_is_better_than_the_label_step(trained, images):
    # The claim that the method rests on: at a fixed network the step is the best there is.
    logits = logits_of(trained, images).double().numpy()
    n, k = logits.shape
    result = sinkhorn(logits, epsilon=CONFIG.labels.epsilon, tol=1e-12)
    best = soft_objective(result.plan(logits), logits, CONFIG.labels.epsilon)
    rng = np.random.default_rng(0)
    others = [(logits, epsilon) for epsilon in (0.02, 0.05, 0.2, 1.0)]
    others += [
        (logits + rng.normal(scale=0.05, size=(n, k)), CONFIG.labels.epsilon) for _ in range(5)
    ]
    rivals = [sinkhorn(z, epsilon=e, tol=1e-12).plan(z) for z, e in others]
    rivals.append(np.full((n, k), 1 / (n * k)))
    for rival in rivals:
        assert np.abs(rival.sum(0) - 1 / k).sum() < 1e-9
        assert soft_objective(rival, logits, CONFIG.labels.epsilon) < best
    # and so close to the optimum that a step towards any of them does not help either
    plan = result.plan(logits)
    for rival in rivals:
        near = plan + 1e-3 * (rival - plan)
        assert soft_objective(near, logits, CONFIG.labels.epsilon) <= best + 1e-12


def test_without_the_constraint_constant_labels_are_perfect(images):
    # The degeneracy: a bias makes any network agree with one label for all, at E = 0.
    head = MultiHead(5, (10,))
    features = torch.randn(len(images), 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.linear.bias[3] = 200.0
        (logits,) = head(features)
    constant = torch.full((1, len(images)), 3)
    assert float(multi_head_loss((logits,), constant)) < 1e-6
    assert torch.equal(logits.argmax(1), constant[0])  # and argmax labels stay there for ever
    labels = sinkhorn(logits, epsilon=0.1, tol=1e-6).labels  # the constraint takes it away
    assert torch.bincount(labels, minlength=10).min() > 0.75 * len(images) / 10


@pytest.mark.parametrize("lam", [10, 25])
def test_labels_are_those_of_the_authors_recurrence(trained, images, lam):
    # Two implementations of one maths, on the logits of a real run: 99.9% of labels are equal.
    logits = logits_of(trained, images)
    answer = sela_original(logits.numpy(), 1e-10, epsilon=1 / lam)
    assert answer.curve[-1][1] <= 1e-10  # it got there
    theirs = answer.labels
    config = CONFIG.but(epsilon=1 / lam, tol=1e-9, max_iter=100_000)
    labels, report = step(trained, images, config)
    ours = labels.labels[0].numpy()
    assert max(head.violation for head in report.heads) <= 1e-9
    assert (ours == theirs).mean() >= 0.999
    assert (logits.argmax(1).numpy() == theirs).mean() < 0.98  # it is not what argmax says


# the label step


def test_label_pass_leaves_batch_norm_and_mode_alone(network, images):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        features_of(network, images)
        assert network.training is training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_features_are_in_dataset_order(network, images):
    features = features_of(network, images)
    for i in (0, 7, len(images) - 1):
        alone = features_of(network, images, rows=slice(i, i + 1))
        torch.testing.assert_close(alone[0], features[i], atol=1e-4, rtol=1e-4)


def test_mean_over_views_averages_the_logits(network, images):
    augment = PRESETS["digits"].optimiser.augment
    config = CONFIG.but(label_augment=augment, label_views=2)
    mean = features_of(network, images, config)
    first = features_of(network, images, config.but(label_views=1))
    plain = features_of(network, images)
    second = 2 * mean - first
    assert (first - second).abs().mean() > 0.05  # two different views,
    assert (first - plain).abs().mean() > 0.05  # neither the image itself
    torch.testing.assert_close(
        network.heads(mean)[0],
        (network.heads(first)[0] + network.heads(second)[0]) / 2,
        atol=1e-4,
        rtol=1e-4,
    )


def test_labels_of_an_untrained_network_are_balanced(network, images):
    labels, _ = step(network, images, CONFIG)
    assert labels.labels.shape == (2, len(images))
    for head, k in enumerate(CONFIG.labels.clusters):
        sizes = torch.bincount(labels.labels[head], minlength=k)
        assert sizes.min() > 0.8 * len(images) / k
        assert sizes.max() < 1.2 * len(images) / k
        potential = labels.states[head]
        assert potential is not None
        assert len(potential) == k
        logits = logits_of(network, images, head).double()
        assert torch.equal((logits + potential).argmax(1), labels.labels[head])


def test_a_report_says_what_happened(network, images):
    old = at_random(len(images), CONFIG)
    new, report = step(network, images, CONFIG, old)
    for head, k in zip(report.heads, CONFIG.labels.clusters, strict=True):
        logits = logits_of(network, images, head.head).double()
        for value, labels in ((head.ce_before, old), (head.ce_after, new)):
            y = labels.labels[head.head]
            expected = float(torch.nn.functional.cross_entropy(logits, y))
            assert value == pytest.approx(expected, rel=1e-5)
        assert head.ce_after < head.ce_before  # random labels were worse
        assert head.bits == pytest.approx((math.log(k) - head.ce_after) / math.log(2))
        assert head.entropy <= math.log(k)
        assert head.entropy > 0.98 * math.log(k)
        sizes = torch.bincount(new.labels[head.head], minlength=k)
        assert (head.size_min, head.size_max) == (int(sizes.min()), int(sizes.max()))
        changed = (old.labels[head.head] != new.labels[head.head]).double().mean()
        assert head.changed == pytest.approx(float(changed))
        assert head.nmi_last < 0.05  # nothing in common with random labels
        assert 0 < head.violation <= CONFIG.labels.tol
        assert head.passes > 0
    assert set(report.seconds) == {"forward", "logits", "transport", "report"}
    _, again = step(network, images, CONFIG, new)
    for head in again.heads:
        assert head.changed < 0.02
        assert head.nmi_last > 0.95


def test_a_warm_start_reads_less(trained, images):
    config = CONFIG.but(tol=1e-4)
    labels, cold = step(trained, images, config)
    _, warm = step(trained, images, config, labels)
    for first, second in zip(cold.heads, warm.heads, strict=True):
        assert second.passes < first.passes


def test_one_head_in_turn_leaves_the_others_alone(network, images):
    config = CONFIG.but(heads_per_update="one")
    old = at_random(len(images), config)
    old.updates = 1
    new, report = step(network, images, config, old)
    assert torch.equal(new.labels[0], old.labels[0])
    assert not torch.equal(new.labels[1], old.labels[1])
    assert [h.head for h in report.heads] == [1]
    assert new.states[0] is None


def test_groups_of_heads_see_other_views(network, images):
    views = {"label_augment": PRESETS["digits"].optimiser.augment, "clusters": (10, 10)}
    apart = CONFIG.but(head_groups=2, **views)
    twice = new_network(apart, images)
    with torch.no_grad():  # twin heads: only what they see can make their labels differ
        twice.heads.linear.weight[10:] = twice.heads.linear.weight[:10]
        twice.heads.linear.bias[10:] = twice.heads.linear.bias[:10]
    labels, _ = step(twice, images, apart.but(head_groups=1))
    assert torch.equal(labels.labels[0], labels.labels[1])
    labels, _ = step(twice, images, apart)
    same = (labels.labels[0] == labels.labels[1]).double().mean()
    assert 0.05 < same < 0.95


def test_argmax_labels_are_those_of_the_network_and_unbalanced(network, images):
    labels, report = step(network, images, CONFIG.but(labelling="argmax"))
    assert torch.equal(labels.labels[0], logits_of(network, images).argmax(1))
    assert report.heads[0].size_max > 1.5 * len(images) / 10


def test_kmeans_labels_are_nearest_centroids_and_keep_their_numbers(network, images):
    config = CONFIG.but(labelling="k-means")
    labels, _ = step(network, images, config)
    features = features_of(network, images, config)
    for head in range(2):
        nearest = torch.cdist(features, labels.states[head]).argmin(1)
        assert (nearest == labels.labels[head]).double().mean() > 0.999
    again, _ = step(network, images, config, labels)
    assert (again.labels == labels.labels).double().mean() > 0.95


def test_balanced_kmeans_labels_have_equal_sizes_and_keep_their_numbers(network, images):
    config = CONFIG.but(labelling="balanced k-means")
    labels, report = step(network, images, config)
    features = features_of(network, images, config)
    for head in range(2):
        assert report.heads[head].size_max - report.heads[head].size_min <= 1
        clusters = [features[labels.labels[head] == k] for k in range(len(labels.states[head]))]
        means = torch.stack([cluster.mean(0) for cluster in clusters])
        assert torch.allclose(labels.states[head], means, atol=1e-5)
    again, _ = step(network, images, config, labels)
    assert (again.labels == labels.labels).double().mean() > 0.95


# sizes that are not equal


def test_zipf_and_gaussian_profiles_by_hand():
    zipf = labellers.size_profile("zipf", 4, 1.0, 0)
    assert zipf.tolist() == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    first, second = (labellers.size_profile("gaussian", 2000, 0.2, s) * 2000 for s in (0, 1))
    assert float(first.mean()) == pytest.approx(1)
    assert float(first.std()) == pytest.approx(0.2, rel=0.05)
    assert (first.diff() <= 0).all()
    assert not torch.equal(first, second)  # a draw for each head,
    again = labellers.size_profile("gaussian", 2000, 0.2, 0) * 2000
    assert torch.equal(first, again)  # the same at every update


def test_the_largest_size_goes_to_the_largest_mass():
    # the published code gave it to a random cluster, and inverted
    profile = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    logits = torch.tensor([[0.2, 0.1, 0.4, 0.3]]).log()
    b = labellers.matched([profile])(0, logits, Shard(1, slice(0, 1)))
    assert b.tolist() == [0.15, 0.05, 0.5, 0.3]


def test_clusters_take_the_sizes_that_are_asked_for(network, images):
    config = CONFIG.but(marginal="zipf", marginal_spread=1.0, tol=1e-4)
    labels, _ = step(network, images, config)
    for head in range(2):
        k = config.labels.clusters[head]
        profile = labellers.size_profile("zipf", k, 1.0, 0)
        sizes = torch.bincount(labels.labels[head], minlength=len(profile)) / len(images)
        assert (sizes.sort(descending=True).values - profile).abs().sum() < 0.1
        masses = logits_of(network, images, head).softmax(1).mean(0)
        assert torch.equal(sizes.argsort(descending=True)[:2], masses.argsort(descending=True)[:2])


# sharing the rows


def test_shares_cover_all_rows_once_and_cut_between_batches():
    for n, size, unit in ((1437, 2, 100), (50, 3, 100), (1000, 4, 250), (1001, 3, 1)):
        shares = [World(rank, size).share(n, unit) for rank in range(size)]
        assert shares[0].start == 0
        assert shares[-1].stop == n
        for left, right in itertools.pairwise(shares):
            assert left.stop == right.start
            assert left.stop % unit == 0 or left.stop == n
        sizes = [s.stop - s.start for s in shares]
        assert max(sizes) - min(sizes) <= 2 * unit


def test_unlabelled_images_are_labelled_all_the_same(network, images):
    nameless = TensorImages(images.images, torch.full((len(images),), -1), (), tuple(images.paths))
    labels, _ = step(network, nameless, CONFIG)
    expected, _ = step(network, images, CONFIG)
    assert torch.equal(labels.labels, expected.labels)
