"""Messages between processes of a run: msgpack mappings of known names and types, within a size; nothing is executed.

They travel on pipes of one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

MAX_MESSAGE_BYTES = 4 * 1024**2
"""An observation takes 0.13 MB, an evaluation of a thousand routes 0.4 MB."""


class MessageError(ValueError):
    """Data that is no message of the form expected."""


def pack(message: Mapping[str, Any]) -> bytes:
    """The message as bytes. Raises: TypeError for what is not plain data."""
    packed = msgpack.packb(message)
    assert packed is not None  # msgpack's stubs allow None for a caller-owned buffer only
    return packed


def read(data: bytes, types: Mapping[str, type]) -> dict[str, Any]:
    """The message in `data`, any of the names in `types`, where `object` stands for any plain data.

    Raises: MessageError for anything else.
    """
    try:
        message = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise MessageError(f"not msgpack: {error!r}") from error
    if not isinstance(message, dict):
        raise MessageError(f"expected a mapping, got {type(message).__name__}")
    for name, value in message.items():
        if types.get(name) not in (type(value), object):
            raise MessageError(f"{name!r} is a {type(value).__name__}; known are {', '.join(types)}")
    return message
