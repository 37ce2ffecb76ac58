"""Recording for the raw stage on a real server: what cameras, localisation and the privileged view say of one drive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.actions import FULL_BRAKE
from agent.checkpoint import load_checkpoint, save_checkpoint
from agent.config import ConfigError
from agent.ego_vector import FIELDS
from eval.routes import Route
from tests.training.test_raw_run import record as record_steps
from training import bev
from training.env.config import EnvConfig
from training.privileged.checkpoint import load_model
from training.privileged.config import RouteConfig
from training.raw.config import raw_config
from training.raw.environment import look_of
from training.raw.record import RecordConfig, record
from training.raw.recording import Recording

WEIGHTS = Path(__file__).parents[2] / "weights"
TEACHER = WEIGHTS / "privileged_tiny"
STEPS = 20
PLACES = 40
ROUTE = """\
<routes>
   <route id="1" town="Gen02">
      <weathers><weather route_percentage="0.0" sun_altitude_angle="50.0" /></weathers>
      <waypoints>
         <position x="-127.55" y="21.07" z="0.00" />
         <position x="-137.39" y="9.80" z="0.00" />
         <position x="-56.22" y="-83.60" z="0.00" />
      </waypoints>
      <scenarios />
   </route>
</routes>
"""


@pytest.mark.timeout(240)
def test_a_drive_is_recorded_for_both_streams(tmp_path: Path) -> None:
    routes = tmp_path / "routes.xml"
    routes.write_text(ROUTE)
    config = RecordConfig(
        teacher=TEACHER, steps=STEPS, env=EnvConfig(traffic=0), routes=RouteConfig(file=routes, evaluation_file=routes)
    )
    assert f"{STEPS + 1} decisions" in record(config, tmp_path / "data")
    recording = Recording(tmp_path / "data" / "replay", raw_config(load_model(TEACHER).config))
    (stretch,) = recording.stretches()
    window = recording.read(stretch, 0, stretch.steps)
    sensors, vector = window.sensors, window.vector
    assert sensors is not None and vector is not None and stretch.steps > STEPS
    assert bool(sensors.camera_valid.all())
    spread = sensors.images.float().flatten(-3).std(-1)
    assert float(spread.min()) > 5.0, "a camera sees nothing"
    assert bool((bev.unpack(window.words.numpy().view(np.uint64), [bev.ROAD, bev.EGO]).sum((-1, -2)) > 5).all())
    speed = vector[0, :, FIELDS["speed"]][:, 0]
    assert float((sensors.vector[0, :, 0] - speed).abs().max()) < 0.1  # 1 m/s
    assert float(speed.max()) > 0.1, "the teacher does not set off"
    moved_m = sensors.ego_motion[0, 1:, 0].sum().item()
    assert moved_m == pytest.approx(float(speed.sum()), abs=2.0)  # 10 m/s a unit, 0.1 s a decision


def test_a_folder_that_holds_enough_is_left_alone(tmp_path: Path) -> None:
    record_steps(tmp_path / "replay", steps=16)
    assert "holds 16 decisions, 12 are wanted" in record(RecordConfig(teacher=TEACHER, total=12), tmp_path)
    assert not (tmp_path / "teacher").exists()
    with pytest.raises(ValueError, match="--minutes"):
        record(RecordConfig(teacher=TEACHER), tmp_path, minutes=0.0)
    with pytest.raises(ValueError, match="total"):
        RecordConfig(total=0)


@pytest.mark.timeout(240)
def test_an_agent_takes_its_turns(tmp_path: Path) -> None:
    plain, tensors = load_checkpoint(WEIGHTS / "raw")
    tensors["actor.2.bias"][FULL_BRAKE] = 100.0  # one that never sets off, as the privileged model does
    save_checkpoint(tmp_path / "braking", plain, tensors, step=1, created_by="a test")
    (tmp_path / "routes.xml").write_text(ROUTE)
    routes = RouteConfig(file=tmp_path / "routes.xml", evaluation_file=tmp_path / "routes.xml")
    config = RecordConfig(
        teacher=TEACHER,
        steps=STEPS,
        agent=tmp_path / "braking",
        privileged_share=0.0,
        env=EnvConfig(traffic=0),
        routes=routes,
    )
    record(config, tmp_path / "data")
    recording = Recording(tmp_path / "data" / "replay", raw_config(load_model(TEACHER).config))
    (stretch,) = recording.stretches()
    vector = recording.read(stretch, 0, stretch.steps).vector
    assert vector is not None
    brake = vector[0, 1:, FIELDS["action"]][:, 2]
    assert float((brake == 1.0).float().mean()) > 0.8  # one in a hundred is drawn at random


def test_what_is_no_raw_agent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "routes.xml").write_text(ROUTE)
    routes = RouteConfig(file=tmp_path / "routes.xml", evaluation_file=tmp_path / "routes.xml")
    config = RecordConfig(teacher=TEACHER, agent=WEIGHTS / "raw_clone", env=EnvConfig(traffic=0), routes=routes)
    with pytest.raises(ConfigError, match=r"config\.agent: .*raw_clone holds no raw agent; give a folder made by"):
        record(config, tmp_path / "data")


def test_every_route_has_its_own_look_and_keeps_it() -> None:
    """Drives of one seed must not all be in the same weather; who drives a route again sees it as before."""
    routes = [Route(str(k), "Gen02", ()) for k in range(PLACES)]
    looks = [look_of(route, 0) for route in routes]
    assert len({str(look.parameters) for look in looks}) == PLACES
    assert looks == [look_of(route, 0) for route in routes]
    assert looks[0] != look_of(routes[0], 1) and looks[0] != look_of(Route("0", "Gen03", ()), 0)
