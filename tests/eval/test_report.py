"""The report: whole, self-contained, safe whatever stands in the records."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from eval.moments import Step, jpeg
from eval.plots import control_svg
from eval.published import ROUTE_FILE_SHA256
from eval.report import write_report
from eval.report_routes import OPEN_ROUTES
from eval.report_summary import differences, world_of
from eval.results import ResultsError, RouteRecord
from eval.scoring import Scoring
from tests.eval.synthetic_moments import moments, record, write_moments, write_records, write_run

FILM = re.compile(r"demo\.mp4|(rep\d+/)?moments/[A-Za-z0-9_-]+\.mp4")
VOID = {"meta", "img", "br", "link", "input"}
HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>&amp;'


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def checked(text: str) -> Page:
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"<{tag} {name}>"
        if name in ("src", "href", "data", "action", "srcset"):
            assert value.startswith(("data:image/jpeg;base64,", "#")) or FILM.fullmatch(value), (
                f"<{tag} {name}={value}>"
            )
    assert "url(" not in text and "@import" not in text
    return page


def test_a_report_holds_every_route_with_drawings_and_pictures(tmp_path: Path) -> None:
    write_run(tmp_path, ("10", "2"))
    (tmp_path / "demo.mp4").write_bytes(b"a film")
    page = checked(write_report(tmp_path).read_text())
    assert [name for name in page.ids if name.startswith("route-")] == ["route-2", "route-10"]
    assert page.tags.count("svg") == 6
    assert page.tags.count("img") == 6, "start, incident and end of both routes"
    assert "Red light run" in page.text and "embedded server" in page.text
    assert ("a", "href", "demo.mp4") in page.attributes


def report_of(folder: Path, *records: RouteRecord) -> Page:
    write_records(folder, records)
    return checked(write_report(folder, title="t").read_text())


def test_means_are_those_of_the_records(tmp_path: Path) -> None:
    page = report_of(tmp_path, record("1", penalty=0.7), record("2", completion=50.0, penalty=0.5))
    for number in ("47.5", "75.0", "0.600"):
        assert number in page.text


@pytest.mark.parametrize("status", ["Perfect", "Completed", "Failed - Agent got blocked", HOSTILE])
def test_any_status_is_shown(tmp_path: Path, status: str) -> None:
    assert status.removeprefix("Failed - ") in report_of(tmp_path, record("1", status=status)).text


def test_a_failed_setup_is_told_with_its_reason(tmp_path: Path) -> None:
    failed = replace(
        record("1", completion=0.0, status="Failed - Agent couldn't be set up"),
        provenance={"timings_ms": {"world": None, "agent": 3.0}},
        failure_message="RuntimeError: no weights",
        ticks=0,
    )
    page = report_of(tmp_path, failed)
    assert "RuntimeError: no weights" in page.text and "3.0" in page.text and "simulate, draw" not in page.text
    assert "unknown server" in page.text


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    write_run(tmp_path, (HOSTILE,), message=HOSTILE)
    page = checked(write_report(tmp_path, title=HOSTILE).read_text())
    assert page.text.count(HOSTILE) >= 3


def test_an_embedded_run_is_labelled_and_never_ranked(tmp_path: Path) -> None:
    page = report_of(tmp_path, record("1"))
    assert page.text.index("embedded server") < page.text.index("driving score"), "the label comes first"
    assert "this runembedded server" in page.text, "the run's row among the published ones carries the label"
    assert "Not comparable" in page.text and "not by CARLA" in page.text and "another route file" in page.text
    assert "95.3" in page.text and "Raw2Drive" in page.text


def carla(route_id: str, **provenance: str) -> RouteRecord:
    item = record(route_id)
    origin = {"server": "carla", "server_version": "0.9.15-dirty", "route_file_sha256": ROUTE_FILE_SHA256}
    return replace(item, provenance={**item.provenance, **origin, **provenance})


@pytest.mark.parametrize(
    ("records", "reasons"),
    [
        ([carla(str(index)) for index in range(220)], []),
        ([carla(str(index)) for index in range(219)], ["219 of the 220"]),
        ([carla("1", route_file_sha256="0" * 64)], ["another route file"]),
        ([carla(str(index), server_version="0.9.16") for index in range(220)], ["CARLA 0.9.16"]),
        ([carla(str(index), cameras="black") for index in range(220)], ["its own cameras"]),
        ([carla("1"), record("2")], ["embedded server", "another route file"]),
    ],
)
def test_what_differs_from_published_runs_is_said_in_words(records: list[RouteRecord], reasons: list[str]) -> None:
    found = differences(records, world_of(records))
    assert len(found) == len(reasons)
    assert all(reason in text for reason, text in zip(reasons, found, strict=True))


def test_a_comparable_run_on_carla_has_no_warning(tmp_path: Path) -> None:
    page = report_of(tmp_path, *(carla(str(index)) for index in range(220)))
    assert "Not comparable" not in page.text and "embedded" not in page.text and "CARLA 0.9.15" in page.text


def test_other_rules_have_no_published_rows(tmp_path: Path) -> None:
    page = report_of(tmp_path, replace(record("1"), scoring=Scoring.LEADERBOARD_21))
    assert "SimLingo" not in page.text and "published" not in page.ids


def test_the_radar_shows_abilities_with_their_counts(tmp_path: Path) -> None:
    types = ("Accident", "Accident", "HighwayCutIn", "HardBreakRoute", "InvadingTurn", "T_Junction")
    page = report_of(tmp_path, *(record(str(i), scenario_type=kind, clean=i != 1) for i, kind in enumerate(types)))
    assert ("svg", "class", "radar") in page.attributes
    assert "50 %, 1 of 2" in page.text and page.text.count("100 %, 1 of 1") == 4
    assert ("path", "class", "run") in page.attributes and ("path", "class", "reference") in page.attributes


def test_an_ability_without_routes_leaves_its_axis_empty(tmp_path: Path) -> None:
    page = report_of(
        tmp_path, record("1", scenario_type="Accident", clean=True), record("2", scenario_type="HardBreakRoute")
    )
    assert all(f"{name}no route" in page.text for name in ("Merging", "Give Way", "Traffic Signs"))
    assert ("path", "class", "run") not in page.attributes


def test_scenarios_and_their_fate_are_told(tmp_path: Path) -> None:
    page = report_of(
        tmp_path,
        record("1", scenario_type="Accident"),
        record("2", scenario_type="ParkingCutIn", state="waiting"),
    )
    assert "Scenario Accident: triggered, over" in page.text and "Scenario ParkingCutIn: not reached" in page.text


def test_failed_routes_come_first_and_films_are_linked(tmp_path: Path) -> None:
    failed = record("9", completion=20.0, status="Failed - Agent got blocked")
    write_records(tmp_path, [record("1", clean=True), record("2"), failed])
    write_moments(tmp_path, "9")
    (tmp_path / "moments" / "9.mp4").write_bytes(b"a film")
    page = checked(write_report(tmp_path).read_text())
    assert [name for name in page.ids if name.startswith("route-")] == ["route-9", "route-2", "route-1"]
    assert ("a", "href", "moments/9.mp4") in page.attributes
    for choice in ("1 failed", "1 with infractions", "1 without a fault"):
        assert choice in page.text


def test_timing_and_crashes_are_shown_apart(tmp_path: Path) -> None:
    retried = record("2")
    retried = replace(retried, provenance={**retried.provenance, "tries": 2})
    crash = {"format": 1, "route_id": "2", "repetition": 0, "try": 1, "reason": "server died <b>"}
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "crashes.jsonl").write_text(json.dumps(crash) + "\n{broken")
    page = report_of(tmp_path, record("1"), retried)
    assert "The simulation crashed 1 time" in page.text and "server died <b>" in page.text
    assert "24.0 ms" in page.text and "500 MiB" in page.text and "24 s of simulated time in 18 s" in page.text


def test_a_report_of_220_routes_stays_below_30_mb(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (252, 448, 3), dtype=np.uint8)  # larger than any photograph
    write_moments(tmp_path, "0")
    folder = tmp_path / "moments"
    for path in folder.glob("*.jpg"):
        path.write_bytes(jpeg(noise))
    for index in range(1, 220):
        for path in [*folder.glob("0.jsonl"), *folder.glob("0_*.jpg")]:
            (folder / path.name.replace("0", str(index), 1)).hardlink_to(path)
        trace = folder / f"{index}.jsonl"
        text = trace.read_text()
        trace.unlink()
        trace.write_text(text.replace('"route_id":"0"', f'"route_id":"{index}"'))
    write_records(tmp_path, [record(str(index)) for index in range(220)])
    text = write_report(tmp_path).read_text()
    assert text.count("<img") == 220, "each route keeps the picture of its infraction"
    assert len(text) < 30_000_000
    assert text.count('<details class="card route faulty" open>') == OPEN_ROUTES


def test_routes_without_moments_get_their_numbers_all_the_same(tmp_path: Path) -> None:
    write_run(tmp_path, ("1", "2"))
    (tmp_path / "moments" / "1.jsonl").write_text("broken")
    page = checked(write_report(tmp_path).read_text())
    assert page.tags.count("svg") == 3


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no route records"):
        write_report(tmp_path)


def test_a_short_braking_on_a_long_drive_is_drawn() -> None:
    calm = next(moments(1)).step
    fields = {name: getattr(calm, name) for name in calm.__dataclass_fields__}
    steps = [Step(**{**fields, "time_s": 0.1 * i, "brake": float(i == 1001)}) for i in range(3000)]
    braking = control_svg(steps, [])
    calmly = control_svg([Step(**{**fields, "time_s": 0.1 * i, "brake": 0.0}) for i in range(3000)], [])
    brake = re.search(r'<path class="brake" d="([^"]+)"', braking)
    none = re.search(r'<path class="brake" d="([^"]+)"', calmly)
    assert brake is not None and none is not None and brake[1] != none[1]
