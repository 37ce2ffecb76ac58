"""`--view`: the drive while it happens, in rerun if that is installed, otherwise as a page that refreshes itself."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image

from eval.draw import FramePainter, action_text
from eval.moments import Moment, MomentSink, Observer, to_ego

if TYPE_CHECKING:
    from eval.episode import Episode, Tick

PERIOD_S = 0.2
"""The page shows at most so many pictures."""
MAX_WORKERS = 8
JPEG_QUALITY = 85
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Raw2Drive live</title>
<style>body {{ margin: 0; background: #0f141b; color: #92a0b1; font: 15px system-ui, sans-serif; }}
img {{ display: block; width: 100%; max-width: 1280px; margin: 0 auto 12px; }}</style></head>
<body>{images}<script>
for (const image of document.images) {{
  const again = () => setTimeout(() => {{ image.src = image.dataset.file + "?" + Date.now(); }}, 200);
  image.onload = () => {{ image.hidden = false; again(); }};
  image.onerror = () => {{ image.hidden = true; setTimeout(again, 1000); }};
  again();
}}
</script></body></html>
"""
logger = logging.getLogger(__name__)


class LiveView:
    """A tick hook that shows every decision."""

    def __init__(self, folder: Path, worker: int = 0) -> None:
        """`folder`: where the page lies; `worker`: index of this drive among those at the same time."""
        viewer = _rerun(worker)
        sink: MomentSink = _RerunView(viewer) if viewer else _PageView(folder, worker)
        self._observer = Observer([sink])

    def __call__(self, episode: Episode, tick: Tick) -> None:
        self._observer(episode, tick)


def how_to_watch(folder: Path) -> str:
    """What to tell the user before the drive starts."""
    if importlib.util.find_spec("rerun") is not None:
        return "live view: the rerun viewer opens with the first picture"
    return f"live view: open {live_page(folder)} in a browser (for rerun: pip install rerun-sdk)"


def live_page(folder: Path) -> Path:
    """The page of a run's live view."""
    return folder / "live.html"


class _PageView:
    """Paints the newest decision into a picture that the page reloads."""

    def __init__(self, folder: Path, worker: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        images = "".join(f'<img hidden alt="" data-file="live_{index}.jpg">' for index in range(MAX_WORKERS))
        live_page(folder).write_text(_PAGE.format(images=images), encoding="utf-8")
        self._picture = folder / f"live_{worker % MAX_WORKERS}.jpg"
        self._painter = FramePainter()
        self._next_s = 0.0

    def __call__(self, moment: Moment) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + PERIOD_S
        aside = self._picture.with_suffix(".partial")
        Image.fromarray(self._painter.paint(moment)).save(aside, "JPEG", quality=JPEG_QUALITY)
        aside.replace(self._picture)


class _RerunView:
    """Logs cameras, masks, route and numbers to rerun."""

    def __init__(self, rerun: ModuleType) -> None:
        self._rerun = rerun

    def __call__(self, moment: Moment) -> None:
        rerun, step = self._rerun, moment.step
        rerun.set_time("simulation", duration=step.time_s)
        for name, image in moment.cameras.items():
            rerun.log(f"cameras/{name}", rerun.Image(image).compress(jpeg_quality=JPEG_QUALITY))
        views = [("bev", moment.bev)] if moment.bev is not None else []
        views += [(f"imagined/{item.before_s:.1f}_s_before", item.bev) for item in moment.imagined]
        for entity, view in views:
            for name, mask in zip(view.names, view.masks, strict=True):
                rerun.log(f"{entity}/{name}", rerun.DepthImage(mask[::-1]))
        plan_m = to_ego(moment.route.plan, step)
        rerun.log("ego/plan", rerun.LineStrips2D([plan_m[:, ::-1] * -1.0]))
        rerun.log("ego/sparse_route", rerun.LineStrips2D([moment.route_ego_m[:, ::-1] * -1.0]))
        values = {"speed_mps": step.speed_mps, "throttle": step.throttle, "steer": step.steer, "brake": step.brake}
        for name, value in values.items():
            rerun.log(f"control/{name}", rerun.Scalars(value))
        for rank, (index, probability) in enumerate(step.top):
            rerun.log(f"policy/{rank + 1}", rerun.TextLog(f"{probability:.0%} {action_text(index)}"))
        for incident in step.incidents:
            rerun.log("infractions", rerun.TextLog(incident.message, level="WARN"))


def _rerun(worker: int) -> ModuleType | None:
    """The rerun module with its viewer started; None if it is not installed or cannot start."""
    if importlib.util.find_spec("rerun") is None:
        return None
    rerun = importlib.import_module("rerun")
    try:
        rerun.init(f"raw2drive {worker}", spawn=True)
    except (OSError, RuntimeError) as error:
        logger.warning("the rerun viewer does not start (%s); the page is used instead", error)
        return None
    return rerun
