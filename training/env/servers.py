"""The server an environment drives on: an embedded one of its own, restarted when it died, or one that is given."""

from __future__ import annotations

import logging

import carla

from eval.planner import RoutePlanner
from eval.server import EmbeddedServer, EmbeddedServerConfig, ServerError, connect, is_embedded, parse_address
from training.env.config import EnvConfig

LOAD_TIMEOUT_S = 120.0
"""Loading a town may take longer than other calls."""
DEAD_TIMEOUT_S = 0.5
"""Patience with a server that is known to be dead."""
logger = logging.getLogger(__name__)


class Servers:
    """Gives a client whose world is a given town; the server is started when first needed."""

    def __init__(self, config: EnvConfig, *, render: bool = False) -> None:
        """render: whether cameras see something on a server of our own. Raises: ServerError if the configured address
        is none."""
        self._config, self._render = config, render
        self._own: EmbeddedServer | None = None
        self._client: carla.Client | None = None
        self._planners: dict[str, RoutePlanner] = {}
        self._suspect = False
        self.starts = 0
        """How often a server was started."""
        self.address = parse_address(config.server) if config.server else ("127.0.0.1", 0)
        self.embedded = not config.server

    def client(self, town: str) -> carla.Client:
        """A client with the town loaded. Raises: ServerError, ServerDiedError."""
        if self._own is not None and (self._suspect or self._own.exit_code() is not None):
            logger.warning("the embedded server is gone or does not answer; another one is started")
            self.stop()
        if self._client is None or self._suspect:
            self._client = self._connect(town)
            self._suspect = False
        self._load(self._client, town)
        return self._client

    def planner(self, town: str) -> RoutePlanner:
        """A planner of the town, which must be loaded."""
        if town not in self._planners:
            assert self._client is not None
            self._planners[town] = RoutePlanner(self._client.get_world().get_map())
        return self._planners[town]

    def alive(self) -> bool:
        """Whether the server is not known to be dead."""
        return self._own is None or self._own.exit_code() is None

    def give_up(self) -> None:
        """The server failed: calls to it are not waited for any more, the next client is a new one."""
        self._suspect = True
        if self._client is not None:
            self._client.set_timeout(DEAD_TIMEOUT_S)

    @property
    def pid(self) -> int | None:
        """Process of our own server; None without one."""
        return None if self._own is None else self._own.pid

    def stop(self) -> None:
        """End our own server; safe to call twice."""
        self._client = None
        own, self._own = self._own, None
        if own is not None:
            own.stop()

    def _connect(self, town: str) -> carla.Client:
        if not self._config.server:
            config = self._config
            settings = EmbeddedServerConfig(
                town=town, town_dir=config.town_dir, threads=config.threads, render=self._render
            )
            own = EmbeddedServer(settings)
            self._own = own
            self.starts += 1
            try:
                own.wait_until_ready()
            except BaseException:
                self.stop()
                raise
            self.address = (own.host, own.port)
        client = connect(*self.address, self._config.timeout_s)
        self.embedded = self._own is not None or is_embedded(client)
        return client

    def _load(self, client: carla.Client, town: str) -> None:
        here = client.get_world().get_map().name.split("/")[-1]
        if here == town:
            return
        client.set_timeout(LOAD_TIMEOUT_S)
        try:
            client.load_world(town, False)
        except RuntimeError as error:
            there = ", ".join(sorted(name.split("/")[-1] for name in client.get_available_maps()))
            raise ServerError(f"the server cannot load town {town} ({error}); it has {there}") from error
        finally:
            client.set_timeout(self._config.timeout_s)
