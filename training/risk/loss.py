"""Loss of the impartial world model: time-to-event likelihoods of both failures, impact speed, occupancy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from training.counterfactual.synthesis import STEPS
from training.risk.data import CLASSES, NEVER, Inputs, Targets
from training.risk.model import IMPACT_SCALE_MPS, RiskModel

OCCUPANCY_WEIGHT, IMPACT_WEIGHT = 1.0, 0.3
FOREGROUND_WEIGHT = (1.0, 4.0, 8.0)
"""Of a cell that is taken, by class: others are few among 1024 cells."""


def event_loss(
    logits: Float[Tensor, "*b 12"], step: Int64[Tensor, "*b"], known: Int64[Tensor, "*b"] | None = None
) -> Float[Tensor, "*b"]:
    """Negative log-likelihood of the first event's time: none before it, and whatever comes after it is not asked.

    known: quarter seconds after which nothing is known (censored); None: all are.
    """
    steps = torch.arange(STEPS, device=logits.device)
    last = torch.where(step == NEVER, STEPS, step)[..., None]
    loss = F.binary_cross_entropy_with_logits(logits, (steps == last).to(logits.dtype), reduction="none")
    asked = steps <= last
    if known is not None:
        asked = asked & (steps < known[..., None])
    return (loss * asked).sum(-1)


def impact_loss(
    impact_mps: Float[Tensor, "*b 12"], step: Int64[Tensor, "*b"], truth_mps: Float[Tensor, "*b"]
) -> Float[Tensor, ""]:
    """Mean error of the impact speed in the quarter second of each contact; 0 without a contact."""
    touched = step != NEVER
    foreseen = impact_mps.gather(-1, step.clamp_min(0)[..., None])[..., 0]
    error = F.smooth_l1_loss(foreseen / IMPACT_SCALE_MPS, truth_mps / IMPACT_SCALE_MPS, reduction="none")
    return (error * touched).sum() / touched.sum().clamp_min(1)


def occupancy_loss(logits: Float[Tensor, "b k 6 c 32 32"], targets: Targets) -> Float[Tensor, ""]:
    """Mean cross-entropy of the cells of the frames that are learnt."""
    weight = logits.new_tensor(FOREGROUND_WEIGHT)[:, None, None]
    loss = F.binary_cross_entropy_with_logits(logits, bits(targets.occupancy), pos_weight=weight, reduction="none")
    shown = targets.shown
    return (loss.mean((-3, -2, -1)) * shown).sum() / shown.sum().clamp_min(1)


def bits(occupancy: Tensor) -> Tensor:
    """(..., 32, 32) uint8 to (..., classes, 32, 32) float."""
    shifts = torch.arange(CLASSES, device=occupancy.device, dtype=torch.uint8)[:, None, None]
    return ((occupancy[..., None, :, :] >> shifts) & 1).float()


def losses(model: RiskModel, inputs: Inputs, targets: Targets, seen: int) -> dict[str, Float[Tensor, ""]]:
    """Terms and their weighted sum `total`; `seen`: of how many futures of a state the occupancy is learnt."""
    maps = model.encode(inputs)
    forecast = model.foresee(maps, inputs.vector, targets.motion)
    some = Targets(
        targets.motion[:, -seen:],
        targets.contact_step[:, -seen:],
        targets.off_road_step[:, -seen:],
        targets.road_steps[:, -seen:],
        targets.impact_mps[:, -seen:],
        targets.occupancy[:, -seen:],
        targets.shown[:, -seen:],
    )
    terms = {
        "collision": event_loss(forecast.collision, targets.contact_step).mean(),
        "off_road": event_loss(forecast.off_road, targets.off_road_step, targets.road_steps).mean(),
        "impact": impact_loss(forecast.impact_mps, targets.contact_step, targets.impact_mps),
        "occupancy": occupancy_loss(model.occupancy(maps, some.motion), some),
    }
    total = terms["collision"] + terms["off_road"]
    total = total + IMPACT_WEIGHT * terms["impact"] + OCCUPANCY_WEIGHT * terms["occupancy"]
    return {**terms, "total": total}
