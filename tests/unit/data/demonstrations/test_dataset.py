"""Dataset of episodes: the right frames, from threads, other processes and after a merge."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from instructrl.data.demonstrations.dataset import DemonstrationDataset, merge
from instructrl.data.demonstrations.schema import crc32
from instructrl.errors import InputError
from tests.fixtures.demonstrations import HEADER, SENTENCES, assert_equal, demonstration, write


def test_steps_are_where_actions_are_taken(tmp_path: Path) -> None:
    demonstrations = [demonstration(3, steps=1), demonstration(4, steps=3, between=2), demonstration(5, steps=2)]
    with DemonstrationDataset(write(tmp_path / "file.hdf5", demonstrations), task="reach_target") as episodes:
        assert (episodes.steps, episodes.lengths.tolist()) == (3, [1, 3, 2])
        assert (episodes.cameras, episodes.image_size, episodes.task) == (HEADER.cameras, 16, "reach_target")
        assert episodes.provenance == HEADER.provenance
        for number, given in enumerate(demonstrations):
            taken_at = [0, *given.keyframes[:-1]]
            steps = episodes.episode(number)
            for name in ("images", "state", "intrinsics", "extrinsics"):
                assert np.array_equal(getattr(steps, name), getattr(given, name)[taken_at]), name
            assert np.array_equal(steps.actions, given.actions)
            assert (steps.instructions, steps.variation, steps.seed) == (SENTENCES, given.variation, given.seed)


def test_pixels_go_where_asked(tmp_path: Path) -> None:
    with DemonstrationDataset(
        write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1, between=1)])
    ) as episodes:
        for number in range(2):
            out = np.full((5, 2, 16, 16, 3), 7, np.uint8)
            steps = episodes.episode(number, out=out)
            assert np.shares_memory(steps.images, out)
            assert np.array_equal(out[:2], episodes.episode(number).images)
            assert (out[2:] == 7).all()


def test_steps_without_pixels_are_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DemonstrationDataset(
        write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1, steps=3, between=1)])
    ) as episodes:
        seen = [episodes.episode(number) for number in range(2)]
        frames = [given.images[[0, *given.keyframes[:-1]]] for given in map(episodes.demonstration, range(2))]
        monkeypatch.setattr(episodes, "_images", lambda *_: pytest.fail("pixels were read"))
        for number, steps in enumerate(seen):
            blind = episodes.episode(number, pixels=False)
            assert blind.images.shape == (0, 2, 16, 16, 3) and blind.images.dtype == np.uint8
            for name in ("state", "intrinsics", "extrinsics", "actions"):
                assert np.array_equal(getattr(blind, name), getattr(steps, name)), name
            assert blind[5:] == steps[5:]
            assert len(episodes.frames(number)) == len(steps.actions)
            assert [crc32(image) for image in frames[number]] == [
                episodes.contents.crc32[frame] for frame in episodes.frames(number)
            ]


def test_the_digest_is_of_the_episodes_in_use(tmp_path: Path) -> None:
    given = [demonstration(seed, steps=1 + seed % 3, between=seed % 2) for seed in range(4)]
    three = DemonstrationDataset(write(tmp_path / "three.hdf5", given[:3])).digest()
    path = write(tmp_path / "four.hdf5", given)
    assert DemonstrationDataset(path, limit=3).digest() == three != DemonstrationDataset(path).digest()
    found = {three}
    for name in ("images", "state", "intrinsics", "extrinsics", "actions"):  # all that reaches a batch
        array = getattr(given[1], name).copy()
        array.flat[0] += 1 if name == "images" else 0.05
        other = [given[0], given[1]._replace(**{name: array}), given[2]]
        found.add(DemonstrationDataset(write(tmp_path / f"{name}.hdf5", other)).digest())
    other = given[0]._replace(instructions=("another",))
    found.add(DemonstrationDataset(write(tmp_path / "sentence.hdf5", [other, *given[1:3]])).digest())
    later = given[1]._replace(keyframes=given[1].keyframes - (given[1].keyframes == given[1].keyframes[0]))
    found.add(DemonstrationDataset(write(tmp_path / "keyframe.hdf5", [given[0], later, given[2]])).digest())
    assert len(found) == 8


def test_limit_and_range(tmp_path: Path) -> None:
    episodes = DemonstrationDataset(
        write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1, steps=4)]), limit=1
    )
    assert (len(episodes), episodes.steps) == (1, 2)
    for number in (-1, 1):
        with pytest.raises(IndexError, match=f"episode {number} of 1"):
            episodes.episode(number)


def test_pickled_while_open(tmp_path: Path) -> None:
    with DemonstrationDataset(write(tmp_path / "file.hdf5", [demonstration(0)])) as episodes:
        episodes.episode(0)
        with pickle.loads(pickle.dumps(episodes)) as copy:
            assert_equal(copy.demonstration(0), demonstration(0))


def test_read_by_threads(tmp_path: Path) -> None:
    given = [demonstration(seed) for seed in range(20)]
    with DemonstrationDataset(write(tmp_path / "file.hdf5", given)) as episodes, ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(episodes.demonstration, list(range(20)) * 5)):
            assert_equal(found, given[number % 20])


def test_a_file_that_vanished_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0)])
    episodes = DemonstrationDataset(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        episodes.episode(0)


def test_merge_equals_writing_at_once(tmp_path: Path) -> None:
    given = [demonstration(seed, steps=1 + seed % 3) for seed in range(6)]
    whole = write(tmp_path / "whole.hdf5", given)
    parts = [write(tmp_path / f"{begin}.hdf5", given[begin : begin + 2]) for begin in (0, 2, 4)]
    merge(parts[0], parts)  # an append: the target is one of the sources
    assert parts[0].read_bytes() == whole.read_bytes()
    merge(parts[0], [whole], limit=2)
    assert len(DemonstrationDataset(parts[0])) == 2


def test_rejected_placements_are_kept_where_they_are_known(tmp_path: Path) -> None:
    """A file without any is the one that earlier versions wrote."""
    plain = [demonstration(seed) for seed in range(3)]
    known = [one._replace(rejected_placements=number) for one, number in zip(plain, (None, 0, 7), strict=True)]
    without, file = write(tmp_path / "without.hdf5", plain), write(tmp_path / "with.hdf5", known)
    with h5py.File(without) as old, h5py.File(file) as new:
        assert "episodes/rejected_placements" not in old and old["episodes/checks"].shape == (3, 15)
        assert new["episodes/rejected_placements"][()].tolist() == [-1, 0, 7]
    merge(tmp_path / "merged.hdf5", [without, file])
    with DemonstrationDataset(tmp_path / "merged.hdf5") as found:
        for index, one in enumerate([*plain, *known]):
            assert_equal(found.demonstration(index), one)
    with DemonstrationDataset(without) as old_file, DemonstrationDataset(file) as new_file:
        assert old_file.digest() == new_file.digest(), "they reach no batch"
    with pytest.raises(InputError, match=r"demonstration 0 .*: wrong episodes/rejected_placements \(>= 0, or -1\)"):
        write(tmp_path / "wrong.hdf5", [plain[0]._replace(rejected_placements=-2)])
    with h5py.File(file, "a") as changed:
        changed["episodes/rejected_placements"][1] = 3
    with pytest.raises(InputError, match=r"episode 1: episodes/rejected_placements: damaged: its checksum"):
        DemonstrationDataset(file)


def test_merge_refuses_files_made_otherwise(tmp_path: Path) -> None:
    first = write(tmp_path / "a.hdf5", [demonstration(0)])
    provenance = HEADER.provenance | {"renderer": "another"}
    second = write(tmp_path / "b.hdf5", [demonstration(1)], replace(HEADER, provenance=provenance))
    with pytest.raises(InputError, match=r"b.hdf5: its header is not that of"):
        merge(first, [first, second])
    assert len(DemonstrationDataset(first)) == 1
