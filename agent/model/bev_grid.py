"""The BEV grid, which of its cells each camera sees, and how a memory on it follows the car.

Grid frame (`bev`): x right, y forward, z up. Cells are row-major: rows run along +y, row 0 is the rearmost; columns run
along +x, column 0 is the leftmost.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.model.constants import constant

MIN_DEPTH_M = 1e-5
"""Points nearer than this to the image plane are behind the camera. Source: the official encoder's point sampling."""
ANCHOR_MARGIN_M = 0.5
"""Distance of the lowest and highest anchor of a pillar from the ends of the height range. Source: as above."""


@dataclass(frozen=True)
class BevGrid:
    """Cells over a rectangle that need be neither square nor centred on the car."""

    rows: int
    columns: int
    range_m: tuple[float, float, float, float, float, float]
    """x_min, y_min, z_min, x_max, y_max, z_max in the BEV frame."""
    pillar_points: int = 4
    """Anchors above each cell, spread over the height range."""

    def __post_init__(self) -> None:
        x_min, y_min, z_min, x_max, y_max, z_max = self.range_m
        if self.rows < 1 or self.columns < 1 or self.pillar_points < 1:
            raise ValueError(f"a BEV grid needs rows, columns and pillar_points of at least 1, got {self}")
        if not (x_min < x_max and y_min < y_max and z_min < z_max):
            raise ValueError(f"range_m must be (x_min, y_min, z_min, x_max, y_max, z_max), got {self.range_m}")

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def size_m(self) -> tuple[float, float, float]:
        """Extent along x, y and z."""
        x_min, y_min, z_min, x_max, y_max, z_max = self.range_m
        return x_max - x_min, y_max - y_min, z_max - z_min

    @property
    def origin_px(self) -> tuple[float, float]:
        """Where the car is, (column, row), counted from the outer corner of cell (0, 0)."""
        size_x, size_y, _ = self.size_m
        return -self.range_m[0] / size_x * self.columns, -self.range_m[1] / size_y * self.rows

    def centres(self) -> Tensor:
        """Cell centres as fractions (x, y) of the grid: (cells, 2), float32."""
        x = torch.linspace(0.5, self.columns - 0.5, self.columns) / self.columns
        y = torch.linspace(0.5, self.rows - 0.5, self.rows) / self.rows
        return torch.stack([x.repeat(self.rows), y.repeat_interleave(self.columns)], -1)

    def anchors_m(self) -> Tensor:
        """3D reference points of every cell in the BEV frame: (cells, pillar_points, 3), float32."""
        size = torch.tensor(self.size_m)
        z = torch.linspace(ANCHOR_MARGIN_M, self.size_m[2] - ANCHOR_MARGIN_M, self.pillar_points) / size[2]
        fractions = torch.cat(
            [
                self.centres()[:, None].expand(-1, self.pillar_points, -1),
                z[None, :, None].expand(self.cells, -1, -1),
            ],
            -1,
        )
        return fractions * size + torch.tensor(self.range_m[:3])


class RigGeometry(nn.Module):
    """Everything about a grid and a fixed camera rig that no weight and no frame changes, computed once.

    Buffers (not saved): `anchors_uv` (cameras, cells, pillar, 2) fractions of the image, `visible` (cameras, cells),
    `centres` (cells, 2); visible pairs, sorted by cell: `pair_camera`, `pair_cell` (p,), `pair_uv` (p, pillar, 2);
    `padded_cells` (cameras, k): each camera's visible cells, then others up to the busiest camera's number.
    """

    anchors_uv: Tensor
    visible: Tensor
    centres: Tensor
    pair_camera: Tensor
    pair_cell: Tensor
    pair_uv: Tensor
    padded_cells: Tensor

    def __init__(self, grid: BevGrid, lidar2img: Tensor, image_hw: tuple[int, int]) -> None:
        """lidar2img (cameras, 4, 4): BEV point [m] to pixels times depth; image_hw: the padded network input."""
        super().__init__()
        self.grid = grid
        uv, inside = project_anchors(grid.anchors_m(), lidar2img, image_hw)
        visible = inside.any(-1)
        cell, camera = visible.t().nonzero(as_tuple=True)
        self.register_buffer("anchors_uv", uv, persistent=False)
        self.register_buffer("visible", visible, persistent=False)
        self.register_buffer("centres", grid.centres(), persistent=False)
        self.register_buffer("pair_camera", camera, persistent=False)
        self.register_buffer("pair_cell", cell, persistent=False)
        self.register_buffer("pair_uv", uv[camera, cell], persistent=False)
        # A stable descending sort lists each camera's visible cells first.
        padded = visible.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        self.register_buffer("padded_cells", padded[:, : int(visible.sum(1).max())], persistent=False)

    @property
    def cameras(self) -> int:
        return self.visible.shape[0]

    def padded(self, camera_valid: Tensor) -> tuple[Tensor, Tensor]:
        """`padded_cells` and the share (b, cameras, k) of each in its cell's mean, zero for those not seen."""
        valid = camera_valid.to(torch.float32)
        visible = self.visible.to(torch.float32)
        share = visible / (valid @ visible).clamp(min=1.0)[:, None] * valid[..., None]
        return self.padded_cells, share.gather(2, self.padded_cells.expand(len(valid), -1, -1))

    def pair_weights(self, camera_valid: Tensor) -> Tensor:
        """Share of each visible pair in its cell's mean over seeing cameras: camera_valid (b, cameras) -> (b, p)."""
        valid = camera_valid.to(torch.float32)
        seeing = (valid @ self.visible.to(torch.float32)).clamp(min=1.0)
        return valid[:, self.pair_camera] / seeing[:, self.pair_cell]


