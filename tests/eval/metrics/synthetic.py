"""Result files made up for tests, in the official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.scoring import Infraction


def record(
    route_id: str = "1",
    completion: float = 100.0,
    penalty: float = 1.0,
    *,
    status: str | None = None,
    scenario: str = "Accident",
    town: str = "Town12",
    repetition: int = 0,
    **messages: list[str],
) -> dict[str, Any]:
    """One record; `messages` are infractions by their names in the file."""
    return {
        "route_id": f"RouteScenario_{route_id}_rep{repetition}",
        "scenario_name": f"{scenario}_1",
        "save_name": f"RouteScenario_{route_id}_rep{repetition}_{town}",
        "status": status or ("Completed" if completion >= 100.0 else "Failed - Agent got blocked"),
        "infractions": {kind.value: list(messages.get(kind.value, ())) for kind in Infraction},
        "scores": {
            "score_route": completion,
            "score_penalty": penalty,
            "score_composed": round(completion * penalty, 6),
        },
        "meta": {"route_length": 1000.0, "duration_game": 60.0, "duration_system": 600.0},
        "town_name": town,
    }


def write(path: Path, records: list[Any], **outer: Any) -> Path:
    """A results file with these records; `outer` adds to its outer layer, `progress` to the checkpoint."""
    checkpoint: dict[str, Any] = {"records": records}
    if "progress" in outer:
        checkpoint["progress"] = outer.pop("progress")
    path.write_text(json.dumps({"_checkpoint": checkpoint, **outer}))
    return path
