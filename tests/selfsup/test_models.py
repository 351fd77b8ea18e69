"""The networks against hand-made ones, and their weights to and from other sources."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from selfsup.config import ModelConfig
from selfsup.errors import ConfigError, WeightsError
from selfsup.models import (
    AlexNet,
    MultiHead,
    Network,
    PreActResNet,
    SmallResNet,
    build_network,
    build_trunk,
    load_weights,
)
from selfsup.models.resnet import PreActBlock

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def built(mean: Tensor, std: Tensor, clusters=(10,), size: int = 224, **settings) -> Network:
    return build_network(ModelConfig(**settings), clusters, mean, std, size)


def network(seed: int = 0, **settings) -> Network:
    torch.manual_seed(seed)
    return built(MEAN, STD, **settings)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def images(n: int, side: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def quarter_turns(x: Tensor) -> Tensor:
    return torch.cat([torch.rot90(x, turns, (2, 3)) for turns in range(4)])


def unsettle(module: nn.Module) -> None:
    """Give batch normalisation weights and statistics that matter."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1)
            nn.init.normal_(m.bias, std=0.1)
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)


@pytest.fixture(scope="module")
def alexnet() -> Network:
    return network(arch="alexnet", clusters=(7, 3), rotation=True).eval()


@pytest.fixture(scope="module")
def resnet18() -> torchvision.models.ResNet:
    torch.manual_seed(1)
    model = torchvision.models.resnet18(num_classes=5).eval()
    unsettle(model)
    return model


# Convolutions with their biases, two numbers per normalised channel, fc6 and fc7.
ALEXNET_FC = 9216 * 4096 + 4096 + 4096 * 4096 + 4096
BIG = (
    (3 * 121 + 1) * 96 + (96 * 25 + 1) * 256 + (256 * 9 + 1) * 384 + (384 * 9 + 1) * 384
    + (384 * 9 + 1) * 256 + 2 * (96 + 256 + 384 + 384 + 256) + ALEXNET_FC
)  # fmt: skip
SMALL = (
    (3 * 121 + 1) * 64 + (64 * 25 + 1) * 192 + (192 * 9 + 1) * 384 + (384 * 9 + 1) * 256
    + (256 * 9 + 1) * 256 + 2 * (64 + 192 + 384 + 256 + 256) + ALEXNET_FC
)  # fmt: skip
# The convolutions are those of the common ResNets; the channels that pre-activation normalises:
# the inputs and inner maps of every block, and the last map.
PRE_18 = 256 + (64 + 3 * 128) + (128 + 3 * 256) + (256 + 3 * 512) + 512
PRE_50 = (
    (64 + 2 * 64 + 2 * 6 * 64) + (256 + 2 * 128 + 3 * 6 * 128) + (512 + 2 * 256 + 5 * 6 * 256)
    + (1024 + 2 * 512 + 2 * 6 * 512) + 2048
)  # fmt: skip
# stem, then blocks of two convolutions, the last two with a projection
TINY_RESNET = (
    (27 * 16 + 32) + (2 * 9 * 16 * 16 + 4 * 16)
    + (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32 + 6 * 32)
    + (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64 + 6 * 64)
)  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "dim", "count"),
    [
        ("alexnet", 4096, BIG),
        ("alexnet-small", 4096, SMALL),
        ("resnet18", 512, 11_176_512),
        ("resnet50", 2048, 23_508_032),
        ("preact-resnet18", 512, 11_176_512 - 2 * 4800 + 2 * PRE_18),
        ("preact-resnet50", 2048, 23_508_032 - 2 * 26_560 + 2 * PRE_50),
        ("small-resnet", 64, TINY_RESNET),
    ],
)
def test_size_of_every_trunk_and_its_outputs(arch, dim, count):
    with torch.device("meta"):
        net = built(torch.zeros(3), torch.ones(3), arch=arch, clusters=(5, 9), rotation=True)
        features = net.features(torch.empty(4, 3, 224, 224))
        outputs = net(torch.empty(8, 3, 224, 224), rotated=True)
    assert parameter_count(net.trunk) == count
    assert parameter_count(net) == count + (dim + 1) * (5 + 9 + 4)
    assert net.dim == dim
    assert features.shape == (4, dim)
    assert [tuple(x.shape) for x in outputs] == [(2, 5), (2, 9), (8, 4)]


