"""One route on any CARLA server: world, ego, traffic, agent and criteria, stepped tick by tick.

The order of everything the agent can notice is the leaderboard's: construct, set_global_plan, setup, sensors, ten ticks
of warm-up, then per tick world, agent, control, criteria; destroy at the end.
"""

from __future__ import annotations

import logging
import queue
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import carla

from eval.criteria import (
    TICK_S,
    Contact,
    Criteria,
    CriteriaConfig,
    EgoState,
    Event,
    SignalBox,
    make_criteria,
)
from eval.moments import TICKS_PER_DECISION
from eval.plan import BENCH2DRIVE_SPACING_M, LEADERBOARD_SPACING_M, RoutePlan, make_plan, sparse_indices
from eval.planner import RoutePlanner
from eval.results import RouteRecord, judge
from eval.routes import Route
from eval.scenarios.director import Director
from eval.scenarios.stage import Stage
from eval.scoring import Scoring
from eval.sensors import InputData, SensorConfigurationInvalid, SensorRig, validate_sensors
from eval.server import ServerError
from eval.traffic import Traffic, TrafficConfig, pin_core, pinned
from eval.watchdog import EXIT_AGENT_FROZEN, Watchdog
from eval.weather import RouteWeather

EGO_BLUEPRINT = "vehicle.lincoln.mkz_2020"
SPAWN_HEIGHT_M = 0.5
WARM_UP_TICKS = 10
STREAMING_DISTANCE_M = 650.0
SPECTATOR_HEIGHT_M = 70.0
WATCHDOG_SLACK_S = 5.0
EMBEDDED_TIMEOUT_S = 60.0
CARLA_TIMEOUT_S = 300.0
"""The leaderboard's."""
FAILURE_SIMULATION = "Simulation crashed"
FAILURE_AGENT = "Agent crashed"
FAILURE_SETUP = "Agent couldn't be set up"
FAILURE_SENSORS = "Agent's sensors were invalid"
logger = logging.getLogger(__name__)


