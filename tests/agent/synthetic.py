"""A car on a plane with the leaderboard's sensors, in CARLA's own frame and units: drives agents without a server."""

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import carla
import numpy as np
import torch

from agent.actions import ACTIONS
from agent.checkpoint import save_checkpoint
from agent.config import to_plain
from agent.model.driving_model import DrivingModel, DrivingModelConfig, NeckConfig, small_encoder
from agent.model.policy import PolicyConfig
from agent.model.rssm import RssmConfig

TICK_S = 0.05
REAR_AXLE_M = 1.42
FULL_THROTTLE = 5
"""Action (throttle 0.7, straight)."""


class RoadOption(IntEnum):
    """The leaderboard's road options, with its numbers."""

    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4
    CHANGELANELEFT = 5
    CHANGELANERIGHT = 6


def tiny_model_config() -> DrivingModelConfig:
    """The whole network with the least of everything."""
    encoder = replace(small_encoder(), backbone_width=4, bev_rows=8, bev_columns=8, embed_dims=16, heads=2, ffn_dims=16)
    return DrivingModelConfig(
        encoder=encoder,
        neck=NeckConfig(width=8, embed=16),
        rssm=RssmConfig(deter=16, groups=4, classes=4, hidden=16),
        policy=PolicyConfig(hidden=16, layers=1),
        mask_hidden=8,
        latent_mask_hidden=8,
    )


