"""Garbage, half messages, vanishing clients: the server goes on serving others."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import pytest

from tests.simulator.conftest import start_server

CONNECT_S = 5.0
PATIENCE_S = 60.0
"""For calls that may compile"""
FEW_DESCRIPTORS = 40


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=CONNECT_S)


def call(endpoint: socket.socket, method: str, *arguments) -> list:
    """One RPC round trip on a raw socket: the whole answer."""
    endpoint.sendall(msgpack.packb([0, 1, method, [[False], *arguments]]))
    unpacker = msgpack.Unpacker(raw=False)
    while True:
        chunk = endpoint.recv(1 << 20)
        assert chunk, "server closed the connection"
        unpacker.feed(chunk)
        for message in unpacker:
            return message


def assert_alive(server) -> None:
    with connect(server.port) as endpoint:
        assert call(endpoint, "version") == [1, 1, None, [[1, importlib.metadata.version("carla")]]]


def open_descriptors(server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def closed_by_server(endpoint: socket.socket) -> bool:
    endpoint.settimeout(CONNECT_S)
    try:
        return endpoint.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 16,
        msgpack.packb([0, 1]),
        msgpack.packb({"a": 1}),
        msgpack.packb([0, "id", "version", []]),
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_garbage_ends_only_its_own_connection(server, garbage):
    with connect(server.port) as endpoint:
        endpoint.sendall(garbage)
        endpoint.shutdown(socket.SHUT_WR)
        assert closed_by_server(endpoint)
    assert_alive(server)


def test_half_a_message_waits_without_harm(server):
    whole = msgpack.packb([0, 7, "version", [[False]]])
    with connect(server.port) as endpoint:
        endpoint.sendall(whole[:5])
        assert_alive(server)
        endpoint.sendall(whole[5:])
        assert msgpack.unpackb(endpoint.recv(1 << 16)) == [1, 7, None, [[1, importlib.metadata.version("carla")]]]


def test_unusable_arguments_get_an_error_each(server):
    with connect(server.port) as endpoint:
        assert "not supported" in call(endpoint, "format_disk")[2]
        for method, arguments in {
            "destroy_actor": [987654],
            "spawn_actor": [[1, "vehicle.of.dreams", []], [[0, 0, 0], [0, 0, 0]]],
            "apply_control_to_vehicle": [1, "full speed"],
            "set_weather_parameters": [[1.0]],
            "set_episode_settings": [[True]],
            "get_actors_by_id": [7],
            "get_sensor_token": [-1],
            "spawn_actor_with_parent": [[1, "sensor.other.imu", []], [[0, 0, 0], [0, 0, 0]], 4040404],
        }.items():
            answer = call(endpoint, method, *arguments)
            flag, details = answer[3][0][0], answer[3][0][1]
            assert answer[2] is None and flag in (0, True), answer
            assert details[0]
    assert_alive(server)


def test_not_a_number_never_enters_the_world(server):
    nan = float("nan")
    with connect(server.port) as endpoint:
        answer = call(endpoint, "spawn_actor", [1, "vehicle.audi.tt", []], [[nan, 0.0, 0.0], [0.0, 0.0, 0.0]])
        assert answer[3][0][0] == 0 and "finite" in answer[3][0][1][0]
        answer = call(endpoint, "tick_cue")
        assert answer[3][0][0] == 1


def test_clients_that_vanish_leave_nothing_behind(server):
    for _ in range(50):
        endpoint = connect(server.port)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
        endpoint.sendall(msgpack.packb([0, 1, "get_actor_definitions", [[False]]]))
        endpoint.close()
        stream = connect(server.port + 1)
        stream.sendall(struct.pack("<I", 1))
        stream.close()
    assert_alive(server)
    deadline = time.monotonic() + CONNECT_S
    while open_descriptors(server) >= FEW_DESCRIPTORS:
        assert time.monotonic() < deadline, f"{open_descriptors(server)} descriptors are still open"
        time.sleep(0.1)


LISTENER = """
import sys, time, carla
client = carla.Client("127.0.0.1", int(sys.argv[1]))
client.set_timeout(60.0)
world = client.get_world()
kinds = ("sensor.other.gnss", "sensor.other.imu", "sensor.lidar.ray_cast")
sensors = [world.spawn_actor(world.get_blueprint_library().find(kind), carla.Transform()) for kind in kinds]
for sensor in sensors:
    sensor.listen(lambda data: None)
