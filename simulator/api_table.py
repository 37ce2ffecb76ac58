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
    return "answered: nothing of the kind exists here" if name in _EMPTY else "yes"


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
