"""What a raw world model has learned, measured alike for every arm: alignment, rollouts, decoded masks, policy.

Whatever an arm is trained with, both streams are filtered on shared samples here, and where it has no decoder of its
own the privileged one decodes its states.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agent.model.raw_model import Sight
from agent.model.rssm import LatentState, Rssm, categorical_kl, one_hot_at, sample_index, uniform_noise
from training import bev
from training.raw.blind import BODIES, behind_others, outside, overlap
from training.raw.guidance import deter_alignment, distillation, embed_alignment, stoch_alignment
from training.raw.learner import RawLearner
from training.raw.streams import Streams, Windows, filter_both
from training.world_model.model import Replayed

SEEN_STEPS = 8
"""Steps that are filtered before imagination begins; what they tell is not counted."""
HORIZONS = (1, 5, 15)
"""Imagined steps after which the streams are compared."""
WINDOW_STEPS = SEEN_STEPS + HORIZONS[-1] + 1
DECODED_EVERY = 4
LIGHTS = (bev.GREEN, bev.YELLOW, bev.RED)
DECODED: dict[str, tuple[int, ...]] = {
    "road": (bev.ROAD,),
    "vehicle": (bev.VEHICLE,),
    "walker": (bev.WALKER,),
    "lights": LIGHTS,
}


@dataclass(slots=True)
class _Sums:
    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, name: str, total: Tensor | float, count: float) -> None:
        self.values[name] += float(total)
        self.counts[name] += count

    def means(self) -> dict[str, float | None]:
        return {name: value / self.counts[name] if self.counts[name] else None for name, value in self.values.items()}


@torch.no_grad()
def read_out(learner: RawLearner, batches: Iterable[Replayed], *, seed: int = 0) -> dict[str, float | None]:
    """Means over windows of WINDOW_STEPS decisions; None for what the windows do not hold.

    embed, vector, stoch, deter: the alignment losses of the full method. rollout_deter_K, rollout_prior_K: mean squared
    difference of h and h^, and KL(p || p^), after K imagined steps on the recorded actions; rollout_reward_K: absolute
    error of the privileged head's reward on the dual rollout. iou_*: of the decoded masks; policy_kl: KL(pi || pi^).
    """
    device = learner.generator.device
    generator = torch.Generator(device).manual_seed(seed)
    sums = _Sums()
    for batch in batches:
        seen = filtered(learner, batch, generator)
        streams = seen.streams
        _align(learner, seen, sums)
        _roll_out(learner, batch, streams, generator, sums)
        _decode(learner, batch, streams.raw.state, sums)
        ours = learner.policy.log_policy(streams.raw.state.features())
        theirs = learner.teacher_policy.log_policy(streams.privileged.state.features())
        sums.add("policy_kl", distillation(ours, theirs).mean(), 1.0)
    return sums.means()


@dataclass(frozen=True, slots=True)
class Filtered:
    """Windows seen by both streams, on shared samples."""

    sight: Sight
    target: Float[Tensor, "b t e"]
    """e_t of the privileged stream."""
    streams: Streams


def filtered(learner: RawLearner, batch: Replayed, generator: torch.Generator | None = None) -> Filtered:
    """Filter windows in both streams. Raises: ValueError for windows without sensors."""
    model, teacher = learner.model, learner.teacher
    if batch.sensors is None:
        raise ValueError("the batch has no sensors; read the replay with its images")
    actions = teacher.one_hot(batch.previous_action)
    vector = None if batch.vector is None else batch.vector.flatten(0, 1)
    target = teacher.encoder(batch.words.flatten(0, 1), vector).unflatten(0, batch.first.shape)
    sight = model.see(batch.sensors, actions)
    recurrence = model.recurrence(teacher)
    streams = filter_both(
        recurrence, teacher.rssm, sight.embed, target, Windows.of(batch, actions), generator=generator
    )
    return Filtered(sight, target, streams)


def _align(learner: RawLearner, seen: Filtered, sums: _Sums) -> None:
    neck, raw, privileged = learner.config.model.neck, seen.streams.raw, seen.streams.privileged
    size = (neck.cells**2, neck.channels)
    cells, ego = embed_alignment(seen.sight.embed, seen.target, size, spatial=True, temporal=True)
    terms = {
        "embed": cells,
        "vector": ego,
        "stoch": stoch_alignment(raw.posterior, privileged.posterior),
        "deter": deter_alignment(raw.state.deter, privileged.state.deter),
    }
    for name, value in terms.items():
        sums.add(name, value, 1.0)


def _roll_out(learner: RawLearner, batch: Replayed, streams: Streams, generator: torch.Generator, sums: _Sums) -> None:
    """Imagine on from the last step seen, on the actions that were taken, in both streams on the same samples."""
    raw, privileged = learner.model.recurrence(learner.teacher), learner.teacher.rssm
    at = SEEN_STEPS - 1
    ours, theirs = streams.raw.state.deter[:, at], streams.privileged.state.deter[:, at]
    stoch = streams.raw.state.stoch[:, at]
    actions = learner.teacher.one_hot(batch.previous_action)
    goes_on = torch.ones_like(batch.first[:, 0])
    for step in range(1, HORIZONS[-1] + 1):
        goes_on = goes_on & ~batch.first[:, at + step]
        ours, theirs = (
            _advanced(rssm, deter, stoch, actions[:, at + step]) for rssm, deter in ((raw, ours), (privileged, theirs))
        )
        prior = raw.prior(ours)
        probs = prior.exp()
        stoch = one_hot_at(probs, sample_index(probs, uniform_noise(probs, generator))).flatten(-2)
        if step not in HORIZONS:
            continue
        kept = float(goes_on.sum())
        difference = (ours - theirs).square().mean(-1)
        sums.add(f"rollout_deter_{step}", difference[goes_on].sum(), kept)
        divergence = categorical_kl(privileged.prior(theirs), prior)
        sums.add(f"rollout_prior_{step}", divergence[goes_on].sum(), kept)
        told = learner.teacher.reward(LatentState(theirs, stoch).features())
        sums.add(f"rollout_reward_{step}", (told - batch.reward[:, at + step]).abs()[goes_on].sum(), kept)


def _advanced(rssm: Rssm, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
    return rssm.cell(rssm.input.combine(rssm.input.stoch_part(stoch), rssm.action_part(action)), deter)


def _decode(learner: RawLearner, batch: Replayed, state: LatentState, sums: _Sums) -> None:
    decoder = learner.model.decoder or learner.teacher.decoder
    steps = range(SEEN_STEPS, batch.first.shape[1], DECODED_EVERY)
    size_px = learner.config.world_model.observation.size_px
    far = outside(size_px, learner.config.model.encoder.bev_range_m)
    for step in steps:
        thought = decoder.probabilities(state.features()[:, step]).cpu().numpy() > 0.5
        words = batch.words[:, step].cpu().numpy().view(np.uint64)
        for own, seen in zip(words, thought, strict=True):
            _compare(own, seen, behind_others(own) | far, sums)


def _compare(
    words: np.ndarray, thought: Bool[np.ndarray, "channels rows columns"], blind: Bool[np.ndarray, "r c"], sums: _Sums
) -> None:
    everywhere = np.ones_like(blind)
    for name, channels in DECODED.items():
        truth, guess = bev.unpack(words, channels).astype(bool), thought[list(channels)]
        _add(sums, f"iou_{name}", overlap(truth, guess, everywhere))
    truth, guess = bev.unpack(words, BODIES).astype(bool), thought[list(BODIES)]
    _add(sums, "iou_bodies_seen", overlap(truth, guess, ~blind))
    _add(sums, "iou_bodies_blind", overlap(truth, guess, blind))


def _add(sums: _Sums, name: str, parts: np.ndarray) -> None:
    sums.add(name, parts[0], parts[1])


def shown(value: float | None, digits: int = 3) -> str:
    """A readout in a table."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"
