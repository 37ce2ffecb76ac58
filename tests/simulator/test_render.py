"""Camera images: geometry against an independent pinhole computation, lights, weather, determinism, caching."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import carla
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.render import (
    SIGNAL_GREEN,
    SIGNAL_OFF,
    SIGNAL_RED,
    SIGNAL_YELLOW,
    Camera,
    Pose,
    Renderer,
    Scene,
    SceneActor,
    Weather,
    placement,
    raster,
    shade,
    sprites,
    town_mesh,
)
from simulator.render.scene import axes
from simulator.render.town_mesh import build, load_or_build
from simulator.towns.generate import generate

FRONT = Camera(224, 128, 70.0)
EYE = Pose(50.0, 1.75, 1.6)
"""Driver's view along +x in the right lane of the test road."""

NIGHT = Weather(sun_altitude_angle=-40.0)


def _lane(lane_id: int, kind: str, width_m: float, mark: str) -> str:
    width = f'<width sOffset="0" a="{width_m}" b="0" c="0" d="0"/>' if lane_id else ""
    return (
        f'<lane id="{lane_id}" type="{kind}" level="false"><link/>{width}'
        f'<roadMark sOffset="0" type="{mark}" weight="standard" color="white" width="0.12"/></lane>'
    )


def _signal(signal_id: int, kind: str, s_m: float, t_m: float, z_m: float) -> str:
    return (
        f'<signal name="signal" id="{signal_id}" s="{s_m}" t="{t_m}" zOffset="{z_m}" hOffset="0" roll="0" pitch="0" '
        f'orientation="+" dynamic="no" country="OpenDRIVE" type="{kind}" subtype="-1" value="-1" text="" height="1" '
        f'width="1"><validity fromLane="-1" toLane="-1"/></signal>'
    )


ROAD = (
    '<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4" name="" version="1" north="0" south="0" '
    'east="0" west="0"><geoReference><![CDATA[+proj=tmerc +lat_0=0 +lon_0=0]]></geoReference></header>'
    '<road name="straight" length="300" id="1" junction="-1"><link/><planView>'
    '<geometry s="0" x="0" y="0" hdg="0" length="300"><line/></geometry></planView>'
    '<elevationProfile><elevation s="0" a="0" b="0" c="0" d="0"/></elevationProfile><lateralProfile/>'
    '<lanes><laneOffset s="0" a="0" b="0" c="0" d="0"/><laneSection s="0"><left>'
    + _lane(2, "sidewalk", 2.5, "none")
    + _lane(1, "driving", 3.5, "solid")
    + "</left><center>"
    + _lane(0, "none", 0.0, "broken")
    + "</center><right>"
    + _lane(-1, "driving", 3.5, "solid")
    + _lane(-2, "sidewalk", 2.5, "none")
    + "</right></laneSection></lanes><objects/><signals>"
    + _signal(7, "1000001", 90.0, -4.5, 0.0)
    + _signal(8, "206", 65.0, -5.0, 2.4)
    + "</signals></road></OpenDRIVE>"
)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Renderer]:
    made = Renderer("road", ROAD, seed=5, cache_folder=tmp_path_factory.mktemp("meshes"))
    yield made
    made.close()


def box(x_m: float, y_m: float, z_m: float, half_m: float = 0.15) -> SceneActor:
    """A magenta cube around a point."""
    pose = Pose(x_m, y_m, z_m - half_m)
    return SceneActor("static.prop.box01", pose, (half_m, half_m, half_m), (255, 0, 255))


def car(x_m: float, y_m: float, *, braking: bool = False) -> SceneActor:
    return SceneActor("vehicle.tesla.model3", Pose(x_m, y_m, 0.0), (2.4, 1.0, 0.74), (20, 40, 200), braking=braking)


def pinhole(camera: Camera, pose: Pose, point: tuple[float, float, float]) -> tuple[float, float, float]:
    """Pixel (u, v) and depth of a world point, from carla's own matrices."""
    rotation = carla.Rotation(pitch=pose.pitch_deg, yaw=pose.yaw_deg, roll=pose.roll_deg)
    transform = carla.Transform(carla.Location(pose.x_m, pose.y_m, pose.z_m), rotation)
    forward, right, up, _ = np.array(transform.get_inverse_matrix()) @ [*point, 1.0]
    focal = camera.width / (2.0 * math.tan(math.radians(camera.fov_deg) / 2.0))
    return camera.width / 2.0 + focal * right / forward, camera.height / 2.0 - focal * up / forward, forward


