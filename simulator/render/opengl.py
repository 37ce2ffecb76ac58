"""Draws camera images with OpenGL: the same triangles, lamps and rain as in software, shaded by the same formulas.

As in software, each sample first gets the number and 1/depth of what it shows; a second pass shades pixels. The
context is EGL's, without a window, and belongs to the thread that made it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from simulator.render import shaders
from simulator.render.frame import Frame, Overlay, StandingWorld
from simulator.render.raster import NEAR_M, SHADOW_DISTANCE_M, Tiles, visible_tiles
from simulator.render.scene import Camera, axes

SOFTWARE_NAMES: Final = ("llvmpipe", "softpipe", "swrast", "swiftshader", "software")
"""Parts of the names of OpenGL drivers that compute on the CPU."""

LARGEST_ID: Final = 1 << 24
"""Numbers of triangles are kept as float32."""

_NEEDED_VERSION: Final = 430
_NAMES, _STILL, _BODIES, _TEXELS = range(4)
"""Bindings of the storage buffers in the shaders."""

_VISIBLE, _SHADOWS, _NOISE, _GROUND, _BEAMS, _SHADED = range(6)
"""Texture units."""


class OpenGlError(Exception):
    """OpenGL cannot be used here; the text names the cause and the remedy."""


def open_context() -> Any:
    """An OpenGL context (`moderngl.Context`) without a window.

    Raises: OpenGlError.
    """
    try:
        moderngl = importlib.import_module("moderngl")
    except ImportError as error:
        raise OpenGlError(
            "drawing with OpenGL needs the package moderngl: pip install moderngl, or draw in software"
        ) from error
    try:
        return moderngl.create_context(standalone=True, backend="egl", require=_NEEDED_VERSION)
    except Exception as error:  # glcontext raises nothing narrower
        raise OpenGlError(
            f"no OpenGL 4.3 without a display ({error}): install the GPU's driver with EGL, or draw in software"
        ) from error


def device_name(context: Any) -> str:
    return str(context.info["GL_RENDERER"])


def is_hardware(context: Any) -> bool:
    """Whether a GPU draws, and not a program that stands in for one."""
    name = device_name(context).lower()
    return not any(part in name for part in SOFTWARE_NAMES)


class View(NamedTuple):
    """A camera in its place, with what is laid over its image."""

    camera: Camera
    pose: Sequence[float]
    overlay: Overlay


class _Targets(NamedTuple):
    """Where a view of one size is drawn."""

    visible: Any
    visible_buffer: Any
    mask: Any
    mask_buffer: Any
    shaded: Any
    shaded_buffer: Any
    final_buffer: Any
    samples: int


class Painter:
    """Draws views of one town in one context."""

    def __init__(self, context: Any, world: StandingWorld, surfaces: np.ndarray, tiles: Tiles) -> None:
        self._context = context
        self._world = world
        self._tiles = tiles
        self._still_count = len(surfaces)
        self._programs = {
            name: context.program(vertex_shader=vertex, fragment_shader=fragment)
            for name, (vertex, fragment) in shaders.programs(world.textures).items()
        }
        self._still = _Soup(context, self._programs["tiles"], tiles)
        self._surfaces = context.buffer(np.ascontiguousarray(surfaces, np.float32).tobytes())
        words = np.ascontiguousarray(world.textures.texels, np.uint8).tobytes()
        self._texels = context.buffer(words + bytes(-len(words) % 4))
        self._noise = context.texture(world.noise.shape[::-1], 1, world.noise.astype("f4").tobytes(), dtype="f4")
        self._ground: Any = None
        self._ground_of: np.ndarray | None = None
        self._beams: Any = None
        self._screen = context.vertex_array(self._programs["shade"], [])
        self._targets: dict[tuple[int, int, int, int], _Targets] = {}

    def paint(self, views: Sequence[View], samples: Sequence[int], frame: Frame, skip: int) -> list[np.ndarray]:
        """One BGRA image (h, w, 4) uint8 per view, with `samples` squared samples per pixel."""
        bodies = self._upload(frame)
        drawn = []
        for number, (view, side) in enumerate(zip(views, samples, strict=True)):
            targets = self._targets_of(view.camera, side, number)
            self._see(view, targets, bodies, frame, skip)
            self._shade(view, targets, frame)
            drawn.append((view.camera, self._lay_over(view, targets)))
        images = []
        for camera, buffer in drawn:
            image = np.empty((camera.height, camera.width, 4), np.uint8)
            buffer.read_into(image, components=4)
            images.append(image)
        self._release(bodies)
        return images

    def visibility(self, view: View, frame: Frame, skip: int) -> tuple[np.ndarray, np.ndarray]:
        """1/depth (h, w) float32 and ids (h, w) int32 without shadows, one sample per pixel."""
        bodies = self._upload(frame)
        targets = self._targets_of(view.camera, 1, 0)
        self._see(view, targets, bodies, frame, skip)
        seen = np.frombuffer(targets.visible.read(), np.float32).reshape(view.camera.height, view.camera.width, 2)
        self._release(bodies)
        return seen[..., 1].copy(), np.rint(seen[..., 0]).astype(np.int32) - 1

    def close(self) -> None:
        """Give everything back; the painter draws no more."""
        self._context.release()

    # --- one frame ------------------------------------------------------------------------------------------------

    def _upload(self, frame: Frame) -> tuple[_Soup, Any, _Shadows]:
        """The frame's bodies, their surfaces and shadows; what lies on the ground goes into its textures."""
        if frame.ground is not self._ground_of:
            self._ground = self._grid(self._ground, frame.ground, 2)
            self._ground_of = frame.ground
        self._beams = self._grid(self._beams, frame.beams, 1)
        bodies = frame.bodies
        if self._still_count + len(bodies.surfaces) >= LARGEST_ID:
            raise ValueError(f"{self._still_count} + {len(bodies.surfaces)} triangles: at most {LARGEST_ID} are drawn")
        surfaces = self._context.buffer(np.ascontiguousarray(bodies.surfaces, np.float32).tobytes() or bytes(4))
        return (
            _Soup(self._context, self._programs["tiles"], bodies.tiles),
            surfaces,
            _Shadows(bodies.shadows, bodies.shadow_normals),
        )

    def _release(self, bodies: tuple[_Soup, Any, _Shadows]) -> None:
        bodies[0].release()
        bodies[1].release()

    def _grid(self, texture: Any, values: np.ndarray, components: int) -> Any:
        if texture is None:
            return self._context.texture(values.shape[1::-1], components, values.tobytes(), alignment=1)
        texture.write(values.tobytes(), alignment=1)
        return texture

    def _targets_of(self, camera: Camera, samples: int, number: int) -> _Targets:
        key = camera.width, camera.height, samples, number
        if key not in self._targets:
            fine, size = (camera.width * samples, camera.height * samples), (camera.width, camera.height)
            context = self._context
            visible, mask = context.texture(fine, 2, dtype="f4"), context.texture(fine, 1)
            shaded, final = context.texture(size, 4), context.texture(size, 4)
            self._targets[key] = _Targets(
                visible,
                context.framebuffer([visible], context.depth_texture(fine)),
                mask,
                context.framebuffer([mask]),
                shaded,
                context.framebuffer([shaded]),
                context.framebuffer([final]),
                samples,
            )
        return self._targets[key]

    # --- one view -------------------------------------------------------------------------------------------------

    def _see(self, view: View, targets: _Targets, bodies: tuple[_Soup, Any, _Shadows], frame: Frame, skip: int) -> None:
        """Draw ids and 1/depth of all samples, and mark where shadows of bodies fall."""
        context, camera = self._context, view.camera
        soup, surfaces, shadows = bodies
        eye, axis = np.array(view.pose[:3], np.float64), axes(view.pose)
        focal = camera.focal_px * targets.samples
        lens = {
            "eye": tuple(eye), "forward": tuple(axis[0]), "right": tuple(axis[1]), "up": tuple(axis[2]),
            "scale": (2.0 * camera.focal_px / camera.width, 2.0 * camera.focal_px / camera.height),
            "focal": focal, "still_count": self._still_count, "samples": targets.samples,
        }  # fmt: skip
        targets.visible_buffer.use()
        targets.visible_buffer.clear(0.0, 0.0, 0.0, 0.0, depth=0.0)
        context.enable_only(context.DEPTH_TEST | context.CULL_FACE)
        context.depth_func = ">"
        reach = (eye, axis, camera.focal_px, float(camera.width), skip), (0.5 * camera.height, 0.5 * camera.height)
        for base, drawn, tiles in ((self._still_count, soup, frame.bodies.tiles), (0, self._still, self._tiles)):
            _set(self._programs["tiles"], **lens, base_id=base)
            drawn.draw(visible_tiles(tiles, *reach))
        targets.mask_buffer.use()
        targets.mask_buffer.clear()
        context.enable_only(context.NOTHING)
        targets.visible.use(_VISIBLE)
        _set(self._programs["shadows"], **lens, visible=_VISIBLE)
        shadows.draw(context, self._programs["shadows"], eye, axis, skip)
        surfaces.bind_to_storage_buffer(_BODIES)
        _set(self._programs["shade"], **lens)

    def _shade(self, view: View, targets: _Targets, frame: Frame) -> None:
        for texture, unit in (
            (targets.visible, _VISIBLE), (targets.mask, _SHADOWS), (self._noise, _NOISE),
            (self._ground, _GROUND), (self._beams, _BEAMS),
        ):  # fmt: skip
            texture.use(unit)
        self._surfaces.bind_to_storage_buffer(_STILL)
        self._texels.bind_to_storage_buffer(_TEXELS)
        world = self._world
        _set(
            self._programs["shade"],
            visible=_VISIBLE, shadow_mask=_SHADOWS, noise=_NOISE, ground=_GROUND, beams=_BEAMS,
            light=tuple(frame.light), origin=tuple(world.grid_origin_m), cell_m=world.grid_cell_m,
        )  # fmt: skip
        targets.shaded_buffer.use()
        self._screen.render(self._context.TRIANGLES, vertices=3)

    def _lay_over(self, view: View, targets: _Targets) -> Any:
        """Blend lamps and rain over the shaded image; returns the buffer with the result."""
        overlay, context = view.overlay, self._context
        if not len(overlay.discs) and not len(overlay.streaks):
            return targets.shaded_buffer
        context.copy_framebuffer(targets.final_buffer, targets.shaded_buffer)
        targets.final_buffer.use()
        context.enable_only(context.BLEND)
        context.blend_func = context.ONE, context.ONE_MINUS_SRC_ALPHA
        targets.visible.use(_VISIBLE)
        targets.shaded.use(_SHADED)
        size = float(view.camera.width), float(view.camera.height)
        _set(
            self._programs["discs"], size=size, visible=_VISIBLE, shaded=_SHADED, halo=overlay.halo,
            samples=targets.samples, still_count=self._still_count,
        )  # fmt: skip
        _set(self._programs["streaks"], size=size, shaded=_SHADED, lean=overlay.lean, brightness=overlay.brightness)
        # Columns x y radius | reach x y, strength, limit | r g b, and x y | length, half width, strength.
        self._draw_quads("discs", overlay.discs, "3f 4f 3f", "disc spread rgb")
        self._draw_quads("streaks", overlay.streaks, "2f 3f", "streak_from streak")
        return targets.final_buffer

    def _draw_quads(self, program: str, rows: np.ndarray, layout: str, names: str) -> None:
        if not len(rows):
            return
        buffer = self._context.buffer(np.ascontiguousarray(rows, np.float32).tobytes())
        quads = self._context.vertex_array(self._programs[program], [(buffer, f"{layout}/i", *names.split())])
        quads.render(self._context.TRIANGLE_STRIP, vertices=4, instances=len(rows))
        quads.release()
        buffer.release()


