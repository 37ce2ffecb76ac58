"""Times our encoder against the reference operations, in turns on one thread of this machine.

    python -m tests.bench.bevformer_speed [--model tiny] [--rounds 9] [--compiled]

Prints the median and least CPU time per frame of each variant, the median of its ratios to the reference run beside it,
and its largest difference from the reference's output (which has unit size).
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from agent.model.bench import official_geometry
from agent.model.bevformer import CAN_BUS_SIZE, BEVFormer
from agent.model.official import OFFICIAL_MODELS
from agent.model.rig import BENCH2DRIVE_LIDAR_EGO_M, BENCH2DRIVE_RIG
from agent.model.static_bevformer import StaticBEVFormer
from tests.bench.bevformer_reference import ReferenceEncoder

REFERENCE = "reference"


def variants(name: str, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """A frame with memory by the reference operations and by our encoder in each of its forms, same random weights."""
    torch.manual_seed(0)
    model = OFFICIAL_MODELS[name]
    config, (height, width) = model.bevformer, model.image_hw
    encoder = BEVFormer(config).eval().requires_grad_(False)
    for parameter_name, parameter in encoder.named_parameters():
        if "sampling_offsets" in parameter_name or "attention_weights" in parameter_name:
            parameter.add_(0.02 * torch.randn_like(parameter))  # fresh ones ignore their input
    geometry = official_geometry(model)
    lidar2img = torch.from_numpy(BENCH2DRIVE_RIG.lidar2img(width, height, BENCH2DRIVE_LIDAR_EGO_M))
    features = [torch.randn(1, config.cameras, config.embed_dims, *size) for size in model.levels_hw]
    can_bus = torch.zeros(1, CAN_BUS_SIZE)
    can_bus[0, 0], can_bus[0, 17] = 0.5, 1.0
    memory = torch.randn(1, config.grid.cells, config.embed_dims)
    reference = ReferenceEncoder(encoder, lidar2img, model.image_hw)
    runs: dict[str, Callable[[], Tensor]] = {
        REFERENCE: lambda: reference(features, can_bus, memory),
        "training path": lambda: encoder(features, can_bus, geometry, memory),
    }
    for compiler in (None, "inductor") if compiled else (None,):
        for dtype in (torch.float32, torch.bfloat16):
            static = StaticBEVFormer(encoder, geometry, model.levels_hw, dtype, compiler)
            label = f"static {str(dtype).removeprefix('torch.')}" + (" compiled" if compiler else "")
            runs[label] = lambda static=static: static(features, can_bus, memory)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bevformer_speed")
    parser.add_argument("--model", choices=list(OFFICIAL_MODELS), default="tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="with torch.compile, whose first frame takes minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    runs = variants(options.model, options.compiled)
    outputs = {label: frame() for label, frame in runs.items()}
    spent_ms: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(options.rounds):
        for label, frame in runs.items():
            start = time.process_time()
            frame()
            spent_ms[label].append(1e3 * (time.process_time() - start))
    print(f"{options.model} encoder, one thread, {options.rounds} rounds in turns, CPU ms per frame")
    for label, times in spent_ms.items():
        ratio = median(slow / own for slow, own in zip(spent_ms[REFERENCE], times, strict=True))
        error = (outputs[label] - outputs[REFERENCE]).abs().max().item()
        print(f"{label:24} median {median(times):7.1f}  least {min(times):7.1f}  x{ratio:4.2f}  difference {error:.1e}")


if __name__ == "__main__":
    main()
