"""The driver: observations in, proposals out. The network decides at 10 Hz; localisation and route run at 20 Hz."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from agent.actions import ACTIONS, BRAKE, REVERSE, STEER, THROTTLE
from agent.adapter import Adapter, AdapterConfig, Picked, adapter_for
from agent.carla_io import RigConfig
from agent.checkpoint import check_state, load_checkpoint
from agent.config import ConfigError, parse, read_yaml
from agent.decider import Decider, DeciderConfig, DecisionLate, DeviceFault, Network
from agent.geodesy import Dialect
from agent.guard import Control, GuardConfig, Proposal, Request
from agent.inputs import NOMINAL_TICK_S, InputBuilder, InputConfig, Situation
from agent.localization import Estimate
from agent.model.backbone import fold_batch_norms
from agent.model.driving_model import DrivingModel, DrivingModelConfig, ModelInput, ModelState
from agent.model.policy import pedal_first, setting_off
from agent.model.raw_model import RawModel, RawModelConfig
from agent.observation import IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX, Observation, SensorFault
from agent.patience import Patience, PatienceConfig
from agent.route import Plan, RouteView

logger = logging.getLogger(__name__)

TICKS_PER_DECISION = 2
DECISION_S = TICKS_PER_DECISION * NOMINAL_TICK_S
"""20 Hz of the simulation, 10 Hz of the paper's decisions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionConfig:
    """How an action is taken from the network's logits."""

    choice: Literal["greedy", "pedal_first", "sampled"] = "greedy"
    """greedy: the likeliest action; pedal_first: the likeliest pedal, then the mean steering with it."""
    seed: int = 0
    """Of the sampled choice."""
    patience: PatienceConfig | None = None
    """How a stand without an end is broken; None: never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentConfig:
    """The agent's configuration file; all paths are relative to it."""

    checkpoint: str = "."
    """Folder with the weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    cpu_fallback: bool = False
    """Whether device cuda may become cpu on a machine without a GPU."""
    strict: bool = False
    """Errors in the agent end the route instead of stopping the car: for tests and development."""
    action: ActionConfig = field(default_factory=ActionConfig)
    network: DeciderConfig = field(default_factory=DeciderConfig)
    rig: RigConfig = field(default_factory=RigConfig)
    inputs: InputConfig = field(default_factory=InputConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    adapter: AdapterConfig | None = None
    """Plans around the policy's are proposed and judged, and one of them is driven; None: the policy drives alone."""

    @classmethod
    def read(cls, path: Path) -> "AgentConfig":
        """The configuration in a YAML file. Raises: ConfigError."""
        return parse(cls, read_yaml(path), str(path))


@dataclass(frozen=True, slots=True)
class Decision:
    """The trace of one decision, for viewers and records."""

    now_s: float
    inputs: ModelInput
    logits: torch.Tensor
    """(39,) float32 on the CPU."""
    action: int | None
    """Index into ACTIONS; None if the logits were not usable."""
    estimate: Estimate
    route: RouteView
    state: ModelState
    """After the decision."""
    picked: Picked | None = None
    """What the adapter made of it."""


class ActionChoice:
    """Takes the actions of one drive from logits."""

    def __init__(self, config: ActionConfig) -> None:
        self._config = config
        self._generator = torch.Generator().manual_seed(config.seed)
        self._patience = Patience(config.patience) if config.patience else None

    def choose(self, logits: torch.Tensor, speed_mps: float) -> int:
        """The action of one decision; called once for each."""
        if self._patience is not None:
            share, action = setting_off(logits)
            if self._patience.is_over(speed_mps, share, DECISION_S):
                return action
        if self._config.choice == "greedy":
            return int(logits.argmax())
        if self._config.choice == "pedal_first":
            return pedal_first(logits)
        return int(torch.multinomial(logits.softmax(0), 1, generator=self._generator))


