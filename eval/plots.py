"""SVG drawings of a route for the report: map, speed and controls over time. Colours come from the page's CSS."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np

from eval.moments import Point, Step, Trace

MAX_POINTS = 400
"""More samples than this are not visible in a plot."""
MAP_MARGIN_M = 22.0
MAP_TOLERANCE_M = 0.25
"""Of drawn lines; a lane is 14 times as wide."""
LANE_WIDTH_M = 3.5
SCALE_BARS_M = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
PLOT_PX = (760.0, 190.0)
PLOT_MARGIN_PX = (44.0, 10.0, 10.0, 24.0)
"""Left, top, right, bottom."""
TICK_ROOM_PX = 8.0
LIGHT_STRIP_PX = 6.0
TIME_TICKS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
MPS_TO_KMH = 3.6


def route_svg(trace: Trace, marks: Sequence[tuple[int, Step]]) -> str:
    """Map of the planned route, the driven line and numbered incidents."""
    driven = [(step.x_m, step.y_m) for step in trace.steps]
    points = [*trace.route.plan, *driven]
    low = [min(p[axis] for p in points) - MAP_MARGIN_M for axis in (0, 1)]
    size = [max(p[axis] for p in points) + MAP_MARGIN_M - low[axis] for axis in (0, 1)]
    _widen(low, size)
    unit = max(size) / 100.0
    parts = [
        f'<svg class="map" viewBox="{low[0]:.1f} {low[1]:.1f} {size[0]:.1f} {size[1]:.1f}" role="img" '
        f'aria-label="Map of route {escape(trace.route.route_id)} with the driven line and {len(marks)} incidents">'
    ]
    parts.append(_lines(trace.route.lanes, "lane", LANE_WIDTH_M))
    parts.append(_lines([trace.route.plan], "plan", max(LANE_WIDTH_M, 2.2 * unit)))
    parts += [
        _lines([stretch], "driven outside" if outside else "driven", 0.9 * unit)
        for outside, stretch in _stretches(trace)
    ]
    parts.append(_end_mark(trace.route.plan[0], "A", unit))
    parts.append(_end_mark(trace.route.plan[-1], "B", unit))
    parts += [_number_mark(number, step.x_m, step.y_m, 2.4 * unit) for number, step in marks]
    parts += [_scale_bar(low, size, unit, (trace.route.plan[0], trace.route.plan[-1])), "</svg>"]
    return "".join(parts)


def speed_svg(steps: Sequence[Step], marks: Sequence[tuple[int, Step]]) -> str:
    """Speed and limit over time, with the state of the next light on a strip above."""
    top_kmh = max([30.0, *(MPS_TO_KMH * max(s.speed_mps, s.speed_limit_mps) for s in steps)]) * 1.08
    plot = _Plot(steps, (0.0, top_kmh))
    parts = plot.begin("Speed over time")
    parts += plot.grid(_ticks(top_kmh), lambda value: f"{value:.0f}")
    parts.append(plot.line(((s.time_s, MPS_TO_KMH * s.speed_limit_mps) for s in thin(steps)), "limit"))
    parts.append(plot.line(((s.time_s, MPS_TO_KMH * s.speed_mps) for s in thin(steps)), "speed"))
    parts += plot.lights(steps)
    parts += plot.marks(marks)
    return "".join([*parts, "</svg>"])


def control_svg(steps: Sequence[Step], marks: Sequence[tuple[int, Step]]) -> str:
    """Throttle (up), brake (down) and steering over time."""
    plot = _Plot(steps, (-1.05, 1.05))
    parts = plot.begin("Controls over time: throttle up, brake down, steering as a line, right is up")
    parts += plot.grid((-1.0, 0.0, 1.0), lambda value: f"{value:+.0f}" if value else "0")
    parts.append(plot.area(_peaks(steps, lambda step: step.throttle), "throttle"))
    parts.append(plot.area(((time_s, -brake) for time_s, brake in _peaks(steps, lambda step: step.brake)), "brake"))
    parts.append(plot.line(((s.time_s, s.steer) for s in thin(steps)), "steer"))
    parts += plot.guard(steps)
    parts += plot.marks(marks)
    return "".join([*parts, "</svg>"])


def thin(steps: Sequence[Step]) -> Sequence[Step]:
    """At most about MAX_POINTS of the steps, evenly chosen, the last one kept."""
    stride = _stride(steps)
    return [*steps[:-1:stride], steps[-1]] if steps else steps


class _Plot:
    """Axes over the time of a route."""

    def __init__(self, steps: Sequence[Step], limits: tuple[float, float]) -> None:
        self._start_s = steps[0].time_s
        self._span_s = max(steps[-1].time_s - self._start_s, 1.0)
        self._low, self._high = limits
        left, top, right, bottom = PLOT_MARGIN_PX
        self._box = left, top, PLOT_PX[0] - right, PLOT_PX[1] - bottom

    def x(self, time_s: float) -> float:
        left, _, right, _ = self._box
        return left + (time_s - self._start_s) / self._span_s * (right - left)

    def y(self, value: float) -> float:
        _, top, _, bottom = self._box
        return bottom - (value - self._low) / (self._high - self._low) * (bottom - top)

    def begin(self, label: str) -> list[str]:
        width, height = PLOT_PX
        return [f'<svg class="plot" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">']

    def grid(self, values: Iterable[float], text: Callable[[float], str]) -> list[str]:
        left, _, right, bottom = self._box
        parts = []
        for value in values:
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{left:.0f} {y:.1f}H{right:.0f}"/>')
            parts.append(
                f'<text class="tick" x="{left - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{text(value)}</text>'
            )
        step_s = next((tick for tick in TIME_TICKS_S if self._span_s / tick <= 10.0), TIME_TICKS_S[-1])
        time_s = math.ceil(self._start_s / step_s) * step_s
        while time_s <= self._start_s + self._span_s:
            x = self.x(time_s)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{bottom + 16:.0f}" text-anchor="middle">{time_s:.0f} s</text>'
            )
            time_s += step_s
        return parts

    def line(self, samples: Iterable[tuple[float, float]], css: str) -> str:
        path = "L".join(f"{self.x(t):.1f} {self.y(v):.1f}" for t, v in samples)
        return f'<path class="{css}" d="M{path}"/>'

    def area(self, samples: Iterable[tuple[float, float]], css: str) -> str:
        """Steps down to zero: a value holds until the next one."""
        placed = [(self.x(t), self.y(v)) for t, v in samples]
        zero = self.y(0.0)
        path = "".join(f"V{y:.1f}H{following:.1f}" for (_, y), (following, _) in itertools.pairwise(placed))
        return f'<path class="{css}" d="M{placed[0][0]:.1f} {zero:.1f}{path}V{zero:.1f}Z"/>'

    def lights(self, steps: Sequence[Step]) -> list[str]:
        """A strip on top: filled high for red, half for yellow, low for green, so that it reads without colour."""
        heights = {"red": 1.0, "yellow": 0.7, "green": 0.4}
        parts = []
        for state, start_s, end_s in _runs(steps, lambda step: step.light):
            if state in heights:
                height = LIGHT_STRIP_PX * heights[state]
                y = self._box[1] - 2.0 - height
                width = max(self.x(end_s) - self.x(start_s), 1.0)
                parts.append(
                    f'<rect class="light-{state}" x="{self.x(start_s):.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{height:.1f}"><title>{state} light ahead, {start_s:.1f} to {end_s:.1f} s</title></rect>'
                )
        return parts

    def guard(self, steps: Sequence[Step]) -> list[str]:
        """Times in which the guard drove."""
        _, top, _, bottom = self._box
        return [
            f'<rect class="guard" x="{self.x(start_s):.1f}" y="{top:.1f}" height="{bottom - top:.1f}" '
            f'width="{self.x(end_s) - self.x(start_s):.1f}"><title>guard: {escape(mode)}, '
            f"{start_s:.1f} to {end_s:.1f} s</title></rect>"
            for mode, start_s, end_s in _runs(steps, lambda step: step.guard)
            if mode not in ("", "nominal")
        ]

    def marks(self, marks: Sequence[tuple[int, Step]]) -> list[str]:
        _, top, _, bottom = self._box
        parts = []
        for number, step in marks:
            x = self.x(step.time_s)
            parts.append(f'<path class="event" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
            parts.append(_number_mark(number, x, top + 9.0, 8.0))
        return parts


def _stride(steps: Sequence[Step]) -> int:
    return max(1, math.ceil(len(steps) / MAX_POINTS))


def _peaks(steps: Sequence[Step], value: Callable[[Step], float]) -> list[tuple[float, float]]:
    """Time and value, thinned so that no short peak gets lost."""
    stride = _stride(steps)
    windows = [steps[start : start + stride] for start in range(0, len(steps), stride)]
    return [(window[0].time_s, max(value(step) for step in window)) for window in windows]


def simplified(points: Sequence[Point], tolerance_m: float = MAP_TOLERANCE_M) -> list[Point]:
    """The line with the points left out that lie closer to it than the tolerance (Douglas and Peucker's method)."""
    keep = {0, len(points) - 1}
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        inner = np.asarray(points[first + 1 : last])
        far_m = _distances_m(inner, points[first], points[last])
        worst = int(far_m.argmax())
        if far_m[worst] > tolerance_m:
            keep.add(first + 1 + worst)
            spans += [(first, first + 1 + worst), (first + 1 + worst, last)]
    return [points[index] for index in sorted(keep)]


def _distances_m(points: np.ndarray, start: Point, end: Point) -> np.ndarray:
    """Distances (n,) of points (n, 2) from the segment between start and end."""
    along = np.subtract(end, start)
    length2 = float(along @ along)
    from_start = points - start
    share = np.clip(from_start @ along / length2, 0.0, 1.0) if length2 > 0.0 else np.zeros(len(points))
    return np.linalg.norm(from_start - share[:, None] * along, axis=1)


def _lines(lines: Iterable[Sequence[Point]], css: str, width: float) -> str:
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in simplified(line)) for line in lines)
    return f'<path class="{css}" d="{path}" stroke-width="{width:.2f}"/>'


