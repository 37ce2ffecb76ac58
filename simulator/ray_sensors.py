"""Sensors that cast rays: lidar, semantic lidar, radar, obstacle detector.

Angles, counts and noise follow CARLA's documentation of its sensors; what a ray meets is what a camera would show.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from simulator import wire
from simulator.actors import Actor, Fixture, Pose
from simulator.render import TOWN, Hits, RayCaster, SceneActor, TownMesh, Wardrobe, axes, build_models
from simulator.sensor import Sensor, Step
from simulator.world import World

MAX_RANGE_M: Final = 2000.0
MAX_CHANNELS: Final = 1024
MAX_POINTS_PER_S: Final = 20_000_000
MAX_POINTS_PER_STEP: Final = 1_000_000
"""Longer steps get no more."""
_OVERHEAD: Final = np.array([0.0, 0.0, 1.0])
_BALL: Final = ((0.0, 0.0), *((share, math.pi / 4.0 * k) for share in (0.5, 1.0) for k in range(8)))
"""Rays that stand for the obstacle detector's ball: distance from its axis, in radii, and angle around it."""
_LIDAR_POINT: Final = np.dtype([("point", "<f4", 3), ("intensity", "<f4")])
_SEMANTIC_POINT: Final = np.dtype([("point", "<f4", 3), ("cos_incidence", "<f4"), ("actor", "<u4"), ("label", "<u4")])
_RADAR_POINT: Final = np.dtype([("velocity", "<f4"), ("azimuth", "<f4"), ("altitude", "<f4"), ("depth", "<f4")])


class Surroundings:
    """The town and the actors of the current step, for rays to meet."""

    def __init__(self, mesh: TownMesh, threads: int) -> None:
        self._caster = RayCaster(mesh.tiles, threads)
        self._wardrobe = Wardrobe(build_models())
        self._bodies = None
        self.actors: list[Actor] = []

    def place(self, actors: list[Actor], shapes: Sequence[SceneActor], time_s: float) -> None:
        """Put the actors where they are now."""
        self.actors = actors
        self._bodies = self._wardrobe.place(shapes, _OVERHEAD, time_s)

    def cast(self, pose: Pose, directions: np.ndarray, reach_m: float, skip: int = 0) -> Hits:
        """First hits along `directions` (n, 3) in the sensor's frame; `skip` is the id of an actor rays go through."""
        index = next((k for k, actor in enumerate(self.actors) if actor.id == skip), -1) if skip else -1
        return self._caster.cast(np.array(pose[:3]), directions @ axes(pose), reach_m, self._bodies, index)

    def warm_up(self) -> None:
        """Compile or load what casts rays and places bodies."""
        shape = SceneActor("vehicle.any", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (2.0, 1.0, 0.8))
        self.place([], [shape], 0.0)
        self.cast((0.0, 0.0, 10.0, 0.0, 0.0, 0.0), np.array([[1.0, 0.0, 0.0]]), 1.0)

    def close(self) -> None:
        self._caster.close()


class RaySensor(Sensor):
    """A sensor that casts rays."""


class _Scanner(RaySensor):
    """A sensor with a range, points per second and a field of view."""

    def __init__(self, actor: Actor, world: World) -> None:
        super().__init__(actor, world)
        self._range_m = self.within("range", 10.0, 0.01, MAX_RANGE_M)
        self._points_per_s = self.within("points_per_second", 56_000, 1, MAX_POINTS_PER_S)
        self._rng = np.random.default_rng(int(abs(self.number("noise_seed", 0))))

    def _points(self, step_s: float) -> float:
        return min(self._points_per_s * step_s, MAX_POINTS_PER_STEP)


