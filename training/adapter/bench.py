"""Milliseconds of one decision of the adapter, part by part, with random weights: time does not depend on them."""

from __future__ import annotations

import numpy as np
import torch

from agent.adapter import AdapterConfig, Proposer, situated
from agent.base_plan import Planner, feature_width, state_features
from agent.decider import Network
from agent.ego_vector import MANOEUVRE_SIZE
from agent.model.adapter import AdapterNet, AdapterNetConfig
from agent.model.bench import Settings, Stopwatch, time_frames
from agent.model.driving_model import DrivingModel, DrivingModelConfig, ModelInput
from agent.model.raw_model import RawModel, RawModelConfig
from agent.model.rssm import RssmConfig
from agent.motion import start_state
from agent.route import ROUTE_POINTS, VECTOR_SIZE


def time_adapter(settings: Settings, config: AdapterConfig) -> dict[str, dict[str, float]]:
    """Medians [ms] of state, base plan, candidates and values, for the cloned agent and for a raw one of size tiny."""
    torch.manual_seed(0)
    rssm = RssmConfig(action_input=True, groups=32)
    models: dict[str, Network] = {
        "cloned agent": DrivingModel(DrivingModelConfig()),
        "raw agent": RawModel(RawModelConfig(rssm=rssm)),
    }
    return {
        name: _time(model.eval().requires_grad_(False).to(settings.device), settings, config)
        for name, model in models.items()
    }


def _time(model: Network, settings: Settings, config: AdapterConfig) -> dict[str, float]:
    net = AdapterNet(AdapterNetConfig(features=feature_width(model))).eval().requires_grad_(False).to(settings.device)
    proposer = Proposer(net, config)
    inputs, state = _inputs(model, settings.device), model.initial(1)
    start = start_state(8.0, 0.3, 0.02)[None]
    planner = Planner(model)

    def frame(watch: Stopwatch) -> None:
        features = state_features(model, inputs, state)
        watch.mark("state")
        plan = planner.plan(features, 5, start)
        watch.mark("base plan")
        proposals = proposer.propose(situated(features, (8.0, 0.3, 0.02), inputs, plan, start), start)
        watch.mark("candidates")
        proposer.scores(proposals).cpu()
        watch.mark("values")

    parts = time_frames(settings, frame)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return parts | {"total": float(np.sum(list(parts.values()))), "parameters": float(parameters)}


def _inputs(model: Network, device: torch.device) -> ModelInput:
    encoder = model.config.encoder
    return ModelInput(
        torch.zeros(1, 6, 3, encoder.image_height, encoder.image_width, dtype=torch.uint8, device=device),
        torch.ones(1, 6, dtype=torch.bool, device=device),
        torch.tensor([[0.8, 0.0, 0.002]], device=device),
        torch.randn(1, ROUTE_POINTS, 2, device=device),
        torch.rand(1, VECTOR_SIZE + MANOEUVRE_SIZE, device=device),
        torch.zeros(1, dtype=torch.bool, device=device),
    )


def table(parts: dict[str, dict[str, float]]) -> str:
    """Markdown table with a row per base agent."""
    names = [name for name in next(iter(parts.values())) if name != "parameters"]
    lines = ["| base | " + " | ".join(f"{name}, ms" for name in names) + " | parameters |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for base, row in parts.items():
        cells = " | ".join(f"{row[name]:.1f}" for name in names)
        lines.append(f"| {base} | {cells} | {row['parameters'] / 1e6:.2f} million |")
    return "\n".join(lines) + "\n"
