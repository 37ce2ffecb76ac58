"""Agents in closed loop: comparisons by hand, and real drives with and without an adapter that changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import carla
import numpy as np
import pytest

from agent import carla_io
from agent.actions import FULL_BRAKE
from agent.adapter import Adapter, AdapterConfig, Proposals, adapter_for
from agent.base_plan import feature_width
from agent.config import ConfigError
from agent.decider import Network
from agent.driver import TICKS_PER_DECISION, AgentConfig, Driver, load_model
from agent.geodesy import Dialect
from agent.inputs import InputBuilder
from agent.motion import KNOTS, follow_plan, start_state
from eval.routes import parse_routes
from tests.agent.synthetic import SyntheticDrive
from tests.agent.test_adapter import save_adapter, situation
from tests.conftest import REPOSITORY
from tests.training.test_raw_record import ROUTE
from training import joint
from training.adapter import drive as adapter_drive
from training.adapter.oracle import Oracle
from training.closed_loop import compare
from training.closed_loop.drives import Arm, read_arms
from training.closed_loop.pilot import Pilot
from training.env.config import EnvConfig
from training.env.environment import DrivingEnv
from training.experience.writer import SensorFrame
from training.studies import pictures

DRAWS = 200
CLONE = REPOSITORY / "weights" / "raw_clone"


def results(scores: Sequence[float], *, collisions: Sequence[int], km: float = 0.5, town: str = "A") -> list[dict]:
    """A drive per number, each on a route of its own."""
    rest = dict.fromkeys(compare.AVERAGED, 1.0)
    return [
        rest | {"town": town, "route": str(k), "seed": 0, "score": score, "collisions": count, "km": km}
        for k, (score, count) in enumerate(zip(scores, collisions, strict=True))
    ]


def summary(**arms: list[dict]) -> dict[str, Any]:
    return compare.summarised(arms, DRAWS)


def test_means_differences_and_ratios_by_hand() -> None:
    base = results([10.0, 20.0, 60.0], collisions=[2, 0, 1])
    other = results([15.0, 25.0, 65.0], collisions=[1, 0, 1])
    found = summary(base=base, other=other)
    assert found["base"]["score"] == 30.0 and found["base"]["collisions_per_km"] == 2.0
    difference = found["other"]["minus_base"]
    assert difference["drives"] == 3
    assert difference["score"] == pytest.approx((5.0, 5.0, 5.0)), "the same on each route: no doubt about it"
    assert difference["collisions_per_km"][0] == pytest.approx(-2.0 / 3.0)
    assert difference["collisions_per_km"][1] < difference["collisions_per_km"][0] < difference["collisions_per_km"][2]
    assert found["other"]["over_base"]["collisions_per_km"][0] == pytest.approx(2.0 / 3.0)
    assert found["other"]["over_base"]["mean_mps"] == pytest.approx((1.0, 1.0, 1.0))


def test_only_drives_that_both_have_made_are_compared() -> None:
    base = results([10.0, 20.0, 60.0], collisions=[0, 0, 0])
    other = results([90.0, 30.0], collisions=[0, 0])[1:] + results([50.0], collisions=[0], town="B")
    found = summary(base=base, other=other)
    assert found["other"]["drives"] == 2 and found["other"]["minus_base"]["drives"] == 1
    assert found["other"]["minus_base"]["score"] == (10.0, 10.0, 10.0)
    assert found["other"]["over_base"]["collisions_per_km"] == (None, None, None), "nobody collided"
    nowhere = summary(base=base, other=results([50.0], collisions=[0], town="B"), absent=[])
    assert nowhere["other"]["minus_base"] is None and "absent" not in nowhere
    lines = compare.differences_table(compare.differences(found)) + compare.ratio_lines(found)
    assert any(line.startswith("| other minus base | 1 | ") and "+10.0 [+10.0, +10.0]" in line for line in lines)
    assert any("collisions per km times -, mean speed times 1.00" in line for line in lines)


@pytest.mark.parametrize(("together", "interaction"), [(17.0, 0.0), (12.0, -5.0)])
def test_main_effects_and_interaction(together: float, interaction: float) -> None:
    """The first factor gives 5 points alone, the second 2."""
    gains = {"neither": 0.0, "first": 5.0, "second": 2.0, "both": together - 10.0}
    arms = {name: results([10.0 + gain, 50.0 + gain], collisions=[0, 0]) for name, gain in gains.items()}
    found = compare.factorial(arms, DRAWS)
    assert found["interaction"]["score"] == pytest.approx((interaction,) * 3)
    assert found["first"]["score"][0] == pytest.approx(5.0 + interaction / 2.0)
    assert found["second"]["score"][0] == pytest.approx(2.0 + interaction / 2.0)


def test_arms_are_read_from_configuration_files(tmp_path: Path) -> None:
    (tmp_path / "on.yaml").write_text("adapter: {checkpoint: own, candidates: 7}\n")
    base, on = read_arms(f"base={CLONE / 'agent.yaml'},on={tmp_path / 'on.yaml'}")
    assert base == Arm("base", CLONE / "agent.yaml")
    assert on.adapter == tmp_path / "own" and on.setting.candidates == 7
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        read_arms("base=none.yaml")
    for text, expected in (
        ("agent.yaml", "expected NAME=FILE"),
        (f"../x={CLONE / 'agent.yaml'}", "a name consists of"),
    ):
        with pytest.raises(ValueError, match=expected):
            read_arms(text)


@pytest.mark.timeout(300)
def test_an_adapter_that_can_only_keep_the_plan_drives_as_the_agent_does(tmp_path: Path) -> None:
    routes, adapter, out = tmp_path / "routes.xml", tmp_path / "adapter", tmp_path / "out"
    routes.write_text(ROUTE)
    save_adapter(adapter, feature_width(load_model(CLONE, "cpu")))
    refined = tmp_path / "refined"
    shutil.copytree(CLONE, refined)
    config = joint.JointConfig(
        max_s=4.5, draws=DRAWS, env=EnvConfig(traffic=0), adapter=AdapterConfig(candidates=1, steps=1)
    )
    sides = joint.Sides(CLONE / "agent.yaml", refined / "agent.yaml", adapter)
    found = joint.run(config, sides, {"in-domain": routes}, out)
    arms = found["sets"]["in-domain"]["arms"]
    assert list(arms) == ["base", "refined", "adapter", "both"]
    for row in arms.values():
        assert row["drives"] == 1 and 0.0 < row["completion_percent"] < 100.0 and row["collided"] == 0.0
        assert row["completion_percent"] == arms["base"]["completion_percent"], "nothing is different"
        assert row["hd_score"] == pytest.approx(arms["base"]["hd_score"])
    effects = found["sets"]["in-domain"]["effects"]
    assert effects["interaction"]["completion_percent"] == (0.0, 0.0, 0.0)
    assert [(row["arm"], row["town"], row["route"]) for row in found["drives"]["in-domain"]] == [
        (name, "Gen02", "1") for name in arms
    ]
    assert (found["max_s"], found["traffic"]) == (4.5, 0)
    elsewhere = replace(config, env=EnvConfig(traffic=0, server="127.0.0.1:2000"))
    with pytest.raises(ValueError, match="begun with another server"):
        joint.run(elsewhere, sides, {"in-domain": routes}, out)
    shown = {panel.title: [name for name, *_ in panel.rows] for panel in pictures.joint(found)}
    told = ["main effect of refinement", "main effect of adapter", "interaction"]
    assert shown == {"HD-score, in-domain": ["refined", "adapter", "both", *told]}
    text = (out / "joint.md").read_text()
    assert "main effect of adapter" in text and "embedded server, not CARLA" in text

    shutil.copytree(out / "in-domain", out / "adversarial")  # the same drives as those of another file
    two = joint.run(config, sides, {"in-domain": routes, "adversarial": routes}, out)
    together = two["sets"]["all"]["arms"]
    assert list(two["sets"]) == ["in-domain", "adversarial", "all"] and set(two["drives"]) == {
        "in-domain",
        "adversarial",
    }
    assert [row["drives"] for row in together.values()] == [2] * 4, "routes of two files may have the same name"
    assert together["both"]["hd_score"] == pytest.approx(arms["both"]["hd_score"])
    assert together["both"]["minus_base"]["drives"] == 2

    path = out / "in-domain" / "both" / "Gen02-1-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": 77.0}))
    again = joint.run(config, sides, {"in-domain": routes}, out)
    assert again["sets"]["in-domain"]["arms"]["both"]["score"] == 77.0, "what was driven is kept"
    path.unlink()
    in_time = joint.run(replace(config, minutes=1e-6), sides, {"in-domain": routes}, out)
    assert list(in_time["sets"]["in-domain"]["arms"]) == ["base", "refined", "adapter"], "no time for the fourth"
    assert in_time["sets"]["in-domain"]["effects"]["interaction"] is None
    with pytest.raises(ValueError, match=r"another arm adapter, arm both; give that of before"):
        joint.run(replace(config, adapter=AdapterConfig(candidates=1, steps=2)), sides, {"in-domain": routes}, out)

    for arm, same in (("base", "base"), ("full", "adapter")):
        shutil.copytree(out / "in-domain" / same, tmp_path / "arms" / arm)
    study = adapter_drive.DriveConfig(
        arms=("base", "full", "oracle"), max_s=4.5, draws=DRAWS, env=config.env, adapter=config.adapter
    )
    told = adapter_drive.run(study, routes, CLONE / "agent.yaml", adapter, tmp_path / "arms")
    assert {arm: row["drives"] for arm, row in told["arms"].items()} == {"base": 1, "full": 1, "oracle": 1}
    assert told["arms"]["oracle"]["hd_score"] == pytest.approx(arms["base"]["hd_score"]), "it has nothing to pick from"
    assert "0 of 1 routes lie in towns of the adapter's logs" in (tmp_path / "arms" / "adapter_drive.md").read_text()
    assert np.isfinite([row["mean_mps"] for row in arms.values()]).all()


@pytest.mark.parametrize("adapted", [False, True])
def test_the_pilot_decides_as_the_agent_does(tmp_path: Path, adapted: bool) -> None:
    """The shipped agent behind the evaluator's interface, and what drives in these studies, see the same drive."""
    folder = REPOSITORY / "weights" / "raw_refined"
    own = AgentConfig.read(folder / "agent.yaml")
    save_adapter(tmp_path, feature_width(load_model(folder, "cpu")))
    setting = AdapterConfig(candidates=6, keep_base=False)

    def made() -> tuple[Network, Adapter | None]:
        model = load_model(folder, "cpu")
        return model, adapter_for(model, tmp_path, setting, own.action.choice) if adapted else None

    course = SyntheticDrive()
    plan = carla_io.read_plan(course.gps_route, course.route)
    model, adapter = made()
    driver = Driver(own, model, plan, Dialect.CARLA_0_9_16, adapter=adapter)
    model, adapter = made()
    pilot, inputs = Pilot(model, own, adapter), InputBuilder(own.inputs, plan, Dialect.CARLA_0_9_16)
    actions = []
    for tick in range(24):
        observation = carla_io.read(course.input_data(), course.time_s)
        driver.act(observation)
        situation = inputs.update(observation)
        if tick % TICKS_PER_DECISION == 0:
            frame = SensorFrame.of(inputs.network_arrays(situation, first=tick == 0))
            action, meant = pilot.act(frame, explain=True)
            decision = driver.last_decision
            assert decision is not None and meant is not None and meant.shape == (61, 4)
            assert action == decision.action
            if decision.picked is not None:
                np.testing.assert_allclose(meant, decision.picked.motions[decision.picked.index], atol=1e-4)
            actions.append(action)
        course.follow()
    assert (decision.picked is not None) == adapted and len(actions) == 12


