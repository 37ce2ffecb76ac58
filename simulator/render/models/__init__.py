"""Low-polygon bodies of vehicles, walkers and props, and which of them a CARLA type id is drawn with."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

from simulator.render.mesh import Colour
from simulator.render.models import cars, heavy, people, props
from simulator.render.models.kit import BodyBuilder, BodyModel

WALKERS = ("walker", "walker_long_hair", "walker_child")


class Look(NamedTuple):
    """How a type id is drawn: model, default body and second colour (linear RGB)."""

    model: str
    colour: Colour
    second: Colour = (0.70, 0.70, 0.68)


_SILVER: Colour = (0.30, 0.31, 0.33)
_VEHICLES = (
    (("charger_police",), Look("police", (0.72, 0.72, 0.72))),
    (("ford.crown",), Look("taxi", (0.72, 0.45, 0.02))),
    (("firetruck",), Look("fire_engine", (0.52, 0.015, 0.012))),
    (("ambulance",), Look("ambulance", (0.72, 0.72, 0.70))),
    (("carlacola",), Look("cola_truck", (0.55, 0.03, 0.02))),
    (("fusorosa", "bus"), Look("bus", (0.62, 0.55, 0.30), (0.05, 0.14, 0.30))),
    (("sprinter", "van"), Look("van", (0.62, 0.62, 0.62))),
    (("volkswagen.t2",), Look("microbus", (0.10, 0.30, 0.34))),
    (("cybertruck", "pickup"), Look("pickup", (0.34, 0.35, 0.36))),
    (("hgv", "truck"), Look("box_truck", (0.10, 0.16, 0.34))),
    (("wrangler",), Look("jeep", (0.16, 0.18, 0.10), (0.02, 0.02, 0.02))),
    (("etron", "patrol", "suv"), Look("suv", _SILVER)),
    (("microlino",), Look("micro", (0.40, 0.45, 0.42))),
    (("cooper_s",), Look("two_tone_hatchback", (0.30, 0.03, 0.03))),
    (("audi.a2", "c3", "micra", "seat.leon", "prius"), Look("hatchback", _SILVER)),
    (("audi.tt", "mustang", "grandtourer", "mercedes.coupe"), Look("sports", _SILVER)),
    (("crossbike", "century", "omafiets", "bicycle"), Look("bicycle", (0.08, 0.10, 0.22))),
    (("vespa",), Look("scooter", (0.42, 0.40, 0.32))),
    (("ninja", "yamaha"), Look("sport_motorcycle", (0.06, 0.22, 0.06))),
    (("low_rider", "motorcycle"), Look("motorcycle", (0.05, 0.05, 0.06))),
)
_SEDAN = Look("sedan", _SILVER)


@lru_cache(maxsize=1024)
def classify(type_id: str) -> Look:
    """The model and default colours of a CARLA type id; unknown vehicles are saloons, unknown props boxes."""
    if type_id.startswith("walker."):
        return Look("walker", (0.22, 0.10, 0.08))
    if type_id.startswith("vehicle."):
        return next((look for words, look in _VEHICLES if any(word in type_id for word in words)), _SEDAN)
    name = type_id.removeprefix("static.prop.")
    model = next((model for part, model in props.NAMES if part in name), "box")
    return Look(model, props.PROPS[model][1])


@cache
def build_models() -> dict[str, BodyModel]:
    """All models by name; always the same ones."""
    made: dict[str, BodyBuilder] = {
        "sedan": cars.car(cars.SEDAN),
        "hatchback": cars.car(cars.HATCHBACK),
        "two_tone_hatchback": cars.car(cars.HATCHBACK, roof=(0.70, 0.70, 0.68)),
        "suv": cars.car(cars.SUV),
        "sports": cars.car(cars.SPORTS),
        "micro": cars.car(cars.MICRO, roof=(0.70, 0.70, 0.68)),
        "jeep": cars.jeep(),
        "pickup": cars.pickup(),
        "police": cars.police(),
        "taxi": cars.taxi(),
        "van": heavy.van(),
        "microbus": heavy.microbus(),
        "ambulance": heavy.ambulance(),
        "box_truck": heavy.box_truck(),
        "cola_truck": heavy.cola_truck(),
        "fire_engine": heavy.fire_engine(),
        "bus": heavy.bus(),
        "bicycle": people.bicycle(),
        "motorcycle": people.motorcycle(),
        "sport_motorcycle": people.motorcycle(sport=True),
        "scooter": people.motorcycle(scooter=True),
        "walker": people.walker(),
        "walker_long_hair": people.walker(long_hair=True),
        "walker_child": people.walker(child=True),
        "wheelchair": people.wheelchair(),
    }
    for name, (make, _) in props.PROPS.items():
        made[name] = BodyBuilder()
        make(made[name])
    return {name: body.finish() for name, body in made.items()}


__all__ = ["WALKERS", "BodyModel", "Look", "build_models", "classify"]
