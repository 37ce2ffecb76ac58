"""Infraction criteria of a route, with the rules, thresholds and messages of the leaderboard's own.

Each criterion is fed once per tick with the ego's state and appends `Event`s; none talks to a server, so all of
them run on an offline `carla.Map`. Source: scenario_runner leaderboard-2.0 `atomic_criteria`, `timer`;
Bench2Drive 0.0.4.
"""

from eval.criteria.contacts import Collisions, Contact
from eval.criteria.events import TICK_S, EgoState, Event
from eval.criteria.lanes import OutsideRouteLanes
from eval.criteria.progress import Blocked, InRoute, MinimumSpeed, RouteCompletion, RouteTimeout
from eval.criteria.route import Criteria, CriteriaConfig, make_criteria
from eval.criteria.signals import RunningRedLight, RunningStopSign, SignalBox, segments_cross, stop_line
from eval.criteria.track import RouteTrack

__all__ = [
    "TICK_S",
    "Blocked",
    "Collisions",
    "Contact",
    "Criteria",
    "CriteriaConfig",
    "EgoState",
    "Event",
    "InRoute",
    "MinimumSpeed",
    "OutsideRouteLanes",
    "RouteCompletion",
    "RouteTimeout",
    "RouteTrack",
    "RunningRedLight",
    "RunningStopSign",
    "SignalBox",
    "make_criteria",
    "segments_cross",
    "stop_line",
]
