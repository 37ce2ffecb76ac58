"""Pictures of futures: the ways that are tried from a base state, and what would be seen on one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eval.criteria import TICK_S
from training import bev
from training.counterfactual import log as logs
from training.counterfactual import render
from training.counterfactual.candidates import CandidateConfig, Candidates, Family, propose
from training.counterfactual.log import EpisodeLog
from training.counterfactual.outcome import FutureKind, kinds, usable
from training.counterfactual.replay import HORIZON_TICKS, NO, Outcomes, Scene, make_scene, replay
from training.counterfactual.surface import Surface

SCALE = 3
"""Picture pixels per mask pixel."""
BACKGROUND, TEXT = (15, 20, 27), (230, 236, 243)
FONT_PX, LINE_PX = 13, 20
COLOURS = {
    FutureKind.SAFE: (90, 220, 120),
    FutureKind.NEAR_MISS: (255, 220, 80),
    FutureKind.REAR_END: (255, 90, 60),
    FutureKind.CROSSING: (255, 60, 150),
    FutureKind.WALKER: (255, 150, 255),
    FutureKind.STATIC: (255, 140, 40),
    FutureKind.OFF_ROAD: (120, 160, 255),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FuturesPictureConfig:
    """What is drawn: a row per log with all ways from one base state and three futures of different kinds."""

    logs: tuple[Path, ...]
    """Folders of logs."""
    out: Path = Path("docs/counterfactual.png")
    rows: int = 4
    seed: int = 0
    candidates: CandidateConfig = field(default_factory=CandidateConfig)

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")


@dataclass(frozen=True, slots=True)
class _Case:
    log: EpisodeLog
    static: bev.StaticMap
    scene: Scene
    candidates: Candidates
    outcomes: Outcomes
    kinds: np.ndarray
    usable: np.ndarray


def draw(config: FuturesPictureConfig) -> Path:
    """Write the picture. Raises: ArrayFileError, OSError, ValueError when no log has a base state."""
    generator = np.random.default_rng(config.seed)
    paths = logs.log_files(config.logs)
    rows: list[Image.Image] = []
    for path in generator.permutation(np.array(paths, object))[: 4 * config.rows]:
        case = _richest(path, config, generator)
        if case is not None and len(rows) < config.rows:
            rows.append(_row(case))
    if not rows:
        raise ValueError("no log is long enough for a future; record longer episodes")
    image = Image.new("RGB", (max(row.width for row in rows), sum(row.height + 8 for row in rows)), BACKGROUND)
    top = 0
    for row in rows:
        image.paste(row, (0, top))
        top += row.height + 8
    config.out.parent.mkdir(parents=True, exist_ok=True)
    image.save(config.out)
    return config.out


def _richest(path: Path, config: FuturesPictureConfig, generator: np.random.Generator) -> _Case | None:
    """Of some base states of a log the one with the most kinds of futures."""
    log = logs.load(path)
    static = logs.town_map(path.parent, log)
    surface = Surface.around(static, log.ego[:, :2])
    bases = np.arange(render.SLICE_TICKS[-1], log.ticks - HORIZON_TICKS, 10)
    best = None
    for base in generator.permutation(bases)[:12]:
        scene = make_scene(log, int(base))
        candidates = propose(log, scene, surface, config.candidates, generator)
        outcomes = replay(scene, surface, candidates.motions)
        found = kinds(log, scene, candidates.motions, outcomes)
        case = _Case(log, static, scene, candidates, outcomes, found, usable(scene, outcomes))
        if best is None or len(set(found[case.usable])) > len(set(best.kinds[best.usable])):
            best = case
    return best


def _row(case: _Case) -> Image.Image:
    """All ways, then three futures."""
    tiles = [_ways(case)]
    order = [k for k in np.argsort(-case.kinds, kind="stable") if case.usable[k]]
    seen: set[int] = set()
    for k in order:
        if int(case.kinds[k]) not in seen and len(tiles) < 4:
            seen.add(int(case.kinds[k]))
            tiles.append(_future(case, int(k)))
    side = bev.SIZE_PX * SCALE
    image = Image.new("RGB", (len(tiles) * (side + 6), side + 2 * LINE_PX), BACKGROUND)
    for column, tile in enumerate(tiles):
        image.paste(tile, (column * (side + 6), 0))
    return image


def _canvas(words: np.ndarray, first: str, second: str) -> Image.Image:
    side = bev.SIZE_PX * SCALE
    image = Image.new("RGB", (side, side + 2 * LINE_PX), BACKGROUND)
    picture = (bev.picture(words) * 0.75).astype(np.uint8)
    image.paste(Image.fromarray(picture.repeat(SCALE, 0).repeat(SCALE, 1)), (0, 2 * LINE_PX))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    pen.text((4, 2), first, fill=TEXT, font=font)
    pen.text((4, LINE_PX), second, fill=TEXT, font=font)
    return image


def _points(poses: np.ndarray, around: np.ndarray) -> list[tuple[float, float]]:
    """Picture coordinates of world points seen from a pose."""
    dx, dy = poses[:, 0] - around[0], poses[:, 1] - around[1]
    c, s = np.cos(around[2]), np.sin(around[2])
    rows = bev.EGO_ROW_PX - (dx * c + dy * s) * bev.PIXELS_PER_M
    columns = bev.SIZE_PX / 2 - (dy * c - dx * s) * bev.PIXELS_PER_M
    return [(SCALE * float(x), SCALE * float(y) + 2 * LINE_PX) for x, y in zip(columns, rows, strict=True)]


def _outline(pose: np.ndarray, half_m: np.ndarray) -> np.ndarray:
    c, s = np.cos(pose[2]), np.sin(pose[2])
    corners = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1), (1, 1)]) * half_m
    return np.stack(
        [pose[0] + corners[:, 0] * c - corners[:, 1] * s, pose[1] + corners[:, 0] * s + corners[:, 1] * c], 1
    )


def _ways(case: _Case) -> Image.Image:
    log, base = case.log, case.scene.base
    counts = ", ".join(
        f"{int((case.kinds[case.usable] == kind).sum())} {kind.name.lower()}"
        for kind in FutureKind
        if (case.kinds[case.usable] == kind).any()
    )
    image = _canvas(
        render.logged_words(log, case.static, base),
        f"{log.meta['town']}, {log.meta['kind']}, {base * TICK_S:.1f} s",
        counts,
    )
    pen = ImageDraw.Draw(image)
    for k in np.flatnonzero(case.usable):
        kind = FutureKind(case.kinds[k])
        pen.line(_points(case.candidates.motions[k], log.ego[base]), fill=COLOURS[kind], width=2)
    return image


def _future(case: _Case, k: int) -> Image.Image:
    """What is seen at a future's failure, or at its end: the words around the edited ego, the way behind it."""
    kind, family = FutureKind(case.kinds[k]), Family(case.candidates.family[k])
    failed = int(case.outcomes.failure_tick()[k])
    step = HORIZON_TICKS if failed == NO else failed
    motion = case.candidates.motions[k]
    words = render.future_words(case.log, case.static, case.scene, motion, case.outcomes.others[k], step)
    when = f"at {step * TICK_S:.2f} s"
    how = f"impact {case.outcomes.impact_mps[k]:.1f} m/s" if case.outcomes.contact_tick[k] == step else ""
    near = f"clearance {case.outcomes.clearance_m[k]:.2f} m" if kind is FutureKind.NEAR_MISS else ""
    first = f"{family.name.lower()} -> {kind.name.lower()}"
    image = _canvas(words, first, ", ".join(part for part in (when, how, near) if part))
    pen = ImageDraw.Draw(image)
    pen.line(_points(motion, motion[step]), fill=COLOURS[kind], width=2)
    pen.line(_points(_outline(motion[step], case.scene.ego_half_m), motion[step]), fill=COLOURS[kind], width=2)
    present = case.scene.present[step]
    for i in np.flatnonzero(present):
        touched = failed != NO and i == case.outcomes.partner[k] and case.outcomes.contact_tick[k] == step
        if touched:
            box = _outline(case.outcomes.others[k, step, i], case.scene.half_m[step, i])
            pen.line(_points(box, motion[step]), fill=(255, 255, 255), width=2)
    return image