def _stretches(trace: Trace) -> list[tuple[bool, list[Point]]]:
    """The driven line cut where the car left or found its lanes."""
    stretches: list[tuple[bool, list[Point]]] = []
    for step in thin(trace.steps):
        point = (step.x_m, step.y_m)
        if not stretches or stretches[-1][0] != step.outside:
            before = stretches[-1][1][-1:] if stretches else []
            stretches.append((step.outside, list(before)))
        stretches[-1][1].append(point)
    return stretches


def _runs(steps: Sequence[Step], key: Callable[[Step], str]) -> list[tuple[str, float, float]]:
    """Values that hold for a while: value, start, end [s]."""
    runs: list[tuple[str, float, float]] = []
    for step in steps:
        if runs and runs[-1][0] == key(step):
            runs[-1] = runs[-1][0], runs[-1][1], step.time_s
        else:
            if runs:
                runs[-1] = runs[-1][0], runs[-1][1], step.time_s
            runs.append((key(step), step.time_s, step.time_s))
    return runs


def _widen(low: list[float], size: list[float]) -> None:
    """Keep long thin maps from becoming a stripe: the short side is at least half of the long one."""
    for axis in (0, 1):
        missing = max(size) * 0.6 - size[axis]
        if missing > 0.0:
            low[axis] -= missing / 2.0
            size[axis] += missing


