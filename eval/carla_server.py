"""A CARLA server started by us: `CarlaUE4.sh` of an installed release, or a container image.

Ready means that it answers an RPC, within a deadline; nothing sleeps and hopes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import carla

from eval.ports import PortError, PortLease, lease_ports
from eval.processes import descendants
from eval.server import WORKER_THREADS, ServerDiedError, ServerError, check_version

LAUNCHER: Final = "CarlaUE4.sh"
STARTUP_S: Final = 300.0
"""A cold start from a network disk takes minutes."""
_RPC_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.1
_TAIL_BYTES: Final = 16384
CONTAINER_LABEL: Final = "raw2drive"
_CONTAINER_SCRIPT: Final = 'exec 3<&0; ./CarlaUE4.sh "$@" & cat <&3 >/dev/null & wait -n'
"""Ends when CARLA ends, and when the other end of its standard input is gone: with us, however we die."""


@dataclass(frozen=True, slots=True)
class CarlaConfig:
    """How a CARLA is started; exactly one of `root` and `image` is set."""

    root: str = ""
    """Folder of an installed release (it holds CarlaUE4.sh)."""
    image: str = ""
    """Container image instead."""
    gpu: int | None = None
    """Graphics adapter, in Vulkan's numbering; None leaves the choice to CARLA."""
    startup_s: float = STARTUP_S


def launcher(root: Path) -> Path:
    """The script that starts an installed CARLA. Raises: ServerError."""
    path = root / LAUNCHER
    if not path.is_file():
        raise ServerError(f"--carla-root {root}: holds no {LAUNCHER}; give the folder of an unpacked CARLA release")
    if not os.access(path, os.X_OK):
        raise ServerError(f"{path}: not executable; run: chmod +x {path}")
    return path


def arguments(port: int, gpu: int | None) -> list[str]:
    """What CARLA is told: no window, no sound, its ports, its graphics adapter."""
    told = ["-RenderOffScreen", "-nosound", f"-carla-rpc-port={port}", f"-carla-streaming-port={port + 1}"]
    return told if gpu is None else [*told, f"-graphicsadapter={gpu}"]


class CarlaServer:
    """CARLA as a child in our own process group; `stop` ends its processes (a shell and the engine)."""

    def __init__(self, config: CarlaConfig, log: Path) -> None:
        """Start it without waiting. `log` keeps its output. Raises: ServerError, ServerDiedError (no free ports)."""
        script = launcher(Path(config.root))
        self.host = "127.0.0.1"
        self._config = config
        self._stopped = False
        self._log = log
        self._lease = _lease()
        self.port = self._lease.first
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(script), *arguments(self.port, config.gpu)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=config.root,
            )

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """How the launcher ended; None while it runs and after `stop`."""
        return None if self._stopped else self._process.poll()

    def wait_until_ready(self) -> None:
        """Wait for an answer to an RPC. Raises: ServerDiedError with its last words, ServerError (wrong version)."""
        wait_for_rpc(self, self._config.startup_s, "CARLA", lambda: last_words(self._log))

    def stop(self) -> None:
        """End the launcher and everything below it; safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        end_tree(self._process)
        self._lease.release()


class ContainerServer:
    """CARLA in a container of its own, which ends with this process."""

    def __init__(self, config: CarlaConfig, log: Path) -> None:
        """Create and start it. Raises: ServerError (no SDK, no daemon, no image), ServerDiedError (no free ports)."""
        docker = docker_module()
        self.host = "127.0.0.1"
        self._config = config
        self._stopped = False
        self._log = log
        self._errors: Any = docker.errors
        self._lease = _lease()
        self.port = self._lease.first
        try:
            self._api: Any = docker.from_env().api
            self._container = self._create(docker)
            # The daemon closes the container's input as soon as this connection is gone.
            self._input = self._api.attach_socket(self._container, params={"stdin": 1, "stream": 1})
            self._api.start(self._container)
            threading.Thread(target=self._keep_output, name="container output", daemon=True).start()
        except docker.errors.ImageNotFound as error:
            raise ServerError(
                f"--carla-image {config.image}: no such image; run: docker pull {config.image}"
            ) from error
        except (docker.errors.DockerException, OSError) as error:
            raise ServerError(
                f"--carla-image {config.image}: the container cannot be started ({_one_line(error)}); is the Docker "
                "daemon running, may this user use it, and has it NVIDIA's container toolkit?"
            ) from error

    @property
    def pid(self) -> None:
        """The container's processes are the daemon's."""

    def exit_code(self) -> int | None:
        """How the container ended; None while it runs and after `stop`."""
        if self._stopped:
            return None
        try:
            state = self._api.inspect_container(self._container)["State"]
        except (self._errors.DockerException, OSError):
            return 1  # removed, or the daemon is gone
        return None if state["Running"] else int(state["ExitCode"])

    def wait_until_ready(self) -> None:
        """Wait for an answer to an RPC. Raises: ServerDiedError with its last words, ServerError (wrong version)."""
        wait_for_rpc(self, self._config.startup_s, f"CARLA in {self._config.image}", lambda: last_words(self._log))

    def stop(self) -> None:
        """End the container, which the daemon then removes; safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(self._errors.DockerException, OSError):
            self._api.remove_container(self._container, force=True)
        self._input.close()
        self._lease.release()

    def _create(self, docker: Any) -> str:
        gpu = self._config.gpu
        devices = [str(gpu)] if gpu is not None else None
        request = docker.types.DeviceRequest(device_ids=devices, count=0 if devices else -1, capabilities=[["gpu"]])
        host = self._api.create_host_config(network_mode="host", device_requests=[request], auto_remove=True)
        # Inside, the one adapter that is handed in is number 0, whatever it is outside.
        told = arguments(self.port, None if gpu is None else 0)
        created = self._api.create_container(
            self._config.image,
            entrypoint=["/bin/bash", "-c", _CONTAINER_SCRIPT, "carla"],
            command=told,
            stdin_open=True,
            detach=False,  # closes its input for good once we are gone
            host_config=host,
            labels={CONTAINER_LABEL: str(os.getpid())},
        )
        return created["Id"]

    def _keep_output(self) -> None:
        """Follow the container's output into the log until it ends: a removed container has none."""
        with contextlib.suppress(self._errors.DockerException, OSError), self._log.open("wb", buffering=0) as log:
            for chunk in self._api.attach(self._container, stdout=True, stderr=True, stream=True, logs=True):
                log.write(chunk)


