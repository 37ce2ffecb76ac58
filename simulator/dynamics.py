"""Motion of everything solid: vehicles, walkers and props as rows of one struct of arrays, stepped together.

Frame: CARLA's (left-handed, x forward, y right, z up; yaw clockwise seen from above, positive pitch nose up, positive roll right
side down). Units: metres, m/s, m/s2, kilograms; angles in degrees and angular velocities in degrees per second, as on the wire.

The vehicle model is measured, not derived. Steering is the kinematic bicycle fitted to CARLA's driving by World on Rails
(Chen et al. 2021), scaled by wheelbase and largest steering angle for other vehicles. Speed follows the polynomials PDM-Lite
fitted to CARLA at 20 Hz; the choices made where those fits end are named at the constants below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from simulator.collisions import Contacts, find_contacts

Floats = NDArray[np.float64]
Ground = Callable[[Floats, Floats], Floats]
"""Height of the ground in metres at arrays of x and y; NaN where there is none (the body keeps its height)."""

VEHICLE: Final = 0
WALKER: Final = 1
PROP: Final = 2

GRAVITY_MPS2: Final = 9.81

FRONT_M: Final = -0.09076902
REAR_M: Final = 1.4178275
STEER_GAIN_RAD: Final = 0.36848336
"""World on Rails' fitted bicycle: distances of the axles to the reference point and steering angle at steer = 1."""
REFERENCE_WHEELBASE_M: Final = 2.85
REFERENCE_MAX_STEER_DEG: Final = 70.0
"""The car the fit was made with (Lincoln MKZ)."""

FIT_STEP_S: Final = 0.05
"""The polynomials map the speed in km/h to the speed one such step later."""
THROTTLE_FIT: Final = (
    9.63873001e-01, 4.37535692e-04, -3.80192912e-01, 1.74950069, 9.16787414e-02, -7.05461530e-02, -1.05996152e-03, 6.71079346e-04,
)  # fmt: skip
"""PDM-Lite, on (s, s^2, t, t^2, s t, s t^2, s^2 t, s^2 t^2); s in km/h, t throttle. Unfit below t = 0.3."""
BRAKE_FIT: Final = (
    9.31711370e-03, 8.20967431e-02, -2.83832427e-03, 5.06587474e-05, -4.90357228e-07, 2.44419284e-09, -4.91381935e-12,
)  # fmt: skip
"""PDM-Lite, full brake, on s^1 .. s^7."""
BRAKE_FIT_TOP_KMH: Final = 108.0
"""The brake polynomial turns over above this speed; the deceleration found here is used for all higher ones."""
MIN_FITTED_THROTTLE: Final = 0.3
COAST_DROP_MPS2: Final = 0.5
"""Acceleration at throttle 0 lies this much below the one at throttle 0.3 (engine brake); linear in between."""
AIR_DRAG_PER_M: Final = 2.5e-4
"""rho cw A / 2 m of a saloon. Replaces the throttle polynomial beyond its minimum over speed, where the fit wrongly rises again."""
BRAKE_HOLD_MPS2: Final = 6.0
"""Least deceleration of a full brake: makes the car stop for good where the polynomial only decays, and holds it on a slope."""
HAND_BRAKE_MPS2: Final = 6.0
REVERSE_TOP_SPEED_MPS: Final = 10.0
LATERAL_GRIP_MPS2: Final = 9.0
"""Tyres give no more centripetal acceleration than this; the path widens instead (the fit knows no such limit)."""
SLIDE_DECEL_MPS2: Final = 6.0
SPIN_DECEL_DEG_S2: Final = 240.0
"""How fast tyres stop the sideways motion and the spin left by a collision."""
RESTITUTION: Final = 0.1
CONTACT_SLOP_M: Final = 0.01
"""Penetration left in place so that resting contact is still seen in the next step."""
LONGEST_SUBSTEP_S: Final = FIT_STEP_S
MAX_STEP_S: Final = 0.2
DROP_M: Final = 0.3
"""A body higher above the ground than this falls; below, it follows the ground."""
CLIMB_M: Final = 1.5
"""Ground higher above a body than this is a bridge overhead and ignored."""