def project_anchors(anchors_m: Tensor, lidar2img: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Image fractions (cameras, cells, pillar, 2) of the anchors and whether each is in front and inside the image.

    In float32, as official models are trained: at the image border another precision would flip visibilities.
    """
    homogeneous = functional.pad(anchors_m, (0, 1), value=1.0)
    points = torch.einsum("cij,npj->cnpi", lidar2img.to(torch.float32), homogeneous)
    depth = points[..., 2]
    height, width = image_hw
    uv = points[..., :2] / depth.clamp(min=MIN_DEPTH_M)[..., None] / torch.tensor([float(width), float(height)])
    return uv, (depth > MIN_DEPTH_M) & (uv > 0.0).all(-1) & (uv < 1.0).all(-1)


def rotate_memory(memory: Tensor, grid: BevGrid, angle_rad: Tensor, centre_px: tuple[float, float]) -> Tensor:
    """Memory turned into the current heading by the nearest cell, zero where nothing was seen (official models).

    memory (b, cells, d); angle_rad (b,): counter-clockwise turn of the car since; centre_px: (column, row) of the
    turning point. Cells are turned as if they were square, as the official encoder does.
    """
    half = constant((grid.columns * 0.5, grid.rows * 0.5), memory.device, torch.float64)
    centre = constant(tuple(centre_px), memory.device, torch.float64) - half
    c, s = angle_rad.to(torch.float64).cos(), angle_rad.to(torch.float64).sin()
    rotation = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    translation = centre - rotation @ centre
    return _warp(memory, grid, rotation, translation, half, "nearest")


def warp_memory(memory: Tensor, grid: BevGrid, motion: Tensor) -> Tensor:
    """Memory moved rigidly into the current ego frame, bilinear and differentiable, zero where nothing was seen.

    memory (b, cells, d); motion (b, 3): dx, dy [m, previous ego frame: x forward, y left], dyaw [rad, to the left].
    """
    half = constant((grid.columns * 0.5, grid.rows * 0.5), memory.device, torch.float64)
    rotation, translation = cells_before(grid, motion)
    return _warp(memory, grid, rotation, translation, half, "bilinear")


def cells_before(grid: BevGrid, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Where what lies at cell p now lay before the motion: at rotation @ p + translation, from the grid's centre.

    motion (b, 3) as in `warp_memory` -> (b, 2, 2) and (b, 2) in float64, (column, row) [cells].
    """
    motion = motion.to(torch.float64)
    c, s = motion[:, 2].cos(), motion[:, 2].sin()
    rotation_m = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    size_x, size_y, _ = grid.size_m
    px_per_m = constant((grid.columns / size_x, grid.rows / size_y), motion.device, torch.float64)
    # Offset of the grid's centre from the car [m]: positions are turned about the car, not about the centre.
    x_min, y_min, _, x_max, y_max, _ = grid.range_m
    centre_m = constant((0.5 * (x_min + x_max), 0.5 * (y_min + y_max)), motion.device, torch.float64)
    moved_m = torch.stack([-motion[:, 1], motion[:, 0]], -1)
    rotation = px_per_m[:, None] * rotation_m / px_per_m
    return rotation, (rotation_m @ centre_m + moved_m - centre_m) * px_per_m


def _warp(memory: Tensor, grid: BevGrid, rotation: Tensor, translation: Tensor, half: Tensor, mode: str) -> Tensor:
    """Memory read at rotation @ p + translation; p: cells from the grid's centre. All but the memory in float64."""
    cells_xy = torch.stack([half[0], half[1]])
    theta = torch.cat([rotation * cells_xy / cells_xy[:, None], (translation / cells_xy)[..., None]], -1)
    maps = memory.transpose(1, 2).unflatten(2, (grid.rows, grid.columns))
    positions = functional.affine_grid(theta, list(maps.shape), align_corners=False).to(memory.dtype)
    moved = functional.grid_sample(maps, positions, mode=mode, padding_mode="zeros", align_corners=False)
    return moved.flatten(2).transpose(1, 2)


def official_shift(can_bus: Tensor, grid: BevGrid) -> Tensor:
    """Translation since the memory, as fractions (x, y) of the grid in the current heading: (b, 18) -> (b, 2).

    Entries used: 0 and 1, the displacement in a fixed frame [m]; 16, the heading in that frame [rad].
    """
    dx, dy, heading = can_bus[:, 0], can_bus[:, 1], can_bus[:, 16]
    distance, bearing = torch.hypot(dx, dy), torch.atan2(dy, dx)
    size_x, size_y, _ = grid.size_m
    relative = heading - bearing
    return torch.stack([distance * relative.sin() / size_x, distance * relative.cos() / size_y], -1)


def can_bus_from_motion(motion: Tensor, period_s: float) -> Tensor:
    """The 18-number ego vector of a motion alone: (b, 3) -> (b, 18); it holds no absolute position or orientation.

    motion: dx, dy [m, previous ego frame], dyaw [rad]. Filled: 0, 1 displacement in the current heading [m], 7 speed
    [m/s], 15 yaw rate [rad/s], 17 turn [deg]; the rest is zero (so heading is zero too and 0, 1 are in its frame).
    """
    dx, dy, turn = motion.unbind(-1)
    c, s = turn.cos(), turn.sin()
    can_bus = motion.new_zeros(motion.shape[0], 18)
    can_bus[:, 0] = c * dx + s * dy
    can_bus[:, 1] = c * dy - s * dx
    can_bus[:, 7] = torch.hypot(dx, dy) / period_s
    can_bus[:, 15] = turn / period_s
    can_bus[:, 17] = turn * (180.0 / math.pi)
    return can_bus
