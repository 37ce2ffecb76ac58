"""Draws camera images of a town: static tiles, actors, lights, weather."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from simulator.render import beams, light, opengl, shade
from simulator.render.frame import Frame, Overlay, StandingWorld
from simulator.render.look import NO_LOOK, Look
from simulator.render.models import build_models
from simulator.render.opengl import OpenGlError
from simulator.render.placement import Wardrobe
from simulator.render.raster import NOTHING, SHADOW_BIT, Tiles, View, draw_shadows, draw_tiles
from simulator.render.scene import (
    LIGHT_LOW_BEAM,
    NO_ACTOR,
    SIGNAL_OFF,
    Camera,
    Pose,
    Scene,
    SceneActor,
    Weather,
    axes,
    require_finite,
)
from simulator.render.signals import LAMP_RADIUS_M
from simulator.render.sprites import (
    DISC_COLUMNS,
    LAMP_COLUMNS,
    STREAK_COLUMNS,
    STREAKS,
    blend_discs,
    blend_streaks,
    lamp_discs,
    rain_streaks,
)
from simulator.render.textures import make_textures
from simulator.render.town_mesh import TownMesh, load_or_build, town_seed

SKY = -2
"""Among the ids of actors in a view: nothing is there."""

SUPERSAMPLED_PIXELS = 600 * 400
"""Images up to this size are drawn with 2 x 2 samples per pixel; larger ones are usually reduced by their reader."""

SIGNAL_RGB = ((1.0, 0.03, 0.02), (1.0, 0.62, 0.03), (0.03, 1.0, 0.32))
LAMP_DISTANCE_M = 160.0
STREET_LAMP_RADIUS_M, STREET_LAMP_RGB = 0.16, (1.0, 0.85, 0.6)
STREET_LAMP_HEIGHT_M = 7.0
RAIN_HZ = 20.0
_DAY_HALO, _NIGHT_HALO = 0.3, 0.55
_NO_PAIRS = np.zeros((1, 1), np.int64)
_WARM_UP_ACTOR = SceneActor("vehicle.any", Pose(5.0, 0.0, 0.0), (2.0, 1.0, 0.8), braking=True, lights=LIGHT_LOW_BEAM)
_WARM_UP_WEATHER = Weather(sun_altitude_angle=-30.0, precipitation=50.0, wetness=50.0)


SOFTWARE, OPENGL, AUTO = BACKENDS = ("software", "gl", "auto")


def open_for(backend: str) -> Any:
    """An OpenGL context for a backend that draws with it, or None for software.

    Raises: ValueError for an unknown backend; OpenGlError if OpenGL is asked for and is not there.
    """
    if backend not in BACKENDS:
        raise ValueError(f"renderer {backend!r}: choose {', '.join(BACKENDS)}")
    if backend == SOFTWARE:
        return None
    try:
        context = opengl.open_context()
    except OpenGlError:
        if backend == OPENGL:
            raise
        return None
    if backend == AUTO and not opengl.is_hardware(context):
        context.release()
        return None
    return context


def check_backend(backend: str) -> None:
    """Find out early whether a backend can draw here.

    Raises: OpenGlError if OpenGL is asked for and is not there.
    """
    if backend == OPENGL:
        open_for(backend).release()


def _owners(ids: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Actor of each triangle id by the actors' first triangles: an index, NO_ACTOR for the town, SKY for nothing."""
    owners = np.searchsorted(first, ids & (SHADOW_BIT - 1), side="right").astype(np.int32) - 1
    owners[ids == NOTHING] = SKY
    return owners


def _samples(camera: Camera) -> int:
    """Samples along each side of a pixel."""
    return 2 if camera.width * camera.height <= SUPERSAMPLED_PIXELS else 1


