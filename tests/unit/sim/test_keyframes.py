"""Keyframe discovery: the usual heuristic on ordinary demonstrations, and its known failure cases."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.errors import InputError
from instructrl.sim.keyframes import STEP_SECONDS, find_keyframes, keyframe_actions, velocities

FAST, STANDING = 0.8, 0.001
OPEN, CLOSED = 1.0, 0.0


def found(speeds: list[float], gripper: list[float] | None = None) -> list[int]:
    """The keyframes of an arm whose second joint has these speeds; the others move less."""
    joints = np.outer(speeds, [0.5, -1.0, 0.2, 0.0, 0.9, -0.3, 0.1])
    return find_keyframes(np.array(gripper or [OPEN] * len(speeds)), joints).tolist()


def field(speeds: list[float], gripper: list[float]) -> list[int]:
    """The usual heuristic as described in the literature, including its failure cases."""
    last, kept, stops = len(speeds) - 1, [], []
    for i, speed in enumerate(speeds):
        same = i < last - 1 and gripper[i] == gripper[i + 1] == gripper[i - 1] == gripper[i - 2]
        stopped = same and abs(speed) < 0.1 and not any(i - 4 <= stop < i for stop in stops)
        stops += [i] * stopped
        if i > 0 and (gripper[i] != gripper[i - 1] or i == last or stopped):
            kept.append(i)
    if len(kept) > 1 and kept[-1] - kept[-2] == 1:
        del kept[-2]
    return kept


def moves(*lengths: int) -> list[float]:
    """Speeds of fast moves with these numbers of frames, with one frame at rest before the first and after each."""
    return [STANDING] + [speed for length in lengths for speed in [0.3, *[FAST] * length, 0.3, STANDING]]


# Golden cases: an ordinary demonstration, and one for each trap.


def test_an_ordinary_demonstration_of_three_moves_and_a_grasp() -> None:
    speeds = moves(6, 6, 6)
    gripper = [OPEN] * 17 + [CLOSED] * (len(speeds) - 17)
    assert found(speeds, gripper) == field(speeds, gripper) == [9, 17, 27]


def test_what_comes_last_says_nothing_about_what_comes_first() -> None:
    """Negative indices read the end, where the gripper is closed, so a stop at frame 1 was missed."""
    speeds = [0.4, STANDING, *[FAST] * 8, STANDING, FAST, FAST]
    closed_at_the_end = [OPEN] * 12 + [CLOSED]
    assert field(speeds, closed_at_the_end) == [10, 12]
    assert found(speeds, closed_at_the_end) == [1, 10, 12]
    assert found(speeds, [OPEN] * 13) == [1, 10, 12]


def test_missing_joint_velocities_are_refused_by_name() -> None:
    gripper = np.ones(5)
    with pytest.raises(InputError, match="joint_velocities: found none"):
        find_keyframes(gripper, None)
    gap = np.zeros((5, 7))
    gap[3, 2] = np.nan
    with pytest.raises(InputError, match="joint_velocities: not finite at frame 3"):
        find_keyframes(gripper, gap)
    for shape in ((4, 7), (5,), (5, 0)):
        with pytest.raises(InputError, match=r"joint_velocities: found shape .* expected \(5, joints\)"):
            find_keyframes(gripper, np.zeros(shape))


@pytest.mark.parametrize("frames", [0, 1])
def test_a_demonstration_without_a_second_frame_is_refused(frames: int) -> None:
    with pytest.raises(InputError, match=f"found {frames} frames, expected at least 2"):
        find_keyframes(np.ones(frames), np.zeros((frames, 7)))


def test_a_slow_slide_gives_no_keyframes_on_its_way() -> None:
    """The threshold is absolute: below it the usual heuristic finds a stop every few frames."""
    speeds = [*moves(6), *[0.07] * 30, FAST, FAST, STANDING]
    assert len(field(speeds, [OPEN] * len(speeds))) > 6
    assert found(speeds) == [9, len(speeds) - 1]
    assert found([0.08] * 40) == [39]


def test_a_slow_slide_has_a_keyframe_where_it_comes_to_rest() -> None:
    speeds = [*moves(6), *[0.07] * 20, 0.03, STANDING, STANDING, *[FAST] * 5, 0.3]
    assert found(speeds) == [9, 31, len(speeds) - 1]


@pytest.mark.parametrize("sign", [1, -1])
def test_an_arm_that_slows_down_stops_once(sign: int) -> None:
    speeds = [STANDING, FAST, FAST, 0.09, 0.05, 0.02, 0.01, 0.004, *[STANDING] * 12, FAST, FAST, 0.3]
    assert found([sign * speed for speed in speeds]) == [3, len(speeds) - 1]
    assert len(field(speeds, [OPEN] * len(speeds))) > 3


def test_standing_at_the_start_is_no_keyframe() -> None:
    speeds = [*[STANDING] * 12, *[FAST] * 6, STANDING, FAST, FAST]
    assert 5 in field(speeds, [OPEN] * len(speeds))
    assert found(speeds) == [18, 20]


def test_standing_while_the_gripper_closes_gives_one_keyframe() -> None:
    speeds = [STANDING, *[FAST] * 6, *[STANDING] * 10, *[FAST] * 4]
    gripper = [OPEN] * 8 + [CLOSED] * 13
    assert field(speeds, gripper) == [8, 10, 15, 20]
    assert found(speeds, gripper) == [8, 20]


def test_one_joint_in_motion_is_no_stop() -> None:
    joints = np.zeros((12, 7))
    joints[1:11, 6] = 0.2
    joints[1:4, 0] = 1.0
    assert find_keyframes(np.ones(12), joints).tolist() == [11]


def test_stops_lie_five_frames_apart_or_more() -> None:
    speeds = [STANDING, FAST, STANDING, FAST, STANDING, FAST, STANDING, FAST, FAST, STANDING, FAST, FAST]
    assert found(speeds) == [2, 9, 11]


def test_a_stop_next_to_a_change_of_the_gripper_is_only_that_change() -> None:
    speeds = [STANDING, *[FAST] * 5, STANDING, STANDING, *[FAST] * 5]
    gripper = [OPEN] * 7 + [CLOSED] * 6
    assert found(speeds, gripper) == [7, 12]


def test_the_last_frame_but_one_is_no_stop_and_a_neighbour_of_the_last_is_dropped() -> None:
    assert found([STANDING, FAST, FAST, FAST, STANDING, STANDING]) == [5]
    assert found([STANDING, *[FAST] * 4], [OPEN, OPEN, OPEN, CLOSED, CLOSED]) == [4]
    assert found([STANDING, *[FAST] * 4], [OPEN, OPEN, OPEN, CLOSED, OPEN]) == [3, 4], "no action may be lost"


def test_two_frames_are_one_move() -> None:
    assert found([STANDING, FAST]) == [1]
    assert found([STANDING, FAST], [OPEN, CLOSED]) == [1]


# On ordinary demonstrations nothing differs from the field's rule.


@st.composite
def ordinary(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Fast moves; at the end of some the gripper changes while the arm is at rest for one frame."""
    speeds, gripper = [0.3, FAST, FAST], [OPEN] * 3
    for length in draw(st.lists(st.integers(5, 12), min_size=1, max_size=6)):
        speeds += [draw(st.floats(0.15, 2.0)) for _ in range(length)]
        gripper += [gripper[-1]] * length
        speeds += [draw(st.floats(0.0, 0.09))]
        gripper += [gripper[-1]]
        if draw(st.booleans()):
            speeds += [draw(st.floats(0.0, 0.09))]
            gripper += [1.0 - gripper[-1]]
    end = draw(st.integers(3, 5))
    return speeds + [FAST] * end, gripper + [gripper[-1]] * end


