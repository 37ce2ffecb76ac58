"""An emergency vehicle from behind: an infraction for who stays in its way, none for who leaves the lane."""

from __future__ import annotations

import carla

from eval.scenarios.director import State
from eval.scenarios.lanes import driving_beside, shifted
from eval.scenarios.line import Line
from eval.scenarios.stage import Stage
from eval.scoring import Infraction
from tests.eval.scenarios.playground import SPEED_MPS, Blind, Playground

TRIGGER_ARC_M = 45.0
"""Generated routes start this far before the trigger."""
CHANGE_M = 25.0


class Yielding(Blind):
    """Changes to a neighbouring lane after the trigger."""

    def line(self, stage: Stage) -> Line:
        waypoint = stage.map.get_waypoint(stage.route.at(TRIGGER_ARC_M + CHANGE_M).location)
        side = next(side for side in ("right", "left") if driving_beside(waypoint, side) is not None)
        full_m = waypoint.lane_width * (1.0 if side == "right" else -1.0)
        changed = (min(max(arc_m - TRIGGER_ARC_M, 0.0) / CHANGE_M, 1.0) for arc_m in stage.route.arc_m)
        return Line([shifted(t, right_m=full_m * k) for t, k in zip(stage.route.transforms, changed, strict=True)])

    def control(self) -> carla.VehicleControl:
        control = super().control()
        if self.stage.ego_arc_m > TRIGGER_ARC_M + CHANGE_M and self.stage.ego_pose.speed_mps > 0.5 * SPEED_MPS:
            control.throttle = 0.0
        return control


def test_it_passes_only_who_leaves_the_lane(playground: Playground) -> None:
    route = playground.route("YieldToEmergencyVehicle")
    blind = playground.play(route, Blind)
    assert blind.infractions == [Infraction.YIELD_TO_EMERGENCY_VEHICLE], blind
    yielding = playground.play(route, Yielding)
    assert yielding.state is State.OVER, yielding
    assert yielding.infractions == []
