"""The report: whole, self-contained, safe whatever stands in the records."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.moments import Step
from eval.plots import control_svg
from eval.report import report_html, write_report
from eval.results import ResultsError
from tests.eval.synthetic_moments import moments, record, write_run

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
        self.text += data


def checked(text: str) -> Page:
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"<{tag} {name}>"
        if name in ("src", "href", "data", "action", "srcset"):
            assert value.startswith(("data:image/jpeg;base64,", "#")) or value == "demo.mp4", f"<{tag} {name}={value}>"
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


def test_means_are_those_of_the_records() -> None:
    records = [record("1", completion=100.0, penalty=0.7), record("2", completion=50.0, penalty=0.5)]
    page = checked(report_html(records, {}, title="t"))
    for number in ("47.5", "75.0", "0.600"):
        assert number in page.text


@pytest.mark.parametrize("status", ["Perfect", "Completed", "Failed - Agent got blocked", HOSTILE])
def test_any_status_is_shown(status: str) -> None:
    assert status.removeprefix("Failed - ") in checked(report_html([record("1", status=status)], {}, title="t")).text


def test_a_failed_setup_is_told_with_its_reason() -> None:
    failed = replace(
        record("1", completion=0.0, status="Failed - Agent couldn't be set up"),
        provenance={"timings_ms": {"world": None, "agent": 3.0}},
        failure_message="RuntimeError: no weights",
    )
    page = checked(report_html([failed], {}, title="t"))
    assert "RuntimeError: no weights" in page.text and "agent 3.0" in page.text and "world" not in page.text


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    write_run(tmp_path, (HOSTILE,), message=HOSTILE)
    page = checked(write_report(tmp_path, title=HOSTILE).read_text())
    assert page.text.count(HOSTILE) >= 3


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
