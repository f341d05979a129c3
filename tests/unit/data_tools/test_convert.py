"""Demonstrations of others become ours: both layouts and windows, what is left out and why, and training on them."""

import io
import pickle
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from data_tools.convert.__main__ import convert, main, parse
from data_tools.convert.rlbench_dataset import decode_depth, find_episodes
from data_tools.convert.settings import ConvertConfig
from data_tools.convert.skip_report import SkipReason
from instructrl.cli.overrides import read_override
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from instructrl.sim.tabletop.task import load_task
from tests.fixtures import stored
from tests.fixtures.commands import run_main
from tests.paths import ROOT

VIEWS = "cameras=[front,left_shoulder]"


def files(out: Path, task: str = "close_jar", size: int = 16) -> dict[str, Path]:
    folder = out / "rlbench" / f"{task}-{size}px-front+left_shoulder"
    return {split: folder / f"{split}.hdf5" for split in ("train", "val")}


def converted(src: Path, out: Path, *more: str) -> None:
    convert(parse([f"src={src}", f"out={out}", VIEWS, *(more if "kind=windows" in more else ("kind=rlbench", *more))]))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_an_episode_of_the_original_layout_is_kept_as_it_is(tmp_path: Path, protocol: int) -> None:
    src = stored.original(tmp_path / "close_jar", variations=2, episodes=1, protocol=protocol)
    converted(src, tmp_path / "one.hdf5", "split=train")
    with DemonstrationDataset(tmp_path / "one.hdf5", task="close_jar") as episodes:
        assert len(episodes) == 2 and episodes.cameras == ("front", "left_shoulder")
        assert episodes.contents.variation.tolist() == [0, 1]
        for number, seed in enumerate((0, 100)):
            found, moved = episodes.demonstration(number), stored.motion(seed)
            kept = [0, *moved["keyframes"]]
            for place, frame in enumerate(kept):
                for camera in range(2):
                    np.testing.assert_array_equal(found.images[place, camera], stored.colours(seed, frame, camera, 16))
                np.testing.assert_allclose(found.extrinsics[place, 0, :3, 3], [0, frame, 1.5])
            np.testing.assert_allclose(found.actions[:, :3], moved["poses"][kept[1:], :3], rtol=1e-6)
            np.testing.assert_array_equal(found.actions[:, 3:7], [[0, 1, 0, 0]] * 2 if found.actions[0, 4] > 0 else
                                          [[0, -1, 0, 0]] * 2)  # fmt: skip
            np.testing.assert_array_equal(found.actions[:, 7], moved["opened"][kept[1:]])
            np.testing.assert_array_equal(found.intrinsics[0, 0], [[20, 0, 8], [0, 20, 8], [0, 0, 1]])
            np.testing.assert_array_equal(np.diag(found.extrinsics[0, 0]), [-1, -1, 1, 1])
            assert found.instructions == (f"do it {number}", f"make {number}")
        episodes.verify()


def test_frames_between_keyframes_are_kept_at_will(tmp_path: Path) -> None:
    src = stored.original(tmp_path / "close_jar", variations=1, episodes=1)
    converted(src, tmp_path / "plain.hdf5", "split=train")
    converted(src, tmp_path / "more.hdf5", "split=train", "intermediate_frames=2")
    with DemonstrationDataset(tmp_path / "plain.hdf5") as plain, DemonstrationDataset(tmp_path / "more.hdf5") as more:
        found, kept = more.demonstration(0), [0, 2, 4, 6, 8, 10, 12]
        assert found.keyframes.tolist() == [3, 6] and more.provenance["intermediate_frames"] == "2"
        for place, frame in enumerate(kept):
            np.testing.assert_array_equal(found.images[place, 0], stored.colours(0, frame, 0, 16))
            np.testing.assert_allclose(found.extrinsics[place, 0, :3, 3], [0, frame, 1.5])
        np.testing.assert_allclose(found.state[:, 3], [-1, -1, -1, -0.92, -0.92, -0.92, -0.84], rtol=1e-6)
        for one, other in zip(plain.episode(0), more.episode(0), strict=True):
            np.testing.assert_array_equal(one, other)


