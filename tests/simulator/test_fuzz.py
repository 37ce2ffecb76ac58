"""Calls and streams with mutated contents: each gets its answer, and the server serves on."""

from __future__ import annotations

import itertools
import logging
import random
import resource
import socket
import struct
import sys
from pathlib import Path

import msgpack
import pytest

from simulator import api_table
from simulator.log_limit import MOST_PER_MINUTE, LogLimit
from simulator.rpc import INTERNAL_ERROR, MAX_UNREAD_BYTES
from simulator.wire import packed
from tests.simulator.test_hostile import assert_alive, call, closed_by_server, connect, open_descriptors

FEW, MANY = 2_000, 100_000
PIPELINED = 20
ANSWER_S = 60.0
FIRST_RAYS_S = 120.0
"""The first ray sensor may have its kernels compiled."""
NEST = 40
KEPT_AWAY = {"start_recorder"}
"""Writes files under the names that it gets; test_recorder gives it bad ones."""
SLOW = {"load_new_episode"}
"""Towns take seconds to build; their names are fuzzed with less zeal."""
ODD = (
    None, True, False, 0, 1, -1, 2**31, 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.0, -0.0, 1e-300, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "x", "\x00", "Gen01", "vehicle.audi.tt", "static.prop.mesh",
    "é" * 300, "a" * 70_000, b"", b"\xff" * 300, [], [[]], [None], {}, {"a": 1},
)  # fmt: skip
PLACE = [[10.0, 10.0, 2.0], [0.0, 90.0, 0.0]]
CONTROL = [0.5, 0.1, 0.0, False, False, False, 1]


def describe(kind: str) -> list:
    return [0, kind, [["role_name", 4, "fuzz"], ["range", 3, "30.0"], ["color", 5, "1,2,3"]]]


def templates(ids: list[int]) -> dict[str, list]:
    """Plausible arguments of calls that have more than ids."""
    kinds = [
        "vehicle.audi.tt", "walker.pedestrian.0001", "sensor.other.gnss", "sensor.lidar.ray_cast",
        "sensor.other.radar", "sensor.other.obstacle", "sensor.other.collision", "static.prop.box01",
        "static.trigger.friction", "controller.ai.walker",
    ]  # fmt: skip
    commands = [[[6, [i, PLACE]]] for i in ids] + [[[2, [i, CONTROL]]] for i in ids]
    spawn = [[[0, [describe(kind), PLACE, [True, ids[0]], 0, "", [[[16, [0, True]]]]]]] for kind in kinds]
    return {
        "spawn_actor": [describe(random.choice(kinds)), PLACE],
        "spawn_actor_with_parent": [describe(random.choice(kinds)), PLACE, ids[0], 0, ""],
        "apply_batch": [commands + spawn, True],
        "apply_control_to_vehicle": [ids[0], CONTROL],
        "apply_ackermann_control_to_vehicle": [ids[0], [0.1, 0.0, 5.0, 1.0, 0.0]],
        "apply_control_to_walker": [ids[1], [[1.0, 0.0, 0.0], 1.4, False]],
        "set_episode_settings": [[True, False, [True, 0.05], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True]],
        "set_weather_parameters": [[5.0] * 14],
        "cast_ray": [[0.0, 0.0, 5.0], [50.0, 0.0, -5.0]],
        "project_point": [[0.0, 0.0, 5.0], [0.0, 0.0, -1.0], 30.0],
        "set_actor_transform": [ids[0], PLACE],
        "draw_debug_shape": [[[0, [[0.0, 0.0, 0.0], 0.1]], [255, 0, 0], 1.0, False]],
        "add_traffic_manager_running": [["127.0.0.1", 8000]],
        "copy_opendrive_to_file": ["<OpenDRIVE/>", [2.0, 50.0, 1.0, 0.6, True, True, True]],
        "set_vehicle_light_state": [ids[0], [3]],
        "get_actors_by_id": [ids],
    }


