"""MessagePack-RPC as CARLA's clients speak it.

Requests are `[0, id, method, [meta, *arguments]]`, answers `[1, id, error, result]`. Failures of a call travel inside
the result, not in the error field (see `Reply`).
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgpack

from simulator.wire import packed

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 64 << 20
"""Largest request accepted; an OpenDRIVE text sent by a client is the biggest legitimate one."""

INTERNAL_ERROR: Final = "internal error of the server, please report it"

MAX_ELEMENTS: Final = 1 << 20
"""Longest array or map in a request. Room for as many as a message announces is taken before they have come."""
MAX_UNREAD_BYTES: Final = 16 << 20
"""Answers waiting for a client that does not read them; the next request is carried out when it does."""

MAX_PER_TURN: Final = 20
"""Requests of one client that are carried out before another client has its turn"""

REQUEST: Final = 0
RESPONSE: Final = 1


class CallError(Exception):
    """A call that cannot be carried out; its text reaches the user as a RuntimeError of the client."""


class Reply(enum.Enum):
    """How a method's outcome is wrapped."""

    VALUE = "value"
    """`[[1, value]]` or `[[0, [message]]]`."""
    VOID = "void"
    """`[[false]]` or `[[true, [message]]]`."""
    RAW = "raw"
    """As returned; only `apply_batch`, which wraps each command itself."""


@dataclass(frozen=True, slots=True)
class Method:
    function: Callable[..., Any]
    reply: Reply


def success(value: Any) -> list:
    return [[1, value]]


def failure(message: str) -> list:
    return [[0, [message]]]


class Registry:
    """The methods a client may call, by name."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def add(self, name: str, function: Callable[..., Any], reply: Reply) -> None:
        if name in self._methods:
            raise ValueError(f"RPC method {name} is registered twice")
        self._methods[name] = Method(function, reply)

    def refuse(self, name: str, reply: Reply, reason: str) -> None:
        """Answer calls of this name with a failure that names it."""

        def refused(*_: Any) -> None:
            raise CallError(f"not supported by this server: {name} ({reason})")

        self.add(name, refused, reply)

    def names(self) -> list[str]:
        return sorted(self._methods)

    def method(self, name: str) -> Method:
        """What is registered under a name. Raises: KeyError if nothing is."""
        return self._methods[name]

    def call(self, name: str, arguments: list) -> tuple[str | None, Any]:
        """(error, result) of one call. Never raises for what a client sent."""
        method = self._methods.get(name)
        if method is None:
            return f"not supported by this server: {name}", None
        try:
            value = method.function(*arguments)
        except CallError as error:
            return None, _wrap_failure(method.reply, str(error))
        except (TypeError, ValueError, IndexError, KeyError, OverflowError, AttributeError, struct.error) as error:
            log.warning("call %s with unusable arguments: %s", name, error)
            return None, _wrap_failure(method.reply, f"{name}: unusable arguments ({error})")
        except Exception as error:  # one client's call must not end its connection, nor the server
            log.exception("call %s failed", name)
            return None, _wrap_failure(method.reply, f"{name}: {INTERNAL_ERROR} ({type(error).__name__}: {error})")
        if method.reply is Reply.RAW:
            return None, value
        return None, [[False]] if method.reply is Reply.VOID else success(value)


def _wrap_failure(reply: Reply, message: str) -> list:
    return [[True, [message]]] if reply is Reply.VOID else failure(message)


class Caller(Protocol):
    """A client, as those see it who serve its calls."""

    @property
    def local_address(self) -> str:
        """IPv4 address of this machine by which it came."""
        ...


class Host(Protocol):
    """What serves the calls."""

    caller: Caller | None
    """The connection whose call is being carried out"""

    def after_reply(self) -> None:
        """Do what may wait until the caller has its answer."""

    def client_left(self, connection: object) -> None:
        """A connection is gone."""


class RpcConnection(asyncio.Protocol):
    """One client. A malformed message ends the connection, never the server."""

    def __init__(self, registry: Registry, host: Host) -> None:
        self._registry = registry
        self._host = host
        self._paused = False
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            max_buffer_size=MAX_REQUEST_BYTES,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=MAX_UNREAD_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def local_address(self) -> str:
        """As `Caller`."""
        return self._transport.get_extra_info("sockname")[0]

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.client_left(self)

    def pause_writing(self) -> None:
        self._paused = True  # who does not read the answers is asked for no more questions
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._serve()

    def data_received(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
        except (MemoryError, msgpack.BufferFull) as error:
            self._end(error)
            return
        self._serve()

    def _serve(self) -> None:
        """Carry out the requests that are complete, as long as the client takes the answers; others have their turn."""
        for _ in range(MAX_PER_TURN):
            if self._paused or self._transport.is_closing():
                return
            request = self._next_request()
            if request is None:
                return
            message_id, name, arguments = request
            self._host.caller = self
            error, result = self._registry.call(name, arguments)
            self._transport.write(packed([RESPONSE, message_id, error, result]))
            # Cameras are drawn only now: the client computes its traffic while this process draws.
            self._host.after_reply()
        asyncio.get_running_loop().call_soon(self._serve)

    def _next_request(self) -> tuple[int, str, list] | None:
        """(id, method, arguments) of the next complete request; the connection ends at a malformed one."""
        try:
            message = self._unpacker.unpack()
            if not (isinstance(message, list) and len(message) == 4 and message[0] == REQUEST):
                raise ValueError("a request is [0, id, method, [meta, ...]]")
            _, message_id, name, arguments = message
            if not (isinstance(message_id, int) and isinstance(name, str) and isinstance(arguments, list)):
                raise ValueError("a request is [0, id, method, [meta, ...]]")
        except msgpack.OutOfData:
            return None
        except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
            self._end(error)
            return None
        return message_id, name, arguments[1:]

    def _end(self, reason: Exception) -> None:
        log.warning("connection closed: not a MessagePack-RPC request (%s)", reason)
        self._transport.abort()