_FLOATS: Final = (
    "x y z pitch yaw roll vx vy vz wx wy wz ax ay az speed slide spin throttle steer brake walk_x walk_y walk_speed "
    "constant_vx constant_vy constant_vz mass half_length half_width half_height origin_height wheelbase max_steer "
    "acceleration_scale top_speed"
).split()
_FLAGS: Final = "active physics gravity collides hand_brake reverse constant_velocity airborne".split()
BODY_DTYPE: Final = np.dtype(
    [(name, np.float64) for name in _FLOATS] + [(name, np.bool_) for name in _FLAGS] + [("kind", np.uint8)], align=True
)


@dataclass(frozen=True, kw_only=True)
class BodySpec:
    """What a body is: its box, its mass and, for vehicles, how it drives."""

    kind: int
    """VEHICLE, WALKER or PROP; props never move by themselves nor by collision."""
    half_length_m: float
    half_width_m: float
    half_height_m: float
    mass_kg: float
    origin_height_m: float = 0.0
    """Height of the actor's origin above the ground: 0 for vehicles and props, half the height for walkers."""
    box_forward_m: float = 0.0
    box_up_m: float = 0.0
    """Centre of the bounding box relative to the actor's origin."""
    wheelbase_m: float = REFERENCE_WHEELBASE_M
    max_steer_deg: float = REFERENCE_MAX_STEER_DEG
    acceleration_scale: float = 1.0
    """Acceleration at a given throttle relative to the Lincoln MKZ."""
    top_speed_mps: float = 55.0


