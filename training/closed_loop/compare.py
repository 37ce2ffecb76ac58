"""What arms did on the same routes: means, paired differences, and the effects of two factors that are on or off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from eval.report import machine
from eval.routes import file_sha256, read_routes
from training.closed_loop.drives import ClosedLoopConfig, Result
from training.risk.metrics import bootstrap, interval

AVERAGED = (
    *("hd_score", "no_collision", "on_road", "time_to_collision", "comfort", "completion_percent", "collided"),
    *("mean_mps", "score", "success"),
)
MEASURES = (*AVERAGED, "collisions_per_km")
COMPARED = ("hd_score", "score", "success", "collisions_per_km", "collided", "completion_percent", "mean_mps")
"""What the tables of differences show."""
SHARES = ("no_collision", "on_road", "time_to_collision", "comfort", "collided", "success")
"""0 to 1 in files, in % in tables."""
TITLES = {
    "hd_score": "HD-score",
    "no_collision": "NC, %",
    "on_road": "DAC, %",
    "time_to_collision": "TTC, %",
    "comfort": "comfort, %",
    "completion_percent": "completion, %",
    "collided": "drives with a collision, %",
    "mean_mps": "speed, m/s",
    "score": "driving score",
    "success": "success, %",
    "collisions_per_km": "collisions per km",
}
EXPLAINED = (
    "HD-score: plans at key frames that touch nobody (NC), stay on the road (DAC), touch nobody even when they go "
    "straight on (TTC) and are comfortable, times completion (docs/adapter.md). Driving score and success: "
    "Bench2Drive's, of what was really driven."
)
RATIOS = ("collisions_per_km", "mean_mps")
"""What is compared by how many times as much it is, too."""
RATIO_TITLES = {"collisions_per_km": "collisions per km", "mean_mps": "mean speed"}
Place = tuple[str, str, int]
"""Town, route and seed of a drive."""
Numbers = Float64[np.ndarray, "drives columns"]
Difference = tuple[float | None, float | None, float | None]
"""With its 95 % interval; None where nothing can be told."""


def numbers_of(results: Sequence[Result]) -> Numbers:
    """Columns AVERAGED, collisions, km."""
    columns = (*AVERAGED, "collisions", "km")
    return np.array([[float(result[name]) for name in columns] for result in results]).reshape(-1, len(columns))


def means(numbers: Numbers) -> Float64[np.ndarray, " measures"]:
    """Of MEASURES; collisions per km over all ways together."""
    middle = numbers.mean(0)
    return np.append(middle[:-2], middle[-2] / max(middle[-1], 1e-9))


def about(config: ClosedLoopConfig, route_files: Mapping[str, Path]) -> dict[str, Any]:
    """What a comparison was made on, for a results file; `says` is a sentence for tables. Raises: RouteFileError."""
    counts = {name: len(read_routes(path)) for name, path in route_files.items()}
    server = "embedded" if not config.env.server else "CARLA"
    seeds = f"seeds {config.seed} to {config.seed + config.seeds - 1}" if config.seeds > 1 else f"seed {config.seed}"
    hardware = machine()
    return {
        "routes": counts,
        "routes_sha256": {name: file_sha256(path) for name, path in route_files.items()},
        "seeds": config.seeds,
        "max_s": config.max_s,
        "traffic": config.env.traffic,
        "server": server,
        "machine": hardware,
        "says": f"{', '.join(f'{count} {name}' for name, count in counts.items())}, {seeds}; {server} server"
        f"{', not CARLA' if server == 'embedded' else ''}; {hardware}. In brackets: 95 % intervals, paired bootstrap "
        "over routes.",
    }


def rows_of(arms: Mapping[str, Sequence[Result]]) -> list[dict[str, Any]]:
    """One row per drive, for a results file: who drove where, and MEASURES' ingredients rounded."""
    columns = (*AVERAGED, "collisions", "km")
    return [
        {"arm": name, **{key: result[key] for key in ("town", "route", "kind", "seed")}}
        | {key: round(float(result[key]), 4) for key in columns}
        for name, results in arms.items()
        for result in results
    ]


def summarised(arms: Mapping[str, Sequence[Result]], draws: int) -> dict[str, Any]:
    """Means of each arm that drove; differences from every arm before it, and RATIOS to the first, over the drives that
    both made."""
    found: dict[str, Any] = {}
    driven = {name: results for name, results in arms.items() if results}
    for name, results in driven.items():
        values = means(numbers_of(results))
        row: dict[str, Any] = {"drives": len(results), **dict(zip(MEASURES, values.tolist(), strict=True))}
        for number, other in enumerate(found):
            pair = {other: driven[other], name: results}
            row[f"minus_{other}"] = contrast(pair, (-1.0, 1.0), draws)
            if not number:
                row[f"over_{other}"] = _ratios(pair, draws)
        found[name] = row
    return found