class EpisodeError(RuntimeError):
    """The episode cannot go on; `failure` is the leaderboard's word for it."""

    def __init__(self, failure: str, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeConfig:
    """How a route is run."""

    scoring: Scoring = Scoring.BENCH2DRIVE
    traffic: int = 15
    """Background vehicles."""
    seed: int = 0
    agent_config: str = ""
    """What the agent's `setup` gets."""
    embedded: bool = True
    """The server is the embedded one: pin the ticking thread, leave the settings as they are at the end."""
    worker: int = 0
    """Index of the worker, to spread pinned workers over the cores."""
    reload: bool = False
    """Reload the world even if the town is already there."""
    timeout_s: float = EMBEDDED_TIMEOUT_S
    """For a call to the server, or a tick."""
    agent_timeout_s: float = 300.0
    """For the agent's setup or one of its steps."""
    max_game_s: float | None = None
    """End the route after this game time (for tests and demos)."""
    scenarios: bool = True
    """Play the route's scenario blocks."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What happened in one tick; hooks get it after the criteria."""

    ego: EgoState
    data: InputData
    control: carla.VehicleControl | None
    events: Sequence[Event]


TickHook = Callable[["Episode", Tick], None]
InputFilter = Callable[[InputData, int], InputData]
"""Changes what the agent sees, given the tick's index (controls such as black cameras)."""


class Episode:
    """A route being driven, by an agent (`run`, `tick`) or by the caller (`step`).

    After `start` the attributes world, carla_map, ego, plan, criteria and traffic are the privileged view of it.
    """

    world: carla.World
    carla_map: carla.Map
    ego: carla.Vehicle
    plan: RoutePlan
    criteria: Criteria
    traffic: Traffic
    director: Director

    def __init__(  # noqa: PLR0913 - independent parts, most of them by keyword
        self,
        client: carla.Client,
        route: Route,
        agent_class: Any | None,
        config: EpisodeConfig,
        *,
        address: tuple[str, int] = ("127.0.0.1", 2000),
        input_filter: InputFilter | None = None,
        hooks: Sequence[TickHook] = (),
        watchdog: Watchdog | None = None,
        planner: RoutePlanner | None = None,
    ) -> None:
        """`planner`: one of the same town may be passed to save building it again."""
        self.route = route
        self.config = config
        self.agent: Any | None = None
        self.hooks = list(hooks)
        self.ticks = 0
        self._client = client
        self._agent_class = agent_class
        self._address = address
        self._input_filter = input_filter
        self._own_watchdog = watchdog is None
        self._watchdog = watchdog or Watchdog()
        self._planner = planner
        self._core = pin_core(config.worker) if config.embedded else None
        self._rig: SensorRig | None = None
        self._collision_sensor: carla.Sensor | None = None
        self._contacts: queue.SimpleQueue[Contact] = queue.SimpleQueue()
        self._late_contacts: list[Contact] = []
        self._owned: list[carla.Actor] = []
        self._seen_events = 0
        self._sensor_specs: list[dict[str, Any]] = []
        self._wall_start_s = time.monotonic()
        self._recording_s = 0.0
        self._wall_s: dict[str, list[float]] = {"world": [], "sensors": [], "agent": [], "criteria": []}

    def run(self) -> RouteRecord:
        """Drive the route to its verdict; failures of agent and simulator become part of the record.

        Raises: ServerError, PlannerError when the input itself is wrong (unknown town, keypoints off the map).
        """
        failure, message = None, ""
        try:
            self.start()
            while self.tick():
                pass
        except EpisodeError as error:
            failure, message = error.failure, str(error)
            logger.error("route %s: %s: %s", self.route.id, failure, error)
        finally:
            self.close()
        return replace(self.record(failure), failure_message=message)

    def start(self) -> None:
        """Make the world ready and the agent sit in its car, ten ticks of warm-up included.

        Raises: EpisodeError, ServerError, PlannerError.
        """
        with self._phase("loading the world", 3.0 * self.config.timeout_s):
            self._simulation(self._load_world)
            self.plan = make_plan(self.route, self.carla_map, self._planner)
            self._simulation(self._spawn)
        if self._agent_class is not None:
            with self._phase("the agent's setup", self.config.agent_timeout_s, EXIT_AGENT_FROZEN):
                self._set_up_agent()
        with self._phase("the warm-up", 3.0 * self.config.timeout_s):
            self._simulation(self._warm_up)
        self._wall_start_s = time.monotonic()

    def tick(self) -> bool:
        """One tick with the agent driving; False when the route is over. Raises: EpisodeError."""
        ego = self._advance()
        data = self._observe(ego)
        control = self._ask_agent(data, ego)
        if control is not None:
            self.director.stage.apply_control(control)
        return self._judge(ego, data, control)

    def step(self, control: carla.VehicleControl) -> bool:
        """One tick with the caller's control applied before it; False when the route is over. Raises: EpisodeError."""
        self.director.stage.apply_control(control)
        ego = self._advance()
        return self._judge(ego, self._observe(ego), control)

    def record(self, failure: str | None = None) -> RouteRecord:
        """The verdict so far; `failure` is the reason if something other than the criteria ended the route."""
        criteria = getattr(self, "criteria", None)
        completion = criteria.completion.percent if criteria else 0.0
        director = getattr(self, "director", None)
        events = [*(criteria.events() if criteria else []), *(director.events if director else [])]
        reason = (criteria.failure_message() if criteria else None) or failure
        plan = getattr(self, "plan", None)
        return RouteRecord(
            route_id=self.route.id,
            town=self.route.town,
            scoring=self.config.scoring,
            **judge(completion, events, self.config.scoring, reason),
            route_length_m=plan.length_m if plan else self.route.keypoint_length_m,
            duration_game_s=self.ticks * TICK_S,
            duration_system_s=time.monotonic() - self._wall_start_s,
            ticks=self.ticks,
            seed=self.config.seed,
            traffic=self.config.traffic,
            sensors=[str(spec["type"]) for spec in self._sensor_specs],
            provenance={
                "scenarios": director.summary() if director else [],
                "timings_ms": {
                    **{name: _median_ms(values) for name, values in self._wall_s.items()},
                    "decision": _median_ms(self._wall_s["agent"][::TICKS_PER_DECISION]),
                },
                "recording_s": round(self._recording_s, 3),
            },
        )

    def close(self) -> None:
        """Destroy the agent and everything spawned; safe to call twice and after a failed start."""
        if getattr(self, "criteria", None) is not None and self.ticks:
            self.criteria.finish()
        if getattr(self, "director", None) is not None:
            self.director.judge()
        agent, self.agent = self.agent, None
        if agent is not None:
            try:
                agent.destroy()
            except Exception:  # the agent's code: its failure to clean up must not cost the record
                logger.exception("route %s: the agent failed to clean up", self.route.id)
        try:
            with self._phase("cleaning up", self.config.timeout_s):
                self._remove_actors()
        except RuntimeError as error:  # a server that is gone has nothing left to remove
            logger.warning("route %s: cleaning up: %s", self.route.id, error)
        if self._own_watchdog:
            self._watchdog.close()

    def _load_world(self) -> None:
        world = self._client.get_world()
        here = world.get_map().name.split("/")[-1]
        if here != self.route.town:
            world = self._load_town()
        elif self.config.reload:
            world = self._client.reload_world(False)
        settings = world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = TICK_S
        settings.deterministic_ragdolls = True
        settings.spectator_as_ego = False
        settings.tile_stream_distance = STREAMING_DISTANCE_M  # pyright: ignore[reportAttributeAccessIssue] - stub says bool
        settings.actor_active_distance = STREAMING_DISTANCE_M
        world.apply_settings(settings)
        self.world = world
        self.carla_map = world.get_map()
        _remove_leftovers(self._client, world)
        world.reset_all_traffic_lights()
        world.tick(self.config.timeout_s)

    def _load_town(self) -> carla.World:
        try:  # not only of the towns a server lists: ours makes more on demand
            return self._client.load_world(self.route.town, False)
        except RuntimeError as error:
            there = sorted(name.split("/")[-1] for name in self._client.get_available_maps())
            if self.route.town in there:
                raise
            raise ServerError(f"the server has no town {self.route.town}; it has {', '.join(there)}") from error

    def _spawn(self) -> None:
        first = self.plan.world[0][0]
        location = carla.Location(first.location.x, first.location.y, first.location.z + SPAWN_HEIGHT_M)
        blueprint = self.world.get_blueprint_library().find(EGO_BLUEPRINT)
        blueprint.set_attribute("role_name", "hero")
        ego = self.world.try_spawn_actor(blueprint, carla.Transform(location, first.rotation))
        if ego is None:
            raise EpisodeError(FAILURE_SIMULATION, f"no room for the ego at {location}")
        self.ego = cast("carla.Vehicle", ego)
        self._owned.append(ego)
        self.world.tick(self.config.timeout_s)
        traffic = TrafficConfig(self.config.traffic, self.config.seed, hybrid_physics=not self.config.embedded)
        self.traffic = Traffic(self._client, self.world, location, traffic, self._core)
        self.traffic.start_driving()
        actors = self.world.get_actors()
        lights = {actor.id: cast("carla.TrafficLight", actor) for actor in actors.filter("traffic.traffic_light*")}
        self.criteria = make_criteria(
            CriteriaConfig.for_scoring(self.config.scoring),
            self.plan.world,
            self.carla_map,
            start=self.ego.get_location(),
            half_length_m=self.ego.bounding_box.extent.x,
            lights=[_signal_box(light) for light in lights.values()],
            light_state=lambda light_id: lights[light_id].state,
            stop_signs=[_signal_box(sign) for sign in actors.filter("traffic.stop*")],
        )
        self._weather = RouteWeather(self.world, self.criteria.track, self.route.weathers)
        stage = Stage(
            self._client,
            self.world,
            self.carla_map,
            self.ego,
            self.plan.world,
            traffic=self.traffic,
            seed=self.config.seed,
            planner=self._planner,
            set_wrong_way_allowed=self._allow_wrong_way,
        )
        self.director = Director(stage, self.route.scenarios if self.config.scenarios else ())
        self.director.prepare(self._ego_state(0))

    def _set_up_agent(self) -> None:
        assert self._agent_class is not None
        try:
            agent = self._agent_class(*self._address, False)
            self.agent = agent
            agent.set_global_plan(self.plan.gps, self.plan.world)
            self._give_sparse_plan(agent)
            agent.setup(self.config.agent_config)
            validate_sensors(agent.sensors(), str(getattr(agent.track, "value", agent.track)))
            self._sensor_specs = list(agent.sensors())
        except SensorConfigurationInvalid as error:
            raise EpisodeError(FAILURE_SENSORS, str(error)) from error
        except Exception as error:  # the agent's code may raise anything
            logger.debug("%s", traceback.format_exc())
            raise EpisodeError(FAILURE_SETUP, f"{type(error).__name__}: {error}") from error

    def _allow_wrong_way(self, allowed: bool) -> None:
        self.criteria.outside_lanes.wrong_way_allowed = allowed

    def _give_sparse_plan(self, agent: Any) -> None:
        """The benchmark's own sparse plan, whichever base class the agent has (they differ in the spacing)."""
        bench2drive = self.config.scoring is Scoring.BENCH2DRIVE
        spacing_m = BENCH2DRIVE_SPACING_M if bench2drive else LEADERBOARD_SPACING_M
        indices = sparse_indices(self.plan.world, spacing_m)
        agent._global_plan = [self.plan.gps[index] for index in indices]
        agent._global_plan_world_coord = [self.plan.world[index] for index in indices]

    def _warm_up(self) -> None:
        sensor_timeout_s = 300.0 if self.config.scoring is Scoring.BENCH2DRIVE else 10.0
        self._rig = SensorRig(self.world, self.ego, self._sensor_specs, sensor_timeout_s)
        for _ in range(WARM_UP_TICKS):
            with pinned(self._core):
                self.world.tick(self.config.timeout_s)
        blueprint = self.world.get_blueprint_library().find("sensor.other.collision")
        sensor = cast("carla.Sensor", self.world.spawn_actor(blueprint, carla.Transform(), attach_to=self.ego))
        sensor.listen(self._on_collision)
        self._collision_sensor = sensor

    def _on_collision(self, event: carla.CollisionEvent) -> None:
        self._contacts.put(Contact(event.frame, event.other_actor.id, event.other_actor.type_id))

    def _advance(self) -> EgoState:
        started_s = time.perf_counter()
        limit_s = self.config.timeout_s + WATCHDOG_SLACK_S
        with self._phase("world.tick()", limit_s, rescue=self.traffic.wake), pinned(self._core):
            frame = self._simulation(lambda: self.world.tick(self.config.timeout_s))
        self.ticks += 1
        ego = self._ego_state(frame)
        self._wall_s["world"].append(time.perf_counter() - started_s)
        return ego

    def _ego_state(self, frame: int) -> EgoState:
        return EgoState(
            frame=frame,
            time_s=self.ticks * TICK_S,
            transform=self.ego.get_transform(),
            velocity=self.ego.get_velocity(),
            speed_limit_mps=self.ego.get_speed_limit() / 3.6,
        )

    def _observe(self, ego: EgoState) -> InputData:
        started_s = time.perf_counter()
        rig = self._rig
        assert rig is not None
        data = self._simulation(lambda: rig.read(ego.frame))
        self._wall_s["sensors"].append(time.perf_counter() - started_s)
        return data

    def _ask_agent(self, data: InputData, ego: EgoState) -> carla.VehicleControl | None:
        if self.agent is None:
            return None
        started_s = time.perf_counter()
        seen = self._input_filter(data, self.ticks - 1) if self._input_filter else data
        try:
            with self._phase("the agent's step", self.config.agent_timeout_s, EXIT_AGENT_FROZEN):
                control = self.agent.run_step(seen, ego.time_s)
            control.manual_gear_shift = False
        except Exception as error:  # the agent's code may raise anything: the leaderboard ends the route
            logger.error("%s", traceback.format_exc())
            raise EpisodeError(FAILURE_AGENT, f"{type(error).__name__}: {error}") from error
        self._wall_s["agent"].append(time.perf_counter() - started_s)
        return control

    def _judge(self, ego: EgoState, data: InputData, control: carla.VehicleControl | None) -> bool:
        started_s = time.perf_counter()
        self._weather.update(ego.location)
        self.director.update(ego)
        contacts, speeds_mps = self._arrived_contacts(ego.frame), self.traffic.speeds_mps()
        over = self.criteria.update(ego, contacts, speeds_mps, held_up=self.director.holds_up)
        if not self.config.embedded:
            above = carla.Location(ego.location.x, ego.location.y, ego.location.z + SPECTATOR_HEIGHT_M)
            self.world.get_spectator().set_transform(carla.Transform(above, carla.Rotation(pitch=-90.0)))
        events = [*self.criteria.events(), *self.director.events]
        tick = Tick(ego, data, control, events[self._seen_events :])
        self._seen_events = len(events)
        self._wall_s["criteria"].append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        for hook in self.hooks:
            hook(self, tick)
        self._recording_s += time.perf_counter() - started_s
        if self.config.max_game_s is not None and ego.time_s >= self.config.max_game_s:
            self.criteria.failure = f"stopped after {self.config.max_game_s:.0f} s"
            return False
        return not over

    def _arrived_contacts(self, frame: int) -> list[Contact]:
        contacts, self._late_contacts = self._late_contacts, []
        while not self._contacts.empty():
            contacts.append(self._contacts.get())
        self._late_contacts = [contact for contact in contacts if contact.frame > frame]
        return [contact for contact in contacts if contact.frame <= frame]

    def _remove_actors(self) -> None:
        if self._rig is not None:
            self._rig.destroy()
            self._rig = None
        if self._collision_sensor is not None:
            self._collision_sensor.stop()
            self._collision_sensor.destroy()
            self._collision_sensor = None
        if getattr(self, "director", None) is not None:
            self.director.close()
        if getattr(self, "traffic", None) is not None:
            self.traffic.destroy()
        if self._owned:
            self._client.apply_batch_sync([carla.command.DestroyActor(actor) for actor in self._owned], False)
            self._owned = []
            self.world.tick(self.config.timeout_s)
            if not self.config.embedded:
                settings = self.world.get_settings()
                settings.synchronous_mode = False
                settings.fixed_delta_seconds = None
                self.world.apply_settings(settings)

    def _phase(
        self, name: str, limit_s: float, exit_code: int | None = None, rescue: Callable[[], None] | None = None
    ) -> Any:
        codes = {} if exit_code is None else {"exit_code": exit_code}
        return self._watchdog.phase(name, limit_s, rescue=rescue, **codes)

    def _simulation(self, action: Callable[[], Any]) -> Any:
        """The action's result; the client's errors become the simulator's failure."""
        try:
            return action()
        except (EpisodeError, ServerError):
            raise
        except RuntimeError as error:
            raise EpisodeError(FAILURE_SIMULATION, str(error)) from error


def _remove_leftovers(client: carla.Client, world: carla.World) -> None:
    """Remove what an earlier client left in the world: vehicles, walkers, their controllers and sensors."""
    kinds = ("sensor.", "controller.", "walker.", "vehicle.")
    leftovers = [actor for actor in world.get_actors() if actor.type_id.startswith(kinds)]
    if leftovers:
        client.apply_batch_sync([carla.command.DestroyActor(actor) for actor in leftovers], False)


def _signal_box(actor: carla.Actor) -> SignalBox:
    return SignalBox(actor.id, actor.get_transform(), cast("carla.TrafficSign", actor).trigger_volume)


def _median_ms(values: list[float]) -> float | None:
    return round(statistics.median(values) * 1000.0, 3) if values else None
