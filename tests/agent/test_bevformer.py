"""BEVFormer encoder and the image encoder built on it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agent.model.backbone import ResNet, ResNetConfig
from agent.model.bev_grid import BevGrid, RigGeometry, can_bus_from_motion
from agent.model.bevformer import PATHS, BEVFormer, BEVFormerConfig
from agent.model.deformable import RING, ringed, sample_plain, sample_table, softmax_of_few, table_layout
from agent.model.fpn import FPN
from agent.model.image_encoder import EncoderConfig, ImageEncoder
from agent.model.rig import BENCH2DRIVE_RIG, CameraRig

GRID = BevGrid(9, 7, (-14.0, -8.0, -0.5, 14.0, 28.0, 3.5))
SMALL = BEVFormerConfig(
    grid=GRID, embed_dims=16, heads=2, layers=2, levels=2, temporal_points=2, spatial_points=4, ffn_dims=24
)
LEVELS_HW = ((8, 14), (4, 7))
TINY_IMAGES = EncoderConfig(
    backbone_width=8, bev_rows=9, bev_columns=7, bev_range_m=GRID.range_m, embed_dims=16, heads=2, ffn_dims=24,
    image_height=64, image_width=112, spatial_points=4,
)  # fmt: skip
PUBLISHED = {
    "tiny": {"depth": 50, "style": "pytorch", "stages": (4,), "dcn": (), "levels": 1, "side": 50, "layers": 3},
    "small": {
        "depth": 101,
        "style": "caffe",
        "stages": (4,),
        "dcn": (3, 4),
        "levels": 1,
        "side": 150,
        "layers": 3,
    },
    "base": {
        "depth": 101,
        "style": "caffe",
        "stages": (2, 3, 4),
        "dcn": (3, 4),
        "levels": 4,
        "side": 200,
        "layers": 6,
    },
}
NOT_ENCODER = ("decoder.", "reference_points.", "query_embedding", "cls_branches", "reg_branches", "code_weights")


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def bench2drive_geometry(rig: CameraRig = BENCH2DRIVE_RIG, grid: BevGrid = GRID) -> RigGeometry:
    return RigGeometry(grid, torch.from_numpy(rig.lidar2img(224, 128)), (128, 224))


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """The module with attention that depends on its input: fresh ones do not, which would hide faults."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def encoder(path: str = "static", **changes: object) -> BEVFormer:
    torch.manual_seed(0)
    return shaken(BEVFormer(replace(SMALL, **changes), path)).eval()


def features(b: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, 6, SMALL.embed_dims, *size, generator=generator) for size in LEVELS_HW]


def sample(inputs: list[Tensor], index: int) -> list[Tensor]:
    return [x[index : index + 1] for x in inputs]