class Driver:
    """Drives one route. Make a new one for every route."""

    def __init__(
        self,
        config: AgentConfig,
        model: Network,
        plan: Plan | None,
        default_dialect: Dialect,
        spare: Callable[[], Network] | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        """plan: None means there is nothing to drive along (whoever read it has said why); the car then stays.
        spare: makes the network anew on the CPU, for when its device fails. adapter: may change the actions.

        Raises: ConfigError for a plan whose world and GPS coordinates contradict each other.
        """
        self.config = config
        self.last_decision: Decision | None = None
        self.last_situation: Situation | None = None
        self._decider = Decider(model, config.network, spare)
        self._adapter = adapter
        self._first = True
        self._late = False
        self._previous_action: int | None = None
        self._control: Control | None = None
        self._tick = 0
        self._choice = ActionChoice(config.action)
        self._known_problems: frozenset[tuple[str, str]] = frozenset()
        self._error_name = ""
        self.fault_ticks: Counter[tuple[str, str]] = Counter()
        """Ticks in which a (sensor, problem) was met and its value left out, over the route."""
        self._inputs = _input_builder(config.inputs, plan, default_dialect)

    @classmethod
    def load(cls, config_path: Path | str, plan: Plan | None, default_dialect: Dialect) -> "Driver":
        """The driver that an agent configuration file describes.

        Raises: ConfigError, CheckpointError.
        """
        path = Path(config_path)
        config = AgentConfig.read(path)
        folder, device = path.parent / config.checkpoint, _device(config)
        spare = None if device == "cpu" else lambda: _folded(load_model(folder, "cpu"))
        model, adapter = load_model(folder, device), None
        if config.adapter is not None:  # before folding: it knows its agent by the weights as they are stored
            adapter = adapter_for(model, path.parent / config.adapter.checkpoint, config.adapter, config.action.choice)
        model = _folded(model)
        return cls(config, model, plan, default_dialect, spare, adapter)

    @property
    def inputs(self) -> InputBuilder | None:
        """Localisation, route and cameras of this route; None without a usable plan."""
        return self._inputs

    @property
    def model(self) -> Network:
        """The network, for viewers that decode what it believes."""
        return self._decider.model

    def act(self, observation: Observation) -> Proposal:
        """What to do this tick. Decides every second tick and repeats the decision in between."""
        if self._inputs is None:
            return Proposal(control=None, request=Request.EMERGENCY, speed_mps=observation.speed_mps, reason="no plan")
        situation = self._inputs.update(observation)
        self.last_situation = situation
        self._log_changes(situation.faults)
        decides = self._tick % TICKS_PER_DECISION == 0
        self._tick += 1
        if decides:
            self._control = self._decide(situation)
        request, reason = _request(situation)
        return Proposal(
            control=self._control,
            request=request,
            speed_mps=situation.estimate.speed_mps,
            speed_cap_mps=situation.cameras.speed_cap_mps,
            lateral_mps2=situation.estimate.speed_mps * (observation.yaw_rate_radps or 0.0),
            reason=reason or ("" if self._control else "no valid action"),
        )

    def report(self, error: Exception) -> Proposal:
        """The proposal after an error inside the agent: none, and the full brake where the network cannot run at all.

        In strict mode the error is raised again.
        """
        if self.config.strict:
            raise error
        self.reset_memory()
        self._control = None
        name = f"{type(error).__name__}: {error}"
        if name != self._error_name:
            logger.error("tick %d failed, the guard drives; %s", self._tick, self._tick_dump(), exc_info=error)
            self._error_name = name
        request = Request.EMERGENCY if isinstance(error, DeviceFault) else Request.DRIVE
        return Proposal(control=None, request=request, speed_mps=self._last_speed_mps(), reason=name)

    def reset_memory(self) -> None:
        """Forgets what the network has seen."""
        self._decider.reset()
        self._first = True
        self._previous_action = None
        if self._adapter is not None:
            self._adapter.reset()

    def close(self) -> None:
        """Ends the route; says how often each sensor failed on it."""
        if self._inputs is not None and self.fault_ticks:
            counts = "; ".join(f"{name}: {problem} in {n}" for (name, problem), n in sorted(self.fault_ticks.items()))
            logger.warning("faults met in %d ticks: %s", self._tick, counts)
        self._inputs = None
        self._decider.close()

    def _decide(self, situation: Situation) -> Control | None:
        """The control of the network's action; None, and an empty memory, if its output is late or not finite."""
        assert self._inputs is not None
        arrays = self._inputs.network_arrays(situation, first=self._first)
        try:
            outcome = self._decider.decide(arrays, self._previous_action)
        except DecisionLate as error:
            if not self._late:
                logger.warning("%s; the car is stopped until there is one", error)
            self._late = True
            self.reset_memory()
            return None
        self._late = False
        logits = outcome.logits
        usable = logits.shape == (len(ACTIONS),) and bool(torch.isfinite(logits).all())
        action = self._choice.choose(logits, situation.estimate.speed_mps) if usable else None
        picked = None
        if self._adapter is not None and action is not None:
            speed_mps = situation.estimate.speed_mps
            picked = self._adapter.decide(self._decider.model, outcome.inputs, outcome.state, speed_mps, action)
            action = picked.action
        self.last_decision = Decision(
            situation.now_s, outcome.inputs, logits, action, situation.estimate, situation.route, outcome.state, picked
        )
        if action is None:
            logger.warning("network output is not finite; its memory is reset")
            self.reset_memory()
            return None
        self._first, self._previous_action = False, action
        return action_control(action)

    def _last_speed_mps(self) -> float | None:
        return None if self.last_situation is None else self.last_situation.estimate.speed_mps

    def _log_changes(self, faults: tuple[SensorFault, ...]) -> None:
        problems = frozenset((fault.sensor, fault.problem) for fault in faults)
        self.fault_ticks.update(problems)
        for sensor, problem in sorted(problems - self._known_problems):
            logger.warning("%s: %s", sensor, problem)
        for sensor, problem in sorted(self._known_problems - problems):
            logger.info("%s: over: %s", sensor, problem)
        self._known_problems = problems

    def _tick_dump(self) -> str:
        situation = self.last_situation
        if situation is None:
            return "no tick has been understood yet"
        return (
            f"last at {situation.now_s:.2f} s: {situation.estimate.pose}, {situation.estimate.speed_mps:.2f} m/s, "
            f"command {situation.route.command.name}, cameras {situation.cameras.valid.astype(int).tolist()}, "
            f"faults {[f'{fault.sensor}: {fault.problem}' for fault in situation.faults]}"
        )


def _folded(model: Network) -> Network:
    """The network as it drives: it is never saved from here, so its parameters need not keep their names."""
    fold_batch_norms(model.encoder.backbone)
    return model


MODELS: dict[str, tuple[Any, Callable[[Any], Network]]] = {
    "model": (DrivingModelConfig, DrivingModel),
    "raw_model": (RawModelConfig, RawModel),
}
"""Sections of a checkpoint's config.yaml with the configuration and the network they stand for."""


def load_model(folder: Path, device: str) -> Network:
    """The network of a checkpoint folder, in evaluation mode.

    Raises: CheckpointError, ConfigError.
    """
    config, state = load_checkpoint(folder)
    section = next((name for name in MODELS if name in config), None)
    if section is None:
        raise ConfigError(f"{folder / 'config.yaml'}: has no section `model`; save the checkpoint again")
    config_class, build = MODELS[section]
    model_config = parse(config_class, config[section], f"config.yaml: {section}")
    image_size = (model_config.encoder.image_width, model_config.encoder.image_height)
    if image_size != (IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX):
        raise ConfigError(
            f"{folder}: the encoder wants images of {image_size[0]} x {image_size[1]}, this agent feeds "
            f"{IMAGE_WIDTH_PX} x {IMAGE_HEIGHT_PX}; train it for these"
        )
    model = build(model_config)
    check_state(model.state_dict(), state, str(folder))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).to(device)


