"""Parameters of a <scenario> block, checked as they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import carla

from eval.routes import ScenarioBlock

MAX_COORDINATE_M = 1e6


class ScenarioError(ValueError):
    """A scenario that cannot be set up; the message names the scenario, the value and the remedy."""


class Parameters:
    """Typed access to the children of a block; a missing parameter takes the official scenario's default."""

    def __init__(self, block: ScenarioBlock) -> None:
        self._name = f"scenario {block.name} ({block.type})"
        self._elements: dict[str, Mapping[str, str]] = {tag: dict(attributes) for tag, attributes in block.elements}

    def number(self, key: str, default: float, low: float = 0.0, high: float = 1e4) -> float:
        """`<key value="..."/>` as a number within [low, high]."""
        return self._number(key, "value", default, low, high)

    def interval(
        self, key: str, default: tuple[float, float], low: float = 0.0, high: float = 1e4
    ) -> tuple[float, float]:
        """`<key from="..." to="..."/>` (or a single `value`) as two numbers in order."""
        if "value" in self._elements.get(key, {}):
            value = self._number(key, "value", default[0], low, high)
            return value, value
        start = self._number(key, "from", default[0], low, high)
        end = self._number(key, "to", default[1], low, high)
        if start > end:
            raise ScenarioError(f"{self._name}: <{key}> from {start:g} to {end:g}; swap the two")
        return start, end

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        """`<key value="..."/>` as one of the allowed words."""
        value = self._elements.get(key, {}).get("value", default)
        if value not in allowed:
            raise ScenarioError(f"{self._name}: <{key}> is {value[:40]!r}, expected one of {', '.join(allowed)}")
        return value

    def text(self, key: str, default: str) -> str:
        """`<key value="..."/>` as it stands."""
        return self._elements.get(key, {}).get("value", default)

    def location(self, key: str) -> carla.Location | None:
        """`<key x= y= z=/>` as a location in CARLA's frame; None if the block has none."""
        if key not in self._elements:
            return None
        x, y, z = (self._number(key, axis, math.nan, -MAX_COORDINATE_M, MAX_COORDINATE_M) for axis in "xyz")
        return carla.Location(x, y, z)

    def required_location(self, key: str) -> carla.Location:
        """As `location`; its absence is an error."""
        location = self.location(key)
        if location is None:
            raise ScenarioError(f"{self._name}: <{key} x= y= z=/> is missing")
        return location

    def trigger(self) -> carla.Transform:
        """The point of the route at which the scenario starts."""
        location = self.required_location("trigger_point")
        yaw_deg = self._number("trigger_point", "yaw", 0.0, -1e4, 1e4)
        return carla.Transform(location, carla.Rotation(yaw=yaw_deg))

    def _number(self, key: str, attribute: str, default: float, low: float, high: float) -> float:
        text = self._elements.get(key, {}).get(attribute)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            shown = "missing" if text is None else repr(text[:40])
            raise ScenarioError(
                f"{self._name}: <{key} {attribute}=...> is {shown}, expected a number from {low:g} to {high:g}"
            )
        return value
