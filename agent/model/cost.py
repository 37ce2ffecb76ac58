"""Operations and bytes of one whole decision, counted without a device, and the least time that GPUs could take.

    python -m agent.model count [--models clone,r50,base] [--dtype bfloat16]

The networks run on torch's meta device, on which tensors have shapes and no values. Every operation reads its inputs
and writes its outputs once; what a cache or a fusion would save is not taken off.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from agent.checkpoint import CheckpointError
from agent.config import ConfigError
from agent.driver import load_driving_model
from agent.model.backbone import fold_batch_norms
from agent.model.bench import CLONE, CLONE_WEIGHTS, DTYPES, BenchError, official_geometry
from agent.model.bev_grid import BevGrid
from agent.model.bevformer import CAN_BUS_SIZE
from agent.model.driving_model import DrivingModel, ModelInput
from agent.model.official import OFFICIAL_MODELS, SQUARE_M, OfficialEncoder, OfficialModel
from agent.model.rig import BENCH2DRIVE_RIG
from agent.model.static_bevformer import StaticBEVFormer
from agent.route import ROUTE_POINTS, VECTOR_SIZE

R50 = "r50"
COUNTED: dict[str, OfficialModel] = {
    R50: replace(OFFICIAL_MODELS["tiny"], grid=BevGrid(100, 100, SQUARE_M)),
    "base": OFFICIAL_MODELS["base"],
}
"""r50: ResNet-50, 480 x 800, 100 x 100 cells, 3 layers."""
MODELS = (CLONE, *COUNTED)
CAMERA_HW = (900, 1600)
CAMERA_CHANNELS = 4
INDEX_BYTES = 4
LAUNCH_NOTHING = ("aten::empty", "aten::_unsafe_view", "aten::_reshape_alias", "aten::detach")
META = torch.device("meta")


@dataclass(frozen=True)
class Gpu:
    """Peak rates by the maker's data sheet."""

    name: str
    tflops: dict[torch.dtype, float]
    """Dense, with accumulation in float32."""
    memory_gb_per_s: float
    host_gb_per_s: float
    """From the host's pinned memory."""


GPUS = (
    Gpu("RTX 3090", {torch.float32: 35.6, torch.bfloat16: 71.0}, 936.0, 25.0),
    Gpu("A100 80 GB", {torch.float32: 19.5, torch.bfloat16: 312.0}, 2039.0, 25.0),
)
LAUNCH_US = 1.5
"""Of each kernel inside a graph: our assumption."""


@dataclass
class Cost:
    """What one part of a decision does."""

    kernels: int = 0
    gflop: float = 0.0
    gigabytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.kernels + other.kernels, self.gflop + other.gflop, self.gigabytes + other.gigabytes)

    def arithmetic_ms(self, gpu: Gpu, dtype: torch.dtype) -> float:
        """At the peak rate: as if every operation were fused with its neighbours and nothing were launched."""
        return self.gflop / gpu.tflops[dtype]

    def unfused_ms(self, gpu: Gpu, dtype: torch.dtype) -> float:
        """Arithmetic or memory at their peak, whichever takes longer, and the launches."""
        memory_ms = 1e3 * self.gigabytes / gpu.memory_gb_per_s
        return max(self.arithmetic_ms(gpu, dtype), memory_ms) + 1e-3 * LAUNCH_US * self.kernels


class ByteCounter(TorchDispatchMode):
    """Counts operations that launch something, and the bytes they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        is_view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if is_view or func.name().startswith(LAUNCH_NOTHING):
            return result
        self.kernels += 1
        if func is torch.ops.aten._embedding_bag.default or func.name().startswith("aten::_embedding_bag"):
            self.bytes += _gather_bytes(args, result[0])
        else:
            self.bytes += sum(map(_size, _tensors((args, kwargs or {}, result))))
        return result


def _gather_bytes(args: Any, output: Tensor) -> int:
    """Rows read of the table, their indices and weights, and the result; not the whole table."""
    table, indices = args[0], args[1]
    weights = next((a for a in args[3:] if isinstance(a, Tensor)), None)
    read = indices.numel() * (table.shape[1] * table.element_size() + INDEX_BYTES)
    return read + (0 if weights is None else _size(weights)) + _size(output)


def _size(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def cost(run: Callable[[], Any]) -> tuple[Cost, Any]:
    """What a function does on the meta device, and its result."""
    flops, bytes_ = FlopCounterMode(display=False), ByteCounter()
    with torch.no_grad(), flops, bytes_:
        result = run()
    return Cost(bytes_.kernels, flops.get_total_flops() / 1e9, bytes_.bytes / 1e9), result


def cost_of_clone(model: DrivingModel, dtype: torch.dtype) -> dict[str, Cost]:
    """Parts of the driving network's decision; encoder geometry and latent states stay in float32."""
    fold_batch_norms(model.encoder.backbone)
    model = model.to(META)
    config = model.config.encoder
    inputs = _meta_inputs(config.image_height, config.image_width)
    state = model.initial(1)
    encoder = model.encoder
    encoder.backbone.to(dtype)
    encoder.neck.to(dtype)

    def features() -> list[Tensor]:
        images = ((inputs.images.flatten(0, 1).float() - encoder.mean) * encoder.inverse_std).to(dtype)
        return [level[None].float() for level in encoder.neck(encoder.backbone(images))]

    costs = {}
    costs["backbone and pyramid"], maps = cost(features)
    costs["encoder"], bev = cost(
        lambda: encoder.lift(maps, inputs.camera_valid, inputs.ego_motion, state.memory, state.has_memory)
    )
    costs["neck"], embed = cost(
        lambda: model.neck(
            bev.transpose(1, 2).unflatten(2, (config.grid.rows, config.grid.columns)), inputs.route, inputs.vector
        )
    )
    costs["world model"], (latent, _) = cost(
        lambda: model.rssm.observe_step(state.latent, None, embed, inputs.first, mode=True)
    )
    costs["policy"], _ = cost(lambda: model.policy(embed, latent))
    return costs