def save_agent(folder: Path, *, action: int | None = None, yaml_text: str = "device: cpu\nstrict: true\n") -> Path:
    """Writes a checkpoint of a randomly initialised model with agent.yaml; it always takes `action` if one is given."""
    torch.manual_seed(0)
    model = DrivingModel.build(tiny_model_config())
    if action is not None:
        last = [module for module in model.policy.net.modules() if isinstance(module, torch.nn.Linear)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(10.0 * torch.nn.functional.one_hot(torch.tensor(action), len(ACTIONS)))
    save_checkpoint(
        folder,
        {"model": to_plain(model.config)},
        model.state_dict(),
        step=0,
        created_by="tests",
        extra_files={"agent.yaml": yaml_text},
    )
    return folder / "agent.yaml"


def mercator_gps(x_m: float, y_m: float, reference_deg: tuple[float, float]) -> dict[str, float]:
    """Latitude and longitude in degrees by the leaderboard's formula, for CARLA coordinates."""
    radius_m = 6378137.0
    latitude, longitude = reference_deg
    scale = math.cos(math.radians(latitude))
    east = scale * longitude * math.pi * radius_m / 180.0 + x_m
    north = scale * radius_m * math.log(math.tan((90.0 + latitude) * math.pi / 360.0)) - y_m
    return {
        "lat": 360.0 * math.atan(math.exp(north / (radius_m * scale))) / math.pi - 90.0,
        "lon": east * 180.0 / (math.pi * radius_m * scale),
        "z": 0.0,
    }


def map_with_reference(reference_deg: tuple[float, float]) -> carla.Map:
    """A one-road map whose geo-reference is given: the real wheel's GNSS formula."""
    latitude, longitude = reference_deg
    return carla.Map(
        "synthetic",
        f"""<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4" name="t" version="1">
        <geoReference><![CDATA[+proj=tmerc +lat_0={latitude} +lon_0={longitude}]]></geoReference></header>
        <road name="r" length="100" id="0" junction="-1"><planView><geometry s="0" x="0" y="0" hdg="0" length="100">
        <line/></geometry></planView><lanes><laneSection s="0"><center><lane id="0" type="none" level="false"/></center>
        <right><lane id="-1" type="driving" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/></lane></right>
        </laneSection></lanes></road></OpenDRIVE>""",
    )


def dense_route(start: tuple[float, float], yaw_deg: float, metres: int) -> list[tuple[carla.Transform, RoadOption]]:
    """A straight road, then a left turn of 90 degrees and straight on, one point per metre (CARLA frame)."""
    x_m, y_m, route = start[0], start[1], []
    for i in range(metres):
        turning = metres // 2 <= i < metres // 2 + 16
        option = RoadOption.LEFT if turning else RoadOption.LANEFOLLOW
        route.append((carla.Transform(carla.Location(x=x_m, y=y_m), carla.Rotation(yaw=yaw_deg)), option))
        yaw_deg -= 90.0 / 16 if turning else 0.0
        x_m += math.cos(math.radians(yaw_deg))
        y_m += math.sin(math.radians(yaw_deg))
    return route


@dataclass
class SyntheticDrive:
    """An ego car on a route; `step` moves it, `input_data` is what the evaluator would hand to the agent."""

    start: tuple[float, float] = (100.0, 250.0)
    yaw_deg: float = 30.0
    metres: int = 300
    seed: int = 0
    gnss_version: str = "0.9.16"
    reference_deg: tuple[float, float] = (0.0, 0.0)
    image_size: tuple[int, int] = (224, 128)
    frame: int = 0
    speed_mps: float = 0.0
    accel_mps2: float = 0.0
    yaw_rate_degps: float = 0.0
    x_m: float = field(init=False)
    y_m: float = field(init=False)

    def __post_init__(self) -> None:
        self.x_m, self.y_m = self.start
        self.route = dense_route(self.start, self.yaw_deg, self.metres)
        self.gps_route = [
            (mercator_gps(transform.location.x, transform.location.y, self.reference_deg), option)
            for transform, option in self.route
        ]
        self._random = np.random.default_rng(self.seed)
        self._map = map_with_reference(self.reference_deg)
        width, height = self.image_size
        self._texture = self._random.integers(30, 220, (6, height, width, 4), dtype=np.uint8)

    @property
    def time_s(self) -> float:
        """Simulation time of the current frame."""
        return self.frame * TICK_S

    def step(self, *, target_mps: float = 8.0, yaw_rate_degps: float = 0.0) -> None:
        """One tick with a speed target and a yaw rate (CARLA's sign: clockwise)."""
        accel = min(max((target_mps - self.speed_mps) / TICK_S, -4.0), 3.0)
        yaw_start, speed_start = self.yaw_deg, self.speed_mps
        parts = 10
        for _ in range(parts):
            h = TICK_S / parts
            yaw = math.radians(self.yaw_deg)
            sideways = -math.radians(yaw_rate_degps) * REAR_AXLE_M  # y right: the origin slides out of the turn
            self.x_m += (self.speed_mps * math.cos(yaw) + sideways * math.sin(yaw)) * h
            self.y_m += (self.speed_mps * math.sin(yaw) - sideways * math.cos(yaw)) * h
            self.yaw_deg += yaw_rate_degps * h
            self.speed_mps += accel * h
        self.accel_mps2 = (self.speed_mps - speed_start) / TICK_S
        self.yaw_rate_degps = (self.yaw_deg - yaw_start) / TICK_S
        self.frame += 1

    def follow(self, *, target_mps: float = 8.0) -> None:
        """One tick along the dense route."""
        points = np.array([(t.location.x, t.location.y) for t, _ in self.route])
        near = int(np.argmin(np.hypot(points[:, 0] - self.x_m, points[:, 1] - self.y_m)))
        goal = points[min(near + 5, len(points) - 1)]
        bearing = math.degrees(math.atan2(goal[1] - self.y_m, goal[0] - self.x_m))
        error = math.remainder(bearing - self.yaw_deg, 360.0)
        self.step(target_mps=target_mps, yaw_rate_degps=min(max(2.0 * error, -40.0), 40.0) * min(self.speed_mps / 4, 1))

    def gnss(self) -> np.ndarray:
        """Noisy fix: latitude, longitude in degrees, altitude."""
        if self.gnss_version == "0.9.16":
            fix = self._map.transform_to_geolocation(carla.Location(x=self.x_m, y=self.y_m))
            latitude, longitude = fix.latitude, fix.longitude
        else:
            gps = mercator_gps(self.x_m, self.y_m, self.reference_deg)
            latitude, longitude = gps["lat"], gps["lon"]
        noise = self._random.normal(0.0, 5e-6, 2)
        return np.array([latitude + noise[0], longitude + noise[1], 0.0])

    def input_data(self) -> dict[str, tuple[int, Any]]:
        """The leaderboard's sensor dictionary of this frame, with its noise."""
        names = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
        shift = round(10.0 * (self.x_m + self.y_m))
        data: dict[str, tuple[int, Any]] = {
            name: (self.frame, np.roll(self._texture[i], shift, axis=1)) for i, name in enumerate(names)
        }
        imu = np.zeros(7)
        imu[0] = self.accel_mps2 + self._random.normal(0.0, 0.001)
        imu[2] = 9.81
        imu[5] = math.radians(self.yaw_rate_degps) + self._random.normal(0.0, 0.001)
        imu[6] = (math.radians(self.yaw_deg) + 0.5 * math.pi) % (2.0 * math.pi)
        data["IMU"] = (self.frame, imu)
        data["GPS"] = (self.frame, self.gnss())
        data["SPEED"] = (self.frame, {"speed": self.speed_mps})
        return data