@settings(max_examples=200)
@given(ordinary())
def test_ordinary_demonstrations_have_the_keyframes_of_the_field(made: tuple[list[float], list[float]]) -> None:
    speeds, gripper = made
    assert found(speeds, gripper) == field(speeds, gripper)


# Whatever the demonstration.

any_demonstration = st.lists(
    st.tuples(st.one_of(st.floats(0, 2), st.floats(0, 0.12), st.just(0.0)), st.sampled_from([OPEN, CLOSED])),
    min_size=2,
    max_size=60,
).map(lambda frames: ([speed for speed, _ in frames], [state for _, state in frames]))


@settings(max_examples=300)
@given(any_demonstration)
def test_keyframes_increase_end_with_the_last_frame_and_lose_no_change_of_the_gripper(made) -> None:
    speeds, gripper = made
    keyframes = found(speeds, gripper)
    last = len(speeds) - 1
    assert keyframes == sorted(set(keyframes)) and keyframes[0] >= 1 and keyframes[-1] == last
    changes = {frame for frame in range(1, len(speeds)) if gripper[frame] != gripper[frame - 1]}
    assert changes - set(keyframes) <= {last - 1}
    reached = [gripper[0], *(gripper[frame] for frame in keyframes)]
    run = [state for state, before in zip(gripper[1:], gripper, strict=False) if state != before]
    assert [state for state, before in zip(reached[1:], reached, strict=False) if state != before] == run
    stops = [frame for frame in keyframes if frame not in changes and frame != last]
    assert all(speeds[frame] < 0.1 for frame in stops)
    assert all(later - stop > 4 for stop, later in pairwise(stops))


