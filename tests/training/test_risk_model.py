"""The impartial world model: arms, losses, geometry of its look-ups, what it learns, and the benchmark end to end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.checkpoint import CheckpointError
from agent.config import ConfigError
from tests.training.counterfactual import Body, road_log, road_map
from training import bev
from training.counterfactual import synthesis
from training.counterfactual.candidates import Family
from training.counterfactual.outcome import FutureKind
from training.counterfactual.synthesis import SynthesisConfig, futures_of
from training.risk import benchmark
from training.risk.data import NEVER, PER_STATE, Arm, FutureSet, Sampler, balanced, deranged, failing, step_of
from training.risk.loss import bits, event_loss, impact_loss, losses
from training.risk.model import PLANES, Forecast, Maps, RiskConfig, RiskModel
from training.risk.train import RiskTrainConfig, load_risk_model, train

SMALL = RiskConfig(depth=8, features=4, units=16)


def episode(k: int, town: str, latent: int = 0) -> synthesis.Futures:
    """Futures of a drive along the road with a few others, placed by the number of the episode."""
    place = np.random.default_rng(k)
    bodies = [
        Body(float(place.uniform(12, 40)), 0.0, speed=float(place.uniform(0, 6))),
        Body(float(place.uniform(10, 25)), float(place.uniform(-12, -6)), math.pi / 2, 5.0),
        Body(float(place.uniform(5, 30)), 4.5, half=(0.3, 0.3), channel=bev.WALKER),
    ]
    log = road_log(bodies, float(place.uniform(4, 10)))
    log = replace(log, meta={**log.meta, "episode": f"{town}-{k}", "town": town})
    if latent:
        ticks = np.arange(0, log.ticks, 2, dtype=np.int32)
        log = replace(log, latent=place.normal(size=(len(ticks), latent)).astype(np.float32), latent_tick=ticks)
    return futures_of(log, road_map(), SynthesisConfig(every_s=0.25))


@pytest.fixture(scope="module")
def data() -> FutureSet:
    return FutureSet([episode(k, "Road") for k in range(6)])


def test_arms_draw_what_they_are_named_for(data: FutureSet) -> None:
    """The same states in the same order for every arm with one seed; equally many futures."""
    drawn = {}
    for arm in Arm:
        sampler = Sampler(data, arm, np.random.default_rng(0))
        inputs, targets = sampler.draw(12)
        assert targets.motion.shape == (12, PER_STATE, 12, 4) and inputs.words.shape == (12, 64, 64)
        drawn[arm] = sampler
    for arm, allowed in ((Arm.EXPERT, {Family.LOGGED}), (Arm.NOISE, {Family.LOGGED, Family.NOISE})):
        sampler = drawn[arm]
        rows = np.concatenate([sampler._futures(sampler._of[s]) for s in sampler._states])
        assert set(data.family[rows]) == allowed
    sampler = drawn[Arm.COUNTERFACTUAL]
    rows = np.stack([sampler._futures(sampler._of[s]) for s in sampler._states])
    assert (data.family[rows[:, 0]] == Family.LOGGED).all() and (data.family[rows[:, 1]] == Family.NOISE).all()
    assert (data.family[rows[:, 2:]] > Family.NOISE).all()


def test_all_arms_see_the_same_states_from_which_driving_went_well(data: FutureSet) -> None:
    samplers = [Sampler(data, arm, np.random.default_rng(0)) for arm in Arm]
    for _ in range(3):
        words = [sampler.draw(12)[0].words for sampler in samplers]
        assert all(bool((own == words[0]).all()) for own in words[1:])
    for state in samplers[0]._states:
        driven = (data.state == state) & (data.family == Family.LOGGED)
        assert not failing(data.kind[driven]).any()


def test_a_states_futures_differ_where_it_has_enough(data: FutureSet) -> None:
    sampler = Sampler(data, Arm.COUNTERFACTUAL, np.random.default_rng(0))
    rows = [sampler._futures(sampler._of[s]) for s in sampler._states]
    assert sum(len(set(row.tolist())) == PER_STATE for row in rows) > 0.9 * len(rows)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_nobody_keeps_what_came_of_it(values: list[int], seed: int) -> None:
    row = np.array(values)
    found = deranged(row, np.random.default_rng(seed))
    assert set(found.tolist()) == set(values)
    assert len(set(values)) == 1 or (found != row).all()


def test_shuffled_labels_are_those_of_other_futures_of_the_same_state(data: FutureSet) -> None:
    _, shuffled = Sampler(data, Arm.SHUFFLED, np.random.default_rng(1)).draw(30)
    inputs, true = Sampler(data, Arm.COUNTERFACTUAL, np.random.default_rng(1)).draw(30)
    assert (shuffled.motion == true.motion).all() and bool((shuffled.contact_step != true.contact_step).any())
    for b in range(30):
        state = int(np.flatnonzero((data.words.view(np.int64) == inputs.words[b].numpy()).all((1, 2)))[0])
        known = {float(value) for value in data.impact_mps[data.state == state]}
        assert {float(value) for value in shuffled.impact_mps[b]} <= known


def test_quarter_seconds() -> None:
    np.testing.assert_array_equal(step_of(np.array([-1.0, 0.05, 0.25, 0.3, 3.0])), [NEVER, 0, 0, 1, 11])


def test_event_loss_by_hand() -> None:
    """With probability 1/2 in each quarter second: an event in the third costs 3 ln 2, none costs 12 ln 2."""
    logits = torch.zeros(2, 12)
    loss = event_loss(logits, torch.tensor([2, NEVER]))
    assert loss.tolist() == pytest.approx([3 * math.log(2), 12 * math.log(2)])
    later = logits.clone()
    later[0, 3:] = 100.0
    assert event_loss(later, torch.tensor([2, NEVER]))[0] == pytest.approx(3 * math.log(2)), (
        "what comes after is not asked"
    )


def test_after_a_crash_nobody_asks_for_the_road(data: FutureSet) -> None:
    """From a contact in the third quarter second on the road is not asked for; what was left later is gone."""
    logits = torch.zeros(2, 12)
    loss = event_loss(logits, torch.tensor([NEVER, 1]), torch.tensor([2, 12]))
    assert loss.tolist() == pytest.approx([2 * math.log(2), 2 * math.log(2)])
    both = (data.contact_s >= 0.0) & (data.off_road_s >= 0.0)
    assert (data.off_road_s[both] < data.contact_s[both]).all()
    targets = data.targets(np.flatnonzero(data.contact_s >= 0.0)[:, None])
    crashed = targets.off_road_step == NEVER
    assert bool(crashed.any()) and bool((targets.road_steps == targets.contact_step)[crashed].all())


def test_impact_loss_asks_only_at_contacts() -> None:
    impact = torch.full((2, 12), 5.0)
    assert impact_loss(impact, torch.tensor([NEVER, NEVER]), torch.tensor([9.0, 9.0])) == 0.0
    assert impact_loss(impact, torch.tensor([4, NEVER]), torch.tensor([15.0, 0.0])) == pytest.approx(0.5)


def test_probabilities_of_a_forecast() -> None:
    """Two quarter seconds with 1/2, else nothing: 3/4; half of it has come in the first."""
    logits = torch.full((1, 1, 12), -50.0)
    logits[0, 0, [4, 7]] = 0.0
    none = torch.full((1, 1, 12), -50.0)
    forecast = Forecast(logits, none, none)
    assert forecast.collision_probability().item() == pytest.approx(0.75)
    assert forecast.failure_probability().item() == pytest.approx(0.75)
    assert forecast.failure_s().item() == pytest.approx(4.5 * 0.25)
    assert forecast.off_road_probability().item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("turn", "ahead", "left"), [(0.0, 10.0, 5.0), (math.pi / 2, 6.0, -4.0), (-0.7, 0.0, 0.0)])
def test_a_candidate_looks_where_it_will_be(turn: float, ahead: float, left: float) -> None:
    """Maps that hold their own cell's place in the ego frame: the decoder's frame shows the places around the pose."""
    model = RiskModel(SMALL)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    features = torch.zeros(1, 12, 4, 32, 32)
    features[..., 0, :, :], features[..., 1, :, :] = 45.0 - 2.0 * (rows + 0.5), 32.0 - 2.0 * (columns + 0.5)
    motion = torch.zeros(1, 1, 12, 4)
    motion[..., 0], motion[..., 1], motion[..., 2] = 4.0, 2.0, turn
    model.decoder = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    shown = model.occupancy(Maps(features, None), motion)[0, 0, 0]
    row, column = round(24.0 - ahead - 0.5), round(16.0 - left - 0.5)
    cell = (24.0 - row - 0.5, 16.0 - column - 0.5)
    x = 4.0 + cell[0] * math.cos(turn) - cell[1] * math.sin(turn)
    y = 2.0 + cell[0] * math.sin(turn) + cell[1] * math.cos(turn)
    assert shown[0, row, column].item() == pytest.approx(x, abs=1e-4)
    assert shown[1, row, column].item() == pytest.approx(y, abs=1e-4)


def test_what_stands_is_looked_up_as_it_is() -> None:
    """A car that stands 10 m ahead of the place where a candidate will be in 2 s is seen there, 10 m ahead."""
    futures = futures_of(road_log([Body(30.0, 0.0)], 8.0), road_map(), SynthesisConfig())
    data = FutureSet([futures])
    state = int(np.flatnonzero(futures.tick == 25)[0])
    model = RiskModel(SMALL)
    maps = model.encode(data.inputs(np.array([state])))
    assert maps.planes is not None and maps.planes.shape == (1, len(PLANES), 64, 64) and len(PLANES) == 9
    model.decoder = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    motion = torch.zeros(1, 1, 12, 4)
    motion[..., 7, 0] = 18.0  # the base is 2 m past tick 20, so the car is 28 m ahead of it
    frame = model.occupancy(maps, motion)[0, 0, 3].detach()
    vehicle, road = frame[SMALL.features + 1], frame[SMALL.features]
    rows, columns = np.nonzero(vehicle.numpy() > 0.5)
    assert 24.0 - rows.mean() - 0.5 == pytest.approx(10.0, abs=0.7)
    assert 16.0 - columns.mean() - 0.5 == pytest.approx(0.0, abs=0.7)
    assert road[:, 14:18].min() > 0.9 and road[:, 0].max() == 0.0


def test_candidates_do_not_depend_on_each_other(data: FutureSet) -> None:
    model = RiskModel(SMALL).eval()
    inputs, targets = Sampler(data, Arm.COUNTERFACTUAL, np.random.default_rng(0)).draw(3)
    maps = model.encode(inputs)
    whole = model.foresee(maps, inputs.vector, targets.motion)
    alone = model.foresee(maps, inputs.vector, targets.motion[:, 2:3])
    torch.testing.assert_close(whole.collision[:, 2:3], alone.collision)
    seen = model.occupancy(maps, targets.motion)
    torch.testing.assert_close(seen[:, 2:3], model.occupancy(maps, targets.motion[:, 2:3]))
    assert seen.shape == (3, PER_STATE, 6, 3, 32, 32) and bits(targets.occupancy).shape == seen.shape


@pytest.mark.parametrize("source", ["masks", "latent"])
def test_every_part_learns(source: str) -> None:
    data = FutureSet([episode(0, "Road", latent=20)])
    config = replace(SMALL, source=source, latent=20 if source == "latent" else 0)
    model = RiskModel(config)
    inputs, targets = Sampler(data, Arm.COUNTERFACTUAL, np.random.default_rng(0)).draw(4)
    losses(model, inputs, targets, 2)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert sum(float(p.grad.abs().sum()) > 0 for p in model.parameters() if p.grad is not None) > 20


def test_states_of_nobody_knows_whom_are_not_learned_from(tmp_path: Path) -> None:
    owned = lambda k, owner: replace(part := episode(k, "Road", latent=20), meta={**part.meta, "states_of": owner})  # noqa: E731
    config = RiskTrainConfig(model=replace(SMALL, source="latent"), updates=1, states=2, arms=(Arm.EXPERT,))
    for parts in ([episode(0, "Road", latent=20)], [owned(0, "a"), owned(1, "b")]):
        with pytest.raises(ValueError, match="do not say whose states they begin with, or have states of several"):
            train(config, FutureSet(parts), tmp_path / "none")
    folder = train(config, FutureSet([owned(0, "a"), owned(1, "a")]), tmp_path / "own")[0]
    assert load_risk_model(folder)[1]["states_of"] == "a"
    with pytest.raises(ConfigError, match=r"trained with another .*states_of"):
        train(config, FutureSet([owned(0, "b"), owned(1, "b")]), tmp_path / "own")


def test_bfloat16_says_nearly_the_same(data: FutureSet) -> None:
    torch.manual_seed(0)
    model = RiskModel(SMALL)
    inputs, targets = Sampler(data, Arm.COUNTERFACTUAL, np.random.default_rng(0)).draw(4)
    exact = losses(model, inputs, targets, 2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = losses(model, inputs, targets, 2)
    assert rough["total"].dtype == torch.float32 and rough["total"] != exact["total"]
    for name, value in exact.items():
        assert float(rough[name].detach()) == pytest.approx(float(value.detach()), rel=0.02), name


def test_training_and_benchmark_end_to_end(tmp_path: Path) -> None:
    """Trained a little on one road, measured on another one; models that exist are kept, tables are written."""
    made = {"train": [episode(k, "Road") for k in range(2)], "test": [episode(k, "Street") for k in range(10, 12)]}
    for name, parts in made.items():
        for part in parts:
            synthesis.save(part, tmp_path / name / f"{part.meta['episode']}{synthesis.SUFFIX}")
    config = RiskTrainConfig(
        arms=(Arm.EXPERT, Arm.NOISE, Arm.COUNTERFACTUAL),
        updates=25,
        states=1,
        model=SMALL,
        warmup_updates=5,
        bfloat16=True,
    )
    data = FutureSet.read([tmp_path / "train"])
    models = train(config, data, tmp_path / "run")
    stamps = [(model / "model.safetensors").stat().st_mtime_ns for model in models]
    assert train(config, data, tmp_path / "run") == models
    assert [(model / "model.safetensors").stat().st_mtime_ns for model in models] == stamps
    rows = [json.loads(line) for line in (tmp_path / "run" / "expert-0" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["update"] == 25 and rows[-1]["total"] > 0.0
    bench = benchmark.BenchmarkConfig(per_kind=10, draws=5)
    summary = benchmark.run([tmp_path / "test"], models, tmp_path / "bench", bench)
    assert set(summary["models"]) == {"expert-0", "noise-0", "counterfactual-0"}
    assert summary["comparison"]["verdict"] in ("replicated", "not replicated")
    assert json.loads((tmp_path / "bench" / "risk_bench.json").read_text())["futures"] == summary["futures"]
    table = (tmp_path / "bench" / "risk_bench.md").read_text()
    assert "| counterfactual-0 |" in table and "not CARLA" in table and "Goal:" in table
    with pytest.raises(ValueError, match="was trained in Road"):
        benchmark.run([tmp_path / "train"], models, tmp_path / "bench", bench)
    with pytest.raises(CheckpointError):
        load_risk_model(tmp_path / "nothing")
    longer = replace(config, updates=26)
    with pytest.raises(ConfigError, match="expert-0/model: was trained with another updates;"):
        train(longer, data, tmp_path / "run")
    (other,) = train(replace(longer, arms=(Arm.SHUFFLED,)), data, tmp_path / "run")
    with pytest.raises(ValueError, match=r"shuffled-0/model: 26 updates of 1 states .* trained alike"):
        benchmark.run([tmp_path / "test"], [*models, other], tmp_path / "bench", bench)


def test_the_benchmark_is_balanced(data: FutureSet) -> None:
    rows = balanced(data, 5, np.random.default_rng(0))
    counts = np.bincount(data.kind[rows], minlength=len(FutureKind))
    assert counts.max() == 5 and len(np.unique(rows)) == len(rows)
    for kind in FutureKind:
        assert counts[kind] == min(5, int((data.kind == kind).sum()))


class _Oracle:
    """Foresees exactly what comes, or nothing."""

    def __init__(self, *, honest: bool) -> None:
        self._honest = honest

    def of(self, data: FutureSet, rows: np.ndarray) -> benchmark.Foreseen:
        bad = data.kind[rows] >= FutureKind.REAR_END
        contact, off_road = data.contact_s[rows], data.off_road_s[rows]
        first = np.minimum(np.where(contact < 0, np.inf, contact), np.where(off_road < 0, np.inf, off_road))
        n = len(rows)
        score = np.where(bad, 1.0, 0.0) if self._honest else np.full(n, 0.01)
        return benchmark.Foreseen(
            failure=score,
            collision=np.where(contact >= 0, score, 0.0),
            off_road=np.where(off_road >= 0, score, 0.0),
            failure_s=np.where(np.isfinite(first), first, 3.0),
            impact_mps=np.where(contact >= 0, data.impact_mps[rows], np.nan),
            shared=np.ones(n),
            either=np.ones(n),
            persistence=np.ones(n),
        )


def test_an_oracle_is_perfect_and_an_optimist_is_not(data: FutureSet) -> None:
    rows = balanced(data, 30, np.random.default_rng(0))
    config = benchmark.BenchmarkConfig(draws=10)
    oracle = benchmark.measure(data, rows, _Oracle(honest=True).of(data, rows), config)
    assert oracle["auroc"] == oracle["average_precision"] == oracle["within_auroc"] == 1.0
    assert oracle["false_safe"] == oracle["false_alarm"] == oracle["calibration_error"] == oracle["time_error_s"] == 0.0
    optimist = benchmark.measure(data, rows, _Oracle(honest=False).of(data, rows), config)
    assert optimist["false_safe"] == 1.0 and optimist["auroc"] == 0.5 and optimist["sensitivity"] == 0.0
    scores = {
        "expert": [_Oracle(honest=False).of(data, rows).failure],
        "noise": [_Oracle(honest=False).of(data, rows).failure],
        "counterfactual": [_Oracle(honest=True).of(data, rows).failure],
    }
    found = benchmark.compare(data, rows, scores, config)
    assert found["verdict"] == "replicated" and found["ratio"]["value"] == 0.0
    found = benchmark.compare(data, rows, {**scores, "noise": scores["counterfactual"]}, config)
    assert found["verdict"] == "not replicated" and not found["reached"]["below_noise"]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="source masks with a latent of width 5"):
        RiskConfig(latent=5)
    with pytest.raises(ValueError, match="source latent without the width"):
        RiskModel(RiskConfig(source="latent"))
    with pytest.raises(ValueError, match="at least one arm"):
        RiskTrainConfig(arms=())
    with pytest.raises(ValueError, match="no futures"):
        FutureSet([])
