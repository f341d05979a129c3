"""PerAct's heuristic for keyframes against a slow, literal account of it, on demonstrations of joint speeds alone."""

import numpy as np
import pytest

from instructrl.errors import InputError
from instructrl.sim.keyframes import STANDARD, StopThresholds, find_keyframes, peract_keyframes

COUNT, FRAMES = 2000, 120
KINDS = ("fast", "pauses", "slow")


def described(gripper: list[float], speeds: np.ndarray, thresholds: StopThresholds = STANDARD) -> list[int]:
    """Frame by frame: a countdown after each stop, and neighbours by Python's indices, also the negative ones."""
    total, countdown, kept, previous = len(gripper), 0, [], gripper[0]
    largest = np.abs(speeds).max(axis=1).tolist()
    for frame in range(total):
        still = largest[frame] <= thresholds.speed
        unchanged = (
            frame + 2 < total
            and gripper[frame] == gripper[frame + 1]
            and gripper[frame] == gripper[frame - 1]
            and gripper[frame - 2] == gripper[frame - 1]
        )
        stopped = countdown <= 0 and still and unchanged
        countdown = thresholds.gap if stopped else countdown - 1
        ends = frame == total - 1
        if frame > 0 and (gripper[frame] != previous or ends or stopped):
            kept.append(frame)
        previous = gripper[frame]
    if len(kept) >= 2 and kept[-2] == kept[-1] - 1:
        kept.pop(-2)
    return kept


def demonstrations(kind: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gripper states [N] and joint velocities [N 7]: legs of a motion, rests between them, grasps at random frames."""
    rng = np.random.default_rng(KINDS.index(kind))
    frame = np.arange(FRAMES)
    legs = rng.integers(10, 40, (count, 1))
    phase = (frame + rng.integers(0, 40, (count, 1))) % legs / legs
    peak = rng.uniform(0.3, 1.5, (count, 1)) if kind != "slow" else rng.choice([0.05, 0.09, 0.1, 0.12, 0.8], (count, 1))
    profile = peak * np.sin(np.pi * phase)
    if kind == "pauses":
        profile = profile * (phase > rng.uniform(0.2, 0.6, (count, 1))) + rng.uniform(0, 0.02, (count, FRAMES))
    speeds = profile[..., None] * rng.uniform(-1, 1, (count, 1, 7))
    speeds[rng.uniform(size=(count, FRAMES)) < 0.02] = 0.1  # exactly the threshold
    changes = rng.uniform(size=(count, FRAMES)) < rng.choice([0.01, 0.05, 0.3], (count, 1))
    gripper = (np.cumsum(changes, axis=1) + rng.integers(0, 2, (count, 1))) % 2
    lengths = np.where(rng.uniform(size=count) < 0.1, rng.integers(2, 8, count), rng.integers(8, FRAMES + 1, count))
    return [(gripper[one, :end].astype(float), speeds[one, :end]) for one, end in enumerate(lengths.tolist())]


@pytest.mark.parametrize("kind", KINDS)
def test_every_demonstration_has_peracts_keyframes(kind: str) -> None:
    differing = 0
    for gripper, speeds in demonstrations(kind, COUNT):
        expected = described(gripper.tolist(), speeds)
        assert peract_keyframes(gripper, speeds).tolist() == expected
        differing += find_keyframes(gripper, speeds).tolist() != expected
    assert differing > COUNT // 4, "a rule of its own, not the default one"


@pytest.mark.parametrize("thresholds", [StopThresholds(0.01, 4), StopThresholds(0.3, 0), StopThresholds(0.1, 9)])
def test_thresholds_are_those_that_were_chosen(thresholds: StopThresholds) -> None:
    changed = 0
    for kind in KINDS:
        for gripper, speeds in demonstrations(kind, 100):
            expected = described(gripper.tolist(), speeds, thresholds)
            assert peract_keyframes(gripper, speeds, thresholds).tolist() == expected
            changed += expected != described(gripper.tolist(), speeds)
    assert changed > 30


def test_numbers_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InputError, match="joint_velocities: not finite at frame 0"):
        peract_keyframes(np.ones(5), np.full((5, 7), np.nan))
    with pytest.raises(InputError, match="gripper_open: found values that are not finite"):
        peract_keyframes(np.full(5, np.nan), np.zeros((5, 7)))
    with pytest.raises(InputError, match="found 1 frames, expected at least 2"):
        peract_keyframes(np.ones(1), np.zeros((1, 7)))


@pytest.mark.parametrize(
    ("field", "value"), [("speed", 0.01), ("gap", 12), ("restart", 0.2), ("rest", 0.9)], ids=lambda value: str(value)
)
def test_each_threshold_reaches_the_default_rule(field: str, value: float) -> None:
    thresholds = StopThresholds(**{field: value})
    found = [
        find_keyframes(gripper, speeds, thresholds).tolist() != find_keyframes(gripper, speeds).tolist()
        for kind in KINDS
        for gripper, speeds in demonstrations(kind, 100)
    ]
    assert sum(found) > 3
