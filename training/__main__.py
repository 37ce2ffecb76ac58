"""Command line of the training folder: collect data, train, export weights, time an update."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agent import strict_json
from agent.adapter import AdapterConfig
from agent.checkpoint import CheckpointError
from agent.config import ConfigError
from agent.model.bench import make_settings, one_thread, row
from eval.generate import RouteGenerationError
from eval.results import write_json_atomically
from eval.scenarios.registry import BENCH2DRIVE_TYPES, SCENARIOS
from eval.server import ServerError
from training import ablate, bench, clone, collect, fit, latency, scenario_study
from training.ablate_table import markdown as ablate_markdown
from training.adapter import bench as adapter_bench
from training.adapter import drive as adapter_drive
from training.adapter import study as adapter_study
from training.adapter import train as adapter_train
from training.counterfactual import picture as futures_picture
from training.counterfactual import recorder, synthesis
from training.env import picture
from training.evaluation import run as evaluation
from training.evaluation.summary import markdown
from training.experience import bench as replay_bench
from training.presets import Recipe, Size, preset
from training.privileged import checkpoint, curves, dream, trainer
from training.privileged.config import RunConfig, with_demonstrations
from training.privileged.guard import FAILED, RunStoppedError
from training.raw import confusion_figure, decoded_figure, loss_figure, record
from training.raw import export as raw_export
from training.raw import trainer as raw_trainer
from training.raw.arms import arms_of
from training.raw.config import RawRunConfig, for_cpus
from training.raw.load import load_learner
from training.raw.recording import Recording
from training.refine import train as refine_train
from training.replay import SegmentError
from training.risk import benchmark as risk_benchmark
from training.risk import train as risk_train
from training.risk.data import FutureSet

INCOMPLETE = 1
BAD_INPUT = 2
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Record driving data on embedded servers."""

    towns: str
    """Towns, separated by commas: Gen02,Gen03."""
    out: Path
    """Folder for the segments; new ones are added to those already there."""
    driver: Literal["expert", "agent"] = "expert"
    """Who drives; with the agent the expert labels every frame."""
    weights: Path | None = None
    """Checkpoint folder of the agent."""
    frames: int = 20_000
    workers: int = 2
    seed: int = 0
    beta: float = 0.3
    """Share of the time that the expert drives in an agent's episode."""
    town_dir: Path | None = None
    max_traffic: int = 20

    def run(self) -> int:
        """Exit code."""
        if (self.driver == "agent") != (self.weights is not None):
            raise ValueError("--driver agent needs --weights FOLDER, and only then")
        config = collect.CollectConfig(
            towns=tuple(town for town in self.towns.split(",") if town),
            frames=self.frames,
            workers=self.workers,
            seed=self.seed,
            beta=self.beta,
            town_dir=self.town_dir,
            max_traffic=self.max_traffic,
        )
        return 1 if collect.run(config, self.out, self.weights) else 0


@dataclass(frozen=True, kw_only=True)
class Clone:
    """Train the driving model on recorded data; a run that exists is resumed."""

    data: str
    """Folders of segments, separated by commas."""
    out: Path
    """Folder of the run."""
    minutes: float = 45.0
    """Training time in all, resumed parts included."""
    init: Path | None = None
    """Checkpoint folder to start from."""
    config: clone.CloneConfig = field(default_factory=clone.CloneConfig)

    def run(self) -> int:
        """Exit code."""
        folders = tuple(Path(part) for part in self.data.split(",") if part)
        clone.run(replace(self.config, minutes=self.minutes), folders, self.out, self.init)
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's averaged weights as a folder the agent can drive with."""

    run_folder: Path
    out: Path
    half: bool = True
    """Store float16; cast back to float32 when loaded."""
    card: Path | None = None
    """Model card to include."""

    def run(self) -> int:
        """Exit code."""
        card = self.card.read_text(encoding="utf-8") if self.card else clone.MODEL_CARD
        print(clone.export(self.run_folder, self.out, half=self.half, card=card))
        return 0


