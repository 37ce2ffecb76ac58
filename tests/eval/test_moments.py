"""The trace of a route: written, read back, refused when it is not one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.moments import Step, TraceError, TraceFile, read_trace, safe_name, to_ego, trace_path
from tests.eval.synthetic_moments import moments


def write(folder: Path, count: int = 12) -> Path:
    trace = TraceFile(folder, "7")
    for moment in moments(count, route_id="7"):
        trace(moment)
    trace.close()
    trace.close()
    return trace_path(folder, "7")


def test_a_trace_read_back_is_what_was_written(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path))
    written = list(moments(12, route_id="7"))
    assert trace.route == written[0].route
    for step, moment in zip(trace.steps, written, strict=True):
        without_pictures = [(incident.kind, incident.message) for incident in step.incidents]
        assert without_pictures == [(incident.kind, incident.message) for incident in moment.step.incidents]
        assert {**fields_of(step), "incidents": ()} == {**fields_of(moment.step), "incidents": ()}
    incident = next(incident for step in trace.steps for incident in step.incidents)
    for picture in (trace.start_picture, trace.picture(incident.picture), trace.end_picture):
        assert picture is not None and picture.startswith(b"\xff\xd8")


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + "[12.0,3")
    assert len(read_trace(path).steps) == 12


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", '{"format":1}\n', "no json\n", '{"format":1,"columns":[]}\n'])
def test_other_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"x\.jsonl"):
        read_trace(path)


def test_pictures_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"x")
    trace = read_trace(write(tmp_path / "moments"))
    assert trace.picture("../secret.jpg") is None
    assert trace.picture(str(tmp_path / "secret.jpg")) is None


@settings(deadline=None)
@given(st.text(max_size=200))
def test_a_safe_name_is_one_file_name(name: str) -> None:
    safe = safe_name(name)
    assert Path(safe).name == safe and 0 < len(safe) <= 80


@settings(deadline=None)
@given(x=st.floats(-1e3, 1e3), y=st.floats(-1e3, 1e3), yaw=st.floats(-720.0, 720.0))
def test_points_ahead_and_right_of_the_car(x: float, y: float, yaw: float) -> None:
    step = next(moments(1)).step
    here = Step(**{**fields_of(step), "x_m": x, "y_m": y, "yaw_deg": yaw})
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    ahead, right = (x + 5.0 * c, y + 5.0 * s), (x - 2.0 * s, y + 2.0 * c)
    np.testing.assert_allclose(to_ego([ahead, right], here), [(5.0, 0.0), (0.0, -2.0)], atol=1e-9)


def fields_of(step: Step) -> dict[str, object]:
    return {name: getattr(step, name) for name in step.__dataclass_fields__}
