"""The five abilities as a radar drawing (SVG). Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from eval.metrics.statistics import Interval

SIZE_PX = (520.0, 400.0)
CENTRE_PX = (260.0, 210.0)
RADIUS_PX = 142.0
RINGS_PERCENT = (25.0, 50.0, 75.0, 100.0)
LABEL_GAP_PX = 18.0
LINE_PX = 17.0


@dataclass(frozen=True, slots=True)
class Spoke:
    """One axis: the run's share of successful routes, and a published one."""

    name: str
    percent: float | None
    """None if no route calls for the ability, or it is withheld."""
    interval: Interval | None
    passed: int
    total: int
    reference_percent: float | None = None


def radar_svg(spokes: Sequence[Spoke], reference: str) -> str:
    """The run's polygon with 95 % intervals along the axes, and the reference's dashed."""
    values = "; ".join(f"{spoke.name} {_value_text(spoke)}" for spoke in spokes)
    parts = [
        f'<svg class="radar" viewBox="0 0 {SIZE_PX[0]:.0f} {SIZE_PX[1]:.0f}" role="img" '
        f'aria-label="Abilities: {escape(values, quote=True)}">'
    ]
    count = len(spokes)
    parts += [
        f'<path class="ring" d="{_closed([_point(i, count, ring) for i in range(count)])}"/>' for ring in RINGS_PERCENT
    ]
    parts += [_axis(index, count) for index in range(count)]
    published = [spoke.reference_percent for spoke in spokes]
    parts.append(_polygon(published, "reference", f"{reference}, published"))
    parts.append(_polygon([spoke.percent for spoke in spokes], "run", "this run"))
    for index, spoke in enumerate(spokes):
        parts += _whisker(index, count, spoke)
        parts.append(_label(index, count, spoke))
    x, y = CENTRE_PX
    parts += [
        f'<text class="tick" x="{x - 5:.0f}" y="{y - RADIUS_PX * ring / 100.0 + 13:.0f}" text-anchor="end">'
        f"{ring:.0f}</text>"
        for ring in (50.0, 100.0)
    ]
    return "".join([*parts, "</svg>"])


def _point(index: int, count: int, percent: float) -> tuple[float, float]:
    """The first axis points up, the others follow clockwise."""
    angle_rad = 2.0 * math.pi * index / count
    radius = RADIUS_PX * percent / 100.0
    return CENTRE_PX[0] + radius * math.sin(angle_rad), CENTRE_PX[1] - radius * math.cos(angle_rad)


def _closed(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _axis(index: int, count: int) -> str:
    x, y = _point(index, count, 100.0)
    return f'<path class="ring" d="M{CENTRE_PX[0]:.1f} {CENTRE_PX[1]:.1f}L{x:.1f} {y:.1f}"/>'


def _polygon(values: Sequence[float | None], css: str, title: str) -> str:
    """Closed where all values are known; otherwise lines between neighbours that are."""
    count = len(values)
    known = [value for value in values if value is not None]
    if len(known) == count:
        path = _closed([_point(index, count, value) for index, value in enumerate(known)])
        return f'<path class="{css}" d="{path}"><title>{escape(title)}</title></path>'
    lines = []
    for index, value in enumerate(values):
        following = values[(index + 1) % count]
        if value is not None and following is not None:
            (x0, y0), (x1, y1) = _point(index, count, value), _point((index + 1) % count, count, following)
            lines.append(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}")
    return f'<path class="{css} open" d="{"".join(lines)}"/>' if lines else ""


def _whisker(index: int, count: int, spoke: Spoke) -> list[str]:
    parts = []
    if spoke.interval is not None:
        (x0, y0), (x1, y1) = (_point(index, count, end) for end in spoke.interval)
        parts.append(f'<path class="whisker" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>')
    if spoke.percent is not None:
        x, y = _point(index, count, spoke.percent)
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
    return parts


def _label(index: int, count: int, spoke: Spoke) -> str:
    x, y = _point(index, count, 100.0 * (1.0 + LABEL_GAP_PX / RADIUS_PX))
    side = x - CENTRE_PX[0]
    anchor = "middle" if abs(side) < 10.0 else ("start" if side > 0.0 else "end")
    if abs(side) < 10.0:
        y -= LINE_PX
    return (
        f'<text class="name" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(spoke.name)}</text>'
        f'<text class="value" x="{x:.1f}" y="{y + LINE_PX:.1f}" text-anchor="{anchor}">{_value_text(spoke)}</text>'
    )


def _value_text(spoke: Spoke) -> str:
    if not spoke.total:
        return "no route"
    if spoke.percent is None:
        return "withheld"
    return f"{spoke.percent:.0f} %, {spoke.passed} of {spoke.total}"
