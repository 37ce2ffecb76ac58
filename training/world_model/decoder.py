"""Decoders: latent state [h, z] to mask outputs and the ego vector, and the reconstruction loss on packed words."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.model.mask_decoder import MaskDecoderConfig, PatchMasks, padded_channels
from agent.model.recurrent import BlockLinear, hidden_layers, norm_act
from agent.model.rssm import full_precision
from training.world_model.config import MIN_GRID_PX, WorldModelConfig
from training.world_model.distributions import BernoulliMaskLoss, SquaredMaskLoss, symlog
from training.world_model.layers import Conv, TransposedConv, mlp, upsample2
from training.world_model.masks import byte_table, cut_patches, unpack
from training.world_model.patch_loss import PatchBernoulliLoss, Workspace

CHUNK_FRAMES = 8
"""Frames decoded at a time on a CPU: at 64 px and 43 channels their outputs take 6 MB."""


class StridedDecoder(nn.Module):
    """Linear layer to 4x4 cells, then transposed 4x4 convolutions of stride 2. Source: Hafner et al. 2023."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.channels = config.observation.channels
        stages = int(math.log2(config.observation.size_px // MIN_GRID_PX))
        self.width = config.vision.depth * 2 ** (stages - 1)
        self.space = nn.Linear(config.features, self.width * MIN_GRID_PX**2)
        widths = [self.width // 2**i for i in range(stages)]
        self.layers = nn.ModuleList(
            TransposedConv(low, high, norm=config.norm, bias=config.norm == "rms") for low, high in pairwise(widths)
        )
        self.out = TransposedConv(widths[-1], self.channels, norm=None, bias=True)

    def hidden(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n i j c"]:
        """Input of the last layer."""
        x = self.space(features).unflatten(-1, (MIN_GRID_PX, MIN_GRID_PX, self.width))
        for layer in self.layers:
            x = layer(x)
        return x

    def last_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last layer, with zeros for the channels that only pad."""
        conv, padding = self.out.conv, padded_channels(self.channels) - self.channels
        assert conv.bias is not None
        return F.pad(conv.weight, (0, 0, 0, 0, 0, padding)), F.pad(conv.bias, (0, padding))

    def last(self, x: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "n h w padded"]:
        """Outputs per pixel and channel; the channels beyond the masks are 0."""
        return F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, bias, 2, 1).permute(0, 2, 3, 1)

    def target(self, words: Int64[Tensor, "n h w"], table: Tensor) -> Float[Tensor, "n h w padded"]:
        """Masks in the layout of the outputs."""
        return unpack(words, self.channels, table)

    def image(self, outputs: Float[Tensor, "n h w padded"]) -> Float[Tensor, "n h w padded"]:
        """Outputs as an image, channels last."""
        return outputs


class PooledDecoder(StridedDecoder):
    """Smallest map from h (block linear) and z (two layers), then nearest upsampling and 5x5 convolutions.

    Source: Hafner et al. 2025.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        nn.Module.__init__(self)
        vision = config.vision
        self.channels = config.observation.channels
        self.deter = config.rssm.deter
        depths = [vision.depth * multiplier for multiplier in vision.multipliers]
        self.side = config.observation.size_px // 2 ** len(depths)
        self.blocks, self.width = vision.space_blocks, depths[-1]
        units = config.heads.units
        self.space_deter = BlockLinear(self.deter, self.side**2 * self.width, self.blocks)
        self.space_stoch = nn.Sequential(
            *hidden_layers(config.rssm.stoch, 2 * units, 1, config.norm),
            nn.Linear(2 * units, self.side**2 * self.width),
        )
        self.space_act = norm_act(config.norm, self.width)
        widths = depths[::-1]
        self.layers = nn.ModuleList(
            Conv(low, high, kernel=5, norm=config.norm, bias=True) for low, high in pairwise(widths)
        )
        self.out = Conv(widths[-1], self.channels, kernel=5, norm=None, bias=True)

    def hidden(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n i j c"]:
        """Input of the last layer."""
        own = self.width // self.blocks
        deter = self.space_deter(features[:, : self.deter])
        deter = deter.unflatten(-1, (self.blocks, self.side, self.side, own)).permute(0, 2, 3, 1, 4).flatten(3)
        stoch = self.space_stoch(features[:, self.deter :]).unflatten(-1, (self.side, self.side, self.width))
        x = self.space_act(deter + stoch)
        for layer in self.layers:
            x = layer(upsample2(x))
        return x

    def last_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last layer, with zeros for the channels that only pad."""
        conv, padding = self.out.conv, padded_channels(self.channels) - self.channels
        assert conv.bias is not None
        return F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, padding)), F.pad(conv.bias, (0, padding))

    def last(self, x: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "n h w padded"]:
        """Outputs per pixel and channel; the channels beyond the masks are 0."""
        return F.conv2d(upsample2(x).permute(0, 3, 1, 2), weight, bias, padding=2).permute(0, 2, 3, 1)


class PatchDecoder(PatchMasks):
    """The decoder that an agent can take along, as the loss needs it."""

    used: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__(config.features, mask_decoder_config(config), config.norm)
        padded = padded_channels(self.channels)
        used = (torch.arange(padded) < self.channels).float()
        self.register_buffer("used", used.repeat(self.patch**2), persistent=False)

    def last_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last layer, with zeros for the channels that only pad."""
        return self.out.weight * self.used[:, None], self.out.bias * self.used

    def last(self, x: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "n rows columns values"]:
        """Outputs in patch layout: a patch's pixels row by row, each with its padded channels."""
        return F.linear(x, weight, bias)

    def target(self, words: Int64[Tensor, "n h w"], table: Tensor) -> Float[Tensor, "n rows columns values"]:
        """Masks in patch layout: the words are permuted, not their floats."""
        return F.embedding(cut_patches(words, self.channels, self.patch).int(), table).flatten(-2)


def mask_decoder_config(config: WorldModelConfig) -> MaskDecoderConfig:
    """Shape of a patch decoder."""
    observation, vision = config.observation, config.vision
    return MaskDecoderConfig(
        size_px=observation.size_px,
        channels=observation.channels,
        patch_px=vision.patch_px,
        depth=vision.depth,
        sigmoid=vision.likelihood == "bernoulli" or vision.sigmoid_output,
    )


class FusedLastLayer(torch.autograd.Function):
    """Last layer and reconstruction loss, a few frames at a time, with the gradient computed on the way.

    The outputs are the largest tensors of the whole model and needed for nothing but this loss: in chunks they stay in
    the cache and are never stored. The gradient is exact, since the loss is a sum over frames.
    """

    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], words: Tensor, *inputs: Tensor) -> Tensor:
        """loss(hidden, words, weight, bias) gives the sum over the frames it is given; inputs: hidden, weight, bias."""
        hidden, weight, bias = (tensor.detach() for tensor in inputs)
        frames = hidden.shape[0]
        chunk = CHUNK_FRAMES if hidden.device.type == "cpu" else frames
        total = hidden.new_zeros(())
        gradients = [torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)]
        for start in range(0, frames, chunk):
            part = slice(start, start + chunk)
            with torch.enable_grad():
                leaves = [tensor.detach().requires_grad_() for tensor in (hidden[part], weight, bias)]
                value = loss(leaves[0], words[part], *leaves[1:])
                own = torch.autograd.grad(value, leaves)
            total += value.detach()
            gradients[0][part] = own[0]
            gradients[1] += own[1]
            gradients[2] += own[2]
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradients times the gradient of the sum."""
        return None, None, *(gradient * grad[0] for gradient in ctx.saved_tensors)


class Decoder(nn.Module):
    """Masks and, where the model has one, the ego vector from [h, z]; the reconstruction loss of both."""

    table: Tensor
    weight: Tensor | None
    vector_weight: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config.vision
        self.channels = config.observation.channels
        kinds = {"strided": StridedDecoder, "pooled": PooledDecoder, "patch": PatchDecoder}
        self.masks = kinds[config.vision.kind](config)
        self.vector = None
        if config.observation.vector:
            self.vector = mlp(
                config.features,
                config.observation.vector,
                units=config.heads.units,
                layers=config.vision.vector_layers,
                norm=config.norm,
            )
        self._workspace = Workspace()
        self.register_buffer("table", byte_table(), persistent=False)
        self.register_buffer("weight", self._pixel_weight(config), persistent=False)
        vector_weight = torch.ones(config.observation.vector)
        vector_weight[config.observation.vector - config.observation.gaps :] = config.loss.gaps
        self.register_buffer("vector_weight", vector_weight, persistent=False)

    @staticmethod
    def _pixel_weight(config: WorldModelConfig) -> Tensor | None:
        """Weights of the channels in the layout of the outputs; None where plain sums do (padding outputs exact 0)."""
        vision, channels = config.vision, config.observation.channels
        padded = padded_channels(channels)
        # Outputs of padding channels are 0, which is their target, but not the best logit.
        exact = vision.likelihood == "squared" and not vision.sigmoid_output
        if not vision.channel_weights and (exact or padded == channels):
            return None
        weight = torch.zeros(padded)
        weight[:channels] = torch.tensor(vision.channel_weights) if vision.channel_weights else 1.0
        return weight.repeat(vision.patch_px**2) if vision.kind == "patch" else weight

    def mask_loss(self, features: Float[Tensor, "n f"], words: Int64[Tensor, "n h w"]) -> Float[Tensor, ""]:
        """Reconstruction loss summed over pixels and channels, mean over frames."""
        hidden = self.masks.hidden(features)
        if isinstance(self.masks, PatchDecoder) and self._is_bernoulli_on_cpu(hidden):
            return self._patch_loss(self.masks, hidden, words) / features.shape[0]
        loss = FusedLastLayer.apply(self._chunk_loss, words, hidden, *self.masks.last_parameters())
        assert isinstance(loss, Tensor)
        return loss / features.shape[0]

    def _is_bernoulli_on_cpu(self, hidden: Tensor) -> bool:
        plain = hidden.device.type == "cpu" and hidden.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return plain and self.config.likelihood == "bernoulli" and self.weight is not None

    def _patch_loss(self, masks: PatchDecoder, hidden: Tensor, words: Tensor) -> Tensor:
        cells = cut_patches(words, self.channels, masks.patch).flatten(0, 2)
        loss = PatchBernoulliLoss.apply(
            self._workspace, cells, self.weight, hidden.flatten(0, 2), *masks.last_parameters()
        )
        assert isinstance(loss, Tensor)
        return loss

    def _chunk_loss(self, hidden: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Loss of some frames, from the input of the last layer on."""
        outputs = full_precision(self.masks.last(hidden, weight, bias))
        target = self.masks.target(words, self.table)
        if self.config.likelihood == "bernoulli":
            loss = BernoulliMaskLoss.apply(outputs, target, self.weight)
        else:
            outputs = torch.sigmoid(outputs) if self.config.sigmoid_output else outputs
            loss = SquaredMaskLoss.apply(outputs, target, self.weight)
        assert isinstance(loss, Tensor)
        return loss.sum()

    def vector_loss(self, features: Float[Tensor, "n f"], vector: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        """Weighted squared error in symlog space, summed over the entries; 0 for a model without vector."""
        if self.vector is None:
            return features.new_zeros(features.shape[0])
        return ((full_precision(self.vector(features)) - symlog(vector)).square() * self.vector_weight).sum(-1)

    @torch.no_grad()
    def probabilities(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n channels h w"]:
        """Predicted masks between 0 and 1."""
        image = full_precision(
            self.masks.image(self.masks.last(self.masks.hidden(features), *self.masks.last_parameters()))
        )
        direct = self.config.likelihood == "squared" and not self.config.sigmoid_output
        image = image.clamp(0.0, 1.0) if direct else image.sigmoid()
        return image[..., : self.channels].permute(0, 3, 1, 2)
