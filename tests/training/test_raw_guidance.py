"""Guidance of the raw stream: every term against float64 and identities, one sample for both, a frozen teacher."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agent.model.mask_decoder import SHOWN_MASKS
from agent.model.raw_model import Sight
from agent.model.rssm import Belief, LatentState, unimix_log_probs
from tests.training.raw import ENCODER, batch_for, config_for, teacher
from training import bev
from training.policy.actor_critic import ActorCritic
from training.raw.config import DistillationConfig, GuidanceConfig, RawHeadConfig, raw_config
from training.raw.guidance import deter_alignment, distillation, embed_alignment, stoch_alignment
from training.raw.imagination import DualStart, imagine_both
from training.raw.learner import RawLearner
from training.raw.model import RawWorldModel
from training.raw.streams import Windows, apart, filter_both, side_by_side
from training.world_model.model import Replayed

CELLS, CHANNELS, VECTOR = 4, 3, 5
ALIGNMENTS = ("align_embed", "align_vector", "align_stoch", "align_deter", "align_prior")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(name="pair")
def _pair() -> tuple[Tensor, Tensor]:
    return (random(2, 3, CELLS * CHANNELS + VECTOR, seed=0), random(2, 3, CELLS * CHANNELS + VECTOR, seed=1))


def by_cell(pair: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Both maps in float64, (b, t, cells, channels)."""
    embed, target = (value[..., : CELLS * CHANNELS].double().numpy().reshape(2, 3, CELLS, CHANNELS) for value in pair)
    return embed, target


def test_both_alignments_are_equation_1(pair: tuple[Tensor, Tensor]) -> None:
    embed, target = by_cell(pair)
    cells, vector = embed_alignment(*pair, (CELLS, CHANNELS), spatial=True, temporal=True)
    by_hand = sum(np.mean((embed[:, :, i] - target[:, :, i]) ** 2, -1) for i in range(CELLS)).mean()
    assert cells.item() == pytest.approx(float(by_hand), rel=1e-6)
    rest = [value[..., CELLS * CHANNELS :].double().numpy() for value in pair]
    assert vector.item() == pytest.approx(float(((rest[0] - rest[1]) ** 2).mean()), rel=1e-6)


def test_spatial_alone_sees_the_first_step_and_temporal_alone_the_mean_of_the_grid(pair: tuple[Tensor, Tensor]) -> None:
    embed, target = by_cell(pair)
    first, _ = embed_alignment(*pair, (CELLS, CHANNELS), spatial=True, temporal=False)
    assert first.item() == pytest.approx(float(((embed - target) ** 2)[:, 0].mean(-1).sum(-1).mean()), rel=1e-6)
    mean, _ = embed_alignment(*pair, (CELLS, CHANNELS), spatial=False, temporal=True)
    assert mean.item() == pytest.approx(float(((embed.mean(2) - target.mean(2)) ** 2).mean()), rel=1e-5)
    neither = embed_alignment(*pair, (CELLS, CHANNELS), spatial=False, temporal=False)
    assert [value.item() for value in neither] == [0.0, 0.0]


def test_temporal_alone_does_not_tell_cells_apart(pair: tuple[Tensor, Tensor]) -> None:
    embed, target = pair
    turned = embed.clone()
    turned[..., : CELLS * CHANNELS] = (
        embed[..., : CELLS * CHANNELS].unflatten(-1, (CELLS, CHANNELS)).flip(-2).flatten(-2)
    )
    values = [embed_alignment(e, target, (CELLS, CHANNELS), spatial=False, temporal=True)[0] for e in (embed, turned)]
    torch.testing.assert_close(values[0], values[1])


