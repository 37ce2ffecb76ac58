"""The training loop of the privileged stage on one machine: collectors drive, the learner replays what they wrote.

A run's folder holds `checkpoints` (everything to go on), `model` (world model and policy alone), `replay`, `weights`
(what the collectors drive with), the routes, `events.jsonl` and the same as curves in `tensorboard`, and `bad_batches`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from agent import config as configs
from agent import strict_json
from agent.checkpoint import CheckpointError, latest_valid, load_checkpoint, recover, save_checkpoint
from agent.config import ConfigError
from agent.model.rssm import LatentState
from eval.server import ServerError
from training.distributed import ALONE, Order, Ranks, joined
from training.experience.batches import Batch, Batches, to_device
from training.experience.sampler import ReplayError, unpin
from training.learner import BaseLearner, Learner, NonFiniteUpdateError
from training.memory import keep_freed_memory
from training.presets import PrivilegedConfig
from training.privileged.checkpoint import begin_with
from training.privileged.cluster import Nodes
from training.privileged.collector import CollectorJob, pause, summary
from training.privileged.config import RunConfig
from training.privileged.crew import Crew, Hired, Worker
from training.privileged.driver import newest, publish
from training.privileged.follower import follow
from training.privileged.guard import (
    Alarms,
    LossBudget,
    RunStoppedError,
    Saves,
    SkippedUpdates,
    is_out_of_memory,
    out_of_memory,
)
from training.privileged.resume import NEW_WINDOWS, check_unchanged, locked, plain_run
from training.privileged.routes import GenerationStoppedError, routes_of
from training.privileged.tracking import Tracker
from training.world_model.model import Replayed, WorldModel

WAIT_S = 0.1
"""Between two looks at the collectors while the learner has to wait."""
SHOW_S = 15.0
MAX_FILE_BYTES = 15_000_000
"""Of a checkpoint; larger ones consist of several files."""
logger = logging.getLogger(__name__)


def configured(config: PrivilegedConfig, run: RunConfig) -> PrivilegedConfig:
    """The preset with the run's own choices."""
    world = config.world_model
    world = replace(world, observation=replace(world.observation, vector=run.vector_size, gaps=run.gap_size))
    replay = config.replay
    if run.segment_steps is not None:
        replay = replace(replay, segment_steps=run.segment_steps)
    batch, steps = run.batch or config.batch, run.steps or config.steps
    imitation = run.imitation if run.imitation.used else config.imitation
    return replace(config, world_model=world, replay=replay, imitation=imitation, batch=batch, steps=steps)


def train(
    config: PrivilegedConfig,
    run: RunConfig,
    folder: Path,
    minutes: float,
    allowed: Collection[str] = (),
    ray: str | None = None,
) -> int:
    """Train until `minutes` in all are used up, or SIGTERM or SIGINT comes; gives the number of updates.

    A run that exists is gone on with. Under torchrun this is one of several learners. allowed: keys of the
    configuration that may differ from what it was begun with. ray: address of a Ray cluster (or auto), whose nodes the
    collectors drive on. Raises: ConfigError for a run with another configuration, ValueError for what else can be
    wrong with the input, ReplayError, ServerError, CheckpointError, RunStoppedError.
    """
    if minutes <= 0.0:
        raise ValueError(f"--minutes must be positive, got {minutes}")
    torch.set_num_threads(run.threads)
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    with joined() as ranks, locked(folder) if ranks.leads else contextlib.nullcontext():
        trainer = Trainer(configured(config, run), run, folder, minutes, allowed=allowed, ray=ray, ranks=ranks)
        with stopping_on_signals(trainer.stop):
            trainer.train()
    return trainer.learner.updates


