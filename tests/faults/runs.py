"""Runs of `python -m eval run` as processes of their own, and what is below them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from eval.processes import ProcessIdentity, descendants

REPOSITORY = Path(__file__).resolve().parents[2]
TOWN = "Gen03"
PATIENCE_S = 100.0
ENDED_S = 10.0
"""Servers notice a dead parent within a quarter of a second, jobs and groups at once; the rest is a busy machine."""

READY = f"""#!/bin/sh
for argument; do case "$argument" in -carla-rpc-port=*) port=${{argument#*=}};; esac; done
cd {REPOSITORY} || exit 1
{sys.executable} -m simulator serve --town {TOWN} --port "$port" --no-render
"""
"""As CARLA's own launcher, it keeps the server as a child and passes no signal on."""
NEVER_READY = "#!/bin/sh\necho 'waiting for a GPU'\nsleep 1000\n"
DIES = "#!/bin/sh\necho 'Failed to find a Vulkan device' >&2\nexit 11\n"


def run_command(routes: Path, out: Path, *more: str, agent: Path | None = None) -> list[str]:
    """`eval run` of short drives, by an agent file or by a constant throttle."""
    command = [sys.executable, "-m", "eval", "run", "--routes", str(routes), "--out", str(out)]
    chosen = ["--agent", str(agent), "--weights", str(agent)] if agent else ["--agent", "constant-throttle"]
    return [*command, *chosen, *more]


def launcher(folder: Path, script: str) -> Path:
    """A CARLA folder with this script as its launcher."""
    folder.mkdir()
    path = folder / "CarlaUE4.sh"
    path.write_text(script)
    path.chmod(0o755)
    return folder


def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def wait_until(condition: Callable[[], bool], runner: subprocess.Popen | None = None) -> bool:
    """Whether the condition came true; gives up when the runner is gone."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s or (runner is not None and runner.poll() is not None):
            return condition()
        time.sleep(0.01)
    return True


def family(pid: int) -> list[ProcessIdentity]:
    """All living processes below one."""
    return [identity for child in descendants(pid) if (identity := ProcessIdentity.of(child)) is not None]


def survivors(processes: list[ProcessIdentity], wait_s: float = ENDED_S) -> list[str]:
    """Command lines of those that are still there after a while."""
    deadline_s = time.monotonic() + wait_s
    while any(process.alive for process in processes) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return [command_line(process.pid) for process in processes if process.alive]


def command_line(pid: int) -> str:
    """Of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def lines(path: Path) -> list[dict]:
    """Of a journal; only whole lines."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
