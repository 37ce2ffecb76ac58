"""The doctor's look at a server: does it answer, as which version, with which towns, and how does its GNSS count?"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Iterator
from typing import Final, cast

import carla

from agent.geodesy import Dialect, GeoReference, world_from_geo
from eval.doctor import BENCH2DRIVE_TOWNS, Finding, Level
from eval.server import (
    EmbeddedServer,
    EmbeddedServerConfig,
    ServerDiedError,
    ServerError,
    connect,
    parse_address,
    release,
    wheel_version,
)

EMBEDDED_TOWN: Final = "Gen01"
TIMEOUT_S: Final = 20.0
SENSOR_S: Final = 10.0
PROBE_M: Final = carla.Location(x=800.0, y=1200.0, z=30.0)
"""Far from the origin, so that the conventions differ by kilometres in y and by half a metre in x."""
CONVENTION_ERROR_M: Final = 1.0


def check_embedded_server() -> Iterator[Finding]:
    """Start one, and look at it."""
    started_s = time.monotonic()
    try:
        with EmbeddedServer(EmbeddedServerConfig(town=EMBEDDED_TOWN, render=False)) as server:
            client = connect(server.host, server.port, TIMEOUT_S)
            value = f"speaks CARLA {client.get_server_version()}, ready after {time.monotonic() - started_s:.1f} s"
            yield Finding(Level.OK, "embedded server", value)
            yield check_gnss(client)
    except (ServerError, ServerDiedError, RuntimeError) as error:
        todo = "run it by hand and read what it says: python -m simulator serve --town Gen01"
        yield Finding(Level.FAIL, "embedded server", " ".join(str(error).split()), todo)


def check_running_server(address: str) -> Iterator[Finding]:
    """A CARLA that somebody started."""
    host, port = parse_address(address)
    try:
        client = connect(host, port, TIMEOUT_S)
        yield Finding(Level.OK, "server", f"{address} speaks CARLA {client.get_server_version()}, as the wheel")
        towns = {name.split("/")[-1] for name in client.get_available_maps()}
        missing = [town for town in BENCH2DRIVE_TOWNS if town not in towns]
        shown = ", ".join(sorted(towns))
        if missing:
            value = f"{shown}; of Bench2Drive's missing: {', '.join(missing)}"
            todo = "install the release's AdditionalMaps to drive their routes, or choose with --towns"
            yield Finding(Level.WARN, "server's towns", value, todo)
        else:
            yield Finding(Level.OK, "server's towns", shown)
        yield check_gnss(client)
    except (ServerError, RuntimeError) as error:
        todo = "start CARLA there, or give the right --server; its version must be the wheel's"
        yield Finding(Level.FAIL, "server", " ".join(str(error).split()), todo)


def check_gnss(client: carla.Client) -> Finding:
    """Which way the server's GNSS counts latitude; agents that assume the other one are kilometres off.

    Ticks the world once if it waits for ticks.
    """
    world = client.get_world()
    origin = world.get_map().transform_to_geolocation(carla.Location())
    reference = GeoReference(math.radians(origin.latitude), math.radians(origin.longitude))
    reading = _read_gnss(world)
    if reading is None:
        todo = "a world in synchronous mode needs a client that ticks; restart the server"
        return Finding(Level.FAIL, "GNSS", f"no reading within {SENSOR_S:.0f} s", todo)
    latitude_rad, longitude_rad = math.radians(reading.latitude), math.radians(reading.longitude)
    errors_m = {
        dialect: math.dist(world_from_geo(latitude_rad, longitude_rad, reference, dialect), (PROBE_M.x, -PROBE_M.y))
        for dialect in Dialect
    }
    found = min(Dialect, key=lambda dialect: errors_m[dialect])
    if errors_m[found] > CONVENTION_ERROR_M:
        value = f"fits no known convention (off by {errors_m[found]:.1f} m)"
        return Finding(Level.WARN, "GNSS", value, "let the agent drive by speed and gyroscope, and report this")
    direction = "north" if found is Dialect.CARLA_0_9_16 else "south"
    value = f"as CARLA {found.value}: +y is {direction}"
    expected = ".".join(release(wheel_version()))
    if found.value != expected:
        return Finding(Level.WARN, "GNSS", value, f"CARLA {expected} should count otherwise; agents may not expect it")
    if found is Dialect.CARLA_0_9_16:
        value += ", against the leaderboard's GPS plan; this agent finds out by itself"
    return Finding(Level.OK, "GNSS", value)


def _read_gnss(world: carla.World) -> carla.GnssMeasurement | None:
    readings: queue.Queue[carla.GnssMeasurement] = queue.Queue()
    blueprint = world.get_blueprint_library().find("sensor.other.gnss")
    sensor = cast("carla.Sensor", world.spawn_actor(blueprint, carla.Transform(PROBE_M)))
    try:
        sensor.listen(lambda data: readings.put(cast("carla.GnssMeasurement", data)))
        if world.get_settings().synchronous_mode:
            world.tick(TIMEOUT_S)
        return readings.get(timeout=SENSOR_S)
    except queue.Empty:
        return None
    finally:
        sensor.stop()
        sensor.destroy()
