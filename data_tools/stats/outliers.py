"""Outlier episodes of a file: unusual length, positions, rotations, gripper state, cameras or images.

The usual range of a quantity lies between its 5th and 95th percentile. An outlier is farther from it than the range is
wide (or than a minimum width per quantity): for a normal distribution that is 4.9 standard deviations. So several
clusters, such as those of different goals, are all usual.
"""

from typing import NamedTuple

import numpy as np

from instructrl.actions import rotation_angle
from instructrl.data.demonstrations.dataset import DemonstrationDataset

OUTER_SHARE = 0.05  # share of the values excluded on each side
STATE_WIDTHS = {"m": 0.005, "rad": 0.05}  # minimum width of the usual range of a state's number, by unit
MIN_VALUES = 5  # values needed to estimate a range


class Outlier(NamedTuple):
    """An unusual value of an episode, and the usual or allowed range."""

    episode: int
    what: str
    unit: str
    found: float
    low: float
    high: float
    range: str  # the kind of range that `low` and `high` bound

    @property
    def beyond(self) -> float:
        """Distance of `found` from the range."""
        return max(self.low - self.found, self.found - self.high)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"episode {self.episode}: {self.what} {self.found:.4g}{unit}; "
            f"{self.range} {self.low:.4g} to {self.high:.4g}{unit}, {self.beyond:.3g}{unit} beyond"
        )


def usual_range(values: np.ndarray) -> tuple[float, float]:
    """Range of values [N >= 5] without the outer ones: at least one on each side is excluded."""
    left_out = max(1, int(len(values) * OUTER_SHARE))
    partitioned = np.partition(values, [left_out, len(values) - 1 - left_out])
    return float(partitioned[left_out]), float(partitioned[len(values) - 1 - left_out])


def find_outliers(what: str, unit: str, values: np.ndarray, episode_of: np.ndarray, *, width: float) -> list[Outlier]:
    """Outliers of a quantity, at most one per episode; the usual range is widened to at least `width`."""
    values = np.asarray(values, np.float64)
    if len(values) < MIN_VALUES:
        return []
    low, high = usual_range(values)
    beyond = np.maximum(low - values, values - high)
    return farthest_per_episode(what, unit, values, episode_of, beyond > max(high - low, width), (low, high), "usual")


def farthest_per_episode(
    what: str,
    unit: str,
    values: np.ndarray,
    episode_of: np.ndarray,
    wrong: np.ndarray,
    ends: tuple[float, float],
    name: str,
) -> list[Outlier]:
    """One outlier per episode with wrong values: the farthest of them."""
    found: dict[int, Outlier] = {}
    for index in np.flatnonzero(wrong):
        one = Outlier(int(episode_of[index]), what, unit, float(values[index]), *ends, name)
        if one.episode not in found or one.beyond > found[one.episode].beyond:
            found[one.episode] = one
    return list(found.values())


def outliers(episodes: DemonstrationDataset, brightness: np.ndarray, contrast: np.ndarray) -> list[Outlier]:
    """Find all outliers of a file, the farthest of a kind first.

    `brightness` and `contrast` are mean and standard deviation of each image [N,K], in 0 to 255.
    """
    contents, numbers = episodes.contents, np.arange(len(episodes.contents.seed))
    frame_of, keyframe_of = np.repeat(numbers, contents.frames), np.repeat(numbers, contents.keyframes)
    found = [
        find_outliers("keyframes", "", contents.keyframes, numbers, width=2),
        find_outliers("frames", "", contents.frames, numbers, width=5),
    ]
    for index, axis in enumerate("xyz"):
        position = contents.action[:, index].astype(float)
        bounds = (episodes.workspace.low[index], episodes.workspace.high[index])
        outside = (position < bounds[0]) | (position > bounds[1])
        found.append(farthest_per_episode(f"position {axis}", "m", position, keyframe_of, outside, bounds, "workspace"))
        found.append(find_outliers(f"position {axis}", "m", position, keyframe_of, width=0.02))
    found.append(
        find_outliers("turn from the mean rotation", "degrees", angles_from_mean(contents.action), keyframe_of, width=5)
    )
    for index, name in enumerate(episodes.state):
        quantity, _, unit = name.removesuffix(")").partition(" (")
        width = STATE_WIDTHS.get(unit, 1.0)
        found.append(find_outliers(quantity, unit, contents.state[:, index], frame_of, width=width))
    for view, camera in enumerate(episodes.cameras):
        for index, axis in enumerate("xyz"):
            positions = contents.extrinsics[:, view, index, 3]
            found.append(find_outliers(f"camera {camera} at {axis}", "m", positions, frame_of, width=0.02))
        focal = contents.intrinsics[:, view, 0, 0]
        found.append(find_outliers(f"camera {camera}'s focal length", "pixels", focal, frame_of, width=1))
        flat = contrast[:, view] == 0
        found.append(
            farthest_per_episode(f"contrast of {camera}", "", contrast[:, view], frame_of, flat, (1.0, 127.5), "images")
        )
        lit = ~flat
        found.append(find_outliers(f"brightness of {camera}", "", brightness[:, view], frame_of, width=10))
        found.append(find_outliers(f"contrast of {camera}", "", contrast[lit, view], frame_of[lit], width=10))
    return [one for group in found for one in sorted(group, key=lambda one: -one.beyond)]


def angles_from_mean(actions: np.ndarray) -> np.ndarray:
    """Angle in degrees between each action's rotation and the mean rotation."""
    rotations = actions[:, 3:7].astype(np.float64)
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(rotations.T @ rotations)  # the mean of rotations given with either sign
    return np.degrees(rotation_angle(rotations, vectors[:, -1]))