class _Soup:
    """Tiles of triangles on the GPU."""

    def __init__(self, context: Any, program: Any, tiles: Tiles) -> None:
        self._context = context
        self._names = context.buffer(np.ascontiguousarray(tiles.names, np.int32).tobytes() or bytes(4))
        self._ranges = tiles.ranges
        self._parts: tuple[Any, ...] = ()
        if len(tiles.triangles):
            vertices = context.buffer(np.ascontiguousarray(tiles.vertices, np.float32).tobytes())
            triangles = context.buffer(np.ascontiguousarray(tiles.triangles, np.int32).tobytes())
            first = context.buffer(np.ascontiguousarray(tiles.ranges[:, 2], np.int32).tobytes())
            array = context.vertex_array(
                program, [(vertices, "3f", "position"), (first, "1i/i", "first_triangle")], triangles
            )
            self._parts = array, vertices, triangles, first

    def draw(self, chosen: np.ndarray) -> None:
        """Draw some of the tiles with the program's settings."""
        if not self._parts or not len(chosen):
            return
        commands = np.zeros((len(chosen), 5), np.uint32)  # count, instances, first index, base vertex, base instance
        first, end = self._ranges[chosen, 2], self._ranges[chosen, 3]
        commands[:, 0], commands[:, 1], commands[:, 2], commands[:, 4] = 3 * (end - first), 1, 3 * first, chosen
        buffer = self._context.buffer(commands.tobytes())
        self._names.bind_to_storage_buffer(_NAMES)
        self._parts[0].render_indirect(buffer, self._context.TRIANGLES, len(chosen))
        buffer.release()

    def release(self) -> None:
        for part in (*self._parts, self._names):
            part.release()


