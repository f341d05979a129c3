"""Data loader: complete epochs, an order that depends on (seed, step) alone, prefetching without leaked threads."""

import functools
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructrl.config.model import EncoderConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.loading.loader import Loader, prefetch
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.types import Batch, check_batch
from tests.fixtures.demonstrations import HEADER, SENTENCES, demonstration, write

EPISODES = 13
LENGTHS = [1 + seed % 3 for seed in range(EPISODES)]
COUNTS = (13, 4, 7)  # episodes of three files


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(EncoderConfig())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demonstrations = [demonstration(seed, steps=steps) for seed, steps in enumerate(LENGTHS)]
    return write(tmp_path_factory.mktemp("loader") / "file.hdf5", demonstrations)


@pytest.fixture(scope="module")
def paths(path: Path) -> list[Path]:
    """Write files of several tasks; no two episodes are equal."""
    found = [path]
    for number, task in enumerate(("push_button", "pick_and_lift"), start=1):
        sentences = tuple(f"{words} {number}" for words in SENTENCES[: 1 + number])
        demonstrations = [
            demonstration(100 * number + one, steps=1 + one % 4, sentences=sentences) for one in range(COUNTS[number])
        ]
        found.append(write(path.with_name(f"{task}.hdf5"), demonstrations, replace(HEADER, task=task)))
    return found


def numbered(files: list[DemonstrationDataset]) -> dict[bytes, int]:
    """Return the global number of every episode, by its first state."""
    states = [episodes.episode(number).state[0].tobytes() for episodes in files for number in range(len(episodes))]
    return {state: number for number, state in enumerate(states)}


def episode_numbers(batches: list[Batch], numbers: dict[bytes, int]) -> list[int]:
    """Return the numbers of the episodes in batches, in order."""
    rows = [(row, mask) for one in batches for row, mask in zip(one.state[:, 0], one.step_mask, strict=True)]
    return [numbers[row.tobytes()] for row, mask in rows if mask.any()]


def seen(batch: Batch, episodes: DemonstrationDataset) -> list[int]:
    """Return the numbers of the episodes in a batch, identified by first state."""
    firsts = {episodes.episode(number).state[0].tobytes(): number for number in range(len(episodes))}
    return [firsts[row.tobytes()] for row, mask in zip(batch.state[:, 0], batch.step_mask, strict=True) if mask.any()]


def assert_same(one: Batch, other: Batch) -> None:
    for name in Batch._fields:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, EPISODES),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 5),
)
def test_every_episode_once_per_epoch(
    path: Path, tokenizer: Tokenizer, count: int, batch_size: int, seed: int, epoch: int
) -> None:
    episodes = DemonstrationDataset(path, limit=count)
    loader = Loader([episodes], tokenizer, batch_size=batch_size, seed=seed)
    assert loader.steps_per_epoch == -(-count // batch_size)
    first = epoch * loader.steps_per_epoch
    batches = [loader.batch(step) for step in range(first, first + loader.steps_per_epoch)]
    assert sorted(number for batch in batches for number in seen(batch, episodes)) == list(range(count))
    for batch in batches:
        check_batch(batch, loader.sizes)
    assert sum(batch.step_mask.sum() for batch in batches) == sum(LENGTHS[:count])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 20), seed=st.integers(0, 2**31 - 1), step=st.integers(0, 40))
def test_a_batch_is_a_function_of_seed_and_step(
    path: Path, tokenizer: Tokenizer, batch_size: int, seed: int, step: int
) -> None:
    fresh = Loader([DemonstrationDataset(path)], tokenizer, batch_size=batch_size, seed=seed)
    used = Loader([DemonstrationDataset(path)], tokenizer, batch_size=batch_size, seed=seed)
    for earlier in range(min(step, 5)):
        used.batch(earlier)
    assert_same(fresh.batch(step), used.batch(step))


