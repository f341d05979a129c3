"""RLBench adapter against a stand-in with the real signatures: observations, actions and failures."""

import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from instructrl.errors import InputError, RunError
from instructrl.evaluation.worker_env import EvalEnv, make_eval_env
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome, make_env
from instructrl.sim.rlbench import views
from instructrl.sim.rlbench.library import world_frame
from instructrl.sim.rlbench.outcomes import action_failure, is_expert_failure
from instructrl.sim.vector import heartbeat
from instructrl.sim.vector.pool import WorkerFailure, Workers
from instructrl.types import Demonstration, Observation
from tests.fakes.rlbench_stand_in import CAMERAS, COLORS, DOWN, Seer, StandIn, installed, place_of, settings

HERE = np.array([0.2, 0.1, 1.0, *DOWN, 1.0])  # an action that leads nowhere in particular


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    with installed(tmp_path) as made:
        yield made


def open_workers(task: str = "reach_target", *, count: int = 1, **changes: Any) -> Workers:
    sim = settings(**changes)
    return Workers(partial(make_env, sim, task), count, timeout=sim.timeout)


def ask(workers: Workers, method: str, *given: Any) -> Any:
    return workers.call({0: (method, given)})[0]


def play(workers: Workers, start: EpisodeStart, policy: Seer) -> tuple[Outcome, int]:
    """Run one episode; returns its outcome and number of keyframes."""
    seen = ask(workers, "reset", start)
    policy.start_episode(0, seen.instruction)
    for step in range(1, 30):
        answer = ask(workers, "step", policy.act({0: seen})[0])
        if isinstance(answer, WorkerFailure):
            return Outcome.SIMULATOR_ERROR, step
        if answer.outcome is not None:
            return answer.outcome, step
        seen = answer.observation
    raise AssertionError("the episode never ends")


# What it shows.


def test_observations_are_as_the_suite_has_them(stand_in: StandIn) -> None:
    cameras = ["wrist", "overhead", "front"]
    with open_workers(cameras=cameras, image_size=48) as workers:
        seen = ask(workers, "reset", EpisodeStart(2, 7))
        later = ask(workers, "step", np.array([0.3, 0.0, 1.2, *DOWN, 0.0])).observation
    assert seen.images.shape == (3, 48, 48, 3) and seen.images.dtype == np.uint8
    assert (seen.intrinsics.shape, seen.intrinsics.dtype) == ((3, 3, 3), np.float32)
    assert (seen.extrinsics.shape, seen.extrinsics.dtype) == ((3, 4, 4), np.float32)
    focal = [24 / np.tan(np.radians(degrees) / 2) for degrees in (60, 40, 40)]
    np.testing.assert_allclose(seen.intrinsics[:, 0, 0], focal, rtol=1e-6)
    np.testing.assert_allclose(seen.intrinsics[:, 1, 1], focal, rtol=1e-6)
    assert (seen.intrinsics[:, :2, 2] == 24).all()
    np.testing.assert_allclose(seen.extrinsics[2, :3, 3], [1.35, 0, 1.58], atol=1e-6)
    assert (seen.extrinsics[0] != later.extrinsics[0]).any(), "the wrist camera moves"
    assert (seen.extrinsics[1:] == later.extrinsics[1:]).all()
    np.testing.assert_allclose(seen.state, [1, 0.04, 0.04, -1], atol=1e-6)
    np.testing.assert_allclose(later.state, [0, 0, 0, -1 + 2 / 25], atol=1e-6)
    assert seen.state.dtype == np.float32
    assert seen.instruction in [f"{verb} point 2" for verb in ("touch", "visit", "go to")]
    assert seen.instruction == later.instruction


def test_a_known_point_projects_where_it_is_seen(stand_in: StandIn) -> None:
    """For each camera, the position of the red point, computed from all, projects onto the red disc."""
    cameras = [*CAMERAS, "overhead"]
    with open_workers(cameras=cameras, image_size=128) as workers:
        for seed in range(4):
            seen = ask(workers, "reset", EpisodeStart(0, seed))
            place = place_of(COLORS[0], seen)
            assert ask(workers, "step", np.array([*place, *DOWN, 1.0])).outcome is Outcome.SUCCESS
            for image, intrinsics, extrinsics in zip(seen.images, seen.intrinsics, seen.extrinsics, strict=True):
                rows, columns = np.nonzero((image == COLORS[0]).all(axis=-1))
                pixel = intrinsics @ (np.linalg.inv(extrinsics) @ [*place, 1.0])[:3]
                assert pixel[2] > 0, "in front of the camera"
                middle = [columns.mean() + 0.5, rows.mean() + 0.5]
                np.testing.assert_allclose(pixel[:2] / pixel[2], middle, atol=1.0)


