"""The blueprint library: what can be spawned, with CARLA's ids and attributes, and how big and heavy it is.

Bounding boxes are those CARLA 0.9.15 reports (rounded to millimetres). Masses and wheelbases are those of the real
models, rounded. `definitions` builds the ActorDefinition arrays that travel over the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final, NamedTuple

from simulator.bodies import PROP, VEHICLE, WALKER, BodySpec
from simulator.drives import drive

VERSIONS: Final = ("0.9.15", "0.9.16")

_BOOL, _INT, _FLOAT, _STRING, _COLOR = range(5)
"""Attribute types as 0.9.15 counts them; 0.9.16 counts from 1."""


class _Row(NamedTuple):
    """One row of the vehicle table; lengths in metres, mass in kg."""

    id: str
    generation: int
    base_type: str
    special_type: str
    lights: bool
    doors: bool
    extent: tuple[float, float, float]
    center: tuple[float, float]
    """Forward and up offset of the box centre from the actor origin."""
    wheelbase: float
    mass: float


_VEHICLES: Final = (
    _Row("audi.a2", 1, "car", "", False, False, (1.853, 0.894, 0.775), (0.0, 0.782), 2.41, 1130),
    _Row("audi.etron", 1, "car", "electric", True, False, (2.428, 1.016, 0.825), (-0.004, 0.821), 2.93, 2490),
    _Row("audi.tt", 1, "car", "", True, False, (2.091, 0.997, 0.693), (0.0, 0.693), 2.47, 1370),
    _Row("bmw.grandtourer", 1, "car", "", False, False, (2.306, 1.121, 0.834), (0.0, 0.765), 2.78, 1580),
    _Row("chevrolet.impala", 1, "car", "", False, False, (2.679, 1.017, 0.705), (0.0, 0.701), 2.93, 1740),
    _Row("citroen.c3", 1, "car", "", False, False, (1.994, 0.925, 0.809), (0.0, 0.762), 2.54, 1150),
    _Row("dodge.charger_2020", 2, "car", "", True, True, (2.504, 0.941, 0.767), (-0.005, 0.766), 3.05, 1830),
    _Row("dodge.charger_police", 1, "car", "emergency", True, False, (2.487, 1.019, 0.771), (0.024, 0.793), 3.05, 1920),
    _Row(
        "dodge.charger_police_2020",
        2,
        "car",
        "emergency",
        True,
        True,
        (2.619, 0.965, 0.819),
        (0.109, 0.817),
        3.05,
        1920,
    ),
    _Row("ford.crown", 2, "car", "taxi", True, True, (2.683, 0.900, 0.787), (0.185, 0.768), 2.91, 1870),
    _Row("ford.mustang", 1, "car", "", True, False, (2.359, 0.947, 0.650), (0.032, 0.650), 2.74, 1480),
    _Row("jeep.wrangler_rubicon", 1, "car", "", False, False, (1.933, 0.953, 0.939), (0.0, 0.932), 2.42, 1820),
    _Row("lincoln.mkz_2017", 1, "car", "", True, False, (2.451, 1.064, 0.755), (0.004, 0.719), 2.85, 1800),
    _Row("lincoln.mkz_2020", 2, "car", "", True, True, (2.446, 0.918, 0.745), (-0.006, 0.749), 2.85, 1800),
    _Row("mercedes.coupe", 1, "car", "", False, False, (2.513, 1.076, 0.825), (0.0, 0.667), 2.95, 1800),
    _Row("mercedes.coupe_2020", 2, "car", "", True, True, (2.337, 0.906, 0.721), (-0.003, 0.720), 2.84, 1800),
    _Row("micro.microlino", 1, "car", "electric", False, False, (1.104, 0.740, 0.688), (0.0, 0.677), 1.56, 510),
    _Row("mini.cooper_s", 1, "car", "", False, False, (1.903, 0.985, 0.738), (0.0, 0.693), 2.47, 1210),
    _Row("mini.cooper_s_2021", 2, "car", "", True, True, (2.276, 1.049, 0.884), (-0.031, 0.891), 2.57, 1350),
    _Row("nissan.micra", 1, "car", "", False, False, (1.817, 0.923, 0.751), (0.0, 0.781), 2.43, 1010),
    _Row("nissan.patrol", 1, "car", "", False, False, (2.302, 0.966, 0.927), (-0.057, 0.935), 2.97, 2470),
    _Row("nissan.patrol_2021", 2, "car", "", True, True, (2.783, 1.075, 1.023), (0.028, 1.017), 3.08, 2750),
    _Row("seat.leon", 1, "car", "", False, False, (2.096, 0.908, 0.737), (0.0, 0.740), 2.64, 1250),
    _Row("tesla.cybertruck", 2, "car", "electric", True, False, (3.137, 1.195, 1.049), (0.0, 1.049), 3.81, 3000),
    _Row("tesla.model3", 1, "car", "electric", True, False, (2.396, 1.082, 0.744), (0.029, 0.736), 2.88, 1845),
    _Row("toyota.prius", 1, "car", "electric", False, False, (2.257, 1.003, 0.762), (0.002, 0.724), 2.70, 1400),
    _Row("carlamotors.carlacola", 1, "truck", "", True, False, (2.602, 1.313, 1.234), (0.0, 1.234), 3.20, 5500),
    _Row("carlamotors.european_hgv", 2, "truck", "", True, True, (3.968, 1.446, 1.731), (0.013, 1.731), 4.80, 9000),
    _Row(
        "carlamotors.firetruck",
        2,
        "truck",
        "emergency",
        True,
        True,
        (4.234, 1.446, 1.914),
        (-0.253, 1.913),
        4.80,
        12000,
    ),
    _Row("ford.ambulance", 2, "van", "emergency", True, True, (3.183, 1.176, 1.216), (-0.289, 1.216), 3.51, 4500),
    _Row("mercedes.sprinter", 2, "van", "", True, True, (2.958, 0.994, 1.280), (-0.011, 1.288), 3.67, 2400),
    _Row("volkswagen.t2", 1, "van", "", True, False, (2.240, 1.035, 1.019), (0.001, 1.014), 2.40, 1260),
    _Row("volkswagen.t2_2021", 2, "van", "", True, True, (2.221, 0.887, 0.994), (0.117, 0.991), 2.40, 1260),
    _Row("mitsubishi.fusorosa", 2, "bus", "", True, True, (5.136, 1.972, 2.126), (-0.445, 2.127), 5.50, 7500),
    _Row("bh.crossbike", 1, "bicycle", "", False, False, (0.755, 0.433, 0.806), (0.0, 0.808), 1.05, 90),
    _Row("diamondback.century", 1, "bicycle", "", False, False, (0.828, 0.291, 0.810), (0.0, 0.816), 1.00, 90),
    _Row("gazelle.omafiets", 1, "bicycle", "", False, False, (0.922, 0.330, 0.888), (-0.010, 0.895), 1.12, 95),
    _Row("harley-davidson.low_rider", 1, "motorcycle", "", True, False, (1.175, 0.383, 0.825), (0.0, 0.825), 1.63, 380),
    _Row("kawasaki.ninja", 1, "motorcycle", "", True, False, (1.022, 0.398, 0.762), (0.0, 0.769), 1.41, 280),
    _Row("vespa.zx125", 1, "motorcycle", "", True, False, (0.909, 0.433, 0.795), (0.010, 0.795), 1.28, 190),
    _Row("yamaha.yzf", 1, "motorcycle", "", True, False, (1.095, 0.433, 0.765), (0.0, 0.765), 1.40, 280),
)

_PAINTS: Final = ("17,37,103", "137,0,0", "180,44,44", "44,44,44", "128,128,128", "223,223,223", "0,60,29")
_LIVERIES: Final[dict[str, tuple[str, ...]]] = {
    "dodge.charger_police": ("255,255,255",),
    "dodge.charger_police_2020": ("255,255,255",),
    "ford.crown": ("255,197,0",),
    "carlamotors.carlacola": ("255,68,0",),
    "tesla.cybertruck": (),
    "carlamotors.firetruck": (),
    "ford.ambulance": (),
}
"""Recommended colours where they are not `_PAINTS`; none: the blueprint has no colour attribute."""


class _Wheels(NamedTuple):
    """Number of wheels of a base type and how far the front ones turn."""

    wheels: int
    max_steer_deg: float


_WHEELS: Final = {
    "car": _Wheels(4, 70.0),
    "van": _Wheels(4, 70.0),
    "truck": _Wheels(4, 65.0),
    "bus": _Wheels(4, 65.0),
    "bicycle": _Wheels(2, 45.0),
    "motorcycle": _Wheels(2, 45.0),
}


class _Stature(NamedTuple):
    """Size and gait of a walker: half width and half height in metres, walking and running speed in m/s."""

    age: str
    half_width: float
    half_height: float
    speeds: tuple[str, str]
    mass: float


_ADULT: Final = _Stature("adult", 0.188, 0.93, ("1.4", "3.0"), 75.0)
_ELDERLY: Final = _Stature("elderly", 0.188, 0.93, ("1.0", "1.8"), 70.0)
_CHILD: Final = _Stature("child", 0.25, 0.55, ("1.2", "2.5"), 25.0)
_TEENAGER: Final = _Stature("child", 0.188, 0.65, ("1.3", "2.8"), 35.0)
_WALKERS: Final = range(1, 52)
_CHILDREN: Final = frozenset((9, 10, 11, 48, 49))
_TEENAGERS: Final = frozenset((12, 13, 14))
_ELDERS: Final = frozenset((8, 20, 33, 34, 44))
_WOMEN: Final = frozenset(
    (1, 4, 5, 8, 9, 10, 11, 16, 17, 19, 22, 23, 25, 26, 27, 31, 33, 36, 38, 40, 42, 43, 44, 46, 48, 49)
)  # fmt: skip
_WHEELCHAIR_USERS: Final = frozenset((2, 3, 15, 18, 21, 24))
_SECOND_GENERATION: Final = 15
"""Walkers from this number on are of generation 2."""

_PROPS: Final = {
    name: (float(length), float(width), float(height))
    for name, length, width, height in (
        row.split()
        for row in """
        advertisement 1.549 0.287 2.443
        atm 0.713 0.874 2.276
        barbeque 0.946 0.499 1.264
        barrel 0.460 0.471 0.807
        bench01 1.544 0.736 0.970
        bench02 1.564 0.545 0.509
        bench03 1.583 0.513 0.513
        bin 0.548 0.638 1.059
        box01 0.652 0.652 0.692
        box02 0.649 0.649 0.649
        box03 0.661 0.670 0.649
        briefcase 0.543 0.181 0.433
        brokentile01 0.134 0.176 0.007
        brokentile02 0.210 0.152 0.008
        brokentile03 0.154 0.145 0.009
        brokentile04 0.130 0.126 0.010
        busstop 3.876 1.894 2.739
        busstoplb 1.894 3.876 2.739
        calibrator 1.548 0.690 0.202
        chainbarrier 1.494 0.239 0.889
        chainbarrierend 0.239 0.239 0.889
        clothcontainer 1.239 1.887 1.810
        clothesline 6.652 1.118 2.061
        colacan 0.068 0.072 0.110
        constructioncone 0.344 0.344 0.586
        container 1.932 1.012 1.714
        creasedbox01 0.809 0.713 0.118
        creasedbox02 1.633 0.713 0.212
        creasedbox03 1.669 0.713 0.022
        dirtdebris01 1.857 1.514 0.149
        dirtdebris02 1.857 1.514 0.149
        dirtdebris03 1.857 1.514 0.188
        doghouse 1.079 1.272 1.094
        foodcart 2.285 4.638 3.573
        fountain 8.402 8.402 6.924
        garbage01 0.053 0.053 0.087
        garbage02 0.053 0.053 0.009
        garbage03 0.060 0.059 0.079
        garbage04 0.057 0.056 0.069
        garbage05 0.232 0.233 0.058
        garbage06 0.366 0.213 0.077
        gardenlamp 0.297 0.281 0.648
        glasscontainer 1.955 2.009 1.788
        gnome 0.367 0.376 0.883
        guitarcase 1.242 0.125 0.494
        haybale 1.248 1.193 1.195
        haybalelb 1.248 1.193 1.195
        ironplank 1.452 1.174 0.021
        kiosk_01 1.625 1.654 3.245
        mailbox 0.527 0.438 1.157
        maptable 1.573 0.617 1.181
        mobile 0.080 0.007 0.166
        motorhelmet 0.200 0.259 0.258
        pergola 5.029 5.085 3.542
        plantpot01 1.089 0.476 0.557
        plantpot02 1.051 0.431 0.487
        plantpot03 1.051 0.431 0.487
        plantpot04 4.967 0.737 0.125
        plantpot05 0.400 0.400 0.280
        plantpot06 1.593 1.593 0.850
        plantpot07 0.495 0.476 0.557
        plantpot08 0.530 0.530 0.489
        plasticbag 0.311 0.403 0.552
        plasticchair 0.730 0.750 1.271
        plastictable 2.482 2.482 2.480
        platformgarbage01 3.633 1.711 0.332
        purse 0.159 0.333 0.585
        shoppingbag 0.474 0.243 0.601
        shoppingcart 0.669 1.208 1.079
        shoppingtrolley 0.506 0.331 1.094
        slide 0.943 4.122 1.977
        streetbarrier 1.215 0.372 1.069
        streetfountain 0.287 0.670 1.259
        streetsign 1.064 0.125 2.154
        streetsign01 2.470 0.303 3.878
        streetsign04 1.171 0.125 2.773
        swing 4.105 1.577 2.572
        swingcouch 1.357 2.362 2.249
        table 2.156 2.152 0.846
        trafficcone01 0.883 0.882 1.133
        trafficcone02 0.456 0.395 1.183
        trafficwarning 2.373 2.871 3.570
        trampoline 4.132 4.132 2.802
        trashbag 0.378 0.430 0.702
        trashcan01 0.635 0.568 0.848
        trashcan02 0.524 0.514 1.045
        trashcan03 0.629 0.545 0.934
        trashcan04 0.789 0.580 1.016
        trashcan05 0.789 0.580 1.016
        travelcase 0.567 0.328 1.263
        vendingmachine 0.873 1.102 2.108
        warningaccident 1.305 1.055 1.860
        warningconstruction 1.305 1.055 1.860
        wateringcan 0.070 0.194 0.135
        """.strip().splitlines()
    )
}
"""Full length, width and height in metres."""
_MESH: Final = (0.5, 0.5, 0.5)
"""static.prop.mesh: the size of a mesh on the server's disk is not known here."""
_PROP_DENSITY_KGPM3: Final = 100.0
_PROP_SIZES: Final = ((0.25, "tiny"), (1.0, "small"), (2.5, "medium"))