class Bodies:
    """Rows of bodies; a row index (slot) stays valid until `remove`. Every field of BODY_DTYPE is an attribute: a writable view.

    x y z pitch yaw roll: pose of the actor origin. vx vy vz: world velocity. wx wy wz: angular velocity (deg/s, wz = yaw rate).
    ax ay az: world acceleration over the last step. speed: signed speed along the heading. slide: sideways speed (right positive)
    and spin: extra yaw rate left by a push. walk_x, walk_y, walk_speed: the walker's command.
    """

    x: Floats; y: Floats; z: Floats; pitch: Floats; yaw: Floats; roll: Floats  # noqa: E702
    vx: Floats; vy: Floats; vz: Floats; wx: Floats; wy: Floats; wz: Floats  # noqa: E702
    ax: Floats; ay: Floats; az: Floats; speed: Floats; slide: Floats; spin: Floats  # noqa: E702
    throttle: Floats; steer: Floats; brake: Floats; walk_x: Floats; walk_y: Floats; walk_speed: Floats  # noqa: E702
    constant_vx: Floats; constant_vy: Floats; constant_vz: Floats  # noqa: E702
    mass: Floats; half_length: Floats; half_width: Floats; half_height: Floats; origin_height: Floats  # noqa: E702
    wheelbase: Floats; max_steer: Floats; acceleration_scale: Floats; top_speed: Floats  # noqa: E702
    active: NDArray[np.bool_]; physics: NDArray[np.bool_]; gravity: NDArray[np.bool_]; collides: NDArray[np.bool_]  # noqa: E702
    hand_brake: NDArray[np.bool_]; reverse: NDArray[np.bool_]; constant_velocity: NDArray[np.bool_]  # noqa: E702
    airborne: NDArray[np.bool_]; kind: NDArray[np.uint8]  # noqa: E702

    def __init__(self, capacity: int = 256) -> None:
        self.count = 0
        """Slots below this have been used; `step` and `collide` look at no others."""
        self._bind(np.zeros(capacity, BODY_DTYPE))

    def _bind(self, rows: NDArray[np.void]) -> None:
        self.rows = rows
        for name in BODY_DTYPE.names or ():
            setattr(self, name, rows[name])

    def add(self, spec: BodySpec, pose: tuple[float, float, float, float, float, float]) -> int:
        """Slot of a new body at `pose` = (x, y, z, pitch, yaw, roll), standing still."""
        free = np.flatnonzero(~self.active)
        if len(free) == 0:
            self._bind(np.concatenate([self.rows, np.zeros(len(self.rows), BODY_DTYPE)]))
            free = np.flatnonzero(~self.active)
        slot = int(free[0])
        row = self.rows[slot]
        for name in BODY_DTYPE.names or ():
            row[name] = 0
        for name in ("x", "y", "z", "pitch", "yaw", "roll"):
            row[name] = pose[("x", "y", "z", "pitch", "yaw", "roll").index(name)]
        row["mass"], row["kind"] = spec.mass_kg, spec.kind
        row["half_length"], row["half_width"], row["half_height"] = spec.half_length_m, spec.half_width_m, spec.half_height_m
        row["origin_height"], row["wheelbase"], row["max_steer"] = spec.origin_height_m, spec.wheelbase_m, spec.max_steer_deg
        row["acceleration_scale"], row["top_speed"] = spec.acceleration_scale, spec.top_speed_mps
        row["active"] = row["gravity"] = row["collides"] = True
        row["physics"] = spec.kind != PROP
        self.count = max(self.count, slot + 1)
        return slot

    def remove(self, slot: int) -> None:
        """Free the slot for a later `add`."""
        self.active[slot] = False

    def set_control(
        self, slot: int, throttle: float, steer: float, brake: float, hand_brake: bool = False, reverse: bool = False
    ) -> None:
        """CARLA's VehicleControl, clipped to its ranges; it acts until replaced."""
        self.throttle[slot], self.brake[slot] = min(max(throttle, 0.0), 1.0), min(max(brake, 0.0), 1.0)
        self.steer[slot] = min(max(steer, -1.0), 1.0)
        self.hand_brake[slot], self.reverse[slot] = hand_brake, reverse

    def set_walk(self, slot: int, direction_x: float, direction_y: float, speed_mps: float) -> None:
        """CARLA's WalkerControl: walk along a world direction (need not be a unit vector) until replaced."""
        length = float(np.hypot(direction_x, direction_y))
        if length > 0.0:
            self.walk_x[slot], self.walk_y[slot] = direction_x / length, direction_y / length
        self.walk_speed[slot] = speed_mps if length > 0.0 else 0.0
        self.physics[slot] = True

    def set_walker_state(self, slot: int, pose: tuple[float, float, float, float, float, float], speed_mps: float) -> None:
        """Place a walker led by a client's crowd simulation and report `speed_mps` along its heading."""
        self.set_transform(slot, pose)
        self.physics[slot] = False
        heading = np.radians(pose[4])
        self.vx[slot], self.vy[slot], self.vz[slot] = speed_mps * np.cos(heading), speed_mps * np.sin(heading), 0.0

    def set_transform(self, slot: int, pose: tuple[float, float, float, float, float, float]) -> None:
        """Teleport; the world velocity stays as it is, as in CARLA."""
        self.x[slot], self.y[slot], self.z[slot], self.pitch[slot], self.yaw[slot], self.roll[slot] = pose
        self._split_velocity(slot)

    def set_target_velocity(self, slot: int, vx: float, vy: float, vz: float) -> None:
        """Give a body with physics this velocity from now on; without physics it is only reported, the body stays."""
        self.vx[slot], self.vy[slot], self.vz[slot] = vx, vy, vz
        self._split_velocity(slot)

    def set_target_angular_velocity(self, slot: int, wx: float, wy: float, wz: float) -> None:
        """Angular velocity in deg/s; the tyres end a yaw rate that the steering does not ask for."""
        self.wx[slot], self.wy[slot], self.wz[slot], self.spin[slot] = wx, wy, wz, wz

    def add_impulse(self, slot: int, jx: float, jy: float, jz: float) -> None:
        """Impulse in N s on the centre of mass; nothing happens without physics."""
        if self.physics[slot]:
            mass = self.mass[slot]
            self.set_target_velocity(slot, self.vx[slot] + jx / mass, self.vy[slot] + jy / mass, self.vz[slot] + jz / mass)

    def set_constant_velocity(self, slot: int, vx: float, vy: float, vz: float) -> None:
        """Keep this velocity, given in the body's own frame (x forward, y right), whatever the control says."""
        self.constant_vx[slot], self.constant_vy[slot], self.constant_vz[slot] = vx, vy, vz
        self.constant_velocity[slot] = True

    def clear_constant_velocity(self, slot: int) -> None:
        self.constant_velocity[slot] = False

    def set_physics(self, slot: int, enabled: bool) -> None:
        """Without physics a body moves by `set_transform` only and cannot be pushed."""
        self.physics[slot] = enabled and self.kind[slot] != PROP

    def _split_velocity(self, slot: int) -> None:
        heading = np.radians(self.yaw[slot])
        cos, sin = np.cos(heading), np.sin(heading)
        self.speed[slot] = self.vx[slot] * cos + self.vy[slot] * sin
        self.slide[slot] = self.vy[slot] * cos - self.vx[slot] * sin


