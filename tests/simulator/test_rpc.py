"""Envelopes, layouts and the actor table, without a network."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import wire
from simulator.actors import Actor, ActorTable, Box, Kind, compose, rotation_matrix
from simulator.rpc import CallError, Registry, Reply

ANGLE = st.floats(-180, 180)


def test_envelopes():
    def refuse():
        raise CallError("no")

    registry = Registry()
    registry.add("value", lambda x: x + 1, Reply.VALUE)
    registry.add("void", lambda: None, Reply.VOID)
    registry.add("bad_value", refuse, Reply.VALUE)
    registry.add("bad_void", refuse, Reply.VOID)
    assert registry.call("value", [1]) == (None, [[1, 2]])
    assert registry.call("void", []) == (None, [[False]])
    assert registry.call("bad_value", []) == (None, [[0, ["no"]]])
    assert registry.call("bad_void", []) == (None, [[True, ["no"]]])
    error, result = registry.call("unheard_of", [])
    assert result is None and error is not None and "unheard_of" in error
    with pytest.raises(ValueError, match="twice"):
        registry.add("void", refuse, Reply.VOID)


def test_layout_sizes_are_the_protocols():
    assert wire.ACTOR_STATE.itemsize == 119
    assert wire.ACTOR_STATE.fields["extra"][1] == wire.EXTRA_OFFSET
    assert wire.SENSOR_HEADER.size == 48
    assert len(wire.WorldHeader(17, 1, 0.05, 1, 0.0, 0.05).pack()) == 48 + 36
    sizes = [t.itemsize for t in (wire.VEHICLE_STATE, wire.WALKER_STATE, wire.TRAFFIC_LIGHT_STATE)]
    assert sizes == [30, 17, 54]
    token = wire.stream_token(5, 2001, "127.0.0.1")
    assert len(token) == 24 and struct.unpack_from("<IHBB4B", token) == (5, 2001, 1, 1, 127, 0, 0, 1)


def test_map_changed_touches_one_byte():
    state = wire.WorldHeader(17, 1, 0.05, 1, 0.0, 0.05).pack() + b"x" * 119
    changed = wire.with_map_changed(state)
    assert [i for i, (a, b) in enumerate(zip(state, changed, strict=True)) if a != b] == [80]


def make_actor(number: int) -> Actor:
    return Actor(number, "vehicle.audi.tt", Kind.VEHICLE, 0, [], 0, Box())


@given(st.lists(st.integers(0, 30), max_size=60))
def test_table_keeps_rows_and_actors_together(removals: list[int]):
    table = ActorTable()
    for number in range(1, 320):
        table.add(make_actor(number), (float(number), 0.0, 0.0, 0.0, 0.0, 0.0))
    for number in removals:
        actor = table.get(number)
        if actor is not None:
            table.remove(actor)
    for actor in table:
        assert table.pose(actor)[0] == actor.id
        assert table.states["id"][actor.row] == actor.id
    assert len(table.message_body()) == 119 * table.count


@given(ANGLE, ANGLE, ANGLE)
def test_rotations_are_orthonormal(pitch: float, yaw: float, roll: float):
    m = rotation_matrix(pitch, yaw, roll)
    assert np.allclose(m @ m.T, np.eye(3), atol=1e-9)


@given(st.floats(-80, 80), ANGLE, ANGLE, st.floats(-80, 80), ANGLE, ANGLE)
def test_compose_agrees_with_matrices(p1, y1, r1, p2, y2, r2):
    world = compose((1.0, 2.0, 3.0, p1, y1, r1), (0.5, -1.0, 2.0, p2, y2, r2))
    expected = rotation_matrix(p1, y1, r1) @ rotation_matrix(p2, y2, r2)
    assert np.allclose(rotation_matrix(*world[3:]), expected, atol=1e-6)
    assert np.allclose(world[:3], rotation_matrix(p1, y1, r1) @ [0.5, -1.0, 2.0] + [1.0, 2.0, 3.0])
