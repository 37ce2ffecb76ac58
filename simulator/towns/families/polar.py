"""Towns of rings and spokes: Ring (city, roundabouts) and Rural (country roads round a village)."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from simulator.towns.families.network import Edge, Node, Sketch
from simulator.towns.families.profiles import rural, street, street_side
from simulator.towns.families.roads import Profile
from simulator.towns.families.terrain import hills


def ring_edge(nodes: list[Node], a: int, b: int, profile: Profile, speed_kmh: int, squeeze: float = 1.0) -> Edge:
    """An edge along an ellipse round the origin, `squeeze` times as high as wide, counter-clockwise from a to b."""
    start_rad, end_rad = (math.atan2(nodes[i].x_m * squeeze, -nodes[i].y_m / squeeze) for i in (a, b))
    return Edge(a, b, profile, start_rad, end_rad + math.pi, speed_kmh)


def spoke_edge(nodes: list[Node], inner: int, outer: int, profile: Profile, speed_kmh: int) -> Edge:
    """An edge from an inner node outwards."""
    place = nodes[outer]
    out_rad = math.atan2(place.y_m - nodes[inner].y_m, place.x_m - nodes[inner].x_m)
    return Edge(inner, outer, profile, out_rad, math.atan2(place.y_m, place.x_m) + math.pi, speed_kmh)


def _angles(rng: random.Random, count: int, jitter: float) -> list[float]:
    """Directions of spokes."""
    start = rng.uniform(0.0, 2.0 * math.pi)
    step = 2.0 * math.pi / count
    return [start + step * (k + rng.uniform(-jitter, jitter)) for k in range(count)]


def _ellipse(
    angles: list[float], radius_m: float, rng: random.Random, controls: tuple[str, ...], squeeze: float = 1.0
) -> list[Node]:
    return [
        Node(radius_m * math.cos(angle), squeeze * radius_m * math.sin(angle), 0.0, rng.choice(controls))
        for angle in angles
    ]


def draw_ring(rng: random.Random) -> Sketch:
    """A roundabout in the centre, an inner ring of crossings, an outer ring of T-junctions."""
    count = rng.choice([4, 4, 5])
    lane_m = round(rng.uniform(3.3, 3.6), 2)
    angles = _angles(rng, count, 0.06)
    inner_m, outer_m = rng.uniform(112.0, 135.0), rng.uniform(225.0, 275.0)
    inner = _ellipse(angles, inner_m, rng, ("lights", "lights", "roundabout", "yield"))
    outer = _ellipse(angles, outer_m, rng, ("lights", "stop", "stop"))
    nodes = [Node(0.0, 0.0, 0.0, "roundabout"), *inner, *outer]
    parking = [rng.random() < 0.5 for _ in range(3)]
    bike = rng.random() < 0.5
    narrow = street(street_side(1, lane_m, parking=parking[0]), street_side(1, lane_m))
    wide = street(street_side(2, lane_m, bike=bike, parking=parking[1]), street_side(2, lane_m, bike=bike))
    inner_ring = street(street_side(1, lane_m, parking=parking[2]), street_side(1, lane_m, parking=True))
    edges = []
    for k in range(count):
        i, j = 1 + k, 1 + (k + 1) % count
        edges.append(spoke_edge(nodes, 0, i, narrow, 40))
        edges.append(replace(spoke_edge(nodes, i, i + count, narrow, 50), bends=1, sway_m=8.0))
        edges.append(ring_edge(nodes, i, j, inner_ring, 40))
        edges.append(ring_edge(nodes, i + count, j + count, wide, 60))
    return Sketch(tuple(nodes), tuple(edges))


def draw_rural(rng: random.Random) -> Sketch:
    """A loop of country road with a lane each way, and spokes to a village in the middle."""
    return _country(rng, main_lanes=1)


def draw_interurban(rng: random.Random) -> Sketch:
    """The same with two lanes each way on the loop."""
    return _country(rng, main_lanes=2)


def _country(rng: random.Random, main_lanes: int) -> Sketch:
    count = rng.choice([3, 4, 4, 5])
    lane_m = round(rng.uniform(3.3, 3.6), 2)
    angles = _angles(rng, count, 0.10)
    village_m, loop_m = rng.uniform(85.0, 110.0), rng.uniform(370.0, 450.0)
    squeeze = rng.uniform(0.72, 1.0)
    village = _ellipse(angles, village_m, rng, ("stop", "yield", "lights"))
    loop = _ellipse(angles, loop_m, rng, ("stop", "stop", "yield"), squeeze)
    nodes = [*village, *loop]
    shoulder_m = rng.uniform(1.2, 2.4)
    country = rural(1, lane_m, shoulder_m)
    main = rural(main_lanes, lane_m, shoulder_m)
    high_street = street(street_side(1, lane_m, parking=True), street_side(1, lane_m))
    edges = []
    for k in range(count):
        following = (k + 1) % count
        edges.append(ring_edge(nodes, k, following, high_street, 50))
        spoke = spoke_edge(nodes, k, k + count, country, rng.choice([60, 70, 80]))
        edges.append(replace(spoke, kind="rural", bends=rng.choice([1, 2]), sway_m=14.0, straight=True))
        speed_kmh = 90 if main_lanes > 1 else rng.choice([70, 80, 90])
        piece = ring_edge(nodes, k + count, following + count, main, speed_kmh, squeeze)
        edges.append(replace(piece, kind="rural", bends=rng.choice([1, 2]), sway_m=22.0, straight=True))
    return Sketch(tuple(nodes), tuple(edges), hills(rng, 520.0), rng.uniform(0.03, 0.05))