def test_the_order_is_that_of_every_earlier_run(path: Path, tokenizer: Tokenizer) -> None:
    """Digests that revision df01a31 gives for these demonstrations: its runs resume with the same batches."""
    digests = {}
    for shuffle in (True, False):
        loader = Loader([DemonstrationDataset(path)], tokenizer, batch_size=4, seed=7, shuffle=shuffle)
        digest = hashlib.sha256()
        for step in range(10):
            batch = loader.batch(step)
            texts = [tokenizer.decode(row) for row in batch.tokens]  # not token ids: the vocabulary may grow
            for array in batch._replace(tokens=np.array(texts, "S64"))[: Batch._fields.index("features")]:
                digest.update(np.ascontiguousarray(array).tobytes())
        digests[shuffle] = digest.hexdigest()
    assert digests == {
        True: "005f42e9033be28fbaff4eef96775174454232e593e26610344a75da022fd261",
        False: "67c7c398c929a514620f6f54f5fdfa39d74c7b65e5cc069c0cfb1f811fedc5a1",
    }


@pytest.fixture(scope="module")
def first_episodes() -> Iterator[Callable[[Path, int], DemonstrationDataset]]:
    """Return the first episodes of a file, which is opened once: reading changes nothing."""
    with ExitStack() as opened:
        yield functools.cache(lambda path, limit: opened.enter_context(DemonstrationDataset(path, limit=limit)))


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    """Draw files and their episodes, processes, batch size, weights or none, and the step of an interruption."""
    files = draw(st.integers(1, len(COUNTS)))
    limits = [draw(st.integers(1, COUNTS[file])) for file in range(files)]
    processes, each = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    weights = draw(st.none() | st.lists(st.floats(0.2, 5), min_size=files, max_size=files))
    return {
        "limits": limits, "processes": processes, "batch_size": processes * each, "weights": weights,
        "seed": draw(st.integers(0, 2**31 - 1)), "epoch": draw(st.integers(0, 4)), "shuffle": draw(st.booleans()),
        "stop": draw(st.floats(0, 1)), "lengths": draw(st.lists(st.integers(1, 3), max_size=3)),
    }  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mixture=mixtures())
def test_any_number_of_processes_sees_the_same_epoch_whole_and_goes_on_as_if_never_interrupted(
    paths: list[Path],
    first_episodes: Callable[[Path, int], DemonstrationDataset],
    tokenizer: Tokenizer,
    mixture: dict[str, Any],
) -> None:
    files = [first_episodes(path, limit) for path, limit in zip(paths, mixture["limits"], strict=False)]
    options = {key: mixture[key] for key in ("batch_size", "weights", "seed", "shuffle", "lengths")}
    reference = Loader(files, tokenizer, **options)
    first = mixture["epoch"] * reference.steps_per_epoch
    stop = first + int(mixture["stop"] * (reference.steps_per_epoch - 1))
    batches = []
    for step in range(first, first + reference.steps_per_epoch):
        if step in (first, stop):  # every process starts or restarts here
            parts = [Loader(files, tokenizer, **options, shard=(index, mixture["processes"]))
                     for index in range(mixture["processes"])]  # fmt: skip
        local = [part.batch(step) for part in parts]
        for part, one in zip(parts, local, strict=True):
            check_batch(one, part.sizes_of(step))
        arrays = [None if arrays[0] is None else np.concatenate(arrays) for arrays in zip(*local, strict=True)]
        assert_same(Batch(*arrays), reference.batch(step))
        batches.append(reference.batch(step))
        check_length(batches[-1], reference)
    numbers, counts = episode_numbers(batches, numbered(files)), mixture["limits"]
    assert len(numbers) == sum(counts)
    if mixture["weights"] is None:
        assert sorted(numbers) == list(range(sum(counts)))
    of_file = Counter(np.searchsorted(np.cumsum(counts), numbers, side="right").tolist())
    for file, weight in enumerate(mixture["weights"] or counts):
        assert abs(of_file[file] - sum(counts) * weight / sum(mixture["weights"] or counts)) < 1


def check_length(batch: Batch, loader: Loader) -> None:
    """A batch has the shortest of a loader's lengths into which its longest sequence fits."""
    longest = int(batch.step_mask.sum(axis=1).max())
    assert batch.step_mask.shape[1] == min(length for length in loader.lengths if length >= longest)


def divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mixture=mixtures(), data=st.data())
def test_interrupted_anywhere_and_resumed_by_other_processes_nothing_is_lost_or_seen_twice(
    paths: list[Path],
    first_episodes: Callable[[Path, int], DemonstrationDataset],
    tokenizer: Tokenizer,
    mixture: dict[str, Any],
    data: st.DataObject,
) -> None:
    """Read as in training: prefetched, over epochs; batches prepared beyond the last finished step are discarded."""
    options = {key: mixture[key] for key in ("batch_size", "weights", "seed", "shuffle", "lengths")}

    def opened() -> list[DemonstrationDataset]:
        return [first_episodes(path, limit) for path, limit in zip(paths, mixture["limits"], strict=False)]

    def part(processes: int, start: int, stop: int, end: int) -> list[list[Batch]]:
        """Return the batches that each process consumes from `start` to `stop`, prefetching up to `end`."""
        consumed = []
        for index in range(processes):
            loader = Loader(opened(), tokenizer, **options, shard=(index, processes))
            depth = data.draw(st.integers(0, 4))
            with closing(prefetch(loader, start, end, depth=depth, put=lambda batch: batch)) as batches:
                consumed.append([next(batches) for _ in range(start, stop)])
        return consumed

    reference = Loader(opened(), tokenizer, **options)
    end = 3 * reference.steps_per_epoch
    stops = sorted(data.draw(st.lists(st.integers(0, end), min_size=1, max_size=3)))
    consumed: list[Batch] = []
    for start, stop in zip([0, *stops], [*stops, end], strict=True):
        processes = data.draw(st.sampled_from(divisors(mixture["batch_size"])))
        for steps in zip(*part(processes, start, stop, end), strict=True):
            joined = [None if parts[0] is None else np.concatenate(parts) for parts in zip(*steps, strict=True)]
            consumed.append(Batch(*joined))
    assert len(consumed) == end
    for step, batch in enumerate(consumed):
        assert_same(batch, reference.batch(step))
    counts, numbers = mixture["limits"], numbered(opened())
    for epoch in range(3):
        first = epoch * reference.steps_per_epoch
        seen_ = episode_numbers(consumed[first : first + reference.steps_per_epoch], numbers)
        assert len(seen_) == sum(counts)
        if mixture["weights"] is None:
            assert sorted(seen_) == list(range(sum(counts)))


def test_a_shorter_batch_has_the_same_sequences(paths: list[Path], tokenizer: Tokenizer) -> None:
    files = [DemonstrationDataset(path) for path in paths]
    full, short = (Loader(files, tokenizer, batch_size=3, seed=4, lengths=lengths) for lengths in ((), (1, 2)))
    for step in range(2 * full.steps_per_epoch):
        one, other = full.batch(step), short.batch(step)
        length = other.step_mask.shape[1]
        for name in ("images", "state", "intrinsics", "extrinsics", "actions", "step_mask"):
            assert np.array_equal(getattr(one, name)[:, :length], getattr(other, name)), name
        assert np.array_equal(one.tokens, other.tokens) and not one.step_mask[:, length:].any()
        check_length(other, short)
    assert {short.batch(step).step_mask.shape[1] for step in range(2 * full.steps_per_epoch)} >= {2, 4}


@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_too_have_the_shortest_length(paths: list[Path], tokenizer: Tokenizer, window: int) -> None:
    files = [DemonstrationDataset(path) for path in paths]
    loader = Loader(files, tokenizer, batch_size=2, seed=4, lengths=(1, 2), window=window)
    for step in range(loader.steps_per_epoch):
        check_length(loader.batch(step), loader)


def test_each_row_of_a_mixture_is_asked_in_words_of_its_own_task(paths: list[Path], tokenizer: Tokenizer) -> None:
    files = [DemonstrationDataset(path) for path in paths]
    loader, numbers = Loader(files, tokenizer, batch_size=sum(COUNTS), seed=1), numbered(files)
    assert loader.sizes.steps == 4
    instructions = [set() for _ in files]
    for step in range(8):
        batch = loader.batch(step)
        for row, number in enumerate(episode_numbers([batch], numbers)):
            file = int(np.searchsorted(np.cumsum(COUNTS), number, side="right"))
            local = number - sum(COUNTS[:file])
            steps = files[file].episode(local)
            length = len(steps.actions)
            for name in ("images", "state", "intrinsics", "extrinsics", "actions"):
                assert np.array_equal(getattr(batch, name)[row, :length], getattr(steps, name)), name
            instructions[file].add(tokenizer.decode(batch.tokens[row]))
    assert instructions == [set(episodes.instructions(0)) for episodes in files]


