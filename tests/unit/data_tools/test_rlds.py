"""RLDS: exports and imports are lossless, third-party episodes are converted, and errors are one line."""

import json
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data_tools.exchange import foreign
from data_tools.exchange.foreign import quaternion
from data_tools.exchange.mapping import parse_key
from data_tools.rlds import exporter
from data_tools.rlds.__main__ import ExportConfig, ImportConfig, main, parse, run_export, run_import, usage
from data_tools.rlds.schema import to_rlds
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError, RunError
from instructrl.types import COLLISIONS, Demonstration
from tests.fixtures import demonstrations as samples
from tests.fixtures import foreign_rlds as third_party
from tests.fixtures.commands import run_main
from tests.paths import ROOT

MAPPING = """
cameras:
  front: {image: steps/observation/image, intrinsics: steps/observation/K, extrinsics: episode_metadata/world}
  wrist: {image: steps/observation/wrist_image, intrinsics: steps/observation/K, extrinsics: episode_metadata/world}
action:
  position: steps/action[0:3]
  rotation: steps/action[3:7]
  rotation_is: quaternion_wxyz
  gripper: steps/action[7] > 0.02
  leads_to: next
state: {gripper: "steps/observation/pose[7] > 0.02", finger_opening: 0.04}
keyframes: {kind: stops, joint_positions: steps/observation/joints, seconds: 0.1}
instruction: {key: steps/language_instruction}
variation: episode_metadata/kind
"""


def exported(src: Path, out: Path, *more: str) -> None:
    run_export(parse([f"src={src}", f"out={out}", *more], ExportConfig))


def imported(src: Path, out: Path, *more: str) -> None:
    run_import(parse([f"src={src}", f"out={out}", "compression=none", *more], ImportConfig))  # as samples are written


def mapping(folder: Path, *changes: tuple[str, str]) -> str:
    text = MAPPING
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / f"mapping{len(list(folder.glob('mapping*')))}.yaml"
    path.write_text(text)
    return f"mapping={path}"


def demonstrations(count: int, **other: Any) -> list[Demonstration]:
    return [samples.demonstration(seed, steps=1 + seed % 3, between=seed % 2, **other) for seed in range(count)]


def file_of(out: Path, split: str, size: int = third_party.SIZE) -> Path:
    return out / "rlbench" / f"others-{size}px-front+wrist" / f"{split}.hdf5"


# InstructRL's own exports.


def test_a_file_exported_and_imported_again_is_the_same_file(tmp_path: Path) -> None:
    file = samples.write(tmp_path / "one.hdf5", demonstrations(5))
    exported(file, tmp_path / "rlds")
    imported(tmp_path / "rlds", tmp_path / "back")
    assert (tmp_path / "back" / "one.hdf5").read_bytes() == file.read_bytes()
    imported(tmp_path / "rlds", tmp_path / "named.hdf5")
    assert (tmp_path / "named.hdf5").read_bytes() == file.read_bytes()


def test_actions_with_collisions_survive_export_and_import(tmp_path: Path) -> None:
    header = replace(samples.HEADER, actions=COLLISIONS)
    file = samples.write(tmp_path / "one.hdf5", demonstrations(3, header=header), header)
    exported(file, tmp_path / "rlds")
    imported(tmp_path / "rlds", tmp_path / "back")
    assert (tmp_path / "back" / "one.hdf5").read_bytes() == file.read_bytes()


def test_rejected_placements_survive_export_and_import(tmp_path: Path) -> None:
    episodes = [
        one._replace(rejected_placements=number) for one, number in zip(demonstrations(3), (4, None, 0), strict=True)
    ]
    file = samples.write(tmp_path / "one.hdf5", episodes)
    exported(file, tmp_path / "rlds")
    imported(tmp_path / "rlds", tmp_path / "back")
    assert (tmp_path / "back" / "one.hdf5").read_bytes() == file.read_bytes()


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**62),
            st.integers(1, 4),
            st.integers(0, 3),
            st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=3),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=3,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_any_demonstrations_come_back_bit_for_bit(given: list[Any], provenance: dict[str, str]) -> None:
    expected = []
    for seed, steps, between, sentences, after in given:
        one = samples.demonstration(seed, steps=steps, between=between, sentences=tuple(sentences))
        one.state[0, 0] = -0.0
        one.state[0, 1] = 1e-42
        grown = {name: np.concatenate([getattr(one, name), getattr(one, name)[:after]])
                 for name in ("images", "state", "intrinsics", "extrinsics")}  # fmt: skip
        expected.append(one._replace(**grown))  # frames after the last keyframe
    header = samples.HEADER.__class__(**samples.HEADER.__dict__ | {"provenance": provenance})
    with tempfile.TemporaryDirectory() as folder:
        file = samples.write(Path(folder) / "one.hdf5", expected, header)
        exported(file, Path(folder) / "rlds")
        imported(Path(folder) / "rlds", Path(folder) / "back")
        with DemonstrationDataset(Path(folder) / "back" / "one.hdf5") as found:
            assert found.header == header and len(found) == len(expected)
            for number, one in enumerate(expected):
                samples.assert_equal(found.demonstration(number), one)


