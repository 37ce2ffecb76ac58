"""`python -m eval view RUN`: a finished run's routes in the rerun viewer, or in a file for it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from eval.draw import action_text, incident_text
from eval.job import artefact_folder
from eval.moments import Step, Trace, TraceError, read_trace, safe_name, trace_path
from eval.plots import MPS_TO_KMH
from eval.progress import counted
from eval.recorder import film_path, moments_folder
from eval.results import ResultsError, RouteRecord, read_records
from eval.runner import InputError
from eval.scoring import Infraction

APPLICATION = "raw2drive"
TIMELINE = "simulation"
LANE_RADIUS_M, PLAN_RADIUS_M, DRIVEN_RADIUS_M, CAR_RADIUS_M, INCIDENT_RADIUS_M = 1.5, 1.0, 0.5, 2.0, 2.5
GRAY, PALE_BLUE, BLUE, RED, GREEN, WHITE = (
    (70, 78, 90),
    (72, 98, 124),
    (86, 180, 233),
    (240, 100, 60),
    (0, 180, 130),
    (240, 240, 240),
)
_NEEDS_RERUN = "this needs the rerun viewer: pip install '.[viewer]'"


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Look at a finished run in the rerun viewer."""

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    route: str | None = None
    """Only this route, by its id as in the report."""
    save: Path | None = None
    """Write a file for `rerun FILE.rrd` instead of opening the viewer."""


@dataclass(frozen=True, slots=True)
class _Shown:
    record: RouteRecord
    trace: Trace
    film: Path | None

    @property
    def entity(self) -> str:
        """Where the route's data lie in the recording."""
        return f"route_{safe_name(self.record.label)}"


def view(config: ViewConfig) -> int:
    """Show or save the routes. Raises: InputError, ResultsError."""
    if importlib.util.find_spec("rerun") is None:
        raise InputError(_NEEDS_RERUN)
    if config.save is None and sys.platform == "linux" and not _has_display():
        raise InputError("no display to open the viewer on; write a file for another machine with --save FILE.rrd")
    if config.save is not None and not config.save.absolute().parent.is_dir():
        raise InputError(f"--save {config.save}: no such folder")
    shown = _choose(config)
    rerun = importlib.import_module("rerun")
    blueprint = _blueprint(shown)
    rerun.init(APPLICATION, recording_id=config.run.resolve().name)
    if config.save is not None:
        rerun.save(config.save, default_blueprint=blueprint)
    else:
        rerun.spawn(default_blueprint=blueprint)
    for item in shown:
        _log_route(rerun, item)
    rerun.disconnect()  # flushes
    if config.save is not None:
        print(f"{counted(len(shown), 'route')} written to {config.save}; open it with: rerun {config.save}")
    return 0


def _choose(config: ViewConfig) -> list[_Shown]:
    records = read_records(config.run / "results.jsonl")
    if not records:
        raise ResultsError(f"{config.run}: holds no route records; give the folder of a run")
    chosen = [record for record in records if config.route in (None, record.route_id, record.label)]
    if not chosen:
        known = ", ".join(record.label for record in records[:20])
        raise InputError(f"--route {config.route}: no such route in {config.run}; it has {known}")
    shown = [item for item in (_read(config.run, record) for record in chosen) if item is not None]
    if not shown:
        raise InputError(f"{moments_folder(config.run)}: no moments of these routes; there is nothing to show")
    return shown


def _read(run: Path, record: RouteRecord) -> _Shown | None:
    folder = artefact_folder(run, record.repetition)
    path = trace_path(moments_folder(folder), record.route_id)
    if not path.is_file():
        return None
    try:
        trace = read_trace(path)
    except TraceError as error:
        print(f"route {record.label} left out: {error}", file=sys.stderr)
        return None
    film = film_path(folder, record.route_id)
    return _Shown(record, trace, film if film.is_file() else None) if trace.steps else None


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _log_route(rerun: ModuleType, shown: _Shown) -> None:
    root, trace = shown.entity, shown.trace
    _log_map(rerun, f"{root}/map", trace)
    _log_series(rerun, root, trace.steps)
    _log_actions(rerun, f"{root}/actions", trace.steps)
    _log_incidents(rerun, root, trace)
    if shown.film is not None:
        _log_film(rerun, f"{root}/film", shown.film, trace.steps[0].time_s)