def test_peracts_layout_says_of_each_episode_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = stored.peract(tmp_path / "close_jar")
    converted(src, tmp_path / "data")
    printed = capsys.readouterr().out
    assert "close_jar: 12 episodes found, 12 converted, 0 skipped;" in printed
    with (
        DemonstrationDataset(files(tmp_path / "data")["train"]) as train,
        DemonstrationDataset(files(tmp_path / "data")["val"]) as val,
    ):
        assert (len(train), len(val)) == (11, 1)
        assert train.contents.variation.tolist() == [number % 3 for number in range(11)]
        assert val.contents.variation.tolist() == [11 % 3] and val.contents.seed[0] >= 1_000_000_000
        assert train.instructions(4) == ("do it 1",) and train.header.split == "train" and val.header.split == "val"


def break_frames(folder: Path) -> None:
    for name in stored.CAMERAS:
        (folder / f"{name}_rgb" / "6.png").unlink()


def break_camera(folder: Path) -> None:
    (folder / "left_shoulder_rgb" / "12.png").unlink()


def break_picture(folder: Path) -> None:
    path = folder / "front_rgb" / "6.png"
    path.write_bytes(path.read_bytes()[:60])


def break_shape(folder: Path) -> None:
    Image.new("RGB", (16, 20)).save(folder / "front_rgb" / "0.png")


def gray(folder: Path) -> None:
    Image.new("L", (16, 16)).save(folder / "front_rgb" / "0.png")


def foreign(folder: Path) -> None:
    (folder / "low_dim_obs.pkl").write_bytes(pickle.dumps(Path("x")))


def hostile(folder: Path) -> None:
    (folder / "low_dim_obs.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(folder / "ran").encode() + b"'\ntR.")


def truncated(folder: Path) -> None:
    path = folder / "low_dim_obs.pkl"
    path.write_bytes(path.read_bytes()[:-40])


def rewritten(seed: int = 5, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        demo = stored.DEMO(_observations=stored.frames(stored.motion(seed), **changes))
        stored.dump(folder / "low_dim_obs.pkl", demo)

    return change


def same_list_within(depth: int) -> list[Any]:
    """A list of two references to a list, and so on: few bytes in a pickle, 2**depth numbers in an array."""
    found: list[Any] = [0.0, 0.0]
    for _ in range(depth - 1):
        found = [found, found]
    return found


def number(value: object) -> Callable[[Path], None]:
    return lambda folder: stored.dump(folder / "variation_number.pkl", value)


def sentences(value: object) -> Callable[[Path], None]:
    return lambda folder: stored.dump(folder / "variation_descriptions.pkl", value)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (break_frames, SkipReason.FRAMES),
        (break_camera, SkipReason.CAMERAS),
        (lambda folder: shutil.rmtree(folder / "front_rgb"), SkipReason.CAMERAS),
        (break_picture, SkipReason.IMAGES),
        (break_shape, SkipReason.IMAGES),
        (foreign, SkipReason.PICKLE),
        (hostile, SkipReason.PICKLE),
        (truncated, SkipReason.PICKLE),
        (lambda folder: (folder / "low_dim_obs.pkl").unlink(), SkipReason.PICKLE),
        (lambda folder: stored.dump(folder / "low_dim_obs.pkl", [1, 2]), SkipReason.PICKLE),
        (number(3), SkipReason.VARIATION),
        (number(-1), SkipReason.VARIATION),
        (number("red"), SkipReason.VARIATION),
        (sentences([]), SkipReason.SENTENCES),
        (sentences([7]), SkipReason.SENTENCES),
        (sentences(["nul \0 inside"]), SkipReason.NUMBERS),
        (rewritten(misc={}), SkipReason.NUMBERS),
        (rewritten(misc=None), SkipReason.NUMBERS),
        (rewritten(gripper_pose=np.full(7, np.nan)), SkipReason.NUMBERS),
        (rewritten(gripper_pose=np.zeros(3)), SkipReason.NUMBERS),
        (rewritten(gripper_open="open"), SkipReason.NUMBERS),
        (rewritten(gripper_pose=np.array([0.3, 9.0, 1, 0, 1, 0, 0])), SkipReason.NUMBERS),
        (rewritten(gripper_pose=np.array([0.3, 0, 1, 0, 0, 0, 0])), SkipReason.NUMBERS),
        (rewritten(joint_velocities=np.full(7, np.nan), joint_positions=None), SkipReason.NUMBERS),
        (rewritten(recorded=(32, 16)), SkipReason.MATRICES),
        (rewritten(kind=stored.TWO_ARMS), SkipReason.PICKLE),
        (number(np.array([0, 1])), SkipReason.VARIATION),
        (number(1.5), SkipReason.VARIATION),
        (gray, SkipReason.IMAGES),
        (rewritten(joint_velocities=None, joint_positions=None), SkipReason.NUMBERS),
        (rewritten(joint_velocities=same_list_within(18)), SkipReason.NUMBERS),
        (rewritten(joint_velocities=np.zeros(100_000)), SkipReason.NUMBERS),
    ],
)
def test_what_cannot_be_used_is_named_and_counted_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], reason: SkipReason
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=3)
    spoil(src / "all_variations" / "episodes" / "episode1")
    converted(src, tmp_path / "out.hdf5", "split=train", "variations=3")
    printed = capsys.readouterr().out
    assert f"3 episodes found, 2 converted, 1 skipped (1 {reason})" in printed
    [line] = [line for line in printed.splitlines() if line.startswith("skipped ")]
    assert line.startswith(f"skipped all_variations/episodes/episode1: {reason}: ")
    with DemonstrationDataset(tmp_path / "out.hdf5") as episodes:
        assert episodes.contents.variation.tolist() == [0, 2]
        episodes.verify()
    assert not list(tmp_path.rglob("ran")) and not list(tmp_path.rglob("*.tmp"))


