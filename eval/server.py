"""CARLA servers: an embedded one started and ended by us, or a running one we attach to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType

import carla

WORKER_THREADS = 16
"""Client threads: with too few of them waiting sensor callbacks can starve the state message (time-outs)."""
CONNECT_S = 5.0
GENERATED_TOWN = "Gen01"
"""A name that CARLA has no map of."""
EMBEDDED_STARTUP_S = 240.0
"""The first start on a machine compiles: half a minute there, minutes where others keep the machine busy."""
_PARENT_VARIABLE = "RAW2DRIVE_PARENT_PID"
"""Tells the server whose end is its own, too, should that come before the server has looked."""
_LISTENING = "listening on "
_BAD_INPUT = 2


class ServerError(RuntimeError):
    """A server that cannot be started or used as asked; the message says what to do."""


class ServerDiedError(RuntimeError):
    """The embedded server broke down or is not ready in time: nobody's input, worth another try."""


@dataclass(frozen=True, slots=True)
class EmbeddedServerConfig:
    """What `python -m simulator serve` is started with."""

    town: str
    town_dir: Path | None = None
    version: str = ""
    """CARLA version to speak; empty: that of the installed wheel."""
    render: bool = True
    threads: int = 2
    startup_s: float = EMBEDDED_STARTUP_S


class EmbeddedServer:
    """An embedded server process of our own; a context manager that ends exactly that process."""

    def __init__(self, config: EmbeddedServerConfig, log: Path | None = None, *, own_session: bool = True) -> None:
        """Start the process without waiting for it. `log` keeps its output (default: a temporary file).

        In a session of its own Ctrl-C reaches its owner alone, which ends it in order; without one it belongs to the
        owner's process group and ends with that.
        """
        self.host = "127.0.0.1"
        self.port = 0
        self._config = config
        self._stopped = False
        self._log_file = log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(
            _command(config),
            env={**os.environ, _PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            start_new_session=own_session,
        )

    def __enter__(self) -> EmbeddedServer:
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """How the process ended; None while it runs and after `stop`."""
        return None if self._stopped else self._process.poll()

    def wait_until_ready(self) -> None:
        """Wait for the line that names the port.

        Raises: ServerError with the server's own words if it refuses its input, ServerDiedError otherwise.
        """
        deadline_s = time.monotonic() + self._config.startup_s
        while time.monotonic() < deadline_s:
            for line in self._output():
                if line.startswith(_LISTENING):
                    self.port = int(line.rsplit(":", 1)[1])
                    return
            code = self._process.poll()
            if code == _BAD_INPUT:
                raise ServerError(self._last_words("bad input"))
            if code is not None:
                raise ServerDiedError(self._last_words(f"exit code {code}"))
            time.sleep(0.02)
        raise ServerDiedError(self._last_words(f"not ready after {self._config.startup_s:.0f} s"))

    def stop(self) -> None:
        """End the process; safe to call twice."""
        self._stopped = True
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log_file.close()

    def _output(self) -> list[str]:
        self._log_file.seek(0)
        text = self._log_file.read().decode("utf-8", errors="replace")
        return [line for line in text.split("\n")[:-1] if line.strip()]

    def _last_words(self, reason: str) -> str:
        lines = self._output()
        said = lines[-1].removeprefix("error: ") if lines else "it printed nothing"
        return f"the embedded server did not start ({reason}): {said}"


class RunningServer:
    """A CARLA server that somebody else runs; looks like an embedded one and is left alone."""

    def __init__(self, address: str) -> None:
        """`address`: HOST:PORT. Raises: ServerError."""
        self.host, self.port = parse_address(address)

    @property
    def pid(self) -> None:
        """Not known."""

    def wait_until_ready(self) -> None:
        """It is running already."""

    def exit_code(self) -> None:
        """Never known."""

    def stop(self) -> None:
        """Not ours to stop."""


def connect(host: str, port: int, timeout_s: float) -> carla.Client:
    """A client of a running server whose version fits the installed wheel. Raises: ServerError."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()  # a closed port would cost the whole time-out
    except OSError as error:
        raise ServerError(f"no CARLA server listens at {host}:{port} ({error.strerror or error})") from error
    client = carla.Client(host, port, worker_threads=WORKER_THREADS)
    client.set_timeout(timeout_s)
    try:
        server_version = client.get_server_version()
    except RuntimeError as error:
        raise ServerError(f"no CARLA server answers at {host}:{port} ({error}); is it running?") from error
    check_version(server_version, host, port)
    return client


def is_embedded(client: carla.Client) -> bool:
    """Whether the server is this project's own, however it was started: it alone offers the generated towns."""
    return any(name.rsplit("/", 1)[-1] == GENERATED_TOWN for name in client.get_available_maps())


def check_version(server_version: str, host: str, port: int) -> None:
    """A client of another release misreads the stream of sensor data. Raises: ServerError."""
    client_version = wheel_version()
    if release(server_version) != release(client_version):
        raise ServerError(
            f"the server at {host}:{port} speaks CARLA {server_version}, the installed carla wheel {client_version}; "
            f"install carla=={'.'.join(release(server_version))} or use a matching server"
        )


def wheel_version() -> str:
    """Version of the installed carla wheel."""
    return metadata.version("carla")


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`. Raises: ServerError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ServerError(f"--server {address}: expected HOST:PORT, for example 127.0.0.1:2000")
    return host, int(port)


def _command(config: EmbeddedServerConfig) -> list[str]:
    command = [sys.executable, "-m", "simulator", "serve", "--town", config.town, "--port", "0"]
    command += ["--version", config.version or wheel_version(), "--threads", str(config.threads), "--die-with-parent"]
    if config.town_dir is not None:
        command += ["--town-dir", str(config.town_dir)]
    if not config.render:
        command.append("--no-render")
    return command


def release(version: str) -> list[str]:
    """The three numbers of a version, without what a build appends to them."""
    return version.split("-")[0].split(".")[:3]
