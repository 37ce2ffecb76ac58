"""Both recurrent cells and the hoisted filter against float64 references written out in numpy."""

import numpy as np
import pytest
import torch

from agent.model.recurrent import BlockGruCell, BlockInput, BlockLinear
from agent.model.rssm import Belief, LatentState, Rssm, RssmConfig, kl_loss, unimix_log_probs
from training.world_model.layers import initialise, mlp, scale_last


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def rms_silu(x: np.ndarray) -> np.ndarray:
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4)
    return x * sigmoid(x)


def make(recurrence: str, generator: int = 0) -> Rssm:
    torch.manual_seed(generator)
    shared = {"deter": 24, "groups": 3, "classes": 5, "hidden": 16, "actions": 7, "action_input": True}
    if recurrence == "gru":
        return Rssm(RssmConfig(**shared), 11).double()
    config = RssmConfig(**shared, recurrence="block_gru", blocks=4, norm="rms", prior_layers=2, start="zeros")
    return Rssm(config, 11).double()


def test_block_linear_equals_a_dense_layer_with_block_diagonal_weights() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(12, 8, 4)
    layer.bias.data.normal_()
    dense = torch.block_diag(*layer.weight)
    x = torch.randn(5, 12)
    torch.testing.assert_close(layer(x), x @ dense + layer.bias)
    with pytest.raises(ValueError, match="cannot be cut into 5 blocks"):
        BlockLinear(12, 8, 5)


def test_block_gru_matches_float64_reference() -> None:
    torch.manual_seed(1)
    blocks, deter, hidden, stoch, actions = 4, 24, 16, 15, 7
    own = deter // blocks
    front = BlockInput(stoch, actions, hidden).double()
    cell = BlockGruCell(2 * hidden, deter, hidden, blocks).double()
    for parameter in (*front.parameters(), *cell.parameters()):
        parameter.data.normal_(std=0.5)
    z, a, h = (torch.randn(6, width, dtype=torch.float64) for width in (stoch, actions, deter))
    result = cell(front.combine(front.stoch_part(z), front.action_part(a)), h).detach().numpy()

    state = {name: value.detach().numpy() for name, value in (*front.named_parameters(), *cell.named_parameters())}
    z, a, h = z.numpy(), a.numpy(), h.numpy()

    def layer(x: np.ndarray, linear: str, norm: str) -> np.ndarray:
        y = x @ state[f"{linear}.weight"].T + state[f"{linear}.bias"]
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-4) * state[f"{norm}.norm.weight"]
        return y * sigmoid(y)

    shared = np.concatenate(
        [
            layer(h, "deter_layer.0", "deter_layer.1"),
            layer(z, "stoch", "stoch_norm"),
            layer(a / np.maximum(1.0, np.abs(a)), "action", "action_norm"),
        ],
        -1,
    )
    y = np.concatenate(
        [
            np.concatenate([h[:, g * own : (g + 1) * own], shared], -1) @ state["hidden.weight"][g]
            for g in range(blocks)
        ],
        -1,
    )
    y = y + state["hidden.bias"]
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-4) * state["hidden_norm.norm.weight"]
    y = y * sigmoid(y)
    expected = np.empty_like(h)
    bias = state["gates.bias"].reshape(blocks, 3 * own)
    for g in range(blocks):
        part = slice(g * own, (g + 1) * own)
        reset, candidate, update = np.split(y[:, part] @ state["gates.weight"][g] + bias[g], 3, -1)
        update = sigmoid(update - 1.0)
        expected[:, part] = update * np.tanh(sigmoid(reset) * candidate) + (1.0 - update) * h[:, part]
    np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize("recurrence", ["gru", "block_gru"])
def test_hoisted_filter_equals_single_steps(recurrence: str) -> None:
    rssm = make(recurrence)
    generator = torch.Generator().manual_seed(3)
    embed = torch.randn(2, 6, 11, generator=generator, dtype=torch.float64)
    actions = torch.nn.functional.one_hot(torch.randint(0, 7, (2, 6), generator=generator), 7).double()
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 0] = first[1, 3] = True
    belief = rssm.observe(embed, first, rssm.initial(2), actions, mode=True)
    state = rssm.initial(2)
    for t in range(6):
        state, posterior = rssm.observe_step(state, actions[:, t], embed[:, t], first[:, t], mode=True)
        torch.testing.assert_close(belief.state.deter[:, t], state.deter)
        torch.testing.assert_close(belief.state.stoch[:, t], state.stoch)
        torch.testing.assert_close(belief.posterior[:, t], posterior)
        torch.testing.assert_close(belief.prior[:, t], rssm.prior(state.deter))


