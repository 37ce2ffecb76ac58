"""The adapter at work: off it changes nothing, on it proposes, judges and picks; its networks keep their promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent import carla_io
from agent.actions import ACTIONS, STEER, THROTTLE
from agent.adapter import (
    MAX_PARAMETERS,
    Adapter,
    AdapterConfig,
    Guide,
    Proposals,
    Proposer,
    random_plans,
    situated,
    weighted,
)
from agent.base_plan import (
    base_plans,
    clone_plans,
    drive_actions,
    feature_width,
    imagined_actions,
    policy_logits,
    state_features,
    state_identity,
)
from agent.checkpoint import save_checkpoint
from agent.config import ConfigError, to_plain
from agent.driver import Driver, load_model
from agent.ego_vector import POINT_SCALE_M, ROUTE_AHEAD_M, SEEN_SIZE
from agent.geodesy import Dialect
from agent.guard import is_valid
from agent.model.adapter import VALUES, AdapterNet, AdapterNetConfig, Situated, TimeConv, free_motion, plan_scale
from agent.model.driving_model import AUXILIARY, PATH_DISTANCES_M, DrivingModel, ModelInput
from agent.model.policy import pedal_first, pedals_first
from agent.model.raw_model import RawActorConfig, RawModel, RawModelConfig, RawNeckConfig
from agent.model.rssm import LatentState, RssmConfig
from agent.motion import KNOTS, follow_plan, hold_actions, plan_of, seen_from_start, start_state
from tests.agent.synthetic import SyntheticDrive, save_agent, tiny_model_config

SMALL = AdapterNetConfig(features=48, code=16, hidden=16, channels=8, modes=2, train_steps=20, value_units=16)


def net_of(config: AdapterNetConfig = SMALL, seed: int = 0) -> AdapterNet:
    """Random weights everywhere, the last layers included."""
    torch.manual_seed(seed)
    net = AdapterNet(config)
    for parameter in net.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


def situation(b: int, config: AdapterNetConfig = SMALL, seed: int = 0) -> tuple[Situated, np.ndarray]:
    """Cars at several speeds with calm base plans, and their states."""
    generator = torch.Generator().manual_seed(seed)
    speeds = np.linspace(2.0, 12.0, b)
    start = np.stack([start_state(float(speed), 0.2, 0.05) for speed in speeds])
    noise = torch.randn(b, KNOTS, 2, generator=generator).double().numpy()
    plan = plan_of(follow_plan(start, noise * np.array([1.0, 0.01])))
    numbers = torch.tensor(np.stack([speeds, 0.2 + 0 * speeds, 0.05 + 0 * speeds], 1)).float()
    return Situated(
        torch.randn(b, config.features, generator=generator),
        numbers,
        20.0 * torch.randn(b, 8, 2, generator=generator),
        torch.rand(b, 31, generator=generator),
        torch.from_numpy(plan).float(),
        torch.from_numpy(seen_from_start(follow_plan(start, plan))).float(),
    ), start


def save_adapter(folder: Path, features: int, owner: str | None = None) -> None:
    config = replace(SMALL, features=features)
    net = net_of(config)
    plain = {"adapter": to_plain(config)} | ({"training": {"states_of": owner}} if owner else {})
    save_checkpoint(folder, plain, net.state_dict(), step=1, created_by="tests")


def drive(path: Path, ticks: int = 12) -> tuple[Driver, list]:
    """Decisions and controls of a drive along the synthetic route."""
    course = SyntheticDrive()
    plan = carla_io.read_plan(course.gps_route, course.route)
    driver, trace = Driver.load(path, plan, Dialect.CARLA_0_9_16), []
    for _ in range(ticks):
        proposal = driver.act(carla_io.read(course.input_data(), course.time_s))
        decision = driver.last_decision
        assert decision is not None
        trace.append((proposal.control, decision.action, decision.logits))
        course.follow()
    return driver, trace


# ----------------------------------------------------------------------------- the switch


def test_off_is_the_base_policy_bit_for_bit(tmp_path: Path) -> None:
    """No adapter, and one that can only pick the base plan, drive as the policy does; the recurrence sees the same."""
    yaml = "device: cpu\nstrict: true\naction: {choice: pedal_first}\n"
    plain = save_agent(tmp_path / "w", yaml_text=yaml)
    model = load_model(plain.parent, "cpu")
    save_adapter(tmp_path / "w-adapter", feature_width(model))
    only_base = plain.parent / "base.yaml"
    only_base.write_text(yaml + "adapter: {checkpoint: ../w-adapter, candidates: 1}\n")
    off, base = drive(plain)[1], drive(only_base)[1]
    for (control, action, logits), (other_control, other_action, other_logits) in zip(off, base, strict=True):
        assert control == other_control and action == other_action
        assert torch.equal(logits, other_logits)


def test_on_it_drives_and_says_what_it_picked(tmp_path: Path) -> None:
    path = save_agent(tmp_path / "w")
    model = load_model(path.parent, "cpu")
    save_adapter(tmp_path / "w" / "adapter", feature_width(model), state_identity(model))
    path = path.parent / "adapted.yaml"
    path.write_text("device: cpu\nstrict: true\nadapter: {keep_base: false, candidates: 6}\n")
    driver, trace = drive(path)
    assert driver.last_decision is not None
    picked = driver.last_decision.picked
    assert picked is not None and picked.scores is not None
    assert picked.motions.shape == (6, 61, 4) and picked.index == int(picked.scores.argmax())
    assert picked.action == driver.last_decision.action
    assert all(is_valid(control) for control, _, _ in trace)
    again = drive(path)[1]
    assert [action for _, action, _ in again] == [action for _, action, _ in trace]


def test_an_adapter_of_another_agent_is_refused(tmp_path: Path) -> None:
    path = save_agent(tmp_path / "w", yaml_text="device: cpu\nadapter: {}\n")
    save_adapter(tmp_path / "w" / "adapter", 7)
    with pytest.raises(ConfigError, match="reads states of 7 numbers, this agent's have"):
        drive(path)
    save_adapter(tmp_path / "w" / "adapter", feature_width(load_model(path.parent, "cpu")), "b" * 64)
    with pytest.raises(ConfigError, match=r"states made by weights b{12}\.\.\., this agent's are made by"):
        drive(path)


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"horizon": 13}, {"values": ()}, {"guidance": -1.0}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="adapter: "):
        AdapterConfig(**wrong)


# ----------------------------------------------------------------------------- base plans


def raw_model() -> RawModel:
    """A small raw agent with random weights."""
    config = RawModelConfig(
        encoder=tiny_model_config().encoder,
        neck=RawNeckConfig(channels=8, width=8, seen_hidden=8, vector_units=8),
        rssm=RssmConfig(deter=16, groups=4, classes=8, hidden=16, action_input=True),
        actor=RawActorConfig(units=16),
    )
    torch.manual_seed(3)
    return RawModel(config).eval().requires_grad_(False)


def observed(model: DrivingModel | RawModel) -> ModelInput:
    size = model.config.encoder
    generator = torch.Generator().manual_seed(5)
    return ModelInput(
        torch.randint(0, 255, (1, 6, 3, size.image_height, size.image_width), generator=generator, dtype=torch.uint8),
        torch.ones(1, 6, dtype=torch.bool),
        torch.tensor([[0.6, 0.0, 0.01]]),
        20.0 * torch.randn(1, 8, 2, generator=generator),
        torch.rand(1, 31, generator=generator),
        torch.tensor([False]),
    )


@pytest.mark.parametrize("keep_base", [True, False])
def test_half_of_the_plans_can_be_random_ones(keep_base: bool) -> None:
    """The first are those that the diffusion model makes, the last those made by chance; noise and draws are theirs."""
    net, (seen, start) = net_of(), situation(3)
    config = AdapterConfig(candidates=8, keep_base=keep_base, steps=2)
    made = {
        source: Proposer(net, replace(config, source=source)).propose(seen, start).plans  # type: ignore[arg-type]
        for source in ("diffusion", "random", "both")
    }
    diffused = 5 if keep_base else 4  # the base plan, if kept, and four of them
    assert made["both"].shape == made["diffusion"].shape == (3, 8, KNOTS, 2)
    np.testing.assert_allclose(made["both"][:, :diffused], made["diffusion"][:, :diffused], atol=1e-6)
    np.testing.assert_allclose(made["both"][:, diffused:], made["random"][:, diffused:], atol=1e-6)


def test_a_careful_one_takes_no_plan_that_is_believed_to_be_riskier() -> None:
    """Whatever else it promises; with slack it may be a little riskier."""
    net, (seen, start) = net_of(), situation(8)
    config = AdapterConfig(candidates=12, steps=2, weights=(1.0, 1.0, 0.0, 1.0))
    free, careful = Proposer(net, config), Proposer(net, replace(config, careful=0.0))
    proposals = free.propose(seen, start)
    risk = free.values(proposals)[:, :, -1, VALUES.index("collision")]
    own, others = risk[:, 0], risk.gather(1, free.scores(proposals).argmax(1)[:, None])[:, 0]
    taken = risk.gather(1, careful.scores(proposals).argmax(1)[:, None])[:, 0]
    assert (others < own).any(), "somebody would have taken a riskier one"
    assert (taken >= own).all()
    slack = float((own - risk.amin(1)).max())
    torch.testing.assert_close(Proposer(net, replace(config, careful=slack)).scores(proposals), free.scores(proposals))


@pytest.mark.parametrize("kind", ["clone", "raw"])
def test_features_hold_what_the_policy_reads(kind: str) -> None:
    """The policy gives the same logits from the features alone as it gave while driving."""
    torch.manual_seed(1)
    model = DrivingModel.build(tiny_model_config()).eval() if kind == "clone" else raw_model()
    inputs = observed(model)
    previous = torch.zeros(1, 39) if kind == "raw" else None
    logits, state = model.act(inputs, model.initial(1), previous)
    features = state_features(model, inputs, state)
    assert features.shape == (1, feature_width(model))
    torch.testing.assert_close(policy_logits(model, features), logits, atol=1e-5, rtol=1e-5)


def test_the_raw_agents_plan_is_what_its_policy_does_in_its_world_model() -> None:
    """The first knot is the action's, and the actions are those of the agent's own imagination step by step."""
    model = raw_model()
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(3, feature_width(model), generator=generator)
    rows = torch.nn.functional.one_hot(torch.randint(0, 8, (3, 4), generator=generator), 8).flatten(1).float()
    features[:, 16:48] = rows
    start = np.stack([start_state(8.0, 0.0, 0.0)] * 3)
    plans = base_plans(model, features, torch.tensor([0, 5, 25]), start, "greedy")
    assert plans[0, 0, 0] < -2.0 and plans[1, 0, 0] > 0.3  # begun with the full brake, and with throttle
    for k, action in enumerate((0, 5, 25)):
        mine = imagined_actions(model, features[k : k + 1], torch.tensor([action]), "greedy")[0]
        states = model.imagine(LatentState(features[k : k + 1, :16], features[k : k + 1, 16:48]), action, 29)
        theirs = [action, *(int(model.actor(state.features()).argmax()) for state in states)]
        assert mine.tolist() == theirs


def test_the_raw_agents_plan_follows_the_road_that_it_sees() -> None:
    """Whatever its policy would steer in the dream, after the first decision; pedals are the dream's."""
    model, start = raw_model(), np.stack([start_state(5.0, 0.0, 0.0)] * 2)
    ahead = torch.tensor(ROUTE_AHEAD_M)
    points = torch.stack([torch.stack([ahead, bend * ahead**2], -1) for bend in (0.0, 0.01)])  # the second to the left
    neck, inside = model.neck, slice(1, SEEN_SIZE)
    features = torch.zeros(2, feature_width(model))
    seen = features[:, 48:]
    seen[:, inside] = ((points / POINT_SCALE_M).flatten(1) - neck.seen_usual[inside]) / neck.seen_spread[inside]
    torch.testing.assert_close(model.told_road(seen), points, atol=1e-5, rtol=1e-5)
    to_the_right = np.isclose(ACTIONS[:, THROTTLE], 0.7) & np.isclose(ACTIONS[:, STEER], 0.3)
    actions = np.full((2, 30), np.flatnonzero(to_the_right)[0])
    assert abs(hold_actions(start, actions)[0, -1, 1]) > 2.0, "steered as dreamt it would leave its lane"
    motion = drive_actions(model, features, actions, start)
    assert np.abs(motion[0, :, 1]).max() < 0.3 and motion[0, -1, 3] > 6.0
    bend = motion[1, ::10]
    assert np.abs(bend[:, 1] - 0.01 * bend[:, 0] ** 2).max() < 0.6 and bend[-1, 1] > 1.5


