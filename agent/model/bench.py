"""What the encoder and the driving network cost per frame, part by part.

    python -m agent.model bench [--models tiny,b2d-tiny,base,clone] [--device cpu|cuda] [--dtype float32|bfloat16]

On a CPU, milliseconds are the process's CPU time on one thread, which other programs disturb less than the clock; on a
GPU they are the clock's, between synchronisations. Official shapes have random weights: time does not depend on them.
"""

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from agent.checkpoint import CheckpointError
from agent.config import ConfigError
from agent.driver import load_driving_model
from agent.model.backbone import fold_batch_norms
from agent.model.bev_grid import RigGeometry
from agent.model.bevformer import CAN_BUS_SIZE, MAPS
from agent.model.driving_model import DrivingModel
from agent.model.official import OFFICIAL_MODELS, OfficialEncoder, OfficialModel, build_official
from agent.model.rig import BENCH2DRIVE_LIDAR_EGO_M, BENCH2DRIVE_RIG
from agent.model.static_bevformer import StaticBEVFormer
from agent.route import ROUTE_POINTS, VECTOR_SIZE

CLONE = "clone"
MODELS = ("tiny", "b2d-tiny", "base", CLONE)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLONE_WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "raw_clone"
TIMED_ON_CPU_GFLOP = 1_000.0
"""Larger networks are counted but not timed on a CPU, unless asked for: a frame takes half a minute."""
CORNERS = 4
LATENCY_PARTS = ("encoder", "world model", "policy")
PAPER_MS = {"privileged stream": (2, 2, 2), "raw sensor stream": (600, 2, 2)}
"""The paper's latency table (Raw2Drive, table 13); it names no GPU."""
NOT_MEASURED = "-"
INDUCTOR = "inductor"


class BenchError(ValueError):
    """What was asked for cannot be measured; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    device: torch.device
    dtype: torch.dtype
    compiled: bool
    repeats: int
    full: bool
    weights: Path

    def now_ms(self) -> float:
        """Time spent so far, of the kind the module's docstring names."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return 1e3 * time.perf_counter()
        return 1e3 * time.process_time()

    def precision(self) -> "nullcontext[None] | torch.autocast":
        """Context for the parts that have no type of their own."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)


class Stopwatch:
    """Collects the time of named parts over several frames; a part met again in a frame adds to it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._frames: list[dict[str, float]] = []
        self._last_ms = 0.0

    def start(self) -> None:
        """A new frame begins."""
        self._frames.append({})
        self._last_ms = self._settings.now_ms()

    def mark(self, part: str) -> None:
        """A part has ended."""
        now_ms = self._settings.now_ms()
        frame = self._frames[-1]
        frame[part] = frame.get(part, 0.0) + now_ms - self._last_ms
        self._last_ms = self._settings.now_ms()

    def medians_ms(self) -> dict[str, float]:
        """Each part's median over all frames but the first, which warms up."""
        frames = self._frames[1:]
        return {part: median(frame[part] for frame in frames) for part in frames[0]}


def time_frames(settings: Settings, frame: Callable[[Stopwatch], None]) -> dict[str, float]:
    """Medians [ms] of the parts that `frame` marks."""
    watch = Stopwatch(settings)
    with torch.no_grad():
        for _ in range(settings.repeats + 1):
            watch.start()
            frame(watch)
    return watch.medians_ms()


@dataclass(frozen=True)
class Count:
    """Work of one frame."""

    backbone_gflop: float
    encoder_gflop: float
    """Matrix products only."""
    sampled_gb: float
    """Read by the attention's gathers."""
    parameters_m: float

    @property
    def gflop(self) -> float:
        return self.backbone_gflop + self.encoder_gflop


def count_official(name: str, settings: Settings) -> Count:
    """Multiplications and additions, and bytes gathered, of one frame of an official encoder."""
    model, network = OFFICIAL_MODELS[name], build_official(name)
    config, geometry = model.bevformer, official_geometry(model)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        maps = network.features(torch.empty(1, config.cameras, 3, *model.image_hw, device="meta"))
    backbone = counter.get_total_flops()
    cells, d, pixels = config.grid.cells, config.embed_dims, sum(h * w for h, w in (m.shape[-2:] for m in maps))
    temporal_points = config.heads * MAPS * config.temporal_points
    spatial_points = config.heads * config.levels * config.spatial_points
    per_cell = 2 * d * 3 * temporal_points + 3 * d * spatial_points + MAPS * d * d + 2 * d * d + 2 * d * config.ffn_dims
    encoder = 2 * config.layers * (cells * per_cell + config.cameras * pixels * d * d)
    channels = d // config.heads
    gathered = cells * temporal_points + len(geometry.pair_cell) * spatial_points
    size = torch.finfo(settings.dtype).bits // 8
    return Count(
        backbone / 1e9,
        encoder / 1e9,
        config.layers * gathered * CORNERS * channels * size / 1e9,
        sum(parameter.numel() for parameter in network.parameters()) / 1e6,
    )