MOTION = torch.tensor([[1.5, 0.1, 0.05], [0.3, 0.0, -0.2], [3.0, -0.3, 0.0]])


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_equal_those_of_the_official_models(shared_dir: Path, name: str):
    lines = (shared_dir / "bevformer" / f"keys_{name}.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    official = {key: shape for key, shape, _ in rows if not any(part in key for part in NOT_ENCODER)}
    model = PUBLISHED[name]
    backbone = ResNetConfig(model["depth"], 64, model["stages"], model["style"], model["dcn"])
    side, range_m = model["side"], (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    config = BEVFormerConfig(BevGrid(side, side, range_m), layers=model["layers"], levels=model["levels"])
    modules = {
        "img_backbone.": ResNet(backbone),
        "img_neck.": FPN(backbone.out_channels, 256, model["levels"]),
        "pts_bbox_head.": BEVFormer(config),
    }
    ours = {
        prefix + key: str(list(value.shape))
        for prefix, module in modules.items()
        for key, value in module.state_dict().items()
    }
    assert ours == official


@pytest.mark.parametrize("warp", ["official", "affine"])
def test_paths_agree_in_outputs_and_gradients(warp: str):
    camera_valid = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    has_memory = torch.tensor([True, False, True])
    memory = torch.randn(3, GRID.cells, SMALL.embed_dims)
    results = {}
    for path in PATHS:
        net = encoder(path, warp=warp)
        inputs = [x.requires_grad_() for x in features(3)]
        remembered = memory.clone().requires_grad_()
        output = net(
            inputs,
            can_bus_from_motion(MOTION, 0.1),
            bench2drive_geometry(),
            remembered,
            has_memory,
            camera_valid,
            MOTION,
        )
        (output * torch.linspace(-1.0, 1.0, output.numel()).view_as(output)).sum().backward()
        gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
        gradients |= {"memory": remembered.grad} | {f"level {i}": x.grad for i, x in enumerate(inputs)}
        results[path] = output.detach(), gradients
    torch.testing.assert_close(results["static"][0], results["plain"][0], atol=2e-5, rtol=0.0)
    for name, expected in results["plain"][1].items():
        if expected is None:
            assert "level_embeds" not in name
            continue
        scale = expected.abs().max().item() + 1e-6
        torch.testing.assert_close(results["static"][1][name] / scale, expected / scale, atol=2e-3, rtol=0.0, msg=name)


def test_table_sampling_has_the_derivatives_of_grid_sampling():
    """In double precision, with positions on, over and far outside the border."""
    heads, channels, height, width, queries, points = 2, 3, 4, 5, 6, 3
    maps = torch.randn(1, height, width, heads * channels, dtype=torch.float64)
    x = torch.rand(1, queries, heads, points, dtype=torch.float64) * 9.0 - 2.5
    y = torch.rand(1, queries, heads, points, dtype=torch.float64) * 8.0 - 2.5
    x[0, 0, 0] = torch.tensor([-1e6, 1e6, 2.3])
    weights = torch.rand(1, queries, heads, points, dtype=torch.float64)
    layout = table_layout([(height, width)], heads, torch.device("cpu"), points)
    layout = replace(layout, width=layout.width.double(), height=layout.height.double())

    def by_table(maps: Tensor, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(maps, (0, 0, RING, RING, RING, RING))
        return sample_table(padded.reshape(-1, channels), x, y, weights, layout).flatten(2)

    def by_grid(maps: Tensor, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return sample_plain(maps.unflatten(-1, (heads, channels)), x, y, weights)

    gradients = []
    for function in (by_table, by_grid):
        leaves = [value.clone().requires_grad_() for value in (maps, x, y, weights)]
        output = function(*leaves)
        torch.testing.assert_close(output, by_grid(maps, x, y, weights), atol=1e-9, rtol=0.0)
        gradients.append(torch.autograd.grad(output.square().sum(), leaves))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(by_table(maps, x, y, weights), by_grid(maps, x, y, weights), atol=1e-9, rtol=0.0)


def test_ring_is_zero_and_softmax_is_softmax():
    table = ringed(torch.ones(1, 2, 3, 1))
    assert table.sum() == 6.0
    assert table.shape == (1, 2 + 2 * RING, 3 + 2 * RING, 1)
    logits = 100.0 * torch.randn(4, 5, 8)
    torch.testing.assert_close(softmax_of_few(logits), logits.softmax(-1))


@pytest.mark.parametrize("warp", ["official", "affine"])
@pytest.mark.parametrize("path", PATHS)
def test_a_batch_equals_its_samples_alone(path: str, warp: str):
    net = encoder(path, warp=warp)
    inputs, memory = features(3), torch.randn(3, GRID.cells, SMALL.embed_dims)
    has_memory = torch.tensor([True, False, True])
    camera_valid = torch.tensor([[True] * 6, [True] * 5 + [False], [False, True] * 3])
    geometry, can_bus = bench2drive_geometry(), can_bus_from_motion(MOTION, 0.1)
    with torch.no_grad():
        together = net(inputs, can_bus, geometry, memory, has_memory, camera_valid, MOTION)
        for i in range(3):
            alone = net(
                sample(inputs, i), can_bus[i : i + 1], geometry, memory[i : i + 1], has_memory[i : i + 1],
                camera_valid[i : i + 1], MOTION[i : i + 1],
            )  # fmt: skip
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("warp", ["official", "affine"])
def test_memory_that_is_not_valid_equals_no_memory(warp: str):
    net, inputs, geometry = encoder(warp=warp), features(3), bench2drive_geometry()
    can_bus = can_bus_from_motion(MOTION, 0.1)
    with torch.no_grad():
        without = net(inputs, can_bus, geometry, motion=MOTION)
        memory = 100.0 * torch.randn(3, GRID.cells, SMALL.embed_dims)
        invalid = net(inputs, can_bus, geometry, memory, torch.zeros(3, dtype=torch.bool), motion=MOTION)
        valid = net(inputs, can_bus, geometry, memory, torch.ones(3, dtype=torch.bool), motion=MOTION)
    torch.testing.assert_close(invalid, without, atol=1e-5, rtol=0.0)
    assert (valid - without).abs().max() > 0.1


@pytest.mark.parametrize("path", PATHS)
def test_an_invalid_camera_has_no_influence(path: str):
    net, geometry = encoder(path), bench2drive_geometry()
    camera_valid = torch.tensor([[True, True, False, True, True, True]])
    first, second = features(1), features(1)
    for level in second:
        level[:, 2] = 1000.0
    can_bus = torch.zeros(1, 18)
    with torch.no_grad():
        masked = [net(inputs, can_bus, geometry, camera_valid=camera_valid) for inputs in (first, second)]
        seen = [net(inputs, can_bus, geometry) for inputs in (first, second)]
    assert torch.equal(masked[0], masked[1])
    assert (seen[0] - seen[1]).abs().max() > 0.1


def test_cells_no_camera_sees_depend_on_no_image():
    """In a single-layer encoder; with more, cells read their neighbours."""
    front_only = CameraRig(BENCH2DRIVE_RIG.mounts[:1])
    geometry = bench2drive_geometry(front_only)
    net = encoder(layers=1, cameras=1)
    one, other = ([level[:, :1] for level in features(1, seed)] for seed in (1, 2))
    with torch.no_grad():
        change = (net(one, torch.zeros(1, 18), geometry) - net(other, torch.zeros(1, 18), geometry)).abs().amax(-1)[0]
    assert (change[~geometry.visible[0]] == 0.0).all()
    assert (change[geometry.visible[0]] > 0.0).all()


def test_mixing_the_batch_changes_all_but_the_first_sample():
    inputs, memory = features(2), torch.randn(2, GRID.cells, SMALL.embed_dims)
    arguments = inputs, can_bus_from_motion(MOTION[:2], 0.1), bench2drive_geometry(), memory
    with torch.no_grad():
        own, mixed = encoder()(*arguments), encoder(mix_batch=True)(*arguments)
    torch.testing.assert_close(own[0], mixed[0], atol=1e-5, rtol=0.0)
    assert (own[1] - mixed[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    "bad",
    [{"heads": 3}, {"spatial_points": 6}, {"levels": 5}, {"warp": "sideways"}],
)
def test_impossible_encoders_are_refused(bad: dict[str, object]):
    with pytest.raises(ValueError, match=r"heads|spatial_points|levels|warp"):
        replace(SMALL, **bad)


def test_affine_warp_asks_for_the_motion():
    net = encoder(warp="affine")
    with pytest.raises(ValueError, match="motion"):
        net(features(1), torch.zeros(1, 18), bench2drive_geometry(), torch.zeros(1, GRID.cells, SMALL.embed_dims))


def image_inputs(b: int) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randint(0, 256, (b, 6, 3, 64, 112), dtype=torch.uint8)
    return images, torch.ones(b, 6, dtype=torch.bool), MOTION[:b]


def test_image_encoder_learns_in_all_its_parts():
    net = shaken(ImageEncoder(TINY_IMAGES))
    memory = torch.randn(2, GRID.cells, TINY_IMAGES.embed_dims)
    bev = net(*image_inputs(2), memory, torch.tensor([True, False]))
    assert bev.shape == (2, GRID.cells, TINY_IMAGES.embed_dims)
    bev.square().mean().backward()
    idle = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


def test_image_encoder_ignores_invalid_cameras():
    net = shaken(ImageEncoder(TINY_IMAGES)).eval()
    images, camera_valid, motion = image_inputs(1)
    camera_valid[0, 3] = False
    black = images.clone()
    black[0, 3] = 0
    with torch.no_grad():
        assert torch.equal(net(images, camera_valid, motion), net(black, camera_valid, motion))


def test_image_encoder_in_bfloat16_stays_close():
    net = shaken(ImageEncoder(TINY_IMAGES)).eval()
    inputs = image_inputs(2)
    with torch.no_grad():
        exact = net(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(*inputs)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.05


def test_another_rig_takes_effect_and_going_back_restores():
    net = shaken(ImageEncoder(TINY_IMAGES)).eval()
    inputs = image_inputs(1)
    turned = CameraRig(tuple(replace(mount, yaw_rad=mount.yaw_rad + 0.3) for mount in BENCH2DRIVE_RIG.mounts))
    with torch.no_grad():
        before = net(*inputs)
        net.set_rig(turned)
        other = net(*inputs)
        net.set_rig(BENCH2DRIVE_RIG)
        again = net(*inputs)
    assert (before - other).abs().max() > 1e-2
    assert torch.equal(before, again)


def test_geometry_is_not_part_of_a_checkpoint():
    names = ImageEncoder(TINY_IMAGES).state_dict()
    assert not any("geometry" in name or name in ("mean", "inverse_std") for name in names)


def test_shipped_size_stays_small():
    net = ImageEncoder(EncoderConfig())
    assert sum(parameter.numel() for parameter in net.parameters()) <= 3_500_000
