"""Replay with camera images, a run of the raw stage on it, and its export into a folder that drives."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agent import config as configs
from agent.checkpoint import CheckpointError, latest_valid, load_checkpoint, save_checkpoint
from agent.config import ConfigError
from agent.driver import load_driving_model, load_model
from agent.ego_vector import MANOEUVRE_SIZE
from agent.ego_vector import VECTOR_SIZE as EGO_SIZE
from agent.model.driving_model import ModelInput, small_encoder
from agent.model.front_view import FrontViewConfig
from agent.model.image_encoder import EncoderConfig
from agent.model.mask_decoder import SHOWN_MASKS
from agent.model.raw_model import RawModel
from agent.route import ROUTE_POINTS, VECTOR_SIZE
from tests.conftest import REPOSITORY
from tests.training.experience import transition
from tests.training.privileged import debug_config
from tests.training.raw import teacher
from tests.training.torchrun import under_torchrun
from training import bev
from training.experience.batches import Batches
from training.experience.config import ReplayConfig
from training.experience.writer import ExperienceWriter, SensorFrame
from training.learner import Learner
from training.privileged.checkpoint import load_model as load_teacher
from training.raw.config import RawRunConfig, raw_config
from training.raw.driver import agent_tensors
from training.raw.export import export
from training.raw.finer import with_finer_map
from training.raw.learner import RawLearner
from training.raw.load import load_learner
from training.raw.model import RawWorldModel
from training.raw.trainer import RawTrainer, configured, take_agent, take_neck, take_teacher, train

SIZE = (128, 224)


def frame(step: int) -> SensorFrame:
    """Every camera in a grey of its own that tells the step."""
    grey = (10 * step + np.arange(6)) % 256
    images = np.broadcast_to(grey.astype(np.uint8)[:, None, None, None], (6, 3, *SIZE)).copy()
    return SensorFrame(
        images=images,
        camera_valid=np.arange(6) != step % 6,
        ego_motion=np.array([step, 0.0, 0.1], np.float32),
        route=np.full((ROUTE_POINTS, 2), float(step), np.float32),
        vector=np.full(VECTOR_SIZE + MANOEUVRE_SIZE, 0.01 * step, np.float32),
    )


def record(folder: Path, steps: int = 24, *, sensors: bool = True) -> None:
    with ExperienceWriter(folder, stream="s0", segment_steps=8) as writer:
        for step in range(steps):
            vector = np.full(EGO_SIZE, 0.02 * step, np.float32)
            seen = frame(step) if sensors else None
            writer.add(replace(transition(0, step), vector=vector, sensors=seen, reward=float(step)))


def save_teacher(folder: Path) -> Path:
    config = debug_config("paper", vector=EGO_SIZE)
    learner = Learner(config, seed=1)
    tensors = {name: v for name, v in learner.tensors().items() if name.startswith(("model.", "policy."))}
    save_checkpoint(folder, configs.to_plain(config), tensors, step=0, created_by="a test")
    return folder


def test_both_observations_of_a_decision_come_back_together(tmp_path: Path) -> None:
    record(tmp_path)
    config = replace(debug_config("paper", vector=EGO_SIZE), batch=2, steps=5, replay=ReplayConfig(refresh_s=0.0))
    with Batches(tmp_path, config, ahead=0, threads=1, images=SIZE) as batches:
        batch = batches.next().replayed
    sensors = batch.sensors
    assert sensors is not None and torch.equal(sensors.first, batch.first)
    steps = batch.reward.long()
    assert torch.equal(sensors.ego_motion[..., 0].long(), steps)
    expected = (10 * steps[..., None] + torch.arange(6)) % 256
    centre = sensors.images[..., 1, 60, 100].long()
    assert int((centre - expected).abs().max()) <= 2  # JPEG
    lost = torch.nonzero(~sensors.camera_valid[0, 0])[:, 0]
    assert lost.tolist() == [int(steps[0, 0]) % 6]
    assert torch.equal(batch.map(lambda value: value[:1]).tensors()["sensors.route"], sensors.route[:1])


def test_a_replay_without_images_is_refused_with_the_remedy(tmp_path: Path) -> None:
    record(tmp_path, sensors=False)
    config = replace(debug_config("paper", vector=EGO_SIZE), batch=1, steps=5, replay=ReplayConfig(refresh_s=0.0))
    batches = Batches(tmp_path, config, ahead=0, threads=1, images=SIZE)
    with batches, pytest.raises(ValueError, match=r"no camera images.*record-raw"):
        batches.next()


def test_a_run_on_recorded_data_resumes_and_its_agent_drives(tmp_path: Path) -> None:
    record(tmp_path / "data" / "replay")
    run = RawRunConfig(
        teacher=save_teacher(tmp_path / "privileged"),
        encoder=None,
        collectors=0,
        replay=tmp_path / "data" / "replay",
        evaluate_minutes=0.0,
        updates=1,
        batch=1,
        steps=3,
        log_updates=1,
    )
    assert train(run, tmp_path / "run", minutes=10.0) == 1
    assert train(replace(run, updates=2), tmp_path / "run", minutes=20.0) == 2
    with pytest.raises(ValueError, match="rssm_start"):
        train(replace(run, updates=3, rssm_start="random"), tmp_path / "run", minutes=20.0)
    forget(tmp_path / "run", "guidance", "lifted")  # as written before there was such a key: it had its default
    with pytest.raises(ConfigError, match=r"configuration: replay\.carry_over: False -> True"):
        train(replace(run, updates=3, carry_over=True), tmp_path / "run", minutes=20.0)
    changed = replace(run, updates=4, carry_over=True)
    assert train(changed, tmp_path / "run", minutes=20.0, allowed=("replay.carry_over",)) == 4
    stored = list((tmp_path / "run").glob("latents-*/*"))
    assert stored and any(path.stat().st_size for path in stored)
    out = export(tmp_path / "run", tmp_path / "agent", "# a test\n")
    model = load_model(out, "cpu")
    assert isinstance(model, RawModel)
    check_beginning(run, out, model, tmp_path / "next")
    inputs = ModelInput(
        images=torch.zeros(1, 6, 3, *SIZE, dtype=torch.uint8),
        camera_valid=torch.ones(1, 6, dtype=torch.bool),
        ego_motion=torch.zeros(1, 3),
        route=torch.zeros(1, ROUTE_POINTS, 2),
        vector=torch.zeros(1, VECTOR_SIZE + MANOEUVRE_SIZE),
        first=torch.ones(1, dtype=torch.bool),
    )
    log_policy, _ = model.act(inputs, model.initial(1), torch.zeros(1, 39))
    assert log_policy.shape == (1, 39) and bool(torch.isfinite(log_policy).all())
    with pytest.raises(ValueError, match="RawModel"):
        load_driving_model(out, "cpu")
    check_decoder(export(tmp_path / "run", tmp_path / "showing", "# a test\n", decoder=True), tmp_path / "run", model)
    check_blend(tmp_path / "run", out, tmp_path)
    assert load_teacher(tmp_path / "run" / "teacher").config.world_model.observation.vector == EGO_SIZE


def test_two_learners_begin_one_run(tmp_path: Path) -> None:
    record(tmp_path / "data" / "replay")
    options = {
        "teacher": save_teacher(tmp_path / "privileged"),
        "replay": tmp_path / "data" / "replay",
        **{"encoder": None, "collectors": 0, "evaluate-minutes": 0, "updates": 2, "batch": 1, "steps": 3},
    }
    words = (word for name, value in options.items() for word in (f"--config.{name}", str(value)))
    told = under_torchrun("raw", "--out", str(tmp_path / "run"), "--minutes", "10", "--config.no-front-view", *words)
    assert told.count("stopped after 2 updates") == 1
    assert load_teacher(tmp_path / "run" / "teacher").config.world_model.observation.vector == EGO_SIZE


def forget(run: Path, section: str, key: str) -> None:
    """Rewrite a run's checkpoint without a key of its configuration."""
    latest = latest_valid(run / "checkpoints")
    assert latest is not None
    plain, tensors = load_checkpoint(latest)
    del plain[section][key]
    texts = {"progress.json": (latest / "progress.json").read_text(encoding="utf-8")}
    step = int(latest.name)
    save_checkpoint(latest, plain, tensors, step=step, created_by="a test", extra_files=texts)