def official_geometry(model: OfficialModel) -> RigGeometry:
    """Bench2Drive's cameras around an official grid."""
    height, width = model.image_hw
    lidar2img = torch.from_numpy(BENCH2DRIVE_RIG.lidar2img(width, height, BENCH2DRIVE_LIDAR_EGO_M))
    return RigGeometry(model.grid, lidar2img, model.image_hw)


def time_official(name: str, settings: Settings) -> dict[str, float]:
    """Milliseconds of backbone, pyramid and each part of an official encoder."""
    model = OFFICIAL_MODELS[name]
    config = model.bevformer
    torch.manual_seed(0)
    network = OfficialEncoder(model).eval().requires_grad_(False)
    backbone = _ready(fold_batch_norms(network.img_backbone), settings.device)
    neck, head = _ready(network.img_neck, settings.device), network.pts_bbox_head.to(settings.device)
    encoder = StaticBEVFormer(
        head,
        official_geometry(model).to(settings.device),
        model.levels_hw,
        settings.dtype,
        INDUCTOR if settings.compiled else None,
    )
    images = torch.randn(config.cameras, 3, *model.image_hw, device=settings.device)
    images = images.contiguous(memory_format=torch.channels_last)
    can_bus = torch.zeros(1, CAN_BUS_SIZE, device=settings.device)
    can_bus[0, 0], can_bus[0, 17] = 0.5, 1.0
    memory = torch.randn(1, config.grid.cells, config.embed_dims, device=settings.device)

    def frame(watch: Stopwatch) -> None:
        with settings.precision():
            stages = backbone(images)
            watch.mark("backbone")
            maps = [level[None] for level in neck(stages)]
            watch.mark("pyramid")
        if settings.compiled and settings.device.type == "cuda":  # one graph has no parts
            encoder(maps, can_bus, memory)
            watch.mark("encoder")
        else:
            encoder(maps, can_bus, memory, mark=watch.mark)

    return time_frames(settings, frame)


def _ready(module: nn.Module, device: torch.device) -> nn.Module:
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def time_clone(settings: Settings) -> dict[str, float]:
    """Milliseconds of the parts of the cloned driving network, as the agent runs it."""
    model = load_driving_model(settings.weights, str(settings.device))
    fold_batch_norms(model.encoder.backbone)
    inputs = _clone_inputs(model, settings.device)
    state = model.initial(1)
    state = replace(state, has_memory=torch.ones_like(state.has_memory))
    encoder, grid = model.encoder, model.config.encoder.grid

    def frame(watch: Stopwatch) -> None:
        with settings.precision():
            maps = encoder.features(inputs.images)
            watch.mark("backbone and pyramid")
            bev = encoder.lift(maps, inputs.camera_valid, inputs.motion, state.memory, state.has_memory)
            watch.mark("encoder")
            embed = model.neck(bev.transpose(1, 2).unflatten(2, (grid.rows, grid.columns)), inputs.route, inputs.vector)
            watch.mark("neck")
            latent, _ = model.rssm.observe_step(state.latent, None, embed.float(), inputs.first, mode=True)
            watch.mark("world model")
            model.policy(embed.float(), latent)
            watch.mark("policy")

    return time_frames(settings, frame)


@dataclass(frozen=True)
class _Inputs:
    images: Tensor
    camera_valid: Tensor
    motion: Tensor
    route: Tensor
    vector: Tensor
    first: Tensor


def _clone_inputs(model: DrivingModel, device: torch.device) -> _Inputs:
    config = model.config.encoder
    cameras = len(BENCH2DRIVE_RIG.mounts)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (1, cameras, 3, config.image_height, config.image_width), dtype=torch.uint8, generator=generator
    )
    return _Inputs(
        images.to(device),
        torch.ones(1, cameras, dtype=torch.bool, device=device),
        torch.tensor([[0.8, 0.0, 0.01]], device=device),
        torch.zeros(1, ROUTE_POINTS, 2, device=device),
        torch.zeros(1, VECTOR_SIZE, device=device),
        torch.zeros(1, dtype=torch.bool, device=device),
    )


def row(name: str, parts: dict[str, float]) -> str:
    """One printed line: the parts of a frame in ms and their sum."""
    shown = ", ".join(f"{part} {value:.1f}" for part, value in parts.items())
    return f"{name:10} {sum(parts.values()):9.1f} ms  ({shown})"


