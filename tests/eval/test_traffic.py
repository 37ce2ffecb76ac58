"""The client's Traffic Manager when it does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from eval.traffic import free_port, tell_manager

FROZEN = """
import os, signal, threading, time
import carla
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect
from eval.traffic import Traffic, TrafficConfig, pin_core, pinned
from eval.watchdog import Watchdog

core, watchdog = pin_core(), Watchdog()


def advance(ticks, rescue):  # as a route's: on one core, and woken whenever the manager misses a signal
    for _ in range(ticks):
        with watchdog.phase("tick", 50.0, rescue=rescue), pinned(core):
            world.tick()


with EmbeddedServer(EmbeddedServerConfig(town="Gen03", render=False)) as server:
    client = connect(server.host, server.port, 30.0)
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    world.tick()
    traffic = Traffic(client, world, carla.Location(), TrafficConfig(5, 0), core)
    traffic.start_driving()
    advance(20, traffic.wake)
    stopped = threading.Event()

    def stop(snapshot):  # the frame is here, the manager's step is not: it has to ask the server
        if not stopped.is_set():
            os.kill(server.pid, signal.SIGSTOP)
            stopped.set()

    def rescue():
        stopped.wait()
        time.sleep(1.0)
        started_s = time.monotonic()
        waiting = not ticked.is_set()
        traffic.wake()
        print(f"tick waits: {waiting}, wake took {time.monotonic() - started_s:.3f} s", flush=True)
        os.kill(server.pid, signal.SIGCONT)

    ticked = threading.Event()
    helper = threading.Thread(target=rescue)
    helper.start()
    callback = world.on_tick(stop)
    advance(1, traffic.wake)
    ticked.set()
    world.remove_on_tick(callback)
    helper.join()
    advance(40, traffic.wake)
    print("went on", traffic.speeds_mps() != [], flush=True)
    traffic.destroy()
"""


def test_a_manager_is_woken_while_a_tick_waits_for_it(tmp_path: Path) -> None:
    script = tmp_path / "frozen.py"
    script.write_text(FROZEN)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr
    assert "tick waits: True, wake took 0.0" in done.stdout, done.stdout
    assert "went on True" in done.stdout


def test_no_manager_is_no_error() -> None:
    assert tell_manager(free_port(), "set_synchronous_mode", False) is False