def test_matrices_of_the_front_camera() -> None:
    """CoppeliaSim's camera has x to the left and y up: here, right is world y and down is mostly world -z."""
    tilt = np.radians(25)
    theirs = np.array([[0, -np.sin(tilt), -np.cos(tilt), 1.35], [-1, 0, 0, 0], [0, np.cos(tilt), -np.sin(tilt), 1.58]])
    pose = views.extrinsics(theirs)
    np.testing.assert_allclose(pose[:3, 0], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(pose[:3, 1], [np.sin(tilt), 0, -np.cos(tilt)], atol=1e-6)
    np.testing.assert_allclose(pose[:3, 2], theirs[:, 2], atol=1e-6)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1) and pose[3].tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(views.extrinsics(np.vstack([theirs, [0, 0, 0, 1]])), pose)
    focal = 64 / np.tan(np.radians(20))
    ours = views.intrinsics([[-focal, 0, 64], [0, -focal, 64], [0, 0, 1]])
    np.testing.assert_allclose(ours, [[focal, 0, 64], [0, focal, 64], [0, 0, 1]], rtol=1e-6)
    with pytest.raises(InputError, match="expected negative ones"):
        views.intrinsics(ours)
    for wrong in (np.eye(4), np.full((3, 3), np.nan)):
        with pytest.raises(InputError, match="intrinsics: found"):
            views.intrinsics(wrong)
    with pytest.raises(InputError, match="extrinsics: found"):
        views.extrinsics(np.eye(3))


def test_what_was_switched_off_is_refused_by_name() -> None:
    seen = SimpleNamespace(front_rgb=None, misc={}, wrist_rgb=np.zeros((4, 4, 3)), gripper_open=1.0)
    with pytest.raises(InputError, match="front_rgb is missing"):
        views.images(seen, ["front"])
    with pytest.raises(InputError, match=r"images: found float64\(4, 4, 3\)"):
        views.images(seen, ["wrist"])
    with pytest.raises(InputError, match="misc has no wrist_camera_intrinsics"):
        views.matrices(seen, ["wrist"])
    with pytest.raises(InputError, match="gripper_joint_positions is missing"):
        views.state(seen, 0.0)


def test_depths_are_metres_along_the_optical_axis(stand_in: StandIn) -> None:
    with open_workers() as workers:
        seen = ask(workers, "reset", EpisodeStart(1, 3))
        depths = ask(workers, "depths")
        place = place_of(COLORS[0], seen)
        assert depths.shape == (3, 64, 64) and depths.dtype == np.float32
        for image, depth, extrinsics in zip(seen.images, depths, seen.extrinsics, strict=True):
            ahead = (np.linalg.inv(extrinsics) @ [*place, 1.0])[2]
            np.testing.assert_allclose(depth[(image == COLORS[0]).all(axis=-1)], ahead, atol=0.02)
            assert depth.max() == pytest.approx(4.5)
        assert ask(workers, "step", HERE).observation.images.any(), "colours are on again"


# An episode follows from its start.


def equal(one: Observation, other: Observation) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_episode_follows_from_its_start_whatever_was_before(stand_in: StandIn) -> None:
    with open_workers() as workers:
        first = ask(workers, "reset", EpisodeStart(1, 5))
        others = [
            ask(workers, "reset", start) for start in (EpisodeStart(1, 6), EpisodeStart(2, 5), EpisodeStart(1, 10**15))
        ]
        ask(workers, "step", HERE)
        ask(workers, "demonstrate", EpisodeStart(0, 1))
        ask(workers, "instructions", 3)
        retry = ask(workers, "reset", EpisodeStart(1, 5))
    assert equal(first, retry)
    assert not any(np.array_equal(first.images, other.images) for other in others)
    with open_workers() as workers:
        assert equal(ask(workers, "reset", EpisodeStart(1, 5)), first)


def test_the_seed_chooses_among_all_sentences(stand_in: StandIn) -> None:
    with open_workers() as workers:
        instructions = {ask(workers, "reset", EpisodeStart(2, seed)).instruction for seed in range(30)}
        stand_in.faults()
        assert set(ask(workers, "instructions", 2)) == instructions and len(instructions) == 3
        assert stand_in.calls("reset 2") == 0, "known from the resets before"
        assert ask(workers, "instructions", 3) == ("touch point 3", "visit point 3", "go to point 3")
        assert ask(workers, "variations") == 4
        assert ask(workers, "alternative_goals") == ()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (EpisodeStart(4, 0), r"variation: found 4, expected 0..3 for task=reach_target"),
        (EpisodeStart(-1, 0), r"variation: found -1, expected 0..3"),
        (EpisodeStart(0, -1), r"seed: found -1, expected 0 or more"),
        (EpisodeStart(0, 0, goal=1), r"goal: found 1, expected null"),
        (EpisodeStart(0, 0, None, -1), r"rejected_placements: found -1, expected 0..200, or null"),
    ],
)
def test_a_start_out_of_range_is_refused(stand_in: StandIn, start: EpisodeStart, message: str) -> None:
    with open_workers() as workers:
        for method in ("reset", "demonstrate"):
            with pytest.raises(InputError, match=message):
                ask(workers, method, start)