class _Shadows:
    """Ground polygons under bodies."""

    def __init__(self, polygons: np.ndarray, normals: np.ndarray) -> None:
        self._polygons, self._normals = polygons, normals

    def draw(self, context: Any, program: Any, eye: np.ndarray, axis: np.ndarray, skip: int) -> None:
        """Draw those that are near enough and seen from above, without that of body `skip`."""
        if not len(self._polygons):
            return
        relative = self._polygons - eye
        offsets = (relative[:, 0] * self._normals).sum(axis=1)
        depths = relative @ axis[0]
        seen = (offsets <= -0.05) & (depths.max(axis=1) >= NEAR_M) & (depths.min(axis=1) <= SHADOW_DISTANCE_M)
        if 0 <= skip < len(seen):
            seen[skip] = False
        corners = self._polygons.shape[1]
        fan = np.array([(0, k, k + 1) for k in range(1, corners - 1)]).ravel()
        positions = self._polygons[seen][:, fan]
        planes = np.column_stack([self._normals, offsets])[seen]
        rows = np.concatenate([positions, np.repeat(planes[:, None], len(fan), axis=1)], axis=2).astype(np.float32)
        if not rows.size:
            return
        buffer = context.buffer(np.ascontiguousarray(rows).tobytes())
        array = context.vertex_array(program, [(buffer, "3f 4f", "position", "plane")])
        array.render(context.TRIANGLES)
        array.release()
        buffer.release()


def _set(program: Any, **values: Any) -> None:
    """Set the uniforms that a program has."""
    for name, value in values.items():
        if name in program:
            uniform = program[name]
            # Compilers cut the unused end off an array.
            uniform.value = value[: uniform.array_length] if uniform.array_length > 1 else value
