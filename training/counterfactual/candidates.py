"""Other ego motions from a base state: as logged, disturbed, turned, slower or faster, aimed at others, passing them
closely, braking into them or meeting them on the route, leaving the road, and found by beam search.

Every motion but the logged one comes out of the single-track model, so it keeps the vehicle's limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from jaxtyping import Float64

from eval.criteria import TICK_S
from training.counterfactual import beam
from training.counterfactual.log import EpisodeLog
from training.counterfactual.motion import (
    REAR_AXLE_M,
    STANDING_MPS,
    VehicleLimits,
    chase,
    follow,
    integrate,
    logged_motion,
    start_state,
)
from training.counterfactual.replay import HORIZON_TICKS, Scene
from training.counterfactual.surface import Surface

HORIZON_S = HORIZON_TICKS * TICK_S
TIMES_S = TICK_S * np.arange(HORIZON_TICKS + 1)
PATH_STEP_M = 0.5
PATH_M = 90.0
"""The way that is followed goes on along the route or straight ahead up to this length."""
HIT_S = (0.8, 2.9)
"""When an aimed motion is to arrive."""
AIM_M = (4.0, 55.0)
AIM_RAD = 1.1
"""Who is nearer, farther or more to the side is not aimed at."""
ON_ROUTE_M = 1.6
"""Who comes so near to the middle of the ego's way can be met on it."""
MEETING_COS = 0.7
MISS_M = (0.1, 1.2)
"""Clearance that a near miss aims for."""
SWERVE_SHARE = 0.6
"""A near miss has moved to the side after this share of the way."""
PASSING_SHARE = 0.85
"""A near miss is to happen after this share of the time of a hit."""
ACCEL_ROOM = 0.95
"""Share of what the car can do that a plan counts on."""


