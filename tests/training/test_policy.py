"""Returns, imagination and the actor-critic losses against float64 references and identities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.model.rssm import LatentState, unimix_log_probs
from tests.training.privileged import debug_config, random_batch
from training.policy.actor_critic import ActorCritic
from training.policy.imagination import Imagined, IndexedNet, IndexedState, RowSum, imagine
from training.policy.returns import ReturnScale, lambda_returns, replay_returns, trajectory_weights
from training.world_model.model import WorldModel


def direct_return(reward: np.ndarray, discount: np.ndarray, value: np.ndarray, lam: float, start: int) -> float:
    """(1 - lam) sum_n lam^(n-1) R^n + lam^(N-1) R^N: the sum over n-step returns instead of the recursion."""
    steps = len(reward) - start
    n_step = []
    for n in range(1, steps + 1):
        total, factor = 0.0, 1.0
        for k in range(start, start + n):
            total += factor * reward[k]
            factor *= discount[k]
        n_step.append(total + factor * value[start + n - 1])
    weights = [(1.0 - lam) * lam**n for n in range(steps - 1)] + [lam ** (steps - 1)]
    return float(np.dot(weights, n_step))


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_lambda_returns_equal_the_direct_sum(seed: int, lam: float) -> None:
    generator = np.random.default_rng(seed)
    reward, value = generator.normal(size=(2, 6))
    discount = 0.99 * generator.random(6)
    tensors = (torch.from_numpy(x)[:, None] for x in (reward, discount, value))
    result = lambda_returns(*tensors, lam)[:, 0].numpy()
    expected = [direct_return(reward, discount, value, lam, start) for start in range(6)]
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)


def test_replay_returns_equal_lambda_returns_within_an_episode() -> None:
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    never = torch.zeros(7, 3, dtype=torch.bool)
    result = replay_returns(reward, never, never, value, 0.99, 0.95)
    expected = lambda_returns(reward[1:], torch.full((6, 3), 0.99, dtype=torch.float64), value[1:], 0.95)
    torch.testing.assert_close(result, expected)


def test_replay_returns_stop_at_ends() -> None:
    reward = torch.tensor([0.0, 1.0, 2.0, 4.0])[:, None]
    value = torch.tensor([10.0, 20.0, 30.0, 40.0])[:, None]
    end = torch.tensor([False, False, True, False])[:, None]
    cut = replay_returns(reward, torch.zeros_like(end), end, value, 0.5, 1.0)[:, 0]
    assert cut[1].item() == 2.0 + 0.5 * 30.0  # cut off: its own value stands for the rest
    terminated = replay_returns(reward, end, end, value, 0.5, 1.0)[:, 0]
    assert terminated[1].item() == 2.0
    assert terminated[0].item() == 1.0 + 0.5 * 2.0


def test_trajectory_weights_are_products_of_discounts() -> None:
    weight = trajectory_weights(torch.tensor([1.0, 0.0]), torch.tensor([[0.9, 0.9], [0.5, 0.5], [0.1, 0.1]]))
    np.testing.assert_allclose(weight.numpy(), [[1.0, 0.0], [0.9, 0.0], [0.45, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("debias", [False, True])
def test_return_scale_matches_averaged_percentiles(debias: bool) -> None:
    generator = np.random.default_rng(1)
    scale, average = ReturnScale((0.05, 0.95), 0.99, debias=debias), np.zeros(2)
    for update in range(1, 6):
        returns = generator.normal(scale=100.0, size=400)
        average = 0.99 * average + 0.01 * np.percentile(returns, [5, 95])
        spread = average[1] - average[0]
        expected = max(1.0, spread / (1.0 - 0.99**update) if debias else spread)
        assert scale.update(torch.from_numpy(returns).float()).item() == pytest.approx(expected, rel=1e-4)
    scale.reset()
    assert scale.update(torch.zeros(5)).item() == 1.0


@pytest.fixture(name="both", params=["paper", "strong"])
def models(request: pytest.FixtureRequest) -> tuple[WorldModel, ActorCritic]:
    config = debug_config(request.param)
    generator = torch.Generator().manual_seed(0)
    model = WorldModel(config.world_model, generator)
    policy = ActorCritic(config.policy, config.world_model, generator)
    for net in (policy.critic, policy.slow_critic, model.reward_head):
        torch.nn.init.normal_(net[-1].weight, std=0.1, generator=generator)
    return model, policy


def start_of(model: WorldModel, policy: ActorCritic, seed: int = 0) -> tuple[IndexedState, torch.Tensor]:
    batch = random_batch(debug_config("paper"), 2, 4)
    belief = model.observe(batch, generator=torch.Generator().manual_seed(seed))
    return policy.starts(belief.state, batch.terminal)


def test_sums_of_rows_equal_products_with_one_hots() -> None:
    generator = torch.Generator().manual_seed(2)
    weight, index = torch.randn(6, 12, generator=generator), torch.randint(0, 4, (9, 3), generator=generator)
    one_hot = torch.nn.functional.one_hot(index, 4).flatten(1).float()
    torch.testing.assert_close(RowSum(weight, 4)(index), one_hot @ weight.t())


def test_indexed_networks_equal_dense_ones(both: tuple[WorldModel, ActorCritic]) -> None:
    model, policy = both
    start, _ = start_of(model, policy)
    config = model.config.rssm
    for net in (policy.actor, policy.critic, model.continue_head):
        dense = net(start.features(config.classes))
        torch.testing.assert_close(IndexedNet(net, config.deter, config.classes)(start), dense, rtol=1e-4, atol=1e-5)


def test_imagination_follows_the_single_step(both: tuple[WorldModel, ActorCritic]) -> None:
    model, policy = both
    start, _ = start_of(model, policy)
    rollout = imagine(model.rssm, policy.actor, start, 3, actor_unimix=0.01, generator=torch.Generator().manual_seed(1))
    classes = model.config.rssm.classes
    assert not rollout.deter.requires_grad
    for t in range(3):
        state = IndexedState(rollout.deter[t], rollout.index[t])
        features, deter = state.features(classes), model.config.rssm.deter
        from_dense = model.rssm.advance(
            LatentState(features[:, :deter], features[:, deter:]), model.one_hot(rollout.action[t])
        )
        torch.testing.assert_close(rollout.deter[t + 1], from_dense, rtol=1e-4, atol=1e-5)


def test_imagined_actions_follow_the_actor(both: tuple[WorldModel, ActorCritic]) -> None:
    model, policy = both
    policy.actor[-1].weight.data.zero_()
    policy.actor[-1].bias.data[7] = 8.0
    start, _ = start_of(model, policy)
    many = IndexedState(start.deter[:1].expand(4000, -1), start.index[:1].expand(4000, -1))
    rollout = imagine(model.rssm, policy.actor, many, 1, actor_unimix=0.01, generator=torch.Generator().manual_seed(2))
    probability = unimix_log_probs(policy.actor[-1].bias, 0.01).exp()[7].item()
    share = (rollout.action == 7).float().mean().item()
    assert share == pytest.approx(probability, abs=5 * (probability * (1 - probability) / 4000) ** 0.5)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def test_losses_match_float64_reference(both: tuple[WorldModel, ActorCritic]) -> None:
    model, policy = both
    config, world = policy.config, policy.world
    generator = torch.Generator().manual_seed(3)
    start, _ = start_of(model, policy)
    rollout = imagine(model.rssm, policy.actor, start, 4, actor_unimix=config.actor_unimix, generator=generator)
    n = start.deter.shape[0]
    reward = torch.randn(4, n, generator=generator) * 5.0
    continuation = torch.rand(5, n, generator=generator)
    alive = torch.ones(n)
    alive[0] = 0.0
    loss = policy.loss_on(rollout, reward, continuation, alive)

    features = IndexedState(rollout.deter, rollout.index)
    dense = features.features(world.rssm.classes).double()
    nets = {name: getattr(policy, name).double() for name in ("actor", "critic", "slow_critic")}
    logits = {name: net(dense).detach().numpy() for name, net in nets.items()}
    bins = policy.two_hot.bins.double().numpy()

    def mean(x: np.ndarray) -> np.ndarray:
        centre = (softmax(x) * bins).sum(-1)
        return np.sign(centre) * np.expm1(np.abs(centre)) if policy.two_hot.space == "symlog" else centre

    value, slow = mean(logits["critic"]), mean(logits["slow_critic"])
    gamma = 1.0 if world.discount.in_continue else 1.0 - 1.0 / 333.0
    discount = gamma * continuation.double().numpy()[1:]
    rewards = reward.double().numpy()
    returns = np.stack(
        [[direct_return(rewards[:, i], discount[:, i], value[1:, i], 0.95, t) for i in range(n)] for t in range(4)]
    )
    first = alive.numpy() if config.true_first_continue else continuation[0].numpy()
    weight = np.cumprod(np.concatenate([first[None], discount[:-1]]), 0)
    low, high = np.percentile(returns, [5, 95])
    scale = max(1.0, 0.01 * (high - low))
    policy_probabilities = (1.0 - config.actor_unimix) * softmax(logits["actor"][:4]) + config.actor_unimix / 39
    log_policy = np.log(policy_probabilities)
    chosen = np.take_along_axis(log_policy, rollout.action.numpy()[..., None], -1)[..., 0]
    entropy = -(policy_probabilities * log_policy).sum(-1)
    actor = -(weight * ((returns - value[:4]) / scale * chosen + 3e-4 * entropy)).mean()
    assert loss.actor.item() == pytest.approx(actor, rel=2e-4)

    two_hot = policy.two_hot.double()
    targets = [two_hot.encode(torch.from_numpy(x)).numpy() for x in (returns, slow[:4])]
    log_bins = np.log(softmax(logits["critic"][:4]))
    nll = [-(target * log_bins).sum(-1) for target in targets]
    assert loss.critic.item() == pytest.approx((weight * (nll[0] + nll[1])).mean(), rel=2e-4)
    np.testing.assert_allclose(loss.start_returns.numpy(), returns[0], rtol=1e-3, atol=1e-3)


def test_policy_gradients_stay_in_the_policy(both: tuple[WorldModel, ActorCritic]) -> None:
    model, policy = both
    start, alive = start_of(model, policy)
    loss = policy.loss(model, start, alive, torch.Generator().manual_seed(4))
    (loss.actor + loss.critic).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in policy.slow_critic.parameters())
    assert all(parameter.grad is not None for net in (policy.actor, policy.critic) for parameter in net.parameters())


def test_replay_critic_trains_the_features_and_spares_last_steps() -> None:
    config = debug_config("strong")
    policy = ActorCritic(config.policy, config.world_model, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(policy.critic[-1].weight, std=0.1)
    batch = random_batch(config, 2, 6)
    features = torch.randn(2, 6, config.world_model.features, requires_grad=True)
    loss = policy.replay_loss(features, batch, torch.randn(2, 6))
    loss.backward()
    gradient = features.grad
    assert gradient is not None
    used = gradient.abs().sum(-1) > 0
    assert not used[:, 3].any() and not used[:, 5].any()  # ends of the episode and of the window
    assert used[:, :3].all() and used[:, 4].all()


def two_hot(bins: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probabilities (*shape, bins) of the two bins around each number, the nearer one the more."""
    above = np.clip(np.searchsorted(bins, y, side="right"), 1, len(bins) - 1)
    share = (y - bins[above - 1]) / (bins[above] - bins[above - 1])
    return (1.0 - share)[..., None] * np.eye(len(bins))[above - 1] + share[..., None] * np.eye(len(bins))[above]