def test_a_folder_of_tasks_and_splits_comes_back_as_it_lay(tmp_path: Path) -> None:
    places = {}
    for task in ("reach_target", "push_button"):
        for split in ("train", "val"):
            header = samples.HEADER.__class__(**samples.HEADER.__dict__ | {"task": task, "split": split})
            place = f"tabletop/{task}-variations0..2-16px-front+wrist/{split}.hdf5"
            places[place] = samples.write(tmp_path / "data" / place, demonstrations(3), header).read_bytes()
    samples.write(tmp_path / "data" / "tabletop" / "x" / "train.parts" / "00000000-00000025.hdf5", demonstrations(1))
    exported(tmp_path / "data" / "tabletop", tmp_path / "rlds")
    imported(tmp_path / "rlds", tmp_path / "back")
    back = {
        path.relative_to(tmp_path / "back").as_posix(): path.read_bytes() for path in tmp_path.rglob("back/**/*.hdf5")
    }
    assert back == places
    imported(tmp_path / "rlds", tmp_path / "val", "split=val")
    assert len(list((tmp_path / "val").rglob("*.hdf5"))) == 2
    exported(tmp_path / "data", tmp_path / "some", "split=train", "episodes=2", "name=some")
    imported(tmp_path / "some", tmp_path / "few")
    assert [len(DemonstrationDataset(path)) for path in (tmp_path / "few").rglob("*.hdf5")] == [2, 2]
    with pytest.raises(InputError, match=r"out: found one file for"):
        imported(tmp_path / "rlds", tmp_path / "one.hdf5")
    assert not (tmp_path / "one.hdf5").exists()


