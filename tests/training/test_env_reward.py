"""Rewards of the driving environment against values worked out by hand, and what counts as a hazard."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from eval.scoring import Infraction
from training.bev import Corridor
from training.env.config import CarlConfig, EnvConfig, Think2DriveConfig
from training.env.reward import (
    Decision,
    End,
    Hazards,
    carl,
    find_hazards,
    place_on_route,
    reward_terms,
    think2drive,
    time_to_collision_s,
    wanted_speed_mps,
)
from training.expert import Scene
from training.forecast import Kind, Others

CRUISING = Decision(
    speed_mps=8.0,
    limit_mps=10.0,
    hazards=Hazards(),
    advanced_m=0.8,
    advanced_percent=0.4,
    offset_m=0.0,
    steer=0.1,
    previous_steer=0.1,
    outside=False,
    comfortable=True,
    time_to_collision_s=math.inf,
)


def straight_scene(others: Others, speed_mps: float = 5.0, **fields) -> Scene:
    """The ego at the origin of a straight road along x, 60 m behind and 100 m ahead of it."""
    points = np.stack([np.arange(-60.0, 100.0), np.zeros(160), np.zeros(160)], 1)
    scene = Scene(
        pose=(0.0, 0.0, 0.0),
        speed_mps=speed_mps,
        half_length_m=2.4,
        half_width_m=0.9,
        corridor=Corridor(points, np.full(160, 1.75), np.full(160, 1.75)),
        arc_m=points[:, 0] + 60.0,
        index=60,
        others=others,
        red_stop_m=(),
        sign_stop_m=(),
        speed_limit_mps=10.0,
    )
    return replace(scene, **fields)


def others_at(*places: tuple[float, float, float, Kind], speed_mps: float = 0.0, parked: bool = False) -> Others:
    count = len(places)
    return Others(
        pose=np.array([place[:3] for place in places]),
        speed_mps=np.full(count, speed_mps),
        yaw_rate_radps=np.zeros(count),
        half_length_m=np.full(count, 2.0),
        half_width_m=np.full(count, 1.0),
        kind=np.array([place[3] for place in places], np.int64),
        parked=np.full(count, parked),
    )


@pytest.mark.parametrize(
    ("hazards", "expected_mps"),
    [
        (Hazards(), 8.0),  # 0.8 of 10 m/s
        (Hazards(vehicle_m=8.0), 0.0),
        (Hazards(vehicle_m=14.25), 4.0),  # 6.25 m beyond the margin of 8 m: half of 12.5 m
        (Hazards(light_m=29.0), 8.0),
        (Hazards(light_m=6.5), 1.6),  # 2.5 of 12.5 m: a fifth
        (Hazards(stop_sign_m=8.75, walker_m=10.0), 3.2),  # 6.25 and 5 m of room: the walker's two fifths
        (Hazards(bicycle_m=2.0), 0.0),
    ],
)
def test_wanted_speed(hazards: Hazards, expected_mps: float) -> None:
    assert wanted_speed_mps(10.0, hazards, Think2DriveConfig()) == pytest.approx(expected_mps)


def test_think2drive_terms() -> None:
    config = Think2DriveConfig()
    assert think2drive(CRUISING, config) == pytest.approx({"speed": 1.0, "travel": 0.8, "deviation": 0.0, "steer": 0.0})
    askew = replace(
        CRUISING, speed_mps=3.0, hazards=Hazards(vehicle_m=14.25), offset_m=2.0, steer=-0.3, previous_steer=0.1
    )
    expected = {"speed": 1.0 - 1.0 / 7.5, "travel": 0.8, "deviation": -0.5, "steer": -0.2}
    assert think2drive(askew, config) == pytest.approx(expected)
    beside = replace(askew, outside=True)
    assert think2drive(beside, config) == pytest.approx(expected)
    assert think2drive(beside, replace(config, outside=3.0)) == pytest.approx({**expected, "outside": -3.0})
    assert think2drive(askew, replace(config, outside=3.0)) == pytest.approx({**expected, "outside": 0.0})


@pytest.mark.parametrize(
    ("end", "offence", "expected"),
    [
        (End.OFFENCE, Infraction.COLLISION_VEHICLE, -9.0),
        (End.OFFENCE, Infraction.RED_LIGHT, -9.0),
        (End.DEVIATION, None, -1.0),
        (End.STANDING, None, -1.0),
        (End.BLOCKED, None, -1.0),
        (End.FINISHED, None, 1.0),
        (End.TIME, None, 1.8),  # cut off: a decision like others
        (End.LOST, None, 0.0),
    ],
)
def test_think2drive_at_the_end(end: End, offence: Infraction | None, expected: float) -> None:
    terms = reward_terms(replace(CRUISING, end=end, offence=offence), EnvConfig())
    assert sum(terms.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0.4),
        ({"outside": True}, 0.0),
        ({"speed_mps": 11.0}, 0.4 * 0.6),  # 1 m/s of 2.5 m/s too fast
        ({"speed_mps": 13.0}, 0.0),
        ({"time_to_collision_s": 0.7}, 0.2),
        ({"time_to_collision_s": 0.7, "comfortable": False}, 0.1),
        ({"end": End.OFFENCE, "offence": Infraction.COLLISION_STATIC}, -1.0),
        ({"end": End.OFFENCE, "offence": Infraction.RED_LIGHT}, -1.0),
        ({"end": End.OFFENCE, "offence": Infraction.STOP_SIGN}, 0.0),
        ({"end": End.DEVIATION}, 0.0),
        ({"end": End.FINISHED}, 0.4),
    ],
)
def test_carl(change: dict, expected: float) -> None:
    decision = replace(CRUISING, **change)
    assert sum(carl(decision, CarlConfig()).values()) == pytest.approx(expected)
    assert sum(reward_terms(decision, EnvConfig(reward="carl")).values()) == pytest.approx(expected)


def test_hazards_on_the_route_and_beside_it() -> None:
    scene = straight_scene(
        others_at(
            (20.0, 0.5, 0.1, Kind.VEHICLE),
            (14.0, 0.0, 0.0, Kind.EMERGENCY),
            (12.0, 3.5, 0.0, Kind.VEHICLE),  # on the next lane
            (9.0, 3.0, math.pi / 2, Kind.BICYCLE),  # crossing, reaches in with its 2 m
            (-8.0, 0.0, 0.0, Kind.WALKER),  # behind
            (35.0, 0.0, 0.0, Kind.WALKER),  # too far
        ),
        red_stop_m=(55.0, 80.0),
        sign_stop_m=(75.0,),
    )
    hazards = find_hazards(scene)
    assert hazards.vehicle_m == pytest.approx(14.0)
    assert hazards.bicycle_m == pytest.approx(9.0)
    assert hazards.walker_m == math.inf
    assert hazards.light_m == pytest.approx(20.0) and hazards.stop_sign_m == pytest.approx(15.0)
    parked = straight_scene(others_at((20.0, 0.0, 0.0, Kind.VEHICLE), parked=True))
    assert find_hazards(parked) == Hazards()


def test_place_on_route_goes_on_between_points() -> None:
    arc_m, offset_m = place_on_route(straight_scene(Others.nobody(), pose=(0.3, -1.2, 0.4)))
    assert (arc_m, offset_m) == pytest.approx((60.3, -1.2))


def test_time_to_collision() -> None:
    """Bumpers are 20 - 2.4 - 2 = 15.6 m apart; at 5 m/s against 13 m/s they meet after 0.87 s."""
    oncoming = others_at((20.0, 0.0, math.pi, Kind.VEHICLE), speed_mps=13.0)
    assert time_to_collision_s(straight_scene(oncoming), 1.0) == pytest.approx(0.9)
    assert time_to_collision_s(straight_scene(oncoming), 0.8) == math.inf
    beside = others_at((20.0, 2.0, math.pi, Kind.VEHICLE), speed_mps=13.0)
    assert time_to_collision_s(straight_scene(beside), 2.0) == math.inf
