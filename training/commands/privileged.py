"""Commands of the privileged stream: train, measure, look, evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from agent import strict_json
from agent.adapter import AdapterConfig
from agent.model.bench import make_settings, one_thread, row
from eval.results import write_json_atomically
from training import bench, fit, latency
from training.adapter import bench as adapter_bench
from training.env import picture
from training.evaluation import run as evaluation
from training.evaluation.summary import markdown
from training.experience import bench as replay_bench
from training.presets import Recipe, Size, preset
from training.privileged import checkpoint, curves, dream, trainer
from training.privileged.config import RunConfig, with_demonstrations

INCOMPLETE = 1


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
    """Time an update of world model, actor and critic against a plain implementation, the replay, or one decision."""

    part: Literal["update", "replay", "latency", "adapter"] = "update"
    """What is timed; the replay uses batch, size-px, threads and seed, and windows of 64 steps. latency: a decision of
    the privileged stream, part by part (rounds; one thread). adapter: a decision of the adapter (likewise)."""
    preset: Recipe = "paper"
    """Of the decision that is timed; `paper` at 100m has the five convolutions of Raw2Drive's Table 13."""
    size: Size = "100m"
    """As above."""
    device: str = "cpu"
    """As above: cpu or cuda."""
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
            print(strict_json.dumps(parts) if self.json else row(f"{self.preset} {self.size}", parts))
            return 0
        if self.part == "adapter":
            settings = make_settings(self.device, repeats=self.config.rounds)
            with one_thread():
                timed = adapter_bench.time_adapter(settings, self.adapter)
            print(strict_json.dumps(timed) if self.json else adapter_bench.table(timed))
            return 0
        if self.part == "replay":
            config = replay_bench.ReplayBenchConfig(
                batch=self.config.batch,
                size_px=self.config.size_px,
                threads=self.config.threads,
                seed=self.config.seed,
            )
            timing = replay_bench.run(config)
            print(strict_json.dumps(replay_bench.report(timing)) if self.json else replay_bench.table(timing))
            return 0
        timings = bench.run(self.config)
        print(strict_json.dumps(bench.report(self.config, timings)) if self.json else bench.table(timings))
        return 0


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