def test_tensorflow_datasets_itself_reads_an_export_without_tensorflow(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    [one] = [samples.demonstration(7, steps=2, between=2)]
    exported(samples.write(tmp_path / "one.hdf5", [one]), tmp_path / "rlds")
    [episode] = tfds.builder_from_directory(tmp_path / "rlds").as_data_source()["train"]
    steps = list(episode["steps"])
    for view, camera in enumerate(samples.HEADER.cameras):
        found = np.stack([step["observation"][f"image_{camera}"] for step in steps])
        np.testing.assert_array_equal(found, one.images[:, view])
    np.testing.assert_array_equal([step["observation"]["state"] for step in steps], one.state)
    np.testing.assert_array_equal([step["observation"]["extrinsics"] for step in steps], one.extrinsics)
    np.testing.assert_array_equal([step["action"] for step in steps], one.actions[[0, 0, 0, 1, 1, 1, 1]])
    assert [bool(step["is_first"]) for step in steps] == [True] + [False] * 6
    assert [bool(step["is_last"]) for step in steps] == [bool(step["is_terminal"]) for step in steps]
    assert [bool(step["is_last"]) for step in steps] == [False] * 6 + [True]
    assert [float(step["reward"]) for step in steps] == [0.0] * 6 + [1.0]
    assert {float(step["discount"]) for step in steps} == {1.0}
    assert {step["language_instruction"].decode() for step in steps} == {samples.SENTENCES[0]}
    assert [*episode["episode_metadata"]["keyframes"]] == [3, 6] and episode["episode_metadata"]["seed"] == 7
    assert "tensorflow" not in sys.modules


def test_large_files_are_written_in_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "SHARD_BYTES", 12_000)
    file = samples.write(tmp_path / "one.hdf5", demonstrations(9))
    exported(file, tmp_path / "rlds")
    assert len(list((tmp_path / "rlds").glob("*.array_record-*"))) > 2
    imported(tmp_path / "rlds", tmp_path / "back.hdf5")
    assert (tmp_path / "back.hdf5").read_bytes() == file.read_bytes()


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, calls = samples.write(tmp_path / "one.hdf5", demonstrations(3)), []

    def interrupted(*given: Any, **_: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return to_rlds(*given)

    monkeypatch.setattr(exporter, "to_rlds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(file, tmp_path / "rlds")
    assert [path.name for path in tmp_path.iterdir()] == ["one.hdf5"]
    exported(file, tmp_path / "rlds")  # leftovers of a killed process are ignored
    (tmp_path / "two.tmp" / "data").mkdir(parents=True)
    (tmp_path / "two.tmp" / "data" / "features.json").write_text("half")
    exported(file, tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.hdf5", "rlds", "two"]


def test_the_same_export_again_is_there_already_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (
        samples.write(tmp_path / "one.hdf5", demonstrations(3)),
        samples.write(tmp_path / "two.hdf5", demonstrations(2)),
    )
    exported(one, tmp_path / "rlds")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rlds").iterdir()}
    exported(one, tmp_path / "rlds")
    assert "exists already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "rlds").iterdir()}
    with pytest.raises(InputError, match="found other content"):
        exported(two, tmp_path / "rlds")
    exported(two, tmp_path / "rlds", "overwrite=true")
    imported(tmp_path / "rlds", tmp_path / "back")
    with pytest.raises(InputError, match="found another file"):
        samples.write(tmp_path / "back" / "two.hdf5", demonstrations(1))
        imported(tmp_path / "rlds", tmp_path / "back")
    imported(tmp_path / "rlds", tmp_path / "back", "overwrite=true")
    assert (tmp_path / "back" / "two.hdf5").read_bytes() == two.read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(InputError, match="something other than a tensorflow-datasets directory"):
        exported(one, tmp_path / "mine", "overwrite=true")
    assert (tmp_path / "mine" / "letter").read_text() == "dear"


@pytest.mark.parametrize("seed", range(8))
def test_damaged_record_files_never_give_other_demonstrations(tmp_path: Path, seed: int) -> None:
    file = samples.write(tmp_path / "one.hdf5", demonstrations(4))
    exported(file, tmp_path / "rlds")
    [shard] = (tmp_path / "rlds").glob("*.array_record-*")
    content, rng = bytearray(shard.read_bytes()), np.random.default_rng(seed)
    used = np.flatnonzero(np.frombuffer(content, np.uint8))  # the rest is padding
    if seed % 2:
        content[rng.choice(used)] ^= 1 << rng.integers(8)
    else:
        del content[rng.integers(len(content)) :]
    shard.write_bytes(content)
    try:
        imported(tmp_path / "rlds", tmp_path / "back.hdf5")
    except InputError as error:
        assert str(shard.parent) in str(error)
        assert not (tmp_path / "back.hdf5").exists()
    else:
        assert (tmp_path / "back.hdf5").read_bytes() == file.read_bytes()


def test_an_export_that_was_changed_is_refused(tmp_path: Path) -> None:
    exported(samples.write(tmp_path / "one.hdf5", demonstrations(3)), tmp_path / "rlds")
    metadata_path = tmp_path / "rlds" / "metadata.json"
    metadata = json.loads(metadata_path.read_text())
    metadata_path.write_text(json.dumps(metadata | {"files": {"one.hdf5": "0" * 64}}))
    with pytest.raises(InputError, match="not the episodes that were exported"):
        imported(tmp_path / "rlds", tmp_path / "back")
    assert not list(tmp_path.glob("back/*.hdf5*"))
    metadata_path.write_text(json.dumps(metadata | {"version": 2}))
    with pytest.raises(InputError, match="format version 2"):
        imported(tmp_path / "rlds", tmp_path / "back")


# Third-party data.


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_foreign_episodes_become_ours(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    splits = {"train": [third_party.episode(number) for number in range(7)], "validation": [third_party.episode(8)]}
    third_party.dataset(tmp_path / "others" / "2.1.0", splits, kind=kind)
    imported(tmp_path / "others", tmp_path / "data", mapping(tmp_path))
    printed = capsys.readouterr().out
    assert "7 episodes found, 7 converted" in printed and "sim=rlbench" in printed
    with DemonstrationDataset(file_of(tmp_path / "data", "val")) as val:
        assert len(val) == 1 and val.instructions(0) == ("do thing 8",) and val.contents.seed[0] >= 1_000_000_000
    with DemonstrationDataset(file_of(tmp_path / "data", "train")) as train:
        assert len(train) == 7 and train.header.task == "others" and train.cameras == ("front", "wrist")
        assert train.contents.variation.tolist() == [0, 1, 2, 0, 1, 2, 0]
        for number in range(7):
            one, kept = train.demonstration(number), [0, 3, 6, 8]
            for place, step in enumerate(kept):
                for camera in range(2):
                    np.testing.assert_array_equal(one.images[place, camera], third_party.pixels(number, step, camera))
            poses = np.stack([third_party.pose(number, step) for step in kept[1:]])
            np.testing.assert_array_equal(one.actions[:, :3], poses[:, :3])
            signs = np.where(poses[:, 3:4] < 0, -1, 1)
            np.testing.assert_allclose(one.actions[:, 3:7], poses[:, [4, 5, 6, 3]] * signs, rtol=1e-5)
            assert one.actions[:, 7].tolist() == [0, 1, 1]
            assert one.instructions == (f"do thing {number}",)
            np.testing.assert_allclose(one.state[:, :3], [[1, 0.04, 0.04], [0, 0, 0], [1, 0.04, 0.04], [1, 0.04, 0.04]])
            np.testing.assert_array_equal(one.intrinsics[2, 1], [[30, 0, 9], [0, 31, 11], [0, 0, 1]])
            np.testing.assert_array_equal(one.extrinsics[1, 0], np.diag([1, -1, -1, 1]))
        train.verify()


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ([("kind: stops, joint_positions: steps/observation/joints, seconds: 0.1", "kind: every")], [*range(9)]),
        ([("kind: stops, joint_positions: steps/observation/joints, seconds: 0.1", "kind: marked, marked: steps/key")],
         [0, 2, 5]),
        ([("joint_positions: steps/observation/joints, seconds: 0.1", "joint_velocities: steps/observation/joints")],
         [0, 3, 6, 8]),
        ([("steps/action[0:3]", "steps/observation/pose[0:3]"), ("steps/action[3:7]", "steps/observation/pose[3:7]"),
          ("steps/action[7] >", "steps/observation/pose[-1] >"), ("leads_to: next", "leads_to: same")], [0, 3, 6, 8]),
    ],
)  # fmt: skip
def test_keyframes_and_actions_are_those_that_the_mapping_names(
    tmp_path: Path, changes: list[tuple[str, str]], kept: list[int]
) -> None:
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(3)]}, kind="tfrecord")
    imported(src, tmp_path / "one.hdf5", mapping(tmp_path, *changes), "split=val", "task=mine")
    with DemonstrationDataset(tmp_path / "one.hdf5", task="mine") as episodes:
        one = episodes.demonstration(0)
        assert episodes.header.split == "val"
        np.testing.assert_array_equal(one.images[:, 0], [third_party.pixels(3, step, 0) for step in kept])
        np.testing.assert_array_equal(one.actions[:, :3], [third_party.pose(3, step)[:3] for step in kept[1:]])


