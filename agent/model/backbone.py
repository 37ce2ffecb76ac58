"""Residual image backbones with torchvision's parameter names (without the classifier `fc`)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.model.deformable import ModulatedDeformConv2d

STYLES = ("pytorch", "caffe")


@dataclass(frozen=True)
class ResNetConfig:
    """Shape of a residual network. Source: He et al. 2015, table 1; names as torchvision's `resnet18/50/101`."""

    depth: int = 18
    width: int = 64
    """Channels of the stem and of the first stage; 64 is the published network, smaller ones are narrow variants."""
    out_stages: tuple[int, ...] = (4,)
    """Stages returned, 1 to 4 (C2 to C5, stride 4 to 32); stages after the last one are not built."""
    style: str = "pytorch"
    """Where a bottleneck strides: "pytorch" in its 3x3, "caffe" in its first 1x1 convolution."""
    deformable_stages: tuple[int, ...] = ()
    """Stages whose 3x3 convolutions are modulated deformable ones (DCNv2), bottleneck networks only."""
    frozen_statistics: bool = False
    """Batch norms always use their running statistics, as fine-tuning of detection backbones does."""

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS_PER_STAGE:
            raise ValueError(f"backbone depth must be one of {sorted(BLOCKS_PER_STAGE)}, got {self.depth}")
        if self.style not in STYLES:
            raise ValueError(f"backbone style must be one of {STYLES}, got {self.style!r}")
        if not self.out_stages or any(stage not in (1, 2, 3, 4) for stage in self.out_stages):
            raise ValueError(f"backbone out_stages must be stages from 1 to 4, got {self.out_stages}")
        if self.deformable_stages and self.depth < 50:
            raise ValueError(f"deformable_stages need bottleneck blocks (depth 50 or 101), got depth {self.depth}")

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned stage."""
        expansion = (Bottleneck if self.depth >= 50 else BasicBlock).expansion
        return tuple(self.width * 2 ** (stage - 1) * expansion for stage in self.out_stages)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each returned stage."""
        return tuple(2 ** (stage + 1) for stage in self.out_stages)


BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int, style: str, deformable: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int, style: str, deformable: bool) -> None:
        super().__init__()
        first_stride, second_stride = (stride, 1) if style == "caffe" else (1, stride)
        self.conv1 = nn.Conv2d(channels_in, channels, 1, first_stride, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        if deformable:
            self.conv2 = ModulatedDeformConv2d(channels, channels, stride=second_stride)
        else:
            self.conv2 = nn.Conv2d(channels, channels, 3, second_stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = shortcut(channels_in, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """Projection of the shortcut where the block changes the shape, else None."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """Residual network returning the maps of `config.out_stages`."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        block = Bottleneck if config.depth >= 50 else BasicBlock
        self.conv1 = nn.Conv2d(3, config.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        channels_in = config.width
        for stage in range(1, max(config.out_stages) + 1):
            channels = config.width * 2 ** (stage - 1)
            blocks = []
            for index in range(BLOCKS_PER_STAGE[config.depth][stage - 1]):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(block(channels_in, channels, stride, config.style, stage in config.deformable_stages))
                channels_in = channels * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, ModulatedDeformConv2d):
                module.reset_offsets()

    def train(self, mode: bool = True) -> "ResNet":
        super().train(mode)
        if self.config.frozen_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (n, 3, h, w) normalised -> one map (n, c, h/stride, w/stride) per entry of `out_stages`."""
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in range(1, max(self.config.out_stages) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            if stage in self.config.out_stages:
                maps.append(x)
        return maps


@torch.no_grad()
def fold_batch_norms(backbone: ResNet) -> ResNet:
    """The same backbone for inference, each batch norm folded into the convolution before it (in place).

    The result has other parameter names: fold after loading a checkpoint, never before saving one.
    """
    backbone.eval()
    for module in list(backbone.modules()):
        if isinstance(module, ResNet | BasicBlock | Bottleneck):
            for index in ("1", "2", "3"):
                if isinstance(getattr(module, f"conv{index}", None), nn.Conv2d):
                    _fold_pair(module, f"conv{index}", f"bn{index}")
            projection = getattr(module, "downsample", None)
            if projection is not None:
                _fold_pair(projection, "0", "1")
    return backbone


def _fold_pair(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        return
    setattr(parent, conv_name, nn.utils.fuse_conv_bn_eval(conv, norm))
    setattr(parent, norm_name, nn.Identity())