def test_a_run_without_a_checkpoint_keeps_its_teacher(tmp_path: Path) -> None:
    """The copy of another model must not be trained on in silence."""
    first, second = REPOSITORY / "weights" / "privileged_tiny", tmp_path / "second"
    shutil.copytree(first, second)
    weights = next(second.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    out = tmp_path / "run"
    out.mkdir()
    copy = take_teacher(first, out)
    assert take_teacher(first, out) == copy
    for other in (second, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=f"another model than {other}"):
            take_teacher(other, out)


def check_beginning(run: RawRunConfig, agent: Path, model: RawModel, out: Path) -> None:
    """Another run begins with the agent, and with nothing else."""
    started = replace(run, init=agent)
    out.mkdir()
    learner = RawTrainer(configured(started, take_teacher(run.teacher, out)), started, out, 10.0).learner
    assert isinstance(learner, RawLearner) and learner.model.rssm is not None
    parts = {"encoder": learner.model.encoder, "neck": learner.model.neck, "rssm": learner.model.rssm}
    for name, module in (parts | {"actor": learner.policy.actor}).items():
        theirs = model.get_submodule(name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items()), name
    seeing, folder = replace(run, neck=agent), out.with_name("seeing")
    folder.mkdir()
    learner = RawTrainer(configured(seeing, take_teacher(run.teacher, folder)), seeing, folder, 10.0).learner
    assert isinstance(learner, RawLearner)
    neck = model.neck.state_dict()
    assert all(torch.equal(value, neck[key]) for key, value in learner.model.neck.state_dict().items())
    finer, folder = replace(started, image_stride=8), out.with_name("finer")
    folder.mkdir()
    learner = RawTrainer(configured(finer, take_teacher(run.teacher, folder)), finer, folder, 10.0).learner
    assert isinstance(learner, RawLearner)
    assert learner.model.encoder.config.backbone_stages == (2, 3, 4)
    for other in (run.teacher, REPOSITORY / "weights" / "raw_clone"):
        for take in (take_agent, take_neck):
            with pytest.raises(ConfigError, match="give a folder made by export-raw"):
                take(learner, other)


def check_blend(run: Path, agent: Path, room: Path) -> None:
    """Every weight lies where the share says; an agent of another shape, or a cloned one, is refused."""
    plain, own = load_checkpoint(agent)
    shifted = {name: value + 1.0 for name, value in own.items() if value.is_floating_point()}
    save_checkpoint(room / "shifted", plain, own | shifted, step=1, created_by="tests")
    out = export(run, room / "blended", "# a test\n", blended_with=room / "shifted", share=0.75)
    for name, value in load_checkpoint(out)[1].items():
        expected = own[name].float() + (0.25 if name in shifted else 0.0)
        torch.testing.assert_close(value.float(), expected, atol=2e-3, rtol=2e-3)
    with pytest.raises(ConfigError, match=r"--share must lie in \[0, 1\], got 1.5"):
        export(run, room / "refused", "# a test\n", blended_with=agent, share=1.5)
    for other in ("raw", "raw_clone"):
        with pytest.raises(ConfigError, match="another network than the run"):
            export(run, room / "refused", "# a test\n", blended_with=REPOSITORY / "weights" / other)
    assert not (room / "refused").exists()


def check_decoder(folder: Path, run: Path, plain: RawModel) -> None:
    """The agent with a decoder decodes what the run's does, and imagines by its own recurrence and policy."""
    agent = load_model(folder, "cpu")
    assert isinstance(agent, RawModel) and plain.decoder is None
    with pytest.raises(ValueError, match="no decoder"):
        plain.shown_masks([plain.rssm.initial(1)])
    learner = load_learner(run)
    assert learner.model.decoder is not None
    start = agent.rssm.initial(1)
    states = agent.imagine(start, 3, 2)
    following = agent.rssm.imagine_step(start, F.one_hot(torch.tensor([3]), 39).float(), mode=True)
    torch.testing.assert_close(states[0].features(), following.features())
    chosen = agent.actor(following.features()).argmax(-1)
    next_one = agent.rssm.imagine_step(following, F.one_hot(chosen, 39).float(), mode=True)
    torch.testing.assert_close(states[1].features(), next_one.features())
    shown = agent.shown_masks([start, *states])
    truth = learner.model.decoder.probabilities(torch.cat([state.features() for state in (start, *states)]))
    size, (right, rear, _, _, front, _) = truth.shape[-1], agent.config.encoder.bev_range_m
    rows = slice(round((45 - front) * size / 64), round((45 - rear) * size / 64))
    columns = slice(round((32 + right) * size / 64), round((32 - right) * size / 64))
    vehicles = truth[:, [bev.VEHICLE, bev.BICYCLE, bev.EMERGENCY], rows, columns].amax(1)
    torch.testing.assert_close(shown[:, list(SHOWN_MASKS).index("vehicle")], vehicles.flip(1), atol=2e-3, rtol=0)


def test_masks_that_are_shown_are_those_of_the_data() -> None:
    lines, vehicles = (bev.YELLOW_LINE, bev.WHITE_LINE), (bev.VEHICLE, bev.BICYCLE, bev.EMERGENCY)
    expected = {"road": (bev.ROAD,), "ego_lanes": (bev.EGO_LANES,), "lane_lines": lines, "obstacle": (bev.OBSTACLE,)}
    expected |= {"vehicle": vehicles, "walker": (bev.WALKER,), "red_light": (bev.RED,), "yellow_light": (bev.YELLOW,)}
    assert expected | {"green_light": (bev.GREEN,), "stop_sign": (bev.STOP_SIGN,)} == SHOWN_MASKS


@pytest.mark.parametrize(
    ("front", "encoder"), [(None, None), (FrontViewConfig(), None), (None, with_finer_map(small_encoder()))]
)
def test_training_and_driving_see_the_same(front: FrontViewConfig | None, encoder: EncoderConfig | None) -> None:
    guide = teacher()
    config = raw_config(guide.config, front=front, encoder=encoder)
    learner = RawLearner(config, guide, seed=2)
    world: RawWorldModel = learner.model.eval()
    agent = RawModel(config.model).eval()
    agent.load_state_dict(agent_tensors(learner))
    generator = torch.Generator().manual_seed(0)
    sensors = ModelInput(
        images=torch.randint(0, 255, (1, 2, 6, 3, *SIZE), dtype=torch.uint8, generator=generator),
        camera_valid=torch.ones(1, 2, 6, dtype=torch.bool),
        ego_motion=torch.tensor([0.5, 0.0, 0.01]).expand(1, 2, 3),
        route=20.0 * torch.randn(1, 2, ROUTE_POINTS, 2, generator=generator),
        vector=torch.rand(1, 2, VECTOR_SIZE + MANOEUVRE_SIZE, generator=generator),
        first=torch.tensor([[True, False]]),
    )
    actions = F.one_hot(torch.tensor([[7, 20]]), 39).float()
    with torch.no_grad():
        together = world.see(sensors, actions)
        state = agent.initial(1)
        for t in range(2):
            memory, sight = agent.see(sensors.at(t), state, actions[:, t] * (t > 0))
            torch.testing.assert_close(sight.embed, together.embed[:, t], atol=1e-4, rtol=1e-4)
            state = replace(state, memory=memory, has_memory=torch.ones(1, dtype=torch.bool))