def contrast(
    arms: Mapping[str, Sequence[Result]], weights: Sequence[float], draws: int
) -> dict[str, Difference | int] | None:
    """Weighted sum of the arms' means, with intervals of a bootstrap over routes; None without drives that all made."""
    return _compared(arms, lambda tables: np.tensordot(weights, [means(table) for table in tables], 1), MEASURES, draws)


def _ratios(pair: Mapping[str, Sequence[Result]], draws: int) -> dict[str, Difference | int] | None:
    """How many times the first arm's RATIOS the second has; NaN, which no interval counts, over nothing."""
    places = [MEASURES.index(name) for name in RATIOS]

    def measure(tables: Sequence[Numbers]) -> np.ndarray:
        below, above = (means(table)[places] for table in tables)
        return np.divide(above, below, out=np.full(len(places), np.nan), where=below > 0.0)

    return _compared(pair, measure, RATIOS, draws)


def _compared(
    arms: Mapping[str, Sequence[Result]],
    measure: Callable[[Sequence[Numbers]], np.ndarray],
    names: Sequence[str],
    draws: int,
) -> dict[str, Difference | int] | None:
    """A measure of the drives that all arms have made, by route and seed; a bootstrap draws routes."""
    by_place = [{_place(result): result for result in results} for results in arms.values()]
    shared = sorted(set.intersection(*(set(own) for own in by_place)))
    if not shared:
        return None
    tables = [numbers_of([own[place] for place in shared]) for own in by_place]
    routes = np.unique([f"{town} {route}" for town, route, _ in shared], return_inverse=True)[1]
    whole = measure(tables)
    drawn = bootstrap(
        lambda chosen: measure([table[chosen] for table in tables]), routes, draws, np.random.default_rng(0)
    )
    found: dict[str, Difference | int] = {"drives": len(shared)}
    for k, name in enumerate(names):
        low, high = interval(drawn[:, k]) or (None, None)
        found[name] = (float(whole[k]) if np.isfinite(whole[k]) else None, low, high)
    return found


def factorial(arms: Mapping[str, Sequence[Result]], draws: int) -> dict[str, Any]:
    """Main effects of two factors and their interaction, which is 0 where both together do what they do alone.

    arms: neither, the first, the second, both, in that order.
    """
    return {
        "first": contrast(arms, (-0.5, 0.5, -0.5, 0.5), draws),
        "second": contrast(arms, (-0.5, -0.5, 0.5, 0.5), draws),
        "interaction": contrast(arms, (1.0, -1.0, -1.0, 1.0), draws),
    }


def _place(result: Result) -> Place:
    return result["town"], result["route"], result["seed"]


def arms_table(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: a row per arm."""
    lines = [
        EXPLAINED,
        "",
        "| arm | drives | " + " | ".join(TITLES[key] for key in MEASURES) + " |",
        "|---" * (len(MEASURES) + 2) + "|",
    ]
    for name, row in arms.items():
        cells = (f"{100.0 * row[key]:.0f}" if key in SHARES else f"{row[key]:.{_digits(key)}f}" for key in MEASURES)
        lines.append(f"| {name} | {row['drives']} | " + " | ".join(cells) + " |")
    return lines


def differences_table(rows: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Lines of Markdown: a row per comparison, with intervals."""
    lines = [
        "| | drives | " + " | ".join(TITLES[key].replace(", %", ", points") for key in COMPARED) + " |",
        "|---" * (len(COMPARED) + 2) + "|",
    ]
    for name, row in rows.items():
        if row is not None:
            cells = " | ".join(
                told(row[key], scale=100.0 if key in SHARES else 1.0, digits=_digits(key)) for key in COMPARED
            )
            lines.append(f"| {name} | {row['drives']} | {cells} |")
    return lines


def differences(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any] | None]:
    """The differences from the first arm in what `summarised` gave, by a name for their rows."""
    first = next(iter(arms), "")
    return {f"{name} minus {first}": row[f"minus_{first}"] for name, row in arms.items() if name != first}


def ratio_lines(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: how many times as much."""
    return [
        f"* {name} {key.replace('_', ' ')}: "
        + ", ".join(f"{RATIO_TITLES[ratio]} times {told(row[key][ratio], sign='')}" for ratio in RATIOS)
        for name, row in arms.items()
        for key in row
        if key.startswith("over_") and row[key] is not None
    ]


def _digits(key: str) -> int:
    """Decimals of a measure in tables."""
    return 0 if key in SHARES else 2 if key in RATIOS else 1


def told(difference: Sequence[float | None], sign: str = "+", scale: float = 1.0, digits: int = 2) -> str:
    """A difference and its interval, for tables."""
    middle, low, high = difference
    if middle is None:
        return "-"
    between = ""
    if low is not None and high is not None:
        between = f" [{scale * low:{sign}.{digits}f}, {scale * high:{sign}.{digits}f}]"
    return f"{scale * middle:{sign}.{digits}f}{between}"
