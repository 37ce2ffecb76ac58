"""Calls about what belongs to no actor: rays, the things that stand in a town, drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from simulator import labels
from simulator.calls import Calls, without_effect
from simulator.rpc import CallError

_ROS_IS_OFF: Final = False


class SceneCalls(Calls):
    def values(self) -> dict[str, Callable]:
        return {
            "query_lights_state": lambda endpoint: [],
            "get_all_level_BBs": lambda tag: [box for _, _, box in self._objects(tag)],
            "get_environment_objects": self._environment_objects,
            "get_names_of_all_objects": lambda: [self._name(number, label) for number, label, _ in self._objects()],
            "project_point": self._project,
            "cast_ray": self._cast_ray,
            "is_sensor_enabled_for_ros": lambda stream_id: _ROS_IS_OFF,
            "are_gbuffers_enabled": lambda actor_id: False,
        }

    def voids(self) -> dict[str, Callable]:
        names = """update_lights_state update_day_night_cycle draw_debug_shape clear_debug_shape clear_debug_string
            set_annotations_traverse_translucency stop_replayer set_replayer_time_factor
            set_replayer_ignore_hero set_replayer_ignore_spectator"""
        return dict.fromkeys(names.split(), without_effect)

    def _objects(self, wanted: int = labels.ANY) -> Iterator[tuple[int, int, list]]:
        """(number, label, BoundingBox in world coordinates) of what stands in the town."""
        found = self.session.sensors.mesh().objects
        for number, (label, box) in enumerate(zip(found.labels.tolist(), found.boxes.tolist(), strict=True), start=1):
            if wanted in (labels.ANY, label):
                yield number, label, [box[:3], box[3:6], [0.0, math.degrees(box[6]), 0.0], 0]

    def _environment_objects(self, tag: int) -> list:
        """[[transform, box, id, name, label]]: an object's place is the middle of its foot."""
        return [
            [[[x, y, z - box[1][2]], box[2]], box, number, self._name(number, label), label]
            for number, label, box in self._objects(tag)
            for x, y, z in (box[0],)
        ]

    def _name(self, number: int, label: int) -> str:
        return f"{labels.NAMES[label]}_{number}"

    def _project(self, location: list, direction: list, reach_m: float) -> list:
        """The first thing that a ray from a location meets within reach."""
        length = math.hypot(*direction)
        if length == 0.0:
            raise CallError("project_point needs a direction, got (0, 0, 0)")
        end = [a + b / length * reach_m for a, b in zip(location, direction, strict=True)]
        found = self._cast_ray(location, end)
        return [True, found[0]] if found else [False, [[0.0, 0.0, 0.0], 0]]

    def _cast_ray(self, start: list, end: list) -> list:
        """[[location, label]] of everything between two points, nearest first."""
        length = math.dist(start, end)
        if not math.isfinite(length):
            raise CallError(f"a ray needs finite ends, got {start} and {end}")
        answers = []
        for distance, met in self.world.ray(start, end):
            point = [a + (b - a) * distance / length for a, b in zip(start, end, strict=True)]
            ground = labels.SIDEWALKS if self.world.on_sidewalk(point[0], point[1]) else labels.ROADS
            answers.append([point, ground if met is None else met.semantic_tag])
        return answers
