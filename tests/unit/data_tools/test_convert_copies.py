"""Copies of episodes are found by what they hold, within a split and between two, and used once."""

import pickletools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.__main__ import convert, parse
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from tests.fixtures import stored

EPISODES, VARIATIONS = 12, 3


def converted(src: Path, out: Path, *more: str) -> None:
    convert(parse(["kind=rlbench", f"src={src}", f"out={out}", "cameras=[front,left_shoulder]", *more]))


def files(out: Path, task: str = "close_jar") -> dict[str, Path]:
    folder = out / "rlbench" / f"{task}-16px-front+left_shoulder"
    return {split: folder / f"{split}.hdf5" for split in ("train", "val")}


def positions(path: Path) -> list[list[float]]:
    """The first actions' positions of the episodes in a file, by which they are identified."""
    with DemonstrationDataset(path) as episodes:
        episodes.verify()
        return [episodes.demonstration(number).actions[0, :3].tolist() for number in range(len(episodes))]


def arrange_by_variation(task: Path, copy: Callable[[Path, Path], object]) -> None:
    """Add variation<N>/ beside all_variations/, as a published script does."""
    for number in range(EPISODES):
        variation = task / f"variation{number % VARIATIONS}"
        variation.joinpath("episodes").mkdir(parents=True, exist_ok=True)
        stored.dump(variation / "variation_descriptions.pkl", [f"do it {number % VARIATIONS}"])
        copy(
            task / "all_variations" / "episodes" / f"episode{number}",
            variation / "episodes" / f"episode{number // VARIATIONS}",
        )


def copy_link(old: Path, new: Path) -> None:
    new.symlink_to(old, target_is_directory=True)


def copy_anew(old: Path, new: Path) -> None:
    """The same content in other files: a framed pickle, and images that are compressed otherwise."""
    shutil.copytree(old, new)
    pickled = new / "low_dim_obs.pkl"
    pickled.write_bytes(pickletools.optimize(pickled.read_bytes()))
    for path in new.glob("*_rgb/*.png"):
        with Image.open(path) as image:
            image.load()
        image.save(path, compress_level=1)


@pytest.mark.parametrize("copy", [shutil.copytree, copy_link, copy_anew])
def test_episodes_arranged_by_variation_too_are_used_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], copy: Callable[[Path, Path], object]
) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=EPISODES)
    converted(src, tmp_path / "plain")
    capsys.readouterr()
    arrange_by_variation(src, copy)
    converted(src, tmp_path / "data")
    printed = capsys.readouterr().out
    assert "24 episodes found, 12 converted, 12 skipped (12 copies of others)" in printed
    assert len([line for line in printed.splitlines() if "copies of others: the same content as" in line]) == 12
    train, val = (positions(path) for path in files(tmp_path / "data").values())
    everything = sorted(one for path in files(tmp_path / "plain").values() for one in positions(path))
    assert sorted(train + val) == everything and len(everything) == 12
    if copy is not copy_anew:
        assert (
            "skipped variation2/episodes/episode3: copies of others: the same content as "
            "all_variations/episodes/episode11\n" in printed
        )
        for split, path in files(tmp_path / "data").items():
            assert path.read_bytes() == files(tmp_path / "plain")[split].read_bytes(), "as without the copies"


def test_a_copy_stands_in_for_an_episode_that_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=EPISODES)
    arrange_by_variation(src, shutil.copytree)
    damaged = src / "all_variations" / "episodes" / "episode4" / "front_rgb" / "6.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    converted(src, tmp_path / "data")
    expected = "12 converted, 12 skipped (11 copies of others, 1 images that cannot be used)"
    assert expected in capsys.readouterr().out


def test_episodes_that_share_only_images_or_only_motions_are_both_used(tmp_path: Path) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=3)
    episodes = src / "all_variations" / "episodes"
    for name in ("front_rgb", "left_shoulder_rgb"):
        shutil.rmtree(episodes / "episode1" / name)
        shutil.copytree(episodes / "episode0" / name, episodes / "episode1" / name)
    shutil.copy(episodes / "episode0" / "low_dim_obs.pkl", episodes / "episode2")
    converted(src, tmp_path / "out.hdf5", "split=train")
    assert len(positions(tmp_path / "out.hdf5")) == 3


@pytest.mark.parametrize("frames", [[], ["intermediate_frames=2"]])
def test_frames_between_keyframes_of_one_split_hide_no_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], frames: list[str]
) -> None:
    one = stored.peract(tmp_path / "one" / "close_jar", episodes=3)
    two = stored.peract(tmp_path / "two" / "close_jar", episodes=6)
    converted(one, tmp_path / "data", "split=val", *([] if frames else ["intermediate_frames=3"]))
    converted(two, tmp_path / "data", "split=train", *frames)
    assert "6 episodes found, 3 converted, 3 skipped (3 copies of others)" in capsys.readouterr().out


@pytest.mark.parametrize("first", ["train", "val"])
def test_the_second_split_leaves_out_what_the_first_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    one = stored.peract(tmp_path / "one" / "close_jar", episodes=3)
    two = stored.peract(tmp_path / "two" / "close_jar", episodes=6)
    second = "val" if first == "train" else "train"
    converted(one, tmp_path / "data", f"split={first}")
    converted(two, tmp_path / "data", f"split={second}")
    printed = capsys.readouterr().out
    assert "6 episodes found, 3 converted, 3 skipped (3 copies of others)" in printed
    assert f"the same content as episode 2 of {files(tmp_path / 'data')[first]}" in printed
    shared = [one for one in positions(files(tmp_path / "data")["train"])
              if one in positions(files(tmp_path / "data")["val"])]  # fmt: skip
    assert not shared


def test_splits_of_different_rules_are_not_mixed(tmp_path: Path) -> None:
    converted(stored.peract(tmp_path / "one" / "close_jar", episodes=3), tmp_path / "data", "split=train")
    other = stored.peract(tmp_path / "two" / "close_jar", episodes=3)
    with pytest.raises(InputError, match=r"keyframes: found every, but .*train.hdf5 has default, .*use the same rule"):
        converted(other, tmp_path / "data", "split=val", "keyframes=every")
    assert not files(tmp_path / "data")["val"].exists()


def test_episodes_of_the_folders_held_out_beside_the_source_are_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = stored.peract(tmp_path / "peract" / "train" / "close_jar", episodes=8)
    for split, numbers in (("val", (1, 5)), ("test", (6,))):
        for place, number in enumerate(numbers):
            shutil.copytree(
                src / "all_variations" / "episodes" / f"episode{number}",
                tmp_path / "peract" / split / "close_jar" / "all_variations" / "episodes" / f"episode{place}",
            )
    converted(src, tmp_path / "data")
    printed = capsys.readouterr().out
    assert "8 episodes found, 5 converted, 3 skipped (3 copies of others)" in printed
    assert "compared with 3 of 3 episodes of the splits beside the source" in printed
    used = [one for path in files(tmp_path / "data").values() for one in positions(path)]
    held_out = [stored.motion(number)["poses"][6, :3].astype(np.float32).tolist() for number in (1, 5, 6)]
    assert len(used) == 5 and not any(one in used for one in held_out)
    converted(tmp_path / "peract" / "val" / "close_jar", tmp_path / "held_out", "split=val")
    assert "2 converted, 0 skipped" in capsys.readouterr().out
