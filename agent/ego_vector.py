"""The vector of the ego's own numbers that both world models see, and what of it an agent knows by itself.

The privileged stream fills the vector from the simulator. The raw stream knows its speed and its last action, reads the
commands off the sparse plan (`manoeuvre`) and has to see the rest: speed limit and the points of the road to follow.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from agent.route import LANE_CHANGES, Command, RouteView

ROUTE_AHEAD_M = (2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0)
"""Distances along the road to follow of the points in the vector."""
SPEED_SCALE_MPS = 10.0
POINT_SCALE_M = 40.0
COMMAND_AHEAD_M = 60.0
"""The next manoeuvre is announced this far ahead."""
FIELDS: dict[str, slice] = {
    "speed": slice(0, 1),
    "limit": slice(1, 2),
    "action": slice(2, 6),
    "route": slice(6, 22),
    "command": slice(22, 28),
    "next_command": slice(28, 34),
    "next_command_distance": slice(34, 35),
}
"""Where what stands in the vector. speed and limit (of the road) in 10 m/s, the last action as throttle, steer, brake,
reverse, route points (x forward, y left) in 40 m, commands one-hot, the distance of the next one in 60 m (1: none)."""
VECTOR_SIZE = 35
SEEN_FIELDS = ("limit", "route")
"""What an agent has to see, in this order."""
SEEN_SIZE = 17
MANOEUVRE_SIZE = 13
"""Commands here and next, and the distance of the next one: the last three fields."""
LANE_CHANGE_M = 2.5
"""A plan keeps every point of a lane change, a metre or two apart; this far behind the last one it is over."""


def manoeuvre(view: RouteView) -> Float32[np.ndarray, " 13"]:
    """The fields command, next_command and next_command_distance as the sparse plan tells them.

    The command of a plan point holds from there to the next one; distances are those of the polyline.
    """
    commands = list(view.commands)
    over = commands[0].name in LANE_CHANGES and float(np.linalg.norm(view.points_m[0])) > LANE_CHANGE_M
    if over and commands[1].name not in LANE_CHANGES:
        commands[0] = Command.LANEFOLLOW
    values = np.zeros(MANOEUVRE_SIZE, np.float32)
    values[commands[0]] = 1.0
    values[12] = 1.0
    distance_m = 0.0
    here_m = np.zeros(2)
    for k in range(1, len(commands)):
        distance_m += float(np.linalg.norm(view.points_m[k] - here_m))
        here_m = view.points_m[k]
        if distance_m > COMMAND_AHEAD_M:
            break
        if commands[k] is not commands[k - 1] and commands[k] is not Command.LANEFOLLOW:
            values[6 + commands[k]] = 1.0
            values[12] = distance_m / COMMAND_AHEAD_M
            break
    return values
