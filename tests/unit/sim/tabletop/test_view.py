"""Pictures of the scene from any side, and of a motion."""

import numpy as np
import pytest

from instructrl.sim import EpisodeStart
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.render import MIDDLE, View

START = EpisodeStart(0, 3)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (-35, 21), (170, 80)])
def test_a_view_looks_at_the_middle_from_its_distance(azimuth: float, elevation: float) -> None:
    position, flat = View(azimuth, elevation, 1.5).pose()
    axes = flat.reshape(3, 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(position - MIDDLE, 1.5 * axes[:, 2])
    assert np.linalg.det(axes) > 0 and axes[2, 0] == 0 and axes[2, 1] > 0  # level, and upright


def test_another_view_is_drawn_and_the_first_one_again_to_the_bit() -> None:
    env = Tabletop("reach_target", cameras=("front",), image_size=16, renderer="raycast")
    observation = env.reset(START)
    first = env.scene_image(size=24)
    env.view = View(120, 30, 1.8)
    assert np.abs(env.scene_image(size=24).astype(int) - first).mean() > 10
    env.view = None
    assert np.array_equal(env.scene_image(size=24), first)
    assert np.array_equal(env.camera_image("front"), observation.images[0])


def test_a_motion_is_filmed_as_a_replay_shows_it() -> None:
    env = Tabletop("reach_target", cameras=("front",), image_size=16, renderer="raycast")
    actions = env.demonstrate(START)[0].actions
    film = env.film(START, actions, size=16)
    frames: list[np.ndarray] = []
    env.reset(START)
    with env.filming(frames.append, size=16):
        env.step(actions[0])
    assert len(film) > 3 and np.array_equal(film, frames)