_LENS: Final = {
    "lens_circle_falloff": 5.0,
    "lens_circle_multiplier": 0.0,
    "lens_k": -1.0,
    "lens_kcube": 0.0,
    "lens_x_size": 0.08,
    "lens_y_size": 0.08,
}
_POSTPROCESS: Final = {
    "enable_postprocess_effects": True,
    "gamma": 2.2,
    "motion_blur_intensity": 0.45,
    "motion_blur_max_distortion": 0.35,
    "motion_blur_min_object_screen_size": 0.1,
    "lens_flare_intensity": 0.1,
    "bloom_intensity": 0.675,
    "exposure_mode": "histogram",
    "exposure_compensation": 0.0,
    "shutter_speed": 200.0,
    "iso": 100.0,
    "fstop": 1.4,
    "exposure_min_bright": 10.0,
    "exposure_max_bright": 12.0,
    "exposure_speed_up": 3.0,
    "exposure_speed_down": 1.0,
    "calibration_constant": 16.0,
    "focal_distance": 1000.0,
    "blur_amount": 1.0,
    "blur_radius": 0.0,
    "min_fstop": 1.2,
    "blade_count": 5,
    "slope": 0.88,
    "toe": 0.55,
    "shoulder": 0.26,
    "black_clip": 0.0,
    "white_clip": 0.04,
    "temp": 6500.0,
    "tint": 0.0,
    "chromatic_aberration_intensity": 0.0,
    "chromatic_aberration_offset": 0.0,
}
_TICK: Final = {"sensor_tick": 0.0}
_CAMERA: Final = {"image_size_x": 800, "image_size_y": 600, "fov": 90.0} | _TICK | _LENS
_SEMANTIC_LIDAR: Final = _TICK | {
    "channels": 32,
    "range": 10.0,
    "points_per_second": 56000,
    "rotation_frequency": 10.0,
    "upper_fov": 10.0,
    "lower_fov": -30.0,
    "horizontal_fov": 360.0,
}
_LIDAR: Final = _SEMANTIC_LIDAR | {
    "atmosphere_attenuation_rate": 0.004,
    "dropoff_general_rate": 0.45,
    "dropoff_intensity_limit": 0.8,
    "dropoff_zero_intensity": 0.4,
    "noise_stddev": 0.0,
    "noise_seed": 0,
}
_SENSORS: Final[Mapping[str, Mapping[str, bool | int | float | str]]] = {
    "sensor.camera.rgb": _CAMERA | _POSTPROCESS,
    "sensor.camera.depth": _CAMERA,
    "sensor.camera.semantic_segmentation": _CAMERA,
    "sensor.camera.instance_segmentation": _CAMERA,
    "sensor.camera.normals": _CAMERA,
    "sensor.camera.optical_flow": _CAMERA,
    "sensor.camera.dvs": _CAMERA
    | _POSTPROCESS
    | {
        "positive_threshold": 0.3,
        "negative_threshold": 0.3,
        "sigma_positive_threshold": 0.0,
        "sigma_negative_threshold": 0.0,
        "refractory_period_ns": 0,
        "use_log": True,
        "log_eps": 0.001,
    },
    "sensor.lidar.ray_cast": _LIDAR,
    "sensor.lidar.ray_cast_semantic": _SEMANTIC_LIDAR,
    "sensor.other.radar": _TICK
    | {"horizontal_fov": 30.0, "vertical_fov": 30.0, "range": 100.0, "points_per_second": 1500, "noise_seed": 0},
    "sensor.other.gnss": _TICK
    | {"noise_seed": 0}
    | {f"noise_{axis}_{kind}": 0.0 for axis in ("alt", "lat", "lon") for kind in ("bias", "stddev")},
    "sensor.other.imu": _TICK
    | {"noise_seed": 0}
    | {f"noise_{kind}_{axis}": 0.0 for kind in ("accel_stddev", "gyro_stddev", "gyro_bias") for axis in "xyz"},
    "sensor.other.collision": {},
    "sensor.other.lane_invasion": {},
    "sensor.other.obstacle": _TICK
    | {"distance": 5.0, "hit_radius": 0.5, "only_dynamics": False, "debug_linetrace": False},
}