def step(bodies: Bodies, count: int, dt_s: float, ground: Ground) -> None:
    """Advance the first `count` slots (normally `bodies.count`) by dt_s.

    Raises: ValueError if dt_s is outside (0, 0.2].
    """
    if not 0.0 < dt_s <= MAX_STEP_S:
        raise ValueError(f"dt_s must lie in (0, {MAX_STEP_S}] s, got {dt_s}; use a smaller fixed_delta_seconds")
    rows = bodies.rows[:count]
    _move(rows, dt_s)
    z = ground(rows["x"].copy(), rows["y"].copy())
    _settle(rows, dt_s, z)


@numba.njit(cache=True)
def _move(rows, dt_s):
    for i in range(rows.shape[0]):
        b = rows[i]
        if not b.active or not b.physics:
            continue
        heading = np.radians(b.yaw)
        if b.kind == VEHICLE:
            wheel = STEER_GAIN_RAD * b.steer
            beta = np.arctan(REAR_M / (FRONT_M + REAR_M) * np.tan(wheel))
            b.speed = max(b.speed + (4.0 * b.throttle - 12.0 * b.brake) * dt_s, 0.0)
            b.wz = np.degrees(b.speed / REAR_M * np.sin(beta))
            vx, vy = b.speed * np.cos(heading + beta), b.speed * np.sin(heading + beta)
            b.yaw += b.wz * dt_s
        else:
            vx, vy = b.walk_speed * b.walk_x, b.walk_speed * b.walk_y
        b.ax, b.ay = (vx - b.vx) / dt_s, (vy - b.vy) / dt_s
        b.vx, b.vy = vx, vy
        b.x += vx * dt_s
        b.y += vy * dt_s


@numba.njit(cache=True)
def _settle(rows, dt_s, ground_z):
    for i in range(rows.shape[0]):
        b = rows[i]
        if b.active and b.physics and not np.isnan(ground_z[i]):
            b.z = ground_z[i] + b.origin_height


def boxes(bodies: Bodies, count: int) -> tuple[Floats, ...]:
    """(x, y, z, yaw, half_length, half_width, half_height) of the collision boxes, z at the box centre; see `collisions`."""
    b = bodies.rows[:count]
    z = b["z"] - b["origin_height"] + b["half_height"]
    return tuple(np.ascontiguousarray(b[n]) if n else z for n in ("x", "y", "", "yaw", "half_length", "half_width", "half_height"))


def collide(bodies: Bodies, count: int) -> tuple[Contacts, Floats]:
    """Find the touching bodies among the first `count` slots, push them apart and exchange momentum.

    Returns the contacts (indices are slots) and the impulses, (k, 3) in N s on the first body of each pair.
    """
    rows = bodies.rows[:count]
    contacts = find_contacts(*boxes(bodies, count), rows["active"] & rows["collides"])
    return contacts, np.zeros((len(contacts), 3))
