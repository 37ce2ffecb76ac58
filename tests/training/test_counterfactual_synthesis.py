"""From logs to files of futures: contents, determinism, speed, and files that must be refused."""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.counterfactual import BASE, Body, road_log, road_map
from training import bev
from training.counterfactual import log as logs
from training.counterfactual import render, synthesis
from training.counterfactual.candidates import CandidateConfig, Family
from training.counterfactual.npz import ArrayFileError
from training.counterfactual.outcome import FutureKind
from training.counterfactual.replay import HORIZON_TICKS, make_scene, replay
from training.counterfactual.surface import Surface
from training.counterfactual.synthesis import SynthesisConfig, base_ticks, futures_of, relative_motion

BODIES = [Body(20.0, 0.0, speed=3.0), Body(16.0, -12.0, np.pi / 2, 6.0), Body(25.0, 6.0), Body(-9.0, 0.0, speed=8.0)]
WANTED_PER_S = 40_000 / 3600.0 / 2.0
"""40,000 futures in an hour on two cores."""


@pytest.fixture(scope="module")
def made() -> synthesis.Futures:
    return futures_of(road_log(BODIES), road_map(), SynthesisConfig())


def test_every_base_state_has_its_logged_future_and_others(made: synthesis.Futures) -> None:
    states = len(made.tick)
    assert states == 5, "later ones would begin inside the car ahead"
    assert (np.bincount(made.state[made.family == Family.LOGGED]) == 1).all()
    assert len(made.kind) > 10 * states
    assert {FutureKind.SAFE, FutureKind.OFF_ROAD, FutureKind.REAR_END, FutureKind.CROSSING} <= set(made.kind)
    failed = np.maximum(made.contact_s, made.off_road_s) >= 0.0
    np.testing.assert_array_equal(failed, made.kind >= FutureKind.REAR_END)
    assert (made.impact_mps[made.contact_s < 0.0] == 0.0).all()


def test_a_standing_car_is_hit_as_one() -> None:
    made = futures_of(road_log([Body(25.0, 0.0)]), road_map(), SynthesisConfig())
    assert {FutureKind.SAFE, FutureKind.STATIC} <= set(made.kind)
    assert not {FutureKind.CROSSING, FutureKind.REAR_END} & set(made.kind)


def test_the_same_seed_gives_the_same_futures(made: synthesis.Futures) -> None:
    again = futures_of(road_log(BODIES), road_map(), SynthesisConfig())
    other = futures_of(road_log(BODIES), road_map(), SynthesisConfig(seed=1))
    np.testing.assert_array_equal(made.motion, again.motion)
    np.testing.assert_array_equal(made.occupancy, again.occupancy)
    assert made.motion.shape != other.motion.shape or (made.motion != other.motion).any()


def test_masks_of_a_logged_future_are_those_of_the_log() -> None:
    """Rendered through the replay with the logged motion, the words are those painted from the log itself."""
    log, static = road_log(BODIES), road_map()
    scene = make_scene(log, BASE)
    outcome = replay(scene, Surface.around(static, log.ego[:, :2]), scene.logged[None])
    for step in (0, 7, 20, 60):
        words = render.future_words(log, static, scene, scene.logged, outcome.others[0], step)
        np.testing.assert_array_equal(words, render.logged_words(log, static, BASE + step))


def test_occupancy_shows_who_is_where() -> None:
    """A car 10 m ahead of an ego that has driven 8 m towards it, a walker to the left, road under both."""
    log = road_log([Body(18.0, 0.0), Body(12.0, 5.0, half=(0.3, 0.3), channel=bev.WALKER)])
    scene = make_scene(log, BASE)
    words = render.future_words(log, road_map(), scene, scene.logged, scene.pose[:61], 20)
    bits = render.occupancy(words)
    vehicle, walker = (bits >> 1) & 1, (bits >> 2) & 1
    rows, columns = np.nonzero(vehicle)
    assert render.AHEAD_M[1] - rows.mean() - 0.5 == pytest.approx(10.0, abs=0.6)
    assert render.BESIDE_M[1] - columns.mean() - 0.5 == pytest.approx(0.0, abs=0.6)
    rows, columns = np.nonzero(walker)
    assert render.AHEAD_M[1] - rows.mean() - 0.5 == pytest.approx(4.0, abs=0.6)
    assert render.BESIDE_M[1] - columns.mean() - 0.5 == pytest.approx(5.0, abs=0.6)
    road = bits & 1
    assert road[:, 16].all() and not road[:, 0].any(), "16 m of asphalt in a view of 32 m"


def test_motion_is_told_from_the_base_pose() -> None:
    log = road_log([], 8.0)
    scene = make_scene(log, BASE)
    rows = relative_motion(scene.logged[None])[0]
    np.testing.assert_allclose(rows[:, 0], 8.0 * 0.25 * np.arange(1, 13), atol=1e-6)
    np.testing.assert_allclose(rows[:, 1:3], 0.0, atol=1e-9)
    turned = scene.logged.copy()
    turned[:, 0], turned[:, 1], turned[:, 2] = 5.0 - scene.logged[:, 1], scene.logged[:, 0] - 7.0, np.pi / 2
    np.testing.assert_allclose(relative_motion(turned[None])[0], rows, atol=1e-9)