_BODILESS: Final = ("sensor.", "controller.", "static.trigger.", "traffic.", "spectator")
_BY_ID: Final = {f"vehicle.{row.id}": row for row in _VEHICLES}


def definitions(version: str) -> list[list[Any]]:
    """ActorDefinition arrays `[uid, id, tags, attributes]` of the whole library, as clients of `version` read them.

    An attribute is `[id, type, value, recommended values, modifiable, restricted to the recommended values]`.
    Raises: ValueError for a version other than 0.9.15 and 0.9.16.
    """
    if version not in VERSIONS:
        raise ValueError(f"no blueprints for CARLA {version}; versions spoken are {', '.join(VERSIONS)}")
    first_type = 0 if version == "0.9.15" else 1
    library = {
        **{f"vehicle.{row.id}": _vehicle_attributes(row) for row in _VEHICLES},
        **{f"walker.pedestrian.{number:04d}": _walker_attributes(number) for number in _WALKERS},
        **{f"static.prop.{name}": [_fixed("size", _STRING, _prop_size(size))] for name, size in _PROPS.items()},
        "static.prop.mesh": [_free("mesh_path", ""), _free("mass", 0.0), _free("scale", 1.0)],
        "static.trigger.friction": [_free("friction", 3.5), *(_free(f"extent_{axis}", 1.0) for axis in "xyz")],
        **{name: [_free(*item) for item in defaults.items()] for name, defaults in _SENSORS.items()},
        "controller.ai.walker": [],
    }
    result = []
    for uid, (type_id, own) in enumerate(library.items(), start=1):
        attributes = [_choice("role_name", _STRING, _role_names(type_id)), *own]
        if version != "0.9.15":
            attributes.append(_choice("ros_name", _STRING, (type_id,)))
        wire = [[name, kind + first_type, *rest] for name, kind, *rest in attributes]
        result.append([uid, type_id, ",".join(type_id.split(".")), wire])
    return result