def test_pictures_are_cropped_and_resized_and_the_matrices_with_them(tmp_path: Path) -> None:
    shape = (24, 40)
    one = third_party.episode(0, shape=shape)
    src = third_party.dataset(tmp_path / "wide", {"train": [one]}, kind="tfrecord", has=third_party.features(*shape))
    with pytest.raises(InputError, match="1 images that cannot be used"):
        imported(src, tmp_path / "no.hdf5", mapping(tmp_path))
    cropped = mapping(tmp_path, ("variation:", "crop: true\nvariation:"))
    imported(src, tmp_path / "24.hdf5", cropped)
    imported(src, tmp_path / "48.hdf5", cropped, "image_size=48")
    with DemonstrationDataset(tmp_path / "24.hdf5") as small, DemonstrationDataset(tmp_path / "48.hdf5") as large:
        few, many = small.demonstration(0), large.demonstration(0)
        np.testing.assert_array_equal(few.images[0, 0], third_party.pixels(0, 0, 0, shape)[:, 8:32])
        np.testing.assert_array_equal(many.images[:, :, ::2, ::2], few.images)
        np.testing.assert_array_equal(few.intrinsics[0, 0], [[30, 0, 1], [0, 31, 11], [0, 0, 1]])
        np.testing.assert_array_equal(many.intrinsics[0, 0], [[60, 0, 2], [0, 62, 22], [0, 0, 1]])


def test_a_single_split_is_divided_and_unusable_episodes_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = [third_party.episode(number) for number in range(6)]
    episodes[1] = third_party.episode(1, steps=1)
    episodes[2] = third_party.episode(2, language_instruction=" ")
    episodes[3] = third_party.episode(3, action=np.zeros(8, np.float32))
    src = third_party.dataset(tmp_path / "others", {"test": episodes}, kind="tfrecord")
    shard = src / "others-test.tfrecord-00000-of-00002"
    content = bytearray(shard.read_bytes())
    content[40] ^= 1  # in the first record
    shard.write_bytes(content)
    imported(src, tmp_path / "data", mapping(tmp_path), "image_size=16")
    printed = capsys.readouterr().out
    for reason in ("1 damaged records", "1 missing frames", "1 no sentences", "1 numbers that cannot be used"):
        assert reason in printed
    with (
        DemonstrationDataset(file_of(tmp_path / "data", "train", 16)) as train,
        DemonstrationDataset(file_of(tmp_path / "data", "val", 16)) as val,
    ):
        assert [train.instructions(0), val.instructions(0)] == [("do thing 4",), ("do thing 5",)]


def test_what_is_no_image_is_counted_as_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = third_party.episode(1)
    for step in broken["steps"]:
        step["observation"]["wrist_image"] = b"x" * 99
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(0), broken]}, kind="tfrecord")
    imported(src, tmp_path / "one.hdf5", mapping(tmp_path))
    printed = capsys.readouterr().out
    assert "1 converted, 1 skipped (1 images that cannot be used)" in printed
    assert "wrist_image: step 0: found no PNG or JPEG; copy it again" in printed and "0x" not in printed


def test_validation_episodes_that_leave_none_to_train_on_are_named(tmp_path: Path) -> None:
    src = third_party.dataset(
        tmp_path / "others", {"train": [third_party.episode(n) for n in range(3)]}, kind="tfrecord"
    )
    with pytest.raises(InputError, match=r"too few for train and val: set less than val_episodes=3$"):
        imported(src, tmp_path / "data", mapping(tmp_path), "val_episodes=3")


def test_a_source_split_is_taken_by_name_and_without_matrices_a_word_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {name: [third_party.episode(number)] for number, name in enumerate(("train", "test", "valid"))}
    src = third_party.dataset(tmp_path / "others", splits, kind="array_record")
    bare = ", intrinsics: steps/observation/K, extrinsics: episode_metadata/world"
    imported(src, tmp_path / "one.hdf5", mapping(tmp_path, (bare, "")), "source_split=test")
    printed = capsys.readouterr().out
    assert "skipped: train, valid" in printed and "head=regression" in printed
    with DemonstrationDataset(tmp_path / "one.hdf5") as one:
        assert one.instructions(0) == ("do thing 1",) and one.provenance["cameras"] == "unknown"


