"""Commands of the raw sensor stream: record, train, ablate, draw, export."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training import ablate
from training.ablate_table import markdown as ablate_markdown
from training.raw import confusion_figure, decoded_figure, loss_figure, record
from training.raw import export as raw_export
from training.raw import trainer as raw_trainer
from training.raw.arms import arms_of
from training.raw.config import RawRunConfig, for_cpus
from training.raw.load import load_learner
from training.raw.recording import Recording


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
    blended_with: Path | None = None
    """Folder of the agent that the run began with: weights between both forget less of what that one knew."""
    share: float = 0.5
    """Of the run's weights in a blend."""

    def run(self) -> int:
        """Exit code."""
        card = self.card.read_text(encoding="utf-8")
        blend = {"blended_with": self.blended_with, "share": self.share}
        print(raw_export.export(self.run_folder, self.out, card, decoder=self.decoder, **blend))
        return 0
