"""A drive kept as the agent's inputs and what it then did: replayed through the agent without a server and compared.

Cameras are kept as H.264, whose decoding is exact everywhere, and turned into colours by arithmetic of our own: the
pictures that the agent gets are the same on every machine. They are not those of the drive to the last bit, so the
trace that counts is the one of a replay.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import av
import msgpack
import numpy as np
import zstandard

from agent.carla_io import GNSS_ID, IMU_ID, SPEED_ID
from agent.observation import CAMERA_NAMES, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX
from eval.moments import TICKS_PER_DECISION
from eval.runner import DEFAULT_WEIGHTS, EXIT_INCOMPLETE, EXIT_OK, InputError

if TYPE_CHECKING:
    from eval.episode import Episode, Tick

FORMAT: Final = 1
MAX_BYTES: Final = 64 * 1024 * 1024
COLUMNS: Final = 3
ROWS: Final = len(CAMERA_NAMES) // COLUMNS
CODEC: Final = {"preset": "veryslow"}
MAX_DIFFERING_SHARE: Final = 0.05
"""Other processors round otherwise, which may tip a decision between two actions of equal likelihood."""
RED: Final = 1.402
BLUE: Final = 1.772
GREEN: Final = (-0.344136, -0.714136)
"""Full-range BT.601: what a unit of blue and red difference adds to red, blue and green."""

InputData = dict[str, tuple[int, Any]]
Disturb = Callable[[InputData], InputData]


@dataclass(frozen=True, kw_only=True)
class GoldenConfig:
    """Replay a recorded drive through the agent and compare what it does; --record makes a new recording."""

    recording: Path
    """The recording."""
    weights: Path = DEFAULT_WEIGHTS
    """The agent's configuration file."""
    accept: bool = False
    """Keep what the agent does now as what it should do (after a wanted change of agent or weights)."""
    record: bool = False
    """Drive a route on an embedded server and write the recording anew."""
    town: str = "Gen21"
    """Town to record in."""
    seed: int = 0
    """Seed of the route and the traffic to record."""
    traffic: int = 10
    """Background vehicles of the drive to record."""
    seconds: float = 10.0
    """Game time to record, from the start on."""
    crf: int = 34
    """Quality of the pictures, lower is better and larger."""


@dataclass(frozen=True)
class Trace:
    """What the agent did, tick by tick."""

    controls: np.ndarray
    """(n, 4) float32: throttle, steer, brake, reverse."""
    modes: tuple[str, ...]
    """The guard's mode."""
    logits: np.ndarray
    """(decisions, 39) float32."""


@dataclass(frozen=True)
class Difference:
    """How far a trace is from the recorded one."""

    ticks: int
    differing: int
    """Ticks with another control or mode."""
    logits: float
    """Largest difference of a logit."""

    @property
    def ok(self) -> bool:
        """Whether it is the same drive."""
        return self.differing <= MAX_DIFFERING_SHARE * self.ticks

    def __str__(self) -> str:
        return f"{self.differing} of {self.ticks} ticks differ; largest difference of a logit {self.logits:.1e}"


@dataclass(frozen=True)
class Recording:
    """Sparse plans, one entry per tick of the small sensors, pictures of every decision, and the trace to compare."""

    plan: list[tuple[list[float], list[float], str]]
    """Latitude, longitude, height; x, y, z, yaw [CARLA, deg]; road option."""
    ticks: list[tuple[float, list[float], list[float], float]]
    """Time [s], IMU, GNSS, speed."""
    video: bytes
    weights_sha256: str
    """Of the weights that gave the trace."""
    trace: Trace | None
    about: str

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Raises: InputError."""
        if not path.is_file():
            raise InputError(f"{path}: no such recording; make one with --record")
        try:
            text = zstandard.ZstdDecompressor().decompress(path.read_bytes(), max_output_size=MAX_BYTES)
            data = msgpack.unpackb(text)
            if data["format"] != FORMAT:
                raise InputError(f"{path}: format {data['format']}, this program reads {FORMAT}; record it anew")
            return cls(
                plan=[tuple(point) for point in data["plan"]],
                ticks=[tuple(tick) for tick in data["ticks"]],
                video=data["video"],
                weights_sha256=data["weights_sha256"],
                trace=_unpack_trace(data["trace"]),
                about=data["about"],
            )
        except (zstandard.ZstdError, msgpack.UnpackException, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not a recording ({type(error).__name__}: {error}); record it anew") from error

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        trace = self.trace
        packed = msgpack.Packer().pack(
            {
                "format": FORMAT,
                "about": self.about,
                "plan": self.plan,
                "ticks": self.ticks,
                "video": self.video,
                "weights_sha256": self.weights_sha256,
                "trace": trace
                and {
                    "controls": trace.controls.tobytes(),
                    "modes": list(trace.modes),
                    "logits": trace.logits.tobytes(),
                },
            }
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(zstandard.ZstdCompressor(level=19).compress(packed))
        partial.replace(path)

    def inputs(self) -> Iterator[tuple[float, InputData]]:
        """Time and the leaderboard's input data of every tick."""
        pictures = decode(self.video)
        images: dict[str, np.ndarray] = {}
        for index, (time_s, imu, gnss, speed) in enumerate(self.ticks):
            if index % TICKS_PER_DECISION == 0:
                images = next(pictures)
            data: InputData = {name: (index, image) for name, image in images.items()}
            data[IMU_ID] = (index, np.array(imu))
            data[GNSS_ID] = (index, np.array(gnss))
            data[SPEED_ID] = (index, {"speed": speed})
            yield time_s, data


