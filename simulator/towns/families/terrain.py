"""Hills: a random landscape, and sketches set on it."""

from __future__ import annotations

import math
import random

from simulator.towns.families.network import Node, Sketch, Terrain

WAVES = 4


def hills(rng: random.Random, wavelength_m: float) -> Terrain:
    """A smooth random landscape, of a height that the sketch's steepest slope sets."""
    waves = [
        (rng.uniform(0.7, 1.4) * 2.0 * math.pi / wavelength_m, rng.uniform(0.0, 2.0 * math.pi),
         rng.uniform(0.0, 2.0 * math.pi))
        for _ in range(WAVES)
    ]  # fmt: skip

    def height_m(x_m: float, y_m: float) -> float:
        return sum(math.sin(k * (x_m * math.cos(d) + y_m * math.sin(d)) + phase) for k, d, phase in waves)

    return height_m


def on_terrain(sketch: Sketch) -> Sketch:
    """The sketch with its nodes at the height of its terrain."""
    if sketch.terrain is None:
        return sketch
    nodes = tuple(Node(node.x_m, node.y_m, sketch.terrain(node.x_m, node.y_m), node.control) for node in sketch.nodes)
    return Sketch(nodes, sketch.edges, sketch.terrain, sketch.steepest)