@contextlib.contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT end the training in order; a second one is the same wish."""

    def wish(number: int, _: FrameType | None) -> None:
        logger.warning("%s: the run is stopped and can be resumed", signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, wish) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """State and loop of a run."""

    created_by = "python -m training privileged"

    def __init__(
        self,
        config: PrivilegedConfig,
        run: RunConfig,
        folder: Path,
        minutes: float,
        allowed: Collection[str] = (),
        ray: str | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Restores the newest sound checkpoint. Raises: ConfigError, CheckpointError."""
        self.config, self.run, self.folder, self.minutes = config, run, folder, minutes
        self.ray = ray
        self.stop = threading.Event()
        self.ranks, self.device = ranks, ranks.device()
        self.learner = self.make_learner()
        self.collected = 0
        """Steps of all collectors."""
        self.elapsed_s = 0.0
        """Training time without earlier starts' preparations."""
        self.evaluated_s = 0.0
        self.resumed = False
        self._allowed, self._changes = allowed, {}
        self._sampler: dict[str, Any] | None = None
        self._schedulers: Mapping[str, Any] = {}
        self._restore()
        if run.init is not None and not self.resumed:
            self.begin(run.init)
        ranks.check_same(self.learner.updates, "updates")

    def begin(self, folder: Path) -> None:
        """Begin with the weights of another run. Raises: CheckpointError, ConfigError."""
        begin_with(self.learner, folder)

    def make_learner(self) -> BaseLearner:
        """A learner at its beginning."""
        run = self.run
        return Learner(self.config, seed=run.seed, device=self.device, ranks=self.ranks, compiled=run.compile)

    def make_batches(self, seed: int, state: dict[str, Any] | None = None) -> Batches:
        """What is learned from. state: of a checkpoint."""
        return Batches(self.replay, self.config, seed, latents=self.folder, state=state)

    def publish(self, folder: Path) -> Path:
        """Write the weights that drive."""
        return publish(folder, self.learner)

    def job(self, job: CollectorJob) -> CollectorJob:
        """What a collector does, from what every collector does."""
        return job

    def progress(self, *, ready: bool) -> str:
        """What is shown now and then. ready: whether there is enough experience."""
        updates = self.learner.updates
        left_min = max(self.minutes - self.elapsed_s / 60.0, 0.0)
        doing = "update" if updates or ready else "waiting for experience, update"
        return f"{doing} {updates}, {self.collected} steps collected, {left_min:.1f} min left"

    def train(self) -> None:
        """Collect and learn until the time is used up or somebody wants a stop."""
        left_s = 60.0 * self.minutes - self.elapsed_s
        if left_s <= 0.0:
            raise ValueError(
                f"{self.folder}: has been trained for {self.elapsed_s / 60.0:.1f} minutes; give more than "
                f"--minutes {self.minutes:g} to go on"
            )
        if self.run.updates is not None and self.learner.updates >= self.run.updates:
            raise ValueError(
                f"{self.folder}: has been trained for {self.learner.updates} updates; give more than --config.updates "
                f"{self.run.updates} to go on"
            )
        if not self.ranks.leads:
            follow(self.learner, self.run, self.make_batches, self.device, self._sampler)
            return
        routes, evaluation = (), ()
        if self.run.collectors or self.run.evaluate_minutes:
            try:
                routes, evaluation = routes_of(self.run.routes, self.run.env, self.folder, self.stop)
            except GenerationStoppedError:
                return
        shutil.rmtree(self.folder / "weights", ignore_errors=True)
        pause(self.folder, wanted=False)
        if self.learner.updates and self.run.collectors:
            self.publish(self.folder / "weights")
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(Tracker(self.folder, update=self.learner.updates))
            batches = stack.enter_context(self.make_batches(self.run.seed, self._sampler))
            batches.sampler.turn = self.ranks.rank, self.ranks.size
            if not self.run.collectors:
                self._check_replay(batches)
            if self._sampler is None:
                self.collected = batches.sampler.catalogue.steps  # also of a start that was stopped before an update
            hire = self._hire(stack)
            start = lambda job, name: hire(self.job(job), name)  # noqa: E731
            crew = Crew(self.config, self.run, self.folder, routes, evaluation, self._schedulers, start, self.job)
            stack.enter_context(crew)
            log.write(
                "start",
                {
                    "resumed": self.resumed,
                    "updates": self.learner.updates,
                    "collected": self.collected,
                    "collectors": crew.pids(),
                    "parameters": sum(p.numel() for p in self.learner.model.parameters()),
                    "changed": self._changes,
                },
            )
            loop = _Loop(self, batches, crew, log)
            try:
                loop.run()
            except (RunStoppedError, ServerError, ReplayError) as error:
                log.write("stopped", {"updates": self.learner.updates, "why": str(error)})
                if getattr(error, "is_sound", True):
                    loop.save(final=True)
                else:
                    self._restore()
                raise
            loop.save(final=True)
            log.write("stop", {"updates": self.learner.updates, "elapsed_s": self.elapsed_s})
        logger.info("stopped after %d updates and %d collected steps", self.learner.updates, self.collected)

    def _hire(self, stack: contextlib.ExitStack) -> Callable[[CollectorJob, str], Hired]:
        """How collectors are started: as processes here, or on the nodes of a cluster until the stack is closed."""
        if self.ray is None or not self.run.collectors:
            return Worker
        return stack.enter_context(Nodes(self.ray, self.folder, self.run.collectors, self.run.env.threads)).hire

    @property
    def replay(self) -> Path:
        """Where experience is read from."""
        return self.run.replay or self.folder / "replay"

    def _check_replay(self, batches: Batches) -> None:
        """Nobody collects, so there has to be something. Raises: ConfigError."""
        if not batches.refresh():
            catalogue = batches.sampler.catalogue
            raise ConfigError(
                f"{self.replay}: {len(catalogue.rows)} segments with {catalogue.steps} steps hold no window of "
                f"{self.config.steps} steps, and without collectors none will come; give another --config.replay, or "
                "--config.collectors 1"
            )

    # ------------------------------------------------------------------------- checkpoints

    def save(self, batches: Batches, crew: Crew) -> Path:
        """Write a checkpoint with its pin, and the model alone; the checkpoint before is deleted."""
        name = f"{self.learner.updates:09d}"
        progress = {
            "updates": self.learner.updates,
            "collected": self.collected,
            "elapsed_s": self.elapsed_s,
            "evaluated_s": self.evaluated_s,
            "sampler": batches.state(),
            "schedulers": crew.schedulers(),
            "run": plain_run(self.run),
        }
        if self.run.replay is None:
            batches.pin(name)
        target = self.folder / "checkpoints" / name
        texts = {"progress.json": strict_json.dumps(progress)}
        plain = configs.to_plain(self.config)
        step = self.learner.updates
        tensors = self.learner.tensors()
        about = {"step": step, "created_by": self.created_by, "max_file_bytes": MAX_FILE_BYTES}
        save_checkpoint(target, plain, tensors, extra_files=texts, **about)
        model = {key: value for key, value in tensors.items() if key.startswith(("model.", "policy."))}
        save_checkpoint(self.folder / "model", plain, model, **about)
        for old in target.parent.iterdir():
            if old != target and old.is_dir() and not old.name.startswith("."):
                shutil.rmtree(old)
                unpin(self.folder / "replay", old.name)
        if self.run.collectors:
            batches.sweep()
        return target

    def _restore(self) -> None:
        parent = self.folder / "checkpoints"
        recover(parent)
        recover(self.folder)
        latest = latest_valid(parent)
        if latest is None:
            if parent.is_dir() and any(not path.name.startswith(".") for path in parent.iterdir()):
                raise CheckpointError(f"{parent}: no sound checkpoint; delete the folder or give another --out")
            return
        plain, tensors = load_checkpoint(latest)
        progress = json.loads((latest / "progress.json").read_text(encoding="utf-8"))
        saved = (plain, progress.get("run"))
        self._changes = check_unchanged(saved, self.config, self.run, self._allowed, self.folder)
        for key, (before, now) in self._changes.items():
            logger.warning("%s: %s -> %s", key, before, now)
        self.learner.load(tensors, str(latest))
        self.collected, self.elapsed_s = int(progress["collected"]), float(progress["elapsed_s"])
        self.evaluated_s = float(progress["evaluated_s"])
        self._sampler, self._schedulers = progress["sampler"], progress["schedulers"]
        if NEW_WINDOWS & self._changes.keys():
            self._sampler = None  # its windows are none of these; it begins as a new run's does
        self.resumed = True


