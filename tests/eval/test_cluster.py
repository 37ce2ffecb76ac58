"""What an actor does on a node of a cluster: the job's files travel there, and what it leaves comes back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import carla

from eval.cluster import Actor, Parcel
from eval.generate import generate_routes
from eval.job import Job
from eval.routes import write_routes
from eval.supervised import Limits
from simulator.towns.generate import generate

PATIENCE_S = 100.0


def test_a_job_is_driven_from_its_parcel_alone(tmp_path: Path) -> None:
    text = generate(3)
    routes = tmp_path / "routes.xml"
    write_routes(generate_routes(carla.Map("Shipped", text), 1, seed=3, town="Shipped"), routes)
    job = Job(
        routes="/nowhere/routes.xml",
        route_id="1",
        agent="constant-throttle",
        agent_config="",
        scoring="2.0",
        traffic=0,
        seed=1,
        worker=0,
        folder="/nowhere/run",
        parent_pid=os.getpid(),
        repetition=1,
        town_dir="/nowhere/towns",
        threads=1,
        max_game_s=1.0,
    )
    actor = Actor()
    actor.start(Parcel(job, Limits(), routes.read_bytes(), {"Shipped.xodr": text.encode()}))
    deadline_s = time.monotonic() + PATIENCE_S
    while not actor.poll().over and time.monotonic() < deadline_s:
        time.sleep(0.05)
    end, files = actor.finish()
    assert end.exit_code == 0, end.last_words
    assert end.outcome["record"]["duration_game_s"] == 1.0
    assert {"rep1/jobs/route_1.log", "rep1/traces/route_1.npz", "rep1/moments/1.jsonl"} <= set(files)
    assert not any(name.endswith((".job.json", ".status.json", ".process.json")) for name in files)
