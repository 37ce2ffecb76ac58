"""Maps for the evaluation's tests: a straight road, a generated town, and real towns where they are at hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import carla
import pytest

from simulator.towns.generate import generate

ROAD_M = 300.0
ROAD = """<road name="r{id}" length="{length}" id="{id}" junction="-1"><link>{link}</link>
<planView><geometry s="0" x="{x}" y="0" hdg="0" length="{length}"><line/></geometry></planView>
<elevationProfile><elevation s="0" a="0" b="0" c="0" d="0"/></elevationProfile>
<lanes><laneSection s="0">
<left><lane id="1" type="driving" level="false">{lane_link}<width sOffset="0" a="3.5" b="0" c="0" d="0"/></lane></left>
<center><lane id="0" type="none" level="false"/></center>
<right><lane id="-1" type="driving" level="false">{lane_link_right}<width sOffset="0" a="3.5" b="0" c="0" d="0"/>
</lane></right></laneSection></lanes></road>"""


def straight_road() -> str:
    """Two linked roads of 300 m along x: lane -1 along +x at CARLA's y = 1.75, lane 1 along -x at y = -1.75."""
    roads = []
    for road_id, side, other in ((1, "successor", 2), (2, "predecessor", 1)):
        contact = "start" if side == "successor" else "end"
        link = f'<{side} elementType="road" elementId="{other}" contactPoint="{contact}"/>'
        links = {lane: f'<link><{side} id="{lane}"/></link>' for lane in (1, -1)}
        x = (road_id - 1) * ROAD_M
        roads.append(
            ROAD.format(id=road_id, length=ROAD_M, x=x, link=link, lane_link=links[1], lane_link_right=links[-1])
        )
    reference = "<geoReference><![CDATA[+proj=tmerc +lat_0=49 +lon_0=8 ]]></geoReference>"
    header = f'<header revMajor="1" revMinor="4" name="straight">{reference}</header>'
    return f'<?xml version="1.0"?><OpenDRIVE>{header}{"".join(roads)}</OpenDRIVE>'


@pytest.fixture(scope="session")
def straight_map() -> carla.Map:
    return carla.Map("straight", straight_road())


@pytest.fixture(scope="session")
def generated_map() -> carla.Map:
    return carla.Map("Gen03", generate(3))


@pytest.fixture(scope="session")
def real_map(shared_dir: Path):
    """A function giving a real town's map by name."""

    @cache
    def load(name: str) -> carla.Map:
        return carla.Map(name, (shared_dir / "towns" / f"{name}.xodr").read_text())

    return load