def test_the_clones_plan_follows_what_it_tells() -> None:
    told = np.zeros((2, len(AUXILIARY)))
    for distance in PATH_DISTANCES_M:
        told[:, AUXILIARY.index(f"path_x_{distance:.0f}_m")] = distance
        told[1, AUXILIARY.index(f"path_y_{distance:.0f}_m")] = 0.02 * distance**2  # a bend of 25 m to the left
    told[:, AUXILIARY.index("target_speed_mps")] = (9.0, 5.0)
    start = np.stack([start_state(5.0, 0.0, 0.0)] * 2)
    motion = follow_plan(start, clone_plans(told, np.array([5, 25]), start))
    assert abs(motion[0, -1, 1]) < 0.1 and motion[0, -1, 3] > 7.5
    bend = motion[1, ::10]
    assert np.abs(bend[:, 1] - 0.02 * bend[:, 0] ** 2).max() < 0.6
    assert motion[1, -1, 3] == pytest.approx(5.0, abs=0.6)


def test_many_pedals_at_once_are_those_of_one() -> None:
    logits = 3.0 * torch.randn(300, 39, generator=torch.Generator().manual_seed(0))
    assert pedals_first(logits).tolist() == [pedal_first(row) for row in logits]


# ----------------------------------------------------------------------------- candidates and values


