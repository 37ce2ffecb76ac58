"""Something stands in the ego's lane: it must change lanes, or pass on the other side of the road."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from eval.routes import ScenarioBlock
from eval.scenarios.lanes import driving_beside, shifted
from eval.scenarios.scenario import Scenario, Script
from eval.scenarios.way import Way

BEHIND_M = 30.0
"""The ego has an obstacle behind it this far past it."""


class ParkedObstacle(Scenario):
    """A car parked on the ego's lane. Source: scenario_runner `ParkedObstacle`; distance 120 m by default."""

    timeout_s = 240.0
    OFFSET = 0.7
    """Of half a lane width, away from the middle of the lane."""

    @classmethod
    def places(cls, way: Way, random: Random) -> Iterator[ScenarioBlock]:
        """Roads with a second lane of the ego's direction to its left."""
        for index in way.stretches(before_m=10.0, after_m=130.0):
            if driving_beside(way.waypoints[index], "left") is not None:
                yield way.block("ParkedObstacle", index, distance=random.choice((50, 60, 70)), direction="right")

    def prepare(self) -> None:
        """Park the car."""
        side = self.parameters.choice("direction", ("left", "right"), "right")
        place = self.place_ahead(self.parameters.number("distance", 120.0, 0.0, 1000.0))
        right_m = self.OFFSET * 0.5 * place.lane_width * (1.0 if side == "right" else -1.0)
        self.vehicle(shifted(place.transform, right_m=right_m))
        self.end_arc_m = self.stage.arc_on_route(place.transform.location) + BEHIND_M

    def script(self) -> Script:
        """Until the ego has passed."""
        yield from self.until(lambda: self.ego_passed(self.end_arc_m))