def golden(config: GoldenConfig) -> int:
    """Record, accept or compare; gives the exit code. Raises: InputError, ServerError."""
    if config.record:
        record(config).save(config.recording)
    recording = Recording.load(config.recording)
    trace = replay(recording, config.weights)
    if config.record or config.accept or recording.trace is None:
        accepted = Recording(
            recording.plan,
            recording.ticks,
            recording.video,
            weights_sha256(config.weights),
            trace,
            recording.about,
        )
        accepted.save(config.recording)
        size_kb = config.recording.stat().st_size / 1000
        print(f"{config.recording}: {len(recording.ticks)} ticks, {size_kb:.0f} kB; {recording.about}")
        return EXIT_OK
    if recording.weights_sha256 != weights_sha256(config.weights):
        print("the weights are not those of the recorded trace; --accept keeps the new one")
    difference = compare(recording.trace, trace)
    print(f"{config.recording}: {difference}")
    return EXIT_OK if difference.ok else EXIT_INCOMPLETE


def replay(recording: Recording, weights: Path, disturb: Disturb | None = None) -> Trace:
    """What the agent does with the recorded inputs; `disturb` may change them."""
    from agent.entry import LeaderboardAgent  # here: the other commands of this package start faster without torch

    agent = LeaderboardAgent("127.0.0.1", 2000)
    agent._global_plan, agent._global_plan_world_coord = _plans(recording.plan)
    agent.setup(str(weights))
    controls, modes, logits = [], [], []
    try:
        for index, (time_s, data) in enumerate(recording.inputs()):
            control = agent.run_step(disturb(data) if disturb else data, time_s)
            controls.append((control.throttle, control.steer, control.brake, float(control.reverse)))
            modes.append(agent.guard.mode.value)
            decision = agent.driver.last_decision if agent.driver else None
            if index % TICKS_PER_DECISION == 0 and decision is not None:
                logits.append(decision.logits.numpy())
    finally:
        agent.destroy()
    return Trace(np.array(controls, np.float32), tuple(modes), np.array(logits, np.float32))


def compare(expected: Trace, trace: Trace) -> Difference:
    """Tick by tick."""
    same = (expected.controls == trace.controls).all(1) & (np.array(expected.modes) == np.array(trace.modes))
    return Difference(len(same), int((~same).sum()), float(np.abs(expected.logits - trace.logits).max()))


def weights_sha256(config: Path) -> str:
    """Of the configuration and the weights beside it."""
    digest = hashlib.sha256(config.read_bytes())
    digest.update((config.parent / "model.safetensors").read_bytes())
    return digest.hexdigest()


