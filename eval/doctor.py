"""`python -m eval doctor`: is this machine ready for an evaluation, and if not, what is to be done?

Nothing outside the standard library is imported before it was checked: a missing package is a finding, not a traceback.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Final

GIB: Final = 1024**3
PYTHONS: Final = ((3, 10), (3, 12))
CARLA_WHEELS: Final = ("0.9.15", "0.9.16")
PACKAGES: Final = ("torch", "numpy", "numba", "scipy", "safetensors", "msgpack", "yaml", "tyro", "rich", "PIL", "av")
BENCH2DRIVE_TOWNS: Final = tuple(
    f"Town{name}" for name in ("01", "02", "03", "04", "05", "06", "07", "10HD", "11", "12", "13", "15")
)
DISK_WARN_BYTES: Final = 10 * GIB
DISK_FAIL_BYTES: Final = GIB // 2
"""220 routes leave about 1 GiB, with films about 6 GiB."""
MEMORY_WARN_BYTES: Final = 4 * GIB
MEMORY_FAIL_BYTES: Final = 3 * GIB // 2
SMI_TIMEOUT_S: Final = 20.0
XODR_HEAD_BYTES: Final = 4096
DEFAULT_WEIGHTS: Final = Path("weights/raw_refined/agent.yaml")


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    what: str
    value: str
    todo: str = ""
    """What to do about it; empty if nothing is."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check what an evaluation needs; every line says what to do. Exit code 1 if something would not work."""

    server: str | None = None
    """HOST:PORT of a running CARLA to look at; without it an embedded server is started for a moment."""
    carla_root: Path | None = None
    """Folder of an installed CARLA."""
    carla_image: str | None = None
    """Container image of CARLA."""
    ray: str | None = None
    """Address of a Ray cluster."""
    town_dir: Path | None = None
    """Folder with .xodr files of CARLA's towns."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration."""
    out: Path = Path("runs")
    """Where results are to go."""
    json: bool = False
    """Print the findings as JSON."""


def doctor(config: DoctorConfig, show: Callable[[Finding], None] | None = None) -> list[Finding]:
    """All findings, in order; `show` gets each as soon as it is there."""
    findings = []
    for finding in _examine(config):
        findings.append(finding)
        if show is not None:
            show(finding)
    return findings


def main(arguments: list[str]) -> int:
    """Run the command line: exit code 0 when nothing fails, 1 otherwise, 2 for bad input."""
    if importlib.util.find_spec("tyro") is None:
        for finding in (check_python(), check_packages()):
            _print(finding)
        return 1
    import tyro

    return run(tyro.cli(DoctorConfig, args=arguments, prog="python -m eval doctor"))


def run(config: DoctorConfig) -> int:
    """Print the findings; the exit code."""
    if config.server is not None:
        host, _, port = config.server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            print(f"error: --server {config.server}: expected HOST:PORT, for example 127.0.0.1:2000", file=sys.stderr)
            return 2
    findings = doctor(config, None if config.json else _print)
    if config.json:
        print(json.dumps([{**asdict(finding), "level": finding.level.value} for finding in findings], indent=2))
    failed = sum(finding.level is Level.FAIL for finding in findings)
    if not config.json:
        print(f"{failed} of {len(findings)} checks failed" if failed else f"all {len(findings)} checks passed")
    return 1 if failed else 0


def _examine(config: DoctorConfig) -> Iterator[Finding]:
    yield check_python()
    yield (packages := check_packages())
    yield (wheel := check_wheel())
    yield check_cores_and_memory()
    yield check_disk(config.out)
    yield check_ports()
    yield from check_graphics(needed=config.carla_root is not None)
    yield check_official_root("LEADERBOARD_ROOT", "leaderboard/leaderboard_evaluator.py")
    yield check_official_root("SCENARIO_RUNNER_ROOT", "srunner/scenariomanager/carla_data_provider.py")
    if config.town_dir is not None:
        yield check_town_dir(config.town_dir)
    if config.carla_root is not None:
        yield from check_carla_root(config.carla_root)
    if config.carla_image is not None:
        yield check_image(config.carla_image)
    if config.ray is not None:
        yield check_extra("ray", "cluster", "--ray")
    if packages.level is Level.FAIL:
        return  # what follows imports them
    yield check_weights(config.weights)
    if wheel.level is not Level.FAIL:
        from eval.doctor_server import check_embedded_server, check_running_server

        yield from check_running_server(config.server) if config.server else check_embedded_server()


def check_python() -> Finding:
    """Wheels of CARLA and torch exist for some versions only."""
    found = ".".join(map(str, sys.version_info[:3]))
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding(Level.OK, "Python", found)
    return Finding(Level.FAIL, "Python", found, "use Python 3.10, 3.11 or 3.12: make env PYTHON=python3.11")


