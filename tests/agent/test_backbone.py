"""Residual networks, pyramid and the modulated deformable convolution."""

import pytest
import torch
from safetensors.torch import load_file

from agent.model.backbone import ResNet, ResNetConfig, fold_batch_norms
from agent.model.deformable import ModulatedDeformConv2d
from agent.model.fpn import FPN


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("stride", [1, 2])
def test_deformable_convolution_equals_the_official_one(shared_dir, stride: int):
    tensors = load_file(shared_dir / "bevformer" / "reference_dcnv2.safetensors")
    prefix = f"s{stride}/state/"
    conv = ModulatedDeformConv2d(16, 24, stride)
    conv.load_state_dict({name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)})
    with torch.no_grad():
        ours = conv(tensors[f"s{stride}/in"])
    torch.testing.assert_close(ours, tensors[f"s{stride}/out"], atol=5e-5, rtol=0.0)


def test_fresh_deformable_convolution_is_a_convolution_at_half_strength():
    conv = ModulatedDeformConv2d(3, 5)
    x = torch.randn(2, 3, 7, 9)
    expected = 0.5 * torch.nn.functional.conv2d(x, conv.weight, padding=1)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_176_512), (50, 23_508_032), (101, 42_500_160)])
def test_parameter_counts_equal_the_published_networks_without_classifier(depth: int, parameters: int):
    assert sum(p.numel() for p in ResNet(ResNetConfig(depth)).parameters()) == parameters


@pytest.mark.parametrize("stages", [(2,), (3,), (2, 3, 4)])
def test_narrow_networks_return_the_promised_shapes(stages: tuple[int, ...]):
    config = ResNetConfig(18, width=8, out_stages=stages)
    maps = ResNet(config)(torch.randn(1, 3, 64, 96))
    expected = [(c, 64 // s, 96 // s) for c, s in zip(config.out_channels, config.out_strides, strict=True)]
    assert [tuple(x.shape[1:]) for x in maps] == expected


def test_stages_after_the_last_used_one_are_not_built():
    assert not any(name.startswith("layer4") for name in ResNet(ResNetConfig(18, 8, (3,))).state_dict())


@pytest.mark.parametrize("depth", [18, 50])
def test_folded_batch_norms_change_nothing(depth: int):
    torch.manual_seed(0)
    backbone = ResNet(ResNetConfig(depth, width=8, out_stages=(2,)))
    for _ in range(3):
        backbone(torch.randn(4, 3, 32, 32))
    backbone.eval()
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        before = backbone(x)[0]
        after = fold_batch_norms(backbone)(x)[0]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())


def test_frozen_statistics_stay():
    backbone = ResNet(ResNetConfig(18, 8, (1,), frozen_statistics=True)).train()
    before = backbone.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 32, 32))
    assert torch.equal(backbone.bn1.running_mean, before)


def test_pyramid_with_fewer_levels_still_uses_the_coarse_map():
    neck = FPN((8, 16), 4, levels=1)
    fine, coarse = torch.randn(1, 8, 6, 8), torch.randn(1, 16, 3, 4, requires_grad=True)
    (only,) = neck([fine, coarse])
    assert only.shape == (1, 4, 6, 8)
    only.sum().backward()
    assert coarse.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "bad", [{"depth": 34}, {"style": "keras"}, {"out_stages": (5,)}, {"depth": 18, "deformable_stages": (3,)}]
)
def test_impossible_backbones_are_refused(bad):
    with pytest.raises(ValueError, match=r"backbone|deformable_stages"):
        ResNetConfig(**bad)
