"""Draws camera images of a town: static tiles, actors, lights, weather."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.render import light, shade
from simulator.render.bodies import build_models
from simulator.render.placement import Bodies, Wardrobe
from simulator.render.raster import NOTHING, SHADOW_BIT, Tiles, View, draw_shadows, draw_tiles, splat_lamps
from simulator.render.scene import NO_ACTOR, SIGNAL_OFF, Camera, Pose, Scene, SceneActor, Weather, axes, require_finite
from simulator.render.signals import LAMP_RADIUS_M
from simulator.render.town_mesh import load_or_build

SUPERSAMPLED_PIXELS = 600 * 400
"""Images up to this size are drawn with 2 x 2 samples per pixel; larger ones are usually reduced by their reader."""

SIGNAL_RGB = ((1.0, 0.03, 0.02), (1.0, 0.62, 0.03), (0.03, 1.0, 0.32))
LAMP_DISTANCE_M = 160.0
STREET_LAMP_RADIUS_M, STREET_LAMP_RGB = 0.16, (1.0, 0.85, 0.6)
_DAY_HALO, _NIGHT_HALO = 0.22, 0.55
_WARM_UP_ACTOR = SceneActor("vehicle.any", Pose(5.0, 0.0, 0.0), (2.0, 1.0, 0.8), braking=True)


@dataclass(frozen=True)
class _Frame:
    """What all views of one frame share."""

    bodies: Bodies
    light: np.ndarray
    ground: np.ndarray
    lamps: np.ndarray
    """(n, 11) sprites of traffic lights, street lamps and actors"""


class Renderer:
    """Camera images of one town, on `threads` threads; each image is drawn by one of them without the GIL.

    `seed` chooses the look of buildings and plants; by default it follows from the OpenDRIVE text. Meshes are kept
    in `cache_folder` (default: the user's cache). The same scene always gives the same images.
    """

    def __init__(
        self,
        name: str,
        opendrive: str,
        *,
        seed: int | None = None,
        threads: int = 2,
        cache_folder: Path | None = None,
    ) -> None:
        if threads < 1:
            raise ValueError(f"renderer threads must be at least 1, got {threads}")
        if seed is None:
            seed = int.from_bytes(hashlib.sha256(opendrive.encode()).digest()[:4], "little")
        self._town = load_or_build(name, opendrive, seed, cache_folder)
        tiles = self._town.tiles
        nobody = np.full(len(tiles.ranges), NO_ACTOR - 1, np.int32)
        self._tiles = Tiles(tiles.vertices, tiles.triangles, tiles.bounds, tiles.ranges, tiles.view_distances, nobody)
        self._wardrobe = Wardrobe(build_models())
        self._noise = shade.noise_texture()
        self._ground = np.full((*self._town.obstacle_height_m.shape, 2), 255, np.uint8)
        self._ground[..., 1] = self._town.street_light
        self._ground_sun: tuple[float, float] | None = None
        self._signal_place = {signal_id: i for i, signal_id in enumerate(self._town.lamps.signal_ids)}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="render")
        self._free_buffers: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        # Compile (once per machine) or load every kernel now: nobody expects a later frame to take seconds.
        self.render([(Camera(8, 8, 90.0), Pose(0.0, 0.0, 2.0))], Scene(actors=[_WARM_UP_ACTOR]))

    @property
    def triangle_count(self) -> int:
        """Static triangles of the town."""
        return len(self._town.tiles.triangles)

    def close(self) -> None:
        """Stop the threads; the renderer draws no more."""
        self._pool.shutdown()

    def render(
        self, cameras: Sequence[tuple[Camera, Sequence[float]]], scene: Scene, *, skip: int = NO_ACTOR
    ) -> list[np.ndarray]:
        """One BGRA image (h, w, 4) uint8 per camera and pose; `skip` is the index of an actor to leave out."""
        for _, pose in cameras:
            require_finite("camera pose", pose)
        frame = self._prepare(scene)
        jobs = [self._pool.submit(self._draw, camera, pose, frame, skip) for camera, pose in cameras]
        return [job.result() for job in jobs]

    def depth_and_ids(
        self, camera: Camera, pose: Sequence[float], scene: Scene, *, skip: int = NO_ACTOR
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth along the optical axis (h, w) float32 in metres, inf for sky, and actor ids (h, w) int32.

        Ids are indices into `scene.actors`, -1 for the town, -2 for the sky.
        """
        require_finite("camera pose", pose)
        frame = self._prepare(scene)
        view = self._raster(camera, pose, frame, skip, samples=1)
        with np.errstate(divide="ignore"):
            depth = np.float32(1.0) / view.inverse_depth
        first = frame.bodies.tiles.ranges[:, 2] + self.triangle_count
        triangles = view.ids & (SHADOW_BIT - 1)
        actors = np.searchsorted(first, triangles, side="right").astype(np.int32) - 1
        actors[view.ids == NOTHING] = -2
        return depth, actors

    # --- one frame ------------------------------------------------------------------------------------------------

    def _prepare(self, scene: Scene) -> _Frame:
        require_finite("weather", scene.weather)
        weather = Weather(*scene.weather)
        self._cast_shadows(light.snapped_sun(weather))
        sun = light.sun_direction(weather.sun_azimuth_angle, weather.sun_altitude_angle)
        bodies = self._wardrobe.place(scene.actors, sun)
        vector = light.light_vector(weather)
        lamps = [self._lit_signals(scene), bodies.lamps]
        if vector[shade.NIGHT] > 0.0:
            lamps.append(self._street_lamps(vector[shade.NIGHT]))
        return _Frame(bodies=bodies, light=vector, ground=self._ground, lamps=np.concatenate(lamps))

    def _cast_shadows(self, sun_deg: tuple[float, float]) -> None:
        if sun_deg != self._ground_sun:
            ground = self._ground.copy()
            sun = light.sun_direction(*sun_deg)
            light.cast_static_shadows(self._town.obstacle_height_m, float(self._town.grid_cell_m), sun, ground[..., 0])
            self._ground, self._ground_sun = ground, sun_deg

    def _lit_signals(self, scene: Scene) -> np.ndarray:
        """The shining traffic light lamps as sprites (n, 11)."""
        lamps = self._town.lamps
        states = np.full(len(lamps.signal_ids), SIGNAL_OFF)
        for signal_id, state in scene.traffic_light_states.items():
            place = self._signal_place.get(str(signal_id))
            if place is not None:
                states[place] = int(state)
        shining = lamps.aspect == states[lamps.signal] if len(lamps.signal) else np.zeros(0, bool)
        count = int(shining.sum())
        colours = np.array(SIGNAL_RGB)[lamps.aspect[shining]].reshape(count, 3)
        radius, owner = np.full((count, 1), LAMP_RADIUS_M), np.full((count, 1), NO_ACTOR)
        table = [lamps.positions[shining], lamps.normals[shining], radius, colours, owner]
        return np.concatenate(table, axis=1).astype(np.float32)

    def _street_lamps(self, night: float) -> np.ndarray:
        lamps = np.zeros((len(self._town.street_lamps), 11), np.float32)
        lamps[:, :3] = self._town.street_lamps
        lamps[:, 5] = -1.0
        lamps[:, 6] = STREET_LAMP_RADIUS_M
        lamps[:, 7:10] = np.array(STREET_LAMP_RGB) * night
        lamps[:, 10] = NO_ACTOR
        return lamps

    # --- one view -------------------------------------------------------------------------------------------------

    def _draw(self, camera: Camera, pose: Sequence[float], frame: _Frame, skip: int) -> np.ndarray:
        samples = 2 if camera.width * camera.height <= SUPERSAMPLED_PIXELS else 1
        view = self._raster(camera, pose, frame, skip, samples)
        image = np.empty((camera.height, camera.width, 4), np.uint8)
        town = self._town
        around = shade.Surroundings(frame.light, self._noise, frame.ground, town.grid_origin_m, float(town.grid_cell_m))
        shade.shade_view(town.tiles.surfaces, frame.bodies.surfaces, samples, view, around, image)
        halo = _DAY_HALO + (_NIGHT_HALO - _DAY_HALO) * frame.light[shade.NIGHT]
        near = np.abs(frame.lamps[:, :2] - view.eye[:2]).max(axis=1) < LAMP_DISTANCE_M
        splat_lamps(frame.lamps[near], samples, frame.light[shade.FOG_EXTINCTION], halo, view, image)
        self._free_buffers.setdefault(view.ids.shape, []).append((view.inverse_depth, view.ids))
        return image

    def _raster(self, camera: Camera, pose: Sequence[float], frame: _Frame, skip: int, samples: int) -> View:
        """The view with 1/depth and triangle ids of all samples drawn."""
        inverse, ids = self._buffers(camera.height * samples, camera.width * samples)
        eye = np.array(pose[:3], np.float64)
        view = View(eye, axes(pose), camera.focal_px * samples, skip, inverse, ids)
        bodies = frame.bodies
        draw_tiles(bodies.tiles, self.triangle_count, view)
        draw_tiles(self._tiles, 0, view)
        draw_shadows(bodies.shadows, bodies.shadow_normals, self.triangle_count, view)
        return view

    def _buffers(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            inverse, ids = self._free_buffers[rows, columns].pop()
        except (KeyError, IndexError):
            inverse, ids = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.int32)
        inverse.fill(0.0)
        ids.fill(NOTHING)
        return inverse, ids
