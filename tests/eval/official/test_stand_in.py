"""Programs that start CARLA by its launcher get the embedded server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

from eval.carla_server import end_tree
from eval.official.harness import STAND_IN_CARLA
from eval.ports import lease_ports
from eval.server import EMBEDDED_STARTUP_S

GONE_S = 10.0
"""A killed server gives its port free when the system has taken its memory back."""


def test_the_stand_in_serves_on_the_port_it_is_told() -> None:
    environment = {**os.environ, "RAW2DRIVE_PYTHON": sys.executable, "RAW2DRIVE_TOWN": "Gen03"}
    with lease_ports() as lease:
        words = ["-RenderOffScreen", "-nosound", f"-carla-rpc-port={lease.first}", "-graphicsadapter=0"]
        process = subprocess.Popen(
            f"{STAND_IN_CARLA / 'CarlaUE4.sh'} {' '.join(words)}", shell=True, env=environment, start_new_session=True
        )
        try:
            deadline_s = time.monotonic() + EMBEDDED_STARTUP_S
            while not _listens(lease.first):
                assert process.poll() is None and time.monotonic() < deadline_s
                time.sleep(0.1)
        finally:
            end_tree(process)
        deadline_s = time.monotonic() + GONE_S
        while _listens(lease.first):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