def test_replay_critic_loss_matches_float64_reference(both: tuple[WorldModel, ActorCritic]) -> None:
    """Mean over windows and steps of (1 - last) (NLL of the return + NLL of the slow critic), numpy throughout.

    Lambda-returns of real rewards; at the end of the window and where an episode is cut off the imagined return of
    the state stands for the rest.
    """
    _, policy = both
    policy.double()
    generator = torch.Generator().manual_seed(5)
    torch.nn.init.normal_(policy.slow_critic[-1].weight, std=0.2, generator=generator)  # unlike the critic
    batch = random_batch(debug_config("paper"), 2, 6)
    batch = replace(batch, reward=3.0 * batch.reward.double())
    features = torch.randn(2, 6, policy.world.features, dtype=torch.float64, generator=generator)
    boot = 20.0 * torch.randn(2, 6, dtype=torch.float64, generator=generator)
    loss = policy.replay_loss(features, batch, boot)

    reward, terminal, last, bootstrap = (x.numpy() for x in (batch.reward, batch.terminal, batch.last, boot))
    assert terminal.any() and (last & ~terminal)[:, :-1].any(), "one end and one cut"
    returns = bootstrap.copy()
    for t in reversed(range(5)):
        rest = np.where(last[:, t + 1], bootstrap[:, t + 1], 0.05 * bootstrap[:, t + 1] + 0.95 * returns[:, t + 1])
        returns[:, t] = reward[:, t + 1] + np.where(terminal[:, t + 1], 0.0, (1.0 - 1.0 / 333.0) * rest)
    bins = policy.two_hot.bins.numpy()
    nets = (policy.critic, policy.slow_critic)
    probabilities, slow = (softmax(net(features[:, :-1]).detach().numpy()) for net in nets)
    slow_value = (slow * bins).sum(-1)
    space = lambda y: np.sign(y) * np.log1p(np.abs(y)) if policy.two_hot.space == "symlog" else y  # noqa: E731
    targets = (two_hot(bins, space(returns[:, :-1])), two_hot(bins, slow_value))
    nll = sum(-(target * np.log(probabilities)).sum(-1) for target in targets)
    assert loss.item() == pytest.approx(((1.0 - last[:, :-1]) * nll).mean(), rel=1e-6)


