"""Cameras that show what a picture is made of: depth, labels, instances; encoded in the colours CARLA uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from simulator import labels
from simulator.actors import Actor
from simulator.render import SKY, Camera, Renderer, Scene
from simulator.rpc import CallError
from simulator.sensor import Sensor
from simulator.world import World

RGB: Final = "sensor.camera.rgb"
DEPTH: Final = "sensor.camera.depth"
SEMANTIC: Final = "sensor.camera.semantic_segmentation"
INSTANCE: Final = "sensor.camera.instance_segmentation"
CAMERAS: Final = (RGB, DEPTH, SEMANTIC, INSTANCE)

MAX_IMAGE_SIDE_PX: Final = 4096
FAR_M: Final = 1000.0
"""Depth that is encoded as white."""
_DEPTH_STEPS: Final = (1 << 24) - 1


class CameraSensor(Sensor):
    """A camera and the size and angle of its pictures."""

    def __init__(self, actor: Actor, world: World) -> None:
        super().__init__(actor, world)
        width, height = int(self.number("image_size_x", 800)), int(self.number("image_size_y", 600))
        fov_deg = self.number("fov", 90.0)
        if not (0 < width <= MAX_IMAGE_SIDE_PX and 0 < height <= MAX_IMAGE_SIDE_PX):
            raise CallError(f"image_size {width}x{height}: sides must lie in 1..{MAX_IMAGE_SIDE_PX} pixels")
        if not 1.0 <= fov_deg <= 170.0:
            raise CallError(f"fov {fov_deg}: must lie in 1..170 degrees")
        self.camera = Camera(width, height, fov_deg)


def encoded(
    kind: str,
    renderer: Renderer,
    view: tuple[Camera, Sequence[float]],
    scene: Scene,
    drawn: Sequence[Actor],
    skip: int,
) -> np.ndarray:
    """The BGRA image (h, w, 4) uint8 of a camera other than RGB; `skip` is the index of an actor to leave out."""
    if kind == DEPTH:
        depth_m, _ = renderer.depth_and_ids(*view, scene, skip=skip)
        return depth_image(depth_m)
    label, owner = renderer.labels_and_ids(*view, scene, skip=skip)
    tags = np.array([*(actor.semantic_tag for actor in drawn), 0], np.uint8)
    label = np.where(owner >= 0, tags[owner], label)
    label[owner == SKY] = labels.SKY
    if kind == SEMANTIC:
        return _image(np.zeros_like(label), np.zeros_like(label), label)
    ids = np.array([*(actor.id for actor in drawn), 0], np.uint32)
    number = np.where(owner >= 0, ids[owner], 0)
    return _image((number >> 8 & 255).astype(np.uint8), (number & 255).astype(np.uint8), label)


def depth_image(depth_m: np.ndarray) -> np.ndarray:
    """24 bits of depth: (R + 256 G + 65536 B) / (2^24 - 1) is the share of FAR_M."""
    share = np.minimum(np.asarray(depth_m, np.float64) / FAR_M, 1.0)
    steps = np.rint(share * _DEPTH_STEPS).astype(np.uint32)
    blue, green, red = ((steps >> shift & 255).astype(np.uint8) for shift in (16, 8, 0))
    return _image(blue, green, red)


def _image(blue: np.ndarray, green: np.ndarray, red: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.stack([blue, green, red, np.full_like(red, 255)], axis=-1))
