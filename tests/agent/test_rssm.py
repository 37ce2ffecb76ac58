"""The recurrent state-space model against float64 references and its own identities."""

import numpy as np
import pytest
import torch

from agent.model.rssm import (
    Belief,
    GruCell,
    LatentState,
    Rssm,
    RssmConfig,
    categorical_kl,
    kl_loss,
    straight_through,
    unimix_log_probs,
)

CONFIG = RssmConfig(deter=24, groups=3, classes=5, hidden=16, actions=7)
EMBED = 11


def make(action_input: bool = False) -> Rssm:
    torch.manual_seed(0)
    return Rssm(RssmConfig(deter=24, groups=3, classes=5, hidden=16, actions=7, action_input=action_input), EMBED)


def test_unimix_matches_float64_reference() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)) * 20.0
    exact = logits.double().numpy()
    probs = np.exp(exact - exact.max(-1, keepdims=True))
    probs = 0.99 * probs / probs.sum(-1, keepdims=True) + 0.01 / 5
    result = unimix_log_probs(logits, 0.01)
    np.testing.assert_allclose(result.numpy(), np.log(probs), rtol=1e-5)
    assert result.exp().min() >= 0.01 / 5 - 1e-7


def test_kl_matches_float64_reference_and_vanishes_for_equal_distributions() -> None:
    generator = torch.Generator().manual_seed(2)
    p = unimix_log_probs(torch.randn(6, 3, 5, generator=generator), 0.01)
    q = unimix_log_probs(torch.randn(6, 3, 5, generator=generator), 0.01)
    exact_p, exact_q = p.double().numpy(), q.double().numpy()
    exact = (np.exp(exact_p) * (exact_p - exact_q)).sum((-2, -1))
    np.testing.assert_allclose(categorical_kl(p, q).numpy(), exact, rtol=1e-4)
    assert (categorical_kl(p, q) > 0).all()
    torch.testing.assert_close(categorical_kl(p, p), torch.zeros(6))


def test_straight_through_is_one_hot_with_the_gradient_of_the_probabilities() -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(3), requires_grad=True)
    sample = straight_through(unimix_log_probs(logits, 0.01), torch.Generator().manual_seed(4), mode=False)
    assert torch.allclose(sample.sum(-1), torch.ones(50), atol=1e-6)
    assert torch.allclose(sample.max(-1).values, torch.ones(50), atol=1e-6)
    weights = torch.randn(50, 5, generator=torch.Generator().manual_seed(5))
    (sample * weights).sum().backward()
    probs = unimix_log_probs(logits, 0.01).exp()
    (expected,) = torch.autograd.grad((probs * weights).sum(), logits)
    torch.testing.assert_close(logits.grad, expected)


def test_samples_follow_the_distribution() -> None:
    log_probs = unimix_log_probs(torch.tensor([0.0, 1.0, -1.0, 2.0, -20.0]), 0.01).expand(40000, 5)
    frequency = straight_through(log_probs, torch.Generator().manual_seed(6), mode=False).mean(0)
    # Five standard errors of a binomial share.
    assert (frequency - log_probs[0].exp()).abs().max() < 5 * 0.5 / 200


def test_gru_cell_matches_float64_reference() -> None:
    torch.manual_seed(7)
    cell = GruCell(4, 6)
    x, h = torch.randn(3, 4), torch.randn(3, 6)
    exact = cell.double()(x.double(), h.double())
    gates = np.concatenate([x.numpy(), h.numpy()], -1).astype(np.float64) @ cell.gates.weight.detach().numpy().T
    gates = (gates - gates.mean(-1, keepdims=True)) / np.sqrt(gates.var(-1, keepdims=True) + 1e-3)
    reset, candidate, update = np.split(gates, 3, -1)
    sigmoid = lambda value: 1.0 / (1.0 + np.exp(-value))  # noqa: E731
    update = sigmoid(update - 1.0)
    expected = update * np.tanh(sigmoid(reset) * candidate) + (1.0 - update) * h.numpy()
    np.testing.assert_allclose(exact.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("action_input", [False, True])
def test_observe_shapes_gradients_and_resets(action_input: bool) -> None:
    rssm = make(action_input)
    embed = torch.randn(2, 6, EMBED, requires_grad=True)
    actions = torch.eye(7)[torch.randint(0, 7, (2, 6))] if action_input else None
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[1, 3] = True
    belief = rssm.observe(embed, first, rssm.initial(2), actions, generator=torch.Generator().manual_seed(8))
    assert belief.state.deter.shape == (2, 6, 24)
    assert belief.state.stoch.shape == (2, 6, 15)
    assert belief.posterior.shape == belief.prior.shape == (2, 6, 3, 5)
    belief.state.features()[1, 4].sum().backward()
    assert embed.grad is not None
    assert embed.grad[1, 3].abs().sum() > 0
    assert embed.grad[1, :3].abs().sum() == 0, "a reset must cut the past"


def test_without_action_input_the_action_does_not_matter() -> None:
    rssm = make()
    embed, first = torch.randn(2, 3, EMBED), torch.zeros(2, 3, dtype=torch.bool)
    plain = rssm.observe(embed, first, rssm.initial(2), None, mode=True)
    acted = rssm.observe(embed, first, rssm.initial(2), torch.rand(2, 3, 7), mode=True)
    torch.testing.assert_close(plain.state.features(), acted.state.features())


def test_action_input_without_action_is_an_error() -> None:
    rssm = make(action_input=True)
    with pytest.raises(ValueError, match="previous action"):
        rssm.imagine_step(rssm.initial(1), None)


def test_kl_loss_balances_gradients_and_keeps_free_nats() -> None:
    posterior_logits = torch.randn(2, 4, 3, 5, requires_grad=True)
    prior_logits = torch.randn(2, 4, 3, 5, requires_grad=True)
    state = LatentState(torch.zeros(2, 4, 24), torch.zeros(2, 4, 15))

    def loss(free_nats: float):
        belief = Belief(state, unimix_log_probs(posterior_logits, 0.01), unimix_log_probs(prior_logits, 0.01))
        return kl_loss(belief, free_nats)

    open_loss = loss(0.0)
    torch.testing.assert_close(open_loss.dynamics, open_loss.representation)
    torch.testing.assert_close(open_loss.dynamics.detach(), open_loss.kl)
    assert torch.autograd.grad(open_loss.dynamics, [posterior_logits, prior_logits], allow_unused=True)[0] is None
    assert torch.autograd.grad(loss(0.0).representation, [posterior_logits, prior_logits], allow_unused=True)[1] is None
    clipped = loss(1000.0)
    assert clipped.dynamics.item() == 1000.0
    assert torch.autograd.grad(clipped.dynamics, prior_logits)[0].abs().sum() == 0


def test_imagination_uses_the_prior_only() -> None:
    rssm = make()
    state = rssm.imagine_step(rssm.initial(2), None, mode=True)
    assert state.deter.shape == (2, 24)
    expected = straight_through(rssm.prior(state.deter), None, mode=True).flatten(-2)
    torch.testing.assert_close(state.stoch, expected)


def test_bad_config_is_refused() -> None:
    with pytest.raises(ValueError, match="unimix"):
        RssmConfig(unimix=1.0)