@cache
def _library() -> frozenset[str]:
    return frozenset(definition[1] for definition in definitions(VERSIONS[0]))


def exists(type_id: str) -> bool:
    """Whether this id can be spawned."""
    return type_id in _library()


def extent_m(type_id: str) -> tuple[float, float, float]:
    """Half length, width and height of the bounding box; zero for what has no body (sensors, triggers, signs).

    Raises: KeyError naming an unknown vehicle, walker or prop.
    """
    if type_id.startswith(_BODILESS):
        return 0.0, 0.0, 0.0
    if type_id in _BY_ID:
        return _BY_ID[type_id].extent
    if type_id.startswith("walker."):
        stature = _stature(_walker_number(type_id))
        return stature.half_width, stature.half_width, stature.half_height
    length, width, height = _prop_dimensions(type_id)
    return length / 2, width / 2, height / 2


def box_center_m(type_id: str) -> tuple[float, float, float]:
    """Centre of the bounding box relative to the actor's origin.

    The origin is on the ground for vehicles and props, mid-body for walkers. Raises: KeyError as `extent_m`.
    """
    if type_id in _BY_ID:
        forward, up = _BY_ID[type_id].center
        return forward, 0.0, up
    return 0.0, 0.0, extent_m(type_id)[2] if type_id.startswith("static.prop.") else 0.0


