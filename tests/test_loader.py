"""Batches: complete, ordered by (seed, step) alone, and prepared ahead without leaving threads behind."""

import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructrl.batch import Batch, check_batch
from instructrl.config import EncoderConfig
from instructrl.data.episodes import Episodes
from instructrl.data.loader import Loader, prefetched
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from tests.demonstrations import SENTENCES, demonstration, write

EPISODES = 13
LENGTHS = [1 + seed % 3 for seed in range(EPISODES)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(EncoderConfig())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demonstrations = [demonstration(seed, steps=steps) for seed, steps in enumerate(LENGTHS)]
    return write(tmp_path_factory.mktemp("loader") / "file.hdf5", demonstrations)


def seen(batch: Batch, episodes: Episodes) -> list[int]:
    """Which episodes a batch holds, told by their first state."""
    firsts = {episodes.episode(number).state[0].tobytes(): number for number in range(len(episodes))}
    return [firsts[row.tobytes()] for row, mask in zip(batch.state[:, 0], batch.step_mask, strict=True) if mask.any()]


def assert_same(one: Batch, other: Batch) -> None:
    for name in Batch._fields:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_order_is_drawn_once_an_epoch(path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(Episodes(path), tokenizer, batch_size=2, seed=0)
    drawn, draw = [], loader._drawn
    monkeypatch.setattr(loader, "_drawn", lambda epoch: drawn.append(epoch) or draw(epoch))
    steps = [*range(20), 3, 15]
    batches = [loader.batch(step) for step in steps]
    assert drawn == [0, 1, 2, 0, 2]
    for step, batch in zip(steps, batches, strict=True):
        assert_same(batch, Loader(Episodes(path), tokenizer, batch_size=2, seed=0).batch(step))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, EPISODES),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 5),
)
def test_every_episode_once_per_epoch(
    path: Path, tokenizer: Tokenizer, count: int, batch_size: int, seed: int, epoch: int
) -> None:
    episodes = Episodes(path, limit=count)
    loader = Loader(episodes, tokenizer, batch_size=batch_size, seed=seed)
    assert loader.steps_per_epoch == -(-count // batch_size)
    first = epoch * loader.steps_per_epoch
    batches = [loader.batch(step) for step in range(first, first + loader.steps_per_epoch)]
    assert sorted(number for batch in batches for number in seen(batch, episodes)) == list(range(count))
    for batch in batches:
        check_batch(batch, loader.sizes)
    assert sum(batch.step_mask.sum() for batch in batches) == sum(LENGTHS[:count])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 20), seed=st.integers(0, 2**31 - 1), step=st.integers(0, 40))
def test_a_batch_is_a_function_of_seed_and_step(
    path: Path, tokenizer: Tokenizer, batch_size: int, seed: int, step: int
) -> None:
    fresh = Loader(Episodes(path), tokenizer, batch_size=batch_size, seed=seed)
    used = Loader(Episodes(path), tokenizer, batch_size=batch_size, seed=seed)
    for earlier in range(min(step, 5)):
        used.batch(earlier)
    assert_same(fresh.batch(step), used.batch(step))


def test_rows_hold_their_episode(path: Path, tokenizer: Tokenizer) -> None:
    episodes = Episodes(path)
    batch = Loader(episodes, tokenizer, batch_size=EPISODES + 2, seed=0, steps=5).batch(0)
    for row, number in enumerate(seen(batch, episodes)):
        steps, length = episodes.episode(number), LENGTHS[number]
        for name in ("images", "state", "intrinsics", "extrinsics", "actions"):
            assert np.array_equal(getattr(batch, name)[row, :length], getattr(steps, name)), name
            assert not getattr(batch, name)[row, length:].any(), name
        assert batch.step_mask[row].tolist() == [1.0] * length + [0.0] * (5 - length)
        assert tokenizer.decode(batch.tokens[row]) in SENTENCES
        assert np.array_equal(batch.text_padding_mask[row], (batch.tokens[row] == 0).astype(np.float32))
    assert not batch.step_mask[EPISODES:].any() and batch.text_padding_mask[EPISODES:].all()


