"""What an update of the raw stage costs at any size: timed on a device, or counted where there is none.

Counted are the world model's loss and its backward pass on torch's meta device, on which tensors have shapes and no
values: operations of matrix products and convolutions, and what autograd keeps for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agent.ego_vector import MANOEUVRE_SIZE
from agent.ego_vector import VECTOR_SIZE as EGO_SIZE
from agent.model.driving_model import ENCODERS, EncoderSize, ModelInput
from agent.route import ROUTE_POINTS, VECTOR_SIZE
from training.bench import BenchConfig, random_windows
from training.policy.actor_critic import ActorCritic
from training.presets import Recipe, Size, preset
from training.privileged.checkpoint import PrivilegedModel
from training.raw.config import RawConfig, raw_config
from training.raw.learner import RawLearner
from training.raw.model import RawWorldModel
from training.throughput import LearnerTiming, check_device, time_updates
from training.world_model.model import Replayed, WorldModel

GIB = 2**30
META = torch.device("meta")
COUNTED_STEPS = 6
FLOAT_BYTES = 4
NUMBERS_PER_WEIGHT = 4
"""Weight, gradient and the optimiser's two moments."""
Kind = TypeVar("Kind", Replayed, ModelInput)


def full_config(recipe: Recipe, size: Size, encoder: EncoderSize, **options: Any) -> RawConfig:
    """The raw stage under a privileged model of a size; options are further fields of RawConfig."""
    teacher = preset(recipe, size)
    world = teacher.world_model
    world = replace(world, observation=replace(world.observation, vector=EGO_SIZE))
    return raw_config(replace(teacher, world_model=world), encoder=ENCODERS[encoder](), **options)


def random_teacher(config: RawConfig) -> PrivilegedModel:
    """A privileged model with random weights: time does not depend on them."""
    weights = torch.Generator().manual_seed(0)
    world = WorldModel(config.world_model, weights)
    return PrivilegedModel(config, world.eval(), ActorCritic(config.policy, config.world_model, weights).eval())


def random_drives(config: RawConfig, bench: BenchConfig) -> Replayed:
    """Windows with sensors and ego vector."""
    observation, encoder = config.world_model.observation, config.model.encoder
    batch = random_windows(replace(bench, size_px=observation.size_px))
    generator = torch.Generator().manual_seed(bench.seed)
    shape = tuple(batch.first.shape)
    images = (*shape, 6, 3, encoder.image_height, encoder.image_width)
    sensors = ModelInput(
        images=torch.randint(0, 255, images, generator=generator, dtype=torch.uint8),
        camera_valid=torch.ones(*shape, 6, dtype=torch.bool),
        ego_motion=torch.tensor([0.5, 0.0, 0.02]).repeat(*shape, 1),
        route=20.0 * torch.randn(*shape, ROUTE_POINTS, 2, generator=generator),
        vector=torch.rand(*shape, VECTOR_SIZE + MANOEUVRE_SIZE, generator=generator),
        first=batch.first,
    )
    return replace(batch, sensors=sensors, vector=torch.randn(*shape, observation.vector, generator=generator))


def time_raw(config: RawConfig, bench: BenchConfig, device: str) -> LearnerTiming:
    """Time updates of raw world model, actor and critic. Raises: ConfigError without the device."""
    check_device(device)
    torch.set_num_threads(bench.threads)
    learner = RawLearner(config, random_teacher(config), seed=bench.seed, device=device)
    return time_updates(learner, _on(random_drives(config, bench), torch.device(device)), bench, device)


@dataclass(frozen=True, slots=True)
class PartCost:
    """What a part of the raw world model does and keeps for one replayed decision."""

    parameters: int
    forward_gflop: float
    gflop: float
    """With the backward pass."""
    kept_gib: float


@dataclass(frozen=True, slots=True)
class UpdateCost:
    """What an update of the world model costs, for any number of decisions."""

    parts: dict[str, PartCost]
    """images: backbone and pyramid; lift: BEV encoder; rest: neck, recurrence, decoder and the teacher's own states."""
    teacher: int
    """Parameters of the privileged model, which are kept without gradients."""
    memory_gib: float
    """The BEV features of one decision, which are kept in any case."""

    @property
    def parameters(self) -> int:
        """That learn."""
        return sum(part.parameters for part in self.parts.values())

    def weights_gib(self) -> float:
        """Weights of both streams, and gradients and moments of the one that learns."""
        return FLOAT_BYTES * (NUMBERS_PER_WEIGHT * self.parameters + self.teacher) / GIB

    def kept_gib(self, windows: int, steps: int, *, recompute: bool) -> float:
        """Kept for the backward pass. recompute: the inside of a BEV encoder's step only while it is gone back over."""
        lift = self.parts["lift"].kept_gib
        others = sum(part.kept_gib for name, part in self.parts.items() if name != "lift")
        if recompute:
            return windows * (steps * (others + self.memory_gib) + lift)
        return windows * steps * (others + lift)

    def tflop(self, windows: int, steps: int, *, recompute: bool) -> float:
        """Of an update."""
        again = self.parts["lift"].forward_gflop if recompute else 0.0
        return windows * steps * (sum(part.gflop for part in self.parts.values()) + again) / 1000.0