def check_packages(names: Iterable[str] = PACKAGES) -> Finding:
    """Are the dependencies there?"""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(Level.FAIL, "packages", f"missing: {', '.join(missing)}", "pip install -r requirements.txt")
    return Finding(Level.OK, "packages", f"torch {importlib.metadata.version('torch')} and all others")


def check_wheel() -> Finding:
    """The carla client library."""
    try:
        version = importlib.metadata.version("carla")
    except importlib.metadata.PackageNotFoundError:
        return Finding(Level.FAIL, "carla wheel", "not installed", "pip install -r requirements.txt")
    if not version.startswith(CARLA_WHEELS):
        known = " or ".join(CARLA_WHEELS)
        return Finding(Level.FAIL, "carla wheel", version, f"install carla=={known}, the same as the server")
    if importlib.util.find_spec("carla") is None:
        return Finding(Level.FAIL, "carla wheel", f"{version}, but broken", "pip install --force-reinstall carla")
    return Finding(Level.OK, "carla wheel", version)


def check_cores_and_memory() -> Finding:
    """What workers share."""
    from eval.memory import EMBEDDED_BYTES, available_bytes, gib, usable_cores

    available = available_bytes()
    carries = max(1, int((available - GIB) // EMBEDDED_BYTES))
    value = f"{usable_cores()} cores, {gib(available)} free: memory for {carries} embedded workers or more"
    todo = "end other programs; --workers auto never takes more than there is"
    if available < MEMORY_FAIL_BYTES:
        return Finding(Level.FAIL, "cores and memory", value, todo)
    return Finding(Level.WARN if available < MEMORY_WARN_BYTES else Level.OK, "cores and memory", value, todo)


def check_disk(out: Path) -> Finding:
    """Room for results, in the nearest folder that exists."""
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding(Level.FAIL, "disk", f"{folder} cannot be written", "choose another --out or change its rights")
    free = shutil.disk_usage(folder).free
    value = f"{free / GIB:.1f} GiB free for {out}"
    todo = "make room or choose another --out; 220 routes leave about 1 GiB, with --film all about 6 GiB"
    if free < DISK_FAIL_BYTES:
        return Finding(Level.FAIL, "disk", value, todo)
    return Finding(Level.WARN if free < DISK_WARN_BYTES else Level.OK, "disk", value, todo)


def check_ports() -> Finding:
    """Can ports be leased?"""
    from eval.ports import FIRST_PORT, LAST_PORT, PortError, lease_ports

    try:
        with lease_ports() as lease:
            return Finding(Level.OK, "ports", f"{lease.first} is the first free block of {FIRST_PORT} to {LAST_PORT}")
    except PortError as error:
        return Finding(Level.FAIL, "ports", str(error), "end servers that nobody needs")


def check_graphics(*, needed: bool) -> Iterator[Finding]:
    """GPU and Vulkan: CARLA cannot do without, the embedded server can."""
    lack = Level.FAIL if needed else Level.OK
    purpose = "" if needed else " (only CARLA needs it)"
    gpus = _nvidia_gpus()
    if gpus:
        yield Finding(Level.OK, "GPU", "; ".join(gpus))
    else:
        todo = "CARLA needs an NVIDIA GPU and its driver (nvidia-smi must list it)"
        yield Finding(lack, "GPU", f"none{purpose}", todo if needed else "")
    from eval.vulkan import VulkanError, adapters

    try:
        names = adapters()
    except VulkanError as error:
        todo = "install libvulkan1 and the GPU's driver with its Vulkan part (in a container: "
        todo += "NVIDIA_DRIVER_CAPABILITIES=all)"
        yield Finding(lack, "Vulkan", f"{error}{purpose}", todo if needed else "")
        return
    shown = ", ".join(f"{index}: {name}" for index, name in enumerate(names)) or "no adapter"
    hardware = [name for name in names if not name.endswith("(cpu)")]
    if hardware:
        yield Finding(Level.OK, "Vulkan", f"{shown} (numbers for --gpus)")
    else:
        yield Finding(lack, "Vulkan", shown, "only software: install the GPU's driver" if needed else "")


def _nvidia_gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=index,name,driver_version,memory.free"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 3]
    return [f"{index}: {name}, driver {driver}, {free} free" for index, name, driver, free in rows]


def check_official_root(variable: str, needs: str) -> Finding:
    """The official evaluator's checkouts; only those who run it need them."""
    root = os.environ.get(variable)
    if not root:
        return Finding(Level.OK, variable, "not set (only the official evaluator needs it)")
    if not (Path(root) / needs).is_file():
        return Finding(Level.FAIL, variable, f"{root} has no {needs}", f"point {variable} to the checkout or unset it")
    return Finding(Level.OK, variable, root)


def check_town_dir(folder: Path) -> Finding:
    """Road maps for the embedded server."""
    if not folder.is_dir():
        return Finding(Level.FAIL, "towns", f"{folder}: no such folder", "give the folder with CARLA's .xodr files")
    files = sorted(folder.glob("*.xodr"))
    bad = [path.name for path in files if b"<OpenDRIVE" not in path.read_bytes()[:XODR_HEAD_BYTES]]
    if bad:
        return Finding(Level.FAIL, "towns", f"{', '.join(bad)}: not OpenDRIVE", "copy them again from a CARLA release")
    if not files:
        todo = "copy the .xodr files of a CARLA release (CarlaUE4/Content/Carla/Maps/**/OpenDrive)"
        return Finding(Level.FAIL, "towns", f"{folder}: no .xodr file", todo)
    return _towns("towns", {path.stem for path in files}, "copy their .xodr files there to drive their routes")


def check_carla_root(root: Path) -> Iterator[Finding]:
    """An installed release: its launcher, its version, its towns."""
    launcher = root / "CarlaUE4.sh"
    if not launcher.is_file():
        todo = "give the folder of an unpacked release: it holds CarlaUE4.sh"
        yield Finding(Level.FAIL, "CARLA", f"{root}: no CarlaUE4.sh", todo)
        return
    if not os.access(launcher, os.X_OK):
        yield Finding(Level.FAIL, "CARLA", f"{launcher} is not executable", f"chmod +x {launcher}")
    yield _carla_version(root)
    if os.geteuid() == 0:
        todo = "run the evaluation as an ordinary user"
        yield Finding(Level.WARN, "user", "root: the Unreal Engine refuses to run for root", todo)
    maps = {path.stem for path in root.glob("CarlaUE4/Content/Carla/Maps/**/*.xodr")}
    todo = "unpack the release's AdditionalMaps beside it and run ImportAssets.sh"
    yield _towns("CARLA's towns", {name for name in maps if not name.endswith("_Opt")}, todo)


def _carla_version(root: Path) -> Finding:
    path = root / "VERSION"
    try:
        version = path.read_text(errors="replace").strip()
    except OSError:
        return Finding(Level.WARN, "CARLA", f"{root}: no VERSION file", "compare its version with the wheel's yourself")
    try:
        wheel = importlib.metadata.version("carla")
    except importlib.metadata.PackageNotFoundError:
        wheel = ""
    if version.split("-")[0] != wheel.split("-")[0]:
        todo = f"pip install carla=={version.split('-')[0]} (0.9.15 needs Python 3.10)"
        return Finding(Level.FAIL, "CARLA", f"{version}, but the wheel is {wheel or 'missing'}", todo)
    return Finding(Level.OK, "CARLA", f"{version} in {root}, as the wheel")


def _towns(what: str, there: set[str], todo: str) -> Finding:
    missing = [town for town in BENCH2DRIVE_TOWNS if town not in there]
    shown = ", ".join(sorted(there))
    if missing:
        return Finding(Level.WARN, what, f"{shown or 'none'}; of Bench2Drive's missing: {', '.join(missing)}", todo)
    return Finding(Level.OK, what, shown)


def check_image(image: str) -> Finding:
    """The container image, its daemon and the SDK that talks to it."""
    sdk = check_extra("docker", "container", "--carla-image")
    if sdk.level is Level.FAIL:
        return sdk
    docker = importlib.import_module("docker")
    try:
        docker.from_env().images.get(image)
    except docker.errors.ImageNotFound:
        return Finding(Level.FAIL, "container", f"{image}: no such image", f"docker pull {image}")
    except (docker.errors.DockerException, OSError) as error:
        todo = "start the Docker daemon, and allow this user to use it"
        return Finding(Level.FAIL, "container", " ".join(str(error).split()), todo)
    return Finding(Level.OK, "container", image)


def check_extra(module: str, extra: str, option: str) -> Finding:
    """An optional package that an option needs."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:  # a mere folder of that name is no package
        return Finding(Level.FAIL, option, f"{module} is not installed", f"pip install '.[{extra}]'")
    return Finding(Level.OK, option, f"{module} {importlib.metadata.version(module)}")


def check_weights(config_file: Path) -> Finding:
    """The agent's configuration and its checkpoint: every hash of the manifest."""
    from agent.checkpoint import CheckpointError, load_checkpoint
    from agent.config import ConfigError
    from agent.driver import AgentConfig

    todo = "fetch the weights again, or name others with --weights"
    if not config_file.is_file():
        return Finding(Level.FAIL, "weights", f"{config_file}: no such file", todo)
    try:
        _, tensors = load_checkpoint(config_file.parent / AgentConfig.read(config_file).checkpoint)
    except (CheckpointError, ConfigError) as error:
        return Finding(Level.FAIL, "weights", " ".join(str(error).split()), todo)
    count = sum(tensor.numel() for tensor in tensors.values())
    return Finding(Level.OK, "weights", f"{config_file.parent}: {count / 1e6:.1f} M numbers, all hashes as listed")


def _print(finding: Finding) -> None:
    print(f"{finding.level.value:<5} {finding.what:<20} {finding.value}")
    if finding.level is not Level.OK and finding.todo:
        print(f"{'':<26} -> {finding.todo}")
    sys.stdout.flush()