@pytest.mark.parametrize("arch", ["small-resnet", "alexnet", "resnet18", "preact-resnet18"])
def test_grey_images_meet_a_stem_of_one_channel(arch):
    with torch.device("meta"):
        net = built(torch.zeros(1), torch.ones(1), arch=arch)
        assert net.features(torch.empty(2, 1, 224, 224)).shape == (2, net.dim)
    stem = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert stem.in_channels == 1


def test_small_resnet_follows_its_settings():
    trunk = build_trunk(ModelConfig(width=4, blocks=2, stem_stride=2), 1)
    shapes = [tuple(m.weight.shape) for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    k3 = [(4, 1), (4, 4), (4, 4), (4, 4), (4, 4), (8, 4), (8, 8), (8, 8), (8, 8),
          (16, 8), (16, 16), (16, 16), (16, 16)]  # fmt: skip
    assert [s[:2] for s in shapes if s[2] == 3] == k3
    assert [s[:2] for s in shapes if s[2] == 1] == [(8, 4), (16, 8)]
    assert isinstance(trunk, SmallResNet)
    assert trunk.layers(torch.zeros(1, 1, 32, 32)).shape == (1, 16, 4, 4)


def test_features_of_the_small_resnet_are_standardised():
    features = network(width=4, clusters=(3,)).train().features(images(32, 16))
    torch.testing.assert_close(features.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(0, correction=0), torch.ones(16), atol=0.02, rtol=0)


def test_layers_of_alexnet(alexnet):
    conv = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    pool = [nn.MaxPool2d]
    fc = [nn.Dropout, nn.Linear, nn.ReLU]
    trunk = alexnet.trunk
    assert [type(m) for m in trunk.features] == conv + pool + conv + pool + 3 * conv + pool
    assert [type(m) for m in trunk.classifier] == fc + fc
    convolutions = [m for m in trunk.features if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == [11, 5, 3, 3, 3]
    assert [m.stride[0] for m in convolutions] == [4, 1, 1, 1, 1]
    assert [m.padding[0] for m in convolutions] == [2, 2, 1, 1, 1]
    assert all(m.bias is not None for m in convolutions)
    pools = [m for m in trunk.features if isinstance(m, nn.MaxPool2d)]
    assert [(m.kernel_size, m.stride) for m in pools] == [(3, 2)] * 3
    assert [m.p for m in trunk.classifier if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_features_of_alexnet_are_fc7_after_its_relu(alexnet):
    x = images(1, 224)
    with torch.no_grad():
        maps = alexnet.trunk.features((x - alexnet.mean) / alexnet.std)
        fc6, fc7 = alexnet.trunk.classifier[1], alexnet.trunk.classifier[4]
        # the authors' order of the map in a row: channels, then pixels
        hidden = F.relu(fc6(maps.contiguous().view(1, -1)))
        torch.testing.assert_close(alexnet.features(x), F.relu(fc7(hidden)))
    assert maps.shape == (1, 256, 6, 6)


def test_initial_weights_of_alexnet(alexnet):
    for m in alexnet.modules():
        if isinstance(m, nn.Conv2d):
            std = math.sqrt(2 / (m.kernel_size[0] ** 2 * m.out_channels))
        elif isinstance(m, nn.Linear):  # the heads too
            std = 0.01
        else:
            continue
        n = m.weight.numel()
        assert m.weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * n))
        assert abs(m.weight.mean().item()) < 4 * std / math.sqrt(n)
        assert not m.bias.any()


def test_alexnet_says_which_size_it_takes():
    with torch.device("meta"):
        trunk = AlexNet("small")
        for side in (223, 254):
            assert trunk(torch.empty(1, 3, side, side)).shape == (1, 4096)
        for shape in ((222, 224), (224, 255), (32, 32)):
            with pytest.raises(ConfigError, match=f"224 x 224 pixels, not {shape[0]} x {shape[1]}"):
                trunk(torch.empty(1, 3, *shape))


def fill(block: nn.Module, kernels: list[Tensor]) -> None:
    """Let every norm subtract 1, and set the convolutions' kernels."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    for norm in norms:
        norm.eps = 0.0
        norm.running_mean.fill_(1)
    for conv, kernel in zip(convolutions, kernels, strict=True):
        nn.init.zeros_(conv.weight)
        centre = conv.kernel_size[0] // 2
        conv.weight.data[:, :, centre, centre] = kernel


def test_basic_pre_activation_block_by_hand():
    """BN, ReLU, conv, twice, and no ReLU after the sum: 3 -> 2 -> 4 -> 3 -> 9, + 3."""
    block = PreActBlock(1, 1, 1, False).eval()
    fill(block, [torch.tensor([[2.0]]), torch.tensor([[3.0]])])
    x = torch.tensor([-1.0, 0.0, 3.0, 1.0]).view(1, 1, 2, 2)
    assert block(x).flatten().tolist() == [-1.0, 0.0, 12.0, 1.0]


def test_projection_of_a_pre_activation_block_takes_the_activated_input():
    """3 -> 2; 5 * 2 from the shortcut, 9 from the convolutions, and every other pixel."""
    block = PreActBlock(1, 1, 2, False).eval()
    fill(block, [torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([[5.0]])])
    x = torch.full((1, 1, 4, 4), 3.0)
    assert block(x).tolist() == [[[[19.0, 19.0], [19.0, 19.0]]]]


def test_pre_activation_bottleneck_by_hand():
    """3 -> 2 -> (mean) 2 -> 1 -> 2 -> 1 -> 1, 2, 3, 4, plus the input."""
    block = PreActBlock(4, 1, 1, True).eval()
    last = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    fill(block, [torch.full((1, 4), 0.25), torch.tensor([[2.0]]), last])
    x = torch.tensor([3.0, -1.0]).repeat(4, 1).view(1, 4, 1, 2)
    assert block(x)[0, :, 0].tolist() == [[4.0, -1.0], [5.0, -1.0], [6.0, -1.0], [7.0, -1.0]]


def test_only_the_second_to_fourth_stages_of_a_pre_activation_resnet_halve_the_map():
    with torch.device("meta"):
        trunk = PreActResNet(50)
        sides, x = [], torch.empty(1, 3, 224, 224)
        for layer in trunk.features[:-2]:
            x = layer(x)
            sides.append(x.shape[2])
    assert sides == [112, 56, 56, 28, 14, 7, 7, 7]  # stem, pool, four stages, norm, ReLU
    assert [len(stage) for stage in trunk.features[2:6]] == [3, 4, 6, 3]


def test_the_final_norm_is_one_normalisation_with_a_relu():
    with_norm, without = (
        network(arch="preact-resnet18", final_norm=on).trunk for on in (True, False)
    )
    extra = with_norm.state_dict().keys() - without.state_dict().keys()
    assert {name.rsplit(".", 1)[0] for name in extra} == {"features.6"}
    assert isinstance(with_norm.features[6], nn.BatchNorm2d)
    assert parameter_count(with_norm) - parameter_count(without) == 2 * 512
    x = images(2) - 0.5
    assert with_norm(x).min() >= 0
    assert without(x).min() < 0


def test_memory_format_changes_no_result():
    x = images(2)
    last, first = (network(arch="resnet18", channels_last=on).eval() for on in (True, False))
    assert last.trunk.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert first.trunk.layer1[0].conv1.weight.is_contiguous()
    torch.testing.assert_close(last.features(x), first.features(x), atol=1e-5, rtol=1e-5)


def test_narrow_networks_are_contiguous():
    """Of four channels, channels_last ones make oneDNN corrupt memory on processors with AVX2."""
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    networks = [network(width=4), network(width=8), Network(own, 4, (2,), MEAN, STD)]
    contiguous, last = torch.contiguous_format, torch.channels_last
    assert [net.memory_format for net in networks] == [contiguous, last, contiguous]


def test_one_head_equals_its_part_of_all():
    heads = MultiHead(6, (3, 5, 2))
    features = torch.randn(4, 6)
    outputs = heads(features)
    assert [x.shape[1] for x in outputs] == [3, 5, 2]
    torch.testing.assert_close(torch.cat(outputs, 1), heads.linear(features))
    for i, output in enumerate(outputs):
        torch.testing.assert_close(heads[i](features), output)
    with pytest.raises(IndexError, match="no head 3"):
        heads[3](features)


def test_heads_see_upright_images_and_the_rotation_head_all_four_turns():
    net = network(width=4, clusters=(3, 5), rotation=True).eval()
    x = images(3, 16)
    turned = quarter_turns(x)
    first, second, rotation = net(turned, rotated=True)
    plain = net(x)
    assert len(plain) == 2
    torch.testing.assert_close(first, plain[0])
    torch.testing.assert_close(second, plain[1])
    for turns in range(4):
        block = net.rotation_head(net.features(torch.rot90(x, turns, (2, 3))))
        torch.testing.assert_close(rotation[3 * turns : 3 * turns + 3], block)
    assert not torch.allclose(rotation[:3], rotation[3:6])


def test_a_network_of_rotations_alone():
    net = network(width=4, clusters=(), rotation=True).eval()
    x = quarter_turns(images(2, 16))
    (logits,) = net(x, rotated=True)
    torch.testing.assert_close(logits, net.rotation_head(net.features(x)))
    assert net(x) == ()


def test_rotated_images_without_a_rotation_head_or_not_four_of_each():
    with pytest.raises(ValueError, match="no rotation head"):
        network(width=4)(images(4, 16), rotated=True)
    with pytest.raises(ValueError, match="6 images are not four turns"):
        network(width=4, rotation=True)(images(6, 16), rotated=True)


def test_both_losses_reach_the_trunk_and_only_their_own_heads():
    net = network(width=4, clusters=(3,), rotation=True).eval()
    x = quarter_turns(images(2, 16)).requires_grad_()
    for part, own, other in ((0, net.heads.linear, net.rotation_head),
                             (1, net.rotation_head, net.heads.linear)):  # fmt: skip
        net.zero_grad()
        x.grad = None
        net(x, rotated=True)[part].square().sum().backward()
        assert own.weight.grad.any()
        assert other.weight.grad is None
        assert all(p.grad.any() for p in net.trunk.parameters())
        seen = x.grad.flatten(1).any(1)
        assert seen.tolist() == ([True] * 2 + [False] * 6 if part == 0 else [True] * 8)


class NormThenDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=0.3)
        self.last = nn.BatchNorm2d(3, momentum=None)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.last(self.norm(x)).mean((2, 3)))


def test_calibration_is_a_plain_mean_over_batches():
    net = Network(NormThenDropout(), 3, (2,), MEAN, STD).train()
    net(images(4, 5, seed=9))  # what was measured before is forgotten
    modes = [m.training for m in net.modules()]
    state = torch.get_rng_state()
    batches = [images(6, 5, seed=1), images(2, 5, seed=2), images(1, 5, seed=3)]
    net.calibrate(iter(batches))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in net.modules()] == modes
    assert (net.trunk.norm.momentum, net.trunk.last.momentum) == (0.3, None)
    seen = [(b - net.mean) / net.std for b in batches[:2]]  # one image has no variance
    mean = sum(x.mean((0, 2, 3)) for x in seen) / 2
    var = sum(x.var((0, 2, 3), correction=1) for x in seen) / 2
    torch.testing.assert_close(net.trunk.norm.running_mean, mean)
    torch.testing.assert_close(net.trunk.norm.running_var, var)
    # in the middle of the network: normalised by the batch, not by what is known so far
    torch.testing.assert_close(net.trunk.last.running_mean, torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_trunks_of_torchvisions_archs_are_its_models(arch):
    net = network(arch=arch, clusters=(4, 6)).eval()
    unsettle(net)
    x = images(2)
    model = getattr(torchvision.models, arch)().eval()
    missing, unexpected = model.load_state_dict(net.trunk.state_dict(), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    model.fc = nn.Identity()
    with torch.no_grad():
        standardised = (x - net.mean) / net.std
        torch.testing.assert_close(model(standardised), net.features(x), atol=1e-5, rtol=1e-5)


def authors_names(model: torchvision.models.ResNet) -> dict[str, Tensor]:
    """Name the weights of a ResNet as the authors do: one sequence, top_layer for fc."""
    sequence = nn.Sequential(
        model.conv1, model.bn1, model.relu, model.maxpool,
        model.layer1, model.layer2, model.layer3, model.layer4, model.avgpool,
    )  # fmt: skip
    parts = nn.ModuleDict({"features": sequence, "top_layer": model.fc})
    return dict(parts.state_dict())


@pytest.mark.parametrize(
    "form",
    [
        lambda m: m.state_dict(),
        lambda m: {"state_dict": m.state_dict(), "labels": torch.arange(6)},
        lambda m: {"state_dict": m.state_dict(), "L": torch.arange(6), "epoch": 3},
        lambda m: {**m.state_dict(), "L": torch.arange(6)},
        lambda m: {f"module.{k}": v for k, v in m.state_dict().items()},
        authors_names,
        lambda m: {
            k.replace("features.", "features.module.").replace("top_layer", "top_layer0"): v
            for k, v in authors_names(m).items()
        },
        lambda m: {k: v for k, v in m.state_dict().items() if "num_batches" not in k},
    ],
    ids=["plain", "nested", "L", "L beside", "DataParallel", "authors", "authors-parallel",
         "no-counters"],
)  # fmt: skip
def test_weights_of_every_form_give_torchvisions_results(tmp_path, resnet18, form):
    source = form(resnet18)
    net = network(arch="resnet18", clusters=(5, 5)).eval()
    second = net.heads.linear.weight[5:].clone()
    torch.save(source, tmp_path / "weights.pth")
    load_weights(net, tmp_path / "weights.pth")
    x = images(2)
    with torch.no_grad():
        expected = resnet18((x - net.mean) / net.std)
        torch.testing.assert_close(net(x)[0], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(net.heads.linear.weight[5:], second)


def test_heads_that_do_not_fit_stay(resnet18):
    net = network(arch="resnet18", clusters=(4, 5))
    before = net.heads.linear.weight.clone()
    source = dict(resnet18.state_dict())
    source["top_layer2.weight"] = torch.zeros(5, 512)
    load_weights(net, source)
    assert torch.equal(net.heads.linear.weight, before)
    assert torch.equal(net.trunk.conv1.weight, resnet18.conv1.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"missing: layer1\.0\.conv1\.weight$"),
        (
            {"conv1.weight": torch.zeros(64, 1, 7, 7)},
            r"shape: conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)$",
        ),
        ({"layer9.weight": torch.zeros(1)}, r"unknown: layer9\.weight$"),
        (
            dict.fromkeys(["bn1.weight", "bn1.bias", "layer1.0.bn1.weight", "layer1.0.bn1.bias"]),
            r"4 missing: bn1\.weight, bn1\.bias, layer1\.0\.bn1\.weight, layer1\.0\.bn1\.bias$",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(resnet18, change, message):
    source = {**resnet18.state_dict(), **change}
    source = {name: value for name, value in source.items() if value is not None}
    net = network(arch="resnet18", clusters=(5,))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError, match="do not fit a ResNet of 512 features.*" + message):
        load_weights(net, source)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_model_pickled_whole_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"model\.pth.*pickled whole.*state_dict\(\)"):
        load_weights(network(width=4), tmp_path / "model.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        load_weights(network(width=4), tmp_path / "list.pth")


@pytest.mark.parametrize("parallel", [False, True])
def test_a_checkpoint_of_a_run_brings_all_of_the_network(tmp_path, parallel):
    source = network(seed=1, width=4, clusters=(3, 5), rotation=True)
    source.mean += 0.1
    source.calibrate([images(8, 16)])
    state = source.state_dict()
    if parallel:
        state = {f"module.{name}": value for name, value in state.items()}
    labels = torch.arange(4).view(2, 2)
    torch.save({"network": state, "labels": labels, "step": 3}, tmp_path / "checkpoint.pt")
    net = network(width=4, clusters=(3, 5), rotation=True)
    load_weights(net, tmp_path / "checkpoint.pt")
    assert all(
        torch.equal(value, source.state_dict()[name]) for name, value in net.state_dict().items()
    )


def test_the_authors_alexnet_with_its_heads_and_the_rotation_head_last(alexnet):
    """Names and order are those of their release with rotation: top_layer0, ..., the last of 4."""
    source = dict(alexnet.trunk.state_dict())
    source["top_layer0.weight"], source["top_layer1.weight"] = alexnet.heads.linear.weight.split(
        (7, 3)
    )
    source["top_layer0.bias"], source["top_layer1.bias"] = torch.ones(7), torch.full((3,), 2.0)
    source["top_layer2.weight"], source["top_layer2.bias"] = torch.ones(4, 4096), torch.zeros(4)
    assert "features.4.weight" in source, "conv 2 is the fifth of the authors' layers"
    assert "classifier.4.weight" in source
    with torch.device("meta"):
        net = built(torch.zeros(3), torch.ones(3), arch="alexnet", clusters=(7, 3), rotation=True)
    net.to_empty(device="cpu")
    load_weights(net, source)
    for name, value in alexnet.trunk.state_dict().items():
        assert torch.equal(net.trunk.state_dict()[name], value)
    assert torch.equal(net.heads.linear.weight, alexnet.heads.linear.weight)
    assert net.heads.linear.bias.tolist() == [1.0] * 7 + [2.0] * 3
    assert bool((net.rotation_head.weight == 1).all())


def test_the_authors_pre_activation_resnet_loads_without_the_final_norm():
    source = network(seed=1, arch="preact-resnet18", final_norm=False).trunk.state_dict()
    for name in ("features.0.weight", "features.2.0.bn1.weight", "features.3.0.shortcut.0.weight",
                 "features.5.1.conv2.weight"):  # fmt: skip
        assert name in source
    net = network(arch="preact-resnet18", final_norm=False)
    load_weights(net, source)
    assert all(torch.equal(net.trunk.state_dict()[name], value) for name, value in source.items())
    with pytest.raises(WeightsError, match=r"missing: features\.6\.weight"):
        load_weights(network(arch="preact-resnet18"), source)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return nn.Sequential(nn.Flatten(), nn.Linear(192, 7))", None),
        ("return nn.Conv2d(3, 5, 3)", r"makes \(2, 5, 6, 6\) of 2 images"),
        ("return 3", "returned a int"),
    ],
)
def test_a_network_of_ones_own_by_module_and_function(tmp_path, monkeypatch, body, message):
    (tmp_path / "mine.py").write_text(f"from torch import nn\ndef trunk():\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    if message is not None:
        with pytest.raises(ConfigError, match=message):
            network(arch="mine:trunk", size=8)
        return
    net = network(arch="mine:trunk", size=8, clusters=(4,))
    assert net.dim == 7
    assert net(images(2, 8))[0].shape == (2, 4)
    for arch, why in (("mine:other", "no attribute"), ("nowhere:trunk", "nowhere")):
        with pytest.raises(ConfigError, match=why):
            network(arch=arch, size=8)
    with pytest.raises(ConfigError, match="module:function"):
        ModelConfig(arch="resnet19")
