"""Structure of the blueprint library as it goes over the wire."""

import msgpack
import pytest

from simulator import blueprints
from simulator.bodies import PROP, VEHICLE, WALKER

VEHICLES = (
    "audi.a2", "audi.etron", "audi.tt", "bmw.grandtourer", "chevrolet.impala", "citroen.c3", "dodge.charger_2020",
    "dodge.charger_police", "dodge.charger_police_2020", "ford.ambulance", "ford.crown", "ford.mustang",
    "jeep.wrangler_rubicon", "lincoln.mkz_2017", "lincoln.mkz_2020", "mercedes.coupe", "mercedes.coupe_2020",
    "mercedes.sprinter", "micro.microlino", "mini.cooper_s", "mini.cooper_s_2021", "mitsubishi.fusorosa",
    "nissan.micra", "nissan.patrol", "nissan.patrol_2021", "seat.leon", "tesla.cybertruck", "tesla.model3",
    "toyota.prius", "volkswagen.t2", "volkswagen.t2_2021", "carlamotors.carlacola", "carlamotors.european_hgv",
    "carlamotors.firetruck", "bh.crossbike", "diamondback.century", "gazelle.omafiets", "harley-davidson.low_rider",
    "kawasaki.ninja", "vespa.zx125", "yamaha.yzf",
)  # fmt: skip
OTHERS = (
    "static.prop.mesh", "static.prop.warningconstruction", "static.prop.trafficwarning",
    "static.prop.constructioncone", "static.prop.dirtdebris01", "static.prop.dirtdebris02",
    "static.prop.warningaccident", "static.prop.container", "static.prop.vendingmachine",
    "static.prop.streetbarrier", "static.trigger.friction", "controller.ai.walker", "sensor.camera.rgb",
    "sensor.camera.depth", "sensor.camera.semantic_segmentation", "sensor.camera.instance_segmentation",
    "sensor.camera.normals", "sensor.camera.optical_flow", "sensor.camera.dvs", "sensor.lidar.ray_cast",
    "sensor.lidar.ray_cast_semantic", "sensor.other.radar", "sensor.other.gnss", "sensor.other.imu",
    "sensor.other.collision", "sensor.other.lane_invasion", "sensor.other.obstacle",
)  # fmt: skip
BOOL, INT, FLOAT, STRING, COLOR = range(5)


def library(version: str) -> dict[str, dict[str, list]]:
    return {d[1]: {attribute[0]: attribute for attribute in d[3]} for d in blueprints.definitions(version)}


def test_the_ids_that_scenarios_ask_for_exist() -> None:
    ids = library("0.9.16").keys()
    assert {f"vehicle.{name}" for name in VEHICLES} <= ids
    assert set(OTHERS) <= ids
    assert sum(name.startswith("walker.pedestrian.") for name in ids) == 51
    assert all(blueprints.exists(name) for name in ids)
    assert not blueprints.exists("vehicle.horse.cart")


@pytest.mark.parametrize("version", blueprints.VERSIONS)
def test_every_definition_has_the_wire_shape(version: str) -> None:
    first_type = 0 if version == "0.9.15" else 1
    definitions = blueprints.definitions(version)
    assert [uid for uid, *_ in definitions] == list(range(1, len(definitions) + 1))
    assert len({type_id for _, type_id, *_ in definitions}) == len(definitions)
    for _, type_id, tags, attributes in definitions:
        assert tags == type_id.replace(".", ",")
        assert attributes[0][0] == "role_name"
        assert len({name for name, *_ in attributes}) == len(attributes)
        for name, kind, value, recommended, modifiable, restricted in attributes:
            check_value(kind - first_type, value)
            for other in recommended:
                check_value(kind - first_type, other)
            assert modifiable == bool(recommended), (type_id, name)
            assert not recommended or value == recommended[0]
            assert modifiable or not restricted
    assert msgpack.unpackb(msgpack.packb(definitions)) == definitions


def check_value(kind: int, value: str) -> None:
    assert isinstance(value, str)
    if kind == BOOL:
        assert value in ("true", "false")
    elif kind == INT:
        int(value)
    elif kind == FLOAT:
        float(value)
    elif kind == COLOR:
        assert [0 <= int(channel) <= 255 for channel in value.split(",")] == [True] * 3
    else:
        assert kind == STRING


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"0\.9\.14.*0\.9\.15, 0\.9\.16"):
        blueprints.definitions("0.9.14")


