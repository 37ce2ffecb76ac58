"""The ablation: arms of the raw stage trained on one recorded data set with equal updates, measured and evaluated.

`OUT/ARM/seed-K` is a run of the raw stage; its `after-N` holds `readout.json` (what the model has learned in N
updates), `agent` (what drives) and `drives` (a run for `python -m eval`). `OUT/ablation.json` and `OUT/ablation.md`
hold the tables and are written anew whenever a run is finished. Whatever is interrupted goes on where it stopped.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.checkpoint import read_manifest
from agent.config import ConfigError
from eval import runner
from eval.progress import counted
from eval.report import machine
from eval.results import write_json_atomically
from eval.routes import file_sha256, read_routes
from training.ablate_table import Outcome, markdown, read_drives, summarised
from training.experience.batches import Batches
from training.experience.config import ReplayConfig
from training.experience.sampler import Sampler
from training.privileged.resume import locked
from training.raw.arms import Arm
from training.raw.config import RawRunConfig
from training.raw.export import export
from training.raw.learner import RawLearner
from training.raw.load import MODEL, TEACHER, load_learner
from training.raw.readout import WINDOW_STEPS, read_out
from training.raw.trainer import RawTrainer, configured, take_teacher, train
from training.scenario_study import commit

FORMAT = 1
ENDLESS_MIN = 1e9
EXIT_INTERRUPTED = 130
REPLAY, READOUT, DRIVES = "replay", "readout.json", "drives"
READOUT_BATCH = 4
READOUT_SEED = 0
CARD = """\
# {arm}, seed {seed}

An arm of an ablation ({says}) after {updates} updates on a recorded data set. Not meant for driving beyond that
comparison.
"""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DriveConfig:
    """Closed-loop evaluation of every finished run, on embedded servers."""

    routes: Path | None = None
    """Route file; None: no driving."""
    repetitions: int = 1
    town_dir: Path | None = None
    traffic: int = 15
    seed: int = 0
    """Of the traffic in the first repetition, the same for all arms."""
    workers: int = 1
    max_game_s: float | None = None
    """End every drive after this game time, for trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AblateConfig:
    """What is compared."""

    arms: tuple[Arm, ...]
    data: Path
    """Folder of `record-raw`."""
    updates: int
    """Of every run."""
    seeds: int = 2
    """Training runs of every arm."""
    held_out: Path | None = None
    """Another folder of `record-raw`, for the readouts; None: the data itself."""
    readout_windows: int = 32
    """Windows that a finished model is measured on."""
    run: RawRunConfig = field(default_factory=RawRunConfig)
    """Everything that is the same in all arms."""
    drive: DriveConfig = field(default_factory=DriveConfig)
    minutes: float | None = None
    """After so many nothing is begun any more, and a training run under way is stopped; a drive goes on to its end."""

    def __post_init__(self) -> None:
        if min(self.updates, self.seeds, self.readout_windows, self.drive.repetitions) < 1:
            raise ValueError(
                "--updates, --seeds, --readout-windows and --repetitions must be at least 1, got "
                f"{self.updates}, {self.seeds}, {self.readout_windows}, {self.drive.repetitions}"
            )
        if self.minutes is not None and self.minutes <= 0.0:
            raise ValueError(f"--minutes must be positive, got {self.minutes}")
        names = ("collectors", "replay", "updates", "evaluate_minutes")
        changed = [name for name in names if getattr(self.run, name) != getattr(RawRunConfig(), name)]
        if changed:
            raise ValueError(f"--config.{changed[0].replace('_', '-')} is the ablation's own; leave it out")


