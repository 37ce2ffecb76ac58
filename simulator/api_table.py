"""The table of calls in docs/api.md, from the server's own registry."""

from __future__ import annotations

from typing import Any, Final

from simulator.api import register
from simulator.calls import without_effect
from simulator.refused import REFUSED
from simulator.rpc import Registry

FIRST, LAST = "<!-- calls -->", "<!-- end of calls -->"
"""What the table stands between."""

SINCE_0_9_16: Final = frozenset(
    {
        "are_gbuffers_enabled",
        "clear_debug_shape",
        "clear_debug_string",
        "enable_gbuffers",
        "get_actor_bone_names",
        "get_actor_bone_relative_transforms",
        "get_actor_bone_world_transforms",
        "get_actor_bounding_box",
        "get_actor_component_names",
        "get_actor_component_relative_transform",
        "get_actor_component_world_transform",
        "get_actor_socket_names",
        "get_actor_socket_relative_transforms",
        "get_actor_socket_world_transforms",
        "get_imui_gravity",
        "get_telemetry_data",
        "get_vehicle_bone_world_transforms",
        "get_wheel_pitch_angle",
        "restore_physx_physics",
        "set_annotations_traverse_translucency",
        "set_ignored_vehicles",
        "set_imui_gravity",
        "set_wheel_pitch_angle",
    }
)
"""Calls that the 0.9.15 client does not know."""

_EMPTY: Final = (
    "get_actor_bone_names",
    "get_actor_bone_relative_transforms",
    "get_actor_bone_world_transforms",
    "get_actor_component_names",
    "get_actor_socket_names",
    "get_actor_socket_relative_transforms",
    "get_actor_socket_world_transforms",
    "get_bones_transform",
    "get_vehicle_bone_world_transforms",
    "query_lights_state",
    "get_wheel_pitch_angle",
    "are_gbuffers_enabled",
    "is_sensor_enabled_for_ros",
)


PARTLY: Final = {
    "add_actor_force_at_location": "acts on the centre of mass",
    "add_actor_impulse_at_location": "acts on the centre of mass",
    "apply_physics_control": "mass, least tyre friction and largest steering angle act; all of it can be read back",
    "cast_ray": "the ground is labelled as road or sidewalk",
    "copy_opendrive_to_file": "the road network; the parameters of the generated mesh have no effect",
    "get_actor_component_relative_transform": "every component sits at the actor's origin",
    "get_actor_component_world_transform": "every component sits at the actor's origin",
    "get_telemetry_data": "speed, pedals, steering, gear; engine speed, drag and wheels are zero",
    "get_wheel_steer_angle": "both front wheels have the angle that the steering asks for",
    "load_new_episode": "layers have no effect",
    "project_point": "the ground is labelled as road or sidewalk",
    "set_actor_simulate_physics": "a prop falls to the ground at once, and stays",
    "set_wheel_steer_direction": "kept, not drawn",
}
"""What a served call leaves out."""


class _Anything:
    """Stands for the session while only the names of calls are asked for."""

    def __getattr__(self, _name: str) -> Any:
        return self


def registry() -> Registry:
    """The server's calls, not connected to a session."""
    calls = Registry()
    register(calls, _Anything())  # pyright: ignore[reportArgumentType]
    return calls


def status(calls: Registry, name: str) -> str:
    """What becomes of a call, as a table's cell."""
    if name in REFUSED:
        return f"refused: {REFUSED[name][1]}"
    if calls.method(name).function is without_effect:
        return "accepted, no effect"
    if name in _EMPTY:
        return "answered: nothing of the kind exists here"
    return f"partly: {PARTLY[name]}" if name in PARTLY else "yes"


def table() -> str:
    """All calls of the clients and what this server does with each, as Markdown."""
    calls = registry()
    names = calls.names()
    served = [name for name in names if name not in REFUSED]
    old = [name for name in names if name not in SINCE_0_9_16]
    lines = [
        f"{len(served)} of the {len(names)} calls that the 0.9.16 client can send are served, and "
        f"{sum(name not in REFUSED for name in old)} of the {len(old)} of 0.9.15; the others are refused by name.",
        "",
        "| call | 0.9.15 | 0.9.16 | served |",
        "|---|---|---|---|",
    ]
    for name in names:
        lines.append(f"| `{name}` | {'' if name in SINCE_0_9_16 else 'x'} | x | {status(calls, name)} |")
    return "\n".join(lines)
