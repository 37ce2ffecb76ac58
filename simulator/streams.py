"""Sensor streams: a client sends a stream id once and then only reads length-prefixed messages."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simulator import wire

log = logging.getLogger(__name__)

SEND_BUFFER_BYTES: Final = 16 << 20
MAX_BACKLOG_BYTES: Final = 512 << 20
"""A subscriber that lets this much pile up is dropped: it no longer reads."""

EARLY_STEPS: Final = 3
"""For so many steps a new sensor measures without a listener; one that comes during a step gets that step's data."""


@dataclass(slots=True)
class _Early:
    """A new stream nobody has listened to yet."""

    message: bytes = b""
    """What was measured in the current step"""
    steps_left: int = EARLY_STEPS


class StreamHub:
    """Who listens to which stream."""

    def __init__(self, on_world_subscriber: Callable[[], None]) -> None:
        self._subscribers: dict[int, list[StreamConnection]] = {}
        self._early: dict[int, _Early] = {}
        self._on_world_subscriber = on_world_subscriber
        self.world_state = b""
        """Last world state, sent at once to every new subscriber: a synchronous world may not tick for long."""

    def expect(self, stream_id: int) -> None:
        """A listener of this new stream is on its way: its client may tick before its subscription arrives here."""
        self._early[stream_id] = _Early()

    def is_wanted(self, stream_id: int) -> bool:
        """Whether a stream has listeners, or is so new that its first one may be on its way."""
        return bool(self._subscribers.get(stream_id)) or stream_id in self._early

    def publish(self, stream_id: int, *parts: bytes | memoryview) -> None:
        """Send one message, given in parts, to all listeners of a stream; keep it for one who is on the way."""
        for connection in tuple(self._subscribers.get(stream_id, ())):
            connection.send(*parts)
        early = self._early.get(stream_id)
        if early is not None:
            early.message = b"".join(parts)

    def publish_world_state(self, state: bytes) -> None:
        self.world_state = state
        for stream_id, early in tuple(self._early.items()):
            early.message, early.steps_left = b"", early.steps_left - 1
            if early.steps_left < 0:
                del self._early[stream_id]
        for connection in tuple(self._subscribers.get(wire.WORLD_STREAM, ())):
            connection.send_world_state(state)

    def map_changed(self) -> None:
        """The next world state tells every subscriber, also those that stayed on, to fetch the map again."""
        for connection in self._subscribers.get(wire.WORLD_STREAM, ()):
            connection.told_map = False

    def close(self, stream_id: int) -> None:
        """Forget a stream whose sensor is gone and disconnect its listeners."""
        self._early.pop(stream_id, None)
        for connection in self._subscribers.pop(stream_id, []):
            connection.close()

    def add(self, connection: StreamConnection, stream_id: int) -> None:
        self._subscribers.setdefault(stream_id, []).append(connection)
        early = self._early.pop(stream_id, None)
        if early is not None and early.message:
            connection.send(early.message)
        if stream_id == wire.WORLD_STREAM:
            if self.world_state:
                connection.send_world_state(self.world_state)
            self._on_world_subscriber()

    def remove(self, connection: StreamConnection, stream_id: int) -> None:
        listeners = self._subscribers.get(stream_id, [])
        if connection in listeners:
            listeners.remove(connection)
        if not listeners:
            self._subscribers.pop(stream_id, None)


class StreamConnection(asyncio.Protocol):
    """One subscription."""

    def __init__(self, hub: StreamHub) -> None:
        self._hub = hub
        self._request = b""
        self._stream_id: int | None = None
        self.told_map = False
        """Whether a state since the last change of the map carried the flag for it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        endpoint = transport.get_extra_info("socket")
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._stream_id is not None:
            return  # a subscriber only reads; whatever it says is ignored
        self._request += data
        if len(self._request) >= wire.FRAME_LENGTH.size:
            (self._stream_id,) = struct.unpack_from("<I", self._request)
            self._request = b""
            self._hub.add(self, self._stream_id)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream_id is not None:
            self._hub.remove(self, self._stream_id)

    def send_world_state(self, state: bytes) -> None:
        if not self.told_map:  # a new subscription must hear of the map, or its client keeps the old one
            self.told_map = True
            state = wire.with_map_changed(state)
        self.send(state)

    def send(self, *parts: bytes | memoryview) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            log.warning("stream %s: listener stopped reading, dropped", self._stream_id)
            self._transport.abort()
            return
        self._transport.write(wire.FRAME_LENGTH.pack(sum(len(part) for part in parts)))
        for part in parts:  # unjoined: joining would copy each image once more
            self._transport.write(part)

    def close(self) -> None:
        self._transport.close()
