"""Bodies of walkers: led by a client's crowd simulation or by their control, on kerbs, jumping, knocked down."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from simulator.actors import Pose, WalkerControl
from simulator.dynamics import Bodies
from simulator.navigation.navigation import Navigation

JUMP_MPS: Final = 4.2
"""Take-off speed of a CARLA walker."""
KNOCKED_DOWN_MPS: Final = 1.5
"""A hit that changes a walker's speed by more makes it fall."""
DOWN_S: Final = 3.0
"""For so long a walker that fell stays where it came to rest, whatever the crowd simulation says."""


class Walkers:
    """The walkers among a world's bodies, by slot."""

    def __init__(self, bodies: Bodies, navigation: Callable[[], Navigation]) -> None:
        self._bodies = bodies
        self._navigation = navigation
        self._slots = np.zeros(0, np.int64)
        self._down_s: dict[int, float] = {}
        """Seconds that a fallen walker still lies."""
        self._led: set[int] = set()
        self._led_before: set[int] = set()
        """Slots led since the last step, and before it."""

    def index(self, slots: list[int]) -> None:
        """Take over the slots of all walkers that there are now."""
        self._slots = np.array(slots, np.int64)
        self._down_s = {slot: left_s for slot, left_s in self._down_s.items() if slot in slots}
        self._led &= set(slots)
        self._led_before &= set(slots)

    def control(self, slot: int, control: WalkerControl) -> None:
        """Walk along a direction until the next command; jump from the ground."""
        bodies = self._bodies
        x, y, _ = control.direction
        bodies.set_walk(slot, x, y, control.speed_mps)
        if control.speed_mps > 0.0 and math.hypot(x, y) > 0.0:
            bodies.yaw[slot] = math.degrees(math.atan2(y, x))
        if control.jump and not bodies.airborne[slot]:
            walk = float(bodies.walk_speed[slot])
            bodies.set_target_velocity(slot, walk * bodies.walk_x[slot], walk * bodies.walk_y[slot], JUMP_MPS)

    def lead(self, slot: int, pose: Pose, speed_mps: float, ground_m: float) -> None:
        """Place a walker, upright on the ground; one that lies stays where it is."""
        if slot in self._down_s:
            return
        x, y, _, _, yaw, _ = pose
        kerb_m = float(self._navigation().kerb_m(np.array([x]), np.array([y]))[0])
        height = ground_m + kerb_m + float(self._bodies.half_height[slot])
        self._bodies.set_walker_state(slot, (x, y, height, 0.0, yaw, 0.0), speed_mps)
        self._led.add(slot)

    def before_step(self) -> None:
        """Stand those on sidewalks on the kerb's height; who is led no more stands still."""
        if not len(self._slots):
            return
        bodies, slots = self._bodies, self._slots
        kerb_m = self._navigation().kerb_m(bodies.x[slots], bodies.y[slots])
        bodies.origin_height[slots] = bodies.half_height[slots] + kerb_m
        for slot in self._led_before - self._led:
            bodies.vx[slot] = bodies.vy[slot] = 0.0
        self._led_before, self._led = self._led, set()

    def after_step(self, pairs: np.ndarray, impulses: np.ndarray, dt_s: float) -> None:
        """Knock down who was hit hard; contacts are pairs (k, 2) of slots and impulses (k, 3) in N s.

        Who runs against the scenery, a pair with what is no slot, stays on its feet.
        """
        self._down_s = {slot: left_s - dt_s for slot, left_s in self._down_s.items() if left_s > dt_s}
        if not len(pairs) or not len(self._slots):
            return
        among = pairs[:, 1] < self._bodies.count
        pairs, impulses = pairs[among], impulses[among]
        strength = np.linalg.norm(impulses, axis=1)
        for struck in pairs.T:
            hard = strength > KNOCKED_DOWN_MPS * self._bodies.mass[struck]
            for slot in struck[hard & np.isin(struck, self._slots)].tolist():
                self._down_s[slot] = DOWN_S
                self._bodies.walk_speed[slot] = 0.0
                self._bodies.physics[slot] = True  # it slides now, whoever led it
                self._led_before.discard(slot)
