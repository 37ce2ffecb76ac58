"""Feature pyramid network with the parameter names of mmdet's `FPN` (Lin et al. 2017)."""

from torch import Tensor, nn
from torch.nn import functional


class ConvModule(nn.Module):
    """A convolution under the name `conv`, as official checkpoints store it."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2)
        weight, bias = self.conv.parameters()
        nn.init.xavier_uniform_(weight)
        nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FPN(nn.Module):
    """Top-down pyramid over backbone maps, with stride-2 convolutions for levels beyond the last map."""

    def __init__(self, channels_in: tuple[int, ...], channels_out: int, levels: int) -> None:
        """channels_in: of each backbone map, finest first. levels: maps returned; with fewer than come in, the coarser
        maps only feed the finer ones.
        """
        super().__init__()
        if levels < 1:
            raise ValueError(f"FPN needs at least 1 level, got {levels}")
        direct = min(levels, len(channels_in))
        self.lateral_convs = nn.ModuleList(ConvModule(channels, channels_out, 1) for channels in channels_in)
        self.fpn_convs = nn.ModuleList(ConvModule(channels_out, channels_out, 3) for _ in range(direct))
        self.fpn_convs.extend(ConvModule(channels_out, channels_out, 3, stride=2) for _ in range(levels - direct))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: (n, c, h, w) finest first -> `levels` maps (n, channels_out, h, w) finest first."""
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for fine in range(len(laterals) - 2, -1, -1):
            size = laterals[fine].shape[-2:]
            laterals[fine] = laterals[fine] + functional.interpolate(laterals[fine + 1], size=size, mode="nearest")
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        for extra, conv in enumerate(self.fpn_convs[len(maps) :]):
            # The official network puts a ReLU in front of every extra level but the first one.
            outputs.append(conv(outputs[-1] if extra == 0 else functional.relu(outputs[-1])))
        return outputs