def _log_map(rerun: ModuleType, root: str, trace: Trace) -> None:
    """Lanes, plan and driven line, which do not move, and the car, which does. CARLA's y points down, as on screen."""
    steps = trace.steps

    def line(name: str, strips: Sequence[Any], radius_m: float, color: tuple[int, int, int], order: float) -> None:
        strip = rerun.LineStrips2D(strips, radii=radius_m, colors=color, draw_order=order)
        rerun.log(f"{root}/{name}", strip, static=True)

    line("lanes", trace.route.lanes, LANE_RADIUS_M, GRAY, 1.0)
    line("plan", [trace.route.plan], PLAN_RADIUS_M, PALE_BLUE, 2.0)
    line("driven", [[(step.x_m, step.y_m) for step in steps]], DRIVEN_RADIUS_M, BLUE, 3.0)
    marks = [(step, incident) for step in steps for incident in step.incidents]
    if marks:
        points = rerun.Points2D(
            [(step.x_m, step.y_m) for step, _ in marks],
            radii=INCIDENT_RADIUS_M,
            colors=RED,
            labels=[incident_text(incident.kind) for _, incident in marks],
            draw_order=4.0,
        )
        rerun.log(f"{root}/infractions", points, static=True)
    rerun.log(f"{root}/car", rerun.Points2D.from_fields(radii=CAR_RADIUS_M, colors=WHITE, draw_order=5.0), static=True)
    rerun.send_columns(
        f"{root}/car",
        indexes=[_times(rerun, steps)],
        columns=rerun.Points2D.columns(positions=[(step.x_m, step.y_m) for step in steps]),
    )


def _log_series(rerun: ModuleType, root: str, steps: Sequence[Step]) -> None:
    series = {
        "speed/speed": ("speed, km/h", BLUE, [MPS_TO_KMH * step.speed_mps for step in steps]),
        "speed/limit": ("limit, km/h", GRAY, [MPS_TO_KMH * step.speed_limit_mps for step in steps]),
        "controls/throttle": ("throttle", GREEN, [step.throttle for step in steps]),
        "controls/brake": ("brake", RED, [step.brake for step in steps]),
        "controls/steering": ("steering, right is up", BLUE, [step.steer for step in steps]),
    }
    for name, (title, color, values) in series.items():
        rerun.log(f"{root}/{name}", rerun.SeriesLines(colors=color, names=title), static=True)
        rerun.send_columns(
            f"{root}/{name}", indexes=[_times(rerun, steps)], columns=rerun.Scalars.columns(scalars=values)
        )


def _log_actions(rerun: ModuleType, entity: str, steps: Sequence[Step]) -> None:
    """The most probable actions of every decision."""
    decided = [step for step in steps if step.top]
    if not decided:
        return
    lines = [" | ".join(f"{share:.0%} {action_text(index)}" for index, share in step.top) for step in decided]
    rerun.send_columns(entity, indexes=[_times(rerun, decided)], columns=rerun.TextLog.columns(text=lines))


def _log_incidents(rerun: ModuleType, root: str, trace: Trace) -> None:
    """Infractions as text with the front camera's picture, between those of start and end."""
    pictures = [(trace.steps[0], trace.start_picture)]
    for step in trace.steps:
        for incident in step.incidents:
            rerun.set_time(TIMELINE, duration=step.time_s)
            text = f"{incident_text(incident.kind)}: {incident.message}"
            serious = incident.kind != Infraction.OUTSIDE_ROUTE_LANES.value
            rerun.log(f"{root}/infractions", rerun.TextLog(text, level="ERROR" if serious else "WARN"))
            pictures.append((step, trace.picture(incident.picture)))
    pictures.append((trace.steps[-1], trace.end_picture))
    for step, picture in pictures:
        if picture is not None:
            rerun.set_time(TIMELINE, duration=step.time_s)
            rerun.log(f"{root}/pictures", rerun.EncodedImage(contents=picture, media_type="image/jpeg"))


def _log_film(rerun: ModuleType, entity: str, film: Path, start_s: float) -> None:
    video = rerun.AssetVideo(path=film)
    stamps_ns = video.read_frame_timestamps_nanos()
    rerun.log(entity, video, static=True)
    rerun.send_columns(
        entity,
        indexes=[rerun.TimeColumn(TIMELINE, duration=[start_s + 1e-9 * float(stamp) for stamp in stamps_ns])],
        columns=rerun.VideoFrameReference.columns_nanos(stamps_ns),
    )


def _times(rerun: ModuleType, steps: Sequence[Step]) -> Any:
    return rerun.TimeColumn(TIMELINE, duration=[step.time_s for step in steps])


def _blueprint(shown: Sequence[_Shown]) -> Any:
    """A tab per route: map and film or pictures above, plots and texts below."""
    blueprint = importlib.import_module("rerun.blueprint")
    tabs = []
    for item in shown:
        root = item.entity
        seen = "film" if item.film is not None else "pictures"
        left = blueprint.Vertical(
            blueprint.Spatial2DView(origin=f"{root}/map", name="map"),
            blueprint.TextLogView(origin=f"{root}/infractions", name="infractions"),
            row_shares=[3, 1],
        )
        right = blueprint.Vertical(
            blueprint.Spatial2DView(origin=f"{root}/{seen}", name=seen),
            blueprint.TimeSeriesView(origin=f"{root}/speed", name="speed"),
            blueprint.TimeSeriesView(origin=f"{root}/controls", name="controls"),
            blueprint.TextLogView(origin=f"{root}/actions", name="actions"),
            row_shares=[4, 2, 2, 1],
        )
        tabs.append(blueprint.Horizontal(left, right, name=f"{item.record.label}: {item.record.status}"))
    return blueprint.Blueprint(blueprint.Tabs(*tabs), collapse_panels=True)
