"""VehiclePhysicsControl of a vehicle, in the wire's order.

The dynamics do not simulate engine and tyres: clients read wheelbase, steering and mass from here, and of what they
apply only `relevant_physics` has an effect.
"""

from __future__ import annotations

import math
from typing import Final

from simulator.actors import Pose
from simulator.bodies import TYRE_FRICTION, BodySpec
from simulator.rpc import CallError

_TORQUE_CURVE: Final = [[0.0, 500.0], [1890.0, 500.0], [5729.0, 400.0]]
_STEERING_CURVE: Final = [[0.0, 1.0], [20.0, 0.9], [60.0, 0.8], [120.0, 0.7]]
_GEARS: Final = [[4.0, 0.5, 0.65], [2.0, 0.5, 0.65], [1.5, 0.5, 0.65], [1.1, 0.5, 0.65], [1.0, 0.5, 0.65]]
_MAX_RPM: Final = 5750.0
_WHEEL_RADIUS_CM: Final = 35.0
_MASS: Final = 11
_WHEELS: Final = 15
"""Places in the wire form."""
_MOST_STEER_DEG: Final = 89.0
_HALF_TRACK_SHARE: Final = 0.8
"""Half the track width as a share of half the body's width."""


def physics_control(spec: BodySpec, pose: Pose) -> list:
    """Wire form of the physics of a vehicle standing at `pose`; wheel positions are world centimetres."""
    x, y, z, _, yaw_deg, _ = pose
    cos_yaw, sin_yaw = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    half_base, half_track = spec.wheelbase_m / 2, spec.half_width_m * _HALF_TRACK_SHARE

    def wheel(forward_m: float, right_m: float, max_steer_deg: float, hand_brake: float) -> list:
        wx = x + forward_m * cos_yaw - right_m * sin_yaw
        wy = y + forward_m * sin_yaw + right_m * cos_yaw
        centre_cm = [100 * wx, 100 * wy, 100 * z + _WHEEL_RADIUS_CM]
        return [TYRE_FRICTION, 0.25, max_steer_deg, _WHEEL_RADIUS_CM, 1500.0, hand_brake, 3.0, 20.0, 3000.0, centre_cm]

    wheels = [
        wheel(half_base, -half_track, spec.max_steer_deg, 0.0),
        wheel(half_base, half_track, spec.max_steer_deg, 0.0),
        wheel(-half_base, -half_track, 0.0, 3000.0),
        wheel(-half_base, half_track, 0.0, 3000.0),
    ]
    damping = [0.15, 2.0, 0.35]
    gearbox = [True, 0.5, 10.0, 4.0, _GEARS]
    centre_of_mass = [0.0, 0.0, 0.0]
    engine = [_TORQUE_CURVE, _MAX_RPM, 1.0, *damping]
    return [*engine, *gearbox, spec.mass_kg, 0.3, centre_of_mass, _STEERING_CURVE, wheels, True]


def with_tyre_friction(physics: list, friction: float) -> list:
    """The wire form with this friction at every wheel, as CARLA reports it inside of a friction trigger."""
    wheels = [[friction, *wheel[1:]] for wheel in physics[_WHEELS]]
    return [*physics[:_WHEELS], wheels, *physics[_WHEELS + 1 :]]


def relevant_physics(physics: list) -> tuple[float, float, float]:
    """Mass in kg, tyre friction (the least of all wheels) and largest steering angle in degrees of the wire form.

    Raises: CallError for a mass that is not positive, a negative friction, an angle outside 0 to 89 degrees or no
    wheels.
    """
    mass_kg = float(physics[_MASS])
    wheels = [[float(value) for value in wheel[:3]] for wheel in physics[_WHEELS]]
    if not wheels:
        raise CallError("VehiclePhysicsControl without wheels; keep those of get_physics_control()")
    friction, max_steer_deg = min(wheel[0] for wheel in wheels), max(wheel[2] for wheel in wheels)
    if not (0.0 < mass_kg < math.inf and 0.0 <= friction < math.inf and 0.0 <= max_steer_deg <= _MOST_STEER_DEG):
        raise CallError(
            f"VehiclePhysicsControl with mass {mass_kg} kg, tyre_friction {friction}, max_steer_angle {max_steer_deg}; "
            f"needed are a positive mass, a friction from 0 up and an angle from 0 to {_MOST_STEER_DEG} degrees"
        )
    return mass_kg, friction, max_steer_deg
