"""CARLA's CityObjectLabel: what a surface or an actor is, as segmentation and ray casts report it."""

from __future__ import annotations

from typing import Final

ROADS: Final = 1
SIDEWALKS: Final = 2
BUILDINGS: Final = 3
WALLS: Final = 4
FENCES: Final = 5
POLES: Final = 6
TRAFFIC_LIGHT: Final = 7
TRAFFIC_SIGNS: Final = 8
VEGETATION: Final = 9
TERRAIN: Final = 10
SKY: Final = 11
PEDESTRIANS: Final = 12
CAR: Final = 14
TRUCK: Final = 15
BUS: Final = 16
MOTORCYCLE: Final = 18
BICYCLE: Final = 19
STATIC: Final = 20
ROAD_LINES: Final = 24
GROUND: Final = 25
BRIDGE: Final = 26
GUARD_RAIL: Final = 28
ANY: Final = 255
"""In a question for objects: of whatever label."""

NAMES: Final = {
    ROADS: "road", SIDEWALKS: "sidewalk", BUILDINGS: "building", WALLS: "wall", FENCES: "fence", POLES: "pole",
    TRAFFIC_LIGHT: "trafficlight", TRAFFIC_SIGNS: "trafficsign", VEGETATION: "vegetation", TERRAIN: "terrain",
    CAR: "car", STATIC: "static", ROAD_LINES: "roadline", GROUND: "ground", BRIDGE: "bridge",
    GUARD_RAIL: "guardrail",
}  # fmt: skip
"""Of what a town is made of, as ends of type ids (`static.wall`)."""
