"""Demonstration files: round trips are exact, and invalid or damaged files are rejected."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.data.demonstrations import schema
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.hdf5_file import Hdf5FileDriver
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import CHECKS, checksum, fields
from instructrl.data.demonstrations.writer import Writer
from instructrl.errors import InputError
from instructrl.types import COLLISIONS
from tests.fixtures.demonstrations import HEADER, assert_equal, demonstration, write

shapes = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.integers(0, 2),
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25)
@given(shapes=shapes, seed=st.integers(0, 2**31))
def test_round_trip_is_bit_exact(tmp_path_factory: pytest.TempPathFactory, shapes: list, seed: int) -> None:
    given_ = [
        demonstration(seed + number, steps=steps, between=between, sentences=tuple(sentences))
        for number, (steps, between, sentences) in enumerate(shapes)
    ]
    with DemonstrationDataset(write(tmp_path_factory.mktemp("trip") / "file.hdf5", given_)) as episodes:
        assert episodes.header == HEADER and len(episodes) == len(given_)
        for number, expected in enumerate(given_):
            assert_equal(episodes.demonstration(number), expected)
        episodes.verify()


def test_same_demonstrations_give_the_same_bytes(tmp_path: Path) -> None:
    demonstrations = [demonstration(seed) for seed in range(4)]
    first = write(tmp_path / "a.hdf5", demonstrations)
    time.sleep(1.1)  # HDF5 would record the time, in seconds
    second = write(tmp_path / "b.hdf5", demonstrations)
    assert first.read_bytes() == second.read_bytes()
    changed = demonstrations[2]._replace(images=demonstrations[2].images ^ np.uint8(1))
    third = write(tmp_path / "c.hdf5", [*demonstrations[:2], changed, demonstrations[3]])
    assert checksum(*read(first)) != checksum(*read(third))


def test_a_ninth_number_of_actions_is_kept_and_checked(tmp_path: Path) -> None:
    header = replace(HEADER, actions=COLLISIONS)
    expected = demonstration(0, steps=3, header=header)
    with DemonstrationDataset(write(tmp_path / "file.hdf5", [expected], header)) as episodes:
        assert episodes.header == header
        assert_equal(episodes.demonstration(0), expected)
        assert episodes.actions(0)[:, 8].tolist() == [0, 1, 0]
    wrong = expected._replace(actions=expected.actions + np.float32([0] * 8 + [0.5]))
    with pytest.raises(InputError, match="gripper open 0 or 1, collisions ignored 0 or 1"):
        write(tmp_path / "other.hdf5", [wrong], header)
    with pytest.raises(InputError, match=r"found float32\(3, 9\), expected float32\(any, 8\)"):
        write(tmp_path / "other.hdf5", [expected])


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0)])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), Writer(path, HEADER) as writer:
        writer.add(demonstration(1))
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.hdf5"]


def test_an_interruption_that_reaches_the_driver_of_hdf5_is_none_of_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 lost an exception of a function that it calls, or turned it into a SystemError."""
    calls, moment = 0, 0

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGINT)
            return method(*given)

        return call

    for name in ("seek", "tell", "readinto", "write", "truncate", "flush"):
        monkeypatch.setattr(Hdf5FileDriver, name, counted(getattr(Hdf5FileDriver, name)))
    before = write(tmp_path / "file.hdf5", [demonstration(0)]).read_bytes()
    assert calls > 20
    for moment in range(1, calls + 1):
        calls = 0
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "file.hdf5", [demonstration(0)])
        assert [entry.name for entry in tmp_path.iterdir()] == ["file.hdf5"], moment
    assert (tmp_path / "file.hdf5").read_bytes() == before