class SemanticLidar(_Scanner):
    """A turning fan of rays; every hit with the cosine of its angle of incidence, actor id and label."""

    def __init__(self, actor: Actor, world: World) -> None:
        super().__init__(actor, world)
        self._channels = int(self.within("channels", 32, 1, MAX_CHANNELS))
        upper, lower = self.within("upper_fov", 10.0, -90.0, 90.0), self.within("lower_fov", -30.0, -90.0, 90.0)
        self._elevations = np.radians(np.linspace(upper, lower, self._channels))
        self._fov_deg = self.within("horizontal_fov", 360.0, 0.001, 360.0)
        self._rotations_hz = self.within("rotation_frequency", 10.0, 0.0, 1e4)
        self._angle_deg = 0.0

    def measure(self, step: Step) -> Iterable[bytes]:
        per_channel = int(self._points(step.step_s) / self._channels + 0.5)
        turn_deg = self._rotations_hz * self._fov_deg * step.step_s
        along = self._angle_deg + turn_deg / max(per_channel, 1) * np.arange(per_channel)
        azimuths = np.radians(np.mod(along, self._fov_deg) - self._fov_deg / 2.0)
        kept = self._kept((self._channels, per_channel))
        channel, place = np.nonzero(kept)
        flat = np.cos(self._elevations)[channel]
        directions = np.column_stack(
            [flat * np.cos(azimuths)[place], flat * np.sin(azimuths)[place], np.sin(self._elevations)[channel]]
        )
        pose = self.world.actors.pose(self.actor)
        found = step.surroundings().cast(pose, directions, self._range_m)
        hit = np.flatnonzero(found.owner >= TOWN)
        self._angle_deg = math.fmod(self._angle_deg + turn_deg, self._fov_deg)
        points, chosen = self._detections(found, directions, hit, step, pose)
        counts = np.bincount(channel[chosen], minlength=self._channels).astype("<u4")
        header = struct.pack("<fI", math.radians(self._angle_deg), self._channels)
        return [header + counts.tobytes() + points.tobytes()]

    def _kept(self, shape: tuple[int, int]) -> np.ndarray:
        """Which rays are cast at all, by channel and place."""
        return np.ones(shape, bool)

    def _detections(
        self, found: Hits, directions: np.ndarray, hit: np.ndarray, step: Step, pose: Pose
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is reported of the rays `hit`, and which of the rays those are."""
        points = np.zeros(len(hit), _SEMANTIC_POINT)
        points["point"] = directions[hit] * found.distance_m[hit, None]
        world_directions = directions[hit] @ axes(pose)
        points["cos_incidence"] = -(world_directions * found.normal[hit]).sum(axis=1)
        actors = step.surroundings().actors
        ids = np.array([0, *(actor.id for actor in actors)], np.uint32)
        tags = np.array([0, *(actor.semantic_tag for actor in actors)], np.uint32)
        owner = np.maximum(found.owner[hit], TOWN) + 1
        points["actor"] = ids[owner]
        points["label"] = np.where(owner > 0, tags[owner], found.label[hit])
        return points, hit


class Lidar(SemanticLidar):
    """A turning fan of rays; hits with an intensity that air takes away, some lost, with noise along the ray."""

    def __init__(self, actor: Actor, world: World) -> None:
        super().__init__(actor, world)
        self._attenuation_per_m = self.within("atmosphere_attenuation_rate", 0.004, 0.0, 1e3)
        self._lost = self.within("dropoff_general_rate", 0.45, 0.0, 1.0)
        self._full_intensity = self.within("dropoff_intensity_limit", 0.8, 0.0, 1.0)
        self._lost_at_zero = self.within("dropoff_zero_intensity", 0.4, 0.0, 1.0)
        self._noise_m = self.within("noise_stddev", 0.0, 0.0, 1e3)

    def _kept(self, shape: tuple[int, int]) -> np.ndarray:
        return self._rng.random(shape) >= self._lost if self._lost > 0.0 else np.ones(shape, bool)

    def _detections(
        self, found: Hits, directions: np.ndarray, hit: np.ndarray, step: Step, pose: Pose
    ) -> tuple[np.ndarray, np.ndarray]:
        distance_m = found.distance_m[hit]
        intensity = np.exp(-self._attenuation_per_m * distance_m)
        if self._full_intensity > 0.0:
            chance = 1.0 - self._lost_at_zero + self._lost_at_zero / self._full_intensity * intensity
            stays = (intensity > self._full_intensity) | (self._rng.random(len(hit)) < chance)
            hit, distance_m, intensity = hit[stays], distance_m[stays], intensity[stays]
        if self._noise_m > 0.0:
            distance_m = distance_m + self._rng.normal(0.0, self._noise_m, len(hit))
        points = np.zeros(len(hit), _LIDAR_POINT)
        points["point"], points["intensity"] = directions[hit] * distance_m[:, None], intensity
        return points, hit


class Radar(_Scanner):
    """Rays spread at random over a cone: speed of approach, direction and distance of what they meet."""

    def __init__(self, actor: Actor, world: World) -> None:
        super().__init__(actor, world)
        self._spread = (
            math.tan(math.radians(self.within("horizontal_fov", 30.0, 0.0, 179.0)) / 2.0),
            math.tan(math.radians(self.within("vertical_fov", 30.0, 0.0, 179.0)) / 2.0),
        )

    def measure(self, step: Step) -> Iterable[bytes]:
        count = int(self._points(step.step_s))
        radius, angle = self._rng.random(count), self._rng.uniform(0.0, 2.0 * math.pi, count)
        aside, up = self._spread[0] * radius * np.cos(angle), self._spread[1] * radius * np.sin(angle)
        lines = np.column_stack([np.ones(count), aside, up])
        length = np.linalg.norm(lines, axis=1, keepdims=True)
        directions = lines / length
        pose, table = self.world.actors.pose(self.actor), self.world.actors
        # CARLA's rays end on a plane at the range, so the outer ones are longer.
        found = step.surroundings().cast(pose, directions, self._range_m * float(length.max(initial=1.0)))
        hit = np.flatnonzero((found.owner >= TOWN) & (found.distance_m <= self._range_m * length[:, 0]))
        velocities = np.array([[0.0] * 3, *(table.velocity_mps[actor.row] for actor in step.surroundings().actors)])
        relative = velocities[found.owner[hit] + 1] - table.velocity_mps[self.actor.row]
        points = np.zeros(len(hit), _RADAR_POINT)
        points["velocity"] = (relative * (directions[hit] @ axes(pose))).sum(axis=1)
        points["azimuth"] = np.arctan2(directions[hit, 1], directions[hit, 0])
        points["altitude"] = np.arcsin(directions[hit, 2])
        points["depth"] = found.distance_m[hit]
        return [points.tobytes()]


class ObstacleDetector(RaySensor):
    """Reports what a ball that flies forward from the sensor would touch first, when it touches anything."""

    def __init__(self, actor: Actor, world: World) -> None:
        super().__init__(actor, world)
        self._reach_m = self.within("distance", 5.0, 0.01, MAX_RANGE_M)
        self._radius_m = self.within("hit_radius", 0.5, 0.0, 100.0)
        self._moving_only = self.flag("only_dynamics")

    def measure(self, step: Step) -> Iterable[bytes]:
        pose, surroundings = self.world.actors.pose(self.actor), step.surroundings()
        frame, found = axes(pose), []
        for share, angle in _BALL:
            aside = share * self._radius_m * (math.cos(angle) * frame[1] + math.sin(angle) * frame[2])
            start = (*(np.array(pose[:3]) + aside), *pose[3:])
            # The ball's surface is ahead of its middle, by less towards its rim.
            ahead_m = self._radius_m * math.sqrt(1.0 - share * share)
            hits = surroundings.cast(
                start, np.array([[1.0, 0.0, 0.0]]), self._reach_m + ahead_m, skip=self.actor.parent
            )
            owner = int(hits.owner[0])
            if owner >= 0 or (owner == TOWN and not self._moving_only):
                found.append((max(float(hits.distance_m[0]) - ahead_m, 0.0), owner, int(hits.label[0])))
        if not found:
            return []
        distance_m, owner, label = min(found)
        me = self.world.actors.get(self.actor.parent) or self.actor
        other = surroundings.actors[owner].description() if owner >= 0 else Fixture(label).description()
        return [wire.packed([me.description(), other, distance_m])]