def mass_kg(type_id: str) -> float:
    """Mass of a vehicle, walker or prop; zero for what has no body. Raises: KeyError as `extent_m`."""
    if type_id in _BY_ID:
        return float(_BY_ID[type_id].mass)
    if type_id.startswith("walker."):
        return _stature(_walker_number(type_id)).mass
    x, y, z = extent_m(type_id)
    return 8.0 * x * y * z * _PROP_DENSITY_KGPM3


@cache
def body_spec(type_id: str) -> BodySpec:
    """How a spawned vehicle, walker or prop moves and collides. Raises: KeyError as `extent_m`."""
    half_length, half_width, half_height = extent_m(type_id)
    forward, _, up = box_center_m(type_id)
    spec = BodySpec(
        kind=PROP,
        half_length_m=half_length,
        half_width_m=half_width,
        half_height_m=half_height,
        mass_kg=mass_kg(type_id),
        solid=not type_id.startswith(_BODILESS),
        box_forward_m=forward,
        box_up_m=up,
    )
    if type_id in _BY_ID:
        row = _BY_ID[type_id]
        return replace(
            spec,
            kind=VEHICLE,
            wheelbase_m=row.wheelbase,
            max_steer_deg=_WHEELS[row.base_type].max_steer_deg,
            **drive(row.id, row.base_type)._asdict(),
        )
    return replace(spec, kind=WALKER, origin_height_m=half_height) if type_id.startswith("walker.") else spec


