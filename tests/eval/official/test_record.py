"""Verdicts of the official evaluators become records without losing a point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.job import Job
from eval.official.drive import to_record
from eval.results import RouteRecord
from eval.scoring import Scoring

JOB = Job(
    routes="",
    route_id="0",
    agent="",
    agent_config="",
    scoring="bench2drive",
    traffic=0,
    seed=0,
    worker=0,
    folder="",
    parent_pid=0,
)


def test_every_published_verdict_survives(shared_dir: Path) -> None:
    published = json.loads((shared_dir / "results" / "UniAD-Base.json").read_text())["_checkpoint"]["records"]
    assert len(published) > 200
    for verdict in published:
        checkpoint = {"_checkpoint": {"records": [verdict]}, "sensors": ["carla_camera"]}
        record = RouteRecord.from_json(to_record(checkpoint, JOB, "Town12", Scoring.BENCH2DRIVE).to_json())
        again = record.to_leaderboard(0)
        assert again["status"] == verdict["status"]
        assert again["scores"] == pytest.approx(verdict["scores"])
        assert again["infractions"] == verdict["infractions"]
        assert again["meta"] == pytest.approx(verdict["meta"])
        assert again["scenario_name"] == verdict["scenario_name"]
