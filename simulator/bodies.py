"""Everything solid, vehicles, walkers and props, as rows of one struct of arrays, and the commands that act on a row.

Frame: CARLA's (left-handed, x forward, y right, z up; yaw clockwise seen from above, positive pitch nose up, positive
roll right side down). Units: metres, m/s, m/s2, kilograms; angles in degrees and angular velocities in degrees per
second, as on the wire. `dynamics` moves the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

VEHICLE: Final = 0
WALKER: Final = 1
PROP: Final = 2

REFERENCE_WHEELBASE_M: Final = 2.85
REFERENCE_MAX_STEER_DEG: Final = 70.0
REFERENCE_TOP_SPEED_MPS: Final = 55.0
REFERENCE_GRIP_MPS2: Final = 9.0
"""The car the fit was made with (Lincoln MKZ). Its tyres give no more centripetal acceleration than the last."""
TYRE_FRICTION: Final = 3.5
"""Tyre friction of CARLA's vehicles, a factor on the friction of the ground."""


_FLOATS: Final = (
    "x", "y", "z", "pitch", "yaw", "roll",
    "vx", "vy", "vz", "wx", "wy", "wz", "ax", "ay", "az",
    "speed", "slide", "spin", "way_x", "way_y",
    "throttle", "steer", "brake",
    "walk_x", "walk_y", "walk_speed", "push_x", "push_y", "constant_vx", "constant_vy",
    "mass", "half_length", "half_width", "half_height", "box_forward", "box_side", "box_up", "origin_height",
    "wheelbase", "max_steer", "acceleration_scale", "top_speed", "brake_scale", "grip", "tyre_friction", "friction",
)  # fmt: skip
_FLAGS: Final = (
    "active", "physics", "gravity", "collides",
    "hand_brake", "reverse", "neutral", "constant_velocity", "airborne", "settled",
)  # fmt: skip
BODY_DTYPE: Final = np.dtype(
    [(name, np.float64) for name in _FLOATS] + [(name, np.bool_) for name in _FLAGS] + [("kind", np.uint8)], align=True
)
_POSE: Final = ("x", "y", "z", "pitch", "yaw", "roll")
_CONTROL: Final[list[str]] = ["throttle", "steer", "brake", "hand_brake", "reverse", "neutral"]

Pose = tuple[float, float, float, float, float, float]
"""x, y, z, pitch, yaw, roll."""


@dataclass(frozen=True, kw_only=True)
class BodySpec:
    """What a body is: its box, its mass and, for vehicles, how it drives."""

    kind: int
    """VEHICLE, WALKER or PROP; props never move by themselves nor by collision."""
    half_length_m: float
    half_width_m: float
    half_height_m: float
    mass_kg: float
    solid: bool = True
    """Whether it takes part in collisions from the start."""
    origin_height_m: float = 0.0
    """Height of the actor's origin above the ground: 0 for vehicles and props, half the height for walkers."""
    box_forward_m: float = 0.0
    box_up_m: float = 0.0
    """Centre of the bounding box relative to the actor's origin."""
    wheelbase_m: float = REFERENCE_WHEELBASE_M
    max_steer_deg: float = REFERENCE_MAX_STEER_DEG
    acceleration_scale: float = 1.0
    """Acceleration relative to the Lincoln MKZ at the same throttle and the same share of the top speed."""
    top_speed_mps: float = REFERENCE_TOP_SPEED_MPS
    brake_scale: float = 1.0
    """Deceleration at a given brake relative to the Lincoln MKZ."""
    grip_mps2: float = REFERENCE_GRIP_MPS2
    """Largest acceleration that the tyres give on dry ground, forwards and to the sides."""


