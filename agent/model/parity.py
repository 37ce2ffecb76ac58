"""Compare our image encoder with recorded outputs of the official one.

    python -m agent.model.parity FILE.safetensors FILE.json

Prints the largest difference of every case and frame. Exit code 0: all within the tolerance, 1: not, 2: unusable files.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from agent.model.backbone import ResNet
from agent.model.bev_grid import RigGeometry
from agent.model.bevformer import CAN_BUS_SIZE, PATHS, BEVFormer
from agent.model.fpn import FPN
from agent.model.parity_cases import (
    STATE_PREFIX,
    BackboneCase,
    EncoderCase,
    ReferenceFile,
    ReferenceFileError,
    load_reference,
    weights_from_names,
)

TOLERANCE = 5e-5
"""Largest difference of outputs of unit size in float32."""


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference of one compared output."""

    case: str
    what: str
    largest: float
    remark: str = ""

    def line(self) -> str:
        return f"{self.case:24} {self.what:20} {self.largest:.1e}" + (f"  ({self.remark})" if self.remark else "")


def compare(reference: ReferenceFile) -> Iterator[Difference]:
    """Run every case, one difference per frame and path (or backbone output).

    Raises: ReferenceFileError if a tensor a case needs is missing or misshapen.
    """
    for case in reference.cases:
        if isinstance(case, BackboneCase):
            yield from _compare_backbone(reference, case)
        else:
            yield from _compare_encoder(reference, case)


def _compare_backbone(reference: ReferenceFile, case: BackboneCase) -> Iterator[Difference]:
    backbone = ResNet(case.config).eval()
    neck = FPN(case.config.out_channels, 256, case.levels).eval()
    weights_from_names(backbone, "img_backbone.")
    weights_from_names(neck, "img_neck.")
    maps = backbone(reference.tensor("in/img"))
    outputs = {f"c{stage + 1}": output for stage, output in zip(case.config.out_stages, maps, strict=True)}
    outputs |= {f"p{level}": output for level, output in enumerate(neck(maps))}
    for name, output in outputs.items():
        expected = reference.tensor(f"{case.name}/out/{name}", tuple(output.shape))
        yield Difference(case.name, name, _largest(output - expected))


def _compare_encoder(reference: ReferenceFile, case: EncoderCase) -> Iterator[Difference]:
    for path in PATHS:
        own = _run_encoder(reference, case, path, mix_batch=False)
        mixed = _run_encoder(reference, case, path, mix_batch=True) if case.batch > 1 else own
        for frame, (outputs, mixed_outputs) in enumerate(zip(own, mixed, strict=True)):
            expected = reference.tensor(f"{case.name}/out/frame{frame}.bev", tuple(outputs.shape))
            what, largest = f"frame {frame} {path}", _largest(outputs - expected)
            with_mixing = _largest(mixed_outputs - expected)
            if case.batch == 1 or largest <= with_mixing:
                yield Difference(case.name, what, largest)
            else:
                alone = _largest(outputs[0] - expected[0])
                remark = f"the reference mixes its samples, so does this run; unmixed, the first differs by {alone:.1e}"
                yield Difference(case.name, what, max(with_mixing, alone), remark)


def _run_encoder(reference: ReferenceFile, case: EncoderCase, path: str, mix_batch: bool) -> list[Tensor]:
    """Outputs (b, cells, d) of all frames, each frame's output being the next one's memory."""
    state = f"{case.state_from}/state/{STATE_PREFIX}"
    stored_levels = reference.tensor(state + "transformer.level_embeds").shape[0]  # may exceed the levels in use
    config = replace(case.config, mix_batch=mix_batch, level_embeds=max(stored_levels, case.config.levels))
    # Before anything of its size is allocated:
    reference.tensor(state + "bev_embedding.weight", (config.grid.cells, config.embed_dims))
    encoder = BEVFormer(config, path).eval()
    reference.load_state(encoder, state)
    lidar2img = reference.tensor(f"{case.name}/in/lidar2img", (config.cameras, 4, 4))
    geometry = RigGeometry(config.grid, lidar2img, case.image_hw)
    memory, outputs = None, []
    for frame in range(case.frames):
        features = [
            reference.tensor(
                f"{case.features_from}/in/frame{frame}.feat{level}",
                (case.batch, config.cameras, config.embed_dims, *size),
            )
            for level, size in enumerate(case.levels_hw)
        ]
        can_bus = reference.tensor(f"{case.name}/in/frame{frame}.can_bus", (case.batch, CAN_BUS_SIZE))
        memory = encoder(features, can_bus, geometry, memory)
        outputs.append(memory)
    return outputs


def _largest(difference: Tensor) -> float:
    """Largest absolute value, NaN if there is one."""
    return difference.abs().max().item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m agent.model.parity",
        description="Compare our image encoder with recorded outputs of the official one.",
    )
    parser.add_argument("tensors", type=Path, metavar="FILE.safetensors", help="inputs, weights and official outputs")
    parser.add_argument("cases", type=Path, metavar="FILE.json", help="the configuration of every case in it")
    options = parser.parse_args(arguments)
    worst = 0.0
    try:
        with torch.no_grad():
            for difference in compare(load_reference(options.tensors, options.cases)):
                print(difference.line(), flush=True)
                # A difference that is not a number must not pass: comparisons with it are all false.
                worst = max(worst, difference.largest if difference.largest == difference.largest else float("inf"))
    except ReferenceFileError as error:
        print(error, file=sys.stderr)
        return 2
    verdict = "within" if worst <= TOLERANCE else "ABOVE"
    print(f"largest difference {worst:.1e}, {verdict} the tolerance of {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
