"""Camera images of a town, in software or by a GPU: `Renderer(name, opendrive).render([(camera, pose)], scene)`."""

from simulator.render.mesh import TownSolids
from simulator.render.models import build_models
from simulator.render.placement import Wardrobe
from simulator.render.ray_caster import TOWN, Hits, RayCaster
from simulator.render.renderer import SKY, SOFTWARE, OpenGlError, Renderer, check_backend
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
    axes,
)
from simulator.render.town_mesh import TownMesh, load_or_build, mesh_digest, town_seed

__all__ = [
    "NO_ACTOR",
    "SIGNAL_GREEN",
    "SIGNAL_OFF",
    "SIGNAL_RED",
    "SIGNAL_YELLOW",
    "SKY",
    "SOFTWARE",
    "TOWN",
    "Camera",
    "Hits",
    "OpenGlError",
    "Pose",
    "RayCaster",
    "Renderer",
    "Scene",
    "SceneActor",
    "TownMesh",
    "TownSolids",
    "Wardrobe",
    "Weather",
    "axes",
    "build_models",
    "check_backend",
    "load_or_build",
    "mesh_digest",
    "town_seed",
]