@dataclass(frozen=True, kw_only=True)
class Scenarios:
    """Drive generated routes of every scenario type with the expert and with a blind driver; write a table."""

    towns: str
    """Towns, separated by commas."""
    out: Path
    """Folder for the counts, the table, the drives and the routes."""
    types: str = ""
    """Scenario types, separated by commas; Bench2Drive's 44 if empty."""
    seeds: int = 5
    """Routes per type."""
    seed: int = 0
    traffic: int = 8
    workers: int = 2
    town_dir: Path | None = None

    def run(self) -> int:
        """Exit code."""
        types = tuple(kind for kind in self.types.split(",") if kind) or BENCH2DRIVE_TYPES
        unknown = sorted(set(types) - set(SCENARIOS))
        if unknown:
            raise ValueError(f"--types {', '.join(unknown)} is not known; known are {', '.join(sorted(SCENARIOS))}")
        config = scenario_study.StudyConfig(
            towns=tuple(town for town in self.towns.split(",") if town),
            types=types,
            seeds=self.seeds,
            seed=self.seed,
            traffic=self.traffic,
            workers=self.workers,
            town_dir=self.town_dir,
        )
        print(scenario_study.table(scenario_study.study(config, self.out)))
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
class Raw:
    """Train the raw sensor stream, six cameras and IMU, under a privileged model; a run that exists is resumed.

    Without collectors it learns from a recorded replay: --config.collectors 0 --config.replay FOLDER.
    """

    out: Path
    """Folder of the run."""
    minutes: float = 60.0
    """Training time in all, resumed parts included."""
    ray: str | None = None
    """Address of a Ray cluster (or auto): the collectors drive on its nodes."""
    cpu: bool = False
    """For machines without a GPU: the image backbone stays as it is and is asked once per decision, and convolutions
    are computed in bfloat16 (backbone frozen, bfloat16). The agent's network is the same."""
    allow_config_change: tuple[str, ...] = ()
    """Keys, or sections of keys, that may differ from what a resumed run was begun with, as its refusal names them."""
    config: RawRunConfig = field(default_factory=RawRunConfig)

    def run(self) -> int:
        """Exit code."""
        config = for_cpus(self.config) if self.cpu else self.config
        raw_trainer.train(config, self.out, self.minutes, allowed=self.allow_config_change, ray=self.ray)
        return 0


