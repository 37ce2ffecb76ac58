"""Proves, without a network, that the submission image works: evaluator, agent, sensors, ten seconds of a route.

It drives against an embedded server that it starts itself; `docker run --network none IMAGE` runs it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DRIVE_S = 10.0
START_S = 600.0
ROUTE_S = 1800.0
WORKSPACE = Path("/workspace")
SERVER_PYTHON, SERVER = "/opt/server-venv/bin/python", Path("/opt/server")


def main() -> int:
    """Run all checks; each prints its finding."""
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    print(f"network interfaces beside loopback: {', '.join(interfaces) or 'none'}", flush=True)
    print(f"user: {os.getuid()}; {sys.version.split()[0]}", flush=True)
    if interfaces or os.getuid() == 0:
        print("FAILED: run it with --network none, as the image's own user")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        verdict = drive(Path(folder))
    record = verdict["_checkpoint"]["records"][0]
    print(f"sensors accepted: {', '.join(verdict['sensors'])}")
    print(f"status: {record['status']}; {record['meta']['duration_game']} s; scores {json.dumps(record['scores'])}")
    driven = record["meta"]["duration_game"] >= DRIVE_S and record["scores"]["score_route"] > 0.0
    if "crashed" in record["status"] or "set up" in record["status"] or not driven:
        print("FAILED: the route was not driven")
        return 1
    print("self-test passed")
    return 0


def drive(folder: Path) -> dict:
    """Ten seconds of a route under the official evaluator; its results file."""
    log = (folder / "server.log").open("w+b")
    writable = {"XDG_CACHE_HOME": str(folder / "cache"), "NUMBA_CACHE_DIR": str(folder / "numba")}
    server = subprocess.Popen(
        [SERVER_PYTHON, "-m", "simulator", "serve", "--town", "Gen21", "--port", os.environ["PORT"]],
        cwd=SERVER,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": "", **writable},
    )
    try:
        wait_until_ready(server, folder / "server.log")
        return evaluate(folder)
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(server: subprocess.Popen, log: Path) -> None:
    """Until the server says that it listens; the first start compiles."""
    started_s = time.monotonic()
    while time.monotonic() - started_s < START_S and server.poll() is None:
        if "listening on" in log.read_text():
            print(f"embedded server ready after {time.monotonic() - started_s:.0f} s", flush=True)
            return
        time.sleep(0.5)
    raise SystemExit(f"FAILED: the embedded server did not start: {log.read_text()[-500:]}")


def evaluate(folder: Path) -> dict:
    """Start the evaluator, interrupt it as a person would after ten seconds of driving, return what it wrote."""
    progress, results = folder / "progress.json", folder / "results.json"
    arguments = ["--host=127.0.0.1", f"--port={os.environ['PORT']}", f"--traffic-manager-port={os.environ['TM_PORT']}"]
    arguments += [f"--routes={WORKSPACE / 'selftest.xml'}", f"--checkpoint={results}", "--track=SENSORS"]
    arguments += [f"--debug-checkpoint={folder / 'live.txt'}", f"--agent={os.environ['TEAM_AGENT']}"]
    arguments += [f"--agent-config={os.environ['TEAM_CONFIG']}"]
    log = (folder / "evaluator.log").open("w+b")
    command = [sys.executable, str(WORKSPACE / "launch.py"), "--progress", str(progress), "--", *arguments]
    evaluator = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    deadline_s = time.monotonic() + ROUTE_S
    interrupted = False
    while evaluator.poll() is None and time.monotonic() < deadline_s:
        if not interrupted and progress.exists() and json.loads(progress.read_text())["game_s"] >= DRIVE_S:
            evaluator.send_signal(signal.SIGINT)
            interrupted = True
        time.sleep(0.2)
    evaluator.kill()
    evaluator.wait()
    if not results.exists() or not json.loads(results.read_text() or "{}").get("_checkpoint", {}).get("records"):
        raise SystemExit(f"FAILED: no verdict: {(folder / 'evaluator.log').read_text(errors='replace')[-2000:]}")
    return json.loads(results.read_text())


if __name__ == "__main__":
    sys.exit(main())