def test_velocities_that_were_not_stored_are_made_of_positions(tmp_path: Path) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=1)
    converted(src, tmp_path / "with.hdf5", "split=train")
    rewritten(joint_velocities=None)(src / "all_variations" / "episodes" / "episode0")
    converted(src, tmp_path / "without.hdf5", "split=train")
    with DemonstrationDataset(tmp_path / "with.hdf5") as one, DemonstrationDataset(tmp_path / "without.hdf5") as other:
        assert one.lengths.tolist() == other.lengths.tolist() == [2]


def test_nothing_usable_leaves_nothing(tmp_path: Path) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=2)
    for place in find_episodes(src):
        break_frames(place.folder)
    with pytest.raises(InputError, match=r"close_jar: 2 episodes found, 0 converted, 2 skipped \(2 missing frames\)"):
        converted(src, tmp_path / "data")
    assert not list(tmp_path.rglob("*.hdf5*"))


def test_variations_take_turns_and_a_folder_of_tasks_is_converted_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.original(tmp_path / "src" / "close_jar", variations=2, episodes=3)
    stored.peract(tmp_path / "src" / "place_cups", episodes=2)
    (tmp_path / "src" / "notes").mkdir()
    converted(tmp_path / "src", tmp_path / "data", "val_episodes=1")
    with DemonstrationDataset(files(tmp_path / "data")["train"]) as train:
        assert train.contents.variation.tolist() == [0, 1, 0, 1, 0]
    assert files(tmp_path / "data", "place_cups")["val"].exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.hdf5")}
    assert len(before) == 4
    converted(tmp_path / "src", tmp_path / "data", "val_episodes=1")
    assert "exists already, 5 episodes" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.hdf5")}
    files(tmp_path / "data")["val"].unlink()
    converted(tmp_path / "src", tmp_path / "data", "val_episodes=1")
    assert files(tmp_path / "data")["val"].exists(), "missing files are converted again"
    with pytest.raises(
        InputError,
        match=r"found another file: renderer rlbench_opengl3 \(asked for rlbench_opengl\); ",
    ):
        converted(tmp_path / "src", tmp_path / "data", "val_episodes=1", "renderer=rlbench_opengl")
    converted(tmp_path / "src", tmp_path / "data", "renderer=rlbench_opengl", "overwrite=true")
    with pytest.raises(InputError, match="found one file for the tasks close_jar, place_cups; name a folder"):
        converted(tmp_path / "src", tmp_path / "x.hdf5")