def test_batches_that_cannot_be_shared_out_are_refused(path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"training.batch_size: found 6; allowed: a multiple of .* processes, 4"):
        Loader([DemonstrationDataset(path)], tokenizer, batch_size=6, seed=0, shard=(1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": ("front", "left_shoulder")}, r"b.hdf5: cameras .*left_shoulder.*, but .*file.hdf5 has .*wrist"),
        (
            {"provenance": HEADER.provenance | {"renderer": "other"}},
            r"b.hdf5: renderer other, but .* has none; collect",
        ),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    path: Path, tokenizer: Tokenizer, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    other = write(tmp_path / "b.hdf5", [demonstration(0)], replace(HEADER, **change))
    with pytest.raises(InputError, match=message):
        Loader([DemonstrationDataset(path), DemonstrationDataset(other)], tokenizer, batch_size=2, seed=0)


def test_rows_hold_their_episode(path: Path, tokenizer: Tokenizer) -> None:
    episodes = DemonstrationDataset(path)
    batch = Loader([episodes], tokenizer, batch_size=EPISODES + 2, seed=0, steps=5).batch(0)
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
    episodes = DemonstrationDataset(path)
    first, other = (Loader([episodes], tokenizer, batch_size=EPISODES, seed=seed) for seed in (0, 1))
    orders = {tuple(seen(batch, episodes)) for batch in (first.batch(0), first.batch(1), other.batch(0))}
    assert len(orders) == 3
    drawn = Counter(tokenizer.decode(row) for step in range(60) for row in first.batch(step).tokens)
    assert set(drawn) == set(SENTENCES)
    assert min(drawn.values()) > 0.25 * drawn.total()


def test_unshuffled_epochs_are_the_same(path: Path, tokenizer: Tokenizer) -> None:
    episodes = DemonstrationDataset(path)
    loader = Loader([episodes], tokenizer, batch_size=4, seed=0, shuffle=False)
    assert [number for step in range(4) for number in seen(loader.batch(step), episodes)] == list(range(EPISODES))
    for step in range(4):
        assert_same(loader.batch(step), loader.batch(step + 8))


def test_only_the_first_sentences_are_drawn(path: Path, tokenizer: Tokenizer) -> None:
    """The random numbers are the same: all else is equal, and a limit above all counts changes nothing."""
    episodes = DemonstrationDataset(path)
    loaders = [
        Loader([episodes], tokenizer, batch_size=EPISODES, seed=3, max_instructions=limit) for limit in (None, 1, 2, 3)
    ]
    drawn = [set() for _ in loaders]
    for step in range(20):
        batches = [loader.batch(step) for loader in loaders]
        for batch, texts in zip(batches, drawn, strict=True):
            texts |= {tokenizer.decode(row) for row in batch.tokens}
        assert_same(batches[0], batches[3])
        for batch in batches[1:3]:
            assert_same(
                batches[0], batch._replace(tokens=batches[0].tokens, text_padding_mask=batches[0].text_padding_mask)
            )
    assert drawn == [set(SENTENCES), set(SENTENCES[:1]), set(SENTENCES[:2]), set(SENTENCES)]


def test_too_long_an_episode_or_sentence(path: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an episode of 3 steps does not fit into 2"):
        Loader([DemonstrationDataset(path)], tokenizer, batch_size=2, seed=0, steps=2)
    talkative = write(tmp_path / "file.hdf5", [demonstration(0, sentences=("very " * 40 + "red",))])
    with pytest.raises(InputError, match="41 tokens, at most 32"):
        Loader([DemonstrationDataset(talkative)], tokenizer, batch_size=2, seed=0)


class Fake:
    """Loader that counts batches; one of them fails."""

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
    with closing(prefetch(loader, 5, 25, depth=depth, put=lambda step: step * 10)) as batches:
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
        closing(prefetch(Fake(broken=3), 0, 9, depth=4, put=int)) as batches,
    ):
        handed.extend(batches)
    assert handed == [] or handed == [0, 1, 2]
    assert threads() == 0


def test_prefetched_ends_its_thread_when_closed_early() -> None:
    loader = Fake()
    with closing(prefetch(loader, 0, 10**6, depth=4, put=int)) as batches:
        assert [next(batches), next(batches)] == [0, 1]
        assert threads() == 1
    assert threads() == 0
    assert loader.prepared < 10


def test_windows_end_at_every_step_once_and_bring_the_actions_that_follow(path: Path, tokenizer: Tokenizer) -> None:
    episodes = DemonstrationDataset(path)
    loader = Loader([episodes], tokenizer, batch_size=4, seed=1, window=2, chunk=3)
    steps = {
        episodes.episode(number).state[step].tobytes(): (number, step)
        for number, length in enumerate(LENGTHS)
        for step in range(length)
    }
    ends = []
    for number in range(loader.steps_per_epoch):
        batch = loader.batch(number)
        check_batch(batch, loader.sizes)
        assert batch.images is not None and batch.chunks is not None and batch.chunk_mask is not None
        for row, mask in enumerate(batch.step_mask > 0):
            found = [steps[state.tobytes()] for state in batch.state[row, mask]]
            ends += found[-1:]
            for place, (episode, step) in enumerate(found):
                expected = episodes.episode(episode)
                assert (episode, step) == (ends[-1][0], ends[-1][1] + 1 - len(found) + place)
                assert np.array_equal(batch.images[row, place], expected.images[step])
                left = expected.actions[step:][:3]
                assert np.array_equal(batch.chunks[row, place, : len(left)], left)
                assert (batch.chunks[row, place, len(left) :] == expected.actions[-1]).all()
                assert batch.chunk_mask[row, place].tolist() == [1.0] * len(left) + [0.0] * (3 - len(left))
        assert {len(numbers) for _, numbers in loader.episodes_in_batch(number)} <= {batch.step_mask.any(1).sum()}
    assert sorted(ends) == sorted(steps.values())


def test_steps_are_observed_on_the_way_to_their_keyframe_in_a_share_of_cases(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write(
        tmp_path / "file.hdf5", [demonstration(seed, steps=1 + seed % 3, between=seed % 4) for seed in range(12)]
    )
    episodes = DemonstrationDataset(path, intermediate=True)
    numbers = {episodes.actions(number).tobytes(): number for number in range(len(episodes))}

    def observed(share: float, window: int | None = None) -> list[list[tuple[int, int]]]:
        """Return for each step of some epochs how many frames after its decision it was observed, of how many."""
        options = {"batch_size": 5, "seed": 1, "window": window, "intermediate_share": share}
        loader, found = Loader([episodes], tokenizer, **options), []
        again = Loader([DemonstrationDataset(path, intermediate=True)], tokenizer, **options)
        for step in range(40):
            batch = loader.batch(step)
            assert_same(batch, again.batch(step))
            for row, length in enumerate(batch.step_mask.sum(1).astype(int)):
                if not length or (window and batch.actions[row, :length].tobytes() not in numbers):
                    continue
                number = numbers[batch.actions[row, :length].tobytes()]
                whole = episodes.demonstration(number)
                places = [int(np.flatnonzero((whole.state == one).all(1))[0]) for one in batch.state[row, :length]]
                np.testing.assert_array_equal(batch.images[row, :length], whole.images[places])
                np.testing.assert_array_equal(batch.extrinsics[row, :length], whole.extrinsics[places])
                taken = np.array([0, *whole.keyframes[:-1]])
                found.append(list(zip(np.array(places) - taken, whole.keyframes - taken - 1, strict=True)))
        return found

    assert all(after == 0 for row in observed(0.0) for after, _ in row)
    always = [one for row in observed(1.0) for one in row]
    assert all(1 <= after <= count if count else after == 0 for after, count in always)
    assert {after for after, count in always if count == 3} == {1, 2, 3}
    for window in (None, 3):
        mixed = [after > 0 for row in observed(0.3, window) for after, count in row if count]
        assert len(mixed) > 100 and abs(np.mean(mixed) - 0.3) < 0.12