@pytest.mark.timeout(120)
def test_the_judge_sees_who_stands_ahead_and_where_the_road_ends() -> None:
    """With nobody there driving on is best, before a parked car braking is, and leaving the road never."""
    env = DrivingEnv(EnvConfig(traffic=0), parse_routes(ROUTE.encode(), name="route"))
    try:
        env.reset(options={"route": "1", "episode_seed": 0})
        driven = env.drive
        assert driven is not None
        start = np.repeat(start_state(8.0, 0.0, 0.0)[None], 3, 0)
        accel, bend = np.array([0.0, -5.0, 0.0]), np.array([0.0, 0.0, 0.12])
        plans = np.repeat(np.stack([accel, bend], 1)[:, None], KNOTS, 1)
        go, brake, leave = range(3)
        proposals = Proposals(situation(1)[0], plans[None], follow_plan(start, plans)[None])
        judge = Oracle(driven.view, AdapterConfig())
        assert judge(proposals) == go
        swerve = replace(proposals, plans=plans[None, [leave, brake]], motions=proposals.motions[:, [leave, brake]])
        assert judge(swerve) == 1, "better to stand on the road than to leave it"

        place = driven.episode.ego.get_transform()
        place.location += 16.0 * place.get_forward_vector() + carla.Location(z=0.3)
        world = driven.episode.world
        assert world.spawn_actor(world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"), place)
        env.step(FULL_BRAKE)
        driven.view.refresh_actors()
        env.step(FULL_BRAKE)
        assert len(driven.view.seen().ids) == 1
        assert judge(proposals) == brake
    finally:
        env.close()