def rgb(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) int RGB of a BGRA image."""
    return image[..., 2::-1].astype(int)


def shoot(renderer: Renderer, scene: Scene, pose: Pose = EYE, camera: Camera = FRONT, **kwargs: int) -> np.ndarray:
    return rgb(renderer.render([(camera, pose)], scene, **kwargs)[0])


# --- geometry -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(-89, 89), st.floats(-180, 180), st.floats(-180, 180))
def test_axes_are_the_columns_of_carlas_matrix(pitch_deg: float, yaw_deg: float, roll_deg: float) -> None:
    rotation = carla.Rotation(pitch=pitch_deg, yaw=yaw_deg, roll=roll_deg)
    matrix = np.array(carla.Transform(carla.Location(), rotation).get_matrix())[:3, :3]
    np.testing.assert_allclose(axes((0, 0, 0, pitch_deg, yaw_deg, roll_deg)).T, matrix, atol=1e-5)


@pytest.mark.parametrize(
    ("pose", "point"),
    [
        (Pose(50.0, 1.75, 1.6), (62.0, 3.5, 1.2)),
        (Pose(50.0, 1.75, 1.6, 0.0, 55.0), (54.0, 9.0, 1.8)),
        (Pose(50.0, 1.75, 1.6, 0.0, 180.0), (40.0, 4.0, 1.0)),
        (Pose(50.0, 1.75, 4.0, -15.0, -20.0, 10.0), (63.0, -2.0, 1.0)),
        (Pose(50.0, 1.75, 3.0, 8.0, 12.0, -25.0), (60.0, 5.0, 4.0)),
    ],
)
@pytest.mark.parametrize("camera", [FRONT, Camera(1600, 900, 70.0), Camera(300, 300, 110.0)])
def test_a_small_box_appears_at_the_predicted_pixel(
    renderer: Renderer, camera: Camera, pose: Pose, point: tuple[float, float, float]
) -> None:
    scene = Scene(actors=[box(*point)])
    depth, ids = renderer.depth_and_ids(camera, pose, scene)
    rows, columns = np.nonzero(ids == 0)
    u, v, forward = pinhole(camera, pose, point)
    assert len(rows) > 0
    assert abs(columns.mean() + 0.5 - u) < max(1.0, 0.004 * camera.width)
    assert abs(rows.mean() + 0.5 - v) < max(1.0, 0.004 * camera.width)
    assert depth[ids == 0].mean() == pytest.approx(forward, abs=0.3)
    drawn = shoot(renderer, scene, pose, camera)[int(v), int(u)]
    assert drawn[0] > drawn[1] + 40 and drawn[2] > drawn[1] + 40, f"not magenta: {drawn}"


def test_the_ground_lies_at_its_depth(renderer: Renderer) -> None:
    depth, ids = renderer.depth_and_ids(FRONT, EYE, Scene())
    row, column = 120, 112
    expected = EYE.z_m * FRONT.focal_px / (row + 0.5 - FRONT.height / 2.0)
    assert ids[row, column] == -1
    assert depth[row, column] == pytest.approx(expected, rel=0.02)


def test_sky_has_no_depth(renderer: Renderer) -> None:
    depth, ids = renderer.depth_and_ids(FRONT, Pose(50.0, 1.75, 1.6, 60.0), Scene())
    assert (ids[0] == -2).all()
    assert np.isinf(depth[0]).all()


def test_the_stop_sign_on_the_right_is_drawn_on_the_right_and_faces_the_driver(renderer: Renderer) -> None:
    red = shoot(renderer, Scene())
    mask = (red[..., 0] > 90) & (red[..., 0] > 2 * red[..., 1]) & (red[..., 0] > 2 * red[..., 2])
    u, v, _ = pinhole(FRONT, EYE, (65.0, 5.0, 2.4))
    rows, columns = np.nonzero(mask[: FRONT.height // 2 + 10])
    near = np.abs(columns - u) < 15.0  # shops have red awnings
    rows, columns = rows[near], columns[near]
    assert len(rows) >= 8
    assert abs(columns.mean() - u) < 4.0
    assert abs(rows.mean() - v) < 4.0
    behind = shoot(renderer, Scene(), Pose(80.0, 1.75, 1.6, 0.0, 180.0))
    u, v, _ = pinhole(FRONT, Pose(80.0, 1.75, 1.6, 0.0, 180.0), (65.0, 5.0, 2.4))
    back = behind[int(v) - 1 : int(v) + 2, int(u) - 1 : int(u) + 2].reshape(-1, 3)
    assert (back[:, 0] < 1.3 * back[:, 1] + 10).all(), "the back of the sign is grey"


def test_a_car_hides_what_is_behind_it(renderer: Renderer) -> None:
    hidden, ahead = box(70.0, 1.75, 0.5), car(62.0, 1.75)
    _, ids = renderer.depth_and_ids(FRONT, EYE, Scene(actors=[hidden]))
    assert (ids == 0).any()
    _, ids = renderer.depth_and_ids(FRONT, EYE, Scene(actors=[hidden, ahead]))
    assert not (ids == 0).any()
    assert (ids == 1).sum() > 100


def test_the_own_body_can_be_left_out(renderer: Renderer) -> None:
    own, other = car(50.0, 1.75), car(62.0, 1.75)
    inside = Pose(50.0, 1.75, 1.0)
    np.testing.assert_array_equal(
        shoot(renderer, Scene(actors=[own, other]), inside, skip=0), shoot(renderer, Scene(actors=[other]), inside)
    )
    assert (shoot(renderer, Scene(actors=[own, other]), inside) != shoot(renderer, Scene(actors=[other]), inside)).any()


def test_a_walker_stands_on_the_ground(renderer: Renderer) -> None:
    walker = SceneActor("walker.pedestrian.0001", Pose(60.0, 1.75, 0.93), (0.19, 0.19, 0.93))
    _, ids = renderer.depth_and_ids(FRONT, EYE, Scene(actors=[walker]))
    rows = np.nonzero((ids == 0).any(axis=1))[0]
    _, top, _ = pinhole(FRONT, EYE, (60.0, 1.75, 1.86))
    _, foot, _ = pinhole(FRONT, EYE, (60.0, 1.75, 0.0))
    assert abs(rows.min() - top) < 2.0
    assert abs(rows.max() + 1 - foot) < 2.0


def test_things_at_the_camera_do_no_harm(renderer: Renderer) -> None:
    actors = [car(50.0, 1.75), car(51.0, 1.0), box(50.0, 1.75, 1.6, 0.4)]
    image = renderer.render([(FRONT, EYE), (FRONT, Pose(50.0, 1.75, 0.01, -90.0))], Scene(actors=actors))
    assert all(picture.shape == (128, 224, 4) and (picture[..., 3] == 255).all() for picture in image)


# --- lights and weather ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "channel"), [(SIGNAL_RED, 0), (SIGNAL_GREEN, 1)])
@pytest.mark.parametrize("weather", [Weather(), NIGHT])
def test_the_lit_lamp_is_readable_from_afar(renderer: Renderer, state: int, channel: int, weather: Weather) -> None:
    lit = shoot(renderer, Scene(weather, traffic_light_states={"7": state}))
    off = shoot(renderer, Scene(weather, traffic_light_states={"7": SIGNAL_OFF}))
    changed = lit[np.abs(lit - off).sum(axis=2) > 150]
    assert len(changed) >= 4, "40 m away a lamp covers at least a few pixels"
    strongest = changed[changed[:, channel].argmax()]
    others = np.delete(strongest, channel)
    assert strongest[channel] > 180
    assert strongest[channel] > 1.5 * others.max()


def test_the_light_shows_red_above_yellow_above_green(renderer: Renderer) -> None:
    off = shoot(renderer, Scene())
    rows = []
    for state in (SIGNAL_RED, SIGNAL_YELLOW, SIGNAL_GREEN):
        lit = shoot(renderer, Scene(traffic_light_states={"7": state}))
        rows.append(np.nonzero(np.abs(lit - off).sum(axis=2) > 100)[0].mean())
    assert rows[0] < rows[1] < rows[2]


def test_brake_lights_show(renderer: Renderer) -> None:
    quiet = shoot(renderer, Scene(actors=[car(65.0, 1.75)]))
    braking = shoot(renderer, Scene(actors=[car(65.0, 1.75, braking=True)]))
    changed = braking[np.abs(braking - quiet).sum(axis=2) > 60]
    assert len(changed) >= 4
    assert changed[:, 0].max() > 200
    assert shoot(renderer, Scene(actors=[car(65.0, 1.75)]), Pose(80.0, 1.75, 1.6, 0.0, 180.0)).max() <= 255


def test_weather_sets_the_brightness(renderer: Renderer) -> None:
    mean = {
        name: shoot(renderer, Scene(weather)).mean()
        for name, weather in {
            "noon": Weather(sun_altitude_angle=70.0),
            "clouds": Weather(cloudiness=100.0, sun_altitude_angle=70.0),
            "dusk": Weather(sun_altitude_angle=3.0),
            "night": NIGHT,
        }.items()
    }
    assert mean["noon"] > mean["clouds"] > mean["dusk"] > mean["night"] > 5.0
    assert mean["night"] < 0.65 * mean["noon"], "street lamps light the road at night"


def test_a_wet_road_is_darker_nearby(renderer: Renderer) -> None:
    dry, wet = (shoot(renderer, Scene(Weather(wetness=w)), Pose(50.0, 1.75, 1.6, -30.0))[64:].mean() for w in (0, 100))
    assert wet < dry - 5.0


def test_fog_hides_what_is_far(renderer: Renderer) -> None:
    far = [car(120.0, 1.75)]

    def contrast(weather: Weather) -> int:
        return int(np.abs(shoot(renderer, Scene(weather, far)) - shoot(renderer, Scene(weather))).max())

    assert contrast(Weather(fog_density=80.0)) < 0.5 * contrast(Weather())


# --- running --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy_scene() -> Scene:
    cars = [car(56.0 + 6.0 * i, 1.75 - 3.5 * (i % 2), braking=i % 3 == 0) for i in range(20)]
    return Scene(actors=cars, traffic_light_states={"7": SIGNAL_RED})


def rig(camera: Camera) -> list[tuple[Camera, Pose]]:
    return [(camera, EYE._replace(yaw_deg=yaw)) for yaw in (0.0, -55.0, 55.0, 180.0, -110.0, 110.0)]


def test_threads_and_repetition_change_nothing(renderer: Renderer, busy_scene: Scene, tmp_path: Path) -> None:
    single = Renderer("road", ROAD, seed=5, threads=1, cache_folder=tmp_path)
    single.render(rig(FRONT), Scene(NIGHT))
    pictures = [r.render(rig(FRONT), busy_scene) for r in (renderer, single, renderer)]
    single.close()
    for other in pictures[1:]:
        for a, b in zip(pictures[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_new_renderer_has_compiled_everything(renderer: Renderer, busy_scene: Scene) -> None:
    kernels = (raster.draw_tiles, raster.draw_shadows, sprites.blend_discs, shade.shade_view, placement.place_bodies)
    for scene in (Scene(), Scene(NIGHT), busy_scene):
        renderer.render(rig(FRONT), scene)
        renderer.render([(Camera(800, 600, 90.0), tuple(EYE))], scene, skip=0)
    assert [len(kernel.signatures) for kernel in kernels] == [1] * len(kernels)


def test_a_frame_takes_little_time(renderer: Renderer, busy_scene: Scene) -> None:
    renderer.render(rig(FRONT), busy_scene)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        renderer.render(rig(FRONT), busy_scene)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15, "six 224x128 images cost about 0.02 s of CPU on an idle machine"


def test_nothing_stands_on_a_lane() -> None:
    opendrive = generate(1)
    carla_map = carla.Map("town", opendrive)
    spots = np.array([(w.transform.location.x, w.transform.location.y) for w in carla_map.generate_waypoints(5.0)])
    town = build(carla_map, opendrive, 1)
    cells = ((spots - town.grid_origin_m) / town.grid_cell_m).astype(int)
    assert (town.obstacle_height_m[cells[:, 0], cells[:, 1]] == 0.0).all()
    assert (town.obstacle_height_m > 0.0).mean() > 0.03


def test_seeds_change_what_stands_beside_the_road() -> None:
    heights = [build(carla.Map("road", ROAD), ROAD, seed).obstacle_height_m for seed in (1, 1, 2)]
    np.testing.assert_array_equal(heights[0], heights[1])
    assert (heights[0] != heights[2]).any()


def test_junctions_are_paved() -> None:
    """From above, the way between any two lanes of a junction shows no grass."""
    opendrive = generate(1)
    carla_map = carla.Map("town", opendrive)
    junctions = {w.get_junction().id: w.get_junction() for w in carla_map.generate_waypoints(4.0) if w.is_junction}
    camera = Camera(256, 256, 60.0)
    made = Renderer("town", opendrive, threads=1)
    for junction in list(junctions.values())[:6]:
        middles = []
        for begin, end in junction.get_waypoints(carla.LaneType.Driving):
            length = begin.transform.location.distance(end.transform.location)
            middles.append((begin.next(max(0.5, length / 2.0))[0]).transform.location)
        centre = np.mean([(p.x, p.y, p.z) for p in middles], axis=0)
        pose = Pose(centre[0], centre[1], centre[2] + 40.0, -90.0)
        image = shoot(made, Scene(), pose, camera)
        for a in middles:
            for f in (0.0, 0.5, 1.0):
                spot = centre + f * (np.array([a.x, a.y, a.z]) - centre)
                u, v, _ = pinhole(camera, pose, tuple(spot))
                red, green, blue = image[int(v), int(u)]
                assert green < 1.15 * max(red, blue), f"grass in junction {junction.id} at {spot}: {(red, green, blue)}"
    made.close()


def test_the_mesh_cache_is_used_and_survives_damage(tmp_path: Path) -> None:
    first = load_or_build("road", ROAD, 5, tmp_path)
    (stored,) = tmp_path.glob("*.npz")
    again = load_or_build("road", ROAD, 5, tmp_path)
    np.testing.assert_array_equal(first.tiles.triangles, again.tiles.triangles)
    assert again.lamps.signal_ids == ("7",)
    stored.write_bytes(stored.read_bytes()[:1000])
    repaired = load_or_build("road", ROAD, 5, tmp_path)
    np.testing.assert_array_equal(first.tiles.vertices, repaired.tiles.vertices)
    assert [path.name for path in tmp_path.iterdir()] == [stored.name], "no temporary file is left"


def test_the_mesh_cache_forgets_what_was_not_used_for_long(tmp_path: Path) -> None:
    for age in range(town_mesh.CACHE_FILES + 3):
        old = tmp_path / f"{age}.npz"
        old.touch()
        os.utime(old, (1e9 - age, 1e9 - age))
    load_or_build("road", ROAD, 5, tmp_path)
    left = {path.stem for path in tmp_path.iterdir()}
    assert len(left) == town_mesh.CACHE_FILES
    assert "0" in left and str(town_mesh.CACHE_FILES + 2) not in left


@pytest.mark.parametrize("name", ["Town01", "Town10HD"])
def test_real_towns_are_drawn(shared_dir: Path, name: str) -> None:
    opendrive = (shared_dir / "towns" / f"{name}.xodr").read_text()
    waypoint = carla.Map(name, opendrive).generate_waypoints(20.0)[3].transform
    pose = Pose(waypoint.location.x, waypoint.location.y, waypoint.location.z + 1.6, 0.0, waypoint.rotation.yaw)
    made = Renderer(name, opendrive, threads=1)
    image = shoot(made, Scene(), pose)
    made.close()
    assert image.std() > 20.0
    assert image[-8:, 92:132].std() < 45.0, "the road before the car is even"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=14, max_size=14), st.floats(-180, 180), st.floats(-90, 90))
def test_any_weather_and_pose_give_an_image(
    renderer: Renderer, weather: list[float], yaw_deg: float, pitch_deg: float
) -> None:
    pose = Pose(50.0, 1.75, 1.6, pitch_deg, yaw_deg)
    (image,) = renderer.render([(Camera(32, 18, 90.0), pose)], Scene(tuple(weather)))
    assert image.dtype == np.uint8 and image.shape == (18, 32, 4)


@pytest.mark.parametrize(
    ("scene", "pose"),
    [
        (Scene(), Pose(math.nan, 0.0, 1.6)),
        (Scene(Weather(cloudiness=math.nan)), EYE),
        (Scene(actors=[car(math.inf, 0.0)]), EYE),
    ],
)
def test_numbers_that_are_none_are_refused(renderer: Renderer, scene: Scene, pose: Pose) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        renderer.render([(FRONT, pose)], scene)


@pytest.mark.parametrize(
    ("width", "height", "fov_deg", "part"), [(0, 10, 70, "0x10"), (10, -1, 70, "10x-1"), (10, 10, 180.0, "180")]
)
def test_impossible_cameras_are_named(width: int, height: int, fov_deg: float, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        Camera(width, height, fov_deg)
