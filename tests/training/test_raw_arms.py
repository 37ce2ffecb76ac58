"""Arms of the ablation: which terms each one's loss consists of, and which weights every term's gradient reaches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from agent.ego_vector import SEEN_SIZE
from agent.ego_vector import VECTOR_SIZE as EGO_SIZE
from agent.model.raw_model import Sight, seen_columns, usually_seen
from tests.training.raw import batch_for, config_for, teacher
from training.raw.arms import ARMS, FULL, ArmError, arms_of
from training.raw.config import GuidanceConfig, RawConfig, RawRunConfig
from training.raw.learner import RawLearner
from training.raw.model import ROLLOUT_TERMS, RawWorldModel
from training.world_model.model import Replayed, WorldModel

KL = {"dynamics", "representation", "seen"}
DECODER = {"masks", "vector"}
EMBED, DETER, STOCH = {"align_embed", "align_vector"}, {"align_deter"}, {"align_stoch"}
GUIDED = KL | EMBED | DETER | STOCH
TERMS = {
    "full": GUIDED | DECODER,
    "no_decoder": GUIDED,
    "reward_head": GUIDED | DECODER | {"reward"},
    "three_heads": GUIDED | DECODER | {"reward", "continuation"},
    "three_heads_detached": GUIDED | DECODER | {"reward", "continuation"},
    "no_alignment": KL | DECODER,
    "embed_only": KL | DECODER | EMBED,
    "embed_deter": KL | DECODER | EMBED | DETER,
    "no_embed": KL | DECODER | DETER | STOCH,
    "spatial_only": GUIDED | DECODER,
    "temporal_only": GUIDED | DECODER,
    "own_heads": GUIDED | DECODER | {"reward", "continuation"},
    "random_rssm": GUIDED | DECODER,
    "random_decoder": GUIDED | DECODER,
    "tied_rssm": GUIDED | DECODER,
    "direct_policy": GUIDED | DECODER,
    "independent_sampling": GUIDED | DECODER,
}
ROWS = {
    f"{table}.{row}" for table, rows in ((6, 4), (7, 4), (8, 4), (9, 3), (10, 3), (11, 2)) for row in range(1, rows + 1)
}
ARM = pytest.mark.parametrize("name", list(ARMS))


def config_of(name: str) -> RawConfig:
    run = ARMS[name].of(RawRunConfig())
    return config_for(
        teacher(),
        guidance=run.guidance,
        heads=run.heads,
        rssm_start=run.rssm_start,
        decoder_start=run.decoder_start,
        fine_tuned=run.fine_tuned,
    )


def model_of(name: str, *, trained: bool = False) -> tuple[RawWorldModel, WorldModel]:
    """An arm's model at its beginning, or `trained`: a little later, when every term sends a gradient back."""
    guide = teacher().world_model.requires_grad_(False)
    model = RawWorldModel(config_of(name), torch.Generator().manual_seed(7))
    model.begin_with(guide)
    with torch.no_grad():
        for parameter in model.parameters() if trained else ():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
    return model, guide


def reached(module: nn.Module | None) -> bool:
    """Whether a gradient has come to any of its weights."""
    return module is not None and any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())


def same_sight(guide: WorldModel, batch: Replayed) -> tuple[Sight, torch.Tensor]:
    """What the privileged encoder sees, as both streams' e_t."""
    assert batch.vector is not None
    target = guide.encoder(batch.words.flatten(0, 1), batch.vector.flatten(0, 1)).unflatten(0, batch.first.shape)
    return Sight(target.detach(), batch.vector[..., [1, *range(6, 22)]]), target


def test_every_row_of_the_paper_s_tables_is_an_arm_exactly_once() -> None:
    rows = [row for arm in ARMS.values() for row in arm.rows]
    assert set(rows) == ROWS and len(rows) == len(ROWS)
    assert all((arm.paper is not None) == bool(arm.rows) for arm in ARMS.values())
    assert ARMS.keys() == TERMS.keys()
    shown = {name: (arm.paper.driving_score, arm.paper.successes_of_10) for name, arm in ARMS.items() if arm.paper}
    assert shown["full"] == (83.5, 7.5) and shown["own_heads"] == (26.4, 1.6) and shown["direct_policy"] == (58.4, 5.6)


def test_an_arm_changes_a_run_only_where_it_says_so() -> None:
    run = RawRunConfig(guidance=GuidanceConfig(embed=3.0, prior=0.5), model_rate=1e-3)
    assert ARMS[FULL].of(run) == run
    changed = ARMS["embed_only"].of(run)
    assert changed == replace(run, guidance=GuidanceConfig(embed=3.0, deter=0.0, stoch=0.0))
    assert len({repr(arm.of(run)) for arm in ARMS.values()}) == len(ARMS)


def test_names_that_are_no_arms_are_refused() -> None:
    assert [arm.name for arm in arms_of("full, no_decoder")] == ["full", "no_decoder"]
    assert len(arms_of("all")) == len(ARMS)
    for text in ("full,fulll", "full,full", ""):
        with pytest.raises(ArmError, match="known are full, no_decoder"):
            arms_of(text)