def number_of_wheels(type_id: str) -> int:
    """2 or 4. Raises: KeyError for what is not a vehicle."""
    return _WHEELS[_BY_ID[type_id].base_type].wheels


def has_doors(type_id: str) -> bool:
    """Whether the doors of this vehicle can be opened. Raises: KeyError for what is not a vehicle."""
    return _BY_ID[type_id].doors


def base_type(type_id: str) -> str:
    """car, van, truck, bus, bicycle or motorcycle. Raises: KeyError for what is not a vehicle."""
    return _BY_ID[type_id].base_type


def _vehicle_attributes(row: _Row) -> list[list[Any]]:
    wheels = _WHEELS[row.base_type].wheels
    paints = _LIVERIES.get(row.id, _PAINTS)
    colors = [_choice("color", _COLOR, paints)] if paints else []
    riders = [_choice("driver_id", _INT, ("0", "1"), restricted=True)] if wheels == 2 else []
    return [
        *colors,
        *riders,
        _free("sticky_control", True),
        _free("terramechanics", False),
        _fixed("object_type", _STRING, ""),
        _fixed("base_type", _STRING, row.base_type),
        _fixed("special_type", _STRING, row.special_type),
        _fixed("number_of_wheels", _INT, str(wheels)),
        _fixed("generation", _INT, str(row.generation)),
        _fixed("has_dynamic_doors", _BOOL, _text(row.doors)),
        _fixed("has_lights", _BOOL, _text(row.lights)),
    ]