@pytest.mark.parametrize("size", [1, 25, 64, 65, 66, 70])
def test_a_full_disk_is_one_line(tmp_path: Path, size: int) -> None:
    path, (soft, hard) = tmp_path / "file.hdf5", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * size, hard))
    try:
        with pytest.raises(InputError, match="cannot be written") as error:
            write(path, [demonstration(seed) for seed in range(20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "x.hdf5", [demonstration(0)])


def wrong_demonstrations() -> dict[str, dict]:
    good = demonstration(0)
    return {
        "images": {"images": good.images.astype(np.float32)},
        "images: found": {"images": good.images[:, :1]},
        "images for": {"images": good.images[:-1]},
        "frames/state: found": {"state": good.state.astype(np.float64)},
        "frames/intrinsics": {"intrinsics": good.intrinsics[:-1]},
        "increasing": {"keyframes": np.array([2, 2])},
        "within the episode": {"keyframes": np.array([1, 3])},
        "keyframes/action": {"actions": good.actions[:1]},
        "quaternion": {"actions": -good.actions},
        "keyframes/action .x y z": {"actions": good.actions * np.float32(np.nan)},
        "state .finite": {"state": good.state * np.float32(np.inf)},
        "state .finite, at most": {"state": np.full_like(good.state, 3e38)},
        "intrinsics .finite, at most": {"intrinsics": np.zeros_like(good.intrinsics)},
        "extrinsics .finite, at most": {"extrinsics": np.full_like(good.extrinsics, 1e30)},
        "extrinsics .finite.*independent axes": {"extrinsics": np.ones_like(good.extrinsics)},
        "position at most 10000": {"actions": good.actions + np.float32([1e30, 0, 0, 0, 0, 0, 0, 0])},
        "sentences .at least": {"instructions": ()},
        "sentences .text": {"instructions": ("a", "b\0")},
        "episode 0: wrong sentences": {"instructions": ("\ud800",)},
        "keyframes .at least 1": {"keyframes": good.keyframes[:0], "actions": good.actions[:0]},
        "variation": {"variation": -1},
    }


@pytest.mark.parametrize("message", wrong_demonstrations())
def test_wrong_demonstrations_are_refused(tmp_path: Path, message: str) -> None:
    changes = wrong_demonstrations()[message]
    with pytest.raises(InputError, match=message) as refused, Writer(tmp_path / "file.hdf5", HEADER) as writer:
        writer.add(demonstration(1))
        writer.add(demonstration(0)._replace(**changes))
    assert "demonstration 1 (seed 0)" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"), [("state", 3e38), ("intrinsics", 0.0), ("extrinsics", 1e30), ("actions", 1e30)]
)
def test_a_sealed_file_with_numbers_that_no_scene_has_is_refused(
    tmp_path: Path, field: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by a program that does not look at them, with valid checksums."""
    array = getattr(demonstration(0), field).copy()
    array[..., 0] = value
    with monkeypatch.context() as patch:
        patch.setattr(schema, "implausible", lambda name, values: np.zeros(len(values), bool))
        patch.setattr(schema, "implausible_actions", lambda actions: np.zeros(len(actions), bool))
        path = write(tmp_path / "file.hdf5", [demonstration(1), demonstration(0)._replace(**{field: array})])
    with pytest.raises(InputError, match=f"{path}.*: episode 1: wrong (frames|keyframes)/{field.removesuffix('s')}"):
        DemonstrationDataset(path)


def delete(name: str) -> object:
    return lambda file: file.__delitem__(name)


def put(name: str, change: object) -> object:
    def edit(file: h5py.File) -> None:
        values = change(file[name][()])
        del file[name]
        file[name] = values

    return edit


DAMAGES = {
    "another format": lambda file: file.attrs.__setitem__("format", "something"),
    "format version 2, InstructRL reads version 1": lambda file: file.attrs.__setitem__("version", 2),
    "attribute cameras: missing": lambda file: file.attrs.__delitem__("cameras"),
    "attribute workspace_high: missing": lambda file: file.attrs.__delitem__("workspace_high"),
    "damaged: its checksum does not match": lambda file: file.attrs.__setitem__(
        "workspace_low", file.attrs["workspace_low"] - 0.05
    ),
    "attribute workspace_low: damaged .found ndarray .2,., expected three": lambda file: file.attrs.__setitem__(
        "workspace_low", file.attrs["workspace_low"][:2]
    ),
    "attributes workspace_low, workspace_high: found .*; allowed: six numbers": lambda file: file.attrs.__setitem__(
        "workspace_low", file.attrs["workspace_high"]
    ),
    "attribute action: found joint angles, InstructRL uses x y z": lambda file: file.attrs.__setitem__(
        "action", "joint angles"
    ),
    "frames/images: missing": delete("frames/images"),
    "frames/images: found 1": put("frames/images", lambda images: images[:1]),
    "frames/images: found float32": put("frames/images", lambda images: images.astype(np.float32)),
    "keyframes/action: missing": delete("keyframes/action"),
    "episodes/seed: missing": delete("episodes/seed"),
    "sentences: missing": delete("sentences"),
    "keyframes/frame: found int32": put("keyframes/frame", lambda frames: frames.astype(np.int32)),
    "keyframes/action: found float32.4, 7": put("keyframes/action", lambda actions: actions[:, :7]),
    "episode 1: wrong keyframes/frame": put("keyframes/frame", lambda frames: frames + [0, 0, 0, 9]),
    "episode 1: wrong episodes/first_frame": put("episodes/first_frame", lambda frames: frames + [0, 1]),
    "episode 1: wrong episodes/frames": put("episodes/frames", lambda frames: np.array([6, 0])),
    "add up to": put("episodes/frames", lambda frames: frames + [0, 1]),
    "found 1 entries for 2 episodes": put("episodes/keyframes", lambda keyframes: keyframes[:1]),
    "episode 1: wrong keyframes/action": put(
        "keyframes/action", lambda actions: actions * np.float32([[1], [1], [1], [2]])
    ),
    "checksum": put("keyframes/action", lambda actions: actions + np.float32([0.1, 0, 0, 0, 0, 0, 0, 0])),
    "its checksum": put("frames/crc32", lambda values: values + 1),
    "checksum does not match": lambda file: file.attrs.__setitem__("task", np.bytes_(b"push_button")),
    "damaged": lambda file: file.attrs.__setitem__("provenance", "{"),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_files_are_refused(tmp_path: Path, message: str) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1)])
    with h5py.File(path, "r+") as file:
        DAMAGES[message](file)
    with pytest.raises(InputError, match=message) as refused:
        DemonstrationDataset(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).count(";") == 1  # the next action is named once


POSSIBLE = {  # other valid values
    **dict.fromkeys(("state", "intrinsics", "extrinsics"), lambda values: values + 1),
    "crc32": lambda values: values ^ 1,
    "keyframe": lambda values: values - 1,
    "action": lambda values: np.append(values[0] + np.float32(0.1), values[1:]),
    "variation": lambda values: values + 1,
    "seed": lambda values: values + 1,
    "text": lambda values: b"g" + values[1:],
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_damage_is_told_by_episode_and_field(tmp_path: Path, name: str) -> None:
    """Damage that leaves valid values is detected by checksums alone."""
    path = write(tmp_path / "file.hdf5", [demonstration(seed, between=2) for seed in range(5)])
    field = "sentences" if name == "text" else fields(HEADER)[name].path
    with h5py.File(path, "r+") as file:
        values = file[field][()]
        values[len(values) // 2] = POSSIBLE[name](values[len(values) // 2])  # of the third episode
        file[field][...] = values
    with pytest.raises(InputError, match=f"{path}: episode 2: {field}: damaged: its checksum"):
        DemonstrationDataset(path)


def test_a_field_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    """HDF5 would return gigabytes of zeros."""
    path = write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1)])
    with h5py.File(path, "r+") as file:
        del file["frames/state"]
        file.create_dataset("frames/state", (10**6, 4), np.float32)
    with pytest.raises(InputError, match=f"{path}: frames/state: found 0 bytes, expected 16000000; delete"):
        DemonstrationDataset(path)


def test_older_files_have_no_checks_of_episodes(tmp_path: Path) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1)])
    with h5py.File(path, "r+") as file:
        del file[CHECKS]
    with DemonstrationDataset(path) as episodes:
        assert_equal(episodes.demonstration(1), demonstration(1))
    with h5py.File(path, "r+") as file:
        file["frames/state"][-1, 0] += 1
    with pytest.raises(InputError, match=f"{path}: damaged: its checksum"):
        DemonstrationDataset(path)


def test_pixels_that_cannot_be_read_are_told_by_episode(tmp_path: Path) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1)])
    with DemonstrationDataset(path) as episodes:
        episodes.episode(0)
        episodes._file.close()  # any read fails now
        with pytest.raises(InputError, match=f"{path}: episode 1: frames/images: cannot be read"):
            episodes.episode(1)


def test_damaged_pixels_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0), demonstration(1)])
    with h5py.File(path, "r+") as file:
        file["frames/images"][4, 1, 2, 3, 0] ^= 1
    episodes = DemonstrationDataset(path)
    episodes.episode(0)
    with pytest.raises(InputError, match="episode 1: frames/images"):
        episodes.episode(1)
    with pytest.raises(InputError, match="episode 1: frames/images"):
        DemonstrationDataset(path, limit=1).verify()


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        DemonstrationDataset(tmp_path / "none.hdf5")
    with pytest.raises(InputError, match="folder"):
        DemonstrationDataset(tmp_path)
    (tmp_path / "text.hdf5").write_text("not HDF5 at all" * 100)
    with pytest.raises(InputError, match="not an HDF5 file"):
        DemonstrationDataset(tmp_path / "text.hdf5")
    (tmp_path / "empty.hdf5").touch()
    with pytest.raises(InputError, match="truncated"):
        DemonstrationDataset(tmp_path / "empty.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="another format"):
        DemonstrationDataset(tmp_path / "other.hdf5")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(seed) for seed in range(3)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"truncated|not an HDF5 file"):
        DemonstrationDataset(path)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_are_refused_or_harmless(tmp_path: Path, seed: int) -> None:
    given_ = [demonstration(number) for number in range(3)]
    path, numbers = write(tmp_path / "file.hdf5", given_), random.Random(seed)
    content = path.read_bytes()
    refused = 0
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(numbers.choice([1, 1, 5, 50])):
            damaged[numbers.randrange(len(damaged))] ^= 1 << numbers.randrange(8)
        path.write_bytes(damaged)
        try:
            with DemonstrationDataset(path) as episodes:
                for number, expected in enumerate(given_):
                    assert_equal(episodes.demonstration(number), expected)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused >= 30


def test_other_task_and_too_few_episodes(tmp_path: Path) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0)], replace(HEADER, task="push_button"))
    with pytest.raises(InputError, match="holds push_button, expected reach_target"):
        DemonstrationDataset(path, task="reach_target")
    with pytest.raises(InputError, match="holds 1 episodes, not 2"):
        DemonstrationDataset(path, limit=2)


@pytest.mark.parametrize("step", ["create_dataset", "create_group"])
def test_an_interruption_while_a_file_is_begun_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert list(tmp_path.iterdir())  # it has been begun
        raise KeyboardInterrupt

    target = (h5py.File, "create_dataset") if step == "create_dataset" else (h5py.h5g, "create")
    monkeypatch.setattr(*target, interrupted)
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "one.hdf5", HEADER):
        pass
    assert not list(tmp_path.iterdir())
