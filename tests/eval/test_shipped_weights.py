"""The shipped agent as a user gets it: its weights, loaded through the entry point, driving on rendered pictures."""

from __future__ import annotations

import math
from pathlib import Path

import carla
import pytest
import torch

from agent.actions import ACTIONS
from agent.driver import Decision
from agent.entry import LeaderboardAgent
from agent.model.mask_decoder import SHOWN_MASKS
from agent.observation import IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX
from eval.episode import Episode, EpisodeConfig, Tick
from eval.generate import generate_routes
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect

CONFIG = Path(__file__).resolve().parents[2] / "weights" / "raw_refined" / "agent.yaml"
TOWN = "Gen03"
DECISIONS = 3


def test_the_shipped_agent_decides_on_what_it_sees(generated_map: carla.Map) -> None:
    route = generate_routes(generated_map, 1, seed=3, town=TOWN)[0]
    ticks: list[Tick] = []
    decisions: list[Decision] = []

    def watch(episode: Episode, tick: Tick) -> None:
        ticks.append(tick)
        decisions.append(episode.agent.driver.last_decision)
        if len(ticks) == 1:
            model, state = episode.agent.driver.model, decisions[0].state
            encoder = model.config.encoder
            masks = model.told_masks(decisions[0].inputs, state)
            metres = [high - low for low, high in zip(encoder.bev_range_m[:2], encoder.bev_range_m[3:5], strict=True)]
            assert masks.shape[:2] == (1, len(SHOWN_MASKS))
            assert masks.shape[2] / masks.shape[3] == pytest.approx(metres[1] / metres[0], rel=0.05)
            road = masks[0, list(SHOWN_MASKS).index("road")]
            at_the_car = road[round(-encoder.bev_range_m[1] / metres[1] * len(road)), masks.shape[3] // 2]
            assert at_the_car > 0.9, "it does not see the road that it stands on"
            assert state.memory.shape == (1, encoder.bev_rows * encoder.bev_columns, encoder.embed_dims)

    with EmbeddedServer(EmbeddedServerConfig(town=TOWN)) as server:
        client = connect(server.host, server.port, 60.0)
        config = EpisodeConfig(traffic=0, agent_config=str(CONFIG), max_game_s=0.1 * DECISIONS)
        record = Episode(client, route, LeaderboardAgent, config, hooks=[watch]).run()

    assert record.status.startswith("Failed - stopped after")  # and not because the agent failed
    assert len({decision.now_s for decision in decisions}) == DECISIONS
    for tick, decision in zip(ticks, decisions, strict=True):
        control = tick.control
        assert all(math.isfinite(value) for value in (control.throttle, control.steer, control.brake))
        assert 0.0 <= control.throttle <= 1.0 and 0.0 <= control.brake <= 1.0 and -1.0 <= control.steer <= 1.0
        assert decision.inputs.images.shape == (1, 6, 3, IMAGE_HEIGHT_PX, IMAGE_WIDTH_PX)
        assert decision.inputs.camera_valid.all()
        assert decision.inputs.images.float().std(dim=(2, 3, 4)).min() > 5.0, "a camera shows nothing"
        assert decision.logits.shape == (len(ACTIONS),) and torch.isfinite(decision.logits).all()
        assert decision.action is not None
