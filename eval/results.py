"""Results on disk: one line per route in `results.jsonl`, `results.json` derived from it as the leaderboard has it.

A line is appended and fsynced per route, the derived file is replaced atomically, so a crash or a full disk never costs
a finished route.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent import strict_json
from eval.criteria import Event
from eval.scoring import Infraction, Scores, Scoring, mean_and_deviation, route_scores, succeeded

RECORD_FORMAT = 1
STATUS_SIMULATION_CRASHED = "Failed - Simulation crashed"
STATUS_AGENT_CRASHED = "Failed - Agent crashed"
STATUS_AGENT_SETUP = "Failed - Agent couldn't be set up"
STATUS_SENSORS_INVALID = "Failed - Agent's sensors were invalid"
_MEANS = {
    "score_composed": "Avg. driving score",
    "score_route": "Avg. route completion",
    "score_penalty": "Avg. infraction penalty",
}
_INFRACTION_LABELS = (
    ("Collisions with pedestrians", Infraction.COLLISION_PEDESTRIAN),
    ("Collisions with vehicles", Infraction.COLLISION_VEHICLE),
    ("Collisions with layout", Infraction.COLLISION_STATIC),
    ("Red lights infractions", Infraction.RED_LIGHT),
    ("Stop sign infractions", Infraction.STOP_SIGN),
    ("Off-road infractions", Infraction.OUTSIDE_ROUTE_LANES),
    ("Route deviations", Infraction.ROUTE_DEVIATION),
    ("Route timeouts", Infraction.ROUTE_TIMEOUT),
    ("Agent blocked", Infraction.VEHICLE_BLOCKED),
    ("Yield emergency vehicles infractions", Infraction.YIELD_TO_EMERGENCY_VEHICLE),
    ("Scenario timeouts", Infraction.SCENARIO_TIMEOUT),
    ("Min speed infractions", Infraction.MIN_SPEED),
)
_START_ANEW = "choose another --out or delete the folder"
logger = logging.getLogger(__name__)


class ResultsError(ValueError):
    """A results folder or file that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class RouteRecord:
    """The verdict on one route: what the leaderboard records, and what it takes to repeat it."""

    route_id: str
    town: str
    scoring: Scoring
    status: str
    scores: Scores
    infractions: Mapping[str, Sequence[str]]
    events: Sequence[Mapping[str, Any]]
    route_length_m: float
    duration_game_s: float
    duration_system_s: float
    ticks: int
    seed: int
    traffic: int
    sensors: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Server, versions, hashes of route file, agent config and weights, timings, what became of the scenarios."""
    failure_message: str = ""
    """What went wrong in agent or simulation, in one line; empty if the criteria ended the route."""
    repetition: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """Route id and repetition: what a run has one verdict on."""
        return self.route_id, self.repetition

    @property
    def label(self) -> str:
        """What tables and messages call it."""
        return self.route_id if self.repetition == 0 else f"{self.route_id} (repetition {self.repetition})"

    @property
    def decided(self) -> bool:
        """Whether the agent was judged; a simulation that crashed decides nothing, and the route may be run again."""
        return self.status != STATUS_SIMULATION_CRASHED

    @property
    def success(self) -> bool:
        """Bench2Drive's success."""
        return succeeded(self.status, self.infractions)

    @property
    def scenario_name(self) -> str:
        """Name of the route's first scenario, such as `Accident_1`; empty if it has none."""
        scenarios = self.provenance.get("scenarios") or [{}]
        return str(scenarios[0].get("name", ""))

    @property
    def verdict(self) -> str:
        """The status, with what went wrong."""
        return f"{self.status}: {self.failure_message}" if self.failure_message else self.status

    def to_json(self) -> dict[str, Any]:
        """One line of `results.jsonl`."""
        return {**asdict(self), "format": RECORD_FORMAT, "scoring": self.scoring.value, "success": self.success}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RouteRecord:
        """The record of one line. Raises: ResultsError if it is not one."""
        if not isinstance(data, Mapping) or data.get("format") != RECORD_FORMAT:
            raise ResultsError(f"not a route record of format {RECORD_FORMAT}")
        values = {key: value for key, value in data.items() if key not in ("format", "success")}
        try:
            return cls(**{**values, "scoring": Scoring(values["scoring"]), "scores": Scores(**values["scores"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"not a route record: {error}") from error

    def to_leaderboard(self, index: int) -> dict[str, Any]:
        """The record in the leaderboard's checkpoint layout."""
        return {
            "index": index,
            "route_id": f"RouteScenario_{self.route_id}_rep{self.repetition}",
            "status": self.status,
            "num_infractions": sum(len(messages) for messages in self.infractions.values()),
            "infractions": {kind: list(messages) for kind, messages in self.infractions.items()},
            "scores": asdict(self.scores),
            "meta": {
                "route_length": round(self.route_length_m, 3),
                "duration_game": round(self.duration_game_s, 3),
                "duration_system": round(self.duration_system_s, 3),
            },
            "town_name": self.town,
            "scenario_name": self.scenario_name,
            "save_name": save_name(self.route_id, self.town, self.seed),
        }


def save_name(route_id: str, town: str, seed: int) -> str:
    """Name of a drive's folder below the run's `metrics`, where Bench2Drive's tools look for metric_info.json."""
    return f"RouteScenario_{route_id}_rep0_{town}_seed{seed}"


def judge(completion_percent: float, events: Sequence[Event], scoring: Scoring, failure: str | None) -> dict[str, Any]:
    """Status, scores, infractions and events of a route as `RouteRecord` fields."""
    infractions: dict[str, list[str]] = {kind.value: [] for kind in Infraction}
    for event in events:
        infractions[event.kind.value].append(event.message)
    offences = [event.offence for event in events]
    if completion_percent >= 100.0:
        status = "Completed" if events else "Perfect"
    else:
        status = f"Failed - {failure}" if failure else "Failed"
    return {
        "status": status,
        "scores": route_scores(completion_percent, offences, scoring),
        "infractions": infractions,
        "events": [{**asdict(event), "kind": event.kind.value} for event in events],
    }


def infraction_count(record: RouteRecord, kind: Infraction) -> float:
    """Number of infractions of a kind; outside lanes: kilometres, read from the message as the leaderboard does."""
    messages = record.infractions.get(kind.value, ())
    if kind is not Infraction.OUTSIDE_ROUTE_LANES:
        return float(len(messages))
    return float(messages[0].split(" ")[8]) / 1000.0 if messages else 0.0


def global_record(records: Sequence[RouteRecord], total_routes: int) -> dict[str, Any]:
    """The leaderboard's global record: mean scores over `total_routes`, infractions per kilometre driven."""
    names = ("score_composed", "score_route", "score_penalty")
    values = {name: [getattr(record.scores, name) for record in records] for name in names}
    means = {name: round(sum(column) / total_routes, 6) for name, column in values.items()}
    deviations = {name: round(mean_and_deviation(column)[1], 3) if column else 0 for name, column in values.items()}
    km = max(sum(r.route_length_m / 1000.0 * r.scores.score_route / 100.0 for r in records), 0.001)
    infractions = {}
    for kind in Infraction:
        amount = sum(infraction_count(record, kind) for record in records)
        infractions[kind.value] = round(amount if kind is Infraction.OUTSIDE_ROUTE_LANES else amount / km, 3)
    failed = [(r.to_leaderboard(i)["route_id"], i, r.verdict) for i, r in enumerate(records) if "Failed" in r.status]
    all_perfect = all(record.status == "Perfect" for record in records)
    return {
        "index": -1,
        "route_id": -1,
        "status": "Failed" if failed else ("Perfect" if all_perfect else "Completed"),
        "infractions": infractions,
        "scores_mean": means,
        "scores_std_dev": deviations,
        "meta": {
            "total_length": round(sum(r.route_length_m for r in records), 3),
            "duration_game": round(sum(r.duration_game_s for r in records), 3),
            "duration_system": round(sum(r.duration_system_s for r in records), 3),
            "exceptions": failed,
        },
    }


def leaderboard_json(records: Sequence[RouteRecord], total_routes: int) -> dict[str, Any]:
    """The whole results file in the leaderboard's layout."""
    summary = global_record(records, total_routes) if records else {}
    statuses = [record.status for record in records]
    entry_status = "Finished" if len(records) == total_routes else "Started"
    if STATUS_SIMULATION_CRASHED in statuses:
        entry_status = "Crashed"
    if STATUS_SENSORS_INVALID in statuses:
        entry_status = "Rejected"
    values = []
    if summary:
        values = [str(summary["scores_mean"][name]) for name in _MEANS]
        values += [str(summary["infractions"][kind.value]) for _, kind in _INFRACTION_LABELS]
    return {
        "_checkpoint": {
            "global_record": summary,
            "progress": [len(records), total_routes],
            "records": [record.to_leaderboard(index) for index, record in enumerate(records)],
        },
        "entry_status": entry_status,
        "eligible": entry_status == "Finished",
        "sensors": list(records[0].sensors) if records else [],
        "values": values,
        "labels": [*_MEANS.values(), *(label for label, _ in _INFRACTION_LABELS)],
        "evaluation": {
            "scoring": records[0].scoring.value if records else None,
            "success_rate": sum(r.success for r in records) / total_routes if total_routes else 0.0,
            "routes": [{"route_id": r.route_id, "seed": r.seed, "traffic": r.traffic, **r.provenance} for r in records],
        },
    }


class ResultsFolder:
    """A run's folder: appends records, keeps `results.json` up to date, finds what is already done."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or create; `settings` is everything that must be equal for two results to stand in one file.

        Raises: ResultsError if the folder holds a run with other settings, is at work, or cannot be written.
        """
        self.folder = folder
        self._lines = folder / "results.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "run.lock").open("a+")
        except OSError as error:
            raise ResultsError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it when we die
        except OSError as error:
            raise ResultsError(
                f"{folder}: another runner is at work in it; wait for it or choose another --out"
            ) from error
        self._check_settings(settings)
        self.records: dict[tuple[str, int], RouteRecord] = {r.key: r for r in read_records(self._lines)}

    def append(self, record: RouteRecord) -> None:
        """Add one record durably. Raises: OSError; the file then is as before."""
        append_line(self._lines, record.to_json())
        self.records[record.key] = record

    def write_summary(self, order: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Replace `results.json` by the state of the records, in the order of their keys."""
        records = [self.records[key] for key in order if key in self.records]
        data = leaderboard_json(records, len(order))
        write_json_atomically(self.folder / "results.json", data)
        return data

    def close(self) -> None:
        """Let other runners in."""
        self._lock.close()

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Compare with the settings of the records that are there, or write them down."""
        path = self.folder / "run.json"
        wanted = json.loads(strict_json.dumps(dict(settings)))
        if self._lines.exists() and self._lines.stat().st_size:
            found = _read_settings(path)
            other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            if other:
                raise ResultsError(
                    f"{self.folder}: holds results of other settings ({', '.join(other)}); {_START_ANEW}"
                )
            return
        write_json_atomically(path, wanted)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}); {_START_ANEW}") from error
    if not isinstance(found, dict):
        raise ResultsError(f"{path}: not the settings of a run; {_START_ANEW}")
    return found


def append_line(path: Path, data: Mapping[str, Any]) -> None:
    """Append one line of JSON durably; a line that a crash cut off before it is closed first.

    Raises: OSError, for instance when the disk is full; the file then is as before.
    """
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        line = strict_json.dumps(data).encode() + b"\n"
        if end:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, "the disk is full", str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def read_records(path: Path) -> list[RouteRecord]:
    """Records of a `results.jsonl`, one per route and repetition; lines that are not whole are reported and skipped.

    Where a route was run again after the simulation had crashed, the later record stands; a verdict is final.
    """
    if not path.exists():
        return []
    records: dict[tuple[str, int], RouteRecord] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = RouteRecord.from_json(json.loads(line))
        except (ValueError, RecursionError) as error:  # ResultsError and JSONDecodeError are ValueErrors
            logger.warning("%s line %d skipped: %s", path, number, error)
            continue
        before = records.get(record.key)
        if before is None or not before.decided:
            records[record.key] = record
    return list(records.values())


def write_json_atomically(path: Path, data: Any) -> None:
    """Write JSON so that readers see the old or the new file, never a part."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(strict_json.dumps(data, indent=4))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def infraction_totals(records: Iterable[RouteRecord]) -> dict[Infraction, float]:
    """Sum per kind over records (kilometres for outside lanes)."""
    records = list(records)
    return {kind: sum(infraction_count(record, kind) for record in records) for kind in Infraction}
