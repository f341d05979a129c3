"""Frames on the way to keyframes: recorded beside them, which they do not change, and observed in training."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import train as train_entry
from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.simulators import TabletopConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from instructrl.sim import EpisodeStart, make_checked_env
from instructrl.sim.rendering import opengl_backend
from instructrl.types import Demonstration
from tests.fixtures import tiny
from tests.fixtures.commands import run_main

RENDERERS = ["raycast", *(["opengl"] if opengl_backend() else [])]
FRAMES = ("images", "state", "intrinsics", "extrinsics")


def demonstrated(task: str, renderer: str = "raycast", **settings: object) -> Demonstration:
    sim = TabletopConfig(cameras=["front", "wrist"], image_size=32, renderer=renderer, **settings)
    return make_checked_env(sim, task).demonstrate(EpisodeStart(1, 5))[0]


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("task", ["reach_target", "push_button", "stack_blocks"])
def test_what_is_recorded_at_keyframes_is_the_same_to_the_bit(task: str, renderer: str) -> None:
    plain, more = demonstrated(task, renderer), demonstrated(task, renderer, intermediate_frames=2)
    np.testing.assert_array_equal(more.actions, plain.actions)
    kept = [0, *more.keyframes]
    for name in FRAMES:
        np.testing.assert_array_equal(getattr(more, name)[kept], getattr(plain, name), err_msg=name)
    assert len(more.images) >= 2 * len(plain.images)


def on_the_way(demonstration: Demonstration) -> list[np.ndarray]:
    """The numbers of the frames on the way to each keyframe."""
    return [np.arange(begin + 1, end) for begin, end in pairwise([0, *demonstration.keyframes])]


def test_they_lie_evenly_on_the_way_from_one_keyframe_to_the_next() -> None:
    each, other = demonstrated("push_button", intermediate_frames=1), demonstrated("push_button", intermediate_frames=3)
    for every, third in zip(on_the_way(each), on_the_way(other), strict=True):
        assert len(every) // 3 - len(third) in (0, 1), "the last one may be too close to the keyframe"
        np.testing.assert_array_equal(other.images[third], each.images[every[2::3][: len(third)]])
        assert (each.state[every, 3] == each.state[every[0] - 1, 3]).all(), "the time is that of the keyframe before"
        camera = each.extrinsics[every, 1, :3, 3]
        assert (np.abs(np.diff(camera, axis=0)).max(axis=1) > 0).mean() > 0.8, "the wrist's camera moves"


def test_they_are_collected_beside_other_demonstrations_and_observed_in_training(tmp_path: Path) -> None:
    plain = tiny.config(tmp_path, "task.episodes=3", "task.val_episodes=1")
    config = tiny.config(tmp_path, "task.episodes=3", "task.val_episodes=1", "sim.intermediate_frames=2",
                         "training.intermediate_share=0.5", "training.epochs=1")  # fmt: skip
    files = {name: ensure_demonstrations(one.task, one.sim, one.data) for name, one in (("", plain), ("more", config))}
    assert files[""]["train"] != files["more"]["train"]
    with DemonstrationDataset(files[""]["train"][0]) as one, DemonstrationDataset(files["more"]["train"][0]) as other:
        for episode in range(3):
            np.testing.assert_array_equal(one.episode(episode).images, other.episode(episode).images)
            np.testing.assert_array_equal(one.actions(episode), other.actions(episode))
            assert other.frames_between(episode).min() >= 1 and not one.frames_between(episode).any()
    run = tiny.trained(tmp_path, files["more"], "task.episodes=3", "task.val_episodes=1", "sim.intermediate_frames=2",
                       "training.intermediate_share=0.5", "training.epochs=1", "name=more")  # fmt: skip
    assert (run / "metrics.jsonl").read_text().count('"split": "val"') == 1
    with pytest.raises(InputError, match=r"training\.intermediate_share: found 0\.5, but .*train\.hdf5 has no frames"):
        tiny.trained(tmp_path, files[""], "task.episodes=3", "task.val_episodes=1", "training.intermediate_share=0.5",
                     "name=none")  # fmt: skip


def test_demonstrations_without_them_are_not_collected_for_a_training_that_observes_them(
    tmp_path: Path,
) -> None:
    words = tiny.overrides(tmp_path, "task.episodes=2", "task.val_episodes=1", "training.intermediate_share=0.5")
    ended = run_main(train_entry.main, *words)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: training.intermediate_share: found 0.5, but ")
    assert "train.hdf5 lacks demonstrations" in ended.stderr and "add sim.intermediate_frames=5, " in ended.stderr
    assert not list(tmp_path.rglob("*.hdf5")) and not list((tmp_path / "outputs").rglob("*.yaml"))
