"""Going on with a run: one process at a time, with the configuration it was begun with unless a change is allowed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any

from agent import config as configs
from agent.config import ConfigError
from training.presets import PrivilegedConfig
from training.privileged.config import RunConfig

PREFIX = "config."
"""Of the keys of the run, as on the command line; those of the preset have none."""
FREE = frozenset(
    PREFIX + name
    for name in (
        *("threads", "log_updates", "checkpoint_minutes", "evaluate_minutes", "updates", "compile"),
        *("features", "features_gib"),
    )
)
"""What may change without being allowed: it does not change what is learned."""
IN_PRESET = frozenset(
    (
        *("vector", "batch", "steps", "segment_steps", "imitation", "guidance", "heads", "distillation"),
        *("rssm_start", "decoder_start", "policy_start", "fine_tuned", "model_rate", "policy_rate"),
        *("image_gradients", "backbone", "bfloat16", "carry_over"),
    )
)
"""Choices of the run that show in its preset."""
NEW_WINDOWS = frozenset(("steps", PREFIX + "replay"))
"""With one of these changed, what a checkpoint says of the replay's windows is of no use."""
LOCK = "run.lock"


def plain_run(run: RunConfig) -> dict[str, Any]:
    """The run's configuration for its checkpoints, without what shows in the preset."""
    plain = _plain(configs.to_plain(run))
    return {name: value for name, value in plain.items() if name not in IN_PRESET}


def check_unchanged(
    saved: tuple[Mapping[str, Any], Mapping[str, Any] | None],
    preset: PrivilegedConfig,
    run: RunConfig,
    allowed: Collection[str],
    folder: Path,
) -> dict[str, list[Any]]:
    """Keys that differ from those of a checkpoint, with the value there and the value now.

    saved: plain preset and run of the checkpoint (None: not recorded). allowed: keys, or sections of keys, that may
    differ. A key that the checkpoint does not know had its default. Raises: ConfigError with all differences.
    """
    saved_preset, saved_run = saved
    now = flat(_plain(configs.to_plain(preset)))
    before = flat(_plain(_defaults(type(preset)))) | flat(_plain(saved_preset))
    if saved_run is not None:
        now |= flat(plain_run(run), PREFIX)
        before |= flat(plain_run(type(run)()), PREFIX) | flat(_plain(saved_run), PREFIX)
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    changes = {key: [before.get(key), now.get(key)] for key in keys}
    refused = [key for key in changes if key not in FREE and not _is_allowed(key, allowed)]
    if refused:
        shown = "; ".join(f"{key}: {changes[key][0]!r} -> {changes[key][1]!r}" for key in refused)
        raise ConfigError(
            f"{folder}: was trained with another configuration: {shown}. Give the same one, another --out, or "
            f"--allow-config-change {' '.join(refused)}"
        )
    return changes


def _defaults(kind: type[PrivilegedConfig]) -> dict[str, Any]:
    """Of the fields one by one: together they may be no configuration."""
    plain = {}
    for item in fields(kind):
        plain[item.name] = configs.to_plain(item.default if item.default_factory is MISSING else item.default_factory())
    return plain


def flat(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted key; a list is a leaf."""
    if not isinstance(plain, Mapping):
        return {prefix.removesuffix("."): plain}
    leaves: dict[str, Any] = {}
    for key, value in plain.items():
        leaves |= flat(value, f"{prefix}{key}.")
    return leaves


def _is_allowed(key: str, allowed: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def _plain(value: Any) -> Any:
    """As it comes back from JSON or YAML."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the run's folder. Raises: ConfigError when there is one already."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{folder}: is being trained by process {file.read().strip() or 'unknown'}; wait for its end"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
