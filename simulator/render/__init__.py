"""Camera images of a town, in software or by a GPU: `Renderer(name, opendrive).render([(camera, pose)], scene)`."""

from simulator.render.renderer import SOFTWARE, OpenGlError, Renderer, check_backend
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
    "SOFTWARE",
    "Camera",
    "OpenGlError",
    "Pose",
    "Renderer",
    "Scene",
    "SceneActor",
    "Weather",
    "check_backend",
]