class Interrupted(Exception):
    """Somebody wants a stop, or the time is over; `exit_code` is 130, or that of an evaluation that is incomplete."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("stopped; the same command goes on")
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Part:
    """One training run."""

    arm: Arm
    seed: int
    folder: Path


def ablate(config: AblateConfig, out: Path) -> dict[str, Any]:
    """Train, measure and evaluate what is missing; gives the content of `ablation.json`.

    Raises: Interrupted; CheckpointError, ConfigError, ReplayError, ResultsError, RouteFileError, ValueError for bad
    input; RunStoppedError where training cannot go on.
    """
    with locked(out):
        facts = _facts(config, out)
        parts = [
            Part(arm, seed, out / arm.name / f"seed-{seed}") for seed in range(config.seeds) for arm in config.arms
        ]
        clock = Clock(config.updates, [_updates(part) for part in parts], config.minutes)
        for number, part in enumerate(parts):
            clock.begin(number, part)
            _complete(config, part, clock, out / TEACHER)
            _write(config, parts, facts, out)
        return _write(config, parts, facts, out)


def _complete(config: AblateConfig, part: Part, clock: Clock, teacher: Path) -> None:
    """Everything that is missing of one training run. Raises: ConfigError for one with more updates."""
    updates = _updates(part)
    if updates > config.updates:
        raise ConfigError(f"{part.folder}: has been trained for {updates} updates; give --updates {updates} or more")
    if updates < config.updates:
        _train(config, part, clock, teacher)
    folder = results_folder(part, config.updates)
    if not (folder / READOUT).exists():
        clock.check()
        _read_out(config, part, folder / READOUT)
    if config.drive.routes is not None:
        clock.check()
        _drive(config.drive, part, folder, config.updates)


# ------------------------------------------------------------------------------------------ input


def _facts(config: AblateConfig, out: Path) -> dict[str, Any]:
    """What the results are about; the same as when the folder was begun. Raises: CheckpointError, ConfigError."""
    teacher = take_teacher(config.run.teacher, out)
    steps = max(configured(config.run, teacher).steps, WINDOW_STEPS)
    facts = {
        "format": FORMAT,
        "data": fingerprint(config.data / REPLAY, steps),
        "held_out": None if config.held_out is None else fingerprint(config.held_out / REPLAY, steps),
        "teacher": {name: file["sha256"] for name, file in read_manifest(teacher)["files"].items()},
        "readout_windows": config.readout_windows,
    }
    path = out / "data.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else facts
    changed = [name for name in facts if facts[name] != before.get(name)]
    if changed:
        raise ConfigError(
            f"{out}: was begun with another {', '.join(changed)}, and all arms have to learn from the same; give the "
            "one of before, or another --out"
        )
    write_json_atomically(path, facts)
    return facts


def fingerprint(replay: Path, window_steps: int) -> dict[str, Any]:
    """What a replay holds, so that a change is noticed. Raises: ConfigError for one without a window of that length."""
    if not replay.is_dir():
        raise ConfigError(f"{replay}: no such folder; give the one that `python -m training record-raw` wrote (--out)")
    catalogue = Sampler(replay, ReplayConfig(), window_steps, 0).catalogue
    if not catalogue.windows:
        raise ConfigError(
            f"{replay}: {catalogue.steps} decisions in {counted(len(catalogue.rows), 'segment')} hold no window of "
            f"{window_steps} decisions; record more"
        )
    rows = "\n".join(f"{row.name} {row.steps} {row.bytes}" for row in catalogue.rows)
    return {
        "sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "steps": catalogue.steps,
        "terminations": catalogue.terminations,
    }


# --------------------------------------------------------------------------------------- training


class Clock:
    """Which training run it is, and how long all that are left will take."""

    def __init__(self, updates: int, made: Sequence[int], minutes: float | None = None) -> None:
        """updates: of every run; made: what each has behind it; minutes: when nothing is begun any more."""
        self._updates, self._made = updates, list(made)
        self._minutes = ENDLESS_MIN if minutes is None else minutes
        self._at_start = sum(made)
        self._started_s = time.monotonic()
        self._number, self._label = 0, ""

    def begin(self, number: int, part: Part) -> None:
        """Run `number` (from 0) is next."""
        self._number = number
        self._label = f"arm {part.arm.name}, seed {part.seed} (run {number + 1} of {len(self._made)})"

    @property
    def minutes_left(self) -> float:
        """Until nothing is begun any more."""
        return self._minutes - (time.monotonic() - self._started_s) / 60.0

    def check(self) -> None:
        """Raises: Interrupted when the time is over."""
        if self.minutes_left <= 0.0:
            raise Interrupted(runner.EXIT_INCOMPLETE)

    def line(self, update: int) -> str:
        """What is shown after an update of that run; evaluations are not foreseen."""
        self._made[self._number] = update
        done, left = sum(self._made) - self._at_start, len(self._made) * self._updates - sum(self._made)
        passed_s = time.monotonic() - self._started_s
        shown = f"about {passed_s / done * left / 60.0:.1f} min left" if done > 0 else "time left unknown"
        return f"{self._label}: update {update} of {self._updates}, {shown}"


class AblationTrainer(RawTrainer):
    """Shows how far the whole ablation is."""

    def __init__(self, *arguments: Any, clock: Clock, **options: Any) -> None:
        self._clock = clock
        super().__init__(*arguments, **options)
        self.minutes = self.elapsed_s / 60.0 + clock.minutes_left

    def progress(self, *, ready: bool) -> str:
        """What is shown now and then."""
        return self._clock.line(self.learner.updates)


def _updates(part: Part) -> int:
    """Updates of the newest saved model; 0 before there is one."""
    folder = part.folder / MODEL
    return int(read_manifest(folder)["step"]) if folder.is_dir() else 0


def _train(config: AblateConfig, part: Part, clock: Clock, teacher: Path) -> None:
    run = replace(
        part.arm.of(config.run),
        teacher=teacher,
        collectors=0,
        replay=config.data / REPLAY,
        updates=config.updates,
        evaluate_minutes=0.0,
        seed=config.run.seed + part.seed,
    )
    clock.check()
    logger.info("%s", clock.line(_updates(part)))
    if train(run, part.folder, ENDLESS_MIN, make=partial(AblationTrainer, clock=clock)) < config.updates:
        clock.check()
        raise Interrupted(EXIT_INTERRUPTED)


# -------------------------------------------------------------------------------------- measuring


def _read_out(config: AblateConfig, part: Part, target: Path) -> None:
    learner = load_learner(part.folder)
    data = config.data if config.held_out is None else config.held_out
    target.parent.mkdir(parents=True, exist_ok=True)
    count = -(-config.readout_windows // READOUT_BATCH)
    with windows_of(learner, data / REPLAY, min(config.readout_windows, READOUT_BATCH)) as batches:
        write_json_atomically(target, read_out(learner, (batches.next().replayed for _ in range(count))))


def windows_of(learner: RawLearner, replay: Path, batch: int) -> Batches:
    """Windows to measure a model on: as long as a readout needs, all equally likely, the same for all arms."""
    config = learner.config
    tricks = replace(config.tricks, termination_share=0.0)
    replay_config = replace(config.replay, carry_over=False)  # every arm is asked from nothing
    own = replace(config, steps=WINDOW_STEPS, batch=batch, tricks=tricks, replay=replay_config)
    encoder = config.model.encoder
    return Batches(replay, own, READOUT_SEED, ahead=0, threads=1, images=(encoder.image_height, encoder.image_width))


def _drive(config: DriveConfig, part: Part, folder: Path, updates: int) -> None:
    """Drive what has not been driven. Raises: Interrupted; what `eval run` raises."""
    assert config.routes is not None
    agent = folder / "agent"
    if not (agent / "manifest.json").exists():
        card = CARD.format(arm=part.arm.name, seed=part.seed, says=part.arm.says, updates=updates)
        export(part.folder, agent, card)
    logger.info("arm %s, seed %d drives", part.arm.name, part.seed)
    code = runner.run(
        runner.RunConfig(
            routes=config.routes,
            weights=agent / "agent.yaml",
            out=folder / DRIVES,
            town_dir=config.town_dir,
            repetitions=config.repetitions,
            traffic=config.traffic,
            seed=config.seed,
            workers=config.workers,
            threads=1,
            film="none",
            max_game_s=config.max_game_s,
        )
    )
    if code not in (runner.EXIT_OK, runner.EXIT_INCOMPLETE):
        raise Interrupted(code)


# ---------------------------------------------------------------------------------------- results


def _write(config: AblateConfig, parts: Sequence[Part], facts: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write both files from what is finished; gives the content of the first."""
    outcomes = [_outcome(part, config.updates) for part in parts]
    routes = config.drive.routes
    about = {
        "updates": config.updates,
        "seeds": config.seeds,
        "encoder": _named(config.run.encoder),
        "neck": _named(config.run.neck),
        "server": "embedded",
        "routes_file": None if routes is None else routes.name,
        "routes_sha256": None if routes is None else file_sha256(routes),
        "routes": 0 if routes is None else len(read_routes(routes)),
        "repetitions": config.drive.repetitions,
        "traffic": config.drive.traffic,
        "max_game_s": config.drive.max_game_s,
        "commit": commit(),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    summary = summarised(outcomes, facts, about)
    write_json_atomically(out / "ablation.json", summary)
    (out / "ablation.md").write_text(markdown(summary), encoding="utf-8")
    return summary


def _named(folder: Path | None) -> str | None:
    return None if folder is None else folder.name


def _outcome(part: Part, updates: int) -> Outcome:
    folder = results_folder(part, updates)
    path = folder / READOUT
    readout = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return Outcome(part.arm, part.seed, readout, read_drives(folder / DRIVES / "results.json"))


def results_folder(part: Part, updates: int) -> Path:
    """Where readout, agent and drives after so many updates lie."""
    return part.folder / f"after-{updates:07d}"