@settings(max_examples=300)
@given(any_demonstration, st.integers(1, 30))
def test_standing_longer_before_it_begins_only_shifts_the_keyframes(made, frames: int) -> None:
    speeds, gripper = made
    padded = found([0.0] * frames + speeds, [gripper[0]] * frames + gripper)
    assert padded == [frame + frames for frame in found(speeds, gripper)]


@settings(max_examples=300)
@given(any_demonstration, st.data())
def test_what_follows_does_not_change_what_was_found(made, data: st.DataObject) -> None:
    speeds, gripper = made
    cut = data.draw(st.integers(2, len(speeds)))
    early = [frame for frame in found(speeds, gripper) if frame < cut - 2]
    assert [frame for frame in found(speeds[:cut], gripper[:cut]) if frame < cut - 2] == early


@settings(max_examples=100)
@given(any_demonstration)
def test_the_sign_and_the_joint_of_a_motion_do_not_matter(made) -> None:
    speeds, gripper = made
    once = np.array(speeds)
    for joints in (np.outer(once, [-1.0, 0.3]), np.stack([0 * once, once], axis=1)):
        assert find_keyframes(np.array(gripper), joints).tolist() == found(speeds, gripper)


# The actions.


def test_actions_are_the_poses_at_the_keyframes() -> None:
    poses = np.array([[0.1, 0.2, 0.9, 0, 0, 0, 1], [0.3, 0.0, 1.1, 0, -0.6, 0, -0.8], [0.2, 0, 1, 1, 0, 0, 0]])
    actions = keyframe_actions(poses, np.array([1.0, 0.0, 1.0]), np.array([1, 2]))
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, [[0.3, 0, 1.1, 0, 0.6, 0, 0.8, 0], [0.2, 0, 1, 1, 0, 0, 0, 1]], atol=1e-7)
    poses[2, 0] = np.inf
    with pytest.raises(InputError, match="not finite"):
        keyframe_actions(poses, np.ones(3), np.array([1, 2]))


def test_velocities_of_positions_find_the_same_keyframes() -> None:
    speeds = np.array([*moves(6), *[0.07] * 20, 0.03, 0, 0, *[FAST] * 5, 0.3])
    speeds[0] = 0.0
    positions = np.cumsum(np.outer(speeds, [1.0, -0.4]), axis=0) * STEP_SECONDS
    np.testing.assert_allclose(velocities(positions)[:, 0], speeds, atol=1e-12)
    assert find_keyframes(np.ones(len(speeds)), velocities(positions)).tolist() == found(speeds.tolist())