@ARM
def test_the_loss_consists_of_the_arm_s_terms_and_each_reaches_what_it_shall(name: str) -> None:
    model, guide = model_of(name, trained=True)
    batch = batch_for(model.config, steps=4)
    loss = model.loss(guide, batch, generator=torch.Generator().manual_seed(1))
    assert set(loss.weights) == TERMS[name]
    assert {key for key, weight in loss.weights.items() if not weight} == set()
    total = sum(weight * loss.terms[key] for key, weight in loss.weights.items())
    torch.testing.assert_close(loss.total, total)
    guided = sum(weight * loss.terms[key] for key, weight in loss.weights.items() if key in ROLLOUT_TERMS)
    torch.testing.assert_close(loss.terms["world_model"], loss.total - guided, rtol=1e-4, atol=1e-3)
    shapes_states = {"decoder": DECODER, "reward_head": {"reward"}, "continue_head": {"continuation"}}
    detached = {"reward", "continuation"} if model.config.heads.stop_gradient else set()
    for key in loss.weights:
        model.zero_grad()
        loss.terms[key].backward(retain_graph=True)
        is_nothing = (name, key) == ("tied_rssm", "align_deter")  # h^ is h where the recurrence is tied
        assert not is_nothing or loss.terms[key].item() == 0.0
        sees = key not in detached and not is_nothing
        assert reached(model.neck) is sees, key
        recurrent = sees and key not in (*EMBED, "seen") and model.rssm is not None
        assert reached(model.rssm) is recurrent, key
        for part, keys in shapes_states.items():
            assert reached(getattr(model, part)) is (key in keys and getattr(model, part) is not None), (part, key)
        assert all(parameter.grad is None for parameter in guide.parameters()), key


@ARM
def test_identical_streams_have_alignment_losses_of_exactly_zero(name: str) -> None:
    model, guide = model_of(name)
    if model.rssm is not None:
        model.rssm.load_state_dict(guide.rssm.state_dict())
    batch = batch_for(model.config, steps=4)
    if name == "independent_sampling":
        batch = batch.map(lambda value: value[:, :1])
    sight, target = same_sight(guide, batch)
    loss = model.loss_of(guide, batch, sight, target, teacher().policy, generator=torch.Generator().manual_seed(2))
    assert {key: loss.terms[key].item() for key in (*ROLLOUT_TERMS, "seen")} == dict.fromkeys(
        (*ROLLOUT_TERMS, "seen"), 0.0
    )


def test_streams_that_draw_apart_drift_apart() -> None:
    model, guide = model_of("independent_sampling")
    batch = batch_for(model.config)
    sight, target = same_sight(guide, batch)
    loss = model.loss_of(guide, batch, sight, target, generator=torch.Generator().manual_seed(2))
    assert loss.terms["align_embed"].item() == 0.0 and loss.terms["align_deter"].item() > 0.0


def learner_of(name: str) -> tuple[RawLearner, Replayed]:
    config = config_of(name)
    return RawLearner(config, teacher(), seed=3), batch_for(config, steps=4)


@ARM
def test_an_update_leaves_the_teacher_as_it_is(name: str) -> None:
    learner, batch = learner_of(name)
    frozen = [*learner.teacher.parameters(), *learner.teacher_policy.parameters()]
    before = [parameter.clone() for parameter in frozen]
    actor = learner.policy.actor[-1].weight.clone()
    metrics, _ = learner.update(batch)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert torch.equal(actor, learner.policy.actor[-1].weight) is (name == "direct_policy")
    assert all(bool(torch.isfinite(value)) for value in metrics.values())


@pytest.mark.parametrize(("name", "guided"), [("three_heads", True), ("own_heads", False)])
def test_whose_heads_the_policy_asks(name: str, guided: bool) -> None:
    learner, batch = learner_of(name)
    assert learner.model.reward_head is not None
    with torch.no_grad():
        learner.model.reward_head[-1].weight.zero_()
        learner.model.reward_head[-1].bias.copy_(torch.nn.functional.one_hot(torch.tensor(200), 255) * 50.0)
    metrics, _ = learner.update(batch)
    with torch.no_grad():
        logits = learner.model.reward_head(torch.zeros(1, learner.config.world_model.features))
        told = learner.model.two_hot.mean(logits).item()
    assert (abs(float(metrics["imagined_reward"]) - told) > 1.0) is guided


def test_the_gaps_of_the_teacher_have_to_be_seen() -> None:
    guide = teacher(gaps=5)
    config = config_for(guide)
    learner = RawLearner(config, guide, seed=3)
    assert guide.world_model.encoder.vector is not None
    ours, theirs = learner.model.neck.vector[0].weight, guide.world_model.encoder.vector[0].weight
    assert ours.shape[1] == EGO_SIZE + 5 and torch.equal(ours, theirs)
    batch = batch_for(config)
    with torch.no_grad():
        learner.model.neck.seen[-1].weight.zero_()
        learner.model.neck.seen[-1].bias.zero_()
    seen = learner.model.loss(guide.world_model, batch).terms["seen"]
    learner.update(batch)
    assert batch.vector is not None
    truth = batch.vector[..., seen_columns(batch.vector.device, gaps=5)]
    assert truth.shape[-1] == SEEN_SIZE + 5 and torch.equal(truth[..., -5:], batch.vector[..., EGO_SIZE:])
    usual, spread = usually_seen(5)
    torch.testing.assert_close(seen, ((usual - truth) / spread).square().sum(-1).mean())
