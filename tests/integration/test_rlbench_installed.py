"""Tests that need a real installation of RLBench: `make test-rlbench` after `make rlbench`; skipped without one.

Each test starts CoppeliaSim in processes of its own. What they assume of RLBench is what the stand-in in
`fake_rlbench/` was built on; where one of them fails, the stand-in is wrong too.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from instructrl.config.simulators import RLBENCH_CAMERAS as CAMERAS
from instructrl.config.simulators import RLBenchConfig
from instructrl.sim import EpisodeStart, Outcome, make_env
from instructrl.sim.rlbench.check import findings
from instructrl.sim.vector.pool import WorkerFailure, Workers
from instructrl.types import Observation

MISSING = [finding.part for finding in findings() if finding.fix]
pytestmark = [
    pytest.mark.rlbench,
    pytest.mark.skipif(bool(MISSING), reason=f"RLBench is not installed: {', '.join(MISSING)}"),
]
TASKS = ("reach_target", "push_button", "pick_and_lift", "close_jar", "open_drawer", "meat_off_grill")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with opened("reach_target") as made:
        yield made


def opened(task: str, **changes: Any) -> Workers:
    given = {"cameras": list(CAMERAS), "image_size": 128, **changes}
    sim = RLBenchConfig(name="rlbench", kind="rlbench", timeout=900.0, **given)
    return Workers(partial(make_env, sim, task), 1, timeout=sim.timeout)


def ask(workers: Workers, method: str, *given: Any) -> Any:
    answer = workers.call({0: (method, given)})[0]
    assert not isinstance(answer, WorkerFailure), answer.reason
    return answer


def test_provenance_names_real_versions(workers: Workers) -> None:
    provenance = ask(workers, "provenance")
    assert provenance["coppeliasim"] == "4.1.0" and provenance["pyrep"].startswith("4.1")
    assert provenance["variant"] in ("original", "peract") and provenance["version"] != "unknown"


def test_observations_have_the_suites_shapes_and_show_something(workers: Workers) -> None:
    seen = ask(workers, "reset", EpisodeStart(0, 1))
    assert seen.images.shape == (len(CAMERAS), 128, 128, 3) and seen.images.dtype == np.uint8
    assert (seen.images.std(axis=(1, 2, 3)) > 5).all(), "a black image: the display has no GLX"
    assert seen.state[0] == 1 and (seen.state[1:3] > 0).all() and (seen.state[1:3] < 0.1).all()
    assert seen.instruction.strip()


def test_the_same_start_is_the_same_scene_and_another_is_not(workers: Workers) -> None:
    first = ask(workers, "reset", EpisodeStart(3, 5))
    scene = ask(workers, "scene")
    other = ask(workers, "reset", EpisodeStart(3, 6))
    again = ask(workers, "reset", scene)
    close = np.abs(first.images.astype(int) - again.images).mean()
    assert close < 2 and close * 3 < np.abs(first.images.astype(int) - other.images).mean()
    assert first.instruction == again.instruction
    with opened("reach_target") as others:
        elsewhere = ask(others, "reset", scene)
    assert np.abs(first.images.astype(int) - elsewhere.images).mean() < 2


def cloud(seen: Observation, depths: np.ndarray, camera: int) -> np.ndarray:
    """The point cloud [P 3] of one camera, in world coordinates."""
    rows, columns = np.mgrid[0:128, 0:128] + 0.5
    sight = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(seen.intrinsics[camera]).T
    points = (sight * depths[camera][..., None]).reshape(-1, 3)
    return points @ seen.extrinsics[camera, :3, :3].T + seen.extrinsics[camera, :3, 3]


def test_all_cameras_see_the_table_where_it_is(workers: Workers) -> None:
    """Signs of the focal lengths, axes, depth: with any of them wrong the table top is not at 0.752 m."""
    seen, depths = ask(workers, "reset", EpisodeStart(0, 1)), ask(workers, "depths")
    for camera in (CAMERAS.index(name) for name in ("front", "left_shoulder", "right_shoulder", "overhead")):
        points = cloud(seen, depths, camera)
        near = points[(np.abs(points[:, 0] - 0.25) < 0.4) & (np.abs(points[:, 1]) < 0.45)]
        on_top = np.abs(near[:, 2] - 0.752) < 0.02
        assert on_top.mean() > 0.3, f"{CAMERAS[camera]} sees the table at {np.median(near[:, 2]):.3f} m"


def test_the_arm_goes_where_it_is_told(workers: Workers) -> None:
    ask(workers, "reset", EpisodeStart(0, 1))
    answer = ask(workers, "step", np.array([0.3, 0.1, 1.1, 0, 1, 0, 0, 0]))
    assert answer.outcome in (None, Outcome.SUCCESS) and answer.observation.state[0] == 0
    wrist = answer.observation.extrinsics[CAMERAS.index("wrist"), :3, 3]
    assert np.linalg.norm(wrist - [0.3, 0.1, 1.1]) < 0.25


@pytest.mark.parametrize(
    ("pose", "outcomes"),
    [
        ([5.0, 0, 1, 0, 1, 0, 0], {Outcome.UNREACHABLE}),
        ([-0.2, 0.0, 0.8, 1, 0, 0, 0], {Outcome.UNREACHABLE, Outcome.PLANNER_FAILURE, None}),
        ([0.3, 0.0, 1.0, 0, 3, 0, 0], {Outcome.INVALID_ACTION}),
    ],
)
def test_what_cannot_be_done_is_typed(workers: Workers, pose: list[float], outcomes: set) -> None:
    ask(workers, "reset", EpisodeStart(0, 1))
    assert ask(workers, "step", np.array([*pose, 1.0])).outcome in outcomes


@pytest.mark.parametrize("task", TASKS)
def test_the_experts_keyframes_succeed_when_replayed(task: str) -> None:
    with opened(task, cameras=["front"]) as workers:
        ended = [ask(workers, "demonstrate", EpisodeStart(0, seed)) for seed in range(5)]
    assert [outcome for _, outcome in ended].count(Outcome.SUCCESS) >= 3, [str(outcome) for _, outcome in ended]
    assert all(1 <= len(made.actions) <= 12 for made, outcome in ended if outcome is Outcome.SUCCESS)


def test_every_variation_has_sentences(workers: Workers) -> None:
    for variation in range(ask(workers, "variations")):
        assert all(text.strip() for text in ask(workers, "instructions", variation))