@pytest.mark.parametrize("form", ["quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "rotation_vector", "matrix"])
def test_every_form_of_a_rotation_is_the_same_rotation(form: str) -> None:
    for turn in Rotation.random(50, rng=np.random.default_rng(0)):
        x, y, z, w = turn.as_quat()
        given = {
            "quaternion_xyzw": [x, y, z, w],
            "quaternion_wxyz": [w, x, y, z],
            "euler_xyz": turn.as_euler("xyz"),
            "rotation_vector": turn.as_rotvec(),
            "matrix": turn.as_matrix().reshape(9),
        }
        found = quaternion(np.array(given[form]), form)
        assert found[3] >= 0 and (Rotation.from_quat(found) * turn.inv()).magnitude() < 1e-6


def test_steps_between_keyframes_are_kept_at_will(tmp_path: Path) -> None:
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(2)]}, kind="array_record")
    spec = "kind: stops, joint_positions: steps/observation/joints, seconds: 0.1"
    imported(src, tmp_path / "plain.hdf5", mapping(tmp_path))
    imported(src, tmp_path / "more.hdf5", mapping(tmp_path, (spec, f"{spec}, intermediate_frames: 1")))
    with DemonstrationDataset(tmp_path / "plain.hdf5") as plain, DemonstrationDataset(tmp_path / "more.hdf5") as more:
        for one, other in zip(plain.episode(0), more.episode(0), strict=True):
            np.testing.assert_array_equal(one, other)
        found = more.demonstration(0)
        assert len(found.images) == found.keyframes[-1] + 1 == 9, "every step"
        for step in range(9):
            np.testing.assert_array_equal(found.images[step, 0], third_party.pixels(2, step, 0))
    with pytest.raises(InputError, match="kind=every has no steps between keyframes; leave intermediate_frames out"):
        every = mapping(tmp_path, (spec, "kind: every, intermediate_frames: 1"))
        imported(src, tmp_path / "no.hdf5", every)


def test_another_mapping_does_not_pass_for_a_conversion_that_was_done_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(2)]}, kind="array_record")
    spec = "kind: stops, joint_positions: steps/observation/joints, seconds: 0.1"
    imported(src, tmp_path / "one.hdf5", mapping(tmp_path))
    before = (tmp_path / "one.hdf5").read_bytes()
    imported(src, tmp_path / "one.hdf5", mapping(tmp_path))
    assert "exists already, 1 episodes" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"found another file: .*, mapping \w+ \(asked for \w+\); choose anot"):
        imported(src, tmp_path / "one.hdf5", mapping(tmp_path, (spec, "kind: every")))
    assert (tmp_path / "one.hdf5").read_bytes() == before