def count(config: RawConfig) -> UpdateCost:
    """Operations and memory of one update, per decision."""
    teacher = random_teacher(config)
    world, policy = teacher.world_model.to(META).requires_grad_(False), teacher.policy.to(META).requires_grad_(False)
    model = RawWorldModel(replace(config, recompute=False))
    model.encoder.geometry = model.encoder.geometry.to(META)
    model = model.to(META)
    batch = _on(random_drives(config, BenchConfig(batch=1, steps=COUNTED_STEPS)), META)
    sensors = batch.sensors
    assert sensors is not None
    encoder, shape = model.encoder, config.model.encoder
    levels = [level.detach().requires_grad_() for level in encoder.features(sensors.images[0, :1])]
    memory = torch.zeros(1, shape.grid.cells, shape.embed_dims, device=META, requires_grad=True)
    motion, valid = sensors.ego_motion[0, :1], sensors.camera_valid[0, :1]
    known = torch.ones(1, dtype=torch.bool, device=META)

    images = _cost(model, lambda: _sum(encoder.features(sensors.images[0, :1])))
    lift = _cost(model, lambda: _sum([encoder.lift(levels, valid, motion, memory, known)]))
    whole = _cost(model, lambda: model.loss(world, batch, policy).total)
    rest = [of_all / COUNTED_STEPS - one - other for of_all, one, other in zip(whole, images, lift, strict=True)]
    bev = _parameters(encoder.bevformer)
    seen = _parameters(encoder)
    return UpdateCost(
        parts={
            "images": PartCost(seen - bev, *images),
            "lift": PartCost(bev, *lift),
            "rest": PartCost(_parameters(model) - seen, *rest),
        },
        teacher=_parameters(world) + _parameters(policy),
        memory_gib=FLOAT_BYTES * shape.grid.cells * shape.embed_dims / GIB,
    )


def _cost(model: torch.nn.Module, run: Callable[[], Tensor]) -> tuple[float, float, float]:
    """GFLOP forwards, GFLOP in all, GiB kept in between besides weights."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in weights:
            kept[place] = tensor  # held, so that no other storage gets its place
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = run()
        forward = counter.get_total_flops()
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
    return forward / 1e9, counter.get_total_flops() / 1e9, size / GIB


def _sum(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.float().sum() for tensor in tensors]).sum()


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _on(drives: Replayed, device: torch.device) -> Replayed:
    """All tensors on a device."""
    sensors = drives.sensors
    assert sensors is not None
    return replace(_moved(drives, device), sensors=_moved(sensors, device))


def _moved(value: Kind, device: torch.device) -> Kind:
    own = {item.name: getattr(value, item.name) for item in fields(value)}
    return replace(value, **{name: part.to(device) for name, part in own.items() if isinstance(part, Tensor)})


def report(cost: UpdateCost, windows: int, steps: int) -> dict[str, Any]:
    """Everything counted, as plain data."""
    totals = {
        name: {
            "tflop": cost.tflop(windows, steps, recompute=recompute),
            "kept_gib": cost.kept_gib(windows, steps, recompute=recompute),
        }
        for name, recompute in (("kept", False), ("recomputed", True))
    }
    return {**asdict(cost), "weights_gib": cost.weights_gib(), "windows": windows, "steps": steps, "update": totals}


def table(cost: UpdateCost, windows: int, steps: int) -> str:
    """The same as Markdown."""
    lines = [
        "| part, per decision | parameters, million | forwards, GFLOP | with backwards | kept, GiB |",
        "|---|---|---|---|---|",
    ]
    for name, part in cost.parts.items():
        work = f"{part.forward_gflop:.1f} | {part.gflop:.1f}"
        lines.append(f"| {name} | {part.parameters / 1e6:.1f} | {work} | {part.kept_gib:.3f} |")
    lines += ["", f"| update of {windows} windows of {steps} | TFLOP | kept, GiB | with weights and moments, GiB |"]
    lines.append("|---|---|---|---|")
    for name, recompute in (("all is kept", False), ("recomputed", True)):
        kept = cost.kept_gib(windows, steps, recompute=recompute)
        work = cost.tflop(windows, steps, recompute=recompute)
        lines.append(f"| {name} | {work:.1f} | {kept:.1f} | {kept + cost.weights_gib():.1f} |")
    return "\n".join(lines) + "\n"