def test_an_unknown_task_camera_or_renderer_is_refused(stand_in: StandIn) -> None:
    for task, changes, message in (
        ("reach_targets", {}, r"task.name: found reach_targets; not one of RLBench's 3; similar: reach_target"),
        ("reach_target", {"cameras": ["up"]}, r"sim.cameras: found \['up'\], expected some of front"),
        ("reach_target", {"renderer": "raycast"}, r"sim.renderer: found 'raycast'; allowed with sim=rlbench: auto"),
    ):
        with pytest.raises(InputError, match=message), open_workers(task, **changes):
            pass


def test_only_what_is_read_is_recorded(stand_in: StandIn) -> None:
    """A separate observation config instead of RLBench's shared one, with the requested renderer."""
    script = """
from instructrl.sim.rlbench.library import Library
from rlbench.environment import Environment
library = Library()
config = library.observation_config(["front", "wrist"], image_size=40, renderer="rlbench_opengl")
on = {n: v.rgb for n, v in vars(config).items() if n.endswith("_camera")}
assert on == {"front_camera": True, "wrist_camera": True, "left_shoulder_camera": False,
              "right_shoulder_camera": False, "overhead_camera": False}, on
views = [v for n, v in vars(config).items() if n.endswith("_camera")]
assert not any(v.depth or v.mask or v.point_cloud for v in views) and {v.image_size for v in views} == {(40, 40)}
assert {v.render_mode.name for v in views} == {"OPENGL"} and len({id(v) for v in views}) == 5
from rlbench.observation_config import LOW_DIM
fields = {n for n in LOW_DIM if getattr(config, n)}
assert fields == {"gripper_open", "gripper_pose", "gripper_joint_positions", "joint_velocities"}, fields
assert Environment.__init__.__defaults__[1].front_camera.mask, "the shared default is as it was"
print("fine")
"""
    assert run_here(script) == "fine"


def run_here(script: str) -> str:
    import subprocess

    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().splitlines()[-1]