print(*(sensor.id for sensor in sensors), flush=True)
time.sleep(600.0)
"""


def test_the_sensors_of_a_killed_client_end(server):
    with connect(server.port) as endpoint:
        endpoint.settimeout(PATIENCE_S)
        killed = subprocess.Popen([sys.executable, "-c", LISTENER, str(server.port)], stdout=subprocess.PIPE, text=True)
        assert killed.stdout is not None
        ids = [int(word) for word in killed.stdout.readline().split()]
        assert len(ids) == 3 and len(call(endpoint, "get_actors_by_id", ids)[3][0][1]) == 3
        killed.kill()
        killed.wait()
        deadline = time.monotonic() + CONNECT_S
        while call(endpoint, "get_actors_by_id", ids)[3][0][1]:
            assert time.monotonic() < deadline, "its sensors are still there"
        assert call(endpoint, "tick_cue")[3][0][0] == 1


def test_stream_of_a_sensor_that_is_not_there(server):
    with connect(server.port + 1) as endpoint:
        endpoint.sendall(struct.pack("<I", 0xFFFFFFFF))
        assert_alive(server)


def test_listens_on_loopback_only(server):
    table = Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in table]
    ports = {f"{server.port:04X}", f"{server.port + 1:04X}"}
    listening = [row[1].split(":") for row in rows if row[3] == "0A" and row[1].split(":")[1] in ports]
    assert {address for address, _ in listening} == {"0100007F"}


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulator", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--town", "Atlantis", "--port", "0"], ["Atlantis"]),
        (["--town", "Gen01", "--port", "0", "--version", "0.9.99"], ["0.9.99", "0.9.16"]),
        (["--town", "Gen01", "--port", "70000"], ["70000"]),
        (["--town", "Gen01", "--host", "192.0.2.1", "--port", "0"], ["192.0.2.1"]),
        (["--town", "Gen01", "--host", "no.such.invalid", "--port", "0"], ["no.such.invalid", "127.0.0.1"]),
        (["--town", "Gen01", "--town-dir", "/absent", "--port", "0"], ["/absent", ".xodr"]),
    ],
)
def test_bad_input_is_one_clear_line(arguments, words):
    result = run_serve(*arguments)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and all(word in lines[0] for word in words)
    assert "Traceback" not in result.stderr


def test_port_in_use_is_named(server):
    result = run_serve("--town", "Gen01", "--port", str(server.port))
    assert result.returncode == 2
    assert str(server.port) in result.stderr and "in use" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_quickly_and_cleanly(number):
    running = start_server("--no-render")
    running.process.send_signal(number)
    assert running.process.wait(timeout=5) == 0


def test_dies_with_its_parent():
    script = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'simulator', 'serve', '--town', 'Gen01', '--port', '0',"
        " '--no-render', '--die-with-parent'], stdout=subprocess.PIPE, text=True)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("server outlived its parent")


def test_a_server_whose_parent_is_gone_before_it_looks_ends() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "simulator", "serve", "--port", "0", "--no-render", "--die-with-parent"]
    environment = {**os.environ, "RAW2DRIVE_PARENT_PID": str(gone.pid)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert server.wait(timeout=60.0) != 0
    finally:
        server.kill()


def test_streams_are_announced_by_the_address_a_client_came_by():
    """A server that listens on all addresses must not send another machine's clients to their own loopback."""
    running = start_server("--no-render", "--host", "0.0.0.0")
    try:
        for address in ("127.0.0.1", "127.0.0.2"):
            with socket.create_connection((address, running.port), timeout=CONNECT_S) as endpoint:
                token = call(endpoint, "get_sensor_token", 1)[3][0][1][0]
            assert struct.unpack_from("<IHBB4s", token) == (1, running.port + 1, 1, 1, socket.inet_aton(address))
    finally:
        running.stop()


@pytest.mark.parametrize("value", [b"\xff", b"caf\xe9"])
def test_text_that_is_none_is_refused(server, value):
    """It could neither be sent back nor recorded."""
    place = [[0.0, 0.0, 5.0], [0.0, 0.0, 0.0]]
    message = msgpack.packb([0, 1, "spawn_actor", [[False], [0, "sensor.other.gnss", [["role_name", 3, "@"]]], place]])
    raw = message.replace(b"\xa1@", bytes([0xA0 + len(value)]) + value)
    with connect(server.port) as endpoint:
        endpoint.sendall(raw)
        answer = endpoint.recv(1 << 16)
        assert b"not UTF-8" in answer or answer == b""
    assert_alive(server)


def test_a_gear_beyond_a_byte_is_refused(server):
    place = [[0.0, 0.0, 300.0], [0.0, 0.0, 0.0]]
    with connect(server.port) as endpoint:
        actor = call(endpoint, "spawn_actor", [0, "vehicle.audi.tt", []], place)[3][0][1][0]
        answer = call(endpoint, "apply_control_to_vehicle", actor, [0.0, 0.0, 0.0, False, False, True, 1 << 40])
        assert answer[3] == [[True, [f"gear {1 << 40}: at most 100"]]]
        call(endpoint, "destroy_actor", actor)
