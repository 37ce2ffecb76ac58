"""JSON as the standard has it: Python's own also writes NaN and Infinity, which other readers refuse."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(data: Any, **options: Any) -> str:
    """JSON text of the data; numbers that are not finite become null. `options`: of `json.dumps`."""
    return json.dumps(_finite(data), allow_nan=False, **options)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
