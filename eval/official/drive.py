"""One route under an official evaluator: server, evaluator, and its verdict as a record of ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eval.carla_server import CarlaServer, ContainerServer, end_tree, last_words
from eval.metrics.recorder import metrics_folder
from eval.official.harness import STAND_IN_CARLA, Harness
from eval.ports import PortError, lease_ports
from eval.results import (
    STATUS_AGENT_CRASHED,
    STATUS_AGENT_SETUP,
    STATUS_SIMULATION_CRASHED,
    RouteRecord,
    save_name,
)
from eval.routes import read_routes, select_routes
from eval.scoring import Scores, Scoring
from eval.server import EmbeddedServer, RunningServer, ServerDiedError, wheel_version

if TYPE_CHECKING:
    from eval.job import Job

Server = EmbeddedServer | RunningServer | CarlaServer | ContainerServer
TIMEOUT_S: Final = 300.0
"""The leaderboard's default for the client, a tick, the agent's set-up and its step."""
TRAFFIC_MANAGER_OFFSET: Final = 3
"""Within the lease: the server takes the ports before it."""
EVALUATOR_BAD_INPUT: Final = 2
GAME_TICK_S: Final = 0.05
_ERROR_LINE: Final = re.compile(r"^[\w.]+(?:Error|Exception|Timeout|Fault)\b.*$", re.MULTILINE)


def run_official(job: Job, harness: Harness, server: Server | None) -> RouteRecord:
    """Drive the job's route under its official evaluator and return the record of its verdict.

    server: the one to drive on; None for an evaluator that starts its own.
    Raises: RouteFileError, ServerError for bad input, ServerDiedError if there is no verdict.
    """
    route = select_routes(read_routes(Path(job.routes)), ids=[job.route_id])[0]
    files = OfficialFiles(job)
    files.clear()
    try:
        with lease_ports() as lease:
            address = ("127.0.0.1", lease.first)
            if server is not None:
                server.wait_until_ready()
                address = (server.host, server.port)
            _evaluate(job, harness, route.town, files, address, lease.first + TRAFFIC_MANAGER_OFFSET)
    except PortError as error:
        raise ServerDiedError(str(error)) from error
    checkpoint = files.read()
    if not checkpoint["_checkpoint"]["records"]:
        raise ServerDiedError(f"the evaluator left no record: {last_words(files.log)}")
    record = to_record(checkpoint, job, route.town, harness.scoring)
    if record.status in (STATUS_SIMULATION_CRASHED, STATUS_AGENT_CRASHED, STATUS_AGENT_SETUP):
        record = replace(record, failure_message=_last_error(files.log))
    files.keep_motion(checkpoint["_checkpoint"]["records"][-1].get("save_name"), route.town)
    return record


class OfficialFiles:
    """What an official evaluator leaves in a run's folder, beside ours."""

    def __init__(self, job: Job) -> None:
        """Make the folders."""
        self.job = job
        self.folder = (job.artefacts / "official").resolve()
        self.log = job.path("log").with_suffix(".official.log").resolve()
        self.checkpoint = self.folder / f"route_{job.route_id}.json"
        self.live = self.log.with_suffix(".txt")
        self.save = (job.artefacts / "official_save").resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget an earlier try: the evaluator must not take it for its own."""
        self.checkpoint.unlink(missing_ok=True)

    def read(self) -> dict[str, Any]:
        """The evaluator's results file. Raises: ServerDiedError if there is none."""
        try:
            return json.loads(self.checkpoint.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ServerDiedError(f"the evaluator left no results: {last_words(self.log)}") from error

    def keep_motion(self, official_name: str | None, town: str) -> None:
        """Copy the metric_info.json that the agent wrote to where our metrics look for it."""
        source = self.save / str(official_name) / "metric_info.json"
        if official_name and source.is_file():
            own = metrics_folder(Path(self.job.folder)) / save_name(self.job.route_id, town, self.job.seed)
            own.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, own / source.name)


def to_record(checkpoint: Mapping[str, Any], job: Job, town: str, scoring: Scoring) -> RouteRecord:
    """The last record of an evaluator's results as one of ours."""
    verdict = checkpoint["_checkpoint"]["records"][-1]
    meta = verdict["meta"]
    return RouteRecord(
        route_id=job.route_id,
        repetition=job.repetition,
        town=town,
        scoring=scoring,
        status=verdict["status"],
        scores=Scores(**{name: float(value) for name, value in verdict["scores"].items()}),
        infractions=verdict["infractions"],
        events=(),
        route_length_m=float(meta["route_length"]),
        duration_game_s=float(meta["duration_game"]),
        duration_system_s=float(meta["duration_system"]),
        ticks=round(float(meta["duration_game"]) / GAME_TICK_S),
        seed=job.seed,
        traffic=job.traffic,
        sensors=checkpoint["sensors"],
        provenance={
            "server": job.server_name,
            "server_version": wheel_version(),  # `connect` and the evaluators refuse any other
            "client_version": wheel_version(),
            "evaluator": "official",
            "save_name": verdict.get("save_name"),
            "scenarios": [{"name": verdict["scenario_name"]}] if verdict.get("scenario_name") else [],
        },
    )


def _last_error(log: Path) -> str:
    """The last line of a traceback that the evaluator printed before it registered its verdict."""
    spoken = log.read_text(encoding="utf-8", errors="replace").split("Registering the route statistics")[0]
    errors = _ERROR_LINE.findall(spoken)
    return errors[-1] if errors else "the evaluator says nothing more"


def _evaluate(
    job: Job, harness: Harness, town: str, files: OfficialFiles, address: tuple[str, int], traffic_port: int
) -> None:
    """Run the evaluator to its end. Raises: ServerDiedError if it cannot even begin."""
    command = [sys.executable, "-m", "eval.official.launch", "--progress", str(job.path("status").resolve()), "--"]
    command += _arguments(job, files, address, traffic_port)
    if harness.starts_server:
        command += ["--gpu-rank", str(job.gpu or 0)]
    with files.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(job, harness, town, files),
        )
    try:
        code = process.wait()
    finally:
        end_tree(process)  # a server that the evaluator started in a session of its own, too
    if code == EVALUATOR_BAD_INPUT:
        raise ServerDiedError(f"the evaluator refused its arguments: {last_words(files.log)}")


def _arguments(job: Job, files: OfficialFiles, address: tuple[str, int], traffic_port: int) -> list[str]:
    host, port = address
    options = {
        "host": host,
        "port": port,
        "traffic-manager-port": traffic_port,
        "traffic-manager-seed": job.seed,
        "timeout": TIMEOUT_S,
        "routes": Path(job.routes).resolve(),
        "routes-subset": job.route_id,
        "repetitions": 1,
        "agent": Path(job.agent).resolve(),
        "agent-config": Path(job.agent_config).resolve(),
        "track": "SENSORS",
        "checkpoint": files.checkpoint,
        "debug-checkpoint": files.live,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def _environment(job: Job, harness: Harness, town: str, files: OfficialFiles) -> dict[str, str]:
    environment = {**os.environ, **harness.environment()}
    if harness.starts_server:
        environment |= {
            "CARLA_ROOT": job.carla_root or str(STAND_IN_CARLA),
            "SAVE_PATH": str(files.save),
            "IS_BENCH2DRIVE": "True",
            "RAW2DRIVE_PYTHON": sys.executable,
            "RAW2DRIVE_TOWN": town,
            "RAW2DRIVE_THREADS": str(job.threads),
        }
        if job.town_dir:
            environment["RAW2DRIVE_TOWN_DIR"] = str(Path(job.town_dir).resolve())
    return environment