def raw_stream(parts: Mapping[str, float]) -> dict[str, float]:
    """The cloned network's parts as the paper divides them: everything before the world model is the encoder."""
    later = {part: parts[part] for part in LATENCY_PARTS[1:]}
    return {"encoder": sum(parts.values()) - sum(later.values()), **later}


def privileged_stream(settings: Settings) -> dict[str, float] | None:
    """Milliseconds of the privileged stream's parts; None where the training package, which has it, is not installed.

    It is asked by its command: an agent that is shipped alone knows nothing of training.
    Raises: BenchError if the command fails.
    """
    if importlib.util.find_spec("training") is None:
        return None
    command = [sys.executable, "-m", "training", "bench", "--part", "latency", "--json"]
    command += ["--rounds", str(settings.repeats), "--device", str(settings.device)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise BenchError(f"{' '.join(command[1:])}: exit code {result.returncode}: {last}")
    parts = json.loads(result.stdout)
    return {part: float(parts[part]) for part in LATENCY_PARTS}


def latency_table(streams: Mapping[str, Mapping[str, float] | None]) -> list[str]:
    """The six cells of the paper's table: ours, and the paper's in brackets."""
    lines = [f"{'latency (paper)':24}" + "".join(f"{part:>22}" for part in LATENCY_PARTS)]
    for name, paper_ms in PAPER_MS.items():
        ours = streams.get(name)
        cells = [NOT_MEASURED if ours is None else f"{ours[part]:.1f} ms" for part in LATENCY_PARTS]
        lines.append(
            f"{name:24}" + "".join(f"{f'{cell} ({ms} ms)':>22}" for cell, ms in zip(cells, paper_ms, strict=True))
        )
    return lines


def run(models: Iterable[str], settings: Settings) -> None:
    """Measure and print every model, then the paper's table. Raises: BenchError."""
    kind = torch.cuda.get_device_name(settings.device) if settings.device.type == "cuda" else platform.machine()
    unit = "GPU time" if settings.device.type == "cuda" else "CPU time, one thread"
    form = "compiled" if settings.compiled else "eager"
    print(f"{settings.device} ({kind}), torch {torch.__version__}, {settings.dtype}, {form}; ms per frame ({unit})")
    streams: dict[str, dict[str, float] | None] = {}
    for name in models:
        if name == CLONE:
            try:
                clone = time_clone(settings)
            except (CheckpointError, ConfigError) as error:
                raise BenchError(str(error)) from error
            print(row(name, clone), flush=True)
            streams["raw sensor stream"] = raw_stream(clone)
            streams["privileged stream"] = privileged_stream(settings)
            continue
        count = count_official(name, settings)
        print(
            f"{name:10} {count.gflop:9.0f} GFLOP (backbone and pyramid {count.backbone_gflop:.0f}, encoder "
            f"{count.encoder_gflop:.0f}), {count.sampled_gb:.2f} GB gathered, {count.parameters_m:.1f} M parameters"
        )
        if settings.device.type == "cuda" or settings.full or count.gflop <= TIMED_ON_CPU_GFLOP:
            print(row(name, time_official(name, settings)), flush=True)
        else:
            print(f"{name:10} not timed on a CPU unless --full is given", flush=True)
    if streams:
        print("\n".join(latency_table(streams)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m agent.model bench", description="Milliseconds per frame, part by part."
    )
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join((*OFFICIAL_MODELS, CLONE))}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1...")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--compiled", action="store_true", help="torch.compile; the first frame takes minutes")
    parser.add_argument("--full", action="store_true", help="time large models on a CPU, too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="checkpoint folder of the driving network")
    options = parser.parse_args(arguments)
    models = [name for name in options.models.split(",") if name]
    try:
        for name in models:
            if name not in (*OFFICIAL_MODELS, CLONE):
                raise BenchError(f"--models: no model {name!r}; choose of {', '.join((*OFFICIAL_MODELS, CLONE))}")
        if options.repeats < 1:
            raise BenchError(f"--repeats must be at least 1, got {options.repeats}")
        settings = Settings(
            _device(options.device),
            DTYPES[options.dtype],
            options.compiled,
            options.repeats,
            options.full,
            options.weights,
        )
        with one_thread():
            run(models, settings)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


@contextmanager
def one_thread() -> Iterator[None]:
    """CPU time is comparable between machines with one thread only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_settings(device: str, *, repeats: int) -> Settings:
    """To time in float32, uncompiled. Raises: BenchError for a device that is not there."""
    return Settings(_device(device), torch.float32, False, repeats, False, CLONE_WEIGHTS)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BenchError(f"--device: {name!r} is no device; use cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BenchError(f"--device: {name!r} is not supported; use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BenchError(f"--device: {name!r} is not there ({torch.cuda.device_count()} CUDA devices found); use cpu")
    return device