class Fuzzer:
    """A seeded stream of requests: plausible ones with some of their parts replaced, dropped, doubled or nested."""

    def __init__(self, seed: int, ids: list[int]) -> None:
        self.rng = random.Random(seed)
        random.seed(seed)
        self.names = [name for name in api_table.registry().names() if name not in KEPT_AWAY]
        self.ids = ids
        self.templates = templates(ids)
        self.numbers = itertools.count(1)

    def request(self) -> tuple[int, bytes]:
        rng, number = self.rng, next(self.numbers)
        name = rng.choice(self.names)
        if name in SLOW and rng.random() < 0.98:
            name = "spawn_actor"
        arguments = self.templates.get(name) or [rng.choice(self.ids), *rng.sample(ODD, rng.randrange(4))]
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            arguments = self.mutated(arguments, rng.randrange(5))
        if not isinstance(arguments, list):
            arguments = [arguments]
        if rng.random() < 0.01:
            name += rng.choice(("x", "\x00", "", "_" * 5000))
        return number, packed([0, number, name, [[rng.random() < 0.5], *arguments]])

    def mutated(self, value, depth: int):
        """A copy of a value with one change at some depth."""
        rng = self.rng
        if isinstance(value, list) and value and depth:
            copy, place = list(value), rng.randrange(len(value))
            copy[place] = self.mutated(copy[place], depth - 1)
            return copy
        change = rng.randrange(6)
        if change == 0 and isinstance(value, list):
            return value[: rng.randrange(len(value) + 1)]
        if change == 1 and isinstance(value, list):
            return value + value[:1]
        if change == 2:
            for _ in range(rng.choice((1, 2, NEST))):
                value = [value]
            return value
        if change == 3 and isinstance(value, (int, float)) and not isinstance(value, bool):
            return value * rng.choice((-1, 2, 1e6, 1e300)) if abs(value) < 1e9 else 0
        return rng.choice(ODD)


def fuzz(server, count: int, seed: int) -> int:
    """Send `count` calls, a fifth of them garbled, and subscriptions between. Returns how many of the others failed."""
    with connect(server.port) as endpoint:
        car = call(endpoint, "spawn_actor", describe("vehicle.audi.tt"), [[0.0, 0.0, 50.0], [0.0, 0.0, 0.0]])
        person = call(endpoint, "spawn_actor", describe("walker.pedestrian.0001"), [[30.0, 0.0, 50.0], [0.0, 0.0, 0.0]])
        endpoint.settimeout(FIRST_RAYS_S)
        call(endpoint, "spawn_actor", describe("sensor.lidar.ray_cast"), PLACE)
        fuzzer = Fuzzer(seed, [car[3][0][1][0], person[3][0][1][0], 1, 0])
    failures = sent = 0
    while sent < count:
        with connect(server.port) as endpoint:
            endpoint.settimeout(ANSWER_S)
            unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, unicode_errors="replace")
            for _ in range(20):
                subscribe_to_anything(server, fuzzer.rng)
                failures += ask(endpoint, unpacker, [fuzzer.request() for _ in range(PIPELINED)])
        for _ in range(5):
            send_garbled(server, fuzzer)
        sent += 25 * PIPELINED
        if sent % 10_000 == 0:
            tidy_up(server)
    tidy_up(server)
    return failures


def ask(endpoint: socket.socket, unpacker: msgpack.Unpacker, requests: list[tuple[int, bytes]]) -> int:
    """Send requests at once; each must be answered in turn. Returns how many were refused or failed."""
    failures = 0
    endpoint.sendall(b"".join(message for _, message in requests))
    waited = [number for number, _ in requests]
    while waited:
        chunk = endpoint.recv(1 << 20)
        assert chunk, f"connection lost; waited for {waited}"
        unpacker.feed(chunk)
        for kind, number, error, result in unpacker:
            assert kind == 1 and number == waited.pop(0)
            failures += error is not None or failed(result)
            assert INTERNAL_ERROR not in str(result)[:10_000], result
    return failures


def subscribe_to_anything(server, rng: random.Random) -> None:
    """A stream connection that asks for some number, or breaks off in it, with more behind that nobody wants."""
    with connect(server.port + 1) as stream:
        wanted = struct.pack("<I", rng.choice((0, 1, 2, 3, 7, rng.getrandbits(32))))
        stream.sendall((wanted + rng.randbytes(9))[: rng.randrange(1, 14)])


def send_garbled(server, fuzzer: Fuzzer) -> None:
    """Requests with some bytes replaced: whatever is made of them, the connection comes to its end."""
    rng = fuzzer.rng
    message = bytearray(b"".join(fuzzer.request()[1] for _ in range(PIPELINED)))
    for _ in range(rng.randrange(1, 5)):
        message[rng.randrange(len(message))] = rng.randrange(256)
    with connect(server.port) as endpoint:
        endpoint.settimeout(ANSWER_S)
        try:
            endpoint.sendall(message)
            endpoint.shutdown(socket.SHUT_WR)
            while endpoint.recv(1 << 20):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass  # how the server ends a connection that it cannot understand


def failed(result: list) -> bool:
    """Whether a result is a failure: `[[True, ...]]` or `[[0, ...]]`, where `[[False]]` is none."""
    if not result:
        return False  # of an empty batch
    flag = result[0][0]
    return flag if isinstance(flag, bool) else flag == 0


