"""Which windows are drawn, what is in them, and that a resumed run goes on as the uninterrupted one."""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent import strict_json
from agent.model.rssm import LatentState
from tests.training.experience import STILL, fill, settings, transition
from training import bev
from training.experience import bench
from training.experience.batches import Batches
from training.experience.catalogue import Catalogue, Piece, Window
from training.experience.decode import WindowArrays, pool_into
from training.experience.index import Row, segment_name
from training.experience.latents import LatentStore
from training.experience.sampler import Sampler
from training.experience.writer import ExperienceWriter, Transition
from training.learner import Learner
from training.replay import SegmentError, unpack_words


def row(stream: str, sequence: int, position: int, steps: int, terminals: tuple[int, ...] = ()) -> Row:
    return Row(segment_name(stream, sequence), stream, sequence, position, steps, 0, sequence, terminals)


def stream_rows(stream: str, lengths: list[int], missing: set[int]) -> list[Row]:
    positions = np.cumsum([0, *lengths])
    rows = [row(stream, k, int(positions[k]), steps) for k, steps in enumerate(lengths)]
    return [r for r in rows if r.sequence not in missing]


def places(pieces: tuple[Piece, ...]) -> list[tuple[str, int]]:
    return [(p.row.stream, p.row.position + k) for p in pieces for k in range(p.start, p.stop)]


@given(
    lengths=st.lists(st.lists(st.integers(1, 5), max_size=5), min_size=1, max_size=3),
    missing=st.sets(st.integers(0, 4), max_size=2),
    length=st.integers(1, 7),
)
def test_every_run_of_steps_is_a_window_and_nothing_else(
    lengths: list[list[int]], missing: set[int], length: int
) -> None:
    rows = [r for k, each in enumerate(lengths) for r in stream_rows(f"s{k}", each, missing)]
    stored = {(r.stream, r.position + k) for r in rows for k in range(r.steps)}
    wanted = {(stream, begin) for stream, begin in stored if all((stream, begin + k) in stored for k in range(length))}
    catalogue = Catalogue(reversed(rows), length)
    assert catalogue.windows == len(wanted) and catalogue.steps == len(stored)
    for stream, begin in stored:
        pieces = catalogue.pieces(Window(stream, begin))
        assert (pieces is not None) == ((stream, begin) in wanted)
        if pieces is not None:
            assert places(pieces) == [(stream, begin + k) for k in range(length)]
            before = [(stream, begin - 1)] if (stream, begin - 1) in stored else []
            longer = catalogue.pieces(Window(stream, begin), before=1)
            assert longer is not None and places(longer) == before + places(pieces)
    generator = np.random.default_rng(0)
    for _ in range(5 if wanted else 0):
        window = catalogue.draw(generator)
        assert (window.stream, window.position) in wanted


def test_windows_are_drawn_equally_often() -> None:
    catalogue = Catalogue([*stream_rows("a", [4, 4, 4], set()), *stream_rows("b", [5, 3], {1})], 3)
    generator = np.random.default_rng(0)
    counts = Counter(catalogue.draw(generator) for _ in range(13_000))
    assert len(counts) == catalogue.windows == 13
    assert max(abs(count - 1000) for count in counts.values()) < 120  # four standard deviations


def test_termination_windows_end_at_or_shortly_before_a_termination() -> None:
    rows = [row("a", 0, 0, 40, (29,)), row("a", 1, 40, 40, (20,)), row("b", 0, 0, 30, (2,)), row("c", 0, 0, 5, (4,))]
    catalogue = Catalogue(rows, 10)
    assert catalogue.terminations == 3  # stream c has no window
    generator = np.random.default_rng(0)
    ends = Counter((w.stream, w.position + 9) for w in (catalogue.draw_termination(generator, 4) for _ in range(3000)))
    expected = {("a", end) for end in (*range(25, 30), *range(56, 61))} | {("b", 9)}  # b's begins with the stream
    assert set(ends) == expected
    assert all(abs(count - (1000 if end == ("b", 9) else 200)) < 120 for end, count in ends.items())


def test_share_of_termination_windows(tmp_path: Path) -> None:
    fill(tmp_path, 400, 0, episode=100)
    sampler = Sampler(tmp_path, STILL, 6, 0, termination_share=0.5, termination_steps=3)
    ends = [(sampler.draw().position + 5) % 100 for _ in range(1000)]
    near = sum(end >= 96 for end in ends)
    assert abs(near - (500 + 0.04 * 500)) < 70