@pytest.mark.parametrize("recurrence", ["gru", "block_gru"])
def test_reset_forgets_state_and_action(recurrence: str) -> None:
    rssm = make(recurrence)
    generator = torch.Generator().manual_seed(4)
    embed = torch.randn(1, 4, 11, generator=generator, dtype=torch.float64)
    first = torch.tensor([[True, False, True, False]])
    one, other = (torch.eye(7, dtype=torch.float64)[[index] * 4][None] for index in (1, 5))
    one[:, 3] = other[:, 3]
    beliefs = [rssm.observe(embed, first, rssm.initial(1), actions, mode=True) for actions in (one, other)]
    assert not torch.equal(beliefs[0].state.deter[:, 1], beliefs[1].state.deter[:, 1])
    assert torch.equal(beliefs[0].state.deter[:, 2:], beliefs[1].state.deter[:, 2:])


def test_block_gru_starts_from_zeros_and_needs_actions() -> None:
    state = make("block_gru").initial(3)
    assert not state.deter.any() and not state.stoch.any()
    with pytest.raises(ValueError, match=r"needs rssm\.action_input"):
        RssmConfig(recurrence="block_gru")
    with pytest.raises(ValueError, match=r"multiple of rssm\.blocks"):
        RssmConfig(recurrence="block_gru", action_input=True, deter=20, blocks=8)


def test_kl_gradients_go_where_they_belong() -> None:
    rssm = make("gru")
    generator = torch.Generator().manual_seed(5)
    embed = torch.randn(3, 4, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    first = torch.zeros(3, 4, dtype=torch.bool)
    actions = torch.zeros(3, 4, 7, dtype=torch.float64)
    belief = rssm.observe(embed, first, rssm.initial(3), actions, generator=generator)
    prior, posterior = list(rssm.prior_head.parameters())[-1], list(rssm.posterior_head.parameters())[-1]
    for name, own in (("dynamics", prior), ("representation", posterior)):
        loss = getattr(kl_loss(belief, 0.0), name)
        (own_gradient,) = torch.autograd.grad(loss, own, retain_graph=True)
        assert own_gradient.abs().max() > 0.0
        direct = belief.posterior if name == "dynamics" else belief.prior
        (gradient,) = torch.autograd.grad(loss, direct, retain_graph=True, allow_unused=True)
        assert gradient is None


def test_free_nats_stop_the_gradient_step_by_step() -> None:
    log_p = unimix_log_probs(torch.zeros(1, 2, 1, 4, dtype=torch.float64), 0.0).requires_grad_()
    far = torch.tensor([[[[0.0, 0.0, 0.0, 0.0]], [[6.0, 0.0, 0.0, 0.0]]]], dtype=torch.float64, requires_grad=True)
    empty = LatentState(torch.zeros(1, 2, 0), torch.zeros(1, 2, 0))
    loss = kl_loss(Belief(empty, far.log_softmax(-1), log_p), 0.5)
    kl = float((far.detach()[0, 1, 0].softmax(-1) * (far.detach()[0, 1, 0].log_softmax(-1) + np.log(4.0))).sum())
    assert kl > 0.5
    assert loss.dynamics.item() == pytest.approx((0.5 + kl) / 2)
    assert loss.kl.item() == pytest.approx(kl / 2)
    (gradient,) = torch.autograd.grad(loss.dynamics, log_p)
    assert not gradient[0, 0].any() and gradient[0, 1].any()


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_initialisation_has_the_variance_of_the_recipe(norm: str) -> None:
    net = mlp(400, 300, units=200, layers=1, norm=norm)
    initialise(net, norm, torch.Generator().manual_seed(6))
    for layer, (inputs, outputs) in ((net[0], (400, 200)), (net[2], (200, 300))):
        fan = inputs if norm == "rms" else (inputs + outputs) / 2
        std = fan**-0.5
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
        assert layer.weight.abs().max().item() <= 2.0 * std / 0.8796 * 1.0001
        assert layer.bias is None or not layer.bias.any()
    scale_last(net, 0.0)
    assert not net(torch.randn(2, 400)).any()


def test_block_linear_counts_the_inputs_of_all_blocks() -> None:
    layer = BlockLinear(800, 400, 8)
    initialise(layer, "rms", torch.Generator().manual_seed(7))
    assert layer.weight.std().item() == pytest.approx(800**-0.5, rel=0.02)
