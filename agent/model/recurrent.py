"""The two recurrent cells of DreamerV3: the layer-norm GRU of 2023 and the block GRU of the Nature version.

A cell comes with the input layers in front of it, split into the half that sees the stochastic state z and the half
that sees the action: the second does not depend on the recurrence, so a whole sequence of it is one matrix product.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agent.model.heads import NORM_EPS, NormAct

NormKind = Literal["layer", "rms"]
RMS_EPS = 1e-4
"""DreamerV3 (2025) uses 1e-4 in every RMS norm."""
UPDATE_BIAS = -1.0
"""Added to the update gate: the cell starts as a slow integrator."""


class RmsAct(nn.Module):
    """Root-mean-square norm over the last axis, then SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=RMS_EPS)

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
        """Normalised and activated x."""
        return F.silu(self.norm(x))


def norm_act(kind: NormKind, width: int) -> nn.Module:
    """Norm and SiLU: layer norm (2023) or RMS norm (2025)."""
    return NormAct(width) if kind == "layer" else RmsAct(width)


def hidden_layers(inputs: int, hidden: int, layers: int, norm: NormKind) -> list[nn.Module]:
    """`layers` times linear, norm, SiLU; a layer norm makes the bias before it superfluous, an RMS norm does not."""
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks += [nn.Linear(inputs, hidden, bias=norm == "rms"), norm_act(norm, hidden)]
        inputs = hidden
    return blocks


def linear_at(layers: nn.Sequential, index: int) -> nn.Linear:
    """The linear layer at an index of a sequence. Raises: TypeError if it is another layer."""
    layer = layers[index]
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"layer {index} is a {type(layer).__name__}, expected a linear layer")
    return layer


def after_first(layers: nn.Sequential, hidden: Tensor) -> Tensor:
    """What the layers behind the first one make of its output."""
    for index in range(1, len(layers)):
        hidden = layers[index](hidden)
    return hidden


class DenseInput(nn.Sequential):
    """SiLU(norm(W [z, a])) in front of the dense GRU; the weights are those of a linear layer and a norm."""

    def __init__(self, stoch: int, actions: int, hidden: int) -> None:
        super().__init__(nn.Linear(stoch + actions, hidden, bias=False), NormAct(hidden))
        self._stoch = stoch

    @property
    def stoch_weight(self) -> Float[Tensor, "hidden stoch"]:
        """Columns of W that see z."""
        return linear_at(self, 0).weight[:, : self._stoch]

    def stoch_part(self, stoch: Float[Tensor, "*batch stoch"]) -> Float[Tensor, "*batch hidden"]:
        """W_z z."""
        return F.linear(stoch, self.stoch_weight)

    def action_part(self, action: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch hidden"]:
        """W_a a."""
        return F.linear(action, linear_at(self, 0).weight[:, self._stoch :])

    def combine(
        self, stoch_part: Float[Tensor, "*batch hidden"], action_part: Float[Tensor, "*batch hidden"] | None
    ) -> Float[Tensor, "*batch hidden"]:
        """The cell's input from both halves."""
        return self[1](stoch_part if action_part is None else stoch_part + action_part)


class GruCell(nn.Module):
    """GRU with one layer norm over the three gates. Source: Hafner et al. 2023, as in DreamerV2."""

    def __init__(self, inputs: int, deter: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + deter, 3 * deter, bias=False)
        self.norm = nn.LayerNorm(3 * deter, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "b x"], deter: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
        """Next deterministic state."""
        reset, candidate, update = self.norm(self.gates(torch.cat([x, deter], -1))).chunk(3, -1)
        return _gated(reset, candidate, update, deter)


def _gated(reset: Tensor, candidate: Tensor, update: Tensor, deter: Tensor) -> Tensor:
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update + UPDATE_BIAS)
    return update * candidate + (1.0 - update) * deter


class BlockLinear(nn.Module):
    """Linear layer whose weight matrix is block-diagonal: block g of the output sees block g of the input."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(f"block linear {inputs} -> {outputs} cannot be cut into {blocks} blocks")
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.trunc_normal_(self.weight, std=inputs**-0.5)

    def forward(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        """Block-wise product plus bias."""
        blocks, width, _ = self.weight.shape
        product = torch.bmm(x.reshape(-1, blocks, width).transpose(0, 1), self.weight)
        return product.transpose(0, 1).flatten(1) + self.bias


class BlockInput(nn.Module):
    """Separate input layers of z and of the action in front of the block GRU."""

    def __init__(self, stoch: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.stoch = nn.Linear(stoch, hidden)
        self.stoch_norm = RmsAct(hidden)
        self.action = nn.Linear(actions, hidden)
        self.action_norm = RmsAct(hidden)

    @property
    def stoch_weight(self) -> Float[Tensor, "hidden stoch"]:
        """The matrix that z is multiplied with."""
        return self.stoch.weight

    def stoch_part(self, stoch: Float[Tensor, "*batch stoch"]) -> Float[Tensor, "*batch hidden"]:
        """W_z z; its bias is added in `combine`."""
        return F.linear(stoch, self.stoch.weight)

    def action_part(self, action: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch hidden"]:
        """SiLU(RMS(W_a a / max(1, |a|)))."""
        return self.action_norm(self.action(action / action.detach().abs().clamp(min=1.0)))

    def combine(
        self, stoch_part: Float[Tensor, "*batch hidden"], action_part: Float[Tensor, "*batch hidden"] | None
    ) -> Float[Tensor, "*batch twice_hidden"]:
        """Both hidden layers side by side."""
        assert action_part is not None  # RssmConfig demands action_input for the block GRU
        return torch.cat([self.stoch_norm(stoch_part + self.stoch.bias), action_part], -1)


class BlockGruCell(nn.Module):
    """GRU of G blocks: block g of the gates sees block g of h and the hidden layers of h, z and the action.

    Source: Hafner et al. 2025 (Nature), "block-diagonal recurrent weights"; the gates are chunked inside each block.
    """

    def __init__(self, inputs: int, deter: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.deter_layer = nn.Sequential(*hidden_layers(deter, hidden, 1, "rms"))
        shared = hidden + inputs
        self.hidden = BlockLinear(deter + blocks * shared, deter, blocks)
        self.hidden_norm = RmsAct(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def forward(self, x: Float[Tensor, "b x"], deter: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
        """Next deterministic state."""
        blocks, own = self.hidden.weight.shape[0], deter.shape[-1] // self.hidden.weight.shape[0]
        shared = torch.cat([self.deter_layer(deter), x], -1)
        # Every block sees the same shared part, so that part of the block product is one dense product.
        dense = self.hidden.weight[:, own:].transpose(0, 1).flatten(1)
        diagonal = torch.bmm(deter.unflatten(-1, (blocks, own)).transpose(0, 1), self.hidden.weight[:, :own])
        y = torch.addmm(self.hidden.bias, shared, dense) + diagonal.transpose(0, 1).flatten(1)
        gates = self.gates(self.hidden_norm(y)).unflatten(-1, (blocks, 3, own))
        reset, candidate, update = (gate.flatten(1) for gate in gates.unbind(-2))
        return _gated(reset, candidate, update, deter)