# ----------------------------------------------------------------------------- what is in a window


@pytest.mark.parametrize("size_px", [128, 64, 16])
def test_pooling_is_that_of_the_bird_s_eye_view(size_px: int) -> None:
    words = np.random.default_rng(0).integers(0, 2**43, (128, 128), dtype=np.uint64)
    words &= np.random.default_rng(1).integers(0, 2**43, (128, 128), dtype=np.uint64)
    pooled = np.empty((size_px, size_px), np.uint64)
    pool_into(words, pooled)
    np.testing.assert_array_equal(pooled, bev.pool(words, 128 // size_px))
    with pytest.raises(ValueError, match="48 px"):
        WindowArrays.empty(1, 1, 48, 0)


def test_batches_hold_what_was_written(tmp_path: Path) -> None:
    fill(tmp_path, 61, 0, 1)
    with Batches(tmp_path, settings(), 3, ahead=2) as batches:
        for _ in range(10):
            read = batches.next().replayed
            assert read.words.shape == (4, 6, 16, 16) and read.vector is None and read.start is None
            for b in range(4):
                numbers = read.reward[b].int().tolist()
                assert numbers == list(range(numbers[0], numbers[0] + 6))
                for t, number in enumerate(numbers):
                    stream, step = divmod(number, 1000)
                    wanted = transition(stream, step)
                    pooled = bev.pool(wanted.words, 8).view(np.int64)
                    np.testing.assert_array_equal(read.words[b, t].numpy(), pooled)
                    flags = read.first[b, t], read.last[b, t], read.terminal[b, t]
                    assert [bool(flag) for flag in flags] == [wanted.first, wanted.last, wanted.terminal]
                    assert int(read.previous_action[b, t]) == wanted.previous_action


def test_an_episode_that_broke_off_ends_where_the_next_begins(tmp_path: Path) -> None:
    with ExperienceWriter(tmp_path) as writer:
        for step in range(6):
            writer.add(replace(transition(0, step), first=step in (0, 4), vector=np.full(3, step)))
    config = settings()
    world = config.world_model
    config = replace(config, world_model=replace(world, observation=replace(world.observation, vector=3)), batch=1)
    with Batches(tmp_path, config, ahead=0) as batches:
        read = batches.next().replayed
    assert read.last[0].tolist() == [False, False, False, True, False, False] and not read.terminal.any()
    assert read.vector is not None and read.vector[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    wider = replace(config, world_model=replace(world, observation=replace(world.observation, vector=4)))
    with Batches(tmp_path, wider, ahead=0) as batches, pytest.raises(ValueError, match="ego vector of 4 values"):
        batches.next()


def test_senseless_transitions_are_refused() -> None:
    words = np.zeros((128, 128), np.uint64)
    with pytest.raises(ValueError, match="last"):
        Transition(words, 0, 0.0, terminal=True)
    with pytest.raises(ValueError, match="nan"):
        Transition(words, 0, float("nan"))


def test_words_that_claim_to_be_huge_are_refused_before_they_are_unpacked() -> None:
    bomb = bytes.fromhex("28b52ffd") + b"\xe0" + struct.pack("<Q", 10**10) + b"\x01\x00\x00"
    assert zstandard.frame_content_size(bomb) == 10**10
    with pytest.raises(SegmentError, match="10000000000 bytes"):
        unpack_words(bomb)
    with pytest.raises(SegmentError, match="unpacked"):
        unpack_words(b"nothing of this kind")


# ----------------------------------------------------------------------------- fresh steps, carried states


def test_fresh_steps_are_seen_once_and_in_order_before_any_other(tmp_path: Path) -> None:
    fill(tmp_path, 40, 0)
    sampler = Sampler(tmp_path, replace(STILL, online=True), 6, 0)
    assert len({sampler.draw().position for _ in range(100)}) > 20  # what was there is drawn at random
    fill(tmp_path, 20, 1)
    sampler.refresh()
    state = json.loads(strict_json.dumps(sampler.state()))
    fresh = [Window("s1", 0), Window("s1", 6), Window("s1", 12)]
    assert [sampler.draw() for _ in range(3)] == fresh
    after = [sampler.draw() for _ in range(20)]
    assert {window.stream for window in after} == {"s0", "s1"}
    again = Sampler(tmp_path, replace(STILL, online=True), 6, 99)
    again.restore(state)
    assert [again.draw() for _ in range(23)] == fresh + after


def random_states(batch: int, steps: int, seed: int) -> LatentState:
    config = settings("strong").world_model.rssm
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, config.classes, (batch, steps, config.groups), generator=generator)
    stoch = torch.nn.functional.one_hot(index, config.classes).float().flatten(-2)
    return LatentState(torch.rand(batch, steps, config.deter, generator=generator) * 2 - 1, stoch)


def test_states_are_found_again_and_torn_ones_are_unknown(tmp_path: Path) -> None:
    config = settings("strong").world_model.rssm
    store = LatentStore(tmp_path, config)
    a, b = row("a", 0, 0, 4), row("a", 1, 4, 4)
    states = random_states(1, 4, 0)
    store.store([(Piece(a, 2, 4), Piece(b, 0, 2))], states)
    asked = [(a.name, 1), (a.name, 2), (a.name, 3), (b.name, 0), (b.name, 1), (b.name, 2), ("c", 0), None]
    found, known = LatentStore(tmp_path, config).read(asked)
    assert known.tolist() == [False, True, True, True, True, False, False, False]
    torch.testing.assert_close(found.deter[1:5], states.deter[0], atol=1e-3, rtol=0.0)
    torch.testing.assert_close(found.stoch[1:5], states.stoch[0], atol=0.0, rtol=0.0)
    assert not found.stoch[known.logical_not()].any()
    path = next(tmp_path.glob(f"*/{b.name}"))
    path.write_bytes(path.read_bytes()[:-3])
    assert store.read(asked)[1].tolist() == [False, True, True, True, False, False, False, False]
    store.forget([a.name])
    assert store.read(asked)[1].tolist() == [False, False, False, True, False, False, False, False]


def test_windows_start_from_the_state_that_was_filtered_before_them(tmp_path: Path) -> None:
    fill(tmp_path, 30, 0)
    config = settings("strong", online=False)
    with Batches(tmp_path, config, latents=tmp_path / "run", ahead=0) as batches:
        kept: dict[int, torch.Tensor] = {}
        hits = 0
        for seed in range(12):
            batch = batches.next()
            read = batch.replayed
            assert read.start is not None
            for b in range(4):
                number = int(read.reward[b, 0])
                if number - 1 in kept:
                    hits += 1
                    torch.testing.assert_close(read.start.deter[b], kept[number - 1], atol=1e-3, rtol=0.0)
                    assert bool(read.first[b, 0]) == (number % 20 == 0)
                else:
                    assert read.first[b, 0]
            states = random_states(4, 6, seed)
            batches.store(batch, states)
            for b in range(4):
                kept |= {int(n): deter for n, deter in zip(read.reward[b], states.deter[b], strict=True)}
    assert hits > 10


# ----------------------------------------------------------------------------- resuming


def test_what_is_drawn_depends_on_seed_and_segments_only(tmp_path: Path) -> None:
    fill(tmp_path / "a", 40, 0, 1)
    fill(tmp_path / "b", 40, 1, 0)
    drawn = [[Sampler(tmp_path / name, STILL, 6, seed).draw() for seed in range(20)] for name in "ab"]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 10


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data, 60, 0, 1)
    config = settings("strong")
    config = replace(config, tricks=replace(config.tricks, termination_share=0.5, termination_steps=4))

    def train(learner: Learner, batches: Batches, updates: int) -> None:
        for _ in range(updates):
            batch = batches.next()
            _, state = learner.update(batch.replayed)
            batches.store(batch, state)

    whole = Learner(config)
    with Batches(data, config, 5, latents=tmp_path / "whole") as batches:
        train(whole, batches, 5)

    part = Learner(config)
    with Batches(data, config, 5, latents=tmp_path / "part") as batches:
        train(part, batches, 2)
        state, tensors = strict_json.dumps(batches.state()), part.tensors()
    resumed = Learner(config, seed=7)
    resumed.load(tensors, "checkpoint")
    with Batches(data, config, 8, latents=tmp_path / "part", state=json.loads(state)) as batches:
        train(resumed, batches, 3)
    for name, value in whole.tensors().items():
        torch.testing.assert_close(resumed.tensors()[name], value, atol=0.0, rtol=0.0, msg=name)


def test_two_thousand_frames_a_second_on_two_cores() -> None:
    timing = bench.run(bench.ReplayBenchConfig(steps=400, batches=2))
    print(bench.table(timing))
    assert timing.read_per_cpu_s > 1000.0
    assert timing.bytes_per_frame < 10_000