def test_vehicles_have_what_scenario_filters_read() -> None:
    rows = {name: bp for name, bp in library("0.9.16").items() if name.startswith("vehicle.")}
    names = "base_type special_type number_of_wheels generation has_lights has_dynamic_doors object_type sticky_control"
    assert all(set(names.split()) <= bp.keys() for bp in rows.values())

    def having(**wanted: str) -> set[str]:
        return {name for name, bp in rows.items() if all(bp[key][2] == value for key, value in wanted.items())}

    assert having(special_type="emergency") == {
        "vehicle.dodge.charger_police",
        "vehicle.dodge.charger_police_2020",
        "vehicle.carlamotors.firetruck",
        "vehicle.ford.ambulance",
    }
    assert having(number_of_wheels="2") == having(base_type="bicycle") | having(base_type="motorcycle")
    assert len(having(base_type="car", generation="2", special_type="")) >= 4
    assert having(has_dynamic_doors="true", base_type="car", special_type="")
    assert having(base_type="bus") == {"vehicle.mitsubishi.fusorosa"}
    assert "driver_id" in rows["vehicle.bh.crossbike"]


def test_sensor_defaults_are_carlas() -> None:
    rows = library("0.9.15")
    default = {(name, key): attribute[2] for name, bp in rows.items() for key, attribute in bp.items()}
    rgb, lidar, imu = "sensor.camera.rgb", "sensor.lidar.ray_cast", "sensor.other.imu"
    assert default[rgb, "image_size_x"] == "800" and default[rgb, "fov"] == "90.0"
    assert default[rgb, "lens_circle_falloff"] == "5.0" and default[rgb, "exposure_mode"] == "histogram"
    assert default[lidar, "points_per_second"] == "56000" and default[lidar, "dropoff_general_rate"] == "0.45"
    assert default["sensor.other.radar", "range"] == "100.0"
    assert {f"noise_gyro_bias_{axis}" for axis in "xyz"} <= rows[imu].keys()
    assert {f"noise_{axis}_stddev" for axis in ("lat", "lon", "alt")} <= rows["sensor.other.gnss"].keys()
    assert "enable_postprocess_effects" not in rows["sensor.camera.depth"]
    assert all("sensor_tick" in rows[name] for name in (rgb, lidar, imu, "sensor.other.obstacle"))


def test_walkers_differ_in_age_gender_and_gait() -> None:
    rows = {name: bp for name, bp in library("0.9.16").items() if name.startswith("walker.")}
    assert {bp["age"][2] for bp in rows.values()} == {"adult", "child", "elderly"}
    assert {bp["gender"][2] for bp in rows.values()} == {"male", "female"}
    assert all(bp["is_invincible"][2] == "true" for bp in rows.values())
    for bp in rows.values():
        standing, walking, running = (float(value) for value in bp["speed"][3])
        assert 0.0 == standing < walking < running
        assert ("true" in bp["use_wheelchair"][3]) == (bp["can_use_wheelchair"][2] == "true")


def test_bodies_have_plausible_size_and_mass() -> None:
    for type_id in library("0.9.16"):
        half = blueprints.extent_m(type_id)
        if type_id.startswith(("vehicle.", "walker.", "static.prop.")):
            assert min(half) > 0.0 and blueprints.mass_kg(type_id) > 0.0
            assert blueprints.body_spec(type_id).half_length_m == half[0]
        else:
            assert half == (0.0, 0.0, 0.0) and blueprints.mass_kg(type_id) == 0.0
    for name in VEHICLES:
        spec = blueprints.body_spec(f"vehicle.{name}")
        assert 0.5 < spec.wheelbase_m / (2 * spec.half_length_m) < 0.8, name
        assert abs(spec.box_up_m - spec.half_height_m) < 0.16, name


def test_the_ego_car_has_the_published_box() -> None:
    assert blueprints.extent_m("vehicle.lincoln.mkz_2020") == (2.446, 0.918, 0.745)
    assert blueprints.box_center_m("vehicle.lincoln.mkz_2020") == (-0.006, 0.0, 0.749)
    assert blueprints.number_of_wheels("vehicle.lincoln.mkz_2020") == 4
    assert blueprints.base_type("vehicle.ford.ambulance") == "van"


def test_kinds_and_origins() -> None:
    car, walker = blueprints.body_spec("vehicle.audi.tt"), blueprints.body_spec("walker.pedestrian.0001")
    prop, trigger = blueprints.body_spec("static.prop.container"), blueprints.body_spec("static.trigger.friction")
    assert (car.kind, walker.kind, prop.kind, trigger.kind) == (VEHICLE, WALKER, PROP, PROP)
    assert (car.origin_height_m, walker.origin_height_m) == (0.0, 0.93)
    assert blueprints.box_center_m("walker.pedestrian.0001") == (0.0, 0.0, 0.0)
    assert blueprints.box_center_m("static.prop.container")[2] == pytest.approx(0.857)
    assert prop.solid and not trigger.solid


@pytest.mark.parametrize(
    "type_id", ["walker.pedestrian.0052", "walker.horse", "static.prop.castle", "vehicle.horse.cart"]
)
def test_unknown_bodies_are_named(type_id: str) -> None:
    with pytest.raises(KeyError, match=type_id):
        blueprints.extent_m(type_id)
    with pytest.raises(KeyError, match=type_id):
        blueprints.mass_kg(type_id)
