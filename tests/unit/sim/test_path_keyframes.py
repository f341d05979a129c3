"""Keyframes of trajectories without joint velocities: the corners of the path, and where the gripper changes."""

from itertools import pairwise

import numpy as np
import pytest

from instructrl.errors import InputError
from instructrl.sim.keyframes import kept_frames, path_keyframes


def walk(*corners: tuple[float, float, float], steps: int = 10) -> np.ndarray:
    """Straight motions between corners, with so many steps each."""
    legs = [np.linspace(a, b, steps, endpoint=False) for a, b in pairwise(corners)]
    return np.concatenate([*legs, [corners[-1]]])


def test_corners_and_the_last_frame_are_keyframes() -> None:
    path = walk((0, 0, 0), (0.2, 0, 0), (0.2, 0.2, 0), (0.2, 0.2, 0.3))
    assert path_keyframes(path, np.ones(31), tolerance=0.01).tolist() == [10, 20, 30]


def test_so_are_the_frames_at_which_the_gripper_changes() -> None:
    path, opened = walk((0, 0, 0), (1, 0, 0), steps=30), np.ones(31)
    opened[7:19] = 0.0
    assert path_keyframes(path, opened, tolerance=0.01).tolist() == [7, 19, 30]
    still = np.zeros((31, 3))
    assert path_keyframes(still, opened, tolerance=0.01).tolist() == [7, 19, 30]


@pytest.mark.parametrize("seed", range(20))
def test_straight_motions_between_keyframes_stay_near_the_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    path, opened = rng.normal(0, 0.02, (80, 3)).cumsum(axis=0), rng.random(80) > 0.1
    counts = []
    for tolerance in (0.1, 0.03, 0.003, 0.0):
        frames = path_keyframes(path, opened, tolerance=tolerance)
        counts.append(len(frames))
        assert (np.diff([0, *frames]) > 0).all() and frames[-1] == 79
        for first, last in zip([0, *frames[:-1]], frames, strict=True):
            shares = np.linspace(0, 1, 2001)[:, None]
            line = path[first] + shares * (path[last] - path[first])
            away = np.linalg.norm(path[first : last + 1, None] - line, axis=2).min(axis=1)
            assert away.max() <= tolerance + 1e-3
    assert counts == sorted(counts) and counts[-1] == 79


@pytest.mark.parametrize(
    ("positions", "opened"),
    [
        (np.zeros((1, 3)), np.ones(1)),
        (np.zeros((4, 3)), np.ones(5)),
        (np.zeros((4, 2)), np.ones(4)),
        (np.full((4, 3), np.nan), np.ones(4)),
    ],
)
def test_other_arrays_are_refused_in_one_line(positions: np.ndarray, opened: np.ndarray) -> None:
    with pytest.raises(InputError, match="leave it out") as raised:
        path_keyframes(positions, opened, tolerance=0.01)
    assert "\n" not in str(raised.value)


def test_frames_that_are_kept_between_keyframes_are_evenly_after_the_one_before() -> None:
    frames, places, passed = kept_frames(np.array([10, 11, 30]), every=4)
    assert frames.tolist() == [0, 4, 8, 10, 11, 15, 19, 23, 27, 30] and frames[places].tolist() == [10, 11, 30]
    assert passed.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 3]
    frames, *_ = kept_frames(np.array([5, 13]), every=4)
    assert frames.tolist() == [0, 5, 9, 13], "the frame right before a keyframe looks like it"
    frames, places, _ = kept_frames(np.array([10, 11, 30]), every=None)
    assert frames.tolist() == [0, 10, 11, 30] and places.tolist() == [1, 2, 3]