def test_the_working_directory_and_the_terminal_stay_ours(stand_in: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    script = """
import os
from instructrl.sim import make_env
from tests.fakes.rlbench_stand_in import settings
before = os.getcwd()
env = make_env(settings(), "reach_target")
assert os.getcwd() == before
try:
    make_env(settings(), "reach_target")
except RuntimeError as error:
    print(error)
"""
    assert "once per process" in run_here(script)
    with open_workers() as workers:
        ask(workers, "reset", EpisodeStart(0, 0))
    assert "CoppeliaSim" not in "".join(capfd.readouterr())


# Actions and outcomes.


def test_success_failure_and_the_keyframe_limit(stand_in: StandIn) -> None:
    with open_workers("close_jar") as workers:
        assert play(workers, EpisodeStart(0, 1), Seer(0.0, 1.0)) == (Outcome.SUCCESS, 2)
        assert play(workers, EpisodeStart(1, 1), Seer(1.0, 1.0)) == (Outcome.FAILURE, 2), (
            "let go without having grasped"
        )
        assert ask(workers, "max_steps") == 25
        ask(workers, "reset", EpisodeStart(0, 1))
        answers = [ask(workers, "step", HERE) for _ in range(25)]
        assert [answer.outcome for answer in answers] == [None] * 24 + [Outcome.TIME_LIMIT]
        assert answers[-1].observation.state[3] == 1.0
        failed = ask(workers, "step", HERE)
        assert isinstance(failed, WorkerFailure) and "reset before" in failed.reason


@pytest.mark.parametrize("variant", ["original", "peract"])
def test_the_original_and_the_fork_take_the_same_actions(stand_in: StandIn, variant: str) -> None:
    stand_in.install(variant)
    with open_workers("close_jar") as workers:
        assert ask(workers, "provenance")["variant"] == variant
        assert play(workers, EpisodeStart(0, 1), Seer(0.0, 1.0)) == (Outcome.SUCCESS, 2)
        assert ask(workers, "demonstrate", EpisodeStart(2, 4))[1] is Outcome.SUCCESS


WRONG = np.array([0.2, 0, 1.0, 0, 0, 0, 3.0, 1.0])


@pytest.mark.parametrize(
    ("action", "fault", "outcome", "tries"),
    [
        (HERE[:7], "", Outcome.INVALID_ACTION, 0),
        (HERE * np.nan, "", Outcome.INVALID_ACTION, 0),
        (WRONG, "", Outcome.INVALID_ACTION, 0),
        (HERE + [2, 0, 0, 0, 0, 0, 0, 0], "", Outcome.UNREACHABLE, 0),  # outside of the workspace: no try goes better
        (HERE, "step@any=path", Outcome.PLANNER_FAILURE, 3),
        (HERE, "step@any=ConfigurationPathError", Outcome.PLANNER_FAILURE, 3),
        (HERE, "step@any=pose", Outcome.UNREACHABLE, 3),
        (HERE, "step@any=ConfigurationError", Outcome.UNREACHABLE, 3),
        (HERE, "step@any=IKError", Outcome.UNREACHABLE, 3),
        (HERE, "step@any=InvalidActionError", Outcome.INVALID_ACTION, 1),
        (HERE, "step@any=path*2", None, 3),
        (HERE, "step@any=IKError*1", None, 2),
    ],
)
def test_what_an_action_cannot_do_is_an_outcome(
    stand_in: StandIn, action: np.ndarray, fault: str, outcome: Outcome | None, tries: int
) -> None:
    with open_workers_after(stand_in, fault) as workers:
        seen = ask(workers, "reset", EpisodeStart(1, 1))
        answer = ask(workers, "step", action)
        assert answer.outcome is outcome
        assert stand_in.calls("step 1") == tries
        if outcome is not None:
            assert np.array_equal(answer.observation.images, seen.images), "nothing moved"
        assert ask(workers, "reset", EpisodeStart(1, 2)).images.any()
        assert stand_in.processes() == 1, "the process was not lost for it"


def open_workers_after(stand_in: StandIn, *faults: str, task: str = "reach_target", **changes: Any) -> Workers:
    stand_in.faults(*faults)
    return open_workers(task, **changes)


def test_the_tries_are_those_of_the_settings(stand_in: StandIn) -> None:
    with open_workers_after(stand_in, "step@any=path", planner_attempts=7) as workers:
        ask(workers, "reset", EpisodeStart(0, 1))
        assert ask(workers, "step", HERE).outcome is Outcome.PLANNER_FAILURE
        assert stand_in.calls("step 0") == 7


def make_limited_env(limits: EpisodeLimits) -> EvalEnv:
    return make_eval_env(settings(), "reach_target", limits)


@pytest.mark.parametrize("kind", ["path", "pose"])
def test_what_the_planner_cannot_do_is_forgiven_by_the_rules(stand_in: StandIn, kind: str) -> None:
    """The limit counts the policy's actions; each has all planner attempts and costs a keyframe."""
    ended = Outcome.PLANNER_FAILURE if kind == "path" else Outcome.UNREACHABLE
    for limits, expected in (
        (EpisodeLimits(), [ended]),
        (EpisodeLimits(max_unreachable=3), [None, None, ended]),
        (EpisodeLimits(max_keyframes=2, max_unreachable=3), [None, ended]),
    ):
        stand_in.faults(f"step@0={kind}")
        with Workers(partial(make_limited_env, limits), 1, timeout=60) as workers:
            seen = ask(workers, "reset", EpisodeStart(0, 1))
            answers = [ask(workers, "step", HERE) for _ in expected]
            assert [answer.outcome for answer in answers] == expected
            assert stand_in.calls("step 0") == 3 * len(expected), "sim.planner_attempts is 3"
            assert all(np.array_equal(one.observation.images, seen.images) for one in answers[:-1]), "nothing moved"
            assert answers[-1].observation is None, "no policy sees the end of an episode"
            for count, answer in enumerate(answers[:-1], start=1):
                np.testing.assert_allclose(answer.observation.state[3], -1 + 2 * count / 25, atol=1e-6)
            assert play(workers, EpisodeStart(1, 3), Seer(1.0)) == (Outcome.SUCCESS, 1)


def test_an_episode_goes_on_after_what_was_forgiven_until_its_keyframes_are_used_up(stand_in: StandIn) -> None:
    stand_in.faults("step@0=path*3")  # as often as the planner tries: one action
    with Workers(
        partial(make_limited_env, EpisodeLimits(max_keyframes=4, max_unreachable=2)), 1, timeout=60
    ) as workers:
        assert play(workers, EpisodeStart(0, 1), Seer(1.0)) == (Outcome.SUCCESS, 2)
        stand_in.faults("step@0=path*3")
        ask(workers, "reset", EpisodeStart(0, 1))
        outcomes = [ask(workers, "step", HERE).outcome for _ in range(4)]
        assert outcomes == [None, None, None, Outcome.TIME_LIMIT]


def test_errors_that_say_nothing_about_the_action_are_raised_on() -> None:
    for error in (RuntimeError("The call failed on the V-REP side. Return value: -1"), ValueError("x"), KeyError("y")):
        with pytest.raises(type(error)):
            action_failure(error)
        assert not is_expert_failure(error)


@pytest.mark.parametrize("kind", ["vrep", "segfault", "exit", "hang", "ValueError"])
@pytest.mark.parametrize("times", [1, 9])
def test_a_simulator_that_fails_in_an_action_is_restarted_then_counted(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, kind: str, times: int
) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE", 1.5)
    monkeypatch.setattr(heartbeat, "_BEAT", 0.05)
    with open_workers_after(stand_in, f"step@1={kind}*{times}") as workers:
        outcome, _ = play(workers, EpisodeStart(1, 3), Seer(1.0))
        assert outcome is (Outcome.SUCCESS if times == 1 else Outcome.SIMULATOR_ERROR)
        assert stand_in.processes() == (2 if times == 1 else 3)
        assert play(workers, EpisodeStart(2, 3), Seer(1.0)) == (Outcome.SUCCESS, 1), "the work goes on"


def test_a_scene_that_cannot_be_placed_is_drawn_again(stand_in: StandIn) -> None:
    with open_workers_after(stand_in, "reset@1=TaskEnvironmentError*2") as workers:
        drawn = ask(workers, "reset", EpisodeStart(1, 3))
        assert stand_in.calls("reset 1") == 3
        stand_in.faults()
        assert not equal(ask(workers, "reset", EpisodeStart(1, 3)), drawn), (
            "the third draw of the same seed, not the first"
        )
        stand_in.faults("reset@2=TaskEnvironmentError")
        failed = ask(workers, "reset", EpisodeStart(2, 3))
        assert isinstance(failed, WorkerFailure) and "TaskEnvironmentError" in failed.reason
        assert play(workers, EpisodeStart(0, 3), Seer(1.0)) == (Outcome.SUCCESS, 1)


# Scenes that the planner, which has no seed, rejects at random.


@pytest.mark.parametrize("variant", ["original", "peract"])
def test_a_scene_is_restored_after_random_rejections(stand_in: StandIn, variant: str) -> None:
    """In another process, with the number of rejections, also in tasks that turn objects relative to where they are."""
    stand_in.install(variant)
    stand_in.patch.setenv("FAKE_RLBENCH_INFEASIBLE", "0.7")
    with open_workers("close_jar") as workers, open_workers("close_jar") as others:
        starts = [EpisodeStart(seed % 3, seed) for seed in range(12)]
        drawn = [(ask(workers, "reset", start), ask(workers, "scene")) for start in starts]
        assert any(scene.rejected_placements for _, scene in drawn), "most of them"
        for start, (seen, scene) in zip(starts, drawn, strict=True):
            assert replace(scene, rejected_placements=None) == start
            assert equal(ask(others, "reset", scene), seen) and ask(others, "scene") == scene
        stand_in.faults()
        ask(others, "reset", EpisodeStart(0, 0, None, 5))
        assert (stand_in.calls("place 0"), stand_in.calls("validate 0")) == (6, 0), "nothing is planned"
        two, three = (ask(others, "reset", EpisodeStart(0, 0, None, rejected)) for rejected in (2, 3))
        assert not equal(two, three)


@pytest.mark.parametrize("variant", ["original", "peract"])
def test_no_demonstration_is_lost_to_random_rejections(stand_in: StandIn, variant: str) -> None:
    stand_in.install(variant)
    stand_in.patch.setenv("FAKE_RLBENCH_INFEASIBLE", "0.2")
    with open_workers("close_jar", count=2) as workers:
        starts = [(EpisodeStart(seed % 3, seed),) for seed in range(25)]
        outcomes = [outcome for _, (_, outcome) in workers.map("demonstrate", starts)]
        assert outcomes == [Outcome.SUCCESS] * len(starts)
        assert sum(stand_in.calls(f"place {variation}") for variation in range(3)) > 2 * len(starts)
        ask(workers, "close")


def test_the_experts_tries_and_the_replay_are_in_one_scene(stand_in: StandIn) -> None:
    stand_in.faults("validate@1=WaypointError*2", "demo@1=DemoError*1")
    with open_workers("close_jar") as workers:
        demonstration, outcome = ask(workers, "demonstrate", EpisodeStart(1, 8))
        scene = ask(workers, "scene")
        assert outcome is Outcome.SUCCESS and scene == EpisodeStart(1, 8, None, 2)
        assert stand_in.calls("place 1") == 3 * 3, "two tries of the expert and the replay, of three placements each"
        film = ask(workers, "reset", scene)
        assert np.array_equal(film.images, demonstration.images[0])
        assert not np.array_equal(ask(workers, "reset", EpisodeStart(1, 8)).images, film.images), (
            "nothing is rejected now"
        )


def test_a_scene_that_was_rejected_for_want_of_space_is_restored_too(stand_in: StandIn) -> None:
    """Placements without space fail again by themselves; only the planner's rejections are counted."""
    stand_in.patch.setenv("FAKE_RLBENCH_CROWDED", "0.3")
    stand_in.patch.setenv("FAKE_RLBENCH_INFEASIBLE", "0.4")
    with open_workers("close_jar") as workers:
        for seed in range(10):
            seen = ask(workers, "reset", EpisodeStart(0, seed))
            assert equal(ask(workers, "reset", ask(workers, "scene")), seen)
    assert stand_in.calls("place 0") > stand_in.calls("validate 0") + 10


def test_an_episode_whose_process_dies_goes_on_in_its_scene(stand_in: StandIn) -> None:
    stand_in.faults("validate@1=WaypointError*3")
    with Workers(partial(make_limited_env, EpisodeLimits()), 1, timeout=60) as workers:
        ask(workers, "reset", EpisodeStart(1, 3))
        before = ask(workers, "step", HERE)
        assert before.scene == EpisodeStart(1, 3, None, 3)
        stand_in.faults("step@1=exit*1")
        after = ask(workers, "step", HERE)
        assert stand_in.processes() == 1 and after.scene == before.scene
        assert np.array_equal(after.observation.images, before.observation.images)


def test_rlbenchs_own_reset_to_a_demonstration_does_not_undo_rejected_placements(stand_in: StandIn) -> None:
    """The reason for which the adapter repeats placements itself: what was turned by a random angle stays turned."""
    script = """
import numpy as np
from instructrl.sim.rlbench.library import Library
library = Library()
config = library.observation_config(["front"], image_size=16, renderer="rlbench_opengl3")
_, task = library.launch("close_jar", config)
for rejected in (0, 2):
    np.random.seed(1)
    library.placements.begin(None)
    demo, = task.get_demos(1, live_demos=True)
    turned = task._task.turned
    task.reset_to_demo(demo)
    print(demo.num_reset_attempts == rejected + 1, (task._task.turned == turned), end=" ")
    with open(__import__("os").environ["FAKE_RLBENCH_FAULTS"], "w") as file:
        file.write("validate@0=WaypointError*2")
"""
    words = run_here(script.replace("np.random.seed(1)", "np.random.seed(1), __import__('random').seed(1)")).split()
    assert words[0] == words[2] == "True" and words[3] == "False"


def test_the_stand_in_forgets_cameras_that_are_off_and_restores_the_working_directory(stand_in: StandIn) -> None:
    script = """
from pathlib import Path
from instructrl.sim.rlbench.library import Library
library, before = Library(), Path.cwd()
config = library.observation_config(["front", "wrist"], image_size=16, renderer="rlbench_opengl3")
environment, task = library.launch("close_jar", config)
assert Path.cwd() == before
_, seen = task.reset()
print(sorted({key.rpartition("_camera_")[0] for key in seen.misc if "_camera_" in key}))
"""
    assert run_here(script) == "['front', 'wrist']"


# Demonstrations.


def test_a_demonstration_is_the_replay_of_the_experts_keyframes(stand_in: StandIn) -> None:
    with open_workers("close_jar") as workers:
        demonstration, outcome = ask(workers, "demonstrate", EpisodeStart(1, 8))
        first = ask(workers, "reset", EpisodeStart(1, 8))
        frames = [first, *(ask(workers, "step", action).observation for action in demonstration.actions)]
    assert outcome is Outcome.SUCCESS
    assert isinstance(demonstration, Demonstration)
    assert demonstration.actions.shape == (4, 8) and demonstration.actions.dtype == np.float32
    assert demonstration.actions[:, 7].tolist() == [1, 0, 0, 1], "to the first point, grasp, to the second, let go"
    np.testing.assert_allclose(demonstration.actions[:, 3:7], [DOWN] * 4, atol=1e-3)
    assert demonstration.keyframes.tolist() == [1, 2, 3, 4]
    for index, frame in enumerate(frames):
        assert np.array_equal(demonstration.images[index], frame.images)
        assert np.array_equal(demonstration.state[index], frame.state)
        assert np.array_equal(demonstration.extrinsics[index], frame.extrinsics)
    assert demonstration.instructions == ("touch point 1", "visit point 1", "go to point 1")
    assert (demonstration.variation, demonstration.seed) == (1, 8)


def test_only_a_replay_that_succeeds_is_a_success(stand_in: StandIn) -> None:
    with open_workers("place_cups") as workers:
        demonstration, outcome = ask(workers, "demonstrate", EpisodeStart(0, 1))
        assert outcome is Outcome.TIME_LIMIT and len(demonstration.actions) >= 2


def test_the_expert_and_the_replay_see_the_same_draw_of_a_scene_that_is_hard_to_place(stand_in: StandIn) -> None:
    stand_in.patch.setenv("FAKE_RLBENCH_CROWDED", "0.3")  # two draws of five are refused
    with open_workers("close_jar", count=2) as workers:
        starts = [(EpisodeStart(seed % 3, seed),) for seed in range(12)]
        assert {result[1] for _, result in workers.map("demonstrate", starts)} == {Outcome.SUCCESS}
    draws = sum(stand_in.calls(f"place {variation}") for variation in range(3))
    assert draws > 2 * len(starts), "some were drawn more than once"


@pytest.mark.parametrize("kind", ["DemoError", "NoWaypointsError", "ConfigurationPathError", "vrep"])
def test_an_expert_that_fails_is_an_outcome_of_its_own(stand_in: StandIn, kind: str) -> None:
    """With one attempt RLBench hides the expert's exception behind a RuntimeError."""
    with open_workers_after(stand_in, f"demo@1={kind}") as workers:
        demonstration, outcome = ask(workers, "demonstrate", EpisodeStart(1, 1))
        assert outcome is Outcome.EXPERT_FAILURE
        assert demonstration.actions.shape == (0, 8) and len(demonstration.images) == 1
        assert stand_in.calls("demo 1") == 3 and stand_in.processes() == 1
        assert ask(workers, "demonstrate", EpisodeStart(0, 1))[1] is Outcome.SUCCESS


def test_an_expert_that_fails_now_and_then_gets_another_try_in_the_same_scene(stand_in: StandIn) -> None:
    with open_workers() as workers:
        wanted, _ = ask(workers, "demonstrate", EpisodeStart(1, 1))
        stand_in.faults("demo@1=DemoError*2")
        demonstration, outcome = ask(workers, "demonstrate", EpisodeStart(1, 1))
        assert outcome is Outcome.SUCCESS and stand_in.calls("demo 1") == 3
        assert np.array_equal(demonstration.images, wanted.images)
        assert np.array_equal(demonstration.actions, wanted.actions)


def test_a_replay_on_which_the_planner_fails_is_counted_as_that(stand_in: StandIn) -> None:
    with open_workers_after(stand_in, "step@1=path") as workers:
        assert ask(workers, "demonstrate", EpisodeStart(1, 1))[1] is Outcome.PLANNER_FAILURE


def test_a_demonstration_of_another_scene_is_not_taken(stand_in: StandIn) -> None:
    """An RLBench without `max_attempts` draws scenes until its expert succeeds, and not the requested one."""
    script = """
import rlbench.task_environment as module
whole = module.TaskEnvironment.get_demos
def get_demos(self, amount, live_demos=False):
    return whole(self, amount, live_demos, max_attempts=10)
module.TaskEnvironment.get_demos = get_demos
from instructrl.sim import EpisodeStart, make_env
from tests.fakes.rlbench_stand_in import settings
env = make_env(settings(), "reach_target")
print([str(env.demonstrate(EpisodeStart(v, 1))[1]) for v in (0, 1)])
"""
    stand_in.faults("demo@1=DemoError*1")
    assert run_here(script) == "['success', 'expert_failure']"


class Filming:
    """Passes the video's size by position, as workers do."""

    def __init__(self, env: Any):
        self.env = env

    def shoot(self, start: EpisodeStart, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.env.reset(start).images, self.env.film(start, actions, size=100)


def filming(cameras: list[str]) -> Filming:
    return Filming(make_env(settings(cameras=cameras), "close_jar"))


@pytest.mark.parametrize("cameras", [["wrist", "front"], ["overhead", "wrist"]])
def test_a_film_shows_the_start_and_every_keyframe(stand_in: StandIn, cameras: list[str]) -> None:
    actions = np.stack([HERE, [0.3, 0.0, 1.2, *DOWN, 0.0], [9, 9, 9, *DOWN, 1], HERE])  # the third is out of reach
    with Workers(partial(filming, cameras), 1, timeout=60) as workers:
        images, video = ask(workers, "shoot", EpisodeStart(1, 8), actions)
    assert video.shape == (4 * 5, 100, 100, 3) and video.dtype == np.uint8, "nothing follows the end of the episode"
    shown = images[cameras.index("front") if "front" in cameras else 0]
    np.testing.assert_allclose(video[0].mean(axis=(0, 1)), shown.mean(axis=(0, 1)), atol=2)
    assert (video[0] == video[4]).all()


# Where it comes from.


def test_provenance_names_all_that_matters(stand_in: StandIn, tmp_path: Path) -> None:
    about = tmp_path / "site" / "rlbench-1.2.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rlbench\nVersion: 1.2.0\n")
    record = {"url": "https://github.com/stepjam/RLBench", "vcs_info": {"vcs": "git", "commit_id": "02720bba"}}
    (about / "direct_url.json").write_text(json.dumps(record))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "glxinfo").write_text(
        "#!/bin/sh\necho 'OpenGL vendor string: Mesa'\necho 'OpenGL renderer string: llvmpipe'\n"
    )
    (programs / "glxinfo").chmod(0o755)
    stand_in.patch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    stand_in.patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with open_workers(renderer="rlbench_opengl") as workers:
        assert ask(workers, "provenance") == {
            "simulator": "rlbench",
            "version": "1.2.0",
            "variant": "original",
            "commit": "02720bba",
            "pyrep": "4.1.0.3",
            "coppeliasim": "4.1.0",
            "renderer": "rlbench_opengl",
            "opengl": "llvmpipe",
            "expert": "waypoints, replayed as keyframes",
            "scenes": "the first placement of a seed in which a planner without a seed finds a way",
        }


