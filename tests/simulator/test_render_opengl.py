"""The OpenGL backend against the software renderer, the translation of shading functions, and the choice of backend."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from simulator.render import OpenGlError, Renderer, Scene, Weather, opengl, shade
from simulator.render.glsl import TranslationError, translate
from simulator.render.renderer import open_for
from simulator.render.scene import (
    LIGHT_LOW_BEAM,
    LIGHT_POSITION,
    LIGHT_SPECIAL_1,
    SIGNAL_GREEN,
    SIGNAL_RED,
    Camera,
    Pose,
)
from tests.simulator.test_render import EYE, FRONT, ROAD, car, shoot
from tests.simulator.test_render_looks import body, preset

BEAMS = LIGHT_POSITION | LIGHT_LOW_BEAM
CLEAR_DIFFERENCE = 12
"""Grey levels by which a pixel must differ to count."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Renderer, Renderer]]:
    """The same road drawn in software and by OpenGL (any driver, also one that computes on the CPU)."""
    folder = tmp_path_factory.mktemp("meshes")
    software = Renderer("road", ROAD, seed=5, cache_folder=folder)
    try:
        by_opengl = Renderer("road", ROAD, seed=5, cache_folder=folder, backend="gl")
    except OpenGlError as error:
        software.close()
        pytest.skip(str(error))
    yield software, by_opengl
    by_opengl.close()
    software.close()


def street(name: str) -> Scene:
    """Cars, an ambulance with its siren, people, a red light."""
    siren = body("vehicle.ford.ambulance", Pose(80.0, -1.75, 0.0, 0.0, 180.0), lights=BEAMS | LIGHT_SPECIAL_1)
    rider = body("vehicle.gazelle.omafiets", Pose(57.0, 3.0, 0.0), speed_mps=4.0, travelled_m=1.3)
    people = [body("walker.pedestrian.0003", Pose(60.0, 4.4, 0.1), speed_mps=1.4, travelled_m=0.4)]
    actors = [car(62.0, -1.75, braking=True), car(75.0, 1.75), siren, rider, *people]
    return Scene(preset(name), actors, {"7": SIGNAL_RED}, time_s=1.0)


@pytest.mark.parametrize("name", ["ClearNoon", "WetSunset", "HardRainNoon", "ClearNight", "HardRainNight"])
def test_both_backends_draw_the_same(both: tuple[Renderer, Renderer], name: str) -> None:
    """Measured with llvmpipe: mean difference 0.09 to 0.17 grey levels, at most 0.13 % of pixels clearly different."""
    scene = street(name)
    software, by_opengl = (shoot(renderer, scene) for renderer in both)
    difference = np.abs(software - by_opengl)
    assert software.std() > 15.0, "there is something to compare"
    assert difference.mean() < 0.5
    assert (difference.max(axis=2) > CLEAR_DIFFERENCE).mean() < 0.005


def test_a_large_picture_and_other_angles_agree_too(both: tuple[Renderer, Renderer]) -> None:
    scene, pose = street("ClearNoon"), EYE._replace(pitch_deg=-6.0, yaw_deg=25.0, roll_deg=4.0)
    software, by_opengl = (shoot(renderer, scene, pose, Camera(640, 401, 100.0)) for renderer in both)
    difference = np.abs(software - by_opengl)
    assert difference.mean() < 0.5
    assert (difference.max(axis=2) > CLEAR_DIFFERENCE).mean() < 0.005


def test_depth_and_outlines_agree(both: tuple[Renderer, Renderer]) -> None:
    (depth, ids), (other_depth, other_ids) = (r.depth_and_ids(FRONT, EYE, street("ClearNoon")) for r in both)
    assert len(set(np.unique(ids))) >= 6, "sky, town, four bodies or more"
    same = ids == other_ids
    assert same.mean() > 0.998
    ground = same & (ids != -2)
    assert np.percentile(np.abs(depth[ground] - other_depth[ground]) / depth[ground], 99.5) < 1e-3


def test_several_views_and_a_hidden_body(both: tuple[Renderer, Renderer]) -> None:
    """Views of one call do not disturb each other, and the body that carries the cameras is left out."""
    scene = street("ClearNoon")
    views = [(FRONT, EYE), (FRONT, EYE._replace(yaw_deg=120.0)), (Camera(96, 64, 110.0), EYE)]
    for skip in (-1, 0):
        software, by_opengl = (renderer.render(views, scene, skip=skip) for renderer in both)
        for a, b in zip(software, by_opengl, strict=True):
            assert np.abs(a.astype(int) - b).mean() < 0.5
    again = both[1].render(views, scene, skip=0)
    for a, b in zip(by_opengl, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_scenes_change_what_opengl_draws(both: tuple[Renderer, Renderer]) -> None:
    """Lights, sun and actors reach the GPU anew with each frame."""
    red, green = (Scene(traffic_light_states={"7": state}) for state in (SIGNAL_RED, SIGNAL_GREEN))
    low_sun = Scene(Weather(sun_altitude_angle=12.0))
    for scene in (red, green, low_sun, Scene(actors=[car(60.0, 1.75)]), Scene()):
        software, by_opengl = (shoot(renderer, scene) for renderer in both)
        assert np.abs(software - by_opengl).mean() < 0.5


# --- choice of the backend ------------------------------------------------------------------------------------------


def test_auto_never_takes_opengl_that_computes_on_the_cpu() -> None:
    try:
        context = opengl.open_context()
    except OpenGlError:
        assert open_for("auto") is None
        return
    hardware = opengl.is_hardware(context)
    context.release()
    chosen = open_for("auto")
    assert (chosen is not None) == hardware
    if chosen is not None:
        chosen.release()


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="directx"):
        open_for("directx")


def test_opengl_without_a_driver_is_one_clear_line(tmp_path: Path) -> None:
    """No GPU driver, or no moderngl: what to do is said before anything is loaded."""
    command = [sys.executable, "-m", "simulator", "serve", "--town", "Gen01", "--port", "0", "--renderer", "gl"]
    # An empty list of vendors hides every EGL driver.
    environment = {**os.environ, "__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json")}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith("error: renderer gl: ") and "software" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not result.stdout


# --- translation ----------------------------------------------------------------------------------------------------


def test_translation_keeps_types_and_takes_constants_along() -> None:
    text = translate([shade._clamp01, shade._hash01, shade._level])
    assert "float _clamp01(float value_)" in text and "min(1.0, max(0.0, value_))" in text
    assert "float _hash01(int i_, int j_, int k_)" in text
    assert f"const int SIDE = {shade.SIDE};" in text and f"const int LEVELS = {shade.LEVELS};" in text
    assert "while (((texel_m_ < footprint_m_) && (level_ < (LEVELS - 1))))" in text


def unusable(value):
    return [value]


def test_what_cannot_be_translated_is_named() -> None:
    with pytest.raises(TranslationError, match=r"unusable.*\[value\]"):
        translate([unusable])
