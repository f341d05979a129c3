"""Episodes that are far from the others of their file: in length, positions, turns, fingers, cameras or pictures.

The usual range of a number holds all but the outer twentieth of its values on each side. An outlier is farther from it
than the range is wide (or than a least width that each number has): with a bell curve that is 4.9 standard deviations.
So several clusters, as different goals make them, are all usual.
"""

from typing import NamedTuple

import numpy as np

from instructrl.actions import WORKSPACE_HIGH, WORKSPACE_LOW, rotation_angle
from instructrl.data.episodes import Episodes

OUTER = 0.05  # of the values, on each side
FEWEST = 5  # values of which something can be said


class Outlier(NamedTuple):
    """What is unusual about an episode, and how far it is from what is usual or allowed."""

    episode: int
    what: str
    unit: str
    found: float
    low: float
    high: float
    range: str  # what `low` and `high` are the ends of

    @property
    def beyond(self) -> float:
        """How far `found` lies outside."""
        return max(self.low - self.found, self.found - self.high)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"episode {self.episode}: {self.what} {self.found:.4g}{unit}; "
            f"{self.range} {self.low:.4g} to {self.high:.4g}{unit}, {self.beyond:.3g}{unit} beyond"
        )


def usual(values: np.ndarray) -> tuple[float, float]:
    """The range of values [N >= 5] without the outer ones: at least one on each side is left out."""
    left_out = max(1, int(len(values) * OUTER))
    parted = np.partition(values, [left_out, len(values) - 1 - left_out])
    return float(parted[left_out]), float(parted[len(values) - 1 - left_out])


def unusual(what: str, unit: str, values: np.ndarray, episode_of: np.ndarray, *, width: float) -> list[Outlier]:
    """The farthest value of each episode that has one far from the usual range, which is at least `width` wide."""
    values = np.asarray(values, np.float64)
    if len(values) < FEWEST:
        return []
    low, high = usual(values)
    beyond = np.maximum(low - values, values - high)
    return farthest(what, unit, values, episode_of, beyond > max(high - low, width), (low, high), "usual")


def farthest(
    what: str,
    unit: str,
    values: np.ndarray,
    episode_of: np.ndarray,
    wrong: np.ndarray,
    ends: tuple[float, float],
    name: str,
) -> list[Outlier]:
    """One outlier for each episode with wrong values: the farthest of them."""
    found: dict[int, Outlier] = {}
    for place in np.flatnonzero(wrong):
        one = Outlier(int(episode_of[place]), what, unit, float(values[place]), *ends, name)
        if one.episode not in found or one.beyond > found[one.episode].beyond:
            found[one.episode] = one
    return list(found.values())


def outliers(episodes: Episodes, brightness: np.ndarray, contrast: np.ndarray) -> list[Outlier]:
    """All outliers of a file, the farthest of a kind first.

    `brightness` and `contrast` are mean and standard deviation of each frame's picture [N,K], in 0 to 255.
    """
    contents, numbers = episodes.contents, np.arange(len(episodes.contents.seed))
    frame_of, keyframe_of = np.repeat(numbers, contents.frames), np.repeat(numbers, contents.keyframes)
    found = [
        unusual("keyframes", "", contents.keyframes, numbers, width=2),
        unusual("frames", "", contents.frames, numbers, width=5),
    ]
    for place, axis in enumerate("xyz"):
        position, ends = contents.action[:, place].astype(float), (WORKSPACE_LOW[place], WORKSPACE_HIGH[place])
        outside = (position < ends[0]) | (position > ends[1])
        bounds = (float(ends[0]), float(ends[1]))
        found.append(farthest(f"position {axis}", "m", position, keyframe_of, outside, bounds, "workspace"))
        found.append(unusual(f"position {axis}", "m", position, keyframe_of, width=0.02))
    found.append(unusual("turn from the mean rotation", "degrees", turns(contents.action), keyframe_of, width=5))
    for place, name in enumerate(("gripper open", "first finger", "second finger", "time")):
        width, unit = (0.005, "m") if "finger" in name else (1.0, "")
        found.append(unusual(name, unit, contents.state[:, place], frame_of, width=width))
    for view, camera in enumerate(episodes.cameras):
        for place, axis in enumerate("xyz"):
            positions = contents.extrinsics[:, view, place, 3]
            found.append(unusual(f"camera {camera} at {axis}", "m", positions, frame_of, width=0.02))
        focal = contents.intrinsics[:, view, 0, 0]
        found.append(unusual(f"camera {camera}'s focal length", "pixels", focal, frame_of, width=1))
        flat = contrast[:, view] == 0
        found.append(farthest(f"contrast of {camera}", "", contrast[:, view], frame_of, flat, (1.0, 127.5), "pictures"))
        lit = ~flat
        found.append(unusual(f"brightness of {camera}", "", brightness[:, view], frame_of, width=10))
        found.append(unusual(f"contrast of {camera}", "", contrast[lit, view], frame_of[lit], width=10))
    return [one for kind in found for one in sorted(kind, key=lambda one: -one.beyond)]


def turns(actions: np.ndarray) -> np.ndarray:
    """The angle in degrees between each action's rotation and the mean of all."""
    rotations = actions[:, 3:7].astype(np.float64)
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(rotations.T @ rotations)  # the mean of rotations given with either sign
    return np.degrees(rotation_angle(rotations, vectors[:, -1]))