def load_driving_model(folder: Path, device: str) -> DrivingModel:
    """As `load_model`, for what only the cloned network can do. Raises: CheckpointError, ConfigError."""
    model = load_model(folder, device)
    if not isinstance(model, DrivingModel):
        raise ConfigError(f"{folder}: holds a {type(model).__name__}; give the folder of a cloned agent")
    return model


def action_control(action: int) -> Control:
    """The control of one of the 39 actions."""
    row: np.ndarray = ACTIONS[action]
    return Control(
        throttle=float(row[THROTTLE]), steer=float(row[STEER]), brake=float(row[BRAKE]), reverse=bool(row[REVERSE])
    )


def _request(situation: Situation) -> tuple[Request, str]:
    """Why the car must not follow the network now; DRIVE if nothing speaks against it."""
    if situation.route.at_end:
        return Request.STOP, "end of the route"
    if situation.route.off_route:
        return Request.STOP, "far from the route"
    if situation.cameras.must_stop:
        return Request.STOP, "cameras lost"
    return Request.DRIVE, ""


def _input_builder(config: InputConfig, plan: Plan | None, default_dialect: Dialect) -> InputBuilder | None:
    """None, and a line in the log, for a plan that leads nowhere."""
    if plan is None:
        return None
    points = len(plan.without_duplicates(config.route.duplicate_m).points_m)
    if points < 2:
        error = ConfigError(f"global plan: {points} distinct points, at least two are needed; the car will not start")
        logger.error("%s: %s", type(error).__name__, error)
        return None
    return InputBuilder(config, plan, default_dialect)


def _device(config: AgentConfig) -> str:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        if config.cpu_fallback:
            logger.warning("device cuda: no GPU is usable here, driving on the CPU")
            return "cpu"
        raise ConfigError("device: cuda, but torch finds no GPU; set device: cpu, or cpu_fallback: true")
    return "cuda" if available and config.device != "cpu" else "cpu"
