"""Processes with large arguments: handed over, and not waited for when the process dies before it reads them."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from training import spawn

LARGE = 1 << 20


def _answer(end: Connection, data: bytes, number: int) -> None:
    end.send_bytes(bytes([len(data) // LARGE, number]))
    os._exit(0)


def test_large_arguments_arrive() -> None:
    mine, other = spawn.pipe()
    process = spawn.start(_answer, other, bytes(3 * LARGE), 7)
    assert mine.poll(60.0) and mine.recv_bytes() == bytes([3, 7])
    process.join(60.0)
    assert process.exitcode == 0


def test_a_process_that_dies_while_it_imports_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    mine, other = spawn.pipe()
    started_s = time.monotonic()
    process = spawn.start(_answer, other, bytes(3 * LARGE), 7)
    process.join(30.0)
    assert process.exitcode == 3 and time.monotonic() - started_s < 30.0
    assert mine.poll(5.0)
    with pytest.raises(EOFError):
        mine.recv_bytes()