def test_candidates_keep_the_cars_limits_and_the_base_is_the_first() -> None:
    seen, start = situation(3)
    found = Proposer(net_of(), AdapterConfig(candidates=9, steps=4)).propose(seen, start)
    assert found.plans.shape == (3, 9, KNOTS, 2) and found.motions.shape == (3, 9, 61, 4)
    np.testing.assert_allclose(found.plans[:, 0], seen.plan.numpy(), atol=1e-6)
    speed = found.motions[..., 3]
    assert (np.abs(np.diff(speed) / 0.05) < 8.01).all() and (speed >= 0.0).all()
    assert np.ptp(found.plans[:, 1:, :, 0], axis=1).max() > 0.01  # noise and modes make them differ
    assert np.array_equal(
        found.plans, Proposer(net_of(), AdapterConfig(candidates=9, steps=4)).propose(seen, start).plans
    )


def test_candidates_of_one_situation_do_not_depend_on_others() -> None:
    seen, start = situation(4)
    proposer = Proposer(net_of(), AdapterConfig(candidates=6, guidance=0.3))
    together = proposer.propose(seen, start)
    alone = proposer.propose(seen.at(torch.tensor([2])), start[2:3])
    np.testing.assert_allclose(together.plans[2], alone.plans[0], atol=1e-5)
    np.testing.assert_allclose(proposer.scores(together)[2], proposer.scores(alone)[0], atol=1e-4)


