"""Camera images of a town without a GPU: `Renderer(name, opendrive).render([(camera, pose)], scene)`."""

from simulator.render.renderer import Renderer
from simulator.render.scene import (
    NO_ACTOR,
    SIGNAL_GREEN,
    SIGNAL_OFF,
    SIGNAL_RED,
    SIGNAL_YELLOW,
    Camera,
    Pose,
    Scene,
    SceneActor,
    Weather,
)

__all__ = [
    "NO_ACTOR",
    "SIGNAL_GREEN",
    "SIGNAL_OFF",
    "SIGNAL_RED",
    "SIGNAL_YELLOW",
    "Camera",
    "Pose",
    "Renderer",
    "Scene",
    "SceneActor",
    "Weather",
]
