"""Meta-World itself, in an interpreter of its own: scenes, cameras, keyframes of experts, and the whole path."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.config.simulators import MetaWorldConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from instructrl.evaluation.worker_env import make_eval_env
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome, check_tasks, make_checked_env, working_renderer
from instructrl.sim.vector.pool import Workers
from tests.fixtures.interpreters import make_interpreter
from tests.fixtures.metaworld import metaworld_settings
from tests.paths import ROOT

TASK = "drawer-open-v3"
SEEDS = [EpisodeStart(0, seed) for seed in (3, 4)]


@pytest.fixture(scope="module")
def sim() -> MetaWorldConfig:
    return metaworld_settings(image_size=96, workers=1)


def started(sim: MetaWorldConfig, task: str) -> Workers:
    return Workers(partial(make_checked_env, sim, task), 1, timeout=sim.timeout, python=sim.interpreter)


@pytest.fixture(scope="module")
def drawer(sim: MetaWorldConfig) -> Iterator[Workers]:
    with started(sim, TASK) as workers:
        yield workers


def asked(workers: Workers, method: str, *arguments: Any) -> Any:
    return workers.call({0: (method, arguments)})[0]


def test_scenes_follow_from_the_seed_whatever_was_played_before(sim: MetaWorldConfig, drawer: Workers) -> None:
    (played, outcome), other = asked(drawer, "demonstrate", SEEDS[0]), asked(drawer, "reset", SEEDS[1])
    assert outcome is Outcome.SUCCESS and not np.array_equal(other.images, played.images[0])
    asked(drawer, "step", played.actions[0])
    with started(sim, TASK) as fresh:
        for workers in (drawer, fresh):
            again, _ = asked(workers, "demonstrate", SEEDS[0])
            for name, value in again._asdict().items():
                np.testing.assert_array_equal(value, getattr(played, name))


def test_frames_on_the_way_to_keyframes_change_nothing_else(sim: MetaWorldConfig, drawer: Workers) -> None:
    plain, _ = asked(drawer, "demonstrate", SEEDS[0])
    with started(replace(sim, intermediate_frames=1), TASK) as workers:
        more, outcome = asked(workers, "demonstrate", SEEDS[0])
    assert outcome is Outcome.SUCCESS and len(more.images) >= 2 * len(plain.images)
    kept = [0, *more.keyframes]
    for name in ("images", "state", "intrinsics", "extrinsics"):
        np.testing.assert_array_equal(getattr(more, name)[kept], getattr(plain, name))
    np.testing.assert_array_equal(more.actions, plain.actions)


def test_keyframes_of_an_expert_are_few_and_lead_to_success(sim: MetaWorldConfig, drawer: Workers) -> None:
    played, outcome = asked(drawer, "demonstrate", SEEDS[0])
    assert outcome is Outcome.SUCCESS and len(played.actions) <= 8
    assert sim.bounds.contains(played.actions[:, :3]).all()
    np.testing.assert_array_equal(played.actions[:, 3:7], np.tile([0, 1, 0, 0], (len(played.actions), 1)))
    first = asked(drawer, "reset", SEEDS[0])
    assert first.instruction in played.instructions
    steps = [asked(drawer, "step", action) for action in played.actions]
    assert [step.outcome for step in steps] == [None] * (len(steps) - 1) + [Outcome.SUCCESS]
    np.testing.assert_array_equal(steps[-1].observation.images, played.images[-1])
    np.testing.assert_allclose(steps[0].observation.state[:3], played.actions[0, :3], atol=0.03)  # it arrives


def test_dense_actions_of_an_expert_succeed_and_last_equally_long(sim: MetaWorldConfig) -> None:
    with started(replace(sim, actions="dense", image_size=16), TASK) as workers:
        played, outcome = asked(workers, "demonstrate", SEEDS[0])
        assert outcome is Outcome.SUCCESS and 10 < len(played.actions) <= 100
        assert np.abs(np.diff(played.actions[:, :3], axis=0)).max() < 0.051  # five steps of a centimetre
        assert (played.keyframes == np.arange(1, len(played.images))).all()
        assert not np.array_equal(played.images[3], played.images[6])


def test_the_state_says_where_objects_and_the_goal_are_if_asked(sim: MetaWorldConfig, drawer: Workers) -> None:
    names = ["goal y (m)", "tip z (m)", "object y (m)", "second object x (m)"]
    with started(replace(sim, image_size=16, state=names), TASK) as workers:
        told, _ = asked(workers, "demonstrate", SEEDS[0])
    seen, _ = asked(drawer, "demonstrate", SEEDS[0])
    goal, tip, handle, other = told.state.T
    np.testing.assert_array_equal(tip, seen.state[:, 2])
    assert np.ptp(goal) == 0 and not other.any()  # a drawer is alone
    assert handle[0] - handle[-1] > 0.1 and abs(handle[-1] - goal[0]) < 0.03  # it was pulled to where it belongs


def test_an_action_that_is_none_is_an_outcome_and_the_hand_stays_where_it_may_go(drawer: Workers) -> None:
    asked(drawer, "reset", SEEDS[0])
    far = np.array([5, 5, -5, 0, 1, 0, 0, 1], np.float32)
    step = asked(drawer, "step", far)
    assert step.outcome is None and (np.abs(step.observation.state[:3]) < 1.05).all()
    assert asked(drawer, "step", far * np.nan).outcome is Outcome.INVALID_ACTION


def test_camera_matrices_are_those_of_the_images(sim: MetaWorldConfig) -> None:
    """The green mark of the goal is seen by all cameras at one point, towards which the drawer is pulled."""
    sim = replace(sim, image_size=256, cameras=["corner2", "corner", "corner3"])
    with started(sim, TASK) as workers:
        first = asked(workers, "reset", SEEDS[0])
        played, _ = asked(workers, "demonstrate", SEEDS[0])
    origins, ways = [], []
    for image, inner, outer in zip(first.images, first.intrinsics, first.extrinsics, strict=True):
        red, green, blue = image.astype(int).transpose(2, 0, 1)
        rows, columns = np.nonzero(green > 40 + 2.5 * np.maximum(red, blue))
        assert len(rows) > 4
        pixel = np.array([columns.mean() + 0.5, rows.mean() + 0.5, 1.0])
        way = outer[:3, :3] @ np.linalg.inv(inner) @ pixel
        origins.append(outer[:3, 3])
        ways.append(way / np.linalg.norm(way))
    across = [np.eye(3) - np.outer(way, way) for way in ways]
    point = np.linalg.solve(sum(across), sum(a @ origin for a, origin in zip(across, origins, strict=True)))
    errors = [np.linalg.norm(a @ (point - origin)) for a, origin in zip(across, origins, strict=True)]
    assert max(errors) < 0.01, errors
    assert np.linalg.norm(point - played.state[-1, :3]) < 0.12, (point, played.state[-1])


def test_a_film_shows_the_motion(sim: MetaWorldConfig, drawer: Workers) -> None:
    played, _ = asked(drawer, "demonstrate", SEEDS[0])
    factory = partial(make_eval_env, sim, TASK, EpisodeLimits())
    with Workers(factory, 1, timeout=sim.timeout, python=sim.interpreter) as workers:
        film = asked(workers, "film", SEEDS[0], played.actions, 64)
    assert film.shape[1:] == (64, 64, 3) and 5 < len(film) < 40
    assert not np.array_equal(film[0], film[-1])


def test_what_is_missing_is_one_line(sim: MetaWorldConfig, tmp_path: Path) -> None:
    check_tasks(sim, [TASK, "reach-v3"])
    with pytest.raises(InputError, match="found drawer-opn-v3; not one of Meta-World's 50; similar: drawer-open-v3"):
        check_tasks(sim, [TASK, "drawer-opn-v3"])
    bare = str(make_interpreter(tmp_path / "bare"))
    with pytest.raises(InputError) as raised:
        working_renderer(replace(sim, python=bare), "auto")
    assert "\n" not in str(raised.value) and "make metaworld installs it" in str(raised.value), raised.value


CHOSEN = ("sim=metaworld", "task=reach-v3", "sim.image_size=32", "sim.workers=1", "sim.cameras=[corner2,topview]")
TRAINED = (
    "name=reach",
    "policy=vit_debug",
    "policy.dim=16",
    "policy.heads=2",
    "task.episodes=4",
    "task.val_episodes=2",
    "training.epochs=2",
    "training.batch_size=4",
    "training.rollout_every=2",
    "training.rollout_episodes=1",
    "optimizer.warmup_epochs=0.5",
    "hardware=cpu",
    "hardware.local_devices=1",
)


def test_the_whole_path_from_collection_to_report(sim: MetaWorldConfig, tmp_path: Path) -> None:
    chosen = (*CHOSEN, f"sim.python={sim.python}")

    def ran(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]

    ran("-m", "data_tools.collect", *chosen, "episodes=4", "val_episodes=2")
    files = [DemonstrationDataset(path) for path in sorted((tmp_path / "data").rglob("*.hdf5"))]
    assert [one.header.split for one in files] == ["train", "val"]
    for one in files:
        assert one.cameras == ("corner2", "topview") and one.workspace == sim.bounds and not one.outside.any()
        assert one.header.provenance["simulator"] == "metaworld" and one.header.provenance["mujoco"] == "3.3.0"
    ran(str(ROOT / "train.py"), *chosen, *TRAINED)
    conditions = "conditions=[trained,held_out_instructions,oracle]"
    ran(str(ROOT / "eval.py"), "run=outputs/reach", "episodes=2", conditions, "videos=1", "workers=1")
    results = json.loads((tmp_path / "outputs/reach/eval/results.json").read_text())
    assert results["conditions"]["oracle"]["success_rate"] == 1 and results["simulator"]["simulator"] == "metaworld"
    assert "reach-v3" in (tmp_path / "outputs/reach/eval/report.html").read_text()