def cost_of_official(model: OfficialModel, dtype: torch.dtype) -> dict[str, Cost]:
    """Parts of an encoder of published shape with fixed rig."""
    config = model.bevformer
    with META:
        network = OfficialEncoder(model).eval()
    backbone, pyramid = fold_batch_norms(network.img_backbone).to(dtype), network.img_neck.to(dtype)
    geometry = official_geometry(model).to(META)
    static = StaticBEVFormer(network.pts_bbox_head, geometry, model.levels_hw, dtype)
    images = torch.empty(config.cameras, 3, *model.image_hw, dtype=torch.uint8, device=META)
    can_bus = torch.empty(1, CAN_BUS_SIZE, device=META)
    memory = torch.empty(1, config.grid.cells, config.embed_dims, device=META)
    costs = {}
    costs["backbone and pyramid"], maps = cost(
        lambda: [level[None] for level in pyramid(backbone((images.float() - 1.0).to(dtype)))]
    )
    static(maps, can_bus, memory)  # constants are made once
    costs["encoder"], _ = cost(lambda: static(maps, can_bus, memory))
    return costs


def _meta_inputs(height: int, width: int) -> ModelInput:
    cameras = len(BENCH2DRIVE_RIG.mounts)
    return ModelInput(
        images=torch.empty(1, cameras, 3, height, width, dtype=torch.uint8, device=META),
        camera_valid=torch.empty(1, cameras, dtype=torch.bool, device=META),
        ego_motion=torch.empty(1, 3, device=META),
        route=torch.empty(1, ROUTE_POINTS, 2, device=META),
        vector=torch.empty(1, VECTOR_SIZE, device=META),
        first=torch.empty(1, dtype=torch.bool, device=META),
    )


def decision_costs(name: str, dtype: torch.dtype, weights: Path = CLONE_WEIGHTS) -> dict[str, Cost]:
    """Parts of one decision. The larger encoders are followed by the clone's neck, world model and policy.

    Raises: CheckpointError, ConfigError.
    """
    clone = cost_of_clone(load_driving_model(weights, "cpu"), dtype)
    if name == CLONE:
        return clone
    later = {part: clone[part] for part in ("neck", "world model", "policy")}
    return {**cost_of_official(COUNTED[name], dtype), **later}


def upload_gigabytes() -> float:
    """Six camera frames as they come from the simulator."""
    return len(BENCH2DRIVE_RIG.mounts) * CAMERA_HW[0] * CAMERA_HW[1] * CAMERA_CHANNELS / 1e9


def table(costs: dict[str, dict[str, Cost]], dtype: torch.dtype) -> list[str]:
    """Markdown: a row per model and part; times at peak rates, from all fused to nothing fused."""
    heads = ["model", "part", "kernels", "GFLOP", "GB moved", *(f"ms, {gpu.name}" for gpu in GPUS)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, parts in costs.items():
        total = sum(parts.values(), Cost())
        for part, value in {**parts, "all": total}.items():
            least = [f"{value.arithmetic_ms(gpu, dtype):.2f} to {value.unfused_ms(gpu, dtype):.2f}" for gpu in GPUS]
            numbers = [str(value.kernels), f"{value.gflop:.2f}", f"{value.gigabytes:.3f}", *least]
            lines.append(f"| {name} | {part} | " + " | ".join(numbers) + " |")
    upload = [f"{gpu.name} {1e3 * upload_gigabytes() / gpu.host_gb_per_s:.1f} ms" for gpu in GPUS]
    lines.append("")
    lines.append(f"Six {CAMERA_HW[1]} x {CAMERA_HW[0]} frames are {1e3 * upload_gigabytes():.0f} MB more to upload, if")
    lines.append(f"they are scaled on the GPU ({', '.join(upload)}); the agent scales them on the CPU.")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m agent.model count", description="Operations and bytes.")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16", help="of convolutions and products")
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="checkpoint folder of the cloned agent")
    options = parser.parse_args(arguments)
    names = [name for name in options.models.split(",") if name]
    unknown = [name for name in names if name not in MODELS]
    try:
        if unknown:
            raise BenchError(f"--models: no model {unknown[0]!r}; choose of {', '.join(MODELS)}")
        dtype = DTYPES[options.dtype]
        costs = {name: decision_costs(name, dtype, options.weights) for name in names}
    except (BenchError, CheckpointError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.dtype}; counted, not measured\n")
    print("\n".join(table(costs, dtype)))
    return 0
