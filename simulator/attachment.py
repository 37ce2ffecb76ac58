"""How an actor hangs on another: fixed to it, or at the end of a spring arm, as a chase camera does.

Facts: CARLA's `ActorAttacher` and Unreal Engine's `USpringArmComponent`. The arm starts at the parent's origin and
looks from the child's place to it; it turns with the parent's yaw, smoothly, and not with its pitch and roll.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from simulator.actors import Pose, compose

LAG_PER_S: Final = 8.0
"""Share of the angle still to go by which an arm turns, per second."""
LIFT_M: Final = 0.3
"""A sprung arm starts this far above its parent's origin, clear of bumps."""
PROBE_M: Final = 0.12
"""It ends this far before what it would go through."""


class Attachment(enum.IntEnum):
    """carla.AttachmentType."""

    RIGID = 0
    SPRING_ARM = 1
    SPRING_ARM_GHOST = 2


@dataclass(slots=True)
class SpringArm:
    """An arm from a parent to a child. `pitch_deg` and `yaw_deg` are relative to the parent, looking to it."""

    length_m: float
    pitch_deg: float
    yaw_deg: float
    ghost: bool
    """Goes through everything."""
    _turned: tuple[float, float] | None = None
    """Pitch and yaw in the world after the last step."""

    @classmethod
    def holding(cls, pose: Pose, attachment: Attachment) -> SpringArm | None:
        """The arm that holds a child at a pose relative to its parent; None for one that is fixed."""
        if attachment is Attachment.RIGID:
            return None
        x, y, z = (-value for value in pose[:3])
        level = math.hypot(x, y)
        pitch, yaw = math.degrees(math.atan2(z, level)), math.degrees(math.atan2(y, x))
        return cls(math.hypot(level, z), pitch, yaw, attachment is Attachment.SPRING_ARM_GHOST)

    def end(self, parent: Pose) -> Pose:
        """Where the arm ends, and how it is turned, at once."""
        return self.follow(parent, math.inf, lambda _start, _end: math.inf)

    def follow(self, parent: Pose, dt_s: float, free_m: Callable[[Sequence[float], Sequence[float]], float]) -> Pose:
        """Turn for one step. `free_m(start, end)`: how far from the start the first thing between is."""
        wanted_yaw = compose(parent, (0.0, 0.0, 0.0, self.pitch_deg, self.yaw_deg, 0.0))[4]
        pitch, yaw = self._turned or (self.pitch_deg, wanted_yaw)
        share = min(LAG_PER_S * dt_s, 1.0)
        pitch += share * (self.pitch_deg - pitch)
        yaw += share * math.remainder(wanted_yaw - yaw, 360.0)
        self._turned = pitch, yaw
        x, y, z = parent[:3]
        start = (x, y, z if self.ghost else z + LIFT_M, pitch, yaw, 0.0)
        end = compose(start, (-self.length_m, 0.0, 0.0, 0.0, 0.0, 0.0))
        if self.ghost:
            return end
        reach_m = min(self.length_m, max(free_m(start[:3], end[:3]) - PROBE_M, 0.0))
        return compose(start, (-reach_m, 0.0, 0.0, 0.0, 0.0, 0.0))
