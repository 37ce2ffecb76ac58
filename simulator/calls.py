"""What groups of calls have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulator.rpc import Registry, Reply
from simulator.world import World

if TYPE_CHECKING:
    from simulator.session import Session


def without_effect(*_: Any) -> None:
    """Accepted without effect: the call changes only what this server does not model."""


class Calls:
    """A group of calls over one session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def world(self) -> World:
        return self.session.world

    def register(self, registry: Registry) -> None:
        for name, function in self.values().items():
            registry.add(name, function, Reply.VALUE)
        for name, function in self.voids().items():
            registry.add(name, function, Reply.VOID)

    def values(self) -> dict[str, Callable]:
        return {}

    def voids(self) -> dict[str, Callable]:
        return {}
