"""Camera rig, BEV grid geometry and memory alignment."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from agent.model.bev_grid import (
    BevGrid,
    RigGeometry,
    can_bus_from_motion,
    official_shift,
    project_anchors,
    rotate_memory,
    warp_memory,
)
from agent.model.rig import BENCH2DRIVE_LIDAR_EGO_M, BENCH2DRIVE_RIG, CameraMount, CameraRig

FRONT, FRONT_LEFT, FRONT_RIGHT, BACK, BACK_LEFT, BACK_RIGHT = range(6)
SQUARE = BevGrid(20, 20, (-20.0, -20.0, -1.0, 20.0, 20.0, 3.0))
LOPSIDED = BevGrid(32, 24, (-24.0, -12.0, -0.5, 24.0, 52.0, 3.5))


def test_intrinsics_equal_the_published_ones():
    focal_px = [mount.image_from_camera(1600, 900)[0, 0] for mount in BENCH2DRIVE_RIG.mounts]
    assert focal_px[FRONT] == pytest.approx(1142.518, abs=1e-3)
    assert focal_px[BACK] == pytest.approx(560.166, abs=1e-3)
    centre = BENCH2DRIVE_RIG.mounts[FRONT].image_from_camera(1600, 900)[:2, 2]
    assert tuple(centre) == (800.0, 450.0)


def test_front_projection_equals_the_published_matrix():
    front = BENCH2DRIVE_RIG.lidar2img(1600, 900, BENCH2DRIVE_LIDAR_EGO_M)[FRONT]
    published = [
        [1142.518, 800.0, 0.0, -952.0],
        [0.0, 450.0, -1142.518, -809.704],
        [0.0, 1.0, 0.0, -1.19],
        [0.0, 0.0, 0.0, 1.0],
    ]
    np.testing.assert_allclose(front, published, atol=1e-3)


def test_projections_equal_those_of_the_reference_file(shared_dir):
    """The reference was made at 320 x 180 pixels (a fifth of the published size), padded below to 192."""
    tensors = load_file(shared_dir / "bevformer" / "reference_encoder.safetensors")
    ours = BENCH2DRIVE_RIG.lidar2img(320, 180, BENCH2DRIVE_LIDAR_EGO_M)
    np.testing.assert_allclose(ours, tensors["tiny/in/lidar2img"].numpy(), atol=1e-3)


def test_driving_images_have_square_pixels_and_a_central_principal_point():
    projection = BENCH2DRIVE_RIG.mounts[FRONT].image_from_camera(224, 128)
    assert projection[0, 0] == projection[1, 1] == pytest.approx(112.0 / math.tan(math.radians(35.0)))
    assert tuple(projection[:2, 2]) == (112.0, 64.0)


@given(x_m=st.floats(-40.0, 40.0), y_m=st.floats(-40.0, 40.0), z_m=st.floats(-1.0, 3.0))
def test_projection_agrees_with_rays(x_m: float, y_m: float, z_m: float):
    """A point lies at the pixel its viewing ray leaves through, written out with angles instead of matrices."""
    projections = BENCH2DRIVE_RIG.lidar2img(224, 128)
    for mount, projection in zip(BENCH2DRIVE_RIG.mounts, projections, strict=True):
        forward = (x_m - mount.x_m) * math.cos(mount.yaw_rad) + (y_m - mount.y_m) * math.sin(mount.yaw_rad)
        left = -(x_m - mount.x_m) * math.sin(mount.yaw_rad) + (y_m - mount.y_m) * math.cos(mount.yaw_rad)
        u_depth, v_depth, depth, _ = projection @ (-y_m, x_m, z_m, 1.0)
        focal_px = 112.0 / math.tan(mount.fov_rad / 2.0)
        assert depth == pytest.approx(forward, abs=1e-9)
        assert u_depth == pytest.approx(112.0 * forward - focal_px * left, abs=1e-6)
        assert v_depth == pytest.approx(64.0 * forward - focal_px * (z_m - mount.z_m), abs=1e-6)


@pytest.mark.parametrize(
    ("point_ego_m", "camera"),
    [
        ((20.0, 0.0), FRONT),
        ((12.0, 15.0), FRONT_LEFT),
        ((12.0, -15.0), FRONT_RIGHT),
        ((-15.0, 0.0), BACK),
        ((-6.0, 15.0), BACK_LEFT),
        ((-6.0, -15.0), BACK_RIGHT),
    ],
)
def test_each_camera_sees_its_own_side(point_ego_m: tuple[float, float], camera: int):
    geometry = RigGeometry(LOPSIDED, torch.from_numpy(BENCH2DRIVE_RIG.lidar2img(224, 128)), (128, 224))
    grid = BevGrid(1, 1, (*_cell_around(point_ego_m)[:2], -0.5, *_cell_around(point_ego_m)[2:], 3.5))
    seen = RigGeometry(grid, torch.from_numpy(BENCH2DRIVE_RIG.lidar2img(224, 128)), (128, 224)).visible[:, 0]
    assert seen[camera]
    assert seen.sum() <= 2
    assert geometry.visible.any(0).float().mean() > 0.95


def _cell_around(point_ego_m: tuple[float, float]) -> tuple[float, float, float, float]:
    x, y = -point_ego_m[1], point_ego_m[0]
    return x - 0.5, y - 0.5, x + 0.5, y + 0.5


def test_anchors_and_visibility_equal_the_reference(shared_dir):
    tensors = load_file(shared_dir / "bevformer" / "reference_encoder.safetensors")
    grid = BevGrid(20, 20, (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0))
    uv, inside = project_anchors(grid.anchors_m(), tensors["tiny/in/lidar2img"], (192, 320))
    expected = tensors["tiny/mid/frame0.bev_mask"][:, 0]
    assert torch.equal(inside, expected)
    reference = tensors["tiny/mid/frame0.reference_points_cam"][:, 0]
    torch.testing.assert_close(uv[expected], reference[expected], atol=1e-5, rtol=0.0)


def test_pairs_list_exactly_the_visible_cells():
    geometry = RigGeometry(LOPSIDED, torch.from_numpy(BENCH2DRIVE_RIG.lidar2img(224, 128)), (128, 224))
    listed = torch.zeros_like(geometry.visible)
    listed[geometry.pair_camera, geometry.pair_cell] = True
    assert torch.equal(listed, geometry.visible)
    assert (geometry.pair_cell.diff() >= 0).all()


def test_pair_weights_sum_to_one_per_seen_cell_and_skip_invalid_cameras():
    geometry = RigGeometry(LOPSIDED, torch.from_numpy(BENCH2DRIVE_RIG.lidar2img(224, 128)), (128, 224))
    camera_valid = torch.tensor([[True] * 6, [False, True, True, True, True, True]])
    weights = geometry.pair_weights(camera_valid)
    sums = torch.zeros(2, LOPSIDED.cells).index_add(1, geometry.pair_cell, weights)
    seen = (camera_valid.float() @ geometry.visible.float()) > 0
    torch.testing.assert_close(sums, seen.float())
    assert (weights[1][geometry.pair_camera == FRONT] == 0).all()


def blob(grid: BevGrid, x_m: float, y_m: float) -> torch.Tensor:
    """A soft spot at a BEV position: (1, cells, 1)."""
    size = torch.tensor(grid.size_m[:2])
    centres_m = grid.centres() * size + torch.tensor(grid.range_m[:2])
    distance = (centres_m - torch.tensor([x_m, y_m])).square().sum(-1)
    return torch.exp(-distance / 18.0)[None, :, None]


def peak_m(grid: BevGrid, memory: torch.Tensor) -> tuple[float, float]:
    """Centre of mass of a map in the BEV frame."""
    size = torch.tensor(grid.size_m[:2])
    centres_m = grid.centres() * size + torch.tensor(grid.range_m[:2])
    mass = memory[0, :, 0].clamp(min=0.0)
    x, y = ((mass[:, None] * centres_m).sum(0) / mass.sum()).tolist()
    return x, y


def seen_after(point_bev_m: tuple[float, float], motion: tuple[float, float, float]) -> tuple[float, float]:
    """Where a standing object is in the BEV frame after the car moved by dx, dy (previous ego frame) and turned."""
    forward, left = point_bev_m[1] - motion[0], -point_bev_m[0] - motion[1]
    c, s = math.cos(motion[2]), math.sin(motion[2])
    return -(c * left - s * forward), c * forward + s * left


@settings(max_examples=25, deadline=None)
@given(
    dx=st.floats(-4.0, 4.0), dy=st.floats(-1.0, 1.0), dyaw=st.floats(-0.3, 0.3),
    x=st.floats(-6.0, 6.0), y=st.floats(8.0, 30.0),
)  # fmt: skip
def test_warped_memory_stays_with_the_world(dx: float, dy: float, dyaw: float, x: float, y: float):
    motion = torch.tensor([[dx, dy, dyaw]])
    moved = warp_memory(blob(LOPSIDED, x, y), LOPSIDED, motion)
    assert peak_m(LOPSIDED, moved) == pytest.approx(seen_after((x, y), (dx, dy, dyaw)), abs=0.35)


@pytest.mark.parametrize("turn_deg", [-90.0, -20.0, 15.0, 90.0])
def test_rotated_memory_turns_against_the_car(turn_deg: float):
    moved = rotate_memory(blob(SQUARE, 3.0, 9.0), SQUARE, torch.tensor([math.radians(turn_deg)]), SQUARE.origin_px)
    expected = seen_after((3.0, 9.0), (0.0, 0.0, math.radians(turn_deg)))
    assert peak_m(SQUARE, moved) == pytest.approx(expected, abs=0.35)


def test_official_shift_and_warp_agree_on_translations():
    """Reading cell + shift in the old map is what the rigid warp does, in the current heading."""
    motion = torch.tensor([[4.0, -2.0, 0.0]])
    shift = official_shift(can_bus_from_motion(motion, 0.1), SQUARE)
    size = torch.tensor(SQUARE.size_m[:2])
    torch.testing.assert_close(shift * size, torch.tensor([[2.0, 4.0]]))
    moved = warp_memory(blob(SQUARE, 2.0, 4.0), SQUARE, motion)
    torch.testing.assert_close(moved, blob(SQUARE, 0.0, 0.0), atol=1e-3, rtol=0.0)


def test_displacement_in_the_ego_vector_is_in_the_current_heading():
    """Straight ahead in the old heading is to the right after a left turn."""
    can_bus = can_bus_from_motion(torch.tensor([[1.0, 0.0, math.pi / 2]]), 0.1)
    torch.testing.assert_close(can_bus[0, :2], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0.0)
    assert can_bus[0, 7] == pytest.approx(10.0)
    assert can_bus[0, 17] == pytest.approx(90.0)
    assert can_bus[0, 16] == 0.0


def test_without_motion_the_memory_stays():
    memory = torch.randn(2, LOPSIDED.cells, 3)
    torch.testing.assert_close(warp_memory(memory, LOPSIDED, torch.zeros(2, 3)), memory, atol=1e-5, rtol=0.0)
    still = rotate_memory(memory, LOPSIDED, torch.zeros(2), LOPSIDED.origin_px)
    assert torch.equal(still, memory)


def test_lopsided_grid_knows_where_the_car_is():
    assert LOPSIDED.origin_px == pytest.approx((12.0, 6.0))


def test_a_car_looking_elsewhere_sees_elsewhere():
    forward = CameraMount("only", 0.0, 0.0, 1.6, 0.0, math.radians(70.0))
    backward = CameraMount("only", 0.0, 0.0, 1.6, math.pi, math.radians(70.0))
    seen = [
        RigGeometry(SQUARE, torch.from_numpy(CameraRig((mount,)).lidar2img(224, 128)), (128, 224)).visible[0]
        for mount in (forward, backward)
    ]
    assert not (seen[0] & seen[1]).any()
    assert torch.equal(seen[0].view(20, 20).flip(0, 1).flatten(), seen[1])


@pytest.mark.parametrize("bad", [(10.0, 0.0, 0.0, -10.0, 5.0, 1.0), (0.0, 0.0, 0.0, 1.0, 1.0, 0.0)])
def test_empty_ranges_are_refused(bad):
    with pytest.raises(ValueError, match="range_m"):
        BevGrid(4, 4, bad)