class Family(IntEnum):
    """How a motion was made; what comes of it may be anything."""

    LOGGED = 0
    NOISE = 1
    ROTATED = 2
    WARPED = 3
    AIMED = 4
    REAR_END = 5
    CROSSING = 6
    NEAR_MISS = 7
    OFF_ROAD = 8
    BEAM = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateConfig:
    """How many motions of each family a base state gets (fewer where nobody is there to aim at), and how wild."""

    noise: int = 3
    rotated: int = 1
    warped: int = 2
    aimed: int = 2
    meeting: int = 2
    """Rear-end and crossing contacts by speed alone."""
    near_miss: int = 2
    off_road: int = 2
    searched: int = 1
    """Found by beam search."""
    rotation_rad: tuple[float, float] = (0.05, 0.3)
    warp: tuple[float, float] = (0.1, 1.6)
    """Factors of the logged speed; 0.1 to 1 in MPA."""
    noise_accel_mps2: float = 2.5
    noise_curvature_per_m: float = 0.05
    noise_s: float = 0.6
    """Deviations (one sigma at most) and correlation time of the disturbances."""
    limits: VehicleLimits = field(default_factory=VehicleLimits)
    search: beam.BeamConfig = field(default_factory=beam.BeamConfig)

    def __post_init__(self) -> None:
        counts = (self.noise, self.rotated, self.warped, self.aimed, self.meeting, self.near_miss, self.off_road)
        if min(*counts, self.searched) < 0:
            raise ValueError(f"counts of motions must not be negative, got {counts}, {self.searched}")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Motions from one base state."""

    motions: Float64[np.ndarray, "k t+1 4"]
    family: np.ndarray
    """(k,) `Family`s; the first is the logged one."""


def propose(
    log: EpisodeLog, scene: Scene, surface: Surface, config: CandidateConfig, generator: np.random.Generator
) -> Candidates:
    """The logged motion and other ones."""
    maker = _Maker(log, scene, surface, config, generator)
    found: list[tuple[Family, np.ndarray]] = [(Family.LOGGED, scene.logged)]
    for count, make in (
        (config.noise, maker.noise),
        (config.rotated, maker.rotated),
        (config.warped, maker.warped),
        (config.aimed, maker.aimed),
        (config.meeting, maker.meeting),
        (config.near_miss, maker.near_miss),
        (config.off_road, maker.off_road),
        (config.searched, maker.searched),
    ):
        made = (make() for _ in range(count))
        found += [one for one in made if one is not None]
    return Candidates(np.stack([motion for _, motion in found]), np.array([family for family, _ in found], np.int64))


class _Maker:
    """Makes one motion at a time from one base state; None where there is nothing to make it from."""

    def __init__(
        self,
        log: EpisodeLog,
        scene: Scene,
        surface: Surface,
        config: CandidateConfig,
        generator: np.random.Generator,
    ) -> None:
        self._scene, self._surface, self._config, self._generator = scene, surface, config, generator
        self._limits = config.limits.array()
        self._start = start_state(log.ego, scene.base, config.limits)
        ego = logged_motion(log.ego[scene.base : scene.base + HORIZON_TICKS + 1])
        self._speeds = np.clip(ego[:, 3], 0.0, None)
        rates = log.ego[scene.base : scene.base + HORIZON_TICKS, 5]
        self._curvatures = np.where(self._speeds[:-1] > STANDING_MPS, rates / np.maximum(self._speeds[:-1], 0.1), 0.0)
        self._path = _path(ego, scene.points)
        self._calm = np.zeros(HORIZON_TICKS)
        self._gone_m = _arc(self._path)
        self._targets = _targets(scene)

    def noise(self) -> tuple[Family, np.ndarray]:
        """The logged way under correlated disturbances of pedals and wheel."""
        config, size = self._config, self._generator.uniform(0.2, 1.0, 2)
        accels = size[0] * config.noise_accel_mps2 * self._correlated()
        curvatures = size[1] * config.noise_curvature_per_m * self._correlated()
        return Family.NOISE, follow(self._start, self._path, self._speeds, accels, curvatures, self._limits)

    def rotated(self) -> tuple[Family, np.ndarray]:
        """The logged way turned about the base state."""
        turn = self._generator.uniform(*self._config.rotation_rad) * self._generator.choice([-1.0, 1.0])
        c, s = math.cos(turn), math.sin(turn)
        path = (self._path - self._path[0]) @ np.array([[c, s], [-s, c]]) + self._path[0]
        return Family.ROTATED, follow(self._start, path, self._speeds, self._calm, self._calm, self._limits)

    def warped(self) -> tuple[Family, np.ndarray]:
        """The logged way at another speed."""
        speeds = np.maximum(self._speeds, 1.0) * self._generator.uniform(*self._config.warp)
        return Family.WARPED, follow(self._start, self._path, speeds, self._calm, self._calm, self._limits)

    def aimed(self) -> tuple[Family, np.ndarray] | None:
        """At somebody, so as to be there when it is."""
        found = self._aim(0.0)
        return None if found is None else (Family.AIMED, found)

    def near_miss(self) -> tuple[Family, np.ndarray] | None:
        """Past somebody at a small distance."""
        found = self._aim(self._generator.uniform(*MISS_M))
        return None if found is None else (Family.NEAR_MISS, found)

    def off_road(self) -> tuple[Family, np.ndarray]:
        """Off to a side after a while, or straight on where the way bends."""
        generator, speed = self._generator, max(self._start[3], 2.0)
        begins = int(generator.integers(0, HORIZON_TICKS // 2))
        curvatures = self._curvatures.copy()
        if generator.random() < 0.2:
            curvatures[begins:] = 0.0
        else:
            lateral = generator.uniform(0.8, 5.0) * generator.choice([-1.0, 1.0])
            curvatures[begins:] += lateral / max(speed, 3.0) ** 2
        accel = np.full(HORIZON_TICKS, generator.uniform(-1.0, 2.5))
        return Family.OFF_ROAD, integrate(self._start, accel, curvatures, self._limits)[0]

    def meeting(self) -> tuple[Family, np.ndarray] | None:
        """Along the logged way with the speed that meets somebody who is on it at some time."""
        scene, low = self._scene, round(HIT_S[0] / TICK_S)
        meetings = []
        for i in self._targets:
            offset = np.hypot(
                *(scene.pose[: HORIZON_TICKS + 1, i, None, :2] - self._path[None, ::2]).transpose(2, 0, 1)
            )
            near = offset.argmin(1)
            ticks = np.flatnonzero(offset.min(1) < ON_ROUTE_M)
            ticks = ticks[(ticks >= low) & (ticks <= round(HIT_S[1] / TICK_S)) & scene.present[ticks, i]]
            meetings += [(i, int(t), self._gone_m[2 * near[t]]) for t in ticks[::4]]
        self._generator.shuffle(meetings)
        for i, tick, arc_m in meetings:
            reach = scene.half_m[tick, i, 0] * 0.5 + scene.ego_half_m[0]
            speeds = self._speed_plan(arc_m - reach, tick * TICK_S)
            if speeds is None:
                continue
            along = math.cos(scene.pose[tick, i, 2] - scene.logged[0, 2])
            family = Family.REAR_END if along > MEETING_COS else Family.CROSSING
            return family, follow(self._start, self._path, speeds, self._calm, self._calm, self._limits)
        return None

    def searched(self) -> tuple[Family, np.ndarray]:
        """The best of a beam search for danger, for a narrow way through, or for progress."""
        return Family.BEAM, beam.search(
            self._scene,
            self._surface,
            self._start,
            self._limits,
            self._curvatures,
            self._config.search,
            self._generator,
        )

    def _aim(self, clearance_m: float) -> np.ndarray | None:
        """Motion to somebody; a clearance above 0: to a place so far beside it."""
        scene, generator = self._scene, self._generator
        for i in generator.permutation(self._targets):
            tick = int(generator.uniform(*HIT_S) / TICK_S)
            if not scene.present[tick, i]:
                continue
            there = scene.pose[tick, i]
            dx, dy = there[:2] - self._start[:2]
            far_m, bearing = math.hypot(dx, dy), math.atan2(dy, dx)
            turn = math.remainder(bearing - self._start[2], 2.0 * math.pi)
            if not AIM_M[0] < far_m < AIM_M[1] or abs(turn) > AIM_RAD:
                continue
            goals = np.repeat(there[None, :2], HORIZON_TICKS + 1, 0)
            if generator.random() < 0.3:
                goals = scene.pose[: HORIZON_TICKS + 1, i, :2].copy()
            sine, cosine = abs(math.sin(there[2] - bearing)), abs(math.cos(there[2] - bearing))
            half_m = scene.half_m[tick, i]
            depth = cosine * half_m[0] + sine * half_m[1]
            way_m, at_s = far_m - REAR_AXLE_M - scene.ego_half_m[0] - 0.5 * depth, tick * TICK_S
            if clearance_m > 0.0:  # to its far side, and in time to be seen there
                way_m, at_s = way_m + depth + scene.ego_half_m[0], PASSING_SHARE * at_s
            speeds = self._speed_plan(way_m, at_s)
            if speeds is None:
                continue
            if clearance_m > 0.0:
                beside = scene.ego_half_m[1] + sine * half_m[0] + cosine * half_m[1] + clearance_m
                path = self._path_beside(bearing, far_m, beside * generator.choice([-1.0, 1.0]))
                return follow(self._start, path, speeds, self._calm, self._calm, self._limits)
            return chase(self._start, goals, speeds, self._limits)
        return None

    def _path_beside(self, bearing: float, far_m: float, beside_m: float) -> np.ndarray:
        """A way towards a bearing that has moved to the side before it is so far, and goes on straight."""
        along = np.arange(0.0, PATH_M, PATH_STEP_M)
        share = np.clip(along / (SWERVE_SHARE * far_m), 0.0, 1.0)
        across = beside_m * share**2 * (3.0 - 2.0 * share)
        u = np.array([math.cos(bearing), math.sin(bearing)])
        return self._start[:2] + along[:, None] * u + across[:, None] * np.array([-u[1], u[0]])

    def _speed_plan(self, distance_m: float, at_s: float) -> np.ndarray | None:
        """Speeds with a constant acceleration that cover a distance in a time; None if the car cannot."""
        limits, speed = self._config.limits, self._start[3]
        accel = 2.0 * (distance_m - speed * at_s) / at_s**2
        if distance_m <= 0.0 or not -ACCEL_ROOM * limits.decel_mps2 < accel < ACCEL_ROOM * limits.accel_mps2:
            return None
        if speed + accel * at_s < 0.5:
            return None
        return np.clip(speed + accel * TIMES_S, 0.5, limits.speed_mps)

    def _correlated(self) -> np.ndarray:
        """Ornstein-Uhlenbeck noise with deviation 1, one value per tick."""
        keep = math.exp(-TICK_S / self._config.noise_s)
        drawn = self._generator.normal(size=HORIZON_TICKS) * math.sqrt(1.0 - keep**2)
        drawn[0] /= math.sqrt(1.0 - keep**2)
        for t in range(1, HORIZON_TICKS):
            drawn[t] += keep * drawn[t - 1]
        return drawn


def _targets(scene: Scene) -> list[int]:
    """Who is there now and in reach."""
    distance = np.hypot(*(scene.pose[0, :, :2] - scene.logged[0, :2]).T)
    return [int(i) for i in np.flatnonzero(scene.present[0] & (distance < AIM_M[1] + 30.0))]


def _path(ego: np.ndarray, route: np.ndarray) -> np.ndarray:
    """The logged way, then along the route if it is near and else straight on, in steps of PATH_STEP_M."""
    rear = ego[:, :2] - REAR_AXLE_M * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], 1)
    keep = np.concatenate([[True], np.hypot(*np.diff(rear, axis=0).T) > 1e-3])
    way = rear[keep]
    last = ego[-1]
    nearest = int(np.hypot(*(route[:, :2] - last[:2]).T).argmin())
    rest = route[nearest + 4 :, :2]
    on_route = np.hypot(*(route[nearest, :2] - last[:2])) < 3.0 and math.cos(route[nearest, 2] - last[2]) > 0.5
    if not on_route or not len(rest):
        ahead = PATH_STEP_M * np.arange(1, round(PATH_M / PATH_STEP_M))
        rest = way[-1] + ahead[:, None] * np.array([math.cos(last[2]), math.sin(last[2])])
    points = np.concatenate([way, rest])
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    at = np.arange(0.0, min(arc[-1], PATH_M), PATH_STEP_M)
    return np.stack([np.interp(at, arc, points[:, 0]), np.interp(at, arc, points[:, 1])], 1)


def _arc(path: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
