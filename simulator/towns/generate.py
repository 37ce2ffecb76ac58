"""Own towns: OpenDRIVE text from a seed."""

import random

from simulator.towns.junctions import build_network
from simulator.towns.layout import LayoutError, draw_layout
from simulator.towns.opendrive_writer import write_opendrive

MAX_DRAWS = 500


def generate(seed: int) -> str:
    """The OpenDRIVE text of town `Gen<seed>`; the same seed always gives the same text.

    Raises: ValueError for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"a town's seed must not be negative, got {seed}")
    for draw in range(MAX_DRAWS):
        rng = random.Random(seed * MAX_DRAWS + draw)
        try:
            network = build_network(draw_layout(rng), rng)
        except LayoutError:
            continue
        return write_opendrive(network, town_name(seed))
    raise RuntimeError(f"no town found for seed {seed} in {MAX_DRAWS} draws; use another seed")


def town_name(seed: int) -> str:
    """The name of an own town: Gen01, Gen02, ..."""
    return f"Gen{seed:02d}"