class InputRecorder:
    """A hook that keeps what the agent is given."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, list[float], list[float], float]] = []
        self.pictures: list[np.ndarray] = []

    def __call__(self, episode: Episode, tick: Tick) -> None:
        data = tick.data
        imu, gnss, speed = (data[name][1] for name in (IMU_ID, GNSS_ID, SPEED_ID))
        self.ticks.append((tick.ego.time_s, imu.tolist(), gnss.tolist(), float(speed["speed"])))
        if (episode.ticks - 1) % TICKS_PER_DECISION == 0:
            self.pictures.append(_mosaic([data[name][1] for name in CAMERA_NAMES]))


def record(config: GoldenConfig) -> Recording:
    """Drive a route of a town with the agent and keep its inputs. Raises: ServerError, InputError."""
    from agent.entry import LeaderboardAgent
    from eval.episode import EMBEDDED_TIMEOUT_S, Episode, EpisodeConfig
    from eval.generate import generate_routes
    from eval.server import EmbeddedServer, EmbeddedServerConfig, connect

    with EmbeddedServer(EmbeddedServerConfig(town=config.town)) as server:
        client = connect(server.host, server.port, EMBEDDED_TIMEOUT_S)
        route = generate_routes(client.get_world().get_map(), 1, seed=config.seed, town=config.town)[0]
        recorder = InputRecorder()
        episode_config = EpisodeConfig(
            traffic=config.traffic,
            seed=config.seed,
            agent_config=str(config.weights),
            max_game_s=config.seconds,
        )
        plans: list[Any] = []

        def keep_plan(episode: Episode, tick: Tick) -> None:
            if not plans and episode.agent is not None:
                plans.extend((episode.agent._global_plan, episode.agent._global_plan_world_coord))

        hooks = [keep_plan, recorder]
        result = Episode(client, route, LeaderboardAgent, episode_config, hooks=hooks).run()
    if not recorder.ticks:
        raise InputError(f"nothing was recorded: {result.status} {result.failure_message}")
    about = f"{config.town}, seed {config.seed}, embedded server"
    return Recording(_packed_plan(*plans), recorder.ticks, encode(recorder.pictures, config.crf), "", None, about)


def _packed_plan(gps: Sequence[Any], world: Sequence[Any]) -> list[tuple[list[float], list[float], str]]:
    return [
        (
            [fix["lat"], fix["lon"], fix["z"]],
            [place.location.x, place.location.y, place.location.z, place.rotation.yaw],
            str(getattr(option, "name", option)),
        )
        for (fix, _), (place, option) in zip(gps, world, strict=True)
    ]


def _plans(plan: Sequence[tuple[list[float], list[float], str]]) -> tuple[list[Any], list[Any]]:
    gps = [({"lat": lat, "lon": lon, "z": z}, option) for (lat, lon, z), _, option in plan]
    world = []
    for _, (x, y, z, yaw), option in plan:
        place = SimpleNamespace(location=SimpleNamespace(x=x, y=y, z=z), rotation=SimpleNamespace(yaw=yaw))
        world.append((place, option))
    return gps, world


def _unpack_trace(data: Any) -> Trace | None:
    if data is None:
        return None
    controls = np.frombuffer(data["controls"], np.float32).reshape(-1, 4)
    modes = tuple(data["modes"])
    return Trace(controls, modes, np.frombuffer(data["logits"], np.float32).reshape(-len(modes) // -2, -1))


def _mosaic(images: Sequence[np.ndarray]) -> np.ndarray:
    """Six BGRA images side by side, (2 h, 3 w, 3) RGB."""
    rows = [np.concatenate(images[i * COLUMNS : (i + 1) * COLUMNS], axis=1) for i in range(ROWS)]
    return np.concatenate(rows)[..., 2::-1]


def encode(pictures: Sequence[np.ndarray], crf: int) -> bytes:
    """H.264 of RGB mosaics."""
    buffer = io.BytesIO()
    height, width = pictures[0].shape[:2]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={**CODEC, "crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for index, picture in zip(count(), pictures):
            frame = av.VideoFrame.from_ndarray(_to_planes(picture), format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode(video: bytes) -> Iterator[dict[str, np.ndarray]]:
    """Camera name to BGRA image (h, w, 4), frame by frame."""
    with av.open(io.BytesIO(video)) as container:
        for frame in container.decode(video=0):
            assert isinstance(frame, av.VideoFrame)
            picture = _to_bgra(frame.to_ndarray(), frame.height)
            images = {}
            for i, name in enumerate(CAMERA_NAMES):
                top, left = i // COLUMNS * IMAGE_HEIGHT_PX, i % COLUMNS * IMAGE_WIDTH_PX
                images[name] = picture[top : top + IMAGE_HEIGHT_PX, left : left + IMAGE_WIDTH_PX].copy()
            yield images


def _to_planes(rgb: np.ndarray) -> np.ndarray:
    """RGB (h, w, 3) as the planes (1.5 h, w) of yuv420p."""
    r, g, b = (rgb[..., channel].astype(np.float64) for channel in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    height, width = luma.shape
    chroma = [128.0 + (b - luma) / BLUE, 128.0 + (r - luma) / RED]
    small = [plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for plane in chroma]
    flat = np.concatenate([luma.ravel(), *(plane.ravel() for plane in small)])
    return np.clip(np.rint(flat), 0, 255).astype(np.uint8).reshape(height * 3 // 2, width)


def _to_bgra(planes: np.ndarray, height: int) -> np.ndarray:
    """The inverse, up to what was lost: planes (1.5 h, w) to (h, w, 4)."""
    width = planes.shape[1]
    luma = planes[:height].astype(np.float64)
    chroma = planes[height:].reshape(2, height // 2, width // 2).astype(np.float64) - 128.0
    blue, red = (plane.repeat(2, 0).repeat(2, 1) for plane in chroma)
    channels = [luma + BLUE * blue, luma + GREEN[0] * blue + GREEN[1] * red, luma + RED * red]
    image = np.full((height, width, 4), 255, np.uint8)
    image[..., :3] = np.clip(np.rint(np.stack(channels, -1)), 0, 255)
    return image
