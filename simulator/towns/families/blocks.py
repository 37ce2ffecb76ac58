"""Towns of streets that cross at right angles.

Avenue (wide, with cycle lanes), Tee (staggered), Hills (steep), Narrow (tight corners).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from simulator.towns.families.network import Edge, Node, Sketch
from simulator.towns.families.profiles import street, street_side
from simulator.towns.families.roads import Profile
from simulator.towns.families.terrain import hills
from simulator.towns.geometry import Pose

CORNER_M = 30.0
"""Distance from a corner of the street grid to where the bend begins."""
QUARTER_RAD = math.pi / 2.0
TIGHT_KERB_M = (1.5, 3.5)
"""Lanes turn right with a radius of 4 to 6 m then, as in most of CARLA's towns; a car's circle has 5.25 m."""
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))

Place = tuple[int, int]
Street = tuple[Place, Place]


class _Grid:
    """Places of a street grid, rotated as a whole; streets run along its lines and bend at corners of two."""

    def __init__(self, rng: random.Random, xs: list[float], ys: list[float], jitter_m: float) -> None:
        rotation_rad = rng.uniform(-math.pi, math.pi)
        self.frame = Pose(0.0, 0.0, rotation_rad)
        self.places = {
            (i, j): self.frame.moved(
                x_m - sum(xs) / len(xs) + rng.uniform(-jitter_m, jitter_m),
                -(y_m - sum(ys) / len(ys) + rng.uniform(-jitter_m, jitter_m)),
            )
            for i, x_m in enumerate(xs)
            for j, y_m in enumerate(ys)
        }

    def heading_rad(self, a: Place, b: Place) -> float:
        """Direction of the grid line from a towards b."""
        step = ((b[0] > a[0]) - (b[0] < a[0]), (b[1] > a[1]) - (b[1] < a[1]))
        return self.frame.heading_rad + STEPS.index(step) * QUARTER_RAD

    def corner(self, before: Place, here: Place, after: Place) -> tuple[Pose, Pose]:
        """Poses before and after the bend at a corner."""
        place = self.places[here]
        into_rad, out_rad = self.heading_rad(before, here), self.heading_rad(here, after)
        at = Pose(place.x_m, place.y_m, into_rad)
        return at.moved(-CORNER_M), Pose(place.x_m, place.y_m, out_rad).moved(CORNER_M)


def _spaced(rng: random.Random, count: int, block_m: tuple[float, float]) -> list[float]:
    places = [0.0]
    for _ in range(count - 1):
        places.append(places[-1] + rng.uniform(*block_m))
    return places


def _neighbours(streets: set[Street]) -> dict[Place, list[Place]]:
    found: dict[Place, list[Place]] = {}
    for a, b in sorted(streets):
        found.setdefault(a, []).append(b)
        found.setdefault(b, []).append(a)
    return found


def _chains(around: dict[Place, list[Place]]) -> list[list[Place]]:
    """Street pieces from crossing to crossing, through corners."""
    found = []
    for place in sorted(around):
        if len(around[place]) < 3:
            continue
        for neighbour in sorted(around[place]):
            chain = [place, neighbour]
            while len(around[chain[-1]]) == 2:
                chain.append(next(other for other in around[chain[-1]] if other != chain[-2]))
            if (chain[0], chain[1]) < (chain[-1], chain[-2]):
                found.append(chain)
    return found


def _sketch(
    rng: random.Random,
    grid: _Grid,
    streets: set[Street],
    profile_of: Callable[[Street], tuple[Profile, int]],
    controls: tuple[str, ...],
    sway_m: float,
) -> Sketch:
    around = _neighbours(streets)
    crossings = sorted(place for place, others in around.items() if len(others) >= 3)
    nodes = [Node(grid.places[p].x_m, grid.places[p].y_m, 0.0, rng.choice(controls)) for p in crossings]
    edges = []
    for chain in _chains(around):
        profile, speed_kmh = profile_of((chain[0], chain[1]))
        via: list[Pose] = []
        for before, here, after in zip(chain, chain[1:-1], chain[2:], strict=False):
            if grid.heading_rad(before, here) != grid.heading_rad(here, after):
                via += grid.corner(before, here, after)
        edges.append(
            Edge(
                crossings.index(chain[0]), crossings.index(chain[-1]), profile,
                grid.heading_rad(chain[0], chain[1]), grid.heading_rad(chain[-1], chain[-2]), speed_kmh,
                via=tuple(via), bends=0 if via else rng.choice([1, 1, 2]), sway_m=sway_m,
            )
        )  # fmt: skip
    return Sketch(tuple(nodes), tuple(edges))


def _full(columns: int, rows: int) -> set[Street]:
    return {((i, j), (i + 1, j)) for i in range(columns - 1) for j in range(rows)} | {
        ((i, j), (i, j + 1)) for i in range(columns) for j in range(rows - 1)
    }


def _thinned(rng: random.Random, streets: set[Street], count: int) -> set[Street]:
    """The streets without `count` of them, every place keeping at least two."""
    kept = set(streets)
    for street_ in rng.sample(sorted(streets), len(streets)):
        if count == 0:
            break
        around = _neighbours(kept)
        if min(len(around[place]) for place in street_) > 3:
            kept.remove(street_)
            count -= 1
    return kept


def draw_avenue(rng: random.Random) -> Sketch:
    """Wide streets: up to three lanes each way, parking on most, cycle lanes on some, lights at every crossing."""
    columns, rows = rng.choice([(4, 3), (4, 4), (3, 4)])
    grid = _Grid(rng, _spaced(rng, columns, (125.0, 165.0)), _spaced(rng, rows, (125.0, 165.0)), 5.0)
    lane_m = round(rng.uniform(3.25, 3.5), 2)
    boulevards = {(axis, rng.randrange(count)) for axis, count in ((0, rows), (1, columns))}
    lines = [(0, j) for j in range(rows)] + [(1, i) for i in range(columns)]
    cycled = set(rng.sample(lines, rng.randint(2, len(lines) - 3)))

    def profile_of(piece: Street) -> tuple[Profile, int]:
        axis = 0 if piece[0][1] == piece[1][1] else 1
        line = (axis, piece[0][1 - axis])
        count = 3 if line in boulevards else 2
        bike = line in cycled
        right, left = (
            street_side(count, lane_m, bike=bike, parking=rng.random() < 0.75 and not (bike and count == 3))
            for _ in range(2)
        )
        return street(right, left), 60 if count == 3 else 50

    return _sketch(rng, grid, _thinned(rng, _full(columns, rows), 1), profile_of, ("lights",), 9.0)


def draw_tee(rng: random.Random) -> Sketch:
    """Staggered streets: every crossing is a T, with lights, stop or yield signs."""
    columns, rows = rng.choice([(6, 4), (7, 4), (6, 5)])
    grid = _Grid(rng, _spaced(rng, columns, (62.0, 84.0)), _spaced(rng, rows, (84.0, 115.0)), 2.0)
    streets = {((i, j), (i + 1, j)) for i in range(columns - 1) for j in range(rows)}
    for j in range(rows - 1):
        streets |= {((i, j), (i, j + 1)) for i in range(columns) if i in (0, columns - 1) or (i + j) % 2}
    lane_m = round(rng.uniform(3.3, 3.6), 2)
    main_row = rng.randrange(rows)

    def profile_of(piece: Street) -> tuple[Profile, int]:
        main = piece[0][1] == piece[1][1] == main_row
        right, left = (street_side(2 if main else 1, lane_m, parking=rng.random() < 0.5) for _ in range(2))
        return street(right, left), 50 if main else rng.choice([30, 40])

    return _sketch(rng, grid, streets, profile_of, ("lights", "stop", "stop", "yield"), 4.0)


def draw_hills(rng: random.Random) -> Sketch:
    """Streets over hills with slopes of up to 8 %."""
    columns, rows = rng.choice([(4, 3), (4, 4), (3, 4)])
    grid = _Grid(rng, _spaced(rng, columns, (130.0, 180.0)), _spaced(rng, rows, (130.0, 180.0)), 12.0)
    lane_m = round(rng.uniform(3.3, 3.6), 2)
    wide = {(axis, rng.randrange(3)) for axis in (0, 1) if rng.random() < 0.7}

    def profile_of(piece: Street) -> tuple[Profile, int]:
        axis = 0 if piece[0][1] == piece[1][1] else 1
        count = 2 if (axis, piece[0][1 - axis]) in wide else 1
        right, left = (street_side(count, lane_m, parking=rng.random() < 0.4) for _ in range(2))
        return street(right, left), rng.choice([40, 50, 60])

    flat = _sketch(
        rng, grid, _thinned(rng, _full(columns, rows), 2), profile_of, ("lights", "stop", "yield", "roundabout"), 24.0
    )
    return Sketch(flat.nodes, flat.edges, hills(rng, rng.uniform(380.0, 520.0)), rng.uniform(0.065, 0.08))


def draw_narrow(rng: random.Random) -> Sketch:
    """Narrow streets with tight corners, one lane each way, with lights, stop and yield signs."""
    columns, rows = rng.choice([(5, 4), (4, 4), (4, 5)])
    grid = _Grid(rng, _spaced(rng, columns, (68.0, 105.0)), _spaced(rng, rows, (68.0, 105.0)), 3.0)
    lane_m = round(rng.uniform(3.3, 3.7), 2)

    def profile_of(_: Street) -> tuple[Profile, int]:
        right, left = (street_side(1, lane_m, parking=rng.random() < 0.3) for _ in range(2))
        return street(right, left), rng.choice([30, 40, 50])

    controls = ("lights", "lights", "stop", "yield")
    flat = _sketch(rng, grid, _thinned(rng, _full(columns, rows), 4), profile_of, controls, 3.0)
    return Sketch(flat.nodes, flat.edges, kerb_m=TIGHT_KERB_M)