def test_kl_and_h_against_float64() -> None:
    q, raw = (unimix_log_probs(random(2, 3, 4, 5, seed=seed), 0.01) for seed in (0, 1))
    p, p_hat = q.double().exp().numpy(), raw.double().exp().numpy()
    expected = (p * (np.log(p) - np.log(p_hat))).sum((-1, -2)).mean()
    assert stoch_alignment(raw, q).item() == pytest.approx(expected, rel=1e-5)
    h, h_hat = random(2, 3, 7, seed=2), random(2, 3, 7, seed=3)
    expected = ((h.double() - h_hat.double()) ** 2).mean().item()
    assert deter_alignment(h_hat, h).item() == pytest.approx(expected, rel=1e-6)
    log_pi, log_raw = (unimix_log_probs(random(6, 39, seed=seed), 0.01) for seed in (4, 5))
    pi = log_pi.double().exp()
    expected = (pi * (log_pi.double() - log_raw.double())).sum(-1)
    torch.testing.assert_close(distillation(log_raw, log_pi).double(), expected, rtol=1e-5, atol=1e-7)


def test_the_teacher_s_side_gets_no_gradient_from_any_term() -> None:
    theirs = [random(2, 3, 17, seed=k).requires_grad_() for k in range(4)]
    ours = [random(2, 3, 17, seed=10 + k).requires_grad_() for k in range(4)]
    cells, vector = embed_alignment(ours[0], theirs[0], (CELLS, CHANNELS), spatial=True, temporal=True)
    mean, _ = embed_alignment(ours[0], theirs[0], (CELLS, CHANNELS), spatial=False, temporal=True)
    posterior = stoch_alignment(ours[1].log_softmax(-1)[..., None, :], theirs[1].log_softmax(-1)[..., None, :])
    deter = deter_alignment(ours[2], theirs[2])
    policy = distillation(ours[3].log_softmax(-1), theirs[3].log_softmax(-1)).mean()
    (cells + vector + mean + posterior + deter + policy).backward()
    assert all(value.grad is None for value in theirs)
    assert all(value.grad is not None and bool((value.grad != 0).any()) for value in ours)


def test_identical_streams_have_alignment_losses_of_exactly_zero() -> None:
    guide = teacher()
    config = config_for(guide)
    model = RawWorldModel(config)
    model.begin_with(guide.world_model)
    batch = batch_for(config)
    assert batch.vector is not None
    target = guide.world_model.encoder(batch.words.flatten(0, 1), batch.vector.flatten(0, 1)).unflatten(0, (2, 6))
    seen = batch.vector[..., [1, *range(6, 22)]]
    loss = model.loss_of(guide.world_model, batch, Sight(target.detach(), seen), target)
    assert {name: loss.terms[name].item() for name in (*ALIGNMENTS, "seen")} == dict.fromkeys(
        (*ALIGNMENTS, "seen"), 0.0
    )
    assert torch.equal(loss.streams.raw.state.deter, loss.streams.privileged.state.deter)