# Starting.


@pytest.mark.parametrize("kind", ["segfault", "exit", "hang", "vrep"])
def test_a_simulator_that_never_starts_is_one_clear_error(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE", 1.5)
    monkeypatch.setattr(heartbeat, "_BEAT", 0.05)
    stand_in.faults(f"launch@any={kind}")
    said = {"segfault": "SIGSEGV", "exit": "code 3", "hang": "it hangs", "vrep": "V-REP side"}[kind]
    with pytest.raises(RunError, match=f"a simulator process cannot start: it .*{said}|{said}"), open_workers():
        pass
    assert stand_in.processes() == 2, "it was tried again"
    stand_in.faults(f"launch@any={kind}*1")
    with open_workers() as workers:
        assert play(workers, EpisodeStart(0, 3), Seer(1.0)) == (Outcome.SUCCESS, 1)


def test_what_cannot_be_imported_is_one_line(stand_in: StandIn) -> None:
    stand_in.patch.setenv("FAKE_RLBENCH_IMPORT", "libcoppeliaSim.so.1: cannot open shared object file")
    with (
        pytest.raises(InputError, match=r"sim=rlbench: it cannot be imported \(ImportError: libcoppelia"),
        open_workers(),
    ):
        pass


def test_the_version_of_coppeliasim_is_read_from_its_folder(stand_in: StandIn) -> None:
    """PyRep's function that asks the simulator for it always raises a TypeError."""
    header = stand_in.root / "programming" / "include" / "simConst.h"
    for found, recorded in ((header.read_text(), "4.1.0"), ("", "unknown")):
        header.write_text(found)
        with open_workers() as workers:
            assert ask(workers, "provenance")["coppeliasim"] == recorded
    header.write_text("#define SIM_PROGRAM_VERSION_NB 40500\n")
    with pytest.raises(InputError, match=r"CoppeliaSim: 4.5.0; exactly 4.1.0 is needed"), open_workers():
        pass
    assert stand_in.processes() == 2, "it is refused before it starts"


class Frames(Enum):
    EE = 0
    WORLD = 1


class Others(Enum):
    EE = 0


class Without:
    def __init__(self, absolute_mode: bool = True): ...


class Required:
    def __init__(self, frame: Frames): ...


def planning(default: object) -> type:
    """A class of planned motions with this default frame."""

    class Planning:
        def __init__(self, absolute_mode: bool = True, frame: Any = default): ...

    return Planning


def test_poses_are_given_in_the_frame_that_the_installed_version_takes() -> None:
    assert world_frame(planning("world")) == "world"
    assert world_frame(planning(Frames.WORLD)) is world_frame(planning(Frames.EE)) is Frames.WORLD
    for refused, found in (
        (planning("end effector"), "the default 'end effector'"),
        (planning(None), "the default None"),
        (planning(Others.EE), "the default <Others.EE: 0>"),
        (Without, "no default"),
        (Required, "no default"),
    ):
        expected = f"found {re.escape(found)} of its frame, expected RelativeFrame.WORLD .* or 'world' .*make rlbench"
        with pytest.raises(InputError, match=expected):
            world_frame(refused)


def test_a_simulator_that_hangs_when_it_closes_holds_nobody_up(stand_in: StandIn) -> None:
    stand_in.faults("shutdown@any=hang")
    before = threading.active_count()
    with open_workers(count=2) as workers:
        ask(workers, "reset", EpisodeStart(0, 0))
    assert stand_in.calls("shutdown -1") == 2
    assert threading.active_count() == before