def tidy_up(server) -> None:
    """Destroy what the fuzz spawned: thousands of actors would only slow it down."""
    with connect(server.port) as endpoint:
        call(endpoint, "set_episode_settings", templates([1, 1])["set_episode_settings"][0])
        last = call(endpoint, "spawn_actor", describe("static.prop.box01"), PLACE)[3][0][1][0]
        ids = [actor[0] for actor in call(endpoint, "get_actors_by_id", list(range(1, last + 1)))[3][0][1]]
        call(endpoint, "apply_batch", [[[1, [i]]] for i in ids], False)


def test_mutated_calls_are_answered(server):
    failures = fuzz(server, FEW, seed=8)
    assert FEW * 0.1 < failures < FEW * 0.75, f"{failures} of {FEW} failed: the fuzz is too tame or too wild"
    assert_alive(server)
    assert open_descriptors(server) < 40


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_mutated_calls_are_answered(server):
    before = resident_mib(server)
    failures = fuzz(server, MANY, seed=9)
    print(f"{MANY} calls, {failures} refused, memory {before:.0f} to {resident_mib(server):.0f} MiB")
    assert_alive(server)


def resident_mib(server) -> float:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize() / 2**20


def test_fifty_clients_connect_and_drop_amid_traffic(server):
    fuzzer = Fuzzer(3, [1, 2, 3])
    clients = []
    for k in range(50):
        clients.append((connect(server.port), connect(server.port + 1)))
        clients[-1][0].sendall(fuzzer.request()[1] if k % 2 else fuzzer.request()[1][:-3])
        clients[-1][1].sendall(struct.pack("<I", 1)[: 1 + k % 4])
    fuzzer.rng.shuffle(clients)
    for pair in clients:
        for endpoint in pair:
            endpoint.close()
        assert_alive(server)
    tidy_up(server)


def test_a_message_over_the_limit_ends_its_connection_only(server):
    with connect(server.port) as endpoint:
        endpoint.settimeout(ANSWER_S)
        endpoint.sendall(packed([0, 1, "version", [[False]]])[:-2] + b"\xdb" + struct.pack(">I", 2**32 - 1))
        try:
            for _ in range(80):
                endpoint.sendall(bytes(1 << 20))
            closed = endpoint.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            closed = True
        assert closed
    assert_alive(server)


def test_announced_but_never_sent_elements_take_no_memory(server):
    before = resident_mib(server)
    with connect(server.port) as endpoint:
        endpoint.settimeout(ANSWER_S)
        endpoint.sendall(b"\x94\x00\x01\xa7version" + b"\xdd\x02\x00\x00\x00" * 200)
        assert closed_by_server(endpoint)
    assert_alive(server)
    assert resident_mib(server) < before + 50.0


def test_answers_that_nobody_reads_do_not_pile_up(server):
    before = resident_mib(server)
    question = packed([0, 1, "get_map_data", [[False]]])
    asked = 400
    with connect(server.port) as endpoint:
        endpoint.settimeout(ANSWER_S)
        endpoint.sendall(question * asked)
        assert_alive(server)
        assert resident_mib(server) < before + 2.0 * MAX_UNREAD_BYTES / 2**20
        unpacker = msgpack.Unpacker(raw=False)
        answered = read = 0
        while answered < asked:
            chunk = endpoint.recv(1 << 20)
            read += len(chunk)
            unpacker.feed(chunk)
            answered += sum(1 for _ in unpacker)
    assert read > 3 * MAX_UNREAD_BYTES, "all answers together are too small to pile up"


def test_log_lines_are_cut_in_length_and_number():
    limit, log = LogLimit(), logging.getLogger("x")
    record = [log.makeRecord("x", logging.WARNING, __file__, 7, "bad %s", ("y" * 9_000,), None) for _ in range(30)]
    passed = [one for one in record if limit.filter(one)]
    assert len(passed) == MOST_PER_MINUTE
    assert passed[0].getMessage().endswith("... (9004 characters)") and len(passed[0].getMessage()) < 600
    assert passed[-1].getMessage().endswith("no more of this kind for 60 s)")
    assert limit.filter(log.makeRecord("x", logging.WARNING, __file__, 8, "another", (), None))


def test_traces_in_the_log_are_cut():
    try:
        raise ValueError("z" * 90_000)
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, __file__, 9, "failed", (), sys.exc_info())
    assert LogLimit().filter(record)
    shown = logging.Formatter().format(record)
    assert "Traceback" in shown and "characters) ..." in shown and len(shown) < 6_000