@pytest.mark.parametrize(
    ("first", "then", "differs"),
    [
        (["episodes=4"], ["episodes=3"], "episodes 4 (asked for 3)"),
        (["episodes=4"], [], "episodes 4 (asked for null)"),
        ([], ["episodes=4"], "episodes null (asked for 4)"),
        (["val_episodes=2"], ["val_episodes=1"], "val_episodes 2 (asked for 1)"),
        (["source_split=test"], ["source_split=other"], "source_split test (asked for other)"),
    ],
)
def test_another_limit_does_not_pass_for_an_import_that_was_done_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: list[str], then: list[str], differs: str
) -> None:
    several = "source_split=test" in first
    made = {name: [third_party.episode(number) for number in range(5)] for name in ["test", "other"][: 1 + several]}
    src = third_party.dataset(tmp_path / "others", made, kind="array_record")
    words = [src, tmp_path / "data", mapping(tmp_path), "workspace=[-1,-1,-1,2,2,2]"]
    imported(*words, *first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.hdf5")}
    imported(*words, *first)
    assert len(before) == 2 and capsys.readouterr().out.count("exists already") == 2
    with pytest.raises(InputError, match=re.escape(f"train.hdf5: found another file: {differs}; choose another out=")):
        imported(*words, *then)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.hdf5")}
    imported(*words, *then, "overwrite=true")
    imported(*words, *then)
    assert capsys.readouterr().out.count("exists already") == 2


def test_a_split_of_which_nothing_can_be_used_leaves_the_other_one_from_which_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(*val: dict[str, Any]) -> None:
        shutil.rmtree(tmp_path / "others", ignore_errors=True)
        splits = {"train": [third_party.episode(number) for number in range(2)], "val": list(val)}
        third_party.dataset(tmp_path / "others", splits, kind="array_record")

    broken = third_party.episode(3)
    broken["steps"] = broken["steps"][:1]
    made(broken)
    words = [tmp_path / "others", tmp_path / "data", mapping(tmp_path)]
    for skips in ("", "exists already, 2 episodes"):
        with pytest.raises(RunError) as failed:
            imported(*words)
        train, val = (file_of(tmp_path / "data", split) for split in ("train", "val"))
        refusal, rest = str(failed.value).split("; too few for val: add others; ")
        assert refusal == "others: 1 episodes found, 0 converted, 1 skipped (1 missing frames)"
        also = rest.removeprefix(f"{train} is complete: once val is mended, the same command with ")
        also = also.removesuffix(" resumes")
        assert also.startswith("workspace=[") and also.endswith("]")
        assert skips in capsys.readouterr().out and train.exists() and not val.exists()
        assert [path.name for path in train.parent.glob("[!.]*")] == ["train.hdf5"]
    before = train.stat().st_mtime_ns
    made(third_party.episode(3))
    with pytest.raises(InputError, match=r"train.hdf5: found another file: workspace \[.*\] \(asked for \["):
        imported(*words)  # around the keyframes of both splits
    within = third_party.episode(4)
    for step, other in zip(within["steps"], third_party.episode(0)["steps"], strict=True):
        step |= {"action": other["action"], "observation": step["observation"] | {"pose": other["observation"]["pose"]}}
    made(within)
    imported(*words, also)
    assert f"{train}: exists already, 2 episodes" in capsys.readouterr().out
    assert val.exists() and train.stat().st_mtime_ns == before


def test_nothing_is_left_of_an_import_of_which_the_first_split_fails(tmp_path: Path) -> None:
    broken = third_party.episode(3)
    broken["steps"] = broken["steps"][:1]
    splits = {"train": [broken], "val": [third_party.episode(0)]}
    src = third_party.dataset(tmp_path / "others", splits, kind="array_record")
    with pytest.raises(InputError, match=r"too few for train: add others$"):
        imported(src, tmp_path / "data", mapping(tmp_path))
    assert not list(tmp_path.rglob("*.hdf5"))


@pytest.mark.parametrize("splits", [("train",), ("train", "val")])
def test_validation_episodes_of_what_is_not_divided_are_refused(tmp_path: Path, splits: tuple[str, ...]) -> None:
    made = {name: [third_party.episode(number) for number in range(3)] for name in splits}
    src = third_party.dataset(tmp_path / "others", made, kind="array_record")
    word = [] if len(splits) > 1 else ["split=train"]
    with pytest.raises(InputError, match=r"^val_episodes: found 1, but all these episodes become train; leave it out"):
        imported(src, tmp_path / "data", mapping(tmp_path), "val_episodes=1", *word)
    assert not list(tmp_path.rglob("*.hdf5"))


def test_the_printed_command_has_the_episodes_of_both_files_after_an_end_between_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {
        "train": [third_party.episode(number) for number in range(3)],
        "val": [third_party.episode(8, shape=(32, 32))],
    }
    has = third_party.features(None)
    src = third_party.dataset(tmp_path / "others", splits, kind="array_record", has=has)
    words = (src, tmp_path / "data", mapping(tmp_path))
    for missing in ((), ("val",), ("train",), ("train", "val")):
        imported(*words)
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith("next: ") and " task.episodes=3 task.val_episodes=1" in line
        for split in missing:
            file_of(tmp_path / "data", split).unlink()
    imported(*words, "split=train")
    assert "val.hdf5: missing, and training needs it" in capsys.readouterr().out.splitlines()[-1]


def test_states_and_sentences_come_from_the_keys_that_are_named(tmp_path: Path) -> None:
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(2)]}, kind="array_record")
    state = 'state: {gripper: "steps/observation/pose[7] > 0.02", finger_opening: 0.04}'
    marked = ("kind: stops, joint_positions: steps/observation/joints, seconds: 0.1", "kind: every")
    for number, (new, expected) in enumerate(
        {
            'state: {values: "steps/observation/pose[1:5]"}': [third_party.pose(2, step)[1:5] for step in range(9)],
            'state: {gripper: "steps/observation/pose[7] < 0.02", fingers: "steps/observation/pose[7]"}': [
                [1 - opened, 0.04 * opened, 0.04 * opened, -1 + 2 * step / 25]
                for step, opened in enumerate(third_party.OPENED)
            ],
            'state: {gripper: "steps/observation/pose[7] > 0.02", fingers: "steps/observation/pose[0:2]"}': [
                [opened, *third_party.pose(2, step)[:2], -1 + 2 * step / 25]
                for step, opened in enumerate(third_party.OPENED)
            ],
        }.items()
    ):
        text = ("{key: steps/language_instruction}", "{text: do it}")
        imported(src, tmp_path / f"{number}.hdf5", mapping(tmp_path, (state, new), marked, text))
        with DemonstrationDataset(tmp_path / f"{number}.hdf5") as episodes:
            np.testing.assert_allclose(episodes.demonstration(0).state, expected, rtol=1e-6)
            assert episodes.instructions(0) == ("do it",)
    imported(src, tmp_path / "gripper.hdf5", mapping(tmp_path))
    with DemonstrationDataset(tmp_path / "gripper.hdf5") as episodes:
        np.testing.assert_allclose(episodes.demonstration(0).state[:, 3], [-1, -0.92, -0.84, -0.76], rtol=1e-6)


def test_a_state_of_any_numbers_and_its_names_are_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["x (m)", "y (m)", "z (m)", "qw", "qx", "qy", "qz", "width (m)"]
    src = third_party.dataset(
        tmp_path / "others", {"train": [third_party.episode(n) for n in range(3)]}, kind="tfrecord"
    )
    usual = 'state: {gripper: "steps/observation/pose[7] > 0.02", finger_opening: 0.04}'
    other = f"state: {{values: steps/observation/pose, names: {json.dumps(names)}}}"
    imported(src, tmp_path / "data", mapping(tmp_path, (usual, other)))
    assert """'sim.state=["x (m)","y (m)","z (m)","qw","qx","qy","qz","width (m)"]'""" in capsys.readouterr().out
    with DemonstrationDataset(file_of(tmp_path / "data", "train")) as train:
        assert train.state == tuple(names)
        np.testing.assert_array_equal(train.demonstration(0).state[0], third_party.pose(0, 0))
    with pytest.raises(InputError, match=r"state\.names: with gripper, the state is the usual one"):
        imported(
            src, tmp_path / "no", mapping(tmp_path, ("finger_opening: 0.04}", "finger_opening: 0.04, names: [x]}"))
        )


