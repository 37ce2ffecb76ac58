"""The report in a real browser: everything has its place, nothing overflows, nothing is asked for."""

import html
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.report import write_report
from tests.eval.synthetic_moments import record, write_moments, write_records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PATIENCE_S = 280.0
WIDTHS_PX = (1280, 400)
SCREEN_PX = (1280, 900)
SECTIONS = ("metrics", "published", "routes", "timing", "route-1", "route-2", "route-3")
HARNESS = """<!DOCTYPE html><meta charset="utf-8">{frames}<pre id="result"></pre><script>
window.onload = () => {{
  const measured = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, root = page.documentElement;
    const height = element => Math.round(element.getBoundingClientRect().height);
    measured[frame.width] = {{
      width: frame.contentWindow.innerWidth,
      scroll: root.scrollWidth,
      requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
      heights: Object.fromEntries([...page.querySelectorAll("[id]")].map(element => [element.id, height(element)])),
      flat: [...page.querySelectorAll("section, svg, img, table, .tile")].filter(e => !height(e)).map(e => e.outerHTML),
      pictures: [...page.images].map(image => image.naturalWidth),
    }};
    page.querySelectorAll("details").forEach(details => {{ details.open = false; }});
    page.defaultView.location.hash = "#route-2";
    measured[frame.width].unfolded = [...page.querySelectorAll("details[open]")].map(e => e.lastElementChild.id);
    page.getElementById("show-failed").click();
    measured[frame.width].shown = [...page.querySelectorAll("details.route")].filter(height).map(e => e.className);
  }}
  document.getElementById("result").textContent = JSON.stringify(measured);
}};
</script>"""


@dataclass(frozen=True)
class Outcome:
    output: str
    console: list[str]


def browse(folder: Path, page: Path, *options: str) -> Outcome:
    """Load a page from disk in a browser without network and with a profile of its own."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--disable-dev-shm-usage"]  # containers have little of it
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return Outcome(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    empty = run / "empty.html"
    empty.write_text("<!DOCTYPE html><title>empty</title>")
    try:
        browse(run, empty, "--dump-dom")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"chromium does not run here: exit code {error.returncode}")
    records = [
        record("1", completion=40.0, status="Failed - Agent got blocked", scenario_type="Accident"),
        record("2", scenario_type="HighwayCutIn"),
        record("3", scenario_type="T_Junction", clean=True),
    ]
    write_records(run, records)
    for item in records:
        write_moments(run, item.route_id, message="ran a red light " + "at a place with a long name " * 5)
    return write_report(run, title="Driving report")


def measure(folder: Path, report: Path) -> dict[str, Any]:
    """The page in frames of several widths of one window, without its policy, which would stop the measuring."""
    text = report.read_text()
    assert text.count("Content-Security-Policy") == 1
    free = html.escape(text.replace("Content-Security-Policy", "X-Ignored"), quote=True)
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{free}"></iframe>' for width in WIDTHS_PX)
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(frames=frames))
    output = browse(folder, harness, "--dump-dom").output
    result = output[output.rindex('<pre id="result">') + len('<pre id="result">') : output.rindex("</pre>")]
    return json.loads(html.unescape(result))


def test_nothing_is_missing_or_overflows_and_nothing_is_requested(tmp_path: Path, report: Path) -> None:
    measured = measure(tmp_path, report)
    for width in WIDTHS_PX:
        page = measured[str(width)]
        assert page["width"] == width
        assert page["scroll"] <= width, f"{page['scroll']} px wide in a window of {width} px"
        assert [name for name in SECTIONS if page["heights"].get(name, 0) < 40] == []
        assert page["flat"] == []
        assert len(page["pictures"]) == 9 and all(page["pictures"])
        assert [name for name in page["requests"] if not name.startswith("data:")] == []
        assert page["unfolded"] == ["route-2"], "a link unfolds the route that it leads to"
        assert len(page["shown"]) == 1 and "failed" in page["shown"][0], "the filter leaves the failed route"


def test_the_page_itself_draws_without_a_complaint(tmp_path: Path, report: Path) -> None:
    picture = tmp_path / "page.png"
    size = f"--window-size={SCREEN_PX[0]},{SCREEN_PX[1]}"
    outcome = browse(tmp_path, report, size, f"--screenshot={picture}")
    assert outcome.console == []
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=np.float64)
    assert pixels.shape == SCREEN_PX[::-1]
    for band in np.array_split(pixels, 3):
        assert band.std() > 5.0, "a third of the window shows nothing"