def test_a_task_that_cannot_be_used_stops_no_other_one(tmp_path: Path) -> None:
    for task in ("beat_buzz", "close_jar", "open_box", "place_cups"):
        stored.peract(tmp_path / "src" / task, episodes=2)
    for place in find_episodes(tmp_path / "src" / "beat_buzz"):
        break_frames(place.folder)
    shutil.rmtree(tmp_path / "src" / "open_box" / "all_variations" / "episodes")
    words = ("kind=rlbench", f"src={tmp_path / 'src'}", f"out={tmp_path / 'data'}", VIEWS)
    for _ in range(2):
        ended = run_main(main, *words)
        assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
        assert "error: 2 of 4 tasks were not converted: beat_buzz, open_box;" in ended.stderr
        assert "not converted: beat_buzz: beat_buzz: 2 episodes found, 0 converted, 2 skipped" in ended.stdout
        assert f"not converted: open_box: {tmp_path / 'src' / 'open_box'}: found no episodes" in ended.stdout
        assert all(
            path.exists() for task in ("close_jar", "place_cups") for path in files(tmp_path / "data", task).values()
        )
    assert ended.stdout.count("exists already") == 4
    assert len(list((tmp_path / "data").rglob("*.hdf5*"))) == 4
    shutil.rmtree(tmp_path / "src" / "beat_buzz")
    stored.peract(tmp_path / "src" / "beat_buzz", episodes=2)
    shutil.rmtree(tmp_path / "src" / "open_box")
    assert run_main(main, *words).returncode == 0 and files(tmp_path / "data", "beat_buzz")["val"].exists()


def test_the_ninth_number_says_whether_the_expert_ignores_collisions_before_each_keyframe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=3)
    frames = stored.motion(0)["keyframes"]  # 6 and 12
    flags = np.zeros(13)
    flags[frames[0] - 1], flags[frames[1]] = 1, 1  # on the way to the first; the last frame is no way to anywhere
    folder = src / "all_variations" / "episodes"
    for number, given in ((0, flags), (1, [np.array(flag) for flag in 1 - flags])):
        store_again(folder / f"episode{number}", number, ignore_collisions=given)
    converted(src, tmp_path / "one.hdf5", "split=train", "actions=keyframe_collisions")
    printed = capsys.readouterr().out
    assert "2 converted, 1 skipped (1 without collision flags)" in printed
    assert "ignore_collisions of a frame is not 0 or 1 as PerAct's fork records it; leave actions=keyfr" in printed
    with DemonstrationDataset(tmp_path / "one.hdf5") as episodes:
        assert episodes.header.actions == "keyframe_collisions"
        found = [episodes.actions(number) for number in range(2)]
    assert [actions[:, 8].tolist() for actions in found] == [[1, 0], [0, 1]]
    converted(src, tmp_path / "plain.hdf5", "split=train")
    with DemonstrationDataset(tmp_path / "plain.hdf5") as episodes:
        for number in range(2):
            np.testing.assert_array_equal(episodes.actions(number), found[number][:, :8])


def store_again(folder: Path, seed: int, **per_frame: Any) -> None:
    """Write an episode again with values of each frame, and the files beside it."""
    kept = {path.name: path.read_bytes() for path in folder.glob("variation_*.pkl")}
    shutil.rmtree(folder)
    stored.store(folder, seed, per_frame=per_frame)
    for name, content in kept.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("task", "out"),
    [
        ("close jar", "my data"),
        ("close_jar", "it's {a}, (b) & $c;d"),
        ("close_jar", "a=b,'c'#\"x\"\\"),
        ("close_jar", 'b\\c\\"d\\\\'),
    ],
)
def test_the_printed_command_is_read_by_a_shell_and_by_train_as_it_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, out: str
) -> None:
    src = stored.peract(tmp_path / task, episodes=2)
    convert(ConvertConfig(kind="rlbench", src=str(src), out=str(tmp_path / out), cameras=["front", "left_shoulder"]))
    printed = capsys.readouterr().out
    [line] = [line for line in printed.splitlines() if line.startswith("next: python train.py")]
    given = {o.key_or_group: o.value() for o in map(read_override, shlex.split(line)[3:])}
    assert given["task.name"] == task and given["data.dir"] == str(tmp_path / out)
    assert given["sim.cameras"] == ["front", "left_shoulder"] and given["task.episodes"] == 1
    assert ("to train on these demonstrations, convert them with task=NAME" in printed) == (task != "close_jar")


