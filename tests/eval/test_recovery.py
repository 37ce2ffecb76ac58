"""The shipped agent gets going again after a stop that was not its own, on the real server."""

from __future__ import annotations

from pathlib import Path

import carla

from agent.entry import LeaderboardAgent
from agent.observation import CAMERA_NAMES
from eval.episode import Episode, EpisodeConfig, Tick
from eval.generate import generate_routes
from eval.sensors import InputData
from eval.server import EmbeddedServer, EmbeddedServerConfig, connect

CONFIG = Path(__file__).resolve().parents[2] / "weights" / "raw_refined" / "agent.yaml"
TOWN = "Gen03"
TICK_S = 0.05
BLIND_FROM_S, BLIND_TO_S = 3.0, 7.0
LIMIT_S = 30.0
"""The leaderboard's Bench2Drive rules end the route of a car that stands for 60 s."""
STANDING_MPS, DRIVING_MPS = 0.1, 1.0


def test_a_car_stopped_by_a_fault_drives_on_within_30_s(generated_map: carla.Map) -> None:
    route = generate_routes(generated_map, 1, seed=3, town=TOWN)[0]
    speeds_mps: list[float] = []

    def blind(data: InputData, index: int) -> InputData:
        lost = BLIND_FROM_S <= index * TICK_S < BLIND_TO_S
        return {key: value for key, value in data.items() if not (lost and key in CAMERA_NAMES)}

    def watch(episode: Episode, tick: Tick) -> None:
        speeds_mps.append(tick.ego.speed_mps)

    with EmbeddedServer(EmbeddedServerConfig(town=TOWN)) as server:
        client = connect(server.host, server.port, 60.0)
        config = EpisodeConfig(traffic=0, agent_config=str(CONFIG), max_game_s=BLIND_TO_S + LIMIT_S + 1.0)
        episode = Episode(client, route, LeaderboardAgent, config, input_filter=blind, hooks=[watch])
        try:
            episode.start()
            while episode.tick():
                if len(speeds_mps) * TICK_S > BLIND_TO_S and speeds_mps[-1] > DRIVING_MPS:
                    break
        finally:
            episode.close()

    blind_from, blind_to = round(BLIND_FROM_S / TICK_S), round(BLIND_TO_S / TICK_S)
    assert max(speeds_mps[:blind_from]) > DRIVING_MPS
    assert speeds_mps[blind_to - 1] < STANDING_MPS
    assert speeds_mps[-1] > DRIVING_MPS
    assert (len(speeds_mps) - blind_to) * TICK_S <= LIMIT_S