def _tick(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _number_mark(number: int, x: float, y: float, radius: float) -> str:
    return (
        f'<g class="mark"><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}"/>'
        f'<text x="{x:.1f}" y="{y + 0.36 * radius * 1.1:.2f}" font-size="{1.15 * radius:.2f}">{number}</text></g>'
    )


def _end_mark(point: Point, letter: str, unit: float) -> str:
    x, y = point
    return (
        f'<g class="end"><circle cx="{x:.1f}" cy="{y:.1f}" r="{2.2 * unit:.2f}"/>'
        f'<text x="{x:.1f}" y="{y + 0.85 * unit:.2f}" font-size="{2.6 * unit:.2f}">{letter}</text></g>'
    )


def _scale_bar(low: Sequence[float], size: Sequence[float], unit: float, ends: Sequence[Point]) -> str:
    """In the lower left corner, or in the right one where an end of the route is in the way."""
    length_m = max((bar for bar in SCALE_BARS_M if bar <= 0.3 * size[0]), default=SCALE_BARS_M[0])
    x, y = low[0] + 3.0 * unit, low[1] + size[1] - 3.0 * unit
    if any(math.dist(end, (x + 0.5 * length_m, y)) < 0.6 * length_m + 5.0 * unit for end in ends):
        x = low[0] + size[0] - length_m - 3.0 * unit
    return (
        f'<path class="scale" d="M{x:.1f} {y:.1f}h{length_m:.0f}" stroke-width="{0.5 * unit:.2f}"/>'
        f'<text class="scale-text" x="{x:.1f}" y="{y - 1.2 * unit:.1f}" font-size="{2.8 * unit:.2f}">'
        f"{length_m:.0f} m</text>"
    )


def _ticks(top: float) -> list[float]:
    step = 10.0 if top <= 45.0 else 20.0
    return [step * index for index in range(int(top / step) + 1)]
