"""The encoder made for driving: the same numbers as the trained one, for every grid, rig, batch and convention."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agent.model.bev_grid import BevGrid, RigGeometry, can_bus_from_motion
from agent.model.bevformer import BEVFormer, BEVFormerConfig
from agent.model.official import OFFICIAL_MODELS, OfficialModel
from agent.model.parity import TOLERANCE
from agent.model.parity_cases import EncoderCase, load_reference
from agent.model.rig import BENCH2DRIVE_RIG, CameraRig
from agent.model.static_bevformer import StaticBEVFormer
from tests.bench.bevformer_reference import ReferenceEncoder

GRID = BevGrid(9, 7, (-14.0, -8.0, -0.5, 14.0, 28.0, 3.5))
SMALL = BEVFormerConfig(
    grid=GRID, embed_dims=16, heads=2, layers=2, levels=2, temporal_points=2, spatial_points=4, ffn_dims=24
)
LEVELS_HW = [(8, 14), (4, 7)]
MOTION = torch.tensor([[1.5, 0.1, 0.05], [0.3, 0.0, -0.2], [3.0, -0.3, 0.0]])
BFLOAT16_ERROR = 0.05
"""Largest difference in bfloat16 of outputs of unit size."""


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def encoder(config: BEVFormerConfig = SMALL, path: str = "plain") -> BEVFormer:
    """Random weights whose attention depends on its input."""
    net = BEVFormer(config, path).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if "sampling_offsets" in name or "attention_weights" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def geometry(rig: CameraRig = BENCH2DRIVE_RIG, grid: BevGrid = GRID) -> RigGeometry:
    return RigGeometry(grid, torch.from_numpy(rig.lidar2img(224, 128)), (128, 224))


def features(b: int, cameras: int = 6) -> list[Tensor]:
    return [torch.randn(b, cameras, SMALL.embed_dims, *size) for size in LEVELS_HW]


@pytest.mark.parametrize("warp", ["official", "affine"])
@pytest.mark.parametrize("with_memory", [[True, True, True], [True, False, True], None])
def test_it_equals_the_plain_path(warp: str, with_memory: list[bool] | None):
    net = encoder(replace(SMALL, warp=warp, alias_shift=True, rotate_centre_px=(2.0, 3.0)))
    inputs, can_bus = features(3), can_bus_from_motion(MOTION, 0.1)
    camera_valid = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    memory = None if with_memory is None else torch.randn(3, GRID.cells, SMALL.embed_dims)
    has_memory = None if with_memory is None else torch.tensor(with_memory)
    with torch.no_grad():
        expected = net(inputs, can_bus, geometry(), memory, has_memory, camera_valid, MOTION)
    ours = StaticBEVFormer(net, geometry(), LEVELS_HW)(inputs, can_bus, memory, has_memory, camera_valid, MOTION)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0.0)


def test_memory_of_all_samples_needs_no_flags():
    net, inputs, can_bus = encoder(), features(2), can_bus_from_motion(MOTION[:2], 0.1)
    memory = torch.randn(2, GRID.cells, SMALL.embed_dims)
    with torch.no_grad():
        expected = net(inputs, can_bus, geometry(), memory)
    torch.testing.assert_close(
        StaticBEVFormer(net, geometry(), LEVELS_HW)(inputs, can_bus, memory), expected, atol=2e-5, rtol=0.0
    )


def test_another_rig_and_number_of_cameras():
    rig = CameraRig(BENCH2DRIVE_RIG.mounts[2:5])
    net = encoder(replace(SMALL, cameras=3, camera_embeds=False, can_bus_norm=False))
    inputs, can_bus = features(1, 3), torch.zeros(1, 18)
    with torch.no_grad():
        expected = net(inputs, can_bus, geometry(rig))
    ours = StaticBEVFormer(net, geometry(rig), LEVELS_HW)(inputs, can_bus)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0.0)
    other = StaticBEVFormer(net, geometry(CameraRig(BENCH2DRIVE_RIG.mounts[:3])), LEVELS_HW)(inputs, can_bus)
    assert (other - expected).abs().max() > 0.1


def test_it_equals_the_recorded_official_outputs(shared_dir):
    folder = shared_dir / "bevformer"
    reference = load_reference(folder / "reference_encoder.safetensors", folder / "reference_encoder.json")
    case = next(case for case in reference.cases if isinstance(case, EncoderCase) and case.batch == 1)
    net = BEVFormer(case.config)
    reference.load_state(net, f"{case.state_from}/state/pts_bbox_head.")
    lidar2img = reference.tensor(f"{case.name}/in/lidar2img")
    rig = RigGeometry(case.config.grid, lidar2img, case.image_hw)
    exact = StaticBEVFormer(net, rig, list(case.levels_hw))
    rough = StaticBEVFormer(net, rig, list(case.levels_hw), torch.bfloat16)
    yardstick = ReferenceEncoder(net, lidar2img, case.image_hw)
    memory = rough_memory = None
    for frame in range(2):
        maps = [reference.tensor(f"{case.features_from}/in/frame{frame}.feat{i}") for i in range(len(case.levels_hw))]
        can_bus = reference.tensor(f"{case.name}/in/frame{frame}.can_bus")
        expected = reference.tensor(f"{case.name}/out/frame{frame}.bev")
        assert (yardstick(maps, can_bus, memory) - expected).abs().max() <= TOLERANCE
        memory = exact(maps, can_bus, memory)
        assert (memory - expected).abs().max() <= TOLERANCE
        rough_memory = rough(maps, can_bus, rough_memory)
        assert rough_memory.dtype == torch.float32
        assert 1e-4 < (rough_memory - expected).abs().max() < BFLOAT16_ERROR


def test_reference_operations_equal_ours_on_several_levels():
    net, rig = encoder(replace(SMALL, alias_shift=True)), geometry()
    reference = ReferenceEncoder(net, torch.from_numpy(BENCH2DRIVE_RIG.lidar2img(224, 128)), (128, 224))
    inputs, memory = features(1), torch.randn(1, GRID.cells, SMALL.embed_dims)
    for remembered in (None, memory):
        can_bus = can_bus_from_motion(MOTION[:1], 0.1)
        with torch.no_grad():
            expected = net(inputs, can_bus, rig, remembered)
        torch.testing.assert_close(reference(inputs, can_bus, remembered), expected, atol=2e-5, rtol=0.0)


def test_parts_are_told_in_order():
    told: list[str] = []
    static = StaticBEVFormer(encoder(), geometry(), LEVELS_HW)
    static(features(1), torch.zeros(1, 18), mark=told.append)
    assert told == ["align", "values", *(["temporal", "spatial", "ffn"] * SMALL.layers)]


def test_maps_of_another_size_are_refused():
    static = StaticBEVFormer(encoder(), geometry(), LEVELS_HW)
    with pytest.raises(ValueError, match="made for maps of"):
        static([level[..., :-1] for level in features(1)], torch.zeros(1, 18))
    with pytest.raises(ValueError, match="2 map sizes"):
        StaticBEVFormer(encoder(), geometry(), LEVELS_HW[:1])
    with pytest.raises(ValueError, match="mix_batch"):
        StaticBEVFormer(encoder(replace(SMALL, mix_batch=True)), geometry(), LEVELS_HW)


def assert_compiled_equals_plain(compiler: str, dtype: torch.dtype, error: float) -> None:
    net, inputs, can_bus = encoder(), features(1), can_bus_from_motion(MOTION[:1], 0.1)
    memory = torch.randn(1, GRID.cells, SMALL.embed_dims)
    with torch.no_grad():
        expected = net(inputs, can_bus, geometry(), memory)
    compiled = StaticBEVFormer(net, geometry(), LEVELS_HW, dtype, compiler)
    assert (compiled(inputs, can_bus, memory) - expected).abs().max() < error


def test_it_can_be_compiled():
    """Traced whole, without the compiler behind it, which takes a minute."""
    assert_compiled_equals_plain("eager", torch.float32, 2e-5)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.bfloat16, BFLOAT16_ERROR)])
def test_compiled_it_stays_the_same(dtype: torch.dtype, error: float):
    assert_compiled_equals_plain("inductor", dtype, error)


@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_official_models_know_the_sizes_of_their_maps(name: str):
    model: OfficialModel = OFFICIAL_MODELS[name]
    assert len(model.levels_hw) == model.levels
    expected = {(15, 25), (23, 40), (116, 200), (92, 160)}
    assert model.levels_hw[0] in expected
    assert model.levels_hw[-1] in {(15, 25), (23, 40), (12, 20)}
