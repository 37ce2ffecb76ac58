"""`python -m simulator serve | bench | towns | pictures`."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Annotated

import tyro

from simulator.orphan import end_with_parent  # isort: skip - first: it notes the parent before heavy imports
from simulator import bench, pictures
from simulator.log_limit import LogLimit
from simulator.server import ServerConfig, ServerError, serve
from simulator.towns.picture import PictureConfig, draw_towns
from simulator.towns.town import TownError

BAD_INPUT = 2
INTERRUPTED = 130


def _serve(config: Annotated[ServerConfig, tyro.conf.arg(name="")]) -> int:
    """Serve a town to CARLA clients until Ctrl-C."""
    if config.die_with_parent:
        end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())
    asyncio.run(serve(config, ready=_say_ready))
    return 0


def _say_ready(host: str, port: int, drawn: str) -> None:
    # The address comes first: programs that start a server wait for this line.
    print(f"listening on {host}:{port}\ncameras are {drawn}", flush=True)


def _bench(config: Annotated[bench.BenchConfig, tyro.conf.arg(name="")]) -> int:
    """Measure ticks with traffic, cameras, start-up and memory on this machine."""
    return bench.main(config)


def _towns(config: Annotated[PictureConfig, tyro.conf.arg(name="")]) -> int:
    """Draw towns from above, all training towns unless some are named."""
    draw_towns(config)
    return 0


def _pictures(config: Annotated[pictures.PicturesConfig, tyro.conf.arg(name="")]) -> int:
    """Draw what cameras see in a few typical scenes."""
    pictures.draw_pictures(config)
    return 0


COMMANDS = {"serve": _serve, "bench": _bench, "towns": _towns, "pictures": _pictures}


def main() -> int:
    try:
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m simulator")
    except (ServerError, TownError, bench.BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:  # while starting; a server that listens ends by its own handler, with 0
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