@dataclass(frozen=True, kw_only=True)
class RecordRaw:
    """Record experience with camera images for `raw`, driven by a privileged model; more is added to what is there."""

    out: Path
    """Folder; the experience is in its `replay`."""
    minutes: float = 600.0
    """End after so many minutes, whatever is recorded by then."""
    config: record.RecordConfig = field(default_factory=record.RecordConfig)

    def run(self) -> int:
        """Exit code."""
        print(record.record(self.config, self.out, self.minutes))
        return 0


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """Train arms of the raw stage on one recorded data set with equal updates, measure, drive and compare them.

    The same command goes on with what was interrupted, and does more for more arms, seeds, updates or repetitions.
    """

    arms: str
    """Names, separated by commas, or all: full, no_decoder, reward_head, three_heads, three_heads_detached,
    no_alignment, embed_only, embed_deter, no_embed, spatial_only, temporal_only, own_heads, random_rssm,
    random_decoder, tied_rssm, direct_policy, independent_sampling."""
    data: Path
    """Folder of `record-raw`."""
    updates: int
    """Of every training run."""
    out: Path
    seeds: int = 2
    """Training runs of every arm."""
    held_out: Path | None = None
    """Another folder of `record-raw`, to measure the models on; otherwise it is done on the data itself."""
    readout_windows: int = 32
    """Windows that a finished model is measured on."""
    routes: Path | None = None
    """Route file: every finished run drives it on embedded servers."""
    repetitions: int = 3
    """How often each route is driven by every finished run."""
    town_dir: Path | None = None
    """Folder with .xodr files of CARLA's towns."""
    traffic: int = 15
    """Background vehicles."""
    workers: int = 1
    """Routes driven at the same time."""
    max_game_s: float | None = None
    """End every drive after this game time, for trials."""
    minutes: float | None = None
    """Begin no training run, no drive after so many minutes and stop the one under way; the same command goes on."""
    cpu: bool = False
    """As in `raw`: a frozen backbone, asked once per decision for all arms together, and bfloat16."""
    config: RawRunConfig = field(default_factory=RawRunConfig)
    """What is the same in all arms."""

    def run(self) -> int:
        """Exit code."""
        drive = ablate.DriveConfig(
            routes=self.routes,
            repetitions=self.repetitions,
            town_dir=self.town_dir,
            traffic=self.traffic,
            workers=self.workers,
            max_game_s=self.max_game_s,
        )
        config = ablate.AblateConfig(
            arms=tuple(arms_of(self.arms)),
            data=self.data,
            updates=self.updates,
            seeds=self.seeds,
            held_out=self.held_out,
            readout_windows=self.readout_windows,
            run=for_cpus(self.config) if self.cpu else self.config,
            drive=drive,
            minutes=self.minutes,
        )
        try:
            print(ablate_markdown(ablate.ablate(config, self.out)))
        except ablate.Interrupted as interrupt:
            print(str(interrupt), file=sys.stderr)
            return interrupt.exit_code
        print(f"written to {self.out / 'ablation.md'} and ablation.json")
        return 0


@dataclass(frozen=True, kw_only=True)
class RawFigures:
    """Draw the loss with and without rollout guidance, decoded masks beside the true ones, or what confuses the heads.

    loss: --runs. decoded: --run-folder and --data. confusion: these two (a run of three_heads), and --parking.
    """

    figure: Literal["loss", "decoded", "confusion"]
    """As in Raw2Drive's Figures 7, 8 and 9."""
    out: Path
    """Picture to write."""
    runs: str = ""
    """NAME=FOLDER of raw runs, separated by commas; a name with several folders is drawn as mean and range."""
    run_folder: Path | None = None
    """Folder of a raw run."""
    data: Path | None = None
    """Folder of `record-raw`."""
    parking: Path | None = None
    """Another one, recorded on routes with ParkingExit alone."""
    rows: int = 4
    """Rows of the picture (confusion: of each part)."""

    def run(self) -> int:
        """Exit code."""
        if self.figure == "loss":
            print(loss_figure.draw(loss_figure.runs_of(self.runs), self.out))
            return 0
        if self.run_folder is None or self.data is None or self.rows < 1:
            raise ValueError(f"{self.figure} needs --run-folder and --data, and --rows of at least 1")
        learner = load_learner(self.run_folder)
        recording = Recording(self.data / "replay", learner.config)
        if self.figure == "decoded":
            print(decoded_figure.draw(learner, recording, self.out, self.rows))
            return 0
        parking = None if self.parking is None else Recording(self.parking / "replay", learner.config)
        print(confusion_figure.draw(learner, recording, parking, self.out, self.rows))
        return 0


@dataclass(frozen=True, kw_only=True)
class ExportRaw:
    """Write a raw run's agent as a folder that `eval run` drives with."""

    run_folder: Path
    out: Path
    card: Path
    """Model card to include: what it was trained on and how it scores."""
    decoder: bool = False
    """Include the decoder of the masks: films and live view then show what the agent believes and imagines."""

    def run(self) -> int:
        """Exit code."""
        card = self.card.read_text(encoding="utf-8")
        print(raw_export.export(self.run_folder, self.out, card, decoder=self.decoder))
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
class Picture:
    """Draw the 43 masks of the privileged observation with their legend, from a drive of the expert."""

    config: tyro.conf.OmitArgPrefixes[picture.PictureConfig] = field(default_factory=picture.PictureConfig)

    def run(self) -> int:
        """Exit code."""
        print(picture.draw(self.config))
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
class DreamPicture:
    """Draw what a trained world model imagines beside what really came."""

    config: tyro.conf.OmitArgPrefixes[dream.DreamConfig]

    def run(self) -> int:
        """Exit code."""
        print(dream.draw(self.config))
        return 0


