"""All own towns by name: a family and a two-digit seed."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable

from simulator.towns.families.blocks import draw_avenue, draw_hills, draw_narrow, draw_tee
from simulator.towns.families.motorway import build_motorway
from simulator.towns.families.network import Sketch, build_network, check_separation
from simulator.towns.families.polar import draw_interurban, draw_ring, draw_rural
from simulator.towns.families.roads import DrawError, Plan
from simulator.towns.families.terrain import on_terrain
from simulator.towns.families.writer import write_plan
from simulator.towns.generate import generate

GRID_FAMILY = "Gen"
TRAINING_COUNTS = {
    "Gen": 6,
    "Avenue": 4,
    "Tee": 4,
    "Ring": 4,
    "Hills": 4,
    "Rural": 4,
    "Interurban": 3,
    "Motorway": 4,
    "Narrow": 4,
}
"""Towns of each family that are for training: the first seeds."""
MAX_DRAWS = 400


def _planned(draw: Callable[[random.Random], Sketch]) -> Callable[[random.Random], Plan]:
    def build(rng: random.Random) -> Plan:
        plan = Plan()
        build_network(plan, on_terrain(draw(rng)), rng)
        return plan

    return build


FAMILIES: dict[str, Callable[[random.Random], Plan]] = {
    "Avenue": _planned(draw_avenue),
    "Tee": _planned(draw_tee),
    "Hills": _planned(draw_hills),
    "Ring": _planned(draw_ring),
    "Rural": _planned(draw_rural),
    "Interurban": _planned(draw_interurban),
    "Motorway": build_motorway,
    "Narrow": _planned(draw_narrow),
}


def generate_family(family: str, seed: int) -> str:
    """The OpenDRIVE text of a family's town; the same seed always gives the same text."""
    for draw in range(MAX_DRAWS):
        rng = random.Random(zlib.crc32(f"{family} {seed} {draw}".encode()))
        try:
            plan = FAMILIES[family](rng)
            check_separation(plan)
        except DrawError:
            continue
        return write_plan(plan, f"{family}{seed:02d}")
    raise RuntimeError(f"no town {family}{seed:02d} found in {MAX_DRAWS} draws; use another seed")


def own_town(name: str) -> tuple[str, int] | None:
    """Family and seed of an own town's name, None for any other name."""
    match = re.fullmatch(r"([A-Z][a-z]+)(\d{2,9})", name)
    if not match or match[1] not in (GRID_FAMILY, *FAMILIES):
        return None
    family, seed = match[1], int(match[2])
    return (family, seed) if town_name(family, seed) == name else None


def town_name(family: str, seed: int) -> str:
    """The name of an own town: Gen01, Motorway02, ..."""
    return f"{family}{seed:02d}"


def generate_town(name: str) -> str:
    """The OpenDRIVE text of an own town.

    Raises: ValueError for a name that is not one of an own town.
    """
    found = own_town(name)
    if found is None:
        raise ValueError(
            f"{name!r} is not the name of an own town; the families are {GRID_FAMILY}, {', '.join(FAMILIES)}"
        )
    family, seed = found
    return generate(seed) if family == GRID_FAMILY else generate_family(family, seed)


def training_towns() -> tuple[str, ...]:
    """The towns to learn in, all families in turn; other seeds are left for evaluation."""
    return tuple(town_name(family, seed) for family, count in TRAINING_COUNTS.items() for seed in range(1, count + 1))
