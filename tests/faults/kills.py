"""`python -m tests.faults.kills`: an evaluation in which something is killed again and again, and what becomes of it.

Victims are drawn by kind: the runner itself, a job, its server, its sentinel. A killed runner is started again with the
same command. In the end every route must have one verdict and one only, and no process may be left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import carla
import tyro

from eval.generate import generate_routes
from eval.processes import ProcessIdentity
from eval.results import STATUS_SIMULATION_CRASHED, read_records
from eval.routes import write_routes
from simulator.towns.generate import generate
from tests.faults.runs import TOWN, command_line, family, lines, run_command, survivors

KINDS = (("eval.job", "job"), ("simulator serve", "server"), ("trap", "sentinel"))
MAX_STARTS = 1000
ENDED_S = 60.0
"""A machine that is busy with other things takes its time to end a server."""


@dataclass(frozen=True, kw_only=True)
class KillsConfig:
    """Kill random processes of evaluations and count what is lost."""

    kills: int = 50
    """How many processes are killed."""
    routes: int = 12
    """Routes of an evaluation; when one is through, the next begins."""
    workers: int = 2
    game_s: float = 3.0
    """Game time after which each route ends."""
    pause_s: tuple[float, float] = (0.5, 3.0)
    """Shortest and longest time between two kills."""
    seed: int = 0
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(slots=True)
class Tally:
    """What happened so far."""

    victims: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    evaluations: int = 0
    starts: int = 0
    driven_again: int = 0
    lost: int = 0
    counted_twice: int = 0
    left_behind: list[str] = field(default_factory=list)


def kill_on(config: KillsConfig, folder: Path) -> Tally:
    """Evaluations one after the other until enough has been killed; every one is brought to its end."""
    tally, generator = Tally(), random.Random(config.seed)
    routes = folder / "routes.xml"
    write_routes(generate_routes(carla.Map(TOWN, generate(3)), config.routes, seed=3, town=TOWN), routes)
    while tally.victims.total() < config.kills:
        out = folder / f"run{tally.evaluations}"
        tally.evaluations += 1
        _evaluate(config, routes, out, tally, generator)
        _count(out, config.routes, tally)
    return tally


def _evaluate(config: KillsConfig, routes: Path, out: Path, tally: Tally, generator: random.Random) -> None:
    more = ("--traffic", "0", "--max-game-s", str(config.game_s), "--threads", "1", "--workers", str(config.workers))
    while True:
        tally.starts += 1
        if tally.starts > MAX_STARTS:
            raise RuntimeError("the evaluation does not come to its end")
        with out.with_suffix(".log").open("ab") as log:
            runner = subprocess.Popen(run_command(routes, out, *more), stdout=log, stderr=log)
            _strike(config, runner, tally, generator)
        if runner.returncode == 0:
            return
        if runner.returncode not in (1, -signal.SIGKILL):  # 1: some routes are still without a verdict
            raise RuntimeError(
                f"the runner ended with {runner.returncode}: {out.with_suffix('.log').read_text()[-2000:]}"
            )


def _strike(config: KillsConfig, runner: subprocess.Popen, tally: Tally, generator: random.Random) -> None:
    """Kill now and then until the runner is over; then nothing that it started may be left."""
    seen: set[ProcessIdentity] = set()
    next_s: float | None = None
    while runner.poll() is None:
        processes = family(runner.pid)
        seen.update(processes)
        victims = _victims(processes, runner.pid)
        if next_s is None and "server" in victims:  # from here on there is something to lose
            next_s = time.monotonic() + generator.uniform(*config.pause_s)
        if next_s is not None and time.monotonic() >= next_s and tally.victims.total() < config.kills:
            next_s = None
            kind = generator.choice(sorted(victims))
            victim = generator.choice(victims[kind])
            tally.victims[kind] += 1
            print(f"kill {tally.victims.total()} of {config.kills}: {kind}", flush=True)
            os.kill(victim, signal.SIGKILL)
        time.sleep(0.05)
    tally.left_behind += survivors(list(seen), ENDED_S)


def _victims(processes: list[ProcessIdentity], runner: int) -> dict[str, list[int]]:
    """Pids by kind."""
    victims: dict[str, list[int]] = {"runner": [runner]}
    for process in processes:
        text = command_line(process.pid)
        for part, kind in KINDS:
            if part in text:
                victims.setdefault(kind, []).append(process.pid)
                break
    return victims


def _count(out: Path, routes: int, tally: Tally) -> None:
    """Compare the journal, line by line, with what there was to drive."""
    decided = [row for row in lines(out / "results.jsonl") if row["status"] != STATUS_SIMULATION_CRASHED]
    verdicts = Counter(row["route_id"] for row in decided)
    wanted = {str(number + 1) for number in range(routes)}
    summary = json.loads((out / "results.json").read_text())["_checkpoint"]["records"]
    tally.lost += len(wanted - set(verdicts)) + len(wanted) - len({row["route_id"] for row in summary})
    tally.counted_twice += sum(count - 1 for count in verdicts.values()) + max(len(summary) - len(wanted), 0)
    tally.verdicts.update(record.status for record in read_records(out / "results.jsonl"))
    crashes = out / "crashes.jsonl"
    tally.driven_again += len(lines(crashes)) if crashes.exists() else 0


def figures(config: KillsConfig, tally: Tally, wall_s: float) -> dict[str, Any]:
    """What is written down."""
    return {
        "command": f"python -m tests.faults.kills --kills {config.kills} --seed {config.seed}",
        "server": "embedded",
        "cores": os.cpu_count(),
        "wall_s": round(wall_s),
        "kills": tally.victims.total(),
        "killed": dict(sorted(tally.victims.items())),
        "evaluations": tally.evaluations,
        "starts_of_the_runner": tally.starts,
        "routes": tally.evaluations * config.routes,
        "driven_again_after_a_crash": tally.driven_again,
        "verdicts": dict(sorted(tally.verdicts.items())),
        "routes_lost": tally.lost,
        "routes_counted_twice": tally.counted_twice,
        "processes_left_behind": tally.left_behind,
    }


def main() -> int:
    """Exit code 0 if nothing was lost, counted twice or left behind."""
    config = tyro.cli(KillsConfig, prog="python -m tests.faults.kills")
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        tally = kill_on(config, Path(folder))
    text = json.dumps(figures(config, tally, time.monotonic() - started_s), indent=2)
    print(text)
    if config.out is not None:
        config.out.write_text(text + "\n")
    return 1 if tally.lost or tally.counted_twice or tally.left_behind else 0


if __name__ == "__main__":
    sys.exit(main())