def test_joint_velocities_follow_from_positions_and_the_time_between_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, seen = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(2)]}, kind="array_record"), []

    def found(opened: np.ndarray, speeds: np.ndarray) -> np.ndarray:
        seen.append((opened, speeds))
        return np.array([4])

    monkeypatch.setattr(foreign, "find_keyframes", found)
    imported(src, tmp_path / "one.hdf5", mapping(tmp_path, ("seconds: 0.1", "seconds: 0.5")))
    opened, speeds = seen[-1]
    assert opened.tolist() == [bool(one) for one in third_party.OPENED]
    np.testing.assert_allclose(speeds[1:], 0.2, rtol=1e-5)


# Errors.


def test_a_state_of_a_gripper_where_the_simulator_has_another_says_what_is_needed(tmp_path: Path) -> None:
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(0)]}, kind="tfrecord")
    cameras = (("  front:", "  corner:"), ("  wrist:", "  topview:"))
    with pytest.raises(InputError) as error:
        imported(src, tmp_path / "data", mapping(tmp_path, *cameras), "sim=metaworld", "task=drawer-open-v3")
    expected = (
        "line 11: state.gripper: found steps/observation/pose[7] > 0.02; allowed with sim=metaworld: state.values with "
        "its 5 numbers tip x (m), tip y (m), tip z (m), gripper opening, time, or with others and their state.names"
    )
    assert str(error.value).endswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("steps/observation/image,", "steps/observation/imag,", "no such key; did you mean steps/observation/image"),
        ("image: steps/observation/image,", "image: steps/observation/pose,", "expected an image"),
        ("rotation_is: quaternion_wxyz", "rotation_is: quaternion", "action.rotation_is: found quaternion; allowed"),
        ("  position: steps/action[0:3]\n", "", "action.position: no value given"),
        ("steps/action[0:3]", "steps/action[0:2]", "action.position: found 2 numbers, expected 3"),
        ("steps/action[0:3]", "steps/action[7:10]", "steps/action: found 8 numbers, too few"),
        ("steps/action[0:3]", "steps/action[3:3]", "action.position: found steps/action[3:3]; allowed: like"),
        ("steps/action[0:3]", "steps/language_instruction", "steps/language_instruction: found no numbers"),
        ("steps/action[7] > 0.02", "steps/action[7]", "action.gripper: found steps/action[7]; allowed: like"),
        ("steps/action[7] > 0.02", "steps/action > 0.02", "found 8 numbers to compare"),
        ("steps/action[7] > 0.02", "steps/action[7] > nan", "action.gripper: found"),
        ("leads_to: next", "leads_to: before", "action.leads_to: found before; allowed: next, same"),
        ("cameras:\n  front:", "cameras:\n  side:", "cameras: found side; allowed with sim=rlbench: front, "),
        (
            "intrinsics: steps/observation/K, extrinsics: episode_metadata/world}\n  wrist",
            "}\n  wrist",
            "cameras: intri",
        ),
        (", finger_opening: 0.04", "", "state: with gripper give fingers or finger_opening"),
        (", seconds: 0.1", "", "keyframes: kind=stops takes"),
        ("key: steps/language_instruction", "key: null", "instruction: give key or text"),
        ("instruction: {key: steps/language_instruction}", "instruction: {", "cannot be read as YAML"),
        (
            "image: steps/observation/image,",
            'image: "steps/observation/image[0]",',
            "line 3: cameras.front.image: found steps/observation/image[0]; allowed: steps/observation/image, without",
        ),
        (
            "key: steps/language_instruction",
            'key: "steps/language_instruction[0:3]"',
            "line 13: instruction.key: found steps/language_instruction[0:3]; allowed: steps/language_instruction, wi",
        ),
        ("cameras:\n", "camera:\n", "line 2: camera: no such setting; did you mean cameras?"),
        (
            "cameras:",
            "cameras: 3\nother:",
            "line 2: cameras: found 3; allowed: its settings cameras.front, cameras.left_",
        ),
        (
            "cameras:",
            "cameras: [front]\nother:",
            "line 2: cameras: found [front]; allowed: its settings cameras.front, ",
        ),
        ("cameras:", "cameras: null\nother:", "line 2: cameras: found null; allowed: its settings cameras.front, "),
        (
            "{image: steps/observation/wrist_image",
            "3 #",
            "line 4: cameras.wrist: found 3; allowed: its settings cameras",
        ),
        (MAPPING, "[1, 2]", "line 1: found a list; allowed: settings"),
        (MAPPING, "", "action.gripper: no value given"),
    ],
)
def test_a_wrong_mapping_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, found: str
) -> None:
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(0)]}, kind="tfrecord")
    with pytest.raises(InputError) as error:
        imported(src, tmp_path / "one.hdf5", mapping(tmp_path, (old, new)))
    assert found in f"{capsys.readouterr().out}{error.value}"
    assert not list(tmp_path.glob("one.hdf5*"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["task=Mug"], "task: found Mug; allowed: lower-case letters, digits and underscores, with a letter in front"),
        (["task=é"], "task: found é; allowed: lower-case letters"),
        (["task=_x"], "task: found _x; allowed: lower-case letters"),
        (["task=a/b"], "task: found a/b; allowed: lower-case letters"),
        ([f"task={'a' * 300}"], "allowed: a folder's name without slashes or a dot in front, at most"),
        (["task=close-jar", "sim=rlbench"], "task: found close-jar; allowed: the name of a task of RLBench, like clo"),
        (["task=mug", "sim=tabletop"], "task: found mug; allowed: meat_off_grill, "),
        (["task=mug", "sim=metaworld"], "task: found mug; allowed: the name of a task of Meta-World, like drawer-open"),
        (["sim=metaworld"], "task: found others, the name of the data set in "),
    ],
)
def test_a_task_that_no_training_accepts_is_refused_before_anything_is_read(
    tmp_path: Path, words: list[str], expected: str
) -> None:
    src = third_party.dataset(tmp_path / "others", {"train": [third_party.episode(0)]}, kind="tfrecord")
    with pytest.raises(InputError) as error:
        imported(src, tmp_path / "data", "mapping=none.yaml", *words)
    assert expected in str(error.value)
    if words == ["sim=metaworld"]:
        assert str(error.value).endswith("like drawer-open-v3; set task=NAME")