class Bodies:
    """Rows of bodies; a row index (slot) stays valid until `remove`. Every field of BODY_DTYPE is an attribute, a view.

    x y z pitch yaw roll: pose of the actor origin. vx vy vz: world velocity. wx wy wz: angular velocity, wz = yaw rate.
    ax ay az: world acceleration over the last step, collisions included. speed: signed speed along the heading. slide:
    sideways speed (right positive) and spin: extra yaw rate left by a push. way_x, way_y: how far it went in the last
    step. walk_x, walk_y, walk_speed: the walker's command; push_x, push_y: the world velocity a hit gave it, which ends
    as it slides. tyre_friction: of the vehicle's own tyres, in CARLA's measure; friction: the one in force where it
    is. settled: stands still on the ground; clear it after writing x, y or z.
    """

    x: Floats
    y: Floats
    z: Floats
    pitch: Floats
    yaw: Floats
    roll: Floats
    vx: Floats
    vy: Floats
    vz: Floats
    wx: Floats
    wy: Floats
    wz: Floats
    ax: Floats
    ay: Floats
    az: Floats
    speed: Floats
    slide: Floats
    spin: Floats
    way_x: Floats
    way_y: Floats
    throttle: Floats
    steer: Floats
    brake: Floats
    walk_x: Floats
    walk_y: Floats
    walk_speed: Floats
    push_x: Floats
    push_y: Floats
    constant_vx: Floats
    constant_vy: Floats
    mass: Floats
    half_length: Floats
    half_width: Floats
    half_height: Floats
    box_forward: Floats
    box_side: Floats
    box_up: Floats
    origin_height: Floats
    wheelbase: Floats
    max_steer: Floats
    acceleration_scale: Floats
    top_speed: Floats
    brake_scale: Floats
    grip: Floats
    tyre_friction: Floats
    friction: Floats
    active: NDArray[np.bool_]
    physics: NDArray[np.bool_]
    gravity: NDArray[np.bool_]
    collides: NDArray[np.bool_]
    hand_brake: NDArray[np.bool_]
    reverse: NDArray[np.bool_]
    neutral: NDArray[np.bool_]
    constant_velocity: NDArray[np.bool_]
    airborne: NDArray[np.bool_]
    settled: NDArray[np.bool_]
    kind: NDArray[np.uint8]

    def __init__(self, capacity: int = 256) -> None:
        self.count = 0
        """Slots below this have been used; pass it to `step` and `collide`."""
        self.last_step_s = 0.05
        self._bind(np.zeros(capacity, BODY_DTYPE))

    def _bind(self, rows: NDArray[np.void]) -> None:
        self.rows = rows
        for name in BODY_DTYPE.names or ():
            setattr(self, name, rows[name])
        self._controls = rows[_CONTROL]

    def add(self, spec: BodySpec, pose: Pose) -> int:
        """Slot of a new body, standing still; the lowest free one. Growing replaces all views (`bodies.x` ...)."""
        free = np.flatnonzero(~self.active)
        slot = int(free[0]) if len(free) else len(self.rows)
        if slot == len(self.rows):
            self._bind(np.concatenate([self.rows, np.zeros(max(len(self.rows), 1), BODY_DTYPE)]))
        row = self.rows[slot : slot + 1]
        row[:] = np.zeros(1, BODY_DTYPE)
        values = {
            **dict(zip(_POSE, pose, strict=True)),
            "mass": spec.mass_kg,
            "half_length": spec.half_length_m,
            "half_width": spec.half_width_m,
            "half_height": spec.half_height_m,
            "box_forward": spec.box_forward_m,
            "box_up": spec.box_up_m,
            "origin_height": spec.origin_height_m,
            "wheelbase": spec.wheelbase_m,
            "max_steer": spec.max_steer_deg,
            "acceleration_scale": spec.acceleration_scale,
            "top_speed": spec.top_speed_mps,
            "brake_scale": spec.brake_scale,
            "grip": spec.grip_mps2,
            "tyre_friction": TYRE_FRICTION,
            "friction": TYRE_FRICTION,
            "kind": spec.kind,
            "active": True,
            "gravity": True,
            "collides": spec.solid,
            "physics": spec.kind != PROP,
        }
        for name, value in values.items():
            row[name] = value
        self.count = max(self.count, slot + 1)
        return slot

    def remove(self, slot: int) -> None:
        """Free the slot for a later `add`."""
        self.active[slot] = False
        while self.count and not self.active[self.count - 1]:
            self.count -= 1

    def set_control(
        self,
        slot: int,
        throttle: float,
        steer: float,
        brake: float,
        hand_brake: bool = False,
        reverse: bool = False,
        neutral: bool = False,
    ) -> None:
        """CARLA's VehicleControl, clipped to its ranges (NaN counts as 0); it acts until replaced."""
        pedals = _clipped(throttle, 0.0), _clipped(steer, -1.0), _clipped(brake, 0.0)
        self._controls[slot] = (*pedals, hand_brake, reverse, neutral)

    def set_walk(self, slot: int, direction_x: float, direction_y: float, speed_mps: float) -> None:
        """CARLA's WalkerControl: walk along a world direction (need not be a unit vector) until replaced."""
        length = float(np.hypot(direction_x, direction_y))
        if length > 0.0:
            self.walk_x[slot], self.walk_y[slot] = direction_x / length, direction_y / length
        self.walk_speed[slot] = speed_mps if length > 0.0 else 0.0
        self.physics[slot] = True

    def set_walker_state(self, slot: int, pose: Pose, speed_mps: float) -> None:
        """Place a walker led by a client's crowd simulation and report `speed_mps` along its heading."""
        self.set_transform(slot, pose)
        self.physics[slot] = False
        self.push_x[slot] = self.push_y[slot] = 0.0
        heading = np.radians(pose[4])
        self.vx[slot], self.vy[slot], self.vz[slot] = speed_mps * np.cos(heading), speed_mps * np.sin(heading), 0.0

    def set_transform(self, slot: int, pose: Pose) -> None:
        """Teleport; the world velocity stays as it is, as in CARLA."""
        row = self.rows[slot : slot + 1]
        for name, value in zip(_POSE, pose, strict=True):
            row[name] = value
        heading = np.radians(pose[4])
        cos, sin = np.cos(heading), np.sin(heading)
        self.speed[slot] = self.vx[slot] * cos + self.vy[slot] * sin
        self.slide[slot] = self.vy[slot] * cos - self.vx[slot] * sin
        self.settled[slot] = False

    def set_target_velocity(self, slot: int, vx: float, vy: float, vz: float) -> None:
        """Give a body with physics this velocity from now on; without physics it is only reported, the body stays."""
        heading = np.radians(self.yaw[slot])
        cos, sin = np.cos(heading), np.sin(heading)
        dx, dy = vx - self.vx[slot], vy - self.vy[slot]
        self.speed[slot] += dx * cos + dy * sin
        self.slide[slot] += dy * cos - dx * sin
        self.vx[slot], self.vy[slot], self.vz[slot] = vx, vy, vz
        if vz > 0.0:
            self.airborne[slot] = self.physics[slot]
        self.settled[slot] = False

    def set_target_angular_velocity(self, slot: int, wx: float, wy: float, wz: float) -> None:
        """Angular velocity in deg/s; the tyres end a yaw rate that the steering does not ask for."""
        self.spin[slot] += wz - self.wz[slot]
        self.wx[slot], self.wy[slot], self.wz[slot] = wx, wy, wz

    def add_impulse(self, slot: int, jx: float, jy: float, jz: float) -> None:
        """Impulse in N s on the centre of mass; nothing happens without physics."""
        if self.physics[slot]:
            share = 1.0 / self.mass[slot]
            vx, vy, vz = self.vx[slot] + jx * share, self.vy[slot] + jy * share, self.vz[slot] + jz * share
            self.set_target_velocity(slot, vx, vy, vz)

    def set_constant_velocity(self, slot: int, vx: float, vy: float, vz: float) -> None:
        """Keep this velocity whatever the pedals say; in the body's own frame (x forward, y right), vz is ignored."""
        self.constant_vx[slot], self.constant_vy[slot] = vx, vy
        self.constant_velocity[slot] = True

    def clear_constant_velocity(self, slot: int) -> None:
        self.constant_velocity[slot] = False

    def set_physics(self, slot: int, enabled: bool) -> None:
        """Without physics a body stands still, moves by `set_transform` only and cannot be pushed."""
        self.physics[slot] = enabled and self.kind[slot] != PROP
        self.settled[slot] = False
        if not enabled:
            for name in ("vx", "vy", "vz", "wx", "wy", "wz", "ax", "ay", "az", "speed", "slide", "spin", "airborne"):
                self.rows[name][slot] = 0
            self.push_x[slot] = self.push_y[slot] = 0.0


def _clipped(value: float, low: float) -> float:
    return 0.0 if math.isnan(value) else min(max(value, low), 1.0)