@pytest.mark.parametrize("task", ["Mug", "é", "_x", "a/b", "close jar"])
def test_a_task_that_no_training_accepts_is_refused(tmp_path: Path, task: str) -> None:
    sources = {
        "rlbench": stored.peract(tmp_path / "close_jar", episodes=2),
        "windows": stored.windows(tmp_path / "windows.hdf5", [3, 4]),
    }
    for kind, src in sources.items():
        refused = run_main(main, f"kind={kind}", f"src={src}", f"out={tmp_path / 'data'}", VIEWS, f"task={task}")
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert f"task: found {task}; allowed: the name of a task of RLBench, like close_jar" in refused.stderr
    assert not (tmp_path / "data").exists()


def next_settings(printed: str) -> dict[str, Any]:
    """Settings of the command that a conversion printed last."""
    [line] = [line for line in printed.splitlines() if line.startswith("next: python train.py")]
    return {one.key_or_group: one.value() for one in map(read_override, shlex.split(line)[3:])}


def test_the_printed_command_has_the_episodes_of_both_files_whichever_command_wrote_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=3)
    converted(src, tmp_path / "data")
    expected = next_settings(capsys.readouterr().out)
    assert (expected["task.episodes"], expected["task.val_episodes"]) == (2, 1)
    converted(src, tmp_path / "data")
    assert next_settings(capsys.readouterr().out) == expected
    converted(src, tmp_path / "data", "split=train")
    assert next_settings(capsys.readouterr().out) == expected
    files(tmp_path / "data")["val"].unlink()
    converted(src, tmp_path / "data", "split=train")
    printed = capsys.readouterr().out
    assert "next: " not in printed and printed.splitlines()[-1] == (
        f"{files(tmp_path / 'data')['val']}: missing, and training needs it; run the command with split=val, with "
        "episodes that the other split does not have, or without split= for both"
    )
    converted(src, tmp_path / "data")  # as after an end between the two files
    assert next_settings(capsys.readouterr().out) == expected
    moved = "workspace=[-1,-1,-1,2,2,2]"
    files(tmp_path / "data")["val"].unlink()
    converted(stored.peract(tmp_path / "other" / "close_jar", episodes=5), tmp_path / "data", "split=val", moved)
    printed = capsys.readouterr().out
    assert "next: " not in printed and "train.hdf5: of another workspace, state or actions; write both" in printed


@pytest.mark.parametrize("word", ["episodes=3", "val_episodes=2", "variations=7", "crop=true", "depth=true"])
def test_another_choice_of_episodes_does_not_pass_for_a_conversion_that_was_done_before(
    tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=4)
    converted(src, tmp_path / "data", word)
    converted(src, tmp_path / "data", word)
    assert capsys.readouterr().out.count("exists already") == 2
    name, _, value = word.partition("=")
    with pytest.raises(InputError, match=rf"train.hdf5: found another file: {name} {value} \(asked for null\); "):
        converted(src, tmp_path / "data")


def test_a_terminal_shows_the_progress_and_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    src = stored.peract(tmp_path / "close_jar", episodes=4)
    break_frames(src / "all_variations" / "episodes" / "episode1")
    converted(src, tmp_path / "out.hdf5", "split=train")
    assert re.search(r"close_jar: +100%\|.*\| 4/4 \[\d+:\d+, \d+:\d+ left, .*episodes", terminal.getvalue())


RULES = [
    (["keyframes=default"], [6, 12], "default, stop_speed 0.1 rad/s, stop_gap 4 frames, stop_restart 0.02 rad/s, "
                                     "stop_rest 0.1"),
    (["keyframes=peract"], [1, 6, 8, 12], "peract, stop_speed 0.1 rad/s, stop_gap 4 frames"),
    (["keyframes=peract", "stop_speed=0.01"], [6, 12], "peract, stop_speed 0.01 rad/s, stop_gap 4 frames"),
    (["keyframes=peract", "stop_gap=0"], [1, 2, 3, 4, 6, 8, 9, 10, 12],
     "peract, stop_speed 0.1 rad/s, stop_gap 0 frames"),
    (["keyframes=every"], list(range(1, 13)), "every"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "kept", "recorded"), RULES)
def test_keyframes_follow_the_chosen_rule_which_is_recorded(
    tmp_path: Path, words: list[str], kept: list[int], recorded: str
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=1)
    creeping = [stored.frame_velocities(0.05)] * 13
    rewritten(per_frame={"joint_velocities": creeping})(src / "all_variations" / "episodes" / "episode0")
    converted(src, tmp_path / "out.hdf5", "split=train", *words)
    with DemonstrationDataset(tmp_path / "out.hdf5") as episodes:
        assert episodes.demonstration(0).extrinsics[:, 0, 1, 3].tolist() == [0, *kept]
        assert episodes.provenance["keyframes"] == recorded


