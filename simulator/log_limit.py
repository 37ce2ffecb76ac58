"""Log lines that a client can cause again and again are cut in length and number.

Whoever started the server may not read its output: a full pipe would stop the server in the midst of a line.
"""

from __future__ import annotations

import logging
import time
from typing import Final

MOST_PER_MINUTE: Final = 10
MOST_CHARACTERS: Final = 500
MOST_TRACE_CHARACTERS: Final = 5000
_MINUTE_S: Final = 60.0


class LogLimit(logging.Filter):
    """Lets each place in the code speak ten times a minute, the last time with a notice."""

    def __init__(self) -> None:
        super().__init__()
        self._since_s: dict[tuple[str, int], float] = {}
        self._passed: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place, now_s = (record.pathname, record.lineno), time.monotonic()
        if now_s - self._since_s.get(place, -_MINUTE_S) >= _MINUTE_S:
            self._since_s[place], self._passed[place] = now_s, 0
        self._passed[place] += 1
        if self._passed[place] > MOST_PER_MINUTE:
            return False
        text = record.getMessage()
        if len(text) > MOST_CHARACTERS:
            text = f"{text[:MOST_CHARACTERS]}... ({len(text)} characters)"
        if self._passed[place] == MOST_PER_MINUTE:
            text += f" (no more of this kind for {_MINUTE_S:.0f} s)"
        record.msg, record.args = text, None
        if record.exc_info:  # a trace ends with the error's own text, which may hold what the client sent
            trace = logging.Formatter().formatException(record.exc_info)
            if len(trace) > MOST_TRACE_CHARACTERS:
                half = MOST_TRACE_CHARACTERS // 2
                trace = f"{trace[:half]}\n... ({len(trace)} characters) ...\n{trace[-half:]}"
            record.exc_text = trace
        return True