def test_a_wrong_source_is_one_line(tmp_path: Path) -> None:
    src = third_party.dataset(
        tmp_path / "others", {"train": [third_party.episode(n) for n in range(4)]}, kind="tfrecord"
    )
    mapping_word = mapping(tmp_path)

    def refused(found: str, *words: str, at: Path = src) -> None:
        with pytest.raises(InputError) as error:
            imported(at, tmp_path / "one.hdf5", *words)
        assert found in str(error.value) and not list(tmp_path.glob("one.hdf5*"))

    refused("which is not a folder", at=tmp_path / "none")
    refused("has no dataset_info.json", at=ROOT / "conf")
    refused(
        "mapping: none given",
    )
    refused("steps/observation/pose (8 float32)")
    refused("none.yaml: found no such file", f"mapping={tmp_path / 'none.yaml'}")
    refused("source_split: found test", mapping_word, "source_split=test")
    refused("split: found test; allowed", mapping_word, "split=test")
    shard = src / "others-train.tfrecord-00001-of-00002"
    content = shard.read_bytes()
    for damaged, found in (
        (content[:-1], "truncated"),
        (b"\1" + content[1:], "no record at byte 0"),
        (b"", "holds 0 records"),
        (content * 2, "holds 2 records"),
    ):
        shard.write_bytes(damaged)
        refused(found, mapping_word)
    shard.unlink()
    refused("no such file", mapping_word)
    (src / "features.json").unlink()
    refused("features.json: no such file, which a tensorflow-datasets directory has; copy it again", mapping_word)
    (src / "features.json").write_text("{}")
    refused("features.json: names no features; copy it again", mapping_word)
    (src / "features.json").write_text("{")
    refused("cannot be read as a tensorflow-datasets directory", mapping_word)
    (tmp_path / "b").mkdir()
    info = (src / "dataset_info.json").read_text()
    for name in ("1.0.0", "2.0.0"):
        (tmp_path / "b" / name).mkdir()
        (tmp_path / "b" / name / "dataset_info.json").write_text(info)
    refused("found 2 datasets", mapping_word, at=tmp_path / "b")


def test_a_dataset_without_steps_or_episodes_is_refused(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    flat = tfds.features.FeaturesDict({"label": np.int64})
    for name, splits, has, found in (
        ("flat", {"train": [{"label": 1}]}, flat, "has no nested dataset `steps`"),
        ("empty", {}, None, "contains no episodes"),
    ):
        src = third_party.dataset(tmp_path / name, splits, kind="tfrecord", has=has)
        with pytest.raises(InputError, match=found):
            imported(src, tmp_path / "one.hdf5", mapping(tmp_path))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "command: found none; allowed: export, import"),
        (["export", "src=nowhere", "out=x"], "which does not exist"),
        (["export", "src=conf", "out=x"], "which contains no .hdf5 file"),
        (["export", "src=README.md", "out=x"], "not an HDF5 file"),
        (["export", "src=conf", "out=x", "name=A-b"], "name: found A-b; allowed"),
        (["export", "out=x"], "src: no value given"),
        (["import", "src=conf", "out=x", "maping=y"], "maping: no such setting; did you mean mapping?"),
        (["import", "src"], "src: cannot be read as key=value"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: list[str], found: str) -> None:
    ran = run_main(main, *words)
    assert ran.returncode == 2 and found in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr


def test_the_help_names_every_setting() -> None:
    assert all(f"{key} " in usage() for key in ("src", "mapping", "source_split", "renderer", "name"))


@given(st.integers(0, 9), st.integers(1, 9))
def test_a_key_takes_the_numbers_that_it_names(start: int, count: int) -> None:
    values = np.arange(20)
    key = parse_key("x", f"steps/a[{start}:{start + count}]")
    assert key.name == "steps/a" and key.of(values).tolist() == [*range(start, start + count)]
    assert parse_key("x", f"a[{start - 10}]").of(values).tolist() == [10 + start]
    assert parse_key("x", f"a[{start}] < {count}", compares=True).of(values).tolist() == [start < count]


@given(st.text(alphabet="a/[]:<> .-0123456789einf", max_size=24), st.booleans())
def test_whatever_stands_for_a_key_is_read_or_refused_in_one_line(text: str, compares: bool) -> None:
    try:
        key = parse_key("x", text, compares=compares)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert key.name and (key.limit is not None) == compares