def wait_for_rpc(server: CarlaServer | ContainerServer, startup_s: float, name: str, said: Callable[[], str]) -> None:
    """Poll until the server answers; `said` gives its last words.

    Raises: ServerDiedError if it ends or is not ready in time, ServerError if its version does not fit.
    """
    deadline_s = time.monotonic() + startup_s
    while (left_s := deadline_s - time.monotonic()) > 0.0:
        code = server.exit_code()
        if code is not None:
            raise ServerDiedError(f"{name} did not start (exit code {code}): {said()}")
        version = _ask_version(server.host, server.port, min(_RPC_TIMEOUT_S, left_s))
        if version is not None:
            check_version(version, server.host, server.port)
            return
        time.sleep(min(_POLL_S, max(left_s, 0.0)))
    raise ServerDiedError(
        f"{name} is not ready after {startup_s:g} s: {said()}; "
        "check Vulkan and the ports with: python -m eval doctor, or allow more with --start-timeout-s"
    )


def docker_module() -> Any:
    """The Docker SDK. Raises: ServerError naming the extra."""
    try:
        return importlib.import_module("docker")
    except ImportError as error:
        raise ServerError("--carla-image needs the Docker SDK: pip install '.[container]'") from error


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a child of ours and all its descendants: CARLA's launcher does not pass signals on."""
    pids = [process.pid, *descendants(process.pid)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - _TAIL_BYTES, 0))
            lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    spoken = [line for line in lines if line]
    return spoken[-1] if spoken else "it printed nothing"


def _ask_version(host: str, port: int, timeout_s: float) -> str | None:
    """The version of the server, None if it does not answer yet."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()  # a closed port would cost the time-out
    except OSError:
        return None
    client = carla.Client(host, port, worker_threads=WORKER_THREADS)
    client.set_timeout(timeout_s)
    try:
        return client.get_server_version()
    except RuntimeError:
        return None


def _lease() -> PortLease:
    try:
        return lease_ports()
    except PortError as error:
        raise ServerDiedError(str(error)) from error


def _one_line(error: Exception) -> str:
    explanation = getattr(error, "explanation", None) or str(error)
    return " ".join(json.loads(explanation)["message"].split() if explanation.startswith("{") else explanation.split())