def test_order_and_sentences_change_with_seed_and_epoch(path: Path, tokenizer: Tokenizer) -> None:
    episodes = Episodes(path)
    first, other = (Loader(episodes, tokenizer, batch_size=EPISODES, seed=seed) for seed in (0, 1))
    orders = {tuple(seen(batch, episodes)) for batch in (first.batch(0), first.batch(1), other.batch(0))}
    assert len(orders) == 3
    drawn = Counter(tokenizer.decode(row) for step in range(60) for row in first.batch(step).tokens)
    assert set(drawn) == set(SENTENCES)
    assert min(drawn.values()) > 0.25 * drawn.total()


def test_unshuffled_epochs_are_the_same(path: Path, tokenizer: Tokenizer) -> None:
    episodes = Episodes(path)
    loader = Loader(episodes, tokenizer, batch_size=4, seed=0, shuffle=False)
    assert [number for step in range(4) for number in seen(loader.batch(step), episodes)] == list(range(EPISODES))
    for step in range(4):
        assert_same(loader.batch(step), loader.batch(step + 8))


def test_only_the_first_sentences_are_drawn(path: Path, tokenizer: Tokenizer) -> None:
    """From the same draws: all else stays, and a limit that limits nothing changes nothing."""
    episodes = Episodes(path)
    loaders = [Loader(episodes, tokenizer, batch_size=EPISODES, seed=3, sentences=limit) for limit in (None, 1, 2, 3)]
    drawn = [set() for _ in loaders]
    for step in range(20):
        batches = [loader.batch(step) for loader in loaders]
        for batch, said in zip(batches, drawn, strict=True):
            said |= {tokenizer.decode(row) for row in batch.tokens}
        assert_same(batches[0], batches[3])
        for batch in batches[1:3]:
            assert_same(
                batches[0], batch._replace(tokens=batches[0].tokens, text_padding_mask=batches[0].text_padding_mask)
            )
    assert drawn == [set(SENTENCES), set(SENTENCES[:1]), set(SENTENCES[:2]), set(SENTENCES)]


def test_too_long_an_episode_or_sentence(path: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an episode of 3 steps does not fit into 2"):
        Loader(Episodes(path), tokenizer, batch_size=2, seed=0, steps=2)
    talkative = write(tmp_path / "file.hdf5", [demonstration(0, sentences=("very " * 40 + "red",))])
    with pytest.raises(InputError, match="41 tokens, at most 32"):
        Loader(Episodes(talkative), tokenizer, batch_size=2, seed=0)


class Fake:
    """Counts batches; one of them fails."""

    def __init__(self, *, broken: int = -1) -> None:
        self.broken, self.prepared = broken, 0

    def batch(self, step: int) -> int:
        self.prepared += 1
        if step == self.broken:
            raise InputError("batch broke")
        return step


def threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_prefetched_in_order_and_not_too_far_ahead(depth: int) -> None:
    loader, handed = Fake(), []
    with closing(prefetched(loader, 5, 25, depth=depth, put=lambda step: step * 10)) as batches:
        for batch in batches:
            handed.append(batch)
            time.sleep(0.002)
            assert loader.prepared <= len(handed) + depth
    assert handed == list(range(50, 250, 10))
    assert threads() == 0


def test_prefetched_hands_on_exceptions() -> None:
    handed = []
    with (
        pytest.raises(InputError, match="batch broke"),
        closing(prefetched(Fake(broken=3), 0, 9, depth=4, put=int)) as batches,
    ):
        handed.extend(batches)
    assert handed == [] or handed == [0, 1, 2]
    assert threads() == 0


def test_prefetched_ends_its_thread_when_closed_early() -> None:
    loader = Fake()
    with closing(prefetched(loader, 0, 10**6, depth=4, put=int)) as batches:
        assert [next(batches), next(batches)] == [0, 1]
        assert threads() == 1
    assert threads() == 0
    assert loader.prepared < 10