def test_base_states_leave_out_what_is_no_good_start() -> None:
    """Standing ones are thinned out; none after a collision, none without a past or a future."""
    static = road_map()
    config = SynthesisConfig()
    log = road_log([], 0.0)
    surface = Surface.around(static, log.ego[:, :2])
    assert len(base_ticks(log, surface, config)) == 3
    moving = road_log([], 8.0)
    ticks = base_ticks(moving, surface, config)
    assert min(ticks) >= 15 and max(ticks) < moving.ticks - HORIZON_TICKS and len(ticks) == 9
    struck = replace(moving, contacts=np.array([[60, 7]]))
    assert max(base_ticks(struck, surface, config)) < 60
    aside = replace(moving, ego=moving.ego + np.array([0.0, 8.5, 0.0, 0.0, 0.0, 0.0]))
    assert base_ticks(aside, surface, config) == []


def test_a_crash_ahead_leaves_only_what_was_driven() -> None:
    log = replace(road_log([Body(60.0, 0.0)]), contacts=np.array([[90, 1]]))
    futures = futures_of(log, road_map(), SynthesisConfig())
    near = np.isin(futures.state, np.flatnonzero(futures.tick >= 30))
    assert (futures.family[near] == Family.LOGGED).all() and (futures.family[~near] != Family.LOGGED).any()


def test_futures_come_back_from_a_file(made: synthesis.Futures, tmp_path: Path) -> None:
    path = tmp_path / f"a{synthesis.SUFFIX}"
    synthesis.save(made, path)
    again = synthesis.load(path)
    for name in (f.name for f in fields(made) if f.name != "meta"):
        np.testing.assert_array_equal(getattr(made, name), getattr(again, name))
    assert again.meta["episode"] == "road-1"
    synthesis.save(replace(made, kind=np.full_like(made.kind, 99)), path)
    with pytest.raises(ArrayFileError, match="kind leaves"):
        synthesis.load(path)


def test_fast_enough(made: synthesis.Futures) -> None:
    """In processor time of one core, with room: the goal is 5.6 futures a second and core."""
    started_s = time.process_time()
    futures = futures_of(road_log(BODIES), road_map(), SynthesisConfig(seed=2))
    assert len(futures.kind) / (time.process_time() - started_s) > 5.0 * WANTED_PER_S


def save_log(folder: Path) -> Path:
    path = folder / f"a{logs.SUFFIX}"
    logs.save(road_log(BODIES), path)
    return path


def rewrite(path: Path, change) -> None:
    """Change the members of an archive: name to bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def array_bytes(array: np.ndarray, *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


@settings(max_examples=25)
@given(at=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_logs_are_refused_or_read_as_they_were(tmp_path_factory, at, value, cut) -> None:
    path = save_log(tmp_path_factory.mktemp("damaged"))
    data = bytearray(path.read_bytes())
    place = min(int(at * len(data)), len(data) - 1)
    if cut:
        del data[place:]
    else:
        data[place] = value
    path.write_bytes(bytes(data))
    try:
        log = logs.load(path)
    except ArrayFileError as error:
        assert str(path) in str(error)
    else:
        np.testing.assert_array_equal(log.bodies, road_log(BODIES).bodies)


def test_hostile_logs_are_refused(tmp_path: Path) -> None:
    """Pickles, headers that lie, numbers that are none, wrong channels, too many members."""

    def refuse(match: str, change) -> None:
        path = save_log(tmp_path)
        rewrite(path, change)
        with pytest.raises(ArrayFileError, match=match):
            logs.load(path)

    def put(name: str, data: bytes):
        return lambda members: members.update({f"{name}.npy": data})

    ego = road_log(BODIES).ego
    nan = ego.copy()
    nan[3, 0] = np.nan
    huge = array_bytes(ego).replace(b"(160, 6)", b"(99999999999, 6)")
    refuse("has type", put("ego", array_bytes(np.array([{}], object), pickled=True)))
    refuse("not finite", put("ego", array_bytes(nan)))
    refuse(r"does not fit|is no array", put("ego", huge))
    refuse("has type float32", put("ego", array_bytes(ego.astype(np.float32))))
    refuse("has shape", put("ego", array_bytes(ego[:-1])))
    refuse("beyond", put("ego", array_bytes(ego + 1e7)))
    refuse("names a channel", put("shown", array_bytes(np.full((160, 4), 8, np.int8))))
    refuse("route_index leaves", put("route_index", array_bytes(np.full(160, 99_999, np.int32))))
    refuse("listed twice", put("ids", array_bytes(np.array([1, 1, 2, 3]))))
    refuse("differ from what is expected", put("extra", array_bytes(ego)))
    meta = {**road_log(BODIES).meta, "format": 2}
    refuse("format 2", put("meta", array_bytes(np.frombuffer(json.dumps(meta).encode(), np.uint8))))
    refuse(
        "metadata town",
        put("meta", array_bytes(np.frombuffer(json.dumps({"format": 1, "episode": "a"}).encode(), np.uint8))),
    )
    refuse("no JSON", put("meta", array_bytes(np.frombuffer(b"{", np.uint8))))
    with pytest.raises(ArrayFileError, match="no logs"):
        logs.log_files([tmp_path / "nothing"])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="every-s"):
        SynthesisConfig(every_s=0.0)
    assert SynthesisConfig(candidates=CandidateConfig(noise=0)).candidates.noise == 0
