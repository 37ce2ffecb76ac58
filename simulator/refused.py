"""Calls of the clients that this server does not carry out; each is answered with what is not supported, and why."""

from __future__ import annotations

from typing import Final

from simulator.rpc import Registry, Reply

_REPLAY: Final = "recordings are written here and replayed by a CARLA"
_TEXTURES: Final = "the scenery has no textures of its own"
_GBUFFERS: Final = "pictures are not drawn by Unreal Engine"
_PHYSICS: Final = "vehicles move by this server's own dynamics"
_ROS: Final = "there is no ROS bridge inside the server; run one as a client"
_OBJECTS: Final = "what stands in a town cannot be hidden"

REFUSED: Final[dict[str, tuple[Reply, str]]] = {
    "replay_file": (Reply.VALUE, _REPLAY),
    "apply_color_texture_to_objects": (Reply.VOID, _TEXTURES),
    "apply_float_color_texture_to_objects": (Reply.VOID, _TEXTURES),
    "get_gbuffer_token": (Reply.VALUE, _GBUFFERS),
    "enable_gbuffers": (Reply.VOID, _GBUFFERS),
    "enable_carsim": (Reply.VOID, _PHYSICS),
    "use_carsim_road": (Reply.VOID, _PHYSICS),
    "enable_chrono_physics": (Reply.VOID, _PHYSICS),
    "enable_sensor_for_ros": (Reply.VOID, _ROS),
    "disable_sensor_for_ros": (Reply.VOID, _ROS),
    "send": (Reply.VOID, "there are no V2X sensors"),
    "enable_environment_objects": (Reply.VOID, _OBJECTS),
}
"""By name: how the failure is wrapped, and the reason."""


def refuse_the_rest(registry: Registry) -> None:
    """Register every call that the clients can send and this server cannot carry out."""
    for name, (reply, reason) in REFUSED.items():
        registry.refuse(name, reply, reason)
