"""The two listeners of the embedded server, and its clock when no client ticks it."""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from simulator import wire
from simulator.api import register
from simulator.render import OpenGlError, check_backend
from simulator.rpc import Registry, RpcConnection
from simulator.session import Session
from simulator.streams import StreamConnection, StreamHub

log = logging.getLogger(__name__)

SYNCHRONOUS_POLL_S: Final = 0.02
DEFAULT_STEP_S: Final = 0.05
FREE_PORT_TRIES: Final = 50


class ServerError(Exception):
    """The server cannot start; the text names the cause and the remedy."""


def installed_version() -> str:
    """The dialect of the `carla` wheel that is installed here; the newest if that is another."""
    try:
        version = importlib.metadata.version("carla")
    except importlib.metadata.PackageNotFoundError:
        return wire.VERSIONS[-1]
    return version if version in wire.VERSIONS else wire.VERSIONS[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    town: str
    """Name of a town (Gen01, Town01, ...) or path of an .xodr file."""
    town_dir: Path | None = None
    """Folder with .xodr files of further towns."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address opens the server to the network."""
    port: int = 2000
    """RPC port; sensor streams use the next one. 0 takes a free pair."""
    version: str = field(default_factory=installed_version)
    """Protocol dialect: the version of the `carla` wheel that will connect."""
    render: bool = True
    """Draw camera images. Without, cameras deliver nothing."""
    threads: int = 2
    """Threads that draw camera images in software."""
    renderer: Literal["software", "gl", "auto"] = "software"
    """What draws camera images: software, OpenGL (package moderngl), or OpenGL only if a GPU does it."""
    look_seed: int = 0
    """Randomised colours, patterns and light of camera images, for training; 0: the usual look."""
    die_with_parent: bool = False
    """End when the process that started the server ends."""

    def __post_init__(self) -> None:
        if self.version not in wire.VERSIONS:
            raise ServerError(f"version {self.version!r}: this server speaks {', '.join(wire.VERSIONS)}")
        if not 0 <= self.port <= 65534:
            raise ServerError(f"port {self.port}: choose one from 1024 to 65534, or 0 for any free pair")
        if self.town_dir is not None and not self.town_dir.is_dir():
            raise ServerError(f"--town-dir {self.town_dir}: no such folder; give the one with the .xodr files")
        if self.threads < 1:
            raise ServerError(f"threads {self.threads}: at least 1 is needed")
        if self.look_seed < 0:
            raise ServerError(f"look_seed {self.look_seed}: choose 0 or a positive number")


def resolved(host: str) -> str:
    """IPv4 address of a host name. Raises: ServerError for a name nobody knows."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise ServerError(f"--host {host}: no such address ({error}); give 127.0.0.1, or 0.0.0.0 for all") from error


def bind_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Two bound sockets on neighbouring ports, held from here on: no other process can take them.

    Raises: ServerError when the ports are taken or the address is not this machine's.
    """
    for _ in range(FREE_PORT_TRIES if port == 0 else 1):
        first = second = None
        try:
            first = _bound(host, port)
            second = _bound(host, first.getsockname()[1] + 1)
            return first, second
        except (OSError, OverflowError) as error:
            for opened in (first, second):
                if opened is not None:
                    opened.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                if port == 0:
                    continue
                raise ServerError(
                    f"port {port} or {port + 1} is in use on {host}; choose another with --port, or 0 for a free pair"
                ) from error
            raise ServerError(f"cannot listen on {host}:{port}: {error}") from error
    raise ServerError(f"no free pair of ports found on {host} in {FREE_PORT_TRIES} tries")


def _bound(host: str, port: int) -> socket.socket:
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        endpoint.bind((host, port))
        endpoint.listen(128)  # at once: SO_REUSEADDR lets a second process bind a port nobody listens on
    except (OSError, OverflowError):
        endpoint.close()
        raise
    endpoint.setblocking(False)
    return endpoint


async def serve(config: ServerConfig, ready: Callable[[str, int, str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    `ready(host, port, drawn)` is called when clients can connect; `drawn` says how camera images are made.

    Raises: ServerError when the ports are taken or the renderer cannot draw here.
    """
    if config.render:
        try:
            check_backend(config.renderer)
        except OpenGlError as error:
            raise ServerError(f"renderer {config.renderer}: {error}") from error
    config = replace(config, host=resolved(config.host))
    rpc_socket, stream_socket = bind_pair(config.host, config.port)
    port = rpc_socket.getsockname()[1]
    loop = asyncio.get_running_loop()
    sessions: list[Session] = []
    hub = StreamHub(on_world_subscriber=lambda: sessions[0].world_subscriber_came())
    session = Session(config, hub, stream_port=port + 1)
    sessions.append(session)
    registry = Registry()
    register(registry, session)
    rpc_server = await loop.create_server(lambda: RpcConnection(registry, session), sock=rpc_socket)
    stream_server = await loop.create_server(lambda: StreamConnection(hub), sock=stream_socket)
    session.start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # only now: start-up may take long and has nothing to clean up
        loop.add_signal_handler(number, stop.set)
    ready(config.host, port, session.sensors.drawn)
    clock = asyncio.create_task(_run_clock(session))
    stopped = asyncio.create_task(stop.wait())
    # A crash of the clock must end the process, not leave a server that never ticks.
    done, _ = await asyncio.wait([clock, stopped], return_when=asyncio.FIRST_COMPLETED)
    rpc_server.close()
    stream_server.close()
    session.close()
    for task in (clock, stopped):
        if task in done:
            task.result()
        else:
            task.cancel()


async def _run_clock(session: Session) -> None:
    """Tick in real time while the world is asynchronous."""
    due = time.perf_counter()
    while True:
        if session.synchronous:
            await asyncio.sleep(SYNCHRONOUS_POLL_S)
            due = time.perf_counter()
            continue
        step_s = session.fixed_delta_s or DEFAULT_STEP_S
        session.tick()
        session.after_reply()
        due = max(due + step_s, time.perf_counter() - step_s)  # a slow tick is not caught up by a burst
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
