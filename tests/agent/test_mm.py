"""The encoder in mmengine's registry, and the sampling path through an operator with mmcv's calling convention."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agent.model.bev_grid import BevGrid, RigGeometry, can_bus_from_motion
from agent.model.bevformer import BEVFormer, BEVFormerConfig
from agent.model.multi_scale_op import mmcv_op, run_levels
from agent.model.rig import BENCH2DRIVE_RIG

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = BevGrid(9, 7, (-14.0, -8.0, -0.5, 14.0, 28.0, 3.5))
SMALL = BEVFormerConfig(
    grid=GRID, embed_dims=16, heads=2, layers=2, levels=2, temporal_points=4, spatial_points=4, ffn_dims=24
)
LEVELS_HW = [(8, 14), (4, 7)]
LIDAR2IMG = BENCH2DRIVE_RIG.lidar2img(224, 128)
MOTION = torch.tensor([[1.5, 0.1, 0.05], [0.3, 0.0, -0.2]])


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def operator(values: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """What mmcv documents its operator to compute, level by level."""
    n, _, heads, channels = values.shape
    total = values.new_zeros(n, locations.shape[1], heads, channels)
    for level, ((height, width), start) in enumerate(zip(shapes.tolist(), starts.tolist(), strict=True)):
        maps = values[:, start : start + height * width].permute(0, 2, 3, 1).reshape(n * heads, channels, height, width)
        grid = 2.0 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1.0
        read = functional.grid_sample(maps, grid, align_corners=False).view(n, heads, channels, *grid.shape[1:3])
        total += torch.einsum("nhcqp,nqhp->nqhc", read, weights[:, :, :, level])
    return total.flatten(2)


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()


def features(b: int) -> list[Tensor]:
    return [torch.randn(b, 6, SMALL.embed_dims, *size) for size in LEVELS_HW]


def test_the_operator_path_equals_the_plain_one():
    plain, through = shaken(BEVFormer(SMALL, "plain")), BEVFormer(SMALL, "mmcv", operator).eval()
    through.load_state_dict(plain.state_dict())
    inputs, memory, can_bus = features(2), torch.randn(2, GRID.cells, 16), can_bus_from_motion(MOTION, 0.1)
    geometry = RigGeometry(GRID, torch.from_numpy(LIDAR2IMG), (128, 224))
    camera_valid = torch.tensor([[True] * 6, [True, False, True, True, False, True]])
    with torch.no_grad():
        for remembered in (None, memory):
            arguments = inputs, can_bus, geometry, remembered, None, camera_valid
            torch.testing.assert_close(through(*arguments), plain(*arguments), atol=2e-5, rtol=0.0)


def test_levels_start_where_the_one_before_ends():
    maps = [torch.full((1, 2, 3, 1, 1), 5.0), torch.full((1, 1, 2, 1, 1), 7.0)]
    centre = torch.tensor([[1.0], [0.5]])[None, None, None]
    row = torch.tensor([[0.5], [0.0]])[None, None, None]
    weights = torch.tensor([[1.0], [10.0]])[None, None, None]
    assert run_levels(operator, maps, centre, row, weights).item() == pytest.approx(75.0)


def test_without_a_compiled_mmcv_the_path_says_what_is_missing():
    try:
        mmcv_op()
    except ImportError as error:
        assert "compiled mmcv" in str(error)
        with pytest.raises(ImportError, match="path='static'"):
            BEVFormer(SMALL, "mmcv")
    else:
        with pytest.raises(ValueError, match="CUDA only"):
            mmcv_op()(*(torch.zeros(1),) * 5)


def test_the_agent_runs_without_mm():
    code = "import sys, agent.entry; print([name for name in ('mmcv', 'mmengine') if name in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    assert finished.stdout.strip() == "[]"


def meta(lidar2img: np.ndarray = LIDAR2IMG, motion: Tensor = MOTION[:1]) -> dict:
    can_bus = can_bus_from_motion(motion, 0.1)[0].numpy()
    return {"lidar2img": list(lidar2img), "img_shape": [(128, 224, 3)] * 6, "can_bus": can_bus}


def built() -> torch.nn.Module:
    registry = pytest.importorskip("mmengine.registry", reason="mmengine (extra mm) is not installed")
    pytest.importorskip("agent.model.mm")
    return shaken(
        registry.MODELS.build(
            {
                "type": "Raw2DriveBEVFormer", "bev_h": 9, "bev_w": 7, "pc_range": list(GRID.range_m), "num_layers": 2,
                "num_feature_levels": 2, "embed_dims": 16, "num_heads": 2, "feedforward_channels": 24, "num_points": 4,
                "rotate_center": None,
            }
        )
    )  # fmt: skip


def test_a_configuration_builds_the_encoder_and_equals_it():
    net = built()
    own = BEVFormer(net.config).eval()
    own.load_state_dict(net.encoder.state_dict())
    geometry = RigGeometry(GRID, torch.from_numpy(LIDAR2IMG), (128, 224))
    inputs, memory = features(1), torch.randn(1, GRID.cells, 16)
    with torch.no_grad():
        expected = own(inputs, can_bus_from_motion(MOTION[:1], 0.1), geometry, memory)
        for previous in (memory, memory.transpose(0, 1)):
            torch.testing.assert_close(net(inputs, [meta()], previous), expected)
        with pytest.raises(ValueError, match="prev_bev"):
            net(inputs, [meta()], memory[:, :-1])


def test_samples_may_have_different_rigs():
    net, inputs = built(), features(2)
    moved = LIDAR2IMG.copy()
    moved[:, :, 3] += moved[:, :, :3] @ np.array([0.5, 0.0, 0.0])
    metas = [meta(), meta(moved, MOTION[1:])]
    with torch.no_grad():
        together = net(inputs, metas)
        for i in range(2):
            alone = net([level[i : i + 1] for level in inputs], metas[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0.0)


def test_backbone_and_pyramid_are_registered_too():
    registry = pytest.importorskip("mmengine.registry", reason="mmengine (extra mm) is not installed")
    pytest.importorskip("agent.model.mm")
    backbone = registry.MODELS.build(
        {"type": "Raw2DriveResNet", "depth": 18, "out_indices": (1, 2), "base_channels": 8}
    )
    neck = registry.MODELS.build({"type": "Raw2DriveFPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2})
    maps = neck(backbone.eval()(torch.randn(1, 3, 32, 64)))
    assert [tuple(x.shape) for x in maps] == [(1, 8, 4, 8), (1, 8, 2, 4)]