def test_every_frame_needs_no_motion_of_joints(tmp_path: Path) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=1)
    rewritten(joint_velocities=None, joint_positions=None)(src / "all_variations" / "episodes" / "episode0")
    converted(src, tmp_path / "out.hdf5", "split=train", "keyframes=every")
    with DemonstrationDataset(tmp_path / "out.hdf5") as episodes:
        assert episodes.lengths.tolist() == [12]


def test_pictures_are_resized_and_the_matrices_with_them(tmp_path: Path) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=1, size=32)
    converted(src, tmp_path / "out.hdf5", "split=val", "image_size=16")
    with DemonstrationDataset(tmp_path / "out.hdf5") as episodes:
        found = episodes.demonstration(0)
        assert found.images.shape[2:] == (16, 16, 3) and episodes.header.split == "val"
        np.testing.assert_array_equal(found.intrinsics[0, 0], [[20, 0, 8], [0, 20, 8], [0, 0, 1]])
        mean = stored.colours(0, 0, 0, 32)[:2, :2].astype(float).mean(axis=(0, 1))
        np.testing.assert_allclose(found.images[0, 0, 0, 0], mean, atol=1)


def test_matrices_of_another_size_are_rescaled_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images that were resized after the recording, in two of three episodes."""
    src = stored.peract(tmp_path / "close_jar", episodes=3, size=32)
    for number in range(2):
        stored.change_images(
            src / "all_variations" / "episodes" / f"episode{number}",
            lambda image, path: image.resize((16, 16), Image.Resampling.BOX).save(path),
        )
    converted(src, tmp_path / "out.hdf5", "split=train")
    assert (
        "close_jar: in 2 episodes, images of 16 x 16 pixels had camera matrices of 32 x 32: rescaled"
        in capsys.readouterr().out
    )
    with DemonstrationDataset(tmp_path / "out.hdf5") as episodes:
        for episode in range(3):
            found = episodes.demonstration(episode)
            np.testing.assert_array_equal(found.intrinsics[1, 1], [[20, 0, 8], [0, 20, 8], [0, 0, 1]])


def test_the_central_square_of_wide_images_is_cropped_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=1)
    episode = src / "all_variations" / "episodes" / "episode0"
    rewritten(recorded=(24, 16))(episode)
    for kind in ("rgb", "depth"):
        stored.change_images(episode, lambda image, path: image.resize((24, 16)).save(path), kind=kind)
    with pytest.raises(InputError, match=r"1 skipped \(1 images that cannot be used\)"):
        converted(src, tmp_path / "none.hdf5", "split=train")
    assert "found 24 x 16 pixels, expected a square; crop=true takes the central one" in capsys.readouterr().out
    with Image.open(episode / "front_rgb" / "6.png") as image:
        central = np.asarray(image)[:, 4:20]
    converted(src, tmp_path / "out.hdf5", "split=train", "crop=true", "depth=true")
    converted(src, tmp_path / "small.hdf5", "split=train", "crop=true", "image_size=32")
    with DemonstrationDataset(tmp_path / "out.hdf5") as episodes:
        found = episodes.demonstration(0)
        np.testing.assert_array_equal(found.images[1, 0], central)
        np.testing.assert_array_equal(found.intrinsics[1, 0], [[20, 0, 8], [0, 20, 8], [0, 0, 1]])
    with DemonstrationDataset(tmp_path / "small.hdf5") as episodes:
        np.testing.assert_array_equal(episodes.demonstration(0).intrinsics[1, 0], [[40, 0, 16], [0, 40, 16], [0, 0, 1]])


def keyframes_only(folder: Path) -> None:
    stored.change_images(folder, lambda image, path: image.save(path) if path.stem in ("0", "6", "12") else None)


def as_jpeg(folder: Path) -> None:
    stored.change_images(folder, lambda image, path: image.save(path.with_suffix(".jpg"), quality=100, subsampling=0))


def with_alpha(folder: Path) -> None:
    def save(image: Image.Image, path: Path) -> None:
        image.putalpha(128)
        image.save(path)

    stored.change_images(folder, save)


def with_palette(folder: Path) -> None:
    stored.change_images(folder, lambda image, path: image.quantize(256).save(path))


def numbered_with_zeros(folder: Path) -> None:
    stored.change_images(folder, lambda image, path: image.save(path.with_name(f"rgb_{int(path.stem):04d}.png")))


USABLE = [
    (keyframes_only, 0),
    (as_jpeg, 100),
    (with_alpha, 0),
    (with_palette, 60),
    (numbered_with_zeros, 0),
    (lambda folder: rewritten(0, kind=stored.ONE_ARM, perception_data={}, ignore_collisions=1)(folder), 0),
    (lambda folder: rewritten(0, per_frame={"joint_velocities": [np.full(7, np.nan)] * 13})(folder), 0),
    (lambda folder: rewritten(0, gripper_pose=stored.motion(0)["poses"][0].reshape(1, 7))(folder), 0),
    (number(np.array(0)), 0),
    (number(np.array([0], np.uint8)), 0),
    (number(np.int32(0)), 0),
    (number(0.0), 0),
]


@pytest.mark.parametrize(("change", "apart"), USABLE)
def test_what_others_store_otherwise_is_used(tmp_path: Path, change: Callable[[Path], None], apart: int) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=1)
    converted(src, tmp_path / "plain.hdf5", "split=train")
    change(src / "all_variations" / "episodes" / "episode0")
    converted(src, tmp_path / "changed.hdf5", "split=train")
    with (
        DemonstrationDataset(tmp_path / "plain.hdf5") as plain,
        DemonstrationDataset(tmp_path / "changed.hdf5") as changed,
    ):
        one, other = plain.demonstration(0), changed.demonstration(0)
        assert np.abs(one.images.astype(int) - other.images).max() <= apart
        assert other.variation == 0 and len(other.actions) == 2
        np.testing.assert_array_equal(one.intrinsics, other.intrinsics)


def test_images_of_other_keyframes_are_missing_and_the_rule_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=1)
    keyframes_only(src / "all_variations" / "episodes" / "episode0")
    with pytest.raises(InputError, match="1 missing frames"):
        converted(src, tmp_path / "out.hdf5", "split=train", "keyframes=every")
    assert (
        "front_rgb/1.png is missing; 3 of front, 3 of left_shoulder; 13 observations; of images of keyframes alone, "
        "keyframes= must be the rule" in capsys.readouterr().out
    )


def test_depth_is_decoded_and_checked_where_asked_and_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = np.random.default_rng(0).uniform(size=(5, 5))
    assert np.abs(decode_depth(Image.fromarray(stored.depth_image(depth))) - depth).max() < 2**-24
    src = stored.peract(tmp_path / "close_jar", episodes=3)
    episode = src / "all_variations" / "episodes" / "episode1"
    Image.new("RGB", (8, 8)).save(episode / "front_depth" / "6.png")
    converted(src, tmp_path / "blind.hdf5", "split=train")
    assert "3 converted" in capsys.readouterr().out
    converted(src, tmp_path / "seen.hdf5", "split=train", "depth=true")
    printed = capsys.readouterr().out
    assert "2 converted, 1 skipped (1 images that cannot be used)" in printed and "not stored" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kind=rlbench", "out=x"], "src: no value given"),
        (["kind=rlds", "src=.", "out=x"], "kind: found rlds; allowed: rlbench, windows"),
        (["kind=rlbench", "src=.", "out=x", "frames=3"], "frames: no such setting"),
        (["kind=rlbench", "src=.", "out=x", "split=test"], "split: found test; allowed: train, val, or null"),
        (["kind=rlbench", "src", "out=x"], "src: cannot be read as key=value"),
        (["kind=rlbench", "src=nowhere", "out=x"], "src: found nowhere, which is not a folder"),
        (["kind=rlbench", "src=conf", "out=x"], "src: found conf, which has no variation<N>/episodes/episode<N>"),
        (["kind=windows", "src=nowhere", "out=x"], "src: found nowhere, which is not a file"),
        (["kind=windows", "src=README.md", "out=x"], "README.md: cannot be opened as HDF5"),
        (["kind=windows", "src=x", "out=x", "depth=true"], "allowed only with kind=rlbench"),
        (["kind=windows", "src=x", "out=x", "keyframes=peract"], "stop_*, intermediate_frames, actions, crop, depth: "),
        (["kind=windows", "src=x", "out=x", "intermediate_frames=2"], "allowed only with kind=rlbench"),
        (
            ["kind=rlbench", "src=x", "out=x", "keyframes=every", "intermediate_frames=2"],
            "intermediate_frames: found 2; allowed: null with keyframes=every, which keeps all",
        ),
        (["kind=windows", "src=x", "out=x", "actions=keyframe_collisions"], "allowed only with kind=rlbench"),
        (
            ["kind=rlbench", "src=x", "out=x", "actions=dense"],
            "actions: found dense; allowed: keyframe, keyframe_c",
        ),
        (
            ["kind=rlbench", "src=x", "out=x", "keyframes=ours"],
            "keyframes: found ours; allowed: default, peract, every",
        ),
        (
            ["kind=rlbench", "src=x", "out=x", "keyframes=every", "stop_gap=3"],
            "stop_gap: found 3 with keyframes=every; allowed only with keyframes=default and keyframes=peract",
        ),
        (
            ["kind=rlbench", "src=x", "out=x", "keyframes=peract", "stop_rest=0.2"],
            "stop_rest: found 0.2 with keyframes=peract; allowed only with keyframes=default",
        ),
        (["kind=rlbench", "src=x", "out=x", "stop_speed=0"], "stop_speed: found 0.0; allowed: a number above 0"),
    ],
)
def test_bad_settings_are_one_line(words: list[str], message: str) -> None:
    refused = run_main(main, *words)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and message in refused.stderr, refused.stderr
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize("shuffled", [False, True])
def test_windows_are_taken_apart_into_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shuffled: bool
) -> None:
    src = stored.windows(tmp_path / "windows.hdf5", [3, 4, 5], shuffled=shuffled)
    converted(src, tmp_path / "out.hdf5", "kind=windows", "split=train")
    assert "3 episodes found, 3 converted, 0 skipped" in capsys.readouterr().out
    with DemonstrationDataset(tmp_path / "out.hdf5", task="reach_target") as episodes:
        assert sorted(episodes.contents.variation.tolist()) == [0, 1, 2]
        assert episodes.provenance["cameras"] == "unknown"
        for number, variation in enumerate(episodes.contents.variation.tolist()):
            found, seed = episodes.demonstration(number), variation + 3
            moved = stored.motion(seed)
            seen = [0, *moved["keyframes"][:-1]]
            for place, frame in enumerate(seen):
                np.testing.assert_array_equal(found.images[place, 0], stored.colours(seed, frame, 0, 16))
            np.testing.assert_allclose(found.actions[:, :3], moved["poses"][moved["keyframes"], :3], rtol=1e-6)
            np.testing.assert_array_equal(found.actions[:, 7], moved["opened"][moved["keyframes"]])
            np.testing.assert_allclose(found.state[:2, 0], moved["opened"][seen])
            assert found.instructions == load_task("reach_target").instructions(variation)


@pytest.mark.parametrize("lost", ["first", "middle", "last"])
def test_episodes_with_lost_windows_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str) -> None:
    whole = stored.windows(tmp_path / "whole.hdf5", [3, 4])
    with h5py.File(whole) as file, h5py.File(tmp_path / "part.hdf5", "w") as part:
        mine = np.flatnonzero(file["variation_id"][:, 0, 0] == 1)
        gone = {"first": mine[:8], "middle": mine[9:18], "last": mine[-6:]}[lost]
        kept = np.setdiff1d(np.arange(len(file["time"])), gone)
        for name in file:
            if name != "task_id":
                part[name] = file[name][()][kept]
    converted(tmp_path / "part.hdf5", tmp_path / "out.hdf5", "kind=windows", "split=train", "task=reach_target")
    printed = capsys.readouterr().out
    assert "1 converted" in printed and "windows that are missing" in printed
    with DemonstrationDataset(tmp_path / "out.hdf5") as episodes:
        assert episodes.contents.variation.tolist() == [0]


def test_windows_without_a_variation_or_sentences_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = stored.windows(tmp_path / "windows.hdf5", [3, 4])
    converted(src, tmp_path / "one.hdf5", "kind=windows", "split=train", "variations=1")
    assert "1 converted, 1 skipped (1 variations out of range)" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"2 skipped \(2 no sentences\)"):
        converted(src, tmp_path / "none.hdf5", "kind=windows", "split=train", "task=close_jar")
