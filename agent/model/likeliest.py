"""What a policy does in the likeliest states of its world model, for one state at a time, in NumPy.

A dream of three seconds is 29 steps of 0.7 million products each; as tensors, launching their operations takes three
times as long as computing them. z is one-hot, so its products are sums of rows. The arithmetic is that of
`Rssm.imagine_step(mode=True)` and of the actor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE
from agent.model.raw_model import RawModel
from agent.model.recurrent import UPDATE_BIAS, DenseInput, GruCell, linear_at

Row = Float32[np.ndarray, " n"]
_PEDALS = np.unique(ACTIONS[:, [THROTTLE, BRAKE, REVERSE]], axis=0, return_inverse=True)[1].ravel()
_STEER = ACTIONS[:, STEER]


def can_dream(model: RawModel) -> bool:
    """Whether a model's recurrence is known here (the dense GRU of 2023) and on a CPU."""
    cell = model.rssm.cell
    return isinstance(cell, GruCell) and cell.gates.weight.device.type == "cpu"


class LikeliestDream:
    """Dreams of one model, whose weights are laid out once and must not change."""

    def __init__(self, model: RawModel) -> None:
        """Raises: TypeError for a model that `can_dream` refuses."""
        rssm, config = model.rssm, model.config.rssm
        if not can_dream(model) or not isinstance(rssm.input, DenseInput) or not isinstance(rssm.cell, GruCell):
            raise TypeError(f"{config.recurrence} on {next(model.parameters()).device}: dreamt of with tensors only")
        self._groups = np.arange(config.groups) * config.classes
        self._shape = (config.groups, config.classes)
        entered, acted = linear_at(rssm.input, 0), linear_at(model.actor, 0)
        self._stoch, self._action = _columns(entered.weight, config.stoch)
        self._entered = _activated(rssm.input[1])
        self._gates, self._normed = _array(rssm.cell.gates.weight), _norm(rssm.cell.norm)
        self._prior = _layers(rssm.prior_head, 0)
        self._acted = _array(acted.weight[:, : config.deter])
        self._acted_stoch = _array(acted.weight[:, config.deter :].T)
        if acted.bias is not None:  # exactly one row is taken of every variable, so the first may hold the bias
            self._acted_stoch[: config.classes] += _array(acted.bias)
        self._actor, self._unimix = _layers(model.actor, 1), model.config.actor.unimix

    def actions(
        self, features: Row, action: int, steps: int, choice: Literal["greedy", "pedal_first"]
    ) -> Int64[np.ndarray, " steps"]:
        """The action and those that the policy then takes. features: [h, z] of the state in which it is taken; what
        follows does not count.
        """
        deter = features[: self._acted.shape[1]]
        stoch = features[len(deter) : len(deter) + len(self._stoch)].reshape(self._shape).argmax(1) + self._groups
        actions = np.full(steps, action, np.int64)
        for k in range(1, steps):
            deter = self._advance(deter, stoch, int(actions[k - 1]))
            stoch = self._prior(deter).reshape(self._shape).argmax(1) + self._groups
            logits = self._actor(self._acted @ deter + self._acted_stoch[stoch].sum(0))
            actions[k] = logits.argmax() if choice == "greedy" else _pedal_first(logits, self._unimix)
        return actions

    def _advance(self, deter: Row, stoch: Int64[np.ndarray, " groups"], action: int) -> Row:
        x = self._entered(self._stoch[stoch].sum(0) + self._action[action])
        gates = self._normed(self._gates @ np.concatenate([x, deter])).reshape(3, -1)
        candidate = np.tanh(_sigmoid(gates[0]) * gates[1])
        update = _sigmoid(gates[2] + np.float32(UPDATE_BIAS))
        return deter + update * (candidate - deter)


def _pedal_first(logits: Row, unimix: float) -> int:
    """As `agent.model.policy.pedal_first` of the mixture with a uniform distribution."""
    probabilities = np.exp(logits - logits.max())
    probabilities = (1.0 - unimix) * probabilities / probabilities.sum() + unimix / len(logits)
    inside = np.bincount(_PEDALS, probabilities).argmax() == _PEDALS
    weights = probabilities * inside
    return int(np.where(inside, np.abs(_STEER - (weights @ _STEER) / weights.sum()), np.inf).argmin())


def _array(tensor: Tensor) -> Float32[np.ndarray, "*shape"]:
    return np.array(tensor.detach().float().numpy(), order="C")


def _columns(weight: Tensor, stoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to add up for one-hot z and one-hot actions."""
    return _array(weight[:, :stoch].T), _array(weight[:, stoch:].T)


def _sigmoid(x: Row) -> Row:
    return 1.0 / (1.0 + np.exp(-x))


def _norm(norm: nn.Module) -> Callable[[Row], Row]:
    """A layer norm or an RMS norm over one row."""
    if isinstance(norm, nn.LayerNorm):
        weight, bias, eps = _array(norm.weight), _array(norm.bias), norm.eps

        def layer_norm(x: Row) -> Row:
            x = x - x.mean()
            return x * np.float32(1.0 / np.sqrt((x @ x) / x.size + eps)) * weight + bias

        return layer_norm
    if not isinstance(norm, nn.RMSNorm) or norm.eps is None:
        raise TypeError(f"a {type(norm).__name__} is neither a layer norm nor an RMS norm")
    weight, eps = _array(norm.weight), norm.eps
    return lambda x: x * np.float32(1.0 / np.sqrt((x @ x) / x.size + eps)) * weight


def _activated(norm_act: nn.Module) -> Callable[[Row], Row]:
    """Norm and SiLU."""
    normed = _norm(norm_act.get_submodule("norm"))

    def activated(x: Row) -> Row:
        x = normed(x)
        return x * _sigmoid(x)

    return activated


def _layers(layers: nn.Sequential, start: int) -> Callable[[Row], Row]:
    """Layers from `start` on: linear ones, and norms with SiLU."""
    steps: list[Callable[[Row], Row]] = []
    for layer in list(layers)[start:]:
        steps.append(_linear(layer) if isinstance(layer, nn.Linear) else _activated(layer))

    def run(x: Row) -> Row:
        for step in steps:
            x = step(x)
        return x

    return run


def _linear(layer: nn.Linear) -> Callable[[Row], Row]:
    weight = _array(layer.weight)
    if layer.bias is None:
        return lambda x: weight @ x
    bias = _array(layer.bias)
    return lambda x: weight @ x + bias
