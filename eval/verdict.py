"""From the end of a job to the record of its route, and what a run must have in common to be one run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from eval.agents import CONSTANT_THROTTLE
from eval.results import STATUS_AGENT_CRASHED, STATUS_SIMULATION_CRASHED, RouteRecord, judge
from eval.routes import file_sha256
from eval.supervised import JobEnd
from eval.watchdog import EXIT_AGENT_FROZEN
from eval.work import Task

if TYPE_CHECKING:
    from eval.runner import RunConfig

SIGKILLED = -9


def run_settings(config: RunConfig) -> dict[str, Any]:
    """Everything that must be equal for two results to stand in one file; written to `run.json`."""
    return {
        "format": 1,
        "routes_sha256": file_sha256(config.routes),
        **agent_identity(config),
        "scoring": config.scoring.value,
        "server": server_kind(config),
        "traffic": config.traffic,
        "seed": config.seed,
        "cameras": config.cameras,
        "max_game_s": config.max_game_s,
        **({"evaluator": "official"} if config.official is not None else {}),
    }


def server_kind(config: RunConfig) -> str:
    """CARLA is CARLA, however it came to run; its version stands in each record."""
    return "carla" if config.server or config.carla_root or config.carla_image else "embedded"


def agent_identity(config: RunConfig) -> dict[str, Any]:
    """Which agent drove: its name, its code and its weights."""
    built_in = config.agent == CONSTANT_THROTTLE
    return {
        "agent": config.agent,
        "agent_sha256": None if built_in else code_sha256(Path(config.agent)),
        "weights_sha256": None if built_in else weights_sha256(config.weights),
    }


def code_sha256(agent: Path) -> str:
    """Hash of an agent's code: of its file, or of the whole package that it lies in."""
    folder = agent.resolve().parent
    files: Iterable[Path] = [agent.resolve()]
    if (folder / "__init__.py").is_file():
        files = sorted(folder.rglob("*.py"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def weights_sha256(config_file: Path) -> str:
    """Hash of an agent's configuration together with its checkpoint's manifest, which holds the weights' hashes."""
    text = config_file.read_bytes()
    digest = hashlib.sha256(text)
    try:
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # an agent of someone else's may keep anything in its file
        settings = None
    checkpoint = settings.get("checkpoint", ".") if isinstance(settings, dict) else "."
    manifest = config_file.parent / str(checkpoint) / "manifest.json"
    if manifest.is_file():
        digest.update(manifest.read_bytes())
    return digest.hexdigest()


def check_weights(config_file: Path) -> None:
    """Read the configuration of our agent and its checkpoint. Raises: ConfigError, CheckpointError."""
    from agent.checkpoint import load_checkpoint  # here: they load torch, and no other agent needs it
    from agent.driver import AgentConfig

    load_checkpoint(config_file.parent / AgentConfig.read(config_file).checkpoint)


def make_record(end: JobEnd, task: Task, tries: int, config: RunConfig) -> RouteRecord:
    """The record of an ended job: its own, or what its end says if it left none."""
    if "record" in end.outcome:
        record = RouteRecord.from_json(end.outcome["record"])
    else:
        record = crash_record(end, task, config)
    data = record.to_json()
    data["provenance"] = {
        **record.provenance,
        "tries": tries,
        "route_file": config.routes.name,
        "route_file_sha256": file_sha256(config.routes),
        "cameras": config.cameras,
        "agent_config_sha256": None if config.agent == CONSTANT_THROTTLE else file_sha256(config.weights),
        **agent_identity(config),
        "memory_mib": end.peak_memory_bytes >> 20,
        "wall_s": round(end.wall_s, 3),
    }
    return RouteRecord.from_json(data)


def crash_record(end: JobEnd, task: Task, config: RunConfig) -> RouteRecord:
    """The record of a job that left none: the agent's failure or the simulation's."""
    # The kernel kills what eats the memory: the agent's fault, not tried again.
    killed = not end.cut_off and end.exit_code in (EXIT_AGENT_FROZEN, SIGKILLED)
    status = STATUS_AGENT_CRASHED if killed or end.agent_hung else STATUS_SIMULATION_CRASHED
    verdict = judge(0.0, (), config.scoring, status.removeprefix("Failed - "))
    return RouteRecord(
        route_id=task.route.id,
        repetition=task.repetition,
        town=task.route.town,
        scoring=config.scoring,
        **verdict,
        route_length_m=task.route.keypoint_length_m,
        duration_game_s=float(end.status.get("game_s", 0.0)),
        duration_system_s=0.0,
        ticks=0,
        seed=config.seed + task.repetition,
        traffic=config.traffic,
        provenance={"exit_code": end.exit_code},
        failure_message=reason(end),
    )


def reason(end: JobEnd) -> str:
    """Why a job left no record, in one line."""
    if "server_died" in end.outcome:
        return str(end.outcome["server_died"])
    cause = f"ended by the runner ({end.cut_off})" if end.cut_off else f"exit code {end.exit_code}"
    return f"{cause}; last words: {end.last_words}"
