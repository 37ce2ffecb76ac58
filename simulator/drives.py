"""How each vehicle of the library accelerates, brakes and holds the road, relative to the car of the speed fits.

The Lincoln MKZ drives as fitted to CARLA (`dynamics`): 100 km/h in 7.4 s at full throttle. The others follow the same
curve, stretched in speed to their top speed and in time to their own launch. Their figures are those of the real
models as makers and testers print them, rounded; grip and brakes go by kind of vehicle.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from simulator.bodies import REFERENCE_GRIP_MPS2, REFERENCE_TOP_SPEED_MPS
from simulator.dynamics import fitted_acceleration_mps2

_KMH: Final = 3.6
_STEP_S: Final = 0.01


class Drive(NamedTuple):
    """What `BodySpec` needs of a vehicle's engine, brakes and tyres; see there."""

    acceleration_scale: float
    top_speed_mps: float
    brake_scale: float
    grip_mps2: float


class _Launch(NamedTuple):
    """Full throttle from rest takes `seconds` to `kmh`; the engine ends at `top_kmh`."""

    kmh: float
    seconds: float
    top_kmh: float


class _Chassis(NamedTuple):
    brake_scale: float
    grip_mps2: float


_FITTED: Final = frozenset(("lincoln.mkz_2017", "lincoln.mkz_2020"))
_TOP_KMH: Final = REFERENCE_TOP_SPEED_MPS * _KMH
_LAUNCHES: Final = {
    "audi.a2": _Launch(100, 12.3, 173),
    "audi.etron": _Launch(100, 5.7, _TOP_KMH),
    "audi.tt": _Launch(100, 6.4, _TOP_KMH),
    "bmw.grandtourer": _Launch(100, 7.9, _TOP_KMH),
    "chevrolet.impala": _Launch(100, 7.2, _TOP_KMH),
    "citroen.c3": _Launch(100, 10.9, 182),
    "dodge.charger_2020": _Launch(100, 6.8, _TOP_KMH),
    "dodge.charger_police": _Launch(100, 6.3, _TOP_KMH),
    "dodge.charger_police_2020": _Launch(100, 6.1, _TOP_KMH),
    "ford.crown": _Launch(100, 8.9, 190),
    "ford.mustang": _Launch(100, 7.5, 190),
    "jeep.wrangler_rubicon": _Launch(100, 8.8, 160),
    "mercedes.coupe": _Launch(100, 6.6, _TOP_KMH),
    "mercedes.coupe_2020": _Launch(100, 6.9, _TOP_KMH),
    "micro.microlino": _Launch(50, 5.0, 90),
    "mini.cooper_s": _Launch(100, 7.0, _TOP_KMH),
    "mini.cooper_s_2021": _Launch(100, 7.5, _TOP_KMH),
    "nissan.micra": _Launch(100, 13.7, 158),
    "nissan.patrol": _Launch(100, 11.5, 170),
    "nissan.patrol_2021": _Launch(100, 7.6, _TOP_KMH),
    "seat.leon": _Launch(100, 8.2, _TOP_KMH),
    "tesla.cybertruck": _Launch(100, 5.5, 180),
    "tesla.model3": _Launch(100, 5.6, _TOP_KMH),
    "toyota.prius": _Launch(100, 10.6, 180),
    "carlamotors.carlacola": _Launch(80, 10.0, 110),
    "carlamotors.european_hgv": _Launch(80, 15.0, 95),
    "carlamotors.firetruck": _Launch(80, 11.0, 115),
    "ford.ambulance": _Launch(100, 12.0, 145),
    "mercedes.sprinter": _Launch(100, 13.0, 155),
    "volkswagen.t2": _Launch(80, 13.0, 110),
    "volkswagen.t2_2021": _Launch(80, 11.0, 125),
    "mitsubishi.fusorosa": _Launch(80, 13.0, 110),
    "bh.crossbike": _Launch(20, 4.5, 36),
    "diamondback.century": _Launch(20, 4.0, 43.2),
    "gazelle.omafiets": _Launch(20, 6.0, 30),
    "harley-davidson.low_rider": _Launch(100, 5.5, 175),
    "kawasaki.ninja": _Launch(100, 4.2, _TOP_KMH),
    "vespa.zx125": _Launch(50, 4.5, 95),
    "yamaha.yzf": _Launch(100, 4.0, _TOP_KMH),
}
_CHASSIS: Final = {
    "car": _Chassis(1.0, REFERENCE_GRIP_MPS2),
    "van": _Chassis(0.8, 7.5),
    "truck": _Chassis(0.6, 6.5),
    "bus": _Chassis(0.6, 6.5),
    "bicycle": _Chassis(0.45, 6.0),
    "motorcycle": _Chassis(0.8, REFERENCE_GRIP_MPS2),
}


def drive(name: str, base_type: str) -> Drive:
    """The drive of a vehicle, `name` without the leading "vehicle.". Raises: KeyError naming an unknown one."""
    chassis = _CHASSIS[base_type]
    if name in _FITTED:
        return Drive(1.0, REFERENCE_TOP_SPEED_MPS, *chassis)
    launch = _LAUNCHES[name]
    share = launch.top_kmh / _TOP_KMH
    scale = share * _reference_seconds(launch.kmh / share) / launch.seconds
    return Drive(scale, launch.top_kmh / _KMH, *chassis)


@cache
def _reference_seconds(kmh: float) -> float:
    """Time that the fitted car takes from rest to a speed at full throttle."""
    speed_mps, seconds = 0.0, 0.0
    while speed_mps * _KMH < kmh:
        speed_mps += fitted_acceleration_mps2(speed_mps, 1.0) * _STEP_S
        seconds += _STEP_S
    return seconds
