"""Moments, records and runs as an evaluation would leave them, without driving."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from eval.draw import CAMERAS
from eval.moments import BevView, Incident, Moment, OtherCar, RouteMap, Step, TraceFile, to_ego
from eval.recorder import moments_folder
from eval.results import RouteRecord, leaderboard_json
from eval.scoring import Infraction, Scores, Scoring

MASK_NAMES = ("road", "vehicle", "red_light")


def moments(count: int, *, route_id: str = "1", message: str = "ran a red light 7") -> Iterator[Moment]:
    """A drive along a bend with one incident in the middle."""
    plan = tuple((40.0 * math.sin(0.05 * i), 40.0 - 40.0 * math.cos(0.05 * i)) for i in range(32))
    route = RouteMap(route_id, "Gen20", 64.0, plan, plan[::10], (plan, tuple((x, y + 3.5) for x, y in plan)))
    generator = np.random.default_rng(0)
    seen: tuple[Incident, ...] = ()
    for index in range(count):
        fresh = (Incident("red_light", message),) if index == count // 2 else ()
        seen += fresh
        x_m, y_m = plan[index % len(plan)]
        step = Step(
            time_s=0.1 * index,
            x_m=x_m,
            y_m=y_m,
            yaw_deg=math.degrees(0.05 * index),
            speed_mps=5.0,
            speed_limit_mps=8.33,
            throttle=0.7,
            steer=-0.1,
            brake=0.0,
            reverse=False,
            action=5,
            top=((5, 0.7), (0, 0.2), (25, 0.05)),
            completion_percent=100.0 * index / count,
            distance_m=2.0 * index,
            light="red" if index < count // 3 else "",
            light_m=12.0,
            guard="nominal",
            outside=index % 7 == 6,
            incidents=fresh,
        )
        yield Moment(
            route=route,
            step=step,
            decides=True,
            cameras={
                name: generator.integers(0, 255, (128, 224, 3), dtype=np.uint8) for row in CAMERAS for name in row
            },
            route_ego_m=to_ego(route.sparse, step),
            bev=BevView(generator.random((3, 24, 16)), MASK_NAMES, (-8.0, 40.0, 16.0, 16.0)),
            others=(OtherCar(x_m + 8.0, y_m, 0.0, 2.3, 0.9),),
            incidents=seen,
            decision=index,
        )


def record(
    route_id: str,
    *,
    completion: float = 100.0,
    penalty: float = 0.7,
    status: str = "Completed",
    scenario_type: str = "",
    state: str = "over",
    clean: bool = False,
) -> RouteRecord:
    """A record with one red light and one stretch outside the lanes, or `clean`, without any infraction."""
    infractions: dict[str, list[str]] = {kind.value: [] for kind in Infraction}
    if not clean:
        infractions[Infraction.RED_LIGHT.value] = ["ran a red light 7"]
        infractions[Infraction.OUTSIDE_ROUTE_LANES.value] = [
            "Agent went outside its route lanes for about 3.0 meters (4.69% of the completed route)"
        ]
    return RouteRecord(
        route_id=route_id,
        town="Gen20",
        scoring=Scoring.BENCH2DRIVE,
        status=status,
        scores=Scores(completion, penalty, completion * penalty),
        infractions=infractions,
        events=[{"kind": Infraction.MIN_SPEED.value, "percentage": 88.0}],
        route_length_m=64.0,
        duration_game_s=12.0,
        duration_system_s=9.0,
        ticks=240,
        seed=20,
        traffic=15,
        sensors=["sensor.camera.rgb"] * 6 + ["sensor.other.imu"],
        provenance={
            "server": "embedded",
            "server_version": "0.9.16",
            "agent": "agent/entry.py",
            "route_file": "routes.xml",
            "route_file_sha256": "0" * 64,
            "scenarios": [{"name": "s", "type": scenario_type, "state": state, "reason": ""}] if scenario_type else [],
            "junction_credit_percent": 100.0,
            "timings_ms": {"world": 27.0, "sensors": 0.1, "agent": 12.0, "decision": 24.0, "criteria": 1.0},
            "startup_s": 3.5,
            "wall_s": 14.0,
            "memory_mib": 500,
            "tries": 1,
        },
    )


def write_records(folder: Path, records: Sequence[RouteRecord]) -> None:
    """A run's folder with nothing but its journal."""
    folder.mkdir(exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(item.to_json()) + "\n" for item in records))
    (folder / "results.json").write_text(json.dumps(leaderboard_json(records, len(records))))


def write_moments(folder: Path, route_id: str, **kwargs: str) -> None:
    """Moments and pictures of a route in a run's folder."""
    trace = TraceFile(moments_folder(folder), route_id)
    for moment in moments(20, route_id=route_id, **kwargs):
        trace(moment)
    trace.close()


def write_run(folder: Path, route_ids: Sequence[str], **kwargs: str) -> None:
    """A run's folder with records, moments and pictures."""
    write_records(folder, [record(route_id) for route_id in route_ids])
    for route_id in route_ids:
        write_moments(folder, route_id, **kwargs)
