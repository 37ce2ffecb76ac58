"""What reading a damaged .npz file may raise: NumPy passes on whatever zip and zlib say."""

from __future__ import annotations

import zipfile
import zlib
from typing import Final

DAMAGED: Final = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error,
    RuntimeError,  # an entry that says it is encrypted, or packed in a way that Python does not know
)  # fmt: skip
