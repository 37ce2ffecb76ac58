"""Route files: real ones, our own, and hostile ones."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import routes
from eval.routes import (
    Route,
    RouteFileError,
    ScenarioBlock,
    Weather,
    parse_routes,
    read_routes,
    select_routes,
    write_routes,
)

POSITIONS = '<position x="0" y="1" z="0"/><position x="10" y="1" z="0"/>'


def one_route(attributes: str = 'id="1" town="Town01"', body: str = f"<waypoints>{POSITIONS}</waypoints>") -> bytes:
    return f"<routes><route {attributes}>{body}</route></routes>".encode()


def test_reads_the_bench2drive_routes(shared_dir: Path) -> None:
    found = read_routes(shared_dir / "routes" / "bench2drive" / "bench2drive220.xml")
    assert len(found) == 220
    assert all(len(route.scenarios) == 1 and route.weathers for route in found)
    chosen = select_routes(found, towns=["Town01", "Town02"])
    assert len(chosen) == 8
    assert sum(route.keypoint_length_m for route in found) == pytest.approx(23_000, rel=0.1)


def test_reads_the_leaderboard_routes(shared_dir: Path) -> None:
    first, second = read_routes(shared_dir / "routes" / "leaderboard2.0" / "routes_devtest.xml")
    assert (first.town, second.town) == ("Town12", "Town12")
    assert [weather.route_percentage for weather in first.weathers] == [0.0, 100.0]
    assert first.scenarios[0].type == "ParkingExit"
    assert dict(dict(first.scenarios[0].elements)["direction"]) == {"value": "right"}
    assert len(first.scenarios) + len(second.scenarios) == 119


def test_written_routes_read_back(tmp_path: Path) -> None:
    route = Route(
        id="7",
        town="Gen03",
        keypoints=((0.0, 1.5, 0.0), (10.25, -3.0, 0.5)),
        weathers=(Weather(0.0, (("cloudiness", 20.0),)), Weather(100.0, (("wetness", 50.0),))),
        scenarios=(ScenarioBlock("Accident_1", "Accident", (("distance", (("value", "12"),)),)),),
    )
    write_routes([route], tmp_path / "made" / "routes.xml")
    assert read_routes(tmp_path / "made" / "routes.xml") == [route]


BOMB = b"""<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><routes>&b;</routes>"""
EXTERNAL = b"""<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><routes>&x;</routes>"""
REMOTE = b"""<?xml version="1.0"?><!DOCTYPE routes SYSTEM "http://127.0.0.1:1/x.dtd"><routes/>"""
BAD_FILES = {
    "entity bomb": (BOMB, "DTD"),
    "external entity": (EXTERNAL, "DTD"),
    "remote DTD": (REMOTE, "DTD"),
    "empty": (b"", "XML"),
    "not XML": (b"\x00\xff\x10", "XML"),
    "cut off": (one_route()[:-5], "XML"),
    "unknown encoding": (b'<?xml version="1.0" encoding="x-none"?><routes/>', "XML"),
    "other root": (b"<OpenDRIVE/>", "<routes>"),
    "no route": (b"<routes/>", "no <route>"),
    "no id": (one_route('town="Town01"'), "id=missing"),
    "path as id": (one_route('id="../x" town="Town01"'), "id='../x'"),
    "path as town": (one_route('id="1" town="../../etc/passwd"'), "town="),
    "no waypoints": (one_route(body=""), "0 waypoint positions"),
    "one waypoint": (one_route(body='<waypoints><position x="0" y="0" z="0"/></waypoints>'), "1 waypoint"),
    "not a number": (one_route(body=f'<waypoints>{POSITIONS}<position x="a" y="0" z="0"/></waypoints>'), "x='a'"),
    "not finite": (one_route(body=f'<waypoints>{POSITIONS}<position x="nan" y="0" z="0"/></waypoints>'), "finite"),
    "infinite": (one_route(body=f'<waypoints>{POSITIONS}<position x="0" y="inf" z="0"/></waypoints>'), "finite"),
    "far away": (one_route(body=f'<waypoints>{POSITIONS}<position x="1e300" y="0" z="0"/></waypoints>'), "farther"),
    "no z": (one_route(body='<waypoints><position x="0" y="0"/><position x="0" y="0"/></waypoints>'), "z=missing"),
    "weather share": (
        one_route(body=f'<waypoints>{POSITIONS}</waypoints><weathers><weather route_percentage="101"/></weathers>'),
        "0 to 100",
    ),
    "nameless scenario": (
        one_route(body=f"<waypoints>{POSITIONS}</waypoints><scenarios><scenario/></scenarios>"),
        "<scenario>",
    ),
    "same id twice": (one_route().replace(b"</routes>", one_route()[8:]), "twice"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_one_line(name: str) -> None:
    data, expected = BAD_FILES[name]
    with pytest.raises(RouteFileError) as error:
        parse_routes(data, name="bad.xml")
    message = str(error.value)
    assert expected in message
    assert message.startswith("bad.xml") and "\n" not in message and len(message) < 400


def test_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RouteFileError, match="no such route file"):
        read_routes(tmp_path / "none.xml")
    large = tmp_path / "large.xml"
    with large.open("wb") as file:
        file.truncate(routes.MAX_FILE_BYTES + 1)
    with pytest.raises(RouteFileError, match="at most"):
        read_routes(large)


@given(st.binary(max_size=200))
def test_any_bytes_give_routes_or_a_route_file_error(data: bytes) -> None:
    with contextlib.suppress(RouteFileError):
        parse_routes(data, name="x")


def test_unmatched_filters_say_what_there_is() -> None:
    found = parse_routes(one_route(), name="x")
    with pytest.raises(RouteFileError, match="Town01"):
        select_routes(found, towns=["Town09"])
    with pytest.raises(RouteFileError, match=r"no route with id 2; the file has Town01: 1$"):
        select_routes(found, ids=["1", "2"])
    many = [replace(found[0], id=str(number)) for number in range(20)]
    with pytest.raises(RouteFileError, match=r"Town01: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"):
        select_routes(many, ids=["20"])