def test_one_sample_of_the_raw_posterior_feeds_both_streams() -> None:
    guide = teacher()
    config = config_for(guide, rssm_start="random")
    model = RawWorldModel(config, torch.Generator().manual_seed(7))
    assert model.rssm is not None
    batch = batch_for(config)
    embed = random(2, 6, model.rssm.posterior_head[0].weight.shape[1] - config.world_model.rssm.deter, seed=3)
    actions = guide.world_model.one_hot(batch.previous_action)
    arguments = (model.rssm, guide.world_model.rssm, embed, embed, Windows(batch.first, actions))
    shared = filter_both(*arguments, generator=torch.Generator().manual_seed(1))
    assert torch.equal(shared.raw.state.stoch, shared.privileged.state.stoch)
    # The raw stream alone, by the recurrence's own method: the same samples from the same noise.
    start = model.rssm.initial(2)
    alone = model.rssm.observe(embed, batch.first, start, actions, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(shared.raw.state.deter, alone.state.deter)
    torch.testing.assert_close(shared.raw.posterior, alone.posterior)
    # The privileged stream follows those samples by its own recurrence.
    before = shared.raw.state.stoch[:, 0].detach()
    action = actions[:, 1] * ~batch.first[:, 1, None]
    rssm = guide.world_model.rssm
    follow = rssm.cell(
        rssm.input.combine(rssm.input.stoch_part(before), rssm.action_part(action)), shared.privileged.state.deter[:, 0]
    )
    torch.testing.assert_close(follow, shared.privileged.state.deter[:, 1])
    own = filter_both(*arguments, shared=False, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(own.raw.state.stoch, own.privileged.state.stoch)


def test_windows_go_on_from_the_states_of_both_streams() -> None:
    guide = teacher()
    config = config_for(guide, rssm_start="random")
    model = RawWorldModel(config, torch.Generator().manual_seed(7))
    assert model.rssm is not None
    batch = batch_for(config)
    width = model.rssm.posterior_head[0].weight.shape[1] - config.world_model.rssm.deter
    embed, target = random(2, 6, width, seed=3), random(2, 6, width, seed=4)
    actions = guide.world_model.one_hot(batch.previous_action)
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 0], first[1, 3] = True, True
    rssms = (model.rssm, guide.world_model.rssm)
    whole = filter_both(*rssms, embed, target, Windows(first, actions), shared=False)
    states = side_by_side(whole)
    before = LatentState(states.deter[:, 2], states.stoch[:, 2])
    rest = Windows(first[:, 3:], actions[:, 3:], before)
    later = filter_both(*rssms, embed[:, 3:], target[:, 3:], rest, shared=False)
    for now, then in ((later.raw, whole.raw), (later.privileged, whole.privileged)):
        torch.testing.assert_close(now.state.deter[:, 0], then.state.deter[:, 3])
        torch.testing.assert_close(now.posterior[:, 0], then.posterior[:, 3])
    assert [half.deter.shape[-1] for half in apart(states)] == 2 * [config.world_model.rssm.deter]
    # Replayed windows without stored states begin afresh, whatever `first` says.
    fresh = Windows.of(replace(batch, first=torch.zeros_like(batch.first)), actions)
    assert fresh.first[:, 0].all() and not fresh.first[:, 1:].any()
    assert torch.equal(Windows.of(replace(batch, first=first, start=before), actions).first, first)


def test_masks_told_from_the_bev_map_are_the_true_ones_seen_from_behind() -> None:
    guide = teacher()
    config = config_for(guide, guidance=GuidanceConfig(lifted=3.0))
    model = RawWorldModel(config)
    head = model.lifted_masks
    assert head is not None
    size_px = config.world_model.observation.size_px
    words = torch.zeros(1, size_px, size_px, dtype=torch.int64)
    # 64 m x 64 m, 45 m of them ahead; the map covers 40 m ahead to 8 m behind, 16 m to either side.
    per_m = size_px / 64.0
    ahead_left = (int((45.0 - 30.0) * per_m), int((32.0 - 14.0) * per_m))
    words[0, ahead_left[0], ahead_left[1]] = 1 << bev.VEHICLE
    words[0, 0, 0] = 1 << bev.VEHICLE  # too far ahead
    target = head.target(words, (48, 32))
    names = list(SHOWN_MASKS)
    rows, columns = target[0, names.index("vehicle")].nonzero(as_tuple=True)
    assert rows.float().mean().item() == pytest.approx(30.0 + 8.0, abs=2.0 / per_m)  # metres from the rear
    assert columns.float().mean().item() == pytest.approx(16.0 - 14.0, abs=2.0 / per_m)  # metres from the left
    assert target.sum() == target[0, names.index("vehicle")].sum()


def test_the_loss_on_the_bev_map_is_a_weighted_cross_entropy_and_teaches_the_image_encoder() -> None:
    guide = teacher()
    config = config_for(guide, guidance=GuidanceConfig(lifted=3.0))
    model = RawWorldModel(config, torch.Generator().manual_seed(1))
    head = model.lifted_masks
    assert head is not None
    batch = batch_for(config)
    cells = config.model.encoder.grid.cells
    features = random(2, 6, cells, config.model.encoder.embed_dims, seed=5)
    logits = head(features.flatten(0, 1)).double().detach().numpy()
    truth = head.target(batch.words.flatten(0, 1), logits.shape[2:]).double().numpy()
    assert truth.any() and not truth.all()
    chance = 1.0 / (1.0 + np.exp(-logits))
    weight = head.weight.double().numpy()
    by_hand = -(weight * truth * np.log(chance) + (1.0 - truth) * np.log1p(-chance)).mean((0, 2, 3)).sum()
    assert head.loss(features, batch.words).item() == pytest.approx(float(by_hand), rel=1e-5)
    loss = model.loss(guide.world_model, batch)
    assert loss.weights["lifted"] == 3.0
    (gradient,) = torch.autograd.grad(loss.terms["lifted"], [next(model.encoder.bevformer.parameters())])
    assert bool((gradient != 0).any())
    assert "lifted" not in RawWorldModel(config_for(guide)).loss(guide.world_model, batch).terms


def test_a_bev_map_larger_than_the_masks_is_refused() -> None:
    guide = teacher()
    far = replace(ENCODER, bev_range_m=(-16.0, -8.0, -0.5, 16.0, 60.0, 3.5))
    config = raw_config(guide.config, encoder=far, guidance=GuidanceConfig(lifted=1.0))
    with pytest.raises(ValueError, match=r"guidance\.lifted: the BEV map covers .* leave it at 0"):
        RawWorldModel(config)


def test_the_privileged_belief_is_that_of_the_privileged_model_when_samples_agree() -> None:
    guide = teacher()
    config = config_for(guide)
    batch = batch_for(config)
    assert batch.vector is not None
    model = RawWorldModel(config)
    model.begin_with(guide.world_model)
    target = guide.world_model.encoder(batch.words.flatten(0, 1), batch.vector.flatten(0, 1)).unflatten(0, (2, 6))
    seen = batch.vector[..., [1, *range(6, 22)]]
    sight = Sight(target.detach(), seen)
    loss = model.loss_of(guide.world_model, batch, sight, target, generator=torch.Generator().manual_seed(5))
    alone = guide.world_model.observe(batch, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(loss.streams.privileged.posterior, alone.posterior)
    torch.testing.assert_close(loss.streams.privileged.prior, alone.prior)


def test_dual_imagination_shares_actions_and_latents_and_keeps_both_recurrences() -> None:
    guide, other = teacher(), teacher(seed=2)
    raw, privileged = other.world_model.rssm, guide.world_model.rssm
    config = raw.config
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, config.classes, (5, config.groups), generator=generator)
    start = DualStart(random(5, config.deter, seed=1).tanh(), random(5, config.deter, seed=2).tanh(), index)
    rollout = imagine_both(
        raw, privileged, guide.policy.actor, start, 3, actor_unimix=0.01, generator=torch.Generator().manual_seed(3)
    )
    assert rollout.raw.index is rollout.privileged.index and rollout.raw.action is rollout.privileged.action
    for t in range(3):
        stoch = torch.nn.functional.one_hot(rollout.raw.index[t], config.classes).float().flatten(-2)
        action = guide.world_model.one_hot(rollout.raw.action[t])
        for rssm, states in ((raw, rollout.raw.deter), (privileged, rollout.privileged.deter)):
            x = rssm.input.combine(rssm.input.stoch_part(stoch), rssm.action_part(action))
            torch.testing.assert_close(rssm.cell(x, states[t]), states[t + 1])
    same = imagine_both(
        privileged,
        privileged,
        guide.policy.actor,
        DualStart(start.raw, start.raw, index),
        3,
        actor_unimix=0.01,
        generator=generator,
    )
    assert torch.equal(same.raw.deter, same.privileged.deter)


def learner_for(**options: object) -> tuple[RawLearner, Replayed]:
    guide = teacher()
    config = config_for(guide, **options)
    return RawLearner(config, guide, seed=3), batch_for(config)


def test_an_update_changes_the_raw_stream_and_never_the_teacher() -> None:
    learner, batch = learner_for()
    before = {name: value.clone() for name, value in learner.teacher.state_dict().items()}
    policy_before = {name: value.clone() for name, value in learner.teacher_policy.state_dict().items()}
    own = {name: value.clone() for name, value in learner.model.named_parameters()}
    actor = learner.policy.actor[-1].weight.clone()
    metrics, _ = learner.update(batch)
    assert all(torch.equal(before[name], value) for name, value in learner.teacher.state_dict().items())
    assert all(torch.equal(policy_before[n], value) for n, value in learner.teacher_policy.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.teacher.parameters())
    still = {name for name, value in learner.model.named_parameters() if torch.equal(own[name], value)}
    assert still <= {name for name in own if name.startswith("encoder.")}  # BEVFormer has some that see no gradient
    assert not torch.equal(actor, learner.policy.actor[-1].weight)
    assert all(bool(torch.isfinite(value)) for value in metrics.values())


def test_the_loss_falls() -> None:
    learner, batch = learner_for()
    values = [learner.update(batch)[0] for _ in range(6)]
    for name in ("align_embed", "align_vector", "align_stoch", "masks"):
        assert float(values[-1][name]) < 0.97 * float(values[0][name]), name


def test_weights_and_policy_begin_as_the_teacher_s() -> None:
    learner, _ = learner_for()
    model = learner.model
    assert model.rssm is not None and model.decoder is not None and learner.teacher.encoder.vector is not None
    pairs = [(model.rssm, learner.teacher.rssm), (model.decoder, learner.teacher.decoder)]
    pairs += [(model.neck.vector, learner.teacher.encoder.vector), (learner.policy, learner.teacher_policy)]
    for ours, theirs in pairs:
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_tied_decoder_is_the_teacher_s() -> None:
    learner, batch = learner_for(decoder_start="tied")
    metrics, _ = learner.update(batch)
    assert learner.model.decoder is None and {"masks", "vector"} <= set(metrics)


def test_a_tied_recurrence_makes_h_equal_in_both_streams() -> None:
    learner, batch = learner_for(rssm_start="tied")
    metrics, _ = learner.update(batch)
    assert metrics["align_deter"].item() == 0.0 and metrics["imagined_drift"].item() == 0.0
    assert metrics["align_stoch"].item() > 0.0


def test_detached_heads_do_not_shape_the_states() -> None:
    for stop, reaches in ((True, False), (False, True)):
        heads = RawHeadConfig(decoder=False, reward=True, continuation=True, stop_gradient=stop)
        learner, batch = learner_for(heads=heads)
        assert learner.model.reward_head is not None
        with torch.no_grad():  # a head that begins with zeros sends no gradient whatever it is connected to
            learner.model.reward_head[-1].weight.fill_(0.1)
        loss = learner.model.loss(learner.teacher, batch)
        (loss.terms["reward"] + loss.terms["continuation"]).backward()
        assert learner.model.rssm is not None
        gradient = learner.model.rssm.posterior_head[0].weight.grad
        assert (gradient is not None and bool((gradient != 0).any())) is reaches


def test_head_guidance_asks_the_privileged_heads_on_the_privileged_states() -> None:
    learner, batch = learner_for(rssm_start="random")
    loss = learner.model.loss(learner.teacher, batch, generator=torch.Generator().manual_seed(0))
    rollout, _ = learner.imagine(loss.streams, batch.terminal)
    reward, _ = learner.policy.predict(learner.teacher, rollout.privileged)
    states = rollout.privileged.flat().features(learner.config.world_model.rssm.classes)
    expected = learner.teacher.reward(states).unflatten(0, rollout.privileged.index.shape[:2])[1:]
    torch.testing.assert_close(reward, expected)
    assert not torch.allclose(rollout.raw.deter[1:], rollout.privileged.deter[1:])


def test_what_the_privileged_policy_does_can_shape_the_raw_states() -> None:
    learner, batch = learner_for(rssm_start="random", guidance=GuidanceConfig(policy=3.0))
    noise = torch.Generator().manual_seed(0)
    loss = learner.model.loss(learner.teacher, batch, learner.teacher_policy, generator=noise)
    wanted, done = (
        actions_at(learner.teacher_policy, stream, stream.posterior)
        for stream in (loss.streams.privileged, loss.streams.raw)
    )
    expected = (wanted.exp() * (wanted - done)).sum(-1).mean()
    torch.testing.assert_close(loss.terms["align_policy"].double(), expected, rtol=1e-4, atol=1e-6)
    assert loss.weights["align_policy"] == 3.0
    loss.terms["align_policy"].backward()
    assert learner.model.rssm is not None
    for part in (learner.model.neck.last, learner.model.rssm.posterior_head[0]):
        assert part.weight.grad is not None and bool((part.weight.grad != 0).any())
    assert all(parameter.grad is None for parameter in learner.teacher_policy.parameters())


@pytest.mark.parametrize("target", ["posterior", "sample"])
def test_distillation_asks_where_it_shall(target: Literal["posterior", "sample"]) -> None:
    learner, batch = learner_for(rssm_start="random", distillation=DistillationConfig(target=target))
    streams = learner.model.loss(learner.teacher, batch, generator=torch.Generator().manual_seed(0)).streams
    rollout, _ = learner.imagine(streams, batch.terminal)
    known = streams.privileged.posterior if target == "posterior" else None
    wanted = actions_at(learner.teacher_policy, streams.privileged, known)
    done = actions_at(learner.policy, streams.raw, None)
    expected = (wanted.exp() * (wanted - done)).sum(-1).mean()
    torch.testing.assert_close(learner.distillation(streams, rollout).double(), expected, rtol=1e-4, atol=1e-6)


def actions_at(policy: ActorCritic, stream: Belief, posterior: torch.Tensor | None) -> torch.Tensor:
    """Log-probabilities at a stream's h and its sampled z, or the likeliest one of a posterior, in float64."""
    z = stream.state.stoch
    if posterior is not None:
        z = F.one_hot(posterior.argmax(-1), posterior.shape[-1]).flatten(-2)
    policy = copy.deepcopy(policy).double()
    return policy.log_policy(torch.cat([stream.state.deter.double(), z.double()], -1))


def test_distillation_fades_out() -> None:
    config = DistillationConfig(weight=1.0, final_weight=0.0, updates=10)
    assert [config.weight_at(update) for update in (0, 5, 10, 99)] == [1.0, 0.5, 0.0, 0.0]


def test_a_resumed_learner_goes_on_as_one_that_never_stopped() -> None:
    straight, batch = learner_for()
    broken, _ = learner_for()
    other = batch_for(straight.config, seed=1)
    straight.update(batch)
    broken.update(batch)
    resumed = RawLearner(straight.config, teacher(), seed=99)
    resumed.load(broken.tensors(), "test")
    for learner in (straight, resumed):
        learner.update(other)
    ours, theirs = straight.tensors(), resumed.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def gradients(share: float, batch: Replayed) -> tuple[RawWorldModel, torch.Tensor]:
    guide = teacher()
    model = RawWorldModel(config_for(guide, image_gradients=share), torch.Generator().manual_seed(4))
    model.begin_with(guide.world_model)
    model.encoder.backbone.eval()  # so that both see the same with the statistics of the beginning
    loss = model.loss(guide.world_model.requires_grad_(False), batch, generator=torch.Generator().manual_seed(5))
    loss.total.backward()
    return model, loss.terms["align_embed"].detach()


def test_images_that_do_not_teach_are_seen_all_the_same() -> None:
    batch = batch_for(config_for(teacher()))
    models = {share: gradients(share, batch) for share in (1.0, 0.5, 0.0)}
    values = [value for _, value in models.values()]
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values[2], values[0], rtol=1e-4, atol=1e-4)
    whole, half, none = (model.encoder.backbone.conv1.weight.grad for model, _ in models.values())
    assert whole is not None and half is not None and none is None
    assert 0.0 < float((whole * half).sum() / (whole.norm() * half.norm())) < 0.9999
    lift = models[0.0][0].encoder.bevformer
    assert any(parameter.grad is not None and bool((parameter.grad != 0).any()) for parameter in lift.parameters())


def test_statistics_stay_where_only_some_images_teach() -> None:
    for share, stays in ((1.0, False), (0.5, True)):
        learner, batch = learner_for(image_gradients=share)
        before = learner.model.encoder.backbone.bn1.running_mean.clone()
        learner.update(batch)
        assert torch.equal(before, learner.model.encoder.backbone.bn1.running_mean) is stays