def _walker_attributes(number: int) -> list[list[Any]]:
    stature = _stature(number)
    wheelchair = ("false", "true") if number in _WHEELCHAIR_USERS else ("false",)
    return [
        _free("is_invincible", True),
        _choice("speed", _FLOAT, ("0.0", *stature.speeds)),
        _choice("use_wheelchair", _BOOL, wheelchair, restricted=True),
        _fixed("gender", _STRING, "female" if number in _WOMEN else "male"),
        _fixed("generation", _INT, "2" if number >= _SECOND_GENERATION else "1"),
        _fixed("age", _STRING, stature.age),
        _fixed("can_use_wheelchair", _BOOL, _text(number in _WHEELCHAIR_USERS)),
    ]


def _stature(number: int) -> _Stature:
    if number in _CHILDREN:
        return _CHILD
    if number in _TEENAGERS:
        return _TEENAGER
    return _ELDERLY if number in _ELDERS else _ADULT


def _walker_number(type_id: str) -> int:
    number = type_id.removeprefix("walker.pedestrian.")
    if not (number.isdigit() and int(number) in _WALKERS):
        raise KeyError(f"{type_id} is not in the blueprint library; walkers are walker.pedestrian.0001 to 0051")
    return int(number)


def _prop_dimensions(type_id: str) -> tuple[float, float, float]:
    name = type_id.removeprefix("static.prop.")
    if name == "mesh":
        return _MESH
    if name not in _PROPS:
        raise KeyError(f"{type_id} is not in the blueprint library")
    return _PROPS[name]


def _prop_size(dimensions: tuple[float, float, float]) -> str:
    longest = max(dimensions)
    return next((name for limit, name in _PROP_SIZES if longest < limit), "big")


def _role_names(type_id: str) -> tuple[str, ...]:
    kind = type_id.split(".")[0]
    if kind == "vehicle":
        return "autopilot", "scenario", "ego_vehicle"
    if kind == "sensor":
        return "front", "back", "left", "right", "front_left", "front_right", "back_left", "back_right"
    return ("pedestrian",) if kind == "walker" else ("prop",) if kind == "static" else ("default",)


def _text(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choice(name: str, kind: int, values: tuple[str, ...], restricted: bool = False) -> list[Any]:
    return [name, kind, values[0], list(values), True, restricted]


def _free(name: str, default: bool | int | float | str) -> list[Any]:
    kinds = {bool: _BOOL, int: _INT, float: _FLOAT, str: _STRING}
    return _choice(name, kinds[type(default)], (_text(default),))


def _fixed(name: str, kind: int, value: str) -> list[Any]:
    return [name, kind, value, [], False, False]
