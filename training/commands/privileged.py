"""Commands of the privileged stream: train, measure, look, evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from agent import strict_json
from agent.adapter import AdapterConfig
from agent.model.bench import make_settings, one_thread, row
from agent.model.driving_model import EncoderSize
from eval.results import write_json_atomically
from training import bench, fit, latency, throughput
from training.adapter import bench as adapter_bench
from training.env import bench as env_bench
from training.env import picture
from training.evaluation import run as evaluation
from training.evaluation.summary import markdown
from training.experience import bench as replay_bench
from training.presets import Recipe, Size, preset
from training.privileged import checkpoint, curves, dream, trainer
from training.privileged.config import RunConfig, with_demonstrations
from training.raw import bench as raw_bench

INCOMPLETE = 1
OBSERVED_CARS, DRIVEN_CARS = 60, 20
"""In the figures of docs/privileged.md."""


@dataclass(frozen=True, kw_only=True)
class Privileged:
    """Train world model and policy on privileged masks by reinforcement learning; a run that exists is resumed."""

    out: Path
    """Folder of the run."""
    preset: Recipe = "paper"
    size: Size = "tiny"
    minutes: float = 60.0
    """Training time in all, resumed parts included."""
    demonstrations: bool = False
    """The expert teaches, too: it drives first and then a part of the time, and its action in every state is imitated
    besides reinforcement. Sets prefill, expert_share, noise_share and imitation where they are not given."""
    ray: str | None = None
    """Address of a Ray cluster (or auto): the collectors drive on its nodes."""
    allow_config_change: tuple[str, ...] = ()
    """Keys, or sections of keys, that may differ from what a resumed run was begun with, as its refusal names them."""
    config: RunConfig = field(default_factory=RunConfig)

    def run(self) -> int:
        """Exit code."""
        trainer.train(
            preset(self.preset, self.size),
            with_demonstrations(self.config) if self.demonstrations else self.config,
            self.out,
            self.minutes,
            allowed=self.allow_config_change,
            ray=self.ray,
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time updates, the replay, the environment, or one decision."""

    part: Literal[
        "update", "learner", "raw", "raw-count", "replay", "observation", "environment", "latency", "adapter"
    ] = "update"
    """What is timed. update: a full update of world model, actor and critic against a plain implementation, on the
    CPU. learner: a full update of any preset and size on any device (all but size-px). raw: the same of the raw stage.
    raw-count: operations and memory of such an update, counted without a device. replay: frames written, and
    decoded into batches (batch, size-px, threads and seed; windows of 64 steps). observation: that of the privileged
    stream among 60 cars. environment: a decision among 20 cars (rounds and seed, both). latency: a decision of the
    privileged stream, part by part (rounds; one thread). adapter: a decision of the adapter (likewise)."""
    preset: Recipe = "paper"
    """Of learner and latency; `paper` at 100m has the five convolutions of Raw2Drive's Table 13."""
    size: Size = "100m"
    """As above."""
    device: str = "cpu"
    """As above: cpu or cuda."""
    compile: bool = False
    """Whether the learner's recurrent steps are compiled."""
    encoder: EncoderSize = "base"
    """Of raw and raw-count."""
    recompute: bool = False
    """Whether the raw stage's backward pass computes the BEV encoder's steps again (`--config.recompute` of a run)."""
    config: tyro.conf.OmitArgPrefixes[bench.BenchConfig] = field(default_factory=bench.BenchConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """As above: how many candidates, how many steps of the sampler, guided or not."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        """Exit code."""
        if self.part == "latency":
            settings = make_settings(self.device, repeats=self.config.rounds)
            with one_thread():
                parts = latency.time_privileged(preset(self.preset, self.size), settings)
            self._show(parts, row(f"{self.preset} {self.size}", parts))
            return 0
        if self.part == "adapter":
            settings = make_settings(self.device, repeats=self.config.rounds)
            with one_thread():
                timed = adapter_bench.time_adapter(settings, self.adapter)
            self._show(timed, adapter_bench.table(timed))
            return 0
        if self.part == "replay":
            config = replay_bench.ReplayBenchConfig(
                batch=self.config.batch,
                size_px=self.config.size_px,
                threads=self.config.threads,
                seed=self.config.seed,
            )
            timing = replay_bench.run(config)
            self._show(replay_bench.report(timing), replay_bench.table(timing))
            return 0
        if self.part == "learner":
            timed_learner = throughput.time_learner(
                preset(self.preset, self.size), self.config, self.device, compiled=self.compile
            )
            self._show(throughput.report(timed_learner), throughput.table(timed_learner))
            return 0
        if self.part in ("raw", "raw-count"):
            full = raw_bench.full_config(self.preset, self.size, self.encoder, recompute=self.recompute)
            if self.part == "raw":
                timed_raw = raw_bench.time_raw(full, self.config, self.device)
                self._show(throughput.report(timed_raw), throughput.table(timed_raw))
                return 0
            counted, size = raw_bench.count(full), (self.config.batch, self.config.steps)
            self._show(raw_bench.report(counted, *size), raw_bench.table(counted, *size))
            return 0
        if self.part == "observation":
            observed = env_bench.time_observation(self._env_config(OBSERVED_CARS))
            self._show(env_bench.report(observed), env_bench.observation_table(observed))
            return 0
        if self.part == "environment":
            driven = env_bench.time_decisions(self._env_config(DRIVEN_CARS))
            self._show(env_bench.report(driven), env_bench.decision_table(driven))
            return 0
        timings = bench.run(self.config)
        self._show(bench.report(self.config, timings), bench.table(timings))
        return 0

    def _env_config(self, cars: int) -> env_bench.EnvBenchConfig:
        return env_bench.EnvBenchConfig(traffic=cars, rounds=self.config.rounds, seed=self.config.seed)

    def _show(self, report: dict[str, Any], table: str) -> None:
        print(strict_json.dumps(report) if self.json else table)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Drive fixed routes to their verdict with experts and policies; write results, tables and paired comparisons.

    What has been driven before is kept: the same command goes on, also with more drivers or seeds.
    """

    drivers: str
    """expert, blind and NAME=FOLDER (checkpoint of a policy), separated by commas: expert,policy=runs/p/model."""
    out: Path
    """Folder of the evaluation."""
    sampled: bool = False
    """Let every policy also drive with sampled actions, as NAME_sampled."""
    routes: Path = evaluation.ROUTES
    """Route file."""
    town_dir: Path | None = None
    """Folder with .xodr files of CARLA's towns."""
    baseline: str = ""
    """Driver with which the others are compared; the first one if not given."""
    seeds: int = 1
    """Drives of every route by every driver."""
    seed: int = 0
    """The first seed."""
    traffic: int = 15
    workers: int = 2
    max_game_s: float | None = None
    """End every drive after this game time, for trials."""

    def run(self) -> int:
        """Exit code."""
        config = evaluation.EvaluationConfig(
            drivers=tuple(part for part in self.drivers.split(",") if part),
            routes=self.routes,
            town_dir=self.town_dir,
            sampled=self.sampled,
            baseline=self.baseline,
            seeds=self.seeds,
            seed=self.seed,
            traffic=self.traffic,
            workers=self.workers,
            max_game_s=self.max_game_s,
        )
        summary = evaluation.evaluate(config, self.out)
        print(markdown(summary))
        print(f"written to {self.out}; each driver's folder in it is a run for python -m eval score and compare")
        return INCOMPLETE if summary["notes"] else 0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Train world models with different mask encoders on the same recorded windows and compare what they learn."""

    config: tyro.conf.OmitArgPrefixes[fit.FitConfig]

    def run(self) -> int:
        """Exit code."""
        result = fit.run(self.config)
        write_json_atomically(self.config.out, result)
        print(fit.table(result))
        return 0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Draw the 43 masks of the privileged observation with their legend, from a drive of the expert."""

    config: tyro.conf.OmitArgPrefixes[picture.PictureConfig] = field(default_factory=picture.PictureConfig)

    def run(self) -> int:
        """Exit code."""
        print(picture.draw(self.config))
        return 0


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Draw the learning curves of runs of the privileged stage."""

    runs: str
    """Folders of runs, separated by commas."""
    out: Path = Path("runs/curves.png")

    def run(self) -> int:
        """Exit code."""
        print(curves.draw([Path(part) for part in self.runs.split(",") if part], self.out))
        return 0


@dataclass(frozen=True, kw_only=True)
class DreamPicture:
    """Draw what a trained world model imagines beside what really came."""

    config: tyro.conf.OmitArgPrefixes[dream.DreamConfig]

    def run(self) -> int:
        """Exit code."""
        print(dream.draw(self.config))
        return 0


@dataclass(frozen=True, kw_only=True)
class ExportPrivileged:
    """Write a run's world model and policy as a small folder that drives, and that another run can begin with."""

    model: Path
    """Folder `model` of a run."""
    out: Path
    card: Path
    """Model card to include: what it was trained on and how it scores."""

    def run(self) -> int:
        """Exit code."""
        checkpoint.export(self.model, self.out, self.card.read_text(encoding="utf-8"))
        print(self.out)
        return 0