@dataclass(frozen=True, kw_only=True)
class LogEpisodes:
    """Log episodes on any CARLA server for counterfactual replay; drives that are logged already are kept."""

    out: Path
    """Folder of the logs."""
    config: recorder.LogConfig = field(default_factory=recorder.LogConfig)

    def run(self) -> int:
        """Exit code."""
        print(recorder.record(self.config, self.out))
        return 0


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """Make futures with other ego motions from logged episodes, with masks and labels; files that exist are kept."""

    logs: tuple[Path, ...]
    """Folders of logs, as log-episodes writes them."""
    out: Path
    """Folder of the futures."""
    config: tyro.conf.OmitArgPrefixes[synthesis.SynthesisConfig] = field(default_factory=synthesis.SynthesisConfig)

    def run(self) -> int:
        """Exit code."""
        print(strict_json.dumps(synthesis.synthesise(self.logs, self.out, self.config), indent=2))
        return 0


@dataclass(frozen=True, kw_only=True)
class FuturesPicture:
    """Draw futures of logged episodes: all ways from a base state, and what would be seen on some of them."""

    config: tyro.conf.OmitArgPrefixes[futures_picture.FuturesPictureConfig]

    def run(self) -> int:
        """Exit code."""
        print(futures_picture.draw(self.config))
        return 0


@dataclass(frozen=True, kw_only=True)
class Risk:
    """Train the arms of the impartial world model on futures; models that exist are kept."""

    futures: tuple[Path, ...]
    """Folders of futures, as counterfactual writes them."""
    out: Path
    """Folder of the run; each arm and seed has its model in it."""
    config: risk_train.RiskTrainConfig = field(default_factory=risk_train.RiskTrainConfig)

    def run(self) -> int:
        """Exit code."""
        for folder in risk_train.train(self.config, FutureSet.read(self.futures), self.out):
            print(folder)
        return 0


@dataclass(frozen=True, kw_only=True)
class RiskBench:
    """Measure how honest models are about danger, on futures in towns that they have not seen."""

    futures: tuple[Path, ...]
    """Folders of futures."""
    models: tuple[Path, ...]
    """Folders of models."""
    out: Path
    """Folder for risk_bench.json and risk_bench.md."""
    config: tyro.conf.OmitArgPrefixes[risk_benchmark.BenchmarkConfig] = field(
        default_factory=risk_benchmark.BenchmarkConfig
    )

    def run(self) -> int:
        """Exit code."""
        print(risk_benchmark.table(risk_benchmark.run(self.futures, self.models, self.out, self.config)))
        return 0


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Train an adapter of an agent: plans around its own, and Q-values that judge them; a run is resumed."""

    logs: tuple[Path, ...]
    """Folders of logs with the agent's states: log-episodes --config.raw AGENT."""
    agent: Path
    """Checkpoint folder of the agent."""
    out: Path
    """Folder of the run; `model` in it is what an agent's configuration names."""
    config: adapter_train.AdapterTrainConfig = field(default_factory=adapter_train.AdapterTrainConfig)

    def run(self) -> int:
        """Exit code."""
        updates = adapter_train.train(self.config, self.logs, self.agent, self.out)
        print(f"{updates} updates; {self.out / 'model'}")
        return 0