def test_first_predictions_are_zero_and_the_slow_critic_follows() -> None:
    config = debug_config("paper")
    policy = ActorCritic(config.policy, config.world_model, torch.Generator().manual_seed(0))
    features = torch.randn(5, config.world_model.features)
    assert policy.value(features).abs().max() < 1e-5
    policy.critic[-1].weight.data += 1.0
    before = policy.slow_critic[-1].weight.clone()
    policy.update_slow_critic()
    torch.testing.assert_close(policy.slow_critic[-1].weight, before + 0.02)


def test_a_bandit_is_learned() -> None:
    """REINFORCE on a rollout whose reward prefers one action makes that action likely."""
    config = debug_config("paper")
    config = replace(config, policy=replace(config.policy, horizon=1))
    policy = ActorCritic(config.policy, config.world_model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(1)
    rssm = config.world_model.rssm
    deter, index = torch.zeros(2, 256, rssm.deter), torch.zeros(2, 256, rssm.groups, dtype=torch.int64)
    features = IndexedState(deter[0, :1], index[0, :1]).features(rssm.classes)
    for _ in range(30):
        probabilities = policy.log_policy(features).exp().detach().expand(256, -1)
        action = torch.multinomial(probabilities, 1, generator=generator).t()
        loss = policy.loss_on(
            Imagined(deter, index, action), (action == 5).float(), torch.zeros(2, 256), torch.ones(256)
        )
        optimizer.zero_grad()
        (loss.actor + loss.critic).backward()
        optimizer.step()
    assert policy.log_policy(features).argmax().item() == 5
    assert policy.log_policy(features).exp()[0, 5] > 0.7