class Renderer:
    """Camera images of one town, on `threads` threads; each image or band of it is drawn by one without the GIL.

    `seed` chooses the look of buildings and plants; by default it follows from the OpenDRIVE text. `look_seed` varies
    colours, patterns and light for training; 0 does not. Meshes are kept in `cache_folder` (default: the user's
    cache). The same scene always gives the same images. `backend` is one of `BACKENDS`: `auto` draws with OpenGL if a
    GPU does it, and in software otherwise. With OpenGL all calls must come from one thread.

    Raises: OpenGlError if OpenGL is asked for and is not there.
    """

    def __init__(
        self,
        name: str,
        opendrive: str,
        *,
        seed: int | None = None,
        look_seed: int = NO_LOOK,
        threads: int = 2,
        cache_folder: Path | None = None,
        backend: str = SOFTWARE,
    ) -> None:
        if threads < 1:
            raise ValueError(f"renderer threads must be at least 1, got {threads}")
        if seed is None:
            seed = town_seed(opendrive)
        context = open_for(backend)
        self._town = load_or_build(name, opendrive, seed, cache_folder)
        self._look = Look.draw(look_seed)
        tiles, models = self._town.tiles, build_models()
        nobody = np.full(len(tiles.ranges), NO_ACTOR - 1, np.int32)
        self._tiles = Tiles(
            tiles.vertices, tiles.triangles, tiles.names, tiles.bounds, tiles.ranges, tiles.view_distances, nobody
        )
        self._surfaces = self._look.tint(tiles.surfaces)
        textures = make_textures(self._look.texture_seed, self._look.texture_contrast)
        self.world = StandingWorld(
            tiles=tiles,
            models=models,
            textures=textures,
            noise=shade.noise_texture(),
            grid_origin_m=self._town.grid_origin_m,
            grid_cell_m=float(self._town.grid_cell_m),
        )
        self._wardrobe = Wardrobe(models, look_seed)
        self._ground = np.full((*self._town.obstacle_height_m.shape, 2), 255, np.uint8)
        self._ground[..., 1] = self._town.street_light
        self._ground_sun: tuple[float, float] | None = None
        self._beams = np.zeros(self._town.obstacle_height_m.shape, np.uint8)
        self._signal_place = {signal_id: i for i, signal_id in enumerate(self._town.lamps.signal_ids)}
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="render")
        self._free_buffers: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        self._painter = None if context is None else opengl.Painter(context, self.world, self._surfaces, self._tiles)
        software = f"in software, {threads} thread{'s' if threads > 1 else ''}"
        self.drawn_by = software if context is None else f"by OpenGL on {opengl.device_name(context)}"
        """What draws, as the end of a sentence on cameras that "are drawn ..." """
        # Compile (once per machine) or load every kernel now: nobody expects a later frame to take seconds.
        self.render([(Camera(8, 8, 90.0), Pose(0.0, 0.0, 2.0))], Scene(_WARM_UP_WEATHER, [_WARM_UP_ACTOR]))

    @property
    def mesh(self) -> TownMesh:
        """The static part of the town."""
        return self._town

    @property
    def triangle_count(self) -> int:
        """Static triangles of the town."""
        return len(self._town.tiles.triangles)

    def close(self) -> None:
        """Stop the threads; the renderer draws no more."""
        self._pool.shutdown()
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    def render(
        self, cameras: Sequence[tuple[Camera, Sequence[float]]], scene: Scene, *, skip: int = NO_ACTOR
    ) -> list[np.ndarray]:
        """One BGRA image (h, w, 4) uint8 per camera and pose; `skip` is the index of an actor to leave out."""
        for _, pose in cameras:
            require_finite("camera pose", pose)
        frame = self.prepare(scene)
        if self._painter is not None:
            views = [self._view(camera, pose, frame, skip) for camera, pose in cameras]
            return self._painter.paint(views, [_samples(camera) for camera, _ in cameras], frame, skip)
        images = [np.empty((camera.height, camera.width, 4), np.uint8) for camera, _ in cameras]
        bands = max(1, self._threads // max(len(cameras), 1))
        jobs = []
        for (camera, pose), image in zip(cameras, images, strict=True):
            edges = [camera.height * k // bands for k in range(bands + 1)]
            for first, end in itertools.pairwise(edges):
                if end > first:
                    jobs.append(self._pool.submit(self._draw, camera, pose, frame, skip, image[first:end], first))
        for job in jobs:
            job.result()
        return images

    def depth_and_ids(
        self, camera: Camera, pose: Sequence[float], scene: Scene, *, skip: int = NO_ACTOR
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth along the optical axis (h, w) float32 in metres, inf for sky, and actor ids (h, w) int32.

        Ids are indices into `scene.actors`, -1 for the town, -2 for the sky.
        """
        inverse, ids, first = self._visible(camera, pose, scene, skip)
        with np.errstate(divide="ignore"):
            depth = np.float32(1.0) / inverse
        return depth, _owners(ids, first)

    def labels_and_ids(
        self, camera: Camera, pose: Sequence[float], scene: Scene, *, skip: int = NO_ACTOR
    ) -> tuple[np.ndarray, np.ndarray]:
        """CityObjectLabel of the town's surfaces (h, w) uint8, 0 elsewhere, and ids as from `depth_and_ids`."""
        _, ids, first = self._visible(camera, pose, scene, skip)
        owners = _owners(ids, first)
        town = np.where(owners == NO_ACTOR, ids & (SHADOW_BIT - 1), 0)
        return np.where(owners == NO_ACTOR, self._town.tiles.labels[town], 0).astype(np.uint8), owners

    def _visible(
        self, camera: Camera, pose: Sequence[float], scene: Scene, skip: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """1/depth (h, w) and triangle ids (h, w) of a view, and the first triangle id of each actor."""
        require_finite("camera pose", pose)
        frame = self.prepare(scene)
        if self._painter is not None:
            inverse, ids = self._painter.visibility(self._view(camera, pose, frame, skip), frame, skip)
        else:
            view = self._raster(camera, pose, frame, skip, samples=1, rows=(0, camera.height))
            inverse, ids = view.inverse_depth, view.ids
        return inverse, ids, frame.bodies.tiles.ranges[:, 2] + self.triangle_count

    # --- one frame ------------------------------------------------------------------------------------------------

    def prepare(self, scene: Scene) -> Frame:
        """Everything the views of a scene share."""
        require_finite("weather", scene.weather)
        weather = Weather(*scene.weather)
        self._cast_shadows(light.snapped_sun(weather))
        sun = light.sun_direction(weather.sun_azimuth_angle, weather.sun_altitude_angle)
        bodies = self._wardrobe.place(scene.actors, sun, scene.time_s)
        vector = self._look.relight(light.light_vector(weather))
        lamps = [self._lit_signals(scene), bodies.lamps]
        if vector[shade.NIGHT] > 0.0:
            lamps.append(self._street_lamps(vector[shade.NIGHT]))
            beams.stamp(bodies.beams, self._town.grid_origin_m, self.world.grid_cell_m, self._beams)
        return Frame(
            bodies=bodies,
            light=vector,
            ground=self._ground,
            beams=self._beams,
            lamps=np.concatenate(lamps),
            wind=min(max(weather.wind_intensity, 0.0), 100.0) / 100.0,
            time_s=scene.time_s,
        )

    def _cast_shadows(self, sun_deg: tuple[float, float]) -> None:
        if sun_deg != self._ground_sun:
            ground = self._ground.copy()
            sun = light.sun_direction(*sun_deg)
            light.cast_static_shadows(self._town.obstacle_height_m, self.world.grid_cell_m, sun, ground[..., 0])
            self._ground, self._ground_sun = ground, sun_deg

    def _lit_signals(self, scene: Scene) -> np.ndarray:
        """The shining traffic light lamps as sprites (n, LAMP_COLUMNS)."""
        lamps = self._town.lamps
        states = np.full(len(lamps.signal_ids), SIGNAL_OFF)
        for signal_id, state in scene.traffic_light_states.items():
            place = self._signal_place.get(str(signal_id))
            if place is not None:
                states[place] = int(state)
        shining = lamps.aspect == states[lamps.signal] if len(lamps.signal) else np.zeros(0, bool)
        table = np.zeros((int(shining.sum()), LAMP_COLUMNS), np.float32)
        table[:, :3], table[:, 3:6] = lamps.positions[shining], lamps.normals[shining]
        table[:, 6], table[:, 10] = LAMP_RADIUS_M, NO_ACTOR
        table[:, 7:10] = np.array(SIGNAL_RGB)[lamps.aspect[shining]]
        table[:, 11] = lamps.heights[shining]
        return table

    def _street_lamps(self, night: float) -> np.ndarray:
        lamps = np.zeros((len(self._town.street_lamps), LAMP_COLUMNS), np.float32)
        lamps[:, :3] = self._town.street_lamps
        lamps[:, 5] = -1.0
        lamps[:, 6] = STREET_LAMP_RADIUS_M
        lamps[:, 7:10] = np.array(STREET_LAMP_RGB) * night
        lamps[:, 10], lamps[:, 11] = NO_ACTOR, STREET_LAMP_HEIGHT_M
        return lamps

    # --- one view -------------------------------------------------------------------------------------------------

    def _draw(
        self, camera: Camera, pose: Sequence[float], frame: Frame, skip: int, image: np.ndarray, first_row: int
    ) -> None:
        """Draw the rows of a view from `first_row` on into `image` (rows, w, 4)."""
        samples = _samples(camera)
        view = self._raster(camera, pose, frame, skip, samples, (first_row, first_row + len(image)))
        world, vector = self.world, frame.light
        around = shade.Surroundings(
            vector, world.noise, world.textures, frame.ground, frame.beams, world.grid_origin_m, world.grid_cell_m
        )
        pixels, scratch = image.view(np.uint32)[..., 0], shade.scratch_of(camera.width, samples)
        pairs = view.ids.view(np.int64) if samples == 2 else _NO_PAIRS
        shade.shade_view(self._surfaces, frame.bodies.surfaces, samples, view, around, pixels, scratch, pairs)
        overlay = self._overlay(camera, view.eye, view.axis, frame, skip)
        blend_discs(overlay.discs, overlay.halo, samples, self._surfaces, view, image)
        blend_streaks(overlay.streaks, overlay.lean, overlay.brightness, first_row, image)
        self._free_buffers.setdefault(view.ids.shape, []).append((view.inverse_depth, view.ids))

    def _view(self, camera: Camera, pose: Sequence[float], frame: Frame, skip: int) -> opengl.View:
        eye, axis = np.array(pose[:3], np.float64), axes(pose)
        return opengl.View(camera, pose, self._overlay(camera, eye, axis, frame, skip))

    def _overlay(self, camera: Camera, eye: np.ndarray, axis: np.ndarray, frame: Frame, skip: int) -> Overlay:
        """The lamps and the rain that are laid over a view's image."""
        vector = frame.light
        halo = _DAY_HALO + (_NIGHT_HALO - _DAY_HALO) * float(vector[shade.NIGHT])
        near = np.abs(frame.lamps[:, :2] - eye[:2]).max(axis=1) < LAMP_DISTANCE_M
        lamps = frame.lamps[near]
        weather = (float(vector[shade.FOG_EXTINCTION]), halo, float(vector[shade.WETNESS]))
        lens = (eye, axis, camera.focal_px, camera.width, camera.height, skip)
        discs = np.empty((2 * len(lamps), DISC_COLUMNS))
        discs = discs[: lamp_discs(lamps, weather, lens, discs)]
        streaks = np.empty((STREAKS, STREAK_COLUMNS))
        step = round(frame.time_s * RAIN_HZ)
        drops = rain_streaks(float(vector[shade.RAIN]), step, axis, camera.width, camera.height, streaks)
        brightness = 75.0 + 145.0 * float(np.sqrt(min(1.0, vector[shade.HORIZON + 1])))
        return Overlay(discs, halo, streaks[:drops], 0.05 + 0.35 * frame.wind, brightness)

    def _raster(
        self, camera: Camera, pose: Sequence[float], frame: Frame, skip: int, samples: int, rows: tuple[int, int]
    ) -> View:
        """The view with 1/depth and triangle ids of all samples of a band of rows drawn."""
        first, end = rows
        inverse, ids = self._buffers((end - first) * samples, camera.width * samples)
        eye = np.array(pose[:3], np.float64)
        focal, full_rows = camera.focal_px * samples, camera.height * samples
        view = View(eye, axes(pose), focal, skip, first * samples, full_rows, inverse, ids)
        bodies = frame.bodies
        draw_tiles(bodies.tiles, self.triangle_count, view)
        draw_tiles(self._tiles, 0, view)
        draw_shadows(bodies.shadows, bodies.shadow_normals, self.triangle_count, view, np.empty((12, 5)))
        return view

    def _buffers(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            inverse, ids = self._free_buffers[rows, columns].pop()
        except (KeyError, IndexError):
            inverse, ids = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.int32)
        inverse.fill(0.0)
        ids.fill(NOTHING)
        return inverse, ids
