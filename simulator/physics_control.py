"""VehiclePhysicsControl of a vehicle, in the wire's order.

The dynamics do not simulate engine and tyres; clients read wheelbase, steering and mass from here.
"""

from __future__ import annotations

import math
from typing import Final

from simulator.actors import Pose
from simulator.dynamics import BodySpec

_TORQUE_CURVE: Final = [[0.0, 500.0], [1890.0, 500.0], [5729.0, 400.0]]
_STEERING_CURVE: Final = [[0.0, 1.0], [20.0, 0.9], [60.0, 0.8], [120.0, 0.7]]
_GEARS: Final = [[4.0, 0.5, 0.65], [2.0, 0.5, 0.65], [1.5, 0.5, 0.65], [1.1, 0.5, 0.65], [1.0, 0.5, 0.65]]
_MAX_RPM: Final = 5750.0
_WHEEL_RADIUS_CM: Final = 35.0
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
        return [3.5, 0.25, max_steer_deg, _WHEEL_RADIUS_CM, 1500.0, hand_brake, 3.0, 20.0, 3000.0, centre_cm]

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