@dataclass(frozen=True, kw_only=True)
class AdapterStudy:
    """Measure adapters on stored states: single Q-values, candidates, horizons, guidance; the truth comes by replay."""

    logs: tuple[Path, ...]
    """Folders of logs with the agent's states, of towns that the models have not seen."""
    agent: Path
    """Checkpoint folder of the agent."""
    models: tuple[Path, ...]
    """Folders of adapters; several that learned from other shares of the data can be compared."""
    out: Path
    """Folder for adapter_study.json and adapter_study.md."""
    config: adapter_study.StudyConfig = field(default_factory=adapter_study.StudyConfig)

    def run(self) -> int:
        """Exit code."""
        summary = adapter_study.run(self.logs, self.agent, self.models, self.out, self.config)
        print(adapter_study.table(summary))
        return 0


@dataclass(frozen=True, kw_only=True)
class AdapterDrive:
    """Drive routes with and without an adapter, arm by arm, and compare; what has been driven is kept."""

    routes: Path
    """Route file."""
    agent: Path
    """Configuration file of the agent (agent.yaml)."""
    adapter: Path
    """Folder of its adapter."""
    out: Path
    """Folder of the drives, adapter_drive.json and adapter_drive.md."""
    config: adapter_drive.DriveConfig = field(default_factory=adapter_drive.DriveConfig)

    def run(self) -> int:
        """Exit code."""
        summary = adapter_drive.run(self.config, self.routes, self.agent, self.adapter, self.out)
        print(adapter_drive.table(summary))
        return 0


@dataclass(frozen=True, kw_only=True)
class Refine:
    """Refine a raw agent's policy on logged states: it dreams, a critic scores, the better dreams get likelier.

    A run that exists is resumed. `model` in its folder drives.
    """

    logs: tuple[Path, ...]
    """Folders of logs with the agent's states: log-episodes --config.raw AGENT."""
    agent: Path
    """Checkpoint folder of the raw agent."""
    out: Path
    """Folder of the run."""
    critic_model: Path | None = None
    """Folder of a risk model, for the critics expert-only and impartial."""
    config: refine_train.RefineConfig = field(default_factory=refine_train.RefineConfig)

    def run(self) -> int:
        """Exit code."""
        updates = refine_train.refine(self.config, self.logs, self.agent, self.critic_model, self.out)
        print(f"{updates} updates; {self.out / 'model'}")
        return 0


Command = (
    Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Clone, tyro.conf.subcommand("clone")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Scenarios, tyro.conf.subcommand("scenarios")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Privileged, tyro.conf.subcommand("privileged")]
    | Annotated[Raw, tyro.conf.subcommand("raw")]
    | Annotated[RecordRaw, tyro.conf.subcommand("record-raw")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[RawFigures, tyro.conf.subcommand("raw-figures")]
    | Annotated[ExportRaw, tyro.conf.subcommand("export-raw")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Picture, tyro.conf.subcommand("picture")]
    | Annotated[ExportPrivileged, tyro.conf.subcommand("export-privileged")]
    | Annotated[Curves, tyro.conf.subcommand("curves")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[DreamPicture, tyro.conf.subcommand("dream")]
    | Annotated[LogEpisodes, tyro.conf.subcommand("log-episodes")]
    | Annotated[Counterfactual, tyro.conf.subcommand("counterfactual")]
    | Annotated[FuturesPicture, tyro.conf.subcommand("futures-picture")]
    | Annotated[Risk, tyro.conf.subcommand("risk")]
    | Annotated[RiskBench, tyro.conf.subcommand("risk-bench")]
    | Annotated[Adapter, tyro.conf.subcommand("adapter")]
    | Annotated[AdapterStudy, tyro.conf.subcommand("adapter-study")]
    | Annotated[AdapterDrive, tyro.conf.subcommand("adapter-drive")]
    | Annotated[Refine, tyro.conf.subcommand("refine")]
)


def main() -> int:
    """Run the command line; gives the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        return tyro.cli(Command, prog="python -m training").run()
    except (
        CheckpointError,
        ConfigError,
        RouteGenerationError,
        SegmentError,
        ServerError,
        ValueError,
        OSError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunStoppedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except clone.NonFiniteLossError as error:
        print(f"error: {error}; resume from the last checkpoint", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