class _Endings:
    """What the world model says at real terminations, and how often it cries wolf elsewhere."""

    def __init__(self, model: WorldModel) -> None:
        self._model = model
        self._sums = dict.fromkeys(("end_probability", "end_reward", "end_reward_real", "false_end_probability"), 0.0)
        self._terminal = self._other = 0

    @torch.no_grad()
    def take(self, batch: Replayed, state: LatentState) -> None:
        """Add a batch with the states (b, t) that were filtered from it, the final frame seen."""
        features = state.features()
        alive = self._model.continue_logits(features).sigmoid()
        if self._model.config.discount.in_continue:
            alive = (alive / self._model.config.discount.gamma).clamp(max=1.0)
        terminal = batch.terminal
        sums = self._sums
        sums["false_end_probability"] += float((1.0 - alive[~terminal]).sum())
        self._other += int((~terminal).sum())
        if bool(terminal.any()):
            sums["end_probability"] += float((1.0 - alive[terminal]).sum())
            sums["end_reward"] += float(self._model.reward(features[terminal]).sum())
            sums["end_reward_real"] += float(batch.reward[terminal].sum())
            self._terminal += int(terminal.sum())

    def report(self) -> dict[str, float]:
        """Means since the last report; without terminations only their number."""
        counts = dict.fromkeys(self._sums, self._terminal) | {"false_end_probability": self._other}
        values = {name: value / counts[name] for name, value in self._sums.items() if counts[name]}
        values["ends"] = float(self._terminal)
        self._sums = dict.fromkeys(self._sums, 0.0)
        self._terminal = self._other = 0
        return values