def test_a_fresh_adapter_adds_nothing() -> None:
    """The last layer begins at 0, so the mean of what is added does, too: DDIM ends at the prediction."""
    seen, start = situation(2)
    net = AdapterNet(SMALL).eval()
    found = Proposer(net, AdapterConfig(candidates=5)).propose(seen, start)
    np.testing.assert_allclose(found.plans, np.repeat(found.plans[:, :1], 5, 1), atol=1e-6)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (1, 1, 0)])
def test_a_convolution_along_the_time_is_conv1ds(size: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    ours = TimeConv(6, 10, size, stride=stride, padding=padding).double()
    x = torch.randn(5, KNOTS, 6, dtype=torch.float64)
    theirs = torch.nn.functional.conv1d(x.transpose(1, 2), ours.weight, ours.bias, stride, padding)
    torch.testing.assert_close(ours(x), theirs.transpose(1, 2), rtol=0.0, atol=1e-12)


def test_values_look_back_only() -> None:
    """Q^n does not change with what the plan does after n quarter seconds, and is the sum of the rewards before."""
    seen, start = situation(2)
    net = net_of()
    plan = np.repeat(seen.plan.numpy()[:, None].astype(np.float64), 2, 1)
    plan[:, 1, 7:, 0] -= 3.0
    motion = follow_plan(np.repeat(start, 2, 0), plan.reshape(-1, KNOTS, 2)).reshape(2, 2, 61, 4)
    values = Proposer(net, AdapterConfig()).values(Proposals(seen, plan, motion))
    torch.testing.assert_close(values[:, 0, :6], values[:, 1, :6])
    assert (values[:, 0, 9:] - values[:, 1, 9:]).abs().min() > 0.0
    rewards = torch.rand(3, KNOTS, 4, dtype=torch.float64)
    sums = net.values.double().accumulate(rewards)
    for n in (0, 4, 11):
        expected = sum(SMALL.gamma**k * rewards[:, k] for k in range(n + 1))
        torch.testing.assert_close(sums[:, n], expected, atol=1e-6, rtol=0.0)


def test_only_the_named_values_judge() -> None:
    values = torch.randn(1, 3, KNOTS, 4)
    config = AdapterConfig(values=("route", "speed"), weights=(2.0, 1.0, 1.0, 0.5), horizon=4)
    expected = 2.0 * values[:, :, 3, 0] + 0.5 * values[:, :, 3, VALUES.index("speed")]
    torch.testing.assert_close(weighted(values, config), expected)


def test_guidance_goes_up_the_values() -> None:
    """A step along the gradient raises the weighted Q-values, and no plan moves farther than the strength."""
    seen, _ = situation(3)
    net = net_of()
    config = AdapterConfig(guidance=0.05)
    guide = Guide(net, config, seen)
    added = 0.1 * torch.randn(3, 4, KNOTS, 2, generator=torch.Generator().manual_seed(1))
    moved = guide(added)
    assert 0.0 < float((moved - added).flatten(2).norm(dim=-1).max()) <= config.guidance + 1e-6

    def score(extra: torch.Tensor) -> torch.Tensor:
        plan = seen.plan[:, None] + extra * plan_scale(seen.numbers[:, 0])[:, None]
        code = net.values.encoder(seen)
        return weighted(net.values(seen, code, plan, free_motion(seen.numbers[:, 0], plan)), config)

    assert (score(moved) > score(added)).all()


def test_the_free_motion_is_the_cars_where_no_limit_is_touched() -> None:
    start = np.stack([start_state(speed, 0.0, 0.0) for speed in (5.0, 10.0)])
    plan = np.tile(np.array([0.5, 0.01]), (2, KNOTS, 1))
    rear = follow_plan(start, plan)[:, ::5][:, 1:]
    rear[..., 0] -= 1.4178275 * np.cos(rear[..., 2]) - 1.4178275
    rear[..., 1] -= 1.4178275 * np.sin(rear[..., 2])
    free = free_motion(torch.tensor([5.0, 10.0]), torch.from_numpy(plan).float()[:, None])[:, 0].numpy()
    np.testing.assert_allclose(free, rear, atol=0.35)
    np.testing.assert_allclose(free[..., 3], rear[..., 3], atol=0.1)


def test_random_plans_are_turned_and_slowed_down() -> None:
    base = np.zeros((1, KNOTS, 2))
    draws = np.array([[0.5, 1.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.0]])
    plans = random_plans(base, np.array([10.0]), draws, np.zeros((4, KNOTS, 2)))[0]
    motion = follow_plan(np.repeat(start_state(10.0, 0.0, 0.0)[None], 4, 0), plans)
    np.testing.assert_allclose(plans[0], 0.0, atol=1e-9)  # unturned, at its own speed
    assert np.degrees(motion[1, -1, 2]) == pytest.approx(-10.0, abs=0.5)
    assert np.degrees(motion[2, -1, 2]) == pytest.approx(10.0, abs=0.5)
    assert motion[3, -1, 3] < 2.1  # as hard as the brake allows


def test_picking(tmp_path: Path) -> None:
    """value: the best; first and random as named; a margin keeps the base plan; its own action is then taken."""
    seen, start = situation(1)
    net = net_of()
    for config, allowed in (
        (AdapterConfig(candidates=5, keep_base=False, pick="first"), {0}),
        (AdapterConfig(candidates=5, pick="first"), {1}),
        (AdapterConfig(candidates=5, margin=1e9), {0}),
        (AdapterConfig(candidates=5, pick="random"), set(range(5))),
    ):
        adapter = Adapter(net, config, "greedy")
        proposals = Proposer(net, config).propose(seen, start)
        indices = [adapter.pick(proposals, action=17).index for _ in range(8)]
        assert set(indices) <= allowed
        if allowed == {0} and config.keep_base:
            assert adapter.pick(proposals, action=17).action == 17
    proposals = Proposer(net, AdapterConfig(candidates=5)).propose(seen, start)
    chosen = Adapter(net, AdapterConfig(candidates=5), "greedy", picker=lambda _: 3).pick(proposals, action=17)
    assert chosen.index == 3
    broken = replace(proposals, motions=np.full_like(proposals.motions, np.nan))
    assert Adapter(net, AdapterConfig(candidates=5, pick="first"), "greedy").pick(broken, action=17).action == 17


def test_the_default_networks_are_small() -> None:
    for features in (256 + 512, 256 + 256 + 384):
        net = AdapterNet(AdapterNetConfig(features=features))
        assert sum(parameter.numel() for parameter in net.parameters()) < MAX_PARAMETERS / 2


def test_a_situation_is_what_the_agent_has(tmp_path: Path) -> None:
    model = raw_model()
    inputs = observed(model)
    start = start_state(6.0, 1.0, 0.1)[None]
    plan = np.zeros((1, KNOTS, 2))
    seen = situated(torch.zeros(1, 48), (6.0, 1.0, 0.1), inputs, plan, start)
    assert seen.numbers.tolist() == [pytest.approx([6.0, 1.0, 0.1])]
    assert torch.equal(seen.route, inputs.route) and seen.motion.shape == (1, KNOTS, 4)
