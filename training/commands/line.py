"""The commands of `python -m training` and what becomes of their errors."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import tyro

from agent.checkpoint import CheckpointError
from agent.config import ConfigError
from eval.generate import RouteGenerationError
from eval.server import ServerError
from training import clone
from training.commands import cloning, danger, privileged, raw
from training.privileged.guard import FAILED, RunStoppedError
from training.replay import SegmentError

BAD_INPUT = 2

Command = (
    Annotated[cloning.Collect, tyro.conf.subcommand("collect")]
    | Annotated[cloning.Clone, tyro.conf.subcommand("clone")]
    | Annotated[cloning.Export, tyro.conf.subcommand("export")]
    | Annotated[cloning.Scenarios, tyro.conf.subcommand("scenarios")]
    | Annotated[privileged.Bench, tyro.conf.subcommand("bench")]
    | Annotated[privileged.Privileged, tyro.conf.subcommand("privileged")]
    | Annotated[raw.Raw, tyro.conf.subcommand("raw")]
    | Annotated[raw.RecordRaw, tyro.conf.subcommand("record-raw")]
    | Annotated[raw.Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[raw.RawFigures, tyro.conf.subcommand("raw-figures")]
    | Annotated[raw.ExportRaw, tyro.conf.subcommand("export-raw")]
    | Annotated[privileged.Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[privileged.Picture, tyro.conf.subcommand("picture")]
    | Annotated[privileged.ExportPrivileged, tyro.conf.subcommand("export-privileged")]
    | Annotated[privileged.Curves, tyro.conf.subcommand("curves")]
    | Annotated[privileged.Fit, tyro.conf.subcommand("fit")]
    | Annotated[privileged.DreamPicture, tyro.conf.subcommand("dream")]
    | Annotated[danger.LogEpisodes, tyro.conf.subcommand("log-episodes")]
    | Annotated[danger.Counterfactual, tyro.conf.subcommand("counterfactual")]
    | Annotated[danger.FuturesPicture, tyro.conf.subcommand("futures-picture")]
    | Annotated[danger.Risk, tyro.conf.subcommand("risk")]
    | Annotated[danger.RiskBench, tyro.conf.subcommand("risk-bench")]
    | Annotated[danger.Adapter, tyro.conf.subcommand("adapter")]
    | Annotated[danger.AdapterStudy, tyro.conf.subcommand("adapter-study")]
    | Annotated[danger.AdapterDrive, tyro.conf.subcommand("adapter-drive")]
    | Annotated[danger.Refine, tyro.conf.subcommand("refine")]
    | Annotated[danger.ClosedLoop, tyro.conf.subcommand("closed-loop")]
    | Annotated[danger.Joint, tyro.conf.subcommand("joint")]
    | Annotated[danger.Studies, tyro.conf.subcommand("studies")]
)


def main() -> int:
    """Run the command line; gives the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        return tyro.cli(Command, prog="python -m training", config=(tyro.conf.EnumChoicesFromValues,)).run()
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