class _Loop:
    """One start of a run, from its first batch to the stop."""

    def __init__(self, trainer: Trainer, batches: Batches, crew: Crew, log: Tracker) -> None:
        self._trainer, self._batches, self._crew, self._log = trainer, batches, crew, log
        self._learner, self._run = trainer.learner, trainer.run
        self._endings = _Endings(trainer.learner.judge)
        self._last_s = self._shown_s = time.monotonic()
        self._saved_s = trainer.elapsed_s
        self._updates_at_log = trainer.learner.updates
        self._logged_s = trainer.elapsed_s
        self._ready = False
        self._metrics: Mapping[str, Tensor] = {}
        self._skipped, self._alarms = SkippedUpdates(trainer.folder / "bad_batches"), Alarms(self._run.alarm)
        self._losses, self._saves = LossBudget(self._run.losses_per_hour), Saves()

    def run(self) -> None:
        """Until the time is over or a stop is wanted. Raises: RunStoppedError, ServerError, ReplayError."""
        trainer = self._trainer
        while not trainer.stop.is_set() and not self._over():
            self._listen()
            may_learn = self._may_learn()
            trainer.ranks.agree(Order.LEARN if may_learn else Order.WAIT)
            if may_learn:
                self._update()
                self._pace()
            else:
                trainer.stop.wait(WAIT_S)
            now_s = time.monotonic()
            trainer.elapsed_s += now_s - self._last_s
            self._last_s = now_s
            self._show()
            due = trainer.elapsed_s - self._saved_s > 60.0 * self._run.checkpoint_minutes
            if due and not self._alarms.on:  # the last checkpoint from before an alarm is kept until it is over
                self._saved_s = trainer.elapsed_s
                self.save()
            self._evaluate_if_due()
        trainer.ranks.agree(Order.STOP)

    def _drawn(self) -> int:
        """Windows that all learners have replayed."""
        return self._batches.state()["drawn"] * self._trainer.ranks.size

    def _over(self) -> bool:
        trainer, updates = self._trainer, self._run.updates
        return trainer.elapsed_s >= 60.0 * trainer.minutes or (updates is not None and self._learner.updates >= updates)

    def save(self, *, final: bool = False) -> None:
        """Write a checkpoint, unless nothing was learned: what was collected is found again in the replay.

        Raises: RunStoppedError where the disk refuses once too often, and for values that are not finite.
        """
        updates = self._learner.updates
        if not updates:
            return
        try:
            self._trainer.save(self._batches, self._crew)
        except OSError as error:
            if not (self._trainer.folder / "checkpoints" / f"{updates:09d}").exists():
                unpin(self._trainer.folder / "replay", f"{updates:09d}")
            self._log.write("checkpoint_failed", {"updates": updates, "why": str(error)})
            self._saves.failed(error, final=final)
            return
        except CheckpointError as error:
            raise RunStoppedError(str(error), is_sound=False) from error
        self._saves.succeeded()
        self._log.write("checkpoint", {"updates": updates, "elapsed_s": self._trainer.elapsed_s})

    def _may_learn(self) -> bool:
        """Whether there is enough experience, and not too little for what was replayed from it."""
        trainer, config = self._trainer, self._trainer.config
        if not self._run.collectors:
            return True
        if trainer.collected < self._run.prefill_steps:
            return False
        if not self._ready:
            self._ready = self._batches.refresh() > 0
            if not self._ready:
                return False
        replayed = self._drawn() * config.steps
        return replayed < self._run.train_ratio * trainer.collected

    def _pace(self) -> None:
        """Have the collectors wait while what they collected has been replayed too little."""
        trainer = self._trainer
        if not self._run.collectors:
            return
        replayed = self._drawn() * trainer.config.steps
        try:
            pause(trainer.folder, wanted=replayed < self._run.collect_ratio * trainer.collected)
        except OSError as error:
            logger.warning("the collectors cannot be told to wait or to go on: %s", error)

    def _update(self) -> None:
        batch = self._batches.next()
        replayed = to_device(batch.replayed, self._trainer.device)
        state = self._learn(batch, replayed)
        if state is None:
            return
        self._batches.store(batch, state)
        self._endings.take(replayed, self._learner.judged(state))
        updates = self._learner.updates
        if updates % self._run.log_updates == 0:
            self._report(float(replayed.reward.abs().max()))
        weights = self._trainer.folder / "weights"
        if self._run.collectors and (updates % self._run.publish_updates == 0 or newest(weights) is None):
            self._publish(weights)

    def _learn(self, batch: Batch, replayed: Replayed) -> LatentState | None:
        """The states that an update filtered; None if it was skipped. Raises: RunStoppedError."""
        generator = self._learner.generator.get_state()
        try:
            self._metrics, state = self._learner.update(replayed)
            return state
        except NonFiniteUpdateError as error:
            update, why = self._learner.updates, str(error)
            logger.warning("update %d is skipped: %s", update, why)
            segments = sorted({piece.row.name for pieces in batch.pieces for piece in pieces})
            self._log.write("skipped", {"update": update, "why": why, "segments": segments})
            self._skipped.add(update, replayed, generator, why)
            return None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        raise out_of_memory(self._learner, replayed)  # out here the error does not hold the memory any more

    def _publish(self, weights: Path) -> None:
        try:
            self._trainer.publish(weights)
        except OSError as error:
            logger.warning("the collectors go on with older weights: %s", error)

    def _report(self, replayed_reward: float) -> None:
        trainer = self._trainer
        values = {name: float(value) for name, value in trainer.ranks.mean_metrics(self._metrics).items()}
        values |= {"replayed_reward": replayed_reward}
        updates = self._learner.updates
        passed_s = max(trainer.elapsed_s - self._logged_s, 1e-9)
        rate = (updates - self._updates_at_log) / passed_s if trainer.elapsed_s > self._logged_s else 0.0
        self._updates_at_log, self._logged_s = updates, trainer.elapsed_s
        place = {
            "update": updates,
            "elapsed_s": trainer.elapsed_s,
            "collected": trainer.collected,
            "drawn": self._drawn(),
            "updates_per_s": rate,
        }
        self._log.write("update", place | values | self._endings.report())
        if self._alarms.look(values):
            logger.warning("out of bounds: %s", ", ".join(self._alarms.on) or "nothing any more")
            self._log.write("alarm", {"update": updates, "out_of_bounds": dict(self._alarms.on)})

    def _listen(self) -> None:
        for message in self._crew.listen():
            self._trainer.collected += message.get("steps", 0)
            updates = {"update": self._learner.updates, "elapsed_s": self._trainer.elapsed_s}
            if "episode" in message:
                self._log.write("episode", updates | {"collector": message["collector"]} | message["episode"])
            elif "placed" in message:
                self._log.write("placed", updates | {"collector": message["collector"]} | message["placed"])
            elif "lost" in message:
                lost = {"collector": message["collector"], "why": message["lost"], "collectors": self._crew.pids()}
                self._log.write("lost", updates | lost)
                self._losses.add(message["lost"])
            elif "evaluation" in message:
                means = summary(message["evaluation"])
                self._log.write(
                    "evaluation",
                    updates | {"version": message["version"], **means, "routes": message["evaluation"]},
                )
                logger.info(
                    "evaluation after %d updates: completion %.1f %%, reward %.1f, success %.0f %%",
                    message["version"],
                    means["completion_percent"],
                    means["reward"],
                    100.0 * means["success"],
                )
            elif "evaluation_lost" in message:
                self._log.write("evaluation_lost", updates | {"why": message["evaluation_lost"]})
                logger.warning("the evaluation is lost: %s", message["evaluation_lost"])

    def _evaluate_if_due(self) -> None:
        trainer, period_s = self._trainer, 60.0 * self._run.evaluate_minutes
        if not period_s or self._crew.evaluating or trainer.elapsed_s - trainer.evaluated_s < period_s:
            return
        if self._learner.updates:
            trainer.evaluated_s = trainer.elapsed_s
            copy = trainer.folder / "evaluated"
            try:
                self._crew.evaluate(trainer.publish(copy))
            except OSError as error:
                logger.warning("the evaluation is left out: %s", error)

    def _show(self) -> None:
        now_s, trainer = time.monotonic(), self._trainer
        if now_s - self._shown_s < SHOW_S:
            return
        self._shown_s = now_s
        logger.info("%s", trainer.progress(ready=self._ready))
